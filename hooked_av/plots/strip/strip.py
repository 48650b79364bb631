"""The token strip: a prompt as a notebook shows it, in time and in order, with heat from any per-token result.

One SVG that is complete without a script; around it, HTML whose script adds the layer slider and what each token is.
Nothing is fetched, and the whole stays under a megabyte: what is too small to see is pooled, and the strip says so.
Axes: layer, unit (a token, or several drawn as one).
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.plots.heat import N_SHADES, Heat
from hooked_av.plots.page import render
from hooked_av.plots.strip.ink import Ink
from hooked_av.plots.strip.lanes import StripPlan, own_spans, plan_strip
from hooked_av.prompt.inputs import AVInputs
from hooked_av.whole_files import appearing

MAX_BYTES = 1_000_000
MAX_ROWS = 3  # of a batch, in a notebook
_MAX_UNITS, _MAX_HEAT_VALUES = 4_500, 160_000  # a value of heat takes 2.7 bytes of the page, a unit about 80
_PICTURE_BYTES = 150_000
_SUFFIXES = {".html": "strip_page.html.jinja", ".svg": None}


@dataclass(frozen=True, eq=False, repr=False)
class TokenStrip:
    """A drawn prompt: show it in a notebook, or `save` it.

    `svg` is a complete picture, for places that run no script; `html` is a fragment with the same picture, a slider for
    the layer of the heat, and what each token is, under the pointer or the arrow keys.
    """

    svg: str
    html: str
    title: str

    def _repr_html_(self) -> str:
        return self.html

    @door
    def save(self, path: str | Path) -> Path:
        """Write a page (`.html`) or a picture (`.svg`).

        Errors: `InputsError` for another suffix, or a folder that is not there.
        """
        path = Path(path)
        if path.suffix not in _SUFFIXES or not path.parent.is_dir():
            raise InputsError(
                f"cannot save a token strip to {path}",
                expected="a name.html or name.svg in a folder that exists",
                got=str(path),
                next_step="choose another path",
            )
        page = _SUFFIXES[path.suffix]
        text = self.svg if page is None else render(page, title=self.title, strips=[Markup(self.html)])
        with appearing(path, InputsError) as part:
            part.write_text(text, encoding="utf-8")
        return path

    def __repr__(self) -> str:
        return f"TokenStrip({self.title})"


@dataclass(frozen=True, eq=False)
class BatchStrips:
    """The strips of the first rows of a batch."""

    strips: tuple[TokenStrip, ...]
    n_rows: int

    @property
    def html(self) -> str:
        parts = [f"<p>row {row}</p>{strip.html}" for row, strip in enumerate(self.strips)]
        left = self.n_rows - len(self.strips)
        more = f"<p>{left} more rows: av.token_strip(inputs, row={len(self.strips)})</p>" if left else ""
        return "".join([*parts, more])

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"BatchStrips({len(self.strips)} of {self.n_rows} rows)"


@door
def token_strip(
    inputs: AVInputs,
    *,
    heat: Any = None,
    heat_label: str = "heat",
    row: int | None = None,
    layer: int | None = None,
    str_tokens: Sequence[str] | None = None,
) -> TokenStrip:
    """What the model sees, when, and in which order it reads it; and where in it a result is large.

    Args:
        heat: an array or tensor [pos] or [layer, pos]; nan where there is no value. One scale holds for all layers.
        heat_label: what the heat is, in words, with its unit.
        row: the row of a batch; positions count from the start of the padded row.
        layer: the layer of the heat that is shown first (None: the one with the largest value).
        str_tokens: the text of each token, such as `model.to_str_tokens(inputs)`, for inputs that were not made by
            `model.prepare` and so know only ids.

    Errors: `InputsError` for a batch without `row`, a row or layer that is not there, heat or texts of another shape,
    infinite heat, and heat that is nothing but nan.

    >>> import hooked_av as av, numpy as np
    >>> inputs = av.random_omni(n_layers=2).prepare(question="Which digit do you hear?")
    >>> strip = av.token_strip(inputs, heat=np.linspace(0, 1, inputs.n_pos), heat_label="attention from last")
    >>> strip
    TokenStrip(25 tokens: 25 text)
    """
    if row is None and inputs.batch != 1:
        raise InputsError(
            "a strip shows one prompt",
            expected="inputs of one prompt, or a row of the batch",
            got=f"a batch of {inputs.batch}",
            next_step="av.token_strip(inputs, row=0)",
        )
    one = inputs if row is None else inputs.row(row)
    if heat is None and layer is not None:
        raise InputsError("a layer without heat", expected="heat=[layer, pos]", got=f"layer={layer}",
                          next_step="leave layer out, or give heat")  # fmt: skip
    values = None if heat is None else Heat.of(heat, one.n_pos, heat_label)
    return _draw(one, values, layer, _texts(one, str_tokens), share=1)


def show_inputs(inputs: AVInputs) -> TokenStrip | BatchStrips:
    """What a notebook shows of inputs: their strip, or those of the first rows of a batch."""
    n_rows = min(inputs.batch, MAX_ROWS)
    rows = [inputs.row(row) for row in range(n_rows)]
    strips = tuple(_draw(one, None, None, _texts(one, None), share=n_rows) for one in rows)
    return strips[0] if inputs.batch == 1 else BatchStrips(strips, inputs.batch)


def _texts(inputs: AVInputs, given: Sequence[str] | None) -> list[str]:
    """Text of each token; its id where no tokenizer has spoken."""
    ids = inputs.input_ids[0].tolist()
    if given is None:
        return [inputs.token_texts.get(token, str(token)) for token in ids]
    if len(given) != len(ids):
        raise InputsError("str_tokens does not fit", expected=f"{len(ids)} texts, one a token", got=f"{len(given)}",
                          next_step="pass model.to_str_tokens(inputs)")  # fmt: skip
    return list(given)


def _draw(inputs: AVInputs, heat: Heat | None, layer: int | None, texts: list[str], share: int) -> TokenStrip:
    n_layers = 0 if heat is None else len(heat.values)
    if heat is not None and layer is not None and not 0 <= layer < n_layers:
        raise InputsError("the heat has no such layer", expected=f"0 to {n_layers - 1}", got=layer,
                          next_step="count the layers from 0")  # fmt: skip
    max_units = min(_MAX_UNITS, _MAX_HEAT_VALUES // max(1, n_layers)) // share
    plan = plan_strip(inputs, texts, hot=heat is not None, max_units=max_units)
    units = [unit.positions for lane in plan.lanes for unit in lane.units]
    pooled = None if heat is None else heat.pooled(units)
    shown = 0 if heat is None else heat.strongest_layer if layer is None else layer
    counts = {name: len(inputs.spans[name]) for name in _COUNTED if name in inputs.spans}
    title = f"{int(inputs.attention_mask.sum())} tokens: " + ", ".join(f"{n} {name}" for name, n in counts.items())
    ink = Ink(plan, heat, None if pooled is None else pooled[shown], shown, frozenset(own_spans(inputs)))
    values = {"ink": ink, "title": title, "pictures": _pictures(plan, _PICTURE_BYTES // share)}
    # ids of two strips on one page never meet; the same strip has the same ids, and so the same bytes
    uid = "hav" + sha256(render("strip.svg.jinja", uid="", **values).encode()).hexdigest()[:12]
    svg = render("strip.svg.jinja", uid=uid, **values)
    data = ink.data(inputs, texts, pooled, uid)
    html = render("strip.html.jinja", svg=Markup(svg), data=data, n_layers=n_layers, shown=shown, n_shades=N_SHADES,
                  has_slider=heat is not None and heat.has_layers)  # fmt: skip
    return TokenStrip(svg, html, title)


_COUNTED = ("audio", "video", "image", "boundary", "text")  # spans whose sizes sum up to the prompt


def _pictures(plan: StripPlan, budget: int) -> list[list[str]]:
    """The pictures of each lane as addresses, as sharp as the page can hold."""
    for quality in (78, 50, 25, 8):
        found = [[_jpeg(shot.pixels, quality) for shot in lane.shots] for lane in plan.lanes]
        if sum(len(picture) for lane in found for picture in lane) <= budget:
            break
    return found


def _jpeg(pixels: np.ndarray, quality: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
