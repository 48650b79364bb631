"""Answers with interventions and hooks are those of passes without a cache, in every phase."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.generation import GENERATING, N_NEW, close, write

import hooked_av as av
from hooked_av.decoder import cut_masks
from hooked_av.decoder.cut_masks import Touched
from hooked_av.errors import InterventionError

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("error")]


@pytest.fixture(scope="module", params=["omni", "salmonn"])
def family(request):
    return GENERATING[request.param]


@pytest.fixture
def model(family):
    return family.model


@pytest.fixture
def inputs(family):
    return family.inputs("audio in video")


def in_one_pass(model, inputs, tokens, specs=()):
    """The logits that each token of an answer was chosen from, without a cache: one pass over prompt and answer."""
    with torch.no_grad():
        logits = model(inputs.with_generated(tokens), interventions=specs)
    return logits[:, -len(tokens[0]) - 1 : -1]


# --- without a cache -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "audio", "audio in video"])
def test_cached_equals_uncached(family, kind):
    inputs = family.inputs(kind)
    answer = write(family.model, inputs, keep=["logits", "probabilities"])
    tokens = []
    for _ in range(N_NEW):
        sofar = inputs.with_generated([tokens]) if tokens else inputs
        with torch.no_grad():
            tokens.append(int(family.model(sofar)[0, -1].argmax()))
    assert answer.tokens == (tuple(tokens),)
    logits = in_one_pass(family.model, inputs, answer.tokens)
    close(answer.logits, logits)
    close(answer.probabilities, logits.softmax(-1).gather(2, torch.tensor([tokens])[..., None])[..., 0])


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_a_padded_batch_equals_its_prompts(monkeypatch, family, backend):
    monkeypatch.setattr(family.model, "attn_implementation", backend)
    alone = [family.inputs(kind) for kind in family.mixed]
    cut = {"interventions": ["generated->generated@0", av.ablate("blocks.1.attn.hook_z", "last|generated")]}
    batch = write(family.model, family.model.batch(alone), keep="logits", repetition_penalty=1.1, **cut)
    for row, prompt in enumerate(alone):
        single = write(family.model, prompt, keep="logits", repetition_penalty=1.1, **cut)
        assert batch.tokens[row] == single.tokens[0]
        close(batch.logits[row], single.logits[0])


SPECS = {
    "the first token only": ["audio->last"],
    "the whole answer": ["audio->last|generated"],
    "all tokens but the first": ["video->generated@1-2"],
    "a prompt's route": ["audio->question@0-1"],
    "the answer to itself": ["generated->generated@2"],
    "some heads": [av.block_attention("av->last|generated@1", heads=[0, 3])],
    "only these": [av.keep_only("text|av|boundary->text|av|boundary", "text|generated->generated")],
    "an edit of the prompt": [av.ablate("blocks.0.hook_mlp_out", "audio", "mean")],
    "an edit of the answer": [av.add_vector("blocks.1.hook_resid_pre", "generated", torch.linspace(-1, 1, 64))],
    "edit of every row read": [av.ablate("blocks.1.attn.hook_z", "last|generated", heads=[2])],
    "an edit of patterns": [av.ablate("blocks.1.attn.hook_pattern", "last|generated<-audio")],
    "dropped, known before": [av.drop_tokens("audio", 1)],
    "dropped, and cut": [av.drop_tokens("video", 2), "audio->generated@1"],
    "several": ["audio->last|generated@0", av.ablate("blocks.2.hook_mlp_out", "question|generated"), "video->question"],
}


@pytest.mark.parametrize("specs", SPECS.values(), ids=SPECS.keys())
def test_interventions_go_on_in_decoding(model, inputs, specs):
    answer = write(model, inputs, keep="logits", interventions=specs)
    close(answer.logits, in_one_pass(model, inputs, answer.tokens, specs))
    with model.intervene(*specs):
        assert write(model, inputs).tokens == answer.tokens
    clean = in_one_pass(model, inputs, answer.tokens)
    assert not torch.allclose(answer.logits, clean, atol=1e-3)
    assert model.open_interventions == ()
    assert not any(point.is_hooked for point in model.hook_dict.values())


def test_keys_of_dropped_tokens_go_too(model, inputs):
    kept, dropped = (
        write(model, inputs, keep="logits", interventions=av.drop_tokens("audio", 2, kv)) for kv in ("keep", "drop")
    )
    assert torch.equal(kept.logits[:, 0], dropped.logits[:, 0])
    specs = [av.drop_tokens("audio", 2), "audio->generated@0-1"]
    close(dropped.logits, in_one_pass(model, inputs, dropped.tokens, specs))
    assert not torch.allclose(dropped.logits[:, 1], kept.logits[:, 1], atol=1e-3)


SELECTORS = ["audio", "video", "question", "last", "generated", "last|generated", "av|generated", "question|generated"]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.sampled_from(SELECTORS),
    queries=st.sampled_from(SELECTORS),
    layers=st.sets(st.integers(0, 2), min_size=1),
    heads=st.none() | st.sets(st.integers(0, 3), min_size=1),
    during=st.sampled_from(["both", "prefill", "decode"]),
)
def test_any_cut_in_any_phase_equals_one_pass(family, keys, queries, layers, heads, during):
    model, inputs = family.model, family.inputs("audio in video")
    cut = av.block_attention(keys=keys, queries=queries, layers=layers, heads=heads)
    spans = inputs.row_spans[0].continued(4)
    first, reads = int(spans.resolve(keys).positions[0]), spans.resolve(queries).positions
    live = {"prefill": reads < inputs.n_pos, "decode": reads >= inputs.n_pos, "both": reads >= 0}[during]
    if not (reads[live] >= first).any():
        with pytest.raises(InterventionError, match="can never act"):
            write(model, inputs, max_new_tokens=4, interventions=cut, during=during)
        return
    answer = write(model, inputs, max_new_tokens=4, keep="logits", interventions=cut, during=during)
    rows = {"prefill": queries.removesuffix("|generated"), "decode": "generated", "both": queries}[during]
    same = av.block_attention(keys=keys, queries=rows, layers=layers, heads=heads)
    # in the prefill there are no generated keys
    close(answer.logits, in_one_pass(model, inputs, answer.tokens, same))


def test_a_placeholder_that_the_model_writes_is_a_word(model, inputs):
    video = inputs.input_ids[0, inputs.spans["video"].positions[0]].item()
    with torch.no_grad():
        logits = model(inputs.with_generated([[video, video]]))
        close(logits[:, : inputs.n_pos], model(inputs))
        assert not torch.allclose(logits, model(inputs.with_generated([[5, 5]])), atol=1e-3)


def test_an_answer_can_go_on(model, inputs):
    whole = write(model, inputs, interventions="audio->generated@1")
    half = write(model, inputs, max_new_tokens=N_NEW - 4, interventions="audio->generated@1")
    longer = inputs.with_generated(half.tokens)
    rest = write(model, longer, max_new_tokens=4, interventions="audio->generated@1")
    assert half.tokens[0] + rest.tokens[0] == whole.tokens[0]
    assert longer.spans["last"] == inputs.spans["last"]
    assert torch.equal(longer.position_ids[..., : inputs.n_pos], inputs.position_ids)


# --- hooks -----------------------------------------------------------------------------------------------------------


def recorded(seen):
    def hook(tensor, hook):
        seen.append((hook.name, tuple(tensor.shape)))

    return hook


def test_hooks_see_the_rows_of_each_pass(model, inputs):
    seen = []
    names = ["blocks.1.hook_mlp_out", "blocks.1.hook_mlp_out@audio", "hook_inputs_embed@last|generated", "hook_logits"]
    write(model, inputs, max_new_tokens=3, fwd_hooks=[(name, recorded(seen)) for name in names])
    n_pos, n_audio = inputs.n_pos, len(inputs.spans["audio"])
    embed, mlp, logits = "hook_inputs_embed", "blocks.1.hook_mlp_out", "hook_logits"
    prefill = [(embed, (1, 1, 64)), (mlp, (1, n_pos, 64)), (mlp, (1, n_audio, 64)), (logits, (1, 1, 320))]
    step = [(embed, (1, 1, 64)), (mlp, (1, 1, 64)), (logits, (1, 1, 320))]
    assert seen == [*prefill, *step, *step]
    assert not any(point.is_hooked for point in model.hook_dict.values())


def test_encoders_run_once(model, inputs):
    seen = []
    with model.hooks([("hook_*_embed", recorded(seen))]):
        write(model, inputs)
    assert sorted(name for name, _ in seen) == ["hook_audio_embed", "hook_inputs_embed", "hook_video_embed"] or (
        [name for name, _ in seen].count("hook_audio_embed")
        == [name for name, _ in seen].count("hook_video_embed")
        == 1
    )


@pytest.mark.parametrize(("during", "steps"), [("both", 5), ("prefill", 1), ("decode", 4)])
def test_hooks_of_a_call_are_live_during_its_phase(model, inputs, during, steps):
    seen, always = [], []
    with model.hooks([("blocks.0.hook_attn_out", recorded(always))]):
        write(model, inputs, max_new_tokens=5, fwd_hooks=[("blocks.0.hook_attn_out", recorded(seen))], during=during)
    assert len(seen) == steps
    assert len(always) == 5


def test_what_a_hook_returns_is_used_in_every_step(model, inputs):
    vector = torch.linspace(-1, 1, 64)
    steered = write(
        model,
        inputs,
        keep="logits",
        fwd_hooks=[("blocks.1.hook_resid_post@generated", lambda rows, hook: rows + vector)],
    )
    spec = av.add_vector("blocks.1.hook_resid_post", "generated", vector)
    assert torch.equal(steered.logits, write(model, inputs, keep="logits", interventions=spec).logits)
    assert not torch.allclose(steered.logits, write(model, inputs, keep="logits").logits, atol=1e-3)


@pytest.mark.parametrize("span", ["last|generated<-audio", "generated<-question|generated", "last|generated"])
def test_patterns_of_the_answer(model, inputs, span):
    """What each step's pattern hook sees is that row of one pass over prompt and answer."""
    seen = []
    name = f"blocks.1.attn.hook_pattern@{span}"
    answer = write(model, inputs, fwd_hooks=[(name, lambda rows, hook: seen.append(rows.clone()))])
    with torch.no_grad():
        whole = inputs.with_generated([answer.tokens[0][:-1]])  # the last token is never read
        cache = model.run_with_cache(whole, names_filter=name)[1][name]
    assert len(seen) == cache.shape[2]
    for row, rows in enumerate(seen):
        close(rows[:, :, 0], cache[:, :, row, : rows.shape[3]])
        assert not cache[:, :, row, rows.shape[3] :].any()


