"""Puts trained models into one folder, as they stand in the package: encoders once, a decoder and an index for each.

Weights are rounded to bfloat16 and kept as float32: half of every number is zeros, which a wheel's compression takes
away, and loading changes nothing.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hooked_av.errors import CheckpointError
from hooked_av.families.checkpoint import SINGLE, Checkpoint

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

ENCODERS = "encoders.safetensors"
_OF_ENCODERS = ("audio_tower.", "visual.")


def pack(models: "Mapping[str | None, HookedAVTransformer]", folder: Path) -> None:
    """Write models of one kind into `folder` by the name of their variant (None: the one that needs no name).

    Errors: `CheckpointError` if their encoders are not the same.
    """
    if None not in models:
        raise CheckpointError(
            "no model without a variant", expected="one under None", got=list(models), next_step="say which one it is"
        )
    models[None].save_pretrained(folder)
    (folder / SINGLE).unlink()
    encoders: dict[str, Tensor] = {}
    for variant, model in models.items():
        weights = _weights(model)
        own = {name: tensor for name, tensor in weights.items() if not name.startswith(_OF_ENCODERS)}
        shared = {name: tensor for name, tensor in weights.items() if name not in own}
        encoders = encoders or shared
        _check_same(encoders, shared, variant)
        file = "decoder.safetensors" if variant is None else f"decoder.{variant}.safetensors"
        _save(own, folder / file)
        places = {**dict.fromkeys(shared, ENCODERS), **dict.fromkeys(own, file)}
        index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in weights.values())}, "weight_map": places}
        (folder / Checkpoint(folder, variant).index).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    _save(encoders, folder / ENCODERS)


def _weights(model: "HookedAVTransformer") -> dict[str, Tensor]:
    """Under the names that a checkpoint has, rounded."""
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        stored = load_file(Path(folder) / SINGLE)
    return {name: tensor.to(torch.bfloat16).to(torch.float32).contiguous() for name, tensor in stored.items()}


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes for its owner alone


def _check_same(encoders: Mapping[str, Tensor], shared: Mapping[str, Tensor], variant: str | None) -> None:
    other = sorted(name for name in {**encoders, **shared} if not _equal(encoders.get(name), shared.get(name)))
    if other:
        raise CheckpointError(
            "models of one folder have the same encoders",
            expected="those of the first model",
            got=f"{len(other)} other tensors in {variant}: {', '.join(other[:3])}",
            next_step="train decoders behind tiny-av's encoders (hooked-av train-tiny --route ...)",
        )


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)
