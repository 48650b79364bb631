"""The encoders run once for the same inputs, and again whenever anything that they depend on has changed."""

import copy
import gc
import pickle
import threading
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformer_lens import patching
from transformer_lens.tools.analysis.attribution_patching import attribution_patch

import hooked_av.forward.encoded as encoded

pytestmark = [pytest.mark.usefixtures("each_family"), pytest.mark.usefixtures("one_thread")]
# Set for each family in turn.
FAMILY = MODEL = INPUTS = OTHER = None


def use(family):
    global FAMILY, MODEL, INPUTS, OTHER
    FAMILY = family
    MODEL = family.make_model()  # weights of its own, which tests write to
    INPUTS = MODEL.inputs_from_tensors(**family.tensors("audio in video"))
    OTHER = MODEL.inputs_from_tensors(**family.tensors("audio in video"))
    some = {name: x + 0.1 if x.is_floating_point() and x.ndim > 1 else x for name, x in OTHER.features.items()}
    OTHER = replace(OTHER, features=some)


@pytest.fixture
def runs(monkeypatch):
    """How often the encoders have run."""
    kind, count = type(MODEL.family), []
    encode = kind.encode

    def counted(self, encoders, features):
        count.append(1)
        return encode(self, encoders, features)

    monkeypatch.setattr(kind, "encode", counted)
    MODEL.encoded.clear()
    return count


def fresh(inputs=None):
    """Logits without the memory."""
    MODEL.encoded.clear()
    with torch.no_grad():
        return MODEL(INPUTS if inputs is None else inputs)


@torch.no_grad()
def test_the_encoders_run_once_for_the_same_inputs(runs):
    wanted, n = fresh(), len(runs)
    MODEL.encoded.clear()
    with MODEL.hooks(fwd_hooks=[("blocks.0.hook_resid_pre@last", lambda rows, hook: rows * 0)]):
        MODEL(INPUTS)
    assert torch.equal(MODEL(INPUTS), wanted)
    assert torch.equal(MODEL(INPUTS.with_span("mine", [0])), wanted)
    MODEL.run_with_cache(INPUTS, names_filter="hook_inputs_embed")
    assert len(runs) == n + 1
    MODEL(OTHER)
    assert torch.equal(MODEL(INPUTS), wanted)
    assert len(runs) == n + 2


@torch.no_grad()
def test_edits_behind_the_encoders_do_not_reach_the_memory(runs):
    wanted = fresh()
    edits = [lambda rows, hook: rows * 0, lambda rows, hook: rows.zero_(), lambda rows, hook: [rows.zero_(), None][1]]
    first = MODEL.run_with_hooks(INPUTS, fwd_hooks=[("hook_audio_embed", edits[0])])
    assert not torch.equal(first, wanted)
    for edit in edits[1:]:
        assert torch.equal(MODEL.run_with_hooks(INPUTS, fwd_hooks=[("hook_audio_embed", edit)]), first)
    assert torch.equal(MODEL(INPUTS), wanted)
    assert len(runs) == 1


def weights():
    return next(p for name, p in MODEL.encoders.named_parameters() if "q_proj.weight" in name or "attn" in name)


def in_place():
    weights().mul_(1.5)


def exchanged():
    weights().data = weights().data * 1.5


def converted():
    for module in MODEL.encoders.modules():  # not the tables beside the weights, which no checkpoint brings back
        if isinstance(module, torch.nn.Linear):
            module.to(torch.bfloat16).to(torch.float32)


def loaded():
    MODEL.encoders.load_state_dict({k: v * 1.1 for k, v in MODEL.encoders.state_dict().items()})


@pytest.mark.parametrize("change", [in_place, exchanged, converted, loaded])
@torch.no_grad()
def test_other_weights_are_encoded_with(change, runs):
    before = copy.deepcopy(MODEL.encoders.state_dict())
    wanted = fresh()
    change()
    with_memory = MODEL(INPUTS)
    assert torch.equal(with_memory, fresh())
    assert not torch.equal(with_memory, wanted)
    MODEL.encoders.load_state_dict(before)
    assert torch.equal(MODEL(INPUTS), wanted)


