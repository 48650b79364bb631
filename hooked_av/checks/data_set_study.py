"""Tutorial 11: a line of a manifest, who is behind a curve, how many questions, and a verdict."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from hooked_av.checks.judgement import Judgement, exercise, first_mistake
from hooked_av.datasets.manifest import MediaItem, Sample, read_manifest
from hooked_av.datasets.run import read_flow
from hooked_av.errors import DatasetError
from hooked_av.study import rules
from hooked_av.tiny.questions import NUMBERS
from hooked_av.tiny.samples import FILMS

STOP = 4.0  # seconds: of the film, and of the part that is asked for
START = 2.0
PLACE = 1  # in the part: the second digit
SAMPLES, FEW = 60, 8
SEED = 11


@exercise
def line(row: Mapping[str, Any], film: str) -> Judgement:
    """A line of a manifest that shows the last seconds of a film."""
    try:
        (sample,) = _read(row)
    except DatasetError as error:
        return Judgement(False, f"the manifest refuses this line: {error.got}")
    shown = FILMS[Path(film).stem].shown or ()
    of_part, of_film = (NUMBERS[shown[start + PLACE]] for start in (int(START), 0))
    item = sample.media[0] if sample.media else None
    return first_mistake(
        (not isinstance(item, MediaItem), "no film: the field is called media"),
        (isinstance(item, MediaItem) and Path(item.file).name != Path(film).name, "that is another film"),
        (_part(item) == (0.0, STOP), "the model sees the whole film: say where to start, in seconds"),
        (_part(item) != (START, STOP), f"the last two seconds are {START:g} to {STOP:g}; yours are {_part(item)}"),
        (sample.answer is None, "without an answer nobody can tell whether the model is right"),
        (sample.answer == of_film, f"{of_film} is shown second in the whole film, not in the part that the model sees"),
        (sample.answer == str(shown[int(START) + PLACE]), f"tiny-av answers in words: {of_part}"),
        (sample.answer != of_part, f"the part shows {[NUMBERS[digit] for digit in shown[int(START) :]]}"),
    ) or Judgement(True, f"seconds {START:g} to {STOP:g}, and the answer is {of_part}")


def _read(row: Mapping[str, Any]) -> tuple[Sample, ...]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.jsonl"
        path.write_text(json.dumps(row), encoding="utf-8")
        return read_manifest(path)


def _part(item: Any) -> tuple[float, float] | None:
    """Start and stop of a film, in seconds."""
    return (item.start, STOP if item.stop is None else item.stop) if isinstance(item, MediaItem) else None


@exercise
def missing(ids: Collection[str], merged: Path) -> Judgement:
    """Which samples of a run are not behind its figure?"""
    failed = set(pd.read_csv(merged.with_name("failed.csv"), dtype=str)["sample"])
    ran = set(pd.read_parquet(merged, columns=["sample"])["sample"])
    shown = set(read_flow(merged).ids)
    wrong, answer = ran - shown, set(ids)
    return first_mistake(
        (bool(answer & shown), f"{_named(answer & shown)}: the model answers it rightly, and it is in the figure"),
        (bool(answer - ran - failed), f"{_named(answer - ran - failed)}: no line has this id"),
        (not answer, "some are: count the samples that the figure names"),
        (answer <= failed, "these have no results; some that have are left out too: see base_is_right in the table"),
        (answer <= wrong, "these were answered wrongly; others have not come so far as an answer: see failed.csv"),
        (answer != failed | wrong, "there are more, of either kind"),
    ) or Judgement(True, f"{len(failed)} could not be run, {len(wrong)} was not answered as its label says")


def _named(ids: set[str]) -> str:
    return ", ".join(sorted(ids))


@exercise
def n_needed(answer: int) -> Judgement:
    """How many questions without a loss show that the loss is below the study's margin?"""
    margin = rules.DEAR
    at_least = int(300 // margin) + 1
    return first_mistake(
        (answer == rules.MIN_RIGHT, f"with {answer} the loss may still be {300 / max(answer, 1):g} points"),
        (answer == 100 / margin, f"one loss in {answer} would be {margin:g} points; seeing none does not exclude it"),
        (answer == at_least - 1, f"with {answer} it may be just {margin:g} points, and it must be below"),
        (answer < at_least, f"with {answer} the loss may still be {300 / max(answer, 1):.1f} points"),
        (answer > at_least, "that is enough, and more than is needed"),
    ) or Judgement(True, f"{answer} questions: {300 / answer:.2f} points are below {margin:g}")


Changes = Float64[np.ndarray, " sample"]


@exercise
def verdict(answer: Callable[[Changes, Changes], str]) -> Judgement:
    """Does a function say of cuts and random cuts what the study's rule says?"""
    for change, control, mistake in _trials():
        wanted, said = rules.needed(change, control).says, answer(change, control)
        if said != wanted:
            return Judgement(False, f"{mistake}: your function says {said!r}, the rule says {wanted!r}")
    return Judgement(True, "that is the rule of the study: it asks for size, for certainty, and for a control")


def _trials() -> list[tuple[Changes, Changes, str]]:
    """Changes of cuts and of random cuts, and what a function forgets that judges them otherwise."""
    rng = np.random.default_rng(SEED)
    near = rng.normal(0.0, 1.0, SAMPLES)
    far = 60 * rng.normal(0.0, 1.0, SAMPLES)
    rare = np.where(np.arange(SAMPLES) % 20 == 0, -300.0, 0.0) - near
    return [
        (near - 80, near[::-1] - 2, "a cut that takes 80 percent, where a random cut takes 2"),
        (near - 3, near[::-1], "surely not zero, but small: at least 10 percent are asked for"),
        (near - 80, near[::-1] - 78, "a random cut of the same size takes as much: look at the control"),
        (rare, near, "a large mean that three samples make: look at the interval"),
        (far - 15, far + near, "the samples differ, the differences do not: subtract sample by sample"),
        ((near - 80)[:FEW], near[:FEW], f"{FEW} samples are too few, however clear they are"),
    ]
