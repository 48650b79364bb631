"""patches.py against its own rules, and against numbers that transformers and qwen-omni-utils made (data/reference)."""

import importlib.util
import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from hooked_av.errors import InputsError
from hooked_av.media import patches as fr

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
FOUND = json.loads((REFERENCE / "patches.json").read_text())
SIDES = st.integers(1, 3_000)
# Without these, torch resizes 1 pixel in 100,000 to the next grey level in float32, and none in whole grey levels.
VECTOR_KERNELS = torch.backends.cpu.get_cpu_capability() in {"AVX2", "AVX512"}


def _load_synthetic():
    spec = importlib.util.spec_from_file_location("synthetic", REFERENCE / "synthetic.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


synthetic = _load_synthetic()


@cache
def _patches() -> dict[str, np.ndarray]:
    return load_file(REFERENCE / "patches.safetensors")


def _frames(said: dict) -> torch.Tensor:
    about = said["frames"]
    frames = synthetic.frames(*about["shape"], seed=about["seed"], noise_levels=about["noise_levels"])
    assert synthetic.digest(frames) == about["sha256"], (
        "the synthetic frames themselves differ: not a fault of patches.py"
    )
    return torch.from_numpy(frames)


def _assert_equal_to_reference(patches: torch.Tensor, grid: torch.Tensor, said: dict, key: str) -> None:
    values = patches.numpy()
    assert grid.tolist() == said["grid_thw"]
    assert list(values.shape) == said["shape"]
    assert values.dtype == np.float32
    difference = np.abs(synthetic.thin(values) - _patches()[key]).max()
    assert difference == 0.0
    assert synthetic.digest(values) == said["sha256"]


# Equal to the published code


@pytest.mark.parametrize("name", FOUND["video"])
def test_a_video_becomes_the_patches_of_transformers(name):
    said = FOUND["video"][name]
    frames = _frames(said)
    size = fr.fit_size(*frames.shape[2:], min_pixels=said["budget"][0], max_pixels=said["budget"][1])
    _assert_equal_to_reference(*fr.patchify(fr.resize(frames, *size)), said, f"video.{name}")


@pytest.mark.parametrize("name", FOUND["image"])
def test_a_picture_becomes_the_patches_of_transformers(name):
    said = FOUND["image"][name]
    frames = _frames(said)
    size = fr.fit_size(*frames.shape[2:], min_pixels=said["budget"][0], max_pixels=said["budget"][1])
    _assert_equal_to_reference(*fr.patchify(fr.resize(frames, *size)), said, f"image.{name}")


@pytest.mark.parametrize("name", FOUND["file"])
def test_a_file_becomes_the_patches_of_qwen_omni_utils_and_transformers(name):
    said = FOUND["file"][name]
    frames = _frames(said)
    indices = fr.sample_indices(len(frames), said["frames_per_second"])
    assert indices.tolist() == said["indices"]
    size = fr.VIDEO_BUDGET.fit(len(indices), *frames.shape[2:])
    resized = fr.resize_in_float(frames[indices], *size)
    if VECTOR_KERNELS:
        assert synthetic.digest(resized.numpy()) == said["resized_sha256"]
        _assert_equal_to_reference(*fr.patchify(resized), said, f"file.{name}")
    else:
        difference = synthetic.thin(fr.patchify(resized)[0].numpy()) - _patches()[f"file.{name}"]
        assert np.abs(difference).max() < 1.01 / (255 * min(fr.CLIP_STD))  # one grey level


def test_the_two_published_resizes_are_not_the_same():
    frames = _frames(FOUND["file"]["two_seconds_25_fps"])[:4]
    whole, rounded_once = (resize(frames, 308, 420).int() for resize in (fr.resize, fr.resize_in_float))
    assert 0.1 < (whole != rounded_once).float().mean() < 0.4
    assert (whole - rounded_once).abs().max() <= 3


def test_sampled_indices_are_those_of_qwen_omni_utils():
    for said in FOUND["sample_indices"]:
        bounds = {name: said[name] for name in ("fps", "min_frames", "max_frames") if name in said}
        indices = fr.sample_indices(said["n_frames"], said["frames_per_second"], **bounds)
        assert (len(indices), synthetic.digest(indices)) == (said["n_samples"], said["sha256"]), said


def test_sizes_are_those_of_qwen_omni_utils():
    n_compared = 0
    for height, width, least, most, *(qwen_height, qwen_width), _, _ in FOUND["fit_size"]["rows"]:
        fitted = fr.fit_size(height, width, min_pixels=least, max_pixels=most)
        assert fitted == (max(28, qwen_height), max(28, qwen_width)), (height, width, least, most)
        n_compared += 1
    assert n_compared > 900


def test_sizes_are_those_of_transformers_too_unless_a_side_has_less_than_half_a_token():
    for height, width, least, most, _, _, *transformers_size in FOUND["fit_size"]["rows"]:
        if min(height, width) > 14:
            fitted = fr.fit_size(height, width, min_pixels=least, max_pixels=most)
            assert list(fitted) == transformers_size, (height, width, least, most)


def test_frames_share_their_budget_as_in_qwen_omni_utils():
    released = {name: getattr(fr.VIDEO_BUDGET, name) for name in ("min_pixels", "max_pixels", "total_pixels")}
    for said in FOUND["shared_budget"]:
        budget = fr.PixelBudget(**{name: said.get(name, pixels) for name, pixels in released.items()})
        assert list(budget.fit(said["n_frames"], said["height"], said["width"])) == said["fitted"], said
    assert len({tuple(said["fitted"]) for said in FOUND["shared_budget"]}) > 20


def test_released_budgets():
    assert fr.PixelBudget(min_pixels=100_352, max_pixels=602_112, total_pixels=90_316_800) == fr.VIDEO_BUDGET
    assert fr.PixelBudget(min_pixels=3_136, max_pixels=12_845_056, total_pixels=12_845_056) == fr.IMAGE_BUDGET
    assert fr.frame_pixel_cap(1, min_pixels=3_136, max_pixels=12_845_056, total_pixels=12_845_056) == 12_845_056


# sample_indices


@given(n_frames=st.integers(2, 5_000), rate=st.floats(1, 120), fps=st.floats(0.1, 60))
def test_sampled_indices_follow_the_rule(n_frames, rate, fps):
    indices = fr.sample_indices(n_frames, rate, fps=fps)
    count = min(max(n_frames / rate * fps, 4), 768, n_frames)
    count = int(count) - int(count) % 2
    assert len(indices) == count
    assert indices[0] == 0
    assert indices[-1] == n_frames - 1
    assert (np.diff(indices) > 0).all()  # sorted, and no frame twice
    exact = [(n_frames - 1) * place / (count - 1) for place in range(count)]
    assert np.abs(indices - np.array(exact)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("rate", [0.1, 25, 1e6])
def test_a_single_frame_is_seen_twice(rate):
    assert fr.sample_indices(1, rate).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({"n_frames": 0}, "n_frames=0"),
        ({"frames_per_second": 0}, "frames_per_second=0"),
        ({"frames_per_second": math.nan}, "frames_per_second=nan"),
        ({"frames_per_second": math.inf}, "frames_per_second=inf"),
        ({"fps": 0}, "fps=0"),
        ({"fps": -2.0}, "fps=-2.0"),
        ({"min_frames": 8, "max_frames": 6}, "min_frames=8, max_frames=6"),
        ({"min_frames": 3, "max_frames": 3}, "min_frames=3, max_frames=3"),
        ({"min_frames": 0}, "min_frames=0"),
        ({"max_frames": 1, "min_frames": 1}, "min_frames=1, max_frames=1"),
    ],
)
def test_nonsense_is_not_sampled(asked, got):
    with pytest.raises(InputsError) as caught:
        fr.sample_indices(**{"n_frames": 50, "frames_per_second": 25, **asked})
    assert got in caught.value.got


