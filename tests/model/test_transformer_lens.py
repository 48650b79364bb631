"""Every public function of TransformerLens's tools, on our models: what it gives, why it cannot, or why it has no use.

A line is a function, what is to be said of it here, and what is done with it: on text, and on a prompt with sound and
frames, against our own analysis or numbers made by hand. The page docs/transformer_lens.md must say what this file
does: `test_the_page_is_this_table`.
"""

import contextlib
import importlib
import inspect
import io
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FunctionType, SimpleNamespace

import pytest
import torch
import transformer_lens
import transformer_lens.patching as patching
import transformer_lens.utilities as utilities
from support.families import FAMILIES
from support.thinkers import PromptMaker
from transformer_lens import ActivationCache, SVDInterpreter, head_detector
from transformer_lens.model_protocol import TransformerLensModelWithWeights
from transformer_lens.tools import analysis

import hooked_av as av
from hooked_av.errors import HookedAVWarning, InputsError

PAGE = Path(__file__).parents[2] / "docs" / "transformer_lens.md"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
RIGHT, WRONG = 7, 19
MODEL, TEXTS = FAMILIES["omni"].model, av.random_omni(n_layers=2)
# One cell of a frame and 80 ms of sound: patching goes over every (query, key) of every head, a run each.
CLIP = PromptMaker(10).av(1, 1, 1, 8).text(1)
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
    """A model whose every parameter is random, a clean and a corrupted prompt, and what they give.

    `pos` is a position that the corruption changes, and the one before it, too: else patching it would show nothing.
    """
    clean, corrupt, pos = torch.tensor([[5, 9, 3, 12]]), torch.tensor([[5, 40, 3, 12]]), 2
    if request.param == "audio-visual":
        clean = MODEL.inputs_from_tensors(**CLIP.tensors())
        other = {name: value.roll(1, -1) for name, value in clean.features.items() if value.is_floating_point()}
        corrupt, pos = replace(clean, features={**clean.features, **other}), 3
        assert clean.spans["video"].positions.tolist() == [pos - 1]
        assert clean.spans["audio"].positions.tolist() == [pos, pos + 1]
    with torch.no_grad():
        logits, cache = MODEL.run_with_cache(clean)
        corrupt_logits, corrupt_cache = MODEL.run_with_cache(corrupt)
    found = {"clean": clean, "corrupt": corrupt, "logits": logits, "cache": cache, "n_pos": logits.shape[1]}
    found |= {"corrupt_logits": corrupt_logits, "corrupt_cache": corrupt_cache, "pos": pos, "kind": request.param}
    return SimpleNamespace(**found, ids=clean.input_ids if request.param == "audio-visual" else clean)


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
        found = metric(MODEL.run_with_hooks(on.corrupt, fwd_hooks=[(name, edit)]))
    assert abs(found - metric(on.corrupt_logits)) > 10 * CLOSE["atol"], "a patch that does nothing shows nothing"
    return found


def at(*index):
    def write(tensor, clean):
        tensor[index] = clean[index]

    return write


LAYER, HEAD = 1, 1


def index(on, words):
    known = {"layer": LAYER, "pos": on.pos, "key": on.pos - 1, "head": HEAD, "all": slice(None)}
    return tuple(known[word] for word in words.split())


# What is patched: a hook point, the cell of TransformerLens's table that is looked at, and what of the hook it writes.
CELLS = {
    "resid_pre": ("hook_resid_pre", "layer pos", "all pos"),
    "resid_mid": ("hook_resid_mid", "layer pos", "all pos"),
    "attn_out": ("hook_attn_out", "layer pos", "all pos"),
    "mlp_out": ("hook_mlp_out", "layer pos", "all pos"),
    "attn_head_out_by_pos": ("attn.hook_z", "layer pos head", "all pos head"),
    "attn_head_q_by_pos": ("attn.hook_q", "layer pos head", "all pos head"),
    "attn_head_out_all_pos": ("attn.hook_z", "layer head", "all all head"),
    "attn_head_q_all_pos": ("attn.hook_q", "layer head", "all all head"),
    "attn_head_pattern_all_pos": ("attn.hook_pattern", "layer head", "all head"),
    "attn_head_pattern_by_pos": ("attn.hook_pattern", "layer head pos", "all head pos"),
    "attn_head_pattern_dest_src_pos": ("attn.hook_pattern", "layer head pos key", "all head pos key"),
}
KEY_HEADS = {
    "attn_head_k_by_pos": ("attn.hook_k", "layer pos head", "all pos head"),
    "attn_head_v_by_pos": ("attn.hook_v", "layer pos head", "all pos head"),
    "attn_head_k_all_pos": ("attn.hook_k", "layer head", "all all head"),
    "attn_head_v_all_pos": ("attn.hook_v", "layer head", "all all head"),
}


