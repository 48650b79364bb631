"""The benchmark of methods: models whose routes are known, and what each method says of them.

Of every model and form of question, each method is asked through which rows the media's information passes on its way
to the answer, and in which layer most of it does. What it says is right, wrong, or "cannot say".

The truth is measured by what nothing can get around: a way is known where at least `SURVIVES` of the right answers stay
right when the other way is cut in every layer. Models that were trained under a cut have it by construction.

Axes: subject (a model and a form of question), method, way, edge (of an interval), layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float64, Int64
from tqdm.auto import tqdm

from hooked_av.analyses.results import Result
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.interventions.specs import block_attention
from hooked_av.study.contrasts import DIGIT_FAMILIES, DigitContrast, draw_contrasts
from hooked_av.study.measures import OPTIONS, family_of
from hooked_av.study.methods import BOTH, METHODS, READERS, WAYS, Evidence
from hooked_av.study.rules import FAILS, HOLDS, UNKNOWN, Estimate, Says
from hooked_av.tiny.evaluation import EVALUATION_SEED
from hooked_av.tiny.routes import MODEL_NAMES

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

MODELS = MODEL_NAMES
FORMS = ("visual", "auditory", "visual, options", "auditory, options")
SEEN = 0.25  # share of the answer, beyond the control, from which on a way is seen
SURVIVES = 0.9  # share of right answers that stay right by a way that is known to be enough
MOVES = 0.1  # share of right answers that are lost, for a cut to have met what moves
CANNOT_SAY, RIGHT, WRONG = "cannot say", "right", "wrong"
# The numbers of a benchmark, and the place of their axis of subjects.
_STACKED = dict.fromkeys(("seen", "control", "beyond", "layers", "kept", "n"), 0) | {"interval": 1, "moves": 1}


@dataclass(frozen=True, eq=False, kw_only=True)
class RouteBenchmark(Result):
    """What each method sees of each way, and what is known.

    Table: one row a subject and method. `says` and `truth` are "question", "behind", "both" or "cannot say"; `score`
    is "right", "wrong" or "cannot say", and "" where nothing is known. `layer` is where a method says that the way is
    read, `layer_score` whether that is within the layers in which it is known to be.
    """

    figure: ClassVar = "hooked_av.plots.route_benchmark:plot_route_benchmark"
    axes: ClassVar = {
        **dict.fromkeys(("seen", "control", "beyond", "layers"), ("subject", "method", "way")),
        "interval": ("edge", "subject", "method", "way"),
        **dict.fromkeys(("says", "score", "layer", "layer_score"), ("subject", "method")),
        "kept": ("subject", "way"),
        "moves": ("edge", "subject", "way"),
        **dict.fromkeys(("models", "forms", "truth", "n"), ("subject",)),
    }
    labels: ClassVar = {"subject": "subjects", "method": "methods", "way": "ways"}
    columns: ClassVar = (
        "model=models", "form=forms", "n", "method", "truth", "says", "score", "layer", "layer_score",
        *(f"{name}_{way}={name}[way={at}]" for at, way in enumerate(WAYS) for name in ("seen", "control")),
    )  # fmt: skip
    seen: Float64[np.ndarray, "subject method way"]  # mean share of the answer, in the layer where it is largest
    control: Float64[np.ndarray, "subject method way"]  # in the same layer
    beyond: Float64[np.ndarray, "subject method way"]  # the mean of what is seen beyond the control
    interval: Float64[np.ndarray, "edge=2 subject method way"]  # 95 %, of `beyond`
    layers: Int64[np.ndarray, "subject method way"]  # -1 of a method that has no layers
    kept: Float64[np.ndarray, "subject way"]  # share of right answers that stay right when the other way is cut
    moves: Int64[np.ndarray, "edge=2 subject way"]  # first and last layer in which the way is read; -1: not known
    n: Int64[np.ndarray, " subject"]  # samples
    models: tuple[str, ...]
    forms: tuple[str, ...]
    methods: tuple[str, ...]
    ways: tuple[str, ...] = WAYS

    @property
    def subjects(self) -> tuple[str, ...]:
        """Model and form."""
        return tuple(f"{model}: {form}" for model, form in zip(self.models, self.forms, strict=True))

    @property
    def truth(self) -> np.ndarray:
        """Which ways are known to be enough."""
        return np.array([_said([HOLDS if kept >= SURVIVES else FAILS for kept in row]) for row in self.kept], object)

    @property
    def says(self) -> np.ndarray:
        """What each method says."""
        low, high = self.interval
        says = [
            [_said([way_is_seen(*numbers) for numbers in zip(*cell, strict=True)]) for cell in zip(*rows, strict=True)]
            for rows in zip(self.beyond, low, high, strict=True)
        ]
        return np.array(says, object)

    @property
    def score(self) -> np.ndarray:
        """Right or wrong, where something is known and something is said."""
        truth, says = np.broadcast_to(self.truth[:, None], self.says.shape), self.says
        score = np.where(says == CANNOT_SAY, CANNOT_SAY, np.where(says == truth, RIGHT, WRONG)).astype(object)
        return np.where(truth == CANNOT_SAY, "", score)

    @property
    def layer(self) -> np.ndarray:
        """Where the way that a method sees most of is read, as it says; -1 where it says nothing or has no layers."""
        best = self.beyond.argmax(axis=-1)[..., None]
        found = np.take_along_axis(self.layers, best, axis=-1)[..., 0]
        return np.where(self.says == CANNOT_SAY, -1, found)

    @property
    def layer_score(self) -> np.ndarray:
        """Whether that layer is one in which the way is known to be read; "" where nothing is said or known."""
        best = self.beyond.argmax(axis=-1)
        first, last = (np.take_along_axis(edge, best, axis=1) for edge in self.moves)
        within = (first <= self.layer) & (self.layer <= last)
        return np.where((self.layer < 0) | (first < 0), "", np.where(within, RIGHT, WRONG)).astype(object)


def way_is_seen(beyond: float, low: float, high: float) -> Says:
    """Whether a method sees a way: a share of at least `SEEN` beyond the control, with an interval that says so.

    >>> way_is_seen(0.8, 0.6, 0.9), way_is_seen(0.1, 0.0, 0.2), way_is_seen(0.3, -0.1, 0.6)
    ('holds', 'does not hold', 'cannot be said')
    """
    if beyond >= SEEN and low > 0:
        return HOLDS
    return FAILS if high < SEEN else UNKNOWN


def _said(ways: Sequence[Says]) -> str:
    """The ways in a word."""
    question, behind = ways
    if UNKNOWN in ways or question == behind == FAILS:
        return CANNOT_SAY
    return BOTH if question == behind else WAYS[0] if question == HOLDS else WAYS[1]


@door
def route_benchmark(
    models: "Sequence[str | HookedAVTransformer]" = MODELS,
    forms: Sequence[str] = FORMS,
    *,
    samples: int = 6,
    methods: Sequence[str] | None = None,
    seed: int = EVALUATION_SEED,
    progress: bool = False,
) -> RouteBenchmark:
    """Which methods find the route that is known to be there?

    Args:
        models: of tiny-av's kind, by name or loaded.
        forms: of questions that a digit of the media answers, "visual" or with lettered options "visual, options".
        samples: questions of each form; those count that the model answers rightly, with both sets of digits.
        methods: names of `hooked_av.study.methods.METHODS` (None: all).
        seed: of questions, digits and random cuts.
        progress: show a bar.

    Errors: `InputsError` for a form whose answers are no digits, an unknown method, or a model that answers fewer than
    two of the questions.

    >>> import hooked_av as av
    >>> found = av.route_benchmark(["tiny-av"], ["visual"], samples=2, methods=["patching, denoising", "attention"])
    >>> found.truth.tolist(), found.says[0].tolist()
    (['behind'], ['behind', 'cannot say'])
    """
    names = list(METHODS) if methods is None else list(methods)
    _check(forms, names)
    loaded = [_loaded(model) for model in models]
    subjects = [(model, form) for model in loaded for form in forms]
    with tqdm(subjects, desc="routes", unit="subject", disable=not progress) as bar:
        rows = [_subject(model, form, samples, names, seed, bar) for model, form in bar]
    numbers: dict[str, Any] = {name: np.stack([row[name] for row in rows], axis=at) for name, at in _STACKED.items()}
    return RouteBenchmark(
        **numbers,
        models=tuple(model.cfg.model_name for model, _ in subjects),
        forms=tuple(form for _, form in subjects),
        methods=tuple(names),
        settings={"samples": samples, "seed": seed, "seen": SEEN, "survives": SURVIVES, "moves": MOVES},
    )


def _check(forms: Sequence[str], methods: Sequence[str]) -> None:
    for form in forms:
        if family_of(form) not in DIGIT_FAMILIES:
            raise InputsError(
                "no contrast for this form", expected=", ".join(DIGIT_FAMILIES), got=repr(form),
                next_step="choose a family whose answers are digits of the media; with lettered options, add "
                f"{OPTIONS!r}",
            )  # fmt: skip
    for name in methods:
        if name not in METHODS:
            raise InputsError(
                "no such method", expected=", ".join(METHODS), got=repr(name), next_step="name one of these"
            )


def _loaded(model: "str | HookedAVTransformer") -> "HookedAVTransformer":
    from hooked_av.model.transformer import HookedAVTransformer

    return HookedAVTransformer.from_pretrained(model) if isinstance(model, str) else model


def _subject(
    model: "HookedAVTransformer", form: str, samples: int, methods: Sequence[str], seed: int, bar: Any
) -> dict[str, Any]:
    """All numbers of one model and form."""
    drawn = draw_contrasts(model, form, samples, seed)
    contrasts = [one for one in drawn if _answers(model, one)]
    if len(contrasts) < 2:
        raise InputsError(
            "too few questions are answered rightly", expected="two or more", got=f"{len(contrasts)} of {samples}",
            next_step="more samples, or a model that was trained on this task",
        )  # fmt: skip
    found = []
    for name in methods:
        bar.set_postfix_str(f"{form}: {name}")
        found.append(_summary(METHODS[name](model, contrasts, seed)))
    numbers = {name: np.stack([one[name] for one in found], axis=-2) for name in found[0]}
    kept, moves = _known(model, contrasts)
    return {**numbers, "kept": kept, "moves": moves, "n": np.array(len(contrasts))}


def _answers(model: "HookedAVTransformer", one: DigitContrast) -> bool:
    """Whether the answer goes with the digits."""
    said = [int(model(inputs, logits_at="last")[0, -1].argmax()) for inputs in (one.case.inputs, one.other)]
    return said == [model.to_single_token(text) for text in (one.answer, one.alternative)]


def _summary(evidence: Evidence) -> dict[str, np.ndarray]:
    """Each way in the layer where most is seen of it."""
    at = evidence.seen.mean(axis=1).argmax(axis=-1)
    seen, control = (
        np.take_along_axis(part, at[:, None, None], axis=-1)[..., 0] for part in (evidence.seen, evidence.control)
    )
    beyond = [Estimate.of(row) for row in seen - control.clip(min=0)]  # a control below nothing is no evidence
    return {
        "seen": seen.mean(axis=-1),
        "control": control.mean(axis=-1),
        "beyond": np.array([one.mean for one in beyond]),
        "interval": np.array([[one.low for one in beyond], [one.high for one in beyond]]),
        "layers": evidence.read_in,
    }


def _known(
    model: "HookedAVTransformer", contrasts: Sequence[DigitContrast]
) -> tuple[Float64[np.ndarray, " way"], Int64[np.ndarray, "edge=2 way"]]:
    """What each way keeps when the other one is cut; and where its own reading then happens, by cuts from both ends."""
    n_layers = model.cfg.n_layers
    kept, moves = np.zeros(len(WAYS)), np.full((2, len(WAYS)), -1)
    for way, (own, other) in enumerate(zip(READERS, READERS[::-1], strict=True)):
        alone = block_attention(f"media->{other}")
        parts = [range(at + 1) for at in range(n_layers)] + [range(at, n_layers) for at in range(n_layers)]
        cuts = [[alone, block_attention(keys="media", queries=own, layers=part)] for part in parts]
        right = np.stack([_right(model, one, [[alone], *cuts]) for one in contrasts]).mean(axis=0)
        kept[way] = right[0]
        lost = right[0] - right[1:] >= MOVES
        up_to, from_on = lost[:n_layers], lost[n_layers:]
        if kept[way] >= SURVIVES and up_to.any() and from_on.any():
            # what is read twice is lost up to the second time, and from the first time on
            moves[:, way] = sorted((int(up_to.argmax()), int(np.flatnonzero(from_on)[-1])))
    return kept, moves


def _right(model: "HookedAVTransformer", one: DigitContrast, cuts: Sequence[Any]) -> Float64[np.ndarray, " cut"]:
    logits = model.baseline(one.case.inputs).logits_under(cuts)
    return (logits.argmax(dim=-1) == model.to_single_token(one.answer)).double().numpy()