def test_hooks_see_the_edits_of_interventions(model, inputs):
    seen = []
    write(
        model,
        inputs,
        interventions=av.ablate("blocks.1.hook_mlp_out", "last|generated"),
        fwd_hooks=[("blocks.1.hook_mlp_out@last|generated", lambda rows, hook: seen.append(rows.abs().max().item()))],
    )
    assert seen == [0] * N_NEW


def test_a_cut_of_the_prompt_costs_decoding_nothing(monkeypatch, model, inputs):
    calls = []
    real = Touched.prepare
    monkeypatch.setattr(
        Touched, "prepare", lambda self, rows, *rest: calls.append(rows.shape[1]) or real(self, rows, *rest)
    )
    write(model, inputs, interventions=["audio->question@1", "video->generated@2"])
    assert calls == [inputs.n_pos, inputs.n_pos, *[1] * (N_NEW - 1)]


def test_layers_with_the_same_cut_look_for_its_rows_once(monkeypatch, model, inputs):
    found = []
    real = cut_masks.touched_rows
    monkeypatch.setattr(cut_masks, "touched_rows", lambda rows, *rest: found.append(rows.shape[1]) or real(rows, *rest))
    write(model, inputs, interventions="audio->last|generated")
    assert found == [inputs.n_pos, *[1] * (N_NEW - 1)]
