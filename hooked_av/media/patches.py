"""From the frames of a clip to the patches that the vision tower reads: sample, fit, resize, patchify.

    frames of a file --sample_indices--> 2 a second --fit_size, resize--> multiples of 28 pixels --patchify--> patches

Axes: frame; channel (3, red green blue); height, width (pixels); sample (a frame that was kept); patch; d_patch (the
numbers of one patch: 3 channels x 2 frames x 14 x 14 pixels = 1,176). A grid is (t, h, w): pairs of frames, rows and
columns of patches. Four patches (2 x 2) become one token, so a token covers 28 x 28 pixels of two frames.

Sampling and budgets follow `qwen_omni_utils/v2_5/vision_process.py` (qwen-omni-utils 0.0.9); numbers follow
`video_processing_qwen2_vl.py` of transformers 5.23, bit for bit. Nothing here needs torchvision.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import Image
from torch import Tensor

from hooked_av.errors import InputsError

CHANNELS = 3  # red, green, blue
GREY_LEVELS = 255  # the largest value of a uint8 pixel
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # per channel, pixels in [0, 1]
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

SAMPLED_FPS = 2.0  # frames kept per second of clip
MIN_FRAMES = 4  # kept from a clip, however short
MAX_FRAMES = 768  # kept from a clip, however long
FRAMES_PER_PATCH = 2
PATCH_PIXELS = 14  # side of a patch
MERGE = 2  # patches along each side of a token
TOKEN_PIXELS = PATCH_PIXELS * MERGE  # 28, side of a token
TOKEN_AREA = TOKEN_PIXELS**2  # 784 pixels of one frame

MIN_FRAME_TOKENS, MAX_FRAME_TOKENS = 128, 768  # of one frame of a video
MIN_IMAGE_TOKENS, MAX_IMAGE_TOKENS = 4, 16_384
CONTEXT_TOKENS = 128_000  # what the released model reads at most
VIDEO_TOKENS = 9 * CONTEXT_TOKENS // 10  # the share of the context that a video may fill
MIN_PIXELS_MARGIN = 1.05  # a shared budget never shrinks a frame below 1.05 of its smallest area

MAX_ASPECT_RATIO = 200  # longer side to shorter side
FRAMES_AT_ONCE = 16  # frames in float at the same time: 177 MB (16 x 3 x 720 x 1280 x 4 bytes)


def _check_budget(min_pixels: int | float, max_pixels: int | float) -> None:
    if not 1 <= min_pixels <= max_pixels:
        raise InputsError(
            "a pixel budget that no frame can meet",
            expected="1 <= min_pixels <= max_pixels",
            got=f"min_pixels={min_pixels}, max_pixels={max_pixels}",
            next_step="raise max_pixels or lower min_pixels; VIDEO_BUDGET and IMAGE_BUDGET have the released values",
        )


@dataclass(frozen=True)
class PatchLayout:
    """How frames are cut into patches; the default is that of Qwen2.5-Omni, Qwen2.5-VL and video-SALMONN 2+.

    >>> PatchLayout().token_pixels, PatchLayout().d_patch
    (28, 1176)
    """

    patch_pixels: int = PATCH_PIXELS
    frames_per_patch: int = FRAMES_PER_PATCH
    merge: int = MERGE

    @property
    def token_pixels(self) -> int:
        """Side of a token in pixels: sides of frames are multiples of it."""
        return self.patch_pixels * self.merge

    @property
    def d_patch(self) -> int:
        """Numbers in one patch."""
        return CHANNELS * self.frames_per_patch * self.patch_pixels**2

    def grid(self, n_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(t, h, w) of frames of this size: groups of frames (the last one filled up), rows, columns of patches.

        >>> PatchLayout().grid(n_frames=5, height=56, width=84)
        (3, 4, 6)
        """
        if n_frames < 1 or height < 1 or width < 1 or height % self.token_pixels or width % self.token_pixels:
            raise InputsError(
                "these frames cannot be cut into whole tokens",
                expected=f"one frame or more, both sides a multiple of {self.token_pixels} pixels",
                got=f"{n_frames} frames of {height} x {width} (height x width)",
                next_step="resize(frames, *fit_size(height, width, min_pixels=..., max_pixels=...)) first",
            )
        n_groups = math.ceil(n_frames / self.frames_per_patch)
        return n_groups, height // self.patch_pixels, width // self.patch_pixels


PATCH_LAYOUT = PatchLayout()


