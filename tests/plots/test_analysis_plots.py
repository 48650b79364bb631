"""Figures of attention mass, sinks, attribution and discard curves, by their data."""

import numpy as np
import pytest

from hooked_av.analyses.attention.direct_attribution import DirectAttribution
from hooked_av.analyses.attention.mass import AttentionMass
from hooked_av.analyses.attention.sinks import EVERY_ROW, Sinks
from hooked_av.analyses.discard.discard import DiscardCurve
from hooked_av.plots.curves import distinct_looks
from hooked_av.plots.style import look_of, svg_text

N_LAYERS, N_SAMPLES = 6, 5


def rng():
    return np.random.default_rng(3)


def curves_of(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def mass():
    keys, queries = ("system", "audio", "video", "boundary", "question", "other"), ("question", "last")
    shares = rng().dirichlet(np.ones(len(keys)), size=(N_SAMPLES, N_LAYERS, 4, 2)).astype(np.float32)
    return AttentionMass(
        mass=shares,
        n_keys=np.full((N_SAMPLES, len(keys)), 10),
        n_pos=np.full(N_SAMPLES, 60),
        queries=queries,
        keys=keys,
        ids=tuple(map(str, range(N_SAMPLES))),
    )


def discard(rules=("all",), spans=("audio", "video", "av"), *, answers=True):
    drops = [(span, rule) for span in spans for rule in rules]
    shape, numbers = (len(drops), N_LAYERS, N_SAMPLES), rng()
    formula = numbers.integers(50, 90, shape)
    return DiscardCurve(
        layers=np.arange(N_LAYERS),
        best_ids=numbers.integers(0, 2, shape),
        p_drop=numbers.random(shape),
        n_dropped=np.full((len(drops), N_SAMPLES), 8),
        n_pos=np.full(N_SAMPLES, 60),
        clean_ids=np.ones(N_SAMPLES, np.int64),
        p_clean=numbers.random(N_SAMPLES),
        answer_ids=np.array([1, 1, 1, 0, 1]) if answers else np.full(N_SAMPLES, -1),
        formula=formula,
        clean_formula=np.full(N_SAMPLES, 100),
        macs=formula[..., :2] + 5,
        clean_macs=np.array([105, 105]),
        kv_bytes=numbers.integers(50, 90, (*shape[:2], 2)),
        clean_kv_bytes=np.array([100, 110]),
        seconds=numbers.random((*shape[:2], 2, 3)) + 1,
        clean_seconds=numbers.random((*shape[:2], 2, 3)) + 2,
        spans=tuple(span for span, _ in drops),
        rules=tuple(rule for _, rule in drops),
        kept_share=0.25,
        kv="keep",
        ids=tuple(map(str, range(N_SAMPLES))),
    )


def attribution():
    numbers = rng()
    sources = numbers.normal(size=(N_LAYERS, 4, 3))
    return DirectAttribution(
        attn=sources.sum(axis=(1, 2)),
        mlp=numbers.normal(size=N_LAYERS),
        heads=sources.sum(axis=2),
        sources=sources,
        source_spans=("audio", "video", "other"),
        embed=0.25,
        answer=" three",
        alternative="你",
        logit_difference=4.5,
        scale=2.0,
    )


def sinks():
    numbers = rng()
    return Sinks(
        peak=numbers.random((N_LAYERS, 30)).astype(np.float32) * 10,
        received=numbers.random((3, N_LAYERS, 30)).astype(np.float32) / 5,
        part=np.arange(30) // 10,
        parts=("system", "audio", "other"),
        readers=(EVERY_ROW, "audio", "video"),
        tokens=tuple(map(str, range(30))),
        threshold=9.0,
        received_threshold=0.15,
    )


def test_mass_has_a_panel_for_each_reader_and_a_curve_for_each_span_that_is_read():
    found = mass()
    panels = found.plot().axes
    assert [axes.get_title(loc="left") for axes in panels] == ["question reads", "last reads"]
    for column, axes in enumerate(panels):
        curves = curves_of(axes)
        assert tuple(curves) == found.keys
        for number, keys in enumerate(found.keys):
            wanted = 100 * found.mass[:, :, :, column, number].mean(axis=(0, 2))
            assert np.allclose(curves[keys].get_ydata(), wanted)
        assert len(axes.collections) == len(found.keys)  # intervals
    assert (panels[0].get_xlabel(), panels[0].get_ylabel()) == ("layer", "attention mass, %")
    assert [text.get_text() for text in panels[-1].get_legend().get_texts()] == list(found.keys)


def test_discards_are_drawn_with_what_they_save():
    found = discard()
    panels = found.plot().axes
    values = {
        "answers as in the clean run, %": 100 * found.agrees.mean(axis=-1),
        "right answers, %": 100 * found.correct.mean(axis=-1),
        "prefill time saved, %": found.saved_percent["time"],
        "FLOPs saved, %": found.saved_percent["macs"],
        "key/value bytes saved, %": found.saved_percent["kv_bytes"],
    }
    drawn = {axes.get_ylabel(): axes for axes in panels if axes.get_ylabel()}
    assert set(drawn) == set(values)
    for label, wanted in values.items():
        lines = [line for line in drawn[label].lines if line.get_label() in found.names]
        assert [line.get_label() for line in lines] == list(found.names)
        for line, row in zip(lines, wanted, strict=True):
            assert np.allclose(line.get_ydata(), row)
    formula = [line.get_ydata() for line in drawn["FLOPs saved, %"].lines if line.get_label() == "by formula"]
    assert np.allclose(formula, found.saved_percent["formula"])
    clean = [line.get_ydata()[0] for line in drawn["right answers, %"].lines if line.get_label() == "clean run"]
    assert clean == [80.0]
    assert len(drawn["right answers, %"].collections) == len(found.names)  # intervals
    legend = next(axes.get_legend() for axes in panels if axes.get_legend())
    assert [text.get_text() for text in legend.get_texts()] == [*found.names, "clean run", "by formula"]


def test_discards_without_answers_have_no_accuracy():
    panels = discard(answers=False).plot().axes
    assert "right answers, %" not in [axes.get_ylabel() for axes in panels if axes.get_visible()]


def test_parts_of_one_span_are_told_apart():
    found = discard(("random", "uniform", "attention"), ("av",))
    assert found.names == ("75 % of av, at random", "75 % of av, evenly", "75 % of av, least attended")
    axes = found.plot().axes[0]
    lines = [line for label, line in curves_of(axes).items() if label in found.names]
    assert len({line.get_marker() for line in lines}) == len({str(line.get_linestyle()) for line in lines}) == 3


def test_attribution_is_the_arrays():
    found = attribution()
    bars, grid, curves, *_ = found.plot().axes
    heights = [[patch.get_height() for patch in container] for container in bars.containers]
    assert np.allclose(heights, [found.attn, found.mlp])
    assert len({container[0].get_hatch() for container in bars.containers}) == 2
    assert np.array_equal(grid.collections[0].get_array().reshape(found.heads.shape), found.heads)
    striped = {tuple(path.vertices.min(axis=0) + 0.5) for some in grid.collections[1:] for path in some.get_paths()}
    peak = np.abs(found.heads).max()
    assert striped == {(head, layer) for layer, head in np.argwhere(found.heads < -0.04 * peak).tolist()}
    drawn = [line for label, line in curves_of(curves).items() if label.split()[0] in found.source_spans]
    assert np.allclose([line.get_ydata() for line in drawn], found.sources.sum(axis=1).T)
    title = found.plot()._suptitle.get_text()
    assert "␣three" in title
    assert "= 4.50" in title


def test_sinks_are_points_with_their_thresholds():
    found = sinks()
    upper, lower = found.plot().axes
    for axes, values, threshold in ((upper, found.peak, 9.0), (lower, 100 * found.received[0], 15.0)):
        points = {name: line for name, line in curves_of(axes).items() if name != "threshold"}
        assert tuple(points) == found.parts
        together = np.concatenate([line.get_ydata() for line in points.values()])
        assert np.allclose(together, values.max(axis=0))
        assert curves_of(axes)["threshold"].get_ydata()[0] == pytest.approx(threshold)
    n = int((found.peak > 9).any(axis=0).sum())
    assert upper.get_title(loc="left").startswith(f"{n} of 30 tokens")


@pytest.mark.parametrize("make", [mass, discard, attribution, sinks])
def test_figures_are_reproducible_vectors(make):
    first, second = (svg_text(make().plot()) for _ in range(2))
    assert first == second


def test_every_curve_has_a_look_of_its_own():
    names = [
        "audio",
        "system",
        "other",
        "video",
        "item0.audio",
        "item1.audio",
        "boundary",
        "question",
        "last",
        "x",
        "y",
    ]
    looks = distinct_looks(names)
    assert looks[0] == look_of("audio")
    assert len({look.marker for look in looks}) == len(names)
    assert len({(look.colour, str(look.line)) for look in looks}) == len(names)
