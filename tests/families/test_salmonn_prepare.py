"""Prompts of video-SALMONN 2+ from clips: sampling, sizes, sound and text as published, smaller budgets, refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

import hooked_av as av
from hooked_av.cli.main import CLIP as CLIP_FILE
from hooked_av.errors import ArgumentError, InputsError
from hooked_av.families.salmonn.layout import salmonn_interleave
from hooked_av.families.salmonn.prepare import SALMONN, salmonn_frame_size, salmonn_indices
from hooked_av.media.patches import patchify, resize
from hooked_av.media.sampling import ResolvedSampling
from hooked_av.model.random import random_omni
from hooked_av.prompt.positions import AudioPiece, AVPiece, VisionPiece

pytestmark = pytest.mark.usefixtures("one_thread")
RELEASED = SALMONN.sampling
SMALL = av.Sampling(max_pixels=784 * 4)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model():
    return av.random_salmonn(n_layers=2)


def film(seconds, fps=25.0, size=(60, 90), sound_seconds=None, seed=0):
    shape = (round(seconds * fps), *size, 3)
    sound = {} if sound_seconds is None else {"waveform": tone(sound_seconds), "sampling_rate_hz": 16_000}
    return av.Clip.from_arrays(np.random.default_rng(seed).integers(0, 255, shape, np.uint8), fps=fps, **sound)


def tone(seconds):
    return (np.sin(np.arange(round(seconds * 16_000)) / 9) * 0.3).astype(np.float32)


def sound(seconds):
    return av.Clip.from_arrays(waveform=tone(seconds), sampling_rate_hz=16_000)


# --- sampling and sizes --------------------------------------------------------------------------------------------


def published_indices(n_frames, avg_fps, interval, min_frames, max_frames):
    """The published lines of the data code (torchcodec path), with numpy's own truncation."""
    wanted = min(max(round(n_frames / avg_fps / interval), min_frames), max_frames)
    return np.unique(np.linspace(0, n_frames - 1, wanted, dtype=int))


class Length:
    """A clip as far as sampling is concerned."""

    def __init__(self, n_frames, fps):
        self.n_frames, self.fps = n_frames, fps


@settings(max_examples=300, deadline=None)
@given(
    n_frames=st.integers(1, 5000),
    fps=st.sampled_from([10.0, 15.0, 24.0, 25.0, 29.97, 30.0, 60.0]),
    interval=st.sampled_from([0.1, 0.2, 0.5, 1.0]),
    bounds=st.sampled_from([(16, 768), (64, 768), (1, 9)]),
)
def test_frames_are_those_of_the_published_rule(n_frames, fps, interval, bounds):
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        ours = salmonn_indices(Length(n_frames, fps), ResolvedSampling(1 / interval, *bounds))
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    assert ours.tolist() == published_indices(n_frames, fps, interval, *bounds).tolist()


def test_the_released_interval_is_a_tenth_of_a_second():
    assert (RELEASED.fps, RELEASED.min_frames, RELEASED.max_frames) == (10.0, 16, 768)
    assert 1 / RELEASED.fps == 0.1


class Screen:
    def __init__(self, height, width):
        self.height, self.width = height, width


