"""Hook points with declared axes, hook names, and names scoped to spans.

A hook name is TransformerLens's (`blocks.5.hook_resid_post`), may be a shell pattern (`blocks.*.hook_resid_post`), and
may carry a span: `blocks.5.hook_resid_post@audio` hands the hook the audio rows only, and what it returns is written
back there. Attention matrices take `@queries<-keys`: `blocks.5.attn.hook_pattern@question<-video`.

Axes: batch, pos or query (rows), key, row (encoder output rows), span (rows selected by a span).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from jaxtyping import Int64
from torch import Tensor
from transformer_lens.hook_points import HookPoint as LensHookPoint

from hooked_av.errors import HookError, HookNameError, SpanError, nearest
from hooked_av.spans import Spans

HookFunction = Callable[..., Any]  # (tensor, *, hook) -> tensor or None
NamesFilter = str | Sequence[str] | Callable[[str], bool] | None

_ROW_AXES = ("pos", "query", "row")


class HookPoint(LensHookPoint):
    """A TransformerLens HookPoint that knows its axes and costs one check while nobody listens.

    `rows`: which positions the tensor holds, [batch, span], when a lazy point holds only those asked for (None: all).

    >>> point = HookPoint("batch pos d_model")
    >>> point.axes
    ('batch', 'pos', 'd_model')
    """

    def __init__(self, axes: str, *, lazy: bool = False) -> None:
        super().__init__()
        self.axes = tuple(axes.split())
        self.lazy = lazy  # computed only where a hook asks for it, because it is large
        self.rows: Int64[Tensor, "batch span"] | None = None
        self._owners: dict[int, Any] = {}  # what was hooked, by identity of TransformerLens's handle

    def __call__(self, tensor: Tensor) -> Tensor:
        if not self._forward_hooks and not self._backward_hooks:
            return tensor
        out = super().__call__(tensor)
        self._check(tensor, out)
        return out

    def add_hook(self, hook: HookFunction, dir: Literal["fwd", "bwd"] = "fwd", *args: Any, **kwargs: Any) -> Any:
        """Add a hook, TransformerLens's way, and remember which rows it asks for."""
        handles = self.fwd_hooks if dir == "fwd" else self.bwd_hooks
        before = {id(handle) for handle in handles}
        self._owners = {key: owner for key, owner in self._owners.items() if key in self._live_handles()}
        result = super().add_hook(hook, dir, *args, **kwargs)
        for handle in handles:
            if id(handle) not in before:
                self._owners[id(handle)] = hook
        return result

    def remove_hooks(self, *args: Any, **kwargs: Any) -> None:
        """Remove hooks, TransformerLens's way, and let go of what they held: a caching hook holds its whole cache."""
        if not (self.fwd_hooks or self.bwd_hooks):
            return  # every hooks() context asks every point of the model, and most have none
        super().remove_hooks(*args, **kwargs)
        live = self._live_handles()
        self._owners = {key: owner for key, owner in self._owners.items() if key in live}

    def _live_handles(self) -> set[int]:
        return {id(handle) for handle in (*self.fwd_hooks, *self.bwd_hooks)}

    @property
    def listeners(self) -> list[Any]:
        """The hooks that are on this point now, as they were added."""
        return [self._owners.get(id(handle)) for handle in (*self.fwd_hooks, *self.bwd_hooks)]

    @property
    def is_hooked(self) -> bool:
        return bool(self._forward_hooks or self._backward_hooks)

    def _check(self, tensor: Tensor, out: Any) -> None:
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

    def wanted(self, run: "Run | None") -> "Int64[Tensor, 'batch span'] | Literal['all'] | None":
        """Which rows the hooks of this point ask for: none, all, or the union of their spans."""
        if not self.is_hooked:
            return None
        scopes = [getattr(listener, "scope", None) for listener in self.listeners]
        queries = {None if scope is None else scope.queries for scope in scopes}
        if run is None or None in queries:
            return "all"
        return run.union(sorted(name for name in queries if name is not None))


