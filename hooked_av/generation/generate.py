"""Generation: a prompt in one pass, then token by token over its keys and values, with hooks and interventions live.

Axes: batch pos d_vocab; step (token of an answer).
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hooked_av.decoder.attention import KeyValues
from hooked_av.doors import door
from hooked_av.errors import HookedAVWarning
from hooked_av.forward.numbers import check_logits
from hooked_av.forward.passes import RunningModel
from hooked_av.generation.choice import Choice, Chooser, tokenizer_of
from hooked_av.generation.defaults import GenerationDefaults
from hooked_av.generation.limits import check_size
from hooked_av.generation.live import During, Hook, Live
from hooked_av.hooks.generation_run import GenerationRun
from hooked_av.interventions.specs import as_specs
from hooked_av.prompt.inputs import AVInputs

Kept = Literal["logits", "probabilities"]
Returned = Literal["generation", "str", "tokens", "input"]
Logits = Float[Tensor, "batch d_vocab"]
_ROWS_SHOWN, _TEXT_SHOWN = 10, 80  # by `repr`
OnToken = Callable[[tuple[int | None, ...]], Any]


@dataclass(frozen=True, eq=False)
class Generation:
    """What a model wrote, and how.

    tokens: of each prompt's answer, the stop token included. texts: without special tokens (None: no tokenizer).
    stopped_by: "stop_token" or "max_new_tokens", for each prompt.
    logits, probabilities: if they were asked for, of the model itself: before penalty, temperature, top_k and top_p.
    nan after the end of a prompt's answer. settings: everything that made it.
    """

    tokens: tuple[tuple[int, ...], ...]
    texts: tuple[str, ...] | None
    stopped_by: tuple[str, ...]
    settings: Mapping[str, Any] = field(repr=False)
    logits: Float[Tensor, "batch step d_vocab"] | None = field(default=None, repr=False)
    probabilities: Float[Tensor, "batch step"] | None = None  # of the tokens that were chosen

    def __repr__(self) -> str:
        """One line an answer."""
        said = [None] * len(self.tokens) if self.texts is None else self.texts
        rows = [
            f"  {_shortened(text)} ({len(tokens)} tokens, {stop})"
            for text, tokens, stop in zip(said, self.tokens, self.stopped_by, strict=True)
        ]
        left = len(rows) - _ROWS_SHOWN
        head = f"Generation of {len(rows)} {'answer' if len(rows) == 1 else 'answers'}:"
        return "\n".join([head, *rows[:_ROWS_SHOWN], *([f"  ... {left} more"] if left > 0 else [])])


def _shortened(text: str | None) -> str:
    """A text as Python writes it; of a long one, its beginning."""
    return "no text" if text is None else repr(text if len(text) <= _TEXT_SHOWN else f"{text[:_TEXT_SHOWN]}…")


class Generates(RunningModel):
    """`generate` of a hooked model."""

    generation_defaults: GenerationDefaults

    @door
    def generate(
        self,
        inputs: AVInputs | str | Sequence[str] | Int64[Tensor, "batch pos"],
        *,
        max_new_tokens: int | None = None,
        stop_tokens: int | str | Sequence[int | str] | None = None,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        repetition_penalty: float | None = None,
        seed: int | None = None,
        interventions: Any = (),
        fwd_hooks: Sequence[Hook] = (),
        during: During = "both",
        keep: Kept | Sequence[Kept] = (),
        on_token: OnToken | None = None,
        max_bytes: int | None = None,
        return_type: Returned = "generation",
        verbose: bool = False,
    ) -> Any:
        """Answers, token for token those of transformers' `generate`, with hooks and interventions live.

        The prompt runs once (prefill) and gives the first token; each further token runs alone, over the keys and
        values so far. Hooks see what a pass computes: the prompt's rows, then one row at a time. A span of the prompt
        is seen in the prefill; the rows of the answer are the span "generated" (`"last|generated"`: every row that a
        token is read from). A cut `audio->last|generated` so keeps the whole answer from reading the sound, and
        `audio->last` its first token only. `drop_tokens(kv="drop")` also takes the keys and values of earlier layers
        away before decoding.

        Args:
            max_new_tokens: at most so many. None, here and below: as the checkpoint says (64, if it does not).
            stop_tokens: ids, or texts of one token, that end an answer; () for none.
            do_sample: sample instead of taking the most probable token.
            temperature, top_k, top_p, seed: of sampling; top_k=0 and top_p=1 leave nothing out. Without a seed one
                is drawn from torch's random state, and recorded.
            repetition_penalty: of tokens that stand in prompt or answer.
            interventions, fwd_hooks: for this call.
            during: when those of this call are live: "prefill", "decode" or "both". Open `with model.hooks(...)` and
                `with model.intervene(...)` are live all the time.
            keep: "logits" of every step, "probabilities" of the chosen tokens, or both.
            on_token: called after each step with the token of each prompt, None where the answer has ended.
            max_bytes: refuse to keep more, if the answers get as long as they may (None: the free memory).
            return_type: a `Generation`, or as TransformerLens does, prompt and answer together: "tokens" [batch, pos]
                (padded behind), "str" (a list, if there are several), or "input": what the prompt was given as.
            verbose: TransformerLens's; there is no bar here (`on_token` sees each token).

        Errors: `InputsError` for settings that do not fit, or positions that the model was not made for;
        `MemoryBudgetError`; `HookError` or `InterventionError` for what could never fire or act; all before anything
        runs. `InputsError` at the step whose logits are nan or infinite: no token could be chosen from them.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> inputs = model.prepare(question="Which digit do you hear?")
        >>> answer = model.generate(inputs, max_new_tokens=3, stop_tokens=())
        >>> len(answer.tokens[0]), answer.stopped_by
        (3, ('max_new_tokens',))
        >>> cut = model.generate(inputs, max_new_tokens=3, interventions="question->last|generated")
        """
        given = {
            "max_new_tokens": max_new_tokens, "stop_tokens": stop_tokens, "do_sample": do_sample,
            "temperature": temperature, "top_k": top_k, "top_p": top_p, "repetition_penalty": repetition_penalty,
            "seed": seed,
        }  # fmt: skip
        choice, kept = Choice.of(self, given), (keep,) if isinstance(keep, str) else tuple(keep)
        prompt = self.as_inputs(inputs)
        check_size(self, prompt, choice.max_new_tokens, "logits" in kept, max_bytes)
        run = GenerationRun(self.locate(prompt), choice.max_new_tokens)
        live = Live.of(self, run, interventions, fwd_hooks, during, decodes=choice.max_new_tokens > 1)
        with torch.no_grad():
            answer = _Answer(self, prompt, choice, kept)
            _write(answer, _Decoder(self, prompt, run, live, choice.max_new_tokens), on_token)
        if during == "decode" and answer.n_steps == 1:
            _warn_unused()
        said = {"interventions": [str(spec) for spec in as_specs(interventions)], "during": during}
        return answer.result(said) if return_type == "generation" else answer.as_lens(return_type, inputs)


class _Decoder:
    """The passes of one generation."""

    def __init__(self, model: RunningModel, prompt: AVInputs, run: GenerationRun, live: Live, n_new: int) -> None:
        self.model, self.prompt, self.run, self.live = model, prompt, run, live
        self.past = KeyValues()
        self.position_ids = prompt.positions_after(n_new)

    def prefill(self, embeds: Float[Tensor, "batch pos d_model"] | None = None) -> Logits:
        """The prompt (from the merged sequence, if it is there already), and the logits of the first token."""
        model, run = self.model, self.run
        rows = run.begin(0, run.n_pos)
        attend = model.attending(self.prompt, run, self.live.prefill.plan, past=self.past)
        with run.as_current():
            embeds = model.merged_embeds(self.prompt, run) if embeds is None else embeds
            logits = model.decoder(embeds, self.prompt.position_ids, attend, rows[:, -1:])
        for span in self.live.forgotten:
            self.past.drop(run.positions(span))
        return logits[:, 0].float()

    def step(self, tokens: Int64[Tensor, " batch"], step: int) -> Logits:
        """One token of each answer, and the logits of the next."""
        model, run = self.model, self.run
        rows = run.begin(run.n_pos + step, run.n_pos + step + 1)
        attend = model.attending(self.prompt, run, self.live.decode.plan, rows=rows, past=self.past)
        with run.as_current():
            embeds = model.hook_inputs_embed(model.hook_embed(model.decoder.embed(tokens[:, None])))
            return model.decoder(embeds, self.position_ids[..., step : step + 1], attend)[:, 0].float()


class Prefill:
    """The first pass of a generation, ready to run as often as you like; the encoders have run already.

    `Prefill(model, inputs, interventions)()` gives the logits of the first token, and the keys and values that
    `model.generate(inputs, interventions=interventions)` would decode over.

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> logits, past = Prefill(model, model.prepare(question="Which digit do you hear?"))()
    >>> logits.shape == (1, model.cfg.d_vocab), sorted(past.layers)
    (True, [0, 1])
    """

    def __init__(self, model: RunningModel, inputs: AVInputs, interventions: Any = ()) -> None:
        self.model, self.inputs = model, model.as_inputs(inputs)
        self.run = GenerationRun(model.locate(self.inputs), 1)
        self.live = Live.of(model, self.run, interventions, (), "both", decodes=True)
        with torch.no_grad(), self.live.prefill.on(model, self.run), self.run.as_current():
            self.run.begin(0, self.run.n_pos)
            self.embeds = model.merged_embeds(self.inputs, self.run)

    def __call__(self) -> tuple[Logits, KeyValues]:
        decoder = _Decoder(self.model, self.inputs, self.run, self.live, 1)
        with torch.no_grad(), self.live.prefill.on(self.model, self.run):
            logits = decoder.prefill(self.embeds)
        return logits, decoder.past


class _Answer:
    """What has been written so far."""

    def __init__(self, model: RunningModel, prompt: AVInputs, choice: Choice, kept: Sequence[str]) -> None:
        self.model, self.choice, self.kept, self.prompt = model, choice, kept, prompt
        self.choose = Chooser(choice, prompt.starts, prompt.device)
        self.ids = prompt.input_ids
        self.stop = torch.tensor(choice.stop_tokens, dtype=torch.int64, device=prompt.device)
        self.done = torch.zeros(prompt.batch, dtype=torch.bool, device=prompt.device)
        self.tokens: list[list[int]] = [[] for _ in range(prompt.batch)]
        self.stopped = [False] * prompt.batch
        self.logits: list[Tensor] = []
        self.probabilities: list[Tensor] = []

    @property
    def n_steps(self) -> int:
        return self.ids.shape[1] - self.prompt.n_pos

    @property
    def is_whole(self) -> bool:
        return all(self.stopped) or self.n_steps == self.choice.max_new_tokens

    def add(self, logits: Logits) -> Int64[Tensor, " batch"]:
        """Choose and note the next token of each prompt (padding where an answer has ended)."""
        tokens = self.choose(self.ids, logits)
        self._keep(logits, tokens)
        tokens = tokens.masked_fill(self.done, self.model.family.pad_token_id)
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        for row, token in enumerate(tokens.tolist()):
            if not self.stopped[row]:
                self.tokens[row].append(token)
                self.stopped[row] = token in self.choice.stop_tokens
        self.done |= torch.isin(tokens, self.stop)
        return tokens

    def _keep(self, logits: Logits, tokens: Int64[Tensor, " batch"]) -> None:
        if "logits" in self.kept:
            self.logits.append(logits.masked_fill(self.done[:, None], torch.nan))
        if "probabilities" in self.kept:
            chosen = logits.softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
            self.probabilities.append(chosen.masked_fill(self.done, torch.nan))

    def as_lens(self, return_type: Returned, inputs: Any) -> Any:
        """Prompt and answer together, as TransformerLens's `generate` gives them."""
        is_text = isinstance(inputs, str) or (not isinstance(inputs, AVInputs | Tensor))
        if return_type == "tokens" or (return_type == "input" and not is_text):
            return self.ids
        texts = [self.model.family.tokenizer.decode(row, skip_special_tokens=True) for row in self.ids.tolist()]
        return texts[0] if len(texts) == 1 and not isinstance(inputs, list | tuple) else texts

    def result(self, said: Mapping[str, Any]) -> Generation:
        """The answer with its settings."""
        model, tokenizer = self.model, tokenizer_of(self.model)
        settings = {
            "model": model.cfg.model_name,
            "dtype": str(model.cfg.dtype).removeprefix("torch."),
            "attention": model.attn_implementation,
            "positions": self.prompt.settings.get("positions", "text"),
            "n_pos": self.prompt.n_pos,
        }
        return Generation(
            tuple(tuple(row) for row in self.tokens),
            tokenizer and tuple(tokenizer.decode(row, skip_special_tokens=True) for row in self.tokens),
            tuple("stop_token" if stopped else "max_new_tokens" for stopped in self.stopped),
            {**settings, **self.choice.settings(), **said},
            torch.stack(self.logits, dim=1) if self.logits else None,
            torch.stack(self.probabilities, dim=1) if self.probabilities else None,
        )


def _write(answer: _Answer, decoder: _Decoder, on_token: OnToken | None) -> None:
    """Prefill, then one step after the other until every answer has ended."""
    with decoder.live.prefill.on(decoder.model, decoder.run):
        logits = decoder.prefill()
    with decoder.live.decode.on(decoder.model, decoder.run):
        while True:
            check_logits(logits, f"at step {answer.n_steps}", decoder.past)
            going = [not stopped for stopped in answer.stopped]
            tokens = answer.add(logits)
            if on_token is not None:
                on_token(tuple(t if on else None for t, on in zip(tokens.tolist(), going, strict=True)))
            if answer.is_whole:
                return
            logits = decoder.step(tokens, answer.n_steps - 1)


def _warn_unused() -> None:
    warnings.warn(
        "every answer ended with its first token, so there was no decode step: what was to be live there never was",
        HookedAVWarning,
        stacklevel=3,
    )
