"""Datasets: runs that are stopped, killed, split and resumed end with the table of one run; nothing is silent."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

import hooked_av as av
from hooked_av import cli, commands, datasets
from hooked_av.manifest import read_manifest
from hooked_av.plots.style import svg_text
from hooked_av.tiny.samples import FOLDER

pytestmark = pytest.mark.usefixtures("one_thread")
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


@pytest.fixture(scope="module")
def model() -> av.HookedAVTransformer:
    return av.HookedAVTransformer.from_pretrained("tiny-av")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """A folder with two clips and two manifests."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("two-seconds.mp4", "same-digit.mp4"):
        (folder / name).symlink_to(FOLDER / name)
    for name, rows in (("good", ROWS), ("bad", [ROWS[2], *BROKEN])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def whole(model, here, tmp_path_factory) -> Path:
    """One run without an interruption, merged."""
    out = tmp_path_factory.mktemp("whole") / "lens"
    run = av.run_dataset(model, here / "good.jsonl", "lens", out=out, top_k=3)
    assert (run.n_samples, run.n_finished, run.n_new, run.failures) == (4, 4, 4, ())
    return av.merge(out)


def counted(calls: list[str], stop_at: str | None = None):
    """The lens, which notes what it is asked; it is interrupted at one sample."""

    def lens(model, case, top_k):
        calls.append(case.id)
        if case.id == stop_at:
            raise KeyboardInterrupt
        return av.logit_lens(model, case.inputs, top_k=top_k)

    return lens


def same(one: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(pd.read_parquet(one), pd.read_parquet(other))


# ---- Samples ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_sample_is_the_prompt_it_says(model, here):
    heard, seen, text, part = (sample.prepare(model) for sample in read_manifest(here / "good.jsonl"))
    clip = av.Clip.from_file(here / "two-seconds.mp4")
    for case, inputs in [
        (heard, model.prepare(clip, question=ROWS[0]["question"])),
        (seen, model.prepare(clip, question=ROWS[1]["question"], options=["nine", "seven"])),
        (text, model.prepare(question=ROWS[2]["question"])),
        (part, model.prepare(av.Clip.from_file(here / "same-digit.mp4", 1, 2), question=ROWS[3]["question"])),
    ]:
        assert torch.equal(model(case.inputs, logits_at="last"), model(inputs, logits_at="last"))
    assert (heard.answer, heard.task, seen.answer, seen.alternative, text.answer) == ("two", "auditory", "B", "A", None)
    assert [case.id for case in (heard, seen, text, part)] == [row["id"] for row in ROWS]
    assert seen.sample.clips()[0].duration_seconds == clip.duration_seconds


# ---- Results ---------------------------------------------------------------------------------------------------------


def test_the_table_is_what_the_analysis_says_of_each_sample(model, here, whole):
    table = pd.read_parquet(whole)
    for sample in read_manifest(here / "good.jsonl"):
        case = sample.prepare(model)
        rows = table[table["sample"] == sample.id]
        expected = av.logit_lens(model, case.inputs, top_k=3).to_frame()
        found = rows[list(expected.columns)].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)
        assert set(rows["task"]) == {sample.task}
        assert set(rows["group"]) == {sample.group}
        assert [None if pd.isna(gold) else gold for gold in rows["gold"].unique()] == [case.answer]


def test_the_file_has_one_row_group_a_sample_and_knows_what_made_it(whole):
    file = pq.ParquetFile(whole)
    groups = [set(file.read_row_group(n).column("sample").to_pylist()) for n in range(file.num_row_groups)]
    assert groups == [{row["id"]} for row in ROWS]
    made_by = json.loads(file.schema_arrow.metadata[b"hooked_av.settings"])
    assert (made_by["analysis"], made_by["arguments"]["top_k"], made_by["arguments"]["at"]) == ("lens", 3, "last")


def test_shards_are_the_parts_of_one_run(model, here, whole, tmp_path):
    runs = [av.run_dataset(model, here / "good.jsonl", "lens", out=tmp_path, shard=f"{i}/3", top_k=3) for i in (3, 1)]
    assert [(run.n_samples, run.n_new) for run in runs] == [(1, 1), (2, 2)]
    with pytest.raises(av.DatasetError, match=r"(?s)3 finished, 0 failed, 1 missing: seen.*run the shards"):
        av.merge(tmp_path)
    assert set(pd.read_parquet(av.merge(tmp_path, allow_missing=True))["sample"]) == {"heard", "text/1", "part"}
    av.run_dataset(model, here / "good.jsonl", "lens", out=tmp_path, shard="2/3", top_k=3)
    same(av.merge(tmp_path), whole)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "a/2", "-1/2", "1/2/3"])
