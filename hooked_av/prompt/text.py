"""A prompt as text whose parts know their names, so that spans come from construction, never from searching.

The whole text is tokenised at once, as the released processors do (a token may join the end of one part with the
start of the next: "?\\n" is one token); each token belongs to the part that holds its first character.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hooked_av.errors import InputsError
from hooked_av.media.clip import Clip

_MEDIA_SUFFIXES = {
    *(".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wav", ".mp3", ".flac", ".ogg", ".m4a"),
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"),
}
OPTION_INSTRUCTION = "Answer with the option's letter."


@dataclass(frozen=True)
class TextPart:
    """A stretch of prompt text and the spans that it belongs to."""

    text: str
    labels: tuple[str, ...]


def question_parts(question: str, options: Sequence[str], instruction: str | None) -> list[TextPart]:
    """The question, its lettered options and the instruction, one to a line.

    >>> [part.text for part in question_parts("Which digit?", ["three", "eight"], None)][:4]
    ['Which digit?', '\\n', 'A. three', '\\n']
    """
    parts = [TextPart(_own_words(question, "question"), ("question",))]
    for letter, option in zip(ascii_lowercase, options, strict=False):
        text = f"{letter.upper()}. {_own_words(option, 'option')}"
        parts += [TextPart("\n", ()), TextPart(text, ("options", f"option_{letter}"))]
    if instruction is None and options:
        instruction = OPTION_INSTRUCTION
    if instruction:
        parts += [TextPart("\n", ()), TextPart(_own_words(instruction, "instruction"), ("instruction",))]
    return parts


def _own_words(text: str, what: str) -> str:
    if not text.strip():
        raise InputsError(
            f"an empty {what}", expected=f"{what} text", got=repr(text), next_step=f"say what the {what} is"
        )
    return text


def media_list(media: Any) -> list[Clip | str]:
    """Clips, and texts between them, from what a user passed as media.

    Errors: `InputsError` for anything else; a path is not opened on the quiet, and never read as text.
    """
    items: list[Any] = [] if media is None else [*media] if isinstance(media, (list, tuple)) else [media]
    texts = [item for item in items if isinstance(item, str)]
    paths = [text for text in texts if Path(text).suffix.lower() in _MEDIA_SUFFIXES]
    others = [item for item in items if not isinstance(item, (Clip, str))]
    if paths or others or (texts and len(texts) == len(items)):
        raise InputsError(
            "media are clips",
            expected="a Clip, or a list of clips with text in between",
            got=", ".join(repr(item)[:60] if isinstance(item, str) else type(item).__name__ for item in items),
            next_step='open files first: av.Clip.from_file("clip.mp4"), av.Clip.from_image("x.png")',
        )
    return items


def check_options(options: Sequence[str]) -> tuple[str, ...]:
    """Options as a tuple: none, or two to twenty-six different ones."""
    options = (options,) if isinstance(options, str) else tuple(options)
    if options and not 2 <= len(set(options)) == len(options) <= len(ascii_lowercase):
        raise InputsError(
            "options need at least two different texts",
            expected="none, or 2 to 26 different options",
            got=list(options),
            next_step='pass options=["three", "eight"], or leave options out',
        )
    return options


def refuse_special_tokens(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse user text that would be read as template or media tokens."""
    for text in texts:
        found = [token for token in tokenizer.all_special_tokens if token in text]
        found += [t for t in tokenizer.get_added_vocab() if t in text and t not in found]
        if found:
            raise InputsError(
                "the text contains special tokens",
                expected="plain text",
                got=f"{found} in {text[:60]!r}",
                next_step="pass media as clips, not as placeholders in the text",
            )


def tokenize(
    parts: Sequence[TextPart], tokenizer: PreTrainedTokenizerFast
) -> tuple[Int64[Tensor, " pos"], dict[str, list[int]]]:
    """Token ids of the joined text, and the positions of every label.

    A label whose text holds no first character of any token gets no positions.

    Errors: `InputsError` where texts that touch make a special token that none of them holds ("<|im_", "end|>").
    """
    encoded = tokenizer("".join(part.text for part in parts), add_special_tokens=False, return_offsets_mapping=True)
    labels: dict[str, list[int]] = {}
    stops: list[int] = []
    stop = 0
    for part in parts:
        stop += len(part.text)
        stops.append(stop)
    at, special = 0, {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    for position, (first, end) in enumerate(encoded["offset_mapping"]):
        while first >= stops[at]:
            at += 1
        if end > stops[at] and encoded["input_ids"][position] in special:
            raise _made_of_several(parts, at, tokenizer.decode([encoded["input_ids"][position]]))
        for label in parts[at].labels:
            labels.setdefault(label, []).append(position)
    return torch.tensor(encoded["input_ids"]), labels


def _made_of_several(parts: Sequence[TextPart], at: int, token: Any) -> InputsError:
    return InputsError(
        "texts that touch make a special token",
        expected="plain text, also where one text follows another",
        got=f"{token} out of {parts[at].text[-20:]!r} and {parts[at + 1].text[:20]!r}",
        next_step="put a space or a clip between the texts, and pass media as clips, not as placeholders",
    )


def token_texts(ids: Int64[Tensor, " pos"], tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    """The text of every token id of a prompt; a token that is part of a character has a replacement mark in it."""
    return {token: str(tokenizer.decode([token])) for token in ids.unique().tolist()}
