"""DecoderConfig: the numbers of one decoder, under TransformerLens's names.

A config that says something which our decoder does not do is refused, never ignored.
"""

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch

from hooked_av.errors import CheckpointError, excerpt
from hooked_av.frozen import Frozen

# Fields that transformers gives every config (4.x and 5.x write them out), and tools leave behind. None of them changes
# a number here: they name files and classes, or say how to generate (which generation_config.json does).
_EVERYWHERE = frozenset(
    [
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_commit_hash",
        "_name_or_path",
        "architectures",
        "attn_implementation",
        "auto_map",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "chunk_size_feed_forward",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dtype",
        "early_stopping",
        "encoder_no_repeat_ngram_size",
        "eos_token_id",
        "experts_implementation",
        "exponential_decay_length_penalty",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "id2label",
        "init_std",
        "initializer_range",
        "is_encoder_decoder",
        "label2id",
        "length_penalty",
        "max_length",
        "min_length",
        "model_type",
        "name_or_path",
        "no_repeat_ngram_size",
        "num_beam_groups",
        "num_beams",
        "num_labels",
        "num_return_sequences",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "pad_token_id",
        "prefix",
        "problem_type",
        "remove_invalid_values",
        "repetition_penalty",
        "return_dict",
        "return_dict_in_generate",
        "sep_token_id",
        "suppress_tokens",
        "task_specific_params",
        "temperature",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tie_word_embeddings",
        "tokenizer_class",
        "top_k",
        "top_p",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "typical_p",
        "unsloth_fixed",
        "unsloth_version",
        "use_bfloat16",
        "use_cache",
    ]
)
_EVERYWHERE_ONLY: Mapping[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "is_decoder": (False,),
    "pruned_heads": ({},),
}


@dataclass(frozen=True)
class KnownSettings:
    """The settings of one part of a config that we know; every other is refused, because it may change the arithmetic.

    part, owner: what the config is of, and what of ours does the arithmetic, for the message.
    read: settings that are used, and settings that change nothing. only: for each, the values that we do.
    A setting that is null says nothing.

    >>> known = KnownSettings("text config", "decoder", read={"hidden_size"}, only={"hidden_act": ("silu",)})
    >>> known.refuse_others({"hidden_size": 64, "hidden_act": "silu", "residual_multiplier": None})
    >>> known.refuse_others({"residual_multiplier": 2.0})
    Traceback (most recent call last):
    hooked_av.errors.CheckpointError: this text config asks for arithmetic that our decoder does not do
      expected: settings that we know, with values that we do
      got:      residual_multiplier: 2.0 (unknown)
      next:     use a released checkpoint; or remove a setting that changes no number; or report the model to us
    """

    part: str
    owner: str
    read: Set[str]
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=lambda: Frozen({}))

    def refuse_others(self, values: Mapping[str, Any]) -> None:
        """Errors: `CheckpointError` naming every setting that is unknown, or has a value that we do not do."""
        only = {**_EVERYWHERE_ONLY, **self.only}
        wrong = []
        for name, value in values.items():
            if value is None or name in self.read or (name in _EVERYWHERE and name not in only):
                continue
            if name not in only:
                wrong.append(f"{name}: {excerpt(repr(value))} (unknown)")
            elif value not in only[name]:
                wrong.append(f"{name}: {excerpt(repr(value))} (we do {' or '.join(map(repr, only[name]))})")
        if wrong:
            raise CheckpointError(
                f"this {self.part} asks for arithmetic that our {self.owner} does not do",
                expected="settings that we know, with values that we do",
                got=excerpt("; ".join(wrong), 1_500),
                next_step="use a released checkpoint; or remove a setting that changes no number; or report the model "
                "to us",
            )


