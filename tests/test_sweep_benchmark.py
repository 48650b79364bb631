"""The benchmarks of sweeps, of generation, of full sizes and of other tools run, and count what the issue defines."""

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import forward
import generate
import large
import peers
import sweep


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out, threads = tmp_path_factory.mktemp("results") / "sweep.json", torch.get_num_threads()
    CliRunner().invoke(sweep.main, ["--quick", "--out", str(out)], catch_exceptions=False)
    torch.set_num_threads(threads)
    return json.loads(out.read_text())


def test_every_sweep_costs_at_most_its_cone(report):
    (row,) = report["rows"]
    assert list(row["sweeps"]) == list(sweep.SWEEPS)
    for figures in row["sweeps"].values():
        assert figures["finite"]
        # less than the cone: where cuts start, rows that they do not touch are left out, and a tiny prompt has many
        assert 0.1 < figures["of_cone"] <= report["limits"]["of_cone"]
    assert row["sweeps"][sweep.MAP]["flops"] <= report["limits"]["map_flops"]


@pytest.mark.slow
@pytest.mark.parametrize("job", sweep.JOBS[1:3], ids=lambda job: job.name)
@torch.no_grad()
def test_a_map_costs_less_than_two_passes(job):
    """72 cells of 12 layers, and 168 of 28."""
    model, inputs = forward.make_pair(job.shape).model, sweep.make_inputs(job.n_media, job.shape.d_vocab)
    specs = sweep.sweep_of(sweep.MAP, job, inputs)
    clean = forward.count_flops(lambda: model(inputs, logits_at="last"))
    whole = forward.count_flops(lambda: model.baseline(inputs, touched="question|last").run(specs))
    assert len(specs) == 6 * job.shape.n_layers
    assert 1.3 * clean < whole <= 2.0 * clean


def test_the_naive_cells_agree(report):
    for cell in report["rows"][0]["naive"]:
        assert cell["replay_differs_by"] < 1e-4 * cell["largest_logit"]
        assert cell["transformers_differs_by"] < 1e-4 * cell["largest_logit"]


def test_a_cone_of_every_row_and_layer_is_almost_a_clean_pass():
    """Only the last layer of a clean pass does more: it goes on with rows that nobody reads."""
    shape, n_pos = forward.TINY, 64
    model, inputs = forward.make_pair(shape).model, sweep.make_inputs(n_pos - 40, shape.d_vocab)
    with torch.no_grad():
        whole = forward.count_flops(lambda: model(inputs, logits_at="last"))
    saved = 2 * (n_pos - 1) * (2 * shape.d_model * 32 + 3 * shape.d_model * shape.d_mlp + 2 * n_pos * 32)
    assert sweep.cone_flops(shape, n_pos, 0, 0) == whole - saved


@pytest.fixture(scope="module")
def side_by_side():
    return peers.measure(peers.QUICK_JOB)["rows"]


def test_the_same_cells_side_by_side(side_by_side):
    for name in (peers.REPLAY, peers.OURS, peers.HOOKS):
        assert side_by_side[name]["differs_by"] < 1e-4 < side_by_side[name]["changes"]
    assert side_by_side[peers.HOOKS]["flops_per_cell"] == 1
    assert side_by_side[peers.REPLAY]["flops_per_cell"] < 0.3


@pytest.mark.parametrize("peer", [peers.NNSIGHT, peers.BRIDGE])
def test_what_other_tools_can_do(side_by_side, peer):
    """nnsight is an extra; TransformerBridge runs a pass, and its edit of the pattern changes nothing."""
    figures = side_by_side[peer]
    if "not_run" in figures:
        pytest.skip(figures["not_run"])
    acts = figures["differs_by"] < 1e-4 < figures["changes"]
    assert acts is (peer == peers.NNSIGHT)
    assert figures["flops_per_cell"] > 0.9


def test_a_peer_that_cannot_run_is_named_with_its_reason():
    def cannot(bench):
        raise peers.NotRunError("no such tool")

    bench = peers.Bench(*(None,) * 3, cells=[None])
    assert peers.measure_peer(cannot, bench, peers.QUICK_JOB, None) == {"not_run": "no such tool"}


def run_quick(benchmark, out):
    threads = torch.get_num_threads()
    result = CliRunner().invoke(benchmark.main, ["--quick", "--out", str(out)], catch_exceptions=False)
    torch.set_num_threads(threads)
    return result, json.loads(out.read_text())


def test_generation_is_measured_and_equal(tmp_path):
    _, report = run_quick(generate, tmp_path / "generate.json")
    (row,) = report["rows"]
    assert {name: figures["tokens_equal"] for name, figures in row["variants"].items()} == {
        generate.PEER: True, generate.NULL: True, generate.OURS: True, generate.HOOKED: True, generate.CUT: False
    }  # fmt: skip
    assert all(row["variants"][name]["decode"]["cpu_ms_min"] != 0 for name in (generate.OURS, generate.CUT))


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    """The tiny shape, in place of one that needs a GPU."""
    result, report = run_quick(large, tmp_path_factory.mktemp("results") / "large.json")
    assert result.exit_code == 0, result.output
    return report["shapes"]["tiny"]


def test_full_sizes_are_those_of_transformers(full_size):
    for name in ("decoder", "with encoders"):
        assert full_size["forward"][name]["logits_equal"]
        assert full_size["forward"][name]["finite"]
    assert full_size["forward"]["flops_ratio"] == pytest.approx(1, abs=1e-4)
    assert full_size["generation"]["hooked_av"]["equal_tokens"] == full_size["built"]["n_new"]


def test_replays_in_half_precision_keep_the_answer(full_size):
    cases = full_size["exactness"]["cases"]
    assert len(cases) == 12
    for case in [*cases.values(), *full_size["map"]["sample"].values()]:
        assert case["differs_by"] < 0.1
        assert case["argmax_equal"] or case["gap_to_second"] < 0.1
    assert max(case["effect"] for case in cases.values()) > 1


def test_the_map_of_full_sizes_is_counted(full_size):
    assert full_size["map"]["cells"] == 6 * full_size["built"]["n_layers"]
    assert 1 < full_size["map"]["flops"] < 4  # two layers have little to share
    assert 10 < full_size["map"]["operations_of_a_clean_pass"] < full_size["map"]["operations"]
    assert full_size["memory"]["peak_bytes"]["map"] > full_size["memory"]["peak_bytes"]["baseline"]


def test_a_section_that_fails_is_told_and_the_others_run(monkeypatch, tmp_path):
    def broken(bench):
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(large, "SECTIONS", {"map": broken, "cut": lambda bench: {"ratio": 1}})
    options = ["--section", "map", "--section", "cut", "--out", str(tmp_path / "large.json")]
    result = CliRunner().invoke(large.main, options)
    sections = json.loads((tmp_path / "large.json").read_text())["shapes"]["tiny"]
    assert "ZeroDivisionError: planted" in sections["map"]["failed"]
    assert sections["cut"]["ratio"] == 1
    assert result.exit_code == 1
    assert "these sections failed: tiny, map" in result.output
