"""What one forward pass costs: processor time, arithmetic and peak memory, against transformers on the same weights.

`python benchmarks/forward.py --out benchmarks/results/forward.json` (see README.md for how to read the figures).
"""

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import click
import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

from hooked_av.decoder.flops import count_flops
from hooked_av.hooks.point import HookPoint
from hooked_av.interventions.specs import block_attention
from hooked_av.model.random import random_omni_config, randomise
from hooked_av.model.transformer import HookedAVTransformer
from hooked_av.prompt.inputs import AVInputs

RESID_POST = "blocks.*.hook_resid_post"
PATTERN_AT_LAST = "blocks.*.attn.hook_pattern@last"

PEER = "transformers"
NULL = "transformers again"  # the same code: how far its ratio is from 1 is the noise of the run
PEER_HOOKS = "transformers, layers kept"
OURS = "hooked_av"
CACHED = "hooked_av, resid_post cached"
PATTERN = "hooked_av, pattern@last cached"
KNOCKOUT = "hooked_av, span cut"

LIMITS = {OURS: 1.00, CACHED: 1.03}  # of the peer's processor time

Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Shape:
    """The decoder that is measured; the head is kept small so that it does not drown the layers."""

    n_layers: int = 8
    d_model: int = 512
    n_heads: int = 8
    n_key_value_heads: int = 2
    d_head: int = 64
    d_mlp: int = 1408
    d_vocab: int = 1000


@dataclass(frozen=True)
class Job:
    """One row of the table: a decoder, a prompt length, and how many pairs are timed for each variant."""

    shape: Shape
    n_tokens: int
    rounds: int


@dataclass(frozen=True)
class Pair:
    """The same tensors, run by transformers and by hooked_av."""

    thinker: nn.Module
    model: HookedAVTransformer


TINY = Shape(n_layers=2, d_model=32, n_heads=4, n_key_value_heads=2, d_head=8, d_mlp=48, d_vocab=60)
REAL_VOCABULARY = Shape(d_vocab=151_936)
JOBS = (Job(Shape(), 128, 60), Job(Shape(), 1024, 12), Job(Shape(), 2048, 10), Job(REAL_VOCABULARY, 128, 16))
QUICK_JOBS = (Job(TINY, 16, 2), Job(TINY, 32, 2))


