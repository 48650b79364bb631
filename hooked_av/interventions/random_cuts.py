"""Random cuts: the control of a cut, as large as it and in the same layers, but of pairs drawn at random."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

from hooked_av.config import DecoderConfig
from hooked_av.decoder.cuts import AnyCut, RandomCut, count_cut, spread_evenly
from hooked_av.doors import door
from hooked_av.errors import InterventionError
from hooked_av.hooks.generation_run import GenerationRun, Reach
from hooked_av.hooks.run import Run
from hooked_av.interventions.acting import check_pairs
from hooked_av.interventions.intervention import Intervention
from hooked_av.interventions.specs import BlockAttention, KeepOnly, as_specs

Spread = Literal["entries", "rows"]


@door
@dataclass(frozen=True)
class BlockRandom(Intervention):
    """As many (query, key) pairs as `like` takes away, drawn at random; made by `block_random`."""

    kind: ClassVar[str] = "block_random"
    like: tuple[BlockAttention | KeepOnly, ...]
    spread: Spread = "entries"
    seed: int = 0

    def __str__(self) -> str:
        return f"block at random ({self.spread}, seed {self.seed}) as much as: {'; '.join(map(str, self.like))}"

    def check(self, cfg: DecoderConfig) -> None:
        for spec in self.like:
            spec.check(cfg)

    def cuts(self, run: Run, cfg: DecoderConfig) -> list[tuple[int, AnyCut]]:
        return run.once(("random", self), partial(_drawn, self, run, cfg))

    def reach(self, run: GenerationRun) -> Reach:
        return Reach(prompt=True, to_come=False)  # it is drawn from the pairs of the prompt

    @property
    def heads(self) -> tuple[int, ...] | None:
        """The heads that are cut, those of `like`."""
        return getattr(self.like[0], "heads", None)


@door
def block_random(like: Any, *, spread: Spread = "entries", seed: int = 0) -> BlockRandom:
    """Is it this pathway that matters, or would any cut of its size do? The random control of a cut.

    It takes away exactly as many (query, key) pairs as `like`, in the same layers and heads, from the same causal
    triangle. The control of a `block_attention` cuts the same pairs in each of its layers, as the cut does; that of a
    `keep_only` draws anew in each layer.

    Args:
        like: the cut, or several that act together: `block_attention`s (routes as text) or one `keep_only`.
        spread: "entries" draws uniformly from all pairs of the triangle; "rows" takes from each query row as many keys
            as the cut takes from it (tighter, and cheaper to replay: earlier rows are left alone).
        seed: of the draw. Equal seeds give equal draws, in full passes and in replays.

    A row that loses all its keys reads zero, as for any cut. Tokens generated later lose nothing.

    Errors: `InterventionError` for what is no cut, and for cuts of different heads.

    >>> print(block_random("audio->question@2", seed=1))
    block at random (entries, seed 1) as much as: block audio → question in layers [2]
    """
    cuts = tuple(spec for spec in as_specs(like) if isinstance(spec, (BlockAttention, KeepOnly)))
    fits = len(cuts) == len(as_specs(like)) > 0 and len({getattr(cut, "heads", None) for cut in cuts}) == 1
    fits = fits and (len(cuts) == 1 or all(isinstance(cut, BlockAttention) for cut in cuts))
    if not fits:
        raise InterventionError(
            "cannot draw a random cut like this",
            expected="block_attentions of the same heads, or one keep_only",
            got=[str(spec) for spec in as_specs(like)],
            next_step="give the cut that this is a control of: block_random(av.block_attention(...))",
        )
    return BlockRandom(cuts, spread, seed)


def _drawn(spec: BlockRandom, run: Run, cfg: DecoderConfig) -> list[tuple[int, AnyCut]]:
    """As many pairs as the cuts that it is like, layer by layer."""
    like: dict[int, list[AnyCut]] = {}
    for one in spec.like:
        cuts_of_one = one.cuts(run, cfg)
        check_pairs(str(one), [cut for _, cut in cuts_of_one], run)
        for layer, cut in cuts_of_one:
            like.setdefault(layer, []).append(cut)
    # padding belongs to no span, and every prompt's first token to one
    starts = tuple(min(int(span.positions[0]) for span in spans.values()) for spans in run.row_spans)
    drawn: dict[tuple[tuple[int, ...], int], RandomCut] = {}
    cuts: list[tuple[int, AnyCut]] = []
    for layer, some in like.items():
        seed = spec.seed * cfg.n_layers + layer if isinstance(spec.like[0], KeepOnly) else spec.seed
        key = (tuple(map(id, some)), seed)
        if key not in drawn:
            counts = count_cut(some, run.n_pos, starts, run.device)
            if spec.spread == "entries":
                counts = spread_evenly(counts, starts, seed)
            drawn[key] = RandomCut.drawn(counts, starts, seed, spec.heads)
        cuts.append((layer, drawn[key]))
    return cuts
