"""The study: its prompts are those of an evaluation, its statements come from the results, its page stands alone."""

import json
import re
from functools import partial
from html import unescape

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from support.browser import n_pixels, screenshot

import hooked_av as av
from hooked_av.cli import main as cli
from hooked_av.errors import DatasetError, InputsError, InterventionError
from hooked_av.plots.study import plot_discards, plot_layers, plot_pathways, plot_reliance, plot_routes
from hooked_av.study import measures, page, rules, run
from hooked_av.study.findings import EVERY
from hooked_av.study.findings import SEQUENTIAL as SEQUENTIAL_CLAIM
from hooked_av.study.measures import CLIP_ROUTES, DIRECT, ITEM_ROUTES, RESULTS, SEQUENTIAL, FamilyResults
from hooked_av.study.page import render_study, write_study
from hooked_av.study.rules import free_from, needed, negated
from hooked_av.tiny.cases import held_out_cases, queried_items
from hooked_av.tiny.evaluation import make_exam, take
from hooked_av.tiny.held_out import read_held_out
from hooked_av.tiny.questions import FAMILIES, NAMES, NUMBERS

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = av.HookedAVTransformer.from_pretrained("tiny-av")
ITEM_FAMILIES = [name for name, family in FAMILIES.items() if any("items" in kind for kind in family.scenes)]
ASKED = ("auditory", "spoken in item")


# --- prompts ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(
    "family, options", [("arithmetic", False), ("shown in item", False), ("counting, shown", False), ("visual", True)]
)
def test_prompts_give_exactly_the_accuracy_of_the_evaluation(family, options):
    exam = make_exam(family, 16, options)
    cases = held_out_cases(MODEL, family, 16, options=options)
    asked = [question for questions in exam.questions for question in questions]
    assert [case.answer for case in cases] == [question.target for question in asked]
    said = [MODEL.to_string(int(MODEL(case.inputs, logits_at="last")[0, -1].argmax())) for case in cases]
    right = np.mean([answer == case.answer for answer, case in zip(said, cases, strict=True)])
    assert right == take(MODEL, exam, read_held_out())


@pytest.mark.parametrize("family, options", [("binding, shown", False), ("which item shows", True)])
def test_the_parts_of_a_prompt_are_the_whole_of_it(family, options):
    for case in held_out_cases(MODEL, family, 6, options=options):
        spans = case.inputs.spans
        parts = [spans[name].positions for name in ("prompt_begin", "media", "asked", "prompt_end", "last")]
        np.testing.assert_array_equal(np.concatenate(parts), np.arange(case.inputs.n_pos))
        media = set(spans.resolve("|".join(n for n in ("audio", "video", "image") if n in spans)))
        assert media <= set(spans["media"])
        assert not set(spans["question"]) - set(spans["asked"])
        assert ("options" in spans) == options
        assert not options or set(spans["options"]) <= set(spans["asked"])
        texts = "".join(MODEL.to_string(int(case.inputs.input_ids[0, at])) for at in spans["prompt_end"])
        assert texts.strip().endswith("assistant")


@pytest.mark.parametrize("family", ITEM_FAMILIES)
def test_the_queried_items_are_those_that_hold_the_answer(family):
    exam = make_exam(family, 40)
    stream = "spoken" if FAMILIES[family].needs == ("audio",) else "shown"
    for scene, questions in zip(exam.scenes, exam.questions, strict=True):
        for question in questions:
            found = queried_items(question.text, question.answer)
            digits = [getattr(scene.items[at], stream)[0] for at in found]
            words = question.text.rstrip("?").split()
            if "same" in family:
                assert len(set(found)) == 2
                assert (digits[0] == digits[1]) == (question.answer == "yes")
            elif family.startswith("which"):
                assert [NUMBERS[found[0] + 1], NAMES[digits[0]] in words] == [question.answer, True]
            else:
                assert [NAMES[digits[0]]] == [question.answer]


