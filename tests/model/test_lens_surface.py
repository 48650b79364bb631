"""The words of TransformerLens's model, with its meaning: what a run returns, what a cache keeps, texts and weights."""

import pytest
import torch
from support.families import FAMILIES
from transformer_lens.utilities import lm_cross_entropy_loss

import hooked_av as av
from hooked_av.errors import ArgumentError, HookedAVError, HookedAVWarning, HookNameError, InputsError

pytestmark = [pytest.mark.usefixtures("as_a_user"), pytest.mark.usefixtures("one_thread")]
MODEL, TEXTS = FAMILIES["omni"].model, av.random_omni(n_layers=2)
CFG = MODEL.cfg
TOKENS = torch.tensor([[5, 9, 3, 12, 9]])
INPUTS = FAMILIES["omni"].inputs("audio in video", n_question=4)
RESID, PATTERN = "blocks.1.hook_resid_post", "blocks.1.attn.hook_pattern"


# --- what a run returns ----------------------------------------------------------------------------------------------


@torch.no_grad()
def test_return_types_on_tokens_are_transformer_lenss():
    logits = MODEL(TOKENS)
    loss, each = (lm_cross_entropy_loss(logits, TOKENS, per_token=per_token) for per_token in (False, True))
    torch.testing.assert_close(MODEL(TOKENS, return_type="loss"), loss)
    torch.testing.assert_close(MODEL(TOKENS, return_type="loss", loss_per_token=True), each)
    both = MODEL(TOKENS, return_type="both")
    assert torch.equal(both[0], logits)
    torch.testing.assert_close(both[1], loss)
    assert MODEL(TOKENS, return_type=None) is None
    torch.testing.assert_close(MODEL.loss_fn(logits, TOKENS, per_token=True), each)
    torch.testing.assert_close(MODEL.run_with_hooks(TOKENS, return_type="loss"), loss)
    torch.testing.assert_close(MODEL.run_with_cache(TOKENS, return_type="loss")[0], loss)


@torch.no_grad()
def test_the_loss_is_of_text_tokens():
    """Media, and padding, are predicted by nobody."""
    each = MODEL(INPUTS, return_type="loss", loss_per_token=True)
    media = {at for name in ("audio", "video") for at in INPUTS.spans[name]}
    text = [at for at in range(1, INPUTS.n_pos) if at not in media]
    wanted = torch.nn.functional.cross_entropy(MODEL(INPUTS)[0, [at - 1 for at in text]], INPUTS.input_ids[0, text])
    torch.testing.assert_close(MODEL(INPUTS, return_type="loss"), wanted)
    assert each.isnan().sum() == len(media)
    several = MODEL.batch([FAMILIES["omni"].inputs("text"), FAMILIES["omni"].inputs("image")])
    alone = MODEL(FAMILIES["omni"].inputs("text"), return_type="loss", loss_per_token=True)
    padded = MODEL(several, return_type="loss", loss_per_token=True)[0]
    torch.testing.assert_close(padded[~padded.isnan()], alone[0], rtol=1e-3, atol=1e-3)
    masked = MODEL.loss_fn(MODEL(TOKENS), TOKENS, attention_mask=torch.tensor([[1, 1, 0, 0, 0]]))
    torch.testing.assert_close(masked, lm_cross_entropy_loss(MODEL(TOKENS[:, :2]), TOKENS[:, :2]))


@torch.no_grad()
def test_layers_are_counted_from_the_end_too():
    assert torch.equal(MODEL(TOKENS, stop_at_layer=-1), MODEL(TOKENS, stop_at_layer=CFG.n_layers - 1))
    resid = MODEL(TOKENS, stop_at_layer=-1)
    assert torch.equal(MODEL(TOKENS, start_at_layer=-1, resid=resid), MODEL(TOKENS))
    with pytest.raises(InputsError, match="no such layers"):
        MODEL(TOKENS, stop_at_layer=-CFG.n_layers - 1)


