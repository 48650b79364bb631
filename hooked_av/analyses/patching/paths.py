"""Path patching: does what one head writes reach the answer through one receiver, and through nothing else?

A sender head of the corrupt run gets its clean output; every other head and MLP is frozen to the corrupt run, so the
sender reaches the receiver along the residual stream only. What the receiver then computes is written into the corrupt
run, and everything after it runs freely (Wang et al. 2023; Goldowsky-Dill et al. 2023).

With all else frozen the residual stream in front of the receiver is that of the corrupt run plus the change of the
sender's output times its W_O, exactly; no run is needed to find it.

Axes: layer, head (of the sender); batch, row (of the span), d_head, d_model.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.utilities import get_act_name  # pyright: ignore[reportPrivateImportUsage]

from hooked_av.analyses.metric import Metric
from hooked_av.analyses.patching.exchange import Exchange
from hooked_av.analyses.patching.spans import EFFECTS, PatchEffects
from hooked_av.doors import door
from hooked_av.errors import InterventionError
from hooked_av.hooks.run import layer_of
from hooked_av.interventions.routes import check_range, numbers
from hooked_av.interventions.specs import Patch
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

_HEADS = ("attn.hook_q", "attn.hook_k", "attn.hook_v")
_MLP, LOGITS = "hook_mlp_out", "logits"


@dataclass(frozen=True, eq=False, kw_only=True)
class PathPatching(PatchEffects):
    """Effect of each sender head on the answer through one receiver; nan where the sender comes after the receiver."""

    figure: ClassVar = "hooked_av.plots.patching:plot_path_patching"
    axes: ClassVar = dict.fromkeys(("metric_patched", "effects"), ("layer", "head"))
    columns: ClassVar = ("layer", "head", *EFFECTS)
    span: str
    receiver: str
    receiver_heads: tuple[int, ...] | None


@door
def patch_path(
    model: "HookedAVTransformer",
    *,
    clean: AVInputs,
    corrupt: AVInputs,
    receiver: str = LOGITS,
    receiver_heads: Any = None,
    span: str = "last",
    metric: Metric = "logit_difference",
    answer: str | int | None = None,
    alternative: str | int | None = None,
    progress: bool = False,
) -> PathPatching:
    """Which heads bring the clean answer back through this receiver alone?

    Args:
        receiver: what reads the senders: "blocks.5.attn.hook_q" (or hook_k, hook_v), "blocks.5.hook_mlp_out", or
            "logits", for the direct path to the answer.
        receiver_heads: the receiver's query heads (hook_q) or key/value heads (hook_k, hook_v); None: all of them.
        span: the rows in which senders write and the receiver reads.
        metric, answer, alternative, progress: as for `patch_spans`.

    Errors: as for `patch_spans`; `InterventionError` for a receiver that is none of these.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, (sample, other) = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1:4:2]
    >>> pair = av.make_pair(model, sample.clip, "audio", other=other.clip, question=sample.question)
    >>> table = av.patch_path(model, clean=pair.clean, corrupt=pair.corrupt, receiver="blocks.6.attn.hook_q")
    >>> table.effects.shape, bool(np.isnan(table.effects[6:]).all())
    ((8, 4), True)
    """
    reader = _Receiver.of(model, receiver, receiver_heads)
    sent = [get_act_name("z", layer) for layer in range(reader.last_sender + 1)]
    places = {span: corrupt.spans.resolve(span).positions}
    exchange = Exchange(
        model, clean, corrupt, places, [*sent, reader.stream], metric=metric, answer=answer, alternative=alternative
    )
    exchange.contrast.check_differs()
    effects = np.full((model.cfg.n_layers, model.cfg.n_heads), np.nan)
    changes = [_written(model, exchange, layer, span) for layer in range(len(sent))]
    if receiver == LOGITS:
        effects[: len(sent)] = [[_direct(exchange, reader, change, span) for change in heads] for heads in changes]
    else:
        cells = [reader.patch(exchange, change, span) for heads in changes for change in heads]
        effects[: len(sent)] = exchange.run(cells, progress=progress).reshape(len(sent), -1)
    return PathPatching(
        metric_patched=effects,
        span=span,
        receiver=receiver,
        receiver_heads=reader.heads,
        **exchange.fields(span=span, receiver=receiver),
    )


@dataclass(frozen=True)
class _Receiver:
    """What reads the residual stream: the stream that it reads, and what it makes of it."""

    model: "HookedAVTransformer"
    point: str
    heads: tuple[int, ...] | None
    stream: str  # the hook point in front of it
    last_sender: int  # layer

    @classmethod
    def of(cls, model: "HookedAVTransformer", point: str, heads: Any) -> "_Receiver":
        heads, n_layers = numbers("receiver_heads", heads), model.cfg.n_layers
        layer = layer_of(point) if point in model.hook_dict else n_layers
        kind = point.partition(f"blocks.{layer}.")[2]
        if (point != LOGITS and (point not in model.hook_dict or kind not in (*_HEADS, _MLP))) or (
            heads is not None and kind not in _HEADS
        ):
            raise InterventionError(
                "no such receiver",
                expected='"blocks.5.attn.hook_q" (hook_k, hook_v), maybe with heads; "blocks.5.hook_mlp_out"; "logits"',
                got=point if heads is None else f"{point}, heads {list(heads)}",
                next_step="name the hook point whose value reads the residual stream",
            )
        n_heads = model.cfg.n_heads if kind == _HEADS[0] else model.cfg.n_key_value_heads
        check_range("receiver_heads", heads or (), n_heads, f"path into {point}")
        if kind == _MLP:  # it reads the heads of its own layer, too
            return cls(model, point, heads, get_act_name("resid_mid", layer), layer)
        stream = get_act_name("resid_post", n_layers - 1) if point == LOGITS else get_act_name("resid_pre", layer)
        return cls(model, point, heads, stream, layer - 1)

    @torch.no_grad()
    def read(self, resid: Float[Tensor, "batch row d_model"]) -> Tensor:
        """What the receiver computes from this residual stream."""
        if self.point == LOGITS:
            return self.model.unembed(self.model.ln_final.normalise(resid))
        block = self.model.blocks[layer_of(self.point)]
        if self.point.endswith(_MLP):
            return block.mlp(block.ln2.normalise(resid))
        project = getattr(block.attn, f"{self.point[-1]}_proj")
        return project(block.ln1.normalise(resid)).unflatten(-1, (-1, self.model.cfg.d_head))

    def patch(self, exchange: Exchange, change: Tensor | None, span: str) -> Patch | None:
        """The receiver as it is when one sender has changed."""
        if change is None:
            return None
        resid = exchange.values(exchange.corrupt_rows, self.stream, span) + change
        spec = exchange.spec(self.point, span, self.read(resid))
        return spec if self.heads is None else Patch(spec.name, spec.span, self.heads, spec.values)


def _written(
    model: "HookedAVTransformer", exchange: Exchange, layer: int, span: str
) -> list[Float[Tensor, "batch row d_model"] | None]:
    """How what each head of a layer writes changes from the corrupt run to the clean one; None where it does not."""
    clean, corrupt = (
        exchange.values(run, get_act_name("z", layer), span) for run in (exchange.clean_rows, exchange.corrupt_rows)
    )
    changed = clean - corrupt
    out = model.blocks[layer].attn.W_O.detach()
    return [changed[:, :, head] @ out[head] if changed[:, :, head].any() else None for head in range(model.cfg.n_heads)]


def _direct(exchange: Exchange, reader: _Receiver, change: Tensor | None, span: str) -> float:
    """The metric when a sender reaches the logits past every other component."""
    last = exchange.corrupt.n_pos - 1
    if change is None or last not in exchange.places[span]:
        return exchange.contrast.corrupt
    resid = exchange.values(exchange.corrupt_rows, reader.stream, span) + change
    at_last = resid[:, list(exchange.places[span]).index(last)]
    return float(exchange.contrast(reader.read(at_last[:, None])[0, 0]))
