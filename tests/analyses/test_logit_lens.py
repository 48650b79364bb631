"""The logit lens: the last layer is the model's own answer; named tokens, chunks, conventions, saving."""

import numpy as np
import pytest
import torch

import hooked_av as av
from hooked_av.analyses.lenses import logit_lens as lens_module
from hooked_av.errors import InputsError, SpanError

pytestmark = [pytest.mark.usefixtures("each_family"), pytest.mark.usefixtures("one_thread")]
# Set for each family in turn.
FAMILY = MODEL = INPUTS = None
CLIP = av.Clip.from_arrays(
    frames=np.random.default_rng(0).integers(0, 255, (8, 56, 56, 3), np.uint8),
    fps=4,
    waveform=np.sin(np.arange(32_000) / 20).astype(np.float32) * 0.4,
    sampling_rate_hz=16_000,
)
TOKENS = [" three", " eight"]


def use(family):
    global FAMILY, MODEL, INPUTS
    FAMILY, MODEL = family, family.random(n_layers=3)
    INPUTS = MODEL.prepare(CLIP, question="Which digit do you hear?", sampling=av.Sampling(max_pixels=56 * 56))


@pytest.fixture(scope="module")
def lens(each_family):
    return av.logit_lens(MODEL, INPUTS, at="last", top_k=7, tokens=TOKENS)


@pytest.fixture(scope="module")
def slow(each_family):
    """The same by hand: all logits of all layers at the last position."""
    with torch.no_grad():
        logits, cache = MODEL.run_with_cache(INPUTS, names_filter="blocks.*.hook_resid_post")
        layers = [MODEL.unembed(MODEL.ln_final(cache[f"blocks.{i}.hook_resid_post"]))[0, -1] for i in range(3)]
    return torch.stack(layers), logits[0, -1]


def test_the_last_layer_is_the_models_own_answer(lens, slow):
    best = slow[1].topk(7)
    assert lens.top_ids[-1, 0].tolist() == best.indices.tolist()
    np.testing.assert_allclose(lens.top_logits[-1, 0], best.values.numpy(), rtol=1e-5, atol=1e-5)


def test_every_layer_equals_the_slow_computation(lens, slow):
    layers, _ = slow
    best = layers.topk(7)
    assert lens.top_ids[:, 0].tolist() == best.indices.tolist()
    probabilities = layers.softmax(dim=-1)
    np.testing.assert_allclose(lens.top_probabilities[:, 0], probabilities.gather(1, best.indices).numpy(), rtol=1e-4)
    for index, token in enumerate(TOKENS):
        token_id = MODEL.to_single_token(token)
        np.testing.assert_allclose(lens.token_probabilities[:, 0, index], probabilities[:, token_id].numpy(), rtol=1e-4)
        ranks = (layers > layers[:, [token_id]]).sum(dim=1)
        assert lens.token_ranks[:, 0, index].tolist() == ranks.tolist()


def test_without_the_norm_it_is_another_lens(lens):
    raw = av.logit_lens(MODEL, INPUTS, convention="no_norm")
    assert raw.settings["convention"] == "no_norm"
    assert lens.settings["convention"] == "final_norm"
    assert not np.allclose(raw.top_logits[:, :, 0], lens.top_logits[:, :, 0])


def test_chunks_of_positions_change_nothing(monkeypatch):
    whole = av.logit_lens(MODEL, INPUTS, at="question", tokens=TOKENS)
    made = []
    real = MODEL.unembed.forward
    monkeypatch.setattr(lens_module, "_CHUNK_LOGITS", 2 * MODEL.cfg.d_vocab)
    monkeypatch.setattr(MODEL.unembed, "forward", lambda x: made.append(len(x)) or real(x))
    chunked = av.logit_lens(MODEL, INPUTS, at="question", tokens=TOKENS)
    assert chunked.top_ids.tolist() == whole.top_ids.tolist()
    np.testing.assert_allclose(chunked.token_probabilities, whole.token_probabilities, rtol=1e-4)
    assert max(made[1:]) <= 2, "never more rows of vocabulary than a chunk"
    assert whole.positions.tolist() == INPUTS.spans["question"].positions.tolist()


