"""How a model is hooked: names with patterns and spans, hooks for a while, caches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedRootModule

from hooked_av.errors import HookError, HookNameError
from hooked_av.hooks.cache import AVCache, cache_bytes, check_budget, keep_copy
from hooked_av.hooks.names import Match, NamesFilter, match_names
from hooked_av.hooks.point import HookFunction, HookPoint, ScopedHook
from hooked_av.hooks.run import ALL_LAYERS, Run
from hooked_av.prompt.inputs import AVInputs

Hook = tuple[str | Callable[[str], bool], HookFunction]


class SpanHooks(HookedRootModule):
    """TransformerLens's hook methods, with shell patterns and spans, and nothing that matches in silence."""

    hook_dict: dict[str, HookPoint]  # type: ignore[assignment]
    decoder: Any

    def __init__(self) -> None:
        super().__init__()
        self._run: Run | None = None

    def _as_inputs(self, inputs: Any) -> AVInputs:
        raise NotImplementedError

    def _begin(self, inputs: AVInputs, start_at_layer: int | None = None, stop_at_layer: int | None = None) -> Run:
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.embed.weight.device

    @contextmanager
    def hooks(  # type: ignore[override] - names take patterns and spans
        self,
        fwd_hooks: Sequence[Hook] = (),
        bwd_hooks: Sequence[Hook] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator["SpanHooks"]:
        """Hooks for the length of a `with` block. Names may be patterns and carry spans.

        Errors: `HookNameError` before anything runs, for a name, pattern or filter that matches nothing.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> with model.hooks(fwd_hooks=[("blocks.*.hook_mlp_out@last", lambda rows, hook: rows * 0)]):
        ...     logits = model("Hello world")
        """
        forward, backward = self._expand(fwd_hooks), self._expand(bwd_hooks)
        with super().hooks(forward, backward, reset_hooks_end, clear_contexts):
            yield self

    def run_with_hooks(self, *model_args: Any, **arguments: Any) -> Tensor:
        """Logits of one run with hooks, which are gone afterwards. Names may be patterns and carry spans."""
        hook_arguments = {
            name: arguments.pop(name)
            for name in ("fwd_hooks", "bwd_hooks", "reset_hooks_end", "clear_contexts")
            if name in arguments
        }
        with self.hooks(**hook_arguments):
            return self(*model_args, **arguments)

    def add_hook(self, name: str | Callable[[str], bool], hook: HookFunction, *args: Any, **kwargs: Any) -> None:
        """Add a hook that stays until `reset_hooks`. Names may be patterns and carry spans."""
        for matched, scoped in self._expand([(name, hook)]):
            self.hook_dict[str(matched)].add_hook(scoped, *args, **kwargs)

    def _expand(self, hooks: Sequence[Hook]) -> list[tuple[str | Callable, Callable]]:
        return [
            (match.name, self._scoped(match, function))
            for wanted, function in hooks
            for match in match_names(wanted, self.hook_dict)
        ]

    def _scoped(self, match: Match, function: HookFunction) -> ScopedHook:
        reads_only = getattr(function, "reads_only", False)
        return ScopedHook(function, match.scope, match.explicit, lambda: self._run, reads_only)

    def run_with_cache(  # type: ignore[override] - names_filter takes patterns and spans; the cache is an AVCache
        self,
        inputs: Any,
        *,
        names_filter: NamesFilter = None,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        max_bytes: int | None = None,
        **forward_arguments: Any,
    ) -> tuple[Tensor, AVCache]:
        """Logits and the activations named: names, patterns, spans, or a predicate on names.

        None caches every activation whose size grows with the number of tokens only; attention matrices, per-head
        results and logits must be named, best with a span (`blocks.*.attn.hook_pattern@last`).

        Errors: `HookNameError` for a name that matches nothing or cannot fire on these inputs; `MemoryBudgetError`,
        before the run, if the cache would not fit into `max_bytes` (None: the free memory).
        """
        inputs = self._as_inputs(inputs)
        run = self._begin(inputs, forward_arguments.get("start_at_layer"), forward_arguments.get("stop_at_layer"))
        matches = self._cached(names_filter, run)
        needed = cache_bytes(matches, inputs, self.decoder.cfg, self.decoder.embed.weight.dtype, run)
        check_budget(needed, torch.device(device) if device is not None else self.device, max_bytes)
        kept: dict[str, Tensor] = {}
        with self.hooks():  # a level of its own, so that only these hooks go when it closes
            for match in matches:
                hook = self._scoped(match, keep_copy(kept, match.key, device))
                self.hook_dict[match.name].add_hook(hook, level=self.context_level)
            logits = self(inputs, **forward_arguments)
        cache = AVCache(kept, self, self._run or run, self.hook_dict)
        return logits, cache.remove_batch_dim() if remove_batch_dim else cache

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
            listeners = self.hook_dict[name].listeners
            if not run.fires(name) and any(getattr(listener, "explicit", True) for listener in listeners):
                raise HookError(
                    f"{name} cannot fire on these inputs",
                    expected="inputs that hold its modality, and layers that this pass runs",
                    got=f"layers {run.layers.start} to {run.layers.stop - 1}"
                    if name not in run.media_rows
                    else "none of it",
                    next_step="hook another point, prepare inputs with this modality, or run all layers",
                )
