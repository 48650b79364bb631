"""Every public function of TransformerLens's tools that can apply, on our models: what it gives, or why it cannot.

A line is a function, what is to be said of it here, and what is done with it: on text, and on a prompt with sound and
frames. The page docs/transformer_lens.md must say what this file does: `test_the_page_is_this_table`.
"""

import contextlib
import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformer_lens
import transformer_lens.patching as patching
import transformer_lens.utilities as utilities
from support.families import FAMILIES
from transformer_lens import ActivationCache, SVDInterpreter, head_detector
from transformer_lens.model_protocol import TransformerLensModelWithWeights
from transformer_lens.tools import analysis

import hooked_av as av
from hooked_av.errors import HookedAVWarning, InputsError
from hooked_av.prompt.inputs import AVInputs

PAGE = Path(__file__).parents[2] / "docs" / "transformer_lens.md"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
RIGHT, WRONG = 7, 19
INDEXED = hasattr(AVInputs, "shape")  # TransformerLens's tools ask a prompt for its shape
SHOW, KINDS = ("works", "differs", "refused"), ("text", "audio-visual")


@dataclass(frozen=True)
class Line:
    """`does` gives the number of TransformerLens's function and ours, or ends by itself having checked them."""

    module: str
    name: str
    here: str  # one of SHOW
    why: str
    does: Callable[..., object]
    kinds: tuple[str, ...] = KINDS


LINES: list[Line] = []


def line(module: str, *names: str, here: str = "works", why: str = "", kinds: tuple[str, ...] = KINDS):
    """Put the function below into the table, for each of the names."""

    def put(does):
        for name in names:
            takes_name = "name" in inspect.signature(does).parameters
            LINES.append(Line(module, name, here, why, partial(does, name=name) if takes_name else does, kinds))
        return does

    return put


@pytest.fixture(scope="module", params=KINDS)
def on(request):
    """A model whose every parameter is random, a clean and a corrupted prompt, and what they give."""
    model = FAMILIES["omni"].model
    clean, corrupt = torch.tensor([[5, 9, 3, 12]]), torch.tensor([[5, 2, 3, 12]])
    if request.param == "audio-visual":
        clean = FAMILIES["omni"].inputs("audio")
        corrupt = model.inputs_from_tensors(**FAMILIES["omni"].tensors("audio"))
        sound = {name: value.roll(1, -1) for name, value in corrupt.features.items() if value.is_floating_point()}
        corrupt = replace(corrupt, features={**corrupt.features, **sound})
    with torch.no_grad():
        logits, cache = model.run_with_cache(clean)
        corrupt_logits, corrupt_cache = model.run_with_cache(corrupt)
    n_pos = logits.shape[1]
    found = {"model": model, "clean": clean, "corrupt": corrupt, "logits": logits, "cache": cache, "n_pos": n_pos}
    return SimpleNamespace(
        **found, kind=request.param, corrupt_logits=corrupt_logits, corrupt_cache=corrupt_cache, n=model.cfg.n_layers
    )


def metric(logits):
    return logits[0, -1, RIGHT] - logits[0, -1, WRONG]


def close(found, wanted):
    torch.testing.assert_close(torch.as_tensor(found, dtype=torch.float32), wanted.float(), **CLOSE)


# --- patching --------------------------------------------------------------------------------------------------------


def patched(on, name, write):
    """The metric of the corrupted prompt with something of the clean one written in, by hand."""

    def edit(tensor, hook):
        tensor = tensor.clone()
        write(tensor, on.cache[name])
        return tensor

    with torch.no_grad():
        return metric(on.model.run_with_hooks(on.corrupt, fwd_hooks=[(name, edit)]))


def at(*index):
    def write(tensor, clean):
        tensor[index] = clean[index]

    return write


