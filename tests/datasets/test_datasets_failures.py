"""Datasets: folders that take no other settings, and samples that fail; nothing is silent."""

import json
import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support.datasets import same, whole_run, write_manifests

import hooked_av as av
from hooked_av.datasets import run as datasets
from hooked_av.datasets.manifest import read_manifest
from hooked_av.tiny.samples import FOLDER

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> av.HookedAVTransformer:
    return av.HookedAVTransformer.from_pretrained("tiny-av")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    return write_manifests(tmp_path_factory.mktemp("data"))


# ---- Settings --------------------------------------------------------------------------------------------------------


def test_a_folder_takes_no_other_settings(model, here, tmp_path, monkeypatch):
    def run(manifest=here / "good.jsonl", analysis="lens", **more):
        return av.run_dataset(model, manifest, analysis, out=tmp_path, shard="3/4", **more)

    assert run(top_k=3).n_new == 1
    assert run(top_k=3, at="last").n_new == 0  # a default, said
    with pytest.raises(
        av.errors.DatasetError,
        match=r"(?s)begun with other settings.* arguments.top_k=3\n.* arguments.top_k=4\n.*another",
    ):
        run(top_k=4)
    with pytest.raises(av.errors.DatasetError, match=r"(?s)expected: analysis='lens', .*got:      analysis='flow'"):
        run(analysis="flow")
    with pytest.raises(av.errors.DatasetError, match=r"prepare\.sampling=None"):
        run(top_k=3, prepare={"sampling": av.Sampling(fps=1)})
    with pytest.raises(av.errors.DatasetError, match=r"expected: manifest='\w+'\n"):
        run(here / "bad.jsonl", top_k=3)
    for name, other in (("fingerprint", lambda: "other"), ("attn_implementation", "eager")):
        with monkeypatch.context() as patch:
            patch.setattr(model, name, other)
            with pytest.raises(
                av.errors.DatasetError, match=r"(?s)(weights='.*'other'|attention='sdpa'.*attention='eager')"
            ):
                run(top_k=3)
    with monkeypatch.context() as patch:
        patch.setattr("hooked_av.analyses.results.torch.__version__", "9.9")
        with pytest.raises(av.errors.DatasetError, match=r"(?s)expected: torch=.*torch='9.9'"):
            run(top_k=3)
    assert run(top_k=3).n_new == 0


def test_disks_without_hard_links_do(model, here, tmp_path, monkeypatch):
    def no_link(*paths):
        raise PermissionError("no hard links here")

    monkeypatch.setattr("hooked_av.datasets.settings_file.os.link", no_link)
    samples = read_manifest(here / "good.jsonl")[2:3]
    assert [av.run_dataset(model, samples, "lens", out=tmp_path).n_new for _ in range(2)] == [1, 0]
    with pytest.raises(av.errors.DatasetError, match="begun with other settings"):
        av.run_dataset(model, samples, "lens", out=tmp_path, top_k=2)


def test_a_table_of_another_run_is_not_merged(model, here, tmp_path):
    samples = read_manifest(here / "good.jsonl")[2:3]
    for top_k in (2, 3):
        av.run_dataset(model, samples, "lens", out=tmp_path / str(top_k), top_k=top_k)
    table = tmp_path / "2" / "samples" / "000000.parquet"
    table.write_bytes((tmp_path / "3" / "samples" / "000000.parquet").read_bytes())
    with pytest.raises(av.errors.DatasetError, match="not made with the settings of its folder"):
        av.datasets.merge(tmp_path / "2")


