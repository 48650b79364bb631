"""The recipes of TransformerLens's users give the model's own numbers, though no gain is folded into a weight."""

import pytest
import torch
from support.families import FAMILIES

pytestmark = [pytest.mark.usefixtures("each_family"), pytest.mark.usefixtures("one_thread")]
MODEL = LOGITS = CACHE = None
RIGHT, WRONG = 7, 19
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
assert FAMILIES


def use(family):
    global MODEL
    MODEL = family.model
    for block in (MODEL, *MODEL.blocks):  # a gain that is near 1 would hide that it was left out
        for norm in [getattr(block, name) for name in ("ln1", "ln2", "ln_final") if hasattr(block, name)]:
            assert (norm.weight - 1).abs().max() > 0.1


@pytest.fixture(scope="module", params=["text", "audio in video"], autouse=True)
def run(each_family, request):
    global LOGITS, CACHE
    with torch.no_grad():
        LOGITS, CACHE = MODEL.run_with_cache(each_family.inputs(request.param))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def directions():
    return MODEL.W_U[:, RIGHT] - MODEL.W_U[:, WRONG]


def difference():
    return LOGITS[..., RIGHT] - LOGITS[..., WRONG]


def remainder(parts):
    """What heads alone leave out: the merged sequence and the MLPs."""
    return CACHE.apply_ln_to_stack((CACHE["resid_post", -1] - parts.sum(0))[None])[0] @ directions()


