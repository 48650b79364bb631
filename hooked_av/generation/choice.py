"""Choice: how the next token is chosen: greedy or sampled, by transformers' own processors, and when to stop.

What is not given comes from the checkpoint's generation settings, then from transformers' defaults.

Axes: batch pos d_vocab.
"""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hooked_av.config import ModelConfig
from hooked_av.errors import HookedAVWarning, InputsError
from hooked_av.families.family import Family
from hooked_av.forward.passes import RunningModel
from hooked_av.generation.defaults import GenerationDefaults

SAMPLING = ("temperature", "top_k", "top_p", "seed")  # they mean nothing while decoding is greedy
# Settings of a checkpoint that do not touch which tokens our `generate` chooses.
SAYS_NOTHING = {
    "bos_token_id", "decoder_start_token_id", "use_cache", "cache_implementation", "cache_config",
    "return_dict_in_generate", "return_legacy_cache", "output_attentions", "output_hidden_states", "output_scores",
    "output_logits", "disable_compile", "compile_config", "continuous_batching_config", "low_memory",
}  # fmt: skip
# Values that leave every token as it is; transformers' own defaults, written out by older versions.
NEUTRAL = {
    "max_length": 20, "num_beams": 1, "num_beam_groups": 1, "num_return_sequences": 1, "min_length": 0,
    "diversity_penalty": 0.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0,
    "typical_p": 1.0, "encoder_no_repeat_ngram_size": 0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
    "early_stopping": False, "renormalize_logits": False, "remove_invalid_values": False,
    "bad_words_ids": [], "suppress_tokens": [],
}  # fmt: skip
# transformers' own where it has one; `max_new_tokens` is ours (transformers' is a total length of 20).
FALLBACK = SimpleNamespace(
    max_new_tokens=64, do_sample=False, temperature=1.0, top_k=50, top_p=1.0, repetition_penalty=1.0, eos_token_ids=()
)


@runtime_checkable
class Writer(Protocol):
    """What a choice asks of a model."""

    family: Family
    generation_defaults: GenerationDefaults

    @property
    def cfg(self) -> ModelConfig: ...

    def to_single_token(self, text: str) -> int: ...


@dataclass(frozen=True)
class Choice:
    """How tokens are chosen, every value resolved; `seed` is None while decoding is greedy."""

    max_new_tokens: int
    stop_tokens: tuple[int, ...]
    do_sample: bool
    repetition_penalty: float
    temperature: float
    top_k: int
    top_p: float
    seed: int | None

    @classmethod
    def of(cls, model: Writer, given: dict[str, Any]) -> "Choice":
        """What was given, and for the rest what the checkpoint says.

        Errors: `InputsError` for values that make no sense, or that this way of decoding would not use.
        """
        defaults = defaults_of(model)
        _report_unused(model)
        stop_tokens = given.pop("stop_tokens")
        do_sample = defaults["do_sample"] if given["do_sample"] is None else given["do_sample"]
        unused = [name for name in SAMPLING if given[name] is not None]
        if unused and not do_sample:
            raise _wrong("greedy decoding does not use these", "do_sample=True", ", ".join(unused))
        seed = given.pop("seed")
        values = {name: defaults[name] if value is None else value for name, value in given.items()}
        for name in _used(do_sample):
            _check_range(name, values[name], "" if given[name] is not None else " in the checkpoint's settings")
        choice = cls(
            stop_tokens=_stop_tokens(model, defaults["eos_token_ids"], stop_tokens),
            seed=_seed(seed) if do_sample else None,
            **values,
        )
        _check_whole("max_new_tokens", choice.max_new_tokens, 1)
        return choice

    def processors(self) -> LogitsProcessorList:
        """transformers' processors, in transformers' order; those that change nothing are left out."""
        made: list[Any] = []
        if self.repetition_penalty != 1:
            made.append(RepetitionPenaltyLogitsProcessor(float(self.repetition_penalty)))
        if self.do_sample and self.temperature != 1:
            made.append(TemperatureLogitsWarper(float(self.temperature)))
        if self.do_sample and self.top_k != 0:
            made.append(TopKLogitsWarper(int(self.top_k)))
        if self.do_sample and self.top_p != 1:
            made.append(TopPLogitsWarper(float(self.top_p)))
        return LogitsProcessorList(made)

    def settings(self) -> dict[str, Any]:
        """The values that this way of decoding uses, for the record."""
        return {name: value for name, value in asdict(self).items() if self.do_sample or name not in SAMPLING}


