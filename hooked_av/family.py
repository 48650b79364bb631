"""What a model family is: how it names its tensors, lays out its prompt, counts positions and encodes media.

The model knows families by this interface only; a new family is one more file in `families/`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxtyping import Float, Int64
from torch import Tensor, nn

from hooked_av.config import DecoderConfig
from hooked_av.errors import InputsError
from hooked_av.inputs import AVInputs
from hooked_av.media import Clip


class Family(ABC):
    """One model family, with the config and the text and sound processors of one checkpoint."""

    name: ClassVar[str]
    architecture: ClassVar[str]  # the transformers class that reads what we save
    encoder_names: ClassVar[tuple[str, ...]]  # our names, and transformers', of the encoders

    def __init__(self, hf_config: Any, tokenizer: Any = None, feature_extractor: Any = None) -> None:
        self.hf_config = hf_config
        self._tokenizer = tokenizer
        self._feature_extractor = feature_extractor

    @property
    def tokenizer(self) -> Any:
        """transformers' tokenizer. Errors: `InputsError` if the model was loaded without one."""
        return self._needed(self._tokenizer, "tokenizer")

    @property
    def feature_extractor(self) -> Any:
        """transformers' mel extractor. Errors: `InputsError` if the model was loaded without one."""
        return self._needed(self._feature_extractor, "feature_extractor")

    def _needed(self, processor: Any, what: str) -> Any:
        if processor is None:
            raise InputsError(
                f"this model was loaded without a {what}",
                expected=f"a transformers {what}",
                got="none",
                next_step=f"from_hf(model, {what}=...), or use inputs_from_tensors with ready tensors",
            )
        return processor

    @property
    def processors(self) -> tuple[Any, ...]:
        """Those of tokenizer and feature extractor that there are."""
        return tuple(part for part in (self._tokenizer, self._feature_extractor) if part is not None)

    @property
    def pad_token_id(self) -> int:
        """What padding is filled with; it is never read."""
        return getattr(self._tokenizer, "pad_token_id", None) or 0

    # --- checkpoint ---

    @classmethod
    @abstractmethod
    def read_config(cls, raw: dict[str, Any]) -> Any:
        """The transformers config of a checkpoint's config.json."""

    @staticmethod
    @abstractmethod
    def our_name(checkpoint_name: str) -> str | None:
        """Our parameter name of a checkpoint tensor; None for a tensor that is not ours to load."""

    @staticmethod
    @abstractmethod
    def checkpoint_name(our_name: str) -> str:
        """The name under which our parameter is saved."""

    @abstractmethod
    def decoder_config(self, *, tied: bool, model_name: str) -> DecoderConfig:
        """The decoder's numbers; `model_name` is the folder or hub id that they came from."""

    # --- encoders ---

    @abstractmethod
    def make_encoders(self) -> nn.ModuleDict:
        """The encoders without weights."""

    @staticmethod
    @abstractmethod
    def encode(encoders: nn.ModuleDict, features: Mapping[str, Tensor]) -> dict[str, Float[Tensor, "row d_model"]]:
        """Encoder output rows of each modality that the features hold, in prompt order."""

    # --- prompts ---

    @abstractmethod
    def placeholder(self, modality: str) -> int:
        """The id of the tokens whose embeddings a modality's rows replace."""

    @abstractmethod
    def prepare(self, media: Sequence[Clip | str], *, question: str, **arguments: Any) -> AVInputs:
        """One prompt from media, a question and options."""

    @abstractmethod
    def inputs_from_tensors(self, input_ids: Int64[Tensor, "batch pos"], **tensors: Any) -> AVInputs:
        """Inputs from the tensors that the family's published processor returns."""
