"""The report of a study: one self-contained page, conclusions first, then each finding with figures and numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hooked_av.plots.page import image_address, render, write_page
from hooked_av.plots.study import plot_discards, plot_layers, plot_pathways, plot_reliance, plot_routes
from hooked_av.study import rules
from hooked_av.study.findings import EVERY, TITLES, Statement, since
from hooked_av.study.run import Study

LOOKS = {  # a class of the page and a sign, so that nothing is told by colour alone
    "holds": ("yes", "✓"),
    "does not hold": ("no", "✗"),
    "holds in part": ("part", "◐"),
    "cannot be said": ("open", "?"),
}
SECTIONS = {1: "one clip", 2: "several items", 3: "discards"}


def write_study(study: Study, folder: str | Path) -> Path:
    """Write the report as `report.html` into `folder` and return its path.

    Errors: `HookedAVError` when the folder cannot be written.
    """
    return write_page(render_study(study), folder)


def render_study(study: Study) -> str:
    """The page as text."""
    tables = study.tables
    said = study.statements
    return render(
        "study.html.jinja",
        settings=study.settings,
        families=tables["families"].to_dict("records"),
        titles=TITLES,
        summaries=study.summaries,
        looks=LOOKS,
        matrices={number: _matrices(said, number) for number in SECTIONS},
        sections=SECTIONS,
        figures=_figures(tables),
        details=_details(study),
        rules=rules,
        since=since,
        statements=said,
        number_tables=_number_tables(tables),
    )


def _matrices(said: Sequence[Statement], finding: int) -> list[dict[str, Any]]:
    """Families by claims: a table for what each modality contributes, and one for each set of other claims."""
    rows: dict[tuple[str, bool], dict[str, Statement]] = {}
    for one in said:
        if one.finding == finding and one.family != EVERY:
            rows.setdefault((one.family, "contribut" in one.claim), {})[one.claim] = one
    groups: dict[tuple[str, ...], dict[str, dict[str, Statement]]] = {}
    for (family, _), row in rows.items():
        groups.setdefault(tuple(row), {})[family] = row
    return [{"claims": claims, "rows": group} for claims, group in groups.items()]


def _figures(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """The figures of all families together, as addresses of images; none where there is nothing to draw."""
    found = {}
    for kind, several in (("clip", False), ("items", True)):
        for name, draw in (("routes", plot_routes), ("layers", plot_layers), ("discards", plot_discards)):
            table = tables[name]
            part = table.loc[table.several == several] if len(table) else table
            if len(part):
                found[f"{name} {kind}"] = image_address(draw(part))
    for name, draw in (("pathways", plot_pathways), ("reliance", plot_reliance)):
        if len(tables[name]):
            found[name] = image_address(draw(tables[name]))
    return found


def _details(study: Study) -> list[dict[str, Any]]:
    """The figures of every family by itself, by the results' own `plot`."""
    found = []
    for family in study.results:
        if family.flow is not None and family.discards is not None:
            figures = {
                "Routes, layer by layer": family.flow,
                "Contribution of sound and picture": family.contribution,
                "Tokens discarded": family.discards,
            }
            found.append({"family": family.family, "n": len(family.flow.ids),
                          "figures": {name: image_address(one.plot()) for name, one in figures.items()}})  # fmt: skip
    return found


def _number_tables(tables: Mapping[str, pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """The numbers behind the figures of all families, with intervals, as texts."""
    make = {"Routes cut in all layers": ("routes", _route_rows), "Pathways alone": ("pathways", _pathway_rows),
            "Discards": ("discards", _discard_rows)}  # fmt: skip
    return {heading: rows(tables[name]) for heading, (name, rows) in make.items() if len(tables[name])}


def _route_rows(table: pd.DataFrame) -> dict[str, Any]:
    columns = {
        "change, %": _with_interval(table, "change_percent", "low", "high"),
        "random cut, %": _with_interval(table, "control_percent", "control_low", "control_high"),
        "another answer, %": (100 * table["flips"]).map("{:.0f}".format),
    }
    return _rows(table, ["family", "route", "n_samples"], columns)


def _pathway_rows(table: pd.DataFrame) -> dict[str, Any]:
    columns = {"right answers, %": _accuracy(table), "edges, %": (100 * table["share_of_edges"]).map("{:.1f}".format)}
    return _rows(table, ["family", "run"], columns)


def _discard_rows(table: pd.DataFrame) -> dict[str, Any]:
    columns = {
        "right answers, %": _accuracy(table),
        "FLOPs saved, %": table["macs_saved_percent"].map("{:.0f}".format),
        "key/value bytes saved, %": table["kv_bytes_saved_percent"].map("{:.0f}".format),
    }
    return _rows(table, ["family", "tokens", "layer"], columns)


def _accuracy(table: pd.DataFrame) -> list[str]:
    edges = ("accuracy", "accuracy_low", "accuracy_high")
    return _with_interval(pd.DataFrame({name: 100 * table[name] for name in edges}), *edges)


def _with_interval(table: pd.DataFrame, mean: str, low: str, high: str) -> list[str]:
    cells = table[[mean, low, high]].to_numpy()
    return [f"{value:.1f} [{below:.1f}, {above:.1f}]" for value, below, above in cells]


def _rows(table: pd.DataFrame, own: list[str], columns: dict[str, Any]) -> dict[str, Any]:
    shown = pd.DataFrame({name.replace("_", " "): table[name] for name in own} | columns)
    return {"columns": list(shown.columns), "rows": shown.to_numpy().tolist()}