@dataclass(frozen=True)
class PixelBudget:
    """How many pixels the frames of one item may have.

    min_pixels, max_pixels: of one frame. total_pixels: of all frames of an item, where a pair of frames counts once
    (as it does in tokens). From `fetch_video` and `fetch_image` of qwen-omni-utils.

    >>> VIDEO_BUDGET.fit(n_frames=16, height=720, width=1280)
    (560, 1008)
    >>> VIDEO_BUDGET.fit(n_frames=768, height=720, width=1280)  # 384 seconds at 2 fps share the context
    (336, 644)
    """

    min_pixels: int
    max_pixels: int
    total_pixels: int

    def __post_init__(self) -> None:
        _check_budget(self.min_pixels, self.max_pixels)
        if self.total_pixels < 1:
            raise InputsError(
                "a pixel budget without pixels",
                expected="total_pixels >= 1",
                got=f"total_pixels={self.total_pixels}",
                next_step="start from VIDEO_BUDGET or IMAGE_BUDGET",
            )

    def fit(self, n_frames: int, height: int, width: int, *, factor: int = TOKEN_PIXELS) -> tuple[int, int]:
        """(height, width) in pixels that each of `n_frames` frames is to be resized to."""
        cap = frame_pixel_cap(
            n_frames, min_pixels=self.min_pixels, max_pixels=self.max_pixels, total_pixels=self.total_pixels
        )
        return fit_size(height, width, min_pixels=self.min_pixels, max_pixels=cap, factor=factor)


VIDEO_BUDGET = PixelBudget(
    min_pixels=MIN_FRAME_TOKENS * TOKEN_AREA,
    max_pixels=MAX_FRAME_TOKENS * TOKEN_AREA,
    total_pixels=VIDEO_TOKENS * TOKEN_AREA,
)
# A picture shares its budget with nothing: its total is its own largest area.
IMAGE_BUDGET = PixelBudget(
    min_pixels=MIN_IMAGE_TOKENS * TOKEN_AREA,
    max_pixels=MAX_IMAGE_TOKENS * TOKEN_AREA,
    total_pixels=MAX_IMAGE_TOKENS * TOKEN_AREA,
)