def cell_of(on, name):
    """Where TransformerLens's table has it, and the number that belongs there."""
    point, cell, written = {**CELLS, **KEY_HEADS}[name]
    return index(on, cell), patched(on, f"blocks.{LAYER}.{point}", at(*index(on, written)))


@line("patching", *(f"get_act_patch_{name}" for name in CELLS))
@line("patching", *(f"get_act_patch_{name}" for name in KEY_HEADS), why="one column for each key/value head")
def _(on, name):
    with torch.no_grad():
        found = getattr(patching, name)(MODEL, on.corrupt, on.cache, metric)
    name = name.removeprefix("get_act_patch_")
    sizes = {"layer": MODEL.cfg.n_layers, "pos": on.n_pos, "key": on.n_pos, "head": MODEL.cfg.n_heads}
    sizes |= {"head": MODEL.cfg.n_key_value_heads} if name in KEY_HEADS else {}
    cell, wanted = cell_of(on, name)
    assert found.shape == tuple(sizes[word] for word in {**CELLS, **KEY_HEADS}[name][1].split())
    close(found[cell], wanted)


@line("patching", "generic_activation_patch", "make_df_from_ranges", "layer_pos_patch_setter")
def _(on):
    cells = patching.make_df_from_ranges([MODEL.cfg.n_layers, on.n_pos], ["layer", "pos"]).query(f"pos == {on.pos}")
    with torch.no_grad():
        found = patching.generic_activation_patch(
            MODEL, on.corrupt, on.cache, metric, patching.layer_pos_patch_setter, "resid_pre",
            index_df=cells.reset_index(drop=True),
        )  # fmt: skip
    close(found[LAYER], cell_of(on, "resid_pre")[1])


@line("patching", "PatchingResult", why='`reduce="none"`, `baseline=True`')
def _(on):
    of_each = {"reduce": "none", "baseline": True}
    with torch.no_grad():
        found = patching.get_act_patch_resid_pre(MODEL, on.corrupt, on.cache, lambda x: metric(x)[None], **of_each)
    assert isinstance(found, patching.PatchingResult)
    cell, wanted = cell_of(on, "resid_pre")
    close(found.effect()[(*cell, 0)], wanted - metric(on.corrupt_logits))
    base, clean = metric(on.corrupt_logits), metric(on.logits)
    close(found.normalized(clean[None])[(*cell, 0)], (wanted - base) / (clean - base))


SETTERS = {
    "layer_pos_head_vector_patch_setter": ("z", "layer pos head", "all pos head"),
    "layer_head_vector_patch_setter": ("z", "layer head", "all all head"),
    "layer_head_pattern_patch_setter": ("pattern", "layer head", "all head"),
    "layer_head_pos_pattern_patch_setter": ("pattern", "layer head pos", "all head pos"),
    "layer_head_dest_src_pos_pattern_patch_setter": ("pattern", "layer head pos key", "all head pos key"),
}


@line("patching", *SETTERS)
def _(on, name):
    what, numbers, where = SETTERS[name]
    clean, corrupt = on.cache[what, LAYER, "attn"], on.corrupt_cache[what, LAYER, "attn"].clone()
    wanted = corrupt.clone()
    at(*index(on, where))(wanted, clean)
    assert not torch.equal(wanted, corrupt)
    assert torch.equal(getattr(patching, name)(corrupt, list(index(on, numbers)), clean), wanted)


@line("patching", "get_act_patch_block_every")
def _(on):
    with torch.no_grad():
        found = patching.get_act_patch_block_every(MODEL, on.corrupt, on.cache, metric)
    for place, name in enumerate(("resid_pre", "attn_out", "mlp_out")):
        cell, wanted = cell_of(on, name)
        close(found[(place, *cell)], wanted)


@line("patching", "get_act_patch_attn_head_all_pos_every", "get_act_patch_attn_head_by_pos_every",
      why="keys and values have one column for each key/value head, and zeros behind")  # fmt: skip
def _(on, name):
    with torch.no_grad():
        found = getattr(patching, name)(MODEL, on.corrupt, on.cache, metric)
    where = name.removeprefix("get_act_patch_attn_head_").removesuffix("_every")
    for place, which in enumerate(("out", "q", "k", "v", "pattern")):
        cell, wanted = cell_of(on, f"attn_head_{which}_{where}")
        # Patterns by position are [layer head pos]; beside the others TransformerLens has them as [layer pos head].
        cell = (cell[0], cell[2], cell[1]) if (which, where) == ("pattern", "by_pos") else cell
        close(found[(place, *cell)], wanted)
    assert not found[2:4, ..., MODEL.cfg.n_key_value_heads :].any()


