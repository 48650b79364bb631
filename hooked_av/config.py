"""DecoderConfig: the numbers of one decoder, under TransformerLens's names.

A config that says something which our decoder does not do is refused, never ignored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from hooked_av.errors import CheckpointError

# Values that change the arithmetic: our decoder does exactly these.
_UNDERSTOOD: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "use_sliding_window": (False, None),
    "attention_bias": (True, None),
    "mlp_bias": (False, None),
    "final_logit_softcapping": (None,),
    "attn_logit_softcapping": (None,),
    "query_pre_attn_scalar": (None,),
    "num_experts": (None, 0),
    "use_qk_norm": (False, None),
    "logit_scale": (None, 1, 1.0),
    "partial_rotary_factor": (None, 1, 1.0),
}
_ROPE_KEYS = {"rope_type", "type", "rope_theta", "mrope_section", "mrope_interleaved"}


@dataclass(frozen=True)
class DecoderConfig:
    """Shape and constants of one decoder. Names are TransformerLens's.

    Errors: `CheckpointError` for numbers that do not fit together, or a setting that our decoder does not do.

    >>> cfg = DecoderConfig(n_layers=2, d_model=64, n_heads=4, n_key_value_heads=2, d_head=16, d_mlp=128,
    ...                     d_vocab=300, mrope_section=(2, 3, 3))
    >>> cfg.n_heads // cfg.n_key_value_heads
    2
    """

    n_layers: int
    d_model: int
    n_heads: int
    n_key_value_heads: int
    d_head: int
    d_mlp: int
    d_vocab: int
    mrope_section: tuple[int, int, int]  # frequencies of the time, height and width axis
    rotary_base: float = 1e6
    eps: float = 1e-6
    n_ctx: int = 32768
    tied: bool = False  # unembedding shares the embedding's weight
    model_name: str = ""
    act_fn: Literal["silu"] = "silu"
    normalization_type: Literal["RMS"] = "RMS"
    positional_embedding_type: Literal["rotary"] = "rotary"

    def __post_init__(self) -> None:
        _require("heads divide over key/value heads", self.n_heads % self.n_key_value_heads == 0, self)
        _require("sum(mrope_section) == d_head / 2", 2 * sum(self.mrope_section) == self.d_head, self)
        _require("eps > 0 and rotary_base > 0", self.eps > 0 and self.rotary_base > 0, self)

    @classmethod
    def from_hf(cls, text_config: Any, *, tied: bool, model_name: str = "") -> "DecoderConfig":
        """The decoder's numbers from a transformers text config (Qwen2.5-Omni or Qwen2.5-VL)."""
        _refuse_unknown(text_config)
        rope = text_config.rope_parameters
        d_head = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
        return cls(
            n_layers=text_config.num_hidden_layers,
            d_model=text_config.hidden_size,
            n_heads=text_config.num_attention_heads,
            n_key_value_heads=text_config.num_key_value_heads,
            d_head=d_head,
            d_mlp=text_config.intermediate_size,
            d_vocab=text_config.vocab_size,
            mrope_section=tuple(rope.get("mrope_section", (16, 24, 24))),
            rotary_base=float(rope["rope_theta"]),
            eps=text_config.rms_norm_eps,
            n_ctx=text_config.max_position_embeddings,
            tied=tied,
            model_name=model_name,
        )


@dataclass(frozen=True)
class ModelConfig(DecoderConfig):
    """The decoder's numbers with the place and precision that a model has now, as TransformerLens's `model.cfg`."""

    attn_only: bool = False  # TransformerLens's caches ask
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32


def _require(rule: str, holds: bool, cfg: DecoderConfig) -> None:
    if not holds:
        raise CheckpointError(
            "these decoder numbers do not fit together",
            expected=rule,
            got=cfg,
            next_step="check config.json against the checkpoint",
        )


def _refuse_unknown(text_config: Any) -> None:
    values = text_config.to_dict()
    wrong = {key: values[key] for key, good in _UNDERSTOOD.items() if key in values and values[key] not in good}
    if set(values.get("layer_types") or ["full_attention"]) != {"full_attention"}:
        wrong["layer_types"] = values["layer_types"]
    rope: dict[str, Any] = values.get("rope_parameters") or {}
    odd_rope = {key: value for key, value in rope.items() if key not in _ROPE_KEYS and value is not None}
    if odd_rope or rope.get("rope_type", "default") not in ("default", "mrope") or rope.get("mrope_interleaved"):
        wrong["rope_parameters"] = rope
    if wrong:
        raise CheckpointError(
            "this text config asks for arithmetic that our decoder does not do",
            expected="a Qwen2.5 decoder: SiLU-gated MLP, full causal attention, plain M-RoPE",
            got=wrong,
            next_step="use a Qwen2.5-Omni or video-SALMONN 2+ checkpoint, or report the model to us",
        )