def make_pair(shape: Shape, seed: int = 0) -> Pair:
    """A random thinker of transformers, and our model around its tensors."""
    half = shape.d_head // 2
    sections = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    config = random_omni_config(
        num_hidden_layers=shape.n_layers,
        hidden_size=shape.d_model,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_key_value_heads,
        head_dim=shape.d_head,
        intermediate_size=shape.d_mlp,
        vocab_size=shape.d_vocab,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        thinker = Thinker._from_config(config, attn_implementation="sdpa", dtype=torch.float32).eval()
        randomise(thinker)
    return Pair(thinker, HookedAVTransformer.from_hf(thinker))


def make_inputs(n_tokens: int, d_vocab: int) -> AVInputs:
    """Random tokens; "heard" stands for a sound early in the prompt, "asked" for the question at its end."""
    tokens = torch.randint(d_vocab, (1, n_tokens), generator=torch.Generator().manual_seed(0))
    inputs = AVInputs.from_tokens(tokens).with_span("heard", range(n_tokens // 8, n_tokens // 2))
    return inputs.with_span("asked", range(n_tokens - n_tokens // 8, n_tokens))


def variants(pair: Pair, inputs: AVInputs) -> dict[str, Run]:
    """What is compared, by name; every one returns logits at every position."""
    model, layers = pair.model, range(len(pair.model.blocks))
    cut = block_attention(keys="heard", queries="asked", layers=layers)

    def peer() -> Tensor:
        ids, mask = inputs.input_ids, inputs.attention_mask.long()
        return pair.thinker(input_ids=ids, attention_mask=mask, use_cache=False).logits

    return {
        PEER: peer,
        NULL: peer,
        PEER_HOOKS: lambda: _with_layer_outputs(pair.thinker, peer),
        OURS: lambda: model(inputs),
        CACHED: lambda: model.run_with_cache(inputs, names_filter=RESID_POST)[0],
        PATTERN: lambda: model.run_with_cache(inputs, names_filter=PATTERN_AT_LAST)[0],
        KNOCKOUT: lambda: model(inputs, interventions=[cut]),
    }


def _with_layer_outputs(thinker: Any, run: Run) -> Tensor:
    """The least that keeping every residual stream costs by hand: one raw hook and one copy for each layer."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _arguments: Any, output: Any) -> None:
        kept.append((output if isinstance(output, Tensor) else output[0]).clone())

    text_model = getattr(thinker.model, "language_model", thinker.model)  # one level down since transformers 5.21
    handles = [layer.register_forward_hook(keep) for layer in text_model.layers]
    try:
        return run()
    finally:
        for handle in handles:
            handle.remove()


# --- time ------------------------------------------------------------------------------------------------------------


def cpu_seconds(run: Run) -> float:
    """Processor time of this process: what other processes do with the machine counts for little."""
    start = time.process_time()
    run()
    return time.process_time() - start


def time_pairs(runs: Mapping[str, Run], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """For each variant, (its seconds, the peer's seconds right next to it), in turns of who goes first."""
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in runs if name != PEER}
    gc.collect()
    gc.freeze()  # the garbage of imports and loading is nobody's; what a run leaves behind stays its own
    for round_number in range(rounds):
        for name in pairs:
            if round_number % 2:
                seconds, peer_seconds = cpu_seconds(runs[name]), cpu_seconds(runs[PEER])
            else:
                peer_seconds, seconds = cpu_seconds(runs[PEER]), cpu_seconds(runs[name])
            pairs[name].append((seconds, peer_seconds))
    gc.unfreeze()
    return pairs


def summarise(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Ratios pair by pair (median, quartiles, least), and the ratio of the two shortest times."""
    ratios = [seconds / peer_seconds for seconds, peer_seconds in pairs]
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    fastest, fastest_peer = (min(times) for times in zip(*pairs, strict=True))
    return {
        "cpu_ms_median": 1e3 * statistics.median(seconds for seconds, _ in pairs),
        "cpu_ms_min": 1e3 * fastest,
        "ratio_median": median,
        "ratio_quartiles": [low, high],
        "ratio_min": min(ratios),
        "ratio_of_minima": fastest / fastest_peer,
    }


# --- arithmetic and memory -------------------------------------------------------------------------------------------


def peak_bytes(run: Run) -> int:
    """The largest sum of tensor bytes that a run held at one time, beyond what lived before it: exact, no sampling."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        record.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    return _peak(sorted((e for e in events if e.get("name") == "[memory]"), key=lambda event: event["ts"]))


def _peak(events: Sequence[Mapping[str, Any]]) -> int:
    """What was allocated before the run and is freed in it does not count: that would hide as much of the run's own."""
    held: dict[int, int] = {}
    live = peak = 0
    for event in events:
        address, change = event["args"]["Addr"], event["args"]["Bytes"]
        if change > 0:
            held[address] = change
            live += change
        else:
            live -= held.pop(address, 0)
        peak = max(peak, live)
    return peak


# --- hook points -----------------------------------------------------------------------------------------------------


def hook_point_cost(pair: Pair, inputs: AVInputs, n_calls: int) -> dict[str, float]:
    """What a hook point costs while nobody listens, next to calling an empty function, and how often it is called."""
    point, tensor = HookPoint("batch pos d_model"), torch.zeros(1)

    def bare(tensor: Tensor) -> Tensor:
        return tensor

    microseconds = {name: _microseconds(call, tensor, n_calls) for name, call in {"point": point, "bare": bare}.items()}
    n_points_called = count_calls(pair.model, inputs)
    return {
        "hook_points": len(pair.model.hook_dict),
        "calls_per_forward": n_points_called,
        "microseconds_per_call": microseconds["point"],
        "microseconds_of_a_bare_call": microseconds["bare"],
        "milliseconds_per_forward": n_points_called * microseconds["point"] / 1e3,
    }


def _microseconds(call: Callable[[Tensor], Tensor], tensor: Tensor, n_calls: int, repeats: int = 5) -> float:
    """The shortest of several loops, without the loop's own cost."""

    def loop() -> float:
        start = time.process_time()
        for _ in range(n_calls):
            call(tensor)
        return time.process_time() - start

    def empty() -> float:
        start = time.process_time()
        for _ in range(n_calls):
            pass
        return time.process_time() - start

    return max(0.0, min(loop() for _ in range(repeats)) - min(empty() for _ in range(repeats))) / n_calls * 1e6


def count_calls(model: HookedAVTransformer, inputs: AVInputs) -> int:
    """How many times a forward pass without hooks calls a hook point."""
    called = 0
    original = HookPoint.__call__

    def counting(point: HookPoint, tensor: Tensor) -> Tensor:
        nonlocal called
        called += 1
        return original(point, tensor)

    with patch.object(HookPoint, "__call__", counting):
        model(inputs)
    return called


# --- report ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def measure(job: Job, n_calls: int = 200_000) -> dict[str, Any]:
    """All figures of one job; `n_calls` of a hook point are timed."""
    pair = make_pair(job.shape)
    inputs = make_inputs(job.n_tokens, job.shape.d_vocab)
    runs = variants(pair, inputs)
    wanted = runs[PEER]()
    rows = {
        name: {
            "logits_equal": torch.equal(run(), wanted),
            "flops": count_flops(run),
            "peak_bytes": peak_bytes(run),
        }
        for name, run in runs.items()
    }
    pairs = time_pairs(runs, job.rounds)
    peer_times = [(seconds, seconds) for timed in pairs.values() for _, seconds in timed]
    for name in runs:
        rows[name] |= summarise(peer_times if name == PEER else pairs[name])
    return {**asdict(job), "variants": rows, "hook_points": hook_point_cost(pair, inputs, n_calls)}


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "allocator": "keeps freed memory" if os.environ.get("MALLOC_TRIM_THRESHOLD_") else "default",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table(row: Mapping[str, Any]) -> Table:
    """One job as a table."""
    shape = row["shape"]
    title = f"{row['n_tokens']} tokens, {shape['n_layers']} layers of {shape['d_model']}, {shape['d_vocab']} words"
    out = Table(title=title)
    for heading in ("", "CPU ms", "ratio", "limit", "quartiles", "least", "GFLOP", "peak MB", "same logits"):
        out.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, figures in row["variants"].items():
        low, high = figures["ratio_quartiles"]
        out.add_row(
            name,
            f"{figures['cpu_ms_median']:.1f}",
            f"{figures['ratio_median']:.3f}",
            f"{LIMITS[name]:.2f}" if name in LIMITS else "",
            f"{low:.3f}-{high:.3f}",
            f"{figures['ratio_min']:.3f}",
            f"{figures['flops'] / 1e9:.3f}",
            f"{figures['peak_bytes'] / 1e6:.1f}",
            "yes" if figures["logits_equal"] else "no",
        )
    return out


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here, as JSON.")
@click.option("--quick", is_flag=True, help="Tiny sizes: does the benchmark run? Its times mean nothing.")
def main(out: Path | None, quick: bool) -> None:
    """Measure a forward pass against transformers on the same weights (about ten minutes)."""
    torch.set_num_threads(1)
    console = Console(width=120)
    rows = []
    for job in QUICK_JOBS if quick else JOBS:
        rows.append(measure(job, **({"n_calls": 500} if quick else {})))
        console.print(table(rows[-1]))
        points = rows[-1]["hook_points"]
        console.print(
            f"{points['calls_per_forward']} hook point calls of {points['microseconds_per_call']:.3f} us "
            f"(an empty function: {points['microseconds_of_a_bare_call']:.3f} us) = "
            f"{points['milliseconds_per_forward']:.3f} ms a pass\n"
        )
    if out is not None:
        report = {"benchmark": "forward", "quick": quick, "machine": machine(), "limits": LIMITS, "rows": rows}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