@line("patching", "get_act_patch_direct_path", here="differs", why='`component="q"` only: key/value heads are shared')
def _(on):
    with torch.no_grad(), pytest.warns(HookedAVWarning, match="nothing to switch on"):
        found = patching.get_act_patch_direct_path(
            MODEL, on.corrupt, on.cache, on.corrupt_cache, metric, 0, HEAD, verbose=False
        )
    change = (on.cache["z", 0] - on.corrupt_cache["z", 0])[:, :, HEAD] @ MODEL.blocks[0].attn.W_O[HEAD]

    def edit(copies, hook):
        copies = copies.clone()
        copies[:, :, 2] += change
        return copies

    with torch.no_grad():
        wanted = MODEL.run_with_hooks(on.corrupt, fwd_hooks=[("blocks.1.hook_q_input", edit)])
    close(found[1, 2], metric(wanted))
    with pytest.raises(ValueError, match="GQA"):
        patching.get_act_patch_direct_path(
            MODEL, on.corrupt, on.cache, on.corrupt_cache, metric, 0, HEAD, component="k"
        )


@line("patching", "get_act_patch_direct_path_all_sources", here="differs", why="the same")
def _(on):
    one, every = (
        partial(getattr(patching, name), MODEL, on.corrupt, on.cache, on.corrupt_cache, metric, verbose=False)
        for name in ("get_act_patch_direct_path", "get_act_patch_direct_path_all_sources")
    )
    with torch.no_grad(), pytest.warns(HookedAVWarning):
        close(every()[0, HEAD], one(0, HEAD))


# --- the cache -------------------------------------------------------------------------------------------------------


def read(parts):
    """Parts behind the final norm, as a logit difference at the last position."""
    return parts[:, 0, -1] @ (MODEL.W_U[:, RIGHT] - MODEL.W_U[:, WRONG])


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
        cache = MODEL.run_with_cache(on.clean)[1]
        cache.compute_head_results()
        close(cache["result", 1].sum(dim=-2), cache["attn_out", 1])


@line("ActivationCache", "keys", "values", "items", "to")
def _(on, name):
    if name == "to":
        with torch.no_grad():
            _, cache = MODEL.run_with_cache(on.clean, names_filter="blocks.1.hook_resid_pre")
        assert cache.to(torch.float64)["resid_pre", 1].dtype == torch.float64
        return
    pairs = [(key, on.cache[key]) for key in on.cache]
    wanted = {"keys": [key for key, _ in pairs], "values": [value for _, value in pairs], "items": pairs}[name]
    for found, one in zip(getattr(on.cache, name)(), wanted, strict=True):
        assert found == one if name == "keys" else found is one or all(a is b for a, b in zip(found, one, strict=True))


@line("ActivationCache", "remove_batch_dim", here="differs", why="rows of encoders have no batch axis, and stay")
def _(on):
    with torch.no_grad():
        _, cache = MODEL.run_with_cache(on.clean)
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
    model, text = TEXTS, "the cat and the cat and the dog"
    with torch.no_grad():
        scores = head_detector.detect_head(model, text, "previous_token_head")
        _, cache = model.run_with_cache(text, names_filter="blocks.*.attn.hook_pattern")
    pattern = cache["pattern", 1][0]
    close(scores[1], pattern.diagonal(offset=-1, dim1=1, dim2=2).sum(dim=1) / pattern.sum(dim=(1, 2)))
    with pytest.raises(InputsError, match="same number of tokens"):
        head_detector.detect_head(model, [text, "a b"], "previous_token_head")


@line("head_detector", "get_previous_token_head_detection_pattern", "get_duplicate_token_head_detection_pattern",
      "get_induction_head_detection_pattern", why="they take token ids: of a prompt, `inputs.input_ids`")  # fmt: skip
def _(on, name):
    ids = torch.cat([on.ids, on.ids], dim=1)
    row, at_row = ids[0], range(ids.shape[1])
    same = [[query > key and bool(row[query] == row[key]) for key in at_row] for query in at_row]
    wanted = {
        "previous": [[query == key + 1 for key in at_row] for query in at_row],
        "duplicate": same,
        "induction": [[0 < key <= query and same[query][key - 1] for key in at_row] for query in at_row],
    }[name.split("_")[1]]
    assert getattr(head_detector, name)(ids).bool().tolist() == wanted


@line("head_detector", "compute_head_attention_similarity_score")
def _(on):
    pattern = on.cache["pattern", 1][0, HEAD]
    previous = head_detector.get_previous_token_head_detection_pattern(on.ids)
    more = {"exclude_bos": False, "exclude_current_token": False}
    score = head_detector.compute_head_attention_similarity_score
    close(score(pattern, previous, error_measure="mul", **more), pattern.diagonal(-1).sum() / pattern.sum())
    close(
        score(pattern, previous, error_measure="abs", **more),
        1 - (pattern - previous).abs().sum(-1).mean().round(decimals=3),
    )


