"""The audio branch of video-SALMONN 2+: Whisper's encoder, then a Q-Former that makes one row of every half second.

The encoder is transformers' own. The window Q-Former is ours: a BERT of queries that read, in every layer, the encoder
frames of their window. Parameter names are those of the released checkpoints under `audio.`.

Axes: block (30 s of sound), mel, window (one output row each), frame (encoder output of a window, 20 ms each),
query (one a window), row (windows of all blocks, in order).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from hooked_av.errors import CheckpointError, InputsError, excerpt
from hooked_av.families.settings import QFORMER, SALMONN_AUDIO, check_heads
from hooked_av.hooks.point import HookPoint
from hooked_av.media.clip import SAMPLING_RATE_HZ

SECONDS_PER_SOUND_BLOCK = 30
FRAMES_PER_SOUND_BLOCK = 1500  # of the encoder's output: the published code's number, whatever the config says
IGNORED = ("audio.qformer.bert.embeddings.position_ids",)  # an index buffer that nothing reads

# The encoder's fields of `audio_config`, with the released values (Whisper large-v3) where a config leaves one out.
# A published config.json also holds fields of the decoder, which transformers 5 refuses as they stand there.
_WHISPER: Mapping[str, Any] = {
    "num_mel_bins": 128,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "d_model": 1280,
    "activation_function": "gelu",
    "max_source_positions": FRAMES_PER_SOUND_BLOCK,
}


@dataclass(frozen=True)
class SoundWindows:
    """How one 30 s block of sound is cut into windows of encoder frames; each window becomes one token a query.

    >>> SoundWindows().n_tokens, SoundWindows().seconds_per_token
    (60, 0.5)
    """

    n_frames: int = 25
    stride: int = 25
    block_frames: int = FRAMES_PER_SOUND_BLOCK
    n_queries: int = 1

    def __post_init__(self) -> None:
        if min(self.n_frames, self.stride, self.n_queries) < 1 or self.n_frames > self.block_frames:
            raise CheckpointError(
                "this audio config cuts sound into no windows",
                expected="second_per_window and second_stride of 0.02 or more, query_length of 1 or more",
                got=self,
                next_step="check config.json against the released one",
            )

    @classmethod
    def from_config(cls, audio_config: Mapping[str, Any]) -> "SoundWindows":
        """Windows of a checkpoint's `audio_config`; where it names none, those of the released models."""
        n_frames, stride = (
            round(FRAMES_PER_SOUND_BLOCK * audio_config.get(name, 0.5) / SECONDS_PER_SOUND_BLOCK)
            for name in ("second_per_window", "second_stride")
        )
        qformer_config: Mapping[str, Any] = audio_config.get("qformer_config") or {}
        return cls(
            n_frames=n_frames,
            stride=stride,
            block_frames=audio_config.get("max_source_positions", FRAMES_PER_SOUND_BLOCK),
            n_queries=qformer_config.get("query_length", 1),
        )

    @property
    def n_windows(self) -> int:
        """Windows of one block."""
        return (self.block_frames - self.n_frames) // self.stride + 1

    @property
    def n_tokens(self) -> int:
        """Tokens of one block."""
        return self.n_windows * self.n_queries

    @property
    def seconds_per_token(self) -> float:
        return self.stride * SECONDS_PER_SOUND_BLOCK / FRAMES_PER_SOUND_BLOCK / self.n_queries


