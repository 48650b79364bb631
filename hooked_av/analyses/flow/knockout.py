"""Attention knockout, layer by layer: what happens to the answer when one span cannot read another (Geva et al. 2023).

Axes: pathway (what is cut, "audio → question"), layer (centre of the window that is cut), edge (first and last layer).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from hooked_av.analyses.results import Result, run_settings
from hooked_av.errors import InputsError, InterventionError
from hooked_av.interventions.specs import block_attention
from hooked_av.prompt.inputs import AVInputs

WIDEST_DEFAULT = 9  # layers, what studies of models with 28 to 36 layers use


@dataclass(frozen=True, eq=False, kw_only=True)
class KnockoutCurves(Result):
    """Probability of the clean answer while a pathway is cut in a window of layers around each layer."""

    figure: ClassVar = "hooked_av.plots.knockout:plot_knockout_curves"
    axes: ClassVar = {
        "p_cut": ("pathway", "layer"),
        "best_ids": ("pathway", "layer"),
        "windows": ("layer", "edge"),
    }
    p_cut: Float64[np.ndarray, "pathway layer"]
    best_ids: Int64[np.ndarray, "pathway layer"]  # the most probable token while the pathway is cut
    windows: Int64[np.ndarray, "layer edge=2"]  # first and last layer that are cut, both included
    pathways: tuple[str, ...]
    best_texts: tuple[tuple[str, ...], ...]  # [pathway][layer]
    answer_id: int  # the most probable token of the clean run
    answer: str
    p_base: float
    width: int

    @property
    def change_percent(self) -> Float64[np.ndarray, "pathway layer"]:
        """100 * (p_cut - p_base) / p_base."""
        return 100 * (self.p_cut - self.p_base) / self.p_base

    def to_frame(self) -> pd.DataFrame:
        """One row a pathway and layer."""
        pathways, layers = (index.ravel() for index in np.indices(self.p_cut.shape))
        return pd.DataFrame(
            {
                "pathway": np.array(self.pathways, dtype=object)[pathways],
                "layer": layers,
                "first_cut": self.windows[layers, 0],
                "last_cut": self.windows[layers, 1],
                "answer": self.answer,
                "p_base": self.p_base,
                "p_cut": self.p_cut.ravel(),
                "change_percent": self.change_percent.ravel(),
                "best_token": [text for row in self.best_texts for text in row],
                "best_id": self.best_ids.ravel(),
            }
        )


def layer_window(layer: int, n_layers: int, width: int) -> range:
    """The layers cut around `layer`: `width` of them, fewer at both ends of the model.

    Errors: `InterventionError` for a layer or width that the model does not have.

    >>> layer_window(10, n_layers=28, width=9)
    range(6, 15)
    >>> layer_window(0, n_layers=28, width=9)
    range(0, 5)
    """
    if not (0 <= layer < n_layers and 1 <= width <= n_layers):
        raise InterventionError(
            "no such window of layers",
            expected=f"layer 0 to {n_layers - 1}, width 1 to {n_layers}",
            got=f"layer {layer}, width {width}",
            next_step="see default_width(n_layers) for a usual width",
        )
    return range(max(0, layer - width // 2), min(n_layers, layer + -(-width // 2)))


def default_width(n_layers: int) -> int:
    """9 layers from 28 layers on; in smaller models the largest odd number that is at most a third of the layers.

    >>> [default_width(n_layers) for n_layers in (4, 12, 28, 36)]
    [1, 3, 9, 9]
    """
    third = min(WIDEST_DEFAULT, n_layers // 3)
    return max(1, third if third % 2 else third - 1)


def knockout_curves(
    model: Any,
    inputs: AVInputs,
    pathways: Sequence[tuple[str, str]] = (("audio", "question"), ("video", "question")),
    *,
    width: int | None = None,
    progress: bool = False,
) -> KnockoutCurves:
    """Through which layers does the answer need a pathway?

    For each pathway and layer, attention from keys to queries is cut in a window of layers around that layer; the
    result is the change of the probability, at the last position, of the token that the clean run answers.

    Args:
        pathways: (keys, queries) spans; ("audio", "question") is "audio → question".
        width: layers in the window (None: `default_width`).
        progress: show a bar.

    It runs on the replay engine: encoders and the clean pass once, and of each cut only the rows and layers that it can
    change. Curves of all pathways cost about two forward passes, plus one for each layer where queries are media.

    Errors: `SpanError` for a span that the prompt has not, `InputsError` for a batch or no pathway,
    `InterventionError` for a width that the model does not have.

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> inputs = model.prepare(question="Which digit do you hear?")
    >>> curves = knockout_curves(model, inputs, [("system", "question")])
    >>> curves.pathways, curves.change_percent.shape
    (('system → question',), (1, 2))
    """
    _check(inputs, pathways)
    n_layers = model.cfg.n_layers
    width = default_width(n_layers) if width is None else width
    windows = [layer_window(layer, n_layers, width) for layer in range(n_layers)]
    names = tuple(f"{keys} → {queries}" for keys, queries in pathways)
    baseline = model.baseline(inputs, touched="|".join(queries for _, queries in pathways))
    clean = _probabilities(baseline.logits[None])[0]
    answer_id = int(clean.argmax())
    cuts = [block_attention(keys=k, queries=q, layers=window) for k, q in pathways for window in windows]
    cut = baseline.run(cuts, progress=progress).logits
    shape = (len(pathways), n_layers)
    p_cut, best_ids = _probabilities(cut)[:, answer_id].view(shape), cut.argmax(dim=-1).view(shape).cpu().numpy()
    return KnockoutCurves(
        p_cut=p_cut.double().cpu().numpy(),
        best_ids=best_ids,
        windows=np.array([(window[0], window[-1]) for window in windows], dtype=np.int64),
        pathways=names,
        best_texts=tuple(tuple(model.to_string(int(token)) for token in row) for row in best_ids),
        answer_id=answer_id,
        answer=model.to_string(answer_id),
        p_base=float(clean[answer_id]),
        width=width,
        settings=run_settings(model, inputs, pathways=list(names), width=width),
    )


def _probabilities(logits: Float[Tensor, "intervention d_vocab"]) -> Float[Tensor, "intervention d_vocab"]:
    """The next token's distribution at the last prompt position."""
    return logits.float().softmax(dim=-1)


def _check(inputs: AVInputs, pathways: Sequence[tuple[str, str]]) -> None:
    if inputs.batch != 1 or not pathways:
        raise InputsError(
            "a knockout needs one prompt and at least one pathway",
            expected='one prompt, pathways such as [("audio", "question")]',
            got=f"{inputs.batch} prompts, {len(pathways)} pathways",
            next_step="run prompts one by one; name what is cut as (keys, queries)",
        )
    for span in {span for pathway in pathways for span in pathway}:
        inputs.spans.resolve(span)  # before anything runs
