"""Reading and writing checkpoint folders: safetensors only, shard by shard, nothing missing, nothing left over.

All names and shapes are compared before the first tensor is read, so a wrong checkpoint fails at once, with the whole
list, and leaves nothing half-loaded.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import safe_open
from torch import nn
from tqdm.auto import tqdm

from hooked_av.errors import CheckpointError, excerpt
from hooked_av.families.reading import DOWNLOAD, read_json, reading

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Checkpoints that come with the package: one folder, of which each has an index of its own (a variant, in transformers'
# words), because all have the same encoders.
PACKAGED_FOLDER = Path(__file__).parent.parent / "tiny" / "checkpoint"
PACKAGED: Mapping[str, str | None] = {"tiny-av": None, "tiny-av-redundant": "redundant"}
# Weights that can be run, under safetensors' names.
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Rename = Callable[[str], str | None]  # checkpoint name -> our parameter name, or None for a tensor that is not ours


@runtime_checkable
class HoldsParameters(Protocol):
    """A module, as far as reading weights into it goes."""

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]: ...
    def get_submodule(self, target: str) -> nn.Module: ...


@dataclass(frozen=True)
class Checkpoint:
    """A folder, and which of its sets of weights is meant (None: the one that it is named after)."""

    folder: Path
    variant: str | None = None

    @property
    def index(self) -> str:
        """The file that says which tensor is where, if the weights are in several files."""
        return INDEX if self.variant is None else INDEX.replace(".json", f".{self.variant}.json")


def find_checkpoint(folder_or_hub_id: str | Path) -> Checkpoint:
    """One of the package's own; a local folder as it is; else a hub id, downloaded (no code and no pickle)."""
    if str(folder_or_hub_id) in PACKAGED:
        return Checkpoint(PACKAGED_FOLDER, PACKAGED[str(folder_or_hub_id)])
    return Checkpoint(_folder(folder_or_hub_id))


def _folder(folder_or_hub_id: str | Path) -> Path:
    shown = excerpt(ascii(str(folder_or_hub_id)))
    with reading(f"the folder {shown}", expected="a path that this system can have", next_step="check the path"):
        folder = Path(folder_or_hub_id).expanduser()
        is_there, is_folder = folder.exists(), folder.is_dir()
    if is_there and not is_folder:
        raise CheckpointError(
            "a file where a checkpoint folder was expected",
            expected="a folder with config.json and safetensors",
            got=shown,
            next_step="give the folder that holds the file",
        )
    return folder if is_folder else _download(str(folder_or_hub_id))


def _download(hub_id: str) -> Path:
    """The folder that the hub's own cache keeps of a repository. This is the one place that may open a connection."""
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except Exception as error:  # the hub's, its HTTP library's, the file system's
        raise CheckpointError(
            "unknown model",
            expected="a local folder with config.json and safetensors, or the id of a public hub repository",
            got=f"{excerpt(ascii(hub_id))} ({type(error).__name__})",
            next_step="check the path or id, and the connection; for a gated or private repository log in with "
            "`hf auth login`",
        ) from error


def shard_files(checkpoint: Checkpoint) -> list[Path]:
    """The safetensors files of a checkpoint, all present, holding exactly what the index says.

    A name in the index is that of a file in the folder itself. The file may be a link: the hub's cache is
    made of them.
    """
    folder, index = checkpoint.folder, checkpoint.index
    if (folder / index).is_file() and (folder / SINGLE).is_file():
        raise CheckpointError(
            "two checkpoints in one folder",
            expected=f"either {SINGLE} or {index}",
            got="both",
            next_step="remove the older one",
        )
    if not (folder / index).is_file():
        return _present(folder, [SINGLE] if (folder / SINGLE).is_file() else [])
    weight_map = _weight_map(folder, index)
    files = _present(folder, sorted(set(weight_map.values())))
    stored = {path.name: {theirs for theirs, _, _ in tensors_of(path)} for path in files}
    told: dict[str, set[str]] = {name: set() for name in stored}
    for tensor, name in weight_map.items():
        told[name].add(tensor)
    wrong = [f"{tensor} in {name}" for name in stored for tensor in sorted(stored[name] ^ told[name])]
    if wrong:
        raise CheckpointError(
            f"{index} and the shards do not say the same",
            expected="every tensor in the one shard that the index names for it, and no other tensor",
            got=excerpt(f"{len(wrong)} differences: " + "; ".join(wrong), 1_500),
            next_step=DOWNLOAD,
        )
    return files