def test_folders_that_are_not_ours_are_left_alone(model, here, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(av.errors.DatasetError, match="a folder with other things in it"):
        av.run_dataset(model, here / "good.jsonl", "lens", out=tmp_path)
    with pytest.raises(av.errors.DatasetError, match="a file"):
        av.run_dataset(model, here / "good.jsonl", "lens", out=tmp_path / "notes.txt")
    with pytest.raises(av.errors.DatasetError, match="nothing there"):
        av.datasets.merge(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_analyses_and_arguments_are_checked_before_anything_runs(model, here, tmp_path):
    with pytest.raises(av.errors.DatasetError, match=r"(?s)no analysis 'lense'.*lens"):
        av.run_dataset(model, here / "good.jsonl", "lense", out=tmp_path / "out")
    with pytest.raises(
        av.errors.DatasetError, match=r"(?s)expected: at, top_k, tokens, convention.*unexpected.*'topk'"
    ):
        av.run_dataset(model, here / "good.jsonl", "lens", out=tmp_path / "out", topk=3)
    assert not (tmp_path / "out").exists()


# ---- Bad samples -----------------------------------------------------------------------------------------------------


def test_bad_samples_are_listed_counted_and_warned_of(model, here, tmp_path):
    with pytest.warns(av.HookedAVWarning, match="2 of 3 samples failed.*no file: MediaError: no such file"):
        run = av.run_dataset(model, here / "bad.jsonl", "lens", out=tmp_path)
    assert (run.n_finished, run.n_new) == (1, 1)
    assert [(f.sample, f.task, f.kind) for f in run.failures] == [
        ("no file", "lost", "MediaError"),
        ("two tokens", "", "InputsError"),
    ]
    assert "is not one token" in run.failures[1].reason
    with pytest.warns(av.HookedAVWarning, match="2 of 3"):  # known, not tried again, and told again
        assert av.run_dataset(model, here / "bad.jsonl", "lens", out=tmp_path).n_new == 0
    assert set(pd.read_parquet(av.datasets.merge(tmp_path))["sample"]) == {"text/1"}
    listed = pd.read_csv(tmp_path / "failed.csv")
    assert listed["sample"].tolist() == ["no file", "two tokens"]


def test_a_failure_that_is_deleted_is_tried_again(model, here, tmp_path):
    with pytest.warns(av.HookedAVWarning):
        av.run_dataset(model, here / "bad.jsonl", "lens", out=tmp_path / "out")
    samples = read_manifest(here / "bad.jsonl")
    (tmp_path / "nowhere.mp4").symlink_to(FOLDER / "two-seconds.mp4")
    mended = [replace(sample, folder=tmp_path) for sample in samples]  # the same manifest beside its file
    (tmp_path / "out" / "failed" / "000001.json").unlink()
    with pytest.warns(av.HookedAVWarning, match="1 of 3 samples failed"):
        run = av.run_dataset(model, mended, "lens", out=tmp_path / "out")
    assert (run.n_new, run.n_finished) == (1, 2)


def test_a_span_that_a_sample_has_not_is_a_failure(model, here, tmp_path):
    samples = read_manifest(here / "good.jsonl")[2:4]
    with pytest.warns(av.HookedAVWarning, match="1 of 2 samples failed.*text/1: SpanError"):
        run = av.run_dataset(model, samples, "sweep", out=tmp_path, cuts=["audio->last"])
    assert run.n_finished == 1


def stumbling(error: BaseException, *ids: str):
    """The lens, which raises at samples with these ids."""

    def lens(model, case):
        if case.id in ids:
            raise error
        return av.logit_lens(model, case.inputs, top_k=2)

    return lens


class Odd(Exception):
    """An error of another tree, with a text that UTF-8 does not have."""


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), Odd("\ud800"), OSError(36, "File name too long")])
def test_any_error_is_that_of_its_sample(model, here, tmp_path, error):
    with pytest.warns(av.HookedAVWarning, match="1 of 4 samples failed.*seen: .*please report"):
        run = av.run_dataset(model, here / "good.jsonl", stumbling(error, "seen"), out=tmp_path)
    assert (run.n_finished, len(run.failures)) == (3, 1)
    failure = run.failures[0]
    assert failure.kind == type(error).__name__
    assert "in lens" in failure.trace
    assert "trace" in json.loads((tmp_path / "failed" / "000001.json").read_text(encoding="utf-8"))
    av.datasets.merge(tmp_path)
    assert "trace" not in pd.read_csv(tmp_path / "failed.csv").columns


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_no_sample_s_fault_ends_the_run(model, here, tmp_path, error):
    with pytest.raises(error):
        av.run_dataset(model, here / "good.jsonl", stumbling(error(), "seen"), out=tmp_path)
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["000000.parquet"]
    assert not list((tmp_path / "failed").iterdir())


def test_a_machine_that_is_broken_ends_the_run(model, tmp_path):
    samples = [av.Sample(f"s{i}", (), "What?") for i in range(datasets.GIVE_UP_AFTER + 5)]
    broken = stumbling(RuntimeError("device-side assert"), *(sample.id for sample in samples[2:]))
    with pytest.raises(av.errors.DatasetError, match=r"(?s)the last 20 samples met errors that are not ours.*assert"):
        av.run_dataset(model, samples, broken, out=tmp_path)


