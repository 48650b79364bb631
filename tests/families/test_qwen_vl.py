"""Plain Qwen2.5-VL is a hooked Qwen2.5-VL: to the bit what transformers computes, from every layout of its files."""

import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.qwen_vl import VL_PROMPTS, make_vl, vl_config, vl_tensors
from transformers import GenerationConfig
from transformers import Qwen2_5_VLForConditionalGeneration as VL

import hooked_av as av
from hooked_av.errors import CheckpointError, HookedAVWarning, InputsError
from hooked_av.families.qwen_vl.family import QwenVLFamily
from hooked_av.families.qwen_vl.positions import qwen_vl_positions
from hooked_av.model.random import randomise, vl_tokenizer
from hooked_av.model.transformer import HookedAVTransformer
from hooked_av.prompt.positions import TextRun, VisionPiece

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*has no (tokenizer|preprocessor) files"),
]


REFERENCE = make_vl()


def published(model, tensors):
    model.model.rope_deltas = None
    with torch.no_grad():
        return model(**tensors).logits


def logits(model, tensors, **more):
    with torch.no_grad():
        return model(model.inputs_from_tensors(**tensors, **more))


@pytest.mark.parametrize("kind", VL_PROMPTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_logits_are_equal_to_the_bit(attn, dtype, kind):
    reference = REFERENCE if (attn, dtype) == ("sdpa", torch.float32) else make_vl(attn, dtype)
    tensors = vl_tensors(kind)
    assert torch.equal(logits(HookedAVTransformer.from_hf(reference), tensors), published(reference, tensors))


@pytest.mark.parametrize("kind", VL_PROMPTS)
def test_positions_are_those_of_transformers(kind):
    tensors = vl_tensors(kind)
    inputs = HookedAVTransformer.from_hf(REFERENCE).inputs_from_tensors(**tensors)
    told = {name: tensor for name, tensor in tensors.items() if not name.startswith("pixel_values")}
    theirs, delta = REFERENCE.model.get_rope_index(**told)
    assert torch.equal(inputs.position_ids, theirs)
    assert inputs.rope_delta.tolist() == delta.flatten().tolist()
    assert inputs.settings == {"family": "qwen2_5_vl", "positions": "transformers"}


def test_the_trained_way_of_counting_goes_on_from_the_largest_id():
    """transformers 5 counts on from a video's larger side: text then stands before the video's last frames."""
    pieces = [TextRun(2), VisionPiece((5, 2, 3), 1.0), TextRun(2)]
    now, trained = (qwen_vl_positions(pieces, mode, 2) for mode in ("transformers", "train"))
    assert now[0, -3:].tolist() == [6, 7, 8]
    assert trained[0, -3:].tolist() == [12, 13, 14]
    short = [TextRun(2), VisionPiece((2, 2, 3), 1.0), TextRun(2)]
    assert torch.equal(*(qwen_vl_positions(short, mode, 2) for mode in ("transformers", "train")))
    with pytest.raises(InputsError, match="unknown position mode"):
        HookedAVTransformer.from_hf(REFERENCE).inputs_from_tensors(**vl_tensors("video"), positions="generate")


def test_a_video_without_times_has_seconds_of_one():
    tensors = vl_tensors("video")
    del tensors["second_per_grid_ts"]
    model = HookedAVTransformer.from_hf(REFERENCE)
    assert torch.equal(logits(model, tensors), published(REFERENCE, tensors))


def test_token_types_that_do_not_match_are_refused():
    tensors = vl_tensors("video")
    with pytest.raises(InputsError, match="mm_token_type_ids do not match"):
        logits(HookedAVTransformer.from_hf(REFERENCE), {**tensors, "mm_token_type_ids": tensors["input_ids"] * 0})


# --- files ---


@pytest.fixture
def folder(tmp_path):
    REFERENCE.save_pretrained(tmp_path / "vl")
    return tmp_path / "vl"


EXPECTED = published(REFERENCE, vl_tensors("two videos and an image"))


def loads(folder):
    model = HookedAVTransformer.from_pretrained(folder)
    assert type(model.family) is QwenVLFamily
    return torch.equal(logits(model, vl_tensors("two videos and an image")), EXPECTED)


def test_what_transformers_saves_loads(folder):
    assert "text_config" in json.loads((folder / "config.json").read_text()), "modern layout"
    assert loads(folder)


def test_shards_load(tmp_path):
    REFERENCE.save_pretrained(tmp_path, max_shard_size="100KB")
    assert loads(tmp_path)


def test_in_memory_names_load(folder):
    save_file({name: p.clone() for name, p in REFERENCE.state_dict().items()}, folder / "model.safetensors")
    assert loads(folder)


def test_the_released_flat_layout_loads(folder):
    """config.json of the hub: text fields at the top, rope_scaling, vision_config with the same model_type."""
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    flat = config | text | {
        "model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "rope_theta": rope["rope_theta"], "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "vision_config": config["vision_config"] | {"model_type": "qwen2_5_vl", "in_chans": 3},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(flat))
    renamed = {name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor.clone()
               for name, tensor in load_file(folder / "model.safetensors").items()}  # fmt: skip
    save_file(renamed, folder / "model.safetensors")
    assert loads(folder)


def test_a_tied_head_is_tied(tmp_path):
    """3B: no lm_head in the file; an older nested layout says so in text_config only."""
    torch.manual_seed(0)
    config = vl_config()
    config.tie_word_embeddings = True
    tied = VL._from_config(config).eval()
    randomise(tied)
    tied.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    said = json.loads((tmp_path / "config.json").read_text())
    said["text_config"]["tie_word_embeddings"] = said.pop("tie_word_embeddings")
    (tmp_path / "config.json").write_text(json.dumps(said))
    with warnings.catch_warnings():
        warnings.simplefilter("error", HookedAVWarning)
        warnings.filterwarnings("ignore", ".*has no tokenizer files")
        model = HookedAVTransformer.from_pretrained(tmp_path)
    assert model.cfg.tied
    assert torch.equal(logits(model, vl_tensors("image")), published(tied, vl_tensors("image")))
    assert HookedAVTransformer.from_hf(tied).cfg.tied


def test_what_we_save_transformers_loads(tmp_path):
    model = HookedAVTransformer.from_hf(REFERENCE)
    model.save_pretrained(tmp_path)
    theirs, info = VL.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]  # noqa: PT018
    assert torch.equal(published(theirs, vl_tensors("video")), published(REFERENCE, vl_tensors("video")))
    assert loads(tmp_path)


