"""The benchmarks run, count what they say they count, and see it when there is more. Their times are not tested."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

from hooked_av.decoder import flops
from hooked_av.decoder.decoder import GatedMLP

FOLDER = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


forward = load("forward")
run = load("run")
N_TOKENS = 24


@pytest.fixture(scope="module")
def pair():
    return forward.make_pair(forward.TINY)


@pytest.fixture
def runs(pair):
    with torch.no_grad():
        yield forward.variants(pair, forward.make_inputs(N_TOKENS, forward.TINY.d_vocab))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What `forward.py --quick --out FILE` writes."""
    out = tmp_path_factory.mktemp("results") / "new folder" / "forward.json"
    threads = torch.get_num_threads()
    result = CliRunner().invoke(forward.main, ["--quick", "--out", str(out)], catch_exceptions=False)
    torch.set_num_threads(threads)
    assert forward.CACHED in result.output
    return json.loads(out.read_text())


def flops_by_hand(shape, n_tokens: int) -> int:
    """Two operations for each weight and token; and each query with each key, in scores and in the weighted sum."""
    width = shape.n_heads * shape.d_head
    projections = 2 * shape.d_model * width + 2 * shape.d_model * shape.n_key_value_heads * shape.d_head
    layer = projections + 3 * shape.d_model * shape.d_mlp + 2 * n_tokens * width
    return 2 * n_tokens * (shape.n_layers * layer + shape.d_model * shape.d_vocab)


def test_the_report_has_every_figure_of_every_variant(report):
    assert set(report) == {"benchmark", "quick", "machine", "limits", "rows"}
    assert report["quick"] is True
    assert report["limits"] == {forward.OURS: 1.00, forward.CACHED: 1.03}
    assert report["machine"]["threads"] == 1
    assert [row["n_tokens"] for row in report["rows"]] == [16, 32]
    times = {"cpu_ms_median", "cpu_ms_min", "ratio_median", "ratio_quartiles", "ratio_min", "ratio_of_minima"}
    for row in report["rows"]:
        assert set(row) == {"shape", "n_tokens", "rounds", "variants", "hook_points"}
        assert len(row["variants"]) == 7
        for figures in row["variants"].values():
            assert set(figures) == times | {"logits_equal", "flops", "peak_bytes"}
            assert figures["cpu_ms_min"] > 0
            assert figures["peak_bytes"] > 0
        assert row["variants"][forward.PEER]["ratio_median"] == 1


def test_the_report_names_no_machine(report):
    assert set(report["machine"]) == {
        "architecture", "cores", "instructions", "threads", "allocator", "python", "torch", "transformers"
    }  # fmt: skip


def test_only_the_knockout_changes_logits(report):
    for row in report["rows"]:
        assert [name for name, f in row["variants"].items() if not f["logits_equal"]] == [forward.KNOCKOUT]


def test_we_do_the_arithmetic_of_transformers_and_caching_adds_none(report):
    for row in report["rows"]:
        flops = {name: figures["flops"] for name, figures in row["variants"].items()}
        assert flops[forward.PEER] == flops_by_hand(forward.TINY, row["n_tokens"])
        assert flops[forward.OURS] == flops[forward.CACHED] == flops[forward.PEER_HOOKS] == flops[forward.PEER]
        assert flops[forward.PATTERN] > flops[forward.OURS]
        assert flops[forward.KNOCKOUT] > flops[forward.OURS]


def test_more_arithmetic_is_seen(runs, monkeypatch):
    before = forward.count_flops(runs[forward.OURS])
    once = GatedMLP.forward
    monkeypatch.setattr(GatedMLP, "forward", lambda self, x: once(self, x) + 0 * self.down_proj(self.up_proj(x)))
    shape = forward.TINY
    extra = 2 * N_TOKENS * 2 * shape.d_model * shape.d_mlp * shape.n_layers
    assert forward.count_flops(runs[forward.OURS]) == before + extra


