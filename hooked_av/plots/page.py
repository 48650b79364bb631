"""Pages from the templates in `hooked_av/data`: every text that comes from outside is escaped."""

import base64
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from hooked_av.plots.style import svg_text

_TEMPLATES = Path(__file__).parent.parent / "data"


def render(template: str, **values: Any) -> str:
    """The template with its values; one that is missing raises."""
    return _environment().get_template(template).render(**values)


def image_address(figure: Figure) -> str:
    """A figure as the address of an image; inside an image no script can run, and ids of two figures never meet."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg_text(figure).encode()).decode("ascii")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
