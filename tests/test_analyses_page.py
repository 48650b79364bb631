"""docs/analyses.md is the code; a name of an argument means one thing, and is one kind of thing, in every analysis."""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from support.every_result import MAKERS, cases, inputs, made, model, pair

import hooked_av as av
from hooked_av.datasets.run import ANALYSES

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))
import make_analyses
from make_analyses import MEANINGS, WIDER, analyses, arguments, columns, kind, result_of

pytestmark = pytest.mark.usefixtures("one_thread")
FUNCTIONS = analyses() | {f"hooked-av {name}": function for name, function in ANALYSES.items()}


def kinds_of(functions):
    """Of each argument, the kinds that it has, and where."""
    found = defaultdict(lambda: defaultdict(list))
    for function, taken in functions.items():
        for name, one in taken.items():
            if (function.removeprefix("hooked-av "), name) not in WIDER:
                found[name][kind(one.annotation)].append(function)
    return found


def test_the_page_is_that_of_the_code():
    said = make_analyses.PAGE.read_text(encoding="utf-8")
    assert said == make_analyses.page(), "run python docs/make_analyses.py"


def test_every_argument_is_one_kind_of_thing_and_has_one_meaning():
    found = kinds_of({name: arguments(function) for name, function in analyses().items()})
    assert {name: dict(kinds) for name, kinds in found.items() if len(kinds) > 1} == {}
    assert MEANINGS.keys() == found.keys()
    assert len(set(MEANINGS.values())) == len(MEANINGS)
    assert all(name in analyses() and argument in found for name, argument in WIDER)


def test_commands_take_what_their_analyses_take():
    """`case` and `inputs` are a sample there, so they are left out."""
    found = kinds_of({name: dict(list(arguments(function).items())[1:]) for name, function in FUNCTIONS.items()})
    assert {name: dict(kinds) for name, kinds in found.items() if len(kinds) > 1} == {}


def test_another_kind_of_thing_is_seen():
    def other(model, *, metric: int):
        pass

    found = kinds_of({name: arguments(function) for name, function in (analyses() | {"other": other}).items()})
    assert len(found["metric"]) == 2


@pytest.mark.parametrize("name", analyses())
def test_every_argument_is_explained(name):
    said = av.__dict__.get(name, getattr(av, name)).__doc__
    known = {"cases", "case", "inputs", "clean", "corrupt"}  # the first ones; each docstring's first line is about them
    missing = [argument for argument in arguments(analyses()[name]) if argument not in known and argument not in said]
    assert missing == []


@pytest.mark.parametrize("name", MAKERS)
def test_the_page_names_the_columns_of_tables(name):
    result = made(name)
    table, said = list(result.to_frame().columns), columns(type(result))
    assert [column for column in table if column in said] == said


def test_every_analysis_is_on_the_page_and_has_a_figure():
    assert {result_of(function).__name__ for function in analyses().values()} == set(MAKERS)
    assert all(result_of(function).figure for function in analyses().values())


CLEAN = {"spans": "audio", "components": "resid_pre"}
# One name, given as a text -> what says which names were meant.
ONE_NAME = {
    "attention_mass keys": (lambda: av.attention_mass(model(), inputs(), keys="audio").keys, ("audio",)),
    "attention_mass queries": (lambda: av.attention_mass(model(), inputs(), queries="last").queries, ("last",)),
    "find_sinks": (lambda: av.find_sinks(model(), inputs(), queries="audio").readers, ("every later row", "audio")),
    "sources": (
        lambda: av.direct_logit_attribution(model(), inputs(), "five", "three", sources="audio").source_spans,
        ("audio", "other"),
    ),
    "patch_spans": (lambda: (lambda t: t.spans + t.components)(av.patch_spans(model(), **pair(), **CLEAN)),
                    ("audio", "resid_pre")),
    "attribution": (lambda: av.attribution_patching(model(), **pair(), **CLEAN).rows, ("audio · resid_pre",)),
    "discard_curve": (lambda: av.discard_curve(model(), cases()[0], "video", [6], repeats=1).spans, ("video",)),
    "route_sweep": (lambda: av.route_sweep(model(), inputs(), "audio->last").cuts, ("audio->last",)),
    "answer_trace": (lambda: av.answer_trace(model(), inputs(), "five").options, ("five",)),
    "logit_lens": (lambda: av.logit_lens(model(), inputs(), tokens="five").tokens, ("five",)),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_NAME)
def test_a_text_is_one_name_not_its_letters(name):
    run, meant = ONE_NAME[name]
    assert tuple(run()) == meant


def test_positions_are_read_by_every_analysis_that_has_at():
    last = inputs().spans["last"]
    for at in (last, last.positions, [int(last.positions[0])]):
        traced = av.answer_trace(model(), inputs(), ["five"], at=at)
        np.testing.assert_array_equal(traced.ranks, av.answer_trace(model(), inputs(), ["five"]).ranks)


def test_former_names_of_arguments_go_on_working():
    with pytest.warns(DeprecationWarning, match=r"answer_trace\(options=...\) is now answer_trace\(tokens=...\)"):
        assert av.answer_trace(model(), inputs(), options=["five"]).options == ("five",)
    flow = made("InformationFlow")
    with pytest.warns(DeprecationWarning, match=r"is now from_frame\(frame=...\)"):
        assert av.analyses.InformationFlow.from_frame(table=flow.to_frame()).ids == flow.ids
    with pytest.warns(DeprecationWarning, match=r"is now information_flow\(follow=...\)"):
        asked = av.information_flow(model(), cases()[0], pathways="audio->last", controls=0, metric="gold")
    assert (asked.metric, asked.follow) == ("probability", "gold")