def test_torch_alone_would_not_see_attention(runs, monkeypatch):
    """When this fails, torch counts its fused kernel for processors itself, and FUSED_ON_CPU can go."""
    with_attention = forward.count_flops(runs[forward.PEER])
    monkeypatch.setattr(flops, "FUSED_ON_CPU", {})
    shape = forward.TINY
    attention = 4 * N_TOKENS**2 * shape.n_heads * shape.d_head * shape.n_layers
    assert forward.count_flops(runs[forward.PEER]) == with_attention - attention


def test_peak_memory_is_what_lives_at_one_time():
    megabyte = torch.empty(2**18)
    before: list[torch.Tensor] = []
    forward.peak_bytes(lambda: before.append(megabyte.clone()))  # the profiler knows the sizes that it saw allocated

    def one_then_three() -> torch.Tensor:
        before.clear()  # freed here, but not ours: must not hide a megabyte of what follows
        one = megabyte + 1
        del one
        return torch.cat([megabyte + 1, megabyte + 2]).sum()

    assert forward.peak_bytes(one_then_three) == 4 * 2**20  # two sums and their concatenation, twice as large


def test_a_cache_is_paid_for_in_memory(runs):
    plain, cached = (forward.peak_bytes(runs[name]) for name in (forward.OURS, forward.CACHED))
    shape = forward.TINY
    assert cached >= plain + 4 * N_TOKENS * shape.d_model * (shape.n_layers - 1)


def test_each_time_has_a_peer_next_to_it_in_turns():
    calls: list[str] = []
    timed = forward.time_pairs({name: lambda name=name: calls.append(name) for name in (forward.PEER, "a", "b")}, 2)
    peer = forward.PEER
    assert calls == [peer, "a", peer, "b", "a", peer, "b", peer]
    assert {name: len(pairs) for name, pairs in timed.items()} == {"a": 2, "b": 2}


def test_ratios_are_taken_pair_by_pair():
    figures = forward.summarise([(1.0, 1.0), (3.0, 2.0), (8.0, 4.0)])
    assert figures["ratio_median"] == 1.5
    assert figures["ratio_quartiles"] == [1.25, 1.75]
    assert figures["ratio_min"] == figures["ratio_of_minima"] == 1
    assert (figures["cpu_ms_median"], figures["cpu_ms_min"]) == (3000, 1000)


def test_hook_point_calls_are_counted(report):
    for row in report["rows"]:
        points = row["hook_points"]
        # per layer: 5 in the residual stream, 2 norms, 6 in attention, 3 in the MLP; then 2 embeddings, a norm, logits
        assert points["calls_per_forward"] == 16 * forward.TINY.n_layers + 4
        assert points["hook_points"] > points["calls_per_forward"]
        assert points["microseconds_per_call"] > points["microseconds_of_a_bare_call"] > 0


def test_make_bench_runs_all_benchmarks(monkeypatch, tmp_path):
    assert FOLDER / "forward.py" in run.benchmarks()
    assert FOLDER / "run.py" not in run.benchmarks()
    monkeypatch.setattr(run, "HERE", tmp_path)
    (tmp_path / "good.py").write_text("import sys; from pathlib import Path; Path(sys.argv[2]).write_text('{}')")
    out = tmp_path / "out"
    out.mkdir()
    good = CliRunner().invoke(run.main, ["--out", str(out)], catch_exceptions=False)
    assert good.exit_code == 0
    assert [path.name for path in out.iterdir()] == ["good.json"]
    (tmp_path / "bad.py").write_text("raise SystemExit(3)")
    bad = CliRunner().invoke(run.main, ["--out", str(out)])
    assert bad.exit_code == 1
    assert "these benchmarks failed: bad" in bad.output


def test_a_pass_holds_no_more_at_one_time_than_transformers():
    """Memory peaks in the MLP; one more [pos, d_model] that a name keeps alive there is seen."""
    shape = replace(forward.TINY, d_model=64, d_mlp=192, d_vocab=16)
    with torch.no_grad():
        runs = forward.variants(forward.make_pair(shape), forward.make_inputs(256, shape.d_vocab))
        peaks = {}
        for name in (forward.PEER, forward.OURS):
            runs[name]()
            peaks[name] = forward.peak_bytes(runs[name])
    assert peaks[forward.OURS] <= peaks[forward.PEER] + 256 * 64  # a quarter of the residual stream
