"""Attribution patching: a table of patches estimated from one backward pass (Nanda 2023; Syed et al. 2023).

The effect of a patch is, to first order, the gradient of the metric at the corrupt run times the difference that the
patch makes. One backward pass gives all cells at once; how far to trust it is what its correlation with the exact table
says.

Axes: row (a span of a component, or a head), layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from transformer_lens.utilities import get_act_name  # pyright: ignore[reportPrivateImportUsage]

from hooked_av.analyses.metric import Metric
from hooked_av.analyses.patching.exchange import ROWS, Exchange
from hooked_av.analyses.patching.positions import PositionPatching, media_rows
from hooked_av.analyses.patching.spans import (
    COMPONENTS,
    EFFECTS,
    SPANS,
    HeadPatching,
    PatchEffects,
    SpanPatching,
    present,
)
from hooked_av.analyses.several import several
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

PatchTable = Literal["spans", "heads", "positions"]


@dataclass(frozen=True, eq=False, kw_only=True)
class AttributionPatching(PatchEffects):
    """Estimated effects (`metric_patched` is the estimate), beside the exact ones where they are known."""

    figure: ClassVar = "hooked_av.plots.attribution:plot_attribution_patching"
    axes: ClassVar = dict.fromkeys(("metric_patched", "effects", "exact"), ("row", "layer"))
    labels: ClassVar = {"row": "rows"}
    columns: ClassVar = ("row", "layer", *EFFECTS, "exact")
    exact: Float64[np.ndarray, "row layer"]  # effects by real patches; nan if no exact table was given
    rows: tuple[str, ...]
    table: str

    @property
    def correlation(self) -> float:
        """Pearson's correlation of estimated and exact effects over all cells; nan without an exact table."""
        if np.isnan(self.exact).any():
            return float("nan")
        return float(np.corrcoef(self.effects.ravel(), self.exact.ravel())[0, 1])


@door
def attribution_patching(
    model: "HookedAVTransformer",
    *,
    clean: AVInputs,
    corrupt: AVInputs,
    table: PatchTable = "spans",
    spans: str | Sequence[str] | None = None,
    components: str | Sequence[str] = COMPONENTS,
    exact: SpanPatching | HeadPatching | PositionPatching | None = None,
    metric: Metric = "logit_difference",
    answer: str | int | None = None,
    alternative: str | int | None = None,
) -> AttributionPatching:
    """What would every patch of a table do, to first order?

    Args:
        table: "spans" (as `patch_spans`: components by span), "heads" (as `patch_heads`: z of each head at one span),
            or "positions" (as `patch_positions`: each media row of one component).
        spans: None: those of `patch_spans`; "last" for heads; all media rows for positions.
        components: of a table of spans, or the one of a table of positions ("resid_pre" unless named).
        exact: the table of real patches, to compare with; of the same prompts, spans and components.
        metric, answer, alternative: as for `patch_spans`.

    It takes two cached forward passes and one backward pass, whatever the number of cells.

    Errors: as for `patch_spans`; `InputsError` for an exact table of other cells or answers.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, (sample, other) = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1:4:2]
    >>> pair = av.make_pair(model, sample.clip, "audio", other=other.clip, question=sample.question)
    >>> exact = av.patch_heads(model, clean=pair.clean, corrupt=pair.corrupt)
    >>> estimate = av.attribution_patching(model, clean=pair.clean, corrupt=pair.corrupt, table="heads", exact=exact)
    >>> estimate.effects.shape, estimate.correlation > 0.5
    ((4, 8), True)
    """
    named = None if spans is None else several(spans)
    grid = _Grid.of(model, corrupt, table, named, several(components))
    names = [get_act_name(component, layer) for component in grid.components for layer in range(model.cfg.n_layers)]
    exchange = Exchange(
        model, clean, corrupt, grid.places, names, metric=metric, answer=answer, alternative=alternative
    )
    exchange.contrast.check_differs()
    gradients = _gradients(model, exchange, names)
    changes = np.stack([_first_order(model, exchange, gradients, *row) for row in grid.rows])
    return AttributionPatching(
        metric_patched=exchange.contrast.corrupt + changes,
        exact=_exact_effects(exact, changes.shape, exchange.contrast.answers),
        rows=grid.names,
        table=table,
        **exchange.fields(table=table, spans=list(grid.places), components=list(grid.components)),
    )


