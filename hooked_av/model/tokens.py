"""Text to tokens and back, under TransformerLens's names."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hooked_av.decoder.decoder import HookedDecoder
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.families.family import Family
from hooked_av.forward.passes import check_ids
from hooked_av.prompt.inputs import AVInputs


class TextTokens:
    """`to_tokens`, `to_string`, `to_str_tokens`, `to_single_token` of a model that has a tokenizer."""

    family: Family
    decoder: HookedDecoder

    @door
    def to_tokens(self, text: str | Sequence[str]) -> Int64[Tensor, "batch pos"]:
        """Token ids of plain text (no chat template, nothing prepended). Several texts need equal lengths.

        >>> import hooked_av as av
        >>> av.random_omni(n_layers=2).to_tokens("Hello world").tolist()
        [[9707, 1879]]
        """
        texts = [text] if isinstance(text, str) else list(text)
        rows = [self._ids(line) for line in texts]
        if len({len(row) for row in rows}) != 1 or not rows[0]:
            raise InputsError(
                "texts of one batch need the same number of tokens, at least one",
                expected="equal lengths",
                got=[len(row) for row in rows],
                next_step="batch them with model.batch([model.prepare(question=...), ...])",
            )
        return torch.tensor(rows, device=self.decoder.embed.weight.device)

    @door
    def to_string(self, tokens: Tensor | Sequence[int] | int) -> str:
        """The text of token ids.

        Errors: `InputsError` for ids that the model does not have.
        """
        ids = torch.as_tensor(tokens).flatten().long()
        if ids.numel():
            check_ids(ids, self.decoder.cfg.d_vocab)
        return str(self.family.tokenizer.decode(ids.tolist()))

    @door
    def to_str_tokens(self, text: str | AVInputs | Tensor) -> list[str]:
        """Each token of one prompt as text."""
        if isinstance(text, AVInputs):
            text = text.input_ids
        tokens = self.to_tokens(text) if isinstance(text, str) else text
        return [self.to_string(token) for token in tokens.flatten().tolist()]

    @door
    def tokens_to_residual_directions(
        self, tokens: str | int | Sequence[str | int] | Tensor
    ) -> Float[Tensor, "*tokens d_model"]:
        """What a token's logit reads from the normalised residual stream: its column of `W_U`.

        The final norm's gain belongs to the norm, as in the cache: `cache.logit_attrs(parts, tokens)` is
        `parts_behind_the_norm @ tokens_to_residual_directions(tokens)`.
        """
        return self.decoder.unembed.weight[self._ids_of(tokens)]

    def _ids_of(self, tokens: str | int | Sequence[str | int] | Tensor) -> Int64[Tensor, "*tokens"]:
        """Ids, and texts of one token, as a tensor of ids that the model has."""
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)
        elif not isinstance(tokens, int | Tensor):
            tokens = [self.to_single_token(token) if isinstance(token, str) else token for token in tokens]
        ids = torch.as_tensor(tokens, device=self.decoder.embed.weight.device).long()
        if ids.numel():
            check_ids(ids, self.decoder.cfg.d_vocab)
        return ids

    @door
    def to_single_token(self, text: str) -> int:
        """The id of text that is exactly one token.

        Errors: `InputsError` if it is more than one, naming them.
        """
        ids = self._ids(text)
        if len(ids) != 1:
            raise InputsError(
                f"{text!r} is not one token",
                expected="one token",
                got=[self.to_string(token) for token in ids],
                next_step="mind the leading space (' yes'), or pick a shorter word",
            )
        return ids[0]

    def _ids(self, text: str) -> list[int]:
        return self.family.tokenizer(text, add_special_tokens=False)["input_ids"]
