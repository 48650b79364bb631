"""Prompts with other media and other lengths share a batch: whatever is done, each row gives what it gives alone."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hooked_av as av
from hooked_av.errors import HookedAVWarning, InputsError, InterventionError, SpanError

pytestmark = [
    pytest.mark.usefixtures("each_family"),
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::hooked_av.errors.HookedAVWarning"),
]
# Set for each family in turn.
FAMILY = MODEL = PROMPTS = None
KINDS = ["text", "audio", "image", "video", "interleaved", "two sounds", "audio in video"]
RESID, PATTERN = "blocks.1.hook_resid_post", "blocks.1.attn.hook_pattern"


def use(family):
    global FAMILY, MODEL, PROMPTS
    FAMILY, MODEL = family, family.model
    PROMPTS = [family.inputs(kind, n_question=4) for kind in KINDS if kind in family.makers]


def ones():
    return torch.ones(MODEL.cfg.d_model)


SPECS = {
    "a cut of sound": lambda: "audio->last@1",
    "a cut of pictures": lambda: av.block_attention("video|audio->question", heads=1),
    "a cut of all": lambda: "all->question@1-2",
    "zero": lambda: av.ablate(RESID, "audio"),
    "all zero": lambda: av.ablate("blocks.1.hook_mlp_out", "all"),
    "mean": lambda: av.ablate(RESID, "audio", "mean"),
    "mean of what is heard": lambda: av.ablate("hook_audio_embed", "audio", "mean"),
    "mean of what is seen": lambda: av.ablate("hook_video_embed", "video", "mean"),
    "heads": lambda: av.ablate("blocks.1.attn.hook_z", "audio", heads=[0, 2]),
    "added": lambda: av.add_vector(RESID, "text", ones(), scale=3.0),
    "patched": lambda: av.patch(RESID, "video", ones()),
    "attention": lambda: av.ablate(PATTERN, "question<-audio"),
    "attention of all": lambda: av.ablate(PATTERN, "audio<-text"),
    "a random cut": lambda: av.block_random("audio->question@1", seed=3),
}
HOOKS = {
    "halved": (f"{RESID}@audio", lambda rows, hook: rows * 0.5),
    "in place": (f"{RESID}@audio", lambda rows, hook: [rows.mul_(0.5), None][1]),
    "mixed": (f"{RESID}@text", lambda rows, hook: rows.flip(1)),
    "all": (f"{RESID}@all", lambda rows, hook: rows - rows.mean(dim=1, keepdim=True)),
    "attention": (f"{PATTERN}@audio", lambda rows, hook: rows.roll(1, dims=1)),
    "attention to sound": (f"{PATTERN}@question<-audio", lambda rows, hook: rows * 0),
    "per-head results": ("blocks.1.attn.hook_result@audio", lambda rows, hook: rows * 2),
}


@torch.no_grad()
def alone(prompt, **arguments):
    """The prompt's own logits; those of a clean run where the span is not there."""
    try:
        return MODEL.run_with_hooks(prompt, **arguments)[0]
    except (SpanError, InterventionError, av.errors.HookError):
        return MODEL(prompt)[0]


def check(chosen, **arguments):
    batch = MODEL.batch([PROMPTS[number] for number in chosen])
    with torch.no_grad():
        out = MODEL.run_with_hooks(batch, **arguments)
    for row, number in enumerate(chosen):
        wanted = alone(PROMPTS[number], **arguments)
        rounding = {"rtol": 1e-4, "atol": 10 * FAMILY.rounding}
        torch.testing.assert_close(out[row, batch.starts[row] :], wanted, **rounding)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_interventions_act_in_the_rows_that_have_the_span(spec):
    check(range(len(PROMPTS)), interventions=spec())


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
def test_hooks_act_in_the_rows_that_have_the_span(hook):
    check(range(len(PROMPTS)), fwd_hooks=[hook])


