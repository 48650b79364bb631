"""AVCache: a TransformerLens ActivationCache that knows spans, owns its values, and says its size before the run.

`cache["blocks.3.hook_resid_post"]`, `cache["resid_post", 3]` and `cache["blocks.3.hook_resid_post@audio"]` all work.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from itertools import accumulate
from typing import Any

import psutil
import torch
from torch import Tensor
from transformer_lens import ActivationCache, HookedRootModule
from transformer_lens.utilities import get_act_name  # pyright: ignore[reportPrivateImportUsage] - TransformerLens's own way

from hooked_av.config import DecoderConfig
from hooked_av.errors import HookNameError, InputsError, MemoryBudgetError, nearest
from hooked_av.hooks.names import HookName, Match, Scope
from hooked_av.hooks.point import HookFunction, HookPoint, ScopedHook
from hooked_av.hooks.run import AFTER_BLOCKS, Run, layer_of
from hooked_av.prompt.inputs import AVInputs


class AVCache(ActivationCache):
    """Activations of one forward pass, by hook name.

    Values are copies: what a later hook edits in place cannot change them. A full activation is sliced by span on
    demand; an activation cached with a span (`names_filter=["blocks.*.hook_resid_post@last"]`) holds that span only.

    Errors: `HookNameError` for a name that was not cached, naming the nearest that were.
    """

    def __init__(
        self,
        cache_dict: dict[str, Tensor],
        model: HookedRootModule,
        run: Run,
        points: Mapping[str, HookPoint],
        has_batch_dim: bool = True,
    ) -> None:
        super().__init__(cache_dict, model, has_batch_dim)
        self._run = run
        self._axes = {name: " ".join(point.axes) for name, point in points.items()}

    def __getitem__(self, key: Any) -> Tensor:
        name = self._full_name(key)
        name = name if "@" not in name else HookName.parse(name).key(name.partition("@")[0])
        if name in self.cache_dict:
            return self.cache_dict[name]
        parsed = HookName.parse(name)
        if parsed.scope is not None and parsed.pattern in self.cache_dict:
            return self._sliced(parsed.pattern, parsed.scope)
        raise HookNameError(
            "this activation is not in the cache",
            expected=nearest(name, self.cache_dict),
            got=name,
            next_step="add its name to names_filter; attention matrices, per-head results and logits are cached "
            "only when named (best with a span: blocks.3.attn.hook_pattern@last)",
        )

    def __contains__(self, key: object) -> bool:
        try:
            self[key]
        except HookNameError:
            return False
        return True

    def decompose_resid(self, *args: Any, **kwargs: Any) -> Any:
        """TransformerLens's parts of the residual stream; "embed" is the merged sequence, media rows included."""
        text_only = self.cache_dict.get("hook_embed")
        self.cache_dict["hook_embed"] = self["hook_inputs_embed"]
        try:
            return super().decompose_resid(*args, **kwargs)
        finally:
            del self.cache_dict["hook_embed"]
            if text_only is not None:
                self.cache_dict["hook_embed"] = text_only

    def remove_batch_dim(self, batch_size: int | None = None) -> "AVCache":
        """Drop the batch axis of a cache of one prompt; encoder rows have none, and stay.

        Errors: `InputsError` for a cache of several prompts.
        """
        batched = {key: HookName.parse(key).pattern for key in self.cache_dict}
        batched = {key: name for key, name in batched.items() if self._axes[name].startswith("batch")}
        sizes = {len(self.cache_dict[key]) for key in batched}
        if self.has_batch_dim and sizes - {1}:
            raise InputsError(
                "only a cache of one prompt can lose its batch axis",
                expected="batch size 1",
                got=sorted(sizes),
                next_step="run the prompts one by one, or keep the axis",
            )
        if self.has_batch_dim:
            self.cache_dict.update({key: self.cache_dict[key][0] for key in batched})
        self.has_batch_dim = False
        return self

    def _full_name(self, key: Any) -> str:
        if isinstance(key, str):
            return key if key in self.cache_dict or "." in key or key.startswith("hook_") else get_act_name(key)
        name, layer, *kind = key
        if isinstance(layer, int) and layer < 0:
            layer += self.model.cfg.n_layers
        return get_act_name(name, layer, *kind)

    def _sliced(self, name: str, scope: Scope) -> Tensor:
        """A span of a full activation, cut out by the same code that hands spans to hooks."""
        tensor = self.cache_dict[name]
        found: list[Tensor] = []
        point = HookPoint(self._axes[name])
        point.name = name

        def keep(part: Tensor, *, hook: HookPoint) -> None:
            found.append(part)

        with self._run.as_current():
            ScopedHook(keep, scope, True)(tensor if self.has_batch_dim else tensor[None], hook=point)
        return found[0] if self.has_batch_dim else found[0][0]

    def __deepcopy__(self, memo: dict[int, Any]) -> "AVCache":
        """The values are copied; the model is not."""
        twin = copy(self)
        twin.cache_dict = deepcopy(self.cache_dict, memo)
        return twin

    def __repr__(self) -> str:
        size = sum(tensor.numel() * tensor.element_size() for tensor in self.cache_dict.values())
        return f"AVCache of {len(self)} activations, {in_bytes(size)}"