RECIPES = {
    "accumulated": lambda: CACHE.accumulated_resid(apply_ln=True)[-1] @ directions(),
    "accumulated, with the middles": lambda: (
        CACHE.accumulated_resid(layer=-1, apply_ln=True, incl_mid=True)[-1] @ directions()
    ),
    "decomposed": lambda: (CACHE.decompose_resid(apply_ln=True) @ directions()).sum(0),
    "decomposed, last layer by number": lambda: (
        CACHE.decompose_resid(layer=MODEL.cfg.n_layers, apply_ln=True) @ directions()
    ).sum(0),
    "heads": lambda: (
        (CACHE.stack_head_results(apply_ln=True) @ directions()).sum(0) + remainder(CACHE.stack_head_results())
    ),
    "heads with what is left": lambda: (
        CACHE.stack_head_results(apply_ln=True, incl_remainder=True) @ directions()
    ).sum(0),
    "neurons": lambda: (
        CACHE.stack_neuron_results(-1, apply_ln=True, incl_remainder=True, project_output_onto=directions())
    ).sum(0),
    "neurons, projected by hand": lambda: (
        CACHE.stack_neuron_results(-1, apply_ln=True, incl_remainder=True) @ directions()
    ).sum(0),
    "everything": lambda: (CACHE.get_full_resid_decomposition(apply_ln=True) @ directions()).sum(0),
    "everything, projected": lambda: CACHE.get_full_resid_decomposition(
        apply_ln=True, project_output_onto=directions()
    ).sum(0),
    "everything, whole MLPs": lambda: CACHE.get_full_resid_decomposition(
        apply_ln=True, expand_neurons=False, project_output_onto=directions()
    ).sum(0),
    "attributed": lambda: CACHE.logit_attrs(CACHE.decompose_resid(), RIGHT, WRONG).sum(0),
    "attributed, heads": lambda: CACHE.logit_attrs(CACHE.stack_head_results(incl_remainder=True), [RIGHT], [WRONG]).sum(
        0
    ),
    "attributed, tensors": lambda: CACHE.logit_attrs(
        CACHE.decompose_resid(), torch.tensor(RIGHT), torch.tensor(WRONG)
    ).sum(0),
    "attributed, everything": lambda: CACHE.logit_attrs(CACHE.get_full_resid_decomposition(), RIGHT, WRONG).sum(0),
    "by direction": lambda: (
        CACHE.decompose_resid(apply_ln=True).sum(0)
        @ (MODEL.tokens_to_residual_directions(RIGHT) - MODEL.tokens_to_residual_directions([WRONG])[0])
    ),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipe_gives_the_logit_difference(recipe):
    torch.testing.assert_close(RECIPES[recipe](), difference(), **CLOSE)


@pytest.mark.parametrize("rows", [-1, (2, 6), [1, 4, 5]])
@pytest.mark.parametrize("part", ["decompose_resid", "accumulated_resid", "stack_head_results"])
def test_some_positions_are_some_of_all(part, rows):
    parts = getattr(CACHE, part)
    index = slice(*rows) if isinstance(rows, tuple) else rows
    torch.testing.assert_close(parts(apply_ln=True, pos_slice=rows), parts(apply_ln=True)[:, :, index], **CLOSE)
    attributed = CACHE.logit_attrs(parts(pos_slice=rows), RIGHT, WRONG, pos_slice=rows)
    torch.testing.assert_close(attributed, CACHE.logit_attrs(parts(), RIGHT, WRONG)[:, :, index], **CLOSE)


def test_logits_at_every_position_of_every_prompt():
    torch.testing.assert_close(CACHE.accumulated_resid(apply_ln=True)[-1] @ MODEL.W_U + MODEL.b_U, LOGITS, **CLOSE)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_before_a_layer_it_is_what_the_layer_reads(layer):
    attn_in = CACHE.decompose_resid(layer=layer, apply_ln=True).sum(0)
    for name, weight, bias in (("q", MODEL.W_Q, MODEL.b_Q), ("v", MODEL.W_V, MODEL.b_V)):
        read = torch.einsum("bpd,hde->bphe", attn_in, weight[layer]) + bias[layer]
        torch.testing.assert_close(read, CACHE[name, layer], **CLOSE)
    mlp_in = CACHE.decompose_resid(layer=layer, mlp_input=True, apply_ln=True).sum(0)
    torch.testing.assert_close(mlp_in @ MODEL.W_gate[layer], CACHE["pre", layer], **CLOSE)
    by_sums = CACHE.accumulated_resid(layer=layer, mlp_input=True, apply_ln=True)[-1]
    torch.testing.assert_close(by_sums, mlp_in, **CLOSE)
    expanded = CACHE.get_full_resid_decomposition(layer=layer, mlp_input=True, apply_ln=True).sum(0)
    torch.testing.assert_close(expanded, mlp_in, **CLOSE)
    norm = MODEL.blocks[layer].ln1
    torch.testing.assert_close(attn_in, norm.normalise(CACHE["resid_pre", layer]), **CLOSE)


def test_the_lens_has_a_scale_of_its_own_at_each_layer():
    lens = CACHE.accumulated_resid(apply_ln=True)
    for layer in range(MODEL.cfg.n_layers):
        torch.testing.assert_close(lens[layer], MODEL.ln_final.normalise(CACHE["resid_pre", layer]), **CLOSE)


def test_without_a_batch_axis(each_family):
    inputs = each_family.inputs("text")
    logits, cache = MODEL.run_with_cache(inputs, remove_batch_dim=True)
    wanted = logits[0, :, RIGHT] - logits[0, :, WRONG]
    for parts in (cache.decompose_resid(apply_ln=True), cache.get_full_resid_decomposition(apply_ln=True)):
        torch.testing.assert_close((parts @ directions()).sum(0), wanted, **CLOSE)
    torch.testing.assert_close(cache.accumulated_resid(apply_ln=True)[-1] @ directions(), wanted, **CLOSE)
    attributed = cache.logit_attrs(cache.decompose_resid(), RIGHT, WRONG, has_batch_dim=False)
    torch.testing.assert_close(attributed.sum(0), wanted, **CLOSE)


def test_a_batch_with_an_answer_for_each_prompt():
    tokens = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    logits, cache = MODEL.run_with_cache(tokens)
    right, wrong = torch.tensor([11, 12]), torch.tensor([13, 14])
    wanted = torch.stack([logits[row, -1, right[row]] - logits[row, -1, wrong[row]] for row in (0, 1)])
    found = cache.logit_attrs(cache.decompose_resid(pos_slice=-1), right, wrong, pos_slice=-1)
    torch.testing.assert_close(found.sum(0), wanted, **CLOSE)
    found = cache.logit_attrs(cache.decompose_resid(pos_slice=-1), right.tolist(), wrong.tolist(), pos_slice=-1)
    torch.testing.assert_close(found.sum(0), wanted, **CLOSE)
    one = cache.logit_attrs(cache.decompose_resid(pos_slice=-1), 12, 14, pos_slice=-1, batch_slice=1)
    torch.testing.assert_close(one.sum(0), wanted[1], **CLOSE)
    states = cache.accumulated_resid(pos_slice=-1)
    kept = cache.apply_ln_to_stack(states, pos_slice=-1, batch_slice=1, recompute_ln=True)
    torch.testing.assert_close(kept[-1] @ (MODEL.W_U[:, 12] - MODEL.W_U[:, 14]), wanted[1], **CLOSE)
