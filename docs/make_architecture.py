"""Draws docs/images/architecture.svg from the code: the folders in their order, and three ways through them.

python docs/make_architecture.py
"""

import ast
from pathlib import Path

import matplotlib.pyplot as plt

from hooked_av.plots.style import svg_text

ROOT = Path(__file__).parent.parent / "hooked_av"
PICTURE = Path(__file__).parent / "images" / "architecture.svg"
# A folder imports from folders above it only; tests/test_package.py holds the code to this order.
FOLDERS = (
    "media",
    "prompt",
    "hooks",
    "decoder",
    "interventions",
    "families",
    "forward",
    "replay",
    "generation",
    "model",
    "plots",
    "analyses",
    "datasets",
    "tiny",
    "study",
    "checks",
    "cli",
)
# Which way goes through which folders, in order, and what happens there.
WAYS = {
    "a clip": {
        "color": "#0072B2",
        "stops": (("media", "decoded"), ("families", "laid out"), ("prompt", "named spans"), ("forward", "encoded"),
                  ("decoder", "read"), ("analyses", "measured"), ("plots", "drawn")),
    },
    "a spec": {
        "color": "#D55E00",
        "stops": (("interventions", "written"), ("forward", "planned"), ("decoder", "masks, rows"), ("hooks", "edits"),
                  ("replay", "many at once"), ("generation", "while writing")),
    },
    "a sample": {
        "color": "#009E73",
        "stops": (("datasets", "read; at last, kept"), ("families", "prepared"), ("model", "run"),
                  ("analyses", "one result")),
    },
}  # fmt: skip


def sentence(folder: str) -> str:
    """What a folder is for: the first sentence of its `__init__.py`."""
    said = ast.get_docstring(ast.parse((ROOT / folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    return said.split("\n\n")[0].replace("\n", " ").partition(". ")[0].rstrip(".").replace("`", "")


def draw() -> str:
    """The picture as text."""
    figure, axes = plt.subplots(figsize=(11, 9.2))
    height = {folder: -row for row, folder in enumerate(FOLDERS)}
    for folder, y in height.items():
        axes.add_patch(plt.Rectangle((0, y - 0.36), 7.5, 0.72, facecolor="#f4f4f4", edgecolor="#bbbbbb", linewidth=0.8))
        axes.text(0.1, y + 0.08, f"{folder}/", va="center", fontsize=10, weight="bold")
        axes.text(0.1, y - 0.2, _shortened(sentence(folder)), va="center", fontsize=6.3, color="#333333")
    for track, (name, way) in enumerate(WAYS.items()):
        x = 8.0 + 1.9 * track
        rows = [height[folder] for folder, _ in way["stops"]]
        axes.plot([x, x], [min(rows), max(rows)], color=way["color"], linewidth=3, alpha=0.35, solid_capstyle="round")
        axes.text(x, 0.85, name, color=way["color"], ha="center", fontsize=10, weight="bold")
        for number, (folder, doing) in enumerate(way["stops"], start=1):
            axes.plot(x, height[folder], "o", color=way["color"], markersize=13)
            axes.text(
                x, height[folder], str(number), color="white", ha="center", va="center", fontsize=8, weight="bold"
            )
            axes.text(x + 0.2, height[folder], doing, color=way["color"], va="center", fontsize=8)
    axes.text(
        0,
        0.85,
        "A folder imports from those above it only. Numbers: the way of",
        fontsize=9,
        style="italic",
        color="#333333",
    )
    axes.set(xlim=(-0.1, 13.6), ylim=(-len(FOLDERS) + 0.4, 1.2))
    axes.axis("off")
    text = svg_text(figure)
    plt.close(figure)
    return text


def _shortened(text: str, most: int = 96) -> str:
    return text if len(text) <= most else text[: text.rfind(" ", 0, most)] + " ..."


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