def keep_copy(
    cache: dict[str, Tensor], key: str, device: torch.device | str | None, remove_batch_dim: bool = False
) -> HookFunction:
    """A hook that stores a detached copy of what it sees."""

    def keep(tensor: Tensor, *, hook: HookPoint) -> None:
        own = tensor.detach().to(device=device, copy=True)
        has_batch = hook.axes[0] == "batch"
        cache[key] = own[0] if remove_batch_dim and has_batch and len(own) == 1 else own

    keep.reads_only = True  # type: ignore[attr-defined] - hook points need not use what a reader saw
    return keep


def cache_bytes(
    matches: Sequence[Match],
    points: Mapping[str, HookPoint],
    inputs: AVInputs,
    cfg: DecoderConfig,
    dtype: torch.dtype,
    run: Run,
) -> dict[str, int]:
    """How many bytes of each of these activations a cache will hold."""
    return {
        match.key: _elements(match, points[match.name].axes, inputs, cfg, run) * torch.finfo(dtype).bits // 8
        for match in matches
    }


def _elements(match: Match, axes: Sequence[str], inputs: AVInputs, cfg: DecoderConfig, run: Run) -> int:
    """Numbers in one activation: the product of its axes, and of the rows and keys that its scope leaves."""
    scope = match.scope or Scope(None)
    if match.name in run.media_rows:
        n_rows = len(run.media_index(match.name, scope.queries) if scope.queries else run.media_rows[match.name])
        return n_rows * run.row_sizes.get(match.name, cfg.d_model)
    rows = run.positions(scope.queries).shape[1] if scope.queries else inputs.n_pos
    keys = run.positions(scope.keys).shape[1] if scope.keys else inputs.n_pos
    sizes = {"batch": inputs.batch, "pos": rows, "query": rows, "key": keys, "1": 1}
    sizes |= {"head": cfg.n_heads, "kv_head": cfg.n_key_value_heads}
    return math.prod(sizes[axis] if axis in sizes else getattr(cfg, axis) for axis in axes)


def check_budget(
    what: str, needed: int, device: torch.device, max_bytes: int | None, instead: Callable[[int], str]
) -> None:
    """Refuse what is larger than the memory that is free (or than `max_bytes`); `instead` says what would fit."""
    free = max_bytes if max_bytes is not None else _free_bytes(device)
    if needed > free:
        raise MemoryBudgetError(
            f"{what} does not fit", expected=f"at most {in_bytes(free)}", got=in_bytes(needed), next_step=instead(free)
        )


def layers_that_fit(sizes: Mapping[str, int], free: int) -> str:
    """Of activations and their bytes, the first layers that fit together, in words."""
    by_layer: dict[int, int] = {}
    for name, size in sizes.items():
        by_layer[max(layer_of(name), 0)] = by_layer.get(max(layer_of(name), 0), 0) + size
    together = list(accumulate(by_layer[layer] for layer in sorted(by_layer)))
    n_fit = sum(size <= free for size in together)
    some = [layer for layer in sorted(by_layer)[:n_fit] if layer < AFTER_BLOCKS]
    least = "name fewer hooks, or only a span of each: 'blocks.*.hook_resid_post@last'"
    return f"of these names those of layers {some[0]} to {some[-1]} would fit; or {least}" if some else least


def in_bytes(n: int) -> str:
    """A size for a message.

    >>> in_bytes(3_200_000), in_bytes(16_000_000_000)
    ('3.20 MB', '16.00 GB')
    """
    unit, size = next(
        (unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if n >= size or size == 1e3
    )
    return f"{n / size:.2f} {unit}"


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