def _weight_map(folder: Path, index: str) -> dict[str, str]:
    """tensor -> shard, of the index."""
    found = read_json(folder, index).get("weight_map")
    pairs: list[tuple[Any, Any]] = list(found.items()) if isinstance(found, dict) else []
    odd = [name for _, name in pairs if not _is_shard_name(name)]
    if not pairs or odd:
        raise CheckpointError(
            f"{index} does not say which shard holds which tensor",
            expected="weight_map: tensor names, each with the name of a file in the same folder",
            got=excerpt(ascii(odd[0] if odd else found)),
            next_step=DOWNLOAD,
        )
    return dict(pairs)


def _is_shard_name(name: Any) -> bool:
    """A plain file name, that of no pickle and of no file in another folder."""
    return isinstance(name, str) and name.endswith(".safetensors") and not set(name) & set("/\\\0")


def _present(folder: Path, names: Sequence[str]) -> list[Path]:
    absent = [name for name in names if not (folder / name).is_file()]
    if absent or not names:
        there = ", ".join(sorted(path.name for path in folder.iterdir())) or "an empty folder"
        raise CheckpointError(
            "no complete set of safetensors files",
            expected=f"{SINGLE}, or {INDEX} with every shard that it names",
            got=excerpt(f"missing {absent}" if absent else there, 1_000),
            next_step="download the missing files; pickled .bin weights are not read, convert them to safetensors",
        )
    return [folder / name for name in names]


def tensor_names(files: Sequence[Path]) -> list[str]:
    """The names of all tensors in these files, as stored."""
    return [theirs for path in files for theirs, _, _ in tensors_of(path)]


