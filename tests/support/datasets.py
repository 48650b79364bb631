"""Manifests in a folder beside two clips, and the table of one run without an interruption."""

import json
from pathlib import Path

import pandas as pd

import hooked_av as av
from hooked_av.tiny.samples import FOLDER

ROWS = [
    {"id": "heard", "media": "two-seconds.mp4", "question": "Which digit do you hear in second one?", "answer": "two",
     "task": "auditory", "group": "g"},
    {"id": "seen", "media": "two-seconds.mp4", "question": "Which digit do you see in second one?", "task": "visual",
     "options": ["nine", "seven"], "answer": "seven", "alternative": "A"},
    {"id": "text/1", "question": "Which digit is shown first?"},
    {"id": "part", "media": [{"file": "same-digit.mp4", "start": 1, "stop": 2}], "question": "Which digit is shown?"},
]  # fmt: skip
BROKEN = [
    {"id": "no file", "media": "nowhere.mp4", "question": "What?", "task": "lost"},
    {"id": "two tokens", "question": "What?", "answer": "six seven"},
]


def write_manifests(folder: Path) -> Path:
    """A folder with two clips and two manifests."""
    for name in ("two-seconds.mp4", "same-digit.mp4"):
        (folder / name).symlink_to(FOLDER / name)
    for name, rows in (("good", ROWS), ("bad", [ROWS[2], *BROKEN])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def whole_run(model, here: Path, out: Path) -> Path:
    """One run without an interruption, merged."""
    run = av.run_dataset(model, here / "good.jsonl", "lens", out=out, top_k=3)
    assert (run.n_samples, run.n_finished, run.n_new, run.failures) == (4, 4, 4, ())
    return av.datasets.merge(out)


def same(one: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(pd.read_parquet(one), pd.read_parquet(other))
