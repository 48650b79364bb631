"""The same knockouts side by side: hooked_av, transformers with hooks, nnsight, TransformerBridge, on the same weights.

`python benchmarks/peers.py --out benchmarks/results/peers.json` (see README.md for how to read the figures).
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import click
import forward
import sweep
import torch
from forward import Shape
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import Qwen2_5_VLConfig
from transformers import Qwen2_5_VLForConditionalGeneration as VL

from hooked_av.model.random import randomise
from hooked_av.model.transformer import HookedAVTransformer
from hooked_av.prompt.inputs import AVInputs

REPLAY = "hooked_av, the map by replay"
OURS = "hooked_av, a pass a cell"
HOOKS = "transformers + hooks, 4-D mask"
NNSIGHT = "nnsight, 4-D mask"
BRIDGE = "TransformerBridge, edit of hook_pattern"


class NotRunError(Exception):
    """Why a peer has no figures."""


@dataclass(frozen=True)
class Job:
    """A decoder, the media tokens of its prompt, the window that is cut, and how many cells the peers run."""

    shape: Shape
    n_media: int
    width: int
    n_cells: int


JOB = Job(Shape(n_layers=8, d_model=448, n_heads=7, n_key_value_heads=1, d_head=64, d_mlp=2432), 1000, 5, 3)
QUICK_JOB = Job(forward.TINY, 24, 1, 2)


def make_vl(shape: Shape) -> VL:
    """A random Qwen2.5-VL, which every one of them can wrap; its vision tower is not used."""
    half = shape.d_head // 2
    sections = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]
    text = {
        "hidden_size": shape.d_model,
        "num_hidden_layers": shape.n_layers,
        "num_attention_heads": shape.n_heads,
        "num_key_value_heads": shape.n_key_value_heads,
        "intermediate_size": shape.d_mlp,
        "vocab_size": shape.d_vocab,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
    }
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": shape.d_model}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, architectures=[VL.__name__])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VL._from_config(config, attn_implementation="sdpa", dtype=torch.float32).eval()
        randomise(model)
    return model


@dataclass(frozen=True)
class Bench:
    """The model, its prompt, and the cells of the knockout map."""

    vl: VL
    model: HookedAVTransformer
    inputs: AVInputs
    cells: list[Any]

    def published(self) -> Tensor:
        """transformers' clean pass."""
        ids, ones = self.inputs.input_ids, self.inputs.attention_mask.long()
        return self.vl(input_ids=ids, attention_mask=ones, use_cache=False, logits_to_keep=1).logits[0, -1]

    def mask(self, spec: Any) -> Tensor:
        """What is left of a layer's attention after a cut, as transformers takes it."""
        n_pos = self.inputs.n_pos
        allowed = torch.ones(n_pos, n_pos, dtype=torch.bool).tril()
        rows, keys = (torch.from_numpy(self.inputs.spans[name].positions.copy()) for name in (spec.queries, spec.keys))
        allowed[rows[:, None], keys] = False
        return torch.zeros(1, 1, n_pos, n_pos).masked_fill(~allowed, torch.finfo(torch.float32).min)

    def with_hooks(self, spec: Any) -> Tensor:
        """One cell by transformers."""
        mask = self.mask(spec)
        handles = [
            self.vl.model.language_model.layers[layer].register_forward_pre_hook(
                lambda module, args, kwargs: (args, {**kwargs, "attention_mask": mask}), with_kwargs=True
            )
            for layer in spec.layers
        ]
        try:
            return self.published()
        finally:
            for handle in handles:
                handle.remove()


def with_nnsight(bench: Bench) -> Callable[[Any], Tensor]:
    """One cell by nnsight: the same mask, given to the layers inside a trace."""
    try:
        wrapped = import_module("nnsight").NNsight(bench.vl)
    except ImportError as error:
        raise NotRunError(f"not installed (extra `bench`): {error}") from error
    ids, ones = bench.inputs.input_ids, bench.inputs.attention_mask.long()

    def run(spec: Any) -> Tensor:
        mask = bench.mask(spec)
        with wrapped.trace(input_ids=ids, attention_mask=ones, use_cache=False, logits_to_keep=1):
            for index in spec.layers:
                layer = wrapped.model.language_model.layers[index]
                args, kwargs = layer.inputs
                layer.inputs = (args, {**kwargs, "attention_mask": mask})
            logits = wrapped.output.logits.save()
        return logits[0, -1]

    return run


@contextmanager
def without_installing() -> Iterator[None]:
    """TransformerBridge 4.3 asks for torchvision (for pictures; there are none here), and runs pip if it is missing."""
    adapters = import_module("transformer_lens.model_bridge.architecture_adapter").ArchitectureAdapter
    helpers = import_module("transformer_lens.model_bridge.sources.transformers.helpers")
    with ExitStack() as stack:
        stack.enter_context(patch.object(adapters, "_check_required_libraries", lambda self: None))
        stack.enter_context(patch.object(helpers, "_ensure_torchvision", lambda: False))
        # should it find another way to pip, there is no index
        stack.enter_context(patch.dict(os.environ, {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}))
        yield


