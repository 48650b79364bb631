"""Text to tokens and back, under TransformerLens's names."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hooked_av.decoder.decoder import HookedDecoder
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.families.family import Family
from hooked_av.forward.loss import refuse_bos
from hooked_av.prompt.inputs import AVInputs


class TextTokens:
    """`to_tokens`, `to_string`, `to_str_tokens`, `to_single_token` of a model that has a tokenizer."""

    family: Family
    decoder: HookedDecoder

    @property
    def tokenizer(self) -> Any:
        """transformers' tokenizer; None if the model was loaded without one."""
        return self.family.tokenizer if self.family.has_tokenizer else None

    @door
    def to_tokens(self, text: str | Sequence[str], prepend_bos: bool | None = None) -> Int64[Tensor, "batch pos"]:
        """Token ids of plain text (no chat template, nothing prepended). Several texts need equal lengths.

        >>> import hooked_av as av
        >>> av.random_omni(n_layers=2).to_tokens("Hello world").tolist()
        [[9707, 1879]]
        """
        refuse_bos(prepend_bos)
        rows = [self._ids(line) for line in ([text] if isinstance(text, str) else text)]
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
        return self._text_of(self._known(torch.as_tensor(tokens)))

    @door
    def to_str_tokens(self, text: str | AVInputs | Tensor, prepend_bos: bool | None = None) -> list[str]:
        """Each token of one prompt as text."""
        refuse_bos(prepend_bos)
        if isinstance(text, AVInputs):
            text = text.input_ids
        tokens = self.to_tokens(text) if isinstance(text, str) else text
        return [self._text_of([token]) for token in self._known(tokens)]

    def _known(self, tokens: Tensor) -> list[int]:
        """Ids as numbers, if the model has all of them."""
        ids = tokens.flatten().long()
        if ids.numel():
            check_ids(ids, self.decoder.cfg.d_vocab)
        return ids.tolist()

    def _text_of(self, ids: list[int]) -> str:
        return str(self.family.tokenizer.decode(ids))

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

    @door
    def to_single_str_token(self, int_token: int) -> str:
        """The text of one token id.

        >>> import hooked_av as av
        >>> av.random_omni(n_layers=2).to_single_str_token(1879)
        ' world'
        """
        return self.to_string(int_token)

    @door
    def get_token_position(
        self,
        single_token: str | int,
        input: str | AVInputs | Tensor,
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = None,
    ) -> int:
        """Where a token stands in one prompt: its first place, or its last.

        Errors: `InputsError` if it is not there.

        >>> import hooked_av as av
        >>> av.random_omni(n_layers=2).get_token_position(" world", "Hello world")
        1
        """
        refuse_bos(prepend_bos)
        token = int(self._ids_of(single_token))
        tokens = input.input_ids if isinstance(input, AVInputs) else input
        row = self.to_tokens(tokens)[0] if isinstance(tokens, str) else tokens.reshape(-1, tokens.shape[-1])
        places = (row == token).nonzero()[:, -1].tolist()
        if row.ndim > 1 and len(row) != 1:
            raise InputsError(
                "a place in which prompt?",
                expected="one prompt",
                got=f"a batch of {len(row)}",
                next_step="ask for each row",
            )
        if not places:
            raise InputsError(
                f"token {token} ({self.to_string(token)!r}) is not in this prompt",
                expected="one of its tokens",
                got=repr(single_token),
                next_step="see model.to_str_tokens(inputs); mind the leading space",
            )
        return places[0 if mode == "first" else -1]

    def _ids(self, text: str) -> list[int]:
        return self.family.tokenizer(text, add_special_tokens=False)["input_ids"]


def check_ids(input_ids: Int64[Tensor, "..."], d_vocab: int) -> None:
    """Refuse token ids outside 0 ... d_vocab - 1."""
    low, high = int(input_ids.min()), int(input_ids.max())
    if high >= d_vocab or low < 0:
        raise InputsError(
            "token ids that the model does not have",
            expected=f"0 to {d_vocab - 1}",
            got=f"{low} to {high}",
            next_step="use this model's own tokenizer",
        )
