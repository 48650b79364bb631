"""A pass, and a model that runs: what `model(inputs)`, replays, generation and analyses are made of.

Axes: batch pos d_model d_vocab; query (positions that are read); left (rows that have not left before a layer); row
(encoder output rows).
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hooked_av.config import DecoderConfig, ModelConfig
from hooked_av.decoder.attention import Attend, Backend
from hooked_av.decoder.decoder import HookedDecoder, Resid
from hooked_av.devices import check_device
from hooked_av.doors import door
from hooked_av.errors import HookError, InputsError
from hooked_av.families.family import EncoderHook, Family
from hooked_av.forward.encoded import EncoderMemory
from hooked_av.forward.loss import Loss, ReturnType, check_return_type, check_scalar, next_token_loss, refuse_bos
from hooked_av.forward.patterns import Patterns
from hooked_av.forward.precision import check_dtype
from hooked_av.forward.tokens import TextTokens, check_ids
from hooked_av.hooks.attached import Direction, PlacedHook, in_pass, scoped
from hooked_av.hooks.cache import AVCache, cache_bytes, check_budget, keep_copy, layers_that_fit
from hooked_av.hooks.hooked_model import SpanHooks
from hooked_av.hooks.names import Match, NamesFilter
from hooked_av.hooks.open_blocks import Opened, Wall, what_is_open
from hooked_av.hooks.point import HookFunction, HookPoint
from hooked_av.hooks.positions import in_part, with_part
from hooked_av.hooks.run import ALL_LAYERS, Run, current_run
from hooked_av.interventions.intervention import Intervention
from hooked_av.interventions.plan import Plan
from hooked_av.interventions.specs import as_specs
from hooked_av.prompt.inputs import AVInputs

MEDIA_HOOKS = {f"hook_{modality}_embed": modality for modality in ("audio", "image", "video")}

Inputs = AVInputs | str | Sequence[str] | Int64[Tensor, "batch pos"]


class Pass:
    """One pass of a model, begun by `model.begin(inputs)`: everything is checked and planned, and nothing has run yet.

    In a `with` block it runs, as far as you like: hooks and interventions act, and what hooks are told is this pass's.
    `run` knows where each span is (`run.positions("audio")`), `plan` what the interventions do: cuts by layer, rows
    that leave, edits. Passes may be nested, and may run in several threads at once.

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> inputs = model.prepare(question="Which digit do you hear?")
    >>> with model.begin(inputs, interventions="system->last@1") as one:
    ...     resid = one.embed()
    ...     for layer in one.layers:
    ...         resid = one.block(layer, resid)
    ...     logits = one.unembed(resid, at="last")
    >>> torch.equal(logits, model(inputs, interventions="system->last@1", logits_at="last"))
    True
    """

    def __init__(self, model: "RunningModel", inputs: AVInputs, run: Run, interventions: Any = ()) -> None:
        self.model, self.inputs, self.run = model, inputs, run
        self.plan = self.plan_of(interventions)
        self._state: tuple[tuple[Tensor, Tensor], Attend] | None = None
        self._open: ExitStack | None = None

    def __enter__(self) -> "Pass":
        if self._open is not None:
            raise HookError(
                "this pass runs already",
                expected="one that is not in its `with` block, in this thread or another",
                got="a second `with` block of it",
                next_step="leave its block first, or begin another pass over these inputs with model.begin",
            )
        with ExitStack() as stack:
            stack.enter_context(self.plan.edited(self.model.hook_dict, self.run))
            stack.enter_context(self.run.as_current())
            self._open = stack.pop_all()
        self._state = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._open = self._open, None
        if stack is not None:
            stack.__exit__(kind, error, trace)

    @property
    def layers(self) -> range:
        """The blocks that this pass runs."""
        return range(max(self.run.layers.start, 0), min(self.run.layers.stop, self.model.decoder.cfg.n_layers))

    def plan_of(self, interventions: Any) -> Plan:
        """What other interventions would do to these inputs, together with those that were open when it began.

        Errors: `InterventionError`, `SpanError` or `HookNameError` for a spec that does not fit.
        """
        specs = (*self.model.interventions_in(self.run), *as_specs(interventions))
        return Plan.of(specs, self.run, self.model.decoder.cfg, self.model.hook_dict)

    def embed(self) -> Resid:
        """The merged sequence: embeddings of the tokens, with the encoders' rows in the places of media."""
        self._check_open()
        return self.model.merged_embeds(self.inputs, self.run)

    def attend(self, **partial: Any) -> Attend:
        """How attention runs in this pass; `rows` and `past` are for passes over some rows only (see `Attend`)."""
        return self.model.attending(self.inputs, self.run, self.plan, **partial)

    @door
    def block(self, layer: int, resid: Resid) -> Float[Tensor, "batch left d_model"]:
        """One block, with its cuts; rows that leave before it are gone from what it gives."""
        self._check_open()
        tables, attend = self._held(resid)
        resid, tables, attend = self.model.decoder.step(layer, resid, tables, attend)
        self._state = tables, attend
        return resid

    @door
    def unembed(self, resid: Resid, *, at: str | None = None) -> Float[Tensor, "batch query d_vocab"]:
        """The final norm, and the logits at a span (None: at every row that is still there)."""
        self._check_open()
        return self._result(self.model.decoder.read_out(resid, self._rows(at), self._held(resid)[1]))

    @door
    def finish(self, resid: Resid, *, at: str | None = None) -> Float[Tensor, "batch query width"]:
        """All blocks that this pass runs, and the logits, if it runs to the end."""
        self._check_open()
        rows, position_ids = self._rows(at), self.inputs.position_ids
        return self._result(self.model.decoder(resid, position_ids, self.attend(), rows, self.run.layers))

    def result_bytes(self, at: str | None) -> int:
        """How much `finish` gives back: logits, or the residual stream where it stops before them."""
        cfg, embed = self.model.decoder.cfg, self.model.decoder.embed.weight
        logits = self.run.layers.stop > cfg.n_layers
        n_rows = self.run.positions(at).shape[1] if at is not None and logits else self.inputs.n_pos
        return self.inputs.batch * n_rows * (cfg.d_vocab if logits else cfg.d_model) * embed.element_size()

    def _result(self, result: Tensor) -> Tensor:
        """What a pass gives; when its gradient is asked for, no gradient hook may have come too late for it."""
        if result.grad_fn is not None:
            there = self.model.gradient_hooks
            result.grad_fn.register_prehook(lambda _: self.model.check_gradient_hooks(self.run, there))
        return result

    def _held(self, resid: Resid) -> tuple[tuple[Tensor, Tensor], Attend]:
        """The rotary tables of the rows that are still there, and how they attend."""
        if self._state is None:
            self._state = self.model.decoder.rotary(self.inputs.position_ids, resid.dtype), self.attend()
        return self._state

    def _rows(self, at: str | None) -> "Int64[Tensor, 'batch query'] | Literal['all']":
        return "all" if at is None else self.run.positions(at)

    def _check_open(self) -> None:
        if current_run() is not self.run:
            raise HookError(
                "this pass is not running",
                expected="its own `with` block, and no other pass begun inside it that is still open",
                got="a call outside of it",
                next_step="write `with model.begin(inputs) as one:`, and use `one` inside",
            )