def with_bridge(bench: Bench) -> Callable[[Any], Tensor]:
    """One cell by TransformerBridge: blocked keys set to zero in `hook_pattern`, as one does it in TransformerLens."""
    try:
        bridge_class = import_module("transformer_lens.model_bridge").TransformerBridge
        with TemporaryDirectory() as folder, without_installing():
            bench.vl.config.save_pretrained(folder)
            bridge = bridge_class.boot_transformers(folder, hf_model=make_vl_like(bench.vl))
    except Exception as error:
        raise NotRunError(f"{type(error).__name__}: {error}") from error

    def run(spec: Any) -> Tensor:
        rows, keys = (torch.from_numpy(bench.inputs.spans[name].positions.copy()) for name in (spec.queries, spec.keys))

        def cut(pattern: Tensor, hook: Any) -> Tensor:
            pattern[:, :, rows[:, None], keys] = 0
            return pattern

        hooks = [(f"blocks.{layer}.attn.hook_pattern", cut) for layer in spec.layers]
        return bridge.run_with_hooks(bench.inputs.input_ids, fwd_hooks=hooks)[0, -1]

    return run


def make_vl_like(vl: VL) -> VL:
    """A copy: the bridge changes the modules that it wraps."""
    copy = VL._from_config(vl.config, attn_implementation="eager", dtype=torch.float32).eval()
    copy.load_state_dict(vl.state_dict())
    return copy


def measure_peer(make: Callable[[Bench], Callable[[Any], Tensor]], bench: Bench, job: Job, clean: Any) -> dict:
    """Some cells of the map, each a pass, against transformers with hooks."""
    try:
        run = make(bench)
        run(bench.cells[0])
        costs, differences, changes = [], [], []
        step = max(1, len(bench.cells) // job.n_cells)
        plain = bench.published()
        for spec in bench.cells[step // 2 :: step][: job.n_cells]:
            wanted = bench.with_hooks(spec)
            logits, cost = sweep.cost_of(lambda spec=spec: run(spec))
            costs.append(cost)
            differences.append(float((logits - wanted).abs().max()))
            changes.append(float((logits - plain).abs().max()))
    except NotRunError as reason:
        return {"not_run": str(reason)}
    return {
        "cells": len(costs),
        "flops_per_cell": sum(cost.flops for cost in costs) / len(costs) / clean.flops,
        "cpu_time_per_cell": min(cost.cpu_seconds for cost in costs) / clean.cpu_seconds,
        "differs_by": max(differences),
        "changes": max(changes),
    }


def measure_replay(bench: Bench, clean: Any) -> dict:
    """The whole map, the baseline included."""
    found, cost = sweep.cost_of(lambda: bench.model.baseline(bench.inputs, touched="question|last").run(bench.cells))
    step = max(1, len(bench.cells) // 3)
    wanted = torch.stack([bench.with_hooks(spec) for spec in bench.cells[::step]])
    return {
        "cells": len(bench.cells),
        "flops_per_cell": cost.flops / clean.flops / len(bench.cells),
        "cpu_time_per_cell": cost.cpu_seconds / clean.cpu_seconds / len(bench.cells),
        "differs_by": float((found.logits[::step] - wanted).abs().max()),
        "changes": float((found.logits[::step] - bench.published()).abs().max()),
    }


@torch.no_grad()
def measure(job: Job) -> dict[str, Any]:
    """All rows of the table, in clean passes of transformers."""
    vl = make_vl(job.shape)
    inputs = sweep.make_inputs(job.n_media, job.shape.d_vocab)
    bench = Bench(vl, HookedAVTransformer.from_hf(vl), inputs, sweep.cuts(sweep.PATHWAYS, job.shape, job.width))
    bench.published()  # the first pass pays for everybody's memory
    _, clean = min((sweep.cost_of(bench.published) for _ in range(3)), key=lambda run: run[1].cpu_seconds)

    def ours(bench: Bench) -> Callable[[Any], Tensor]:
        return lambda spec: bench.model(bench.inputs, interventions=spec, logits_at="last")[0, -1]

    peers = {OURS: ours, HOOKS: lambda bench: bench.with_hooks, NNSIGHT: with_nnsight, BRIDGE: with_bridge}
    rows = {REPLAY: measure_replay(bench, clean)}
    rows |= {name: measure_peer(make, bench, job, clean) for name, make in peers.items()}
    return {**asdict(job), "clean": asdict(clean), "rows": rows}


def table(report: dict[str, Any]) -> Table:
    """The rows side by side."""
    out = Table(title=f"a knockout, in clean passes; {report['n_media'] + 40} tokens")
    for heading in ("", "cells", "FLOPs a cell", "CPU time a cell", "differs by", "changes"):
        out.add_column(heading, justify="right" if heading else "left")
    for name, f in report["rows"].items():
        if "not_run" in f:
            out.add_row(name, f"not run: {f['not_run']}")
            continue
        figures = (f["flops_per_cell"], f["cpu_time_per_cell"])
        out.add_row(
            name, str(f["cells"]), *(f"{x:.4f}" for x in figures), f"{f['differs_by']:.1e}", f"{f['changes']:.1e}"
        )
    return out


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here, as JSON.")
@click.option("--quick", is_flag=True, help="Tiny sizes: does the benchmark run? Its times mean nothing.")
def main(out: Path | None, quick: bool) -> None:
    """Measure knockouts beside other tools (a few minutes)."""
    torch.set_num_threads(1)
    report = measure(QUICK_JOB if quick else JOB)
    Console(width=140).print(table(report))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        machine = forward.machine()
        out.write_text(
            json.dumps({"benchmark": "peers", "quick": quick, "machine": machine, **report}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