ALL, LAYER, POS, HEAD = slice(None), 1, 2, 1
KEY_HEADS = {
    f"attn_head_{which}_{where}": (f"blocks.1.attn.hook_{which}", cell, at(*index))
    for which in "kv"
    for where, cell, index in (
        ("by_pos", (LAYER, POS, HEAD), (ALL, POS, HEAD)), ("all_pos", (LAYER, HEAD), (ALL, ALL, HEAD))
    )
}  # fmt: skip
CELLS = {
    "resid_pre": ("blocks.1.hook_resid_pre", (LAYER, POS), at(ALL, POS)),
    "resid_mid": ("blocks.1.hook_resid_mid", (LAYER, POS), at(ALL, POS)),
    "attn_out": ("blocks.1.hook_attn_out", (LAYER, POS), at(ALL, POS)),
    "mlp_out": ("blocks.1.hook_mlp_out", (LAYER, POS), at(ALL, POS)),
    "attn_head_out_by_pos": ("blocks.1.attn.hook_z", (LAYER, POS, HEAD), at(ALL, POS, HEAD)),
    "attn_head_q_by_pos": ("blocks.1.attn.hook_q", (LAYER, POS, HEAD), at(ALL, POS, HEAD)),
    "attn_head_out_all_pos": ("blocks.1.attn.hook_z", (LAYER, HEAD), at(ALL, ALL, HEAD)),
    "attn_head_q_all_pos": ("blocks.1.attn.hook_q", (LAYER, HEAD), at(ALL, ALL, HEAD)),
    "attn_head_pattern_all_pos": ("blocks.1.attn.hook_pattern", (LAYER, HEAD), at(ALL, HEAD)),
    "attn_head_pattern_by_pos": ("blocks.1.attn.hook_pattern", (LAYER, HEAD, POS), at(ALL, HEAD, POS)),
    "attn_head_pattern_dest_src_pos": ("blocks.1.attn.hook_pattern", (LAYER, HEAD, POS, 1), at(ALL, HEAD, POS, 1)),
}


@line("patching", *(f"get_act_patch_{name}" for name in CELLS))
@line("patching", *(f"get_act_patch_{name}" for name in KEY_HEADS), why="one column for each key/value head")
def _(on, name):
    point, cell, write = {**CELLS, **KEY_HEADS}[name.removeprefix("get_act_patch_")]
    if "dest_src" in name and on.kind == "audio-visual":
        pytest.skip("a run for every query and key of every head: thousands, on a prompt with sound")
    with torch.no_grad():
        found = getattr(patching, name)(on.model, on.corrupt, on.cache, metric)
    if name.removeprefix("get_act_patch_") in KEY_HEADS:
        assert found.shape[-1] == on.model.cfg.n_key_value_heads
    close(found[cell], patched(on, point, write))


@line("patching", "generic_activation_patch", "make_df_from_ranges", "layer_pos_patch_setter")
def _(on):
    cells = patching.make_df_from_ranges([on.n, on.n_pos], ["layer", "pos"]).query(f"pos == {POS}")
    with torch.no_grad():
        found = patching.generic_activation_patch(
            on.model, on.corrupt, on.cache, metric, patching.layer_pos_patch_setter, "resid_pre",
            index_df=cells.reset_index(drop=True),
        )  # fmt: skip
    close(found[LAYER], patched(on, "blocks.1.hook_resid_pre", at(ALL, POS)))


@line("patching", "layer_pos_head_vector_patch_setter", "layer_head_vector_patch_setter",
      "layer_head_pattern_patch_setter", "layer_head_pos_pattern_patch_setter",
      "layer_head_dest_src_pos_pattern_patch_setter")  # fmt: skip
def _(on, name):
    index = {
        "layer_pos_head_vector_patch_setter": ("z", [0, POS, HEAD], (ALL, POS, HEAD)),
        "layer_head_vector_patch_setter": ("z", [0, HEAD], (ALL, ALL, HEAD)),
        "layer_head_pattern_patch_setter": ("pattern", [0, HEAD], (ALL, HEAD)),
        "layer_head_pos_pattern_patch_setter": ("pattern", [0, HEAD, POS], (ALL, HEAD, POS)),
        "layer_head_dest_src_pos_pattern_patch_setter": ("pattern", [0, HEAD, POS, 1], (ALL, HEAD, POS, 1)),
    }
    what, numbers, where = index[name]
    clean, corrupt = on.cache[what, 0, "attn"], on.corrupt_cache[what, 0, "attn"].clone()
    wanted = corrupt.clone()
    wanted[where] = clean[where]
    assert torch.equal(getattr(patching, name)(corrupt, numbers, clean), wanted)