class RunningModel(TextTokens, SpanHooks):
    """A family's encoders and our decoder as one hooked model that runs: passes, interventions, caches."""

    def __init__(
        self, cfg: DecoderConfig, family: Family, encoders: nn.ModuleDict, attn_implementation: Backend = "sdpa"
    ) -> None:
        super().__init__()
        self.family = family
        self.encoders = encoders
        self.decoder = HookedDecoder(cfg)
        self.encoded = EncoderMemory()
        self.hook_embed = HookPoint("batch pos d_model")
        for name in MEDIA_HOOKS:
            self.add_module(name, HookPoint("row d_model"))
        self.hook_inputs_embed = HookPoint("batch pos d_model")
        self.attn_implementation: Backend = attn_implementation

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.embed.weight.device

    @property
    def cfg(self) -> ModelConfig:
        """The decoder's numbers under TransformerLens's names, with the device and dtype that the model has now."""
        tokenizer = self.family.tokenizer if self.family.has_tokenizer else None
        return ModelConfig(
            **vars(self.decoder.cfg),
            device=self.device,
            dtype=self.decoder.embed.weight.dtype,
            tokenizer_name=None if tokenizer is None else str(tokenizer.name_or_path),
            original_architecture=self.family.architecture,
        )

    # --- inputs ---

    def as_inputs(self, inputs: Inputs) -> AVInputs:
        """Text or token ids as text-only inputs; inputs where the weights are."""
        if isinstance(inputs, AVInputs):
            return inputs if inputs.device == self.device else inputs.to(self.device)
        tokens = inputs if isinstance(inputs, Tensor) else self.to_tokens(inputs)
        return AVInputs.from_tokens(tokens.to(self.device))

    # --- passes ---

    @door
    def begin(
        self,
        inputs: Inputs,
        *,
        interventions: Any = (),
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
    ) -> Pass:
        """A pass over these inputs, checked and planned, for an analysis that the package does not have.

        It takes the hooks and interventions that are open now. Use it in a `with` block (see `Pass`); it may be used
        as often as you like.

        Args:
            interventions: one spec or several; they add to those of open `model.intervene` blocks.
            start_at_layer, stop_at_layer: the blocks that it runs.

        Errors: `InterventionError` for a spec that does not fit, `HookError` for a hook named in full that this pass
        cannot reach, `InputsError` for tokens or layers that the model does not have; before anything runs.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> one = model.begin(model.prepare(question="Which digit do you hear?"), interventions="system->last@1")
        >>> one.run.positions("last").tolist(), sorted(one.plan.cuts)
        ([[24]], [1])
        """
        inputs = self.as_inputs(inputs)
        return Pass(self, inputs, self.locate(inputs, start_at_layer, stop_at_layer), interventions)

    @door
    def forward(
        self,
        inputs: Inputs,
        *,
        interventions: Any = (),
        logits_at: str | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        resid: Resid | None = None,
        return_type: ReturnType = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
    ) -> Any:
        """Logits [batch, pos, d_vocab], or at a span only (`logits_at="last"` saves the memory of the others).

        Text or token ids run as text-only input.

        Args:
            interventions: one spec or several; they add to those of an open `model.intervene`.
            start_at_layer: begin at this layer, with `resid` as the residual stream that enters it; encoders and
                earlier layers do not run.
            stop_at_layer: end before this layer, and return the residual stream that would enter it; -1: the last.
            return_type: "logits", the next-token "loss" of the text tokens, "both" of them, or None for nothing.
            loss_per_token: one loss for each token but the first [batch, pos - 1], nan where media or padding follow.
            prepend_bos: False (TransformerLens's; these models have no such token).

        Errors: `InterventionError` for a spec that does not fit, `HookError` for a hook named in full that this pass
        cannot reach; both before anything runs.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> inputs = model.prepare(question="Which digit do you hear?")
        >>> resid = model(inputs, stop_at_layer=1)
        >>> torch.equal(model(inputs, start_at_layer=1, resid=resid), model(inputs))
        True
        """
        refuse_bos(prepend_bos)
        check_return_type(return_type, logits_at, stop_at_layer)
        one = self.begin(
            inputs, interventions=interventions, start_at_layer=start_at_layer, stop_at_layer=stop_at_layer
        )
        return self._returned(one, _run_through(one, logits_at, start_at_layer, resid), return_type, loss_per_token)

    @door
    def loss_fn(
        self,
        logits: Float[Tensor, "batch pos d_vocab"],
        tokens: Inputs,
        attention_mask: Tensor | None = None,
        per_token: bool = False,
    ) -> Loss:
        """The mean next-token loss of logits that are there; as `return_type="loss"`, for tokens or inputs.

        Args:
            attention_mask: 0 for tokens that are not counted, besides media and padding.
            per_token: one for each token but the first, nan where it is not counted.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> tokens = model.to_tokens("Hello world")
        >>> torch.equal(model.loss_fn(model(tokens), tokens), model(tokens, return_type="loss"))
        True
        """
        inputs = self.as_inputs(tokens)
        media = [self.family.placeholder(modality) for modality in MEDIA_HOOKS.values()]
        real = inputs.attention_mask.bool()
        if attention_mask is not None:
            real = real & attention_mask.bool().to(self.device)
        counts = real & ~torch.isin(inputs.prompt_ids, torch.tensor(media, device=self.device))
        counts[:, 1:] &= real[:, :-1]  # a prompt's first token is read from nothing
        return next_token_loss(logits, inputs.input_ids, counts, per_token)

    def _returned(self, one: Pass, result: Tensor, return_type: ReturnType, per_token: bool) -> Any:
        if return_type in (None, "logits"):
            return result if return_type else None
        loss = self.loss_fn(result, one.inputs, per_token=per_token)
        return loss if return_type == "loss" else (result, loss)

    @door
    def run_with_cache(  # type: ignore[override] - names_filter takes patterns and spans; the cache is an AVCache
        self,
        inputs: Inputs,
        *,
        names_filter: NamesFilter = None,
        device: torch.device | str | None = None,
        remove_batch_dim: bool = False,
        max_bytes: int | None = None,
        incl_bwd: bool = False,
        pos_slice: Any = None,
        interventions: Any = (),
        logits_at: str | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        resid: Resid | None = None,
        return_type: ReturnType = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
    ) -> tuple[Any, AVCache]:
        """Logits and the activations named: names, patterns, spans, or a predicate on names.

        None caches every activation whose size grows with the number of tokens only; attention matrices, per-head
        results and logits must be named, best with a span (`blocks.*.attn.hook_pattern@last`). The other arguments are
        those of `model(...)`.

        Args:
            incl_bwd: call `backward()` on the result, which must be one number (`return_type="loss"`); gradients come
                under the name and `_grad`.
            pos_slice: keep these positions only: a span, or TransformerLens's int, (start, stop) or list.

        Errors: `HookNameError` for a name that matches nothing or cannot fire on these inputs; `MemoryBudgetError`,
        before the run, if cache and logits would not fit into `max_bytes` (None: the free memory); it says which layers
        would.
        """
        refuse_bos(prepend_bos)
        check_return_type(return_type, logits_at, stop_at_layer)
        inputs, part = with_part(self.as_inputs(inputs), pos_slice)
        one = self.begin(
            inputs, interventions=interventions, start_at_layer=start_at_layer, stop_at_layer=stop_at_layer
        )
        matches = in_part(self._cached(names_filter, one.run), self.hook_dict, part)
        self._check_cache_fits(one, matches, device, max_bytes, logits_at, 2 if incl_bwd else 1)
        kept: dict[str, Tensor] = {}
        with in_pass(one.run, lambda block: self._keeping(kept, matches, device, incl_bwd, block)):
            result = self._returned(
                one, _run_through(one, logits_at, start_at_layer, resid), return_type, loss_per_token
            )
            if incl_bwd:
                check_scalar(result).backward()
        made = None if part is not None else Patterns.of(one.attend(), one.run, one.plan, self.hook_dict)
        cache = AVCache(kept, self, one.run, self.hook_dict, part=part, made=made)
        return result, cache.remove_batch_dim() if remove_batch_dim else cache

    def _check_cache_fits(
        self,
        one: Pass,
        matches: Sequence[Match],
        device: torch.device | str | None,
        max_bytes: int | None,
        logits_at: str | None,
        copies: int,
    ) -> None:
        cfg, dtype = self.decoder.cfg, self.decoder.embed.weight.dtype
        sizes = cache_bytes(matches, self.hook_dict, one.inputs, cfg, dtype, one.run)
        if device is not None:
            check_device(device, InputsError)
        where = self.device if device is None else torch.device(device)
        result = one.result_bytes(logits_at) if where == self.device else 0
        if "hook_logits" in sizes and logits_at is not None:
            sizes["hook_logits"] = one.result_bytes(logits_at)
        sizes = {name: copies * size for name, size in sizes.items()}
        fits = lambda free: layers_that_fit(sizes, free - result)  # noqa: E731
        check_budget("this cache, with the logits,", sum(sizes.values()) + result, where, max_bytes, fits)

    def _keeping(
        self,
        kept: dict[str, Tensor],
        matches: Sequence[Match],
        device: torch.device | str | None,
        incl_bwd: bool,
        block: Opened,
    ) -> list[PlacedHook]:
        """Hooks that copy what passes, and its gradients, into a dict."""
        directions: list[tuple[Direction, str]] = [("fwd", ""), *([("bwd", "_grad")] if incl_bwd else [])]
        keeps: list[tuple[Match, HookFunction, Direction]] = [
            (match, keep_copy(kept, f"{match.key}{end}", device), direction)
            for direction, end in directions
            for match in matches
        ]
        return [PlacedHook(self.hook_dict[match.name], scoped(match, keep, block), way) for match, keep, way in keeps]

    def locate(self, inputs: AVInputs, start_at_layer: int | None = None, stop_at_layer: int | None = None) -> Run:
        """Where spans and encoder rows are in these inputs, and which open hooks act; `begin` is the way to it."""
        check_dtype(self.decoder.embed.weight.dtype)
        check_ids(inputs.input_ids, self.decoder.cfg.d_vocab)
        flat = inputs.prompt_ids.flatten()
        embeds = {name: EncoderHook(modality, self.decoder.cfg.d_model) for name, modality in MEDIA_HOOKS.items()}
        points = {**embeds, **self.family.encoder_hooks}
        places = {
            name: (flat == self.family.placeholder(point.modality)).nonzero().flatten()[:: point.every]
            for name, point in points.items()
        }
        row_sizes = {name: point.row_size for name, point in points.items()}
        layers = _layers(start_at_layer, stop_at_layer, self.decoder.cfg.n_layers)
        run = Run(inputs.row_spans, self.device, places, row_sizes, layers)
        self._check_can_fire(run)
        return run

    def attending(self, inputs: AVInputs, run: Run, plan: Plan, **partial: Any) -> Attend:
        """How attention runs under a plan; `Pass.attend` is the way to it."""
        return Attend(self.attn_implementation, inputs.starts, plan.cuts, run, leaving=plan.leaving, **partial)

    def merged_embeds(self, inputs: AVInputs, run: Run) -> Resid:
        """The merged sequence of a pass that runs; `Pass.embed` is the way to it."""
        embeds = self.hook_embed(self.decoder.embed(inputs.input_ids))
        features = inputs.features
        encoded = self.encoded.rows(self.encoders, features, lambda: self.family.encode(self.encoders, features))
        for name, modality in MEDIA_HOOKS.items():
            places = run.media_rows[name]
            rows = encoded.get(modality)
            _check_rows(modality, len(places), 0 if rows is None else len(rows))
            if rows is not None:
                rows = getattr(self, name)(rows.to(embeds.device, embeds.dtype))
                embeds = embeds.flatten(0, 1).index_put((places,), rows).view_as(embeds)
        return self.hook_inputs_embed(embeds)

    # --- interventions ---

    @contextmanager
    def intervene(self, *interventions: Any) -> Iterator["RunningModel"]:
        """Interventions for the length of a `with` block; blocks nest, and add up.

        They act in the passes that begin in the block, in this thread; a pass that a hook itself begins is a run of its
        own, in which they do not act.

        Errors: `InterventionError` at once for layers or heads that the model does not have; spans are checked when
        inputs come.
        """
        specs = as_specs(interventions)
        for spec in specs:
            spec.check(self.decoder.cfg)
        with Opened(self, specs).opened():
            yield self

    @contextmanager
    def clean(self) -> Iterator["RunningModel"]:
        """The model's own passes, whatever is open: in this `with` block no open hook or intervention acts.

        (A hook of `add_hook` acts everywhere, until `reset_hooks`.)

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> logits = model("Hello world")
        >>> with model.intervene(av.ablate("blocks.0.hook_mlp_out", "last")), model.clean():
        ...     torch.equal(model("Hello world"), logits)
        True
        """
        with Wall().opened():
            yield self

    @property
    def open_interventions(self) -> tuple[Intervention, ...]:
        """Those of open `intervene` blocks, in the order in which they were opened."""
        return self._own(what_is_open())

    def interventions_in(self, run: Run) -> tuple[Intervention, ...]:
        """Those that were open when a pass began."""
        return self._own(run.opened)

    def _own(self, blocks: Sequence[Opened]) -> tuple[Intervention, ...]:
        return tuple(spec for block in blocks if block.owner is self for spec in block.interventions)


