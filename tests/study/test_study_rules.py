"""The rules of the study: what its verdicts follow from, and what they say together."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from hooked_av.study import findings
from hooked_av.study.findings import Statement, contributes, shifts, summaries
from hooked_av.study.rules import (
    Estimate,
    Verdict,
    all_of,
    answers_enough,
    free_from,
    in_proportion,
    needed,
    suffices,
    unless_either,
    used,
)

RNG = np.random.default_rng(0)
N = 200


def around(mean, spread=5.0, n=N):
    """Numbers with just this mean."""
    values = RNG.normal(0, spread, n)
    return values - values.mean() + mean


def counts(n_lost, n=N, n_gained=0):
    return np.array([-1.0] * n_lost + [1.0] * n_gained + [0.0] * (n - n_lost - n_gained))


@pytest.mark.parametrize(
    "change, control, says",
    [
        (around(-60), around(-3), "holds"),
        (around(-60), around(-55), "does not hold"),  # no more than a random cut of its size
        (around(-60), around(-60), "does not hold"),
        (around(-4), np.zeros(N), "does not hold"),  # an effect, but a small one
        (around(+40), np.zeros(N), "does not hold"),
        (around(-12, 100), np.zeros(N), "cannot be said"),
        (around(-8, 30), np.zeros(N), "cannot be said"),
        (around(-60, n=29), np.zeros(29), "cannot be said"),
    ],
)
def test_a_route_is_needed_beyond_its_random_control(change, control, says):
    assert needed(change, control).says == says


@pytest.mark.parametrize(
    "stays, says",
    [(np.ones(N), "holds"), (np.ones(29), "cannot be said"), (1 + counts(60), "does not hold"),
     (1 + counts(19), "cannot be said"), (np.zeros(N), "does not hold"), (np.ones(30), "holds"),
     (1 + counts(2, 32), "cannot be said")],
)  # fmt: skip
def test_a_pathway_is_enough_by_the_lower_end(stays, says):
    verdict = suffices(stays, np.ones(len(stays)))
    assert verdict.says == says
    assert says == "cannot be said" or "100.0 % with random edges" in verdict.why


@pytest.mark.parametrize(
    "lost, by_the_task, says",
    [(100, True, "holds"), (100, False, "does not hold"), (0, True, "does not hold"), (0, False, "holds"),
     (19, True, "cannot be said"), (19, False, "cannot be said")],
)  # fmt: skip
def test_a_modality_contributes_as_the_task_needs(lost, by_the_task, says):
    assert used(-counts(lost), by_the_task).says == says


@pytest.mark.parametrize(
    "right, chance, says",
    [(1 + counts(10), 0.1, "holds"), (1 + counts(100), 0.5, "cannot be said"), (1 + counts(60), 0.35, "holds"),
     (1 + counts(110), 0.1, "cannot be said"), (np.ones(29), 0.1, "cannot be said")],
)  # fmt: skip
def test_guessed_answers_are_not_asked_about(right, chance, says):
    assert answers_enough(right, chance).says == says


@pytest.mark.parametrize(
    "lost, layer, says",
    [
        ([200, 100, 0, 0], 2, "holds"),
        ([0, 0, 0, 0], 0, "holds"),
        ([0, 0, 50, 0], 3, "holds"),  # a layer where it costs ends it, whatever was before
        ([100, 50, 20, 20], None, "does not hold"),
        ([100, 50, 3, 3], 2, "holds"),
        ([100, 50, 4, 4], None, "does not hold"),
    ],
)
def test_the_first_layer_that_can_do_without(lost, layer, says):
    found = free_from(np.stack([counts(n) for n in lost]))
    assert (found[0], found[1].says) == (layer, says)


def test_a_few_samples_do_not_prove_that_tokens_can_go():
    assert free_from(np.zeros((4, 50)))[1].says == "cannot be said"  # three of fifty may be lost, unseen
    assert free_from(np.zeros((4, 61)))[0] == 0
    assert free_from(np.zeros((4, 29)))[1].says == "cannot be said"


def test_contribution_goes_with_reliance_over_families():
    assert in_proportion([-1, 0, 0.5, 1], [-0.9, 0.1, 0.4, 1]).says == "holds"
    assert in_proportion([-1, 0, 0.5, 1], [1, 0, -0.5, -1]).says == "does not hold"
    assert in_proportion([-1, 0, 1], [-1, 0, 1]).says == "cannot be said"
    assert in_proportion([-1, 0, 1, np.nan], [-1, 0, 1, 1]).says == "cannot be said"
    assert in_proportion([1, 1, 1, 1], [1, 1, 1, 1]).says == "cannot be said"


def test_joint_verdicts():
    yes, no, open_ = Verdict("holds", "a"), Verdict("does not hold", "b"), Verdict("cannot be said", "c")
    assert [all_of([("x", one), ("y", other)]).says for one, other in ((yes, yes), (yes, no), (yes, open_))] == [
        "holds", "does not hold", "cannot be said",
    ]  # fmt: skip
    assert all_of([("x", open_), ("y", no)]) == Verdict("does not hold", "y: b")


def test_estimates_leave_out_what_is_not_known():
    found = Estimate.of(np.array([1.0, np.nan, 3.0]))
    assert (found.mean, found.n) == (2, 2)
    assert Estimate.of(np.array([np.nan])).n == 0


def test_summaries_name_families_and_layers():
    some = [("a", "holds", 3), ("b", "does not hold", None), ("c", "cannot be said", None)]
    said = [Statement(3, family, "discard audio", says, "", layer) for family, says, layer in some]
    (found,) = summaries(said)
    assert found.says == "holds in part"
    assert found.text == "Holds for 1: a (from layer 3). Does not hold for 1: b. Cannot be said for 1: c"
    assert summaries(said[:1])[0].says == "holds"
    assert summaries([replace(said[0], layer=0)])[0].text == "Holds for 1: a (from the start)"
    assert summaries(said[1:])[0].says == "does not hold"
    assert summaries(said[2:])[0].says == "cannot be said"


def test_of_two_ways_that_are_each_enough_no_cut_says_which_is_taken():
    yes, no, open_ = Verdict("holds", "a"), Verdict("does not hold", "b"), Verdict("cannot be said", "c")
    for verdict in (yes, no, open_):
        assert unless_either(verdict, [("x", yes), ("y", yes)]).says == "cannot be said"
        for other in (no, open_):
            assert unless_either(verdict, [("x", yes), ("y", other)]) == verdict


# --- routes of several items, and of one clip -------------------------------------------------------------------------

READ = ("media → question", "media → prompt end", "media → last", "question → last", "prompt end → last")


def routed(family, *needed, undecided=(), whole=True):
    """A family of which nothing is known but the verdicts on its routes, by their names for one clip."""
    says = {name: "holds" if name in needed else "cannot be said" if name in undecided else "does not hold"
            for name in READ}  # fmt: skip
    guesses = Verdict("cannot be said", "it guesses")
    return SimpleNamespace(family=family, whole=whole or None, says=says, answered=guesses)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "items, clip, verdict",
    [
        (routed("shown in item", READ[0]), routed("visual", READ[2]),
         Verdict("holds", "needed of one only: media → question, media → last")),
        (routed("shown in item", READ[0], undecided=READ[4:]), routed("visual", READ[2]),
         Verdict("holds", "needed of one only: media → question, media → last")),
        (routed("shown in item", *READ[:2]), routed("visual", READ[0], undecided=READ[1:2]),
         Verdict("cannot be said", "undecided: media → prompt end")),
        (routed("shown in item", READ[2], READ[3]), routed("visual", READ[2], READ[3]),
         Verdict("does not hold", "the same routes as 'visual': media → last, question → last")),
        (routed("shown in item", whole=False), routed("visual"), Verdict("cannot be said", "it guesses")),
        (routed("shown in item"), None, Verdict("cannot be said", "needs the family 'visual', answered")),
        (routed("shown in item"), routed("visual", whole=False),
         Verdict("cannot be said", "needs the family 'visual', answered")),
        (routed("which item shows"), None, Verdict("cannot be said", "no family asks it of one clip")),
    ],
    ids=["another", "another, some undecided", "undecided", "the same", "items not answered", "clip not asked",
         "clip not answered", "no such clip"],
)  # fmt: skip
def test_routing_shifts_where_another_route_is_needed(items, clip, verdict, monkeypatch):
    def route(family, name):
        return Verdict(family.says[name.replace("queried item", "media")], "")

    monkeypatch.setattr(findings, "route", route)
    assert shifts(items, clip) == verdict


def test_no_verdict_on_a_modality_from_too_few_samples():
    assert used(np.ones(29), by_the_task=True).says == "cannot be said"


@pytest.mark.usefixtures("as_a_user")
def test_of_a_modality_that_no_sample_has_nothing_is_said():
    family = SimpleNamespace(answered=Verdict("holds", ""), contribution=SimpleNamespace(conditions=("video cut",)))
    assert contributes(family, "audio") == Verdict("cannot be said", "no sample has any audio")
