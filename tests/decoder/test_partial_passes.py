"""A pass over a part of the rows or of the layers gives what the whole pass gives there."""

import pytest
import torch
from support.thinkers import make_thinker, prompts

import hooked_av as av
from hooked_av.decoder.attention import KeyValues, Known
from hooked_av.errors import HookError, InputsError, InterventionError, SpanError
from hooked_av.model.transformer import HookedAVTransformer

MODEL = HookedAVTransformer.from_hf(make_thinker(n_kv=2))
TENSORS = {name: maker.tensors() for name, maker in prompts().items()}
INPUTS = MODEL.inputs_from_tensors(**TENSORS["audio in video"])
INPUTS = INPUTS.with_span("question", range(INPUTS.n_pos - 6, INPUTS.n_pos))
N_POS, N_LAYERS = INPUTS.n_pos, MODEL.cfg.n_layers
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("error")]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# --- layers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", range(N_LAYERS + 1))
def test_a_pass_in_two_parts_is_the_whole_pass(layer):
    resid = MODEL(INPUTS, stop_at_layer=layer)
    assert torch.equal(MODEL(INPUTS, start_at_layer=layer, resid=resid), MODEL(INPUTS))


def test_layers_that_are_left_out_do_not_run():
    ran = []
    names = ["hook_*_embed*", "blocks.*.hook_resid_pre", "ln_final.*"]
    hooks = [(name, lambda x, hook: ran.append(hook.name)) for name in names]
    resid = MODEL(INPUTS, stop_at_layer=1)
    MODEL.run_with_hooks(INPUTS, fwd_hooks=hooks, start_at_layer=1, stop_at_layer=2, resid=resid)
    assert ran == ["blocks.1.hook_resid_pre"]
    _, cache = MODEL.run_with_cache(INPUTS, stop_at_layer=1)
    assert {name for name in cache if name.startswith("blocks.")} == {n for n in cache if n.startswith("blocks.0.")}


def test_hooks_and_interventions_of_layers_that_do_not_run_are_refused():
    with pytest.raises(HookError, match=r"blocks\.2\.hook_mlp_out cannot fire(.|\n)*layers -1 to 0"):
        MODEL.run_with_hooks(INPUTS, fwd_hooks=[("blocks.2.hook_mlp_out", lambda x, hook: x)], stop_at_layer=1)
    with pytest.raises(InterventionError, match="runs no layer of an intervention"):
        MODEL(INPUTS, interventions="audio->question@2", stop_at_layer=2)
    with pytest.raises(InterventionError, match="nothing that this pass runs has this name"):
        MODEL(INPUTS, interventions=av.ablate("blocks.2.hook_mlp_out", "audio"), stop_at_layer=2)


@pytest.mark.parametrize(("start", "stop"), [(-9, None), (4, None), (2, 1), (0, 4)])
def test_layers_that_the_model_has_not_are_refused(start, stop):
    with pytest.raises(InputsError, match="no such layers"):
        MODEL(INPUTS, start_at_layer=start, stop_at_layer=stop)


def test_a_start_without_a_stream_is_refused():
    with pytest.raises(InputsError, match="start_at_layer and resid go together"):
        MODEL(INPUTS, start_at_layer=1)
    with pytest.raises(InputsError, match="start_at_layer and resid go together"):
        MODEL(INPUTS, start_at_layer=1, resid=MODEL(INPUTS, stop_at_layer=1)[:, 1:])


# --- rows over the keys and values of earlier passes ---------------------------------------------------------------


def in_parts(inputs, parts, specs=()):
    """The decoder over consecutive groups of rows, each over the keys and values of those before."""
    past, logits = KeyValues(), []
    with MODEL.begin(inputs, interventions=specs) as one:
        embeds = one.embed()
        for start, stop in parts:
            rows = one.run.held[-1] = torch.arange(start, stop).expand(inputs.batch, -1)
            attend = one.attend(rows=rows, past=past)
            logits.append(MODEL.decoder(embeds[:, start:stop], inputs.position_ids[:, :, start:stop], attend))
    return torch.cat(logits, dim=1)


PARTS = [[(0, N_POS - 1), (N_POS - 1, N_POS)], [(0, 9), (9, 10), (10, 17), (17, N_POS)]]


@pytest.mark.parametrize("parts", PARTS, ids=["one token", "several"])
@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_rows_over_known_keys_equal_the_whole_pass(monkeypatch, parts, backend):
    monkeypatch.setattr(MODEL, "attn_implementation", backend)
    close(in_parts(INPUTS, parts), MODEL(INPUTS))


@pytest.mark.parametrize("parts", PARTS, ids=["one token", "several"])
@pytest.mark.parametrize("route", ["audio->question", "video->question@1-2", "video->audio", "question->last@0"])
def test_cuts_go_on_over_known_keys(parts, route):
    close(in_parts(INPUTS, parts, [route]), MODEL(INPUTS, interventions=route))
    spec = av.block_attention(route, heads=[1, 2])
    close(in_parts(INPUTS, parts, [spec]), MODEL(INPUTS, interventions=spec))


def test_a_padded_batch_over_known_keys():
    short = av.AVInputs.from_tokens(TENSORS["text"]["input_ids"])
    batch = MODEL.batch([short, INPUTS])
    start = batch.starts[0]
    whole, parts = MODEL(batch), in_parts(batch, [(0, start + 3), (start + 3, N_POS - 1), (N_POS - 1, N_POS)])
    close(parts[batch.attention_mask], whole[batch.attention_mask])