def sound_blocks(n_samples: int) -> int:
    """Blocks of 30 s that a sound of so many 16 kHz samples fills, the last with silence.

    >>> sound_blocks(480_000), sound_blocks(480_001)
    (1, 2)
    """
    return -(-n_samples // (SECONDS_PER_SOUND_BLOCK * SAMPLING_RATE_HZ))


def holds_sound(n_samples: int, windows: SoundWindows) -> Bool[Tensor, " token"]:
    """Which tokens of a sound of so many 16 kHz samples hold any of it; the others are padding.

    >>> int(holds_sound(16_000 * 10, SoundWindows()).sum())
    20
    """
    in_block = (torch.arange(windows.n_windows) * windows.stride).repeat_interleave(windows.n_queries)
    starts = (torch.arange(sound_blocks(n_samples))[:, None] * FRAMES_PER_SOUND_BLOCK + in_block).flatten()
    samples_per_frame = SECONDS_PER_SOUND_BLOCK * SAMPLING_RATE_HZ // FRAMES_PER_SOUND_BLOCK
    return starts * samples_per_frame < n_samples


class SalmonnAudio(WhisperEncoder):
    """mel -> Whisper's encoder -> hook_windows -> window Q-Former -> hook_rows -> projection

    A subclass, because a released checkpoint keeps the Q-Former's tensors beside the encoder's.

    Args:
        audio_config: the `audio_config` of a 2+ config.json.
        d_model: width of the decoder.

    Errors: `CheckpointError` for a setting that this branch does not do; `InputsError` for mel frames that are not
    whole 30 s blocks.

    >>> sizes = {"encoder_layers": 1, "d_model": 8, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
    >>> qformer = {"hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 24, "encoder_width": 8}
    >>> audio = SalmonnAudio({**sizes, "qformer_config": qformer}, d_model=16)
    >>> audio(torch.zeros(2, 128, 3000)).shape
    torch.Size([120, 16])
    """

    def __init__(self, audio_config: Mapping[str, Any], d_model: int) -> None:
        qformer_config = dict(audio_config.get("qformer_config") or {})
        _refuse_unknown(audio_config, qformer_config)
        super().__init__(WhisperConfig(**{name: audio_config.get(name, value) for name, value in _WHISPER.items()}))
        d_query = qformer_config.get("hidden_size", 3072)
        check_heads("Q-Former", d_query, qformer_config.get("num_attention_heads", 12))
        self.windows = SoundWindows.from_config(audio_config)
        self.q_tokens = nn.Parameter(torch.zeros(1, self.windows.n_queries, d_query))
        nn.init.normal_(self.q_tokens, std=qformer_config.get("initializer_range", 0.02))
        self.qformer = nn.ModuleDict({"bert": WindowQFormer(qformer_config, self.config.d_model)})
        self.audio_proj = nn.Linear(d_query, d_model)
        self.hook_windows = HookPoint("row frame d_audio")  # one row of frames a window: what its queries read
        self.hook_rows = HookPoint("row d_query")

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - rows instead of transformers' output object
        self, audio_feature: Float[Tensor, "block mel time"]
    ) -> Float[Tensor, "row d_model"]:
        self._check(audio_feature)
        encoded: Any = super().forward(audio_feature.to(self.dtype))
        windows = self.hook_windows(cut_windows(encoded.last_hidden_state, self.windows))
        queries = self.qformer["bert"](self.q_tokens.expand(len(windows), -1, -1), windows)
        return self.audio_proj(self.hook_rows(queries.flatten(0, 1)))

    def _check(self, audio_feature: Tensor) -> None:
        expected = (self.num_mel_bins, 2 * self.max_source_positions)
        if tuple(audio_feature.shape[1:]) != expected:
            raise InputsError(
                "audio_feature is no whole number of 30 s blocks",
                expected=f"[block, {expected[0]} mel bins, {expected[1]} frames of 10 ms]",
                got=list(audio_feature.shape),
                next_step="pad every block with silence to 30 s, as Whisper's feature extractor does",
            )


def cut_windows(
    encoded: Float[Tensor, "block time d_audio"], windows: SoundWindows
) -> Float[Tensor, "window frame d_audio"]:
    """The encoder's output in windows, block after block; what is left at the end of a block is dropped.

    >>> cut_windows(torch.arange(7.0).view(1, 7, 1), SoundWindows(3, 2, 7))[..., 0].tolist()
    [[0.0, 1.0, 2.0], [2.0, 3.0, 4.0], [4.0, 5.0, 6.0]]
    """
    return encoded.unfold(1, windows.n_frames, windows.stride).flatten(0, 1).transpose(1, 2)