def _run_through(one: Pass, logits_at: str | None, start_at_layer: int | None, resid: Resid | None) -> Tensor:
    """A whole pass, from its beginning or from a residual stream that is given."""
    if logits_at is not None:
        one.run.positions(logits_at)  # a span that is not there is said before anything runs
    inputs, width = one.inputs, one.model.decoder.cfg.d_model
    _check_resid(start_at_layer, resid, (inputs.batch, inputs.n_pos, width))
    with one:
        return one.finish(one.embed() if resid is None else resid, at=logits_at)


def _check_rows(modality: str, n_places: int, n_rows: int) -> None:
    if n_places != n_rows:
        raise InputsError(
            f"{modality} rows do not fit the prompt",
            expected=f"{n_places} encoder rows for as many {modality} tokens",
            got=n_rows,
            next_step="make ids and features together, with model.prepare or one processor call",
        )


def _layers(start: int | None, stop: int | None, n_layers: int) -> range:
    """What a pass runs: all of them, embeddings and logits included, unless said otherwise.

    >>> _layers(2, 3, n_layers=4)
    range(2, 3)
    >>> _layers(None, -1, n_layers=4).stop
    3
    """
    start, stop = (n + n_layers if n is not None and n < 0 else n for n in (start, stop))
    if not 0 <= (start or 0) <= (n_layers if stop is None else stop) <= n_layers:
        raise InputsError(
            "no such layers",
            expected=f"0 <= start_at_layer <= stop_at_layer <= {n_layers}",
            got=f"start_at_layer={start}, stop_at_layer={stop}",
            next_step="count layers from 0; stop_at_layer is the first that does not run",
        )
    return range(ALL_LAYERS.start if start is None else start, ALL_LAYERS.stop if stop is None else stop)


def _check_resid(start_at_layer: int | None, resid: Tensor | None, shape: tuple[int, ...]) -> None:
    given = None if resid is None else tuple(resid.shape)
    if (resid is None) != (start_at_layer is None) or given not in (None, shape):
        raise InputsError(
            "start_at_layer and resid go together",
            expected=f"both, with resid {list(shape)}, or neither",
            got=f"start_at_layer={start_at_layer}, resid {None if given is None else list(given)}",
            next_step="take resid from model(inputs, stop_at_layer=...) or a cache",
        )
