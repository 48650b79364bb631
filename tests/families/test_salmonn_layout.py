"""Prompts of video-SALMONN 2+ against published numbers: interleaving, positions, reading; planted faults are seen."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.salmonn import FOLDER
from support.salmonn_parts import CASES, TENSORS, TOKENS, case_tensors
from transformers import Qwen2_5_VLConfig

from hooked_av.errors import InputsError
from hooked_av.families.blocks import nominal_times
from hooked_av.families.salmonn import layout as salmonn_layout
from hooked_av.families.salmonn.audio import SoundWindows, holds_sound, sound_blocks
from hooked_av.families.salmonn.layout import (
    SalmonnReader,
    SalmonnTokens,
    audio_padding,
    audio_tokens_after_groups,
    salmonn_interleave,
    salmonn_positions,
    salmonn_supply,
)
from hooked_av.prompt.inputs import AVInputs
from hooked_av.prompt.layout import build_spans
from hooked_av.prompt.positions import AudioPiece, AVPiece, TextRun, VisionPiece

LAYOUTS = json.loads((FOLDER / "train_positions.json").read_text())
RELEASED = SalmonnTokens(151665, 151655, 151656, 151652, 151653)
CLIP = AVPiece(VisionPiece((6, 2, 4), 0.2), AudioPiece(60))


def placed_case(case):
    tensors = case_tensors(case)
    supply = salmonn_supply(tensors, TOKENS.merge)
    placed = SalmonnReader(supply, TOKENS).place(tensors["input_ids"][0])
    supply.check_empty()
    return placed


PLACED = {case: placed_case(case) for case in CASES}


def clip_of(layout):
    groups, rows, cols = layout["grid_thw"]
    video = VisionPiece((groups, rows // 2, cols // 2), layout["second_per_grid"])
    return AVPiece(video, AudioPiece(layout["n_audio"]))


def pieces_of(layout):
    """Text before and after, without the clip's own vision_start and vision_end."""
    before, after = layout["text_before_including_vision_start"] - 1, layout["text_after_from_vision_end"] - 1
    return [TextRun(before), clip_of(layout), TextRun(after)]


