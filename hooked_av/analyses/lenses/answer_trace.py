"""Answer trace: how probable each answer is, and at which rank, after every layer, at the last prompt position.

Axes: layer, option.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int64

from hooked_av.analyses.lenses.convention import LensConvention
from hooked_av.analyses.lenses.logit_lens import read_layers, with_place
from hooked_av.analyses.per_prompt import (
    Names,
    PerPrompt,
    names_of_each,
    naming_the_prompt,
    per_prompt,
    prompts_of,
)
from hooked_av.analyses.results import Result, run_settings
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.former import formerly
from hooked_av.prompt.inputs import AVInputs
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
    tokens: Names = (),
    *,
    at: str | Span | PositionSet = "last",
    convention: str = "final_norm",
) -> AnswerTrace | PerPrompt[AnswerTrace]:
    """After which layer does the model know its answer?

    Args:
        inputs: a prompt, or a batch, whose prompts share one pass; it gives a `PerPrompt`.
        tokens: single tokens whose probability and rank are followed ("three", "A"); of a batch, a list of lists has
            those of each prompt. None named: the five that the model finds most probable in the end.
        at: the position that is read, a span of one token.
        convention: as for `logit_lens`.

    Errors: `InputsError` for a text of several tokens, and for a span of several; `SpanError` for an unknown span.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, sample = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1]
    >>> inputs = model.prepare(sample.clip, question=sample.question)
    >>> trace = av.answer_trace(model, inputs, ["five", "one"])
    >>> trace.ranks[-1].tolist()[0], trace.probabilities.shape
    (0, (8, 2))
    """
    rule = LensConvention.parse(convention)
    inputs, at = with_place(inputs, at)
    _check_one_position(inputs, at)
    ids = [[model.to_single_token(text) for text in own] for own in names_of_each(tokens, inputs)]
    if not all(ids):
        ids = [own or best for own, best in zip(ids, _most_probable(model, inputs, at), strict=True)]
    found = zip(prompts_of(inputs), ids, read_layers(model, inputs, at, ids, 1, rule), strict=True)
    made = {"at": at, "convention": rule.name}
    return per_prompt([_trace(model, own, arrays, run_settings(model, one, **made)) for one, own, arrays in found])


def _trace(
    model: "HookedAVTransformer", ids: list[int], arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> AnswerTrace:
    """Of one prompt, what was read at its one position."""
    best_ids = arrays["top_ids"][:, 0, 0]
    return AnswerTrace(
        probabilities=arrays["token_probabilities"][:, 0],
        ranks=arrays["token_ranks"][:, 0],
        best_ids=best_ids,
        best_probabilities=arrays["top_probabilities"][:, 0, 0],
        best_texts=tuple(model.to_string(int(token)) for token in best_ids),
        options=tuple(model.to_string(token) for token in ids),
        settings=settings,
    )


def _check_one_position(inputs: AVInputs, at: str) -> None:
    for row, spans in enumerate(inputs.row_spans):
        n_read = len(spans.resolve(at))
        with naming_the_prompt(row, inputs):
            if n_read != 1:
                raise InputsError(
                    "an answer is traced at one position",
                    expected="a span of one token",
                    got=f"{n_read} tokens ({at})",
                    next_step='take at="last"; av.logit_lens reads longer spans',
                )


def _most_probable(model: "HookedAVTransformer", inputs: AVInputs, at: str) -> list[list[int]]:
    """Of each prompt the tokens that the last layer finds most probable."""
    n_best, nothing = min(_MOST_PROBABLE, model.cfg.d_vocab), [[]] * inputs.batch
    best = read_layers(model, inputs, at, nothing, n_best, LensConvention())
    return [arrays["top_ids"][-1, 0].tolist() for arrays in best]
