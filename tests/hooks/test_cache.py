"""The cache knows spans, owns its values, answers TransformerLens's keys, and says its size before the run."""

import gc
import weakref

import pytest
import torch
from support.families import FAMILIES
from transformer_lens import ActivationCache

import hooked_av as av
from hooked_av.errors import HookNameError, InputsError, MemoryBudgetError, SpanError

pytestmark = [pytest.mark.usefixtures("each_family"), pytest.mark.usefixtures("one_thread")]
# Set for each family in turn.
FAMILY = MODEL = INPUTS = None
CFG = FAMILIES["omni"].model.cfg  # both small models have the same shape


def use(family):
    global FAMILY, MODEL, INPUTS
    FAMILY, MODEL, INPUTS = family, family.model, family.inputs("audio in video")
    assert (MODEL.cfg.n_layers, MODEL.cfg.d_model) == (CFG.n_layers, CFG.d_model)


LAZY = ("hook_attn_in", "_input", "hook_mlp_in", "hook_attn_scores", "hook_pattern", "hook_result", "hook_logits")


def cached(names_filter=None, **arguments):
    with torch.no_grad():
        return MODEL.run_with_cache(INPUTS, names_filter=names_filter, **arguments)


@pytest.fixture(scope="module")
def everything(each_family):
    """Every activation, by hand."""
    kept = {}
    fires = [n for n in MODEL.hook_dict if n != "hook_image_embed"]
    with torch.no_grad():
        MODEL.run_with_hooks(
            INPUTS, fwd_hooks=[(n, lambda t, hook: kept.update({hook.name: t.clone()})) for n in fires]
        )
    return kept


def test_by_default_all_that_grows_with_tokens_is_cached(everything):
    logits, cache = cached()
    assert isinstance(cache, ActivationCache)
    assert set(cache.keys()) == {name for name in everything if not name.endswith(LAZY)}
    assert all(torch.equal(cache[name], everything[name]) for name in cache)
    with torch.no_grad():
        assert torch.equal(logits, MODEL(INPUTS))


@pytest.mark.parametrize("span", ["last", "audio", "item0.video", "boundary", "av - boundary"])
def test_spans_work_as_filter_and_as_key(everything, span):
    name = "blocks.1.hook_resid_post"
    rows = INPUTS.spans.resolve(span).positions.tolist()
    wanted = everything[name][:, rows]
    _, narrow = cached(f"{name}@{span}")
    assert list(narrow.keys()) == [f"{name}@{span.replace(' ', '')}"]
    assert torch.equal(narrow[f"{name}@{span}"], wanted)
    _, full = cached(name)
    assert torch.equal(full[f"{name}@{span}"], wanted)


def test_attention_is_cached_by_queries_and_keys(everything):
    rows, keys = (INPUTS.spans[s].positions.tolist() for s in ("last", "video"))
    wanted = everything["blocks.2.attn.hook_pattern"][:, :, rows][..., keys]
    _, cache = cached("blocks.*.attn.hook_pattern@last<-video")
    torch.testing.assert_close(cache["blocks.2.attn.hook_pattern@last<-video"], wanted, rtol=1e-5, atol=1e-7)
    _, full = cached("blocks.2.attn.hook_pattern")
    assert torch.equal(full["blocks.2.attn.hook_pattern@last<-video"], wanted)


def test_transformer_lens_keys_and_methods(everything):
    _, cache = cached(["blocks.*", "ln_final.hook_scale", "hook_embed"])
    assert torch.equal(cache["resid_post", 1], everything["blocks.1.hook_resid_post"])
    assert torch.equal(cache["resid_post", -1], everything[f"blocks.{CFG.n_layers - 1}.hook_resid_post"])
    assert torch.equal(cache["q", 0, "attn"], everything["blocks.0.attn.hook_q"])
    assert torch.equal(cache["embed"], everything["hook_embed"])
    stacked = cache.stack_activation("resid_pre")
    assert torch.equal(stacked[2], everything["blocks.2.hook_resid_pre"])
    resid = cache.accumulated_resid(layer=-1)
    assert torch.equal(resid[-1], everything[f"blocks.{CFG.n_layers - 1}.hook_resid_post"])


