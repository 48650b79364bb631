"""Information flow and effective pathways: equal to cuts made by hand, with their controls, over samples."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from support import every_result

import hooked_av as av
from hooked_av.analyses.bootstrap import bootstrap_interval
from hooked_av.analyses.flow.answers import log_probabilities
from hooked_av.analyses.flow.effective_pathway import share_left
from hooked_av.analyses.flow.pathways import as_pathways, default_pathways, with_answer_spans
from hooked_av.errors import ArgumentError, HookedAVWarning, InputsError, InterventionError, SpanError
from hooked_av.tiny.samples import read_samples

pytestmark = pytest.mark.usefixtures("one_thread")
MODEL = av.HookedAVTransformer.from_pretrained("tiny-av")
SAMPLES = read_samples()
N_LAYERS = MODEL.cfg.n_layers


def case(number, **more):
    sample = SAMPLES[number]
    inputs = MODEL.prepare(sample.clip, question=sample.question)
    alternative = "six" if sample.answer != "six" else "one"
    return av.Case(inputs, sample.answer, alternative, id=f"film {number}", **more)


CASES = [case(0), case(1), case(3)]
ONE = CASES[1]
PAIRS = [("audio", "question"), ("av", "last"), ("question", "last")]


@pytest.fixture(scope="module")
def flow():
    return av.information_flow(MODEL, iter(CASES), pathways=PAIRS, window=3, controls=av.Controls(2, "rows"))


def by_hand(inputs, cuts):
    """Logits at the last position; `cuts`: (layers, keys, queries), scores set to minus infinity by hooks."""
    block = lambda scores, hook: torch.full_like(scores, -torch.inf)  # noqa: E731
    hooks = [(f"blocks.{i}.attn.hook_attn_scores@{q}<-{k}", block) for layers, k, q in cuts for i in layers]
    with torch.no_grad():
        return MODEL.run_with_hooks(inputs, fwd_hooks=hooks)[0, -1].double()


def test_the_map_equals_cuts_made_by_hand(flow):
    for number, one in enumerate(CASES):
        clean = by_hand(one.inputs, [])
        answer, gold, wrong = int(clean.argmax()), *map(MODEL.to_single_token, (one.answer, one.alternative))
        assert flow.answer_ids[number] == answer
        assert flow.p_gold_base[number] == pytest.approx(float(clean.softmax(-1)[gold]), rel=1e-4)
        for row, (keys, queries) in enumerate(PAIRS):
            for layer in (0, 3, N_LAYERS - 1):
                layers = [near for near in range(N_LAYERS) if abs(near - layer) <= 1]
                cut = by_hand(one.inputs, [(layers, keys, queries)])
                p, p_base = cut.softmax(-1), clean.softmax(-1)
                cell = (number, row, layer)
                assert flow.p_answer[cell] == pytest.approx(float(p[answer]), rel=1e-3, abs=1e-6)
                assert flow.p_gold[cell] == pytest.approx(float(p[gold]), rel=1e-3, abs=1e-6)
                assert flow.logit_difference[cell] == pytest.approx(float(cut[gold] - cut[wrong]), abs=1e-3)
                assert flow.best_ids[cell] == cut.argmax()
                change = float(100 * (p[answer] - p_base[answer]) / p_base[answer])
                assert flow.changes[cell] == pytest.approx(change, abs=2e-2)
    assert np.abs(flow.change_percent).max() > 1  # there is something to compare


@pytest.mark.filterwarnings("ignore:.*query rows have no key left:hooked_av.errors.HookedAVWarning")
@pytest.mark.parametrize("spread", ["entries", "rows"])
def test_every_cut_has_its_random_control(spread):
    drawn, routes = av.Controls(2, spread, seed=5), ["av->last", "audio->question"]
    found = av.information_flow(MODEL, ONE, pathways=routes, window=1, controls=drawn)
    for cell in [(draw, row, layer) for draw in range(2) for row in range(2) for layer in (0, 5, 7)]:
        draw, row, layer = cell
        spec = drawn.of([av.block_attention(f"{routes[row]}@{layer}")], ONE.id, draw)
        assert spec.spread == spread
        with torch.no_grad():
            p = MODEL(ONE.inputs, interventions=spec)[0, -1].softmax(-1)
        assert found.control_p_answer[0][cell] == pytest.approx(float(p[found.answer_ids[0]]), rel=1e-3, abs=1e-6)
    assert found.control_p_answer.shape == (1, 2, 2, N_LAYERS)
    low, high = found.control_interval
    assert (low <= found.control_percent).all()
    assert (found.control_percent <= high).all()


def test_random_cuts_that_empty_a_row_are_no_news_but_cuts_are():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        av.information_flow(MODEL, ONE, pathways="av->av", window=1, controls=1)  # draws that empty the first rows
    with pytest.warns(HookedAVWarning, match="no key left"):
        av.information_flow(MODEL, ONE, pathways="text|av|boundary->last", window=1, controls=0)


def test_draws_and_samples_differ():
    like = [av.block_attention("audio->question@1")]
    seeds = {av.Controls(seed=s).of(like, sample, draw).seed for s in (0, 1) for sample in "ab" for draw in (0, 1)}
    assert len(seeds) == 8


def test_cuts_that_cannot_matter_change_exactly_nothing():
    found = av.information_flow(MODEL, ONE, pathways=["av->question"], window=1, controls=0)
    assert (found.changes[:, 0, -1] == 0).all()  # what the question reads in the last layer goes nowhere
    assert (found.changes[:, 0, :-1] != 0).any()


def test_a_pathway_that_can_carry_nothing_is_refused_with_the_sample():
    with pytest.raises(InterventionError, match=r"'question → av' can carry nothing in sample(.|\n)*av->question"):
        av.information_flow(MODEL, ONE, pathways=["av->question", "question->av"])


def test_means_and_intervals_are_over_samples(flow):
    np.testing.assert_array_equal(flow.change_percent, flow.changes.mean(axis=0))
    np.testing.assert_array_equal(flow.interval, bootstrap_interval(flow.changes))
    np.testing.assert_allclose(flow.control_percent, flow.control_changes.mean(axis=(0, 1)))
    np.testing.assert_array_equal(flow.control_interval, bootstrap_interval(flow.control_changes.mean(axis=1)))
    base = (flow.p_answer - flow.p_answer_base[:, None, None]) / flow.p_answer_base[:, None, None]
    np.testing.assert_allclose(flow.changes, 100 * base)
    np.testing.assert_array_equal(flow.flips, (flow.best_ids != flow.answer_ids[:, None, None]).mean(axis=0))
    np.testing.assert_array_equal(flow.accuracy, (flow.best_ids == flow.gold_ids[:, None, None]).mean(axis=0))
    gold = replace(flow, follow="gold")
    np.testing.assert_allclose(gold.changes, 100 * (flow.p_gold / flow.p_gold_base[:, None, None] - 1), atol=1e-9)


def test_what_is_not_known_is_nan():
    found = av.information_flow(MODEL, ONE.inputs, pathways="audio->question", controls=0)
    for unknown in (found.p_gold, found.accuracy, found.control_percent, found.interval):
        assert np.isnan(unknown).all()
    assert found.gold_ids.tolist() == [-1]
    assert found.golds == ("",)


@pytest.mark.parametrize("spread_over", ["flow", "edges", "conditions"])
def test_one_run_is_read_in_every_metric(flow, spread_over):
    found = {
        "flow": lambda: flow,
        "edges": lambda: av.effective_pathway(MODEL, CASES[:2], EDGES, controls=1),
        "conditions": lambda: av.modality_contribution(MODEL, CASES[:2]),
    }[spread_over]()
    for follow in ("answer", "gold"):
        p, base = getattr(found, f"p_{follow}"), getattr(found, f"p_{follow}_base")
        by = {metric: found.with_metric(metric, follow) for metric in ("probability", "log_prob", "logit_difference")}
        np.testing.assert_array_equal(by["probability"].metric_changed, p)
        np.testing.assert_allclose(by["log_prob"].metric_base, np.log(base), atol=1e-12)
        np.testing.assert_array_equal(by["logit_difference"].metric_changed, found.logit_difference)
        np.testing.assert_array_equal(by["logit_difference"].control_metric, found.control_logit_difference)
        for metric, one in by.items():
            assert (one.settings["metric"], one.settings["follow"], one.to_frame()["metric"][0]) == (
                metric, follow, metric,
            )  # fmt: skip
            one.plot()


def test_a_metric_asked_for_is_the_one_that_is_read_later():
    asked = av.information_flow(MODEL, ONE, pathways="audio->question", window=3, controls=1, metric="log_prob")
    later = av.information_flow(MODEL, ONE, pathways="audio->question", window=3, controls=1).with_metric("log_prob")
    assert asked.to_frame().equals(later.to_frame())
    read = av.analyses.InformationFlow.from_frame(asked.to_frame(), metric="logit_difference")
    np.testing.assert_array_equal(read.changes, asked.with_metric("logit_difference").changes)
    swept = av.route_sweep(MODEL, ONE, ["audio->question@2-4"], metric="logit_difference")
    assert swept.change[0] == pytest.approx(asked.logit_difference_change[0, 3], abs=1e-5)
    assert swept.alternative == ONE.alternative


def test_a_saturated_answer_still_moves_in_logits_and_the_figure_says_where_to_look(flow):
    tight = replace(
        flow.with_metric("probability"),
        log_p_answer_base=np.full(3, -1e-9), log_p_answer=np.full_like(flow.log_p_answer, -1e-8),
        log_p_alternative_base=np.full(3, -20.0), log_p_alternative=np.full_like(flow.log_p_answer, -10.0),
    )  # fmt: skip
    assert np.abs(tight.change).max() < 1e-5
    assert (
        "p is near 1 (clean p > 0.99 in 3 of 3 samples): see metric='logit_difference'" in tight.plot().get_suptitle()
    )
    other = tight.with_metric("logit_difference")
    np.testing.assert_allclose(other.change, -10)
    assert "p is near 1" not in other.plot().get_suptitle()
    assert " ".join(other.plot().get_supylabel().split()) == "change of the logit difference"


def test_log_probabilities_are_exact_where_p_rounds_to_one():
    logits = torch.tensor([[30.0, 0.0, -1.0], [-2.0, 3.0, 3.0]])
    wanted = logits.double().log_softmax(dim=-1).numpy()
    wanted[0, 0] = -np.log1p(np.exp(-30.0) + np.exp(-31.0))
    np.testing.assert_allclose(log_probabilities(logits, [0, 1, 2]), wanted, rtol=1e-6)


def test_the_old_spelling_says_its_new_name(flow):
    with pytest.warns(DeprecationWarning, match=r"from_frame\(metric=...\) is now from_frame\(follow=...\)"):
        again = av.analyses.InformationFlow.from_frame(flow.to_frame(), metric="gold")
    assert (again.follow, again.metric) == ("gold", "probability")


def test_an_answer_has_no_logit_difference_to_itself():
    odd = replace(ONE, answer=None, alternative=ONE.answer, id="odd")
    for run in (
        lambda: av.information_flow(MODEL, odd, pathways="audio->last", controls=0, metric="logit_difference"),
        lambda: av.modality_contribution(MODEL, odd, metric="logit_difference"),
        lambda: av.effective_pathway(MODEL, odd, EDGES, metric="logit_difference"),
        lambda: av.route_sweep(MODEL, odd, "audio->last", metric="logit_difference"),
    ):
        with pytest.raises(InputsError, match="logit difference of sample 'odd' is always zero"):
            run()
    found = av.information_flow(MODEL, odd, pathways="audio->last", controls=0)
    assert np.isnan(found.logit_difference).all()


def test_wrongly_answered_samples_are_left_out_and_named():
    wrong = replace(ONE, answer="nine", id="wrong")
    some = av.information_flow(MODEL, [CASES[0], wrong], pathways="audio->last", controls=0)
    assert (some.ids, some.skipped, some.settings["n_skipped"]) == ((CASES[0].id,), ("wrong",), 1)
    everyone = av.information_flow(MODEL, wrong, pathways="audio->last", controls=0, only_correct=False)
    assert everyone.accuracy.max() == 0
    assert everyone.settings["only_correct"] is False
    with pytest.raises(InputsError, match="no sample is left"):
        av.information_flow(MODEL, wrong, pathways="audio->last", controls=0)


def test_tables_and_files(flow, tmp_path):
    frame, summary = flow.to_frame(), flow.summary()
    assert len(frame) == flow.p_answer.size
    assert len(summary) == flow.change_percent.size
    row = frame[(frame.id == CASES[2].id) & (frame.pathway == "av → last") & (frame.layer == 4)].iloc[0]
    assert (row.first_cut, row.last_cut, row.p_answer) == (3, 5, flow.p_answer[2, 1, 4])
    assert (row.answer, row.gold) == (MODEL.to_string(int(flow.answer_ids[2])), CASES[2].answer)
    assert row.best_token == MODEL.to_string(int(flow.best_ids[2, 1, 4]))
    assert row.control_percent == flow.control_changes[2, :, 1, 4].mean()
    cell = summary[(summary.pathway == "av → last") & (summary.layer == 4)].iloc[0]
    assert (cell.low, cell.high) == tuple(flow.interval[:, 1, 4])
    assert cell.control_percent == flow.control_percent[1, 4]
    again = av.analyses.InformationFlow.load(flow.save(tmp_path / "flow.safetensors"))
    assert again.to_frame().equals(frame)
    assert again.settings["controls"] == {"draws": 2, "spread": "rows", "seed": 0}
    assert again.settings["window"] == 3


def test_tables_of_samples_made_one_by_one_are_one_result(flow):
    how = {"pathways": PAIRS, "window": 3, "controls": av.Controls(2, "rows")}
    frames = [av.information_flow(MODEL, one, **how).to_frame() for one in CASES]
    joint = av.analyses.InformationFlow.from_frame(pd.concat(frames))
    assert joint.to_frame().equals(flow.to_frame())
    assert joint.token_texts == flow.token_texts
    assert (joint.window, joint.pathways, joint.settings["n_samples"]) == (3, flow.pathways, len(CASES))
    np.testing.assert_array_equal(joint.control_interval, flow.control_interval)
    shuffled = pd.concat(frames).sample(frac=1, random_state=0)
    mixed = av.analyses.InformationFlow.from_frame(shuffled)
    at = [mixed.ids.index(name) for name in flow.ids]
    rows = [mixed.pathways.index(name) for name in flow.pathways]
    np.testing.assert_array_equal(mixed.changes[at][:, rows], flow.changes)
    np.testing.assert_array_equal(mixed.windows, flow.windows)


def test_tables_that_do_not_fit_are_refused(flow):
    table = flow.to_frame()
    for odd, said in [
        (table.iloc[1:], "film 0"),
        (pd.concat([table, table]), "film 0, film 1, film 3"),
        (table.drop(columns=["log_p_gold"]), "no columns log_p_gold"),
        (table.iloc[:0], "no row"),
        (table[table.layer != 3].assign(layer=lambda t: t.layer.where(t.id != "film 1", t.layer + 10)), "layers"),
    ]:
        with pytest.raises(InputsError, match=rf"(?s)no table of information flow.*{said}"):
            av.analyses.InformationFlow.from_frame(odd)
    with pytest.raises(InputsError, match=r"sample 'film 1' has other pathways(.|\n)*av → last"):
        av.analyses.InformationFlow.from_frame(table[(table.id != "film 1") | (table.pathway != "av → last")])


@pytest.mark.usefixtures("as_a_user")
def test_a_table_is_not_read_for_an_unknown_metric(flow):
    with pytest.raises(ArgumentError, match="'logit_difference' or 'log_prob' or 'probability'"):
        av.analyses.InformationFlow.from_frame(flow.to_frame(), metric="best")


# --- pathways -------------------------------------------------------------------------------------------------------


def test_default_pathways_of_one_clip():
    assert [pathway.name for pathway in default_pathways(with_answer_spans(ONE).inputs)] == [
        "audio → question", "video → question", "av → question", "audio → last", "video → last", "av → last",
        "audio → video", "video → audio", "question → last", "last → last", "cross-frame",
    ]  # fmt: skip
    silent = MODEL.prepare(SAMPLES[1].clip.without_audio(), question="Which digit is shown first?")
    names = [pathway.name for pathway in default_pathways(silent)]
    assert names == ["video → question", "video → last", "question → last", "last → last"]


def test_default_pathways_of_options_and_items():
    clips = [SAMPLES[0].clip, "and", SAMPLES[3].clip.without_video()]
    asked = MODEL.prepare(clips, question="Which item?", options=["one", "two", "three"])
    known = with_answer_spans(av.Case(asked, answer="B"))
    names = [pathway.name for pathway in default_pathways(known.inputs)]
    assert names == [
        "item0 → question", "item0.audio → question", "item0.video → question", "item1 → question", "item0 → last",
        "item1 → last", "item0 → item1", "question → last", "last → last", "question → true_option",
        "av → true_option", "true_option → last", "false_options → last",
    ]  # fmt: skip
    spans = known.inputs.spans
    assert spans["true_option"] == spans["option_b"]
    assert spans["false_options"] == spans["option_a"] | spans["option_c"]
    assert "options → last" in [pathway.name for pathway in default_pathways(asked)]


def test_the_queried_item_stands_beside_the_others():
    clips = [SAMPLES[0].clip, SAMPLES[3].clip, SAMPLES[9].clip.without_video()]
    inputs = MODEL.prepare(clips, question="Which digit is shown in clip two?")
    asked = with_answer_spans(av.Case(inputs, queried_item=1)).inputs
    assert asked.spans["queried_item"] == inputs.spans["item1"]
    assert asked.spans["other_items"] == inputs.spans["item0"] | inputs.spans["item2"]
    routes = [f"{item} → {reader}" for reader in ("question", "last") for item in ("queried_item", "other_items")]
    new = [p.name for p in default_pathways(asked) if p not in default_pathways(inputs)]
    assert new == routes
    one = av.Case(MODEL.prepare(clips[0], question="Which digit is shown?"), queried_item=0)
    assert "queried_item → last" not in [p.name for p in default_pathways(with_answer_spans(one).inputs)]
    with pytest.raises(InputsError, match=r"sample 'q' asks about an item that it has not(.|\n)*item0, item1, item2"):
        with_answer_spans(av.Case(inputs, id="q", queried_item=3))


def test_cross_frame_is_every_frame_reading_those_before_it():
    one = av.Case(MODEL.prepare(SAMPLES[9].clip, question=SAMPLES[9].question))
    inputs = with_answer_spans(one).inputs
    (cross,) = [pathway for pathway in default_pathways(inputs) if pathway.name == "cross-frame"]
    frames = [inputs.spans.frame(group) for group in range(3)]
    assert len(cross.pairs) == 2
    assert inputs.spans["video.frame2"] == frames[2]
    assert inputs.spans["video.before2"] == frames[0] | frames[1]
    found = av.information_flow(MODEL, one, pathways=[cross], window=1, controls=0)
    clean = by_hand(inputs, [])
    cut = by_hand(inputs, [([2], keys, queries) for keys, queries in cross.pairs])
    answer = clean.argmax()
    assert found.p_answer[0, 0, 2] == pytest.approx(float(cut.softmax(-1)[answer]), rel=1e-4)


@pytest.mark.parametrize("given", [[], "audio", "audio->last@2", [("audio",)], ["audio->last", ("audio", "last")], 3])
def test_what_is_no_pathway_is_refused(given):
    with pytest.raises(InterventionError, match="not a route"):
        as_pathways(given)


def test_samples_that_do_not_fit_are_named():
    text = av.Case(MODEL.prepare(question="Which digit?"), id="text only")
    with pytest.raises(SpanError, match="sample 'text only' has no pathway 'audio → last'"):
        av.information_flow(MODEL, [ONE, text], pathways="audio->last", controls=0)
    with pytest.raises(InputsError, match="sample 'text only' has other pathways than sample 'film 1'"):
        av.information_flow(MODEL, [ONE, text], controls=0)
    with pytest.raises(InputsError, match="no pathway that is known"):
        av.information_flow(MODEL, av.AVInputs.from_tokens(torch.arange(5)[None]))
    with pytest.raises(InputsError, match="nothing to measure of sample 'text only'"):
        av.information_flow(MODEL, text, follow="gold")
    with pytest.raises(InterventionError, match="no such window"):
        av.information_flow(MODEL, ONE, window=9)


@pytest.mark.parametrize("controls, error", [(-1, InputsError), (0.5, ArgumentError), (True, ArgumentError)])
@pytest.mark.usefixtures("as_a_user")
def test_controls_are_numbers_of_draws(controls, error):
    with pytest.raises(error, match=r"cannot make controls|does not take this `controls`(.|\n)*Controls or int"):
        av.information_flow(MODEL, ONE, controls=controls)


# --- effective pathway ----------------------------------------------------------------------------------------------

EDGES = ["text->text", "boundary->boundary", "av->av", "audio->last@4-7"]


def test_keeping_everything_is_the_clean_run():
    one = replace(ONE, inputs=ONE.inputs.with_span("everything", range(ONE.inputs.n_pos)))
    kept = av.effective_pathway(MODEL, one, "everything->everything", controls=1)
    assert kept.share.tolist() == [1]
    assert kept.p_answer[0] == pytest.approx(kept.p_answer_base[0], rel=1e-5)
    assert kept.control_p_answer[0, 0] == pytest.approx(kept.p_answer_base[0], rel=1e-5)
    assert kept.best_ids[0] == kept.answer_ids[0]


@pytest.mark.filterwarnings("ignore:.*query rows have no key left:hooked_av.errors.HookedAVWarning")
def test_kept_edges_are_those_of_a_full_pass_and_the_share_is_counted():
    kept = av.effective_pathway(MODEL, CASES[:2], EDGES, controls=2)
    for number, one in enumerate(CASES[:2]):
        with torch.no_grad():
            p = MODEL(one.inputs, interventions=av.keep_only(*EDGES))[0, -1].softmax(-1)
            random = av.Controls().of([av.keep_only(*EDGES)], one.id, 1)
            p_random = MODEL(one.inputs, interventions=random)[0, -1].softmax(-1)
        assert kept.p_answer[number] == pytest.approx(float(p[kept.answer_ids[number]]), rel=1e-3, abs=1e-6)
        assert kept.control_p_answer[number, 1] == pytest.approx(
            float(p_random[kept.answer_ids[number]]), rel=1e-3, abs=1e-6
        )
        spans, left = one.inputs.spans, 0
        for layer in range(N_LAYERS):
            routes = [("text", "text"), ("boundary", "boundary"), ("av", "av")] + [("audio", "last")] * (layer >= 4)
            pairs = {(q, k) for keys, queries in routes for q in spans[queries] for k in spans[keys] if k <= q}
            left += len(pairs)
        total = N_LAYERS * one.inputs.n_pos * (one.inputs.n_pos + 1) / 2
        assert kept.share[number] == pytest.approx(left / total, abs=1e-12)
        assert share_left(MODEL, one.inputs, av.keep_only(*EDGES)) == kept.share[number]


def test_summaries_of_kept_edges(tmp_path):
    kept = av.effective_pathway(MODEL, CASES, EDGES, controls=2)
    summary = kept.summary().set_index("run")
    assert summary.loc["clean", "probability"] == kept.p_answer_base.mean()
    assert summary.loc["these edges", "accuracy"] == (kept.best_ids == kept.gold_ids).mean()
    assert summary.loc["random edges", "probability"] == pytest.approx(kept.control_p_answer.mean())
    low, high = bootstrap_interval(kept.p_answer)
    assert summary.loc["these edges", ["probability_low", "probability_high"]].tolist() == [low, high]
    again = av.analyses.EffectivePathway.load(kept.save(tmp_path / "kept.safetensors"))
    assert again.to_frame().equals(kept.to_frame())
    assert "random edges" not in set(av.effective_pathway(MODEL, ONE, EDGES, controls=0).summary()["run"])


def test_the_window_of_all_layers_is_one_cut_of_everything():
    found = av.information_flow(MODEL, ONE, pathways=PAIRS, window="all", controls=av.Controls(1, "rows"))
    assert found.windows.tolist() == [[0, N_LAYERS - 1]]
    assert (found.window, found.settings["window"]) == (N_LAYERS, N_LAYERS)
    for row, (keys, queries) in enumerate(PAIRS):
        p = by_hand(ONE.inputs, [(range(N_LAYERS), keys, queries)]).softmax(-1)
        assert found.p_answer[0, row, 0] == pytest.approx(float(p[found.answer_ids[0]]), rel=1e-3, abs=1e-6)
    assert found.control_p_answer.shape == (1, 1, len(PAIRS), 1)


def test_an_effective_pathway_leaves_out_what_is_answered_wrongly():
    first, *_ = every_result.cases()
    wrong = replace(first, answer="zero" if first.answer != "zero" else "one", id="wrong")
    edges = ["user->user", "system->system", "system|user|assistant->assistant"]
    found = av.effective_pathway(every_result.model(), [first, wrong], edges, controls=0)
    assert (found.ids, found.skipped) == ((first.id,), ("wrong",))
