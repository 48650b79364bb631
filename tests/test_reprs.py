"""What a notebook shows: a few lines of text, never arrays; of a result its figure, with the settings folded."""

import re
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from jaxtyping import Float64
from support import every_result
from support.every_result import MAKERS, cases, inputs, made, model, pair

import hooked_av as av
from hooked_av.datasets.manifest import read_manifest
from hooked_av.plots.notebook import MAX_BYTES, picture_html
from hooked_av.plots.strip.strip import BatchStrips, show_inputs
from hooked_av.plots.style import Drawing
from hooked_av.tiny.samples import FOLDER

pytestmark = pytest.mark.usefixtures("one_thread")
MAX_CHARACTERS = 160  # of a line
ARRAYS = re.compile(r"array\(|tensor\(|\[\[|(-?\d+\.\d+(e-?\d+)?, ){4}")


def batch(n):
    return model().batch([inputs()] * n)


def cache():
    return model().run_with_cache(inputs(), names_filter="blocks.*.hook_resid_post")[1]


def written(**more):
    return model().generate(inputs(), max_new_tokens=30, **more)


# What is shown, and how many lines of text it may take.
OBJECTS = {
    "model": (model, 10),
    "prompt": (inputs, 3),
    "batch": (lambda: batch(4), 6),
    "large batch": (lambda: batch(30), 13),
    "text prompt": (lambda: model().prepare(question="Which digit?"), 2),
    "span": (lambda: inputs().spans["audio"], 1),
    "cache": (cache, 1),
    "baseline": (lambda: model().baseline(inputs()), 1),
    "replayed": (
        lambda: model().baseline(inputs()).run(["audio->last", "video->last"], ["last", "hook_embed@audio"]),
        1,
    ),
    "generation": (written, 2),
    "generation with numbers": (lambda: written(keep=("logits", "probabilities")), 2),
    "case": (lambda: cases()[0], 1),
    "pair": (lambda: av.Pair(*pair().values(), "audio of item 0"), 1),
    "sample": (lambda: read_manifest(FOLDER / "manifest.jsonl")[0], 1),
    "case of a sample": (lambda: read_manifest(FOLDER / "manifest.jsonl")[0].prepare(model()), 1),
    "clip": (lambda: every_result.read_samples()[0].clip, 1),
    "strips of a batch": (lambda: BatchStrips((av.token_strip(inputs()),), 7), 1),
    "results of a batch": (lambda: av.logit_lens(model(), batch(3)), 5),
    "patch": (lambda: av.patch("hook_embed", "last", torch.ones(1, 1, model().cfg.d_model)), 1),
}


def check_text(text, n_lines, line_length=MAX_CHARACTERS):
    lines = text.splitlines()
    assert len(lines) <= n_lines
    assert max(map(len, lines)) <= line_length
    assert not ARRAYS.search(text)


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_a_few_lines(name):
    make, n_lines = OBJECTS[name]
    check_text(repr(make()), n_lines)


@pytest.mark.parametrize("name", MAKERS)
def test_results_are_three_lines_and_a_figure(name):
    result = made(name)
    check_text(repr(result), 3)
    assert repr(result).startswith(f"{name} of tiny-av: ")
    html = result._repr_html_()
    assert len(html.encode()) < MAX_BYTES
    folded = html[html.index("<details") :]
    assert "<details open" not in html
    for setting in result.settings:
        assert f"<td>{setting}</td>" in folded
    assert re.search(r'<img [^>]*src="data:image/(svg\+xml|png);base64,|<svg', html)


def test_every_result_type_is_looked_at():
    assert set(MAKERS) == set(av.analyses.__all__) - {"Result", "LensConvention", "PerPrompt"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Gates(av.analyses.Result):
    axes: ClassVar = {"gates": ("layer", "expert")}
    gates: Float64[np.ndarray, "layer expert"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Named(Gates):
    def __repr__(self):
        return "gates by name"


@dataclass(frozen=True, eq=False, kw_only=True)
class MoreNamed(Named):
    more: int = 0


def test_results_of_a_users_own_are_short_too():
    own = Gates(gates=np.zeros((2, 3)), settings={"what": "two\nlines", "many": list(range(99))})
    assert repr(own).splitlines()[:2] == ["Gates: layer 2, expert 3", "  what two lines, many (99)"]
    check_text(repr(own), 3)
    assert own._repr_html_() is None  # it has no figure: a notebook shows the text
    assert repr(MoreNamed(gates=np.zeros((2, 3)))) == "gates by name"


def test_settings_are_escaped_and_short():
    result = replace(made("HeadPatching"), settings={"<b>": "<script>", "long": "x" * 5000})
    html = result._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "x" * 500 not in html


def test_a_figure_that_is_too_large_as_vectors_is_pixels():
    figure = Drawing(figsize=(14, 10))
    rng = np.random.default_rng(0)
    figure.subplots().scatter(*rng.normal(size=(2, 9000)))
    html = picture_html(figure)
    assert "image/png" in html
    assert len(html) < MAX_BYTES


def test_the_card_of_a_model_names_what_it_says():
    card = repr(model())
    said = ("tiny-av", "8 layers", "d_model 128", "4 heads", "486 tokens", "float32 on cpu", "list(model.hook_dict)")
    assert [text for text in (*said, "torch.nn.Module.__repr__(model)") if text not in card] == []
    assert "(hook_q): " in torch.nn.Module.__repr__(model())


def test_strips_of_a_batch_are_their_html():
    strips = show_inputs(batch(2))
    assert isinstance(strips, BatchStrips)
    assert strips._repr_html_() == picture_html(strips) == strips.html
    assert strips.html.count("<svg") == 2
