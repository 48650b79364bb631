"""What a model family is: how it names its tensors, lays out its prompt, counts positions and encodes media.

The model knows families by this interface only. A new family is a folder in `families/` with one class that says the
values and has the abstract methods below, and one line in `FAMILY_OF_TYPE` of `model/loading.py` for its `model_type`.
One that is built on Qwen2.5 begins at `families/qwen.py`, where most of this is written already.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerFast, WhisperFeatureExtractor

from hooked_av.config import DecoderConfig, KnownSettings
from hooked_av.errors import InputsError
from hooked_av.families.names import TensorNames
from hooked_av.families.reading import reading
from hooked_av.frozen import Frozen
from hooked_av.media.clip import Clip
from hooked_av.media.sampling import Sampling
from hooked_av.prompt.inputs import AVInputs

Processor = TypeVar("Processor", PreTrainedTokenizerFast, WhisperFeatureExtractor)


@dataclass(frozen=True)
class EncoderHook:
    """A hook point inside an encoder: whose rows pass there, one for `every` so many tokens, and numbers in a row."""

    modality: str
    row_size: int
    every: int = 1


class Family(ABC):
    """One model family, with the config and the text and sound processors of one checkpoint."""

    name: ClassVar[str]
    architecture: ClassVar[str]  # the transformers class that reads what we save
    encoder_names: ClassVar[tuple[str, ...]]  # our names, and transformers', of the encoders
    tensor_names: ClassVar[TensorNames]  # what checkpoints call its tensors
    hears: ClassVar[bool] = True  # whether it needs a mel extractor
    known: ClassVar[Mapping[str, KnownSettings]]  # the settings of its config (""), and of its parts by dotted name

    def __init__(
        self,
        hf_config: PreTrainedConfig,
        tokenizer: PreTrainedTokenizerFast | None = None,
        feature_extractor: WhisperFeatureExtractor | None = None,
    ) -> None:
        self.hf_config: Any = hf_config  # Any: which fields it has is said by its class, a family's own
        self._tokenizer = tokenizer
        self._feature_extractor = feature_extractor

    @property
    def has_tokenizer(self) -> bool:
        """Whether the model was loaded with one."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """transformers' tokenizer. Errors: `InputsError` if the model was loaded without one."""
        return self._needed(self._tokenizer, "tokenizer")

    @property
    def feature_extractor(self) -> WhisperFeatureExtractor:
        """transformers' mel extractor. Errors: `InputsError` if the model was loaded without one."""
        return self._needed(self._feature_extractor, "feature_extractor")

    def _needed(self, processor: Processor | None, what: str) -> Processor:
        if processor is None:
            raise InputsError(
                f"this model was loaded without a {what}",
                expected=f"a transformers {what}",
                got="none",
                next_step=f"from_hf(model, {what}=...), or use inputs_from_tensors with ready tensors",
            )
        return processor

    @property
    def processors(self) -> tuple[PreTrainedTokenizerFast | WhisperFeatureExtractor, ...]:
        """Those of tokenizer and feature extractor that there are."""
        return tuple(part for part in (self._tokenizer, self._feature_extractor) if part is not None)

    @property
    def pad_token_id(self) -> int:
        """What padding is filled with; it is never read."""
        return getattr(self._tokenizer, "pad_token_id", None) or 0

    # --- checkpoint ---

    @classmethod
    @abstractmethod
    def read_config(cls, raw: dict[str, Any]) -> PreTrainedConfig:
        """The transformers config of a checkpoint's config.json."""

    @classmethod
    def read_extractor(cls, folder: Path, hf_config: PreTrainedConfig) -> WhisperFeatureExtractor | None:
        """The mel extractor of a checkpoint folder; None if its files are not there, or nothing is heard."""
        there = any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))
        if not (cls.hears and there):
            return None
        with reading("preprocessor_config.json", expected="the settings of a WhisperFeatureExtractor"):
            return WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)

    def write_config(self, folder: Path, *, tied: bool) -> None:
        """Write config.json for the class that `architecture` names."""
        config = deepcopy(self.hf_config)
        config.tie_word_embeddings = tied
        config.architectures = [self.architecture]
        config.save_pretrained(folder)

    @classmethod
    def our_name(cls, checkpoint_name: str) -> str | None:
        """Our parameter name of a checkpoint tensor; None for one that is not ours to load, unknown names unchanged."""
        return cls.tensor_names.ours(checkpoint_name)

    @classmethod
    def checkpoint_name(cls, our_name: str) -> str:
        """The name under which our parameter is saved; transformers reads it too."""
        return cls.tensor_names.in_file(our_name)

    def refuse_unknown(self) -> None:
        """Refuse a config with a setting that the family does not know, or does not do.

        Errors: `CheckpointError` naming the settings.
        """
        values: Mapping[str, Any] = self.hf_config.to_dict()
        for place, known in self.known.items():
            part = values
            for name in filter(None, place.split(".")):
                part = part.get(name) or {}
            known.refuse_others(part)

    @abstractmethod
    def decoder_config(self, *, tied: bool, model_name: str) -> DecoderConfig:
        """The decoder's numbers; `model_name` is the folder or hub id that they came from."""

    # --- encoders ---

    @abstractmethod
    def make_encoders(self) -> nn.ModuleDict:
        """The encoders without weights."""

    @property
    def encoder_hooks(self) -> Mapping[str, EncoderHook]:
        """The hook points inside the encoders, by name."""
        return Frozen()

    @abstractmethod
    def encode(
        self, encoders: nn.ModuleDict, features: Mapping[str, Tensor]
    ) -> dict[str, Float[Tensor, "row d_model"]]:
        """Encoder output rows of each modality that the features hold, in prompt order."""

    # --- prompts ---

    @abstractmethod
    def placeholder(self, modality: str) -> int:
        """The id of the tokens whose embeddings a modality's rows replace."""

    @abstractmethod
    def prepare(
        self,
        media: Sequence[Clip | str],
        *,
        question: str,
        options: Sequence[str] = (),
        instruction: str | None = None,
        answer_prefix: str | None = None,
        system: str | None = None,
        sampling: Sampling | None = None,
        positions: str | None = None,
    ) -> AVInputs:
        """One prompt from media, a question and options; the arguments are those of `model.prepare`."""

    @abstractmethod
    def inputs_from_tensors(self, input_ids: Int64[Tensor, "batch pos"], **tensors: Any) -> AVInputs:
        """Inputs from the tensors that the family's published processor returns."""