@line("patching", "get_act_patch_block_every")
def _(on):
    with torch.no_grad():
        found = patching.get_act_patch_block_every(on.model, on.corrupt, on.cache, metric)
    close(found[0, LAYER, POS], patched(on, "blocks.1.hook_resid_pre", at(ALL, POS)))
    close(found[2, LAYER, POS], patched(on, "blocks.1.hook_mlp_out", at(ALL, POS)))


@line("patching", "get_act_patch_attn_head_all_pos_every", "get_act_patch_attn_head_by_pos_every",
      why="keys and values have one column for each key/value head, and zeros behind")  # fmt: skip
def _(on, name):
    if "by_pos" in name and on.kind == "audio-visual":
        pytest.skip("a run for every position, head and part: a thousand, on a prompt with sound")
    with torch.no_grad():
        found = getattr(patching, name)(on.model, on.corrupt, on.cache, metric)
    where = name.removeprefix("get_act_patch_attn_head_").removesuffix("_every")
    for place, which in enumerate(("out", "q", "k", "v")):
        point, cell, write = {**CELLS, **KEY_HEADS}[f"attn_head_{which}_{where}"]
        close(found[(place, *cell)], patched(on, point, write))


@line("patching", "get_act_patch_direct_path", here="differs", why='`component="q"` only: key/value heads are shared')
def _(on):
    with torch.no_grad(), pytest.warns(HookedAVWarning, match="nothing to switch on"):
        found = patching.get_act_patch_direct_path(
            on.model, on.corrupt, on.cache, on.corrupt_cache, metric, 0, HEAD, verbose=False
        )
    W_O = on.model.blocks[0].attn.W_O[HEAD]
    change = (on.cache["z", 0] - on.corrupt_cache["z", 0])[:, :, HEAD] @ W_O

    def edit(copies, hook):
        copies = copies.clone()
        copies[:, :, 2] += change
        return copies

    with torch.no_grad():
        wanted = on.model.run_with_hooks(on.corrupt, fwd_hooks=[("blocks.1.hook_q_input", edit)])
    close(found[1, 2], metric(wanted))
    with pytest.raises(ValueError, match="GQA"):
        patching.get_act_patch_direct_path(
            on.model, on.corrupt, on.cache, on.corrupt_cache, metric, 0, HEAD, component="k"
        )


@line("patching", "get_act_patch_direct_path_all_sources", here="differs", why="the same", kinds=("text",))
def _(on):
    one, every = (
        partial(getattr(patching, name), on.model, on.corrupt, on.cache, on.corrupt_cache, metric, verbose=False)
        for name in ("get_act_patch_direct_path", "get_act_patch_direct_path_all_sources")
    )
    with torch.no_grad(), pytest.warns(HookedAVWarning):
        close(every()[0, HEAD], one(0, HEAD))


# --- the cache -------------------------------------------------------------------------------------------------------


def read(parts):
    """Parts behind the final norm, as a logit difference at the last position."""
    return parts[:, 0, -1] @ (on_model().W_U[:, RIGHT] - on_model().W_U[:, WRONG])


def on_model():
    return FAMILIES["omni"].model


@line("ActivationCache", "decompose_resid", "stack_head_results", "stack_neuron_results",
      "get_full_resid_decomposition", here="differs",
      why="`apply_ln=True` is the whole norm with its gain; \"embed\" holds the media rows")  # fmt: skip
def _(on, name):
    more = {
        "stack_head_results": {"incl_remainder": True},
        "stack_neuron_results": {"incl_remainder": True, "layer": -1},
    }
    parts = getattr(on.cache, name)(apply_ln=True, **more.get(name, {}))
    close(read(parts).sum(), metric(on.logits))


@line("ActivationCache", "accumulated_resid", "apply_ln_to_stack", here="differs", why="the same")
def _(on):
    close(read(on.cache.accumulated_resid(apply_ln=True))[-1], metric(on.logits))
    close(read(on.cache.apply_ln_to_stack(on.cache["resid_post", -1][None]))[0], metric(on.logits))


