"""Specs: what they say, JSON and back, equal to transformers with masks or hooks, and refused where they do not fit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.interventions import interventions, keep_onlys
from support.thinkers import make_thinker, prompts

import hooked_av as av
from hooked_av.errors import ArgumentError, HookNameError, InterventionError, SpanError
from hooked_av.model.transformer import HookedAVTransformer

THINKER = make_thinker("eager", n_kv=2)
MODEL = HookedAVTransformer.from_hf(make_thinker(n_kv=2))
TENSORS = prompts()["audio in video"].tensors()
INPUTS = MODEL.inputs_from_tensors(**TENSORS)
N_POS, N_LAYERS = INPUTS.n_pos, MODEL.cfg.n_layers
INPUTS = INPUTS.with_span("question", range(N_POS - 6, N_POS)).with_span("everything", range(N_POS))
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*query rows have no key left:hooked_av.errors.HookedAVWarning"),
]


def logits(*specs):
    with torch.no_grad():
        return MODEL(INPUTS, interventions=list(specs))


def published(layer_hooks, tensors=TENSORS):
    """transformers with pre-hooks on its layers: number -> function of (args, kwargs)."""
    text_model = getattr(THINKER.model, "language_model", THINKER.model)
    handles = [
        text_model.layers[layer].register_forward_pre_hook(lambda module, a, kw, f=f: f(a, kw), with_kwargs=True)
        for layer, f in layer_hooks.items()
    ]
    try:
        THINKER.model.rope_deltas = None
        with torch.no_grad():
            return THINKER(**tensors).logits
    finally:
        for handle in handles:
            handle.remove()


# --- against transformers -------------------------------------------------------------------------------------------


SHORT = prompts()["text"].tensors()
WORDS = MODEL.inputs_from_tensors(**SHORT)
for row in range(WORDS.n_pos):
    WORDS = WORDS.with_span(f"own{row}", [row])
WORDS = WORDS.with_span("start", range(7)).with_span("middle", range(4, 12)).with_span("odd", range(1, WORDS.n_pos, 2))


@settings(max_examples=10, deadline=None)
@given(spec=keep_onlys(WORDS, N_LAYERS))
def test_keep_only_equals_transformers_with_a_mask(spec):
    # each token keeps itself: transformers' finfo.min makes a row without keys uniform
    spec = av.keep_only(*spec.routes, *(f"own{row}->own{row}" for row in range(WORDS.n_pos)))
    hooks = {}
    for layer in range(N_LAYERS):
        allowed = torch.eye(WORDS.n_pos, dtype=torch.bool)
        for route in spec.routes:
            if route.layers is None or layer in route.layers:
                rows, keys = (torch.tensor(list(WORDS.spans[name])) for name in (route.queries, route.keys))
                allowed[rows[:, None], keys] = True
        mask = torch.zeros(1, 1, *allowed.shape).masked_fill(~allowed.tril(), torch.finfo(torch.float32).min)
        hooks[layer] = lambda args, kwargs, mask=mask: (args, {**kwargs, "attention_mask": mask})
    with torch.no_grad():
        ours = MODEL(WORDS, interventions=spec)
    torch.testing.assert_close(ours, published(hooks, SHORT), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["patch", "add", "zero", "mean"])
def test_edits_of_the_residual_stream_equal_transformers_with_a_hook(kind):
    rows = torch.from_numpy(INPUTS.spans["video"].positions.copy())
    values = torch.randn(len(rows), 64, generator=torch.Generator().manual_seed(0))
    specs = {
        "patch": (av.patch("blocks.1.hook_resid_pre", "video", values), lambda old: values),
        "add": (av.add_vector("blocks.1.hook_resid_pre", "video", values[0], 0.5), lambda old: old + 0.5 * values[0]),
        "zero": (av.ablate("blocks.1.hook_resid_pre", "video"), torch.zeros_like),
        "mean": (av.ablate("blocks.1.hook_resid_pre", "video", "mean"), lambda old: old.mean(0).expand_as(old)),
    }
    spec, change = specs[kind]

    def hook(args, kwargs):
        resid = args[0].clone()
        resid[0, rows] = change(resid[0, rows])
        return (resid, *args[1:]), kwargs

    torch.testing.assert_close(logits(spec), published({1: hook}), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(spec)[0, -1], logits()[0, -1], atol=1e-3)


def test_one_head_is_ablated_and_no_other():
    spec = av.ablate("blocks.*.attn.hook_z", "question", heads=[1, 3])

    def by_hand(z, hook):
        z[:, :, [1, 3]] = 0
        return z

    with torch.no_grad():
        wanted = MODEL.run_with_hooks(INPUTS, fwd_hooks=[("blocks.*.attn.hook_z@question", by_hand)])
    torch.testing.assert_close(logits(spec), wanted)


def test_a_patch_from_a_cache_is_the_other_run():
    other = dict(TENSORS, input_features=TENSORS["input_features"].flip(-1))
    other = MODEL.inputs_from_tensors(**other).with_span("everything", range(N_POS))
    _, cache = MODEL.run_with_cache(other, names_filter="blocks.*.hook_resid_pre")
    spec = av.patch("blocks.*.hook_resid_pre", "everything", cache)
    assert len(spec.values) == N_LAYERS
    with torch.no_grad():
        assert torch.equal(logits(spec), MODEL(other))


# --- order, hooks, values -------------------------------------------------------------------------------------------


def test_edits_come_in_order_and_before_the_users_hooks():
    first, second = (
        av.ablate("blocks.1.hook_mlp_out", "last"),
        av.add_vector("blocks.1.hook_mlp_out", "last", torch.ones(64)),
    )
    seen = []
    for specs in ([first, second], [second, first]):
        with MODEL.hooks(fwd_hooks=[("blocks.1.hook_mlp_out@last", lambda x, hook: seen.append(x.clone()))]):
            logits(*specs)
    assert torch.equal(seen[0], torch.ones(1, 1, 64))
    assert torch.equal(seen[1], torch.zeros(1, 1, 64))
    _, cache = MODEL.run_with_cache(INPUTS, names_filter="blocks.1.hook_mlp_out", interventions=[first, second])
    assert torch.equal(cache["blocks.1.hook_mlp_out@last"], seen[0])
    assert not any(point.is_hooked for point in MODEL.hook_dict.values())


def test_open_interventions_edit_too():
    spec = av.ablate("blocks.0.hook_attn_out", "audio")
    with torch.no_grad(), MODEL.intervene(spec, "audio->last@1"):
        assert torch.equal(MODEL(INPUTS), logits())
        inside = MODEL(INPUTS)
    assert torch.equal(inside, logits(spec, "audio->last@1"))


@settings(max_examples=40, deadline=None)
@given(spec=st.one_of(interventions(INPUTS, MODEL.cfg), keep_onlys(INPUTS, N_LAYERS)))
def test_specs_are_values_and_go_to_json_and_back(spec):
    (again,) = av.interventions.from_json(av.interventions.to_json(spec))
    assert again == spec
    assert hash(again) == hash(spec)
    assert str(again) == str(spec)


def test_values_of_any_precision_survive_json():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        spec = av.add_vector("hook_inputs_embed", "last", torch.randn(64).to(dtype))
        (again,) = av.interventions.from_json(av.interventions.to_json(spec))
        assert again == spec
        assert again != av.add_vector("hook_inputs_embed", "last", torch.zeros(64, dtype=dtype))


@pytest.mark.parametrize(
    "text", ["", "[1]", '[{"kind": "magic"}]', '[{"kind": "drop_tokens", "spam": "audio"}]', "{}x"]
)
def test_what_is_no_spec_is_not_read(text):
    with pytest.raises(InterventionError, match="these are no interventions"):
        av.interventions.from_json(text)


def test_values_do_not_follow_the_tensor_that_they_came_from():
    vector = torch.ones(64)
    spec = av.add_vector("hook_inputs_embed", "last", vector)
    vector.zero_()
    assert spec == av.add_vector("hook_inputs_embed", "last", torch.ones(64))


# --- refused --------------------------------------------------------------------------------------------------------

Z = "blocks.0.attn.hook_z"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: av.block_attention("audio"), InterventionError, "not a route"),
        (lambda: av.block_attention("audio->question@5-2"), InterventionError, "not a route"),
        (lambda: av.block_attention("audio->question", layers=[1]), InterventionError, "says keys, queries and layers"),
        (lambda: av.keep_only(), InterventionError, "not a route"),
        (lambda: av.keep_only("audio->question@9"), InterventionError, "no such layers"),
        (lambda: "audio->adio", SpanError, "no span 'adio'"),
        (lambda: av.ablate("blocks.0.hook_spam", "audio"), HookNameError, "no hook point"),
        (lambda: av.ablate("blocks.0.hook_mlp_out@audio", "audio"), InterventionError, "an argument of its own"),
        (lambda: av.ablate("blocks.0.hook_mlp_out", "adio"), SpanError, "no span 'adio'"),
        (lambda: av.ablate("blocks.0.hook_mlp_out", "audio", "median"), ArgumentError, "'zero' or 'mean' or Tensor"),
        (lambda: av.ablate("blocks.0.hook_mlp_out", "audio", torch.ones(3)), InterventionError, "does not fit"),
        (lambda: av.ablate("blocks.0.hook_mlp_out", "audio", heads=1), InterventionError, "does not fit"),
        (lambda: av.ablate(Z, "audio", heads=4), InterventionError, "no such heads"),
        (lambda: av.ablate("hook_image_embed", "audio"), InterventionError, "nothing that this pass runs"),
        (lambda: av.patch(Z, "audio", torch.ones(64)), InterventionError, "does not fit"),
        (
            lambda: av.patch(Z, "audio", {"blocks.1.attn.hook_z": torch.ones(4, 16)}),
            InterventionError,
            "nothing to patch",
        ),
        (lambda: av.patch(Z, "audio", torch.ones(4, 16, dtype=torch.int64)), InterventionError, "a tensor of floats"),
        (
            lambda: av.patch("blocks.0.attn.hook_pattern", "last<-audio", torch.ones(1)),
            InterventionError,
            "for attention matrices",
        ),
    ],
)
def test_specs_that_do_not_fit_are_refused_before_anything_runs(make, error, message):
    ran = []
    with MODEL.hooks(fwd_hooks=[("hook_embed", lambda x, hook: ran.append(1))]), pytest.raises(error, match=message):
        logits(make())
    assert not ran


@pytest.mark.parametrize("mine", [("all->last", "everything->last"), ("everything->last@1", "all->last@1")])
def test_the_span_all_is_every_token_in_interventions_and_hooks(mine):
    with torch.no_grad():
        one, other = (MODEL(INPUTS, interventions=route) for route in mine)
        assert torch.equal(one, other)
        assert not torch.equal(one, MODEL(INPUTS))
        edits = [av.ablate("blocks.1.hook_mlp_out", span) for span in ("all", "everything")]
        one, other = (MODEL(INPUTS, interventions=edit) for edit in edits)
        assert torch.equal(one, other)
        zeroed = [(f"blocks.1.hook_mlp_out{span}", lambda rows, hook: rows * 0) for span in ("", "@all")]
        one, other = (MODEL.run_with_hooks(INPUTS, fwd_hooks=[hook]) for hook in zeroed)
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["audio", "all", "last"])
def test_spans_index_what_hooks_and_caches_hold(name):
    span = INPUTS.spans[name]
    seen = {}
    with torch.no_grad():
        hooks = [("blocks.1.hook_resid_post", lambda t, hook: seen.update(part=t[:, span].clone()))]
        MODEL.run_with_hooks(INPUTS, fwd_hooks=hooks)
        _, cache = MODEL.run_with_cache(INPUTS, names_filter="blocks.1.hook_resid_post")
    assert torch.equal(seen["part"], cache["resid_post", 1, name])
    assert torch.equal(seen["part"], cache["resid_post", 1][:, span])
