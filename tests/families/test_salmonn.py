"""video-SALMONN 2+ as a whole equals the published class: positions, embeddings, every layer, logits, greedy tokens."""

import pytest
import torch
from support.salmonn import cases, distance, load_folder, salmonn_prompts
from torch import nn

from hooked_av.analyses.results import run_settings
from hooked_av.errors import InputsError
from hooked_av.families.salmonn import layout as salmonn_layout
from hooked_av.prompt.inputs import AVInputs
from hooked_av.prompt.spans import Spans

CASES = cases()
MODEL = load_folder()
TOLERANCE = 1e-5  # relative to the largest published number
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*has no (tokenizer|preprocessor) files"),
]


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def inputs(case):
    return case.inputs(MODEL)


@pytest.fixture(scope="module")
def ran(inputs):
    with torch.no_grad():
        return MODEL.run_with_cache(inputs)


def test_the_reference_set_is_what_it_should_be():
    assert len(CASES) == 9
    assert {case.mode for case in CASES.values()} == {"train", "generate"}


def test_positions_equal_the_published_ones(case, inputs):
    assert torch.equal(inputs.position_ids, case.tensors["position_ids"])
    assert inputs.settings["positions"] == case.mode


def test_embeddings_equal_the_published_ones(case, ran):
    assert distance(ran[1]["hook_inputs_embed"], case.tensors["inputs_embeds"]) < TOLERANCE


def test_every_layer_equals_the_published_one(case, ran):
    cache, published = ran[1], case.tensors["hidden_states"]
    n_layers = MODEL.cfg.n_layers
    assert len(published) == n_layers + 1
    for layer in range(n_layers):
        assert distance(cache[f"blocks.{layer}.hook_resid_pre"], published[layer]) < TOLERANCE
    final = MODEL.ln_final.weight.detach() * cache["ln_final.hook_normalized"]
    assert distance(final, published[-1]) < TOLERANCE


def test_logits_equal_the_published_ones(case, ran):
    assert distance(ran[0], case.tensors["logits"]) < TOLERANCE


def longer(inputs: AVInputs, token: int) -> AVInputs:
    """The same prompt with a decoded token behind it, at the position that `rope_delta` gives it."""
    position = inputs.rope_delta + inputs.attention_mask.sum(dim=1)
    return AVInputs(
        torch.cat([inputs.input_ids, torch.tensor([[token]])], dim=1),
        torch.cat([inputs.position_ids, position.expand(3, 1, 1)], dim=2),
        torch.ones(1, inputs.n_pos + 1, dtype=torch.bool),
        (Spans(inputs.n_pos + 1, {"last": [inputs.n_pos]}),),
        inputs.features,
    )


@torch.no_grad()
def test_generation_over_known_keys_writes_the_published_tokens(case, inputs):
    written = MODEL.generate(inputs, max_new_tokens=5, stop_tokens=(), repetition_penalty=1.0)
    assert [list(row) for row in written.tokens] == case.tensors["generated"].tolist()


@torch.no_grad()
def test_five_greedy_tokens_equal_the_published_ones(case, inputs):
    tokens, steps = [], []
    for _ in range(5):
        steps.append(MODEL(inputs, logits_at="last")[:, 0])
        tokens.append(int(steps[-1].argmax()))
        inputs = longer(inputs, tokens[-1])
    assert tokens == case.tensors["generated"][0].tolist()
    assert distance(torch.stack(steps, dim=1), case.tensors["step_logits"]) < TOLERANCE


def test_published_generate_is_the_default():
    case = CASES["av_generate"]
    inputs = MODEL.inputs_from_tensors(**case.prompt)
    assert torch.equal(inputs.position_ids, case.tensors["position_ids"])
    assert inputs.settings["positions"] == "generate"


def test_the_mode_is_seen_in_the_logits():
    """The two ways of counting are two forward passes: neither passes for the other."""
    wrong = CASES["av_train"].inputs(MODEL, positions="generate")
    with torch.no_grad():
        assert distance(MODEL(wrong), CASES["av_train"].tensors["logits"]) > 1e-2


def test_results_name_the_position_mode():
    for mode in ("train", "generate"):
        inputs = CASES["av_train"].inputs(MODEL, positions=mode)
        assert run_settings(MODEL, inputs)["positions"] == mode


@pytest.mark.usefixtures("as_a_user")
def test_an_unknown_mode_is_refused():
    with pytest.raises(InputsError, match=r"unknown position mode(.|\n)*'generate', 'train'(.|\n)*'released'"):
        CASES["text"].inputs(MODEL, positions="released")


def test_a_batch_of_cases_equals_each_alone():
    """The mixes that only one prompt at a time may have: two clips in a batch are fine."""
    pair = [
        CASES["av_train"].inputs(MODEL),
        CASES["video_train"].inputs(MODEL),
        CASES["av_two_blocks_train"].inputs(MODEL),
    ]
    batch = MODEL.batch(pair)
    with torch.no_grad():
        out = MODEL(batch)
        for row, (start, prompt) in enumerate(zip(batch.starts, pair, strict=True)):
            torch.testing.assert_close(out[row, start:], MODEL(prompt)[0], rtol=1e-5, atol=1e-4)


