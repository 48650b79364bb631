"""Random interventions of every kind and composition, over the spans of a prompt: hypothesis strategies."""

import torch
from hypothesis import strategies as st

import hooked_av as av
from hooked_av.hooks.run import layer_of
from hooked_av.interventions.specs import DropTokens, Edit

ROW_POINTS = (
    "hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post", "ln1.hook_normalized",
    "ln2.hook_normalized", "ln1.hook_scale", "ln2.hook_scale", "attn.hook_q", "attn.hook_k", "attn.hook_v",
    "attn.hook_rot_q", "attn.hook_rot_k", "attn.hook_z", "mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post",
)  # fmt: skip


def width_of(point, cfg):
    """The axes of one row at a hook point."""
    leaf = point.rpartition(".")[2]
    if leaf in ("hook_q", "hook_rot_q", "hook_z"):
        return (cfg.n_heads, cfg.d_head)
    if leaf in ("hook_k", "hook_rot_k", "hook_v"):
        return (cfg.n_key_value_heads, cfg.d_head)
    if leaf in ("hook_pre", "hook_pre_linear", "hook_post"):
        return (cfg.d_mlp,)
    return (1,) if leaf == "hook_scale" else (cfg.d_model,)


def numbers_of(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def interventions(inputs, cfg):
    """One spec that fits these inputs and this model."""
    spans = st.sampled_from(sorted(inputs.spans))
    layers = st.sets(st.integers(0, cfg.n_layers - 1), min_size=1).map(sorted)
    heads = st.none() | st.sets(st.integers(0, cfg.n_heads - 1), min_size=1).map(sorted)
    blocks = st.builds(
        lambda pair, layers, heads: av.block_attention(keys=pair[0], queries=pair[1], layers=layers, heads=heads),
        readable(inputs), layers, heads,
    )  # fmt: skip
    point = st.one_of(
        st.just("hook_inputs_embed"),
        st.just("ln_final.hook_normalized"),
        st.builds("blocks.{}.{}".format, st.integers(0, cfg.n_layers - 1), st.sampled_from(ROW_POINTS)),
    )
    edits = st.builds(edit(inputs, cfg), point, spans, st.sampled_from(EDITS), st.integers(0, 99), st.booleans())
    droppable = [name for name in sorted(inputs.spans) if inputs.n_pos - 1 not in inputs.spans[name]]
    drops = st.builds(av.drop_tokens, st.sampled_from(droppable), st.integers(0, cfg.n_layers - 1))
    randoms = st.builds(
        lambda like, spread, seed: av.block_random(like, spread=spread, seed=seed),
        blocks | keep_onlys(inputs, cfg.n_layers), st.sampled_from(SPREADS), st.integers(0, 99),
    )  # fmt: skip
    return st.one_of(blocks, edits, drops, randoms)


def readable(inputs):
    """Keys and queries with a pair between them: others can never act, and are refused."""
    first, last = ({name: int(inputs.spans[name].positions[at]) for name in inputs.spans} for at in (0, -1))
    pairs = [(keys, queries) for keys in sorted(first) for queries in sorted(last) if first[keys] <= last[queries]]
    return st.sampled_from(pairs)


SPREADS = ("entries", "rows")
EDITS = ("zero", "mean", "value", "patch", "rows", "add")


def edit(inputs, cfg):
    """A function that makes an edit of a hook point; zero is replaced where it would divide by zero."""

    def make(point, span, kind, seed, by_head):
        row = width_of(point, cfg)
        heads = [seed % row[0]] if by_head and len(row) == 2 else None
        if point.endswith("hook_scale"):
            return av.patch(point, span, numbers_of(row, seed).abs() + 0.5)
        if kind in ("zero", "mean"):
            return av.ablate(point, span, kind, heads=heads)
        if kind == "value":
            return av.ablate(point, span, numbers_of(row, seed), heads=heads)
        if kind == "add":
            return av.add_vector(point, span, numbers_of(row, seed), 0.7, heads=heads)
        shape = (len(inputs.spans[span]), *row) if kind == "patch" else (1, len(inputs.spans[span]), *row)
        return av.patch(point, span, numbers_of(shape, seed), heads=heads)

    return make


def keep_onlys(inputs, n_layers):
    """Routes that stay, in some layers or all."""
    layers = st.none() | st.sets(st.integers(0, n_layers - 1), min_size=1).map(lambda some: tuple(sorted(some)))
    routes = st.lists(
        st.builds(lambda pair, layers: av.interventions.Route(*pair, layers), readable(inputs), layers),
        min_size=1,
        max_size=3,
    )
    return routes.map(lambda some: av.keep_only(*some))


def fits(inputs, specs):
    """Whether no spec edits rows that another takes away before: that is refused, and tested as such."""
    drops = [spec for spec in specs if isinstance(spec, DropTokens)]
    edits = [spec for spec in specs if isinstance(spec, Edit)]
    return not any(
        layer_of(edit.name) >= drop.layer and set(inputs.spans[edit.span]) & set(inputs.spans[drop.span])
        for drop in drops
        for edit in edits
    )
