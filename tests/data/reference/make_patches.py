"""Write patches.safetensors and patches.json: what transformers and qwen-omni-utils make of synthetic frames.

Runs their own code (see README.md for versions); of theirs, only the reading of a file is replaced.
"""

import importlib.metadata
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import synthetic
import torch
from qwen_omni_utils.v2_5 import vision_process
from safetensors.numpy import save_file
from transformers.models.qwen2_vl import video_processing_qwen2_vl as transformers_video
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

HERE = Path(__file__).parent
AREA = 28 * 28  # pixels of one frame in one token
RELEASED_VIDEO = (128 * AREA, 768 * AREA)
RELEASED_IMAGE = (4 * AREA, 16_384 * AREA)

# name: (n_frames, height, width, noise_levels), (min_pixels, max_pixels)
VIDEOS = {
    "unresized": ((2, 56, 84, 40), (4 * AREA, 12 * AREA)),
    "shrunk": ((4, 90, 150, 40), (4 * AREA, 6 * AREA)),
    "grown_odd_count": ((5, 61, 47, 40), (6 * AREA, 24 * AREA)),
    "one_frame": ((1, 70, 99, 40), (4 * AREA, 12 * AREA)),
    "tall": ((2, 400, 90, 40), (4 * AREA, 20 * AREA)),
    "pure_noise": ((3, 77, 123, 600), (4 * AREA, 6 * AREA)),
    "released_grown": ((3, 100, 140, 40), RELEASED_VIDEO),
    "released_720p": ((2, 720, 1280, 40), RELEASED_VIDEO),
    "more_than_one_chunk": ((37, 64, 50, 40), (4 * AREA, 12 * AREA)),
}
IMAGES = {
    "rounded": ((1, 75, 110, 40), RELEASED_IMAGE),
    "flat": ((1, 33, 300, 40), RELEASED_IMAGE),
    "tiny": ((1, 9, 14, 40), RELEASED_IMAGE),
    "shrunk": ((1, 300, 211, 40), (4 * AREA, 40 * AREA)),
}
# The released way: qwen-omni-utils samples and resizes the file, transformers makes the patches.
FILES = {
    "two_seconds_25_fps": ((50, 40, 60, 40), 25.0),
    "slow": ((7, 60, 40, 40), 1.5),
    "large": ((9, 720, 540, 40), 12.5),
}


def as_stored(tensors: dict, key: str, patches: torch.Tensor, grid: torch.Tensor, **said: object) -> dict:
    values = patches.numpy()
    tensors[key] = synthetic.thin(values)
    return {
        **said,
        "grid_thw": grid.reshape(-1).tolist(),
        "shape": list(values.shape),
        "sum": float(values.astype(np.float64).sum()),
        "sha256": synthetic.digest(values),
    }


def processed_videos(tensors: dict) -> dict:
    processor, said = Qwen2VLVideoProcessor(), {}
    for seed, (name, ((*shape, noise_levels), (least, most))) in enumerate(VIDEOS.items()):
        frames = synthetic.frames(*shape, seed=seed, noise_levels=noise_levels)
        size = {"shortest_edge": least, "longest_edge": most}
        out = processor(videos=[torch.from_numpy(frames)], size=size, cap_pixels_per_frame=False, return_tensors="pt")
        said[name] = as_stored(
            tensors,
            f"video.{name}",
            out["pixel_values_videos"],
            out["video_grid_thw"],
            frames={"shape": shape, "seed": seed, "noise_levels": noise_levels, "sha256": synthetic.digest(frames)},
            budget=[least, most],
        )
    return said


def processed_images(tensors: dict) -> dict:
    processor, said = Qwen2VLImageProcessor(), {}
    for seed, (name, ((*shape, noise_levels), (least, most))) in enumerate(IMAGES.items(), start=50):
        frames = synthetic.frames(*shape, seed=seed, noise_levels=noise_levels)
        size = {"shortest_edge": least, "longest_edge": most}
        out = processor(images=[torch.from_numpy(frames[0])], size=size, return_tensors="pt")
        said[name] = as_stored(
            tensors,
            f"image.{name}",
            out["pixel_values"],
            out["image_grid_thw"],
            frames={"shape": shape, "seed": seed, "noise_levels": noise_levels, "sha256": synthetic.digest(frames)},
            budget=[least, most],
        )
    return said


class NoPixels:
    """The shape of a video without its pixels, for what needs no more: a long one would not fit into memory."""

    def __init__(self, n_frames: int, height: int, width: int) -> None:
        self.shape = (n_frames, 3, height, width)

    def size(self, axis: int) -> int:
        return self.shape[axis]

    def __getitem__(self, indices: torch.Tensor) -> "NoPixels":
        return NoPixels(len(indices), *self.shape[2:])


def open_as_file(frames: torch.Tensor | NoPixels, frames_per_second: float) -> None:
    """Let qwen-omni-utils find these frames in the next file that it opens."""

    def read_video(*_: object, **__: object) -> tuple:
        return frames, None, {"video_fps": frames_per_second}

    vision_process.io = SimpleNamespace(read_video=read_video)
    vision_process.get_video_reader_backend = lambda: "torchvision"


