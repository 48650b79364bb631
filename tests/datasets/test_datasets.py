"""Datasets: runs that are stopped, killed, split and resumed end with the table of one run."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from support.datasets import ROWS, same, whole_run, write_manifests

import hooked_av as av
from hooked_av.datasets.manifest import read_manifest
from hooked_av.plots.style import svg_text
from hooked_av.tiny.samples import FOLDER
from hooked_av.whole_files import part_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> av.HookedAVTransformer:
    return av.HookedAVTransformer.from_pretrained("tiny-av")


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    return write_manifests(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(model, here, tmp_path_factory) -> Path:
    return whole_run(model, here, tmp_path_factory.mktemp("whole") / "lens")


def counted(calls: list[str], stop_at: str | None = None):
    """The lens, which notes what it is asked; it is interrupted at one sample."""

    def lens(model, case, top_k):
        calls.append(case.id)
        if case.id == stop_at:
            raise KeyboardInterrupt
        return av.logit_lens(model, case.inputs, top_k=top_k)

    return lens


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
    with pytest.raises(av.errors.DatasetError, match=r"(?s)3 finished, 0 failed, 1 missing: seen.*run the shards"):
        av.datasets.merge(tmp_path)
    assert set(pd.read_parquet(av.datasets.merge(tmp_path, allow_missing=True))["sample"]) == {
        "heard",
        "text/1",
        "part",
    }
    av.run_dataset(model, here / "good.jsonl", "lens", out=tmp_path, shard="2/3", top_k=3)
    same(av.datasets.merge(tmp_path), whole)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "a/2", "-1/2", "1/2/3"])
def test_no_such_shard(model, here, tmp_path, shard):
    with pytest.raises(av.errors.DatasetError, match="no such shard"):
        av.run_dataset(model, here / "good.jsonl", "lens", out=tmp_path / "out", shard=shard)
    assert not (tmp_path / "out").exists()


def test_functions_of_ones_own_are_named(model, here, tmp_path):
    samples = read_manifest(here / "good.jsonl")[2:3]
    own = partial(counted([]), top_k=2)
    assert av.run_dataset(model, samples, own, out=tmp_path).n_new == 1
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["analysis"].endswith("test_datasets.counted.<locals>.lens")
    assert settings["arguments"] == {"top_k": 2}
    with pytest.raises(av.errors.DatasetError, match="analysis="):
        av.run_dataset(model, samples, "lens", out=tmp_path, top_k=2)


# ---- Interruptions ---------------------------------------------------------------------------------------------------


def test_a_run_is_taken_up_where_it_was_stopped(model, here, whole, tmp_path):
    calls: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        av.run_dataset(model, here / "good.jsonl", counted(calls, "text/1"), out=tmp_path, top_k=3)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "samples").iterdir()}
    left = part_of(tmp_path / "samples" / "000002.parquet")
    left.write_bytes(b"PAR1 the half of a table")  # what kill -9 leaves
    run = av.run_dataset(model, here / "good.jsonl", counted(calls), out=tmp_path, top_k=3)
    assert calls == ["heard", "seen", "text/1", "text/1", "part"]
    assert (run.n_new, run.n_finished) == (2, 4)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert left.exists()
    same(av.datasets.merge(tmp_path), whole)
    assert not list((tmp_path / "samples").glob(".*"))
    assert av.run_dataset(model, here / "good.jsonl", counted(calls), out=tmp_path, top_k=3).n_new == 0
    assert len(calls) == 5


def test_a_write_that_breaks_off_leaves_no_result(model, here, tmp_path, monkeypatch):
    def break_off(table, path, **options):
        Path(path).write_bytes(b"PAR1")
        raise OSError("the disk is full")

    monkeypatch.setattr("hooked_av.datasets.sample_table.pq.write_table", break_off)
    with pytest.raises(av.errors.DatasetError, match=r"(?s)cannot write .*000000\.parquet.*the disk is full.*goes on"):
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
    roots = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(av.__file__).parent.parent)])
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
    same(av.datasets.merge(tmp_path / "killed"), av.datasets.merge(tmp_path / "whole"))
    assert pq.ParquetFile(tmp_path / "killed" / "results.parquet").num_row_groups == n


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
    return samples, av.datasets.merge(out)


def direct(model, samples, **more) -> av.analyses.InformationFlow:
    cases = (sample.prepare(model) for sample in samples)
    return av.information_flow(model, cases, window=3, controls=av.Controls(2, "rows"), **more)


@pytest.mark.parametrize("only_correct", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_merged_map_is_that_of_one_call(model, mapped, only_correct):
    samples, merged = mapped
    found, wanted = (
        av.datasets.read_flow(merged, only_correct=only_correct),
        direct(model, samples, only_correct=only_correct),
    )
    assert (samples[1].id in found.skipped) == only_correct
    assert len(found.pathways) > 10
    for field in fields(av.analyses.InformationFlow):
        one, other = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(other, np.ndarray):
            assert field.name in av.analyses.InformationFlow.axes
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
    some = av.datasets.read_flow(merged, follow="gold", where={"task": samples[3].task, "group": ""})
    wanted = direct(model, [s for s in samples if s.task == samples[3].task and not s.group], follow="gold")
    assert some.ids == wanted.ids
    np.testing.assert_array_equal(some.changes, wanted.changes)
    assert some.settings["where"] == {"task": samples[3].task, "group": ""}
    with pytest.raises(av.errors.InputsError, match=f"nothing to measure of sample '{samples[2].id}'"):
        av.datasets.read_flow(merged, follow="gold")
    with pytest.raises(av.errors.InputsError, match=r"no sample is left(.|\n)*only_correct=False"):
        av.datasets.read_flow(merged, where={"group": "wrong"})
    with pytest.raises(av.errors.DatasetError, match="no such samples"):
        av.datasets.read_flow(merged, where={"group": "nobody"})
    with pytest.raises(av.errors.DatasetError, match=r"(?s)no column 'tusk'.*expected: task"):
        av.datasets.read_flow(merged, where={"tusk": "visual"})


def test_layouts_are_read_one_by_one(model, mapped, tmp_path):
    samples = [mapped[0][0], av.Sample("text", (), "Which digit is this?", group="no media")]
    av.run_dataset(model, samples, "flow", out=tmp_path, controls=0, window=1)
    with pytest.raises(av.errors.InputsError, match="sample 'text' has other pathways than"):
        av.datasets.read_flow(av.datasets.merge(tmp_path))
    alone = av.datasets.read_flow(av.datasets.merge(tmp_path), where={"group": "no media"})
    assert alone.pathways == ("question → last", "last → last")
    assert "n_pos" not in alone.settings  # only what is the same in all samples stands for them
    assert alone.control_p_answer.shape == (1, 0, 2, model.cfg.n_layers)


def test_what_is_no_merged_map_is_refused(whole, tmp_path):
    with pytest.raises(av.errors.InputsError, match=r"(?s)no table of information flow.*no columns id, pathway"):
        av.datasets.read_flow(whole)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(av.errors.DatasetError, match="no merged table"):
        av.datasets.read_flow(tmp_path / "notes.txt")
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(av.errors.DatasetError, match="without the settings"):
        av.datasets.read_flow(tmp_path / "x.parquet")


def test_maps_that_cannot_be_made_are_failures(model, mapped, tmp_path):
    samples = [mapped[0][0], av.Sample("text", (), "Which digit is this?", answer="six"), mapped[0][2]]
    with pytest.warns(av.HookedAVWarning, match="2 of 3 samples failed"):
        run = av.run_dataset(model, samples, "flow", out=tmp_path, pathways=["audio->last"], follow="gold", controls=0)
    assert [(failure.sample, failure.kind) for failure in run.failures] == [
        ("text", "SpanError"),
        (samples[2].id, "InputsError"),
    ]
    with pytest.raises(av.errors.DatasetError, match=r"(?s)do not fit the analysis.*only_correct"):
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
    nothing = av.route_sweep(model, case, [f"text->question@{model.cfg.n_layers - 1}"])
    assert (nothing.p_cut == nothing.p_base).all()  # in the last layer the question reads for nobody
    with pytest.raises(av.errors.InterventionError, match=r"never act \(block question → av"):
        av.route_sweep(model, case, ["question->av"])
    assert av.analyses.RouteSweep.load(swept.save(here / "sweep.safetensors")).cuts == tuple(cuts)
    assert swept.to_frame()["flipped"].tolist() == (swept.best_ids != swept.answer_id).tolist()


def test_a_sweep_without_a_known_answer_has_no_gold(model, here):
    case = read_manifest(here / "good.jsonl")[2].prepare(model)
    assert av.route_sweep(model, case.inputs, "question->last").to_frame()["gold_p_cut"].isna().all()
    with pytest.raises(av.errors.InterventionError, match="nothing to cut"):
        av.route_sweep(model, case, [])


def test_a_run_is_one_line(model, here, tmp_path):
    run = av.run_dataset(model, read_manifest(here / "good.jsonl")[2:3], "lens", out=tmp_path, top_k=2)
    assert repr(run) == f"DatasetRun({str(tmp_path)!r}, {run})"


def columns_of(values):
    """An analysis of one's own, whose table has these columns for each sample in turn."""
    left = iter(values)
    return lambda model, case: Columns(next(left))


class Columns:
    """A result of no more than a table."""

    settings: ClassVar = {}

    def __init__(self, columns):
        self.columns = columns

    def to_frame(self):
        return pd.DataFrame(self.columns)


def test_columns_that_some_samples_lack_are_empty_there(model, here, tmp_path):
    samples = read_manifest(here / "good.jsonl")[2:4]
    av.run_dataset(model, samples, columns_of([{"x": [1]}, {"x": [2], "y": [0.5]}]), out=tmp_path)
    table = pd.read_parquet(av.datasets.merge(tmp_path))
    assert table.x.tolist() == [1, 2]
    assert table.y.isna().tolist() == [True, False]


def test_columns_of_two_kinds_cannot_be_joined(model, here, tmp_path):
    samples = read_manifest(here / "good.jsonl")[2:4]
    av.run_dataset(model, samples, columns_of([{"x": [1]}, {"x": ["one"]}]), out=tmp_path)
    with pytest.raises(av.errors.DatasetError, match=r"(?s)cannot be joined.*give every column one type"):
        av.datasets.merge(tmp_path)