def layout_ids(layout, tokens):
    """The prompt as the published data code writes it: P video pads, then the audio pads, group after group."""
    groups, rows, cols = layout["grid_thw"]
    assert len(layout["audio_tokens_after_each_group"]) == groups
    body = []
    for n_audio in layout["audio_tokens_after_each_group"]:
        body += [tokens.video] * (rows * cols // 4) + [tokens.audio] * n_audio
    before, after = layout["text_before_including_vision_start"] - 1, layout["text_after_from_vision_end"] - 1
    return torch.tensor([7] * before + [tokens.vision_begin, *body, tokens.vision_end] + [8] * after)


# --- interleaving and positions, against the published numbers ------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_interleaving_equals_the_published_one(layout):
    clip, ids = clip_of(layout), layout_ids(layout, RELEASED)
    assert audio_tokens_after_groups(clip).tolist() == layout["audio_tokens_after_each_group"]
    media = ids[(ids == RELEASED.video) | (ids == RELEASED.audio)]
    assert torch.equal(salmonn_interleave(clip), media == RELEASED.video)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_positions_equal_the_published_ones(layout):
    assert salmonn_positions(pieces_of(layout), "train").tolist() == layout["positions_thw"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_back_from_its_ids(layout):
    features = {
        "video_grid_thw": torch.tensor([layout["grid_thw"]]),
        "second_per_grid": torch.tensor([layout["second_per_grid"]]),
        "audio_feature": torch.zeros(layout["n_audio"] // 60, 128, 1),
    }
    supply = salmonn_supply(features, merge=2)
    placed = SalmonnReader(supply, RELEASED).place(layout_ids(layout, RELEASED))
    supply.check_empty()
    assert salmonn_positions([part.piece for part in placed], "train").tolist() == layout["positions_thw"]


@pytest.mark.parametrize("case", CASES)
def test_positions_equal_those_of_the_published_class(case):
    """Cases without a mode in their name (image, text) are the same in both."""
    published = TENSORS[f"{case}.position_ids"][:, 0]
    modes = [mode for mode in ("train", "generate") if case.endswith(mode)] or ["train", "generate"]
    for mode in modes:
        positions = salmonn_positions([part.piece for part in PLACED[case]], mode)
        assert torch.equal(positions, published)


def is_wrong(pieces, mode, published):
    try:
        return salmonn_positions(pieces, mode).tolist() != published
    except InputsError:  # no such interleaving can be
        return True


def any_wrong():
    """Is any published number missed?"""
    layouts = [(pieces_of(layout), "train", layout["positions_thw"]) for layout in LAYOUTS]
    cases = [
        ([part.piece for part in PLACED[case]], case.rpartition("_")[2], TENSORS[f"{case}.position_ids"][:, 0].tolist())
        for case in CASES
        if case.endswith(("train", "generate"))
    ]
    return any(is_wrong(*known) for known in [*layouts, *cases])


def no_floor(groups, seconds_per_group):
    return (torch.arange(groups) * seconds_per_group * 2).round().long()


def tokens_per_second_of_the_config(groups, seconds_per_group):
    return (torch.arange(groups) * seconds_per_group * 4).long()


def swapped_axes(n_tokens, resting_axis):
    body = torch.arange(n_tokens).expand(3, -1).clone()
    body[3 - resting_axis] = 0
    return body


def three_axes(n_tokens, resting_axis):
    return torch.arange(n_tokens).expand(3, -1)


POSITION_MUTANTS = {
    "floor dropped": ("_group_steps", no_floor),
    "tokens_per_second read from the config": ("_group_steps", tokens_per_second_of_the_config),
    "audio axes swapped": ("_sound", swapped_axes),
    "audio counted like text": ("_sound", three_axes),
    "generate mode told the times": ("_SECONDS_PER_GROUP_WHEN_UNTOLD", 0.2),
}


def test_nothing_is_wrong_without_a_mutant():
    assert not any_wrong()


@pytest.mark.parametrize("mutant", POSITION_MUTANTS)
def test_a_wrong_position_rule_is_seen(monkeypatch, mutant):
    monkeypatch.setattr(salmonn_layout, *POSITION_MUTANTS[mutant])
    assert any_wrong()


def test_the_two_modes_differ_as_published():
    """models.md: 6 groups of 4 tokens at 10 fps with 60 audio tokens."""
    pieces = [TextRun(3), AVPiece(VisionPiece((6, 2, 2), 0.2), AudioPiece(60)), TextRun(5)]
    train, generate = (salmonn_positions(pieces, mode) for mode in ("train", "generate"))
    assert train[0, 4:29:4].tolist() == [4, 4, 4, 4, 5, 5, 6]
    assert generate[0, 4:29:4].tolist() == [4, 6, 8, 10, 12, 14, 15]
    assert int(generate.max()) - int(train.max()) == 11


# The published lines of the data code, with torch's own promotion of an int64 range times a Python float.
def published_steps(groups, seconds):
    return (torch.arange(groups).view(-1, 1) * seconds * 2).long().flatten()


@settings(max_examples=300, deadline=None)
@given(groups=st.integers(1, 400), seconds=st.floats(0.01, 8.0))
def test_steps_are_truncated_in_float32(groups, seconds):
    assert torch.equal(salmonn_layout._group_steps(groups, seconds), published_steps(groups, seconds))


def test_float32_decides_some_borders():
    """Times near a border where float64 truncates otherwise: whole groups would move."""
    seconds = [2 * n / 300 for n in range(1, 300)]
    differing = [s for s in seconds if published_steps(300, s).tolist() != [int(t * s * 2) for t in range(300)]]
    assert differing
    for s in differing[:20]:
        assert torch.equal(salmonn_layout._group_steps(300, s), published_steps(300, s))


@settings(max_examples=200, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 30), st.integers(1, 4), st.integers(1, 4)),
    seconds=st.sampled_from([0.2, 1 / 3, 0.5, 1.0, 1.7]),
    blocks=st.integers(2, 4),
    text=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    mode=st.sampled_from(["train", "generate"]),
)
def test_every_token_has_a_place(grid, seconds, blocks, text, mode):
    clip = AVPiece(VisionPiece(grid, seconds), AudioPiece(60 * blocks))
    is_video = salmonn_interleave(clip)
    assert int(is_video.sum()) == clip.video.n_tokens
    assert len(is_video) == clip.n_tokens
    positions = salmonn_positions([TextRun(text[0]), clip, TextRun(text[1])], mode)
    assert positions.shape[1] == sum(text) + clip.n_tokens + 2
    assert positions[:, : text[0] + 1].tolist() == [list(range(text[0] + 1))] * 3
    assert int(positions.min()) == 0


def decoded_after(positions):
    """The position of the first token decoded after this prompt."""
    ids = torch.zeros(1, positions.shape[1], dtype=torch.int64)
    inputs = AVInputs.from_tokens(ids).with_positions(positions[:, None])
    return int(inputs.rope_delta) + inputs.n_pos


def test_text_after_sound_goes_on_from_the_time_axis_only():
    """A picture wider than the sound is long: only then do the published rules differ."""
    pieces = [AVPiece(VisionPiece((1, 1, 90), 1.0), AudioPiece(60)), TextRun(1)]
    train, generate = (salmonn_positions(pieces, mode) for mode in ("train", "generate"))
    assert train[:, -2:].tolist() == [[61, 62]] * 3
    assert decoded_after(train) == 91, "decoding goes on from the largest id of all"
    assert generate[0, -1] == 90 + 1 + 60 + 1


def test_two_sounds_and_two_images():
    sounds = [TextRun(1), AudioPiece(60), TextRun(2), AudioPiece(120)]
    assert torch.equal(salmonn_positions(sounds, "generate"), torch.arange(187).expand(3, -1))
    train = salmonn_positions(sounds, "train")
    assert torch.equal(train[:2], torch.arange(187).expand(2, -1))
    assert set(train[2, 2:62].tolist()) == {2}
    assert set(train[2, 66:186].tolist()) == {66}
    images = [VisionPiece((1, 1, 2), None), VisionPiece((1, 3, 1), None)]
    for mode in ("train", "generate"):
        assert salmonn_positions(images, mode)[:, :4].tolist() == [[0, 1, 1, 3], [0, 1, 1, 3], [0, 1, 2, 3]]
        assert salmonn_positions(images, mode)[1].tolist() == [0, 1, 1, 3, 4, 5, 6, 7, 8]


# --- what the published model cannot do ----------------------------------------------------------------------------

IMAGE, VIDEO, SOUND = VisionPiece((1, 2, 2), None), VisionPiece((2, 2, 2), 1.0), AudioPiece(60)


@pytest.mark.parametrize("mode", ["train", "generate"])
@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        ([VIDEO, VIDEO], "several videos in one prompt: the published video-SALMONN 2.* cannot do this"),
        ([VIDEO, CLIP], "several videos in one prompt"),
        ([IMAGE, SOUND], "an image and sound in one prompt.*its authors neither built nor trained that"),
        ([CLIP, IMAGE], "an image and sound in one prompt"),
        ([VIDEO, SOUND], "a sound beside a video.*inside the video's block only"),
        ([CLIP, SOUND], "a sound beside a video"),
        ([], "an empty prompt"),
    ],
)
def test_what_the_published_model_cannot_do_raises(pieces, reason, mode):
    with pytest.raises(InputsError, match=reason):
        salmonn_positions(pieces, mode)