def released_way(tensors: dict) -> dict:
    processor, said = Qwen2VLVideoProcessor(), {}
    least, most = RELEASED_VIDEO
    for seed, (name, ((*shape, noise_levels), rate)) in enumerate(FILES.items(), start=80):
        frames = synthetic.frames(*shape, seed=seed, noise_levels=noise_levels)
        open_as_file(torch.from_numpy(frames), rate)
        (sized, metadata), fps = vision_process.fetch_video(
            {"video": name}, return_video_sample_fps=True, return_video_metadata=True
        )
        size = {"shortest_edge": least, "longest_edge": most}
        out = processor(videos=[sized], size=size, cap_pixels_per_frame=False, return_tensors="pt")
        said[name] = as_stored(
            tensors,
            f"file.{name}",
            out["pixel_values_videos"],
            out["video_grid_thw"],
            frames={"shape": shape, "seed": seed, "noise_levels": noise_levels, "sha256": synthetic.digest(frames)},
            frames_per_second=rate,
            indices=metadata["frames_indices"].tolist(),
            sampled_fps=fps,
            resized_sha256=synthetic.digest(sized.to(torch.uint8).numpy()),
        )
    return said


def sampled_indices() -> list[dict]:
    """Every n_frames from 2 to 60 at 25 a second, then long, slow, fast and odd ones."""
    asked = [(n, 25.0, {}) for n in range(2, 61)]
    asked += [(n, 29.97, {}) for n in (100, 333, 1_001, 5_395, 11_508, 11_510, 20_000, 107_892)]
    asked += [(n, rate, {}) for n in (9, 30, 301) for rate in (0.5, 1.0, 7.5, 23.976, 60.0, 120.0)]
    asked += [
        (300, 30.0, {"fps": fps, "min_frames": low, "max_frames": high})
        for fps in (0.5, 1.0, 3.7, 10.0)
        for low, high in ((3, 8), (4, 767), (16, 16), (1, 3))
    ]
    told = []
    for n_frames, rate, bounds in asked:
        open_as_file(NoPixels(n_frames, 1, 1), rate)
        _, metadata, fps = vision_process._read_video_torchvision({"video": "clip", **bounds})
        row = {"n_frames": n_frames, "frames_per_second": rate, **bounds, "sampled_fps": fps}
        indices = metadata["frames_indices"].numpy()
        row |= {"n_samples": len(indices), "sha256": synthetic.digest(indices)}
        told.append(row | ({"indices": indices.tolist()} if len(indices) <= 30 else {}))
    return told


def fitted_sizes() -> dict:
    """Size that each code fits (height, width) into, for the released budgets and a narrow one."""
    draws = synthetic.noise(600, seed=7, n_levels=2_000).reshape(-1, 2) + 1
    corners = [
        [1, 1],
        [28, 28],
        [14, 14],
        [42, 70],
        [20, 4_000],
        [4_000, 20],
        [719, 1_281],
        [2_160, 3_840],
        [13, 2_600],
    ]
    rows = []
    for height, width in [*corners, *draws.tolist()]:
        if max(height, width) > 200 * min(height, width):
            continue
        for least, most in (RELEASED_VIDEO, RELEASED_IMAGE, (16 * AREA, 61_250)):
            sizes = [
                smart_resize(height, width, factor=28, min_pixels=least, max_pixels=most)
                for smart_resize in (vision_process.smart_resize, transformers_video.smart_resize)
            ]
            rows.append([height, width, least, most, *sizes[0], *sizes[1]])
    columns = "height width min_pixels max_pixels qwen_height qwen_width transformers_height transformers_width"
    return {"columns": columns.split(), "rows": rows}


def shared_budgets() -> list[dict]:
    """Size of each of n frames of a file, from the whole of `fetch_video`; its last step only notes the size."""
    noted = []

    def note_size(_: NoPixels, size: list[int], **__: object) -> torch.Tensor:
        noted.append(size)
        return torch.zeros(1)

    resize, vision_process.transforms.functional.resize = vision_process.transforms.functional.resize, note_size
    rows = []
    for n_frames in (2, 4, 150, 300, 302, 400, 600, 768):
        for height, width in ((720, 1280), (1080, 1920), (480, 640), (100, 100), (900, 300)):
            for bounds in ({}, {"max_pixels": 200_000}, {"total_pixels": 24_576 * AREA}, {"min_pixels": 300_000}):
                open_as_file(NoPixels(n_frames, height, width), 2.0)
                vision_process.fetch_video({"video": "clip", **bounds})
                rows.append({"n_frames": n_frames, "height": height, "width": width, **bounds, "fitted": noted[-1]})
    vision_process.transforms.functional.resize = resize
    return rows


def main() -> None:
    tensors: dict[str, np.ndarray] = {}
    said = {
        "versions": {
            name: importlib.metadata.version(name).split("+")[0]
            for name in ("torch", "torchvision", "transformers", "qwen-omni-utils", "numpy")
        },
        "video": processed_videos(tensors),
        "image": processed_images(tensors),
        "file": released_way(tensors),
        "sample_indices": sampled_indices(),
        "fit_size": fitted_sizes(),
        "shared_budget": shared_budgets(),
    }
    save_file(tensors, HERE / "patches.safetensors")
    rows = ",\n".join(f'"{part}": {one_line_each(content)}' for part, content in said.items())
    (HERE / "patches.json").write_text("{\n" + rows + "\n}\n")


def one_line_each(content: dict | list) -> str:
    if isinstance(content, list):
        return "[\n" + ",\n".join(json.dumps(row) for row in content) + "\n]"
    if "rows" in content:
        return '{"columns": ' + json.dumps(content["columns"]) + ',\n"rows": ' + one_line_each(content["rows"]) + "}"
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()) + "\n}"


if __name__ == "__main__":
    main()