def test_no_such_shard(model, here, tmp_path, shard):
    with pytest.raises(av.DatasetError, match="no such shard"):
        av.run_dataset(model, here / "good.jsonl", "lens", out=tmp_path / "out", shard=shard)
    assert not (tmp_path / "out").exists()


# ---- Interruptions ---------------------------------------------------------------------------------------------------


def test_a_run_is_taken_up_where_it_was_stopped(model, here, whole, tmp_path):
    calls: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        av.run_dataset(model, here / "good.jsonl", counted(calls, "text/1"), out=tmp_path, top_k=3)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}
    (tmp_path / "samples" / ".000002.deadbeef.part").write_bytes(b"PAR1 the half of a table")  # what kill -9 leaves
    run = av.run_dataset(model, here / "good.jsonl", counted(calls), out=tmp_path, top_k=3)
    assert calls == ["heard", "seen", "text/1", "text/1", "part"]
    assert (run.n_new, run.n_finished) == (2, 4)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    same(av.merge(tmp_path), whole)
    assert not list((tmp_path / "samples").glob(".*"))
    assert av.run_dataset(model, here / "good.jsonl", counted(calls), out=tmp_path, top_k=3).n_new == 0
    assert len(calls) == 5


def test_a_write_that_breaks_off_leaves_no_result(model, here, tmp_path, monkeypatch):
    def break_off(table, path, **options):
        Path(path).write_bytes(b"PAR1")
        raise OSError("the disk is full")

    monkeypatch.setattr("hooked_av.results_folder.pq.write_table", break_off)
    with pytest.raises(OSError, match="the disk is full"):
        av.run_dataset(model, here / "good.jsonl", "lens", out=tmp_path)
    assert list((tmp_path / "samples").iterdir()) == []


@pytest.mark.slow
def test_processes_that_are_killed_lose_nothing_and_do_nothing_twice(model, tmp_path):
    n, kills = 40, 25
    words = ["shown", "spoken", "first", "second", "third"]
    rows = [{"id": f"s{i}", "question": f"Which digit is {words[i % 5]}?"} for i in range(n)]
    for row in rows[::4]:
        row["media"] = str(FOLDER / "two-seconds.mp4")
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "support.kill_often", "m.jsonl", "killed", "log.txt", str(kills)]
    roots = os.pathsep.join([str(Path(__file__).parent), str(Path(av.__file__).parent.parent)])
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": roots}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    sizes = [len(seen) for seen in told["seen"]]
    print(f"{told['kills']} kills; finished after each: {sizes}")
    assert told["kills"] >= kills // 2
    assert sizes[-1] == n
    assert len({size for size in sizes if 0 < size < n}) >= 3  # kills fell into the run
    for seen in told["seen"]:  # what is finished is never written again
        assert seen == {name: told["seen"][-1][name] for name in seen}
    begun = Counter((tmp_path / "log.txt").read_text().split())
    assert set(begun) == {row["id"] for row in rows}
    assert sum(begun.values()) <= n + told["kills"]  # a kill costs the sample that it fell into, and no other
    av.run_dataset(model, tmp_path / "m.jsonl", "lens", out=tmp_path / "whole", top_k=40)
    same(av.merge(tmp_path / "killed"), av.merge(tmp_path / "whole"))
    assert pq.ParquetFile(tmp_path / "killed" / "results.parquet").num_row_groups == n


# ---- Settings --------------------------------------------------------------------------------------------------------