class WindowQFormer(nn.Module):
    """A BERT without words: normalised queries, then layers that read each window's frames."""

    def __init__(self, config: Mapping[str, Any], d_audio: int) -> None:
        super().__init__()
        sizes = QFormerSizes.from_config(config, d_audio)
        self.embeddings = nn.ModuleDict({"LayerNorm": nn.LayerNorm(sizes.d_query, eps=sizes.eps)})
        every = config.get("cross_attention_freq", 1)
        layers = nn.ModuleList(
            QFormerLayer(sizes, reads=layer % every == 0) for layer in range(config.get("num_hidden_layers", 2))
        )
        self.encoder = nn.ModuleDict({"layer": layers})

    def forward(
        self, queries: Float[Tensor, "window query d_query"], windows: Float[Tensor, "window frame d_audio"]
    ) -> Float[Tensor, "window query d_query"]:
        queries = self.embeddings["LayerNorm"](queries)
        layers: Any = self.encoder["layer"]
        for layer in layers:
            queries = layer(queries, windows)
        return queries


@dataclass(frozen=True)
class QFormerSizes:
    """Widths and constants of a Q-Former layer; defaults are the released ones."""

    d_query: int
    d_mlp: int
    d_audio: int
    n_heads: int
    eps: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any], d_audio: int) -> "QFormerSizes":
        return cls(
            d_query=config.get("hidden_size", 3072),
            d_mlp=config.get("intermediate_size", 12288),
            d_audio=d_audio,
            n_heads=config.get("num_attention_heads", 12),
            eps=config.get("layer_norm_eps", 1e-12),
        )


class QFormerLayer(nn.Module):
    """queries -> + self-attention, norm -> + attention to the window, norm -> + MLP, norm (all after the sum)

    `reads`: whether this layer attends to the window (in released models all do).
    """

    def __init__(self, sizes: QFormerSizes, reads: bool = True) -> None:
        super().__init__()
        self.attention = QFormerAttention(sizes, d_read=sizes.d_query)
        self.crossattention = QFormerAttention(sizes, d_read=sizes.d_audio) if reads else None
        self.intermediate_query = nn.ModuleDict({"dense": nn.Linear(sizes.d_query, sizes.d_mlp)})
        self.output_query = AddAndNorm(sizes.d_mlp, sizes)

    def forward(
        self, queries: Float[Tensor, "window query d_query"], windows: Float[Tensor, "window frame d_audio"]
    ) -> Float[Tensor, "window query d_query"]:
        queries = self.attention(queries, queries)
        if self.crossattention is not None:
            queries = self.crossattention(queries, windows)
        return self.output_query(F.gelu(self.intermediate_query["dense"](queries)), queries)


class QFormerAttention(nn.Module):
    """Attention of the queries to `read`, added to them, and normalised."""

    def __init__(self, sizes: QFormerSizes, d_read: int) -> None:
        super().__init__()
        self.n_heads = sizes.n_heads
        reads = {"query": sizes.d_query, "key": d_read, "value": d_read}
        self.self = nn.ModuleDict({name: nn.Linear(width, sizes.d_query) for name, width in reads.items()})
        self.output = AddAndNorm(sizes.d_query, sizes)

    def forward(
        self, queries: Float[Tensor, "window query d_query"], read: Float[Tensor, "window key d_read"]
    ) -> Float[Tensor, "window query d_query"]:
        q, k, v = (
            self.self[name](states).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for name, states in (("query", queries), ("key", read), ("value", read))
        )
        z = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.output(z, queries)


class AddAndNorm(nn.Module):
    """LayerNorm(dense(states) + residual)"""

    def __init__(self, d_in: int, sizes: QFormerSizes) -> None:
        super().__init__()
        self.dense = nn.Linear(d_in, sizes.d_query)
        self.LayerNorm = nn.LayerNorm(sizes.d_query, eps=sizes.eps)

    def forward(
        self, states: Float[Tensor, "window query d_in"], residual: Float[Tensor, "window query d_query"]
    ) -> Float[Tensor, "window query d_query"]:
        return self.LayerNorm(self.dense(states) + residual)


def _refuse_unknown(audio_config: Mapping[str, Any], qformer_config: Mapping[str, Any]) -> None:
    SALMONN_AUDIO.refuse_others(audio_config)
    QFORMER.refuse_others(qformer_config)
    width = audio_config.get("d_model", _WHISPER["d_model"])
    if qformer_config.get("encoder_width", width) != width:
        raise CheckpointError(
            "the Q-Former of this audio config reads another width than the encoder gives",
            expected=f"qformer_config.encoder_width {width}: the encoder's d_model is {width}",
            got=excerpt(qformer_config["encoder_width"]),
            next_step="use a released video-SALMONN 2+ checkpoint, or report the model to us",
        )
