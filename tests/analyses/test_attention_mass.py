"""Attention mass and sinks, against whole attention matrices and planted sinks, on tiny-av."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import hooked_av as av
from hooked_av.analyses.attention import rows as attention_rows
from hooked_av.analyses.attention.mass import AttentionMass, attention_mass
from hooked_av.analyses.attention.parts import parts_of
from hooked_av.analyses.attention.sinks import Sinks, find_sinks
from hooked_av.tiny.samples import read_samples

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from forward import peak_bytes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return av.HookedAVTransformer.from_pretrained("tiny-av")


@pytest.fixture(scope="module")
def prompts(model):
    return [model.prepare(sample.clip, question=sample.question) for sample in read_samples()[:7:3]]


@pytest.fixture(scope="module")
def inputs(prompts):
    return prompts[0]


@pytest.fixture(scope="module")
def patterns(model, inputs):
    """[layer, head, query, key]: what the analyses never hold."""
    _, cache = model.run_with_cache(inputs, names_filter="blocks.*.attn.hook_pattern")
    return np.stack([cache["pattern", layer][0].double().numpy() for layer in range(model.cfg.n_layers)])


def slow_mass(patterns, inputs, queries, keys):
    rows, columns = (inputs.spans.resolve(name).positions for name in (queries, keys))
    return patterns[:, :, rows][..., columns].sum(axis=-1).mean(axis=-1)


# --- attention mass --------------------------------------------------------------------------------------------------


def test_mass_is_that_of_the_whole_pattern(model, inputs, patterns):
    queries, keys = ["audio", "question", "last", "video|question"], ["audio", "video", "av", "question - last"]
    found = attention_mass(model, inputs, keys=keys, queries=queries)
    assert found.mass.shape == (1, 8, 4, len(queries), len(keys))
    for i, reading in enumerate(queries):
        for j, read in enumerate(keys):
            assert np.allclose(found.mass[0, :, :, i, j], slow_mass(patterns, inputs, reading, read), atol=1e-5)
    assert found.mass[0, :, :, 1, 0].std() > 0.01  # there is something to compare


def test_rows_sum_to_one(model, prompts):
    found = attention_mass(model, prompts)
    assert found.keys == ("system", "audio", "video", "boundary", "question", "other")
    assert found.queries == ("audio", "video", "question", "last")
    assert np.allclose(found.mass.sum(axis=-1), 1, atol=1e-5)
    assert (found.n_keys.sum(axis=1) == found.n_pos).all()


def test_blocks_of_any_size_give_the_same(model, inputs, monkeypatch):
    whole = attention_mass(model, inputs).mass
    monkeypatch.setattr(attention_rows, "MAX_WEIGHTS", 5 * model.cfg.n_heads * inputs.n_pos)  # five rows at a time
    assert np.allclose(attention_mass(model, inputs).mass, whole, atol=1e-6)


def test_memory_is_that_of_a_block_of_rows(model, monkeypatch):
    n_pos, n_rows = 512, 12
    inputs = av.AVInputs.from_tokens(model.to_tokens("Which digit is shown second?").repeat(1, 200)[:, :n_pos])
    inputs = inputs.with_span("early", range(200))
    block, square = (4 * model.cfg.n_heads * rows * n_pos for rows in (n_rows, n_pos))
    monkeypatch.setattr(attention_rows, "MAX_WEIGHTS", model.cfg.n_heads * n_rows * n_pos)
    with torch.no_grad():
        plain = peak_bytes(lambda: model(inputs, logits_at="last"))
        rowwise = peak_bytes(lambda: attention_mass(model, inputs, keys=["early"], queries=["text"]))
        whole = peak_bytes(lambda: model.run_with_cache(inputs, names_filter="blocks.0.attn.hook_pattern"))
    assert rowwise - plain < 8 * block < square / 4
    assert whole - plain > square  # the measure sees a matrix when there is one


def test_open_cuts_count(model, inputs):
    cut = av.block_attention(keys="audio", queries="last", layers=[2])
    with model.intervene(cut):
        found = attention_mass(model, inputs, keys=["audio", "video"], queries=["last"])
        _, cache = model.run_with_cache(inputs, names_filter="blocks.2.attn.hook_pattern@last<-video")
    assert (found.mass[0, 2, :, 0, 0] == 0).all()
    assert (found.mass[0, [1, 3], :, 0, 0] > 0).any()
    wanted = cache["blocks.2.attn.hook_pattern@last<-video"][0, :, 0].sum(dim=-1)
    assert np.allclose(found.mass[0, 2, :, 0, 1], wanted.numpy(), atol=1e-5)


def test_what_rotated_queries_do_not_show_is_refused(model, inputs):
    with (
        model.hooks([("blocks.1.attn.hook_pattern@last", lambda p, hook: p)]),
        pytest.raises(av.errors.InterventionError, match=r"matrices are edited[\s\S]*blocks\.1\.attn\.hook_pattern"),
    ):
        attention_mass(model, inputs)
    for spec in (av.drop_tokens("audio", 3), av.ablate("blocks.1.attn.hook_pattern", "last")):
        with model.intervene(spec), pytest.raises(av.errors.InterventionError, match="matrices are edited"):
            find_sinks(model, inputs)


def test_samples_of_other_spans_are_refused(model, inputs):
    text = model.prepare(question="Which digit is shown second?")
    with pytest.raises(av.errors.SpanError, match="no span 'audio'"):
        attention_mass(model, [inputs, text])
    with pytest.raises(av.errors.SpanError, match="samples are not made of the same spans"):
        attention_mass(model, [text.with_span("system", "text - question"), text], queries=["last"])


def test_parts_share_a_prompt_out(inputs):
    for spans in (None, ["audio"], ["question", "last", "video"]):
        parts = parts_of(inputs, spans)
        assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(inputs.n_pos))
    with pytest.raises(av.errors.SpanError, match="share tokens"):
        parts_of(inputs, ["av", "audio"])


def test_mass_as_a_table_and_as_a_file(model, prompts, tmp_path):
    found = attention_mass(model, [av.Case(prompt, id=f"s{n}") for n, prompt in enumerate(prompts)])
    assert found.ids == ("s0", "s1", "s2")
    frame = found.to_frame().set_index(["layer", "head", "queries", "keys"])
    row = frame.loc[(5, 1, "last", "video")]
    assert row.mass == pytest.approx(found.mass[:, 5, 1, 3, 2].mean(dtype=np.float64))
    assert row.share_of_tokens == pytest.approx(np.mean([len(p.spans["video"]) / p.n_pos for p in prompts]))
    low, high = found.by_layer_interval
    assert (low <= found.by_layer + 1e-9).all()
    assert (high >= found.by_layer - 1e-9).all()
    assert (high > low).any()
    again = AttentionMass.load(found.save(tmp_path / "mass.safetensors"))
    assert again.to_frame().equals(found.to_frame())
    assert dict(again.settings) == dict(found.settings)


# --- sinks -----------------------------------------------------------------------------------------------------------


def test_peaks_and_received_attention_are_those_of_whole_activations(model, inputs, patterns):
    found = find_sinks(model, inputs)
    _, cache = model.run_with_cache(inputs, names_filter="blocks.*.hook_resid_pre")
    n_pos, spans = inputs.n_pos, inputs.spans
    for layer in range(model.cfg.n_layers):
        h = cache["resid_pre", layer][0].double().numpy()
        rms = np.sqrt((h**2).mean(axis=1, keepdims=True) + model.cfg.eps)
        assert np.allclose(found.peak[layer], np.abs(h / rms).max(axis=1), rtol=1e-4)
        weights = patterns[layer].mean(axis=0)
        for number, reader in enumerate([range(n_pos), list(spans["audio"]), list(spans["video"])]):
            for key in range(n_pos):
                later = [row for row in reader if row > key]
                wanted = weights[later, key].mean() if later else np.nan
                assert found.received[number, layer, key] == pytest.approx(wanted, abs=1e-5, nan_ok=True)


def test_dominance_is_between_the_readers(model, inputs):
    found = find_sinks(model, inputs)
    _, audio, video = found.received[:, 4, 20]  # a sound token that both modalities follow
    assert found.dominance[4, 20] == pytest.approx((video - audio) / (video + audio))
    assert np.isnan(found.dominance[:, -1]).all()  # nobody comes after the last token
    after_video = int(inputs.spans["video"].positions[-1]) + 1
    assert after_video in inputs.spans["audio"]
    assert found.dominance[2, after_video] == -1  # only sound is left to read it
    assert np.isnan(find_sinks(model, inputs, queries=["question"]).dominance).all()


def test_a_planted_sink_is_found_and_only_it(model, inputs):
    inputs = inputs.with_span("planted", [30])
    spike = torch.zeros(model.cfg.d_model)
    spike[5] = 1e4
    with model.intervene(av.add_vector("blocks.3.hook_resid_pre", "planted", spike)):
        found = find_sinks(model, inputs, dims=[5], threshold=11)
        elsewhere = find_sinks(model, inputs, dims=[6], threshold=11)
    assert set(np.flatnonzero(found.is_sink("massive").any(axis=0))) == {30}
    assert found.is_sink("massive")[3:, 30].all()
    assert not found.is_sink("massive")[:3].any()
    assert not elsewhere.is_sink("massive").any()
    frame = found.to_frame("massive")
    assert (frame.part == "audio").all()
    assert frame.layer.tolist() == [3, 4, 5, 6, 7]


def test_shares_of_sinks_next_to_shares_of_tokens(model, inputs):
    found = find_sinks(model, inputs, received_threshold=0.05)
    frame = found.parts_frame("received")
    some = frame[frame.layer == 6]
    assert some.n_sinks.sum() == found.is_sink("received")[6].sum() > 0
    assert some.share_of_sinks.sum() == pytest.approx(1)
    assert some.share_of_tokens.sum() == pytest.approx(1)
    assert some.set_index("part").share_of_tokens["audio"] == pytest.approx(len(inputs.spans["audio"]) / inputs.n_pos)


def test_sinks_as_a_file(model, inputs, tmp_path):
    found = find_sinks(model, inputs)
    again = Sinks.load(found.save(tmp_path / "sinks.safetensors"))
    assert again.to_frame().equals(found.to_frame())
    assert again.tokens == found.tokens


@pytest.mark.parametrize(
    "settings", [{"dims": []}, {"dims": [128]}, {"threshold": 11.4}, {"threshold": 0}, {"received_threshold": 1.0}]
)
def test_settings_that_find_nothing_are_refused(model, inputs, settings):
    with pytest.raises(av.errors.InputsError, match="find no sink"):
        find_sinks(model, inputs, **settings)