@pytest.mark.parametrize(
    "key, same",
    [
        (("resid_post", 1, "audio"), "blocks.1.hook_resid_post@audio"),
        (("resid_post", -1, "av - boundary"), "blocks.2.hook_resid_post@av-boundary"),
        (("q", 0, "attn", "last"), "blocks.0.attn.hook_q@last"),
        (("z", 0, "all"), "blocks.0.attn.hook_z"),
        (("pattern", 2, "last<-video"), "blocks.2.attn.hook_pattern@last<-video"),
        (("scale", 1, "ln2"), "blocks.1.ln2.hook_scale"),
        (("scale", 1, "ln2", "audio"), "blocks.1.ln2.hook_scale@audio"),
    ],
)
def test_keys_end_in_a_span(key, same):
    assert CFG.n_layers == 3
    _, cache = cached(["blocks.*", "blocks.2.attn.hook_pattern"])
    assert torch.equal(cache[key], cache[same])


def test_a_key_that_ends_in_no_span_says_so():
    _, cache = cached("blocks.1.hook_resid_post")
    with pytest.raises(SpanError, match="no span 'adio'"):
        _ = cache["resid_post", 1, "adio"]


def test_transformer_lens_decompositions_add_up():
    """Parts of the residual stream sum to it, and their contributions to the answer's logit."""
    with torch.no_grad():
        logits, cache = MODEL.run_with_cache(INPUTS)
        answer = int(logits[0, -1].argmax())
        parts, labels = cache.decompose_resid(return_labels=True)
        torch.testing.assert_close(parts.sum(dim=0), cache["resid_post", -1], rtol=1e-4, atol=1e-4)
        assert labels[0] == "embed"
        assert torch.equal(parts[0], cache["hook_inputs_embed"]), "media rows count as embedded"
        assert not torch.equal(parts[0], cache["hook_embed"])
        whole = cache.logit_attrs(cache.accumulated_resid(), tokens=answer)
        torch.testing.assert_close(whole[-1, 0], logits[0, :, answer], rtol=1e-4, atol=1e-4)
        heads = cache.stack_head_results(layer=1)
        torch.testing.assert_close(heads.sum(dim=0), cache["attn_out", 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["hook_pattern", "hook_attn_scores"])
@pytest.mark.parametrize("specs", [(), "audio->last@1", av.block_attention("audio->question@1", heads=[0])])
def test_an_attention_matrix_is_made_when_it_is_asked_for(name, specs):
    """Of the queries and keys that were kept, with the cuts of the pass; it is what a cache holds that names it."""
    key = f"blocks.1.attn.{name}"
    inputs = INPUTS.with_span("question", range(INPUTS.n_pos - 5, INPUTS.n_pos))
    with torch.no_grad():
        _, light = MODEL.run_with_cache(inputs, interventions=specs)
        _, named = MODEL.run_with_cache(inputs, names_filter=[key, f"{key}@last<-video"], interventions=specs)
    assert torch.equal(light[key], named[key])
    assert torch.equal(light[f"{key}@last"], named[f"{key}@last"])
    assert key not in light
    assert torch.equal(light.remove_batch_dim()[key], named[key][0])


@pytest.mark.parametrize(
    "specs, hooks",
    [
        (av.drop_tokens("video", 1), []),
        ((), [("blocks.1.attn.hook_pattern@last", lambda rows, hook: rows * 0)]),
        ((), [("blocks.1.attn.hook_attn_scores", lambda rows, hook: rows * 2)]),
    ],
)
def test_no_matrix_is_made_that_would_not_be_the_one_of_the_pass(specs, hooks):
    with torch.no_grad(), MODEL.hooks(hooks):
        _, cache = MODEL.run_with_cache(INPUTS, interventions=specs)
    with pytest.raises(HookNameError, match="not in the cache"):
        cache["blocks.1.attn.hook_pattern"]


def test_callable_filters_and_lists(everything):
    _, cache = cached(lambda name: name.endswith("hook_z"))
    assert list(cache.keys()) == [f"blocks.{i}.attn.hook_z" for i in range(CFG.n_layers)]
    _, cache = cached(["hook_embed", "blocks.0.hook_mlp_out"])
    assert set(cache.keys()) == {"hook_embed", "blocks.0.hook_mlp_out"}


def test_the_cache_owns_its_values(everything):
    """A hook that edits in place after the cache has looked does not change what was cached."""
    name = "blocks.1.hook_resid_post"
    with torch.no_grad(), MODEL.hooks(fwd_hooks=[("blocks.2.hook_resid_pre", lambda t, hook: [t.zero_(), None][1])]):
        _, cache = MODEL.run_with_cache(INPUTS, names_filter=[name])
    assert torch.equal(cache[name], everything[name])


def test_a_cache_that_is_dropped_is_freed():
    _, cache = cached("blocks.0.hook_resid_post")
    kept = weakref.ref(cache["blocks.0.hook_resid_post"])
    del cache
    gc.collect()
    assert kept() is None


def test_a_cache_shows_what_earlier_hooks_did():
    with torch.no_grad(), MODEL.hooks(fwd_hooks=[("blocks.1.hook_resid_post@audio", lambda t, hook: t * 0)]):
        _, cache = MODEL.run_with_cache(INPUTS, names_filter="blocks.1.hook_resid_post")
    assert cache["blocks.1.hook_resid_post@audio"].count_nonzero() == 0
    assert cache["blocks.1.hook_resid_post@video"].count_nonzero() > 0


def test_only_its_own_hooks_go_when_it_is_done():
    seen = []
    with torch.no_grad(), MODEL.hooks(fwd_hooks=[("hook_embed", lambda t, hook: seen.append(1))]):
        MODEL.run_with_cache(INPUTS, names_filter="hook_embed")
        MODEL(INPUTS)
    assert len(seen) == 2
    assert not any(point.is_hooked for point in MODEL.hook_dict.values())


def test_the_batch_axis_goes_on_request():
    _, cache = cached("blocks.0.hook_resid_post", remove_batch_dim=True)
    assert cache["blocks.0.hook_resid_post"].shape == (INPUTS.n_pos, CFG.d_model)
    assert cache["blocks.0.hook_resid_post@last"].shape == (1, CFG.d_model)
    one_row = "hook_audio_embed@rows"
    rows = INPUTS.with_span("rows", list(INPUTS.spans["audio"])[:1])
    with torch.no_grad():
        _, cache = MODEL.run_with_cache(rows, names_filter=[one_row, "hook_embed"], remove_batch_dim=True)
        assert cache[one_row].shape == (1, CFG.d_model), "encoder rows have no batch axis to lose"
        assert cache["hook_embed"].shape == (INPUTS.n_pos, CFG.d_model)
        with pytest.raises(InputsError, match="one prompt"):
            MODEL.run_with_cache(MODEL.batch([INPUTS, INPUTS]), names_filter="hook_embed", remove_batch_dim=True)


def test_its_size_is_known_before_the_run(monkeypatch):
    """The estimate equals the bytes that are then held, and a cache over budget is refused before anything runs."""
    from hooked_av.forward import passes as running

    for names in (
        None,
        "blocks.*.attn.hook_pattern",
        ["blocks.*.attn.hook_result@audio", "hook_logits@last", "*embed"],
        ["hook_audio_embed@first_audio", *(f"{name}@first_audio" for name in FAMILY.audio_hooks)],
        ["hook_embed", *FAMILY.audio_hooks],
    ):
        estimates = []
        real = running.cache_bytes
        monkeypatch.setattr(running, "cache_bytes", lambda *a, real=real, e=estimates: e.append(real(*a)) or e[-1])
        inputs = INPUTS.with_span("first_audio", list(INPUTS.spans["audio"])[:3])
        with torch.no_grad():
            _, cache = MODEL.run_with_cache(inputs, names_filter=names)
        monkeypatch.setattr(running, "cache_bytes", real)
        assert estimates == [{key: t.numel() * t.element_size() for key, t in cache.items()}]
    monkeypatch.setattr(MODEL.decoder, "forward", lambda *a, **k: pytest.fail("it ran"))
    with pytest.raises(MemoryBudgetError, match=r"does not fit(.|\n)*span of each"):
        cached("blocks.*.attn.hook_pattern", max_bytes=1000)


@pytest.mark.parametrize(
    "key, told",
    [
        ("blocks.1.attn.hook_result", "only when named"),
        (("result", 1, "attn"), "only when named"),
        ("blocks.1.hook_resid_pots", "blocks.1.hook_resid_post"),
        ("blocks.9.hook_resid_post", "blocks.1.hook_resid_post"),
    ],
)
def test_what_is_not_cached_says_what_is(key, told):
    _, cache = cached()
    with pytest.raises(HookNameError, match="not in the cache") as caught:
        cache[key]
    assert told in str(caught.value)
    assert key not in cache
    assert "blocks.1.hook_resid_post@audio" in cache


def test_a_filter_that_selects_nothing_is_refused():
    with pytest.raises(HookNameError, match="nothing to cache"):
        cached([])


def test_transformer_lens_caching_hooks_are_loud_and_scoped_too(everything):
    name = "blocks.1.hook_resid_post"
    with pytest.raises(HookNameError, match="no hook point has this name"):
        MODEL.get_caching_hooks(["blocks.1.hook_resid_pots"])
    kept = MODEL.add_caching_hooks([name, f"{name}@audio"])
    with torch.no_grad():
        MODEL(INPUTS)
    MODEL.reset_hooks()
    assert torch.equal(kept[name], everything[name])
    assert torch.equal(kept[f"{name}@audio"], everything[name][:, INPUTS.spans["audio"].positions.tolist()])


def test_gradients_are_cached_by_name():
    name = "blocks.1.hook_resid_post"
    kept, forward, backward = MODEL.get_caching_hooks(f"{name}@last", incl_bwd=True)
    with MODEL.hooks(forward, backward):
        MODEL(INPUTS)[0, -1, 3].backward()
    received = []
    with MODEL.hooks(bwd_hooks=[(name, lambda gradient, hook: received.append(gradient.clone()))]):
        MODEL(INPUTS)[0, -1, 3].backward()
    torch.testing.assert_close(kept[f"{name}@last_grad"], received[0][:, -1:])
    MODEL.zero_grad()


def test_a_gradient_belongs_to_the_run_that_it_came_from():
    """Another forward pass in between, with the span elsewhere, changes nothing."""
    name = "blocks.1.hook_resid_post"
    here, there = INPUTS.with_span("mine", [2, 3]), INPUTS.with_span("mine", [50, 51])
    received = {}
    for key, between in {"alone": None, "with another": there}.items():
        kept, _, backward = MODEL.get_caching_hooks([f"{name}@mine", "blocks.1.attn.hook_pattern@mine"], incl_bwd=True)
        with MODEL.hooks(bwd_hooks=backward):
            logits = MODEL(here)
            if between is not None:
                MODEL(between)
            logits[0, -1, 3].backward()
        received[key] = kept
    assert len(received["alone"]) == 2
    for key, gradient in received["alone"].items():
        assert torch.equal(received["with another"][key], gradient)
        assert gradient.abs().sum() > 0
    MODEL.zero_grad()


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_caching_never_changes_the_logits(mode):
    """With gradients on, and in inference mode, where edits cannot be told: caches are known to change nothing."""
    with mode():
        _, cache = MODEL.run_with_cache(INPUTS)
        logits, _ = MODEL.run_with_cache(INPUTS, names_filter=["blocks.*.attn.hook_*", "*hook_scale", "hook_logits"])
        assert torch.equal(logits, MODEL(INPUTS))
        assert len(cache) > 50


def test_logits_at_a_span_are_sliced_by_what_they_hold(everything):
    with torch.no_grad():
        _, cache = MODEL.run_with_cache(INPUTS, names_filter="hook_logits", logits_at="audio")
    rows = INPUTS.spans.resolve("audio & item0").positions.tolist()
    torch.testing.assert_close(cache["hook_logits@audio & item0"], everything["hook_logits"][:, rows])
    with pytest.raises(SpanError, match="is not among the rows of hook_logits"):
        cache["hook_logits@last"]
    with pytest.raises(SpanError, match="is not among the rows of hook_logits"), torch.no_grad():
        MODEL.run_with_hooks(INPUTS, fwd_hooks=[("hook_logits@video", lambda t, hook: None)], logits_at="audio")
