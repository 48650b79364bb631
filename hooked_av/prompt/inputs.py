"""AVInputs: everything that one forward pass needs, checked when it is made.

Axes: batch, axis (time, height, width), pos. Prompts of different length are padded on the left; padding is False in
`attention_mask` and belongs to no span.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from hooked_av.devices import check_device
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.frozen import Frozen
from hooked_av.media.clip import Clip
from hooked_av.named_figures import draw
from hooked_av.prompt.spans import GENERATED, PositionSet, Span, Spans

_OF_THE_MODEL = {"family", "positions"}  # settings that decide how a batch is read on; others are records
DIFFERS = "differs from prompt to prompt"
_ROWS_SHOWN, _SPANS_SHOWN = 10, 10  # by `repr`
PAD_POSITION_ID = 1  # what transformers writes there; padding is never read


@dataclass(frozen=True, eq=False)
class AVInputs:
    """Token ids, positions, media features and named spans of one prompt, or of a batch of prompts.

    Made by `model.prepare(...)` or `model.inputs_from_tensors(...)`; `model(inputs)` runs it.

    Errors: `InputsError` when ids, mask, positions, spans and features do not fit together.

    >>> inputs = AVInputs.from_tokens(torch.tensor([[5, 6, 7]]))
    >>> inputs.position_ids[:, 0].tolist()
    [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    >>> inputs.spans["last"].positions.tolist()
    [2]
    """

    figure: ClassVar = "hooked_av.plots.strip.strip:show_inputs"

    input_ids: Int64[Tensor, "batch pos"]
    position_ids: Int64[Tensor, "axis=3 batch pos"]
    attention_mask: Bool[Tensor, "batch pos"]
    row_spans: tuple[Spans, ...]
    features: Mapping[str, Tensor] = field(
        default_factory=dict[str, Tensor]
    )  # encoders' inputs, under the family's names
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])  # how it was made: position mode, sampling
    clips: tuple[tuple[Clip, ...], ...] = ()  # the media of each row, for pictures of the prompt
    token_texts: Mapping[int, str] = field(default_factory=dict[int, str])  # text of each id, if a tokenizer was there
    # how many entries of each feature are of each row of a batch, in order; empty where that is not known
    feature_rows: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_mask(self)
        real = [row.nonzero().flatten() for row in self.attention_mask]
        extents = [range(int(row[0]), int(row[-1]) + 1) for row in real]
        spans = tuple(own.with_extent(extent) for own, extent in zip(self.row_spans, extents, strict=True))
        object.__setattr__(self, "row_spans", spans)
        alone = {name: (len(tensor),) for name, tensor in self.features.items()}
        object.__setattr__(self, "feature_rows", Frozen(alone if self.batch == 1 else self.feature_rows))
        object.__setattr__(self, "features", Frozen(self.features))
        object.__setattr__(self, "settings", Frozen(self.settings))
        object.__setattr__(self, "token_texts", Frozen(self.token_texts))

    @classmethod
    @door
    def from_tokens(cls, tokens: Int64[Tensor, "batch pos"]) -> "AVInputs":
        """Text-only inputs from token ids: positions count from 0 on all three axes."""
        if tokens.ndim != 2 or not tokens.shape[1]:
            raise InputsError(
                "token ids need the shape [batch, pos] with at least one token",
                expected="[batch, pos]",
                got=list(tokens.shape),
                next_step="add a batch axis: tokens[None]",
            )
        batch, n_pos = tokens.shape
        spans = Spans(n_pos, {"text": range(n_pos), "last": [n_pos - 1]})
        return cls(
            input_ids=tokens,
            position_ids=torch.arange(n_pos, device=tokens.device).expand(3, batch, n_pos),
            attention_mask=torch.ones_like(tokens, dtype=torch.bool),
            row_spans=(spans,) * batch,
        )

    @property
    def batch(self) -> int:
        return self.input_ids.shape[0]

    @property
    def n_pos(self) -> int:
        return self.input_ids.shape[1]

    @property
    def shape(self) -> torch.Size:
        """[batch, pos], as of token ids: TransformerLens's tools take inputs in their place."""
        return self.input_ids.shape

    @property
    def ndim(self) -> int:
        return self.input_ids.ndim

    def __len__(self) -> int:
        return self.batch

    def __iter__(self) -> "Iterator[AVInputs]":
        return (self[row] for row in range(self.batch))

    @door
    def __getitem__(self, rows: int | slice | Sequence[int] | Int64[Tensor, "row"]) -> "AVInputs":
        """Some prompts of a batch (of an int, a batch of one), with their media, still padded as they were.

        Row numbers may be a tensor: TransformerLens's `fit_das` draws its batches so.

        Errors: `InputsError` for rows that there are not, and for media that cannot be told apart by row.

        >>> both = stack_inputs([AVInputs.from_tokens(torch.arange(n)[None]) for n in (2, 3)], pad_token_id=9)
        >>> both[0].input_ids.tolist(), both[::-1].shape, len(both[torch.tensor([1])])
        ([[9, 0, 1]], torch.Size([2, 3]), 1)
        """
        chosen = self._chosen(rows)
        if chosen == list(range(self.batch)):
            return self
        features = self._features_of(chosen)
        return replace(
            self,
            input_ids=self.input_ids[chosen],
            position_ids=self.position_ids[:, chosen],
            attention_mask=self.attention_mask[chosen],
            row_spans=tuple(self.row_spans[row] for row in chosen),
            features=features,
            feature_rows={name: tuple(self.feature_rows[name][row] for row in chosen) for name in features},
            clips=tuple(self.clips[row] for row in chosen) if self.clips else (),
        )

    @property
    def prompts(self) -> "tuple[AVInputs, ...]":
        """The prompts of a batch, each as it was before `model.batch`: what takes one prompt takes each of these.

        >>> both = stack_inputs([AVInputs.from_tokens(torch.arange(n)[None]) for n in (2, 3)], pad_token_id=9)
        >>> [one.input_ids.tolist() for one in both.prompts]
        [[[0, 1]], [[0, 1, 2]]]
        """
        return tuple(row.without_padding() for row in self)

    def without_padding(self) -> "AVInputs":
        """One row of a batch as the prompt was before it was padded."""
        spans = self.spans
        if len(spans.extent) == self.n_pos:
            return self
        own = slice(spans.extent.start, spans.extent.stop)
        return replace(
            self,
            input_ids=self.input_ids[:, own],
            position_ids=self.position_ids[:, :, own],
            attention_mask=self.attention_mask[:, own],
            row_spans=(spans.without_padding(),),
        )

    def _chosen(self, rows: int | slice | Sequence[int] | Int64[Tensor, "row"]) -> list[int]:
        every = range(self.batch)
        if isinstance(rows, slice):
            chosen = list(every[rows])
        else:
            asked = [index(row) for row in rows] if isinstance(rows, Sequence | Tensor) else [index(rows)]
            chosen = [row + self.batch if row < 0 else row for row in asked]
        if not chosen or not set(chosen) <= set(every):
            raise InputsError(
                "this batch has no such rows",
                expected=f"rows 0 to {self.batch - 1}, at least one",
                got=rows,
                next_step="count the rows from 0",
            )
        return chosen

    def _features_of(self, chosen: Sequence[int]) -> dict[str, Tensor]:
        """The media of some rows."""
        if self.features.keys() != self.feature_rows.keys():
            raise InputsError(
                "which media belong to which prompt of this batch is not known",
                expected="a batch made by model.batch([...]) or model.inputs_from_tensors(...)",
                got="features without feature_rows",
                next_step="keep the prompts that the batch was made of, or run the whole batch",
            )
        by_row = {name: tensor.split(self.feature_rows[name]) for name, tensor in self.features.items()}
        found = {name: torch.cat([parts[row] for row in chosen]) for name, parts in by_row.items()}
        return {name: tensor for name, tensor in found.items() if len(tensor)}

    @property
    def device(self) -> torch.device:
        return self.input_ids.device

    @property
    def starts(self) -> tuple[int, ...]:
        """The first real position of each row: 0, or the number of padding tokens on the left."""
        return tuple(self.attention_mask.int().argmax(dim=1).tolist())

    @property
    def prompt_ids(self) -> Int64[Tensor, "batch pos"]:
        """Token ids, -1 where the model wrote them: there even a placeholder of media is a word like others."""
        ids = self.input_ids
        written = [list(spans[GENERATED]) if GENERATED in spans else [] for spans in self.row_spans]
        if any(written):
            ids = ids.clone()
            for row, positions in enumerate(written):
                ids[row, positions] = -1
        return ids

    @property
    def rope_delta(self) -> Int64[Tensor, " batch"]:
        """What to add to a row's token count to get the position of the next token decoded."""
        largest = self.position_ids.masked_fill(~self.attention_mask, -1).amax(dim=(0, 2))
        return largest + 1 - self.attention_mask.sum(dim=1)

    @door
    def positions_after(self, n_new: int) -> Int64[Tensor, "axis=3 batch new"]:
        """Position ids of the tokens that follow: on every axis the token count plus `rope_delta`.

        In the position mode "transformers" (Qwen2.5-VL) they count on from the last token instead, as transformers'
        `generate` does (5.23): a prompt's text may there stand before the last frames of its video.

        Errors: `InputsError` if padding stands where they would go.
        """
        if not self.attention_mask[:, -1].all():
            raise InputsError(
                "nothing can follow a prompt that is padded on the right",
                expected="padding on the left",
                got="padding behind the last token",
                next_step="batch prompts with model.batch([...])",
            )
        first = self.attention_mask.sum(dim=1) + self.rope_delta
        if self.settings.get("positions") == "transformers":
            first = self.position_ids[0, :, -1] + 1
        return (first[:, None] + torch.arange(n_new, device=self.device)).expand(3, -1, -1)

    @property
    def spans(self) -> Spans:
        """The spans of a single prompt (in a batch, see `row_spans`)."""
        if self.batch != 1:
            raise InputsError(
                "a batch has spans for each row",
                expected="one prompt",
                got=f"a batch of {self.batch}",
                next_step="use inputs.row_spans[row], or go through the prompts: for one in inputs.prompts",
            )
        return self.row_spans[0]

    @door
    def with_span(self, name: str, positions: str | Span | PositionSet) -> "AVInputs":
        """The same inputs with your own span: a list of positions, a `Span`, or algebra such as `"av - boundary"`.

        >>> AVInputs.from_tokens(torch.tensor([[5, 6, 7]])).with_span("mine", [0, 2]).spans["mine"]
        Span('mine', 2 positions: 0, 2)
        """
        return replace(self, row_spans=tuple(spans.with_span(name, positions) for spans in self.row_spans))

    @door
    def with_generated(self, tokens: Sequence[Sequence[int]] | Int64[Tensor, "batch new"]) -> "AVInputs":
        """Prompt and answer as one input, the answer as the span "generated": what generation computes, in one pass.

        Every analysis runs on it: `model(inputs.with_generated(model.generate(inputs).tokens))`. Its "last" is still
        the last token of the prompt.

        Args:
            tokens: the answer of each prompt; answers of a batch need equal lengths.

        >>> AVInputs.from_tokens(torch.tensor([[5, 6, 7]])).with_generated([[8, 9]]).spans["generated"]
        Span('generated', 2 positions: 3-4)
        """
        rows = [list(row) for row in tokens]
        lengths = {len(row) for row in rows}
        if len(rows) != self.batch or len(lengths) != 1 or 0 in lengths:
            raise InputsError(
                "these answers do not fit the prompts",
                expected=f"{self.batch} answers of equal length, at least one token",
                got=[len(row) for row in rows],
                next_step="take the prompts of a batch one by one where their answers differ in length",
            )
        new = torch.tensor([[int(token) for token in row] for row in rows], device=self.device)
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, new], dim=1),
            position_ids=torch.cat([self.position_ids, self.positions_after(new.shape[1])], dim=2),
            attention_mask=torch.cat([self.attention_mask, torch.ones_like(new, dtype=torch.bool)], dim=1),
            row_spans=tuple(spans.continued(new.shape[1]) for spans in self.row_spans),
        )

    @door
    def with_positions(self, position_ids: Int64[Tensor, "axis=3 batch pos"]) -> "AVInputs":
        """The same inputs with other position ids; the settings record that they are yours."""
        return replace(self, position_ids=position_ids, settings={**self.settings, "positions": "given by the user"})

    @door
    def row(self, row: int) -> "AVInputs":
        """One row of a batch as inputs of its own, still padded; without features, so for looking, not for running.

        >>> both = stack_inputs([AVInputs.from_tokens(torch.arange(n)[None]) for n in (2, 3)], pad_token_id=9)
        >>> both.row(1).spans["last"].positions.tolist()
        [2]
        """
        if not 0 <= row < self.batch:
            raise InputsError(
                "this batch has no such row",
                expected=f"0 to {self.batch - 1}",
                got=row,
                next_step="count the rows from 0",
            )
        one = slice(row, row + 1)
        return replace(
            self,
            input_ids=self.input_ids[one],
            position_ids=self.position_ids[:, one],
            attention_mask=self.attention_mask[one],
            row_spans=self.row_spans[one],
            features={},
            clips=self.clips[one],
        )

    @door
    def to(self, device: torch.device | str) -> "AVInputs":
        """The same inputs on another device. Errors: `InputsError` for one that this machine does not have."""
        check_device(device, InputsError)
        moved = {name: tensor.to(device) for name, tensor in self.features.items()}
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            features=moved,
        )

    def _repr_html_(self) -> str:
        """The token strip that a notebook shows."""
        return draw(self).html

    def __repr__(self) -> str:
        media = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in self.features.items())
        head = [f"AVInputs: {self.batch} x {self.n_pos} tokens"] + ([f"  features: {media}"] if media else [])
        rows = [f"  {row}: {_in_short(spans)}" for row, spans in enumerate(self.row_spans[:_ROWS_SHOWN])]
        left = self.batch - _ROWS_SHOWN
        return "\n".join([*head, *rows, *([f"  ... {left} more"] if left > 0 else [])])


