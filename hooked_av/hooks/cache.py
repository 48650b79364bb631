"""AVCache: a TransformerLens ActivationCache that knows spans, owns its values, and says its size before the run.

`cache["blocks.3.hook_resid_post"]`, `cache["resid_post", 3]`, `cache["resid_post", 3, "audio"]` and
`cache["blocks.3.hook_resid_post@audio"]` all work.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from itertools import accumulate
from typing import Any, NamedTuple

import psutil
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor
from transformer_lens import HookedRootModule
from transformer_lens.utilities import Slice, get_act_name  # pyright: ignore[reportPrivateImportUsage] - TransformerLens's own way

from hooked_av.config import DecoderConfig
from hooked_av.errors import HookNameError, InputsError, MemoryBudgetError, nearest
from hooked_av.hooks.names import HookName, Match, Scope
from hooked_av.hooks.point import HookFunction, HookPoint, ScopedHook, uneven_keys
from hooked_av.hooks.residual_parts import ResidualParts
from hooked_av.hooks.run import AFTER_BLOCKS, Run, layer_of
from hooked_av.prompt.inputs import AVInputs
from hooked_av.prompt.spans import ALL

# What TransformerLens takes as the third part of a key; any other is a span.
_KINDS_OF_LAYER = frozenset(
    (None, "a", "attn", "attention", "m", "mlp", "b", "block", "blocks", "ln1", "ln2", "ln_final", "")
)


class FlatRows(NamedTuple):
    """Rows of several prompts, one after the other: what they hold, and the prompt and position of each."""

    activations: Shaped[Tensor, "row ..."]
    sample: Int64[Tensor, " row"]
    position: Int64[Tensor, " row"]


LazyMaker = Callable[[str, Mapping[str, Tensor]], Tensor | None]  # an activation made of those that were kept


class AVCache(ResidualParts):
    """Activations of one forward pass, by hook name.

    Values are copies: what a later hook edits in place cannot change them. A full activation is sliced by span on
    demand; an activation cached with a span (`names_filter=["blocks.*.hook_resid_post@last"]`) holds that span only.
    Where the prompts of a batch have more or fewer tokens of a span, it holds their rows one after the other, without a
    batch axis; `rows` says which row is of which prompt.
    In `cache["pattern", 3, "last<-video"]` and `cache["q", 3, "attn", "audio"]` the last part is the span.

    Errors: `HookNameError` for a name that was not cached, naming the nearest that were.
    """

    def __init__(
        self,
        cache_dict: dict[str, Tensor],
        model: HookedRootModule,
        run: Run,
        points: Mapping[str, HookPoint],
        has_batch_dim: bool = True,
        part: str | None = None,
        made: LazyMaker | None = None,
    ) -> None:
        super().__init__(cache_dict, model, has_batch_dim)
        self._run, self._part, self._made = run, part, made
        self._axes = {name: " ".join(point.axes) for name, point in points.items()}

    def __getitem__(self, key: Any) -> Tensor:
        parsed = HookName.parse(self._full_name(key))
        found = self._held(parsed)
        found = self._made_now(parsed) if found is None else found
        if found is None:
            name = parsed.key(parsed.pattern)
            raise HookNameError(
                "this activation is not in the cache",
                expected=nearest(name, self.cache_dict),
                got=name,
                next_step="add its name to names_filter; attention matrices, per-head results and logits are cached "
                "only when named (best with a span: blocks.3.attn.hook_pattern@last)",
            )
        return found

    def __contains__(self, key: object) -> bool:
        return self._held(HookName.parse(self._full_name(key))) is not None

    def _held(self, name: HookName) -> Tensor | None:
        """What was kept under a name, or a span of it."""
        if name.key(name.pattern) in self.cache_dict:
            return self.cache_dict[name.key(name.pattern)]
        if name.scope is not None and name.pattern in self.cache_dict:
            return self._sliced(name.pattern, self.cache_dict[name.pattern], name.scope)
        return None

    def _made_now(self, name: HookName) -> Tensor | None:
        """An attention matrix, made of the queries and keys that were kept; it is not kept itself."""
        if self._made is None:
            return None
        batched = self.cache_dict if self.has_batch_dim else {key: kept[None] for key, kept in self.cache_dict.items()}
        made = self._made(name.pattern, batched)
        if made is None:
            return None
        made = made if self.has_batch_dim else made[0]
        return made if name.scope is None else self._sliced(name.pattern, made, name.scope)

    def remove_batch_dim(self, batch_size: int | None = None) -> "AVCache":
        """Drop the batch axis of a cache of one prompt; encoder rows have none, and stay.

        Errors: `InputsError` for a cache of several prompts.
        """
        n_prompts = len(self._run.row_spans)
        if self.has_batch_dim and n_prompts > 1:
            raise InputsError(
                "only a cache of one prompt can lose its batch axis",
                expected="batch size 1",
                got=n_prompts,
                next_step="run the prompts one by one, or keep the axis",
            )
        if self.has_batch_dim:
            batched = [key for key in self.cache_dict if self._has_batch_axis(key)]
            self.cache_dict.update({key: self.cache_dict[key][0] for key in batched})
        self.has_batch_dim = False
        return self

    def rows(self, name: Any, span: str = ALL) -> "FlatRows":
        """The rows of a span in all prompts, one after the other, with the prompt and position of each.

        What probes and sparse autoencoders want of clips of any length. `position` is that in the (padded) batch: the
        seconds of a row are `inputs.row_spans[sample].places.seconds[position]`.

        Args:
            name: of a hook point that was cached, whole or with this span: "blocks.3.hook_resid_post" or
                ("resid_post", 3).
            span: which rows; prompts that have none of them give none.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> batch = model.batch([model.prepare(question=text) for text in ("Which digit?", "Which letter is it?")])
        >>> _, cache = model.run_with_cache(batch, names_filter="blocks.1.hook_resid_post")
        >>> found = cache.rows("blocks.1.hook_resid_post", "question")
        >>> list(found.activations.shape) == [8, model.cfg.d_model], found.sample.tolist()
        (True, [0, 0, 0, 1, 1, 1, 1, 1])
        """
        full = self._full_name(name)
        values = self[f"{full}@{span}"]
        if not self._axes[full].startswith("row") and self.has_batch_dim and not self._is_flat(full, values):
            axes = self._axes[full].split()
            values = values.movedim(axes.index("query" if "query" in axes else "pos"), 1).flatten(0, 1)
        places = self._run.flat_places(full, span).to(values.device)
        return FlatRows(values, places // self._run.n_pos, places % self._run.n_pos)

    def apply_slice_to_batch_dim(self, batch_slice: Any) -> "AVCache":
        """The cache of some prompts of the batch, spans included; of one, by an int, without the batch axis.

        Errors: `InputsError` for a cache that has no batch axis.
        """
        if not self.has_batch_dim:
            raise InputsError(
                "this cache has no batch axis",
                expected="a cache of a batch",
                got="one after remove_batch_dim()",
                next_step="slice first, or run_with_cache without remove_batch_dim",
            )
        wanted = batch_slice if isinstance(batch_slice, Slice) else Slice(batch_slice)
        chosen = torch.arange(len(self._run.row_spans))[wanted.slice].reshape(-1).tolist()
        twin = copy(self)
        twin.cache_dict = {key: self._of_prompts(key, chosen) for key in self.cache_dict}
        twin._run = self._run.of(chosen)
        return twin.remove_batch_dim() if wanted.mode == "int" else twin

    def _of_prompts(self, key: str, chosen: Sequence[int]) -> Tensor:
        values, name = self.cache_dict[key], HookName.parse(key.removesuffix("_grad"))
        if self._has_batch_axis(key):
            return values[chosen]
        places = self._run.flat_places(name.pattern, name.scope.queries if name.scope else None)
        _, index = self._run.of_prompts(places, chosen)
        return values[index.to(values.device)]

    def _has_batch_axis(self, key: str) -> bool:
        name = HookName.parse(key.removesuffix("_grad")).pattern
        return self._axes[name].startswith("batch") and not self._is_flat(name, self.cache_dict[key])

    def _is_flat(self, name: str, values: Tensor) -> bool:
        """Whether an activation with a batch axis was kept as flat rows: prompts have more or fewer of them."""
        return values.ndim < len(self._axes[name].split())

    def _full_name(self, key: Any) -> str:
        if isinstance(key, str):
            return key if key in self.cache_dict or "." in key or key.startswith("hook_") else get_act_name(key)
        name, layer, *kind = key
        if isinstance(layer, int) and layer < 0:
            layer += self.model.cfg.n_layers
        span = ""
        if kind and (len(kind) > 1 or kind[0] not in _KINDS_OF_LAYER):
            span = f"@{kind.pop()}"
        return get_act_name(name, layer, *kind) + span

    def _sliced(self, name: str, tensor: Tensor, scope: Scope) -> Tensor:
        """A span of a full activation, cut out by the same code that hands spans to hooks."""
        if self._part is not None:
            raise HookNameError(
                f"{name} was cached at some positions only",
                expected="a cache of every position",
                got=f"pos_slice={self._part!r}",
                next_step="leave pos_slice out, or name the span in names_filter",
            )
        found: list[Tensor] = []
        point = HookPoint(self._axes[name])
        point.name = name

        def keep(part: Tensor, *, hook: HookPoint) -> None:
            found.append(part)

        keep.takes_flat_rows = True  # type: ignore[attr-defined]
        with self._run.as_current():
            ScopedHook(keep, scope, True)(tensor if self.has_batch_dim else tensor[None], hook=point)
        return found[0] if self.has_batch_dim else found[0][0]

    def __copy__(self) -> "AVCache":
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> "AVCache":
        """The values are copied; the model is not."""
        twin = self.__copy__()
        twin.cache_dict = deepcopy(self.cache_dict, memo)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "model"}  # activations, not weights

    def __getattr__(self, name: str) -> Any:
        if name != "model":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        raise InputsError(
            "this cache was read back without its model",
            expected="the model, for what needs weights (and layers that count from the end)",
            got="a cache that was pickled or saved",
            next_step="say which one it was: cache.model = model",
        )

    def __repr__(self) -> str:
        size = sum(tensor.numel() * tensor.element_size() for tensor in self.cache_dict.values())
        return f"AVCache of {len(self)} activations, {in_bytes(size)}"


def keep_copy(
    cache: dict[str, Tensor], key: str, device: torch.device | str | None, remove_batch_dim: bool = False
) -> HookFunction:
    """A hook that stores a detached copy of what it sees."""

    def keep(tensor: Tensor, *, hook: HookPoint) -> None:
        own = tensor.detach().to(device=device, copy=True)
        has_batch = hook.axes[0] == "batch" and tensor.ndim == len(hook.axes)
        cache[key] = own[0] if remove_batch_dim and has_batch and len(own) == 1 else own

    keep.reads_only = True  # type: ignore[attr-defined] - hook points need not use what a reader saw
    keep.takes_flat_rows = True  # type: ignore[attr-defined] - where prompts have more or fewer rows
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
    keys = run.places(scope.keys).shape[1] if scope.keys else inputs.n_pos
    if scope.keys and run.is_uneven(scope.keys):
        raise uneven_keys(match.name)
    rows = len(run.flat_places(match.name, scope.queries)) if scope.queries else inputs.batch * inputs.n_pos
    sizes = {"batch": 1, "pos": rows, "query": rows, "key": keys, "1": 1}
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
