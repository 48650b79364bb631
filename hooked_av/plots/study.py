"""Figures of the study, over families of questions: routes, layers, pathways alone, reliance, discards.

They draw its tables (`study.tables`): one row a family and route, layer, run, or token type.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from hooked_av.plots.curves import clean_line, distinct_looks, draw_curve, label_axes
from hooked_av.plots.style import BLACK, BLUE, GREY, ORANGE, PURPLE, VERMILLION, Drawing, Look, figure_style

_COLUMNS = 3
_HEAT = LinearSegmentedColormap.from_list("below zero", ["#5A1A00", VERMILLION, "#FBE3CF", "#FFFFFF", "#D9EAF7"])
_HEAT_RANGE = (-100, 100 / 3)  # white is zero
_DARK = -45  # %: white figures on darker cells
_RUNS = {
    "clean": ("clean run", BLACK, "|"),
    "sequential": ("media → question → last only", BLUE, "s"),
    "direct": ("media → last only", ORANGE, "o"),
    "random, as sequential": ("random edges, as many as the first", GREY, "x"),
    "random, as direct": ("random edges, as many as the second", GREY, "+"),
}
_VERDICTS = {
    "holds": (VERMILLION, "needed"),
    "does not hold": ("white", "not needed beyond random"),
    "cannot be said": ("#CCCCCC", "cannot be said"),
}
_NEEDS = {"audio": (ORANGE, "o", "sound"), "video": (BLUE, "s", "picture"), "audio + video": (PURPLE, "D", "both")}


def plot_routes(table: pd.DataFrame) -> Drawing:
    """Each route cut in all layers, beside its random control: filled where the answer needs the route."""
    routes = list(dict.fromkeys(table["route"]))

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        rows = rows.set_index("route").loc[routes]
        places = np.arange(len(routes))
        axes.axvline(0, color=GREY, linewidth=0.8)
        random = (rows.control_percent, rows.control_low, rows.control_high)
        _points(axes, *random, places + 0.2, {"marker": "D", "color": GREY, "markersize": 4}, "random cut of its size")
        for says, (face, label) in _VERDICTS.items():
            of = np.array(rows.needed == says)
            style = {"marker": "o", "color": BLACK, "markerfacecolor": face, "markersize": 6.5}
            _points(axes, rows.change_percent[of], rows.low[of], rows.high[of], places[of] - 0.12, style, label)
        axes.set_yticks(places, routes)
        axes.set_ylim(len(routes) - 0.4, -0.6)
        axes.set_xlim(-108, max(18, float(rows[["high", "control_high"]].max().max()) + 5))
        axes.grid(color="#E9E9E9", linewidth=0.6)

    size = (3.1, 0.29 * len(routes) + 0.45)
    return _panels(table, panel, size, "change of the answer's probability when the route is cut in all layers, %", "")


def plot_layers(table: pd.DataFrame) -> Drawing:
    """Where each route matters: the change beyond the random cut, layer by layer; numbers from 10 percent on."""
    routes = list(dict.fromkeys(table["route"]))

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        values = rows.pivot(index="route", columns="layer", values="beyond_random").loc[routes].to_numpy()
        shades: Any = {"cmap": _HEAT, "vmin": _HEAT_RANGE[0], "vmax": _HEAT_RANGE[1]}
        axes.pcolormesh(values, edgecolor="#EEEEEE", linewidth=0.6, **shades)
        for (row, layer), value in np.ndenumerate(values):
            if abs(value) >= 10:
                ink = "white" if value < _DARK else BLACK
                axes.text(layer + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=7.5, color=ink)
        axes.set_yticks(np.arange(len(routes)) + 0.5, routes)
        axes.set_xticks(np.arange(values.shape[1]) + 0.5, [str(layer) for layer in range(values.shape[1])])
        axes.set_ylim(len(routes), 0)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set(visible=True, color="#BBBBBB")

    size = (3.1, 0.27 * len(routes) + 0.45)
    alone = (table.first_cut == table.last_cut).all()
    return _panels(table, panel, size, "layer that is cut" + ("" if alone else " (centre of its window)"), "")


def plot_pathways(table: pd.DataFrame) -> Drawing:
    """What is left of the right answers with one pathway only, beside random edges of the same share."""
    families = list(dict.fromkeys(table["family"]))
    with figure_style():
        figure = Drawing(figsize=(9.4, 0.62 * len(families) + 1.5), layout="constrained")
        axes = figure.subplots()
        for number, (run, (label, colour, marker)) in enumerate(_RUNS.items()):
            rows = table[table.run == run].set_index("family").reindex(families)
            places = np.arange(len(families)) + (number - 2) * 0.14
            style = {"marker": marker, "color": colour, "markersize": 7}
            mean, low, high = (100 * rows[f"accuracy{edge}"] for edge in ("", "_low", "_high"))
            _points(axes, mean, low, high, places, style, label)
        axes.set_yticks(range(len(families)), families)
        axes.set_ylim(len(families) - 0.5, -0.5)
        axes.set_xlim(-3, 103)
        axes.set_xlabel("right answers that stay right, %")
        axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), title="attention along")
    return figure


def plot_reliance(table: pd.DataFrame) -> Drawing:
    """What modalities contribute (attention cut) against what the task relies on (media taken away), by family."""
    with figure_style():
        figure = Drawing(figsize=(8.2, 5.0), layout="constrained")
        axes = figure.subplots()
        axes.plot([-1.1, 1.1], [-1.1, 1.1], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        for needs, (colour, marker, label) in _NEEDS.items():
            rows = table[table.needs == needs]
            if len(rows):
                error = [_around(rows[n], rows[f"{n}_low"], rows[f"{n}_high"]) for n in ("reliance", "contribution")]
                axes.errorbar(rows.reliance, rows.contribution, xerr=error[0], yerr=error[1], fmt=marker, color=colour,
                              markersize=7, elinewidth=1, label=f"the task needs {label}")  # fmt: skip
        lowest = _name_points(axes, table)
        axes.set_xlim(-1.25, 1.25)
        axes.set_ylim(min(-1.25, lowest - 0.1), 1.25)
        index = "(video − audio) / (video + audio), media silenced or blanked\n← on sound      on picture →"
        axes.set_xlabel(f"reliance: {index}")
        axes.set_ylabel("contribution: the same index,\nattention to the media cut")
        axes.grid(color="#E9E9E9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def plot_discards(table: pd.DataFrame) -> Drawing:
    """Right answers with tokens dropped before each layer, and the clean run."""
    tokens = list(dict.fromkeys(table["tokens"]))
    looks = dict(zip(tokens, distinct_looks(tokens), strict=True))

    def panel(axes: Axes, rows: pd.DataFrame) -> None:
        clean_line(axes, 100 * float(rows.clean_accuracy.iloc[0]), "clean run")
        for number, name in enumerate(tokens):
            _discard(axes, rows.loc[rows.tokens == name], looks[name], name, number)
        label_axes(axes, "", "")
        axes.set_ylim(-4, 104)

    return _panels(table, panel, (3.1, 2.1), "tokens leave before layer", "right answers, %")


def _discard(axes: Axes, rows: pd.DataFrame, look: Look, name: str, number: int) -> None:
    layers = rows.layer.to_numpy() + (number - 2) * 0.08
    axes.vlines(layers, 100 * rows.accuracy_low, 100 * rows.accuracy_high, color=look.colour, linewidth=1, zorder=1)
    draw_curve(axes, layers, 100 * rows.accuracy.to_numpy(), look, f"without {name}", None, number)


def _panels(
    table: pd.DataFrame,
    panel: Callable[[Axes, pd.DataFrame], None],
    inches: tuple[float, float],
    x_label: str,
    y_label: str,
) -> Drawing:
    """One panel a family, with one legend."""
    families = list(dict.fromkeys(table["family"]))
    n_columns = min(_COLUMNS, len(families))
    n_rows = -(-len(families) // n_columns)
    with figure_style():
        size = (max(6.2, inches[0] * n_columns + 1.2), inches[1] * n_rows + 1.0)
        figure = Drawing(figsize=size, layout="constrained")
        panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).ravel()
        for number, axes in enumerate(panels):
            if number >= len(families):
                axes.remove()
                continue
            panel(axes, table.loc[table.family == families[number]])
            axes.set_title(families[number], fontsize=10)
            axes.set_axisbelow(True)
            axes.tick_params(labelbottom=number + n_columns >= len(families), labelleft=number % n_columns == 0)
        figure.supxlabel(x_label, fontsize=9.5)
        if y_label:
            figure.supylabel(y_label, fontsize=9.5)
        _legend(figure, list(panels[: len(families)]))
    return figure


def _legend(figure: Drawing, panels: Sequence[Axes]) -> None:
    named: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    if named:
        figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=4, frameon=False, handlelength=2.4)


def _points(axes: Axes, mean: Any, low: Any, high: Any, places: Any, style: dict[str, Any], label: str) -> None:
    """Points with intervals, along x; nothing for none."""
    if len(mean):
        error = _around(mean, low, high)
        axes.errorbar(mean, places, xerr=error, linestyle="none", elinewidth=1.1, capsize=0, label=label, **style)


def _around(mean: Any, low: Any, high: Any) -> list[Any]:
    return [(mean - low).clip(lower=0).fillna(0), (high - mean).clip(lower=0).fillna(0)]


def _name_points(axes: Axes, table: pd.DataFrame) -> float:
    """Names beside points; of points that lie close together, one below the other. Where the lowest stands."""
    taken: list[tuple[float, float]] = []
    for row in table.sort_values("contribution", ascending=False).to_dict("records"):
        x, y = row["reliance"], row["contribution"]
        if np.isnan(x) or np.isnan(y):
            continue
        right = x < 0.5
        at = y
        while any(abs(x - other) < 0.9 and abs(at - height) < 0.085 for other, height in taken):
            at -= 0.085
        taken.append((x, at))
        axes.annotate(row["family"], (x + (0.06 if right else -0.06), at), ha="left" if right else "right",
                      va="center", fontsize=8.5)  # fmt: skip
    return min((at for _, at in taken), default=0.0)