@settings(max_examples=8, deadline=None)
@given(
    others=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    spec=st.sampled_from(list(SPECS)),
    hook=st.sampled_from(list(HOOKS)),
)
def test_whatever_the_batch_each_row_is_the_prompt_alone(others, spec, hook):
    check([len(PROMPTS) - 1, *(number % len(PROMPTS) for number in others)], interventions=SPECS[spec]())
    check([len(PROMPTS) - 1, *(number % len(PROMPTS) for number in others)], fwd_hooks=[HOOKS[hook]])


def test_a_hook_is_told_whose_rows_it_sees():
    batch, seen = MODEL.batch(PROMPTS), {}
    with pytest.warns(HookedAVWarning, match="called once for each prompt"), torch.no_grad():
        MODEL.run_with_hooks(batch, fwd_hooks=[(f"{RESID}@audio", lambda rows, hook: seen.update({hook.prompt: rows}))])
    lengths = {n: len(prompt.spans["audio"]) for n, prompt in enumerate(PROMPTS) if "audio" in prompt.spans}
    assert {n: list(rows.shape) for n, rows in seen.items()} == {
        n: [1, length, MODEL.cfg.d_model] for n, length in lengths.items()
    }
    whole = []
    with torch.no_grad():
        MODEL.run_with_hooks(batch, fwd_hooks=[(f"{RESID}@last", lambda rows, hook: whole.append((hook.prompt, rows)))])
    assert [(prompt, rows.shape[0]) for prompt, rows in whole] == [(None, len(PROMPTS))]


def test_gradients_at_a_span_are_those_of_the_prompt_alone():
    name, seen = f"{RESID}@audio", {}
    batch = MODEL.batch(PROMPTS)
    with MODEL.hooks(bwd_hooks=[(name, lambda grad, hook: seen.update({hook.prompt: grad.clone()}))]):
        MODEL(batch, logits_at="last")[:, 0, 3].sum().backward()
    for number, prompt in enumerate(PROMPTS):
        if "audio" in prompt.spans:
            own = []
            with MODEL.hooks(bwd_hooks=[(name, lambda grad, hook, own=own: own.append(grad.clone()))]):
                MODEL(prompt, logits_at="last")[0, 0, 3].backward()
            torch.testing.assert_close(seen[number], own[0], rtol=1e-3, atol=10 * FAMILY.rounding)
    MODEL.zero_grad()


@pytest.mark.parametrize(
    "span, without", [("audio", ["text", "image", "video"]), ("image", ["text", "audio", "video"]), ("last", [])]
)
def test_what_is_not_there_is_said(span, without):
    kinds = [kind for kind in KINDS if kind in FAMILY.makers]
    missing = [number for number, prompt in enumerate(PROMPTS) if span not in prompt.spans]
    assert {kinds[number] for number in missing} >= {kind for kind in without if kind in kinds}
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        MODEL.run_with_cache(MODEL.batch(PROMPTS), names_filter=f"{RESID}@{span}")
    said = [str(one.message) for one in caught if issubclass(one.category, HookedAVWarning)]
    assert any(f"prompts {missing} of the batch have no {span!r}" in text for text in said) == bool(missing)


ROWS = [RESID, "blocks.0.attn.hook_q", PATTERN, "blocks.2.attn.hook_result", "hook_inputs_embed", "hook_audio_embed"]


