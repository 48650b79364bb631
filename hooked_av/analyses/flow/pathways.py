"""Pathways: the (keys, queries) pairs of spans that are cut together, and those that a prompt has.

"audio → question": queries of the question may not read keys of the audio. One pathway may be many pairs: "cross-frame"
is every frame reading the frames before it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from hooked_av.analyses.cases import Case
from hooked_av.doors import door
from hooked_av.errors import InputsError, InterventionError, SpanError
from hooked_av.interventions.routes import Route, not_a_route
from hooked_av.interventions.specs import BlockAttention
from hooked_av.prompt.inputs import AVInputs

CROSS_FRAME = "cross-frame"


@door
@dataclass(frozen=True)
class Pathway:
    """A name, and the (keys, queries) pairs that are cut at once."""

    name: str
    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, keys: str, queries: str) -> "Pathway":
        """The pathway of one pair.

        >>> Pathway.of("audio", "question").name
        'audio → question'
        """
        return cls(f"{keys} → {queries}", ((keys, queries),))

    def acting(self, inputs: AVInputs) -> tuple[tuple[str, str], ...]:
        """The pairs with some query that comes after a key; of items that look at each other, one direction."""
        resolve = inputs.spans.resolve
        return tuple(pair for pair in self.pairs if resolve(pair[0]).positions[0] <= resolve(pair[1]).positions[-1])

    def cut(self, layers: Sequence[int], inputs: AVInputs) -> list[BlockAttention]:
        """The specs that cut it in some layers of a prompt; pairs that could not act are left out."""
        return [BlockAttention(keys, queries, tuple(layers)) for keys, queries in self.acting(inputs)]

    def fits(self, inputs: AVInputs) -> bool:
        """Whether a prompt has these spans, with some query that comes after a key."""
        spans = inputs.spans
        return all(
            keys in spans and queries in spans and spans[keys].positions[0] <= spans[queries].positions[-1]
            for keys, queries in self.pairs
        )

    def check(self, case: Case) -> None:
        """Refuse a sample that has not these spans, or in which no query comes after a key, with its id.

        A pathway that cannot carry anything would be a row of exact zeros, and look like a finding.

        Errors: `SpanError`; `InterventionError`.
        """
        for span in dict.fromkeys(span for pair in self.pairs for span in pair):
            try:
                case.inputs.spans.resolve(span)
            except SpanError as error:
                raise SpanError(
                    f"sample {case.id!r} has no pathway {self.name!r}: {error.what}",
                    expected=error.expected,
                    got=error.got,
                    next_step="leave the pathway out, or run samples of other layouts by themselves",
                ) from error
        if not self.acting(case.inputs):
            keys, queries = self.pairs[0]
            raise InterventionError(
                f"pathway {self.name!r} can carry nothing in sample {case.id!r}",
                expected=f"tokens of {queries!r} after a token of {keys!r}: attention is causal",
                got="keys that all come after the queries",
                next_step=f"swap them ('{queries}->{keys}'), or leave the pathway out",
            )


def as_pathways(given: Any) -> tuple[Pathway, ...]:
    """Routes as text ("audio->question"), (keys, queries) pairs, or `Pathway`s; layers are not theirs to say.

    Errors: `InterventionError` for anything else, and for nothing.

    >>> [pathway.name for pathway in as_pathways(["audio->question", ("av - boundary", "last")])]
    ['audio → question', 'av - boundary → last']
    """
    several = [given] if isinstance(given, (str, Pathway)) else given
    found = tuple(_as_pathway(one) for one in several) if isinstance(several, Iterable) else ()
    if not found or len({pathway.name for pathway in found}) < len(found):
        raise not_a_route(f"{given!r}; each pathway once")
    return found


def _as_pathway(given: Any) -> Pathway:
    if isinstance(given, Pathway):
        return given
    if isinstance(given, str):
        route = Route.parse(given)
        if route.layers is not None:
            raise not_a_route(f"{given!r}, with layers: the window says which are cut")
        return Pathway.of(route.keys, route.queries)
    if not isinstance(given, (tuple, list)) or len(given) != 2 or not all(isinstance(part, str) for part in given):
        raise not_a_route(repr(given))
    return Pathway.of(*given)


def with_answer_spans(case: Case) -> Case:
    """The case with the spans that default pathways need besides those of its prompt.

    "true_option" and "false_options" where the answer is an option's letter; "video.frame1", ... and "video.before1"
    (the frames before it), of a prompt with one clip; "queried_item" and "other_items" of a prompt with several.

    Errors: `InputsError` for a queried item that the prompt has not.
    """
    inputs, spans = case.inputs, case.inputs.spans
    option = f"option_{(case.answer or '').strip().rstrip('.').lower()}"
    if option in spans:
        inputs = inputs.with_span("true_option", option).with_span("false_options", f"options - {option}")
    if case.queried_item is not None:
        inputs = _with_queried(case, inputs)
    if "video" in spans and "item1" not in spans:
        video = spans["video"].positions
        groups = spans.places.cells[video, 0]
        for group in np.unique(groups[groups > 0]).tolist():
            inputs = inputs.with_span(f"video.frame{group}", video[groups == group])
            inputs = inputs.with_span(f"video.before{group}", video[(groups >= 0) & (groups < group)])
    return replace(case, inputs=inputs)


def _with_queried(case: Case, inputs: AVInputs) -> AVInputs:
    items, queried = _items(inputs), f"item{case.queried_item}"
    if queried not in items:
        raise InputsError(
            f"sample {case.id!r} asks about an item that it has not",
            expected=", ".join(items) or "media",
            got=queried,
            next_step="count clips, sounds and pictures from 0, texts between them left out",
        )
    others = [item for item in items if item != queried]
    inputs = inputs.with_span("queried_item", queried)
    return inputs.with_span("other_items", "|".join(others)) if others else inputs


def _items(inputs: AVInputs) -> list[str]:
    return [name for name in (f"item{number}" for number in range(len(inputs.spans))) if name in inputs.spans]


def default_pathways(inputs: AVInputs) -> tuple[Pathway, ...]:
    """All pathways that a prompt's spans allow: of one clip, or of several items.

    "queried_item" and "other_items" take part where they exist: `Case.queried_item` says which item they are.

    Errors: `InputsError` for a prompt with none of them.

    >>> import hooked_av as av
    >>> inputs = av.random_omni(n_layers=2).prepare(question="Which digit do you hear?")
    >>> [pathway.name for pathway in default_pathways(inputs)]
    ['question → last', 'last → last']
    """
    pairs = _item_pairs(inputs) if "item1" in inputs.spans else _clip_pairs(inputs)
    pairs += [("question", "last"), ("last", "last"), *_option_pairs(inputs)]
    found = [Pathway.of(keys, queries) for keys, queries in dict.fromkeys(pairs)]
    found += [_cross_frame(inputs)] if "video.frame1" in inputs.spans else []
    found = [pathway for pathway in found if pathway.fits(inputs)]
    if not any(pathway.pairs[0] != ("last", "last") for pathway in found):
        raise InputsError(
            "this prompt has no pathway that is known",
            expected="a span 'question', and media",
            got=list(inputs.spans),
            next_step="add a span: inputs.with_span('question', positions), or name pathways yourself",
        )
    return tuple(found)


def _media(inputs: AVInputs) -> list[str]:
    """The modalities of a prompt, and "av" where there are both."""
    found = [name for name in ("audio", "video", "image") if name in inputs.spans]
    return [*found, "av"] if {"audio", "video"} <= set(found) else found


def _clip_pairs(inputs: AVInputs) -> list[tuple[str, str]]:
    pairs = [(media, reader) for reader in ("question", "last") for media in _media(inputs)]
    return [*pairs, ("audio", "video"), ("video", "audio")]


def _item_pairs(inputs: AVInputs) -> list[tuple[str, str]]:
    items, pairs = _items(inputs), []
    for item in items:
        streams = [f"{item}.{stream}" for stream in ("audio", "video") if f"{item}.{stream}" in inputs.spans]
        pairs += [(part, "question") for part in (item, *(streams if len(streams) == 2 else ()))]
    pairs += [(item, "last") for item in items]
    pairs += list(combinations(items, 2))
    return pairs + [(item, reader) for reader in ("question", "last") for item in ("queried_item", "other_items")]


def _option_pairs(inputs: AVInputs) -> list[tuple[str, str]]:
    media = _media(inputs)[-1:]
    option = "true_option" if "true_option" in inputs.spans else "options"
    return [(keys, option) for keys in ("question", *media)] + [(option, "last"), ("false_options", "last")]


def _cross_frame(inputs: AVInputs) -> Pathway:
    groups = [name.removeprefix("video.frame") for name in inputs.spans if name.startswith("video.frame")]
    return Pathway(CROSS_FRAME, tuple((f"video.before{group}", f"video.frame{group}") for group in groups))


def other_layout(sample: str, first: str, differing: Sequence[str]) -> InputsError:
    """Samples whose pathways are not the same have no map in common."""
    return InputsError(
        f"sample {sample!r} has other pathways than sample {first!r}",
        expected="prompts of one layout, where pathways are chosen by default",
        got=f"only one of both has: {', '.join(differing)}",
        next_step="name the pathways, or run each layout by itself",
    )
