"""TransformerLens's weight names: views that share storage, with the values that the hooks show."""

import pytest
import torch
from einops import einsum
from support.thinkers import make_thinker, prompts

from hooked_av.model.transformer import HookedAVTransformer

MODEL = HookedAVTransformer.from_hf(make_thinker(n_kv=2))
CFG = MODEL.cfg
ATTENTION = {"W_Q": "q_proj", "W_K": "k_proj", "W_V": "v_proj", "W_O": "o_proj"}
MLP = {"W_in": "up_proj", "W_gate": "gate_proj", "W_out": "down_proj"}
SHAPES = {
    "W_Q": (CFG.n_heads, CFG.d_model, CFG.d_head),
    "W_K": (CFG.n_key_value_heads, CFG.d_model, CFG.d_head),
    "W_V": (CFG.n_key_value_heads, CFG.d_model, CFG.d_head),
    "W_O": (CFG.n_heads, CFG.d_head, CFG.d_model),
    "b_Q": (CFG.n_heads, CFG.d_head),
    "b_K": (CFG.n_key_value_heads, CFG.d_head),
    "b_V": (CFG.n_key_value_heads, CFG.d_head),
    "b_O": (CFG.d_model,),
    "W_in": (CFG.d_model, CFG.d_mlp),
    "W_gate": (CFG.d_model, CFG.d_mlp),
    "W_out": (CFG.d_mlp, CFG.d_model),
    "b_in": (CFG.d_mlp,),
    "b_out": (CFG.d_model,),
}


def part(block, name):
    return getattr(block.mlp if name in MLP or name in ("b_in", "b_out") else block.attn, name)


@pytest.mark.parametrize("name", SHAPES)
def test_stacks_hold_every_layer(name):
    stacked = getattr(MODEL, name)
    assert stacked.shape == (CFG.n_layers, *SHAPES[name])
    for layer, block in enumerate(MODEL.blocks):
        assert torch.equal(stacked[layer], part(block, name))


@pytest.mark.parametrize("name, projection", [*ATTENTION.items(), *MLP.items()])
def test_views_share_the_checkpoints_storage(name, projection):
    block = MODEL.blocks[1]
    weight = getattr(block.mlp if name in MLP else block.attn, projection).weight
    assert part(block, name).data_ptr() == weight.data_ptr()
    before = weight.detach().clone()
    with torch.no_grad():
        part(block, name).mul_(2)
        assert torch.equal(weight, before * 2)
        weight.copy_(before)


def test_biases_and_embeddings_share_storage():
    attn = MODEL.blocks[0].attn
    for name, projection in {"b_Q": attn.q_proj, "b_K": attn.k_proj, "b_V": attn.v_proj}.items():
        assert getattr(attn, name).data_ptr() == projection.bias.data_ptr()
    assert MODEL.W_E.data_ptr() == MODEL.embed.weight.data_ptr()
    assert MODEL.W_U.data_ptr() == MODEL.unembed.weight.data_ptr()
    assert MODEL.W_U.shape == (CFG.d_model, CFG.d_vocab)
    assert MODEL.b_U.count_nonzero() == 0


def test_views_compute_what_the_hooks_show():
    inputs = MODEL.inputs_from_tensors(**prompts()["audio"].tensors())
    names = ["ln1.hook_normalized", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_z", "attn.hook_result",
             "hook_attn_out", "ln2.hook_normalized", "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post",
             "hook_mlp_out"]  # fmt: skip
    with torch.no_grad():
        _, cache = MODEL.run_with_cache(inputs, names_filter=[f"blocks.1.{name}" for name in names])
    block = MODEL.blocks[1]
    x = cache["blocks.1.ln1.hook_normalized"] * block.ln1.weight

    def close(name, wanted):
        torch.testing.assert_close(cache[f"blocks.1.{name}"], wanted, rtol=1e-4, atol=1e-4)

    for hook, weight, bias in (("q", "W_Q", "b_Q"), ("k", "W_K", "b_K"), ("v", "W_V", "b_V")):
        made = einsum(x, getattr(block.attn, weight), "b pos d_model, head d_model d_head -> b pos head d_head")
        close(f"attn.hook_{hook}", made + getattr(block.attn, bias))
    z = cache["blocks.1.attn.hook_z"]
    result = einsum(z, block.attn.W_O, "b pos head d_head, head d_head d_model -> b pos head d_model")
    close("attn.hook_result", result)
    close("hook_attn_out", result.sum(dim=2) + block.attn.b_O)
    y = cache["blocks.1.ln2.hook_normalized"] * block.ln2.weight
    close("mlp.hook_pre", y @ block.mlp.W_gate)
    close("mlp.hook_pre_linear", y @ block.mlp.W_in)
    close("mlp.hook_post", torch.nn.functional.silu(y @ block.mlp.W_gate) * (y @ block.mlp.W_in))
    close("hook_mlp_out", cache["blocks.1.mlp.hook_post"] @ block.mlp.W_out + block.mlp.b_out)