@pytest.mark.parametrize("cached", ["whole", "span"])
@pytest.mark.parametrize("span", ["audio", "all", "last", "text"])
@pytest.mark.parametrize("name", ROWS)
@torch.no_grad()
def test_a_cache_gives_flat_rows_with_their_prompt_and_position(name, span, cached):
    if name == "hook_audio_embed" and span in ("last", "text"):
        pytest.skip("no sound there")
    batch = MODEL.batch(PROMPTS)
    _, cache = MODEL.run_with_cache(batch, names_filter=name if cached == "whole" else f"{name}@{span}")
    found = cache.rows(name, span)
    assert len(found.activations) == len(found.sample) == len(found.position)
    for number, prompt in enumerate(PROMPTS):
        own = found.sample == number
        wanted = list(batch.row_spans[number].resolve(span)) if span in prompt.spans else []
        if name == "hook_audio_embed":
            heard = set(batch.row_spans[number]["audio"]) if "audio" in prompt.spans else set()
            wanted = sorted(heard.intersection(wanted))
        assert found.position[own].tolist() == wanted
        if not wanted:
            continue
        _, one = MODEL.run_with_cache(prompt, names_filter=f"{name}@{span}")
        part = one.rows(name, span)
        assert part.position.tolist() == [at - batch.starts[number] for at in wanted]
        values = found.activations[own]
        if name == PATTERN:
            assert not values[..., : batch.starts[number]].any()
            values = values[..., batch.starts[number] :]
        torch.testing.assert_close(values, part.activations, rtol=1e-4, atol=10 * FAMILY.rounding)


@torch.no_grad()
def test_a_cache_holds_what_it_said(monkeypatch):
    import hooked_av.forward.passes as passes

    sizes = {}
    real = passes.cache_bytes
    monkeypatch.setattr(passes, "cache_bytes", lambda *given: sizes.setdefault("all", real(*given)))
    names = [
        f"{RESID}@audio",
        f"{PATTERN}@audio<-last",
        f"{PATTERN}@text",
        "hook_audio_embed@audio",
        "blocks.0.attn.hook_q",
    ]
    _, cache = MODEL.run_with_cache(MODEL.batch(PROMPTS), names_filter=names)
    assert sizes["all"] == {key: x.numel() * x.element_size() for key, x in cache.cache_dict.items()}


@torch.no_grad()
@pytest.mark.parametrize("chosen", [slice(1, None), 0, -1, [0, -1], (0, 2), torch.tensor([1])])
def test_a_slice_of_a_cache_keeps_the_spans(chosen):
    batch = MODEL.batch(PROMPTS)
    names = [RESID, f"{RESID}@audio", "hook_audio_embed", "hook_audio_embed@audio", "blocks.0.attn.hook_q@last"]
    _, cache = MODEL.run_with_cache(batch, names_filter=names)
    part = cache.apply_slice_to_batch_dim(chosen)
    index = slice(*chosen) if isinstance(chosen, tuple) else chosen
    rows = torch.arange(len(PROMPTS))[index].reshape(-1).tolist()
    assert part.has_batch_dim == (not isinstance(chosen, int))
    assert len(cache[RESID]) == len(PROMPTS), "the cache itself is as it was"
    if isinstance(chosen, int):
        assert torch.equal(part[RESID], cache[RESID][chosen])
    for key in (RESID, "hook_audio_embed"):
        if any("audio" in PROMPTS[row].spans for row in rows):
            found, whole = part.rows(key, "audio"), cache.rows(key, "audio")
            for new, row in enumerate(rows):
                assert torch.equal(found.activations[found.sample == new], whole.activations[whole.sample == row])
                assert torch.equal(found.position[found.sample == new], whole.position[whole.sample == row])
    again = cache.apply_slice_to_batch_dim(None)
    assert all(torch.equal(again[key], cache[key]) for key in cache)


def uneven(**arguments):
    return lambda: MODEL(MODEL.batch(PROMPTS), **arguments)


