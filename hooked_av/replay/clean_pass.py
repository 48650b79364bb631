"""A clean pass of one prompt, kept, so that other runs of it compute only what they change.

Axes: pos (rows of the prompt), row (some of them), run (a variant of the prompt), d_model, d_head, d_vocab.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hooked_av.decoder import costs
from hooked_av.decoder.attention import KeyValues
from hooked_av.errors import HookError, InputsError
from hooked_av.forward.numbers import check_logits
from hooked_av.forward.passes import RunningModel
from hooked_av.forward.precision import check_no_autocast
from hooked_av.hooks.cache import check_budget, in_bytes
from hooked_av.prompt.inputs import AVInputs
from hooked_av.replay.shared_prefix import SharedPrefix

logger = logging.getLogger(__name__)


class CleanPass:
    """Rotated keys, values and residual stream of one clean pass, and what is computed from them.

    `logits` are the clean ones at the last position, [d_vocab]; `n_bytes` is what it keeps.
    """

    def __init__(self, model: RunningModel, inputs: AVInputs, touched: str | None, max_bytes: int | None) -> None:
        self.model, self.inputs = model, inputs
        _check_clean(model, inputs)
        self.first_row = 0 if touched is None else int(inputs.spans.resolve(touched).positions[0])
        expected = _kept_bytes(model, inputs.n_pos, inputs.n_pos - self.first_row)
        logger.info("the baseline of %d tokens will keep %.1f MB", inputs.n_pos, expected / 1e6)
        check_budget("this baseline", expected, model.device, max_bytes, lambda free: _what_fits(model, inputs, free))
        self._read: dict[str, Tensor] = {}
        with torch.no_grad():
            self._run_clean()
        logger.info("%r", self)

    def _run_clean(self) -> None:
        decoder, inputs = self.model.decoder, self.inputs
        with self.model.clean(), self.model.begin(inputs) as one:
            resid = one.embed()
            self.embeds, self.keys_values, self.resid = resid[0], KeyValues(), {}
            attend, tables = one.attend(past=self.keys_values), decoder.rotary(inputs.position_ids, resid.dtype)
            for layer, block in enumerate(decoder.blocks):
                self._keep(layer, resid)
                # as the block does; nobody listens, so the MLP may go in place, some rows at a time: memory peaks there
                resid = resid + block.attn(block.ln1(resid), tables, attend)
                for rows in resid.split(costs.MLP_ROWS, dim=1):
                    rows += block.mlp(block.ln2(rows))
            self._keep(decoder.cfg.n_layers, resid)
            logits = decoder.read_out(resid, one.run.positions("last"), attend)
        check_logits(logits[:, -1], "from this prompt", self.keys_values)
        self.logits: Float[Tensor, " d_vocab"] = logits[0, -1]
        self._read["last"] = logits

    def _keep(self, layer: int, resid: Float[Tensor, "batch=1 pos d_model"]) -> None:
        # a slice would keep the whole tensor alive
        self.resid[layer] = resid[0] if not self.first_row else resid[0, self.first_row :].clone()

    @property
    def n_bytes(self) -> int:
        """What the baseline keeps."""
        kept = {t.data_ptr(): t.numel() * t.element_size() for t in (self.embeds, *self.resid.values())}
        return self.keys_values.n_bytes + sum(kept.values())

    def __repr__(self) -> str:
        rows = self.inputs.n_pos - self.first_row
        return f"Baseline of {self.inputs.n_pos} tokens, residual stream of {rows}: {self.n_bytes / 1e6:.1f} MB"

    def clean_resid(self, layer: int, rows: Int64[Tensor, " row"]) -> Float[Tensor, "row d_model"]:
        """The clean residual stream that enters a layer, at some rows."""
        return self.resid[layer][rows - self.first_row]

    def reach(self, first_row: int) -> None:
        """Compute the clean residual stream of rows that were not kept, over the kept keys and values."""
        if first_row >= self.first_row:
            return
        logger.info("the residual stream from row %d on was not kept: computed again", first_row)
        own = torch.arange(first_row, self.inputs.n_pos, device=self.model.device)
        resid, tables, found = self.embeds[None, first_row:], self.tables(own), {}
        for layer, block in enumerate(self.model.decoder.blocks):
            found[layer] = resid[0]
            resid = block(resid, tables, self.attend(layer, own, [()]))
        # only now: what is interrupted leaves what was kept as it was
        self.first_row, self.resid = first_row, {**found, self.model.decoder.cfg.n_layers: resid[0]}

    def tables(self, rows: Int64[Tensor, " row"]) -> tuple[Tensor, Tensor]:
        """Rotary tables of some rows, the same in every layer and run: [1, row, d_head]."""
        return self.model.decoder.rotary(self.inputs.position_ids[:, :, rows], self.embeds.dtype)

    def attend(self, layer: int, own: Int64[Tensor, " row"], cuts: Sequence[Any], **more: Any) -> SharedPrefix:
        """How runs with these rows of their own attend in a layer."""
        known, n_prefix = self.keys_values.layers[layer], int(own[0])
        k, v = known.k[:, :, :n_prefix], known.v[:, :, :n_prefix]
        # scores take less than the MLP's activations of a clean pass, or 4 MiB
        max_scores = max(costs.LEAST_SCORES, self.inputs.n_pos * self.model.decoder.cfg.d_mlp // 2)
        return SharedPrefix(prefix_k=k, prefix_v=v, own=own, run_cuts=cuts, max_scores=max_scores, **more)

    def read(self, key: str) -> Tensor:
        """Clean logits at a span, or a clean activation, from a pass of its own the first time."""
        if key not in self._read:
            with self.model.clean():
                if "hook_" in key:
                    _, cache = self.model.run_with_cache(self.inputs, names_filter=[key], logits_at="last")
                    self._read[key] = cache[key]
                else:
                    self._read[key] = self.model(self.inputs, logits_at=key)
        return self._read[key]


def _kept_bytes(model: RunningModel, n_pos: int, n_rows: int) -> int:
    cfg = model.decoder.cfg
    kv = cfg.n_layers * n_pos * 2 * cfg.n_key_value_heads * cfg.d_head
    resid = cfg.d_model * (cfg.n_layers * n_rows + n_pos + (n_rows if n_rows < n_pos else 0))
    return (kv + resid) * model.decoder.embed.weight.element_size()


def _what_fits(model: RunningModel, inputs: AVInputs, free: int) -> str:
    """The spans that a sweep could touch so that its baseline fits, in words."""
    needed = {
        span: _kept_bytes(model, inputs.n_pos, inputs.n_pos - int(inputs.spans[span].positions[0]))
        for span in ("question", "last")
        if span in inputs.spans
    }
    said = ", ".join(f"touched={span!r} needs {in_bytes(size)}" for span, size in needed.items())
    fits = any(size <= free for size in needed.values())
    return f"{said}, if that is what a sweep touches first" if fits else f"take a shorter prompt; even {said}"


def _check_clean(model: RunningModel, inputs: AVInputs) -> None:
    check_no_autocast(model.device)
    if inputs.batch != 1 or inputs.starts != (0,):
        raise InputsError(
            "a baseline needs one prompt without padding",
            expected="one prompt",
            got=f"{inputs.batch} prompts, starting at {list(inputs.starts)}",
            next_step="make one for each prompt: [model.baseline(one) for one in inputs.prompts]",
        )
    hooked = [name for name, point in model.hook_dict.items() if point.listeners_in(None)]
    if hooked:
        raise HookError(
            "a baseline is a clean pass, but hooks are open",
            expected="no hooks",
            got=hooked[:5],
            next_step="make the baseline first; replays under open hooks run as full passes",
        )
