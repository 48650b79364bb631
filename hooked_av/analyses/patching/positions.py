"""Activation patching in time: which seconds of the sound and of the picture carry the difference, layer by layer?

Axes: layer, place (one media token, or the tokens of one modality in one stretch of time), edge (start, stop).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float64
from transformer_lens.utilities import get_act_name  # pyright: ignore[reportPrivateImportUsage]

from hooked_av.analyses.metric import Metric
from hooked_av.analyses.patching.exchange import Exchange
from hooked_av.analyses.patching.spans import EFFECTS, PatchEffects
from hooked_av.doors import door
from hooked_av.errors import InputsError
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

MEDIA = ("audio", "video", "image")


@dataclass(frozen=True, eq=False, kw_only=True)
class PositionPatching(PatchEffects):
    """Effect of media rows, one by one or by stretches of time, with the place of each in its clip."""

    figure: ClassVar = "hooked_av.plots.patching:plot_position_patching"
    axes: ClassVar = {
        **dict.fromkeys(("metric_patched", "effects"), ("layer", "place")),
        "seconds": ("place", "edge"),
    }
    labels: ClassVar = {"place": "place_names"}
    columns: ClassVar = ("layer", "place", *EFFECTS)
    seconds: Float64[np.ndarray, "place edge=2"]  # [start, stop) in the clip; nan for a still
    modalities: tuple[str, ...]  # [place]
    items: tuple[int, ...]  # [place]: number of the media item
    positions: tuple[tuple[int, ...], ...]  # [place]: the rows
    component: str

    @property
    def place_names(self) -> tuple[str, ...]:
        """Such as "audio 20" for one row, and "audio 0-1 s" for a stretch of time."""
        names = []
        for modality, rows, (start, stop) in zip(self.modalities, self.positions, self.seconds, strict=True):
            names.append(f"{modality} {rows[0]}" if len(rows) == 1 else f"{modality} {start:g}-{stop:g} s")
        return tuple(names)


@door
def patch_positions(
    model: "HookedAVTransformer",
    *,
    clean: AVInputs,
    corrupt: AVInputs,
    span: str | None = None,
    every_seconds: float | None = None,
    component: str = "resid_pre",
    metric: Metric = "logit_difference",
    answer: str | int | None = None,
    alternative: str | int | None = None,
    progress: bool = False,
) -> PositionPatching:
    """Which moments of the sound and of the picture carry the difference between two prompts, and up to which layer?

    Args:
        span: the media rows that are patched (None: audio, video and image rows).
        every_seconds: patch the rows of a modality in stretches of this length (of each clip's own time) together;
            None: every row alone. A row belongs to the stretch in which it begins.
        component: TransformerLens's short name of what is patched ("resid_pre", "attn_out", "mlp_out", "z" ...).
        metric, answer, alternative, progress: as for `patch_spans`.

    Errors: as for `patch_spans`; `InputsError` for rows that are no media, and a length that is not positive.

    >>> import hooked_av as av
    >>> from hooked_av.tiny.samples import read_samples
    >>> model, (sample, other) = av.HookedAVTransformer.from_pretrained("tiny-av"), read_samples()[1:4:2]
    >>> pair = av.make_pair(model, sample.clip, "audio", other=other.clip, question=sample.question)
    >>> table = av.patch_positions(model, clean=pair.clean, corrupt=pair.corrupt, every_seconds=1.0)
    >>> table.place_names, table.effects.shape
    (('audio 0-1 s', 'audio 1-2 s', 'video 0-1 s', 'video 1-2 s'), (8, 4))
    """
    places = _places(corrupt, span, every_seconds)
    points = [get_act_name(component, layer) for layer in range(model.cfg.n_layers)]
    rows = {str(number): place.rows for number, place in enumerate(places)}
    exchange = Exchange(model, clean, corrupt, rows, points, metric=metric, answer=answer, alternative=alternative)
    exchange.contrast.check_differs()
    # layers vary fastest: patches of the same rows replay as one batch
    measured = exchange.run([exchange.patch(point, name) for name in rows for point in points], progress=progress)
    return PositionPatching(
        metric_patched=measured.reshape(len(places), len(points)).T.copy(),
        seconds=np.array([place.seconds for place in places]),
        modalities=tuple(place.modality for place in places),
        items=tuple(place.item for place in places),
        positions=tuple(place.rows for place in places),
        component=component,
        **exchange.fields(span=span, every_seconds=every_seconds, component=component),
    )


@dataclass(frozen=True)
class _Place:
    modality: str
    item: int
    rows: tuple[int, ...]
    seconds: tuple[float, float]


def media_rows(inputs: AVInputs, span: str | None) -> dict[str, tuple[int, ...]]:
    """Each media row by its name ("audio 20"), in the order of a table of positions."""
    return {f"{place.modality} {place.rows[0]}": place.rows for place in _places(inputs, span, None)}


def _places(inputs: AVInputs, span: str | None, every_seconds: float | None) -> list[_Place]:
    """One place a row, or one a modality and stretch of time, in time."""
    known = [name for name in MEDIA if name in inputs.spans]
    wanted = set(inputs.spans.resolve(span or "|".join(known))) if span or known else set()
    groups: dict[tuple[int, str, int], list[int]] = {}
    for modality in known:
        for position in sorted(wanted.intersection(inputs.spans[modality])):
            start = inputs.spans.places.seconds[position, 0]
            key = position if every_seconds is None else _stretch(start, every_seconds)
            groups.setdefault((int(inputs.spans.places.items[position]), modality, key), []).append(position)
    n_rows = sum(map(len, groups.values()))
    if not n_rows or n_rows != len(wanted):
        raise InputsError(
            "these rows are not all media",
            expected="audio, video or image rows",
            got=f"{n_rows} media rows of {len(wanted)}",
            next_step='name a media span ("audio", "item0.video"); av.patch_spans patches text',
        )
    return [_place(inputs, key, rows, every_seconds) for key, rows in groups.items()]


def _stretch(start: float, every_seconds: float) -> int:
    if not every_seconds > 0:
        raise InputsError(
            "stretches of time need a length", expected="seconds > 0", got=every_seconds, next_step="every_seconds=1.0"
        )
    return 0 if np.isnan(start) else int(start / every_seconds + 1e-9)


def _place(inputs: AVInputs, key: tuple[int, str, int], rows: list[int], every_seconds: float | None) -> _Place:
    item, modality, number = key
    seconds = inputs.spans.places.seconds[rows]
    if every_seconds is None or np.isnan(seconds).any():
        return _Place(modality, item, tuple(rows), (float(seconds[0, 0]), float(seconds[0, 1])))
    return _Place(modality, item, tuple(rows), (number * every_seconds, (number + 1) * every_seconds))
