"""Interventions are specs, not hooks: immutable, printable, comparable, and checked before anything runs.

`keys` are read from, `queries` are reading: information flows from keys to queries ("audio → question").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from hooked_av.attention import Cut
from hooked_av.config import DecoderConfig
from hooked_av.errors import InterventionError
from hooked_av.hooks import Run


@dataclass(frozen=True)
class BlockAttention:
    """In `layers`, tokens of `queries` may not read tokens of `keys`; made by `block_attention`."""

    keys: str
    queries: str
    layers: tuple[int, ...]
    heads: tuple[int, ...] | None = None

    def __str__(self) -> str:
        heads = "" if self.heads is None else f", heads {list(self.heads)}"
        return f"block {self.keys} → {self.queries} in layers {list(self.layers)}{heads}"

    def check(self, cfg: DecoderConfig) -> None:
        """Refuse layers and heads that the model does not have."""
        _check_range("layers", self.layers, cfg.n_layers, str(self))
        if self.heads is not None:
            _check_range("heads", self.heads, cfg.n_heads, str(self))

    def cut(self, run: Run) -> Cut:
        """The positions of this cut in one batch of inputs."""
        return Cut(run.positions(self.queries), run.positions(self.keys), self.heads)


def block_attention(*, keys: str, queries: str, layers: Any, heads: Any = None) -> BlockAttention:
    """What happens to the answer when `queries` cannot read `keys` in these layers?

    The blocked keys are taken out before the softmax, so the rest renormalises (attention knockout, Geva et al. 2023).
    Keys that come after a query are not read anyway. A query left with no key at all reads zero, with a warning.

    Args:
        keys: span read from, such as "audio" (or span algebra: "audio|video").
        queries: span reading, such as "question".
        layers: one layer, or several, counted from 0.
        heads: one query head, or several; None for all.

    Errors: `InterventionError` for no layers, or for layers and heads that the model does not have.

    >>> print(block_attention(keys="audio", queries="question", layers=range(2, 4)))
    block audio → question in layers [2, 3]
    """
    return BlockAttention(
        keys, queries, _numbers("layers", layers), None if heads is None else _numbers("heads", heads)
    )


def cuts_by_layer(interventions: Sequence[Any], run: Run, cfg: DecoderConfig) -> Mapping[int, Sequence[Cut]]:
    """The cuts of each layer, once every spec fits the model and the inputs."""
    cuts: dict[int, list[Cut]] = {}
    for spec in interventions:
        if not isinstance(spec, BlockAttention):
            raise InterventionError(
                "not an intervention",
                expected="av.block_attention(...)",
                got=type(spec).__name__,
                next_step="pass specs, not functions; functions go to model.hooks",
            )
        spec.check(cfg)
        cut = spec.cut(run)
        for layer in spec.layers:
            cuts.setdefault(layer, []).append(cut)
    return cuts


def _numbers(what: str, values: Any) -> tuple[int, ...]:
    given = [values] if isinstance(values, (Integral, str)) else list(values)
    if not given or not all(isinstance(value, Integral) for value in given):
        raise InterventionError(
            f"no {what} to cut" if not given else f"{what} are numbers",
            expected="one number, or several",
            got=given,
            next_step=f"name the {what}: {what}=range(2, 6)",
        )
    return tuple(sorted({int(value) for value in given}))


def _check_range(what: str, numbers: tuple[int, ...], n: int, spec: str) -> None:
    wrong = [number for number in numbers if not 0 <= number < n]
    if wrong:
        raise InterventionError(
            f"the model has no such {what} ({spec})",
            expected=f"{what} 0 to {n - 1}",
            got=wrong,
            next_step=f"count {what} from 0; model.cfg has their number",
        )