def sample_indices(
    n_frames: int,
    frames_per_second: int | float,
    *,
    fps: int | float = SAMPLED_FPS,
    min_frames: int = MIN_FRAMES,
    max_frames: int = MAX_FRAMES,
) -> Int64[np.ndarray, " sample"]:
    """Which frames of a clip the model sees: an even count, evenly spread from the first frame to the last.

    `n_frames` at `frames_per_second` is what the clip has; `fps` what is to be kept per second. The count is clamped
    to `min_frames`..`max_frames` (made even inwards: 3..7 means 4..6) and to what there is. Short, long and slow clips
    thus end up with another rate than `fps`: it is `len(indices) / n_frames * frames_per_second`.

    >>> sample_indices(n_frames=50, frames_per_second=25)  # two seconds
    array([ 0, 16, 33, 49])

    A single frame is returned twice: qwen-omni-utils refuses such a file, but does this with a list of one picture.

    >>> sample_indices(n_frames=1, frames_per_second=25)
    array([0, 0])

    Raises InputsError without frames, at rates that are not positive, and where no even count is within the bounds.
    From `smart_nframes` and `_read_video_torchvision` of qwen-omni-utils.
    """
    _check_rates(n_frames, frames_per_second, fps)
    fewest, most = 2 * math.ceil(min_frames / 2), 2 * (max_frames // 2)
    if not 2 <= fewest <= most:
        raise InputsError(
            "no even number of frames lies within these bounds",
            expected="1 <= min_frames <= max_frames with an even number from the one to the other",
            got=f"min_frames={min_frames}, max_frames={max_frames}",
            next_step="frames are read in pairs: choose even bounds such as 4 and 768",
        )
    if n_frames == 1:
        return np.zeros(2, dtype=np.int64)
    n_wanted = min(max(n_frames / frames_per_second * fps, fewest), most, n_frames)
    # torch's linspace in float32, because numpy's float64 rounds some of the halves the other way.
    return torch.linspace(0, n_frames - 1, 2 * math.floor(n_wanted / 2)).round().long().numpy()


def frame_pixel_cap(n_frames: int, *, min_pixels: int, max_pixels: int, total_pixels: int) -> int | float:
    """The largest area, in pixels, of each of `n_frames` frames that share `total_pixels`.

    A pair of frames costs the tokens of one. The cap does not fall below 1.05 x `min_pixels`, unless `max_pixels` does.

    >>> frame_pixel_cap(100, min_pixels=100_352, max_pixels=602_112, total_pixels=90_316_800)
    602112
    >>> frame_pixel_cap(600, min_pixels=100_352, max_pixels=602_112, total_pixels=90_316_800)
    301056.0

    Raises InputsError without frames. From `fetch_video` of qwen-omni-utils, which besides never grants a frame
    more than 768 tokens; here `max_pixels` is obeyed as it stands.
    """
    if n_frames < 1:
        raise InputsError(
            "no frames to share the pixels",
            expected="n_frames >= 1",
            got=f"n_frames={n_frames}",
            next_step="give at least one frame",
        )
    share = total_pixels / n_frames * FRAMES_PER_PATCH
    return min(max_pixels, max(share, int(min_pixels * MIN_PIXELS_MARGIN)))


def fit_size(
    height: int, width: int, *, min_pixels: int | float, max_pixels: int | float, factor: int = TOKEN_PIXELS
) -> tuple[int, int]:
    """(height, width) near the given one: multiples of `factor`, an area within the budget, about the same aspect.

    >>> fit_size(720, 1280, min_pixels=100_352, max_pixels=602_112)
    (560, 1008)
    >>> fit_size(100, 100, min_pixels=100_352, max_pixels=602_112)
    (336, 336)

    Raises InputsError on an empty frame, a side over 200 times the other, or a budget upside down. From `smart_resize`
    of qwen-omni-utils, but where that would return a side of 0 (a very flat frame, a small budget) it is `factor` here,
    and the area may exceed `max_pixels`. transformers' own `smart_resize` differs on frames under 14 pixels a side.
    """
    _check_frame_size(height, width)
    _check_budget(min_pixels, max_pixels)
    rows, columns = (max(1, round(side / factor)) for side in (height, width))
    if rows * columns * factor**2 > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows, columns = (max(1, math.floor(side / shrink / factor)) for side in (height, width))
    elif rows * columns * factor**2 < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = (math.ceil(side * grow / factor) for side in (height, width))
    return rows * factor, columns * factor


def resize(
    frames: UInt8[Tensor, "frame 3 old_height old_width"], height: int, width: int
) -> UInt8[Tensor, "frame 3 {height} {width}"]:
    """Frames of `height` x `width` pixels, bicubic with antialias in whole grey levels, as transformers 5.23 has them.

    >>> resize(torch.full((2, 3, 40, 50), 7, dtype=torch.uint8), 28, 56).unique()
    tensor([7], dtype=torch.uint8)

    Bit-equal to `torchvision.transforms.v2.functional.resize` on the CPU. It always runs there, wherever the frames
    are, because torchvision's result on a GPU is that of `resize_in_float`. Frames of that size come back as they are.
    """
    return _resize(frames, height, width, torch.uint8)


def resize_in_float(
    frames: UInt8[Tensor, "frame 3 old_height old_width"], height: int, width: int
) -> UInt8[Tensor, "frame 3 {height} {width}"]:
    """The same in float32, rounded once at the end, as qwen-omni-utils has it before transformers sees the frames.

    `resize` rounds and clamps after the columns and again after the rows; the two differ in about a quarter of all
    pixels, by one grey level where a picture is smooth and by up to about 20 in noise.

    >>> resize_in_float(torch.full((2, 3, 40, 50), 7, dtype=torch.uint8), 28, 56).unique()
    tensor([7], dtype=torch.uint8)

    Bit-equal to `torchvision.transforms.functional.resize` (version 1) on the CPU.
    """
    return _resize(frames, height, width, torch.float32)


def resize_picture(
    picture: UInt8[Tensor, "1 3 old_height old_width"], height: int, width: int
) -> UInt8[Tensor, "1 3 {height} {width}"]:
    """A picture through Pillow (videos go through torch): so do qwen-omni-utils and qwen-vl-utils."""
    image = Image.fromarray(picture[0].permute(1, 2, 0).numpy())
    resized = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(resized).permute(2, 0, 1)[None]


def patchify(
    frames: UInt8[Tensor, "frame 3 height width"], layout: PatchLayout = PATCH_LAYOUT
) -> tuple[Float32[Tensor, "patch d_patch"], Int64[Tensor, "3"]]:
    """Normalised patches and their grid (t, h, w): what `pixel_values_videos` and `video_grid_thw` hold for one clip.

    Patches are ordered (t, h / 2, w / 2, 2, 2), so that the four patches of a token follow each other; the numbers of
    a patch are ordered (channel, frame, row, column). An odd last frame is repeated; a picture is one frame.

    >>> patches, grid = patchify(torch.zeros(3, 3, 56, 84, dtype=torch.uint8))
    >>> patches.shape, grid
    (torch.Size([48, 1176]), tensor([2, 4, 6]))

    Raises InputsError without frames and on sides that are no multiples of 28. Bit-equal to `Qwen2VLVideoProcessor`
    and, for a picture, `Qwen2VLImageProcessor` of transformers 5.23 with `do_resize=False`.
    """
    n_frames, _, height, width = frames.shape
    grid = layout.grid(n_frames, height, width)
    # The result is the only copy in float: whole grey levels are moved into place, then normalised there.
    patches = torch.empty(math.prod(grid), layout.d_patch, device=frames.device)
    n_filled = 0
    for chunk in _chunks(frames, layout.frames_per_patch):
        cut = _cut(chunk, layout)
        _normalise(patches[n_filled : n_filled + len(cut)].unflatten(1, (CHANNELS, -1)).copy_(cut))
        n_filled += len(cut)
    return patches, torch.tensor(grid)


def _resize(
    frames: UInt8[Tensor, "frame 3 old_height old_width"], height: int, width: int, arithmetic: torch.dtype
) -> UInt8[Tensor, "frame 3 {height} {width}"]:
    _check_frame_size(height, width)
    n_frames, _, old_height, old_width = frames.shape
    _check_frame_size(old_height, old_width)
    if (old_height, old_width) == (height, width):
        return frames
    resized = torch.empty(n_frames, CHANNELS, height, width, dtype=torch.uint8)
    chunks = zip(frames.split(FRAMES_AT_ONCE), resized.split(FRAMES_AT_ONCE), strict=True)
    for chunk, room in chunks:
        sized = torch.nn.functional.interpolate(
            chunk.cpu().to(arithmetic), size=(height, width), mode="bicubic", antialias=True, align_corners=False
        )
        # Bicubic weights overshoot at edges; whole grey levels are already within bounds.
        room.copy_(sized if arithmetic is torch.uint8 else sized.clamp_(0, GREY_LEVELS).round_())
    return resized.to(frames.device)


def _chunks(
    frames: UInt8[Tensor, "frame 3 height width"], frames_per_patch: int
) -> Iterator[UInt8[Tensor, "chunk 3 height width"]]:
    """Some whole groups of frames at a time; the last group is filled up with its last frame."""
    for chunk in frames.split(max(1, FRAMES_AT_ONCE // frames_per_patch) * frames_per_patch):
        missing = -len(chunk) % frames_per_patch
        yield torch.cat([chunk, chunk[-1:].expand(missing, -1, -1, -1)]) if missing else chunk


def _cut(
    frames: UInt8[Tensor, "frame 3 height width"], layout: PatchLayout
) -> UInt8[Tensor, "patch 3 frames_times_area"]:
    """Whole groups of frames in the order of patches, not yet normalised."""
    merge, side = layout.merge, layout.patch_pixels
    split = (
        frames.unflatten(3, (-1, merge, side))  # columns: token, patch of the token, pixel of the patch
        .unflatten(2, (-1, merge, side))  # rows, in the same way
        .unflatten(0, (-1, layout.frames_per_patch))
    )
    # From (t, frame, channel, rows..., columns...) to (t, token row, token column, patch row, patch column, ...).
    return split.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).flatten(6, 8).flatten(0, 4)


def _normalise(grey_levels: Float32[Tensor, "patch 3 frames_times_area"]) -> None:
    # In place, and with mean and deviation scaled in float32: any other order of operations moves the last bits.
    mean, std = (torch.tensor(values, device=grey_levels.device) * GREY_LEVELS for values in (CLIP_MEAN, CLIP_STD))
    grey_levels.sub_(mean[:, None]).div_(std[:, None])


def _check_rates(n_frames: int, frames_per_second: int | float, fps: int | float) -> None:
    if n_frames < 1 or not all(0 < rate < math.inf for rate in (frames_per_second, fps)):
        raise InputsError(
            "no frames can be sampled from this",
            expected="n_frames >= 1, frames_per_second > 0, fps > 0, all finite",
            got=f"n_frames={n_frames}, frames_per_second={frames_per_second}, fps={fps}",
            next_step="check the clip's own rate and length, then the rate that you ask for",
        )


def _check_frame_size(height: int, width: int) -> None:
    if height < 1 or width < 1 or max(height, width) > MAX_ASPECT_RATIO * min(height, width):
        raise InputsError(
            "a frame of this shape cannot be shown to the model",
            expected=f"both sides at least 1 pixel, and one at most {MAX_ASPECT_RATIO} times the other",
            got=f"{height} x {width} (height x width)",
            next_step="check that frames are (frame, channel, height, width), or crop them",
        )
