"""Whether interventions act at all: what takes nothing away is refused, or reported where only this run makes it so.

A cut acts if it takes away some (query, key) pair that could be read: the key is no later than the query, and both are
there. A run whose cut takes nothing equals the clean run, and looks like a finding.

Axes: batch, pos (rows of the whole prompt, or those that are left).
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from hooked_av.decoder.cut_masks import takes_pairs
from hooked_av.decoder.cuts import AnyCut, Cut, members
from hooked_av.errors import HookedAVWarning, InterventionError
from hooked_av.hooks.run import Run

_MEDIA = ("audio", "video", "image")
LayerCuts = Sequence[tuple[int, AnyCut]]
Leaving = Mapping[int, Int64[Tensor, "batch span"]]
Leaves = Sequence[tuple[int, str]]


class Beside(NamedTuple):
    """What a cut has beside it: other cuts of its layer, rows that have left; `n_heads` are those of the model."""

    cuts: tuple[AnyCut, ...] = ()
    gone: Sequence[Tensor] = ()
    n_heads: int = 1  # of no account where there are no other cuts


ALONE = Beside()


def check_pairs(name: str, cuts: Iterable[AnyCut], run: Run) -> None:
    """Refuse cuts (or routes that stay) that hold no pair in any prompt of the batch; report those of some prompts.

    Between media the order is the prompt's own (the sound of a film of one second comes after its frames, that of a
    longer one in between): there it is a report, too.

    Errors: `InterventionError` where causal order alone says so: every key comes after every query.
    """
    cuts = list(dict.fromkeys(cuts))
    acts = _acting(cuts, run)
    plain = [cut for cut in cuts if isinstance(cut, Cut)]
    if not any(acts) and len(plain) == len(cuts) and all(_between_media(cut, run) for cut in plain):
        return _report(name, acts, "in this prompt, all of these keys come after all of these queries")
    if not any(acts) and len(plain) == len(cuts):
        raise InterventionError(
            f"this holds no (query, key) pair, so that it can never act ({name})",
            expected="keys that some query can read: those before it, and itself",
            got="keys that all come after the queries, or none",
            next_step="swap keys and queries: information flows from keys to queries, as in 'audio->question'",
        )
    if not all(acts):
        here = "causal order, or spans that they have not"
        _report(name, acts, here if any(acts) else "its routes or its draw leave every (query, key) pair")
    return None


def _between_media(cut: Cut, run: Run) -> bool:
    """Whether all queries and keys of a cut are tokens of media."""
    media = [[spans[name].positions for name in _MEDIA if name in spans] for spans in run.row_spans]
    rows = [np.concatenate(some) if some else np.zeros(0, int) for some in media]
    touched = [torch.cat([cut.queries[n], cut.keys[n]]).cpu().numpy() for n in range(len(rows))]
    touched = [own[own >= 0] for own in touched]
    return all(bool(np.isin(own, known).all()) for own, known in zip(touched, rows, strict=True))


def check_company(specs: Sequence[tuple[Any, LayerCuts, Leaves]], leaving: Leaving, run: Run, n_heads: int) -> None:
    """Report specs that others leave nothing to do: rows that left before, pairs that are cut already."""
    before: dict[int, tuple[AnyCut, ...]] = {}
    for number, (spec, cuts, leaves) in enumerate(specs):
        if cuts and (leaving or before):
            beside = {n: Beside(before.get(n, ()), _gone(leaving, n), n_heads) for n, _ in cuts}
            _check_cuts(str(spec), cuts, beside, run)
        for layer, cut in cuts:
            before[layer] = (*before.get(layer, ()), cut)
        others = [leave for other, (_, _, some) in enumerate(specs) if other != number for leave in some]
        same = [leave for _, _, some in specs[:number] for leave in some]
        if leaves and all(_has_left(leave, others, same, run) for leave in leaves):
            _report(str(spec), [False] * len(run.row_spans), "its rows have left before")


def _check_cuts(name: str, cuts: LayerCuts, beside: Mapping[int, Beside], run: Run) -> None:
    """Report cuts with nothing left to take, in prompts where they would act alone."""
    alone = _acting([cut for _, cut in cuts], run)
    there = [_acting([cut], run, beside[layer]._replace(cuts=())) for layer, cut in cuts]
    uncut = [_acting([cut], run, beside[layer]) for layer, cut in cuts]
    for found, why in (
        (there, "drop_tokens takes away its rows before"),
        (uncut, "other interventions cut the same, or take away its rows"),
    ):
        acts = [not one or any(some) for one, *some in zip(alone, *found, strict=True)]
        if not all(acts):
            return _report(name, acts, why)
    return None


def acts_within(cuts: LayerCuts, rows: range, run: Run) -> bool:
    """Whether a cut takes away a pair whose query is among these rows (those that a phase of a generation computes)."""
    return any(any(_takes(cut, run, within=rows)) for cut in dict.fromkeys(cut for _, cut in cuts))


def report_repeated(spec: Any, earlier: Sequence[Any], run: Run) -> None:
    """Report an edit that changes nothing of what others leave, or of what there is."""
    why = spec.adds_nothing_to(earlier, run)
    if why is not None:
        _report(str(spec), [False] * len(run.row_spans), why)


def report_idle(spec: Any, run: Run) -> None:
    """Report a spec that has nothing to say about these inputs."""
    _report(str(spec), [False] * len(run.row_spans), "it neither cuts, nor edits, nor drops anything of these inputs")


def _has_left(leave: tuple[int, str], others: Leaves, same: Leaves, run: Run) -> bool:
    """Whether rows have left before: in an earlier layer, or to a spec that was given earlier."""
    layer, span = leave
    spans = [name for since, name in others if since < layer] + [name for since, name in same if since == layer]
    if not spans:
        return False
    gone = [set().union(*(positions.resolve(name).positions.tolist() for name in spans)) for positions in run.row_spans]
    own = [set(positions.resolve(span).positions.tolist()) for positions in run.row_spans]
    return all(rows <= left for rows, left in zip(own, gone, strict=True))


def _gone(leaving: Leaving, layer: int) -> list[Tensor]:
    return [rows for since, rows in leaving.items() if since <= layer]


def _acting(cuts: Sequence[AnyCut], run: Run, beside: Beside = ALONE) -> list[bool]:
    """For each prompt: whether one of the cuts takes away a pair that is there, and that no other takes."""
    if beside.gone:  # the rows differ from plan to plan
        found = [_takes(cut, run, beside) for cut in cuts]
    else:  # cells of a sweep share their cuts
        found = [run.once(("acts", cut, beside.cuts), partial(_takes, cut, run, beside)) for cut in cuts]
    return [any(prompt) for prompt in zip(*found, strict=True)] or [False] * len(run.row_spans)


def _takes(cut: AnyCut, run: Run, beside: Beside = ALONE, within: range | None = None) -> list[bool]:
    """The same of one cut, in queries of all positions or of some."""
    everywhere = range(run.row_spans[0].n_pos)
    starts = run.once("starts", lambda: [min(int(s.positions[0]) for s in spans.values()) for spans in run.row_spans])
    found = []
    for number, start in enumerate(starts):
        one = slice(number, number + 1)
        left = torch.arange(start, everywhere.stop, device=run.device)[None]
        for some in beside.gone:
            left = left[:, ~members(left, some[one])[0]]
        asked = within or everywhere
        queries = left[:, (left[0] >= asked.start) & (left[0] < asked.stop)]
        found.append(takes_pairs(cut.of(one), queries, left, [other.of(one) for other in beside.cuts], beside.n_heads))
    return found


def _report(name: str, acts: Sequence[bool], why: str) -> None:
    silent = [number for number, one in enumerate(acts) if not one]
    where = f" in prompts {silent} of the batch" if len(acts) > 1 else ""
    warnings.warn(f"this intervention changes nothing{where} ({name}): {why}", HookedAVWarning, stacklevel=2)
