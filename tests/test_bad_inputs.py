"""The corpus of what must be refused, and its one rule: an error of our tree in four parts, nothing left behind."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from bad import Bad, Place, calls, checkpoints, datasets, media, rare, tiny, values

import hooked_av as av
from hooked_av.errors import HookedAVError
from hooked_av.hooks.open_blocks import what_is_open

TABLES = (media, calls, checkpoints, datasets, tiny, values, rare)
ROWS: list[Bad] = [row for table in TABLES for row in table.ROWS]
NAMES = [f"{table.__name__.removeprefix('bad.')}: {row.name}" for table in TABLES for row in table.ROWS]
LONGEST = 3_000  # characters of a message


@pytest.fixture(scope="module")
def model():
    return av.random_omni(n_layers=2)


@pytest.fixture(scope="module")
def clean(model):
    """The prompt whose logits must be the same after every refusal, and those logits."""
    inputs = model.prepare(question="Which digit do you hear?")
    return inputs, model(inputs, logits_at="last")


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.filterwarnings("ignore::hooked_av.HookedAVWarning")
@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_it_is_refused_and_nothing_is_left(row, model, clean, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inputs, logits = clean
    at = Place(tmp_path, model, inputs, av.Clip.from_image(np.zeros((56, 56, 3), np.uint8)))
    made = row.make(at)
    before = files_in(tmp_path)
    with pytest.raises(HookedAVError) as refused:
        row.call(at, made)
    check_message(refused.value, row.says)
    assert files_in(tmp_path) == before, "something was half-written"
    assert what_is_open() == (), "hooks or interventions are still open"
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())
    assert model(inputs, logits_at="last").equal(logits), "the model is not what it was"


def check_message(error: HookedAVError, says: str) -> None:
    """Four parts, each with something in it, of a length that can be read."""
    assert says in str(error), str(error)
    parts = (error.what, error.expected, error.got, error.next_step)
    assert all(str(part).strip() for part in parts), parts
    assert len(str(error)) <= LONGEST, len(str(error))


def files_in(folder: Path) -> dict[str, object]:
    """Every file below a folder, with what tells that it was written again."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = None
        if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
            with contextlib.suppress(OSError):
                content = path.read_bytes() if state.st_size < 10_000_000 else None
        found[str(path.relative_to(folder))] = (state.st_mode, state.st_size, content)
    return found


def test_the_corpus_is_large_and_every_row_has_a_name_of_its_own():
    assert len(set(NAMES)) == len(NAMES) >= 1_000