@line("head_detector", "get_supported_heads")
def _(on):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        head_detector.get_supported_heads()
    assert "induction_head" in said.getvalue()


@line("transformer_lens", "SVDInterpreter", "FactoredMatrix", here="differs",
      why="`OV` and `QK` repeat key/value heads, one entry for each head")  # fmt: skip
def _(on):
    model, block = MODEL, MODEL.blocks[1]
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
    assert isinstance(MODEL, TransformerLensModelWithWeights)


@line("utilities", "test_prompt", kinds=("text",))
def _(on):
    with contextlib.redirect_stdout(io.StringIO()) as said, torch.no_grad():
        utilities.test_prompt("Hello there", " world", TEXTS, top_k=2)
    probabilities = TEXTS("Hello there")[0, -1].softmax(-1)
    rank = int((probabilities > probabilities[TEXTS.to_single_token(" world")]).sum())
    assert f"(' world', {rank})" in said.getvalue().replace("\n", "")


@line("utilities", "get_act_name")
def _(on):
    names = [("q_input", 1), ("attn_in", 1), ("mlp_in", 1), ("pattern", 1), ("resid_post", 1), ("scale", 1, "ln1")]
    seen = []
    hooks = [(utilities.get_act_name(*name), lambda tensor, hook: seen.append(hook.name)) for name in names]
    with torch.no_grad():
        for hook in hooks:
            MODEL.run_with_hooks(on.clean, fwd_hooks=[hook])
    assert len(seen) == len(names)


@line("utilities", "lm_cross_entropy_loss", here="differs",
      why='it counts ids of media, which nothing predicts: `return_type="loss"` leaves them out')  # fmt: skip
def _(on):
    each = utilities.lm_cross_entropy_loss(on.logits, on.ids, per_token=True)
    log_p = on.logits.log_softmax(-1)
    close(each[0], torch.stack([-log_p[0, at, on.ids[0, at + 1]] for at in range(on.n_pos - 1)]))
    close(utilities.lm_cross_entropy_loss(on.logits, on.ids), each.mean())
    with torch.no_grad():
        ours = MODEL(on.clean, return_type="loss", loss_per_token=True)
        mean = MODEL(on.clean, return_type="loss")
    text = ~ours.isnan()
    assert bool(text.all()) == (on.kind == "text")
    close(ours[text], each[text])
    close(mean, each[text].mean())


@line("utilities", "lm_accuracy", here="differs", why="it counts ids of media, too")
def _(on):
    likely = on.logits[0].argmax(-1)
    ids = on.ids.clone()
    ids[0, 1:3] = likely[:2]
    right = [bool(likely[at] == ids[0, at + 1]) for at in range(on.n_pos - 1)]
    assert utilities.lm_accuracy(on.logits, ids, per_token=True).tolist() == [right]
    assert utilities.lm_accuracy(on.logits, ids).item() == pytest.approx(sum(right) / len(right))
    assert 0 < sum(right) < len(right)


@line("utilities", "logits_to_df")
def _(on):
    logits = on.logits[0, -1]
    found, order = utilities.logits_to_df(logits), logits.argsort(descending=True)
    assert found.token_index.tolist() == order.tolist()
    close(found.logit.tolist(), logits[order])
    close(found.log_prob.tolist(), logits.log_softmax(-1)[order])
    close(found.probability.tolist(), logits.softmax(-1)[order])
    with torch.no_grad():
        logits = TEXTS("Hello there")[0, -1]
    top = utilities.logits_to_df(logits, tokenizer=TEXTS.tokenizer, top_k=3)
    assert top.token_string.tolist() == [TEXTS.to_string([one]) for one in logits.topk(3).indices.tolist()]


@line("utilities", "sample_logits")
def _(on):
    likely = on.logits[:, -1].argmax(-1).tolist()
    assert utilities.sample_logits(on.logits[:, -1], temperature=0.0).tolist() == likely
    assert utilities.sample_logits(on.logits[:, -1], top_k=1).tolist() == likely
    punished = {"tokens": torch.tensor([likely]), "repetition_penalty": 100.0, "temperature": 0.0}
    assert utilities.sample_logits(on.logits[:, -1], **punished).tolist() != likely