def defaults_of(model: Writer) -> dict[str, Any]:
    """What a model's checkpoint says about generation (`model.generation_defaults`), and our fallback for the rest."""
    said = getattr(model, "generation_defaults", FALLBACK)
    return {name: _first(getattr(said, name, None), value) for name, value in vars(FALLBACK).items()}


def _report_unused(model: Writer) -> None:
    """Say which settings of the checkpoint would change transformers' answers, and are not applied here."""
    said = getattr(getattr(model, "generation_defaults", None), "others", {})
    unused = {name: value for name, value in said.items() if name not in SAYS_NOTHING and value != NEUTRAL.get(name)}
    if unused:
        warnings.warn(
            f"the checkpoint states generation settings that `generate` does not apply: {unused}; "
            "answers may differ from those of transformers",
            HookedAVWarning,
            stacklevel=4,
        )


def _first(value: Any, fallback: Any) -> Any:
    return fallback if value is None else value


def _stop_tokens(
    model: Writer, of_checkpoint: Sequence[int], given: int | str | Sequence[int | str] | None
) -> tuple[int, ...]:
    """Ids of the tokens that end a text: those given, or the checkpoint's, or the tokenizer's."""
    if given is None:
        tokenizer = tokenizer_of(model)
        given = tuple(of_checkpoint) or (tokenizer and tokenizer.eos_token_id)
    if given is None:
        raise _wrong("nothing says which token ends a text", "stop_tokens=..., or () to go on to the end", "none")
    several: list[int | str] = [given] if isinstance(given, (str, int)) else list(given)
    return tuple(sorted({_one_stop_token(model, token) for token in several}))


def tokenizer_of(model: RunningModel | Writer) -> Any:
    """The model's tokenizer; None if it was loaded without one."""
    return model.family.tokenizer if model.family.has_tokenizer else None


def _one_stop_token(model: Writer, token: int | str) -> int:
    number = model.to_single_token(token) if isinstance(token, str) else token
    if isinstance(number, bool) or not 0 <= number < model.cfg.d_vocab:
        raise _wrong("no such stop token", f"ids 0 to {model.cfg.d_vocab - 1}, or texts of one token", repr(token))
    return number


def _used(do_sample: bool) -> tuple[str, ...]:
    """The settings that choose tokens: where nothing is sampled, nobody reads the others."""
    return ("repetition_penalty", *(name for name in SAMPLING if do_sample and name != "seed"))


def _check_range(name: str, value: float, whose: str) -> None:
    """Refuse what transformers takes and would make nonsense of (top_p=0, nan), whoever says it."""
    if name == "top_k":
        return _check_whole(name + whose, value, 0)
    most = 1 if name == "top_p" else sys.float_info.max
    if not 0 < value <= most:  # nan is not, either
        raise _wrong(f"{name}{whose} does not fit", f"a number above 0{', at most 1' * (most == 1)}", repr(value))
    return None


def _check_whole(name: str, value: float, least: int) -> None:
    if not least <= value < 2**63:
        raise _wrong(f"{name} does not fit", f"a whole number, at least {least}, below 2**63", repr(value))


def _seed(seed: int | None) -> int:
    """The given one, or one drawn from torch's own state, so that it can be recorded."""
    if seed is None:
        return int(torch.randint(2**31, ()))
    _check_whole("seed", seed, 0)
    return seed


def _wrong(what: str, expected: str, got: object) -> InputsError:
    return InputsError(what, expected=expected, got=got, next_step="see model.generate for what each setting means")


class Chooser:
    """Chooses tokens, one for each prompt, as transformers does; its random numbers are its own."""

    def __init__(self, choice: Choice, starts: Sequence[int], device: torch.device) -> None:
        self.processors = choice.processors()
        self.starts = starts
        self.generator = None
        if choice.seed is not None:
            self.generator = torch.Generator(device).manual_seed(choice.seed)

    def __call__(
        self, ids: Int64[Tensor, "batch pos"], logits: Float[Tensor, "batch d_vocab"]
    ) -> Int64[Tensor, " batch"]:
        scores = self._scores(ids, logits)
        if self.generator is None:
            return scores.argmax(dim=-1)
        return torch.multinomial(scores.softmax(dim=-1), 1, generator=self.generator)[:, 0]

    def _scores(self, ids: Tensor, logits: Tensor) -> Float[Tensor, "batch d_vocab"]:
        if not any(self.starts):
            return self.processors(ids, logits)  # type: ignore[arg-type] - transformers names its tensor types by device
        rows = [
            self.processors(ids[row : row + 1, start:], logits[row : row + 1])  # type: ignore[arg-type]
            for row, start in enumerate(self.starts)
        ]
        return torch.cat(rows)