# fit_size, frame_pixel_cap


@given(height=SIDES, width=SIDES, least=st.integers(1, 300), room=st.integers(4, 60), factor=st.sampled_from([28, 32]))
def test_fitted_sizes_are_whole_tokens_within_the_budget_and_of_about_the_same_shape(
    height, width, least, room, factor
):
    min_pixels, max_pixels = least * factor**2, least * room * factor**2
    aspect = max(height, width) / min(height, width)
    # Flatter frames than this are clamped to one row of tokens.
    assume(aspect <= 200 and aspect * factor**2 <= max_pixels / 4)
    fitted = fr.fit_size(height, width, min_pixels=min_pixels, max_pixels=max_pixels, factor=factor)
    assert all(side % factor == 0 and side >= factor for side in fitted)
    assert math.prod(fitted) <= max_pixels
    # Shrinking loses up to a row and a column below the largest area, never more.
    rows, columns = (side // factor for side in fitted)
    assert math.prod(fitted) >= min_pixels or (rows + 1) * (columns + 1) * factor**2 > max_pixels
    if min(rows, columns) > 1:
        low, high = (rows - 1) / (columns + 1), (rows + 1) / (columns - 1)
        assert low <= height / width <= high


@given(height=st.integers(1, 60), width=st.integers(1, 60))
def test_a_fitted_size_stays(height, width):
    size = fr.VIDEO_BUDGET.fit(10, height * 7, width * 7)
    assert fr.VIDEO_BUDGET.fit(10, *size) == size


@given(n_frames=st.integers(1, 2_000))
def test_frames_within_the_cap_stay_within_the_total_until_the_floor(n_frames):
    cap = fr.frame_pixel_cap(n_frames, min_pixels=100_352, max_pixels=602_112, total_pixels=90_316_800)
    assert 105_369 <= cap <= 602_112  # 1.05 x the smallest area
    assert cap * n_frames / 2 <= 90_316_800 * (1 + 1e-12) or cap == 105_369


@pytest.mark.parametrize(
    "call",
    [
        lambda: fr.fit_size(0, 10, min_pixels=1, max_pixels=2),
        lambda: fr.fit_size(10, -1, min_pixels=1, max_pixels=2),
        lambda: fr.fit_size(1, 201, min_pixels=1, max_pixels=2),
        lambda: fr.fit_size(100, 100, min_pixels=3, max_pixels=2),
        lambda: fr.frame_pixel_cap(0, min_pixels=1, max_pixels=2, total_pixels=3),
        lambda: fr.PixelBudget(min_pixels=3, max_pixels=2, total_pixels=3),
        lambda: fr.PixelBudget(min_pixels=0, max_pixels=2, total_pixels=3),
        lambda: fr.PixelBudget(min_pixels=1, max_pixels=2, total_pixels=0),
        lambda: fr.resize(torch.zeros(1, 3, 28, 28, dtype=torch.uint8), 0, 28),
        lambda: fr.resize(torch.zeros(1, 3, 0, 28, dtype=torch.uint8), 28, 28),
        lambda: fr.patchify(torch.zeros(0, 3, 28, 28, dtype=torch.uint8)),
        lambda: fr.patchify(torch.zeros(1, 3, 28, 42, dtype=torch.uint8)),
    ],
)
def test_nonsense_is_refused_with_a_next_step(call):
    with pytest.raises(InputsError) as caught:
        call()
    assert caught.value.next_step


def test_the_error_names_the_size_that_was_got():
    with pytest.raises(InputsError, match=r"got: +3 frames of 30 x 56 \(height x width\)"):
        fr.patchify(torch.zeros(3, 3, 30, 56, dtype=torch.uint8))


# resize


@pytest.mark.parametrize("resize", [fr.resize, fr.resize_in_float])
def test_a_frame_is_resized_alike_alone_in_a_chunk_and_in_any_memory_layout(resize, monkeypatch):
    frames = torch.from_numpy(synthetic.frames(37, 40, 70, seed=5, noise_levels=300))
    together = resize(frames, 56, 28)
    assert together.shape == (37, 3, 56, 28)
    assert together.dtype == torch.uint8
    for n_at_once in (1, 5, 100):
        monkeypatch.setattr(fr, "FRAMES_AT_ONCE", n_at_once)
        assert torch.equal(resize(frames, 56, 28), together)
    as_decoded = frames.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # what a decoder hands over
    assert torch.equal(resize(as_decoded, 56, 28), together)


def test_frames_of_the_wanted_size_come_back_as_they_are():
    frames = torch.zeros(2, 3, 28, 56, dtype=torch.uint8)
    assert fr.resize(frames, 28, 56) is frames


def test_resizing_does_not_touch_its_argument():
    frames = torch.from_numpy(synthetic.frames(2, 40, 70, seed=5))
    before = frames.clone()
    fr.patchify(fr.resize(frames, 28, 56))
    fr.patchify(fr.resize_in_float(frames, 56, 28))
    fr.patchify(frames[:, :, :28, :56])
    assert torch.equal(frames, before)


# patchify


@given(
    n_frames=st.integers(1, 7),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    layout=st.builds(fr.PatchLayout, st.sampled_from([2, 14]), st.integers(1, 3), st.integers(1, 3)),
)
def test_every_pixel_is_where_the_layout_says(n_frames, rows, columns, layout):
    side, merge, together = layout.patch_pixels, layout.merge, layout.frames_per_patch
    height, width = rows * layout.token_pixels, columns * layout.token_pixels
    frames = torch.from_numpy(synthetic.frames(n_frames, height, width, seed=1, noise_levels=300))
    patches, grid = fr.patchify(frames, layout)
    assert grid.tolist() == [math.ceil(n_frames / together), rows * merge, columns * merge]
    assert patches.shape == (grid.prod(), layout.d_patch)

    mean, std = (np.float32(255) * np.array(of, np.float32) for of in (fr.CLIP_MEAN, fr.CLIP_STD))
    levels = (frames.numpy().astype(np.float32) - mean[:, None, None]) / std[:, None, None]
    patch = 0
    for t in range(grid[0]):
        for y, x, dy, dx in np.ndindex(rows, columns, merge, merge):
            top, left = (y * merge + dy) * side, (x * merge + dx) * side
            shown = [min(t * together + place, n_frames - 1) for place in range(together)]
            cut = levels[shown, :, top : top + side, left : left + side]  # frame channel row column
            assert np.array_equal(patches[patch].numpy(), cut.swapaxes(0, 1).reshape(-1))
            patch += 1
    assert patch == len(patches)


def test_chunked_patches_are_unchunked_patches(monkeypatch):
    frames = torch.from_numpy(synthetic.frames(37, 28, 56, seed=2))
    together, _ = fr.patchify(frames)
    for n_at_once in (1, 2, 6, 1_000):
        monkeypatch.setattr(fr, "FRAMES_AT_ONCE", n_at_once)
        assert torch.equal(fr.patchify(frames)[0], together)


def test_a_picture_is_a_video_of_the_same_frame_twice():
    frame = torch.from_numpy(synthetic.frames(1, 56, 84, seed=3))
    assert torch.equal(fr.patchify(frame)[0], fr.patchify(frame.repeat(2, 1, 1, 1))[0])


class FloatMemory(TorchDispatchMode):
    """Bytes of float storage that operations have made, every storage counted once."""

    def __init__(self):
        super().__init__()
        self.kept, self.n_bytes, self.largest = [], 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in (known.data_ptr() for known in self.kept):
                    self.kept.append(storage)  # keeping it alive also keeps its address from being given out again
                    self.n_bytes += storage.nbytes()
                    self.largest = max(self.largest, storage.nbytes())
        return result


def test_a_long_clip_never_exists_twice_in_float():
    frames = torch.zeros(fr.MAX_FRAMES, 3, 28, 56, dtype=torch.uint8)
    with FloatMemory() as memory:
        patches, _ = fr.patchify(fr.resize(frames, 56, 28))
    n_result_bytes = 4 * patches.numel()
    assert n_result_bytes <= memory.n_bytes < 1.01 * n_result_bytes
    with FloatMemory() as memory:
        fr.resize_in_float(frames, 56, 28)
    assert memory.largest == 4 * 3 * 28 * 56 * fr.FRAMES_AT_ONCE
