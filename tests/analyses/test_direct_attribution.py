"""Direct logit attribution: parts against cached activations, sums against the logits, on tiny-av."""

import numpy as np
import pytest
import torch

import hooked_av as av
from hooked_av.analyses.attention.direct_attribution import DirectAttribution, direct_logit_attribution
from hooked_av.tiny.samples import read_samples

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return av.HookedAVTransformer.from_pretrained("tiny-av")


@pytest.fixture(scope="module")
def prompts(model):
    chosen = read_samples()[:9:4]
    return [(model.prepare(sample.clip, question=sample.question), sample.answer) for sample in chosen]


@pytest.fixture(scope="module")
def inputs(prompts):
    return prompts[0][0]


@pytest.fixture(scope="module")
def found(model, inputs):
    return direct_logit_attribution(model, inputs, "eight", "three")


@pytest.fixture(scope="module")
def cache(model, inputs):
    names = ["*attn_out", "*mlp_out", "*inputs_embed", "*hook_pattern@last", "*hook_v", "*hook_result@last", "*scale"]
    return model.run_with_cache(inputs, names_filter=names)[1]


@pytest.fixture(scope="module")
def direction(model, cache):
    ids = [model.to_single_token(token) for token in ("eight", "three")]
    weights = model.unembed.weight[ids].detach().double()
    return (weights[0] - weights[1]) * model.ln_final.weight.detach().double() / cache["ln_final.hook_scale"][0, -1, 0]


def test_parts_sum_to_the_logit_difference(model, prompts):
    for inputs, answer in prompts:
        other = "nine" if answer != "nine" else "four"
        found = direct_logit_attribution(model, inputs, answer, other)
        with torch.no_grad():
            logits = model(inputs)[0, -1]
        wanted = float(logits[model.to_single_token(answer)] - logits[model.to_single_token(other)])
        assert found.total == pytest.approx(wanted, abs=2e-4)
        assert found.logit_difference == pytest.approx(wanted, abs=1e-5)
        assert found.to_frame().contribution.sum() == pytest.approx(wanted, abs=2e-4)
        by_source = found.embed + found.mlp.sum() + found.heads_frame().contribution.sum()
        assert by_source == pytest.approx(wanted, abs=2e-4)
        assert wanted > 1  # the model answers rightly, and something adds up


def test_components_are_the_cached_ones(found, cache, direction):
    assert found.embed == pytest.approx(float(cache["hook_inputs_embed"][0, -1].double() @ direction), abs=1e-5)
    for layer in range(8):
        for name, part in (("attn_out", found.attn), ("mlp_out", found.mlp)):
            assert part[layer] == pytest.approx(float(cache[name, layer][0, -1].double() @ direction), abs=1e-4)


def test_heads_are_the_cached_results(found, cache, direction):
    for layer in range(8):
        result = cache[f"blocks.{layer}.attn.hook_result@last"][0, 0].double()
        assert np.allclose(found.heads[layer], (result @ direction).numpy(), atol=1e-4)
    assert np.abs(found.heads).max() > 0.1


def test_sources_are_pattern_times_values_times_output(model, inputs, found, cache, direction):
    layer = int(np.abs(found.sources).sum(axis=(1, 2)).argmax())
    pattern = cache[f"blocks.{layer}.attn.hook_pattern@last"][0, :, 0].double()
    values = cache["v", layer][0].double()
    shared = model.cfg.n_heads // model.cfg.n_key_value_heads
    for head in range(model.cfg.n_heads):
        out = model.W_O[layer, head].detach().double() @ direction
        for number, span in enumerate(found.source_spans):
            rest = set(range(inputs.n_pos)).difference(*(inputs.spans[s] for s in found.source_spans if s != "other"))
            positions = inputs.spans[span] if span != "other" else rest
            by_hand = sum(float(pattern[head, k] * (values[k, head // shared] @ out)) for k in positions)
            assert found.sources[layer, head, number] == pytest.approx(by_hand, abs=1e-4)


def test_a_cut_source_brings_nothing(model, inputs, found):
    with model.intervene(av.block_attention(keys="video", queries="last")):
        cut = direct_logit_attribution(model, inputs, "eight", "three")
    video = found.source_spans.index("video")
    assert (cut.sources[..., video] == 0).all()
    assert np.abs(found.sources[..., video]).max() > 0.05


def test_parts_that_do_not_add_up_are_an_error(model, inputs):
    edits = {
        "components, to the logit difference": ("blocks.4.hook_resid_mid@last", lambda resid, hook: resid * 1.1),
        "heads, to the attention output": ("blocks.4.hook_attn_out@last", lambda rows, hook: rows * 1.5),
        "source spans, to their head": ("blocks.4.attn.hook_z@last", lambda z, hook: z * 1.5),
    }
    for parts, edit in edits.items():
        with model.hooks([edit]), pytest.raises(av.errors.HookError, match=f"does not add up: {parts}"):
            direct_logit_attribution(model, inputs, "eight", "three")
    with pytest.raises(av.errors.HookError, match="does not add up"):
        direct_logit_attribution(model, inputs, "eight", "three", tolerance=0)


def test_half_precision_adds_up_within_its_own_tolerance(inputs):
    half = av.HookedAVTransformer.from_pretrained("tiny-av", dtype=torch.bfloat16)
    found = direct_logit_attribution(half, inputs, "eight", "three")
    assert found.total == pytest.approx(found.logit_difference, rel=0.1)


def test_sources_are_the_callers(model, inputs):
    found = direct_logit_attribution(model, inputs, "eight", "three", sources=["av", "question"])
    assert found.source_spans == ("av", "question", "other")
    with pytest.raises(av.errors.SpanError, match="share tokens"):
        direct_logit_attribution(model, inputs, "eight", "three", sources=["av", "audio"])
    with pytest.raises(av.errors.InputsError, match="not one token"):
        direct_logit_attribution(model, inputs, "eight nine", "three")


def test_attribution_as_a_file(found, tmp_path):
    again = DirectAttribution.load(found.save(tmp_path / "found.safetensors"))
    assert again.heads_frame().equals(found.heads_frame())
    assert again.to_frame().equals(found.to_frame())
    assert (again.total, again.answer, again.alternative) == (found.total, "eight", "three")
