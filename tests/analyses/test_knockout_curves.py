"""Attention knockout: windows of the protocol, curves equal to cuts made by hand, cuts that cannot matter."""

import numpy as np
import pytest
import torch

import hooked_av as av
from hooked_av.analyses.flow.information_flow import information_flow, knockout_curves
from hooked_av.analyses.flow.map import InformationFlow
from hooked_av.analyses.flow.windows import default_window, layer_window
from hooked_av.cli.main import CLIP
from hooked_av.errors import InterventionError, SpanError

SMALL = av.Sampling(max_pixels=784 * 6)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=[av.random_omni, av.random_salmonn], ids=["omni", "salmonn"])
def model(request):
    return request.param(n_layers=4)


@pytest.fixture(scope="module")
def clip():
    return av.Clip.from_file(CLIP, start=0.0, stop=2.0)


@pytest.fixture(scope="module")
def inputs(model, clip):
    return model.prepare(clip, question="What do you hear?", sampling=SMALL)


def test_windows_are_those_of_the_protocol():
    for n_layers in range(1, 41):
        for width in range(1, n_layers + 1):
            for layer in range(n_layers):
                first = max(0, layer - width // 2)
                last = min(n_layers, layer + int(np.ceil(width / 2))) - 1
                assert list(layer_window(layer, n_layers, width)) == list(range(first, last + 1))
    assert list(layer_window(10, 28, 9)) == [6, 7, 8, 9, 10, 11, 12, 13, 14]  # l - 4 ... l + 4


def test_the_default_window_is_odd_and_at_most_a_third():
    for n_layers in range(1, 60):
        width = default_window(n_layers)
        assert width % 2 == 1
        assert width <= max(1, n_layers / 3)
        assert width + 2 > min(9, n_layers / 3)  # and no smaller than it must be
    assert [default_window(n) for n in (28, 32, 36, 48)] == [9] * 4


@pytest.mark.parametrize(("layer", "width"), [(-1, 1), (4, 1), (0, 0), (0, 5)])
def test_windows_outside_the_model_are_refused(layer, width):
    with pytest.raises(InterventionError, match="no such window of layers"):
        layer_window(layer, 4, width)


def slow_change(model, inputs, keys, queries, layers):
    """The same cut by hand: scores of the blocked pairs set to minus infinity by hooks, softmax of the last row."""

    def block(scores, hook):
        return torch.full_like(scores, -torch.inf)

    hooks = [(f"blocks.{layer}.attn.hook_attn_scores@{queries}<-{keys}", block) for layer in layers]
    with torch.no_grad():
        base = model(inputs)[0, -1].double().softmax(-1)
        cut = model.run_with_hooks(inputs, fwd_hooks=hooks)[0, -1].double().softmax(-1)
    answer = base.argmax()
    return float(100 * (cut[answer] - base[answer]) / base[answer]), int(cut.argmax())


@pytest.mark.parametrize("window", [1, 3])
def test_curves_equal_cuts_made_by_hand(model, inputs, window):
    curves = knockout_curves(model, inputs, window=window)
    assert curves.pathways == ("audio → question", "video → question")
    for row, keys in enumerate(("audio", "video")):
        for layer in range(4):
            layers = [near for near in range(4) if abs(near - layer) <= window // 2]
            change, best = slow_change(model, inputs, keys, "question", layers)
            assert curves.change_percent[row, layer] == pytest.approx(change, abs=2e-3)
            assert curves.best_ids[0, row, layer] == best
            assert curves.windows[layer].tolist() == [layers[0], layers[-1]]
    assert np.abs(curves.change_percent).max() > 0.05  # there is something to compare


def test_cuts_that_cannot_matter_change_nothing(model, inputs):
    curves = knockout_curves(model, inputs, [("audio", "question")], window=1)
    assert curves.change_percent[0, -1] == 0  # what the question reads in the last layer goes nowhere
    assert (curves.change_percent[0, :-1] != 0).any()


def test_curves_are_the_map_of_one_prompt_without_controls(model, inputs):
    curves = knockout_curves(model, inputs, ["audio->last"], window=3)
    flow = information_flow(model, inputs, pathways=["audio->last"], window=3, controls=0, only_correct=False)
    assert np.array_equal(curves.p_answer, flow.p_answer)
    assert curves.settings == flow.settings
    assert curves.control_p_answer.shape[1] == 0


def test_a_bar_counts_the_cuts_of_one_prompt_and_the_samples_of_several(model, inputs, capsys):
    knockout_curves(model, inputs, ["audio->last", "video->last"], progress=True)
    assert "8/8" in capsys.readouterr().err  # 2 pathways x 4 layers
    information_flow(model, [inputs, inputs], pathways=["audio->last"], controls=0, progress=True)
    bar = capsys.readouterr().err
    assert "samples" in bar
    assert "intervention" not in bar


def test_curves_as_a_table_and_as_a_file(model, inputs, tmp_path):
    curves = knockout_curves(model, inputs)
    frame = curves.to_frame()
    assert len(frame) == curves.p_answer.size
    row = frame[(frame.pathway == "video → question") & (frame.layer == 2)].iloc[0]
    assert row.p_answer == curves.p_answer[0, 1, 2]
    base = curves.p_answer_base[0]
    assert row.change_percent == 100 * (curves.p_answer[0, 1, 2] - base) / base
    assert (row.first_cut, row.last_cut, row.best_token) == (*curves.windows[2], curves.best_texts[0, 1, 2])
    again = InformationFlow.load(curves.save(tmp_path / "curves.safetensors"))
    assert again.to_frame().equals(frame)
    assert again.settings == dict(curves.settings)


def test_knockouts_that_make_no_sense_are_refused_before_anything_runs(model, inputs):
    runs = []
    with model.hooks(fwd_hooks=[("hook_embed", lambda embed, hook: runs.append(1))]):
        with pytest.raises(InterventionError, match="not a route of attention"):
            knockout_curves(model, inputs, [])
        with pytest.raises(SpanError, match="no span 'adio'"):
            knockout_curves(model, inputs, [("video", "question"), ("adio", "question")])
        with pytest.raises(InterventionError, match="no such window"):
            knockout_curves(model, inputs, window=5)
    assert not runs