def test_an_unknown_mode_raises(as_a_user):
    with pytest.raises(InputsError, match=r"unknown position mode\n.*'train'.*or 'generate'"):
        salmonn_positions([TextRun(1)], "published")


def test_a_clip_without_times_raises():
    with pytest.raises(InputsError, match="a video with sound needs the seconds of a frame group"):
        salmonn_interleave(AVPiece(IMAGE, SOUND))


def test_sound_shorter_than_the_video_raises():
    clip = AVPiece(VisionPiece((40, 1, 1), 1.0), AudioPiece(60))
    with pytest.raises(InputsError, match=r"(?s)shorter than the video.*at least 78 audio tokens.*60 audio tokens"):
        salmonn_interleave(clip)
    assert audio_tokens_after_groups(AVPiece(VisionPiece((31, 1, 1), 1.0), AudioPiece(60)))[-1] == 0


# --- reading a prompt ----------------------------------------------------------------------------------------------


def test_blocks_have_one_begin_and_one_end():
    text, clip, after = PLACED["av_train"]
    assert (text.piece, after.piece) == (TextRun(3), TextRun(5))
    assert clip.bounds.tolist() == [3, 112]
    assert clip.body.tolist() == list(range(4, 112))
    assert clip.piece.audio == AudioPiece(60)
    assert PLACED["av_two_blocks_train"][1].piece.audio == AudioPiece(120)
    assert PLACED["audio_train"][1].bounds.tolist() == [2, 63]


