"""The decoder of both model families: RMSNorm, M-RoPE, grouped-query attention, SiLU-gated MLP, in plain PyTorch.

Weights keep the checkpoint's names and layout. Every activation passes a hook point under TransformerLens's name.

Axes: batch pos d_model; head kv_head d_head; d_mlp; d_vocab; axis (time, height, width).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from einops import einsum
from jaxtyping import Float, Int64
from torch import Tensor, nn

from hooked_av.config import DecoderConfig
from hooked_av.decoder.attention import Attend, pattern_of, scores_of, weigh
from hooked_av.decoder.cut_masks import Keys, allowed_keys, report_empty_rows
from hooked_av.decoder.cuts import QueryRows
from hooked_av.decoder.layer_views import AttentionViews, Embed, MLPViews, Unembed
from hooked_av.decoder.own_inputs import OwnInputs, refuse_both
from hooked_av.hooks.point import HookPoint, is_live, version_of
from hooked_av.hooks.rows import at_rows, put_rows
from hooked_av.hooks.run import ALL_LAYERS, row_index

Resid = Float[Tensor, "batch pos d_model"]
Heads = Float[Tensor, "batch pos head d_head"]
RotaryTable = Float[Tensor, "batch pos d_head"]
AllQueries = Float[Tensor, "batch head held d_head"]  # of every row that goes on, beside rows asked for
PositionIds = Int64[Tensor, "axis=3 batch pos"]


class RMSNorm(nn.Module):
    """x / scale * gain, with scale = sqrt(mean(x^2) + eps) in float32."""

    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(cfg.d_model))
        self.eps = cfg.eps
        self.hook_scale = HookPoint("batch pos 1")
        self.hook_normalized = HookPoint("batch pos d_model")

    @property
    def w(self) -> Float[Tensor, " d_model"]:
        """The gain, under TransformerLens's name."""
        return self.weight

    def forward(self, resid: Resid) -> Resid:
        x = resid.float()
        variance = self._variance(x)
        normalized = x * torch.rsqrt(variance)
        if self.hook_scale.is_hooked:
            edited, live = _through(self.hook_scale, None, variance.sqrt())
            # x / sqrt differs from x * rsqrt in the last bit: used only if the hook changed something
            normalized = x / edited if live else normalized
        return self.weight * self.hook_normalized(normalized.to(resid.dtype))

    def normalise(self, resid: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any d_model"]:
        """The same without hook points, for a lens on some other activation."""
        x = resid.float()
        return self.weight * (x * torch.rsqrt(self._variance(x))).to(resid.dtype)

    def _variance(self, x: Float[Tensor, "*any d_model"]) -> Float[Tensor, "*any 1"]:
        return x.pow(2).mean(-1, keepdim=True) + self.eps


class BeforeNorm(NamedTuple):
    """What the norm of an attention layer reads."""

    resid: Resid
    norm: RMSNorm


class Rotary:
    """M-RoPE: each frequency turns with the time, height or width position of its token.

    The table is made in float32 at every call from the config, so that no dtype cast can round it.
    """

    def __init__(self, cfg: DecoderConfig) -> None:
        steps = torch.arange(0, cfg.d_head, 2, dtype=torch.float, device="cpu") / cfg.d_head
        self.frequencies = 1.0 / (cfg.rotary_base**steps)
        self.sections = list(cfg.mrope_section)

    def __call__(self, position_ids: PositionIds, dtype: torch.dtype) -> tuple[RotaryTable, RotaryTable]:
        angles = position_ids[..., None].float() * self.frequencies.to(position_ids.device)
        # chunk i of the frequencies belongs to axis i: time, height, width
        parts = [part[axis] for axis, part in enumerate(angles.split(self.sections, dim=-1))]
        angle = torch.cat(parts * 2, dim=-1)
        return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Heads, cos: RotaryTable, sin: RotaryTable) -> Heads:
    """Turn each pair (x_i, x_{i + d_head/2}) by its angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, :, None] + torch.cat((-second, first), dim=-1) * sin[:, :, None]


class Attention(AttentionViews, nn.Module):
    """Causal grouped-query attention; scores, pattern and per-head results exist only where a hook asks."""

    def __init__(self, cfg: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.d_head = layer, cfg.d_head
        kv_width = cfg.n_key_value_heads * cfg.d_head
        self.q_proj = nn.Linear(cfg.d_model, cfg.n_heads * cfg.d_head)
        self.k_proj = nn.Linear(cfg.d_model, kv_width)
        self.v_proj = nn.Linear(cfg.d_model, kv_width)
        self.o_proj = nn.Linear(cfg.n_heads * cfg.d_head, cfg.d_model, bias=False)
        self.hook_q, self.hook_rot_q = HookPoint("batch pos head d_head"), HookPoint("batch pos head d_head")
        self.hook_k, self.hook_rot_k = HookPoint("batch pos kv_head d_head"), HookPoint("batch pos kv_head d_head")
        self.hook_v, self.hook_z = HookPoint("batch pos kv_head d_head"), HookPoint("batch pos head d_head")
        self.hook_attn_in = HookPoint("batch pos head d_model", lazy=True)
        self.hook_q_input = HookPoint("batch pos head d_model", lazy=True)
        self.hook_k_input = HookPoint("batch pos kv_head d_model", lazy=True)
        self.hook_v_input = HookPoint("batch pos kv_head d_model", lazy=True)
        self.hook_attn_scores = HookPoint("batch head query key", lazy=True)
        self.hook_pattern = HookPoint("batch head query key", lazy=True)
        self.hook_result = HookPoint("batch pos head d_model", lazy=True)

    def forward(
        self, x: Resid, tables: tuple[RotaryTable, RotaryTable], attend: Attend, before: "BeforeNorm | None" = None
    ) -> Float[Tensor, "batch query d_model"]:
        own = {} if before is None else self._own_inputs(before, attend)
        q = self.hook_q(self._heads("q", attend.going_on(x), own))
        k = self.hook_k(self._heads("k", x, own))
        v = self.hook_v(self._heads("v", x, own))
        rot_q = self.hook_rot_q(rotate(q, *(attend.going_on(table) for table in tables)))
        rot_k = self.hook_rot_k(rotate(k, *tables))
        rot_q, rot_k, v = (heads.transpose(1, 2) for heads in (rot_q, rot_k, v))
        rot_k, v = attend.known(self.layer, rot_k, v)
        z = attend.read(self.layer, rot_q, rot_k, v)
        rows = _wanted_rows(attend, x, self.hook_attn_scores, self.hook_pattern)
        if rows is not None:
            z = self._observe(z, rows, rot_q, rot_k, v, attend)
        return self._project(self.hook_z(z.transpose(1, 2)), attend)

    def _split(self, x: Float[Tensor, "batch pos width"]) -> Heads:
        return x.view(*x.shape[:2], -1, self.d_head)

    def _heads(self, which: Literal["q", "k", "v"], x: Resid, own: "dict[str, OwnInputs]") -> Heads:
        """Queries, keys or values; in rows where heads have inputs of their own, from those."""
        heads = self._split(getattr(self, f"{which}_proj")(x))
        if which not in own:
            return heads
        weight, bias = getattr(self, f"W_{which.upper()}"), getattr(self, f"b_{which.upper()}")
        by_head = "batch query head d_model, head d_model d_head -> batch query head d_head"
        return put_rows(heads, own[which].index, einsum(own[which].normalized, weight, by_head) + bias)

    def _own_inputs(self, before: "BeforeNorm", attend: Attend) -> "dict[str, OwnInputs]":
        """What queries, keys and values read, where a hook has edited it (or a gradient flows through it)."""
        points = {"q": self.hook_q_input, "k": self.hook_k_input, "v": self.hook_v_input}
        if not any(point.is_hooked for point in (self.hook_attn_in, *points.values())):
            return {}
        n_heads = {which: getattr(self, f"{which}_proj").out_features // self.d_head for which in points}
        split = {which: self._own_input(points[which], n_heads[which], before, attend) for which in points}
        shared = self._own_input(self.hook_attn_in, n_heads["q"], before, attend)
        if shared is not None:
            refuse_both([point for point in points.values() if point.is_hooked])
            split = {which: shared.for_heads(n) for which, n in n_heads.items()}
        return {which: inputs for which, inputs in split.items() if inputs is not None}

    def _own_input(self, point: HookPoint, n_heads: int, before: "BeforeNorm", attend: Attend) -> "OwnInputs | None":
        rows = _wanted_rows(attend, before.resid, point)
        if rows is None:
            return None
        where = f"layer {self.layer}"
        index = rows if attend.rows is None else row_index(attend.rows, rows, where, "of an input hook")
        copies = at_rows(before.resid, index)[:, :, None].expand(-1, -1, n_heads, -1).contiguous()
        edited, live = _through(point, rows, copies)
        return OwnInputs(index, before.norm.normalise(edited)) if live else None

    def _observe(self, z: AllQueries, rows: QueryRows, q: AllQueries, k: Keys, v: Keys, attend: Attend) -> AllQueries:
        """Scores and pattern of some rows, through their hooks; z changes there only if a hook changed something."""
        held, keys = attend.places(self.layer, q, k)
        index = rows if attend.rows is None else row_index(held, rows, f"layer {self.layer}", "of a pattern hook")
        allowed = allowed_keys(rows, keys, attend.starts, attend.cuts.get(self.layer, ()), q.shape[1])
        scores = scores_of(at_rows(q.transpose(1, 2), index).transpose(1, 2), k, allowed)
        edited_scores, scores_live = _through(self.hook_attn_scores, rows, scores)
        pattern = pattern_of(edited_scores)
        edited_pattern, pattern_live = _through(self.hook_pattern, rows, pattern)
        if not (scores_live or pattern_live):
            return z
        empty = ((edited_scores == -torch.inf).all(dim=-1) & allowed.any(dim=-1)).any(dim=1)
        if empty.any():
            report_empty_rows(rows[empty])
        observed = weigh(edited_pattern, v).transpose(1, 2)
        return put_rows(z.transpose(1, 2), index, observed).transpose(1, 2)

    def _project(self, z: Heads, attend: Attend) -> Resid:
        # the copy gives the layout that transformers hands to the same matrix product
        attn_out = self.o_proj(z.reshape(*z.shape[:2], -1))
        rows = _wanted_rows(attend, z, self.hook_result)
        if rows is None:
            return attn_out
        index = rows if attend.rows is None else row_index(attend.rows, rows, f"layer {self.layer}", "of a result hook")
        by_head = "batch pos head d_head, head d_head d_model -> batch pos head d_model"
        edited, live = _through(self.hook_result, rows, einsum(at_rows(z, index), self.W_O, by_head))
        return put_rows(attn_out, index, edited.sum(dim=2)) if live else attn_out


def _wanted_rows(attend: Attend, like: Tensor, *points: HookPoint) -> QueryRows | None:
    """The positions that hooks of these lazy points ask for together, or None."""
    wanted = [rows for point in points if (rows := point.wanted(attend.run)) is not None]
    if not wanted:
        return None
    tensors = [rows for rows in wanted if isinstance(rows, Tensor)]
    if len(tensors) == len(wanted) and all(torch.equal(rows, tensors[0]) for rows in tensors):
        return tensors[0]
    return attend.positions(like.shape[0], like.shape[1], like.device)


def _through(point: HookPoint, rows: QueryRows | None, tensor: Tensor) -> tuple[Tensor, bool]:
    """A lazy activation through its hook point: what came back, and whether it must be used."""
    if not point.is_hooked:
        return tensor, False
    point.rows = rows
    version = version_of(tensor)
    edited = point(tensor)
    return edited, not point.only_reads and is_live(tensor, version, edited)


class GatedMLP(MLPViews, nn.Module):
    """down(silu(gate(x)) * up(x))"""

    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(cfg.d_model, cfg.d_mlp, bias=False)
        self.up_proj = nn.Linear(cfg.d_model, cfg.d_mlp, bias=False)
        self.down_proj = nn.Linear(cfg.d_mlp, cfg.d_model, bias=False)
        self.hook_pre = HookPoint("batch pos d_mlp")
        self.hook_pre_linear = HookPoint("batch pos d_mlp")
        self.hook_post = HookPoint("batch pos d_mlp")

    def forward(self, x: Resid) -> Resid:
        # memory peaks here, so no name keeps what the next line no longer needs
        gate = nn.functional.silu(self.hook_pre(self.gate_proj(x)))
        return self.down_proj(self.hook_post(gate * self.hook_pre_linear(self.up_proj(x))))


class Block(nn.Module):
    """resid_pre -> + attention -> resid_mid -> + MLP -> resid_post"""

    def __init__(self, cfg: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = RMSNorm(cfg), RMSNorm(cfg)
        self.attn = Attention(cfg, layer)
        self.mlp = GatedMLP(cfg)
        self.hook_resid_pre, self.hook_resid_post = HookPoint("batch pos d_model"), HookPoint("batch pos d_model")
        self.hook_attn_out, self.hook_mlp_out = HookPoint("batch pos d_model"), HookPoint("batch pos d_model")
        self.hook_resid_mid = HookPoint("batch pos d_model")
        self.hook_mlp_in = HookPoint("batch pos d_model", lazy=True)

    def forward(
        self, resid_pre: Resid, tables: tuple[RotaryTable, RotaryTable], attend: Attend
    ) -> Float[Tensor, "batch query d_model"]:
        resid_pre = self.hook_resid_pre(resid_pre)
        before = BeforeNorm(resid_pre, self.ln1)
        attn_out = self.hook_attn_out(self.attn(self.ln1(resid_pre), tables, attend, before))
        del before
        resid_mid = self.hook_resid_mid(attend.going_on(resid_pre) + attn_out)
        del attn_out  # memory peaks in the MLP, which no longer needs it
        # a hook there edits what the MLP reads, and not the stream that goes on beside it
        mlp_in = self.hook_mlp_in(resid_mid.clone()) if self.hook_mlp_in.is_hooked else resid_mid
        mlp_out = self.hook_mlp_out(self.mlp(self.ln2(mlp_in)))
        return self.hook_resid_post(resid_mid + mlp_out)


class Blocks(nn.ModuleList):
    """The blocks, in the order of their layers."""

    if TYPE_CHECKING:

        def __getitem__(self, idx: int) -> Block: ...  # type: ignore[override] - a slice is not asked for

        def __iter__(self) -> Iterator[Block]: ...


class HookedDecoder(nn.Module):
    """Embeddings in, logits out: every block, the final norm, and the unembedding of the rows that are read."""

    def __init__(self, cfg: DecoderConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed = Embed(cfg.d_vocab, cfg.d_model)
        self.blocks = Blocks(Block(cfg, layer) for layer in range(cfg.n_layers))
        self.ln_final = RMSNorm(cfg)
        self.unembed = Unembed(cfg.d_model, cfg.d_vocab, bias=False)
        if cfg.tied:
            self.unembed.weight = self.embed.weight
        self.rotary = Rotary(cfg)
        self.hook_logits = HookPoint("batch pos d_vocab", lazy=True)

    def forward(
        self,
        resid: Resid,
        position_ids: PositionIds,
        attend: Attend,
        rows: "QueryRows | Literal['all']" = "all",
        layers: range = ALL_LAYERS,
    ) -> Float[Tensor, "batch query width"]:
        """Logits at `rows` ([batch, query] positions), or at every row that the pass holds.

        Args:
            resid: the merged embeddings, or the residual stream that enters the first of `layers`.
            position_ids: of the rows that `resid` holds; a pass of some rows only says which in `attend.rows`.
            layers: what runs. If it ends before `ALL_LAYERS` does, there is no final norm and no logits: the residual
                stream that leaves the last block is returned.
        """
        tables = self.rotary(position_ids, resid.dtype)
        for layer in range(max(layers.start, 0), min(layers.stop, self.cfg.n_layers)):
            resid, tables, attend = self.step(layer, resid, tables, attend)
        return self.read_out(resid, rows, attend) if layers.stop == ALL_LAYERS.stop else resid

    def step(
        self, layer: int, resid: Resid, tables: tuple[RotaryTable, RotaryTable], attend: Attend
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Attend]:
        """One block, after the rows that leave before it have left; what comes back goes into the next step."""
        if layer in attend.leaving:
            resid, tables, attend = _leave(layer, resid, tables, attend)
        return self.blocks[layer](resid, tables, attend), tables, attend

    def read_out(
        self, resid: Resid, rows: "QueryRows | Literal['all']", attend: Attend
    ) -> Float[Tensor, "batch query d_vocab"]:
        """The final norm, and the logits at some positions of what the pass holds."""
        normalized = self.ln_final(resid)
        if isinstance(rows, Tensor):
            index = rows if attend.rows is None else row_index(attend.rows, rows, "hook_logits", "logits_at")
            normalized = at_rows(normalized, index)
        self.hook_logits.rows = rows if isinstance(rows, Tensor) else attend.rows
        return self.hook_logits(self.unembed(normalized))


def _leave(
    layer: int, resid: Resid, tables: tuple[RotaryTable, RotaryTable], attend: Attend
) -> tuple[Tensor, tuple[Tensor, Tensor], Attend]:
    """Rows leave before a layer; those that stay keep their rotary angles."""
    attend, index = attend.without(layer, resid.shape[1])
    return at_rows(resid, index), (at_rows(tables[0], index), at_rows(tables[1], index)), attend
