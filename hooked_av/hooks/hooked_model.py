"""How a model is hooked: names with patterns and spans, hooks for a while, hooks that fill a dict."""

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedRootModule

from hooked_av.doors import door
from hooked_av.errors import HookError, HookNameError
from hooked_av.hooks.attached import Direction, PlacedHook, attached, scoped
from hooked_av.hooks.cache import keep_copy
from hooked_av.hooks.names import Match, NamesFilter, match_names
from hooked_av.hooks.open_blocks import Opened
from hooked_av.hooks.point import HookFunction, HookPoint, ScopedHook, acts
from hooked_av.hooks.run import ALL_LAYERS, Run

Hook = tuple[str | Callable[[str], bool], HookFunction]


class SpanHooks(HookedRootModule):
    """TransformerLens's hook methods, with shell patterns and spans, and nothing that matches in silence."""

    hook_dict: dict[str, HookPoint]  # type: ignore[assignment]

    @contextmanager
    @door
    def hooks(  # type: ignore[override] - names take patterns and spans
        self,
        fwd_hooks: Sequence[Hook] = (),
        bwd_hooks: Sequence[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["SpanHooks"]:
        """Hooks for the length of a `with` block. Names may be patterns and carry spans.

        They act in the passes that begin in the block, in this thread; a pass that a hook itself begins is a run of its
        own, in which they do not act.

        Errors: `HookNameError` before anything runs, for a name, pattern or filter that matches nothing.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> with model.hooks(fwd_hooks=[("blocks.*.hook_mlp_out@last", lambda rows, hook: rows * 0)]):
        ...     logits = model("Hello world")
        """
        block = Opened(self)
        placed = [*self.placed(fwd_hooks, block), *self.placed(bwd_hooks, block, "bwd")]
        with attached(placed, block), block.opened():
            try:
                yield self
            finally:
                block.stays = not reset_hooks_end
                if clear_contexts:
                    self.clear_contexts()

    def run_with_hooks(self, *model_args: Any, **arguments: Any) -> Tensor:
        """Logits of one run with hooks, which are gone afterwards. Names may be patterns and carry spans.

        Gradient hooks fire for the gradients of this run, however late `backward` comes.
        """
        hook_arguments = {
            name: arguments.pop(name)
            for name in ("fwd_hooks", "bwd_hooks", "reset_hooks_end", "clear_contexts")
            if name in arguments
        }
        with self.hooks(**hook_arguments):
            return self(*model_args, **arguments)

    @door
    def add_hook(self, name: str | Callable[[str], bool], hook: HookFunction, *args: Any, **kwargs: Any) -> None:
        """Add a hook that stays until `reset_hooks`. Names may be patterns and carry spans.

        A gradient hook (`dir="bwd"`) must be there in the forward pass. While it is there, the gradient of what an
        earlier pass gave is refused with a `HookError`.
        """
        for matched, own in self._expand([(name, hook)]):
            self.hook_dict[matched].add_hook(own, *args, **kwargs)

    def _expand(self, hooks: Sequence[Hook], block: Opened | None = None) -> Iterator[tuple[str, ScopedHook]]:
        """A hook for every point that a name, pattern or filter matches."""
        for wanted, function in hooks:
            for match in match_names(wanted, self.hook_dict):
                yield match.name, scoped(match, function, block)

    def placed(self, hooks: Sequence[Hook], block: Opened, direction: Direction = "fwd") -> list[PlacedHook]:
        """The hooks of a block, each with its point.

        Errors: `HookNameError` for a name, pattern or filter that matches nothing.
        """
        return [PlacedHook(self.hook_dict[name], hook, direction) for name, hook in self._expand(hooks, block)]

    @door
    def get_caching_hooks(  # type: ignore[override] - keys may be patterns and carry spans
        self,
        names_filter: NamesFilter = None,
        incl_bwd: bool = False,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], list[Hook], list[Hook]]:
        """The dict that hooks fill, and the hooks to pass on; gradients come under the name and `_grad`.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> kept, forward, backward = model.get_caching_hooks("blocks.1.hook_mlp_out@last", incl_bwd=True)
        >>> with model.hooks(forward, backward):
        ...     model("Hello world")[0, -1, 3].backward()
        >>> sorted(kept)
        ['blocks.1.hook_mlp_out@last', 'blocks.1.hook_mlp_out@last_grad']
        """
        kept = {} if cache is None else cache
        wanted = names_filter if names_filter is not None else lambda name: not self.hook_dict[name].lazy
        names = [wanted] if isinstance(wanted, str) or callable(wanted) else list(wanted)
        keys = {match.key: None for name in names for match in match_names(name, self.hook_dict)}
        forward: list[Hook] = [(key, keep_copy(kept, key, device, remove_batch_dim)) for key in keys]
        backward: list[Hook] = [(key, keep_copy(kept, f"{key}_grad", device, remove_batch_dim)) for key in keys]
        return kept, forward, backward if incl_bwd else []

    @door
    def add_caching_hooks(self, names_filter: NamesFilter = None, incl_bwd: bool = False, **options: Any) -> dict:  # type: ignore[override]
        """Hooks that fill the returned dict at every run, until `reset_hooks`."""
        kept, forward, backward = self.get_caching_hooks(names_filter, incl_bwd, **options)
        for direction, hooks in (("fwd", forward), ("bwd", backward)):
            for name, hook in hooks:
                self.add_hook(name, hook, direction)
        return kept

    def _cached(self, names_filter: NamesFilter, run: Run) -> list[Match]:
        """What to cache; a name written out in full must be able to fire."""
        points = {name: point for name, point in self.hook_dict.items() if run.fires(name)}
        if names_filter is None:
            light = [name for name, point in points.items() if not point.lazy]
            return [Match(name, None, name, False) for name in light]
        wanted = [names_filter] if isinstance(names_filter, str) or callable(names_filter) else list(names_filter)
        found = {match.key: match for name in wanted for match in match_names(name, self.hook_dict)}
        silent = [match for match in found.values() if match.name not in points]
        if not found or any(match.explicit for match in silent) or len(silent) == len(found):
            raise HookNameError(
                "nothing to cache" if not silent else f"{silent[0].name} cannot fire on these inputs",
                expected="names of hook points that these inputs reach",
                got=[match.key for match in silent],
                next_step="name other hooks, or leave names_filter out",
            )
        return [match for match in found.values() if match.name in points]

    def _check_can_fire(self, run: Run) -> None:
        """A hook that was named in full and cannot fire is an error, not a hook that never ran."""
        whole = run.layers == ALL_LAYERS  # then only encoder outputs depend on the pass
        for name in run.media_rows if whole else self.hook_dict:
            listeners = self.hook_dict[name].listeners_in(run)
            if not run.fires(name) and any(getattr(listener, "explicit", True) for listener in listeners):
                raise HookError(
                    f"{name} cannot fire on these inputs",
                    expected="inputs that hold its modality, and layers that this pass runs",
                    got=f"layers {run.layers.start} to {run.layers.stop - 1}"
                    if name not in run.media_rows
                    else "none of it",
                    next_step="hook another point, prepare inputs with this modality, or run all layers",
                )

    @property
    def gradient_hooks(self) -> set[int]:
        """Those that are there, whether they act or not, by the ids of their handles."""
        return {key for point in self.hook_dict.values() for key in point.gradient_hooks}

    def check_gradient_hooks(self, run: Run, there: Set[int]) -> None:
        """A gradient hook that was not there in a pass would be dropped in silence by its gradient: it is refused."""
        for name, point in self.hook_dict.items():
            late = [key for key, hook in point.gradient_hooks.items() if key not in there and acts(hook, None)]
            if late and run.fires(name):
                raise HookError(
                    f"a gradient hook at {name} was added after the forward pass whose gradient this is",
                    expected="gradient hooks that are there in the forward pass",
                    got="a hook that came between forward and backward",
                    next_step="add the hook (or open its block), run the model again, and take the gradient of that",
                )
