"""The chat template that Qwen2.5's families share, as text whose parts know their names."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hooked_av.prompt.layout import ItemTimes
from hooked_av.prompt.text import TextPart

DEFAULT_SYSTEM = "You are a helpful assistant."  # what the released chat template puts in when there is none


@dataclass(frozen=True)
class PreparedClip:
    """One clip as the model will see it: features, prompt text, when its tokens happen, and samples of its sound."""

    features: dict[str, Tensor]
    text: str
    times: ItemTimes
    n_samples: int | None = None  # None where nobody asks, or there is no sound


def prompt_parts(
    system: str | None, media: Sequence[PreparedClip | str], question: Sequence[TextPart], answer_prefix: str
) -> list[TextPart]:
    """The chat template's text with its parts named.

    >>> [part.text for part in prompt_parts("Be brief.", [], [TextPart("Why?", ("question",))], "")][:3]
    ['<|im_start|>system\\nBe brief.<|im_end|>\\n', '<|im_start|>user\\n', 'Why?']
    """
    parts = [
        TextPart(f"<|im_start|>system\n{DEFAULT_SYSTEM if system is None else system}<|im_end|>\n", ("system",)),
        TextPart("<|im_start|>user\n", ("user",)),
    ]
    parts += [TextPart(item if isinstance(item, str) else item.text, ("user",)) for item in media]
    parts += [TextPart(part.text, ("user", *part.labels)) for part in question]
    parts += [TextPart("<|im_end|>\n", ("user",)), TextPart("<|im_start|>assistant\n", ("assistant",))]
    return [*parts, TextPart(answer_prefix, ("assistant", "answer_prefix"))] if answer_prefix else parts