@dataclass(frozen=True)
class _Grid:
    """The rows of a table: component, place and head (None: all heads, or a component without heads)."""

    rows: tuple[tuple[str, str, int | None], ...]
    names: tuple[str, ...]
    places: Mapping[str, np.ndarray]

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(component for component, _, _ in self.rows))

    @classmethod
    def of(
        cls,
        model: "HookedAVTransformer",
        inputs: AVInputs,
        table: PatchTable,
        spans: tuple[str, ...] | None,
        components: tuple[str, ...],
    ) -> "_Grid":
        if table == "heads":
            (span,) = ("last",) if spans is None else _one(spans, "span")
            heads = range(model.cfg.n_heads)
            places = {span: inputs.spans.resolve(span).positions}
            return cls(tuple(("z", span, head) for head in heads), tuple(f"head {head}" for head in heads), places)
        if table == "positions":
            (component,) = components[:1] if components == COMPONENTS else _one(components, "component")
            rows = media_rows(inputs, None if spans is None else "|".join(spans))
            places = {name: np.array(positions) for name, positions in rows.items()}
            return cls(tuple((component, name, None) for name in rows), tuple(rows), places)
        known = present(inputs, SPANS) if spans is None else spans
        cells = tuple((component, span, None) for component in components for span in known)
        places = {span: inputs.spans.resolve(span).positions for span in known}
        return cls(cells, tuple(f"{span} · {component}" for component, span, _ in cells), places)


def _gradients(model: "HookedAVTransformer", exchange: Exchange, names: Sequence[str]) -> Mapping[str, Tensor]:
    """The metric's gradient at each point's rows, in the corrupt run; parameters and encoders get none."""
    with torch.no_grad():
        resid = model(exchange.corrupt, stop_at_layer=0)
    keys = [f"{name}@{ROWS}" for name in names]
    kept, _, backward = model.get_caching_hooks(keys, incl_bwd=True)
    with torch.enable_grad(), model.hooks(bwd_hooks=backward):
        resid = resid.detach().requires_grad_(True)
        logits = model(exchange.corrupt, start_at_layer=0, resid=resid, logits_at="last")
        torch.autograd.grad(exchange.contrast(logits[0, -1]), resid)
    return {key: kept[f"{key}_grad"] for key in keys}


def _first_order(
    model: "HookedAVTransformer",
    exchange: Exchange,
    gradients: Mapping[str, Tensor],
    component: str,
    place: str,
    head: int | None,
) -> Float64[np.ndarray, " layer"]:
    """Gradient times difference, summed over the rows and numbers of a patch, layer by layer."""
    changes = []
    for layer in range(model.cfg.n_layers):
        point = get_act_name(component, layer)
        clean, corrupt, gradient = (
            exchange.values(run, point, place).double()
            for run in (exchange.clean_rows, exchange.corrupt_rows, gradients)
        )
        product = gradient * (clean - corrupt)
        changes.append(float((product if head is None else product[..., head, :]).sum()))
    return np.array(changes)


def _exact_effects(
    exact: PatchEffects | None, shape: tuple[int, ...], answers: tuple[str, str]
) -> Float64[np.ndarray, "row layer"]:
    if exact is None:
        return np.full(shape, np.nan)
    effects = exact.effects.reshape(-1, shape[1]) if isinstance(exact, SpanPatching) else exact.effects.T
    if effects.shape != shape or exact.answers != answers:
        raise _does_not_fit(
            f"an exact table of {shape[0]} rows x {shape[1]} layers, for the answers {answers}",
            f"{effects.shape[0]} rows x {effects.shape[1]} layers, for the answers {exact.answers}",
        )
    return np.array(effects)


def _one(several: Sequence[str], what: str) -> Sequence[str]:
    if isinstance(several, str) or len(several) != 1:
        raise _does_not_fit(f"one {what}, in a list", repr(several))
    return several


def _does_not_fit(expected: str, got: str) -> InputsError:
    return InputsError(
        "these arguments do not fit attribution patching",
        expected=expected,
        got=got,
        next_step="name the table as its exact twin (patch_spans, patch_heads, patch_positions) does",
    )