def test_a_folder_takes_no_other_settings(model, here, tmp_path, monkeypatch):
    def run(manifest=here / "good.jsonl", analysis="lens", **more):
        return av.run_dataset(model, manifest, analysis, out=tmp_path, shard="3/4", **more)

    assert run(top_k=3).n_new == 1
    assert run(top_k=3, at="last").n_new == 0  # a default, said
    with pytest.raises(
        av.DatasetError, match=r"(?s)begun with other settings.* arguments.top_k=3\n.* arguments.top_k=4\n.*another"
    ):
        run(top_k=4)
    with pytest.raises(av.DatasetError, match=r"(?s)expected: analysis='lens', .*got:      analysis='flow'"):
        run(analysis="flow")
    with pytest.raises(av.DatasetError, match=r"prepare\.sampling=None"):
        run(top_k=3, prepare={"sampling": av.Sampling(fps=1)})
    with pytest.raises(av.DatasetError, match=r"expected: manifest='\w+'\n"):
        run(here / "bad.jsonl", top_k=3)
    for name, other in (("fingerprint", lambda: "other"), ("attn_implementation", "eager")):
        with monkeypatch.context() as patch:
            patch.setattr(model, name, other)
            with pytest.raises(av.DatasetError, match=r"(?s)(weights='.*'other'|attention='sdpa'.*attention='eager')"):
                run(top_k=3)
    with monkeypatch.context() as patch:
        patch.setattr("hooked_av.results.torch.__version__", "9.9")
        with pytest.raises(av.DatasetError, match=r"(?s)expected: torch=.*torch='9.9'"):
            run(top_k=3)
    assert run(top_k=3).n_new == 0


def test_disks_without_hard_links_do(model, here, tmp_path, monkeypatch):
    def no_link(*paths):
        raise PermissionError("no hard links here")

    monkeypatch.setattr("hooked_av.results_folder.os.link", no_link)
    samples = read_manifest(here / "good.jsonl")[2:3]
    assert [av.run_dataset(model, samples, "lens", out=tmp_path).n_new for _ in range(2)] == [1, 0]
    with pytest.raises(av.DatasetError, match="begun with other settings"):
        av.run_dataset(model, samples, "lens", out=tmp_path, top_k=2)


def test_a_table_of_another_run_is_not_merged(model, here, tmp_path):
    samples = read_manifest(here / "good.jsonl")[2:3]
    for top_k in (2, 3):
        av.run_dataset(model, samples, "lens", out=tmp_path / str(top_k), top_k=top_k)
    table = tmp_path / "2" / "samples" / "000000.parquet"
    table.write_bytes((tmp_path / "3" / "samples" / "000000.parquet").read_bytes())
    with pytest.raises(av.DatasetError, match="not made with the settings of its folder"):
        av.merge(tmp_path / "2")


