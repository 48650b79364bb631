"""Route sweep: what becomes of the answer when each route alone is cut.

Axes: cut.
"""

from typing import Any

from matplotlib.axes import Axes

from hooked_av.plots.metric import CHANGES, metric_of_answer, metric_value, saturation
from hooked_av.plots.style import BLUE, GREY, Drawing, figure_style, font_glyphs
from hooked_av.plots.text import drawable, shortened

_ROW_INCHES = 0.34


def plot_route_sweep(sweep: Any) -> Drawing:
    """A `RouteSweep`.

    A bar for each cut, in the order that was given; the new answer stands beside it where there is one.
    """
    with figure_style():
        figure = Drawing(figsize=(8.4, 1.3 + _ROW_INCHES * len(sweep.cuts)), layout="constrained")
        axes = figure.subplots()
        places = range(len(sweep.cuts))
        axes.barh(places, sweep.change, 0.7, color=BLUE, edgecolor=BLUE, zorder=2)
        axes.axvline(0, color=GREY, linewidth=1, zorder=3)
        axes.set_yticks(places, [cut.replace("->", " → ").replace("@", ", layers ") for cut in sweep.cuts])
        axes.set_ylim(len(sweep.cuts) - 0.5, -0.5)
        axes.set_xlabel(CHANGES[sweep.metric])
        axes.set_title(_title(sweep))
        axes.margins(x=0.05)
        axes.grid(axis="x", color="#E6E6E6", linewidth=0.6)
        axes.set_axisbelow(True)
        _new_answers(axes, sweep)
    return figure


def _title(sweep: Any) -> str:
    of = metric_of_answer(sweep.metric, f"“{_token(sweep.followed)}”", f"“{_token(sweep.alternative)}”")
    clean = f"Clean answer: “{_token(sweep.answer)}”, {metric_value('probability', sweep.p_base)}"
    says = (
        ""
        if sweep.metric == "probability" and sweep.follow == "answer"
        else f"\n{of[0].upper()}{of[1:]}: {metric_value(sweep.metric, sweep.metric_base)}"
    )
    note = saturation(sweep.metric, int(sweep.is_saturated), 1)
    return f"Attention cut along one route. {clean}{says}" + (f"\n{note}" if note else "")


def _new_answers(axes: Axes, sweep: Any) -> None:
    """On the right of the axes, in the row of its cut."""
    for place, (best, text) in enumerate(zip(sweep.best_ids, sweep.best_texts, strict=True)):
        if best != sweep.answer_id:
            axes.annotate(
                f"now “{_token(text)}”", (1.0, place), xycoords=("axes fraction", "data"), xytext=(6, 0),
                textcoords="offset points", va="center", fontsize=8.5, annotation_clip=False,
            )  # fmt: skip


def _token(text: str) -> str:
    return shortened(drawable(text, font_glyphs()), 24)
