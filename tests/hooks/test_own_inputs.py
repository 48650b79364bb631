"""Inputs of queries, keys, values and the MLP: an edit reaches what reads them there, and nothing beside it."""

import pytest
import torch
from support.families import FAMILIES

from hooked_av.errors import HookError

pytestmark = [pytest.mark.usefixtures("each_family"), pytest.mark.usefixtures("one_thread")]
MODEL = INPUTS = None
LAYER = 1
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
assert FAMILIES


def use(family):
    global MODEL, INPUTS
    MODEL, INPUTS = family.model, family.inputs("audio in video")


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def seen(*hooks, wanted):
    """What passes some points while another is hooked, and the logits."""
    with MODEL.hooks(list(hooks)):
        return MODEL.run_with_cache(INPUTS, names_filter=[f"blocks.{LAYER}.{point}" for point in wanted])


EVERYTHING = ["attn.hook_q", "attn.hook_k", "attn.hook_v", "ln2.hook_normalized", "hook_resid_pre", "mlp.hook_pre"]


@pytest.mark.parametrize("span", ["", "@audio"])
@pytest.mark.parametrize("which", ["q", "k", "v"])
def test_one_head_reads_what_it_is_given(which, span):
    """As computed by hand from the edited residual stream; other heads, rows and streams stay as they are."""
    rows = INPUTS.spans["audio"].positions.tolist() if span else list(range(INPUTS.n_pos))
    torch.manual_seed(0)
    new = torch.randn(1, len(rows), MODEL.cfg.d_model)

    def edit(copies, hook):
        copies = copies.clone()
        copies[:, :, 1] = new
        return copies

    _, clean = seen(wanted=EVERYTHING)
    _, edited = seen((f"blocks.{LAYER}.attn.hook_{which}_input{span}", edit), wanted=EVERYTHING)
    attn = MODEL.blocks[LAYER].attn
    weight, bias = getattr(attn, f"W_{which.upper()}")[1], getattr(attn, f"b_{which.upper()}")[1]
    wanted = clean[which, LAYER].clone()
    wanted[:, rows, 1] = MODEL.blocks[LAYER].ln1.normalise(new) @ weight + bias
    torch.testing.assert_close(edited[which, LAYER], wanted, **CLOSE)
    for other in {"q", "k", "v"} - {which}:
        assert torch.equal(edited[other, LAYER], clean[other, LAYER])
    assert torch.equal(edited["resid_pre", LAYER], clean["resid_pre", LAYER])


def test_one_input_for_all_three():
    """An edit of every head's copy is an edit of the stream that attention alone reads."""
    edit = lambda copies, hook: copies * 1.5 + 0.3  # noqa: E731
    _, shared = seen((f"blocks.{LAYER}.attn.hook_attn_in", edit), wanted=EVERYTHING)
    each = [(f"blocks.{LAYER}.hook_{which}_input", edit) for which in "qkv"]  # TransformerLens's other name
    _, split = seen(*each, wanted=EVERYTHING)
    _, stream = seen((f"blocks.{LAYER}.hook_resid_pre", edit), wanted=EVERYTHING)
    for which in "qkv":
        torch.testing.assert_close(shared[which, LAYER], stream[which, LAYER], **CLOSE)
        torch.testing.assert_close(shared[which, LAYER], split[which, LAYER], **CLOSE)
    assert not torch.allclose(shared["pre", LAYER], stream["pre", LAYER], atol=1e-3)


def test_heads_that_share_keys_cannot_be_told_apart_by_one_input():
    def one_head(copies, hook):
        copies[:, :, 0] = 0

    with pytest.raises(HookError, match="share a key/value head"):
        MODEL.run_with_hooks(INPUTS, fwd_hooks=[(f"blocks.{LAYER}.attn.hook_attn_in", one_head)])
    both = [(f"blocks.{LAYER}.attn.hook_{name}", lambda copies, hook: copies * 2) for name in ("attn_in", "k_input")]
    with pytest.raises(HookError, match=f"blocks.{LAYER}.attn.hook_k_input"):
        MODEL.run_with_hooks(INPUTS, fwd_hooks=both)


@pytest.mark.parametrize("in_place", [False, True])
def test_the_mlp_reads_what_it_is_given_and_the_stream_goes_on(in_place):
    def edit(rows, hook):
        new = rows * 1.5 + 0.3
        return rows.copy_(new) if in_place else new

    _, clean = seen(wanted=[*EVERYTHING, "hook_resid_mid", "hook_mlp_out", "hook_resid_post"])
    _, edited = seen(
        (f"blocks.{LAYER}.hook_mlp_in", edit),
        wanted=[*EVERYTHING, "hook_resid_mid", "hook_mlp_out", "hook_resid_post"],
    )
    block = MODEL.blocks[LAYER]
    assert torch.equal(edited["resid_mid", LAYER], clean["resid_mid", LAYER])
    wanted = block.mlp(block.ln2.normalise(clean["resid_mid", LAYER] * 1.5 + 0.3))
    torch.testing.assert_close(edited["mlp_out", LAYER], wanted, **CLOSE)
    torch.testing.assert_close(edited["resid_post", LAYER], clean["resid_mid", LAYER] + wanted, **CLOSE)


@pytest.mark.parametrize("name", ["attn.hook_attn_in", "attn.hook_q_input", "attn.hook_k_input", "hook_mlp_in"])
def test_they_hold_the_stream_and_cost_nothing_until_used(name):
    stream = "hook_resid_mid" if "mlp" in name else "hook_resid_pre"
    names = [f"blocks.{LAYER}.{point}" for point in (name, stream)]
    logits, cache = MODEL.run_with_cache(INPUTS, names_filter=names)
    assert torch.equal(logits, MODEL(INPUTS))
    held, wanted = cache[names[0]], cache[names[1]]
    assert torch.equal(held, wanted if held.ndim == 3 else wanted[:, :, None].expand_as(held))
    assert names[0] not in MODEL.run_with_cache(INPUTS)[1]


def test_the_gradient_at_an_input_is_of_that_path_alone():
    """The four paths out of a stream have together its whole gradient."""
    names = ["attn.hook_q_input", "attn.hook_k_input", "attn.hook_v_input", "hook_mlp_in"]
    kept = {}
    hooks = [
        (f"blocks.{LAYER}.{name}", lambda gradient, hook: kept.update({hook.name: gradient.clone()}))
        for name in [*names, "hook_resid_pre", "hook_resid_mid"]
    ]
    with torch.enable_grad():
        MODEL.run_with_hooks(INPUTS, bwd_hooks=hooks)[0, -1, 3].backward()
    MODEL.zero_grad()
    paths = [kept[f"blocks.{LAYER}.{name}"] for name in names]
    through_attention = sum(path.sum(dim=2) for path in paths[:3])
    mid = kept[f"blocks.{LAYER}.hook_resid_mid"]
    torch.testing.assert_close(through_attention + mid, kept[f"blocks.{LAYER}.hook_resid_pre"], **CLOSE)
    assert paths[3].abs().sum() > 0
    assert not torch.allclose(paths[3], mid)