def test_folders_that_are_not_ours_are_left_alone(model, here, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(av.DatasetError, match="a folder with other things in it"):
        av.run_dataset(model, here / "good.jsonl", "lens", out=tmp_path)
    with pytest.raises(av.DatasetError, match="a file"):
        av.run_dataset(model, here / "good.jsonl", "lens", out=tmp_path / "notes.txt")
    with pytest.raises(av.DatasetError, match="nothing there"):
        av.merge(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_analyses_and_arguments_are_checked_before_anything_runs(model, here, tmp_path):
    with pytest.raises(av.DatasetError, match=r"(?s)no analysis 'lense'.*lens"):
        av.run_dataset(model, here / "good.jsonl", "lense", out=tmp_path / "out")
    with pytest.raises(av.DatasetError, match=r"(?s)expected: at, top_k, tokens, convention.*unexpected.*'topk'"):
        av.run_dataset(model, here / "good.jsonl", "lens", out=tmp_path / "out", topk=3)
    assert not (tmp_path / "out").exists()


def test_functions_of_ones_own_are_named(model, here, tmp_path):
    samples = read_manifest(here / "good.jsonl")[2:3]
    own = partial(counted([]), top_k=2)
    assert av.run_dataset(model, samples, own, out=tmp_path).n_new == 1
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["analysis"].endswith("test_datasets.counted.<locals>.lens")
    assert settings["arguments"] == {"top_k": 2}
    with pytest.raises(av.DatasetError, match="analysis="):
        av.run_dataset(model, samples, "lens", out=tmp_path, top_k=2)


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
    assert set(pd.read_parquet(av.merge(tmp_path))["sample"]) == {"text/1"}
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


def test_any_other_error_ends_the_run(model, here, tmp_path):
    def broken(model, case):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        av.run_dataset(model, here / "good.jsonl", broken, out=tmp_path)
    assert not list((tmp_path / "failed").iterdir())


def test_a_run_of_nothing_but_failures_ends(model, tmp_path):
    samples = [av.Sample(f"s{i}", (), "What?", answer="not one token") for i in range(datasets.GIVE_UP_AFTER + 5)]
    with pytest.raises(av.DatasetError, match=r"(?s)the first 20 samples have all failed.*s19: InputsError"):
        av.run_dataset(model, samples, "lens", out=tmp_path)


def test_tables_that_cannot_be_stored_are_refused(model, here, tmp_path):
    class Odd:
        settings: dict = {}  # noqa: RUF012

        def __init__(self, frame):
            self.to_frame = lambda: frame

    samples = read_manifest(here / "good.jsonl")[2:3]
    for name, frame in (("a", pd.DataFrame({"x": []})), ("b", pd.DataFrame({"task": ["other"], "x": [1]}))):
        with pytest.warns(av.HookedAVWarning, match="this table cannot be stored"):
            av.run_dataset(model, samples, lambda model, case, f=frame: Odd(f), out=tmp_path / name)


# ---- Information flow ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mapped(model, tmp_path_factory) -> tuple[list[av.Sample], Path]:
    """Samples of one layout, one of them with a wrong answer and one without, and their merged maps."""
    samples = [sample for sample in read_manifest(FOLDER / "manifest.jsonl") if not sample.options][:5]
    samples[1] = replace(samples[1], answer="nine" if samples[1].answer != "nine" else "one", group="wrong")
    samples[2] = replace(samples[2], answer=None, group="open")
    out = tmp_path_factory.mktemp("flow") / "out"
    for shard in ("2/2", "1/2", "1/1"):
        run = av.run_dataset(model, samples, "flow", out=out, shard=shard, window=3, controls=av.Controls(2, "rows"))
    assert (run.n_new, run.n_finished) == (0, 5)
    return samples, av.merge(out)


def direct(model, samples, **more) -> av.InformationFlow:
    cases = (sample.prepare(model) for sample in samples)
    return av.information_flow(model, cases, window=3, controls=av.Controls(2, "rows"), **more)


@pytest.mark.parametrize("only_correct", [True, False])
def test_a_merged_map_is_that_of_one_call(model, mapped, only_correct):
    samples, merged = mapped
    found, wanted = av.read_flow(merged, only_correct=only_correct), direct(model, samples, only_correct=only_correct)
    assert (samples[1].id in found.skipped) == only_correct
    assert len(found.pathways) > 10
    for field in fields(av.InformationFlow):
        one, other = getattr(found, field.name), getattr(wanted, field.name)
        if field.name in av.InformationFlow.axes:
            assert one.dtype == other.dtype
            assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f"), field.name
        elif field.name != "settings":
            assert one == other, field.name
    said = json.loads(json.dumps(dict(wanted.settings)))
    assert {**found.settings, "n_pos": said["n_pos"]} == said
    assert svg_text(found.plot()) == svg_text(wanted.plot())
    pd.testing.assert_frame_equal(found.summary(), wanted.summary())


def test_every_sample_has_its_rows_and_the_reader_chooses(model, mapped):
    samples, merged = mapped
    table = pd.read_parquet(merged)
    assert set(table["sample"]) == {sample.id for sample in samples}
    right = table.groupby("sample")["base_is_right"].first()
    assert right[samples[1].id] == 0
    assert np.isnan(right[samples[2].id])
    assert table[table["sample"] == samples[2].id]["gold"].isna().all()
    some = av.read_flow(merged, metric="gold", where={"task": samples[3].task, "group": ""})
    wanted = direct(model, [s for s in samples if s.task == samples[3].task and not s.group], metric="gold")
    assert some.ids == wanted.ids
    np.testing.assert_array_equal(some.changes, wanted.changes)
    assert some.settings["where"] == {"task": samples[3].task, "group": ""}
    with pytest.raises(av.InputsError, match=f"nothing to measure of sample '{samples[2].id}'"):
        av.read_flow(merged, metric="gold")
    with pytest.raises(av.InputsError, match=r"no sample is left(.|\n)*only_correct=False"):
        av.read_flow(merged, where={"group": "wrong"})
    with pytest.raises(av.DatasetError, match="no such samples"):
        av.read_flow(merged, where={"group": "nobody"})
    with pytest.raises(av.DatasetError, match=r"(?s)no column 'tusk'.*expected: task"):
        av.read_flow(merged, where={"tusk": "visual"})


def test_layouts_are_read_one_by_one(model, mapped, tmp_path):
    samples = [mapped[0][0], av.Sample("text", (), "Which digit is this?", group="no media")]
    av.run_dataset(model, samples, "flow", out=tmp_path, controls=0, window=1)
    with pytest.raises(av.InputsError, match="sample 'text' has other pathways than"):
        av.read_flow(av.merge(tmp_path))
    alone = av.read_flow(av.merge(tmp_path), where={"group": "no media"})
    assert alone.pathways == ("question → last", "last → last")
    assert "n_pos" not in alone.settings  # only what is the same in all samples stands for them
    assert alone.control_p_answer.shape == (1, 0, 2, model.cfg.n_layers)


def test_what_is_no_merged_map_is_refused(whole, tmp_path):
    with pytest.raises(av.InputsError, match=r"(?s)no table of information flow.*no columns id, pathway"):
        av.read_flow(whole)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(av.DatasetError, match="no merged table"):
        av.read_flow(tmp_path / "notes.txt")
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(av.DatasetError, match="without the settings"):
        av.read_flow(tmp_path / "x.parquet")


def test_maps_that_cannot_be_made_are_failures(model, mapped, tmp_path):
    samples = [mapped[0][0], av.Sample("text", (), "Which digit is this?", answer="six"), mapped[0][2]]
    with pytest.warns(av.HookedAVWarning, match="2 of 3 samples failed"):
        run = av.run_dataset(model, samples, "flow", out=tmp_path, pathways=["audio->last"], metric="gold", controls=0)
    assert [(failure.sample, failure.kind) for failure in run.failures] == [
        ("text", "SpanError"),
        (samples[2].id, "InputsError"),
    ]
    with pytest.raises(av.DatasetError, match=r"(?s)do not fit the analysis.*only_correct"):
        av.run_dataset(model, samples, "flow", out=tmp_path, only_correct=True)


# ---- Sweeps ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_sweep_equals_full_passes_with_the_same_cuts(model, here):
    case = replace(read_manifest(here / "good.jsonl")[0].prepare(model), alternative="six")
    cuts = ["video->last@2-5", "video->question|last", "audio->last", "question->last@7"]
    swept = av.route_sweep(model, case, cuts)
    gold, other = model.to_single_token("two"), model.to_single_token("six")
    clean = model(case.inputs, logits_at="last")[0, -1].double().softmax(-1)
    assert (swept.answer_id, swept.p_base) == (int(clean.argmax()), pytest.approx(float(clean.max()), abs=1e-6))
    assert swept.gold_p_base == pytest.approx(float(clean[gold]), abs=1e-6)
    for number, cut in enumerate(cuts):
        p = model(case.inputs, interventions=cut, logits_at="last")[0, -1].double().softmax(-1)
        assert swept.p_cut[number] == pytest.approx(float(p[swept.answer_id]), abs=1e-5)
        assert swept.gold_p_cut[number] == pytest.approx(float(p[gold]), abs=1e-5)
        assert swept.alternative_p_cut[number] == pytest.approx(float(p[other]), abs=1e-5)
        assert swept.best_ids[number] == int(p.argmax())
    assert swept.change_percent.min() < -20  # something was cut
    nothing = av.route_sweep(model, case, ["question->av", f"text->question@{model.cfg.n_layers - 1}"])
    assert (nothing.p_cut == nothing.p_base).all()  # the question comes later, and in the last layer reads for nobody
    assert av.RouteSweep.load(swept.save(here / "sweep.safetensors")).cuts == tuple(cuts)
    assert swept.to_frame()["flipped"].tolist() == (swept.best_ids != swept.answer_id).tolist()


def test_a_sweep_without_a_known_answer_has_no_gold(model, here):
    case = read_manifest(here / "good.jsonl")[2].prepare(model)
    assert av.route_sweep(model, case.inputs, "question->last").to_frame()["gold_p_cut"].isna().all()
    with pytest.raises(av.InterventionError, match="nothing to cut"):
        av.route_sweep(model, case, [])


# ---- Commands --------------------------------------------------------------------------------------------------------


def test_commands_do_what_the_functions_do(model, here, tmp_path, monkeypatch, whole):
    monkeypatch.setattr(commands, "load_model", lambda name: model)
    common = ["--manifest", str(here / "good.jsonl"), "--out"]

    def say(*words: str) -> str:
        done = CliRunner().invoke(cli.main, list(words), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "shard 2/2: 2 of 2 samples finished" in say("lens", *common, str(tmp_path / "lens"), "--top-k", "3",
                                                       "--shard", "2/2")  # fmt: skip
    say("lens", *common, str(tmp_path / "lens"), "--top-k", "3")
    assert "4 of 4 samples; 0 failed, 0 missing" in say("merge", str(tmp_path / "lens"))
    same(tmp_path / "lens" / "results.parquet", whole)

    one = ["--shard", "1/4"]
    asked = ["--pathway", "audio->last", "--window", "3", "--controls", "2:rows", "--metric", "gold"]
    say("flow", *common, str(tmp_path / "flow"), *asked, *one)
    flow = pd.read_parquet(tmp_path / "flow" / "samples")
    case = read_manifest(here / "good.jsonl")[0].prepare(model)
    by_call = {"pathways": "audio->last", "window": 3, "metric": "gold", "controls": av.Controls(2, "rows")}
    wanted = av.information_flow(model, case, **by_call, only_correct=False).to_frame()
    pd.testing.assert_frame_equal(flow[wanted.columns], wanted, check_dtype=False)

    say("sweep", *common, str(tmp_path / "sweep"), "--cut", "audio->last@2-5", "--cut", "video->last", *one)
    assert pd.read_parquet(tmp_path / "sweep" / "samples")["cut"].tolist() == ["audio->last@2-5", "video->last"]

    asked = ["--corruption", "silence", "--span", "audio", "--component", "resid_pre"]
    say("patch", *common, str(tmp_path / "patch"), *asked, *one)
    patched = pd.read_parquet(tmp_path / "patch" / "samples")
    assert patched["effect"].iloc[0] == pytest.approx(1, abs=1e-3)  # all of what differs, before the first layer
    assert patched["effect"].iloc[-1] < 0.8  # by then part of it has been read

    say("discard", *common, str(tmp_path / "discard"), "--tokens", "video", "--repeats", "1", *one)
    dropped = pd.read_parquet(tmp_path / "discard" / "samples")
    assert dropped["layer"].tolist() == list(range(model.cfg.n_layers))
    assert dropped["agreement"].iloc[-1] == 1


def test_command_errors_are_messages(here, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "load_model", lambda name: pytest.fail("the model was loaded"))
    (tmp_path / "m.jsonl").write_text('{"id": "a"}\n')
    for words, said in [
        (["lens", "--manifest", "m.jsonl", "--out", "out"], "line 1: question: expected a text"),
        (["lens", "--manifest", "none.jsonl", "--out", "out"], "no such manifest"),
        (["flow", "--manifest", str(here / "good.jsonl"), "--out", "out", "--pathway", "audio"], "not a route"),
        (["flow", "--manifest", str(here / "good.jsonl"), "--out", "out", "--pathway", "a->b@1"], "have no layers"),
        (["flow", "--manifest", str(here / "good.jsonl"), "--out", "out", "--controls", "many"], "a number of draws"),
        (["sweep", "--manifest", str(here / "good.jsonl"), "--out", "out"], "Missing option '--cut'"),
        (["merge", "nowhere"], "no folder of results"),
    ]:
        monkeypatch.chdir(tmp_path)
        done = CliRunner().invoke(cli.main, words)
        assert done.exit_code in (1, 2), words
        assert said in done.output, done.output
        assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("as_a_user")
def test_controls_of_no_known_spread_are_refused(here):
    words = ["flow", "--manifest", str(here / "good.jsonl"), "--out", "out", "--controls", "1:row"]
    assert "spread='row'" in CliRunner().invoke(cli.main, words).output


def test_every_command_is_an_analysis_and_says_what_it_takes():
    for entry in commands.COMMANDS:
        assert entry.name in datasets.ANALYSES
        assert "--manifest" in CliRunner().invoke(cli.main, [entry.name, "--help"]).output