@line("utilities", "composition_scores", "get_matrix_corner")
def _(on, name):
    if name == "get_matrix_corner":
        close(utilities.get_matrix_corner(MODEL.OV[0, 1], 2), MODEL.OV[0, 1].AB[:2, :2])
        return
    scores = utilities.composition_scores(MODEL.OV, MODEL.OV)
    all_pairs = MODEL.all_composition_scores("V")
    close(all_pairs[0, :, 1], scores[0, :, 1])
    assert not all_pairs[1, :, 0].any()
    product = MODEL.OV[0, 1].AB @ MODEL.OV[1, 2].AB
    close(scores[0, 1, 1, 2], product.norm() / MODEL.OV[0, 1].norm() / MODEL.OV[1, 2].norm())


OF_TENSORS = {  # of a cached stream [batch pos d_model] and pattern [batch head query key]
    "remove_batch_dim": lambda resid, pattern: (utilities.remove_batch_dim(resid), resid[0]),
    "repeat_along_head_dimension": lambda resid, pattern: (
        utilities.repeat_along_head_dimension(resid, 3),
        torch.stack([resid] * 3, dim=2),
    ),
    "to_numpy": lambda resid, pattern: (torch.from_numpy(utilities.to_numpy(resid)), resid),
    "Slice": lambda resid, pattern: (utilities.Slice((1, 3)).apply(resid, dim=1), resid[:, 1:3]),
    "is_square": lambda resid, pattern: (torch.tensor(utilities.is_square(pattern[0, 0])), torch.tensor(True)),
    "is_lower_triangular": lambda resid, pattern: (
        torch.tensor([utilities.is_lower_triangular(one) for one in (pattern[0, 0], pattern[0, 0].T)]),
        torch.tensor([True, False]),
    ),
    "get_corner": lambda resid, pattern: (utilities.get_corner(pattern, 2), pattern[:2, :2, :2, :2]),
    "transpose": lambda resid, pattern: (utilities.transpose(pattern), pattern.mT),
    "get_cumsum_along_dim": lambda resid, pattern: (
        utilities.get_cumsum_along_dim(pattern, -1, reverse=True),
        pattern.flip(-1).cumsum(-1).flip(-1),
    ),
}


@line("utilities", *OF_TENSORS)
def _(on, name):
    found, wanted = OF_TENSORS[name](on.cache["resid_pre", 1], on.cache["pattern", 1])
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)


@line("utilities", "filter_dict_by_prefix")
def _(on):
    of_layer = utilities.filter_dict_by_prefix(dict(on.cache.items()), "blocks.1")
    assert torch.equal(of_layer["hook_resid_pre"], on.cache["resid_pre", 1])


@line("utilities", "get_nested_attr", "set_nested_attr", "temporarily_swap_parameter")
def _(on, name):
    norm = MODEL.blocks[1].ln2.weight
    assert utilities.get_nested_attr(MODEL, "blocks.1.ln2.weight") is norm
    if name == "set_nested_attr":
        utilities.set_nested_attr(MODEL, "blocks.1.ln2.weight", norm)
        assert MODEL.blocks[1].ln2.weight is norm
    if name == "temporarily_swap_parameter":
        with torch.no_grad(), utilities.temporarily_swap_parameter(norm, torch.zeros_like(norm)):
            _, cache = MODEL.run_with_cache(on.clean)
        assert not cache["mlp_out", 1].any()
        with torch.no_grad():
            assert torch.equal(MODEL(on.clean), on.logits)


@line("utilities", "get_attention_mask", "get_tokens_with_bos_removed", "get_tokenizer_with_bos",
      "get_input_with_manually_prepended_bos", kinds=("text",),
      why="there is no BOS, so none is put in or taken away")  # fmt: skip
def _(on, name):
    tokenizer, tokens = TEXTS.tokenizer, TEXTS.to_tokens("the cat and the cat")
    found, wanted = {
        "get_attention_mask": lambda: (utilities.get_attention_mask(tokenizer, tokens, False).tolist(), [[1] * 5]),
        "get_tokens_with_bos_removed": lambda: (utilities.get_tokens_with_bos_removed(tokenizer, tokens), tokens),
        "get_tokenizer_with_bos": lambda: (utilities.get_tokenizer_with_bos(tokenizer), tokenizer),
        "get_input_with_manually_prepended_bos": lambda: (
            utilities.get_input_with_manually_prepended_bos(tokenizer.bos_token, "the"),
            "the",
        ),
    }[name]()
    assert found is wanted or found == wanted


@line(
    "utilities", "find_embedding_device", "count_unique_devices", why="a model here is on one device", kinds=("text",)
)
def _(on, name):
    assert getattr(utilities, name)(MODEL) == (1 if name.startswith("count") else None)


@line("utilities", "LocallyOverridenDefaults", "move_to_and_update_config", "ModelWithCfg", here="refused",
      why="`cfg` is read only: `prepend_bos=`, `padding_side=` of a call, and `model.to`", kinds=("text",))  # fmt: skip
