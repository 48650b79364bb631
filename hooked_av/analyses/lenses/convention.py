"""What exactly a logit lens reads: published codes differ in three choices, so the choice has a name.

    norm        final_norm (default) or no_norm: the final norm is applied to what is read, or not
    read        layer_output (default) or layer_input: the residual stream that leaves a block, or that enters it
    embedding   output_embedding (default) or input_embedding: the unembedding, or the token embeddings transposed

A convention is the parts that are not the default joined by "+" ("no_norm+layer_input"); "final_norm" alone is the
model's own reading of its last layer.

Axes: position, d_model, d_vocab.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from hooked_av.errors import InputsError

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

_CHOICES = (
    ("final_norm", "no_norm"),
    ("layer_output", "layer_input"),
    ("output_embedding", "input_embedding"),
)


@dataclass(frozen=True)
class LensConvention:
    """One way to read tokens from the residual stream.

    >>> LensConvention.parse("no_norm+layer_input").point
    'hook_resid_pre'
    >>> LensConvention.parse("layer_output+final_norm").name
    'final_norm'
    """

    has_norm: bool = True
    reads_output: bool = True
    uses_unembedding: bool = True

    @classmethod
    def parse(cls, text: str) -> "LensConvention":
        """A convention from its name.

        Errors: `InputsError` for a part that is unknown, and for two parts that contradict each other.
        """
        parts = text.split("+")
        taken = [[part for part in parts if part in choice] for choice in _CHOICES]
        if sum(map(len, taken)) != len(parts) or any(len(some) > 1 for some in taken):
            raise InputsError(
                "unknown convention of the logit lens",
                expected="one of each, joined by '+': " + "; ".join(" or ".join(choice) for choice in _CHOICES),
                got=repr(text),
                next_step='leave it out for "final_norm", the model\'s own reading of its last layer',
            )
        return cls(*((some or choice)[0] == choice[0] for some, choice in zip(taken, _CHOICES, strict=True)))

    @property
    def name(self) -> str:
        """The shortest text that means it; the norm is always said."""
        chosen = (self.has_norm, self.reads_output, self.uses_unembedding)
        norm, *others = (choice[not default] for choice, default in zip(_CHOICES, chosen, strict=True))
        return "+".join([norm, *(part for part, default in zip(others, chosen[1:], strict=True) if not default)])

    @property
    def point(self) -> str:
        """The hook point of each block that is read."""
        return "hook_resid_post" if self.reads_output else "hook_resid_pre"

    def logits(
        self, model: "HookedAVTransformer", resid: Float[Tensor, "position d_model"]
    ) -> Float[Tensor, "position d_vocab"]:
        """What the rows would answer, past the hook points of norm and unembedding."""
        normed = model.ln_final.normalise(resid[None])[0] if self.has_norm else resid
        return model.unembed(normed) if self.uses_unembedding else normed @ model.embed.weight.T
