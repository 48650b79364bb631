"""The main job on one clip: prompt, clean run with cache, attention cut layer by layer, logit lens.

`hooked-av demo` runs it and `report.write_report` shows it; nothing here prints or draws.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from tqdm.auto import tqdm

from hooked_av.analyses.flow.information_flow import knockout_curves
from hooked_av.analyses.flow.map import InformationFlow
from hooked_av.analyses.lenses.logit_lens import LogitLens, logit_lens
from hooked_av.media.clip import SILENCE_PEAK, Clip
from hooked_av.media.sampling import Sampling
from hooked_av.prompt.inputs import AVInputs

if TYPE_CHECKING:
    from hooked_av.model.transformer import HookedAVTransformer

MODALITIES = ("audio", "video", "image")
READERS = ("question", "last")
CACHED = ("blocks.*.hook_resid_post@question", "blocks.*.hook_resid_post@last")


@dataclass(frozen=True)
class Origin:
    """Where model and clip come from, for the reader of the result."""

    model: str
    random_weights: bool  # never trained: what it answers means nothing, and a report says so loudly
    clip: str = "a clip"
    attribution: str = ""  # whom the clip's licence asks to name


@dataclass(frozen=True, eq=False, kw_only=True)
class DemoResult:
    """What `run_demo` found, with the prompt it was found on."""

    clip: Clip
    inputs: AVInputs
    question: str
    options: tuple[str, ...]
    curves: InformationFlow
    lens: LogitLens
    cached: Mapping[str, tuple[int, ...]]  # cache key -> shape
    notes: tuple[str, ...]  # what this clip has not, or what is odd about it
    seconds: Mapping[str, float]  # wall time of each stage
    origin: Origin


def run_demo(
    model: "HookedAVTransformer",
    clip: Clip,
    question: str,
    options: Sequence[str] = (),
    *,
    origin: Origin,
    sampling: Sampling = Sampling(),  # noqa: B008 - frozen
    window: int | None = None,
    progress: bool = False,
) -> DemoResult:
    """What does the answer to a question about a clip need: its sound, its pictures, and in which layers?

    Args:
        origin: names of model and clip, and whether the model has random weights.
        sampling: frames and pixels that the model sees.
        window: layers cut at a time (None: protocol default, see `default_window`).
        progress: show one bar a stage.

    A clip without sound or without pictures has only the pathways that exist; `notes` says which are missing.

    Errors: those of `model.prepare`, `knockout_curves` and `logit_lens`.

    >>> import hooked_av as av, numpy as np
    >>> clip = av.Clip.from_arrays(waveform=np.sin(np.arange(8000) / 9.0), sampling_rate_hz=16_000)
    >>> origin = Origin("random_omni", random_weights=True)
    >>> result = run_demo(av.random_omni(n_layers=2), clip, "What do you hear?", origin=origin)
    >>> result.curves.pathways
    ('audio → question', 'audio → last')
    >>> result.notes
    ('The clip has no pictures: video → question and video → last do not exist, so they were not cut.',)
    """
    seconds: dict[str, float] = {}
    with torch.no_grad():
        with stage("prepare the prompt", seconds, progress):
            inputs = model.prepare(clip, question=question, options=options, sampling=sampling)
        with stage("clean run with cache", seconds, progress):
            _, cache = model.run_with_cache(inputs, names_filter=list(CACHED), logits_at="last")
        with _timed("attention knockout", seconds):
            held = [modality for modality in MODALITIES if modality in inputs.spans]
            pathways = [(modality, reader) for reader in READERS for modality in held]
            curves = knockout_curves(model, inputs, pathways, window=window, progress=progress)
        with stage("logit lens", seconds, progress):
            lens = cast(LogitLens, logit_lens(model, inputs, at="last"))  # of one prompt
    return DemoResult(
        clip=clip,
        inputs=inputs,
        question=question,
        options=(options,) if isinstance(options, str) else tuple(options),
        curves=curves,
        lens=lens,
        cached={key: tuple(tensor.shape) for key, tensor in cache.items()},
        notes=tuple(_notes(clip)),
        seconds=seconds,
        origin=origin,
    )


def _notes(clip: Clip) -> Iterator[str]:
    missing = "{0} → question and {0} → last do not exist, so they were not cut."
    if not clip.has_audio:
        yield f"The clip has no sound: {missing.format('audio')}"
    elif np.abs(clip.waveform).max() < SILENCE_PEAK:
        yield "The sound track is digital silence: the model hears nothing, whatever the curves of audio say."
    if not clip.has_video:
        yield f"The clip has no pictures: {missing.format('video')}"
    elif clip.kind == "image":
        yield "The clip is a still picture: image → question and image → last stand for those of video."


@contextmanager
def stage(name: str, seconds: dict[str, float], progress: bool) -> Iterator[None]:
    """A stage of one step: its bar is full when it is done, and stays empty if it fails."""
    with tqdm(total=1, desc=name, unit="step", disable=not progress) as bar, _timed(name, seconds):
        yield
        bar.update()


@contextmanager
def _timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = perf_counter()
    yield
    seconds[name] = perf_counter() - start