@line("ActivationCache", "logit_attrs", why="the same as our `direct_attribution`, part by part")
def _(on):
    found = on.cache.logit_attrs(on.cache.decompose_resid(), RIGHT, WRONG)[:, 0, -1]
    close(found.sum(), metric(on.logits))
    inputs = TEXTS.prepare(question="Which digit?")
    with torch.no_grad():
        _, cache = TEXTS.run_with_cache(inputs)
        ours = av.direct_logit_attribution(TEXTS, inputs, answer=RIGHT, alternative=WRONG)
    found = cache.logit_attrs(cache.decompose_resid(), RIGHT, WRONG)[:, 0, -1]
    close(found[1::2], torch.tensor(ours.attn))
    close(found[2::2], torch.tensor(ours.mlp))


@line(
    "ActivationCache",
    "logit_lens",
    why="`av.logit_lens` is the one that knows spans, media and batches",
)
def _(on):
    close(on.cache.logit_lens().values[-1], on.logits[:, -1])


@line("ActivationCache", "stack_activation", "get_neuron_results", "compute_head_results")
def _(on, name):
    if name == "stack_activation":
        assert torch.equal(on.cache.stack_activation("resid_mid")[1], on.cache["resid_mid", 1])
    elif name == "get_neuron_results":
        close(on.cache.get_neuron_results(1).sum(dim=-2), on.cache["mlp_out", 1])
    else:
        on.model.run_with_cache(on.clean)[1].compute_head_results()


@line("ActivationCache", "keys", "values", "items", "to")
def _(on, name):
    got = getattr(on.cache, name)
    assert len(got("cpu") if name == "to" else got()) == len(on.cache)


@line("ActivationCache", "remove_batch_dim", here="differs", why="rows of encoders have no batch axis, and stay")
def _(on):
    with torch.no_grad():
        _, cache = on.model.run_with_cache(on.clean)
    assert torch.equal(cache.remove_batch_dim()["resid_pre", 1], on.cache["resid_pre", 1][0])


@line("ActivationCache", "apply_slice_to_batch_dim")
def _(on):
    assert torch.equal(on.cache.apply_slice_to_batch_dim(0)["resid_pre", 1], on.cache["resid_pre", 1][0])


@line("ActivationCache", "toggle_autodiff", why="it switches gradients for the whole process, as it says")
def _(on):
    on.cache.toggle_autodiff(False)
    assert not torch.is_grad_enabled()
    torch.set_grad_enabled(True)


@line("ActivationCache", "ssm_layers", why="none")
def _(on):
    assert on.cache.ssm_layers() == []


@line("ActivationCache", "compute_ssm_effective_attention", "compute_ssm_state", here="refused",
      why="there is no state-space layer here")  # fmt: skip
def _(on, name):
    with pytest.raises(RuntimeError, match="No SSM mixer"):
        getattr(on.cache, name)()


# --- heads, weights, texts -------------------------------------------------------------------------------------------


@line("head_detector", "detect_head", here="differs", kinds=("text",),
      why="texts of one list need as many tokens each; patterns are made when its cache asks")  # fmt: skip
def _(on):
    model, text = texts(), "the cat and the cat and the dog"
    with torch.no_grad():
        scores = head_detector.detect_head(model, text, "previous_token_head")
        _, cache = model.run_with_cache(text, names_filter="blocks.*.attn.hook_pattern")
    pattern = cache["pattern", 1][0]
    close(scores[1], pattern.diagonal(offset=-1, dim1=1, dim2=2).sum(dim=1) / pattern.sum(dim=(1, 2)))
    with pytest.raises(InputsError, match="same number of tokens"):
        head_detector.detect_head(model, [text, "a b"], "previous_token_head")


@line("head_detector", "get_previous_token_head_detection_pattern", "get_duplicate_token_head_detection_pattern",
      "get_induction_head_detection_pattern", kinds=("text",))  # fmt: skip
def _(on, name):
    assert getattr(head_detector, name)(on.clean).shape == (on.n_pos, on.n_pos)