def test_spans_and_times_of_a_clip():
    placed = PLACED["av_train"]
    padding = audio_padding(placed, [16_000 * 3], TOKENS.windows)
    spans = build_spans(
        placed, 118, [nominal_times(placed[1], TOKENS.seconds_per_audio_token)], {"audio_padding": padding}
    )
    assert len(spans["audio"]) == 60
    assert len(spans["video"]) == 48
    assert spans["boundary"].positions.tolist() == [3, 112]
    assert len(spans["audio_padding"]) == 54, "6 half seconds of 3 s are sound"
    assert spans["audio_padding"].positions.tolist() == spans["audio"].positions[6:].tolist()
    assert spans.places.seconds[spans["audio"].positions[4]].tolist() == [2.0, 2.5]
    assert spans.places.seconds[spans["video"].positions[-1]].tolist() == pytest.approx([1.0, 1.2])


def test_unknown_lengths_are_no_padding():
    assert audio_padding(PLACED["av_train"], [None], TOKENS.windows) == []
    assert audio_padding(PLACED["text"], [], TOKENS.windows) == []


@pytest.mark.parametrize(
    ("n_samples", "n_blocks", "n_heard"),
    [(1, 1, 1), (8000, 1, 1), (8001, 1, 2), (16_000 * 30, 1, 60), (16_000 * 30 + 1, 2, 61), (16_000 * 60, 2, 120)],
)
def test_a_token_that_holds_any_sample_holds_sound(n_samples, n_blocks, n_heard):
    heard = holds_sound(n_samples, SoundWindows())
    assert sound_blocks(n_samples) == n_blocks
    assert heard.tolist() == [True] * n_heard + [False] * (60 * n_blocks - n_heard)


def test_a_length_that_does_not_match_the_tokens_raises():
    with pytest.raises(InputsError, match=r"(?s)120 audio tokens for 500000 samples.*60"):
        audio_padding(PLACED["audio_train"], [500_000], TOKENS.windows)


def read(ids, **features):
    placed = SalmonnReader(salmonn_supply(features, TOKENS.merge), TOKENS).place(torch.tensor(ids))
    return salmonn_positions([part.piece for part in placed], "generate")


VIDEO_FEATURES = {"video_grid_thw": torch.tensor([[2, 4, 4]]), "second_per_grid": torch.tensor([0.5])}
ONE_BLOCK = {"audio_feature": torch.zeros(1, 128, 1)}
GROUP, AUDIO = [303] * 4, [304]


@pytest.mark.parametrize(
    ("ids", "features", "reason"),
    [
        ([300, *GROUP, *GROUP, 301, 5], {}, "more video items than features"),
        ([300, *GROUP, *GROUP, 303, 301], VIDEO_FEATURES, r"first difference at position 9: token 303"),
        ([300, *GROUP, *GROUP], VIDEO_FEATURES, r"the prompt ends"),
        ([300, *GROUP, *AUDIO * 2, *GROUP, *AUDIO * 58, 301], VIDEO_FEATURES | ONE_BLOCK, "position 6: token 304"),
        ([300, *GROUP, *AUDIO, *GROUP, *AUDIO * 58, 301], VIDEO_FEATURES | ONE_BLOCK, "multiple of 60.*\n.*59"),
        ([300, *AUDIO * 120, 301], ONE_BLOCK, "more audio items than features"),
        ([5, *AUDIO * 60, 301], ONE_BLOCK, "audio placeholder outside any media block"),
        ([300, *GROUP, 301], VIDEO_FEATURES | {"second_per_grid": torch.zeros(0)}, "2 / fps.*\n.*0 values"),
        ([300, 302, 301, 300, *AUDIO * 60, 301], ONE_BLOCK | {"image_grid_thw": torch.tensor([[1, 2, 2]])}, "an image"),
    ],
)
def test_a_prompt_that_does_not_match_its_features_raises(ids, features, reason):
    with pytest.raises(InputsError, match=reason):
        read(ids, **features)


def test_left_over_features_raise():
    supply = salmonn_supply(VIDEO_FEATURES | ONE_BLOCK, TOKENS.merge)
    SalmonnReader(supply, TOKENS).place(torch.tensor([300, *GROUP, *GROUP, 301]))
    with pytest.raises(InputsError, match=r"left over: {'audio': 1}"):
        supply.check_empty()


def test_released_ids_stand_in_for_absent_ones():
    assert SalmonnTokens.from_config(Qwen2_5_VLConfig()) == RELEASED
    assert (TOKENS.audio, TOKENS.vision_begin, TOKENS.windows.n_tokens) == (304, 300, 60)
