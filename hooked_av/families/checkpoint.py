"""Reading and writing checkpoint folders: safetensors only, shard by shard, nothing missing, nothing left over.

All names and shapes are compared before the first tensor is read, so a wrong checkpoint fails at once, with the whole
list, and leaves nothing half-loaded.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from tqdm.auto import tqdm

from hooked_av.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PACKAGED = {"tiny-av": Path(__file__).parent.parent / "tiny" / "checkpoint"}  # checkpoints that come with the package

Rename = Callable[[str], str | None]  # checkpoint name -> our parameter name, or None for a tensor that is not ours


@runtime_checkable
class HoldsParameters(Protocol):
    """A module, as far as reading weights into it goes."""

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]: ...
    def get_submodule(self, target: str) -> nn.Module: ...


def resolve_folder(folder_or_hub_id: str | Path) -> Path:
    """The package's own `tiny-av`; a local folder as it is; else a hub id, downloaded (no code and no pickle)."""
    if str(folder_or_hub_id) in PACKAGED:
        return PACKAGED[str(folder_or_hub_id)]
    folder = Path(folder_or_hub_id).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(str(folder_or_hub_id), allow_patterns=wanted))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            "unknown model",
            expected="a local folder with config.json and safetensors, or the id of a public hub repository",
            got=f"{str(folder_or_hub_id)!r} ({type(error).__name__})",
            next_step="check the path or id; for a gated or private repository log in with `hf auth login`",
        ) from error


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """One JSON file of a checkpoint folder."""
    path = folder / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {name}",
            expected=f"a JSON file at {path}",
            got=f"{type(error).__name__}: {error}",
            next_step="use a complete checkpoint folder",
        ) from error


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, all present."""
    if (folder / INDEX).is_file() and (folder / SINGLE).is_file():
        raise CheckpointError(
            "two checkpoints in one folder",
            expected=f"either {SINGLE} or {INDEX}",
            got="both",
            next_step="remove the older one",
        )
    if (folder / INDEX).is_file():
        names = sorted(set(read_json(folder, INDEX)["weight_map"].values()))
    elif (folder / SINGLE).is_file():
        names = [SINGLE]
    else:
        names = []
    absent = [name for name in names if not (folder / name).is_file()]
    if absent or not names:
        raise CheckpointError(
            "no complete set of safetensors files",
            expected=f"{SINGLE}, or {INDEX} with every shard that it names",
            got=f"missing {absent}" if absent else sorted(path.name for path in folder.iterdir()),
            next_step="download the missing files; pickled .bin weights are not read, convert them to safetensors",
        )
    return [folder / name for name in names]


def tensor_names(files: Sequence[Path]) -> list[str]:
    """The names of all tensors in these files, as stored."""
    return [theirs for theirs, _, _ in _headers(files, lambda name: name)]


def load_weights(
    module: HoldsParameters, folder: Path, rename: Rename, device: torch.device | str, dtype: torch.dtype | None
) -> None:
    """Put every tensor of a checkpoint into `module` (built on the meta device), as stored or cast to `dtype`.

    Errors: `CheckpointError` with the full list of missing, unexpected and mis-shaped tensors.
    """
    files = shard_files(folder)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}
    found = {ours: (theirs, shape) for theirs, ours, shape in _headers(files, rename)}
    _compare(wanted, found)
    total = len(found)
    with tqdm(total=total, desc="loading weights", unit="tensor", disable=total < 200) as bar:
        for path in files:
            with safe_open(path, framework="pt", device=str(device)) as shard:
                for theirs in shard.keys():  # noqa: SIM118 - a safetensors handle, not a dict
                    ours = rename(theirs)
                    if ours is not None:
                        tensor = shard.get_tensor(theirs)
                        set_parameter(
                            module, ours, tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
                        )
                        bar.update()


def _headers(files: Sequence[Path], rename: Rename) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for path in files:
        try:
            with safe_open(path, framework="pt") as shard:
                for theirs in shard.keys():  # noqa: SIM118
                    ours = rename(theirs)
                    if ours is not None:
                        yield theirs, ours, tuple(shard.get_slice(theirs).get_shape())
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path.name} is not a readable safetensors file",
                expected="safetensors",
                got=str(error),
                next_step="download the file again",
            ) from error


def _compare(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    missing = sorted(set(wanted) - set(found))
    unexpected = sorted(found[name][0] for name in set(found) - set(wanted))
    shaped = [
        f"{found[name][0]}: expected {list(shape)}, got {list(found[name][1])}"
        for name, shape in wanted.items()
        if name in found and found[name][1] != shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "mis-shaped": shaped}
    if any(problems.values()):
        listed = "".join(f"\n    {kind}:\n      " + "\n      ".join(n) for kind, n in problems.items() if n)
        raise CheckpointError(
            "the checkpoint does not fit the model that its config.json describes",
            expected=f"exactly {len(wanted)} tensors",
            got=listed,
            next_step="check that config.json and weights are of the same model",
        )


def set_parameter(module: HoldsParameters, name: str, tensor: torch.Tensor) -> None:
    """Put a tensor in a parameter's place, without a copy; a parameter object is adopted as it is."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    owner.register_parameter(leaf, tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor))
