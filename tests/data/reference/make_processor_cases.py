"""Write processor_cases.safetensors and .json: what the whole `Qwen2_5OmniProcessor` makes of synthetic prompts."""

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import synthetic
import torch
from safetensors.numpy import save_file
from transformers import AutoTokenizer, WhisperFeatureExtractor
from transformers.models.qwen2_5_omni.processing_qwen2_5_omni import Qwen2_5OmniProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

HERE = Path(__file__).parent
TOKENIZER = HERE.parents[2] / "hooked_av" / "data" / "tokenizer"

SYSTEM = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)
VIDEO = "<|vision_bos|><|VIDEO|><|vision_eos|>"
IMAGE = "<|vision_bos|><|IMAGE|><|vision_eos|>"
AUDIO = "<|audio_bos|><|AUDIO|><|audio_eos|>"

# Videos: (n_frames, height, width, seed). Sounds: (seconds, seed). Images: (height, width, seed).
# `sound_of`: for every sound, the video that it is the sound track of, or None for a sound by itself.
CASES = {
    "av_video": {
        "user": VIDEO + "What is seen and heard?",
        "videos": [(10, 100, 140, 1)],
        "sounds": [(5.3, 1)],
        "sound_of": [0],
    },
    "silent_video": {"user": VIDEO + "What is seen?", "videos": [(10, 100, 140, 1)]},
    "audio": {"user": AUDIO + "What is heard?", "sounds": [(5.3, 1)], "sound_of": [None]},
    "image": {"user": IMAGE + "What is seen?", "images": [(75, 110, 2)]},
    "two_av_videos": {
        "user": VIDEO + "first, then" + VIDEO + "Which is louder?",
        "videos": [(10, 100, 140, 1), (7, 90, 60, 3)],
        "sounds": [(5.3, 1), (3.07, 4)],
        "sound_of": [0, 1],
    },
    "image_audio_video": {
        "user": "See " + IMAGE + ", hear " + AUDIO + " and watch " + VIDEO + "\nDo they belong together?",
        "images": [(75, 110, 2)],
        "sounds": [(2.0, 5)],
        "videos": [(4, 100, 140, 1)],
        "sound_of": [None],
    },
    "image_audio_av_video": {
        "user": "See " + IMAGE + ", hear " + AUDIO + " and watch " + VIDEO + "\nDo they belong together?",
        "images": [(75, 110, 2)],
        "sounds": [(2.0, 5), (5.3, 1)],
        "videos": [(10, 100, 140, 1)],
        "sound_of": [None, 0],
    },
    # Sound longer and shorter than the picture; other rates: 1 and 4 seconds a grid step (a chunk is 2 seconds).
    "av_video_long_sound": {
        "user": VIDEO + "What is heard?",
        "videos": [(4, 60, 60, 6)],
        "sounds": [(7.777, 6)],
        "sound_of": [0],
    },
    "av_video_short_sound": {
        "user": VIDEO + "What is heard?",
        "videos": [(12, 60, 60, 6)],
        "sounds": [(1.0, 6)],
        "sound_of": [0],
    },
    "av_video_1_fps": {
        "user": VIDEO + "What is heard?",
        "videos": [(6, 60, 60, 6)],
        "sounds": [(5.3, 1)],
        "sound_of": [0],
        "fps": 1.0,
    },
    "av_video_half_fps": {
        "user": VIDEO + "What is heard?",
        "videos": [(6, 60, 60, 6)],
        "sounds": [(11.5, 1)],
        "sound_of": [0],
        "fps": 0.5,
    },
}


def released_processor() -> Qwen2_5OmniProcessor:
    """As the released checkpoint configures it (its preprocessor_config.json)."""
    sound = WhisperFeatureExtractor(
        feature_size=128,
        sampling_rate=16_000,
        hop_length=160,
        n_fft=400,
        chunk_length=300,
        padding_side="right",
        return_attention_mask=True,
    )
    images = Qwen2VLImageProcessor(size={"shortest_edge": 4 * 784, "longest_edge": 16_384 * 784})
    return Qwen2_5OmniProcessor(images, Qwen2VLVideoProcessor(), sound, AutoTokenizer.from_pretrained(TOKENIZER))


def process(processor: Qwen2_5OmniProcessor, case: dict) -> dict:
    text = (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{case['user']}<|im_end|>\n<|im_start|>assistant\n"
    )
    sounds = [synthetic.waveform(seconds, seed=seed) for seconds, seed in case.get("sounds", [])]
    sound_of = case.get("sound_of", [])
    from_video = any(video is not None for video in sound_of)
    made = processor(
        text=[text],
        images=[torch.from_numpy(synthetic.frames(1, *size, seed=seed)[0]) for *size, seed in case.get("images", [])]
        or None,
        videos=[torch.from_numpy(synthetic.frames(*shape, seed=seed)) for *shape, seed in case.get("videos", [])]
        or None,
        audio=sounds or None,
        **({"load_audio_from_video": True, "audio_from_video_indices": sound_of} if from_video else {}),
        **({"videos_kwargs": {"fps": case["fps"]}} if "fps" in case else {}),
        return_tensors="pt",
    )
    return {"text": text, **made}


def described(tensors: dict, name: str, case: dict, made: dict) -> dict:
    """What the json says of a case; its arrays go into `tensors`."""
    assert made["attention_mask"].all()
    tensors[f"{name}.input_ids"] = made["input_ids"][0].numpy().astype(np.int32)
    said = {"text": made["text"], **{kind: case.get(kind, []) for kind in ("videos", "sounds", "images", "sound_of")}}
    said |= {"fps": case.get("fps"), "n_tokens": made["input_ids"].shape[1], "outputs": sorted(set(made) - {"text"})}
    for kind in ("image", "video"):
        if f"{kind}_grid_thw" in made:
            said[f"{kind}_grid_thw"] = made[f"{kind}_grid_thw"].tolist()
    if "video_second_per_grid" in made:
        said["video_second_per_grid"] = torch.as_tensor(made["video_second_per_grid"]).tolist()
    for key in ("pixel_values", "pixel_values_videos"):
        if key in made:
            said[key] = summed_up(tensors, f"{name}.{key}", made[key].numpy())
    if "input_features" in made:
        n_mel_frames = made["feature_attention_mask"].sum(-1).tolist()
        said["feature_attention_mask"] = {"shape": list(made["feature_attention_mask"].shape), "sums": n_mel_frames}
        said["input_features"] = [
            summed_up(tensors, f"{name}.input_features.{item}", features[:, :n_frames].T.numpy())
            | {"padding": float(features[0, -1])}
            for item, (features, n_frames) in enumerate(zip(made["input_features"], n_mel_frames, strict=True))
        ]
    return said


def summed_up(tensors: dict, key: str, values: np.ndarray) -> dict:
    tensors[key] = synthetic.thin(values)
    values = np.ascontiguousarray(values)
    total = float(values.astype(np.float64).sum())
    return {"shape": list(values.shape), "sum": total, "sha256": synthetic.digest(values)}


def main() -> None:
    processor = released_processor()
    tensors: dict[str, np.ndarray] = {}
    cases = {name: described(tensors, name, case, process(processor, case)) for name, case in CASES.items()}
    names = ("torch", "torchvision", "transformers", "tokenizers", "numpy")
    versions = {name: importlib.metadata.version(name).split("+")[0] for name in names}
    save_file(tensors, HERE / "processor_cases.safetensors")
    (HERE / "processor_cases.json").write_text(json.dumps({"versions": versions, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