def _(on, name):
    calls = {
        "LocallyOverridenDefaults": lambda: utilities.LocallyOverridenDefaults(MODEL, prepend_bos=True).__enter__(),
        "move_to_and_update_config": lambda: utilities.move_to_and_update_config(MODEL, "cpu", print_details=False),
    }
    with pytest.raises(AttributeError, match="cannot assign to field"):
        calls.get(name, calls["move_to_and_update_config"])()


# --- tools.analysis --------------------------------------------------------------------------------------------------


@line("tools.analysis", "direct_logit_attribution")
def _(on):
    for unit in ("component", "head"):
        found = analysis.direct_logit_attribution(
            MODEL, answer_tokens=RIGHT, incorrect_tokens=WRONG, unit=unit, cache=on.cache
        )
        close(found.attribution.sum(), metric(on.logits))


@line("tools.analysis", "attribution_patch", "EdgeAttributionConfig", "Node", here="differs",
      why='`granularity="node"` only: edges want key/value heads of their own')  # fmt: skip
def _(on):
    node = analysis.EdgeAttributionConfig(granularity="node")
    found = analysis.attribution_patch(MODEL, on.clean, on.corrupt, metric, node)
    name, kept = "blocks.1.hook_mlp_out", {}
    hook = (name, lambda gradient, hook: kept.update({name: gradient.clone()}))
    metric(MODEL.run_with_hooks(on.corrupt, bwd_hooks=[hook])).backward()
    MODEL.zero_grad()
    wanted = ((on.cache[name] - on.corrupt_cache[name]) * kept[name])[0, on.pos].sum()
    close(found.node_scores[analysis.Node(kind="mlp_out", layer=1, position=on.pos)], wanted)
    with pytest.raises(ValueError, match="GQA"):
        analysis.attribution_patch(MODEL, on.clean, on.corrupt, metric, analysis.EdgeAttributionConfig("edge"))


@line("tools.analysis", "faithfulness", "FaithfulnessConfig", here="refused", why="it is of edges; the same")
def _(on):
    edge = (analysis.Node("mlp_out", 0, on.pos), analysis.Node("mlp_in", 1, on.pos))
    with pytest.raises(ValueError, match="GQA"):
        analysis.faithfulness(MODEL, on.clean, on.corrupt, metric, [edge], analysis.FaithfulnessConfig("corrupt"))


@line("tools.analysis", "get_act_patch_direct_path", "get_act_patch_direct_path_all_sources", here="differs",
      why="see patching")  # fmt: skip
def _(on, name):
    assert getattr(analysis, name) is getattr(patching, name)


RESID, NEURONS = "blocks.1.hook_resid_post", "blocks.1.mlp.hook_post"


def classes(inputs):
    """What the tools of subspaces call task logits."""
    return MODEL(inputs)[:, -1, :5]


def last(on):
    return torch.tensor([on.n_pos - 1])


def moved(on, name, by_hand):
    """Task logits of the corrupted prompt, with what `by_hand` makes of its last activation and the clean one's."""

    def edit(tensor, hook):
        tensor = tensor.clone()
        tensor[:, -1] = by_hand(tensor[:, -1], on.cache[name][:, -1])
        return tensor

    with torch.no_grad():
        return MODEL.run_with_hooks(on.corrupt, fwd_hooks=[(name, edit)])[:, -1, :5]


@line("tools.analysis", "collect_activations", "run_with_intervention", "SubspaceInterchange")
def _(on):
    source = analysis.collect_activations(MODEL, RESID, on.clean, classes, positions=last(on))
    close(source, on.cache[RESID][:, -1])
    swap = analysis.SubspaceInterchange(torch.eye(MODEL.cfg.d_model))
    with torch.no_grad():
        found = analysis.run_with_intervention(MODEL, RESID, swap, on.corrupt, source, classes, positions=last(on))
        wanted = MODEL(on.corrupt, interventions=av.patch(RESID, "last", on.cache))
    close(found, wanted[:, -1, :5])
    assert not torch.equal(found, on.corrupt_logits[:, -1, :5])


BASES = {  # of last activations [clean or corrupt, d_model]: the hook point, and a basis of it
    "random_basis": (RESID, lambda rows: analysis.random_basis(MODEL.cfg.d_model, 4, seed=0)),
    "mean_difference_basis": (RESID, lambda rows: analysis.mean_difference_basis(rows, ["clean", "corrupt"])),
    "probe_basis": (RESID, lambda rows: analysis.probe_basis(rows[:1])),
    "orthonormal_subspace": (RESID, lambda rows: analysis.orthonormal_subspace(MODEL.W_U[:, :3].detach()).basis),
    "SubspaceBasis": (RESID, lambda rows: analysis.orthonormal_subspace(MODEL.W_U[:, :9].detach(), rank=3).basis),
    "LearnedSubspace": (RESID, lambda rows: analysis.LearnedSubspace(MODEL.cfg.d_model, 3).basis.detach()),
    "neuron_basis": (NEURONS, lambda rows: analysis.neuron_basis(MODEL.cfg.d_mlp, [3, 8, 60])),
    "random_neuron_basis": (NEURONS, lambda rows: analysis.random_neuron_basis(MODEL.cfg.d_mlp, 9, 0, exclude=[3])),
}


