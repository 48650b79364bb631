"""Every hook point fires with its declared axes, takes edits, passes gradients, and costs one check when unhooked."""

import pytest
import torch
from support.thinkers import make_thinker, prompts
from torch import nn

from hooked_av.errors import HookError, HookNameError, SpanError
from hooked_av.hook_names import HookName
from hooked_av.hooks import HookPoint
from hooked_av.model import HookedAVTransformer

MODEL = HookedAVTransformer.from_hf(make_thinker(n_kv=2))
INPUTS = MODEL.inputs_from_tensors(**prompts()["two clips"].tensors())
INPUTS = INPUTS.with_span("question", range(INPUTS.n_pos - 5, INPUTS.n_pos))
N_POS, CFG = INPUTS.n_pos, MODEL.cfg
SIZES = {
    "batch": 1,
    "pos": N_POS,
    "query": N_POS,
    "key": N_POS,
    "head": CFG.n_heads,
    "kv_head": CFG.n_key_value_heads,
    "d_head": CFG.d_head,
    "d_model": CFG.d_model,
    "d_mlp": CFG.d_mlp,
    "d_vocab": CFG.d_vocab,
    "1": 1,
}
ROWS = {f"hook_{m}_embed": len(INPUTS.spans[m]) for m in ("audio", "video", "image")}
LISTED = {
    "hook_embed", "hook_audio_embed", "hook_video_embed", "hook_image_embed", "hook_inputs_embed", "hook_logits",
    "ln_final.hook_scale", "ln_final.hook_normalized",
    *(
        f"blocks.{layer}.{name}"
        for layer in range(CFG.n_layers)
        for name in (
            "hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post",
            "ln1.hook_scale", "ln1.hook_normalized", "ln2.hook_scale", "ln2.hook_normalized",
            "attn.hook_q", "attn.hook_rot_q", "attn.hook_z", "attn.hook_k", "attn.hook_rot_k", "attn.hook_v",
            "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_result",
            "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post",
        )
    ),
}  # fmt: skip
NAMES = sorted(LISTED)


def run(**hooks):
    return MODEL.run_with_hooks(INPUTS, **hooks)


@pytest.fixture(scope="module")
def clean():
    with torch.no_grad():
        return MODEL(INPUTS)


def test_the_hook_points_are_those_of_the_design():
    assert set(MODEL.hook_dict) == LISTED


def declared_shape(name):
    sizes = {**SIZES, "row": ROWS.get(name)}
    return tuple(sizes[axis] for axis in MODEL.hook_dict[name].axes)


@pytest.mark.parametrize("name", NAMES)
def test_it_fires_once_with_its_declared_shape_and_reading_changes_nothing(name, clean):
    seen = []
    with torch.no_grad():
        logits = run(fwd_hooks=[(name, lambda tensor, hook: seen.append(tuple(tensor.shape)))])
    assert seen == [declared_shape(name)]
    assert torch.equal(logits, clean)


@pytest.mark.parametrize("in_place", [False, True], ids=["returned", "in place"])
@pytest.mark.parametrize("name", NAMES)
def test_an_edit_changes_the_logits(name, in_place, clean):
    def edit(tensor, hook):
        new = tensor.roll(1, dims=-1) * 1.5 + 0.25
        if in_place:
            tensor.copy_(new)
            return None
        return new

    with torch.no_grad():
        assert not torch.allclose(run(fwd_hooks=[(name, edit)]), clean, atol=1e-4)
        assert torch.equal(MODEL(INPUTS), clean), "the hook is gone afterwards"


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_flows_forward_and_backward(name, clean):
    kept, received = {}, []

    def keep(tensor, hook):
        tensor.retain_grad()
        kept[name] = tensor

    logits = MODEL.run_with_hooks(
        INPUTS,
        fwd_hooks=[(name, keep)],
        bwd_hooks=[(name, lambda gradient, hook: received.append(gradient.clone()))],
        reset_hooks_end=False,
    )
    logits[0, -1].logsumexp(dim=0).backward()
    MODEL.reset_hooks()
    assert received[0].shape == kept[name].shape == declared_shape(name)
    assert received[0].abs().sum() > 0
    torch.testing.assert_close(logits.detach(), clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["blocks.1.attn.hook_pattern", "blocks.1.hook_resid_mid", "blocks.2.attn.hook_z"])