@pytest.mark.parametrize(
    "seconds, n_frames, n_tokens", [(5, 50, 28_125), (10, 100, 26_350), (30, 300, 27_000), (60, 600, 25_200)]
)
@pytest.mark.usefixtures("as_a_user")
def test_the_released_budget_of_a_720p_clip(seconds, n_frames, n_tokens):
    """The worked budgets of models.md: about 26 thousand tokens whatever the length."""
    height, width = salmonn_frame_size(n_frames, Screen(720, 1280), RELEASED, 28)
    assert (n_frames // 2) * (height // 28) * (width // 28) == n_tokens


@pytest.mark.usefixtures("as_a_user")
def test_a_long_clip_has_the_smallest_frames():
    for n_frames in (768, 2000):
        height, width = salmonn_frame_size(n_frames, Screen(720, 1280), RELEASED, 28)
        assert (height // 28) * (width // 28) == 66


def test_frames_pass_through_the_published_resize(model):
    clip = film(2.0, size=(90, 130))
    inputs = model.prepare(clip, question="Who?", sampling=SMALL)
    indices = published_indices(50, 25.0, 0.1, 16, 768)
    assert len(indices) == 20
    height, width = (int(n) * 14 for n in inputs.features["video_grid_thw"][0, 1:])
    frames = torch.from_numpy(clip.read_frames(indices)).permute(0, 3, 1, 2)
    patches, grid = patchify(resize(frames, height, width))
    assert torch.equal(inputs.features["pixel_values_videos"], patches)
    assert torch.equal(inputs.features["video_grid_thw"][0], grid)
    assert height * width <= 784 * 4
    assert inputs.features["second_per_grid"].tolist() == pytest.approx([0.2])


def test_the_model_is_told_the_true_rate(model):
    """A short clip keeps 16 frames, and fewer if it has fewer: the seconds of a group follow."""
    inputs = model.prepare(film(0.8), question="Who?", sampling=SMALL)
    assert inputs.features["video_grid_thw"][0, 0] == 8
    assert inputs.features["second_per_grid"].tolist() == pytest.approx([2 * 0.8 / 16])
    few = model.prepare(film(0.2), question="Who?", sampling=SMALL)
    assert few.features["video_grid_thw"][0, 0] == 3, "5 frames, the last one twice"
    assert few.features["second_per_grid"].tolist() == pytest.approx([2 * 0.2 / 5])


def test_smaller_budgets_are_kept_and_recorded(model):
    sampling = av.Sampling(fps=2, min_frames=2, max_frames=6, max_pixels=56 * 84)
    inputs = model.prepare(film(4.0), question="Who?", sampling=sampling)
    assert inputs.features["video_grid_thw"].tolist() == [[3, 4, 6]]
    assert inputs.settings["sampling"] == {"fps": 2, "min_frames": 2, "max_frames": 6, "max_pixels": 56 * 84}
    assert inputs.settings["positions"] == "generate"


@pytest.mark.usefixtures("as_a_user")
def test_a_budget_of_your_own_never_exceeds_the_released_one():
    released = salmonn_frame_size(100, Screen(2000, 3000), RELEASED, 28)
    assert salmonn_frame_size(100, Screen(2000, 3000), ResolvedSampling(10.0, 16, 768, 10**9), 28) == released
    small = salmonn_frame_size(100, Screen(2000, 3000), ResolvedSampling(10.0, 16, 768, 784), 28)
    assert small == (28, 28), "below the released minimum too"


def test_pictures_have_the_published_budget(model):
    clip = av.Clip.from_image(RNG.integers(0, 255, (720, 1280, 3), np.uint8))
    inputs = model.prepare(clip, question="What?")
    _, rows, cols = inputs.features["image_grid_thw"][0].tolist()
    assert rows * cols * 196 <= 61_250 < (rows + 2) * (cols + 2) * 196
    tiny = model.prepare(av.Clip.from_image(np.zeros((28, 28, 3), np.uint8)), question="What?")
    assert tiny.features["image_grid_thw"].tolist() == [[1, 8, 8]], "at least 16 tokens"


# --- sound ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds, blocks, heard", [(0.3, 1, 1), (10.0, 1, 20), (30.0, 1, 60), (31.2, 2, 63)])
def test_sound_is_whole_blocks_and_its_padding_is_named(model, seconds, blocks, heard):
    inputs = model.prepare(sound(seconds), question="What?")
    extractor = WhisperFeatureExtractor(
        feature_size=128, sampling_rate=16_000, hop_length=160, chunk_length=30, n_fft=400
    )
    wave = np.pad(tone(seconds), (0, max(0, 16_000 - len(tone(seconds)))))
    parts = [wave[i * 480_000 : (i + 1) * 480_000] for i in range(blocks)]
    mel = np.concatenate([extractor(p, sampling_rate=16_000, return_tensors="np")["input_features"] for p in parts])
    assert torch.equal(inputs.features["audio_feature"], torch.from_numpy(mel))
    audio = inputs.spans["audio"].positions.tolist()
    assert len(audio) == 60 * blocks
    if heard == len(audio):
        assert "audio_padding" not in inputs.spans
    else:
        assert inputs.spans["audio_padding"].positions.tolist() == audio[heard:]
    assert inputs.spans.between(0.0, 0.5).positions.tolist() == audio[:1]


def test_padding_is_a_span_like_any_other(model):
    inputs = model.prepare(film(2.0, sound_seconds=2.0), question="What?", sampling=SMALL)
    spec = av.block_attention(keys="audio_padding", queries="question", layers=[0, 1])
    with torch.no_grad():
        _, cache = model.run_with_cache(inputs, names_filter="hook_audio_embed@audio - audio_padding")
        assert cache["hook_audio_embed@audio-audio_padding"].shape[0] == 4
        assert not torch.equal(model(inputs, interventions=spec), model(inputs))


# --- the prompt ----------------------------------------------------------------------------------------------------

HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n"


def test_the_whole_prompt_is_the_published_one(model):
    inputs = model.prepare(film(2.0, sound_seconds=2.0), question="What do you hear?", sampling=SMALL)
    groups, rows, cols = (n // s for n, s in zip(inputs.features["video_grid_thw"][0].tolist(), (1, 2, 2), strict=True))
    seconds = float(inputs.features["second_per_grid"])
    after = [int(2 * np.float32(seconds) * np.float32(t)) for t in range(groups)]
    counts = [*np.diff(after), 60 - after[-1]]
    body = "".join("<|video_pad|>" * rows * cols + "<|audio_pad|>" * n for n in counts)
    text = f"{HEAD}<|vision_start|>{body}<|vision_end|>\nWhat do you hear?{TAIL}"
    assert model.to_string(inputs.input_ids[0]) == text
    assert model.to_tokens(text).tolist() == inputs.input_ids.tolist(), "one tokenisation of the whole text"
    piece = AVPiece(VisionPiece((groups, rows, cols), seconds), AudioPiece(60))
    block = inputs.input_ids[0, inputs.spans["av"].positions.tolist()]
    assert torch.equal(block == 151656, salmonn_interleave(piece))


@pytest.mark.parametrize(
    "media, block",
    [
        ("sound", "<|vision_start|>AAA<|vision_end|>\n"),
        ("two sounds", "<|vision_start|>AAA<|vision_end|>then<|vision_start|>AAA<|vision_end|>\n"),
        ("image", "<|vision_start|><|image_pad|>*<|vision_end|>\n"),
        ("video", "<|vision_start|><|video_pad|>*<|vision_end|>\n"),
        ("text", ""),
    ],
)
def test_other_media_have_the_published_block(model, media, block):
    made = {
        "sound": [sound(1.0)],
        "two sounds": [sound(1.0), "then", sound(2.0)],
        "image": [av.Clip.from_image(np.zeros((56, 56, 3), np.uint8))],
        "video": [film(1.0)],
        "text": [],
    }
    inputs = model.prepare(made[media], question="Why?", sampling=SMALL)
    text = model.to_string(inputs.input_ids[0]).removeprefix(HEAD).removesuffix(f"Why?{TAIL}")
    text = text.replace("<|audio_pad|>" * 60, "AAA")
    for pad in ("<|image_pad|>", "<|video_pad|>"):
        text = text.replace(pad * text.count(pad), pad + "*") if pad in text else text
    assert text == block
    with torch.no_grad():
        assert model(inputs, logits_at="last").isfinite().all()


def test_both_position_modes_are_explicit_and_recorded(model):
    clip = film(2.0, sound_seconds=2.0)
    made = {
        mode: model.prepare(clip, question="What?", sampling=SMALL, positions=mode) for mode in ("train", "generate")
    }
    default = model.prepare(clip, question="What?", sampling=SMALL)
    assert torch.equal(default.position_ids, made["generate"].position_ids)
    assert not torch.equal(default.position_ids, made["train"].position_ids)
    for mode, inputs in made.items():
        assert inputs.settings["positions"] == mode
        again = model.inputs_from_tensors(input_ids=inputs.input_ids, positions=mode, **inputs.features)
        assert torch.equal(again.position_ids, inputs.position_ids)
        assert av.logit_lens(model, inputs, at="last").settings["positions"] == mode


# --- what must be loud ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "media, reason",
    [
        (lambda: [film(1.0), film(1.0)], "several videos in one prompt"),
        (lambda: [av.Clip.from_image(np.zeros((56, 56, 3), np.uint8)), sound(1.0)], "an image and sound in one prompt"),
        (lambda: [film(1.0), sound(1.0)], "a sound beside a video"),
    ],
)
def test_mixes_that_the_published_model_cannot_take_are_refused(model, media, reason, monkeypatch):
    monkeypatch.setattr(av.Clip, "read_frames", lambda *_: pytest.fail("decoded before it was refused"))
    with pytest.raises(InputsError, match=f"{reason}: the published video-SALMONN 2.* cannot do this"):
        model.prepare(media(), question="What?")


def test_sound_far_shorter_than_the_video_is_refused(model):
    with pytest.raises(InputsError, match="the sound is shorter than the video"):
        model.prepare(film(40.0, fps=2, size=(28, 28), sound_seconds=1.0), question="What?", sampling=SMALL)


def test_other_bad_arguments_are_refused(model):
    with pytest.raises(InputsError, match=r"unknown position mode(.|\n)*positions='train'"):
        model.prepare(question="What?", positions="released")
    with pytest.raises(ArgumentError, match=r"unexpected keyword argument 'position'(.|\n)*expected: positions"):
        model.prepare(question="What?", position="train")
    with pytest.raises(InputsError, match="nothing can be seen: min_frames"):
        model.prepare(film(1.0), question="What?", sampling=av.Sampling(min_frames=9, max_frames=3))
    with pytest.raises(InputsError, match="special tokens"):
        model.prepare(question="What is <|audio_pad|>?")


def test_a_tokenizer_without_the_audio_token_is_refused(model):
    """The base model's own tokenizer ends one id before <|audio_pad|>."""
    family = type(model.family)(
        model.family.hf_config, random_omni(n_layers=1).family.tokenizer, model.family.feature_extractor
    )
    with pytest.raises(InputsError, match=r"lacks a token that marks media(.|\n)*151665"):
        family.prepare([sound(1.0)], question="What?")


def test_the_real_clip_runs_from_a_checkpoint_folder(tmp_path):
    """What a user does with a released folder: load, prepare, cache, cut, lens."""
    av.random_salmonn(n_layers=3).save_pretrained(tmp_path / "small")
    model = av.HookedAVTransformer.from_pretrained(tmp_path / "small")
    clip = av.Clip.from_file(CLIP_FILE)
    inputs = model.prepare(clip, question="What do you hear?", options=["a bird", "a car"], sampling=SMALL)
    assert inputs.features["video_grid_thw"][0, 0] == 27, "5.3 s at 10 frames a second, in pairs"
    assert len(inputs.spans["audio_padding"]) == 60 - 11
    with torch.no_grad():
        logits, cache = model.run_with_cache(inputs)
        assert torch.equal(logits, model(inputs))
    assert {"audio.hook_windows", "audio.hook_rows", "hook_audio_embed", "hook_video_embed"} <= set(cache.keys())
    curves = av.knockout_curves(model, inputs)
    assert curves.pathways == ("audio → question", "video → question")
    assert np.abs(curves.change_percent).max() > 0
    assert av.logit_lens(model, inputs, at="last").top_ids[-1, 0, 0] == logits[0, -1].argmax()