def tensors_of(path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and dtype (as safetensors writes it) of every tensor of one file."""
    with reading(path.name, expected="a readable safetensors file"), safe_open(path, framework="pt") as shard:
        for theirs in shard.keys():  # noqa: SIM118 - a safetensors handle, not a dict
            header = shard.get_slice(theirs)
            yield theirs, tuple(header.get_shape()), header.get_dtype()


def load_weights(
    module: HoldsParameters,
    checkpoint: Checkpoint,
    rename: Rename,
    device: torch.device | str,
    dtype: torch.dtype | None,
) -> None:
    """Put every tensor of a checkpoint into `module` (built on the meta device), as stored or cast to `dtype`.

    Every number is looked at once: as many comparisons as there are weights, and one reading of the file.

    Errors: `CheckpointError` with the full list of missing, unexpected and mis-shaped tensors; for a tensor that stands
    there twice; for tensors of other dtypes than float, or of several dtypes in one part; for NaN and infinity, stored
    or made by the cast.
    """
    files = shard_files(checkpoint)
    wanted = {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}
    found = _headers(files, rename)
    compare(wanted, {ours: (header.theirs, header.shape) for ours, header in found.items()})
    check_dtypes({ours: (header.theirs, header.dtype) for ours, header in found.items()}, dtype)
    problems: list[str] = []
    with tqdm(total=len(found), desc="loading weights", unit="tensor", disable=len(found) < 200) as bar:
        for path in files:
            with reading(path.name, expected="a readable safetensors file"):
                problems += _load_shard(module, path, rename, device, dtype, bar)
    refuse_not_finite(problems)


def _load_shard(
    module: HoldsParameters,
    path: Path,
    rename: Rename,
    device: torch.device | str,
    dtype: torch.dtype | None,
    bar: "tqdm[Any]",
) -> list[str]:
    """Put one file's tensors in their places; what is wrong with their numbers."""
    problems: list[str] = []
    with safe_open(path, framework="pt", device=str(device)) as shard:
        for theirs in shard.keys():  # noqa: SIM118
            ours = rename(theirs)
            if ours is None:
                continue
            stored = shard.get_tensor(theirs)
            kept = stored.to(dtype) if dtype else stored
            if problem := not_finite(kept):
                cause = problem if kept is stored or not_finite(stored) else f"too large for {dtype}"
                problems.append(f"{theirs} ({cause})")
            set_parameter(module, ours, kept)
            bar.update()
    return problems


@torch.no_grad()
def not_finite(tensor: torch.Tensor) -> str:
    """What is wrong with a tensor's numbers: "" if they are all finite. One pass, no copy.

    >>> not_finite(torch.tensor([1.0, float("inf")])), not_finite(torch.ones(2))
    ('infinity', '')
    """
    if tensor.is_meta or not tensor.numel():
        return ""
    low, high = tensor.aminmax()
    return "NaN" if low.isnan() else "infinity" if low.isinf() or high.isinf() else ""


def refuse_not_finite(problems: Sequence[str]) -> None:
    """Errors: `CheckpointError` naming the tensors, if there are any."""
    if problems:
        raise CheckpointError(
            "weights that are not finite numbers",
            expected="finite numbers in every tensor",
            got=excerpt(f"{len(problems)} tensors: " + "; ".join(problems), 1_500),
            next_step="dtype=torch.bfloat16 or torch.float32 if they are too large for float16; else take another "
            "checkpoint: the training broke, or the file did",
        )


@dataclass(frozen=True)
class _Header:
    theirs: str
    shape: tuple[int, ...]
    dtype: torch.dtype | str  # safetensors' word where it is no float


def _headers(files: Sequence[Path], rename: Rename) -> dict[str, _Header]:
    """What the files hold, by our names; a parameter that stands there twice is refused."""
    found: dict[str, _Header] = {}
    for path in files:
        for theirs, shape, dtype in tensors_of(path):
            ours = rename(theirs)
            if ours in found:
                raise CheckpointError(
                    "two tensors for one parameter",
                    expected="one tensor for each",
                    got=f"{found[ours].theirs} and {theirs} (in {path.name})",
                    next_step="remove the one that is not meant",
                )
            if ours is not None:
                found[ours] = _Header(theirs, shape, _DTYPES.get(dtype, dtype))
    return found


def check_dtypes(found: Mapping[str, tuple[str, torch.dtype | str]], cast: torch.dtype | None = None) -> None:
    """Refuse weights that are no plain floats, and a part (decoder, each encoder) of several dtypes, if none is cast.

    `found`: our name -> name in the message, and dtype.
    """
    floats = list(_DTYPES.values())
    odd = [f"{theirs}: {dtype}" for theirs, dtype in found.values() if dtype not in floats]
    parts: dict[str, dict[Any, str]] = {}
    for ours, (theirs, dtype) in found.items():
        parts.setdefault(".".join(ours.split(".")[: 2 if ours.startswith("encoders.") else 1]), {})[dtype] = theirs
    mixed = [f"{theirs}: {dtype}" for part in parts.values() if len(part) > 1 for dtype, theirs in part.items()]
    if odd or (mixed and cast is None) or (cast is not None and cast not in floats):
        raise CheckpointError(
            "weights of this dtype, or of these together, cannot be run",
            expected=f"one of {', '.join(map(str, floats))} in the decoder, and in each encoder",
            got=excerpt("; ".join(odd or mixed or [f"dtype={cast}"]), 1_000),
            next_step="quantised weights are not read: take the checkpoint that they were made from"
            if odd
            else "pass dtype=torch.float32, or another of these",
        )


def compare(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Refuse tensors that are missing, unexpected or mis-shaped. `found`: our name -> name to tell, shape."""
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
