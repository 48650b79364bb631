"""Full-size models on one GPU: forward pass, knockout map, exactness, cuts, generation and memory, in clean passes.

`python benchmarks/large.py --shape 3b --shape 7b --device cuda --out benchmarks/results/large.json` (see README.md for
how to read the figures). Random weights of the released shapes, made on the device; a 10 s clip, sampled as released.
"""

import gc
import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import forward
import numpy as np
import torch
from parts.full_size import (
    SIZES,
    Bench,
    compare,
    count_operations,
    difference,
    make_bench,
    peak_bytes,
    wait,
    without_media,
)

from hooked_av.decoder.flops import count_flops
from hooked_av.interventions.specs import (
    Intervention,
    ablate,
    add_vector,
    as_specs,
    block_attention,
    drop_tokens,
    patch,
)

LIMITS = {"map_flops": 2.0, "map_time": 3.0, "cut": 1.15, "map_peak": 1.5}  # in clean passes, uncut passes, clean peaks

# --- sections --------------------------------------------------------------------------------------------------------


def measure_forward(bench: Bench) -> dict[str, Any]:
    """Every logit of a clean pass, against transformers; of the decoder alone, and of the whole with the encoders."""
    out = {}
    for name, inputs in {"decoder": bench.inputs, "with encoders": bench.film}.items():
        ours, theirs = (lambda inputs=inputs: bench.model(inputs)), (lambda inputs=inputs: bench.published(inputs))
        found, wanted = ours(), theirs()
        apart = max(float((a - b).abs().max()) for a, b in zip(found.split(512, 1), wanted.split(512, 1), strict=True))
        out[name] = {
            "logits_equal": torch.equal(found, wanted),
            "logits_differ_by": apart,
            "finite": bool(found.isfinite().all()),
            "clean_std": float(found[0, -1].float().std()),
        }
        del found, wanted
        out[name] |= compare(ours, theirs, bench)
    flops, theirs = count_flops(lambda: bench.model(bench.inputs)), count_flops(lambda: bench.published(bench.inputs))
    last = compare(bench.clean, lambda: bench.model(bench.inputs), bench)
    return {**out, "flops": flops, "flops_ratio": flops / theirs, "logits of the last only, over all": last}