@line("head_detector", "compute_head_attention_similarity_score")
def _(on):
    pattern = on.cache["pattern", 1][0, HEAD]
    same = torch.ones(on.n_pos, on.n_pos).tril()
    arguments = {"exclude_bos": False, "exclude_current_token": False, "error_measure": "mul"}
    assert head_detector.compute_head_attention_similarity_score(pattern, same, **arguments) == pytest.approx(1)


@line("head_detector", "get_supported_heads", kinds=("text",))
def _(on):
    head_detector.get_supported_heads()


@line("transformer_lens", "SVDInterpreter", "FactoredMatrix", here="differs",
      why="`OV` and `QK` repeat key/value heads, one entry for each head")  # fmt: skip
def _(on):
    model, block = on.model, on.model.blocks[1]
    group = model.cfg.n_heads // model.cfg.n_key_value_heads
    close(block.attn.OV[3].AB, block.attn.W_V[3 // group] @ block.attn.W_O[3])
    close(model.QK[1, 3].AB, block.attn.W_Q[3] @ block.attn.W_K[3 // group].T)
    found = SVDInterpreter(model).get_singular_vectors("OV", 1, 2, head_index=3)
    V = transformer_lens.FactoredMatrix(block.attn.W_V[3 // group], block.attn.W_O[3]).V.T
    close(found[:, 0], model.W_U.T @ V[:2].T)


@line(
    "transformer_lens", "TransformerLensModelWithWeights", why="our models are instances of TransformerLens's protocol"
)
def _(on):
    assert isinstance(on.model, TransformerLensModelWithWeights)


@line("utilities", "test_prompt", kinds=("text",))
def _(on):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), torch.no_grad():
        utilities.test_prompt("Hello there", " world", texts(), top_k=2)
    probabilities = texts()("Hello there")[0, -1].softmax(-1)
    rank = int((probabilities > probabilities[texts().to_single_token(" world")]).sum())
    assert f"(' world', {rank})" in said.getvalue().replace("\n", "")


@line("utilities", "get_act_name")
def _(on):
    names = [("q_input", 1), ("attn_in", 1), ("mlp_in", 1), ("pattern", 1), ("resid_post", 1), ("scale", 1, "ln1")]
    seen = []
    hooks = [(utilities.get_act_name(*name), lambda tensor, hook: seen.append(hook.name)) for name in names]
    with torch.no_grad():
        for hook in hooks:
            on.model.run_with_hooks(on.clean, fwd_hooks=[hook])
    assert len(seen) == len(names)


@line("utilities", "lm_cross_entropy_loss", kinds=("text",))
def _(on):
    with torch.no_grad():
        close(utilities.lm_cross_entropy_loss(on.logits, on.clean), on.model(on.clean, return_type="loss"))
        each = utilities.lm_cross_entropy_loss(on.logits, on.clean, per_token=True)
        close(each, on.model(on.clean, return_type="loss", loss_per_token=True))


@line("utilities", "lm_accuracy", "logits_to_df", "sample_logits", kinds=("text",))
def _(on, name):
    calls = {
        "lm_accuracy": lambda: utilities.lm_accuracy(on.logits, on.clean),
        "logits_to_df": lambda: utilities.logits_to_df(on.logits[0, -1]),
        "sample_logits": lambda: utilities.sample_logits(on.logits[:, -1], temperature=0.0),
    }
    found = calls[name]()
    if name == "sample_logits":
        assert found.tolist() == on.logits[:, -1].argmax(-1).tolist()


@line("utilities", "composition_scores", "get_matrix_corner")
def _(on, name):
    scores = utilities.composition_scores(on.model.OV, on.model.OV)
    all_pairs = on.model.all_composition_scores("V")
    close(all_pairs[0, :, 1], scores[0, :, 1])
    assert not all_pairs[1, :, 0].any()
    product = on.model.OV[0, 1].AB @ on.model.OV[1, 2].AB
    close(scores[0, 1, 1, 2], product.norm() / on.model.OV[0, 1].norm() / on.model.OV[1, 2].norm())


@line("utilities", "remove_batch_dim", "repeat_along_head_dimension", "to_numpy", "Slice", "is_square",
      "is_lower_triangular", "get_corner", "transpose", "get_cumsum_along_dim")  # fmt: skip
def _(on):
    assert torch.equal(utilities.remove_batch_dim(on.cache["resid_pre", 0]), on.cache["resid_pre", 0][0])
    assert utilities.Slice((1, 3)).apply(on.cache["resid_pre", 0], dim=1).shape[1] == 2


# --- tools.analysis --------------------------------------------------------------------------------------------------


@line("tools.analysis", "direct_logit_attribution")
def _(on):
    for unit in ("component", "head"):
        found = analysis.direct_logit_attribution(
            on.model, answer_tokens=RIGHT, incorrect_tokens=WRONG, unit=unit, cache=on.cache
        )
        close(found.attribution.sum(), metric(on.logits))


@line("tools.analysis", "attribution_patch", "EdgeAttributionConfig", "Node", here="differs",
      why='`granularity="node"` only: edges want key/value heads of their own')  # fmt: skip
def _(on):
    node = analysis.EdgeAttributionConfig(granularity="node")
    found = analysis.attribution_patch(on.model, on.clean, on.corrupt, metric, node)
    name, kept = "blocks.1.hook_mlp_out", {}
    hook = (name, lambda gradient, hook: kept.update({name: gradient.clone()}))
    metric(on.model.run_with_hooks(on.corrupt, bwd_hooks=[hook])).backward()
    on.model.zero_grad()
    wanted = ((on.cache[name] - on.corrupt_cache[name]) * kept[name])[0, POS].sum()
    close(found.node_scores[analysis.Node(kind="mlp_out", layer=1, position=POS)], wanted)
    with pytest.raises(ValueError, match="GQA"):
        analysis.attribution_patch(on.model, on.clean, on.corrupt, metric, analysis.EdgeAttributionConfig("edge"))


@line("tools.analysis", "faithfulness", "FaithfulnessConfig", here="refused", why="it is of edges; the same")
def _(on):
    assert on.model.cfg.n_key_value_heads != on.model.cfg.n_heads


@line("tools.analysis", "get_act_patch_direct_path", "get_act_patch_direct_path_all_sources", here="differs",
      why="see patching")  # fmt: skip
def _(on, name):
    assert getattr(analysis, name) is getattr(patching, name)


BASES = ["SubspaceInterchange", "collect_activations", "run_with_intervention", "intervened_logits", "random_basis"]


@line("tools.analysis", *BASES, "NormMatchedPlacebo", "LearnedSubspace", "mean_difference_basis", "probe_basis",
      "neuron_basis", "random_neuron_basis", kinds=("text",))  # fmt: skip
def _(on):
    name, logits_of = "blocks.1.hook_resid_post", lambda tokens: on.model(tokens)[:, -1, :5]
    at_last = torch.tensor([on.n_pos - 1])
    source = analysis.collect_activations(on.model, name, on.clean, logits_of, positions=at_last)
    close(source, on.cache[name][:, -1])
    swap = analysis.SubspaceInterchange(torch.eye(on.model.cfg.d_model))
    with torch.no_grad():
        found = analysis.run_with_intervention(on.model, name, swap, on.corrupt, source, logits_of, positions=at_last)
        wanted = on.model(on.corrupt, interventions=av.patch(name, "last", on.cache))
    close(found, wanted[:, -1, :5])


@line("tools.analysis", "logit_lens", "logit_readout")
def _(on, name):
    if name == "logit_lens":
        close(analysis.logit_lens(on.model, cache=on.cache).values[-1], on.logits[:, -1])
    close(analysis.logit_readout(on.model, on.cache["resid_post", -1]).values, on.logits)


REFUSED = {
    "JacobianLens": "its `fit` wants a TransformerBridge",
    "attention_head_subspace_affinity": "it wants a TransformerBridge; `model.QK`, `model.OV`",
    "reinitialized": "it cannot reset the encoders; `av.random_omni(seed=)`",
}


@line("tools.analysis", *REFUSED, here="refused", why="see below", kinds=("text",))
def _(on, name):
    calls = {
        "JacobianLens": lambda: analysis.JacobianLens.fit(on.model, ["some text"], corpus="none"),
        "attention_head_subspace_affinity": lambda: analysis.attention_head_subspace_affinity(
            on.model, target_role="Q"
        ),
        "reinitialized": lambda: analysis.reinitialized(on.model, seed=0),
    }
    with pytest.raises((TypeError, ValueError, AttributeError, NotImplementedError)) as refused:
        calls[name]()
    assert "argument" not in str(refused.value)


# What takes tensors, files or devices, and no model.
WITHOUT_A_MODEL = {
    "tools.analysis": [
        "SubspaceBasis", "SparseProbeConvergenceError", "fit_sparse_probe", "sweep_sparse_probe", "JSpaceDecomposition",
        "orthonormal_subspace", "projection_kernel", "random_projection_kernel_moments", "fit_das", "arbitrary_targets",
        "get_sparse_decomposition", "solve_coordinate_patch", "random_init_bridge",
    ],
    "head_detector": [],
    "patching": [],
}  # fmt: skip


TEXTS = av.random_omni(n_layers=2)


def texts():
    return TEXTS


NEEDS_SHAPE = (
    "get_act_patch",
    "generic_activation",
    "make_df_from",
    "layer_pos_patch",
    "attribution_patch",
    "EdgeAttr",
    "Node",
)


@pytest.mark.usefixtures("as_a_user", "one_thread")
@pytest.mark.parametrize("one", LINES, ids=lambda one: f"{one.module}.{one.name}")
def test_it_does_what_the_page_says(one, on):
    if on.kind not in one.kinds:
        pytest.skip("it takes tokens only")
    if on.kind == "audio-visual" and not INDEXED and one.name.startswith(NEEDS_SHAPE):
        pytest.skip("prompts have no shape yet")
    one.does(on)


def public(module):
    """Functions and classes that a module shows as its own."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    own = vars(module).items()
    made = {name for name, found in own if callable(found) and getattr(found, "__module__", "") == module.__name__}
    return {
        name for name in made | {name for name in vars(module) if name.startswith("get_act_patch")} if name[0] != "_"
    }


@pytest.mark.parametrize("module", ["patching", "head_detector", "tools.analysis", "ActivationCache"])
def test_nothing_that_they_have_is_left_out(module):
    """A new release of TransformerLens with a new function fails here."""
    homes = {"patching": patching, "head_detector": head_detector, "tools.analysis": analysis}
    there = public(homes[module]) if module in homes else {name for name in vars(ActivationCache) if name[0] != "_"}
    listed = {one.name for one in LINES if one.module == module} | {*WITHOUT_A_MODEL.get(module, ())}
    assert there - listed == {"PatchingResult"} & there
    assert listed - there == set()


def test_there_is_an_entry_point_for_adapters_of_a_bridge_only():
    """What docs/transformer_lens.md says of it; our models are no adapters of theirs."""
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory as Factory

    assert "transformer_lens.architectures" in inspect.getsource(Factory.discover_entry_points)
    assert not [name for name in Factory._adapters if "Omni" in name]


# --- the page --------------------------------------------------------------------------------------------------------


def table():
    """The lines as the page shows them."""
    rows = ["| | what | here | |", "|---|---|---|---|"]
    last = ""
    for module in dict.fromkeys(one.module for one in LINES):
        for here in SHOW:
            for why in dict.fromkeys(one.why for one in LINES if (one.module, one.here) == (module, here)):
                lines = [one for one in LINES if (one.module, one.here, one.why) == (module, here, why)]
                names = ", ".join(f"`{one.name}`" for one in lines)
                rows.append(f"| {module if module != last else ''} | {names} | {here} | {why} |")
                last = module
    others = [f"| `{name}` | {why} |" for name, why in REFUSED.items()]
    return "\n".join(rows), "\n".join(["| refused | why, and what instead |", "|---|---|", *others])


@pytest.mark.parametrize("part", table())
def test_the_page_is_this_table(part):
    assert part in PAGE.read_text(encoding="utf-8"), f"write this into {PAGE}:\n{part}"
