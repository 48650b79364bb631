"""Figures of patching and of the lenses, by their data: cells equal the arrays, texts are the tokens."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import PatchCollection, QuadMesh

import hooked_av as av
from hooked_av.plots.effects import COLOURS
from hooked_av.plots.lens import convention_words
from hooked_av.plots.media_lens import MAX_GROUPS, MAX_LAYERS
from hooked_av.plots.patching import contrast_words, over_time
from hooked_av.plots.style import svg_text

RNG = np.random.default_rng(0)
SHARED = {"metric_clean": 2.0, "metric_corrupt": 0.0, "metric": "logit_difference", "answers": (" five", " two")}


def spans():
    return av.analyses.SpanPatching(
        metric_patched=RNG.normal(size=(3, 4, 6)), components=("resid_pre", "attn_out", "mlp_out"),
        spans=("audio", "video", "question", "last"), **SHARED,
    )  # fmt: skip


def heads():
    return av.analyses.HeadPatching(metric_patched=RNG.normal(size=(6, 4)), span="last", **SHARED)


def path():
    measured = RNG.normal(size=(6, 4))
    measured[4:] = np.nan
    return av.analyses.PathPatching(
        metric_patched=measured, span="last", receiver="blocks.4.attn.hook_q", receiver_heads=(1, 2), **SHARED
    )


def back(is_one_prompt=False):
    measured = np.where(np.tri(6, k=-1, dtype=bool), RNG.normal(size=(6, 6)), np.nan)
    return av.analyses.BackPatching(metric_patched=measured, span="question", is_one_prompt=is_one_prompt, **SHARED)


def positions():
    seconds = np.array([[0, 1], [0, 1], [1, 2], [1, 2], [0, 0.5], [0.5, 1], [1, 2]])
    return av.analyses.PositionPatching(
        metric_patched=RNG.normal(size=(6, 7)), seconds=seconds, modalities=("video",) * 4 + ("audio",) * 3,
        items=(0,) * 7, positions=tuple((i,) for i in range(7)), component="resid_pre", **SHARED,
    )  # fmt: skip


def attribution(has_exact=True):
    exact = RNG.normal(size=(5, 6)) if has_exact else np.full((5, 6), np.nan)
    return av.analyses.AttributionPatching(
        metric_patched=RNG.normal(size=(5, 6)), exact=exact, rows=tuple(f"row {i}" for i in range(5)), table="spans",
        **SHARED,
    )  # fmt: skip


def meshes(figure):
    """The cells of each panel, without those of the scale."""
    found = [c for axes in figure.axes for c in axes.collections if isinstance(c, QuadMesh) and c.get_cmap() is COLOURS]
    return [
        np.ma.filled(mesh.get_array().astype(float), np.nan) for mesh in found if mesh.axes.get_label() != "<colorbar>"
    ]


def test_maps_of_spans_are_the_arrays():
    table = spans()
    figure = table.plot()
    for found, effects in zip(meshes(figure), table.effects, strict=True):
        np.testing.assert_array_equal(found, effects[::-1])  # the first span on top
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(table.spans[::-1])
    assert [panel.get_title(loc="left") for panel in figure.axes[:3]] == [
        "residual stream",
        "attention output",
        "MLP output",
    ]
    assert axes.get_xlabel() == "layer"
    assert "␣five" in figure.get_suptitle()


@pytest.mark.parametrize("make", [heads, path, back, lambda: back(True)], ids=["heads", "path", "back", "one prompt"])
def test_grids_are_the_arrays(make):
    table = make()
    figure = table.plot()
    (found,) = meshes(figure)
    values = table.changes if getattr(table, "is_one_prompt", False) else table.effects
    np.testing.assert_array_equal(found, values)
    axes = figure.axes[0]
    written = {(round(t.get_position()[0]), round(t.get_position()[1])): t.get_text() for t in axes.texts}
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value) and abs(value) > 0.01:
            text = written[column, row]
            assert float(text.replace("−", "-")) == pytest.approx(value, abs=0.0051)
        else:
            assert not np.isnan(value) or (column, row) not in written
    assert axes.get_ylabel()
    assert axes.get_xlabel()


def test_negative_cells_are_striped():
    table = heads()
    axes = table.plot().axes[0]
    stripes = [c for c in axes.collections if isinstance(c, PatchCollection) and c.get_hatch()]
    boxes = {tuple(np.round(p.vertices.min(axis=0) + 0.5).astype(int)) for some in stripes for p in some.get_paths()}
    negative = np.argwhere(table.effects < -0.04 * np.abs(table.effects).max())
    assert boxes == {(column, row) for row, column in negative.tolist()}


def test_more_is_darker_in_grey():
    shades = np.array([COLOURS(x)[:3] for x in np.linspace(0, 1, 21)]) @ (0.299, 0.587, 0.114)
    assert (np.diff(shades[:11]) > 0).all()
    assert (np.diff(shades[10:]) < 0).all()


def test_positions_lie_in_their_seconds():
    table = positions()
    figure = table.plot()
    video, audio = figure.axes[:2]
    np.testing.assert_array_equal(meshes(figure)[0], table.effects[:, :4])
    np.testing.assert_array_equal(meshes(figure)[1], table.effects[:, 4:])
    edges = [
        next(c for c in axes.collections if isinstance(c, QuadMesh)).get_coordinates()[0, :, 0]
        for axes in (video, audio)
    ]
    assert edges[0].tolist() == [0, 0.5, 1, 1.5, 2]
    assert edges[1].tolist() == [0, 0.5, 1, 2]
    assert video.get_title(loc="left").startswith("video: 4 tokens")
    assert video.get_xlabel() == "time in the clip, seconds"


def test_attribution_stands_beside_the_exact_effects():
    estimate = attribution()
    figure = estimate.plot()
    np.testing.assert_array_equal(meshes(figure)[0], estimate.effects[::-1])
    scatter = next(axes for axes in figure.axes if axes.get_xlabel() == "exact effect of the patch").collections[0]
    np.testing.assert_allclose(scatter.get_offsets(), np.c_[estimate.exact.ravel(), estimate.effects.ravel()])
    assert len(attribution(has_exact=False).plot().axes) == 2  # the cells and their scale


# --- lenses ----------------------------------------------------------------------------------------------------------


def trace():
    return av.analyses.AnswerTrace(
        probabilities=RNG.random((6, 3), np.float32),
        ranks=RNG.integers(0, 400, (6, 3)),
        best_ids=np.zeros(6, np.int64),
        best_probabilities=np.ones(6, np.float32),
        best_texts=("a",) * 6,
        options=("five", "two", "one"),
        settings={"convention": "no_norm+layer_input", "at": "last"},
    )


def test_a_trace_is_its_arrays():
    result = trace()
    left, right = result.plot().axes
    for number, (p, rank) in enumerate(zip(left.lines, right.lines, strict=True)):
        np.testing.assert_array_equal(p.get_ydata(), result.probabilities[:, number])
        np.testing.assert_array_equal(rank.get_ydata(), result.ranks[:, number] + 1)
    assert right.yaxis_inverted()
    assert len({line.get_linestyle() for line in left.lines}) == len({line.get_marker() for line in left.lines}) == 3
    assert left.get_title(loc="left").endswith("(no final norm, unembedding, of each layer's input)")


def media(n_layers=8, n_groups=2, n_audio=6, n_columns=2):
    cells = [(g, r, c) for g in range(n_groups) for r in range(2) for c in range(n_columns)] + [(-1, -1, -1)] * n_audio
    seconds = [(g, g + 1.0) for g, *_ in cells if g >= 0] + [(i / 4, (i + 1) / 4) for i in range(n_audio)]
    n, shape = len(cells), (n_layers, len(cells), 1)
    texts = tuple(tuple((f"t{layer}.{position}",) for position in range(n)) for layer in range(n_layers))
    return av.analyses.MediaLens(
        top_ids=np.zeros(shape, np.int64), top_logits=np.zeros(shape, np.float32),
        top_probabilities=RNG.random(shape, np.float32), token_probabilities=np.zeros((n_layers, n, 0), np.float32),
        token_ranks=np.zeros((n_layers, n, 0), np.int64), positions=np.arange(n), top_texts=texts, tokens=(),
        modalities=("video",) * (n - n_audio) + ("audio",) * n_audio, seconds=np.array(seconds), cells=np.array(cells),
        frames=np.full((n_groups, 8, 8, 3), 99, np.uint8), sound_low=-np.ones(9, np.float32),
        sound_high=np.ones(9, np.float32), sound_seconds=n_audio / 4, item=0, settings={"convention": "final_norm"},
    )  # fmt: skip


def test_each_cell_of_a_frame_shows_its_own_token():
    result = media()
    figure = result.plot()
    panels = [axes for part in figure.subfigs for axes in part.axes if axes.images]
    assert len(panels) == MAX_LAYERS * 2
    for number, panel in enumerate(panels):
        layer, group = (7, 5, 3, 1)[number // 2], number % 2
        written = {tuple(np.floor(t.get_position()).astype(int)): t.get_text() for t in panel.texts[::2]}
        assert written == {(c, r): f"t{layer}.{4 * group + 2 * r + c}" for r in range(2) for c in range(2)}
    assert panels[0].get_ylabel() == "layer 7"
    assert panels[1].get_title() == "1.0–2.0 s"
    assert "final norm, unembedding" in figure.get_suptitle()


def test_sound_is_shown_over_its_time():
    result = media()
    cells = result.plot().subfigs[1].axes[1]
    (mesh,) = [c for c in cells.collections if isinstance(c, QuadMesh)]
    np.testing.assert_allclose(mesh.get_array(), result.top_probabilities[:, 8:, 0])
    np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], np.arange(7) / 4)
    assert [text.get_text() for text in cells.texts[:6]] == [f"t0.{i}" for i in range(8, 14)]
    assert cells.get_xlabel() == "time in the clip, seconds"


def test_neighbours_that_agree_are_written_once():
    result = media(n_layers=1)
    texts = (tuple(("same",) if position in (8, 9, 10) else one for position, one in enumerate(result.top_texts[0])),)
    cells = replace(result, top_texts=texts).plot().subfigs[1].axes[1]
    assert [text.get_text() for text in cells.texts] == ["same", "t0.11", "t0.12", "t0.13"]


def test_only_so_many_frames_are_drawn():
    figure = media(n_groups=20).plot()
    panels = [axes for axes in figure.subfigs[0].axes if axes.images]
    assert len(panels) == MAX_LAYERS * MAX_GROUPS
    only_sound = media(n_groups=0)
    assert len(only_sound.plot().subfigs) == 1


@pytest.mark.parametrize("make", [spans, heads, path, back, positions, attribution, trace, media])
def test_figures_are_vectors_and_reproducible(make):
    result = make()
    assert svg_text(result.plot()) == svg_text(result.plot())


def test_places_without_a_time_stand_side_by_side():
    values, seconds = np.array([[1.0, 2.0]]), np.array([[0, 1], [np.nan, np.nan]])
    cells, edges = over_time(values, seconds)
    assert cells.tolist() == values.tolist()
    assert edges.tolist() == [0, 1, 2]


def test_a_table_by_probability_says_of_which_answer():
    assert contrast_words(replace(spans(), metric="probability")).splitlines()[0] == "Probability of “␣five”"
    assert contrast_words(spans()).endswith(": “␣five” (clean) against “␣two” (corrupt)")


def test_a_lens_of_an_unknown_convention_says_so():
    assert convention_words({}) == convention_words({"convention": "other"}) == "convention unknown"