def test_ready_tensors_of_a_batch_are_read_row_by_row():
    rows = [salmonn_prompts()[kind].tensors() for kind in ("audio", "two sounds", "text")]
    width = max(row["input_ids"].shape[1] for row in rows)
    ids = [torch.nn.functional.pad(row["input_ids"], (width - row["input_ids"].shape[1], 0), value=310) for row in rows]
    mask = torch.stack([torch.arange(width) >= width - row["input_ids"].shape[1] for row in rows])
    sounds = torch.cat([row["audio_feature"] for row in rows[:2]])
    batch = MODEL.inputs_from_tensors(
        input_ids=torch.cat(ids), attention_mask=mask, audio_feature=sounds, audio_samples=[8000, 31 * 16_000, 160_000]
    )
    for row, made in enumerate(rows):
        alone = MODEL.inputs_from_tensors(**made)
        assert torch.equal(batch.position_ids[:, row, mask[row]], alone.position_ids[:, 0])
    padding = [len(spans["audio_padding"]) for spans in batch.row_spans if "audio_padding" in spans]
    assert padding == [59, 120 - 62 + 60 - 20]


@pytest.mark.parametrize("lengths", [[], [8000, 9000]])
def test_lengths_that_are_not_one_a_sound_are_refused(lengths):
    with pytest.raises(InputsError, match="audio_samples does not match the sounds"):
        CASES["audio_train"].inputs(MODEL, audio_samples=lengths)


def test_float_sizes_of_inputs_do_not_matter():
    """Reference inputs are stored in half precision; they are numbers, not a precision to compute in."""
    case = CASES["av_train"]
    wide = {name: t.double() if t.is_floating_point() else t for name, t in case.prompt.items()}
    with torch.no_grad():
        logits = MODEL(MODEL.inputs_from_tensors(**wide, positions="train"))
    assert distance(logits, case.tensors["logits"]) < TOLERANCE


def test_every_input_may_be_a_list():
    case = CASES["av_train"]
    plain = {**case.prompt, "second_per_grid": [0.2], "video_grid_thw": case.prompt["video_grid_thw"].tolist()}
    assert torch.equal(MODEL.inputs_from_tensors(**plain, positions="train").position_ids, case.tensors["position_ids"])


# --- mutants: one planted fault each, and the parity above must fail ------------------------------------------------


def bert(model):
    return model.encoders["audio"].qformer["bert"]


def skip(module):
    module.forward = lambda states: states


def set_qformer_eps(model, eps):
    for norm in bert(model).modules():
        if isinstance(norm, nn.LayerNorm):
            norm.eps = eps


def swapped_axes(n_tokens, resting_axis):
    body = torch.arange(n_tokens).expand(3, -1).clone()
    body[3 - resting_axis] = 0
    return body


def rounded(groups, seconds_per_group):
    return (torch.arange(groups) * seconds_per_group * 2).round().long()


OWN_MUTANTS = {
    "audio axis swapped": lambda monkeypatch, model: monkeypatch.setattr(salmonn_layout, "_sound", swapped_axes),
    "floor dropped": lambda monkeypatch, model: monkeypatch.setattr(salmonn_layout, "_group_steps", rounded),
    "q_tokens not normalised": lambda monkeypatch, model: skip(bert(model).embeddings["LayerNorm"]),
    "q_tokens forgotten": lambda monkeypatch, model: model.encoders["audio"].q_tokens.data.zero_(),
    "decoder's eps 1e-6": lambda monkeypatch, model: [setattr(block.ln1, "eps", 1e-6) for block in model.blocks],
    "no window attention in the tower": lambda monkeypatch, model: setattr(
        model.encoders["visual"], "fullatt_block_indexes", [0, 1, 2]
    ),
}


def worst(model):
    """The largest distance to the published numbers, over logits and embeddings of the cases with sound and video."""
    found = []
    for name in ("av_train", "audio_train", "video_train"):
        try:
            inputs = CASES[name].inputs(model)
        except InputsError:  # an interleaving that cannot be
            return float("inf")
        with torch.no_grad():
            logits, cache = model.run_with_cache(inputs, names_filter="hook_inputs_embed")
        found.append(distance(cache["hook_inputs_embed"], CASES[name].tensors["inputs_embeds"]))
        found.append(distance(logits, CASES[name].tensors["logits"]))
    return max(found)


def test_nothing_is_wrong_without_a_mutant():
    assert worst(load_folder()) < TOLERANCE


@pytest.mark.parametrize("mutant", OWN_MUTANTS)
def test_a_planted_fault_is_noticed(monkeypatch, mutant):
    model = load_folder()
    OWN_MUTANTS[mutant](monkeypatch, model)
    assert worst(model) > TOLERANCE


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_a_wrong_eps_of_the_qformer_is_noticed(eps):
    """On the reference weights eps 1e-5 for 1e-12 moves a row by 8e-6 only: so small a fault needs a small tolerance.

    With q_tokens as small as a real checkpoint's (standard deviation 0.02, an eps of the size of their variance), the
    same fault is large.
    """
    right, wrong = load_folder(), load_folder()
    set_qformer_eps(wrong, eps)
    for model in (right, wrong):
        with torch.no_grad():
            model.encoders["audio"].q_tokens.mul_(0.004 / model.encoders["audio"].q_tokens.std())
    feature = CASES["audio_train"].tensors["audio_feature"]
    with torch.no_grad():
        rows = [model.encoders["audio"](feature) for model in (right, wrong)]
    assert distance(rows[1], rows[0]) > 1e-3
    assert {norm.eps for norm in bert(right).modules() if isinstance(norm, nn.LayerNorm)} == {1e-12}
