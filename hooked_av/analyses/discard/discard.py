"""Discarding tokens: is the answer still there once a span has left the sequence, and what does that save?

Rows leave before a layer; the others keep their positions. Answers come from the replay engine; time, arithmetic and
key/value bytes are measured on real passes.

Axes: drop (span and rule), layer (the first that runs without the tokens), sample, measured (the first of the samples,
whose cost is measured), repeat, edge (of an interval).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from hooked_av.analyses.bootstrap import bootstrap_interval
from hooked_av.analyses.cases import Case, over_cases
from hooked_av.analyses.discard.cost import ARRAYS, Costs, costs_of, formula_macs
from hooked_av.analyses.discard.rules import Rule, check_rules, dropped, last_row_attention
from hooked_av.analyses.results import Result, run_settings
from hooked_av.analyses.several import several
from hooked_av.doors import door
from hooked_av.errors import InterventionError
from hooked_av.interventions.routes import check_range
from hooked_av.interventions.specs import DropTokens, Kv, drop_tokens
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

UNKNOWN = -1  # id of an answer that nobody gave


@dataclass(frozen=True, eq=False, kw_only=True)
class DiscardCurve(Result):
    """Answers of every sample with tokens dropped before each layer, and what the dropping costs and saves."""

    figure: ClassVar = "hooked_av.plots.discard:plot_discard_curve"
    axes: ClassVar = {
        "layers": ("layer",),
        "best_ids": ("drop", "layer", "sample"),
        "p_drop": ("drop", "layer", "sample"),
        "n_dropped": ("drop", "sample"),
        "n_pos": ("sample",),
        "clean_ids": ("sample",),
        "p_clean": ("sample",),
        "answer_ids": ("sample",),
        "formula": ("drop", "layer", "sample"),
        "clean_formula": ("sample",),
        **ARRAYS,
        **dict.fromkeys(("spans", "rules"), ("drop",)),
        **dict.fromkeys(("agrees", "correct"), ("drop", "layer", "sample")),
        "clean_correct": ("sample",),
    }
    labels: ClassVar = {"layer": "layers", "sample": "ids"}
    columns: ClassVar = ("span=spans", "rule=rules", "layer", "n_samples")
    layers: Int64[np.ndarray, " layer"]
    best_ids: Int64[np.ndarray, "drop layer sample"]  # the answer without the tokens
    p_drop: Float64[np.ndarray, "drop layer sample"]  # probability of the clean answer without the tokens
    n_dropped: Int64[np.ndarray, "drop sample"]
    n_pos: Int64[np.ndarray, " sample"]
    clean_ids: Int64[np.ndarray, " sample"]
    p_clean: Float64[np.ndarray, " sample"]
    answer_ids: Int64[np.ndarray, " sample"]  # the right answer, -1 where it is not known
    formula: Int64[np.ndarray, "drop layer sample"]  # MACs of all layers by formula
    clean_formula: Int64[np.ndarray, " sample"]
    macs: Int64[np.ndarray, "drop layer measured"]  # counted: the layers, and the unembedding of the last row
    clean_macs: Int64[np.ndarray, " measured"]
    kv_bytes: Int64[np.ndarray, "drop layer measured"]
    clean_kv_bytes: Int64[np.ndarray, " measured"]
    seconds: Float64[np.ndarray, "drop layer measured repeat"]  # wall time of the prefill, encoders left out
    clean_seconds: Float64[np.ndarray, "drop layer measured repeat"]  # of a clean one, right next to it
    spans: tuple[str, ...]  # of each drop
    rules: tuple[str, ...]  # of each drop
    kept_share: float  # of the span, by rules other than "all"
    kv: str
    ids: tuple[str, ...]  # of the samples

    @property
    def n_samples(self) -> int:
        return len(self.ids)

    @property
    def names(self) -> tuple[str, ...]:
        """What each drop takes away, in words."""
        left = f"{100 * (1 - self.kept_share):.0f} %"
        return tuple(
            span if rule == "all" else f"{left} of {span}, {_WORDS[rule]}"
            for span, rule in zip(self.spans, self.rules, strict=True)
        )

    @property
    def agrees(self) -> Float64[np.ndarray, "drop layer sample"]:
        """1 where the answer is that of the clean run."""
        return (self.best_ids == self.clean_ids).astype(np.float64)

    @property
    def correct(self) -> Float64[np.ndarray, "drop layer sample"]:
        """1 where the answer is right, NaN where the right one is not known."""
        return np.where(self.answer_ids == UNKNOWN, np.nan, self.best_ids == self.answer_ids)

    @property
    def clean_correct(self) -> Float64[np.ndarray, " sample"]:
        """The same of the clean run."""
        return np.where(self.answer_ids == UNKNOWN, np.nan, self.clean_ids == self.answer_ids)

    @property
    def has_answers(self) -> bool:
        """Whether any right answer is known, so that there is an accuracy."""
        return bool((self.answer_ids != UNKNOWN).any())

    def interval(self, values: Float64[np.ndarray, "drop layer sample"]) -> Float64[np.ndarray, "edge=2 drop layer"]:
        """Bootstrap interval of the mean over samples of `agrees`, `correct`, or `correct - clean_correct`."""
        samples = np.moveaxis(values, -1, 0)
        unknown = bool(np.isnan(samples).all())  # no sample has an answer: one sample's interval, NaN
        return bootstrap_interval(samples[:1] if unknown else samples)

    @property
    def saved_percent(self) -> dict[str, Float64[np.ndarray, "drop layer"]]:
        """Of the clean prefill: "time", "macs" and "kv_bytes" as measured, "formula" (MACs) on the same samples.

        Time is that of the fastest repeat, against the fastest of the clean passes next to it.
        """
        n_measured = self.macs.shape[2]
        shares = {
            "time": (self.seconds.min(axis=3) / self.clean_seconds.min(axis=3)).mean(axis=2),
            "macs": (self.macs / self.clean_macs).mean(axis=2),
            "formula": (self.formula / self.clean_formula)[..., :n_measured].mean(axis=2),
            "kv_bytes": (self.kv_bytes / self.clean_kv_bytes).mean(axis=2),
        }
        return {name: 100 * (1 - share) for name, share in shares.items()}

    def to_frame(self) -> pd.DataFrame:
        """One row a drop and layer: accuracy and agreement with intervals, and costs, means over samples."""
        change, table = self.correct - self.clean_correct, {}
        for name, values in (("agreement", self.agrees), ("accuracy", self.correct), ("accuracy_change", change)):
            low, high = self.interval(values)
            table |= {name: _known_mean(values).ravel(), f"{name}_low": low.ravel(), f"{name}_high": high.ravel()}
        table |= {
            "seconds": self.seconds.min(axis=3).mean(axis=2).ravel(),
            "clean_seconds": self.clean_seconds.min(axis=3).mean(axis=2).ravel(),
            "macs": self.macs.mean(axis=2).ravel(),
            "clean_macs": self.clean_macs.mean(),
            "formula": self.formula[..., : self.macs.shape[2]].mean(axis=2).ravel(),
            "clean_formula": self.clean_formula[: self.macs.shape[2]].mean(),
            "kv_bytes": self.kv_bytes.mean(axis=2).ravel(),
            "clean_kv_bytes": self.clean_kv_bytes.mean(),
        }
        saved = {f"{name}_saved_percent": percent.ravel() for name, percent in self.saved_percent.items()}
        return super().to_frame().assign(**table, **saved)

    def samples_frame(self) -> pd.DataFrame:
        """One row a drop, layer and sample."""
        return self.tabulate(
            "span=spans", "rule=rules", "layer", "sample", "n_pos", "n_dropped", "p_clean", "p_drop", "agrees",
            "correct", "clean_correct", "formula",
        )  # fmt: skip


_WORDS = {"random": "at random", "uniform": "evenly", "attention": "least attended"}


@door
def discard_curve(
    model: "HookedAVTransformer",
    cases: Any,
    spans: str | Sequence[str] = ("audio", "video", "av"),
    layers: Sequence[int] | None = None,
    *,
    rules: Rule | Sequence[Rule] = "all",
    kept_share: float = 0.5,
    kv: Kv = "keep",
    n_measured: int = 1,
    repeats: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> DiscardCurve:
    """From which layer on is a span not needed any more, and what is saved by leaving it out?

    For each span and rule and each layer l the tokens leave before layer l; accuracy and agreement with the clean run
    are read at the last position. Prefill time, arithmetic and key/value bytes are measured on real passes of the first
    samples, next to the formula (`flops.layer_macs`, summed over layers). The encoders are no part of that.

    Args:
        cases: one prompt, one `Case`, or several; accuracy needs cases with an answer.
        spans: what is dropped, span algebra included ("question - last").
        layers: the first layers that run without them (None: all that the rules allow).
        rules: "all" of the span; or a part of it: "random", "uniform" (those kept are evenly spaced), "attention"
            (those that the last token reads least in the layer before, as in FastV; from layer 1 on).
        kept_share: of the span, by rules other than "all".
        kv: whether keys and values of earlier layers stay for decoding ("keep") or go ("drop").
        n_measured: of so many samples, the first ones, the cost is measured.
        repeats: timed passes of each, every one next to a clean pass.
        seed: of random drops.
        progress: show a bar over samples.

    Errors: `SpanError` for a sample without one of the spans; `InterventionError` for layers, rules or shares that do
    not fit, and for spans that hold the last token; `InputsError` for an answer of several tokens.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model = av.HookedAVTransformer.from_pretrained("tiny-av")
    >>> sample = read_samples()[0]
    >>> inputs = model.prepare(sample.clip, question=sample.question)
    >>> curve = av.discard_curve(model, av.Case(inputs, sample.answer), "video", [0, 7], repeats=1)
    >>> curve.correct[0, :, 0].tolist()
    [0.0, 1.0]
    """
    drops, layers = _drops(model.cfg.n_layers, spans, layers, rules, kept_share)
    _check_sizes(drops, layers, n_measured, repeats)
    numbers = count()

    def measure(case: Case) -> tuple[str, dict[str, np.ndarray], Costs | None]:
        number = next(numbers)
        inputs, specs, n_dropped = _specs(model, case, drops, layers, kept_share, kv, [seed, number])
        clean, dropping = formula_macs(model.cfg, inputs.n_pos, n_dropped, layers)
        sizes = {"n_dropped": n_dropped, "n_pos": np.array(inputs.n_pos)}
        answers = _answers(model, inputs, case, specs) | sizes | {"formula": dropping, "clean_formula": clean}
        return case.id, answers, costs_of(model, inputs, specs, repeats) if number < n_measured else None

    found = over_cases(cases, measure, progress=progress)
    ids, rows, costs = zip(*found.samples, strict=True)
    return DiscardCurve(
        layers=np.array(layers, dtype=np.int64),
        **{name: np.stack([row[name] for row in rows], axis=-1) for name in rows[0]},
        **Costs.stacked(costs[:n_measured]),
        spans=tuple(span for span, _ in drops),
        rules=tuple(rule for _, rule in drops),
        kept_share=float(kept_share),
        kv=kv,
        ids=ids,
        settings=run_settings(model, found.last, seed=seed, device=str(model.device)),
    )


def _specs(
    model: "HookedAVTransformer",
    case: Case,
    drops: Sequence[tuple[str, Rule]],
    layers: Sequence[int],
    kept_share: float,
    kv: Kv,
    seed: Sequence[int],
) -> tuple[AVInputs, list[list[DropTokens]], Int64[np.ndarray, " drop"]]:
    """The prompt with a span for what each drop takes away before each layer, the specs, and how many tokens leave."""
    inputs = case.inputs.to(model.device)
    by_attention = any(rule == "attention" for _, rule in drops)
    scores = last_row_attention(model, inputs, layers) if by_attention else {}
    specs: list[list[DropTokens]] = []
    n_dropped = []
    for number, (span, rule) in enumerate(drops):
        positions = inputs.spans.resolve(span).positions
        specs.append([])
        for layer in layers:
            # the same draw for every layer, so that a curve shows layers and not luck
            rng = np.random.default_rng([*seed, number])
            gone = dropped(rule, positions, kept_share, rng, scores.get(layer))
            name = f"dropped_{number}_before_{layer}"
            inputs = inputs.with_span(name, gone)
            specs[-1].append(drop_tokens(name, layer, kv))
        n_dropped.append(len(inputs.spans[specs[-1][0].span]))  # as many before each layer
    return inputs, specs, np.array(n_dropped, dtype=np.int64)


def _answers(
    model: "HookedAVTransformer", inputs: AVInputs, case: Case, specs: Sequence[Sequence[DropTokens]]
) -> dict[str, np.ndarray]:
    """One sample on the replay engine."""
    baseline = model.baseline(inputs)
    logits = baseline.logits_under([spec for row in specs for spec in row])
    shape = (len(specs), len(specs[0]))
    clean = baseline.logits.float().softmax(dim=-1)
    clean_id = int(clean.argmax())
    p_drop = logits.float().softmax(dim=-1)[:, clean_id]
    return {
        "best_ids": logits.argmax(dim=-1).view(shape).cpu().numpy(),
        "p_drop": p_drop.view(shape).cpu().double().numpy(),
        "clean_ids": np.array(clean_id),
        "p_clean": np.array(float(clean[clean_id])),
        "answer_ids": np.array(UNKNOWN if case.answer is None else model.to_single_token(case.answer)),
    }


def _known_mean(values: Float64[np.ndarray, "drop layer sample"]) -> Float64[np.ndarray, "drop layer"]:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=-1) / known.sum(axis=-1)


def _drops(
    n_layers: int,
    spans: str | Sequence[str],
    layers: Sequence[int] | None,
    rules: Rule | Sequence[Rule],
    kept_share: float,
) -> tuple[list[tuple[str, Rule]], list[int]]:
    """Every span with every rule, and the layers; checked."""
    names: list[str] = list(several(spans))
    chosen: list[Rule] = [rules] if isinstance(rules, str) else list(rules)
    first = 1 if "attention" in chosen else 0
    layers = list(range(first, n_layers)) if layers is None else [int(layer) for layer in layers]
    check_range("layers", tuple(layers), n_layers, "discard_curve")
    check_rules(chosen, kept_share, layers)
    return [(span, rule) for span in names for rule in chosen], layers


def _check_sizes(drops: Sequence[Any], layers: Sequence[int], n_measured: int, repeats: int) -> None:
    if not drops or not layers or n_measured < 1 or repeats < 1:
        raise InterventionError(
            "nothing to drop, or nothing to measure",
            expected="at least one span, one layer, one measured sample and one repeat",
            got=f"{len(drops)} spans, {len(layers)} layers, n_measured={n_measured}, repeats={repeats}",
            next_step='for example av.discard_curve(model, cases, spans=["audio", "video"])',
        )
