"""Exchange: two runs of one layout, and what the corrupt run answers with some of its rows taken from the clean one.

Both runs are cached at the rows and hook points that are patched, nowhere else. Patches run on the replay engine; a
patch of rows that do not differ is not run at all, because it changes exactly nothing.

Axes: cell (one patch), row (positions that any patch touches).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from tqdm.auto import tqdm

from hooked_av.analyses.metric import Metric
from hooked_av.analyses.patching.contrast import Contrast
from hooked_av.analyses.patching.pairs import check_same_layout
from hooked_av.analyses.results import run_settings
from hooked_av.errors import InterventionError
from hooked_av.hooks.cache import AVCache
from hooked_av.interventions.specs import Patch, patch
from hooked_av.prompt.inputs import AVInputs
from hooked_av.prompt.spans import PositionSet, Spans

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

ROWS = "_patched"  # the span of all rows that are patched
_LOGITS_AT_ONCE = 2**25  # numbers


class Exchange:
    """A clean and a corrupt run, the contrast between them, and patches from the first into the second.

    Args:
        places: what is patched: a name, and the positions of its rows.
        points: hook points, such as "blocks.3.hook_attn_out".
    """

    def __init__(
        self,
        model: "HookedAVTransformer",
        clean: AVInputs,
        corrupt: AVInputs,
        places: Mapping[str, PositionSet],
        points: Sequence[str],
        *,
        metric: Metric = "logit_difference",
        answer: str | int | None = None,
        alternative: str | int | None = None,
    ) -> None:
        _check_closed(model)
        check_same_layout(clean, corrupt)
        self.model, self.rows = model, np.unique(np.concatenate([np.asarray(rows) for rows in places.values()]))
        self.numbers = {name: number for number, name in enumerate(places)}
        self.places = {name: np.asarray(rows) for name, rows in places.items()}
        self.corrupt = _with_places(corrupt, self.rows, self.places)
        keys = [f"{point}@{ROWS}" for point in points]
        with torch.no_grad():
            logits, self.clean_rows = model.run_with_cache(
                _with_places(clean, self.rows, {}), names_filter=keys, logits_at="last"
            )
            _, self.corrupt_rows = model.run_with_cache(self.corrupt, names_filter=keys, logits_at="last")
        self.baseline = model.baseline(self.corrupt, touched=ROWS)
        self.contrast = Contrast.of(model, logits[0, -1], self.baseline.logits, metric, answer, alternative)

    def patch(self, point: str, place: str) -> Patch | None:
        """The spec that brings a place's rows of the clean run; None where they are those of the corrupt run."""
        clean, corrupt = (self.values(run, point, place) for run in (self.clean_rows, self.corrupt_rows))
        return None if torch.equal(clean, corrupt) else self.spec(point, place, clean)

    def values(self, run: AVCache | Mapping[str, Tensor], point: str, place: str) -> Tensor:
        """A place's rows in one of the two runs."""
        return run[f"{point}@{ROWS}"][:, np.searchsorted(self.rows, self.places[place])]

    def spec(self, point: str, place: str, values: Tensor) -> Patch:
        """The spec that writes these values into a place's rows."""
        return patch(point, _span(self.numbers[place]), values)

    def run(self, cells: Sequence[Patch | None], *, progress: bool = False) -> Float64[np.ndarray, " cell"]:
        """The metric of the corrupt run under each patch; None leaves the run as it is."""
        measured = np.full(len(cells), self.contrast.corrupt)
        live = [number for number, cell in enumerate(cells) if cell is not None]
        at_once = max(1, _LOGITS_AT_ONCE // self.model.cfg.d_vocab)
        with tqdm(total=len(live), desc="patches", unit="patch", disable=not progress) as bar:
            for start in range(0, len(live), at_once):
                some = live[start : start + at_once]
                measured[some] = self.contrast(self.baseline.logits_under([cells[i] for i in some])).cpu().numpy()
                bar.update(len(some))
        return measured

    def fields(self, **own: Any) -> dict[str, Any]:
        """What every result of an exchange holds: the contrast, and the settings."""
        return {
            "metric_clean": self.contrast.clean,
            "metric_corrupt": self.contrast.corrupt,
            "metric": self.contrast.metric,
            "answers": self.contrast.answers,
            "settings": run_settings(self.model, self.corrupt, metric=self.contrast.metric, **own),
        }


def in_heads(cell: Patch | None, heads: int) -> Patch | None:
    """The same patch in one head; its values are shared, not copied."""
    return None if cell is None else replace(cell, heads=(heads,))


def _span(number: int) -> str:
    return f"_place{number}"


def _with_places(inputs: AVInputs, rows: np.ndarray, places: Mapping[str, np.ndarray]) -> AVInputs:
    """The inputs with each place as a span, all of them made at once."""
    own = {_span(number): where for number, where in enumerate(places.values())}
    spans = Spans(inputs.n_pos, {**inputs.spans, ROWS: rows, **own}, inputs.spans.places, inputs.spans.extent)
    return replace(inputs, row_spans=(spans,))


def _check_closed(model: "HookedAVTransformer") -> None:
    if model.open_interventions:
        raise InterventionError(
            "patching under open interventions",
            expected="no open `model.intervene` block: clean and corrupt runs are the model's own",
            got=", ".join(str(spec) for spec in model.open_interventions),
            next_step="leave the block, or run patches by hand with model(inputs, interventions=[...])",
        )
