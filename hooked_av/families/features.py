"""Media tensors as published processors return them: complete groups, sizes that fit, and pictures through the tower.

Axes: patch; row (encoder output rows).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked_av.errors import InputsError

PICTURES = ("pixel_values", "image_grid_thw")
VIDEOS = ("pixel_values_videos", "video_grid_thw")


# The modality of each media tensor that published processors return.
MODALITIES = {
    **dict.fromkeys(PICTURES, "image"),
    **dict.fromkeys((*VIDEOS, "video_second_per_grid", "second_per_grid"), "video"),
    **dict.fromkeys(("input_features", "feature_attention_mask", "audio_feature"), "audio"),
}


def entries_by_row(features: Mapping[str, Tensor], items: Sequence[Mapping[str, int]]) -> dict[str, tuple[int, ...]]:
    """How many entries of each media tensor belong to each prompt of a batch; `items`: media of each, by modality.

    >>> grids = torch.tensor([[1, 2, 2], [1, 4, 2]])
    >>> entries_by_row({"pixel_values": torch.zeros(12, 6), "image_grid_thw": grids}, [{"image": 1}, {"image": 1}])
    {'pixel_values': (4, 8), 'image_grid_thw': (1, 1)}
    """
    found: dict[str, tuple[int, ...]] = {}
    grid_of = dict((PICTURES, VIDEOS))
    for name in features:
        counts = [row[MODALITIES[name]] for row in items]
        if name in grid_of:
            patches = features[grid_of[name]].prod(-1).split(counts)
            counts = [int(some.sum()) for some in patches]
        found[name] = tuple(counts)
    return found


def check_features(features: Mapping[str, Any], groups: Sequence[tuple[str, ...]], others: str) -> dict[str, Tensor]:
    """The media tensors that were given: complete groups, under known names, with as many patches as grids say.

    `others`: the arguments that stand beside them, for the message.

    Errors: `InputsError` for unknown names, half a group, or patches that do not match their grid.

    >>> sorted(check_features({"pixel_values": torch.zeros(4, 6), "image_grid_thw": [[1, 2, 2]]}, [PICTURES], ""))
    ['image_grid_thw', 'pixel_values']
    """
    known = [name for group in groups for name in group]
    unknown = sorted(set(features) - set(known))
    given = {name: torch.as_tensor(tensor) for name, tensor in features.items() if tensor is not None}
    absent = {name for group in groups if any(name in given for name in group) for name in group if name not in given}
    if unknown or absent:
        raise InputsError(
            "these media tensors do not belong together",
            expected=f"{others}, and whole groups of {tuple(groups)}",
            got=f"unknown {unknown}" if unknown else f"without {sorted(absent)}",
            next_step="pass what the published processor returned, under its names",
        )
    for pixels, grid in (PICTURES, VIDEOS):
        if pixels in given and len(given[pixels]) != int(given[grid].prod(-1).sum()):
            raise InputsError(
                f"{pixels} does not match {grid}",
                expected=f"{int(given[grid].prod(-1).sum())} patches",
                got=len(given[pixels]),
                next_step="take both from the same processor call",
            )
    return given


def encode_pictures(tower: Any, features: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "row d_model"]]:
    """Rows of the pictures and of the videos, through transformers' vision tower."""
    rows: dict[str, Tensor] = {}
    for modality, (pixels, grid) in {"image": PICTURES, "video": VIDEOS}.items():
        if pixels in features:
            rows[modality] = tower(features[pixels].to(tower.dtype), grid_thw=features[grid]).pooler_output
    return rows
