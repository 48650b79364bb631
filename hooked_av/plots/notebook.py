"""What a notebook shows of a result: its figure, and the settings that made it, folded."""

import io
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from typing import Any

from matplotlib.figure import Figure

from hooked_av.named_figures import draw
from hooked_av.plots.style import figure_style, svg_text

MAX_BYTES = 200_000  # of a result's HTML: notebooks keep every output
_FOR_PICTURE, _MAX_SETTING = 190_000, 400
_DPI = (110, 72, 48)  # of pictures that are too large as vectors


def result_html(result: Any, about: str) -> str:
    """The picture of a result, and under it what it is and its settings."""
    rows = "".join(
        f"<tr><td>{escape(str(name))}</td><td>{escape(_shortened(value))}</td></tr>"
        for name, value in result.settings.items()
    )
    lines = "<br>".join(map(escape, about.splitlines()))
    return (
        f'<div>{picture_html(draw(result))}<details style="font-size:smaller"><summary>{lines}</summary>'
        f"<table>{rows}</table></details></div>"
    )


def picture_html(figure: Any) -> str:
    """A figure as HTML of at most 190 kB: as vectors, or as pixels where these take less.

    Figures that are HTML themselves (token strips) stay what they are.
    """
    if not isinstance(figure, Figure):
        return figure._repr_html_()
    source = _source(svg_text(figure).encode(), "svg+xml")
    for dpi in _DPI:
        if len(source) <= _FOR_PICTURE:
            break
        source = _source(_png(figure, dpi), "png")
    return f'<img style="max-width:100%" alt="figure" src="{source}">'


def _source(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(data).decode()}"


def _png(figure: Figure, dpi: int) -> bytes:
    buffer = io.BytesIO()
    with figure_style():
        figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.08, facecolor="white")
    return buffer.getvalue()


def _shortened(value: Any) -> str:
    plain = dict(value) if isinstance(value, Mapping) else value
    text = str(plain)
    return text if len(text) <= _MAX_SETTING else f"{text[:_MAX_SETTING]}…"