def test_generation_defaults_come_from_the_loaded_model():
    reference = make_vl()
    reference.generation_config = GenerationConfig(repetition_penalty=1.05, eos_token_id=[7, 8], do_sample=True)
    defaults = HookedAVTransformer.from_hf(reference).generation_defaults
    assert (defaults.repetition_penalty, defaults.eos_token_ids, defaults.do_sample) == (1.05, (7, 8), True)


def test_a_2plus_that_transformers_stripped_of_its_audio_is_refused():
    reference = make_vl()
    reference.config.architectures = ["video_SALMONN2_plus"]
    with pytest.raises(CheckpointError, match=r"lost its audio branch(.|\n)*from_pretrained"):
        HookedAVTransformer.from_hf(reference)


# --- prompts ---


@pytest.fixture(scope="module")
def model():
    """A tiny one with the released token ids and tokenizer."""
    config = vl_config(vocab_size=151_936)
    for name, token in (("image", 151655), ("video", 151656), ("vision_start", 151652), ("vision_end", 151653)):
        setattr(config, f"{name}_token_id", token)
    torch.manual_seed(0)
    return HookedAVTransformer.from_hf(VL._from_config(config).eval(), tokenizer=vl_tokenizer())


def test_a_prompt_is_that_of_the_released_template(model):
    frames = np.random.default_rng(0).integers(0, 255, (8, 60, 90, 3), np.uint8)
    clips = [av.Clip.from_arrays(frames=frames, fps=4), av.Clip.from_image(frames[0])]
    inputs = model.prepare(clips, question="What is it?", sampling=av.Sampling(max_pixels=56 * 84))
    n_video, n_image = len(inputs.spans["video"]), len(inputs.spans["image"])
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|>{'<|video_pad|>' * n_video}<|vision_end|>"
        f"<|vision_start|>{'<|image_pad|>' * n_image}<|vision_end|>"
        "What is it?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert model.to_string(inputs.input_ids[0]) == text
    assert inputs.features["video_grid_thw"].tolist() == [[2, 4, 6]]
    assert inputs.features["second_per_grid"].tolist() == [1.0], "4 frames of 2 s"
    with torch.no_grad():
        assert model(inputs, logits_at="last").isfinite().all()


def test_sound_is_refused(model):
    clip = av.Clip.from_arrays(waveform=np.sin(np.arange(16_000) / 9) * 0.3, sampling_rate_hz=16_000)
    with pytest.raises(InputsError, match=r"Qwen2\.5-VL has no ears(.|\n)*video-SALMONN 2\+"):
        model.prepare(clip, question="What do you hear?")
    assert "audio" not in model.prepare(question="Why?").spans
