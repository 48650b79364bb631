"""Logits and positions are bit for bit those of transformers; every planted fault is noticed."""

import pytest
import torch
from support.salmonn import cases, load_folder
from support.thinkers import make_thinker, prompts, published_logits
from torch import nn
from transformers import Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration

from hooked_av.decoder import decoder
from hooked_av.model.transformer import HookedAVTransformer

PROMPTS = prompts()
BACKENDS = ("sdpa", "eager")
DTYPES = (torch.float32, torch.bfloat16)
N_KV = (1, 2, 4)


def make_pair(attn="sdpa", dtype=torch.float32, **config):
    thinker = make_thinker(attn, dtype, **config)
    return thinker, HookedAVTransformer.from_hf(thinker)


@pytest.fixture(scope="module")
def pairs():
    made = {}

    def get(attn, dtype, n_kv):
        key = (attn, dtype, n_kv)
        if key not in made:
            # eps 1e-2 in one case: with 1e-6 a wrong eps would not show
            made[key] = make_pair(attn, dtype, n_kv=n_kv, eps=1e-2 if n_kv == 2 else 1e-6)
        return made[key]

    return get


def our_logits(model, tensors):
    with torch.no_grad():
        return model(model.inputs_from_tensors(**tensors))


@pytest.mark.parametrize("kind", PROMPTS)
@pytest.mark.parametrize("n_kv", N_KV)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("attn", BACKENDS)
def test_logits_are_equal_to_the_bit(pairs, attn, dtype, n_kv, kind):
    thinker, model = pairs(attn, dtype, n_kv)
    tensors = PROMPTS[kind].tensors()
    assert torch.equal(our_logits(model, tensors), published_logits(thinker, tensors))


@pytest.mark.parametrize("kind", PROMPTS)
def test_eager_and_fused_agree(pairs, kind):
    fused, eager = (pairs(attn, torch.float32, 2)[1] for attn in BACKENDS)
    tensors = PROMPTS[kind].tensors()
    torch.testing.assert_close(our_logits(eager, tensors), our_logits(fused, tensors), rtol=1e-5, atol=1e-5)


def test_the_whole_omni_model_is_adopted_by_its_thinker(pairs):
    """transformers' whole class on the meta device: its talker takes gigabytes even when the thinker is tiny."""
    with torch.device("meta"):
        whole = Qwen2_5OmniForConditionalGeneration(Qwen2_5OmniConfig())
        model = HookedAVTransformer.from_hf(whole)
    assert {id(p) for p in model.parameters()} == {id(p) for p in whole.thinker.parameters()}
    whole.thinker, _ = pairs("sdpa", torch.float32, 2)
    tensors = PROMPTS["interleaved"].tensors()
    logits = our_logits(HookedAVTransformer.from_hf(whole), tensors)
    assert torch.equal(logits, published_logits(whole.thinker, tensors))


def test_left_padded_batch_equals_transformers(pairs):
    thinker, model = pairs("sdpa", torch.float32, 2)
    short, long = PROMPTS["text"].tensors()["input_ids"][0], torch.arange(23)
    ids = torch.stack([torch.cat([torch.full((6,), 7), short]), long])
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    theirs = published_logits(thinker, {"input_ids": ids, "attention_mask": mask})
    ours = our_logits(model, {"input_ids": ids, "attention_mask": mask})
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], rtol=1e-5, atol=1e-5)


# --- mutants: one planted fault each; the parity test above must fail on every one ----------------------------------


def swap_height_and_width(monkeypatch, model):
    model.decoder.rotary.sections = [2, 3, 3]
    call = decoder.Rotary.__call__
    monkeypatch.setattr(decoder.Rotary, "__call__", lambda self, ids, dtype: call(self, ids[[0, 2, 1]], dtype))


def use_one_axis_for_all(monkeypatch, model):
    call = decoder.Rotary.__call__
    monkeypatch.setattr(decoder.Rotary, "__call__", lambda self, ids, dtype: call(self, ids[[0, 0, 0]], dtype))


def interleave_the_sections(monkeypatch, model):
    def wrong(self, ids, dtype):
        angles = ids[..., None].float() * self.frequencies
        angle = torch.stack([angles[i % 3, ..., i] for i in range(angles.shape[-1])], dim=-1)
        angle = torch.cat([angle, angle], dim=-1)
        return angle.cos().to(dtype), angle.sin().to(dtype)

    monkeypatch.setattr(decoder.Rotary, "__call__", wrong)


def drop_bias_of(name):
    def plant(monkeypatch, model):
        projection = getattr(model.blocks[1].attn, name)
        monkeypatch.setattr(projection, "bias", nn.Parameter(torch.zeros_like(projection.bias)))

    return plant


def ignore_norm_gain(monkeypatch, model):
    norm = model.blocks[1].ln2
    monkeypatch.setattr(norm, "weight", nn.Parameter(torch.ones_like(norm.weight)))


def ignore_final_gain(monkeypatch, model):
    monkeypatch.setattr(model.ln_final, "weight", nn.Parameter(torch.ones_like(model.ln_final.weight)))


def use_a_wrong_eps(monkeypatch, model):
    for norm in [norm for block in model.blocks for norm in (block.ln1, block.ln2)]:
        monkeypatch.setattr(norm, "eps", 1e-4)


def share_key_heads_wrongly(monkeypatch, model):
    real = decoder.Attend.read

    def wrong(self, layer, q, k, v):
        n_copies = q.shape[1] // k.shape[1]
        return real(self, layer, q, k.repeat(1, n_copies, 1, 1), v.repeat(1, n_copies, 1, 1))

    monkeypatch.setattr(decoder.Attend, "read", wrong)


def use_a_wrong_base(monkeypatch, model):
    monkeypatch.setattr(model.decoder.rotary, "frequencies", model.decoder.rotary.frequencies * 1.01)


MUTANTS = {
    "height and width swapped": swap_height_and_width,
    "one axis for all": use_one_axis_for_all,
    "sections interleaved": interleave_the_sections,
    "no q bias": drop_bias_of("q_proj"),
    "no k bias": drop_bias_of("k_proj"),
    "no v bias": drop_bias_of("v_proj"),
    "norm gain ignored": ignore_norm_gain,
    "final gain ignored": ignore_final_gain,
    "wrong eps": use_a_wrong_eps,
    "wrong sharing of key heads": share_key_heads_wrongly,
    "wrong rotary base": use_a_wrong_base,
}


def omni_pair():
    """A model, what it is given, what is published for that, and how far apart equal logits may be."""
    thinker, model = make_pair(n_kv=2, eps=1e-2)
    tensors = PROMPTS["audio in video"].tensors()
    return model, tensors, published_logits(thinker, tensors), 0.0


def salmonn_pair():
    case = cases()["av_train"]
    published = case.tensors["logits"]
    return load_folder(), {**case.prompt, "positions": "train"}, published, 1e-5 * float(published.abs().max())


@pytest.mark.parametrize("make", [omni_pair, salmonn_pair], ids=["omni", "salmonn"])
@pytest.mark.parametrize("fault", MUTANTS.values(), ids=MUTANTS.keys())
def test_planted_faults_are_noticed(monkeypatch, fault, make):
    model, tensors, published, tolerance = make()
    assert (our_logits(model, tensors) - published).abs().max() <= tolerance
    fault(monkeypatch, model)
    wrong = our_logits(model, tensors)
    assert (wrong - published).abs().max() > max(1e-3, tolerance), "the fault is too small to be told from rounding"
