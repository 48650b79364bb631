"""Results of a batch: the figure of each prompt, one under the other."""

from inspect import signature
from typing import Any

from matplotlib.figure import FigureBase

from hooked_av.errors import HookedAVError
from hooked_av.named_figures import figure_of
from hooked_av.plots.style import Canvas, Drawing, figure_style

MAX_PROMPTS = 6
_TITLE_INCHES = 0.3


def plot_per_prompt(found: Any) -> Drawing:
    """A `PerPrompt`.

    The figure of each prompt, as it is alone, under the number of its row.

    At most 6 prompts are drawn, the first ones; `found[row].plot()` draws any.

    Errors: `HookedAVError` for results whose figure cannot be a part of another.
    """
    draw_one = figure_of(found.kind)
    if "on" not in signature(draw_one).parameters:
        raise HookedAVError(
            f"the figures of {found.kind.__name__} cannot share a page",
            expected="a figure function that takes `on`, which makes what it draws on",
            got="one that does not",
            next_step="draw them one by one: [one.plot() for one in found]",
        )
    shown = found.results[:MAX_PROMPTS]
    sheet = _Sheet(len(shown))
    with figure_style():
        for row, one in enumerate(shown):
            of = f" (the first {MAX_PROMPTS} of {len(found)} are drawn)" if not row and len(found) > len(shown) else ""
            draw_one(one, on=sheet.part(row, f"prompt {row}{of}"))
        sheet.fit()
    return sheet.figure


class _Sheet:
    """A figure of rows, each as high as what is drawn there wants to be, and as wide as the widest."""

    def __init__(self, n_rows: int) -> None:
        self.figure = Drawing(layout="constrained")
        self.grid = self.figure.add_gridspec(n_rows, 1)
        self.sizes: list[tuple[float, float]] = []

    def part(self, row: int, title: str) -> Canvas:
        """What makes the figure of a row."""

        def on(*, figsize: tuple[float, float], layout: str) -> FigureBase:
            self.sizes.append((figsize[0], figsize[1] + _TITLE_INCHES))
            outer = self.figure.add_subfigure(self.grid[row])
            outer.suptitle(title, x=0.01, ha="left", fontsize=10.5, weight="bold")
            return outer.add_subfigure(outer.add_gridspec(1, 1)[0])  # below the title

        return on

    def fit(self) -> None:
        """Give the figure the sizes that its rows asked for."""
        widths, heights = zip(*self.sizes, strict=True)
        self.grid.set_height_ratios(heights)
        self.figure.set_size_inches(max(widths), sum(heights))
