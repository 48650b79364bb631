"""Answers are token for token those of transformers; what is refused, and what an answer holds."""

from types import SimpleNamespace

import pytest
import torch
from support.generation import GENERATING, N_NEW, close, write

import hooked_av as av
from hooked_av.errors import ArgumentError, HookedAVWarning, HookError, InputsError, InterventionError, SpanError
from hooked_av.generation.defaults import GenerationDefaults

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


# --- transformers ----------------------------------------------------------------------------------------------------

SAMPLED = {"do_sample": True, "temperature": 1.3, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.2}
OF_TRANSFORMERS = [(family, kind) for family in GENERATING.values() for kind in family.kinds]
each_kind = pytest.mark.parametrize(
    ("beside", "kind"), OF_TRANSFORMERS, ids=[f"{family.name}-{kind}" for family, kind in OF_TRANSFORMERS]
)
each_family = pytest.mark.parametrize("beside", GENERATING.values(), ids=GENERATING)


@each_family
@pytest.mark.parametrize(
    "how",
    [
        {"repetition_penalty": 1.3},
        {"do_sample": True},
        {"do_sample": True, "top_k": 0, "temperature": 2.0},
    ],
    ids=str,
)
def test_each_setting_means_what_it_means_in_transformers(beside, how):
    test_tokens_are_those_of_transformers(beside, "video", how)