def measure_map(bench: Bench) -> dict[str, Any]:
    """Six pathways around every layer, the baseline included, in clean passes; some cells also as full passes."""
    specs, unit = bench.map_specs(), count_flops(bench.clean)
    flops = count_flops(bench.run_map)
    timed = compare(bench.run_map, bench.clean, bench, repeats=2)
    baseline = bench.model.baseline(bench.inputs, touched="question|last")
    made = compare(lambda: bench.model.baseline(bench.inputs, touched="question|last"), bench.clean, bench, repeats=2)
    found, clean = baseline.run(specs).logits, bench.clean()
    assert found is not None  # for the type checker: logits are what is read
    step = max(1, len(specs) // bench.size.n_naive)
    cells = {}
    for number in range(step // 2, len(specs), step):
        naive = bench.model(bench.inputs, interventions=specs[number], logits_at="last")
        cells[str(specs[number])] = difference(found[number], naive, clean)
    naive = compare(
        lambda: bench.model(bench.inputs, interventions=specs[0], logits_at="last"), bench.clean, bench, repeats=2
    )
    return {
        "cells": len(specs),
        "flops": flops / unit,
        "operations": count_operations(bench.run_map),
        "operations_of_a_clean_pass": count_operations(bench.clean),
        "time": timed,
        "time_of_baseline": made,
        "time_of_a_naive_cell": naive,
        "finite": bool(found.isfinite().all()),
        "sample": cells,
    }


def random_specs(bench: Bench) -> list[tuple[Intervention, ...]]:
    """Twelve interventions, of every kind, at random layers."""
    rng, n = np.random.default_rng(0), bench.model.cfg.n_layers
    at = lambda: int(rng.integers(n - 1))  # noqa: E731 - the last layer has little to change
    heads = rng.permutation(bench.model.cfg.n_heads)[:2].tolist()
    name = f"blocks.{at()}.hook_resid_pre"
    _, other = bench.model.run_with_cache(without_media(bench.film, 2), names_filter=f"{name}@video", logits_at="last")
    vector = torch.randn(bench.model.cfg.d_model, generator=torch.Generator().manual_seed(0)).to(bench.device)
    cut = block_attention(keys="audio", queries="question", layers=range(at(), n))
    some = [
        cut,
        block_attention(keys="video", queries="last", layers=None),
        block_attention(keys="video", queries="audio", layers=at()),
        block_attention(keys="audio|video", queries="question", layers=range(n), heads=heads),
        ablate(f"blocks.{at()}.hook_mlp_out", "video"),
        ablate(f"blocks.{at()}.hook_resid_post", "audio", "mean"),
        ablate(f"blocks.{at()}.attn.hook_z", "question|last", heads=heads),
        patch(name, "video", other),
        add_vector(f"blocks.{at()}.hook_resid_post", "system", vector, 4.0),
        drop_tokens("audio", at()),
        drop_tokens("video", at(), kv="drop"),
        [
            cut,
            add_vector(f"blocks.{at()}.hook_attn_out", "question", vector),
            ablate(f"blocks.{n - 1}.attn.hook_v", "video"),
        ],
    ]
    return [as_specs(specs) for specs in some]


def measure_exactness(bench: Bench) -> dict[str, Any]:
    """Replay against the full pass, for twelve interventions of every kind."""
    several, clean = random_specs(bench), bench.clean()
    found = bench.model.baseline(bench.inputs).run(several).logits
    cases = {}
    for specs, logits in zip(several, found, strict=True):
        naive = bench.model(bench.inputs, interventions=specs, logits_at="last")
        cases["; ".join(str(spec) for spec in specs)] = difference(logits, naive, clean)
    # what rounding alone does: the same pass with its MLPs a few rows at a time, as a baseline runs them
    noise = difference(bench.model.baseline(bench.inputs).logits, clean, clean)
    return {
        "largest_difference": max(case["differs_by"] for case in cases.values()),
        "argmax_equal": sum(case["argmax_equal"] for case in cases.values()),
        "clean_pass_differs_from_its_baseline_by": noise["differs_by"],
        "cases": cases,
    }


def measure_cut(bench: Bench) -> dict[str, Any]:
    """A span cut in every layer, over the same pass uncut: in a text, and in the prompt of the clip."""
    text = forward.make_inputs(bench.size.n_cut, 100_000).to(bench.device)
    everywhere = range(bench.model.cfg.n_layers)
    cuts = {
        f"an eighth cannot read three, {text.n_pos} tokens": (text, "heard", "asked"),
        f"audio → question, {bench.inputs.n_pos} tokens": (bench.inputs, "audio", "question"),
        f"audio → video, {bench.inputs.n_pos} tokens": (bench.inputs, "audio", "video"),
    }
    out = {}
    for name, (inputs, keys, queries) in cuts.items():
        cut = block_attention(keys=keys, queries=queries, layers=everywhere)
        plain = lambda inputs=inputs: bench.model(inputs, logits_at="last")  # noqa: E731
        blocked = lambda inputs=inputs, cut=cut: bench.model(inputs, interventions=cut, logits_at="last")  # noqa: E731
        out[name] = compare(blocked, plain, bench)
        out[name]["flops"] = count_flops(blocked) / count_flops(plain)
    return out


class Clock:
    """Notes when tokens come; transformers calls it a streamer, and we `on_token`."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _tokens: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def measure_generation(bench: Bench) -> dict[str, Any]:
    """Greedy answers to the clip: time to the first token, and tokens a second from there on."""
    n_new, film = bench.size.n_new, bench.film

    def theirs(clock: Clock, n: int) -> list[int]:
        ids, mask = film.input_ids, film.attention_mask.long()
        bench.thinker.rope_deltas = bench.thinker.model.rope_deltas = None
        plain = {"max_new_tokens": n, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        given = {**film.features, "use_audio_in_video": True, "streamer": clock, **plain}
        return bench.thinker.generate(input_ids=ids, attention_mask=mask, **given)[0, film.n_pos :].tolist()

    def ours(clock: Clock, n: int, **more: Any) -> list[int]:
        answer = bench.model.generate(film, max_new_tokens=n, stop_tokens=(), on_token=clock.put, **more)
        return list(answer.tokens[0])

    variants: dict[str, Callable[[Clock, int], list[int]]] = {
        "transformers": theirs,
        "hooked_av": ours,
        "hooked_av, audio → last|generated cut": lambda clock, n: ours(clock, n, interventions="audio->last|generated"),
    }
    return _generation_figures(variants, n_new, bench)


def _generation_figures(variants: Any, n_new: int, bench: Bench) -> dict[str, Any]:
    """Two answers of each after a short one that warms up; the decode time is that of the faster."""
    out: dict[str, Any] = {}
    for name, write in variants.items():
        write(Clock(), 2)
        for _ in range(2):
            clock = Clock()
            wait(bench.device)
            start = time.perf_counter()
            tokens = write(clock, n_new)
            first, *_, last = clock.times[-n_new:]  # transformers' streamer also gets the prompt
            row = {"to_first_seconds": first - start, "tokens_per_second": (n_new - 1) / (last - first)}
            if name not in out or row["tokens_per_second"] > out[name]["tokens_per_second"]:
                out[name] = {**row, "tokens": tokens}
    wanted, speed = out["transformers"]["tokens"], out["transformers"]["tokens_per_second"]
    for row in out.values():
        row["decode_time_ratio"] = speed / row["tokens_per_second"]
        same = [a == b for a, b in zip(row.pop("tokens"), wanted, strict=True)]
        row["equal_tokens"] = [*same, False].index(False)
    return out


def measure_memory(bench: Bench) -> dict[str, Any]:
    """The most that is held beyond the weights."""
    baseline = bench.model.baseline(bench.inputs, touched="question|last")
    kept = baseline.n_bytes
    del baseline
    runs = {
        "transformers": lambda: bench.published(bench.inputs),
        "hooked_av, every logit": lambda: bench.model(bench.inputs),
        "clean": bench.clean,
        "baseline": lambda: bench.model.baseline(bench.inputs, touched="question|last"),
        "map": bench.run_map,
    }
    peaks: dict[str, Any] = {name: peak_bytes(run, bench.device) for name, run in runs.items()}
    weights = sum(p.numel() * p.element_size() for p in bench.model.parameters())
    return {"weights": weights, "kept_by_baseline": kept, "peak_bytes": peaks, "ratio": peaks["map"] / peaks["clean"]}


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "forward": measure_forward,
    "map": measure_map,
    "exactness": measure_exactness,
    "cut": measure_cut,
    "generation": measure_generation,
    "memory": measure_memory,
}


def guarded(section: Callable[[Bench], dict[str, Any]], bench: Bench) -> dict[str, Any]:
    """A section's figures; if it fails, why, so that one failure does not cost a rented machine's other figures."""
    start = time.perf_counter()
    try:
        with torch.no_grad():
            figures = section(bench)
    except Exception:  # noqa: BLE001 - reported in the JSON and by the exit status
        figures = {"failed": traceback.format_exc()}
    return {"section_seconds": time.perf_counter() - start, **figures}


def measure(shape: str, device: torch.device, dtype: torch.dtype, sections: Sequence[str], note: Any) -> None:
    """All figures of one shape; `note(name, figures)` is called after each section."""
    start = time.perf_counter()
    bench = make_bench(shape, device, dtype)
    wait(device)
    note("built", {
        "section_seconds": time.perf_counter() - start,
        "dtype": str(dtype),
        "n_layers": bench.model.cfg.n_layers,
        "n_pos": bench.film.n_pos,
        "n_new": bench.size.n_new,
        "spans": {name: len(bench.film.spans[name]) for name in ("audio", "video", "question")},
        "sampling": dict(bench.film.settings)["sampling"],
    })  # fmt: skip
    for name in sections:
        note(name, guarded(SECTIONS[name], bench))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


@click.command()
@click.option("--shape", "shapes", multiple=True, type=click.Choice(list(SIZES)), default=["tiny"], show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cuda or cpu.")
@click.option("--dtype", default="bfloat16", show_default=True, type=click.Choice(["bfloat16", "float32"]))
@click.option("--section", "sections", multiple=True, type=click.Choice(list(SECTIONS)), default=list(SECTIONS))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here, as JSON.")
@click.option("--quick", is_flag=True, help="The tiny shape alone: does the benchmark run? Its times mean nothing.")
def main(
    shapes: Sequence[str], device: str, dtype: str, sections: Sequence[str], out: Path | None, quick: bool
) -> None:
    """Measure full-size models (3B and 7B need a GPU); a section that fails is reported, and the others still run."""
    place, machine = torch.device(device), forward.machine()
    if place.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(place)
    rows: dict[str, Any] = {}
    report = {"benchmark": "large", "quick": quick, "machine": machine, "limits": LIMITS, "shapes": rows}
    for shape in ["tiny"] if quick else shapes:
        rows[shape] = {}

        def note(name: str, figures: dict[str, Any], shape: str = shape) -> None:
            rows[shape][name] = figures
            click.echo(f"{shape}, {name}: {json.dumps(figures, indent=1, ensure_ascii=False)}")
            if out is not None:
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(report, indent=1) + "\n")

        measure(shape, place, getattr(torch, dtype), sections, note)
        gc.collect()
    failed = [f"{shape}, {name}" for shape, row in rows.items() for name, figures in row.items() if "failed" in figures]
    if failed:
        raise click.ClickException(f"these sections failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
