"""Figures of information flow, effective pathways and contribution, by their data."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

import hooked_av as av
from hooked_av.analyses.flow.answers import LOG_P, READINGS
from hooked_av.plots.style import Drawing, svg_text

PATHWAYS = ("audio → question", "video → question", "av → last", "question → last", "cross-frame")
N_LAYERS = 6


def answers(n_samples):
    rng = np.random.default_rng(3)
    return {
        "answer_ids": np.zeros(n_samples, np.int64),
        "gold_ids": np.zeros(n_samples, np.int64),
        "alternative_ids": np.ones(n_samples, np.int64),
        **{f"{name}_base": np.log(rng.uniform(0.5, 0.9, n_samples)) for name in LOG_P},
        "ids": tuple(map(str, range(n_samples))),
        "token_texts": ((0, "three"), (1, "eight")),
    }


def readings(shape, prefix=""):
    rng = np.random.default_rng(len(shape))
    log_p = {name: np.log(rng.uniform(0, 1, shape)) for name in LOG_P}
    return {f"{prefix}{name}": values for name, values in (log_p | {"best_ids": rng.integers(0, 2, shape)}).items()}


def flow(n_samples=5, n_draws=2, window=1):
    shape = (len(PATHWAYS), N_LAYERS)
    return av.analyses.InformationFlow(
        **answers(n_samples),
        **readings((n_samples, *shape)),
        **readings((n_samples, n_draws, *shape), "control_"),
        tasks=("",) * n_samples,
        windows=np.zeros((N_LAYERS, 2), np.int64),
        pathways=PATHWAYS,
        window=window,
    )


def band(axes, number):
    """The lowest and highest value of a filled band at each layer."""
    points = axes.collections[number].get_paths()[0].vertices
    columns = [points[points[:, 0] == layer, 1] for layer in range(N_LAYERS)]
    return np.array([[column.min() for column in columns], [column.max() for column in columns]])


def test_each_pathway_has_a_panel_with_its_curve_its_control_and_both_bands():
    result = flow()
    figure = result.plot()
    assert isinstance(figure, Drawing)
    assert [axes.get_title() or axes.get_title(loc="left") for axes in figure.axes] == list(PATHWAYS)
    for number, axes in enumerate(figure.axes):
        lines = {line.get_label(): line for line in axes.lines}
        np.testing.assert_array_equal(lines["this pathway cut"].get_ydata(), result.change_percent[number])
        np.testing.assert_array_equal(lines["random cuts"].get_ydata(), result.control_percent[number])
        assert lines["this pathway cut"].get_linestyle() != lines["random cuts"].get_linestyle()
        np.testing.assert_allclose(band(axes, 0), result.control_interval[:, number])
        np.testing.assert_allclose(band(axes, 1), result.interval[:, number])
        assert axes.collections[0].get_hatch()
    assert figure.get_supxlabel() == "layer"
    assert figure.get_supylabel() == "change of answer probability, %"
    assert "5 samples, mean and 95 % interval" in figure.get_suptitle()


def test_without_controls_none_are_drawn_and_one_sample_has_no_interval():
    figure = flow(n_samples=1, n_draws=0, window=3).plot()
    for axes in figure.axes:
        assert "random cuts" not in {line.get_label() for line in axes.lines}
    assert "a window of 3 layers" in figure.get_suptitle()
    assert "(1 sample)" in figure.get_suptitle()
    assert "centre of the window" in figure.get_supxlabel()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "<image" not in svg_text(figure)


def contribution(tasks=("hearing", "seeing", "seeing"), conditions=("audio cut", "video cut", "both cut", "silence")):
    rng = np.random.default_rng(4)
    return av.analyses.ModalityContribution(
        **answers(len(tasks)),
        **readings((len(tasks), len(conditions))),
        **readings((len(tasks), 2, len(conditions)), "control_"),
        attention=rng.uniform(0, 0.3, (len(tasks), N_LAYERS, 2, 3)),
        token_share=rng.uniform(0, 0.3, (len(tasks), 3)),
        tasks=tasks,
        conditions=conditions,
    )


def test_bars_are_drops_and_points_the_index():
    result = contribution(conditions=("audio cut", "video cut", "both cut"))
    left, right = result.plot().axes[:2]
    summary = result.summary().set_index(["condition", "task"]).probability_drop
    drawn = {
        bars.get_label(): [bar.get_width() for bar in bars] for bars in left.containers if hasattr(bars, "patches")
    }
    for modality, condition in (("audio", "audio cut"), ("video", "video cut"), ("both", "both cut")):
        np.testing.assert_allclose(
            drawn[f"{modality}: attention cut"], [100 * summary[condition, task] for task in ("hearing", "seeing")]
        )
    assert [label.get_text() for label in left.get_yticklabels()] == ["hearing", "seeing"]
    said = [label.get_text() for label in left.get_yticklabels(minor=True)]  # each bar, without its colour
    places = dict(zip(left.get_yticks(minor=True).round(6), said, strict=True))
    assert places == {
        round(bar.get_y() + bar.get_height() / 2, 6): str(bars.get_label()).partition(":")[0]
        for bars in left.containers
        if hasattr(bars, "patches")
        for bar in bars
    }
    controls = [line for line in left.lines if line.get_marker() == "D"]
    named = [line.get_label() for line in controls if not line.get_label().startswith("_")]
    assert named == ["random cut of the same size"]
    control = result.summary().set_index(["condition", "task"]).control_drop
    for line, condition in zip(controls, ("audio cut", "video cut", "both cut"), strict=True):
        np.testing.assert_allclose(line.get_xdata(), [100 * control[condition, task] for task in ("hearing", "seeing")])
    index = result.index().set_index(["kind", "task"])["index"]
    points = np.array(right.containers[0].lines[0].get_xdata(), dtype=float)
    np.testing.assert_allclose(points, [index["cut", "hearing"], index["cut", "seeing"]])
    assert "percentage points" in left.get_xlabel()
    assert right.get_xlim()[0] < -1 < 1 < right.get_xlim()[1]


def test_an_index_beyond_the_panel_is_an_arrow_with_its_number():
    result = contribution(tasks=("seeing", "seeing"), conditions=("audio cut", "video cut"))
    base = np.full(2, 0.5)
    odd = replace(result, log_p_answer_base=np.log(base), log_p_answer=np.log([[0.6, 0.3], [0.6, 0.3]]))
    assert odd.index()["index"][0] == pytest.approx(3)
    right = odd.plot().axes[1]
    (arrow,) = [line for line in right.lines if line.get_marker() == ">"]
    assert right.get_xlim()[0] < arrow.get_xdata()[0] < right.get_xlim()[1]
    assert [text.get_text() for text in right.texts] == ["3"]


def test_an_index_that_is_not_known_is_no_news():
    result = contribution(tasks=("seeing", "seeing"), conditions=("audio cut", "video cut"))
    gains = replace(result, log_p_answer_base=np.log([0.5, 0.5]), log_p_answer=np.log([[0.6, 0.7], [0.6, 0.8]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gains.index()[["index", "low", "high"]].isna().all(axis=None)
        gains.plot()


def test_kinds_differ_without_their_colours():
    names = ("audio cut", "video cut", "silence", "black frames", "other sound", "other frames")
    left = contribution(conditions=names).plot().axes[0]
    hatches = {bars.get_label(): bars[0].get_hatch() for bars in left.containers if hasattr(bars, "patches")}
    assert len({hatches[f"audio: {kind}"] for kind in ("attention cut", "silence, black frames", "another clip")}) == 3


def test_attention_has_a_panel_for_each_task_and_reader():
    result = contribution()
    mass = result.attention_mass().set_index(["task", "rows", "modality"]).sort_index()
    panels = result.plot().axes[2:]
    assert [axes.get_title(loc="left") or axes.get_title() for axes in panels] == ["hearing", "seeing", "", ""]
    assert [axes.get_ylabel() for axes in panels] == ["question, %", "", "last position, %", ""]
    for axes, cell in zip(panels, [(t, r) for r in ("question", "last") for t in ("hearing", "seeing")], strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        assert len({line.get_marker() for name, line in lines.items() if name in ("audio", "video")}) == 2
        for modality in ("audio", "video"):
            wanted = mass.loc[(*cell, modality)]
            np.testing.assert_allclose(lines[modality].get_ydata(), 100 * wanted.attention)
            share = lines[f"{modality}: its share of tokens"].get_ydata()
            np.testing.assert_allclose(share, 100 * wanted.token_share.iloc[0])
    low, high = band(panels[1], 0)
    np.testing.assert_allclose(low, 100 * mass.loc[("seeing", "question", "audio")].low)
    np.testing.assert_allclose(high, 100 * mass.loc[("seeing", "question", "audio")].high)


@pytest.mark.parametrize("n_draws", [0, 2])
def test_bars_of_an_effective_pathway_are_its_summary(n_draws):
    result = av.analyses.EffectivePathway(
        **answers(4),
        **readings((4,)),
        **readings((4, n_draws), "control_"),
        tasks=("",) * 4,
        share=np.full(4, 0.25),
        edges=("audio → question in every layer", "question → last in layers [2, 3]"),
    )
    figure = result.plot()
    (axes,) = figure.axes
    bars = [bars for bars in axes.containers if hasattr(bars, "patches")]
    assert len(bars) == (3 if n_draws else 2)
    summary = result.summary()
    for number, some in enumerate(bars):
        wanted = [summary.loc[number, name] for name in ("probability", "agreement", "accuracy")]
        np.testing.assert_allclose([bar.get_height() for bar in some], wanted)
    assert "25 % of all" in str(bars[1].get_label())
    assert "audio → question; question → last in layers [2, 3]" in figure.get_suptitle().replace("\n", " ")
    left, right = result.with_metric("logit_difference").plot().axes
    heights = [bars[0].get_height() for bars in left.containers if hasattr(bars, "patches")]
    np.testing.assert_allclose(heights[:2], [result.logit_difference_base.mean(), result.logit_difference.mean()])
    assert right.get_ylabel() == "share of samples"


@pytest.mark.parametrize("metric", ["probability", "log_prob"])
@pytest.mark.parametrize("n_pathways", [1, 2, 3, 5])
def test_legend_title_and_labels_of_a_map_do_not_overlap(n_pathways, metric):
    """The longest label, and the title of two lines, which says that p is near 1."""
    result = flow(window=3).with_metric(metric)
    result = replace(result, **{f"{name}_base": np.full(5, -1e-3) for name in LOG_P})
    some = replace(
        result,
        pathways=PATHWAYS[:n_pathways],
        **{name: getattr(result, name)[:, :n_pathways] for name in READINGS},
        **{f"control_{name}": getattr(result, f"control_{name}")[:, :, :n_pathways] for name in READINGS},
    )
    figure = some.plot()
    figure.draw_without_rendering()
    parts = [figure.legends[0], figure._supxlabel, figure._supylabel, figure._suptitle]
    boxes = [part.get_window_extent() for part in parts] + [axes.get_window_extent() for axes in figure.axes]
    assert not [(i, j) for i, one in enumerate(boxes) for j, other in enumerate(boxes[:i]) if one.overlaps(other)]


def test_a_sweep_is_its_bars_and_names_new_answers():
    sweep = av.analyses.RouteSweep(
        log_p_cut=np.log([0.4, 0.7, 0.05]),
        gold_log_p_cut=np.full(3, np.nan),
        alternative_log_p_cut=np.log([0.2, 0.1, 0.3]),
        best_ids=np.array([3, 3, 4]),
        cuts=("audio->last@2-5", "video->question", "av->last"),
        best_texts=(" six", " six", "two"),
        answer_id=3,
        answer=" six",
        gold="",
        alternative="two",
        log_p_base=np.log(0.8),
        gold_log_p_base=np.nan,
        alternative_log_p_base=np.log(0.1),
    )
    (axes,) = sweep.plot().axes
    np.testing.assert_allclose([bar.get_width() for bar in axes.patches], sweep.change_percent)
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["audio → last, layers 2-5", "video → question", "av → last"]
    (new,) = axes.texts
    assert (new.get_text(), new.xy[1]) == ("now “two”", 2)
    assert "“␣six”, p = 0.8" in axes.get_title(loc="left")
    assert axes.get_xlabel() == "change of answer probability, %"
