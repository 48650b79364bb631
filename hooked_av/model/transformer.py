"""HookedAVTransformer: a family's front end and our decoder as one TransformerLens-style hooked model.

Axes: batch pos d_model d_vocab.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hooked_av.config import DecoderConfig
from hooked_av.decoder.attention import Backend
from hooked_av.decoder.decoder import HookedDecoder, RMSNorm
from hooked_av.decoder.layer_views import Embed, Unembed
from hooked_av.doors import door
from hooked_av.families.family import Family
from hooked_av.forward.precision import float32_by_default
from hooked_av.generation.defaults import GenerationDefaults
from hooked_av.generation.generate import Generates
from hooked_av.hooks.point import HookPoint
from hooked_av.media.sampling import Sampling
from hooked_av.model import loading
from hooked_av.model.card import card
from hooked_av.model.transformer_lens import LensSurface
from hooked_av.prompt.inputs import AVInputs, stack_inputs
from hooked_av.prompt.text import media_list
from hooked_av.replay.baseline import Baseline


class HookedAVTransformer(LensSurface, Generates):
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
        super().__init__(cfg, family, encoders, attn_implementation)
        self.generation_defaults = GenerationDefaults()
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

    def __repr__(self) -> str:
        return card(self)

    # --- loading ---

    @classmethod
    @door
    def from_hf(cls, hf_model: Any, tokenizer: Any = None, feature_extractor: Any = None) -> "HookedAVTransformer":
        """A loaded transformers model, hooked: adopts its tensors and encoders without a copy.

        Args:
            hf_model: `Qwen2_5OmniThinkerForConditionalGeneration`, the whole `Qwen2_5OmniForConditionalGeneration`, or
                `Qwen2_5_VLForConditionalGeneration`. (transformers has no class for video-SALMONN 2+.)
            tokenizer, feature_extractor: transformers' own, needed for `prepare` and text.

        Errors: `CheckpointError` for another class, a config with a setting that is not known, or weights that are
        not finite, no floats, sparse, or partly elsewhere (offloaded).
        """
        return loading.adopt(cls, hf_model, tokenizer, feature_extractor)

    @classmethod
    @door
    def from_pretrained(
        cls, folder_or_hub_id: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> "HookedAVTransformer":
        """A checkpoint folder or hub id, read shard by shard, as stored (or cast, if `dtype` is given).

        Every weight is looked at once, for NaN and infinity: one reading of the files, which the first pass would need
        anyway (docs/gotchas.md).

        Errors: `CheckpointError` for an unknown model or device, an unreadable file, a setting of config.json that is
        not known; any missing, unexpected or mis-shaped tensor, with the full list; weights that are not finite (also
        when the cast made them so), no floats, or of several dtypes in one part.
        """
        return loading.load(cls, folder_or_hub_id, device, dtype)

    @door
    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that both `from_pretrained` and transformers' own `from_pretrained` load.

        A checkpoint that stands there is replaced, once the new one is complete.

        Errors: `CheckpointError` if it cannot be written; nothing has been moved then.
        """
        loading.save(self, Path(folder))

    # --- inputs ---

    @door
    def prepare(
        self,
        media: Any = None,
        *,
        question: str,
        options: Sequence[str] = (),
        instruction: str | None = None,
        answer_prefix: str | None = None,
        system: str | None = None,
        sampling: Sampling | None = None,
        positions: str | None = None,
    ) -> AVInputs:
        """A prompt from media and a question, laid out, sampled and encoded as the released processor does.

        Args:
            media: a `Clip` (with or without sound, a sound, a picture), or a list of them with text in between.
            question: what is asked.
            options: answer options, lettered A, B, ... in the prompt; `instruction` follows them.
            instruction: what is said below the options (None: to answer with the option's letter, if there are any).
            answer_prefix: text that begins the answer.
            system: system prompt (None: the released default).
            sampling: `Sampling(fps=, max_frames=, max_pixels=)`, if less than the released budget is wanted.
            positions: the family's position mode, where it has several (video-SALMONN 2+: "generate" or "train"; None:
                the first).

        Errors: `InputsError` for an empty question, special tokens in text, or media the model does not take;
        `ArgumentError` for arguments of another kind.

        >>> import hooked_av as av, numpy as np
        >>> clip = av.Clip.from_arrays(np.zeros((8, 56, 56, 3), np.uint8), fps=4)
        >>> small = av.Sampling(max_pixels=784)
        >>> inputs = av.random_omni(n_layers=2).prepare(clip, question="What moves?", sampling=small)
        >>> inputs.spans["question"]
        Span('question', 3 positions: 18-20)
        """
        with float32_by_default():
            prompt = self.family.prepare(
                media_list(media),
                question=question,
                options=options,
                instruction=instruction,
                answer_prefix=answer_prefix,
                system=system,
                sampling=sampling,
                positions=positions,
            )
        return prompt.to(self.device)

    @door
    def inputs_from_tensors(self, **tensors: Any) -> AVInputs:
        """The same inputs from the tensors that the family's published processor returns, under its own names.

        Question and options are unknown here; add them with `inputs.with_span("question", positions)`.
        """
        return self.family.inputs_from_tensors(**tensors).to(self.device)

    @door
    def batch(self, prompts: Sequence[AVInputs]) -> AVInputs:
        """One batch from several prompts, padded on the left; each row gives what it gives alone."""
        return stack_inputs(prompts, self.family.pad_token_id)

    # --- running ---

    @door
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
        return Baseline(self, self.as_inputs(inputs), touched, max_bytes)

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
    def embed(self) -> Embed:
        return self.decoder.embed

    @property
    def unembed(self) -> Unembed:
        return self.decoder.unembed

    @property
    def ln_final(self) -> RMSNorm:
        return self.decoder.ln_final