def test_the_gradient_is_that_of_finite_differences(name):
    """Along the gradient that the hook point sees, the answer logit rises by the gradient's own length."""
    received = []
    with MODEL.hooks(bwd_hooks=[(name, lambda gradient, hook: received.append(gradient.clone()))]):
        MODEL(INPUTS)[0, -1, 3].backward()
    length = received[0].norm()
    step = 0.02 * received[0] / length**2  # should move the logit by 0.02: far above rounding, still nearly linear

    def answer(sign):
        with torch.no_grad():
            return run(fwd_hooks=[(name, lambda tensor, hook: tensor + sign * step)])[0, -1, 3]

    torch.testing.assert_close(answer(1) - answer(-1), torch.tensor(0.04), rtol=2e-2, atol=0)


def test_an_unhooked_point_is_one_check_and_no_module_call(monkeypatch):
    called = []
    real = nn.Module._call_impl

    def counted(self, *args, **kwargs):
        called.append(type(self).__name__)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(HookPoint, "_call_impl", counted, raising=False)
    monkeypatch.setattr(HookPoint, "_wrapped_call_impl", counted, raising=False)
    with torch.no_grad():
        MODEL(INPUTS)
        assert not called
        run(fwd_hooks=[("blocks.0.hook_resid_pre", lambda tensor, hook: None)])
    assert called == ["HookPoint"]


def test_scores_are_made_only_where_they_are_asked_for(monkeypatch):
    from hooked_av import decoder

    made = []
    real = decoder.scores_of
    monkeypatch.setattr(decoder, "scores_of", lambda q, k, a: made.append(tuple(q.shape)) or real(q, k, a))
    with torch.no_grad():
        MODEL(INPUTS)
        assert made == []
        run(fwd_hooks=[("blocks.1.attn.hook_pattern@last", lambda pattern, hook: None)])
        assert made == [(1, CFG.n_heads, 1, CFG.d_head)]


# --- spans -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["blocks.1.hook_resid_post", "blocks.0.attn.hook_k", "blocks.2.mlp.hook_post"])
def test_a_span_hands_over_its_rows_and_writes_them_back(name, clean):
    rows = INPUTS.spans["audio"].positions.tolist()
    whole, part = {}, {}
    with torch.no_grad():
        run(fwd_hooks=[(name, lambda t, hook: whole.update(t=t.clone()))])
        by_span = run(fwd_hooks=[(f"{name}@audio", lambda t, hook: part.update(t=t.clone()) or t * 0)])

        def by_hand(t, hook):
            t = t.clone()
            t[:, rows] = 0
            return t

        assert torch.equal(part["t"], whole["t"][:, rows])
        assert torch.equal(by_span, run(fwd_hooks=[(name, by_hand)]))
    assert not torch.equal(by_span, clean)


def test_an_in_place_edit_of_a_span_is_not_lost(clean):
    with torch.no_grad():
        in_place = run(fwd_hooks=[("blocks.1.hook_resid_post@audio", lambda t, hook: [t.zero_(), None][1])])
        returned = run(fwd_hooks=[("blocks.1.hook_resid_post@audio", lambda t, hook: torch.zeros_like(t))])
    assert torch.equal(in_place, returned)
    assert not torch.equal(in_place, clean)


