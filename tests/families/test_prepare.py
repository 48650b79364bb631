"""Prompts are those of the published processor, and every span is where construction put it."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import hooked_av as av
from hooked_av.errors import ArgumentError, InputsError
from hooked_av.families.omni.family import OmniFamily
from hooked_av.families.omni.layout import told_seconds
from hooked_av.families.omni.prepare import RELEASED, released_sampling
from hooked_av.media.patches import patchify
from hooked_av.media.sampling import Sampling
from hooked_av.model.random import mel_extractor, random_omni, random_omni_config, random_salmonn
from hooked_av.prompt.spans import Span

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
sys.path.insert(0, str(REFERENCE))
import synthetic  # noqa: E402 - the media that the reference values were made from

CASES = json.loads((REFERENCE / "processor_cases.json").read_text())["cases"]
STORED = load_file(REFERENCE / "processor_cases.safetensors")
MODEL = random_omni(n_layers=2)
SMALL = Sampling(max_pixels=56 * 56)
CLIP_FILE = Path(av.__file__).parent / "data" / "bigbuckbunny.mp4"


def thwc(frames):
    return np.ascontiguousarray(frames.transpose(0, 2, 3, 1))


def case_media(case) -> tuple[list, float]:
    """The case's clips in prompt order, each video with its own sound, as clips of the case's frame rate."""
    fps = case["fps"] or 2.0
    videos = [thwc(synthetic.frames(*shape, seed=seed)) for *shape, seed in case["videos"]]
    images = [thwc(synthetic.frames(1, *shape, seed=seed))[0] for *shape, seed in case["images"]]
    sounds = [synthetic.waveform(seconds, seed=seed) for seconds, seed in case["sounds"]]
    own = {video: sound for video, sound in zip(case["sound_of"], sounds, strict=True) if video is not None}
    lone = [sound for video, sound in zip(case["sound_of"], sounds, strict=True) if video is None]
    media, n_video = [], 0
    for token in [t for t in case["text"].split("<|") if t.startswith(("VIDEO", "AUDIO", "IMAGE"))]:
        if token.startswith("VIDEO"):
            sound = {"waveform": own[n_video], "sampling_rate_hz": 16_000} if n_video in own else {}
            media.append(av.Clip.from_arrays(frames=videos[n_video], fps=fps, **sound))
            n_video += 1
        elif token.startswith("IMAGE"):
            media.append(av.Clip.from_image(images.pop(0)))
        else:
            media.append(av.Clip.from_arrays(waveform=lone.pop(0), sampling_rate_hz=16_000))
    return media, fps


def prepared(name):
    """Our prompt for a reference case: its media, and the text that stands around them."""
    case = CASES[name]
    media, fps = case_media(case)
    user = case["text"].split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
    system = case["text"].split("<|im_start|>system\n")[1].split("<|im_end|>")[0]
    texts = user.replace("<|vision_bos|>", "").replace("<|vision_eos|>", "")
    texts = texts.replace("<|audio_bos|>", "").replace("<|audio_eos|>", "")
    for mark in ("<|VIDEO|>", "<|AUDIO|>", "<|IMAGE|>"):
        texts = texts.replace(mark, "\0")
    *between, question = texts.split("\0")
    items = [part for text, clip in zip(between, media, strict=True) for part in (text, clip) if part != ""]
    n_frames = max([len_ for len_, *_ in case["videos"]], default=4)
    sampling = Sampling(fps=fps, min_frames=2, max_frames=n_frames + n_frames % 2)
    return MODEL.prepare(items, question=question, system=system, sampling=sampling)


# frames of these cases are handed to the published processor unsampled; an odd count is no sample of ours
EVEN = [name for name, case in CASES.items() if all(n % 2 == 0 for n, *_ in case["videos"])]


@pytest.mark.parametrize("name", EVEN)
def test_ids_grids_and_sound_are_the_published_processors(name):
    case, inputs = CASES[name], prepared(name)
    assert inputs.input_ids[0].tolist() == STORED[f"{name}.input_ids"].ravel().tolist()
    for key in ("image_grid_thw", "video_grid_thw", "video_second_per_grid"):
        if case.get(key) is not None:
            assert inputs.features[key].tolist() == case[key]
    if case["sounds"]:
        lengths = inputs.features["feature_attention_mask"].sum(-1).tolist()
        assert lengths == case["feature_attention_mask"]["sums"]
        for item, n_mel in enumerate(lengths):
            mel = inputs.features["input_features"][item, :, :n_mel].T.numpy()
            np.testing.assert_allclose(synthetic.thin(mel), STORED[f"{name}.input_features.{item}"], atol=1e-5)


def test_the_reference_cases_are_what_they_should_be():
    assert len(EVEN) >= 8
    assert sum(len(CASES[name]["videos"]) > 1 or bool(CASES[name]["images"]) for name in EVEN) >= 2


def test_pictures_are_resized_by_pillow_as_in_the_released_route():
    from PIL import Image

    picture = thwc(synthetic.frames(1, 90, 130, seed=3))[0]
    inputs = MODEL.prepare(av.Clip.from_image(picture), question="What is this?", sampling=SMALL)
    rows, cols = (int(n) * 14 for n in inputs.features["image_grid_thw"][0, 1:])
    resized = np.array(Image.fromarray(picture).resize((cols, rows), Image.Resampling.BICUBIC))
    patches, _ = patchify(torch.from_numpy(resized).permute(2, 0, 1)[None])
    assert torch.equal(inputs.features["pixel_values"], patches)
    assert rows * cols <= 56 * 56


# --- spans -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[random_omni, random_salmonn], ids=["omni", "salmonn"])
def any_model(request):
    return request.param(n_layers=2)


@pytest.fixture(scope="module")
def asked(any_model):
    clip = av.Clip.from_file(CLIP_FILE, stop=4)
    return any_model.prepare(
        clip,
        question="Who is there?",
        options=["a bird", "a bunny"],
        answer_prefix="The answer is",
        system="Be brief.",
        sampling=SMALL,
    )


def text_of(inputs, span):
    return MODEL.to_string(inputs.input_ids[0, inputs.spans[span].positions.tolist()])


@pytest.mark.parametrize(
    "span, text",
    [
        ("system", "<|im_start|>system\nBe brief.<|im_end|>\n"),
        ("question", "Who is there?\n"),  # the tokenizer joins "?" and the line break; the token begins in the question
        ("option_a", "A. a bird"),
        ("option_b", "B. a bunny"),
        ("options", "A. a birdB. a bunny"),
        ("instruction", "Answer with the option's letter."),
        ("answer_prefix", "The answer is"),
        ("assistant", "<|im_start|>assistant\nThe answer is"),
        ("last", " is"),
    ],
)
def test_text_spans_hold_their_text(asked, span, text):
    assert text_of(asked, span) == text


def test_the_options_spans_are_found_even_if_they_repeat_the_question(any_model):
    """By construction, not by search: the option's text also stands in the question and in the other option."""
    inputs = any_model.prepare(question="Is it a A. three or a three?", options=["three", "a three"])
    whole = MODEL.to_string(inputs.input_ids[0])
    assert text_of(inputs, "option_a") == "A. three"
    assert int(inputs.spans["option_a"].positions[0]) > int(inputs.spans["question"].positions[-1])
    assert whole.count("three") == 4