@torch.no_grad()
def test_features_that_were_written_to_are_encoded_again(runs):
    inputs = (
        OTHER[[0]] if len(OTHER) > 1 else replace(OTHER, features={k: v.clone() for k, v in OTHER.features.items()})
    )
    before = MODEL(inputs)
    next(x for x in inputs.features.values() if x.is_floating_point() and x.ndim > 1).mul_(0.5)
    after = MODEL(inputs)
    assert torch.equal(after, fresh(inputs))
    assert not torch.equal(after, before)


def test_gradients_go_through_the_encoders(runs):
    fresh()
    MODEL.zero_grad()
    for _ in range(2):
        MODEL(INPUTS)[0, -1, 3].backward()
    grads = [p.grad for p in MODEL.encoders.parameters() if p.grad is not None]
    assert grads
    assert any(bool(grad.any()) for grad in grads)
    assert len(runs) == 3
    MODEL.zero_grad()


def test_frozen_encoders_run_once_with_gradients_behind_them(runs):
    MODEL.encoders.requires_grad_(False)
    try:
        for _ in range(2):
            logits = MODEL(INPUTS)
            logits[0, -1, 3].backward()
        assert torch.equal(logits, fresh())
        assert len(runs) == 2
        MODEL.encoded.clear()
        with torch.inference_mode():
            MODEL(INPUTS)
        MODEL(INPUTS)[0, -1, 3].backward()  # rows made in inference mode could not
    finally:
        MODEL.encoders.requires_grad_(True)
        MODEL.zero_grad()


def watched(make):
    @torch.no_grad()
    def run(seen):
        handle = make(seen)
        try:
            for _ in range(3):
                MODEL(INPUTS)
        finally:
            handle.remove()

    return run


@watched
def torch_hook(seen):
    return next(iter(MODEL.encoders.values())).register_forward_hook(lambda *args: seen.append(1))


@watched
def hook_of_all_modules(seen):
    tower = next(iter(MODEL.encoders.values()))
    hook = lambda module, *args: seen.append(1) if module is tower else None  # noqa: E731
    return torch.nn.modules.module.register_module_forward_hook(hook)


class own_forward:
    def __init__(self, seen):
        self.tower = next(iter(MODEL.encoders.values()))
        run = self.tower.forward
        self.tower.forward = lambda *args, **kwargs: [seen.append(1), run(*args, **kwargs)][1]

    def remove(self):
        del self.tower.forward


@pytest.mark.parametrize("run", [torch_hook, hook_of_all_modules, watched(own_forward)])
def test_what_watches_the_encoders_sees_them_run(run, runs):
    fresh()
    seen = []
    run(seen)
    assert len(seen) == 3


@torch.no_grad()
def test_hooks_inside_the_encoders_fire_in_every_pass(runs):
    for name in FAMILY.audio_hooks:
        seen = []
        wanted = fresh()
        for _ in range(2):
            MODEL.run_with_hooks(INPUTS, fwd_hooks=[(name, lambda rows, hook, seen=seen: seen.append(hook.name))])
        assert seen == [name] * 2
        edited = MODEL.run_with_hooks(INPUTS, fwd_hooks=[(name, lambda rows, hook: rows * 0)])
        assert not torch.equal(edited, wanted)
        assert torch.equal(MODEL(INPUTS), wanted)
        _, cache = MODEL.run_with_cache(INPUTS, names_filter=name)
        assert name in cache.cache_dict


@torch.no_grad()
def test_little_is_kept_and_not_for_long(runs, monkeypatch):
    some = [replace(OTHER, features={k: v.clone() for k, v in OTHER.features.items()}) for _ in range(12)]
    for inputs in some:
        MODEL(inputs)
    assert len(MODEL.encoded._kept) == encoded.MAX_KEPT
    del some, inputs
    gc.collect()
    assert MODEL.encoded._kept == [], "the rows go with the features"
    monkeypatch.setattr(encoded, "MAX_BYTES", 10)
    wanted = MODEL(INPUTS)
    assert MODEL.encoded._kept == []
    assert torch.equal(MODEL(INPUTS), wanted)


