"""Every hook point fires with its declared axes, takes edits, passes gradients, and costs one check when unhooked."""

import pytest
import torch
from support.families import FAMILIES
from torch import nn

from hooked_av.errors import HookError, HookNameError, SpanError
from hooked_av.hooks.names import HookName
from hooked_av.hooks.point import HookPoint
from hooked_av.prompt.inputs import AVInputs

pytestmark = [pytest.mark.usefixtures("each_family"), pytest.mark.usefixtures("one_thread")]
# Set for each family in turn.
FAMILY = MODEL = INPUTS = None
CFG = FAMILIES["omni"].model.cfg  # both small models have the same shape


def use(family):
    global FAMILY, MODEL, INPUTS
    FAMILY, MODEL, INPUTS = family, family.model, family.inputs("audio in video", n_question=5)
    assert (MODEL.cfg.n_layers, MODEL.cfg.n_heads, MODEL.cfg.d_head) == (CFG.n_layers, CFG.n_heads, CFG.d_head)


def inputs_of(name) -> AVInputs:
    """Inputs that reach a hook point: pictures do not come with sound in every family."""
    return FAMILY.inputs("image", n_question=5) if name == "hook_image_embed" else INPUTS


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
            "attn.hook_attn_in", "attn.hook_q_input", "attn.hook_k_input", "attn.hook_v_input", "hook_mlp_in",
            "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_result",
            "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post",
        )
    ),
}  # fmt: skip
# each family with each of its hook points
EVERY_POINT = [(name, point) for name, family in FAMILIES.items() for point in sorted({*LISTED, *family.audio_hooks})]
every_point = pytest.mark.parametrize("each_family, name", EVERY_POINT, indirect=["each_family"], scope="module")


def run(inputs=None, **hooks):
    return MODEL.run_with_hooks(INPUTS if inputs is None else inputs, **hooks)


@pytest.fixture(scope="module")
def clean(each_family):
    with torch.no_grad():
        return MODEL(INPUTS)


def clean_of(name):
    with torch.no_grad():
        return MODEL(inputs_of(name))


def test_the_hook_points_are_those_of_the_design():
    assert set(MODEL.hook_dict) == {*LISTED, *FAMILY.audio_hooks}


def declared_shape(name):
    inputs = inputs_of(name)
    modality = "audio" if name in FAMILY.audio_hooks else name.removeprefix("hook_").removesuffix("_embed")
    sizes = {
        **{"batch": 1, "1": 1, "pos": inputs.n_pos, "query": inputs.n_pos, "key": inputs.n_pos},
        **{"head": CFG.n_heads, "kv_head": MODEL.cfg.n_key_value_heads, "d_head": CFG.d_head},
        **{"d_model": MODEL.cfg.d_model, "d_mlp": MODEL.cfg.d_mlp, "d_vocab": MODEL.cfg.d_vocab},
        "row": len(inputs.spans[modality]) if modality in inputs.spans else None,
        **{"frame": 25, "d_audio": 32, "d_query": 48},  # the tiny video-SALMONN 2+: windows of half a second
    }
    return tuple(sizes[axis] for axis in MODEL.hook_dict[name].axes)


@every_point
def test_it_fires_once_with_its_declared_shape_and_reading_changes_nothing(name):
    seen = []
    with torch.no_grad():
        logits = run(inputs_of(name), fwd_hooks=[(name, lambda tensor, hook: seen.append(tuple(tensor.shape)))])
    assert seen == [declared_shape(name)]
    assert torch.equal(logits, clean_of(name))


@pytest.mark.parametrize("in_place", [False, True], ids=["returned", "in place"])
@every_point
def test_an_edit_changes_the_logits(name, in_place):
    def edit(tensor, hook):
        new = tensor.roll(1, dims=-1) * 1.5 + 0.25
        if in_place:
            tensor.copy_(new)
            return None
        return new

    inputs, clean = inputs_of(name), clean_of(name)
    with torch.no_grad():
        assert not torch.allclose(run(inputs, fwd_hooks=[(name, edit)]), clean, atol=1e-4)
        assert torch.equal(MODEL(inputs), clean), "the hook is gone afterwards"


@every_point
def test_the_gradient_flows_forward_and_backward(name):
    kept, received = {}, []

    def keep(tensor, hook):
        tensor.retain_grad()
        kept[name] = tensor

    logits = run(
        inputs_of(name),
        fwd_hooks=[(name, keep)],
        bwd_hooks=[(name, lambda gradient, hook: received.append(gradient.clone()))],
        reset_hooks_end=False,
    )
    logits[0, -1].logsumexp(dim=0).backward()
    MODEL.reset_hooks()
    assert received[0].shape == kept[name].shape == declared_shape(name)
    assert received[0].abs().sum() > 0
    torch.testing.assert_close(logits.detach(), clean_of(name), rtol=1e-4, atol=1e-4)


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
    from hooked_av.decoder import decoder

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
        return MODEL.blocks[0].mlp.up_proj.weight.grad.abs().sum().item()

    assert slope((name, lambda gradient, hook: gradient * 0)) == 0
    assert 0 < slope((f"{name}@audio", lambda gradient, hook: (gradient * 0,))) != slope()
    with pytest.raises(HookError, match="changed the form"):
        slope((name, lambda gradient, hook: gradient[:, :1]))
    MODEL.zero_grad()