def test_a_run_of_nothing_but_failures_leaves_nothing(model, tmp_path):
    samples = [av.Sample(f"s{i}", (), "What?", answer="not one token") for i in range(datasets.GIVE_UP_AFTER + 5)]
    with pytest.raises(av.errors.DatasetError, match=r"(?s)the first 20 samples have all failed.*'s0': InputsError"):
        av.run_dataset(model, samples, "lens", out=tmp_path / "out")
    with pytest.raises(av.errors.DatasetError, match=r"(?s)0 of 3 samples could be finished.*'s0': InputsError"):
        av.run_dataset(model, samples[:3], "lens", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_failures_before_the_first_result_are_kept_with_it(model, here, tmp_path):
    samples = [av.Sample(f"s{i}", (), "What?", answer="not one token") for i in range(3)]
    samples += [av.Sample("good", (), "What?"), av.Sample("bad", (), "What?", answer="no token either")]
    with pytest.warns(av.HookedAVWarning, match="4 of 5 samples failed"):
        assert av.run_dataset(model, samples, "lens", out=tmp_path).n_new == 1
    assert sorted(path.name for path in (tmp_path / "failed").iterdir()) == [f"00000{n}.json" for n in (0, 1, 2, 4)]


def test_a_shard_that_fails_is_kept_where_another_has_finished(model, tmp_path):
    samples = [av.Sample("bad", (), "What?", answer="not one token"), av.Sample("good", (), "What?")]
    with pytest.raises(av.errors.DatasetError, match="0 of 1 samples"):
        av.run_dataset(model, samples, "lens", out=tmp_path, shard="1/2")
    av.run_dataset(model, samples, "lens", out=tmp_path, shard="2/2")
    with pytest.warns(av.HookedAVWarning, match="1 of 1 samples failed"):
        assert len(av.run_dataset(model, samples, "lens", out=tmp_path, shard="1/2").failures) == 1
    assert len(pd.read_parquet(av.datasets.merge(tmp_path))["sample"].unique()) == 1
    assert av.run_dataset(model, samples, "lens", out=tmp_path / "new", shard="5/9").n_samples == 0


def test_a_folder_in_which_nothing_finished_is_begun_anew(model, here, tmp_path):
    samples = read_manifest(here / "good.jsonl")[2:4]
    with pytest.warns(av.HookedAVWarning):
        av.run_dataset(model, samples, "sweep", out=tmp_path, cuts=["audio->last"])
    (tmp_path / "samples" / "000001.parquet").unlink()  # only its failure is left
    assert av.run_dataset(model, samples, "lens", out=tmp_path, top_k=2).n_finished == 2
    assert not list((tmp_path / "failed").iterdir())
    with pytest.raises(av.errors.DatasetError, match="begun with other settings"):
        av.run_dataset(model, samples, "lens", out=tmp_path, top_k=3)


def test_a_study_s_folder_is_not_taken_for_an_empty_one(model, here, tmp_path):
    (tmp_path / "results" / "visual").mkdir(parents=True)
    (tmp_path / "results" / "visual" / "family.json").write_text("{}")
    (tmp_path / "settings.json").write_text(json.dumps({"hooked_av": "0", "samples": 4}))
    with pytest.raises(av.errors.DatasetError, match="begun with other settings"):
        av.run_dataset(model, here / "good.jsonl", "lens", out=tmp_path)


def test_tables_that_cannot_be_stored_are_refused(model, here, tmp_path):
    class Result:
        settings: dict = {}  # noqa: RUF012

        def __init__(self, frame):
            self.to_frame = lambda: frame

    samples = read_manifest(here / "good.jsonl")[2:3]
    for name, frame in (("a", pd.DataFrame({"x": []})), ("b", pd.DataFrame({"task": ["other"], "x": [1]}))):
        with pytest.raises(av.errors.DatasetError, match="this table cannot be stored"):
            av.run_dataset(model, samples, lambda model, case, f=frame: Result(f), out=tmp_path / name)


# ---- Disks, and several at once --------------------------------------------------------------------------------------


@pytest.fixture
def files_up_to():
    """Lets no file of this process grow beyond so many bytes: a disk that is full, as far as a program can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 2500])  # bytes: nothing, not all of settings.json, not all of a table
def test_a_disk_that_is_full_costs_nothing_that_is_finished(model, here, tmp_path, files_up_to, size):
    whole = whole_run(model, here, tmp_path / "whole")
    out, samples = tmp_path / "out", here / "good.jsonl"
    files_up_to(size)
    with pytest.raises(av.errors.DatasetError, match=r"(?s)cannot write .*File too large.*goes on"):
        av.run_dataset(model, samples, "lens", out=out, top_k=3)
    assert not [path for path in out.rglob("*") if path.suffix in (".part", ".parquet")]
    files_up_to(-1)
    assert av.run_dataset(model, samples, "lens", out=out, top_k=3).n_new == 4
    files_up_to(size)
    with pytest.raises(av.errors.DatasetError, match=r"(?s)cannot write .*results\.parquet.*File too large"):
        av.datasets.merge(out)
    assert not list(out.glob("results*"))
    files_up_to(-1)
    same(av.datasets.merge(out), whole)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 40 kB, and what makes it larger."""

    def mount(*options: str) -> bool:
        words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(tmp_path / "disk")]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    (tmp_path / "disk").mkdir()
    if shutil.which("mount") is None or not mount("size=40k"):
        pytest.skip("nobody may mount a disk here")
    yield tmp_path / "disk", lambda: mount("remount", "size=4m")
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