@pytest.mark.parametrize(
    "name", ["blocks.1.hook_resid_post@audio", "blocks.1.attn.hook_pattern@question", "hook_embed"]
)
def test_in_place_edits_count_in_inference_mode_too(name):
    """Inference tensors keep no edit counter: nothing may be lost for that."""
    edit = [(name, lambda t, hook: [t.mul_(0.5), None][1])]
    with torch.no_grad():
        wanted = run(fwd_hooks=edit)
    with torch.inference_mode():
        torch.testing.assert_close(run(fwd_hooks=edit), wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(run(fwd_hooks=[(name, lambda t, hook: None)]), MODEL(INPUTS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["blocks.2.hook_resid_post@last", "blocks.2.attn.hook_pattern@last"])
def test_a_span_kept_by_a_hook_gets_its_gradient(name):
    """retain_grad on the rows that a hook was handed, which are a copy."""
    kept, received = {}, []

    def keep(rows, hook):
        rows.retain_grad()
        kept["rows"] = rows

    gradients = [(name, lambda gradient, hook: received.append(gradient.clone()))]
    with MODEL.hooks(fwd_hooks=[(name, keep)], bwd_hooks=gradients):
        MODEL(INPUTS)[0, -1, 7].backward()
    assert kept["rows"].grad.abs().sum() > 0
    torch.testing.assert_close(kept["rows"].grad, received[0])
    MODEL.zero_grad()


def test_a_gradient_hook_edits_the_gradient():
    name = "blocks.1.hook_resid_post"

    def slope(*hooks):
        MODEL.zero_grad()
        with MODEL.hooks(bwd_hooks=list(hooks)):
            MODEL(INPUTS)[0, -1, 7].backward()
        return MODEL.W_E.grad.abs().sum().item()

    assert slope((name, lambda gradient, hook: gradient * 0)) == 0
    assert 0 < slope((f"{name}@audio", lambda gradient, hook: (gradient * 0,))) != slope()
    with pytest.raises(HookError, match="changed the form"):
        slope((name, lambda gradient, hook: gradient[:, :1]))
    MODEL.zero_grad()


def test_attention_takes_queries_and_keys():
    name, seen = "blocks.1.attn.hook_pattern", {}
    queries, keys = (INPUTS.spans[s].positions.tolist() for s in ("question", "video"))
    with torch.no_grad():
        run(fwd_hooks=[(name, lambda t, hook: seen.update(whole=t.clone()))])
        cut = run(fwd_hooks=[(f"{name}@question<-video", lambda t, hook: seen.update(part=t.clone()) or t * 0)])
        only_keys = run(fwd_hooks=[(f"{name}@<-video", lambda t, hook: seen.update(keys=t.clone()))])

        def by_hand(pattern, hook):
            pattern = pattern.clone()
            pattern[:, :, torch.tensor(queries)[:, None], torch.tensor(keys)] = 0
            return pattern

        by_hand_logits = run(fwd_hooks=[(name, by_hand)])
    torch.testing.assert_close(seen["part"], seen["whole"][:, :, queries][..., keys], rtol=1e-5, atol=1e-7)
    assert torch.equal(seen["keys"], seen["whole"][..., keys])
    torch.testing.assert_close(cut, by_hand_logits, rtol=1e-4, atol=1e-4)
    assert only_keys.shape == by_hand_logits.shape


def test_several_spans_share_one_lazy_point():
    """Each hook of a lazy point sees its own rows, whatever the others ask for."""
    name, seen = "blocks.1.attn.hook_pattern", {}

    def keep(key):
        return lambda t, hook: seen.update({key: t.clone()})

    with torch.no_grad():
        run(fwd_hooks=[(name, keep("whole"))])
        run(fwd_hooks=[(f"{name}@last", keep("last")), (f"{name}@audio", keep("audio"))])
    rows = INPUTS.spans["audio"].positions.tolist()
    torch.testing.assert_close(seen["last"], seen["whole"][:, :, [N_POS - 1]], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(seen["audio"], seen["whole"][:, :, rows], rtol=1e-5, atol=1e-7)


def test_encoder_rows_are_found_by_item():
    seen = {}
    with torch.no_grad():
        run(
            fwd_hooks=[
                ("hook_audio_embed", lambda t, hook: seen.update(all=t.clone())),
                ("hook_audio_embed@item1.audio", lambda t, hook: seen.update(second=t.clone())),
            ]
        )
    n_first = len(INPUTS.spans["item0.audio"])
    assert torch.equal(seen["second"], seen["all"][n_first:])
    with pytest.raises(SpanError, match="holds no row of hook_audio_embed"):
        run(fwd_hooks=[("hook_audio_embed@item0.video", lambda t, hook: None)])


def test_shell_patterns_reach_every_layer():
    fired = []
    with torch.no_grad():
        run(fwd_hooks=[("blocks.*.hook_resid_post@last", lambda t, hook: fired.append((hook.name, tuple(t.shape))))])
    assert fired == [(f"blocks.{i}.hook_resid_post", (1, 1, CFG.d_model)) for i in range(CFG.n_layers)]


def test_hooks_that_stay_take_spans_too(clean):
    MODEL.add_hook("blocks.*.hook_mlp_out@audio", lambda t, hook: t * 0)
    with torch.no_grad():
        assert not torch.equal(MODEL(INPUTS), clean)
        MODEL.reset_hooks()
        assert torch.equal(MODEL(INPUTS), clean)


# --- what must be loud -----------------------------------------------------------------------------------------------


def ignore(tensor, hook):
    return None


@pytest.mark.parametrize(
    "name, message",
    [
        ("blocks.1.hook_resid_pots", "no hook point has this name(.|\n)*blocks.1.hook_resid_post"),
        ("blocks.9.hook_resid_post", "no hook point has this name"),
        ("blocks.*.hook_nothing", "no hook point has this name"),
        (lambda name: False, "a filter function"),
        ("blocks.1.hook_resid_post@", "empty span"),
        ("blocks.1.attn.hook_pattern@question<-", "empty span"),
        ("blocks.1.hook_resid_post@question<-audio", "has no key axis"),
    ],
)
def test_a_name_that_matches_nothing_raises_before_the_run(name, message):
    for use in (
        lambda: run(fwd_hooks=[(name, ignore)]),
        lambda: MODEL.add_hook(name, ignore),
        lambda: MODEL.run_with_cache(INPUTS, names_filter=name),
    ):
        with pytest.raises(HookNameError, match=message):
            use()
    assert not any(point.is_hooked for point in MODEL.hook_dict.values())


def test_an_unknown_span_raises():
    with pytest.raises(SpanError, match="no span 'vidio'"):
        run(fwd_hooks=[("blocks.1.hook_resid_post@vidio", ignore)])


def test_a_hook_that_cannot_fire_raises():
    text = prompts()["text"].tensors()
    inputs = MODEL.inputs_from_tensors(**text)
    with pytest.raises(HookError, match="hook_audio_embed cannot fire"):
        MODEL.run_with_hooks(inputs, fwd_hooks=[("hook_audio_embed", ignore)])
    with pytest.raises(HookNameError, match="hook_audio_embed cannot fire"):
        MODEL.run_with_cache(inputs, names_filter=["hook_audio_embed", "hook_embed"])
    MODEL.run_with_hooks(inputs, fwd_hooks=[("hook_*embed", ignore)])  # a pattern takes what there is


@pytest.mark.parametrize(
    "edit, got",
    [
        (lambda t: t[:, :2], "changed the form"),
        (lambda t: t.double(), "float64"),
        (lambda t: t.to("meta"), "meta"),
        (lambda t: [t], "returned no tensor"),
    ],
)
@pytest.mark.parametrize("name", ["blocks.1.hook_resid_post", "blocks.1.hook_resid_post@audio", "blocks.0.attn.hook_z"])
def test_a_hook_that_changes_the_form_raises_with_its_name(name, edit, got):
    with pytest.raises(HookError, match=got) as caught:
        run(fwd_hooks=[(name, lambda t, hook: edit(t))])
    assert name.partition("@")[0] in str(caught.value)
    assert not any(point.is_hooked for point in MODEL.hook_dict.values())


def test_names_print_back_as_cache_keys():
    for text in ("hook_embed", "blocks.5.hook_resid_post@audio", "blocks.5.attn.hook_pattern@question<-video"):
        parsed = HookName.parse(text)
        assert parsed.key(parsed.pattern) == text
