"""Results of a batch as one thing: a sequence with a table, a file and a figure."""

import copy
import pickle
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np
import pytest
from jaxtyping import Float64
from support.every_result import MAKERS, cases, model

import hooked_av as av
from hooked_av.analyses import PerPrompt, Result
from hooked_av.errors import HookedAVError, InputsError
from hooked_av.plots.per_prompt import MAX_PROMPTS
from hooked_av.plots.style import svg_text

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = {
    "AnswerTrace": lambda batch: av.answer_trace(model(), batch, ["five", "one"]),
    "DirectAttribution": lambda batch: av.direct_logit_attribution(model(), batch, "five", "one"),
    "LogitLens": lambda batch: av.logit_lens(model(), batch, at="question", tokens=["five"]),
    "MediaLens": lambda batch: av.media_lens(model(), batch),
    "Sinks": lambda batch: av.find_sinks(model(), batch),
}


@pytest.fixture(scope="module", params=KINDS)
def found(request):
    return KINDS[request.param](model().batch([case.inputs for case in cases()[1:]]))


def equal(one, other):
    """Are two results the same, bit by bit?"""
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(other)]
    same = [
        np.array_equal(a, b, equal_nan=b.dtype.kind == "f") if isinstance(b, np.ndarray) else a == b
        for a, b in pairs[1:]  # settings come first
    ]
    return type(one) is type(other) and all(same)


def test_it_is_a_sequence(found):
    assert len(found) == 2
    assert [*found] == [found[0], found[-1]]
    assert isinstance(found[1:], PerPrompt)
    assert found[1:][0] is found[1]
    with pytest.raises(IndexError):
        found[2]


def test_its_table_says_the_prompt_first(found):
    frame = found.to_frame()
    assert frame.columns[0] == "prompt"
    for row, one in enumerate(found):
        own = frame[frame["prompt"] == row].drop(columns="prompt").reset_index(drop=True)
        assert own.astype(str).equals(one.to_frame().astype(str))
    assert len(frame) == sum(len(one.to_frame()) for one in found)


def test_it_comes_back_as_it_was(found, tmp_path):
    path = found.save(tmp_path / "found.safetensors")
    again = PerPrompt.load(path, found.kind)
    assert all(equal(one, other) for one, other in zip(again, found, strict=True))
    assert again.settings.keys() == found.settings.keys()
    other = av.analyses.Sinks if found.kind is not av.analyses.Sinks else av.analyses.LogitLens
    with pytest.raises(InputsError, match=rf"not a saved PerPrompt\[{other.__name__}\]"):
        PerPrompt.load(path, other)
    with pytest.raises(InputsError, match=f"not a saved {found.kind.__name__}"):
        found.kind.load(path)
    with pytest.raises(InputsError, match="not a saved PerPrompt"):
        PerPrompt.load(found[0].save(tmp_path / "one.safetensors"), found.kind)


def test_it_is_copied_and_pickled(found):
    for twin in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert all(equal(one, other) for one, other in zip(twin, found, strict=True))


def test_it_says_what_it_holds_and_what_to_write(found):
    kind = found.kind.__name__
    lines = repr(found).splitlines()
    assert lines[0] == "PerPrompt of 2 prompts"
    assert [line.split()[:2] for line in lines[1:3]] == [["0:", kind], ["1:", kind]]
    with pytest.raises(AttributeError, match=rf"holds a {kind} for each prompt.*found\[0\].top_ids"):
        found.top_ids  # noqa: B018
    assert not hasattr(found, "nothing_like_it")
    assert found.settings["model"] == "tiny-av"


def axes_of(part):
    """Those of a part of a figure, and of its parts."""
    return [*part.axes, *(axes for inner in part.subfigs for axes in axes_of(inner))]


def test_its_figure_has_that_of_each_prompt(found):
    figure = found.plot()
    assert [part.get_suptitle() for part in figure.subfigs] == ["prompt 0", "prompt 1"]
    for part, one in zip(figure.subfigs, found, strict=True):
        alone = one.plot()
        drawn, wanted = ([axes.get_title(loc="left") for axes in some] for some in (axes_of(part), alone.axes))
        assert drawn == wanted
        assert figure.get_size_inches()[0] >= alone.get_size_inches()[0]


def test_many_prompts_are_not_all_drawn():
    many = PerPrompt((MAKERS["AnswerTrace"](),) * (MAX_PROMPTS + 3))
    titles = [part.get_suptitle() for part in many.plot().subfigs]
    assert len(titles) == MAX_PROMPTS
    assert "<img" in many[:2]._repr_html_()
    assert svg_text(many[:2].plot()) == svg_text(many[:2].plot())
    assert titles[0] == "prompt 0 (the first 6 of 9 are drawn)"
    assert repr(PerPrompt((many[0],) * 12)).splitlines()[-2] == "  ... 2 more"


@dataclass(frozen=True, eq=False, kw_only=True)
class Gates(Result):
    axes: ClassVar = {"gates": ("layer",)}
    gates: Float64[np.ndarray, " layer"]


class Drawn(Gates):
    figure: ClassVar = staticmethod(lambda gates: "a picture")


def test_results_of_ones_own_have_all_but_a_figure(tmp_path):
    both = PerPrompt([Gates(gates=np.array([1.0, 2.0])), Gates(gates=np.array([3.0]))])
    assert both.to_frame().to_numpy().tolist() == [[0, 0, 1.0], [0, 1, 2.0], [1, 0, 3.0]]
    again = PerPrompt.load(both.save(tmp_path / "x"), Gates)
    assert [one.gates.tolist() for one in again] == [[1.0, 2.0], [3.0]]
    with pytest.raises(HookedAVError, match="names no figure"):
        both.plot()
    with pytest.raises(HookedAVError, match="cannot share a page"):
        PerPrompt([Drawn(gates=np.ones(1))]).plot()


@pytest.mark.parametrize("given", [(), (Gates(gates=np.ones(1)), Drawn(gates=np.ones(1)))])
def test_what_is_no_result_of_a_batch_is_refused(given):
    with pytest.raises(InputsError, match="not the results of a batch"):
        PerPrompt(given)


@pytest.mark.parametrize("key", ["7.gates", "x.gates", "0.nothing"])
def test_files_that_hold_something_else_are_refused(key, tmp_path):
    from hooked_av.analyses.result_files import write_arrays

    path = write_arrays(tmp_path / "x", "PerPrompt[Gates]", {key: np.ones(1)}, [{}])
    with pytest.raises(InputsError, match="not a saved PerPrompt"):
        PerPrompt.load(path, Gates)


def test_settings_that_differ_are_told_apart():
    one = Gates(gates=np.ones(1), settings={"model": "a", "n_pos": 3})
    assert PerPrompt([one, replace(one, settings={"model": "a", "n_pos": 4})]).settings == {
        "model": "a",
        "n_pos": (3, 4),
    }