TEXT_NUMBERS = frozenset(
    [
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
        "rms_norm_eps",
        "max_position_embeddings",
    ]
)
TEXT_IDLE = frozenset(["attention_dropout", "max_window_layers", "sliding_window"])  # a window is refused below
TEXT_ONLY: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "use_sliding_window": (False,),
    "attention_bias": (True,),
    "qkv_bias": (True,),
    "mlp_bias": (False,),
    "num_experts": (0,),
    "use_qk_norm": (False,),
    "logit_scale": (1,),
    "residual_multiplier": (1,),
    "embedding_multiplier": (1,),
    "partial_rotary_factor": (1,),
}
# Token ids stand in the text configs that transformers 4.5x wrote.
_TOKEN_IDS = {f"{name}_token_id" for name in ("image", "video", "vision", "vision_start", "vision_end")}
_ROPE = {"rope_parameters", "rope_scaling", "rope_theta", "layer_types"}  # `_refuse_rope` looks at these
TEXT = KnownSettings("text config", "decoder", TEXT_NUMBERS | TEXT_IDLE | _TOKEN_IDS | _ROPE, TEXT_ONLY)
TEXT_ROPE = KnownSettings(
    "rope_parameters of the text config",
    "decoder",
    {"rope_theta", "mrope_section"},
    {
        "rope_type": ("default", "mrope"),
        "type": ("default", "mrope"),
        "mrope_interleaved": (False,),
        "partial_rotary_factor": (1,),
    },
)


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
        for name in ("n_layers", "d_model", "n_heads", "n_key_value_heads", "d_head", "d_mlp", "d_vocab", "n_ctx"):
            _require(f"{name}: a whole number above 0", _is_whole(getattr(self, name), at_least=1), self)
        _require("heads divide over key/value heads", self.n_heads % self.n_key_value_heads == 0, self)
        whole = len(self.mrope_section) == 3 and all(_is_whole(part, at_least=0) for part in self.mrope_section)
        _require("mrope_section: three whole numbers", whole, self)
        _require("sum(mrope_section) == d_head / 2", 2 * sum(self.mrope_section) == self.d_head, self)
        for name in ("eps", "rotary_base"):
            value = getattr(self, name)
            _require(f"{name}: a number above 0", isinstance(value, int | float) and 0 < value < math.inf, self)

    @classmethod
    def from_hf(cls, text_config: Any, *, tied: bool, model_name: str = "") -> "DecoderConfig":
        """The decoder's numbers from a transformers text config (Qwen2.5-Omni or Qwen2.5-VL).

        Errors: `CheckpointError` for a setting that is unknown or has a value that our decoder does not do.
        """
        refuse_unknown_text(text_config.to_dict())
        rope = text_config.rope_parameters
        sections: Any = rope.get("mrope_section") or (16, 24, 24)
        n_heads = text_config.num_attention_heads
        d_head = getattr(text_config, "head_dim", None) or text_config.hidden_size // max(1, n_heads)
        return cls(
            n_layers=text_config.num_hidden_layers,
            d_model=text_config.hidden_size,
            n_heads=n_heads,
            n_key_value_heads=text_config.num_key_value_heads,
            d_head=d_head,
            d_mlp=text_config.intermediate_size,
            d_vocab=text_config.vocab_size,
            mrope_section=tuple(sections),
            rotary_base=rope["rope_theta"],
            eps=text_config.rms_norm_eps,
            n_ctx=text_config.max_position_embeddings,
            tied=tied,
            model_name=model_name,
        )


@dataclass(frozen=True)
class ModelConfig(DecoderConfig):
    """The decoder's numbers with the place and precision that a model has now, as TransformerLens's `model.cfg`."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    tokenizer_name: str | None = None
    original_architecture: str = ""  # the class of the checkpoint, as its config.json names it

    # What is the same for every model here, and TransformerLens's tools and users ask.
    attn_only: ClassVar[bool] = False
    gated_mlp: ClassVar[bool] = True
    uses_rms_norm: ClassVar[bool] = True
    final_rms: ClassVar[bool] = True
    default_prepend_bos: ClassVar[bool] = False
    attention_dir: ClassVar[str] = "causal"
    parallel_attn_mlp: ClassVar[bool] = False
    use_attn_scale: ClassVar[bool] = True
    use_attn_result: ClassVar[bool] = False  # these four are made when a hook asks; nothing is switched
    use_split_qkv_input: ClassVar[bool] = False
    use_attn_in: ClassVar[bool] = False
    use_hook_mlp_in: ClassVar[bool] = False
    num_experts: ClassVar[None] = None
    n_devices: ClassVar[int] = 1

    @property
    def d_vocab_out(self) -> int:
        return self.d_vocab

    @property
    def attn_scale(self) -> float:
        """What scores are divided by."""
        return math.sqrt(self.d_head)

    @property
    def rotary_dim(self) -> int:
        return self.d_head

    @property
    def n_params(self) -> int:
        """Weights of attention and MLPs, as TransformerLens counts: no embeddings, norms or biases."""
        attention = 2 * self.d_model * self.d_head * (self.n_heads + self.n_key_value_heads)
        return self.n_layers * (attention + 3 * self.d_model * self.d_mlp)

    def to_dict(self) -> dict[str, Any]:
        """Every field, and what is the same for every model, by name."""
        same = {name: getattr(self, name) for name in ModelConfig.__annotations__ if name not in vars(self)}
        computed = ("d_vocab_out", "attn_scale", "rotary_dim", "n_params")
        return {**vars(self), **same, **{name: getattr(self, name) for name in computed}}


def _require(rule: str, holds: bool, cfg: DecoderConfig) -> None:
    if not holds:
        raise CheckpointError(
            "these decoder numbers do not fit together",
            expected=rule,
            got=cfg,
            next_step="check config.json against the checkpoint",
        )


def _is_whole(value: Any, *, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


def refuse_unknown_text(values: Mapping[str, Any]) -> None:
    """Errors: `CheckpointError` for a text config, as a mapping, that our decoder does not do or know."""
    TEXT.refuse_others(values)
    for name in ("rope_parameters", "rope_scaling"):
        TEXT_ROPE.refuse_others(values.get(name) or {})
    layer_types = set(values.get("layer_types") or ["full_attention"])
    KnownSettings("text config", "decoder", set(), {"layer_types": ({"full_attention"},)}).refuse_others(
        {"layer_types": layer_types}
    )