@torch.no_grad()
def test_a_copy_of_a_model_has_a_memory_of_its_own(runs):
    fresh()
    assert copy.deepcopy(MODEL).encoded._kept == []
    assert pickle.loads(pickle.dumps(MODEL.encoded))._kept == []


@torch.no_grad()
def test_threads_share_it(runs):
    wanted = [fresh(INPUTS), fresh(OTHER)]
    found = [[], []]

    @torch.no_grad()
    def work(which):
        for _ in range(5):
            found[which].append(MODEL([INPUTS, OTHER][which]))

    threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(logits, wanted[which]) for which in (0, 1) for logits in found[which])


ACTS = st.lists(
    st.sampled_from(["run", "run", "other", "hook", "cache", "write weights", "write features", "clear", "inference"]),
    min_size=2,
    max_size=8,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=ACTS)
def test_whatever_happens_logits_are_those_without_it(acts):
    inputs = replace(INPUTS, features={k: v.clone() for k, v in INPUTS.features.items()})
    weight, before = weights(), weights().detach().clone()
    try:
        for act in acts:
            run_one(act, inputs, weight)
            with torch.no_grad():
                logits = MODEL(inputs)
            assert torch.equal(logits, fresh(inputs))
            with torch.no_grad():
                MODEL(inputs)
    finally:
        with torch.no_grad():
            weight.copy_(before)


@torch.no_grad()
def run_one(act, inputs, weight):
    if act == "write weights":
        weight.mul_(1.01)
    elif act == "write features":
        next(x for x in inputs.features.values() if x.is_floating_point() and x.ndim > 1).mul_(0.9)
    elif act == "clear":
        MODEL.encoded.clear()
    elif act == "inference":
        with torch.inference_mode():
            MODEL(inputs)
    elif act == "hook":
        MODEL.run_with_hooks(inputs, fwd_hooks=[("hook_audio_embed", lambda rows, hook: rows.mul_(2))])
    elif act == "cache":
        MODEL.run_with_cache(inputs, names_filter="hook_audio_embed")
    else:
        MODEL(inputs if act == "run" else OTHER)


# --- TransformerLens's own tools over audio-visual prompts -----------------------------------------------------------


@torch.no_grad()
def test_transformer_lens_patches_our_inputs(runs):
    """Every cell is a run of ours with that row patched; the encoders ran once for each prompt."""
    metric = lambda logits: logits[:, -1, 5].mean() - logits[:, -1, 7].mean()  # noqa: E731
    _, clean = MODEL.run_with_cache(INPUTS)
    found = patching.get_act_patch_resid_pre(MODEL, OTHER, clean, metric)
    assert len(runs) == 2
    assert found.shape == (MODEL.cfg.n_layers, OTHER.n_pos)
    wanted = fresh(OTHER)
    for layer, pos in [(0, 3), (1, OTHER.n_pos - 1), (2, OTHER.n_pos // 2)]:

        def put(resid, hook, pos=pos):
            resid[:, pos] = clean[hook.name][:, pos]
            return resid

        wanted = metric(MODEL.run_with_hooks(OTHER, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", put)]))
        assert found[layer, pos] == wanted


def test_transformer_lens_attributes_over_a_batch_of_our_inputs():
    metric = lambda logits: logits[0, -1, 5] - logits[0, -1, 7]  # noqa: E731
    clean, corrupt = MODEL.batch([INPUTS, OTHER]), MODEL.batch([OTHER, INPUTS])
    both = attribution_patch(MODEL, clean, corrupt, metric).node_scores
    one, other = (attribution_patch(MODEL, *pair, metric).node_scores for pair in ((INPUTS, OTHER), (OTHER, INPUTS)))
    assert both.keys() == one.keys()
    means = torch.tensor([(one[node] + other[node]) / 2 for node in both])
    torch.testing.assert_close(torch.tensor(list(both.values())), means, rtol=1e-3, atol=1e-5)
    MODEL.zero_grad()