@pytest.mark.parametrize("others", [(), ("blocks.*.hook_resid_post@last", "blocks.1.attn.hook_pattern", "hook_*embed")])
@pytest.mark.parametrize(
    "name", ["blocks.1.hook_resid_post", "blocks.*.hook_resid_post@last", "blocks.1.attn.hook_pattern", "hook_logits"]
)
def test_a_gradient_hook_that_comes_after_its_forward_pass_is_refused(name, others):
    """It could not act where nothing waited for a gradient, and would be dropped without a word."""
    for other in others:
        MODEL.add_hook(other, ignore, dir="bwd")
    logits = MODEL(INPUTS)
    MODEL.add_hook(name, ignore, dir="bwd")
    with pytest.raises(HookError, match="was added after the forward pass"):
        logits.sum().backward(retain_graph=True)
    MODEL(INPUTS).sum().backward()
    MODEL.reset_hooks()
    with MODEL.hooks(bwd_hooks=[(name, ignore)]), pytest.raises(HookError, match="was added after the forward pass"):
        logits.sum().backward(retain_graph=True)
    logits.sum().backward()
    MODEL.zero_grad()


def test_a_gradient_hook_is_not_late_for_a_pass_that_does_not_come_to_it():
    stream = MODEL(INPUTS, stop_at_layer=1)
    MODEL.add_hook("blocks.1.hook_mlp_out", ignore, dir="bwd")
    stream.sum().backward()
    MODEL.add_hook("blocks.*.hook_resid_post", ignore, dir="bwd")
    stream = MODEL(INPUTS, stop_at_layer=2)
    MODEL.add_hook("blocks.1.hook_resid_post@last", ignore, dir="bwd")
    with pytest.raises(HookError, match="was added after the forward pass"):
        stream.sum().backward()
    MODEL.reset_hooks()
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
    torch.testing.assert_close(seen["last"], seen["whole"][:, :, [INPUTS.n_pos - 1]], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(seen["audio"], seen["whole"][:, :, rows], rtol=1e-5, atol=1e-7)


def test_encoder_rows_are_found_by_item():
    inputs = FAMILY.inputs("two sounds")
    for name in ("hook_audio_embed", *FAMILY.audio_hooks):
        seen = {}
        with torch.no_grad():
            run(
                inputs,
                fwd_hooks=[
                    (name, lambda t, hook, seen=seen: seen.update(all=t.clone())),
                    (f"{name}@item1.audio", lambda t, hook, seen=seen: seen.update(second=t.clone())),
                ],
            )
        n_first = len(inputs.spans["item0.audio"])
        assert torch.equal(seen["second"], seen["all"][n_first:])
        with pytest.raises(SpanError, match=f"holds no row of {name}"):
            run(inputs, fwd_hooks=[(f"{name}@text", lambda t, hook: None)])


def test_an_edit_of_one_sound_inside_the_audio_branch_leaves_the_other_alone():
    inputs, rows = FAMILY.inputs("two sounds"), {}
    n_first = len(inputs.spans["item0.audio"])
    for name in ("hook_audio_embed", *FAMILY.audio_hooks):
        keep = ("hook_audio_embed", lambda t, hook: rows.update(now=t.clone()))
        with torch.no_grad():
            run(inputs, fwd_hooks=[keep])
            before = rows["now"]
            run(inputs, fwd_hooks=[(f"{name}@item1.audio", lambda t, hook: t * 0), keep])
        assert torch.equal(rows["now"][:n_first], before[:n_first])
        assert not torch.isclose(rows["now"][n_first:], before[n_first:]).all(dim=1).any()


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
    inputs = FAMILY.inputs("text")
    for name in ("hook_audio_embed", *FAMILY.audio_hooks):
        with pytest.raises(HookError, match=f"{name} cannot fire"):
            MODEL.run_with_hooks(inputs, fwd_hooks=[(name, ignore)])
        with pytest.raises(HookNameError, match=f"{name} cannot fire"):
            MODEL.run_with_cache(inputs, names_filter=[name, "hook_embed"])
    MODEL.run_with_hooks(inputs, fwd_hooks=[("hook_*embed", ignore)])  # a pattern takes what there is


@pytest.mark.parametrize(
    "edit, got",
    [
        (lambda t: t[:, :2], "changed the form"),
        (lambda t: t.double(), "float64"),
        (lambda t: t.to("meta"), "meta"),
        (lambda t: [t], "returned no tensor"),
        (lambda t: (t * 0, "a second member"), r"returned no tensor(.|\n)*tuple"),
    ],
)
@pytest.mark.parametrize("name", ["blocks.1.hook_resid_post", "blocks.1.hook_resid_post@audio", "blocks.0.attn.hook_z"])
def test_a_hook_that_changes_the_form_raises_with_its_name(name, edit, got):
    with pytest.raises(HookError, match=got) as caught:
        run(fwd_hooks=[(name, lambda t, hook: edit(t))])
    assert name.partition("@")[0] in str(caught.value)
    assert not any(point.is_hooked for point in MODEL.hook_dict.values())


@pytest.mark.parametrize("name", ["blocks.1.hook_resid_post", "blocks.1.hook_resid_post@last"])
def test_a_gradient_may_come_in_a_tuple_of_its_own_and_no_other(name):
    with MODEL.hooks(bwd_hooks=[(name, lambda gradient, hook: (gradient * 0,))]):
        MODEL(INPUTS)[0, -1, 7].backward()
    with MODEL.hooks(bwd_hooks=[(name, lambda gradient, hook: (gradient, gradient))]):
        logits = MODEL(INPUTS)
        with pytest.raises(HookError, match="returned no tensor"):
            logits[0, -1, 7].backward()
    MODEL.zero_grad()


def test_names_print_back_as_cache_keys():
    for text in ("hook_embed", "blocks.5.hook_resid_post@audio", "blocks.5.attn.hook_pattern@question<-video"):
        parsed = HookName.parse(text)
        assert parsed.key(parsed.pattern) == text
