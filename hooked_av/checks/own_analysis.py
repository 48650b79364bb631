"""Tutorial 09: a column more, what is run again, and where each sample points."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hooked_av.analyses.results import Result
from hooked_av.checks.judgement import Judgement, exercise, first_mistake
from hooked_av.datasets.results_folder import ResultsFolder


@exercise
def shares(answer: Any) -> Judgement:
    """A subclass of a result with each drop as a share of all, in its table and in its file."""
    drops = np.array([[1.0, 5.0, 2.0], [0.0, 2.0, 0.0]])
    if not (isinstance(answer, type) and issubclass(answer, Result)):
        return Judgement(False, "give a class that derives from SecondsNeeded")
    made: Any = answer(**{"drops": drops, "modalities": ("audio", "video"), "answer": "six"})
    if not hasattr(made, "shares"):
        return Judgement(False, "it has no `shares`")
    if callable(made.shares):
        return Judgement(False, "`shares` is a method: write @property above it")
    found, axes = np.asarray(made.shares), answer.axes.get("shares")
    if found.shape != drops.shape:
        return Judgement(False, f"one share for each cell: {list(drops.shape)}, not {list(found.shape)}")
    if mistake := first_mistake(
        (np.allclose(found, drops / drops.sum(axis=1, keepdims=True)), "that is the share of a modality, not of all"),
        (np.allclose(found, drops / drops.max()), "that is relative to the largest drop: divide by the sum"),
        (not np.allclose(found, drops / drops.sum()), "the shares must add up to 1, and be as the drops are"),
        (axes is None, "right, but not in the table: say in `axes` which axes it has"),
        (axes != ("modality", "second"), f"its axes are those of the drops, in their order, not {axes}"),
    ):
        return mistake
    frame = made.to_frame()
    with tempfile.TemporaryDirectory() as folder:
        again = answer.load(made.save(Path(folder) / "made.safetensors"))
    return first_mistake(
        (not {"drops", "shares"} <= {*frame.columns}, "the table needs both: keep {**SecondsNeeded.axes, ...}"),
        (not np.allclose(again.to_frame()["shares"], found.ravel()), "it is not the same after save and load"),
    ) or Judgement(True, f"columns {', '.join(frame.columns)}; and the same from its file")


@exercise
def n_new(answer: int, out: Path) -> Judgement:
    """How many samples has the next run to do?"""
    folder = ResultsFolder.read(out)
    total, done = len(folder.settings["samples"]), len(folder.finished())
    return first_mistake(
        (answer == total, "not all of them: what has its file is not run again"),
        (answer == done, "so many are there; asked is how many are not"),
        (answer == 0, "the folder remembers nothing but its files, and some of them are gone"),
        (answer != total - done, f"there are {total} samples and {done} files"),
    ) or Judgement(True, f"{done} of {total} have their file; {answer} are run again")


@exercise
def strongest(answer: Callable[[pd.DataFrame], Any]) -> Judgement:
    """The row of each sample's largest drop, of a table in disorder."""
    frame = _disordered()
    said = answer(frame.copy())
    if not isinstance(said, pd.DataFrame):
        return Judgement(False, f"give a table (a DataFrame), not {type(said).__name__}")
    wanted = frame.loc[frame.groupby("sample").drops.idxmax()]
    mixed: Any = frame.groupby("sample").max()
    return first_mistake(
        (len(said) == 1, "that is the largest of the whole table: one row for each sample is asked for"),
        (len(said) == len(frame), "these are all rows, in another order"),
        (len(said) != len(wanted), f"{len(wanted)} samples, but {len(said)} rows"),
        (
            _same(said.reset_index(), mixed.reset_index()),
            "the largest of every column by itself: drop, modality and second come from different rows",
        ),
        (
            _same(said, frame.loc[frame.groupby("sample").drops.idxmin()]),
            "these are the smallest drops",
        ),
        (not _same(said, wanted), "some rows are not those of the largest drop"),
    ) or Judgement(True, f"{len(wanted)} samples, each with the modality and the second of its largest drop")


def _disordered() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    cells = [
        (f"film {film}", "audio" if film % 2 else "video", modality, second)
        for film in range(5)
        for modality in ("audio", "video")
        for second in range(3)
    ]
    frame = pd.DataFrame(cells, columns=["sample", "gold", "modality", "second"])
    frame["drops"] = rng.permutation(len(cells)) / 3 - 1.0
    return frame.iloc[rng.permutation(len(cells))]


def _same(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two tables say the same of each sample."""
    columns = ["sample", "modality", "second", "drops"]
    if not {*columns} <= {*one.columns}:
        return False
    sides: list[Any] = [one, other]
    rows = [side.sort_values(by="sample")[columns].to_dict("records") for side in sides]
    return rows[0] == rows[1]
