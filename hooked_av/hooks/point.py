"""Hook points with declared axes, and hooks scoped to spans.

A hook behind a name with a span sees the span's rows only, and what it returns is written back there.

Axes: batch, pos or query (rows), key, row (encoder output rows), span (rows selected by a span).
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any, Literal, cast

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint as LensHookPoint
from transformer_lens.hook_points import LensHandle

from hooked_av.errors import HookedAVWarning, HookError, SpanError
from hooked_av.hooks.names import Scope
from hooked_av.hooks.open_blocks import Opened, what_is_open
from hooked_av.hooks.rows import at_rows, filled, packed, put_rows
from hooked_av.hooks.run import Run, current_run, row_index

HookFunction = Callable[..., Any]  # (tensor, *, hook) -> tensor or None

_LOCK = RLock()  # threads may hook one model at the same time
_ROW_AXES = ("pos", "query", "row")


class HookPoint(LensHookPoint):
    """A TransformerLens HookPoint that knows its axes and costs one check while nobody listens.

    >>> point = HookPoint("batch pos d_model")
    >>> point.axes
    ('batch', 'pos', 'd_model')
    """

    def __init__(self, axes: str, *, lazy: bool = False) -> None:
        super().__init__()
        self.axes = tuple(axes.split())
        self.lazy = lazy  # computed only where a hook asks for it, because it is large
        self._owners: dict[int, Any] = {}  # what was hooked, by the id of torch's handle, which a copy of a model keeps
        self._gradient_hooks: OrderedDict[int, HookFunction] = OrderedDict()

    def __call__(self, tensor: Tensor) -> Tensor:
        if not self._forward_hooks and not self._gradient_hooks:
            return tensor
        version = version_of(tensor)
        out = super().__call__(tensor)
        self.check_form(tensor, out)
        if out is not tensor or version_of(out) != version:
            self._check_numbers(tensor, out)
        if self._gradient_hooks and out.requires_grad:
            out = self._awaiting_gradient(out)
        return out

    def _awaiting_gradient(self, out: Tensor) -> Tensor:
        """The tensor, with the hooks that act now waiting for its gradient, whatever comes before `backward`.

        Blocks may be left, hooks reset and other passes run, in this thread or another: the gradient is of this run.
        """
        run = current_run()
        acting = [hook for hook in self._gradient_hooks.values() if acts(hook, run)]
        if not acting:
            return out
        out = out.view_as(out)  # an alias of its own, so that only the gradient of this path arrives
        out.register_hook(partial(self._on_gradient, run, acting))
        return out

    def _on_gradient(self, run: Run | None, acting: Sequence[HookFunction], gradient: Tensor) -> Tensor:
        with nullcontext() if run is None else run.as_current():
            for function in acting:
                handed = function.on_part if isinstance(function, ScopedHook) else function
                edited = handed(gradient, hook=self)
                edited = _out_of_tuple(edited)
                if edited is not None:
                    self.check_form(gradient, edited)
                    self._check_numbers(gradient, edited)
                    gradient = edited
        return gradient

    @property
    def rows(self) -> "Int64[Tensor, 'batch span'] | None":
        """Which positions the tensor of the pass that runs now holds, where a lazy point holds some only."""
        run = current_run()
        return None if run is None else run.asked.get(str(self.name))

    @rows.setter
    def rows(self, rows: "Int64[Tensor, 'batch span'] | None") -> None:
        run = current_run()
        if run is not None:
            run.asked[str(self.name)] = rows

    @property
    def prompt(self) -> int | None:
        """Whose rows a hook sees that is called once for each prompt of a batch (from 0); None: those of all."""
        run = current_run()
        return None if run is None else run.prompt

    def add_hook(self, hook: HookFunction, dir: Literal["fwd", "bwd"] = "fwd", *args: Any, **kwargs: Any) -> Any:
        """Add a hook, TransformerLens's way, and remember which rows it asks for."""
        with _LOCK:
            before = self._live_handles()
            if dir == "bwd":
                self._add_gradient_hook(hook, *args, **kwargs)
            else:
                super().add_hook(hook, dir, *args, **kwargs)
            (added,) = (handle for handle in (*self.fwd_hooks, *self.bwd_hooks) if handle.hook.id not in before)
            self._owners[added.hook.id] = hook
        return added

    def _add_gradient_hook(
        self, hook: HookFunction, is_permanent: bool = False, level: int | None = None, prepend: bool = False
    ) -> LensHandle:
        """A hook on the gradient of what passes here; it returns None or another gradient."""
        removable = RemovableHandle(self._gradient_hooks)
        self._gradient_hooks[removable.id] = hook
        if prepend:
            self._gradient_hooks.move_to_end(removable.id, last=False)
        handle = LensHandle(removable, is_permanent, level)
        self.bwd_hooks.insert(0 if prepend else len(self.bwd_hooks), handle)
        return handle

    def remove_hooks(
        self,
        dir: Literal["fwd", "bwd", "both"] = "fwd",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Remove hooks that last, as TransformerLens does; those of a block or a pass, in any thread, go with it."""
        by_direction = {"fwd": self.fwd_hooks, "bwd": self.bwd_hooks, "both": [*self.fwd_hooks, *self.bwd_hooks]}
        if dir not in by_direction:
            raise HookError(
                "no such direction of hooks", expected=", ".join(by_direction), got=dir, next_step="name one of them"
            )
        with _LOCK:
            for handle in by_direction[dir]:
                meant = (including_permanent or not handle.is_permanent) and level in (None, handle.context_level)
                owner = self._owners.get(handle.hook.id)
                if meant and not (isinstance(owner, ScopedHook) and owner.is_of_a_block):
                    self.remove(handle)

    def remove(self, handle: LensHandle) -> None:
        """Remove one hook by what `add_hook` gave, and what it held (a caching hook holds its whole cache).

        One that has gone already is no error.
        """
        with _LOCK:
            handle.hook.remove()
            self.fwd_hooks = [other for other in self.fwd_hooks if other is not handle]
            self.bwd_hooks = [other for other in self.bwd_hooks if other is not handle]
            self._forget_owners()

    def _forget_owners(self) -> None:
        live = self._live_handles()
        self._owners = {key: owner for key, owner in self._owners.items() if key in live}

    def _live_handles(self) -> set[int]:
        return {handle.hook.id for handle in (*self.fwd_hooks, *self.bwd_hooks)}

    @property
    def gradient_hooks(self) -> dict[int, HookFunction]:
        """Those that are there, whether they act or not, by the ids of their handles."""
        return dict(self._gradient_hooks)

    def listeners_in(self, run: Run | None, *, backward: bool = True) -> list[Any]:
        """The hooks on this point that act in a pass, as they were added; of None, those that act if one begins now."""
        if not (self.fwd_hooks or self.bwd_hooks):
            return []
        handles = (*self.fwd_hooks, *self.bwd_hooks) if backward else self.fwd_hooks
        owners = (self._owners.get(handle.hook.id) for handle in handles)
        return [owner for owner in owners if acts(owner, run)]

    @property
    def listeners(self) -> list[Any]:
        """The hooks that act here in the pass that runs now (or that would begin now), as they were added."""
        return self.listeners_in(current_run())

    @property
    def is_hooked(self) -> bool:
        return bool(self._forward_hooks or self._gradient_hooks) and bool(self.listeners)

    @property
    def only_reads(self) -> bool:
        """Are all listeners known to change nothing (caches), so that what comes back need not be used?"""
        return not self._gradient_hooks and all(getattr(hook, "reads_only", False) for hook in self.listeners)

    def check_form(self, tensor: Tensor, out: Any) -> None:
        """Refuse what a hook gave back, if it has another shape, dtype or device than the activation."""
        if not isinstance(out, Tensor):
            raise HookError(
                f"a hook at {self.name} returned no tensor",
                expected="a tensor, or None to leave the activation alone",
                got=type(out).__name__,
                next_step="return the edited activation",
            )
        before, after = _form(tensor), _form(out)
        if before != after:
            raise HookError(
                f"a hook at {self.name} changed the form of {' '.join(self.axes)}",
                expected=before,
                got=after,
                next_step="return a tensor of the same shape, dtype and device",
            )

    def _check_numbers(self, before: Tensor, after: Tensor) -> None:
        """Refuse nan that a hook brings in (-inf is a masked score); what was there before is not the hook's."""
        if bool(after.detach().sum().isnan()) and bool(after.isnan().any()):  # a sum reads once, and keeps nothing
            if after is not before and bool(before.isnan().any()):
                return
            place = after.isnan().nonzero()[0].tolist()
            raise HookError(
                f"a hook at {self.name} made nan",
                expected="numbers",
                got=f"{int(after.isnan().sum())} of {after.numel()} are nan, the first at {place}",
                next_step="look for a division by 0, or a mean over nothing, in the hook or intervention",
            )

    def wanted(self, run: "Run | None") -> "Int64[Tensor, 'batch span'] | Literal['all'] | None":
        """Which rows the hooks of this point ask for: none, all, or the union of their spans."""
        if not self.is_hooked:
            return None
        scopes = [getattr(listener, "scope", None) for listener in self.listeners]
        queries = {None if scope is None else scope.queries for scope in scopes}
        if run is None or None in queries:
            return "all"
        rows = run.in_pass(run.union(sorted(name for name in queries if name is not None)))
        if not rows.shape[1] or len(rows) == 1:
            return rows if rows.shape[1] else None
        held = run.rows_at(str(self.name))
        every = torch.arange(run.n_pos, device=rows.device).expand(len(rows), -1) if held is None else held
        return filled(rows, every) if bool((rows < 0).any()) else rows


def acts(hook: Any, run: Run | None) -> bool:
    """Whether a pass feels a hook; None stands for one that begins now. What was put on a point itself acts always."""
    return not isinstance(hook, ScopedHook) or hook.acts_in(run)


def _out_of_tuple(edited: Any) -> Any:
    """(gradient,) is a gradient, as TransformerLens allows; of a longer tuple nothing is thrown away: it is refused."""
    return edited[0] if isinstance(edited, tuple) and len(edited) == 1 else edited


def _form(tensor: Tensor) -> str:
    layout = "" if tensor.layout is torch.strided else f" {tensor.layout}"
    return f"{list(tensor.shape)} {tensor.dtype} {tensor.device}{layout}"


def is_live(before: Tensor, version: int, after: Tensor) -> bool:
    """Must what a hook point gave back be used: was it edited (also in place), or does a gradient flow through it?

    Reading alone must not change numbers, so an untouched lazy activation is dropped again.
    """
    edited = after is not before or after.is_inference() or after._version != version
    return edited or (torch.is_grad_enabled() and after.requires_grad)


def version_of(tensor: Tensor) -> int:
    """The in-place edit counter (inference tensors keep none; `is_live` counts them as edited)."""
    return 0 if tensor.is_inference() else tensor._version


Pick = tuple[int, Tensor]  # an axis, and what of it


@dataclass(frozen=True)
class ScopedHook:
    """A user's hook as a point holds it: where it acts, and which rows it sees.

    Behind a name with a span it sees the span's rows, and what it returns is written back there. It acts in the passes
    that feel `block` (None: in every pass).
    """

    function: HookFunction
    scope: Scope | None
    explicit: bool  # its name was written out in full, so it must fire
    reads_only: bool = False
    block: Opened | None = None

    @property
    def is_of_a_block(self) -> bool:
        """Whether it goes with a block; else it lasts until it is reset."""
        return self.block is not None and not self.block.stays

    def acts_in(self, run: Run | None) -> bool:
        """Whether a pass feels this hook; None stands for one that begins now."""
        block = self.block
        return block is None or block.stays or block in (what_is_open() if run is None else run.opened)

    def __call__(self, tensor: Tensor, *, hook: HookPoint) -> Any:
        return self.on_part(tensor, hook=hook) if self.acts_in(current_run()) else None

    def on_part(self, tensor: Tensor, *, hook: HookPoint) -> Any:
        """What the user's hook makes of its rows, put back among the others; whether it acts has been asked."""
        if self.scope is None:
            return self.function(tensor, hook=hook)
        run = current_run()
        picks = self._picks(hook, run)
        if not all(index.shape[1] for _, index in picks):
            return None  # a pass of a generation that computes no row of the span
        if "row" not in hook.axes and run is not None and self._is_uneven(run):
            return self._by_prompt(tensor, picks, hook, run)
        return self._on_rows(tensor, picks, hook)

    def _is_uneven(self, run: Run) -> bool:
        names = () if self.scope is None else (self.scope.queries, self.scope.keys)
        return any(run.is_uneven(name) for name in names if name is not None)

    def _by_prompt(self, tensor: Tensor, picks: "Sequence[Pick]", hook: HookPoint, run: Run) -> Tensor | None:
        """Prompts have more or fewer rows of the span: the function is called for each that has any, as if alone."""
        own = [[(axis, packed(i[n : n + 1], i[n : n + 1] >= 0)) for axis, i in picks] for n in range(len(tensor))]
        some = {n: one for n, one in enumerate(own) if all(index.shape[1] for _, index in one)}
        if getattr(self.function, "takes_flat_rows", False):
            if self.scope is not None and self.scope.keys is not None and run.is_uneven(self.scope.keys):
                raise uneven_keys(str(hook.name))
            axis = picks[0][0]  # of the rows, which come in front now, prompt after prompt
            parts = [_taken(tensor[n : n + 1], one).movedim(axis, 1)[0] for n, one in some.items()]
            return self.function(torch.cat(parts), hook=hook)
        if not getattr(self.function, "knows_prompts", False):
            warnings.warn(
                f"a hook at {hook.name} is called once for each prompt of the batch (hook.prompt says for which): they "
                "have more or fewer tokens of its span",
                HookedAVWarning,
                stacklevel=2,
            )
        edited: dict[int, Tensor] = {}
        for n, one in some.items():
            run.prompt = n
            try:
                out = self._on_rows(tensor[n : n + 1], one, hook)
            finally:
                run.prompt = None
            if out is not None:
                edited[n] = out
        return torch.cat([edited.get(n, tensor[n : n + 1]) for n in range(len(tensor))]) if edited else None

    def _on_rows(self, tensor: Tensor, picks: "Sequence[Pick]", hook: HookPoint) -> Tensor | None:
        """The function on the rows that are picked, and what it makes of them put back; None if it left them alone."""
        part = _taken(tensor, picks)
        version = version_of(part)
        edited: Any = self.function(part, hook=hook)
        edited = _out_of_tuple(edited)
        if edited is None:
            # The rows are a copy: an in-place edit, or a gradient that the caller waits for, needs them put back.
            # (Inference tensors do not count their edits, so there the rows always go back.)
            if not part.is_inference() and part._version == version and not part.retains_grad:
                return None
            edited = part
        hook.check_form(part, edited)
        return _put_back(tensor, picks, cast(Tensor, edited))

    def _picks(self, hook: HookPoint, run: Run | None) -> "list[Pick]":
        scope = self.scope
        if run is None or scope is None:
            raise HookError(
                f"a span-scoped hook at {hook.name} ran outside a forward pass of the model",
                expected="model(inputs), run_with_hooks or run_with_cache",
                got="a direct call",
                next_step="run the model, not a part of it",
            )
        picks = []
        if scope.queries is not None:
            axis = next(hook.axes.index(name) for name in _ROW_AXES if name in hook.axes)
            picks.append((axis, _row_index(hook, run, scope.queries)))
        if scope.keys is not None:
            held, keys = run.keys_at(str(hook.name)), run.so_far(run.places(scope.keys))
            index = keys if held is None else row_index(held, keys, str(hook.name), scope.keys)
            picks.append((hook.axes.index("key"), index))
        return picks


def _row_index(hook: HookPoint, run: Run, selector: str) -> Int64[Tensor, "batch span"]:
    """Where the span's rows stand in the tensor of this hook point."""
    if "row" in hook.axes:
        return _media_index(hook, run, selector)
    wanted = run.in_pass(run.places(selector))
    # A lazy point holds what its hooks asked for, or `logits_at`; any point holds less where rows have left.
    held = hook.rows if hook.rows is not None else run.rows_at(str(hook.name))
    return wanted if held is None else row_index(held, wanted, str(hook.name), selector)


def _media_index(hook: HookPoint, run: Run, selector: str) -> Int64[Tensor, "batch=1 span"]:
    index = run.media_index(str(hook.name), selector)
    if not len(index):
        raise SpanError(
            f"span {selector!r} holds no row of {hook.name}",
            expected="a span of this modality's tokens",
            got=selector,
            next_step="hook the modality that the span belongs to",
        )
    return index[None]


def _taken(tensor: Tensor, picks: "Sequence[Pick]") -> Tensor:
    for axis, index in picks:
        tensor = _take(tensor, axis, index)
    return tensor


def uneven_keys(name: str) -> SpanError:
    """Attention to spans of more and fewer tokens makes no rows of one length."""
    return SpanError(
        f"attention at {name} has another number of keys in each prompt of the batch",
        expected="as many tokens of the span of keys in every prompt; queries may differ in number",
        got="more in some than in others",
        next_step="cache such prompts one by one: [model.run_with_cache(one, ...) for one in inputs]; or leave out "
        "'<-keys', and take each prompt's own: cache['NAME@QUERIES'][row][..., inputs.row_spans[row][KEYS]]",
    )


def _take(tensor: Tensor, axis: int, index: Int64[Tensor, "batch span"]) -> Tensor:
    if axis == 0:  # encoder rows have no batch axis
        return tensor[index[0]]
    return at_rows(tensor.movedim(axis, 1), index).movedim(1, axis)


def _put(tensor: Tensor, axis: int, index: Int64[Tensor, "batch span"], part: Tensor) -> Tensor:
    if axis == 0:
        return tensor.index_put((index[0],), part)
    return put_rows(tensor.movedim(axis, 1), index, part.movedim(axis, 1)).movedim(1, axis)


def _put_back(tensor: Tensor, picks: Sequence[tuple[int, Tensor]], part: Tensor) -> Tensor:
    if len(picks) == 1:
        return _put(tensor, *picks[0], part)
    (row_axis, rows), (key_axis, keys) = picks
    return _put(tensor, row_axis, rows, _put(_take(tensor, row_axis, rows), key_axis, keys, part))