def test_patterns_of_rows_over_known_keys():
    wanted = "blocks.1.attn.hook_pattern@last<-audio"
    _, cache = MODEL.run_with_cache(INPUTS, names_filter=wanted)
    seen, past = [], KeyValues()
    ids, first, last = INPUTS.position_ids, torch.arange(N_POS - 1)[None], torch.tensor([[N_POS - 1]])
    with MODEL.begin(INPUTS) as plain:
        embeds = plain.embed()
        with MODEL.hooks(fwd_hooks=[(wanted, lambda pattern, hook: seen.append(pattern.clone()))]):
            early = MODEL.begin(INPUTS)
            with early, pytest.raises(SpanError, match="'of a pattern hook' is not among the rows"):
                MODEL.decoder(embeds[:, :-1], ids[..., :-1], early.attend(rows=first, past=past))
            past.layers.clear()
        MODEL.decoder(embeds[:, :-1], ids[..., :-1], plain.attend(rows=first, past=past))
    with MODEL.hooks(fwd_hooks=[(wanted, lambda pattern, hook: seen.append(pattern.clone()))]):
        hooked = MODEL.begin(INPUTS)
        hooked.run.held[-1] = last
        with hooked:
            MODEL.decoder(embeds[:, -1:], ids[..., -1:], hooked.attend(rows=last, past=past))
    close(seen[0], cache[wanted])


def test_known_rows_can_be_forgotten():
    past = KeyValues()
    k, positions = torch.arange(5.0)[None, None, :, None], torch.tensor([[0, 1, 3, 4, 6]])
    past.extend(0, Known(k, k, positions))
    past.drop(torch.tensor([[1, 4, 5]]))
    assert past.layers[0].positions.tolist() == [[0, 3, 6]]
    assert past.layers[0].v.flatten().tolist() == [0, 2, 4]
    assert past.n_bytes == 2 * 3 * 4


# --- rows that leave ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", ["audio", "video", "av", "question - last"])
@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_dropping_equals_blocking_towards_all_others(span, layer):
    inputs = INPUTS.with_span("gone", INPUTS.spans.resolve(span))
    stay = [row for row in range(N_POS) if row not in inputs.spans["gone"]]
    inputs = inputs.with_span("rest", stay)
    dropped = MODEL(inputs, interventions=av.drop_tokens(span, layer))
    blocked = MODEL(
        inputs, interventions=av.block_attention(keys="gone", queries="rest", layers=range(layer, N_LAYERS))
    )
    assert dropped.shape[1] == len(stay)
    close(dropped, blocked[:, stay])
    assert not torch.allclose(dropped[0, -1], MODEL(inputs)[0, -1], atol=1e-3)


def test_drops_and_cuts_add_up():
    dropped = MODEL(INPUTS, interventions=[av.drop_tokens("audio", 1), "video->question@0-2"], logits_at="last")
    inputs = INPUTS.with_span("rest", [row for row in range(N_POS) if row not in INPUTS.spans["audio"]])
    blocked = MODEL(inputs, interventions=["audio->rest@1-2", "video->question@0-2"], logits_at="last")
    close(dropped, blocked)
    twice = MODEL(INPUTS, interventions=[av.drop_tokens("audio", 1), av.drop_tokens("av", 2)])
    assert twice.shape[1] == N_POS - len(INPUTS.spans["av"])


def test_what_hooks_and_caches_see_after_a_drop():
    names = ["blocks.*.hook_resid_pre", "blocks.2.attn.hook_pattern@question<-video", "blocks.1.attn.hook_pattern"]
    _, cache = MODEL.run_with_cache(INPUTS, names_filter=names, interventions=av.drop_tokens("audio", 1))
    n_left = N_POS - len(INPUTS.spans["audio"])
    assert [cache["resid_pre", layer].shape[1] for layer in range(3)] == [N_POS, n_left, n_left]
    assert cache["blocks.1.attn.hook_pattern"].shape[2:] == (n_left, n_left)
    stays = [row for row in range(N_POS) if row not in INPUTS.spans["audio"]]
    question = [stays.index(row) for row in INPUTS.spans["question"]]
    assert torch.equal(cache["blocks.1.hook_resid_pre@question"], cache["blocks.1.hook_resid_pre"][:, question])
    assert cache["blocks.2.attn.hook_pattern@question<-video"].shape[2:] == (6, len(INPUTS.spans["video"]))
    whole = MODEL.run_with_cache(INPUTS, names_filter=names[1], interventions=av.drop_tokens("audio", 1))[1]
    assert torch.equal(cache[names[1]], whole[names[1]])
    with pytest.raises(SpanError, match=r"'audio' is not among the rows of blocks\.1\.hook_resid_pre"):
        cache["blocks.1.hook_resid_pre@audio"]


def test_a_batch_drops_in_each_prompt():
    batch = MODEL.batch([INPUTS, INPUTS])
    alone = MODEL(INPUTS, interventions=av.drop_tokens("av", 1))
    close(MODEL(batch, interventions=av.drop_tokens("av", 1)), alone.expand(2, -1, -1))


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (lambda: av.drop_tokens("question", 1), "last token cannot be dropped"),
        (lambda: av.drop_tokens("audio", 3), "no such layers"),
        (lambda: [av.drop_tokens("audio", 1), av.ablate("blocks.2.hook_mlp_out", "av")], "rows that are still there"),
    ],
)
def test_drops_that_make_no_sense_are_refused(specs, message):
    with pytest.raises(InterventionError, match=message):
        MODEL(INPUTS, interventions=specs())
