"""What the families built on Qwen2.5 share: a text decoder, a vision tower, a chat template, blocks of media in ids.

A family on this ground says its tensor names, config class, token ids, position modes and tensors as values, and
brings four small methods: what it writes for a clip, how it reads a prompt back, how it counts positions, how it
encodes sound.

Axes: batch pos; row (encoder output rows); axis (time, height, width).
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hooked_av.config import DecoderConfig
from hooked_av.errors import InputsError
from hooked_av.families.blocks import MediaTokens, PromptReader, nominal_times
from hooked_av.families.chat import PreparedClip, prompt_parts
from hooked_av.families.family import Family
from hooked_av.families.features import check_features, encode_pictures, entries_by_row
from hooked_av.families.settings import check_heads
from hooked_av.media.clip import Clip
from hooked_av.media.sampling import ResolvedSampling, Sampling
from hooked_av.prompt.inputs import PAD_POSITION_ID, AVInputs, check_same_shape, merge_features
from hooked_av.prompt.layout import build_spans
from hooked_av.prompt.positions import Piece, TextRun
from hooked_av.prompt.spans import Spans
from hooked_av.prompt.text import (
    TextPart,
    check_options,
    question_parts,
    refuse_special_tokens,
    token_texts,
    tokenize,
)


class _ReadRow(NamedTuple):
    """One prompt read back from its ids: its positions, its spans, and how many media of each modality it has."""

    positions: Int64[Tensor, "axis=3 pos"]
    spans: Spans
    items: Mapping[str, int]


class QwenFamily(Family):
    """A family on a Qwen2.5 decoder with Qwen2.5's vision tower under the name `visual`."""

    position_modes: ClassVar[tuple[str, ...]]  # the first is the default; `positions=` chooses where there are several
    feature_groups: ClassVar[tuple[tuple[str, ...], ...]]  # media tensors of the published processor that come together
    tensor_arguments: ClassVar[str]  # what stands beside them, for messages
    after_media: ClassVar[str] = ""  # what stands between the last medium and the question

    # --- what a family brings ---

    @property
    @abstractmethod
    def tokens(self) -> MediaTokens:
        """The ids of its media tokens."""

    @property
    @abstractmethod
    def released_sampling(self) -> ResolvedSampling:
        """Frames and pixels as the model was released."""

    @abstractmethod
    def writer(self, clips: Sequence[Clip], sampling: ResolvedSampling) -> Callable[[Clip], PreparedClip]:
        """What writes each of these clips into a prompt."""

    @abstractmethod
    def reader(self, features: Mapping[str, Tensor], n_samples: Sequence[int] | None) -> PromptReader:
        """What reads prompts with these features back from their ids; `n_samples` of each sound, None if unknown."""

    @abstractmethod
    def position_ids(self, pieces: Sequence[Piece], mode: str) -> Int64[Tensor, "axis=3 pos"]:
        """(time, height, width) of every token of one prompt, by one of `position_modes`."""

    def check_media(self, clips: Sequence[Clip]) -> None:
        """Refuse clips that the model cannot take, before any frame is decoded."""

    # --- what all of them do ---

    def decoder_config(self, *, tied: bool, model_name: str) -> DecoderConfig:
        self.refuse_unknown()
        vision = self.hf_config.vision_config
        check_heads("vision tower", vision.hidden_size, vision.num_heads)
        return DecoderConfig.from_hf(self.hf_config.text_config, tied=tied, model_name=model_name)

    def encode(
        self, encoders: nn.ModuleDict, features: Mapping[str, Tensor]
    ) -> dict[str, Float[Tensor, "row d_model"]]:
        return encode_pictures(encoders["visual"], features)

    def placeholder(self, modality: str) -> int:
        return self.tokens.modality(modality)

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
        mode = self._mode(positions)
        options = check_options(options)
        clips = tuple(item for item in media if isinstance(item, Clip))
        between = [item for item in media if isinstance(item, str)]
        asked = question_parts(question, options, instruction)
        texts = [question, *options, instruction or "", answer_prefix or "", system or "", *between]
        refuse_special_tokens(texts, self.tokenizer)
        self.check_media(clips)
        seen = (sampling or Sampling()).resolved(self.released_sampling)
        write = self.writer(clips, seen)
        items = [item if isinstance(item, str) else write(item) for item in media]
        after = [self.after_media] if items and self.after_media else []
        parts = prompt_parts(system, [*items, *after], asked, answer_prefix or "")
        shown = [item for item in items if isinstance(item, PreparedClip)]
        settings = {"sampling": asdict(seen)} if items else {}
        return self._assembled(parts, shown, clips, {"family": self.name, "positions": mode, **settings})

    def _mode(self, positions: str | None) -> str:
        mode = self.position_modes[0] if positions is None else positions
        if mode not in self.position_modes:
            raise InputsError(
                "unknown position mode",
                expected=f"one of {self.position_modes} for {self.name} (see docs/gotchas.md for what they are)",
                got=repr(mode),
                next_step=" or ".join(f"positions={known!r}" for known in self.position_modes),
            )
        return mode

    def _assembled(
        self,
        parts: Sequence[TextPart],
        items: Sequence[PreparedClip],
        clips: tuple[Clip, ...],
        settings: dict[str, Any],
    ) -> AVInputs:
        """One prompt from its text; its layout is read back from the ids, as that of anybody's tensors is."""
        ids, labels = tokenize(parts, self.tokenizer)
        features = merge_features([item.features for item in items])
        reader = self.reader(features, [item.n_samples for item in items if item.n_samples is not None])
        placed = reader.place(ids)
        labels |= reader.labels(placed)
        reader.check_empty()
        return AVInputs(
            input_ids=ids[None],
            position_ids=self.position_ids([part.piece for part in placed], settings["positions"])[:, None],
            attention_mask=torch.ones(1, len(ids), dtype=torch.bool),
            row_spans=(build_spans(placed, len(ids), [item.times for item in items], labels),),
            features=features,
            settings=settings,
            clips=(clips,),
            token_texts=token_texts(ids, self.tokenizer),
        )

    def _checked_features(self, features: Mapping[str, Any]) -> dict[str, Tensor]:
        """The media tensors that were given, complete, and under known names."""
        return check_features(features, self.feature_groups, self.tensor_arguments)

    def _from_tensors(
        self,
        input_ids: Int64[Tensor, "batch pos"],
        attention_mask: Tensor | None,
        features: Mapping[str, Tensor],
        reader: PromptReader,
        settings: Mapping[str, Any],
    ) -> AVInputs:
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        check_same_shape(input_ids, mask)
        rows = list(self._read_rows(input_ids, mask, reader, settings["positions"]))
        position_ids = torch.full((3, *input_ids.shape), PAD_POSITION_ID, device=input_ids.device)
        for number, row in enumerate(rows):
            position_ids[:, number, mask[number]] = row.positions.to(input_ids.device)
        return AVInputs(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=mask,
            row_spans=tuple(row.spans for row in rows),
            features=features,
            feature_rows=entries_by_row(features, [row.items for row in rows]),
            settings={"family": self.name, **settings},
        )

    def _read_rows(self, ids: Tensor, mask: Tensor, reader: PromptReader, mode: str) -> Iterator["_ReadRow"]:
        seconds = self.tokens.seconds_per_audio_token
        for row, real in zip(ids, mask, strict=True):
            before = {modality: len(items) for modality, items in reader.supply.left.items()}
            placed = reader.place(row[real].cpu())
            positions = self.position_ids([part.piece for part in placed], mode)
            times = [nominal_times(part, seconds) for part in placed if not isinstance(part.piece, TextRun)]
            spans = build_spans(placed, int(real.sum()), times, reader.labels(placed))
            taken = {modality: n - len(reader.supply.left[modality]) for modality, n in before.items()}
            yield _ReadRow(positions, spans.shifted(int(real.int().argmax()), len(row)), taken)
        reader.check_empty()
