"""Back-patching: would the answer be better if an early layer had what only a late layer knows?

The residual stream that leaves a late layer is written in place of the one that leaves an earlier layer, at the same
rows (Biran et al. 2024). Within one prompt it asks whether the later layers came too late; from a clean into a corrupt
prompt it asks at which depth the clean information is usable.

Axes: source (the layer that is read), target (the layer that is overwritten, before the source).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float64
from transformer_lens.utilities import get_act_name  # pyright: ignore[reportPrivateImportUsage]

from hooked_av.analyses.metric import Metric
from hooked_av.analyses.patching.contrast import token_id
from hooked_av.analyses.patching.exchange import Exchange
from hooked_av.analyses.patching.spans import EFFECTS, PatchEffects
from hooked_av.doors import door
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer


@dataclass(frozen=True, eq=False, kw_only=True)
class BackPatching(PatchEffects):
    """The metric with a late layer's rows in an earlier layer; nan where the source does not come after the target.

    Within one prompt `metric_clean` equals `metric_corrupt`, and `effects` are nan: look at `changes`.
    """

    figure: ClassVar = "hooked_av.plots.patching:plot_back_patching"
    axes: ClassVar = dict.fromkeys(("metric_patched", "effects"), ("source", "target"))
    columns: ClassVar = ("source", "target", *EFFECTS)
    span: str
    is_one_prompt: bool

    @property
    def effects(self) -> Float64[np.ndarray, "source target"]:
        return np.full_like(self.metric_patched, np.nan) if self.is_one_prompt else super().effects

    @property
    def changes(self) -> Float64[np.ndarray, "source target"]:
        """metric_patched - metric_corrupt: more is better for the clean answer."""
        return self.metric_patched - self.metric_corrupt


@door
def back_patch(
    model: "HookedAVTransformer",
    *,
    clean: AVInputs,
    corrupt: AVInputs | None = None,
    span: str = "last",
    metric: Metric = "logit_difference",
    answer: str | int | None = None,
    alternative: str | int | None = None,
    progress: bool = False,
) -> BackPatching:
    """Does the answer change when a late layer's output stands where an earlier layer's output stood?

    Args:
        clean: the prompt whose late layers are read.
        corrupt: the prompt whose early layers are overwritten, of the same layout; None: `clean` itself.
        span: the rows that are written.
        metric, progress: as for `patch_spans`.
        answer, alternative: as for `patch_spans`; within one prompt None stands for its most probable tokens.

    Errors: as for `patch_spans`; within one prompt the metric need not differ.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, sample = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1]
    >>> table = av.back_patch(model, clean=model.prepare(sample.clip, question=sample.question), span="question")
    >>> table.answers[0], int(np.isfinite(table.changes).sum())
    ('five', 28)
    """
    is_one_prompt = corrupt is None
    corrupt = clean if corrupt is None else corrupt
    if is_one_prompt:
        answer, alternative = _most_probable(model, clean, answer, alternative)
    n_layers = model.cfg.n_layers
    points = [get_act_name("resid_post", layer) for layer in range(n_layers)]
    places = {span: corrupt.spans.resolve(span).positions}
    exchange = Exchange(model, clean, corrupt, places, points, metric=metric, answer=answer, alternative=alternative)
    if not is_one_prompt:
        exchange.contrast.check_differs()
    rows = [exchange.values(exchange.clean_rows, point, span) for point in points]
    pairs = [(source, target) for source in range(n_layers) for target in range(source)]
    measured = np.full((n_layers, n_layers), np.nan)
    cells = [exchange.spec(points[target], span, rows[source]) for source, target in pairs]
    for (source, target), value in zip(pairs, exchange.run(cells, progress=progress), strict=True):
        measured[source, target] = value
    return BackPatching(metric_patched=measured, span=span, is_one_prompt=is_one_prompt, **exchange.fields(span=span))


def _most_probable(
    model: "HookedAVTransformer", inputs: AVInputs, answer: str | int | None, alternative: str | int | None
) -> tuple[int, int]:
    """The named tokens, or in place of what is not named the most probable ones; never the same twice by default."""
    named = [None if token is None else token_id(model, token) for token in (answer, alternative)]
    with torch.no_grad():
        best = model(inputs, logits_at="last")[0, -1].topk(3).indices.tolist()
    free = iter([token for token in best if token not in named])
    first, second = (next(free) if token is None else token for token in named)
    return first, second