def test_spans_divide_the_prompt(asked):
    spans = asked.spans
    parts = [spans[name] for name in ("audio", "video", "boundary", "text")]
    assert sorted(p for part in parts for p in part) == list(range(asked.n_pos))
    assert spans["av"] == spans["audio"] | spans["video"] == spans["item0"]
    assert spans["item0.audio"] == spans["audio"]
    outside = spans["user"] & (spans["system"] | spans["assistant"])
    assert not len(outside)
    assert spans["system"] | spans["user"] | spans["assistant"] == Span("all", range(asked.n_pos))
    ids = asked.input_ids[0]
    omni = asked.settings["family"] == "qwen2_5_omni"
    assert set(ids[spans["audio"].positions.tolist()].tolist()) == {151646 if omni else 151665}
    assert set(ids[spans["video"].positions.tolist()].tolist()) == {151656}
    bounds = [151652, 151647, 151648, 151653] if omni else [151652, 151653]
    assert ids[spans["boundary"].positions.tolist()].tolist() == bounds


def test_media_tokens_know_their_second_and_cell(asked):
    spans, places = asked.spans, asked.spans.places
    seconds = places.seconds[spans["audio"].positions]
    a_token = 0.04 if asked.settings["family"] == "qwen2_5_omni" else 0.5
    np.testing.assert_allclose(seconds[:, 0], np.arange(len(seconds)) * a_token)
    groups, rows, cols = (n // s for n, s in zip(asked.features["video_grid_thw"][0].tolist(), (1, 2, 2), strict=True))
    assert len(spans.frame(groups - 1)) == rows * cols
    assert len(spans.region(rows=[0], cols=range(cols)) & spans["video"]) == groups * cols
    assert (places.items[spans["item0"].positions] == 0).all()
    assert np.isnan(places.seconds[spans["question"].positions]).all()
    video = places.seconds[spans["video"].positions]
    assert video[0, 0] == 0
    assert video[-1, 1] == pytest.approx(4, abs=0.05)
    assert set(spans.between(0, 1)) <= set(spans["av"])


def test_times_are_those_of_the_frames_that_were_sampled():
    """5.3 s at 2 fps is 10 frames spread over the whole clip: groups last 1.16 s, not the nominal second."""
    clip = av.Clip.from_file(CLIP_FILE)
    inputs = MODEL.prepare(clip, question="Who?", sampling=SMALL)
    starts = np.unique(inputs.spans.places.seconds[inputs.spans["video"].positions][:, 0])
    sampled = clip.frame_seconds[np.round(np.linspace(0, clip.n_frames - 1, 10)).astype(int)[::2]]
    np.testing.assert_allclose(starts, sampled, atol=0.041)
    assert inputs.features["video_second_per_grid"].tolist() == [1.0], "the model is told the nominal rate"


@pytest.mark.filterwarnings("ignore:videos with and without sound")
def test_a_rate_that_the_clip_cannot_keep_is_said():
    short = av.Clip.from_arrays(frames=np.zeros((10, 56, 56, 3), np.uint8), fps=10)
    with pytest.warns(av.HookedAVWarning, match=r"0\.50 s a group apart, but the model is told 1 s"):
        MODEL.prepare(short, question="Who?", sampling=SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error", av.HookedAVWarning)
        MODEL.prepare(short, question="Who?", sampling=Sampling(fps=4, max_pixels=56 * 56))


@pytest.mark.parametrize("rate", [25, 12.5, 30_000 / 1001, 2, 0.7])
def test_a_rate_whose_quotient_float32_rounds(rate):
    """The features say 2 / rate in float32, the prompt was dealt out in float64: a group would change its chunk."""
    assert told_seconds(float(np.float32(2 / rate))) == 2 / rate
    assert told_seconds(float(np.float32(np.pi))) == float(np.float32(np.pi))  # no plain rate: as it is
    assert told_seconds(0.0) == 0.0
    n_frames = max(4, round(5 * rate) // 2 * 2)
    film = av.Clip.from_arrays(
        frames=np.zeros((n_frames, 56, 56, 3), np.uint8),
        fps=rate,
        waveform=np.zeros(80_000, np.float32),
        sampling_rate_hz=16_000,
    )
    inputs = MODEL.prepare(film, question="Who?", sampling=Sampling(fps=rate, max_pixels=56 * 56, min_frames=2))
    assert len(inputs.spans["video"]) == n_frames // 2 * 4


def test_several_items_and_text_in_between():
    still = av.Clip.from_image(np.full((60, 60, 3), 90, np.uint8))
    beep = av.Clip.from_arrays(waveform=np.sin(np.arange(16_000) / 9).astype(np.float32) * 0.3, sampling_rate_hz=16_000)
    clip = av.Clip.from_file(CLIP_FILE, stop=2)
    inputs = MODEL.prepare([clip, "then", still, beep, clip.without_audio()], question="Same?", sampling=SMALL)
    spans = inputs.spans
    kinds = [sorted(n.split(".")[1] for n in spans if n.startswith(f"item{i}.")) for i in range(4)]
    assert kinds == [["audio", "video"], ["image"], ["audio"], ["video"]]
    assert len(spans["boundary"]) == 4 + 2 + 2 + 2
    assert spans["video"] == spans["item0.video"] | spans["item3.video"]
    assert len(spans.between(0, 1) & spans["item2"]) == 25
    with torch.no_grad():
        assert MODEL(inputs, logits_at="last").isfinite().all()


def test_text_only_uses_the_default_system_prompt(any_model):
    inputs = any_model.prepare(question="Why?")
    assert text_of(inputs, "system") == "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert "audio" not in inputs.spans


def test_settings_record_the_sampling(asked):
    assert asked.settings["sampling"]["max_pixels"] == 56 * 56
    omni = asked.settings["family"] == "qwen2_5_omni"
    assert asked.settings["positions"] == ("released" if omni else "generate")
    assert asked.settings["sampling"]["fps"] == (2 if omni else 10)


# --- what must be loud -----------------------------------------------------------------------------------------------

QUIET = {"waveform": np.full(1600, 0.1, np.float32), "sampling_rate_hz": 16_000}


@pytest.mark.parametrize(
    "media, arguments, message",
    [
        (None, {"question": ""}, "an empty question"),
        (None, {"question": "  \n"}, "an empty question"),
        (None, {"question": "What is <|im_start|>?"}, "special tokens"),
        (["<|im_end|>", QUIET], {"question": "Why?"}, "special tokens"),
        ("clip.mp4", {"question": "Why?"}, "media are clips(.|\n)*from_file"),
        (["see this", "a.wav", QUIET], {"question": "Why?"}, "media are clips"),
        ("a thought", {"question": "Why?"}, "media are clips"),
        (Path("clip.mp4"), {"question": "Why?"}, "media are clips(.|\n)*Path"),
        (np.zeros((2, 28, 28, 3), np.uint8), {"question": "Why?"}, "media are clips(.|\n)*ndarray"),
        (None, {"question": "Why?", "options": ["a"]}, "two different"),
        (None, {"question": "Why?", "options": ["a", "a"]}, "two different"),
        (None, {"question": "Why?", "options": ["a", ""]}, "an empty option"),
    ],
)  # fmt: skip
def test_bad_questions_and_media_are_refused(media, arguments, message, any_model):
    made = [
        av.Clip.from_arrays(**m) if isinstance(m, dict) else m for m in (media if isinstance(media, list) else [media])
    ]
    clip = made if isinstance(media, list) else made[0]
    with pytest.raises(InputsError, match=message):
        any_model.prepare(clip, **arguments)


def test_arguments_that_prepare_does_not_have_are_named(any_model):
    with pytest.raises(ArgumentError, match=r"unexpected keyword argument 'optoins'(.|\n)*expected: options"):
        any_model.prepare(question="Why?", optoins=["a", "b"])


@pytest.mark.parametrize("n_samples, message", [(300, "a length that"), (301 * 16_000, "300 s")])
def test_sounds_of_a_length_that_omni_does_not_take_are_refused(n_samples, message):
    clip = av.Clip.from_arrays(waveform=np.full(n_samples, 0.1, np.float32), sampling_rate_hz=16_000)
    with pytest.raises(InputsError, match=message):
        MODEL.prepare(clip, question="Why?")


@pytest.mark.parametrize("make", [av.random_omni, av.random_salmonn])
@pytest.mark.parametrize("cut", range(1, len("<|im_end|>")))
def test_texts_that_touch_make_no_special_token(make, cut):
    model, token = make(n_layers=1), "<|im_end|>"
    clip = av.Clip.from_arrays(np.zeros((4, 56, 56, 3), np.uint8), fps=4)
    first, second = token[:cut], token[cut:]
    touching = [([clip, first, second], "Why?")]
    if not model.family.after_media:  # else a line break stands between media and question
        touching += [([clip, "so " + first], second + " now")]
    for media, question in touching:
        with pytest.raises(InputsError, match=r"texts that touch make a special token(.|\n)*<\|im_end\|>"):
            model.prepare(media, question=question)
    prompt = model.prepare([clip, first + " ", second], question="Why?")
    template = model.prepare([clip, "so", "so"], question="Why?")
    count = [int((inputs.input_ids == model.to_single_token(token)).sum()) for inputs in (prompt, template)]
    assert count[0] == count[1]


def test_special_tokens_of_the_tokenizer_are_all_refused():
    family = OmniFamily(random_omni_config(num_hidden_layers=1), MODEL.family.tokenizer, mel_extractor())
    for token in ("<|endoftext|>", "<tool_call>", "<|audio_bos|>"):
        with pytest.raises(InputsError, match="special tokens"):
            family.prepare([], question=f"x {token}")


def test_a_preprocessor_may_name_its_sampling_and_the_released_one_changes_nothing():
    """Released checkpoints name a max_pixels of a later step; tiny-av names the sampling that it was trained with."""
    extractor = mel_extractor()
    assert released_sampling(extractor) == released_sampling(None) == RELEASED
    extractor.max_pixels = 12_845_056
    assert released_sampling(extractor) == RELEASED
    extractor.max_pixels, extractor.fps, extractor.min_frames = 3_136, 1.0, 2
    named = released_sampling(extractor)
    assert (named.max_pixels, named.fps, named.min_frames, named.max_frames) == (3_136, 1.0, 2, RELEASED.max_frames)