def _in_short(spans: Spans) -> str:
    """The spans of one prompt in a line, less those of single items."""
    sizes = {name: len(span) for name, span in spans.items() if not re.match(r"item\d", name) and name != "last"}
    return ", ".join(f"{name} {size}" for name, size in list(sizes.items())[:_SPANS_SHOWN])


def stack_inputs(prompts: Sequence[AVInputs], pad_token_id: int) -> AVInputs:
    """One batch from several prompts, padded on the left; every row means what it means alone.

    >>> short, long = (AVInputs.from_tokens(torch.arange(n)[None]) for n in (2, 3))
    >>> both = stack_inputs([short, long], pad_token_id=9)
    >>> both.input_ids.tolist(), both.row_spans[0]["last"].positions.tolist()
    ([[9, 0, 1], [0, 1, 2]], [2])
    """
    if not prompts:
        raise InputsError(
            "nothing to stack", expected="at least one prompt", got="an empty list", next_step="prepare a prompt first"
        )
    n_pos = max(prompt.n_pos for prompt in prompts)
    padded = [_padded(prompt, n_pos, pad_token_id) for prompt in prompts]
    return AVInputs(
        input_ids=torch.cat([row.input_ids for row in padded]),
        position_ids=torch.cat([row.position_ids for row in padded], dim=1),
        attention_mask=torch.cat([row.attention_mask for row in padded]),
        row_spans=tuple(spans for row in padded for spans in row.row_spans),
        features=merge_features([row.features for row in padded]),
        feature_rows=_joined_rows(padded),
        settings=_shared_settings(padded),
        clips=tuple(clips for row in padded for clips in row.clips or ((),) * row.batch),
        token_texts={token: text for row in padded for token, text in row.token_texts.items()},
    )


