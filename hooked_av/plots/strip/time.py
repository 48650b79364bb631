"""What the lanes of one clip show, before anything is drawn: which frames, which waveform, how the tokens lie.

Axes: bin (of the waveform, in time).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from hooked_av.media.clip import SAMPLING_RATE_HZ, Clip
from hooked_av.plots.strip.segments import Cell

_SMALLEST_THUMB = 0.45  # of its full size; a frame with less room than this is not shown


def lane_end(clip: Clip | None, cells: dict[str, list[Cell]]) -> float:
    """Second at which the time axis of a clip ends: with its last token, or with the clip."""
    ends = [cell.left + cell.width for name in ("audio", "video") for cell in cells.get(name, [])]
    return max([*ends, 0.0 if clip is None else clip.duration_seconds, 1e-3])


def group_starts(cells: list[Cell]) -> dict[int, float]:
    """Second at which each frame group begins."""
    return {cell.group: cell.left for cell in sorted(cells, key=lambda cell: -cell.left)}


def shown_frames(
    clip: Clip, cells: list[Cell], end_seconds: float, full_seconds: float, n_rows: int
) -> list[tuple[float, float, UInt8[np.ndarray, "row column 3"]]]:
    """(second, scale, thumbnail) of the first frame of each group that has room beside the others.

    A thumbnail of full size covers `full_seconds` of the time axis and has `n_rows` rows of pixels; `scale` is the
    share of that which there is room for.
    """
    starts = _apart(sorted(group_starts(cells).values()), 0.9 * full_seconds)
    scales = [
        min(1.0, 0.97 * (stop - start) / full_seconds)
        for start, stop in zip(starts, [*starts[1:], end_seconds], strict=True)
    ]
    shown = [(start, scale) for start, scale in zip(starts, scales, strict=True) if scale >= _SMALLEST_THUMB]
    numbers = [int(np.abs(clip.frame_seconds - start).argmin()) for start, _ in shown]
    frames = clip.read_frames(numbers)  # all at once: each call decodes from a keyframe
    return [(start, scale, thumbnail(frame, n_rows)) for (start, scale), frame in zip(shown, frames, strict=True)]


def _apart(starts: Sequence[float], distance: float) -> list[float]:
    """Those of the ascending starts that are at least `distance` after the one before."""
    kept: list[float] = []
    for start in starts:
        if not kept or start - kept[-1] >= distance:
            kept.append(start)
    return kept


def thumbnail(frame: UInt8[np.ndarray, "height width 3"], n_rows: int) -> UInt8[np.ndarray, "row column 3"]:
    """The frame with `n_rows` rows of pixels."""
    height, width, _ = frame.shape
    size = (max(1, round(n_rows * width / height)), n_rows)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def envelope(
    waveform: Float32[np.ndarray, " sample"], n_bins: int
) -> tuple[Float[np.ndarray, " bin"], Float32[np.ndarray, " bin"], Float32[np.ndarray, " bin"]]:
    """Second, smallest and largest sample of each bin, so that no peak is lost."""
    edges = np.linspace(0, len(waveform), min(n_bins, len(waveform)) + 1).astype(int)[:-1]
    low, high = np.minimum.reduceat(waveform, edges), np.maximum.reduceat(waveform, edges)
    return edges / SAMPLING_RATE_HZ, low, high


def arrangement(cells: list[Cell]) -> str:
    """How many tokens, and how they lie in time: "133 × 40 ms", or "6 groups of\n4 × 8 cells"."""
    if cells[0].group < 0:
        return f"{len(cells)} × {1000 * cells[0].width:.0f} ms"
    n_groups, n_rows = len(group_starts(cells)), round(1 / cells[0].height)
    grid = f"{n_rows} × {len(cells) // n_groups // n_rows} cells"
    return f"{n_groups} groups of\n{grid}" if n_groups > 1 else grid
