"""Media lens: which tokens each audio and video token would become after every layer, and where in the clip it lies.

Neo et al. (2024) read visual tokens this way; here it is done for sound as well. The result carries small pictures of
the frames and the outline of the sound, so that it can be drawn without the clip.

Axes: layer, position (media tokens of one item), rank; edge (start, stop), axis (frame group, row, column); group (of
frames), height, width, channel; bin (of the waveform).
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from hooked_av.analyses.lenses.logit_lens import LogitLens, lens_fields
from hooked_av.analyses.per_prompt import Names, PerPrompt, naming_the_prompt, per_prompt, prompts_of
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.media.clip import SAMPLING_RATE_HZ, Clip
from hooked_av.plots.strip.time import envelope, thumbnail
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

MEDIA = ("audio", "video", "image")
_THUMB_ROWS, _BINS = 96, 1200
_ITEM = "positions"  # the span that is read, as the settings name it


@dataclass(frozen=True, eq=False, kw_only=True)
class MediaLens(LogitLens):
    """A `LogitLens` of the media tokens of one item, with the place of each in the clip."""

    figure: ClassVar = "hooked_av.plots.media_lens:plot_media_lens"
    axes: ClassVar = {
        **LogitLens.axes,
        "seconds": ("position", "edge"),
        "cells": ("position", "axis"),
        "frames": ("group", "height", "width", "channel"),
        "sound_low": ("bin",),
        "sound_high": ("bin",),
        "modalities": ("position",),
    }
    columns: ClassVar = (
        *LogitLens.columns, "modality=modalities", "start_seconds=seconds[edge=0]", "stop_seconds=seconds[edge=1]",
        "frame_group=cells[axis=0]", "row=cells[axis=1]", "column=cells[axis=2]",
    )  # fmt: skip
    modalities: tuple[str, ...]  # [position]
    seconds: Float64[np.ndarray, "position edge=2"]  # [start, stop) in the clip; nan for a still
    cells: Int64[np.ndarray, "position axis=3"]  # frame group, row, column; -1 for sound
    frames: UInt8[np.ndarray, "group height width channel=3"]  # the first frame of each group, small; none if unknown
    sound_low: Float32[np.ndarray, " bin"]
    sound_high: Float32[np.ndarray, " bin"]
    sound_seconds: float
    item: int


@door
def media_lens(
    model: "HookedAVTransformer",
    inputs: AVInputs,
    item: int = 0,
    *,
    top_k: int = 3,
    tokens: Names = (),
    convention: str = "final_norm",
) -> MediaLens | PerPrompt[MediaLens]:
    """What does each audio and video token stand for, layer by layer?

    Args:
        inputs: a prompt, or a batch of prompts with media, which share one pass; it gives a `PerPrompt`.
        item: number of the media item, for prompts with several.
        top_k: tokens kept a layer and media token.
        tokens: single tokens whose probability and rank are followed at every media token; of a batch, a list of lists
            has those of each prompt.
        convention: as for `logit_lens`.

    Errors: `InputsError` for an item that a prompt has not.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, sample = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1]
    >>> lens = av.media_lens(model, model.prepare(sample.clip, question=sample.question))
    >>> lens.top_ids.shape, lens.frames.shape[0]
    ((8, 58, 3), 2)
    """
    prompts = prompts_of(inputs)
    modalities: list[dict[int, str]] = []
    for row, one in enumerate(prompts):
        with naming_the_prompt(row, inputs):
            modalities.append(_modalities(one, item))
    own = [[*some] for some in modalities]
    extents = [spans.extent for spans in inputs.row_spans]
    read = [[extent[position] for position in some] for extent, some in zip(extents, own, strict=True)]
    spans = tuple(spans.with_span(_ITEM, some) for spans, some in zip(inputs.row_spans, read, strict=True))
    found = lens_fields(
        model, replace(inputs, row_spans=spans), _ITEM, top_k=top_k, tokens=tokens, convention=convention
    )
    parts = zip(prompts, modalities, found, strict=True)
    return per_prompt([MediaLens(**fields, **_media_fields(one, some, item)) for one, some, fields in parts])


def _media_fields(inputs: AVInputs, modalities: dict[int, str], item: int) -> dict[str, Any]:
    """What a `MediaLens` of one prompt holds beside the lens."""
    places, positions = inputs.spans.places, list(modalities)
    clip = inputs.clips[0][item] if inputs.clips and item < len(inputs.clips[0]) else None
    return {
        "modalities": tuple(modalities.values()),
        "seconds": places.seconds[positions],
        "cells": places.cells[positions],
        "frames": _frames(clip, places.cells[positions, 0], places.seconds[positions, 0]),
        **_sound(clip),
        "item": item,
    }


def _modalities(inputs: AVInputs, item: int) -> dict[int, str]:
    """Position -> modality of the item's tokens, in the order of the prompt."""
    items = inputs.spans.places.items
    known = [name for name in MEDIA if name in inputs.spans]
    found = {position: name for name in known for position in inputs.spans[name] if items[position] == item}
    if not found:
        raise InputsError(
            f"no media tokens of item {item}",
            expected="the number of one of its media items",
            got=f"{int(items.max(initial=-1)) + 1} items",
            next_step="count media items from 0; read text with av.logit_lens(model, inputs, at='question')",
        )
    return dict(sorted(found.items()))


def _frames(clip: Clip | None, groups: np.ndarray, starts: np.ndarray) -> UInt8[np.ndarray, "group height width 3"]:
    """The frame that is shown when each group begins; a still is its own only group."""
    n_groups = int(groups.max(initial=-1)) + 1
    if clip is None or not clip.has_video or not n_groups:
        return np.zeros((0, 1, 1, 3), np.uint8)
    seconds = [float(np.nan_to_num(starts[groups == group].min())) for group in range(n_groups)]
    numbers = [int(np.abs(clip.frame_seconds - second).argmin()) for second in seconds]
    return np.stack([thumbnail(frame, _THUMB_ROWS) for frame in clip.read_frames(numbers)])


def _sound(clip: Clip | None) -> dict[str, Any]:
    if clip is None or not clip.has_audio:
        nothing = np.zeros(0, np.float32)
        return {"sound_low": nothing, "sound_high": nothing, "sound_seconds": 0.0}
    waveform = clip.waveform
    _, low, high = envelope(waveform, _BINS)
    return {"sound_low": low, "sound_high": high, "sound_seconds": len(waveform) / SAMPLING_RATE_HZ}