def test_a_run_goes_on_when_the_disk_has_room_again(model, here, tmp_path, small_disk):
    whole = whole_run(model, here, tmp_path / "whole")
    disk, enlarge = small_disk
    (disk / "filler").write_bytes(bytes(16 * 1024))
    with pytest.raises(av.errors.DatasetError, match=r"(?s)cannot write .*No space left"):
        av.run_dataset(model, here / "good.jsonl", "lens", out=disk / "out", top_k=3)
    kept = len(list((disk / "out" / "samples").iterdir()))
    assert 0 < kept < 4
    assert enlarge()
    assert av.run_dataset(model, here / "good.jsonl", "lens", out=disk / "out", top_k=3).n_new == 4 - kept
    same(av.datasets.merge(disk / "out"), whole)


@pytest.mark.slow
def test_two_processes_on_one_folder_make_one_table(model, here, tmp_path):
    whole = whole_run(model, here, tmp_path / "whole")
    runs = "import sys, hooked_av as av; av.run_dataset(av.HookedAVTransformer.from_pretrained('tiny-av'), "
    runs += "sys.argv[1], 'lens', out=sys.argv[2], top_k=3)"
    command = [sys.executable, "-c", runs, str(here / "good.jsonl"), str(tmp_path / "out")]
    root = str(Path(av.__file__).parent.parent)
    both = [subprocess.Popen(command, env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    same(av.datasets.merge(tmp_path / "out"), whole)


def test_ids_may_be_anything(model, tmp_path):
    names = ["../x", "..", "/etc/passwd", "A", "a", "a ", "\u00e9", "e\u0301", "x" * 5000, "con", "a/b\\c", "#"]
    rows = "\r\n".join(json.dumps({"id": name, "question": "Which digit?"}) for name in names)
    (tmp_path / "m.jsonl").write_bytes(b"\xef\xbb\xbf" + rows.encode())  # a mark of the byte order, and ends of DOS
    run = av.run_dataset(model, tmp_path / "m.jsonl", "lens", out=tmp_path / "out", top_k=1)
    assert run.n_finished == len(names)
    assert list(pd.read_parquet(av.datasets.merge(tmp_path / "out"))["sample"].unique()) == names
    assert {path.name for path in tmp_path.iterdir()} == {"m.jsonl", "out"}


def test_failures_go_to_the_folder_that_another_shard_has_begun_meanwhile(model, here, tmp_path):
    good = read_manifest(here / "good.jsonl")[2]
    samples = [good, replace(good, id="bad")]

    def lens(model, case):
        if case.id == "bad":
            assert av.run_dataset(model, samples, lens, out=tmp_path, shard="1/2").n_new == 1
            raise av.errors.InputsError("no", expected="a", got="b", next_step="c")
        return av.logit_lens(model, case.inputs, top_k=1)

    with pytest.warns(av.errors.HookedAVWarning, match="1 of 1 samples failed"):
        run = av.run_dataset(model, samples, lens, out=tmp_path, shard="2/2")
    assert [failure.sample for failure in run.failures] == ["bad"]
    assert len(list((tmp_path / "failed").iterdir())) == 1