@line("tools.analysis", "intervened_logits", *BASES)
def _(on, name):
    hook, make = BASES.get(name, BASES["random_basis"])
    rows = torch.cat([on.cache[hook][:, -1], on.corrupt_cache[hook][:, -1]])
    basis = make(rows)
    close(basis.T @ basis, torch.eye(basis.shape[1]))
    swap = analysis.SubspaceInterchange(basis)
    found = analysis.intervened_logits(MODEL, hook, swap, on.corrupt, rows[:1], classes, positions=last(on))
    close(found, moved(on, hook, lambda base, source: base + (source - base) @ basis @ basis.T))
    assert (found - on.corrupt_logits[:, -1, :5]).abs().max() > 10 * CLOSE["atol"]


@line("tools.analysis", "NormMatchedPlacebo")
def _(on):
    whole, basis = torch.eye(MODEL.cfg.d_model), analysis.random_basis(MODEL.cfg.d_model, 4, seed=0)
    placebo = analysis.NormMatchedPlacebo(analysis.SubspaceInterchange(whole), basis)
    source = on.cache[RESID][:, -1]
    found = analysis.intervened_logits(MODEL, RESID, placebo, on.corrupt, source, classes, positions=last(on))

    def by_hand(base, source):
        move = (source - base) @ basis @ basis.T
        return base + move / move.norm() * (source - base).norm()

    close(found, moved(on, RESID, by_hand))


@line("tools.analysis", "fit_das")
def _(on):
    target = torch.tensor([int(on.corrupt_logits[0, -1, :5].argmin())])
    pair = (MODEL, RESID, on.corrupt, on.clean, target, classes)
    at_last = {"base_positions": last(on), "source_positions": last(on)}
    found = analysis.fit_das(*pair, rank=2, epochs=6, lr=0.1, **at_last)
    assert found.losses[-1] < found.losses[0]
    basis = found.basis
    wanted = moved(on, RESID, lambda base, source: base + (source - base) @ basis @ basis.T)
    swap = analysis.SubspaceInterchange(found.subspace)
    args = (MODEL, RESID, swap, on.corrupt, on.cache[RESID][:, -1], classes)
    close(analysis.intervened_logits(*args, positions=last(on)), wanted)


@line("tools.analysis", "logit_lens", "logit_readout")
def _(on, name):
    if name == "logit_lens":
        close(analysis.logit_lens(MODEL, cache=on.cache).values[-1], on.logits[:, -1])
    close(analysis.logit_readout(MODEL, on.cache["resid_post", -1]).values, on.logits)


REFUSED = {
    "JacobianLens": "its `fit` wants a TransformerBridge",
    "attention_head_subspace_affinity": "it wants a TransformerBridge; `model.QK`, `model.OV`",
    "reinitialized": "it cannot reset the encoders; `av.random_omni(seed=)`",
}


@line("tools.analysis", *REFUSED, here="refused", why="see below", kinds=("text",))
def _(on, name):
    calls = {
        "JacobianLens": lambda: analysis.JacobianLens.fit(MODEL, ["some text"], corpus="none"),
        "attention_head_subspace_affinity": lambda: analysis.attention_head_subspace_affinity(MODEL, target_role="Q"),
        "reinitialized": lambda: analysis.reinitialized(MODEL, seed=0),
    }
    with pytest.raises((TypeError, ValueError, AttributeError, NotImplementedError)) as refused:
        calls[name]()
    assert "argument" not in str(refused.value)


