"""Position ids equal transformers' get_rope_index on random layouts, with and without padding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.thinkers import PromptMaker, thinker_config
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from hooked_av.errors import HookedAVWarning, InputsError
from hooked_av.families.omni.family import OmniFamily
from hooked_av.prompt.positions import (
    AudioPiece,
    AVPiece,
    OmniClock,
    TextRun,
    VisionPiece,
    omni_interleave,
    omni_positions,
)

FAMILY = OmniFamily(thinker_config())
SECONDS = (0.1, 0.4, 0.5, 2 / 3, 1.0, 1.5, 2.0, 2.4, 4.0)


@pytest.fixture(scope="module")
def thinker():
    with torch.device("meta"):
        return Thinker(thinker_config(n_layers=1))


def published_positions(thinker, tensors):
    lengths = tensors.get("feature_attention_mask")
    return thinker.get_rope_index(
        tensors["input_ids"],
        tensors.get("image_grid_thw"),
        tensors.get("video_grid_thw"),
        tensors["attention_mask"],
        tensors["use_audio_in_video"],
        None if lengths is None else lengths.sum(-1),
        tensors.get("video_second_per_grid"),
    )


GRIDS = st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 4))
ITEMS = st.one_of(
    st.tuples(st.just("text"), st.integers(1, 9)),
    st.tuples(st.just("audio"), st.integers(3, 500)),
    st.tuples(st.just("image"), st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.just("video"), GRIDS, st.sampled_from(SECONDS)),
    st.tuples(st.just("av"), GRIDS, st.integers(3, 900), st.sampled_from(SECONDS)),
)
# transformers knows one setting for a whole prompt: its videos all carry their sound, or none does
LAYOUTS = st.tuples(st.booleans(), st.lists(ITEMS, min_size=0, max_size=6))


def build(sound: bool, items: list[tuple]) -> PromptMaker:
    prompt = PromptMaker(0).text(3)
    for kind, *numbers in items:
        if kind == "av" and sound:
            grid, n_mel, seconds = numbers
            prompt.av(*grid, n_mel, seconds)
        elif kind in ("video", "av") and not (sound and kind == "video"):
            prompt.video(*numbers[0], numbers[-1])
        elif kind in ("text", "audio", "image"):
            getattr(prompt, kind)(*numbers)
    prompt.sound_in_video = sound
    return prompt


@settings(max_examples=500, deadline=None)
@given(layout=LAYOUTS, n_pad=st.sampled_from([0, 0, 5]))
def test_positions_equal_get_rope_index(thinker, layout, n_pad):
    tensors = build(*layout).tensors()
    pad = torch.nn.functional.pad
    tensors["input_ids"] = pad(tensors["input_ids"], (n_pad, 0), value=7)
    tensors["attention_mask"] = pad(tensors["attention_mask"], (n_pad, 0))
    published, delta = published_positions(thinker, tensors)
    inputs = FAMILY.inputs_from_tensors(**tensors)
    assert torch.equal(inputs.position_ids, published)
    assert inputs.rope_delta.tolist() == delta.flatten().tolist()


def test_a_batch_with_padding_equals_get_rope_index(thinker):
    prompts = [PromptMaker(1).text(3).av(3, 2, 2, 300).text(2), PromptMaker(2).text(4).image(2, 2).audio(40).text(1)]
    rows = [prompt.tensors() for prompt in prompts]
    both = PromptMaker(3)
    both.sounds = prompts[0].sounds + prompts[1].sounds
    both.videos, both.images = prompts[0].videos, prompts[1].images
    both.grids = {"image": prompts[1].grids["image"], "video": prompts[0].grids["video"]}
    both.seconds, both.sound_in_video = prompts[0].seconds, True
    tensors = both.tensors()
    width = max(row["input_ids"].shape[1] for row in rows)
    for name in ("input_ids", "attention_mask"):
        padded = [torch.nn.functional.pad(row[name], (width - row[name].shape[1], 0)) for row in rows]
        tensors[name] = torch.cat(padded)
    inputs = FAMILY.inputs_from_tensors(**tensors)
    assert torch.equal(inputs.position_ids, published_positions(thinker, tensors)[0])


def test_a_mix_that_transformers_cannot_count_is_said(thinker):
    """A silent video beside one with sound: transformers has one flag for both."""
    tensors = PromptMaker(0).text(3).av(3, 2, 2, 300).text(2).video(3, 2, 2).text(4).tensors()
    with pytest.warns(HookedAVWarning, match="with and without sound"):
        ours = FAMILY.inputs_from_tensors(**tensors).position_ids
    assert not torch.equal(ours, published_positions(thinker, tensors)[0])
    alone = FAMILY.inputs_from_tensors(**PromptMaker(0).video(3, 2, 2).tensors()).position_ids
    start = int(ours[0, 0, -18])  # the silent video's begin token
    assert torch.equal(ours[:, :, -18:-4], alone + start), "the silent video is counted as if it stood alone"


@given(grid=GRIDS, n_audio=st.integers(1, 300), seconds=st.sampled_from(SECONDS))
def test_interleaving_keeps_every_token_and_each_stream_in_order(grid, n_audio, seconds):
    piece = AVPiece(VisionPiece(grid, seconds), AudioPiece(n_audio))
    is_video = omni_interleave(piece, OmniClock())
    assert int(is_video.sum()) == piece.video.n_tokens
    assert int((~is_video).sum()) == n_audio
    assert bool(is_video[0]), "video comes first in every chunk"


def test_a_longer_clock_changes_video_only():
    pieces = [TextRun(2), VisionPiece((3, 1, 1), 1.0)]
    slow, fast = omni_positions(pieces, OmniClock(25)), omni_positions(pieces, OmniClock(50))
    assert slow[0, 3:6].tolist() == [3, 28, 53]
    assert fast[0, 3:6].tolist() == [3, 53, 103]


def test_no_tokens_is_an_error():
    with pytest.raises(InputsError, match="empty prompt"):
        omni_positions([], OmniClock())