def _padded(prompt: AVInputs, n_pos: int, pad_token_id: int) -> AVInputs:
    extra = n_pos - prompt.n_pos
    if not extra:
        return prompt
    return replace(
        prompt,
        input_ids=torch.nn.functional.pad(prompt.input_ids, (extra, 0), value=pad_token_id),
        position_ids=torch.nn.functional.pad(prompt.position_ids, (extra, 0), value=PAD_POSITION_ID),
        attention_mask=torch.nn.functional.pad(prompt.attention_mask, (extra, 0), value=False),
        row_spans=tuple(spans.shifted(extra, n_pos) for spans in prompt.row_spans),
    )


def _joined_rows(prompts: Sequence[AVInputs]) -> dict[str, tuple[int, ...]]:
    """How many entries of each feature are of each row; empty where one of the batches joined does not know."""
    if any(prompt.features.keys() != prompt.feature_rows.keys() for prompt in prompts):
        return {}
    names = dict.fromkeys(name for prompt in prompts for name in prompt.features)
    return {
        name: tuple(n for prompt in prompts for n in prompt.feature_rows.get(name, (0,) * prompt.batch))
        for name in names
    }


def merge_features(features: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The encoders' inputs of several items or prompts, one after the other.

    >>> merge_features([{"pixel_values": torch.zeros(4, 6)}, {"pixel_values": torch.zeros(8, 6)}])["pixel_values"].shape
    torch.Size([12, 6])
    """
    names = dict.fromkeys(name for some in features for name in some)
    return {name: _joined([some[name] for some in features if name in some]) for name in names}


def _joined(tensors: list[Tensor]) -> Tensor:
    """Concatenate along the item axis; a last axis that differs (mel frames) is padded with zeros on the right."""
    if tensors[0].ndim == 1:
        return torch.cat(tensors)
    width = max(tensor.shape[-1] for tensor in tensors)
    return torch.cat([torch.nn.functional.pad(tensor, (0, width - tensor.shape[-1])) for tensor in tensors])


def _shared_settings(prompts: Sequence[AVInputs]) -> dict[str, Any]:
    """The settings of a batch; of what only says how a prompt was made, that it differs from prompt to prompt."""
    shared = dict(prompts[0].settings)
    for prompt in prompts[1:]:
        # a prompt without media has no sampling to differ in
        differing = {key for key in shared.keys() & prompt.settings if shared[key] != prompt.settings[key]}
        together = sorted(differing & _OF_THE_MODEL)
        if together:
            raise InputsError(
                "prompts made with different settings cannot share a batch",
                expected=f"equal {', '.join(together)}",
                got=[{key: p.settings.get(key) for key in together} for p in prompts],
                next_step="prepare all prompts of a batch with the same arguments",
            )
        shared |= prompt.settings
        shared |= dict.fromkeys(differing, DIFFERS)
    return shared


def check_alone(inputs: AVInputs, analysis: str) -> None:
    """Refuse a batch where one prompt is taken.

    Errors: `InputsError`, with the loop that does it.
    """
    if inputs.batch != 1:
        raise InputsError(
            f"{analysis} takes one prompt at a time",
            expected="one prompt",
            got=f"a batch of {inputs.batch}",
            next_step=f"go through them: [{analysis}(model, one, ...) for one in inputs.prompts]",
        )


def check_same_shape(input_ids: Tensor, attention_mask: Tensor) -> None:
    """Refuse ids that are not [batch, pos], and a mask of another shape."""
    if input_ids.ndim != 2 or input_ids.shape != attention_mask.shape:
        raise InputsError(
            "input_ids and attention_mask do not fit",
            expected="both [batch, pos]",
            got=f"{list(input_ids.shape)} and {list(attention_mask.shape)}",
            next_step="add a batch axis (input_ids[None]); take both from the same processor call",
        )


def _check_shapes(inputs: AVInputs) -> None:
    shape = tuple(inputs.input_ids.shape)
    wanted = {
        "input_ids": (inputs.input_ids, torch.int64, shape if len(shape) == 2 else ("batch", "pos")),
        "position_ids": (inputs.position_ids, torch.int64, (3, *shape)),
        "attention_mask": (inputs.attention_mask, torch.bool, shape),
    }
    for name, (tensor, dtype, expected) in wanted.items():
        if tuple(tensor.shape) != expected or tensor.dtype != dtype:
            raise InputsError(
                f"{name} does not fit",
                expected=f"{dtype} {list(expected)}",
                got=f"{tensor.dtype} {list(tensor.shape)}",
                next_step="make inputs with model.prepare(...) or model.inputs_from_tensors(...)",
            )
    if [spans.n_pos for spans in inputs.row_spans] != [shape[1]] * shape[0]:
        raise InputsError(
            "spans do not cover the tokens",
            expected=f"{shape[0]} rows of {shape[1]} positions",
            got=[spans.n_pos for spans in inputs.row_spans],
            next_step="give one Spans per row, over the padded length",
        )


def _check_mask(inputs: AVInputs) -> None:
    mask = inputs.attention_mask
    gaps = (mask[:, 1:] != mask[:, :-1]).sum(dim=1) > (~mask).any(dim=1).int()
    if not mask.any(dim=1).all() or gaps.any():
        raise InputsError(
            "each row needs one unbroken run of real tokens",
            expected="padding only before, or only after, the prompt",
            got=f"rows {(gaps | ~mask.any(dim=1)).nonzero().flatten().tolist()} otherwise",
            next_step="pad every prompt on one side",
        )
    for row, spans in enumerate(inputs.row_spans):
        real = set(mask[row].nonzero().flatten().tolist())
        outside = [name for name, span in spans.items() if not real.issuperset(span)]
        if outside:
            raise InputsError(
                f"row {row}: spans {outside} reach into the padding",
                expected="positions where attention_mask is true",
                got=f"padding positions in {outside[0]!r}",
                next_step="shift the spans by the padding, as stack_inputs does",
            )
