"""HookedAVTransformer: a family's front end and our decoder as one TransformerLens-style hooked model.

Axes: batch pos d_model d_vocab.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hooked_av.config import DecoderConfig, ModelConfig
from hooked_av.decoder.attention import Attend, Backend
from hooked_av.decoder.decoder import HookedDecoder
from hooked_av.decoder.weights import ModelViews
from hooked_av.errors import InputsError
from hooked_av.families.family import EncoderHook, Family
from hooked_av.generation.defaults import GenerationDefaults
from hooked_av.generation.generate import Generates
from hooked_av.hooks.hooked_model import SpanHooks
from hooked_av.hooks.point import HookPoint
from hooked_av.hooks.run import ALL_LAYERS, Run
from hooked_av.interventions.plan import Plan
from hooked_av.interventions.specs import Intervention, as_specs
from hooked_av.model import loading
from hooked_av.model.tokens import TextTokens
from hooked_av.prompt.inputs import AVInputs, stack_inputs
from hooked_av.prompt.text import media_list
from hooked_av.replay.baseline import Baseline

MEDIA_HOOKS = {f"hook_{modality}_embed": modality for modality in ("audio", "image", "video")}


class HookedAVTransformer(ModelViews, TextTokens, Generates, SpanHooks):
    """An audio-visual language model whose every activation can be read, edited and differentiated by name.

    Made by `from_pretrained`, `from_hf` or `random_omni`. `model(inputs)` gives logits; hooks, caches and
    interventions take TransformerLens's names, shell patterns, and spans (`blocks.*.hook_resid_post@audio`).

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> inputs = model.prepare(question="Which digit do you hear?")
    >>> logits, cache = model.run_with_cache(inputs, names_filter="blocks.*.hook_resid_post@last")
    >>> list(cache["blocks.1.hook_resid_post@last"].shape) == [1, 1, model.cfg.d_model]
    True
    """

    def __init__(
        self, cfg: DecoderConfig, family: Family, encoders: nn.ModuleDict, attn_implementation: Backend = "sdpa"
    ) -> None:
        super().__init__()
        self.family = family
        self.encoders = encoders
        self.decoder = HookedDecoder(cfg)
        self.hook_embed = HookPoint("batch pos d_model")
        for name in MEDIA_HOOKS:
            self.add_module(name, HookPoint("row d_model"))
        self.hook_inputs_embed = HookPoint("batch pos d_model")
        self.attn_implementation: Backend = attn_implementation
        self.generation_defaults = GenerationDefaults()
        self._interventions: tuple[Intervention, ...] = ()
        self.eval()
        self.setup()

    def setup(self) -> None:
        """Name the hook points as TransformerLens does: `blocks.0...`, without the prefix of decoder or encoders."""
        self.mod_dict, self.hook_dict = {}, {}
        for path, module in self.named_modules():
            name = path.removeprefix("decoder.").removeprefix("encoders.")
            if not name or isinstance(module, HookedDecoder):
                continue
            if isinstance(module, HookPoint):
                module.name = name
                self.hook_dict[name] = module
            self.mod_dict[name] = module

    # --- loading ---

    @classmethod
    def from_hf(cls, hf_model: Any, tokenizer: Any = None, feature_extractor: Any = None) -> "HookedAVTransformer":
        """A loaded transformers model, hooked: adopts its tensors and encoders without a copy.

        Args:
            hf_model: `Qwen2_5OmniThinkerForConditionalGeneration`, the whole `Qwen2_5OmniForConditionalGeneration`, or
                `Qwen2_5_VLForConditionalGeneration`. (transformers has no class for video-SALMONN 2+.)
            tokenizer, feature_extractor: transformers' own, needed for `prepare` and text.

        Errors: `CheckpointError` for another class, or a config that asks for other arithmetic.
        """
        return loading.adopt(cls, hf_model, tokenizer, feature_extractor)

    @classmethod
    def from_pretrained(
        cls, folder_or_hub_id: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> "HookedAVTransformer":
        """A checkpoint folder or hub id, read shard by shard, as stored (or cast, if `dtype` is given).

        Errors: `CheckpointError` for an unknown model, an unreadable file, and any missing, unexpected or mis-shaped
        tensor, with the full list.
        """
        return loading.load(cls, folder_or_hub_id, device, dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that both `from_pretrained` and transformers' own `from_pretrained` load."""
        loading.save(self, Path(folder))

    # --- inputs ---

    def prepare(self, media: Any = None, **arguments: Any) -> AVInputs:
        """A prompt from media and a question, laid out, sampled and encoded as the released processor does.

        Args:
            media: a `Clip` (with or without sound, a sound, a picture), or a list of them with text in between.
            question: what is asked.
            options: answer options, lettered A, B, ... in the prompt; `instruction` follows them.
            answer_prefix: text that begins the answer.
            system: system prompt (None: the released default).
            sampling: `Sampling(fps=, max_frames=, max_pixels=)`, if less than the released budget is wanted.
            positions: the family's position mode, where it has several (video-SALMONN 2+: "generate" or "train").

        Errors: `InputsError` for an empty question, special tokens in text, or media the model does not take.

        >>> import hooked_av as av, numpy as np
        >>> clip = av.Clip.from_arrays(np.zeros((8, 56, 56, 3), np.uint8), fps=4)
        >>> small = av.Sampling(max_pixels=784)
        >>> inputs = av.random_omni(n_layers=2).prepare(clip, question="What moves?", sampling=small)
        >>> inputs.spans["question"]
        Span('question', 3 positions: 18-20)
        """
        return self.family.prepare(media_list(media), **arguments).to(self.device)

    def inputs_from_tensors(self, **tensors: Any) -> AVInputs:
        """The same inputs from the tensors that the family's published processor returns, under its own names.

        Question and options are unknown here; add them with `inputs.with_span("question", positions)`.
        """
        return self.family.inputs_from_tensors(**tensors).to(self.device)

    def batch(self, prompts: Sequence[AVInputs]) -> AVInputs:
        """One batch from several prompts, padded on the left; each row gives what it gives alone."""
        return stack_inputs(prompts, self.family.pad_token_id)

    # --- running ---

    def forward(
        self,
        inputs: AVInputs | str | Sequence[str] | Int64[Tensor, "batch pos"],
        *,
        interventions: Any = (),
        logits_at: str | None = None,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        resid: Float[Tensor, "batch pos d_model"] | None = None,
    ) -> Float[Tensor, "batch query width"]:
        """Logits at every position, or at a span only (`logits_at="last"` saves the memory of the others).

        Text or token ids run as text-only input.

        Args:
            interventions: one spec or several; they add to those of an open `model.intervene`.
            start_at_layer: begin at this layer, with `resid` as the residual stream that enters it; encoders and
                earlier layers do not run.
            stop_at_layer: end before this layer, and return the residual stream that would enter it.

        Errors: `InterventionError` for a spec that does not fit, `HookError` for a hook named in full that this pass
        cannot reach; both before anything runs.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> inputs = model.prepare(question="Which digit do you hear?")
        >>> resid = model(inputs, stop_at_layer=1)
        >>> torch.equal(model(inputs, start_at_layer=1, resid=resid), model(inputs))
        True
        """
        inputs = self._as_inputs(inputs)
        run = self._run = self._begin(inputs, start_at_layer, stop_at_layer)
        plan = self._plan(run, interventions)
        rows = "all" if logits_at is None else run.positions(logits_at)
        _check_resid(start_at_layer, resid, (inputs.batch, inputs.n_pos, self.decoder.cfg.d_model))
        with self._edited(plan, run):
            embeds = self._embed(inputs, run) if resid is None else resid
            attend = Attend(self.attn_implementation, inputs.starts, plan.cuts, run, leaving=plan.leaving)
            return self.decoder(embeds, inputs.position_ids, attend, rows, run.layers)

    def _plan(self, run: Run, interventions: Any) -> Plan:
        """What the interventions of this call and of open `intervene` blocks mean for these inputs."""
        specs = (*self._interventions, *as_specs(interventions))
        return Plan.of(specs, run, self.decoder.cfg, self.hook_dict)

    @contextmanager
    def _edited(self, plan: Plan, run: Run) -> Iterator[None]:
        """A plan's edits as hooks for the length of a pass; they come first, so user hooks see the edited rows."""
        if not plan.edits:
            yield
            return
        with self.hooks():
            for edit in reversed(plan.edits):
                self.hook_dict[edit.point].add_hook(edit.hook(run), level=self.context_level, prepend=True)
            yield

    def _as_inputs(self, inputs: Any) -> AVInputs:
        if isinstance(inputs, AVInputs):
            return inputs if inputs.device == self.device else inputs.to(self.device)
        tokens = inputs if isinstance(inputs, Tensor) else self.to_tokens(inputs)
        return AVInputs.from_tokens(tokens.to(self.device))

    def _begin(self, inputs: AVInputs, start_at_layer: int | None = None, stop_at_layer: int | None = None) -> Run:
        if int(inputs.input_ids.max()) >= self.decoder.cfg.d_vocab or int(inputs.input_ids.min()) < 0:
            raise InputsError(
                "token ids that the model does not have",
                expected=f"0 to {self.decoder.cfg.d_vocab - 1}",
                got=f"{int(inputs.input_ids.min())} to {int(inputs.input_ids.max())}",
                next_step="use this model's own tokenizer",
            )
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

    def _embed(self, inputs: AVInputs, run: Run) -> Float[Tensor, "batch pos d_model"]:
        embeds = self.hook_embed(self.decoder.embed(inputs.input_ids))
        encoded = self.family.encode(self.encoders, inputs.features)
        for name, modality in MEDIA_HOOKS.items():
            places = run.media_rows[name]
            rows = encoded.get(modality)
            _check_rows(modality, len(places), 0 if rows is None else len(rows))
            if rows is not None:
                rows = getattr(self, name)(rows.to(embeds.device, embeds.dtype))
                embeds = embeds.flatten(0, 1).index_put((places,), rows).view_as(embeds)
        return self.hook_inputs_embed(embeds)

    @contextmanager
    def intervene(self, *interventions: str | Intervention) -> Iterator["HookedAVTransformer"]:
        """Interventions for the length of a `with` block; blocks nest, and add up.

        Errors: `InterventionError` at once for layers or heads that the model does not have; spans are checked when
        inputs come.
        """
        specs = as_specs(interventions)
        for spec in specs:
            spec.check(self.decoder.cfg)
        before = self._interventions
        self._interventions = (*before, *specs)
        try:
            yield self
        finally:
            self._interventions = before

    def baseline(self, inputs: AVInputs | str, *, touched: str | None = None, max_bytes: int | None = None) -> Baseline:
        """One clean pass, kept, from which any number of interventions are replayed: `baseline.run([...])`.

        A sweep of knockouts over pathways and layers costs about two forward passes in all, because each cell computes
        only the rows and layers that it can change.

        Args:
            inputs: one prompt.
            touched: the span that interventions touch first (the queries of cuts, the rows of edits): the residual
                stream is kept from its first token on. None: of every token. Less is kept, nothing is lost: other
                rows are computed again when they are needed.
            max_bytes: refuse to keep more (None: the free memory).

        Errors: `MemoryBudgetError` before the pass; `InputsError` for a batch; `HookError` while hooks are open.

        >>> import hooked_av as av
        >>> model = av.random_omni(n_layers=2)
        >>> baseline = model.baseline(model.prepare(question="Which digit do you hear?"))
        >>> found = baseline.run(["system->question@0-1", av.ablate("blocks.1.hook_mlp_out", "last")])
        >>> found.logits.shape == (2, model.cfg.d_vocab)
        True
        """
        return Baseline(self, self._as_inputs(inputs), touched, max_bytes)

    # --- shape ---

    def _apply(self, fn: Any, recurse: bool = True) -> "HookedAVTransformer":
        """What `.to()` and `.cuda()` do; computed tables of the encoders keep float32, as after loading in `dtype`."""
        tables = {
            name: table
            for name, table in self.named_buffers()
            if table.is_floating_point() and name not in self.state_dict()
        }
        super()._apply(fn, recurse)
        for name, table in tables.items():
            owner, _, leaf = name.rpartition(".")
            moved = self.get_buffer(name).device
            self.get_submodule(owner).register_buffer(leaf, table.to(moved), persistent=False)
        return self

    @property
    def cfg(self) -> ModelConfig:
        """The decoder's numbers under TransformerLens's names, with the device and dtype that the model has now."""
        return ModelConfig(**vars(self.decoder.cfg), device=self.device, dtype=self.decoder.embed.weight.dtype)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.decoder.blocks

    @property
    def embed(self) -> nn.Embedding:
        return self.decoder.embed

    @property
    def unembed(self) -> nn.Linear:
        return self.decoder.unembed

    @property
    def ln_final(self) -> nn.Module:
        return self.decoder.ln_final


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
    """
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