@each_kind
@pytest.mark.parametrize("how", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_tokens_are_those_of_transformers(beside, kind, how):
    seed = {"seed": 5} if "do_sample" in how else {}
    inputs = beside.inputs(kind)
    ours = write(beside.model, inputs, **how, **seed)
    assert [list(row) for row in ours.tokens] == beside.tokens(inputs, seed=5, **how)


@each_family
@pytest.mark.parametrize("how", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_a_padded_batch_writes_what_transformers_writes(beside, how):
    short, long = torch.randint(0, 290, (9,)), torch.randint(0, 290, (14,))
    ids = torch.stack([torch.cat([torch.zeros(5, dtype=torch.int64), short]), long])
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    inputs = beside.model.inputs_from_tensors(input_ids=ids, attention_mask=mask)
    ours = write(beside.model, inputs, **how, **({"seed": 1} if how else {}))
    assert [list(row) for row in ours.tokens] == beside.tokens(inputs, seed=1, **how)


@each_kind
def test_logits_of_every_step_are_those_of_transformers(beside, kind):
    """Tokens alone would not show positions that are one too far."""
    inputs = beside.inputs(kind)
    close(write(beside.model, inputs, keep="logits").logits, beside.logits(inputs))


@each_family
def test_stop_tokens_end_answers_as_in_transformers(beside):
    ids = torch.randint(0, 290, (4, 10), generator=torch.Generator().manual_seed(0))
    inputs = beside.model.inputs_from_tensors(input_ids=ids, attention_mask=torch.ones_like(ids))
    free = write(beside.model, inputs, max_new_tokens=12)
    stops = [free.tokens[0][3], free.tokens[1][6]]
    ours = write(beside.model, inputs, max_new_tokens=12, stop_tokens=stops)
    theirs = beside.tokens(inputs, max_new_tokens=12, eos_token_id=stops)
    for row, (tokens, reason) in enumerate(zip(ours.tokens, ours.stopped_by, strict=True)):
        assert list(tokens) == theirs[row][: len(tokens)]
        assert set(theirs[row][len(tokens) :]) <= {0}
        assert reason == ("stop_token" if tokens[-1] in stops else "max_new_tokens")
        assert not set(tokens[:-1]) & set(stops)
    assert len(ours.tokens[0]) <= 4 < max(len(tokens) for tokens in ours.tokens)


def text_positions(inputs, n_new):
    return torch.arange(inputs.n_pos, inputs.n_pos + n_new).expand(3, inputs.batch, -1)


def one_too_late(inputs, n_new):
    return real_positions(inputs, n_new) + 1


real_positions = av.AVInputs.positions_after


@pytest.mark.parametrize("wrong", [text_positions, one_too_late])
def test_wrong_positions_of_decoded_tokens_would_be_noticed(monkeypatch, family, inputs, wrong):
    before = write(family.model, inputs, keep="logits")
    monkeypatch.setattr(av.AVInputs, "positions_after", wrong)
    after = write(family.model, inputs, keep="logits")
    assert torch.equal(before.logits[:, 0], after.logits[:, 0])
    assert (before.logits - after.logits)[:, 1].abs().max() > 1e-3


# --- what is refused -------------------------------------------------------------------------------------------------

HOOK = "blocks.1.hook_mlp_out"
REFUSED = {
    "max_new_tokens": ({"max_new_tokens": 0}, InputsError, "max_new_tokens does not fit"),
    "half a token": ({"max_new_tokens": True}, ArgumentError, "does not take this `max_new_tokens`"),
    "stop token outside": ({"stop_tokens": 320}, InputsError, "no such stop token(.|\n)*0 to 319"),
    "negative stop token": ({"stop_tokens": [-1]}, InputsError, "no such stop token"),
    "no stop token known": ({"stop_tokens": None}, InputsError, "nothing says which token ends a text"),
    "temperature of nothing": ({"temperature": 0.5}, InputsError, "greedy decoding does(.|\n)*temperature"),
    "seed of nothing": ({"seed": 1}, InputsError, "greedy decoding does(.|\n)*seed"),
    "temperature": ({"do_sample": True, "temperature": 0.0}, InputsError, "does not fit"),
    "top_p": ({"do_sample": True, "top_p": 1.5}, InputsError, "does not fit"),
    "top_k": ({"do_sample": True, "top_k": -1}, InputsError, "top_k does not fit"),
    "penalty": ({"repetition_penalty": -1.0}, InputsError, "does not fit"),
    "phase": ({"during": "later", "interventions": "audio->last"}, ArgumentError, "'both' or 'prefill' or 'decode'"),
    "phase of nothing": ({"during": "decode"}, InputsError, "nothing to be live"),
    "keep": ({"keep": "scores"}, ArgumentError, "'logits' or 'probabilities'"),
    "unknown span": ({"interventions": "adio->last"}, SpanError, "no span 'adio'"),
    "unknown span of a hook": ({"fwd_hooks": [(f"{HOOK}@adio", print)]}, SpanError, "no span 'adio'"),
    "cut in no pass": (
        {"interventions": "audio->question", "during": "decode"}, InterventionError, "can never(.|\n)*live in decode"
    ),
    "edit in no pass": (
        {"interventions": av.ablate(HOOK, "generated"), "during": "prefill"}, InterventionError, "can never act"
    ),
    "cut of one token": (
        {"interventions": "audio->generated", "max_new_tokens": 1}, InterventionError, "can never act"
    ),
    "drop in a phase": (
        {"interventions": av.drop_tokens("audio", 1), "during": "prefill"}, InterventionError, "can never act(.|\n)*kv="
    ),
    "drop of the answer": ({"interventions": av.drop_tokens("generated", 1)}, InterventionError, "cannot be dropped"),
    "drop of the last": ({"interventions": av.drop_tokens("last", 1)}, InterventionError, "cannot be dropped"),
    "mean of the answer": ({"interventions": av.ablate(HOOK, "generated", "mean")}, InterventionError, "does not fit"),
    "values of the answer": (
        {"interventions": av.patch(HOOK, "generated", torch.ones(7, 64))}, InterventionError, "does not fit"
    ),
    "hook in no pass": (
        {"fwd_hooks": [(f"{HOOK}@audio", print)], "during": "decode"}, HookError, "@audio can never fire"
    ),
    "hook of one token": (
        {"fwd_hooks": [(f"{HOOK}@generated", print)], "max_new_tokens": 1}, HookError, "can never(.|\n)*in prefill"
    ),
    "hook of no step": (
        {"fwd_hooks": [(HOOK, print)], "max_new_tokens": 1, "during": "decode"}, HookError, "there is no decode step"
    ),
    "encoder hook in decoding": (
        {"fwd_hooks": [("hook_audio_embed", print)], "during": "decode"}, HookError, "can never fire"
    ),
    "hook without its modality": ({"fwd_hooks": [("hook_image_embed", print)]}, HookError, "can never fire"),
    "keys to come in the prefill": (
        {"fwd_hooks": [("blocks.0.attn.hook_pattern@last<-generated", print)]}, HookError, "can never fire"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_nothing_is_silent(monkeypatch, model, inputs, as_a_user, arguments, error, message):
    monkeypatch.setattr(model.decoder, "forward", None)  # refused before anything runs
    with pytest.raises(error, match=message):
        write(model, inputs, **arguments)
    assert not any(point.is_hooked for point in model.hook_dict.values())


def test_open_hooks_that_can_never_fire_are_refused(model, inputs):
    with model.hooks([(f"{HOOK}@generated", print)]), pytest.raises(HookError, match="@generated can never fire"):
        write(model, inputs, max_new_tokens=1)
    with model.hooks(bwd_hooks=[(HOOK, print)]), pytest.raises(HookError, match=r"gradient hook(.|\n)*with_generated"):
        write(model, inputs)
    with model.intervene("audio->generated"), pytest.raises(InterventionError, match="can never act"):
        write(model, inputs, max_new_tokens=1)


def test_generated_is_a_span_of_generations_only(model, inputs):
    with pytest.raises(SpanError, match="no span 'generated'"):
        model(inputs, interventions="audio->last|generated")
    with pytest.raises(SpanError, match="is not among the rows"):
        write(model, inputs, fwd_hooks=[("hook_logits@question", print)])


def test_padding_on_the_right_is_refused(model):
    ids = torch.randint(0, 290, (2, 6))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    with pytest.raises(InputsError, match="padded on the right"):
        write(model, model.inputs_from_tensors(input_ids=ids, attention_mask=mask))


@pytest.mark.parametrize("tokens", [[[1], [2]], [[]], [[1, 2], [3]]])
def test_answers_that_do_not_fit_are_refused(inputs, tokens):
    with pytest.raises(InputsError, match="do not fit the prompts"):
        inputs.with_generated(tokens)


def test_a_phase_that_never_came_is_said(model, inputs):
    first = write(model, inputs).tokens[0][0]
    with pytest.warns(HookedAVWarning, match="there was no decode step"):
        write(model, inputs, stop_tokens=first, interventions="audio->generated", during="decode")


# --- the result ------------------------------------------------------------------------------------------------------


def test_the_callback_sees_every_token(model):
    batch = model.inputs_from_tensors(
        input_ids=torch.randint(0, 290, (3, 10), generator=torch.Generator().manual_seed(1))
    )
    stop = write(model, batch).tokens[0][2]
    steps = []
    answer = write(model, batch, stop_tokens=[stop], on_token=steps.append, keep=("logits", "probabilities"))
    columns = [[token for token in column if token is not None] for column in zip(*steps, strict=True)]
    assert [list(row) for row in answer.tokens] == columns
    for row, tokens in enumerate(answer.tokens):
        assert not answer.logits[row, : len(tokens)].isnan().any()
        assert answer.logits[row, len(tokens) :].isnan().all()
        assert answer.probabilities[row, len(tokens) :].isnan().all()
    assert len(answer.tokens[0]) < N_NEW


def test_a_callback_may_run_the_model(model, inputs):
    edited = write(model, inputs, keep="logits", fwd_hooks=[(f"{HOOK}@generated", lambda rows, hook: rows * 2)])
    busy = write(
        model,
        inputs,
        keep="logits",
        fwd_hooks=[("blocks.2.attn.hook_pattern@last|generated<-audio", lambda rows, hook: rows * 1)],
        on_token=lambda _: model(inputs, logits_at="last"),
    )
    plain = write(model, inputs, keep="logits")
    assert busy.tokens == plain.tokens
    close(busy.logits, plain.logits)
    assert not torch.allclose(edited.logits, plain.logits, atol=1e-3)


def test_sampling_is_reproducible_and_leaves_torch_alone(model, inputs):
    state = torch.get_rng_state()
    one = write(model, inputs, **SAMPLED, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    other = write(model, inputs, **SAMPLED)
    again = write(model, inputs, **SAMPLED, seed=other.settings["seed"])
    assert one.tokens != other.tokens == again.tokens


def test_settings_say_how(model, inputs):
    answer = write(model, inputs, interventions="audio->last@1", during="prefill")
    said = dict(answer.settings)
    assert said["interventions"] == ["block audio → last in layers [1]"]
    assert (said["during"], said["max_new_tokens"], said["stop_tokens"]) == ("prefill", N_NEW, ())
    assert "temperature" not in said
    assert write(model, inputs, **SAMPLED, seed=3).settings.items() >= {**SAMPLED, "seed": 3}.items()


def test_texts_and_stop_tokens_come_from_the_tokenizer(family):
    model = family.random(n_layers=2)
    inputs = model.prepare(question="Which digit do you hear?")
    tokenizer = model.family.tokenizer
    answer = model.generate(inputs, max_new_tokens=6)
    assert answer.settings["stop_tokens"] == (tokenizer.eos_token_id,)
    assert len(answer.tokens[0]) == answer.settings["max_new_tokens"] == 6
    assert answer.texts == (tokenizer.decode(answer.tokens[0], skip_special_tokens=True),)
    one_token = next(t for t in answer.tokens[0] if tokenizer(tokenizer.decode([t]))["input_ids"] == [t])
    stopped = model.generate(inputs, max_new_tokens=6, stop_tokens=tokenizer.decode([one_token]))
    assert stopped.tokens[0] == answer.tokens[0][: answer.tokens[0].index(one_token) + 1]


def test_defaults_come_from_the_checkpoint(monkeypatch, model, inputs):
    said = SimpleNamespace(repetition_penalty=1.4, do_sample=True, top_k=7, eos_token_ids=(11, 3), max_new_tokens=5)
    monkeypatch.setattr(model, "generation_defaults", said, raising=False)
    answer = model.generate(inputs, seed=2)
    wanted = {"repetition_penalty": 1.4, "do_sample": True, "top_k": 7, "stop_tokens": (3, 11), "max_new_tokens": 5}
    assert answer.settings.items() >= {**wanted, "temperature": 1.0, "top_p": 1.0, "seed": 2}.items()
    given = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 2, "stop_tokens": ()}
    assert model.generate(inputs, **given).settings.items() >= given.items()


def test_settings_of_the_checkpoint_that_are_not_applied_are_said(monkeypatch, model, inputs):
    stated = {"num_beams": 4, "no_repeat_ngram_size": 3, "bos_token_id": 7, "length_penalty": 1.0, "max_length": 20}
    monkeypatch.setattr(model, "generation_defaults", GenerationDefaults.from_dict(stated))
    message = r"does not apply: {'num_beams': 4, 'no_repeat_ngram_size': 3};"
    with pytest.warns(HookedAVWarning, match=message):
        write(model, inputs, max_new_tokens=1)
    neutral = {name: value for name, value in stated.items() if not name.startswith("n")}
    monkeypatch.setattr(model, "generation_defaults", GenerationDefaults.from_dict(neutral))
    write(model, inputs, max_new_tokens=1)  # a warning would be an error here
