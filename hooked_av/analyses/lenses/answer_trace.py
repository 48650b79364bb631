"""Answer trace: how probable each answer is, and at which rank, after every layer, at the last prompt position.

Axes: layer, option.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float32, Int64

from hooked_av.analyses.lenses.convention import LensConvention
from hooked_av.analyses.lenses.logit_lens import read_layers
from hooked_av.analyses.results import Result, run_settings
from hooked_av.analyses.several import several
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.former import formerly
from hooked_av.prompt.inputs import AVInputs, check_alone
from hooked_av.prompt.spans import PositionSet, Span

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

_MOST_PROBABLE = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class AnswerTrace(Result):
    """Probability and rank of each option over the layers, and the best token of each layer.

    Table: one row a layer and option.
    """

    figure: ClassVar = "hooked_av.plots.answer_trace:plot_answer_trace"
    axes: ClassVar = {
        "probabilities": ("layer", "option"),
        "ranks": ("layer", "option"),
        "best_ids": ("layer",),
        "best_probabilities": ("layer",),
        "best_texts": ("layer",),
    }
    labels: ClassVar = {"option": "options"}
    columns: ClassVar = (
        "layer", "option", "probability=probabilities", "rank=ranks", "best_token=best_texts",
        "best_probability=best_probabilities",
    )  # fmt: skip
    probabilities: Float32[np.ndarray, "layer option"]
    ranks: Int64[np.ndarray, "layer option"]  # 0 is the best token of all
    best_ids: Int64[np.ndarray, " layer"]
    best_probabilities: Float32[np.ndarray, " layer"]
    best_texts: tuple[str, ...]  # [layer]
    options: tuple[str, ...]


@formerly("options", "tokens")
@door
def answer_trace(
    model: "HookedAVTransformer",
    inputs: AVInputs,
    tokens: str | Sequence[str] = (),
    *,
    at: str | Span | PositionSet = "last",
    convention: str = "final_norm",
) -> AnswerTrace:
    """After which layer does the model know its answer?

    Args:
        tokens: single tokens whose probability and rank are followed ("three", "A"); none named: the five that the
            model finds most probable in the end.
        at: the position that is read, a span of one token.
        convention: as for `logit_lens`.

    Errors: `InputsError` for a batch, for a text of several tokens, and for a span of several.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, sample = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1]
    >>> inputs = model.prepare(sample.clip, question=sample.question)
    >>> trace = av.answer_trace(model, inputs, ["five", "one"])
    >>> trace.ranks[-1].tolist()[0], trace.probabilities.shape
    (0, (8, 2))
    """
    rule = LensConvention.parse(convention)
    check_alone(inputs, "av.answer_trace")
    if len(inputs.spans.resolve(at)) != 1:
        raise InputsError(
            "an answer is traced at one position",
            expected="a span of one token",
            got=f"{len(inputs.spans.resolve(at))} tokens ({at})",
            next_step='take at="last"; av.logit_lens reads longer spans',
        )
    if not isinstance(at, str):
        inputs, at = inputs.with_span("positions", at), "positions"
    ids = [model.to_single_token(text) for text in several(tokens)] or _most_probable(model, inputs, at)
    arrays = read_layers(model, inputs, at, ids, 1, rule)
    best_ids = arrays["top_ids"][:, 0, 0]
    return AnswerTrace(
        probabilities=arrays["token_probabilities"][:, 0],
        ranks=arrays["token_ranks"][:, 0],
        best_ids=best_ids,
        best_probabilities=arrays["top_probabilities"][:, 0, 0],
        best_texts=tuple(model.to_string(int(token)) for token in best_ids),
        options=tuple(model.to_string(token) for token in ids),
        settings=run_settings(model, inputs, at=at, convention=rule.name),
    )


def _most_probable(model: "HookedAVTransformer", inputs: AVInputs, at: str) -> list[int]:
    best = read_layers(model, inputs, at, [], min(_MOST_PROBABLE, model.cfg.d_vocab), LensConvention())
    return best["top_ids"][-1, 0].tolist()
