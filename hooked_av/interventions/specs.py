"""Interventions are specs, not hooks: immutable, printable, comparable, and checked before anything runs.

`keys` are read from, `queries` are reading: information flows from keys to queries ("audio → question"). Specs compose
as a list, run in `model(inputs, interventions=[...])` and in `with model.intervene(...)`, and go to JSON and back.

Axes: batch, span (rows selected by a span).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from hooked_av.config import DecoderConfig
from hooked_av.decoder.cuts import AnyCut, Keep
from hooked_av.doors import door
from hooked_av.errors import InterventionError
from hooked_av.hooks.cache import AVCache
from hooked_av.hooks.generation_run import GenerationRun, Reach
from hooked_av.hooks.run import Run
from hooked_av.interventions.acting import check_pairs
from hooked_av.interventions.intervention import Edit, Intervention, cut_between
from hooked_av.interventions.routes import Route, check_range, not_a_route, numbers
from hooked_av.interventions.values import Values

Kv: TypeAlias = Literal["keep", "drop"]  # what becomes of earlier keys and values
Filling: TypeAlias = Literal["zero", "mean"]


@door
@dataclass(frozen=True)
class BlockAttention(Intervention):
    """In `layers`, tokens of `queries` may not read tokens of `keys`; made by `block_attention`."""

    kind: ClassVar[str] = "block_attention"
    keys: str
    queries: str
    layers: tuple[int, ...] | None
    heads: tuple[int, ...] | None = None

    def __str__(self) -> str:
        heads = "" if self.heads is None else f", heads {list(self.heads)}"
        return f"block {Route(self.keys, self.queries, self.layers)}{heads}"

    def check(self, cfg: DecoderConfig) -> None:
        check_range("layers", self.layers or (), cfg.n_layers, str(self))
        check_range("heads", self.heads or (), cfg.n_heads, str(self))

    def cuts(self, run: Run, cfg: DecoderConfig) -> list[tuple[int, AnyCut]]:
        cut = cut_between(run, queries=self.queries, keys=self.keys, heads=self.heads)
        return [(layer, cut) for layer in (range(cfg.n_layers) if self.layers is None else self.layers)]

    def reach(self, run: GenerationRun) -> Reach:
        run.places(self.keys)
        return run.reach(self.queries)


@door
@dataclass(frozen=True)
class KeepOnly(Intervention):
    """Attention goes along `routes` only; everything else is cut, in every layer; made by `keep_only`."""

    kind: ClassVar[str] = "keep_only"
    routes: tuple[Route, ...]

    def __str__(self) -> str:
        return f"keep only {'; '.join(str(route) for route in self.routes)}"

    def check(self, cfg: DecoderConfig) -> None:
        for route in self.routes:
            check_range("layers", route.layers or (), cfg.n_layers, str(self))

    def cuts(self, run: Run, cfg: DecoderConfig) -> list[tuple[int, AnyCut]]:
        every = range(cfg.n_layers)
        for name in dict.fromkeys(name for route in self.routes for name in (route.keys, route.queries)):
            for spans in run.row_spans:
                spans.resolve(name)  # a prompt without it would lose all of its attention
        edges = [
            (every if route.layers is None else route.layers, cut_between(run, queries=route.queries, keys=route.keys))
            for route in self.routes
        ]
        for route, (_, edge) in zip(self.routes, edges, strict=True):
            check_pairs(f"keep only {route}", [edge], run)
        kept = [tuple(edge for layers, edge in edges if layer in layers) for layer in every]
        return [(layer, run.once(("keep", some), partial(Keep, some))) for layer, some in enumerate(kept)]


@door
@dataclass(frozen=True)
class DropTokens(Intervention):
    """Rows of `span` leave the sequence before `layer`; made by `drop_tokens`."""

    kind: ClassVar[str] = "drop_tokens"
    both_phases: ClassVar[bool] = True
    span: str
    layer: int
    kv: Kv = "keep"

    def __str__(self) -> str:
        return f"drop {self.span} before layer {self.layer} ({self.kv} its earlier keys and values)"

    def check(self, cfg: DecoderConfig) -> None:
        check_range("layers", (self.layer,), cfg.n_layers, str(self))

    def leaves(self, run: Run) -> tuple[tuple[int, str], ...]:
        return ((self.layer, self.span),)

    @property
    def forgets(self) -> str | None:
        return self.span if self.kv == "drop" else None


@door
@dataclass(frozen=True)
class Ablate(Edit):
    """Rows become zero, their mean, or given values."""

    kind: ClassVar[str] = "ablate"
    value: Filling | Values = "zero"

    def __str__(self) -> str:
        return f"ablate {self._where()} to {self.value}"

    @property
    def mixes_rows(self) -> bool:
        return self.value == "mean"

    def adds_nothing_to(self, earlier: Sequence[Edit], run: Run) -> str | None:
        if self in earlier:
            return "the same was done before"
        if "<-" in self.span or isinstance(self.value, Values):
            return None
        if self.value == "mean" and run.places(self.span).shape[1] <= 1 and not self.name.startswith("hook_"):
            return "the mean of one row is the row itself"
        zero = [e for e in earlier if isinstance(e, Ablate) and e.value == "zero" and "<-" not in e.span]
        same = [e for e in zero if (e.name, e.heads) == (self.name, self.heads)]
        return "these rows are zero already" if any(_holds_rows_of(e, self, run) for e in same) else None

    def given(self, point: str) -> Values | None:
        return self.value if isinstance(self.value, Values) else None

    def new(self, point: str, rows: Tensor) -> Tensor:
        if isinstance(self.value, Values):
            return self.value.like(rows)
        if self.value == "zero":
            return rows.new_zeros(())
        axis = 0 if rows.ndim == 2 else 1  # encoder rows have no batch axis
        return rows.float().mean(dim=axis, keepdim=True).to(rows.dtype)


@door
@dataclass(frozen=True)
class Patch(Edit):
    """Rows become those of another run."""

    kind: ClassVar[str] = "patch"
    values: tuple[tuple[str, Values], ...] = ()  # by hook point; "" stands for all that match

    @property
    def mixes_rows(self) -> bool:
        return False

    def adds_nothing_to(self, earlier: Sequence[Edit], run: Run) -> str | None:
        return "the same was done before" if self in earlier else None

    def __str__(self) -> str:
        return f"patch {self._where()}"

    def given(self, point: str) -> Values:
        known = dict(self.values)
        if point not in known and "" not in known:
            raise InterventionError(
                f"nothing to patch into {point} ({self})",
                expected="a cache that holds every hook point that the name matches",
                got=list(known),
                next_step="cache the same names in the run that you patch from",
            )
        return known.get(point) or known[""]

    def new(self, point: str, rows: Tensor) -> Tensor:
        return self.given(point).like(rows)


@door
@dataclass(frozen=True)
class Add(Edit):
    """Rows get a vector added."""

    kind: ClassVar[str] = "add"
    vector: Values | None = None
    scale: float = 1.0

    def __str__(self) -> str:
        return f"add {self.scale:g} x {self.vector} to {self._where()}"

    @property
    def mixes_rows(self) -> bool:
        return False

    def given(self, point: str) -> Values | None:
        return self.vector

    def new(self, point: str, rows: Tensor) -> Tensor:
        return rows if self.vector is None else rows + self.scale * self.vector.like(rows)


def _holds_rows_of(earlier: Edit, later: Edit, run: Run) -> bool:
    """Whether, in each prompt, the rows of one edit hold all those of another; -1 stands where there are fewer."""
    held, asked = (run.places(edit.span).tolist() for edit in (earlier, later))
    return all({*rows} - {-1} <= {*some} for rows, some in zip(asked, held, strict=True))


@door
def block_attention(
    route: str | None = None, *, keys: str = "", queries: str = "", layers: Any = None, heads: Any = None
) -> BlockAttention:
    """What happens to the answer when `queries` cannot read `keys` in these layers?

    The blocked keys are taken out before the softmax, so the rest renormalises (attention knockout, Geva et al. 2023).
    Keys that come after a query are not read anyway; a cut with no other keys can never act, and is refused when it
    meets a prompt. A query left with no key at all reads zero, with a warning.

    Args:
        route: all of it as text, `"audio->question@6-20"`, instead of keys, queries and layers.
        keys: span read from, such as "audio" (or span algebra: "audio|video").
        queries: span reading, such as "question".
        layers: one layer, or several, counted from 0; None for all.
        heads: one query head, or several; None for all.

    Errors: `InterventionError` for a text that is no route, for no layers, or for layers and heads that the model does
    not have.

    >>> print(block_attention(keys="audio", queries="question", layers=range(2, 4)))
    block audio → question in layers [2, 3]
    >>> block_attention("audio->question@2-3") == block_attention(keys="audio", queries="question", layers=[2, 3])
    True
    """
    if route is not None:
        if keys or queries or layers is not None:
            raise InterventionError(
                "a route says keys, queries and layers already",
                expected='"audio->question@6-20" alone',
                got=f"{route!r} and more",
                next_step="leave out keys, queries and layers, or the route",
            )
        parsed = Route.parse(route)
        keys, queries, layers = parsed.keys, parsed.queries, parsed.layers
    if not keys or not queries:
        raise not_a_route(f"keys={keys!r}, queries={queries!r}")
    return BlockAttention(keys, queries, numbers("layers", layers), numbers("heads", heads))


@door
def keep_only(*routes: str | Route) -> KeepOnly:
    """Is this set of routes enough? Attention goes along them only; every other (query, key) pair is cut.

    A token that no route lets read anything, itself included, reads zero, and is reported; name what must stay
    (`"audio->audio"`), too. With `"everything->everything"` the run is the clean one, bit for bit, with a warning.

    Args:
        routes: `"audio->question@6-20"`, or `Route`s; without layers a route is open in every layer.

    Errors: `InterventionError` for no route, a text that is none, or layers that the model does not have.

    >>> print(keep_only("audio->question@0-1", "question->last"))
    keep only audio → question in layers [0, 1]; question → last in every layer
    """
    if not routes:
        raise not_a_route("nothing")
    return KeepOnly(tuple(route if isinstance(route, Route) else Route.parse(route) for route in routes))


@door
def drop_tokens(span: str, layer: int, kv: Kv = "keep") -> DropTokens:
    """Are these tokens still needed from `layer` on? Their rows leave the sequence before it.

    The other rows keep their positions. Logits and activations from there on have fewer rows. It equals blocking
    `span` → all other rows in every later layer.

    Args:
        span: what leaves; not the last token.
        layer: the first layer that runs without it.
        kv: its keys and values of earlier layers stay for decoding ("keep"), or go ("drop").

    >>> print(drop_tokens("video", 2))
    drop video before layer 2 (keep its earlier keys and values)
    """
    return DropTokens(span, layer, kv)


@door
def ablate(name: str, span: str, value: Filling | Tensor = "zero", *, heads: Any = None) -> Ablate:
    """Does the answer need what is computed here? Rows of a span are overwritten at one hook point, or several.

    Args:
        name: hook name or pattern, such as "blocks.3.hook_mlp_out".
        span: whose rows; for attention matrices also "question<-video" (zero only).
        value: "zero"; "mean" (each row becomes the mean over the span's rows, in this run); or a tensor
            [d], [span, d] or [batch, span, d] (with the head axis where the point has one).
        heads: only these, at points that have a head axis.

    >>> print(ablate("blocks.*.hook_mlp_out", "audio", "mean"))
    ablate blocks.*.hook_mlp_out@audio to mean
    """
    given = value if isinstance(value, str) else Values(value, f"the values to ablate {name}@{span} to")
    return Ablate(name, span, numbers("heads", heads), given)


@door
def patch(name: str, span: str, values: Tensor | AVCache | Mapping[str, Tensor], *, heads: Any = None) -> Patch:
    """Which activations carry the difference between two prompts? Rows of a span become those of another run.

    Args:
        name: hook name or pattern, such as "blocks.3.hook_resid_pre".
        span: whose rows; it must be as long in the run that the values come from.
        values: a tensor, or a cache of the other run (its rows of the same span are copied now).
        heads: only these, at points that have a head axis.

    Errors: `HookNameError` if the cache has no such activation; `InterventionError` for values that do not fit, or that
    are nan or infinite.

    >>> import hooked_av as av
    >>> model = av.random_omni(n_layers=2)
    >>> one, other = (model.prepare(question=f"Which {what} is it?") for what in ("digit", "letter"))
    >>> _, cache = model.run_with_cache(other, names_filter="blocks.0.hook_resid_pre")
    >>> logits = model(one, interventions=av.patch("blocks.0.hook_resid_pre", "question", cache))
    """
    return Patch(name, span, numbers("heads", heads), Values.by_point(name, span, values))


@door
def add_vector(name: str, span: str, vector: Tensor, scale: float = 1.0, *, heads: Any = None) -> Add:
    """Steering: `scale * vector` is added to every row of a span.

    Args:
        name: hook name or pattern, such as "blocks.3.hook_resid_post".
        span: whose rows.
        vector: [d], [span, d] or [batch, span, d] (with the head axis where the point has one).
        scale: how much of it.
        heads: only these, at points that have a head axis.

    >>> import hooked_av as av, torch
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, sample = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[0]
    >>> inputs = model.prepare(sample.clip, question=sample.question)
    >>> steer = av.add_vector("blocks.3.hook_resid_post", "last", torch.ones(model.cfg.d_model), scale=8.0)
    >>> with torch.no_grad():
    ...     plain, steered = model(inputs), model(inputs, interventions=steer)
    >>> torch.equal(plain[:, :-1], steered[:, :-1]), torch.equal(plain[:, -1], steered[:, -1])
    (True, False)
    """
    values, scale = Values(vector, f"the numbers to add to {name}@{span}"), float(scale)
    if not abs(scale) * values.largest <= torch.finfo(values.tensor.dtype).max:  # nan is not, either
        raise InterventionError(
            "this vector cannot be scaled so",
            expected=f"a finite scale, and a product that {values.tensor.dtype} holds",
            got=f"scale={scale}",
            next_step="give a number, such as scale=4.0",
        )
    return Add(name, span, numbers("heads", heads), values, scale)


def as_specs(interventions: Any) -> tuple[Intervention, ...]:
    """One spec or several, routes as text included, as a tuple.

    >>> [str(spec) for spec in as_specs("audio->last@1")]
    ['block audio → last in layers [1]']
    """
    several = interventions if isinstance(interventions, (list, tuple)) else [interventions]
    specs = tuple(block_attention(spec) if isinstance(spec, str) else spec for spec in several)
    for spec in specs:
        if not isinstance(spec, Intervention):
            raise InterventionError(
                "not an intervention",
                expected="av.block_attention(...), block_random, keep_only, ablate, patch, add_vector or drop_tokens",
                got=spec.__name__ + ", the class" if isinstance(spec, type) else type(spec).__name__,
                next_step="pass specs, not functions; functions go to model.hooks",
            )
        spec.check_written()
    return specs