# What has no use for a model of ours or its prompts, and why.
NO_USE = {
    "tools.analysis": {
        "of tensors": """fit_sparse_probe sweep_sparse_probe SparseProbeConvergenceError projection_kernel
            random_projection_kernel_moments arbitrary_targets JSpaceDecomposition get_sparse_decomposition
            solve_coordinate_patch""",
        "makes a bridge": "random_init_bridge",
    },
    "utilities": {
        "of tensors and numbers": """gelu_new gelu_fast gelu_pytorch_tanh solu XIELU xielu relu2 softcap_enabled
            apply_softcap vanilla_addmm batch_addmm simple_attn_linear complex_attn_linear clamp_qkv check_structure
            get_offset_position_ids override_or_use_default_value to_python_int calc_fan_in_and_fan_out
            init_xavier_uniform_ init_xavier_normal_ init_kaiming_uniform_ init_kaiming_normal_ derive_generator
            standard_error bootstrap_ci sign_flip_permutation_pvalue SuccessRateInterval success_rate_ci
            TypedModuleList""",
        "of devices": """get_device warn_if_mps print_gpu_mem calculate_available_device_cuda_memory
            determine_available_memory_for_available_devices sort_devices_based_on_available_memory
            get_best_available_cuda_device get_best_available_device get_device_for_block_index resolve_device_map
            is_mixed_offload_gpu""",
        "of files, the hub and datasets": """is_library_available download_file_from_hf clear_huggingface_cache
            keep_single_column get_dataset select_compatible_kwargs get_rotary_pct_from_config tokenize_and_concatenate
            enable_hf_retry call_hf_with_retry get_hf_token autoconfig_with_remote_post_init_compat
            autotokenizer_with_special_token_compat enable_hf_numeric_tower make_post_init_kwarg_tolerant
            classify_model_name is_masked_lm_model is_encoder_decoder_model is_multimodal_model is_audio_model""",
        "of bridges, their caches and configs, and of models of transformers and tracr": """resolve_alias
            collect_aliases_recursive classify_architecture get_architectures_for_config classify_model_config
            force_eager_attention collect_all_submodules_of_component collect_components_of_block_bridge
            collect_all_components apply_fn_to_all_components get_pos_offset per_layer_attr_names per_layer_values
            majority_value safe_config_get HetSafeConfigView het_safe_view cast_floating_params_to_dtype
            maybe_cast_floating_params find_misplaced_modules accepts_mask_derived_position_ids unreadable_weight_reason
            quantization_method describe_quantization require_readable_weight convert_tl_checkpoint
            infer_tracr_output_label make_tracr_categorical_unembed make_tracr_transformer_bridge_config
            make_tracr_transformer_bridge_state_dict""",
    },
}


@pytest.mark.usefixtures("as_a_user", "one_thread")
@pytest.mark.parametrize("one", LINES, ids=lambda one: f"{one.module}.{one.name}")
def test_it_does_what_the_page_says(one, on):
    if on.kind not in one.kinds:
        pytest.skip("it takes text, or no prompt")
    one.does(on)


def made_in(module):
    """Functions and classes that a module defines, or shows as its own."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    made = {name for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__}
    made |= {name for name in vars(module) if name.startswith("get_act_patch")}  # made by partial
    return {name for name in made if name[0] != "_" and callable(vars(module)[name])}


def modules_of(package):
    return [importlib.import_module(f"{package.__name__}.{one.name}") for one in pkgutil.iter_modules(package.__path__)]


PUBLIC = {
    "patching": lambda: made_in(patching),
    "head_detector": lambda: made_in(head_detector),
    "tools.analysis": lambda: made_in(analysis),
    "utilities": lambda: set().union(*map(made_in, modules_of(utilities))),
    "ActivationCache": lambda: {name for name in vars(ActivationCache) if name[0] != "_"},
}


@pytest.mark.parametrize("module", PUBLIC)
def test_nothing_that_they_have_is_left_out(module):
    """A new release of TransformerLens with a new function fails here, and so does one that lost a function."""
    there = PUBLIC[module]()
    useless = [name for names in NO_USE.get(module, {}).values() for name in names.split()]
    listed = [*dict.fromkeys(one.name for one in LINES if one.module == module), *useless]
    assert sorted(listed) == sorted(there)


def test_a_new_function_would_be_seen(monkeypatch):
    """Wherever it comes: in a module, in a list of names, in a new file, in the cache."""
    import transformer_lens.utilities.matrix as matrix

    before = {module: names() for module, names in PUBLIC.items()}
    for home in (patching, head_detector, matrix, ActivationCache):
        novel = FunctionType(test_a_new_function_would_be_seen.__code__, {"__name__": home.__name__}, "novel")
        monkeypatch.setattr(home, "novel", novel, raising=False)
    monkeypatch.setattr(analysis, "__all__", [*analysis.__all__, "novel"])
    assert {module: names() - before[module] for module, names in PUBLIC.items()} == {key: {"novel"} for key in PUBLIC}


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
    useless = [
        f"| {module} | {', '.join(f'`{name}`' for name in names.split())} | {why} |"
        for module, by_reason in NO_USE.items()
        for why, names in by_reason.items()
    ]
    refused = ["| refused | why, and what instead |", "|---|---|", *others]
    return tuple(map("\n".join, (rows, refused, ["| | what | |", "|---|---|---|", *useless])))


@pytest.mark.parametrize("part", table())
def test_the_page_is_this_table(part):
    assert part in PAGE.read_text(encoding="utf-8"), f"write this into {PAGE}:\n{part}"
