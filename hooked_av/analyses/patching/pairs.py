"""Pairs: a clean and a corrupt prompt of the same layout, made from the media or the question, never from noise.

What is patched from one into the other must mean the same place in both, so prompts of different layout are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.media.clip import Clip
from hooked_av.prompt.inputs import AVInputs
from hooked_av.prompt.text import media_list

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

CORRUPTIONS = ("audio", "frames", "silence", "black_frames", "words")


@dataclass(frozen=True, eq=False)
class Pair:
    """Two prompts of the same layout; `corruption` says what makes the second one corrupt."""

    clean: AVInputs
    corrupt: AVInputs
    corruption: str

    def __post_init__(self) -> None:
        check_same_layout(self.clean, self.corrupt)

    def __repr__(self) -> str:
        return f"Pair({self.corruption}; {self.clean.n_pos} tokens each; differ in {_named(self.differing)})"

    @property
    def differing(self) -> list[str]:
        """The encoder inputs and token positions that differ: what the corruption has changed.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> make_pair(model, None, "words", other={"hear": "see"}, question="What do you hear?").differing
        ['token 17']
        """
        ids = (self.clean.input_ids != self.corrupt.input_ids)[0].nonzero().flatten().tolist()
        features, others = self.clean.features, self.corrupt.features
        media = [name for name in features if not torch.equal(features[name], others[name])]
        return [*media, *(f"token {position}" for position in ids)]


@door
def make_pair(
    model: "HookedAVTransformer",
    media: Any,
    corruption: str,
    *,
    question: str,
    other: Any = None,
    item: int = 0,
    **arguments: Any,
) -> Pair:
    """A clean and a corrupt prompt: which of their differences carries the answer is then a matter of patching.

    Args:
        media: a clip, or a list of clips (with text in between), or None, as for `model.prepare`.
        corruption: what happens to clip number `item`:
            "audio": it gets the whole sound of the clip `other`;
            "frames": it gets the picture of the clip `other`;
            "silence", "black_frames": as many samples of silence, or black frames;
            "words": in the question each word of the mapping `other` becomes the word that it maps to (symmetric token
            replacement: both need the same number of tokens).
        arguments: options, sampling and whatever else `model.prepare` takes; the same for both prompts.

    Errors: `InputsError` for an unknown corruption, for words that the question has not, and for prompts of different
    layout, with the spans that differ in length; `MediaError` for a clip without the track that is replaced.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, sample = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1]
    >>> pair = av.make_pair(model, sample.clip, "silence", question=sample.question)
    >>> pair.differing
    ['input_features']
    """
    several = media_list(media)
    if corruption not in CORRUPTIONS:
        raise _wrong("unknown corruption", ", ".join(CORRUPTIONS), repr(corruption), "name one of these")
    clean = model.prepare(several or None, question=question, **arguments)
    if corruption == "words":
        corrupt = model.prepare(several or None, question=_reworded(question, other), **arguments)
        return Pair(clean, corrupt, f"words: {', '.join(f'{old} → {new}' for old, new in other.items())}")
    clips = [(number, one) for number, one in enumerate(several) if isinstance(one, Clip)]
    if not 0 <= item < len(clips):
        raise _wrong("no such clip", f"item 0 to {len(clips) - 1}", item, "count the clips from 0")
    number, clip = clips[item]
    changed = [*several[:number], _corrupted(clip, corruption, other), *several[number + 1 :]]
    return Pair(clean, model.prepare(changed, question=question, **arguments), f"{corruption} of item {item}")


def _named(names: Sequence[str], at_most: int = 4) -> str:
    more = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "") if names else "nothing"


def check_same_layout(clean: AVInputs, corrupt: AVInputs) -> None:
    """Refuse prompts whose tokens do not stand for the same places.

    Errors: `InputsError` with the spans that differ in length, or lie elsewhere.
    """
    if clean.batch != 1 or corrupt.batch != 1:
        raise _wrong("a pair is two prompts", "one each", f"{clean.batch} and {corrupt.batch}", "pair them one by one")
    differences = list(_differences(clean, corrupt))
    if clean.n_pos != corrupt.n_pos:
        differences.append(f"all: {clean.n_pos} tokens in clean, {corrupt.n_pos} in corrupt")
    elif not differences and not torch.equal(clean.position_ids.cpu(), corrupt.position_ids.cpu()):
        differences.append("position ids")
    if differences:
        raise _wrong(
            "clean and corrupt prompts have different layouts",
            "the same spans, of the same lengths, in the same places",
            "; ".join(differences),
            "use media of the same duration and size, and words of the same number of tokens",
        )


def _differences(clean: AVInputs, corrupt: AVInputs) -> Any:
    for name in dict.fromkeys([*clean.spans, *corrupt.spans]):
        lengths = [len(spans[name]) if name in spans else 0 for spans in (clean.spans, corrupt.spans)]
        if lengths[0] != lengths[1]:
            yield f"{name}: {lengths[0]} tokens in clean, {lengths[1]} in corrupt"
        elif clean.spans[name] != corrupt.spans[name]:
            yield f"{name}: as long, but at other positions"


def _corrupted(clip: Clip, corruption: str, other: Any) -> Clip:
    if corruption == "silence":
        return clip.silenced()
    if corruption == "black_frames":
        return clip.blanked()
    if not isinstance(other, Clip):
        raise _wrong(f"{corruption} of what?", "other=, the clip to take it from", type(other).__name__, "give a Clip")
    if corruption == "audio":
        return clip.with_audio(other)
    return other.with_audio(clip) if clip.has_audio else other.without_audio()


def _reworded(question: str, words: Any) -> str:
    """The question with words replaced, all at once, so that two words can change places."""
    if not isinstance(words, Mapping) or not words:
        raise _wrong("which words?", 'other={"shown": "spoken"}', repr(words), "map each word to another")
    parts = question.split(" ")
    bare = [part.strip(".,;:?!") for part in parts]
    missing = [word for word in words if word not in bare]
    if missing:
        raise _wrong("words that the question has not", f"words of {question!r}", ", ".join(missing), "mind the case")
    return " ".join(
        part.replace(word, words[word]) if word in words else part for part, word in zip(parts, bare, strict=True)
    )


def _wrong(what: str, expected: str, got: Any, next_step: str) -> InputsError:
    return InputsError(what, expected=expected, got=got, next_step=next_step)