def test_it_saves_and_loads(lens, tmp_path):
    again = av.analyses.LogitLens.load(lens.save(tmp_path / "lens.safetensors"))
    assert again.top_texts == lens.top_texts
    assert again.tokens == lens.tokens
    assert dict(again.settings) == dict(lens.settings)
    for name in lens.axes:
        np.testing.assert_array_equal(getattr(again, name), getattr(lens, name))
    (tmp_path / "other").write_text("no")
    for wrong in ("other", "absent"):
        with pytest.raises(InputsError, match="not a saved LogitLens"):
            av.analyses.LogitLens.load(tmp_path / wrong)


def test_the_table_has_a_row_a_cell(lens):
    frame = lens.to_frame()
    assert len(frame) == 3 * 1 * 7
    row = frame[(frame.layer == 2) & (frame["rank"] == 0)].iloc[0]
    assert row.token == lens.top_texts[2][0][0] == MODEL.to_string(int(lens.top_ids[2, 0, 0]))
    assert row.position == INPUTS.n_pos - 1


def test_results_name_their_model_and_its_weights(lens):
    assert lens.settings["model"] == f"random_{FAMILY.name}(3, seed=0)"
    assert lens.settings["weights"] == MODEL.fingerprint() != FAMILY.random(3, seed=1).fingerprint()


@pytest.mark.usefixtures("as_a_user")
def test_results_check_their_axes(lens):
    from dataclasses import replace

    with pytest.raises(InputsError, match="does not fit its axes"):
        replace(lens, top_logits=lens.top_logits[:2])


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"at": "vidio"}, SpanError, "no span 'vidio'"),
        ({"top_k": 0}, InputsError, "top_k"),
        ({"tokens": ["two words"]}, InputsError, "not one token"),
        ({"tokens": [""]}, InputsError, "is not one token"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        av.logit_lens(MODEL, INPUTS, **arguments)


def test_tokens_that_were_named_have_a_table(lens):
    frame = lens.tokens_frame()
    assert frame.token.tolist() == TOKENS * 3
    assert frame[(frame.layer == 2) & (frame.token == " eight")]["rank"].item() == lens.token_ranks[2, 0, 1]
    assert av.logit_lens(MODEL, INPUTS, tokens=" three").tokens == (" three",)


def test_hooks_on_the_final_norm_do_not_see_the_lens():
    fired = []
    with MODEL.hooks(fwd_hooks=[("ln_final.hook_normalized@question", lambda rows, hook: fired.append(rows.shape))]):
        av.logit_lens(MODEL, INPUTS)
    assert len(fired) == 1, "once, in the forward pass"


def test_text_tokens_go_both_ways():
    assert MODEL.to_tokens("Hello world").tolist() == [[9707, 1879]]
    assert MODEL.to_str_tokens("Hello world") == ["Hello", " world"]
    assert MODEL.to_string(MODEL.to_tokens("Grüße, 世界")) == "Grüße, 世界"
    assert MODEL.to_single_token(" world") == 1879
    assert MODEL.to_str_tokens(INPUTS)[-1] == "\n"
    with pytest.raises(InputsError, match="equal lengths"):
        MODEL.to_tokens(["one", "one two"])
    with torch.no_grad():
        assert torch.equal(MODEL("Hello world"), MODEL(MODEL.to_tokens("Hello world")))


def test_the_same_seed_is_the_same_model():
    again, other = FAMILY.random(n_layers=3), FAMILY.random(n_layers=3, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(MODEL.parameters(), again.parameters(), strict=True))
    assert not torch.equal(MODEL.W_E, other.W_E)