REFUSED = {
    "a loss at a span": (lambda: MODEL(TOKENS, return_type="loss", logits_at="last"), InputsError, "at every position"),
    "a loss before the end": (
        lambda: MODEL(TOKENS, return_type="both", stop_at_layer=1),
        InputsError,
        "every position",
    ),
    "another return type": (lambda: MODEL(TOKENS, return_type="probs"), ArgumentError, "return_type"),
    "a loss of one token": (lambda: MODEL(TOKENS[:, :1], return_type="loss"), InputsError, "no loss"),
    "a loss of other tokens": (lambda: MODEL.loss_fn(MODEL(TOKENS), TOKENS[:, 1:]), InputsError, "no loss"),
    "a BOS": (lambda: MODEL(TOKENS, prepend_bos=True), InputsError, "begins a text"),
    "a BOS in a text": (lambda: TEXTS.to_tokens("a", prepend_bos=True), InputsError, "begins a text"),
    "a BOS in str tokens": (lambda: TEXTS.to_str_tokens("a", prepend_bos=True), InputsError, "begins a text"),
    "a BOS in a cache": (lambda: MODEL.run_with_cache(TOKENS, prepend_bos=True), InputsError, "begins a text"),
    "gradients of logits": (lambda: MODEL.run_with_cache(TOKENS, incl_bwd=True), InputsError, "gradients of what"),
    "gradients without": (
        lambda: torch.no_grad()(MODEL.run_with_cache)(TOKENS, incl_bwd=True, return_type="loss"),
        InputsError,
        "no_grad",
    ),
    "a position that is not there": (
        lambda: MODEL.run_with_cache(TOKENS, pos_slice=9),
        InputsError,
        "no such positions",
    ),
    "positions of no kind": (lambda: MODEL.run_with_cache(TOKENS, pos_slice={}), InputsError, "no such positions"),
    "positions twice": (lambda: MODEL.run_with_cache(TOKENS, pos_slice=[1, 1]), InputsError, "each once"),
    "a span and pos_slice": (
        lambda: MODEL.run_with_cache(TOKENS, names_filter=f"{RESID}@last", pos_slice=1),
        InputsError,
        "one of the two",
    ),
    "a token that is not there": (lambda: TEXTS.get_token_position("cat", "a dog"), InputsError, "not in this prompt"),
    "a token of several": (
        lambda: TEXTS.get_token_position(1, torch.tensor([[1, 2], [2, 1]])),
        InputsError,
        "which prompt",
    ),
    "a composition of no kind": (lambda: MODEL.all_composition_scores("O"), ArgumentError, "'Q' or 'K' or 'V'"),
    "TransformerLens's input": (lambda: MODEL(input=TOKENS), ArgumentError, "inputs"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_says_what_is_wanted(what):
    call, error, says = REFUSED[what]
    with pytest.raises(error, match=says):
        call()


# --- what a cache keeps ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part, rows",
    [
        (-1, [-1]),
        ((2, 5), [2, 3, 4]),
        ([1, 3], [1, 3]),
        (torch.tensor([0, 2]), [0, 2]),
        ("audio", None),
        ("last", [-1]),
    ],
)
@torch.no_grad()
def test_some_positions_under_the_plain_names(part, rows):
    rows = INPUTS.spans[part].positions.tolist() if rows is None else rows
    names = [RESID, PATTERN, "blocks.0.attn.hook_k", "ln_final.hook_scale", "hook_audio_embed"]
    _, whole = MODEL.run_with_cache(INPUTS, names_filter=names)
    logits, cache = MODEL.run_with_cache(INPUTS, names_filter=names, pos_slice=part)
    assert torch.equal(logits, MODEL(INPUTS))
    assert list(cache) == list(whole)
    for name in (RESID, "blocks.0.attn.hook_k", "ln_final.hook_scale"):
        assert torch.equal(cache[name], whole[name][:, rows])
    torch.testing.assert_close(cache[PATTERN], whole[PATTERN][:, :, rows])
    assert torch.equal(cache["hook_audio_embed"], whole["hook_audio_embed"])
    with pytest.raises(HookNameError, match="some positions only"):
        cache[f"{RESID}@video"]


def test_the_recipe_with_some_positions():
    with torch.no_grad():
        logits, cache = MODEL.run_with_cache(INPUTS, pos_slice="last")
        found = (cache.decompose_resid(apply_ln=True) @ MODEL.W_U).sum(0)
    torch.testing.assert_close(found, logits[:, -1:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("part", [None, "audio"])
def test_gradients_of_the_loss(part):
    received = {}
    hook = (RESID, lambda gradient, hook: received.update({RESID: gradient.clone()}))
    MODEL.run_with_hooks(INPUTS, bwd_hooks=[hook], return_type="loss").backward()
    loss, cache = MODEL.run_with_cache(INPUTS, names_filter=RESID, incl_bwd=True, return_type="loss", pos_slice=part)
    MODEL.zero_grad()
    rows = slice(None) if part is None else INPUTS.spans[part].positions.tolist()
    assert sorted(cache) == [RESID, f"{RESID}_grad"]
    assert torch.equal(cache[f"{RESID}_grad"], received[RESID][:, rows])
    assert cache.remove_batch_dim()[f"{RESID}_grad"].ndim == 2
    assert loss.ndim == 0


# --- texts, weights, switches ----------------------------------------------------------------------------------------


def test_texts_and_tokens():
    assert TEXTS.tokenizer is TEXTS.family.tokenizer
    assert MODEL.tokenizer is None
    assert TEXTS.to_single_str_token(TEXTS.to_single_token(" world")) == " world"
    text = "the cat and the cat"
    assert [TEXTS.get_token_position(" cat", text, mode=mode) for mode in ("first", "last")] == [1, 4]
    tokens = TEXTS.to_tokens(text, prepend_bos=False)
    assert TEXTS.get_token_position(" and", tokens) == TEXTS.get_token_position(" and", tokens[0]) == 2
    prompt = TEXTS.prepare(question="Which cat?")
    assert TEXTS.to_str_tokens(prompt)[TEXTS.get_token_position(" cat", prompt)] == " cat"
    several = TEXTS.tokens_to_residual_directions([" cat", 3])
    assert torch.equal(several, TEXTS.W_U.T[[TEXTS.to_single_token(" cat"), 3]])


def test_what_generate_gives_transformer_lenss_users():
    answer = TEXTS.generate("Hello world", max_new_tokens=3, stop_tokens=())
    tokens = torch.cat([TEXTS.to_tokens("Hello world"), torch.tensor(answer.tokens)], dim=1)
    asked = {"max_new_tokens": 3, "stop_tokens": (), "verbose": False}
    assert torch.equal(TEXTS.generate("Hello world", return_type="tokens", **asked), tokens)
    assert TEXTS.generate("Hello world", return_type="str", **asked) == TEXTS.to_string(tokens)
    assert TEXTS.generate("Hello world", return_type="input", **asked) == TEXTS.to_string(tokens)
    assert TEXTS.generate(["Hello world"] * 2, return_type="input", **asked) == [TEXTS.to_string(tokens)] * 2
    assert torch.equal(TEXTS.generate(tokens[:, :2], return_type="input", **asked), tokens)


def test_names_of_weights():
    assert MODEL.embed.W_E is MODEL.embed.weight
    assert MODEL.unembed.W_U.data_ptr() == MODEL.W_U.data_ptr()
    assert MODEL.ln_final.w is MODEL.ln_final.weight
    assert not MODEL.accumulated_bias(2).any()
    assert MODEL.all_head_labels == [f"L{layer}H{head}" for layer in range(CFG.n_layers) for head in range(CFG.n_heads)]
    named = MODEL.tl_parameters()
    assert named["blocks.1.attn.W_V"].shape == (CFG.n_heads, CFG.d_model, CFG.d_head)
    assert len(dict(named)) == len(named) == 4 + 15 * CFG.n_layers


@pytest.mark.parametrize("head", [0, 1, 2, 3])
def test_query_heads_are_paired_with_the_key_heads_that_they_read(head):
    """As attention does: QK and OV are what scores and results are made of."""
    attn, group = MODEL.blocks[1].attn, CFG.n_heads // CFG.n_key_value_heads
    torch.testing.assert_close(attn.QK[head].AB, attn.W_Q[head] @ attn.W_K[head // group].T)
    torch.testing.assert_close(MODEL.OV[1, head].AB, attn.W_V[head // group] @ attn.W_O[head])
    scores = MODEL.all_composition_scores("K").scores
    product = MODEL.OV[0, 1].AB @ (attn.W_K[head // group] @ attn.W_Q[head].T)
    wanted = product.norm() / MODEL.OV[0, 1].norm() / attn.QK[head].norm()
    torch.testing.assert_close(scores[0, 1, 1, head], wanted)


@pytest.mark.parametrize("name", ["use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in"])
def test_switches_say_that_there_is_nothing_to_switch(name):
    with pytest.warns(HookedAVWarning, match="nothing to switch on"):
        getattr(MODEL, f"set_{name}")(True)
    assert getattr(CFG, name) is False


def test_the_config_answers_transformer_lenss_names():
    said = CFG.to_dict()
    assert (said["d_vocab_out"], said["rotary_dim"], said["attn_scale"]) == (CFG.d_vocab, CFG.d_head, CFG.d_head**0.5)
    assert (said["gated_mlp"], said["default_prepend_bos"], said["attn_only"]) == (True, False, False)
    assert said["original_architecture"] == "Qwen2_5OmniThinkerForConditionalGeneration"
    assert TEXTS.cfg.tokenizer_name
    assert said["n_params"] == sum(getattr(MODEL, name).numel() for name in ("W_Q", "W_K", "W_V", "W_O")) + sum(
        getattr(MODEL, name).numel() for name in ("W_in", "W_gate", "W_out")
    )


@torch.no_grad()
def test_a_block_of_hooks_forgets_what_hooks_noted_if_it_is_asked_to():
    point = MODEL.hook_dict[RESID]
    for clear, kept in ((False, {"seen": True}), (True, {})):
        with MODEL.hooks(fwd_hooks=[(RESID, lambda x, hook: hook.ctx.update(seen=True))], clear_contexts=clear):
            MODEL(TOKENS)
        assert point.ctx == kept
        point.clear_context()


def test_a_gradient_hook_that_is_put_first_is_called_first():
    called, point = [], MODEL.hook_dict[RESID]
    for name, prepend in (("one", False), ("other", False), ("first", True)):
        point.add_hook(lambda gradient, hook, name=name: called.append(name), dir="bwd", prepend=prepend)
    try:
        MODEL(TOKENS).sum().backward()
    finally:
        point.remove_hooks("bwd")
        MODEL.zero_grad()
    assert called == ["first", "one", "other"]


@torch.no_grad()
def test_a_hook_is_not_told_of_nan_that_was_there_before_it():
    def brings(x, hook):
        return x * float("nan")

    seen = []
    hooks = [(RESID, lambda x, hook: seen.append(x.isnan().all()) or x * 2)]
    point = MODEL.hook_dict[RESID]
    before = torch.full((1, 5, CFG.d_model), float("nan"))
    with MODEL.hooks(fwd_hooks=hooks):
        assert point(before).isnan().all()
    assert seen == [True]
    with pytest.raises(HookedAVError, match="nan"), MODEL.hooks(fwd_hooks=[(RESID, brings)]):
        point(torch.zeros(1, 5, CFG.d_model))


def test_labels_of_heads_have_transformer_lenss_name_too():
    assert MODEL.attn_head_labels == MODEL.all_head_labels
    assert len(MODEL.all_head_labels) == CFG.n_layers * CFG.n_heads


@torch.no_grad()
def test_a_hook_on_scores_that_leaves_no_key_is_reported():
    hooks = [("blocks.1.attn.hook_attn_scores@last", lambda scores, hook: scores - torch.inf)]
    with pytest.warns(HookedAVWarning, match="no key left"):
        logits = MODEL.run_with_hooks(INPUTS, fwd_hooks=hooks)
    assert logits.isfinite().all()


@torch.no_grad()
def test_a_cache_of_some_positions_makes_no_pattern_of_them():
    """Its keys are not all there: what attention was cannot be made of them."""
    _, whole = MODEL.run_with_cache(TOKENS)
    _, some = MODEL.run_with_cache(TOKENS, pos_slice=(1, 3))
    assert whole[PATTERN].shape[-1] == TOKENS.shape[1]
    with pytest.raises(HookNameError, match="not in the cache"):
        some[PATTERN]
