"""The model families that the shared suites run over: a small model of each, with prompts of every kind.

A suite asks for the fixture `each_family` (conftest.py) and defines `use(family)`, which sets its model and inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from hooked_av.model.random import random_omni, random_salmonn
from hooked_av.model.transformer import HookedAVTransformer
from hooked_av.prompt.inputs import AVInputs
from support.salmonn import SalmonnPrompt, load_folder, reference_decoder, salmonn_prompts
from support.thinkers import PromptMaker, make_thinker, prompts


@dataclass(frozen=True)
class FamilyUnderTest:
    """A small model whose every parameter is random, and one prompt of each kind that the family takes."""

    name: str
    make_model: Callable[[], HookedAVTransformer]
    random: Callable[..., HookedAVTransformer]  # by layers and seed, with the real tokenizer
    makers: dict[str, Any]  # kind -> builder with `tensors()`
    reference: Callable[[AVInputs], tuple[Any, Callable[[], Tensor]]]  # text model of transformers, eager; runs it
    fresh: Callable[[int], Any]  # an empty builder, with a seed
    audio_hooks: tuple[str, ...] = ()  # hook points inside the audio branch
    rounding: float = 1e-5  # of logits, when matrix products have other shapes; grows with the logits themselves

    @cached_property
    def model(self) -> HookedAVTransformer:
        return self.make_model()

    def tensors(self, kind: str) -> dict[str, Any]:
        return self.makers[kind].tensors()

    def inputs(self, kind: str, n_question: int = 0) -> AVInputs:
        """The prompt of a kind; its last tokens are a span "question"."""
        inputs = self.model.inputs_from_tensors(**self.tensors(kind))
        return inputs.with_span("question", range(inputs.n_pos - n_question, inputs.n_pos)) if n_question else inputs


def omni_reference(inputs: AVInputs) -> tuple[Any, Callable[[], Tensor]]:
    """The text model inside an eager thinker, and what runs the whole thinker, to logits."""
    thinker = make_thinker("eager", n_kv=2)
    given = {"input_ids": inputs.input_ids, "attention_mask": inputs.attention_mask.long(), **inputs.features}
    sound_in_video = inputs.settings["use_audio_in_video"]
    text_model = getattr(thinker.model, "language_model", thinker.model)  # one level down since transformers 5.21
    return text_model, lambda: thinker(**given, use_audio_in_video=sound_in_video).logits


FAMILIES = {
    "omni": FamilyUnderTest(
        "omni",
        make_model=lambda: HookedAVTransformer.from_hf(make_thinker(n_kv=2)),
        random=random_omni,
        makers=prompts(),
        fresh=PromptMaker,
        reference=omni_reference,
    ),
    "salmonn": FamilyUnderTest(
        "salmonn",
        make_model=load_folder,
        random=random_salmonn,
        makers=salmonn_prompts(),
        fresh=SalmonnPrompt,
        reference=reference_decoder,
        audio_hooks=("audio.hook_windows", "audio.hook_rows"),
        rounding=1e-4,
    ),
}
