"""What a sweep of interventions costs on the replay engine: arithmetic, time and memory, in clean forward passes.

`python benchmarks/sweep.py --out benchmarks/results/sweep.json` (see README.md for how to read the figures).
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import forward
import torch
from forward import Pair, Shape
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hooked_av.analyses.flow.windows import layer_window
from hooked_av.decoder.flops import count_flops
from hooked_av.interventions.specs import Intervention, ablate, block_attention, patch
from hooked_av.model.transformer import HookedAVTransformer
from hooked_av.prompt.inputs import AVInputs

MAP = "knockout map, 6 pathways"
PATHWAYS = (
    ("audio", "question"), ("video", "question"), ("audio", "last"), ("video", "last"), ("question", "last"),
    ("last", "last"),
)  # fmt: skip
LIMITS = {"map_flops": 2.0, "map_time": 3.0, "of_cone": 1.1, "map_peak": 1.5}  # in clean passes; cones; clean peaks


@dataclass(frozen=True)
class Job:
    """A decoder, the media tokens of its prompt, and the window that is cut."""

    name: str
    shape: Shape
    n_media: int
    width: int
    sweeps: tuple[str, ...]
    n_naive: int = 0  # cells of the map that are also run as full passes
    peak: bool = False


FULL = Shape(n_layers=12, d_model=896, n_heads=14, n_key_value_heads=2, d_head=64, d_mlp=4864)
QUARTER = Shape(n_layers=12, d_model=224, n_heads=14, n_key_value_heads=2, d_head=16, d_mlp=1216)
DEEP = Shape(n_layers=28, d_model=224, n_heads=14, n_key_value_heads=2, d_head=16, d_mlp=1216)
EIGHTH = Shape(n_layers=12, d_model=112, n_heads=14, n_key_value_heads=2, d_head=8, d_mlp=608)
SWEEPS = (MAP, "audio <-> video", "early media patched", "to the question", "to last", "heads at last")
JOBS = (
    Job("12 layers of 896", FULL, 1000, 5, (MAP,), n_naive=3),
    Job("12 layers of 224", QUARTER, 1000, 5, SWEEPS),
    Job("28 layers of 224", DEEP, 1000, 9, (MAP,)),
    Job("8k tokens, 12 layers of 112", EIGHTH, 8152, 5, (MAP,), peak=True),
    Job("8k tokens, 4 heads", replace(EIGHTH, n_heads=4, d_head=28), 8152, 5, (MAP,), peak=True),
)
QUICK_JOBS = (Job("tiny", forward.TINY, 24, 1, SWEEPS, n_naive=1, peak=True),)


def make_inputs(n_media: int, d_vocab: int) -> AVInputs:
    """8 tokens of text, media (video and audio in turns, as in a film of 2 s pieces), 32 tokens of text."""
    n_pos = n_media + 40
    tokens = torch.randint(d_vocab, (1, n_pos), generator=torch.Generator().manual_seed(0))
    media = range(8, 8 + n_media)
    is_audio = [(row - 8) % 125 >= 75 for row in media]  # of each 125 tokens the last 50 are sound
    spans = {
        "audio": [row for row, heard in zip(media, is_audio, strict=True) if heard] or [media[-1]],
        "video": [row for row, heard in zip(media, is_audio, strict=True) if not heard],
        "early": list(media)[: max(1, n_media // 10)],
        "question": range(8 + n_media, n_pos - 4),
    }
    inputs = AVInputs.from_tokens(tokens)
    for name, rows in spans.items():
        inputs = inputs.with_span(name, list(rows))
    return inputs


def cuts(pathways: Sequence[tuple[str, str]], shape: Shape, width: int) -> list[Intervention]:
    """Every pathway cut around every layer."""
    windows = [layer_window(layer, shape.n_layers, width) for layer in range(shape.n_layers)]
    return [block_attention(keys=k, queries=q, layers=window) for k, q in pathways for window in windows]


def sweep_of(name: str, job: Job, inputs: AVInputs) -> list[Intervention]:
    """The interventions of a sweep, by its name."""
    shape = job.shape
    if name == "early media patched":
        values = torch.randn(len(inputs.spans["early"]), shape.d_model, generator=torch.Generator().manual_seed(1))
        return [patch(f"blocks.{layer}.hook_resid_pre", "early", values) for layer in range(shape.n_layers)]
    if name == "heads at last":
        grid = [(layer, head) for layer in range(shape.n_layers) for head in range(shape.n_heads)]
        return [ablate(f"blocks.{layer}.attn.hook_z", "last", heads=head) for layer, head in grid]
    chosen = {
        MAP: PATHWAYS,
        "audio <-> video": (("audio", "video"), ("video", "audio")),
        "to the question": PATHWAYS[:2],
        "to last": PATHWAYS[2:],
    }
    return cuts(chosen[name], shape, job.width)


def cone_flops(shape: Shape, n_pos: int, layer: int, row: int) -> int:
    """One intervention by definition: rows and layers from the first touched one, in the last layer only `last`."""
    d, kv, heads = shape.d_model, shape.n_key_value_heads * shape.d_head, shape.n_heads * shape.d_head

    def block(n_rows: int, n_keys_made: int) -> int:
        per_row = 2 * d * heads + 3 * d * shape.d_mlp + 2 * n_pos * heads
        return 2 * (n_rows * per_row + n_keys_made * 2 * d * kv)

    n_rows, n_layers = n_pos - row, shape.n_layers - layer
    return (n_layers - 1) * block(n_rows, n_rows) + block(1, n_rows) + 2 * d * shape.d_vocab


def first_touched(spec: Any, inputs: AVInputs) -> tuple[int, int]:
    """The first layer and row that a spec touches, read off the spec itself."""
    if hasattr(spec, "name"):
        return int(spec.name.split(".")[1]), int(inputs.spans[spec.span].positions[0])
    keys = inputs.spans[spec.keys].positions
    return spec.layers[0], int(min(row for row in inputs.spans[spec.queries].positions if row >= keys[0]))


@dataclass(frozen=True)
class Cost:
    """What one run cost."""

    flops: int
    cpu_seconds: float
    wall_seconds: float


def cost_of(run: Callable[[], Any]) -> tuple[Any, Cost]:
    """Arithmetic of one run and time of another: the counter looks at every operation, which takes time itself."""
    flops = count_flops(run)
    cpu, wall = time.process_time(), time.perf_counter()
    result = run()
    return result, Cost(flops, time.process_time() - cpu, time.perf_counter() - wall)


def measure_sweep(name: str, job: Job, model: HookedAVTransformer, inputs: AVInputs, clean: Cost) -> dict[str, Any]:
    """A sweep with its baseline; ratios to a clean pass, and to the sum of its cones."""
    specs = sweep_of(name, job, inputs)
    touched = "question|last" if name == MAP else None
    baseline, made = cost_of(lambda: model.baseline(inputs, touched=touched))
    found, swept = cost_of(lambda: baseline.run(specs))
    cones = sum(cone_flops(job.shape, inputs.n_pos, *first_touched(spec, inputs)) for spec in specs)
    return {
        "cells": len(specs),
        "finite": bool(found.logits.isfinite().all()),
        "flops": (made.flops + swept.flops) / clean.flops,
        "flops_without_baseline": swept.flops / clean.flops,
        "flops_per_cell": swept.flops / clean.flops / len(specs),
        "of_cone": swept.flops / cones,
        "cpu_time": (made.cpu_seconds + swept.cpu_seconds) / clean.cpu_seconds,
        "wall_time": (made.wall_seconds + swept.wall_seconds) / clean.wall_seconds,
        "cpu_seconds": made.cpu_seconds + swept.cpu_seconds,
        "baseline_megabytes": baseline.n_bytes / 1e6,
    }


def measure_naive(job: Job, pair: Pair, inputs: AVInputs, clean: Cost) -> list[dict[str, Any]]:
    """Cells of the map as full passes: ours with a spec, and transformers with a 4-D mask."""
    specs = sweep_of(MAP, job, inputs)
    step = max(1, len(specs) // job.n_naive)
    replayed = pair.model.baseline(inputs).run(specs[step // 2 :: step][: job.n_naive])
    cells = []
    for spec, logits in zip(specs[step // 2 :: step][: job.n_naive], replayed.logits, strict=True):
        ours, our_cost = cost_of(lambda spec=spec: pair.model(inputs, interventions=spec, logits_at="last"))
        theirs, their_cost = cost_of(lambda spec=spec: transformers_with_mask(pair, inputs, spec))
        cells.append(
            {
                "cell": str(spec),
                "flops": our_cost.flops / clean.flops,
                "cpu_time": our_cost.cpu_seconds / clean.cpu_seconds,
                "transformers_cpu_time": their_cost.cpu_seconds / clean.cpu_seconds,
                "replay_differs_by": float((logits - ours[0, -1]).abs().max()),
                "transformers_differs_by": float((theirs - ours[0, -1]).abs().max()),
                "largest_logit": float(ours.abs().max()),
            }
        )
    return cells


def transformers_with_mask(pair: Pair, inputs: AVInputs, spec: Any) -> Tensor:
    """transformers' own forward pass with a dense mask in the layers that are cut: what one does without us."""
    n_pos = inputs.n_pos
    allowed = torch.ones(n_pos, n_pos, dtype=torch.bool).tril()
    rows, keys = (torch.from_numpy(inputs.spans[name].positions.copy()) for name in (spec.queries, spec.keys))
    allowed[rows[:, None], keys] = False
    mask = torch.zeros(1, 1, n_pos, n_pos).masked_fill(~allowed, torch.finfo(torch.float32).min)
    text_model: Any = getattr(pair.thinker.model, "language_model", pair.thinker.model)

    def give(_module: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return args, {**kwargs, "attention_mask": mask}

    handles = [text_model.layers[i].register_forward_pre_hook(give, with_kwargs=True) for i in spec.layers]
    try:
        ids, ones = inputs.input_ids, inputs.attention_mask.long()
        return pair.thinker(input_ids=ids, attention_mask=ones, use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def measure(job: Job) -> dict[str, Any]:
    """All figures of one job."""
    pair, inputs = forward.make_pair(job.shape), make_inputs(job.n_media, job.shape.d_vocab)
    model = pair.model
    model(inputs, logits_at="last")  # the first pass pays for everybody's memory
    _, clean = cost_of(lambda: model(inputs, logits_at="last"))
    row: dict[str, Any] = {**asdict(job), "clean": asdict(clean)}
    row["sweeps"] = {name: measure_sweep(name, job, model, inputs, clean) for name in job.sweeps}
    row["naive"] = measure_naive(job, pair, inputs, clean) if job.n_naive else []
    if job.peak:
        specs = sweep_of(MAP, job, inputs)
        plain = forward.peak_bytes(lambda: model(inputs, logits_at="last"))
        swept = forward.peak_bytes(lambda: model.baseline(inputs, touched="question|last").run(specs).logits)
        row["peak_bytes"] = {"clean": plain, "map": swept, "ratio": swept / plain}
    return row


def table(row: dict[str, Any]) -> Table:
    """One job as a table."""
    out = Table(title=f"{row['name']}, {row['n_media'] + 40} tokens, window {row['width']}; in clean passes")
    headings = ("", "cells", "FLOPs with baseline", "FLOPs a cell", "of its cone", "CPU time", "wall time")
    for heading in headings:
        out.add_column(heading, justify="right" if heading else "left")
    for name, f in row["sweeps"].items():
        figures = (f["flops"], f["flops_per_cell"], f["of_cone"], f["cpu_time"], f["wall_time"])
        out.add_row(name, str(f["cells"]), *(f"{figure:.4f}" for figure in figures))
    return out


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here, as JSON.")
@click.option("--quick", is_flag=True, help="Tiny sizes: does the benchmark run? Its times mean nothing.")
@click.option("--job", "names", multiple=True, type=click.Choice([job.name for job in JOBS]), help="Only these.")
def main(out: Path | None, quick: bool, names: tuple[str, ...]) -> None:
    """Measure sweeps on the replay engine (about ten minutes)."""
    torch.set_num_threads(1)
    console, rows = Console(width=140), []
    for job in QUICK_JOBS if quick else [job for job in JOBS if not names or job.name in names]:
        rows.append(measure(job))
        console.print(table(rows[-1]))
        console.print(rows[-1]["naive"], rows[-1].get("peak_bytes", ""))
    if out is not None:
        report = {"benchmark": "sweep", "quick": quick, "machine": forward.machine(), "limits": LIMITS, "rows": rows}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