def _form(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {tensor.dtype} {tensor.device}"


def is_live(before: Tensor, version: int, after: Tensor) -> bool:
    """Must what a hook point gave back be used: was it edited (also in place), or does a gradient flow through it?

    Reading alone must not change numbers, so an untouched lazy activation is dropped again.
    """
    edited = after is not before or after.is_inference() or after._version != version
    return edited or (torch.is_grad_enabled() and after.requires_grad)


def version_of(tensor: Tensor) -> int:
    """The in-place edit counter (inference tensors keep none; `is_live` counts them as edited)."""
    return 0 if tensor.is_inference() else tensor._version


# --- names -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scope:
    """The part of an activation that a name's `@...` selects; None means all."""

    queries: str | None
    keys: str | None = None


@dataclass(frozen=True)
class HookName:
    """A hook name or pattern and its scope.

    >>> HookName.parse("blocks.5.attn.hook_pattern@question<-video")
    HookName(pattern='blocks.5.attn.hook_pattern', scope=Scope(queries='question', keys='video'))
    """

    pattern: str
    scope: Scope | None

    @classmethod
    def parse(cls, text: str) -> "HookName":
        pattern, at, selection = text.partition("@")
        if not at:
            return cls(text, None)
        queries, arrow, keys = (part.strip() for part in selection.partition("<-"))
        if not (queries or keys) or (arrow and not keys):
            raise HookNameError(
                "this hook name has an empty span",
                expected="name@span or name@queries<-keys",
                got=repr(text),
                next_step="name a span after '@', or leave '@' out",
            )
        return cls(pattern, Scope(queries or None, keys or None))

    @property
    def is_pattern(self) -> bool:
        return any(mark in self.pattern for mark in "*?[")

    def key(self, name: str) -> str:
        """The cache key of one matched name: with the scope, as the user wrote it."""
        if self.scope is None:
            return name
        arrow = f"<-{self.scope.keys}" if self.scope.keys else ""
        return f"{name}@{self.scope.queries or ''}{arrow}"


@dataclass(frozen=True)
class Match:
    """One hook point that a user's name, pattern or filter selected."""

    name: str
    scope: Scope | None
    key: str
    explicit: bool  # written out in full, so it must fire


def match_names(wanted: str | Callable[[str], bool], points: Mapping[str, HookPoint]) -> list[Match]:
    """The hook points that a name, shell pattern or predicate selects.

    Errors: `HookNameError` if there are none, with the nearest names; or if `<-keys` is used where there are no keys.
    """
    if callable(wanted):
        found = [Match(name, None, name, False) for name in points if wanted(name)]
        return found or _no_match("a filter function", points)
    parsed = HookName.parse(wanted)
    names = [name for name in points if fnmatchcase(name, parsed.pattern)]
    if not names:
        return _no_match(parsed.pattern, points)
    matches = [Match(name, parsed.scope, parsed.key(name), not parsed.is_pattern) for name in names]
    for match in matches:
        _check_scope(match, points[match.name])
    return matches


def _no_match(what: str, points: Iterable[str]) -> list[Match]:
    layer = re.search(r"blocks\.(\d+)\.", what)
    alike = points if layer is None else [p for p in points if f".{layer.group(1)}." in p] or points
    raise HookNameError(
        "no hook point has this name",
        expected=nearest(what, alike),
        got=what,
        next_step="see list(model.hook_dict) for all names",
    )


def _check_scope(match: Match, point: HookPoint) -> None:
    if match.scope is None:
        return
    if match.scope.keys and "key" not in point.axes:
        raise HookNameError(
            f"{match.name} has no key axis",
            expected="'<-keys' on hook_attn_scores and hook_pattern only",
            got=match.key,
            next_step=f"write {match.name}@{match.scope.queries or 'span'}",
        )


# --- spans at run time -------------------------------------------------------------------------------------------


class Run:
    """What the hooks of one forward pass need to know of its inputs: where each span is."""

    def __init__(
        self, row_spans: Sequence[Spans], device: torch.device, media_rows: Mapping[str, Int64[Tensor, " row"]]
    ) -> None:
        self.row_spans = tuple(row_spans)
        self.device = device
        self.media_rows = media_rows  # hook name -> flat (batch * pos) place of each encoder output row
        self._found: dict[str, Tensor] = {}

    def positions(self, selector: str) -> Int64[Tensor, "batch span"]:
        """A span's positions in each row of the batch; rows must agree on how many there are."""
        if selector not in self._found:
            rows = [spans.resolve(selector).positions for spans in self.row_spans]
            if len({len(row) for row in rows}) > 1:
                raise SpanError(
                    f"span {selector!r} has a different length in each prompt of the batch",
                    expected="equal lengths",
                    got=[len(row) for row in rows],
                    next_step="run such prompts one by one, or hook the whole activation",
                )
            self._found[selector] = torch.tensor([row.tolist() for row in rows], device=self.device)
        return self._found[selector]

    def fires(self, name: str) -> bool:
        """Whether this run reaches a hook point: encoder outputs need inputs of their modality."""
        return name not in self.media_rows or len(self.media_rows[name]) > 0

    def union(self, selectors: Sequence[str]) -> Int64[Tensor, "batch span"]:
        """The positions that any of the selectors names (every position, where rows would differ in their number)."""
        if len(selectors) == 1:
            return self.positions(selectors[0])
        rows = torch.cat([self.positions(selector) for selector in selectors], dim=1)
        merged = [row.unique() for row in rows]
        if len({len(row) for row in merged}) > 1:
            return torch.arange(self.row_spans[0].n_pos, device=self.device).expand(len(merged), -1)
        return torch.stack(merged)


@dataclass(frozen=True)
class ScopedHook:
    """A user's hook behind a name with a span: it sees the span's rows, and what it returns is written back there."""

    function: HookFunction
    scope: Scope | None
    explicit: bool
    current_run: Callable[[], Run | None]

    def __call__(self, tensor: Tensor, *, hook: HookPoint) -> Any:
        if self.scope is None:
            return self.function(tensor, hook=hook)
        picks = self._picks(hook)
        part = tensor
        for axis, index in picks:
            part = _take(part, axis, index)
        version = version_of(part)
        edited = self.function(part, hook=hook)
        if edited is None:
            # An in-place edit of the selected rows edits a copy: without this it would be lost in silence.
            # (Inference tensors do not count their edits, so there the rows always go back.)
            if not part.is_inference() and part._version == version:
                return None
            edited = part
        hook._check(part, edited)
        return _put_back(tensor, picks, edited)

    def _picks(self, hook: HookPoint) -> list[tuple[int, Tensor]]:
        run, scope = self.current_run(), self.scope
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
            picks.append((hook.axes.index("key"), run.positions(scope.keys)))
        return picks


def _row_index(hook: HookPoint, run: Run, selector: str) -> Int64[Tensor, "batch span"]:
    """Where the span's rows stand in the tensor of this hook point."""
    if "row" in hook.axes:
        return _media_index(hook, run, selector)
    wanted = run.positions(selector)
    if hook.rows is None:
        return wanted
    # A lazy point holds some rows only, sorted: the union of what its hooks asked for, or `logits_at`.
    index = torch.stack([torch.searchsorted(held, row) for held, row in zip(hook.rows, wanted, strict=True)])
    index = index.clamp(max=hook.rows.shape[1] - 1)
    if not torch.equal(hook.rows.gather(1, index), wanted):
        raise SpanError(
            f"span {selector!r} is not among the rows of {hook.name}",
            expected=f"positions that were computed ({hook.rows.shape[1]} of them)",
            got=selector,
            next_step="leave logits_at out, or name a span inside it",
        )
    return index


def _media_index(hook: HookPoint, run: Run, selector: str) -> Int64[Tensor, "batch=1 span"]:
    places = run.media_rows[str(hook.name)]
    n_pos = run.row_spans[0].n_pos
    flat = (run.positions(selector) + torch.arange(len(run.row_spans), device=run.device)[:, None] * n_pos).flatten()
    index = torch.isin(places, flat).nonzero().flatten()
    if not len(index):
        raise SpanError(
            f"span {selector!r} holds no row of {hook.name}",
            expected="a span of this modality's tokens",
            got=selector,
            next_step="hook the modality that the span belongs to",
        )
    return index[None]


def _take(tensor: Tensor, axis: int, index: Int64[Tensor, "batch span"]) -> Tensor:
    if axis == 0:  # encoder rows have no batch axis
        return tensor[index[0]]
    batch = torch.arange(len(index), device=index.device)[:, None]
    return tensor.movedim(axis, 1)[batch, index].movedim(1, axis)


def _put(tensor: Tensor, axis: int, index: Int64[Tensor, "batch span"], part: Tensor) -> Tensor:
    if axis == 0:
        return tensor.index_put((index[0],), part)
    batch = torch.arange(len(index), device=index.device)[:, None]
    return tensor.movedim(axis, 1).index_put((batch, index), part.movedim(axis, 1)).movedim(1, axis)


def _put_back(tensor: Tensor, picks: Sequence[tuple[int, Tensor]], part: Tensor) -> Tensor:
    if len(picks) == 1:
        return _put(tensor, *picks[0], part)
    (row_axis, rows), (key_axis, keys) = picks
    return _put(tensor, row_axis, rows, _put(_take(tensor, row_axis, rows), key_axis, keys, part))