REFUSED = {
    "a span that no prompt has": (uneven(interventions="adio->last"), SpanError, "no span 'adio'"),
    "a hook at one": (
        lambda: MODEL.run_with_hooks(MODEL.batch(PROMPTS), fwd_hooks=[(f"{RESID}@adio", lambda rows, hook: None)]),
        SpanError,
        "no span 'adio'",
    ),
    "a route that stays, of a span that some have not": (
        uneven(interventions=av.keep_only("audio->last", "text->last")),
        SpanError,
        "no span 'audio'",
    ),
    "logits at a span of more or fewer tokens": (uneven(logits_at="audio"), SpanError, "different length"),
    "rows that leave, in other numbers": (
        uneven(interventions=av.drop_tokens("audio", 1)),
        InterventionError,
        "another",
    ),
    "values for a number of rows": (
        lambda: MODEL(MODEL.batch(PROMPTS), interventions=av.patch(RESID, "audio", torch.ones(6, MODEL.cfg.d_model))),
        InterventionError,
        "each prompt has another number of these rows",
    ),
    "a cache of attention to more or fewer keys": (
        lambda: MODEL.run_with_cache(MODEL.batch(PROMPTS), names_filter=f"{PATTERN}@last<-audio"),
        SpanError,
        "another number of keys",
    ),
    "hooks that cache it": (
        lambda: MODEL.run_with_hooks(
            MODEL.batch(PROMPTS), fwd_hooks=MODEL.get_caching_hooks(f"{PATTERN}@last<-audio")[1]
        ),
        SpanError,
        "another number of keys",
    ),
    "a cache of a batch without its batch axis": (
        lambda: MODEL.run_with_cache(MODEL.batch(PROMPTS), names_filter=f"{RESID}@audio", remove_batch_dim=True),
        InputsError,
        "only a cache of one prompt",
    ),
    "a slice of a cache without one": (
        lambda: MODEL.run_with_cache(PROMPTS[0], remove_batch_dim=True)[1].apply_slice_to_batch_dim(0),
        InputsError,
        "no batch axis",
    ),
}


@pytest.mark.parametrize("call, kind, says", REFUSED.values(), ids=REFUSED)
def test_what_has_no_meaning_in_such_a_batch_is_refused(call, kind, says):
    with torch.no_grad(), pytest.raises(kind, match=says):
        call()


@torch.no_grad()
def test_what_refusals_of_uneven_spans_name_is_a_way():
    batch, keys = MODEL.batch(PROMPTS), f"{PATTERN}@last"
    _, cache = MODEL.run_with_cache(batch, names_filter=["hook_logits@audio", keys])
    logits = cache.rows("hook_logits", "audio")
    for row, prompt in enumerate(PROMPTS):
        if "audio" not in prompt.spans:
            continue
        own, one = MODEL.run_with_cache(prompt, names_filter=f"{keys}<-audio", logits_at="audio")
        rounding = {"rtol": 1e-4, "atol": 10 * FAMILY.rounding}
        torch.testing.assert_close(logits.activations[logits.sample == row], own[0], **rounding)
        found = cache[keys][row][..., batch.row_spans[row]["audio"]]
        torch.testing.assert_close(found, one[f"{keys}<-audio"][0], **rounding)


@pytest.mark.parametrize("spec", ["audio->last|generated", "all->generated@1"])
def test_answers_of_a_batch_are_those_of_its_prompts(spec):
    both = MODEL.generate(MODEL.batch(PROMPTS), max_new_tokens=3, stop_tokens=(), interventions=spec)
    for row, prompt in enumerate(PROMPTS):
        known = spec.startswith("all") or "audio" in prompt.spans
        own = MODEL.generate(prompt, max_new_tokens=3, stop_tokens=(), interventions=[spec] if known else [])
        assert both.tokens[row] == own.tokens[0]


@torch.no_grad()
def test_attention_is_computed_for_no_more_rows_than_the_longest_span():
    point, seen = MODEL.hook_dict[PATTERN], set()
    hook = (f"{PATTERN}@audio", lambda rows, hook: seen.add(point.rows.shape[1]))
    MODEL.run_with_hooks(MODEL.batch(PROMPTS), fwd_hooks=[hook])
    assert seen == {max(len(prompt.spans["audio"]) for prompt in PROMPTS if "audio" in prompt.spans)}
