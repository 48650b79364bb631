"""The study's folder: a family that is damaged, broken off or measured twice is neither lost nor believed."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import hooked_av as av
from hooked_av.errors import DatasetError
from hooked_av.study import run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model():
    return av.random_omni(n_layers=2)


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory) -> Path:
    """The study of a model that guesses: one family, measured no further than its answers."""
    folder = tmp_path_factory.mktemp("study") / "out"
    av.run_study(model, ["auditory"], samples=2, out=folder)
    return folder


@pytest.fixture
def out(kept, tmp_path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "out"))


def again(model, out, **more):
    return av.run_study(model, ["auditory"], samples=2, out=out, **more)


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage",
    [
        lambda family: (family / "family.json").write_text("{"),
        lambda family: (family / "family.json").write_text("[]"),
        lambda family: (family / "family.json").write_text('{"family": "visual", "chance": 0.1}'),
        lambda family: (family / "family.json").unlink(),
        lambda family: (family / "contribution.safetensors").unlink(),
        lambda family: (family / "contribution.safetensors").write_bytes(b""),
        lambda family: halved(family / "contribution.safetensors"),
        lambda family: (shutil.rmtree(family), family.write_text("a file")),
    ],
)
def test_a_damaged_family_is_named(model, out, damage):
    damage(out / "results" / "auditory")
    with pytest.raises(DatasetError, match=r"(?s)cannot be used.*results/auditory: .*delete it and run the same again"):
        again(model, out)


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_damaged_settings_are_named(model, out, content):
    (out / "settings.json").write_text(content)
    with pytest.raises(DatasetError, match=r"(?s)settings\.json cannot be read.*delete"):
        again(model, out)


def test_a_study_without_a_family_is_begun_anew(model, out):
    with pytest.raises(DatasetError, match="begun with other settings"):
        again(model, out, seed=7)
    for name in ("results", "tables"):
        shutil.rmtree(out / name)
    (out / "statements.json").unlink()
    again(model, out, seed=7)
    assert json.loads((out / "settings.json").read_text())["seed"] == 7


def test_what_breaks_off_leaves_no_half_of_a_family(model, kept, tmp_path, monkeypatch):
    def full(*paths):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(run.FamilyResults, "save", full)
        with pytest.raises(DatasetError, match=r"(?s)cannot write .*auditory.*No space left.*goes on"):
            again(model, tmp_path)
    assert not list((tmp_path / "results").iterdir())
    again(model, tmp_path)
    for table in (kept / "tables").iterdir():
        pd.testing.assert_frame_equal(pd.read_parquet(table), pd.read_parquet(tmp_path / "tables" / table.name))
    assert (kept / "statements.json").read_text() == (tmp_path / "statements.json").read_text()


def test_a_family_that_another_process_has_measured_meanwhile_stays(model, kept, tmp_path, monkeypatch):
    measure = run.measure

    def slow(*given):
        found = measure(*given)
        shutil.copytree(kept / "results" / "auditory", tmp_path / "results" / "auditory")
        return found

    monkeypatch.setattr(run, "measure", slow)
    again(model, tmp_path)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["auditory"]


def test_of_a_model_that_guesses_no_table_is_filled_but_the_accuracy(model, out):
    found = again(model, out)
    assert {name for name, table in found.tables.items() if len(table)} == {"families"}
    assert repr(found) == f"Study of {model.cfg.model_name}: 1 families (auditory)"
    assert repr(found.results[0]) == "FamilyResults('auditory', contribution)"


def test_what_cannot_be_given_its_name_is_an_error_where_nobody_else_made_it(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "part").mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - the system's own, which differs
        run._put(tmp_path / "part", tmp_path / "file" / "family")
