"""Discard curves: drops as real passes and as cuts, rules against their definition, costs against the formula."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

import hooked_av as av
from hooked_av.analyses.discard.discard import DiscardCurve, discard_curve
from hooked_av.analyses.discard.rules import dropped
from hooked_av.decoder.flops import count_macs, layer_macs
from hooked_av.generation.generate import Prefill
from hooked_av.tiny.samples import read_samples

pytestmark = pytest.mark.usefixtures("one_thread")
SPANS = ("audio", "video", "av", "system", "question")
LAYERS = (1, 4, 7)


@pytest.fixture(scope="module")
def model():
    return av.HookedAVTransformer.from_pretrained("tiny-av")


@pytest.fixture(scope="module")
def cases(model):
    chosen = read_samples()[:7:3]
    return [av.Case(model.prepare(s.clip, question=s.question), s.answer, id=s.question) for s in chosen]


@pytest.fixture(scope="module")
def curve(model, cases):
    return discard_curve(model, cases, SPANS, LAYERS, n_measured=2, repeats=2)


def probabilities(model, inputs, specs=()):
    with torch.no_grad():
        return model(inputs, interventions=specs, logits_at="last")[0, -1].double().softmax(-1).numpy()


def others(inputs, span):
    gone = set(inputs.spans.resolve(span))
    return inputs.with_span("others", [row for row in range(inputs.n_pos) if row not in gone])


# --- answers ---------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_real_drops_and_of_cuts(model, cases, curve):
    for sample, case in enumerate(cases):
        clean = probabilities(model, case.inputs)
        assert curve.clean_ids[sample] == clean.argmax()
        for i, span in enumerate(SPANS):
            inputs = others(case.inputs, span)
            for j, layer in enumerate(LAYERS):
                drop = probabilities(model, inputs, av.drop_tokens(span, layer))
                cut = probabilities(
                    model, inputs, av.block_attention(keys=span, queries="others", layers=range(layer, 8))
                )
                for wanted in (drop, cut):
                    assert curve.p_drop[i, j, sample] == pytest.approx(wanted[clean.argmax()], abs=1e-4)
                    assert curve.best_ids[i, j, sample] == wanted.argmax()
    assert curve.agrees.min() == 0  # something is lost
    assert curve.agrees.max() == 1  # and something is not


def test_accuracy_and_agreement_are_means_over_samples(model, cases, curve):
    answers = [model.to_single_token(case.answer) for case in cases]
    frame = curve.to_frame().set_index(["span", "layer"])
    for i, span in enumerate(SPANS):
        for j, layer in enumerate(LAYERS):
            row = frame.loc[(span, layer)]
            assert row.accuracy == pytest.approx(np.mean(curve.best_ids[i, j] == answers))
            assert row.agreement == pytest.approx(np.mean(curve.best_ids[i, j] == curve.clean_ids))
            assert row.accuracy_low <= row.accuracy <= row.accuracy_high
            clean = np.mean(curve.clean_ids == answers)
            assert row.accuracy_change == pytest.approx(row.accuracy - clean)


def test_without_answers_there_is_no_accuracy(model, cases):
    curve = discard_curve(model, [cases[0], cases[1].inputs], "video", [4], repeats=1)
    assert np.isnan(curve.correct[0, 0, 1])
    assert curve.to_frame().accuracy[0] == curve.correct[0, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of means over nothing
        discard_curve(model, [case.inputs for case in cases], "video", [4], repeats=1).to_frame()
    alone = discard_curve(model, cases[1].inputs, "video", [4], repeats=1)
    assert not alone.has_answers
    assert np.isnan(alone.to_frame().accuracy[0])
    assert np.isnan(alone.to_frame().agreement_low[0])  # one sample has no interval


# --- costs -----------------------------------------------------------------------------------------------------------


def test_arithmetic_is_the_formula_and_the_unembedding(model, cases, curve):
    unembed = model.cfg.d_model * model.cfg.d_vocab
    assert (curve.macs == curve.formula[..., :2] + unembed).all()
    assert (curve.clean_macs == curve.clean_formula[:2] + unembed).all()
    cfg, n_pos, n_audio = model.cfg, cases[0].inputs.n_pos, len(cases[0].inputs.spans["audio"])
    d, d_kv, d_mlp = cfg.d_model, cfg.n_key_value_heads * cfg.d_head, cfg.d_mlp

    def layer(s):
        return 2 * s * d * d + 2 * s * d * d_kv + 2 * s * s * d + 3 * s * d * d_mlp

    assert curve.formula[0, 1, 0] == 4 * layer(n_pos) + 4 * layer(n_pos - n_audio)
    assert layer(n_pos) == layer_macs(cfg, n_pos)


@pytest.mark.parametrize("kv", ["keep", "drop"])
def test_bytes_are_those_of_the_rows_that_stay(model, cases, kv):
    curve = discard_curve(model, cases[0], SPANS, LAYERS, kv=kv, repeats=1)
    inputs, cfg = cases[0].inputs, model.cfg
    row = 2 * cfg.n_key_value_heads * cfg.d_head * 4
    assert curve.clean_kv_bytes[0] == 8 * inputs.n_pos * row
    for i, span in enumerate(SPANS):
        for j, layer in enumerate(LAYERS):
            left = inputs.n_pos - len(inputs.spans[span])
            early = inputs.n_pos if kv == "keep" else left
            assert curve.kv_bytes[i, j, 0] == (layer * early + (8 - layer) * left) * row


def test_savings_are_shares_of_the_clean_prefill(curve):
    seconds = np.broadcast_to(np.array([1.0, 3.0]), curve.seconds.shape).copy()
    found = replace(curve, seconds=seconds, clean_seconds=np.full(curve.seconds.shape, 4.0)).saved_percent
    assert (found["time"] == 75).all()  # the faster of the two repeats
    measured = {"macs": (curve.macs, curve.clean_macs), "kv_bytes": (curve.kv_bytes, curve.clean_kv_bytes)}
    for name, (left, clean) in measured.items():
        wanted = 100 * (1 - np.mean([left[..., n] / clean[n] for n in range(2)], axis=0))
        assert np.allclose(found[name], wanted)
        assert (np.diff(found[name], axis=1) < 0).all()  # the later, the less
    assert np.abs(found["formula"] - found["macs"]).max() < 1


def test_every_timed_pass_is_a_prefill_next_to_a_clean_one(model, cases, monkeypatch):
    calls = []
    once = Prefill.__call__

    def noted(self):
        calls.append(bool(self.live.prefill.plan.leaving))
        return once(self)

    monkeypatch.setattr(Prefill, "__call__", noted)
    curve = discard_curve(model, cases, "audio", [3], repeats=3)
    assert calls == [False, True, False, True, True, False, False, True]  # counted, then three pairs in turns
    assert (curve.seconds > 0).all()
    assert (curve.clean_seconds > 0).all()
    assert curve.seconds.shape == (1, 1, 1, 3)


# --- parts of a span -------------------------------------------------------------------------------------------------


def test_rules_choose_what_they_say(model, cases):
    inputs = cases[0].inputs
    audio = inputs.spans["audio"].positions
    layer, n_kept = 3, round(0.3 * len(audio))  # a layer that still reads the sound
    curve = discard_curve(
        model, inputs, "audio", [layer], rules=["random", "uniform", "attention"], kept_share=0.3, repeats=1
    )
    assert curve.n_dropped.ravel().tolist() == [len(audio) - n_kept] * 3
    rng = np.random.default_rng([0, 0, 0])
    _, cache = model.run_with_cache(inputs, names_filter=f"blocks.{layer - 1}.attn.hook_pattern@last")
    read = next(iter(cache.values()))[0, :, 0].mean(dim=0).numpy()
    kept = {
        "random": rng.choice(audio, n_kept, replace=False),
        "uniform": audio[[int((n + 0.5) * len(audio) / n_kept) for n in range(n_kept)]],
        "attention": sorted(audio, key=lambda position: -read[position])[:n_kept],
    }
    for number, (rule, positions) in enumerate(kept.items()):
        given = inputs.with_span("gone", np.setdiff1d(audio, positions))
        wanted = probabilities(model, given, av.drop_tokens("gone", layer))
        assert curve.rules[number] == rule
        assert curve.p_drop[number, 0, 0] == pytest.approx(wanted[curve.clean_ids[0]], abs=1e-4)
    assert len({round(float(p), 6) for p in curve.p_drop.ravel()}) == 3


def test_random_drops_are_those_of_their_seed(model, cases):
    def drop(seed):
        return discard_curve(model, cases[:2], "audio", [1, 2], rules="random", seed=seed, repeats=1).p_drop

    assert np.array_equal(drop(1), drop(1))
    assert not np.array_equal(drop(1), drop(2))


def test_uniform_keeps_evenly_spaced_tokens():
    span, rng = np.arange(100, 160), np.random.default_rng(0)
    kept = np.setdiff1d(span, dropped("uniform", span, 0.25, rng, None))
    assert len(kept) == 15
    assert set(np.diff(kept)) == {4}


# --- generation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv", ["keep", "drop"])
def test_generation_after_a_drop(model, cases, kv):
    """The answer's rows read what the caches hold: as one pass over prompt and answer with the same keys cut."""
    inputs, layer = cases[0].inputs, 3
    spec = av.drop_tokens("audio", layer, kv)
    answer = model.generate(inputs, max_new_tokens=4, stop_tokens=(), interventions=spec, keep="logits")
    whole = inputs.with_generated([row[:-1] for row in answer.tokens])
    whole = others(whole, "audio")
    cuts = [av.block_attention(keys="audio", queries="others", layers=range(layer, 8))]
    if kv == "drop":
        cuts.append(av.block_attention(keys="audio", queries="generated", layers=range(layer)))
    with torch.no_grad():
        logits = model(whole, interventions=cuts)[0, inputs.n_pos - 1 :]
    assert torch.allclose(answer.logits[0], logits, atol=1e-3)
    first, past = Prefill(model, inputs, spec)()
    assert torch.allclose(first, answer.logits[:, 0], atol=1e-5)
    held = [len(past.layers[n].positions[0]) for n in (0, layer)]
    n_left = inputs.n_pos - len(inputs.spans["audio"])
    assert held == [inputs.n_pos if kv == "keep" else n_left, n_left]


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"spans": "adio"}, av.errors.SpanError, "no span 'adio'"),
        ({"spans": "last"}, av.errors.InterventionError, "last token cannot be dropped"),
        ({"spans": []}, av.errors.InterventionError, "nothing to drop"),
        ({"layers": [8]}, av.errors.InterventionError, "8"),
        ({"layers": []}, av.errors.InterventionError, "nothing to drop"),
        ({"rules": "attention", "layers": [0, 1]}, av.errors.InterventionError, r"no such way[\s\S]*layer 0"),
        ({"rules": "least"}, av.errors.ArgumentError, r"rules[\s\S]*least"),
        ({"rules": "random", "kept_share": 1.0}, av.errors.InterventionError, "kept_share between 0 and 1"),
        ({"kv": "half"}, av.errors.ArgumentError, "'keep' or 'drop'"),
        ({"repeats": 0}, av.errors.InterventionError, "repeats=0"),
    ],
)
def test_drops_that_make_no_sense_are_refused(model, cases, as_a_user, arguments, error, message):
    with pytest.raises(error, match=message):
        discard_curve(model, cases, **{"spans": "audio", "layers": [3], **arguments})


def test_attention_starts_after_the_first_layer(model, cases):
    curve = discard_curve(model, cases[0].inputs, "video", rules="attention", repeats=1)
    assert curve.layers.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert curve.names == ("50 % of video, least attended",)


def test_curves_as_a_table_and_as_a_file(curve, tmp_path):
    again = DiscardCurve.load(curve.save(tmp_path / "curve.safetensors"))
    assert again.to_frame().equals(curve.to_frame())
    assert again.samples_frame().equals(curve.samples_frame())
    assert dict(again.settings) == dict(curve.settings)
    frame = curve.samples_frame()
    assert len(frame) == curve.best_ids.size
    one = frame[(frame.span == "video") & (frame.layer == 4) & (frame["sample"] == curve.ids[1])].iloc[0]
    assert (one.p_drop, one.n_dropped, one.n_pos) == (curve.p_drop[1, 1, 1], curve.n_dropped[1, 1], curve.n_pos[1])


# --- counting --------------------------------------------------------------------------------------------------------


def test_two_operations_are_one_mac():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert count_macs(lambda: a @ b) == 3 * 5 * 7
