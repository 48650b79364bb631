"""AVInputs check themselves; a batch of prompts equals each prompt alone; ids and features must fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.families import FAMILIES
from support.thinkers import AUDIO, AUDIO_BEGIN, AUDIO_END, VIDEO, PromptMaker, prompts

from hooked_av.errors import InputsError
from hooked_av.prompt.inputs import AVInputs, stack_inputs
from hooked_av.prompt.spans import Spans

pytestmark = [pytest.mark.usefixtures("each_family"), pytest.mark.usefixtures("one_thread")]
# Set for each family in turn.
FAMILY = MODEL = PROMPTS = SOUND = None
OMNI = FAMILIES["omni"].model  # whose tensors the tests of what must be loud change


def use(family):
    global FAMILY, MODEL, PROMPTS, SOUND
    FAMILY, MODEL = family, family.model
    PROMPTS = {kind: family.inputs(kind) for kind in family.makers}
    SOUND = [PROMPTS["audio in video"], PROMPTS["two clips" if "two clips" in PROMPTS else "two sounds"]]


def logits(inputs):
    with torch.no_grad():
        return MODEL(inputs)


GROUPS = {
    "sound": ["audio in video", "two clips"],
    "all": ["text", "audio", "image", "video", "interleaved", "two sounds", "audio in video"],
    "two": ["text", "audio"],
    "one": ["image"],
}


@pytest.mark.parametrize("kinds", GROUPS.values(), ids=GROUPS)
def test_each_row_of_a_batch_equals_the_prompt_alone(kinds):
    group = [PROMPTS[kind] for kind in kinds if kind in PROMPTS]
    batch = MODEL.batch(group)
    out = logits(batch)
    for row, (prompt, start) in enumerate(zip(group, batch.starts, strict=True)):
        torch.testing.assert_close(out[row, start:], logits(prompt)[0], rtol=1e-5, atol=FAMILY.rounding)
        assert torch.equal(batch.position_ids[:, row, start:], prompt.position_ids[:, 0])
        shifted = {name: [p + start for p in span] for name, span in prompt.spans.items()}
        assert {name: list(span) for name, span in batch.row_spans[row].items()} == shifted
    assert batch.rope_delta.tolist() == [int(prompt.rope_delta) for prompt in group]


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_text_batches_of_any_lengths_equal_singles(lengths, seed):
    rows = [AVInputs.from_tokens(torch.tensor([PromptMaker(seed + i).text(n).ids])) for i, n in enumerate(lengths)]
    batch = stack_inputs(rows, pad_token_id=3)
    out = logits(batch)
    for row, start in enumerate(batch.starts):
        torch.testing.assert_close(out[row, start:], logits(rows[row])[0], rtol=1e-5, atol=FAMILY.rounding)


def test_padding_on_the_right_changes_nothing_either():
    single = PROMPTS["text"]
    ids = torch.nn.functional.pad(single.input_ids, (0, 6), value=9)
    mask = torch.nn.functional.pad(single.attention_mask, (0, 6))
    padded = MODEL.inputs_from_tensors(input_ids=ids, attention_mask=mask)
    torch.testing.assert_close(logits(padded)[0, : single.n_pos], logits(single)[0], rtol=1e-5, atol=FAMILY.rounding)
    assert list(padded.spans["last"]) == [single.n_pos - 1]


def test_hooks_in_a_batch_find_each_rows_own_span():
    with torch.no_grad():
        _, cache = MODEL.run_with_cache(
            MODEL.batch(SOUND), names_filter=["blocks.1.hook_resid_post@last", "blocks.*.hook_resid_post"]
        )
    whole, last = cache["blocks.1.hook_resid_post"], cache["blocks.1.hook_resid_post@last"]
    assert torch.equal(last[:, 0], whole[:, -1])


def test_cuts_in_a_batch_equal_cuts_of_singles():
    import hooked_av as av

    longer = FAMILY.fresh(9).text(9)
    longer = longer.av(5, 2, 3, 470) if FAMILY.name == "omni" else longer.av([1, 2, 1, 2, 54], 2, 3, 0.75)
    pair = [PROMPTS["audio in video"], MODEL.inputs_from_tensors(**longer.text(6).tensors())]
    spec = av.block_attention(keys="audio", queries="last", layers=[0, 1, 2])
    with torch.no_grad():
        both = MODEL(MODEL.batch(pair), interventions=[spec], logits_at="last")
        for row, prompt in enumerate(pair):
            alone = MODEL(prompt, interventions=[spec], logits_at="last")
            torch.testing.assert_close(both[row], alone[0], rtol=1e-5, atol=FAMILY.rounding)


def test_prompts_read_differently_do_not_share_a_batch():
    moved = PROMPTS["text"].with_positions(PROMPTS["text"].position_ids + 1)
    with pytest.raises(InputsError, match="different settings"):
        MODEL.batch([moved, PROMPTS["audio in video"]])
    with pytest.raises(InputsError, match="nothing to stack"):
        MODEL.batch([])


def test_how_each_prompt_was_made_may_differ():
    one, other = (replace(PROMPTS["text"], settings={**PROMPTS["text"].settings, "sampling": n}) for n in (1, 2))
    assert MODEL.batch([one, one]).settings["sampling"] == 1
    for some in ([one, other], [one, other, one], [other, one, one]):
        assert MODEL.batch(some).settings["sampling"] == "differs from prompt to prompt"


def test_a_batch_has_spans_by_row():
    with pytest.raises(InputsError, match="row_spans"):
        _ = MODEL.batch(SOUND).spans


def test_with_positions_is_recorded_and_used():
    inputs = PROMPTS["audio"]
    assert inputs.settings["positions"] in ("released", "generate")
    moved = inputs.with_positions(inputs.position_ids * 3)
    assert moved.settings["positions"] == "given by the user"
    assert not torch.allclose(logits(moved), logits(inputs), atol=1e-3)


def test_plain_tokens_run_as_text():
    ids = PROMPTS["text"].input_ids
    assert torch.equal(logits(ids), logits(PROMPTS["text"]))


def test_logits_at_a_span_are_those_rows():
    inputs = PROMPTS["two sounds"]
    with torch.no_grad():
        part = MODEL(inputs, logits_at="audio")
    torch.testing.assert_close(
        part[0], logits(inputs)[0, inputs.spans["audio"].positions.tolist()], rtol=1e-5, atol=1e-5
    )


# --- what must be loud -----------------------------------------------------------------------------------------------


def tensors(kind, **changes):
    return {**prompts()[kind].tensors(), **changes}


def without(made, name):
    return {key: value for key, value in made.items() if key != name}


def rows_short(made):
    """Ten audio rows for six slots: transformers takes it."""
    ids = made["input_ids"][0].tolist()
    at = ids.index(AUDIO)
    return {**made, "input_ids": torch.tensor([ids[:at] + ids[at + 4 :]]), "attention_mask": None}


def swapped(made, a, b):
    ids = made["input_ids"].clone()
    ids[0, a], ids[0, b] = int(ids[0, b]), int(ids[0, a])
    return {**made, "input_ids": ids}


@pytest.mark.parametrize(
    "made, message",
    [
        (rows_short(tensors("audio")), "does not match its features"),
        (rows_short(tensors("audio in video")), "does not match its features"),
        (tensors("video", video_second_per_grid=None), "without .*video_second_per_grid"),
        (without(tensors("audio"), "feature_attention_mask"), "without .*feature_attention_mask"),
        (tensors("video", pixel_values_video=torch.zeros(3)), "unknown .*pixel_values_video"),
        (tensors("video", pixel_values_videos=torch.zeros(90, 1176)), "does not match video_grid_thw"),
        (tensors("audio in video", use_audio_in_video=False), "use_audio_in_video=True"),
        (tensors("image", input_ids=torch.arange(9)[None], attention_mask=None), "more media features than"),
        ({"input_ids": torch.tensor([[1, AUDIO_BEGIN, AUDIO, AUDIO_END]])}, "more audio items than features"),
        ({"input_ids": torch.tensor([[1, VIDEO, 2]])}, "outside any media block"),
        (swapped(tensors("audio in video"), 10, 20), "interleaved order"),
        ({"input_ids": torch.tensor([[1, 2, 3, 4]]), "attention_mask": torch.tensor([[1, 0, 0, 1]])}, "unbroken run"),
        ({"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.ones(1, 3)}, "do not fit"),
        (tensors("audio", feature_attention_mask=torch.ones(1, 7)), "does not match feature_attention_mask"),
        ({"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.zeros(1, 2)}, "an empty prompt"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(made, message):
    with pytest.raises(InputsError, match=message) as caught:
        OMNI.inputs_from_tensors(**{k: v for k, v in made.items() if v is not None})
    assert "next:" in str(caught.value)


def test_inputs_edited_by_hand_are_checked_again_at_the_rows():
    """Ids changed after preparing: the model counts rows itself before it places them."""
    from dataclasses import replace

    inputs = PROMPTS["audio"]
    ids = inputs.input_ids.clone()
    ids[0, int(inputs.spans["audio"].positions[0])] = 5
    with pytest.raises(InputsError, match="audio rows do not fit the prompt"):
        logits(replace(inputs, input_ids=ids))
    with pytest.raises(InputsError, match="audio rows do not fit the prompt"):
        logits(replace(inputs, features={}))


@pytest.mark.usefixtures("as_a_user")
def test_shapes_are_checked():
    good = PROMPTS["text"]
    with pytest.raises(InputsError, match="position_ids does not fit"):
        good.with_positions(good.position_ids[:, :, :-1])
    with pytest.raises(InputsError, match="at least one token"):
        AVInputs.from_tokens(torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(InputsError, match="token ids that the model does not have"):
        logits(torch.tensor([[1, 99_999]]))


# --- parts of a batch ------------------------------------------------------------------------------------------------

MIXED = ["text", "audio", "image", "video", "interleaved", "two sounds", "audio in video"]


def mixed():
    return [PROMPTS[kind] for kind in MIXED if kind in PROMPTS]


def test_inputs_look_like_their_token_ids():
    batch = MODEL.batch(mixed())
    assert batch.shape == batch.input_ids.shape
    assert batch.ndim == 2
    assert len(batch) == len(list(batch)) == batch.batch


def test_rows_of_a_batch_give_what_they_give_alone():
    prompts = mixed()
    batch = MODEL.batch(prompts)
    for prompt, one, start in zip(prompts, batch, batch.starts, strict=True):
        assert {name: len(x) for name, x in one.features.items()} == {n: len(x) for n, x in prompt.features.items()}
        torch.testing.assert_close(logits(one)[0, start:], logits(prompt)[0], rtol=1e-5, atol=FAMILY.rounding)
        assert list(one.spans["last"]) == [batch.n_pos - 1]


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_rows_of_any_batch_equal_the_batch_of_those_prompts(data):
    prompts = mixed()
    rows = st.integers(-len(prompts), len(prompts) - 1)
    chosen = data.draw(st.one_of(rows, st.lists(rows, min_size=1, max_size=4), st.slices(len(prompts))))
    wanted = range(len(prompts))[chosen] if not isinstance(chosen, list) else [range(len(prompts))[i] for i in chosen]
    wanted = [wanted] if isinstance(wanted, int) else list(wanted)
    batch = MODEL.batch(prompts)
    if not wanted:
        with pytest.raises(InputsError, match="no such rows"):
            batch[chosen]
        return
    part = batch[chosen]
    again = MODEL.batch([batch[row] for row in wanted])
    assert torch.equal(part.input_ids, batch.input_ids[wanted])
    assert part.row_spans == tuple(batch.row_spans[row] for row in wanted)
    assert part.feature_rows == again.feature_rows
    assert all(torch.equal(part.features[name], again.features[name]) for name in again.features)
    assert part[0:1].features.keys() == batch[wanted[0]].features.keys()


def test_a_batch_of_tensors_knows_its_rows_too():
    prompts = mixed()[:-1]  # transformers has one use_audio_in_video for all
    batch = MODEL.batch(prompts)
    again = MODEL.inputs_from_tensors(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **batch.features)
    assert again.feature_rows == batch.feature_rows


def test_the_prompts_of_a_batch_are_what_it_was_made_of():
    batch = MODEL.batch(mixed())
    for one, prompt in zip(batch.prompts, mixed(), strict=True):
        assert torch.equal(one.input_ids, prompt.input_ids)
        assert torch.equal(one.position_ids, prompt.position_ids)
        assert dict(one.spans) == dict(prompt.spans)
        assert list(one.spans["all"]) == list(prompt.spans["all"])
        for name, own in vars(prompt.spans.places).items():
            np.testing.assert_array_equal(getattr(one.spans.places, name), own)
        torch.testing.assert_close(logits(one), logits(prompt), rtol=1e-5, atol=FAMILY.rounding)
    again = MODEL.batch(batch.prompts)
    assert torch.equal(again.input_ids, batch.input_ids)
    assert all(torch.equal(again.features[name], batch.features[name]) for name in batch.features)


def test_rows_that_there_are_not_are_refused():
    batch = MODEL.batch(mixed())
    for rows in (99, -99, [0, 99], [], slice(5, 2)):
        with pytest.raises(InputsError, match="no such rows"):
            batch[rows]
    lost = replace(batch, feature_rows={})
    with pytest.raises(InputsError, match="which media belong to which prompt"):
        lost[0]
    assert lost[:] is lost
    assert stack_inputs([lost, PROMPTS["text"]], 3).feature_rows == {}


def test_all_is_the_prompt_without_padding():
    batch = MODEL.batch(mixed())
    for spans, prompt, start in zip(batch.row_spans, mixed(), batch.starts, strict=True):
        assert list(spans["all"]) == list(range(start, batch.n_pos))
        assert len(spans["all"]) == prompt.n_pos
    single = PROMPTS["text"]
    ids = torch.nn.functional.pad(single.input_ids, (0, 6), value=9)
    mask = torch.nn.functional.pad(single.attention_mask, (0, 6))
    padded = MODEL.inputs_from_tensors(input_ids=ids, attention_mask=mask)
    assert list(padded.spans["all"]) == list(range(single.n_pos))
    bare = AVInputs(ids, padded.position_ids, mask, (Spans(ids.shape[1], {"last": [0]}),))
    assert list(bare.spans["all"]) == list(range(single.n_pos)), "the mask says which tokens there are"