def test_queried_and_other_items_are_all_items():
    for case in held_out_cases(MODEL, "items speak the same", 6):
        spans = case.inputs.spans
        items = {n: set(spans[n]) for n in spans if re.fullmatch(r"item\d", n)}
        queried, others = set(spans["queried_item"]), set(spans["other_items"])
        assert queried | others == set().union(*items.values())
        assert not queried & others
        assert all(positions <= queried or positions <= others for positions in items.values())


def test_other_drawings_and_unknown_families():
    one, other = (held_out_cases(MODEL, "visual", 4, seed=seed) for seed in (1, 2))
    assert [case.answer for case in one] != [case.answer for case in other]
    with pytest.raises(InputsError, match=r"(?s)no such family.*nearest: visual"):
        held_out_cases(MODEL, "visul", 4)


# --- a small run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few():
    """Four questions say nothing by the rules; here they may, so that everything is measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "MIN_RIGHT", 3)
        patch.setattr(measures, "discard_curve", partial(av.discard_curve, repeats=1))  # nothing here is about time
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study") / "out"


@pytest.fixture(scope="module")
def study(few, folder):
    return av.run_study(MODEL, ASKED, samples=4, out=folder)


def test_everything_is_measured_with_controls(study):
    clip, items = study.results
    assert [family.answered.says for family in study.results] == ["holds", "holds"]
    assert clip.whole.pathways == tuple(route.name for route in CLIP_ROUTES)
    assert items.whole.pathways == tuple(route.name for route in ITEM_ROUTES)
    for family in study.results:
        n_right = int(family.contribution.is_right(family.contribution.answer_ids).sum())
        for flow in (family.flow, family.whole):
            assert flow.control_p_answer.shape == (n_right, 1, *flow.p_answer.shape[1:])
            assert flow.skipped == ()
        assert family.flow.window == 1
        assert family.whole.windows.tolist() == [[0, MODEL.cfg.n_layers - 1]]
        assert family.sequential.edges != family.direct.edges
        assert len(family.sequential.control_p_answer) == n_right
        assert len(family.discards.ids) == len(family.contribution.ids) >= 4
        assert {"silence", "audio cut"} <= set(family.contribution.conditions)


@torch.no_grad()
def test_routes_and_pathways_equal_cuts_made_directly(study):
    clip = study.results[0]
    cases = held_out_cases(MODEL, "auditory", 4)
    number = next(n for n, case in enumerate(cases) if case.id == clip.whole.ids[0])
    inputs = cases[number].inputs
    cut = MODEL(inputs, interventions="media->last", logits_at="last")[0, -1].softmax(-1)
    row = clip.whole.pathways.index("media → last")
    assert clip.whole.p_answer[0, row, 0] == pytest.approx(float(cut[clip.whole.answer_ids[0]]), rel=1e-3, abs=1e-6)
    for kept, closed in ((clip.sequential, "media->prompt_end|last"), (clip.direct, "media->asked")):
        same = MODEL(inputs, interventions=closed, logits_at="last")[0, -1]
        assert kept.best_ids[0] == same.argmax()
        p = float(same.softmax(-1)[kept.answer_ids[0]])
        assert kept.p_answer[0] == pytest.approx(p, rel=1e-3, abs=1e-6)
    assert set(SEQUENTIAL) ^ set(DIRECT) == {"media->asked", "media->prompt_end|last"}


def test_statements_come_from_the_results(study):
    said = {(one.family, one.claim): one for one in study.statements}
    assert len(said) == len(study.statements)
    clip = study.results[0]
    row = clip.whole.pathways.index("media → prompt end or last")
    verdict = negated(needed(clip.whole.changes[:, row, 0], clip.whole.control_changes[:, 0, row, 0]))
    one = said["auditory", "media → prompt end or last is not needed"]
    assert (one.says, one.why) == (verdict.says, verdict.why)
    assert said[EVERY, "families and scales"].says == "cannot be said"
    assert said["spoken in item", "parallel streams"].finding == 2
    assert said["spoken in item", "discard other items"].finding == 3
    layer, verdict = free_from(clip.discards.correct[0] - clip.discards.clean_correct)
    assert (said["auditory", "discard audio"].layer, said["auditory", "discard audio"].says) == (layer, verdict.says)


def test_of_a_model_that_guesses_nothing_is_said(few, tmp_path):
    found = av.run_study(av.random_omni(n_layers=2), ["auditory"], samples=4, out=tmp_path)
    assert {one.says for one in found.statements} == {"cannot be said"}
    assert found.results[0].flow is None
    text = render_study(found)
    assert "not asked: it answers" in text
    assert "<img" not in text


def test_results_are_kept_and_not_measured_again(study, folder, monkeypatch):
    monkeypatch.setattr(run, "measure", None)  # would raise
    again = av.run_study(MODEL, ASKED, samples=4, out=folder)
    assert again.statements == study.statements
    loaded = FamilyResults.load(folder / "results" / "spoken-in-item")
    for name in RESULTS:
        pd.testing.assert_frame_equal(getattr(loaded, name).to_frame(), getattr(study.results[1], name).to_frame())
    kept = json.loads((folder / "statements.json").read_text(encoding="utf-8"))
    assert len(kept["statements"]) == len(study.statements)
    routes = pd.read_parquet(folder / "tables" / "routes.parquet")
    assert set(routes.family) == set(ASKED)
    with pytest.raises(TypeError):
        av.run_study(MODEL, ["visual"], samples=4, out=folder)  # a new family is measured
    assert not list((folder / "results").glob(".*"))


@pytest.mark.parametrize("other", [{"samples": 7}, {"window": 3}, {"seed": 1}])
def test_other_settings_are_refused(study, folder, other):
    with pytest.raises(DatasetError, match=f"(?s)begun with other settings.*{next(iter(other))}"):
        av.run_study(MODEL, ASKED, out=folder, **{"samples": 4, **other})


def test_what_cannot_be_asked_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(InputsError, match=r"(?s)no such family.*nearest: auditory"):
        av.run_study(MODEL, ["auditry"], out=tmp_path / "new")
    with pytest.raises(InterventionError, match="no such window"):
        av.run_study(MODEL, ["auditory"], window=99, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


# --- figures and page ------------------------------------------------------------------------------------------------


def texts_of(figure):
    return " ".join(text.get_text() for axes in figure.axes for text in (*axes.texts, *axes.get_yticklabels()))


def test_figures_draw_the_tables(study):
    tables = study.tables
    routes = tables["routes"][tables["routes"].family == "auditory"]
    (axes,) = plot_routes(routes).axes
    points: list = axes.containers
    drawn = np.concatenate([bars.lines[0].get_xdata() for bars in points]).astype(float)
    np.testing.assert_allclose(np.sort(drawn), np.sort([*routes.change_percent, *routes.control_percent]))
    layers = tables["layers"][tables["layers"].family == "auditory"]
    (axes,) = plot_layers(layers).axes
    wanted, cells = layers.beyond_random.to_numpy(), axes.collections[0].get_array()
    assert cells is not None
    np.testing.assert_allclose(np.sort(np.ravel(cells)), np.sort(wanted))
    assert len(axes.texts) == (np.abs(wanted) >= 10).sum()
    assert "prompt end → last" in texts_of(axes.figure)
    assert [label.get_text() for label in plot_pathways(tables["pathways"]).axes[0].get_yticklabels()] == [*ASKED]
    assert "spoken in item" in texts_of(plot_reliance(tables["reliance"]))
    discards = tables["discards"][tables["discards"].family == "auditory"]
    (axes,) = plot_discards(discards).axes
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    audio = discards[discards.tokens == "audio"]
    np.testing.assert_allclose(lines["without audio"], 100 * audio.accuracy)


@pytest.fixture(scope="module")
def page_path(study, folder):
    return write_study(study, folder)


def test_the_page_stands_alone_and_says_what_made_it(study, page_path):
    text = unescape(page_path.read_text(encoding="utf-8"))
    sources = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', text)
    assert sources
    assert all(source.startswith(("data:image/svg+xml;base64,", "#")) for source in sources)
    assert not re.search(r"<script|<link|<iframe|@import|url\(|\son\w+=", text)
    facts = re.search(r'<dl class="facts" id="facts">(.*?)</dl>', text, flags=re.DOTALL)[1]  # pyright: ignore
    assert len(facts.strip().splitlines()) <= 15
    for word in ("tiny-av", MODEL.fingerprint(), "at least 4", "1 layer", "random cut", f"hooked_av {av.__version__}"):
        assert word in facts
    for one in study.statements:
        assert one.claim in text
    shown = re.findall(r'class="chip \w+">\S (holds in part|holds|does not hold|cannot be said)</span>', text)
    n_conclusions = len(study.summaries)
    assert shown[:n_conclusions] == [one.says for one in study.summaries]
    assert shown[-len(study.statements) :] == [one.says for one in study.statements]


@pytest.mark.browser
def test_the_page_renders_without_a_network(page_path, tmp_path):
    pixels = screenshot(page_path, tmp_path, 4000)
    assert pixels.shape == (4000, 1200, 3)

    assert n_pixels(pixels, (213, 94, 0)) > 100  # routes that are needed
    assert n_pixels(pixels, (230, 159, 0)) > 200  # curves of the sound
    assert (pixels.min(axis=-1) < 120).any(axis=1)[:3000].mean() > 0.3  # text and figures down the page


def test_the_command(few, study, folder, monkeypatch):
    monkeypatch.setattr(run, "measure", None)
    monkeypatch.setattr(page, "render_study", lambda found: f"{len(found.statements)} statements")
    arguments = ["study", "--samples", "4", "--families", "auditory", "--families", "spoken in item"]
    done = CliRunner().invoke(cli.main, [*arguments, "--out", str(folder)])
    assert done.exit_code == 0, done.output
    assert "1. media → question → last:" in done.output
    assert f"Report: {folder / 'report.html'}" in done.output
    assert (folder / "report.html").read_text(encoding="utf-8") == f"{len(study.statements)} statements"
    wrong = CliRunner().invoke(cli.main, ["study", "--families", "smells", "--out", str(folder)])
    assert wrong.exit_code == 1
    assert "no such family of questions" in wrong.output


def test_panels_that_no_family_fills_are_not_drawn(study):
    table = study.tables["layers"]
    many = pd.concat([table[table.family == "auditory"].assign(family=f"family {n}") for n in range(5)])
    assert len(plot_layers(many).axes) == len(plot_layers(table[table.family == "auditory"]).axes) + 4
    reliance = study.tables["reliance"]
    lost = reliance.assign(contribution=reliance.contribution.where(reliance.family != "auditory"))
    assert "auditory" not in texts_of(plot_reliance(lost))
    assert "spoken in item" in texts_of(plot_reliance(lost))


# --- known ground ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "family", "says"),
    [
        ("tiny-av", "visual", ["does not hold", "does not hold", "holds"]),
        ("tiny-av", "visual, options", ["holds", "holds", "does not hold"]),
        ("tiny-av-redundant", "visual", ["cannot be said", "holds", "holds"]),
    ],
)
def test_the_rules_say_what_is_known_of_a_route(model, family, says, tmp_path):
    """docs/study.md has the table; routes are known by what nothing can get around (docs/routes.md)."""
    study = av.run_study(av.HookedAVTransformer.from_pretrained(model), [family], samples=64, out=tmp_path)
    said = {one.claim: one.says for one in study.statements if one.family == family}
    claims = [SEQUENTIAL_CLAIM, "the sequential route alone is enough", "the direct route alone is enough"]
    assert [said[claim] for claim in claims] == says
