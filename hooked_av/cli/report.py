"""One HTML page of a demo run: self-contained, so that it opens anywhere and can be sent to anyone.

Figures are SVG inside the page; nothing is fetched, and every text that came from outside is escaped.
"""

import platform
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hooked_av.analyses.flow.map import InformationFlow
from hooked_av.analyses.lenses.logit_lens import LogitLens
from hooked_av.cli.demo import DemoResult
from hooked_av.plots.page import image_address, render, write_page
from hooked_av.plots.strip.layout import plot_layout
from hooked_av.plots.text import visible

_COUNTED = ("audio", "video", "image", "boundary", "text")  # spans whose sizes sum up to the prompt


def write_report(result: DemoResult, folder: str | Path) -> Path:
    """Write `report.html` into `folder` (made if it is not there) and return its path.

    The page is complete or not there: an older one stays until the new one is whole.

    Errors: `HookedAVError` when the folder cannot be written.
    """
    return write_page(render_report(result), folder)


def render_report(result: DemoResult) -> str:
    """The page as text."""
    return render(
        "report.html.jinja",
        result=result,
        origin=result.origin,
        curves=result.curves,
        counts=_counts(result),
        layout=image_address(plot_layout(result.inputs)),
        knockout=image_address(result.curves.plot()),
        knockout_rows=list(_knockout_rows(result.curves)),
        lens_rows=list(_lens_rows(result.lens)),
        convention=result.lens.settings["convention"],
        visible=visible,
        tables=_tables(result),
    )


def _counts(result: DemoResult) -> dict[str, int]:
    return {name: len(result.inputs.spans[name]) for name in _COUNTED if name in result.inputs.spans}


def _knockout_rows(curves: InformationFlow) -> Iterator[dict[str, Any]]:
    """One row a layer: the layers cut, and the change and the new best token of each pathway."""
    for layer, (first, last) in enumerate(curves.windows.tolist()):
        yield {
            "layer": layer,
            "window": f"{first}–{last}" if last > first else str(first),
            "cells": [
                (float(curves.change_percent[pathway, layer]), curves.best_texts[0, pathway, layer])
                for pathway in range(len(curves.pathways))
            ],
        }


def _lens_rows(lens: LogitLens) -> Iterator[dict[str, Any]]:
    """One row a layer, the last one on top, with its best tokens at the last position."""
    for layer in reversed(range(len(lens.top_ids))):
        texts, probabilities = lens.top_texts[layer][-1], lens.top_probabilities[layer, -1].tolist()
        yield {"layer": layer, "cells": list(zip(texts, probabilities, strict=True))}


def _tables(result: DemoResult) -> dict[str, dict[str, str]]:
    """What made the page, under headings."""
    used = dict(result.curves.settings)
    versions = {name: used.pop(name) for name in ("hooked_av", "torch", "transformers")}
    versions |= {name: version(name) for name in ("numpy", "matplotlib")} | {"Python": platform.python_version()}
    tables = {
        "Run": used,
        "Sampling of the clip": result.inputs.settings.get("sampling", {}),
        "Versions": versions,
        "Time, seconds": {name: f"{seconds:.2f}" for name, seconds in result.seconds.items()},
        "Cached in the clean run": _cached(result),
    }
    return {heading: {name: _plain(value) for name, value in table.items()} for heading, table in tables.items()}


def _cached(result: DemoResult) -> dict[str, str]:
    """Shapes by name; the same activation of all layers is one row."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for key, shape in result.cached.items():
        shapes.setdefault(re.sub(r"^blocks\.\d+", "blocks.*", key), []).append(shape)
    unbroken = {ord(" "): "\N{NO-BREAK SPACE}"}
    return {key: f"{len(found)} × {list(found[0])}".translate(unbroken) for key, found in shapes.items()}


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {of}" for name, of in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "released budget" if value is None else str(value)
