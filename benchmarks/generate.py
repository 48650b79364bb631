"""What a generated token costs: tokens a second, against transformers' `generate` on the same weights.

`python benchmarks/generate.py --out benchmarks/results/generate.json` (see README.md for how to read the figures).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from forward import TINY, Pair, Shape, machine, make_inputs, make_pair, summarise, time_pairs
from rich.console import Console
from rich.table import Table

from hooked_av.prompt.inputs import AVInputs

PEER = "transformers"
NULL = "transformers again"  # the same code: how far its ratio is from 1 is the noise of the run
OURS = "hooked_av"
HOOKED = "hooked_av, resid_post read"
CUT = "hooked_av, span cut"

Tokens = list[list[int]]
JOBS = ((Shape(), 128, 64, 12), (Shape(), 2048, 64, 6))  # shape, tokens of the prompt, tokens written, rounds
QUICK_JOBS = ((TINY, 16, 3, 2),)


def variants(pair: Pair, inputs: AVInputs, n_new: int) -> dict[str, Callable[[], Tokens]]:
    """What is compared, by name; every one writes `n_new` tokens, greedily."""

    def peer() -> Tokens:
        ids, mask = inputs.input_ids, inputs.attention_mask.long()
        pair.thinker.model.rope_deltas = None  # type: ignore[union-attr]
        written: Any = pair.thinker.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=mask, max_new_tokens=n_new, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        return written[:, inputs.n_pos :].tolist()

    def ours(**arguments: Any) -> Tokens:
        answer = pair.model.generate(inputs, max_new_tokens=n_new, stop_tokens=(), **arguments)
        return [list(row) for row in answer.tokens]

    def read(_rows: torch.Tensor, *, hook: Any) -> None:
        pass

    return {
        PEER: peer,
        NULL: peer,
        OURS: ours,
        HOOKED: lambda: ours(fwd_hooks=[("blocks.*.hook_resid_post", read)]),
        CUT: lambda: ours(interventions="heard->asked|generated"),
    }


def measure(job: tuple[Shape, int, int, int]) -> dict[str, Any]:
    """All figures of one job: of whole answers, and of their decode steps alone (less an answer of one token)."""
    shape, n_prompt, n_new, rounds = job
    pair = make_pair(shape)
    inputs = make_inputs(n_prompt, shape.d_vocab)
    runs, prefills = variants(pair, inputs, n_new), variants(pair, inputs, 1)
    wanted = runs[PEER]()
    rows: dict[str, Any] = {name: {"tokens_equal": run() == wanted} for name, run in runs.items()}
    timed, first = time_pairs(runs, rounds), time_pairs(prefills, rounds)
    for name, pairs in timed.items():
        prefill = [min(times) for times in zip(*first[name], strict=True)]
        steps = [(ours - prefill[0], peer - prefill[1]) for ours, peer in pairs]
        rows[name] |= {"whole": summarise(pairs), "decode": summarise(steps)}
        rows[name]["decode_tokens_per_second"] = 1e3 * (n_new - 1) / rows[name]["decode"]["cpu_ms_median"]
    return {"n_prompt": n_prompt, "n_new": n_new, "rounds": rounds, "variants": rows}


def table(row: dict[str, Any]) -> Table:
    """One job as a table."""
    out = Table(title=f"{row['n_new']} tokens behind {row['n_prompt']}")
    for heading in ("", "decode tokens/s", "decode time ratio", "quartiles", "whole time ratio", "same tokens"):
        out.add_column(heading, no_wrap=True)
    for name, figures in row["variants"].items():
        if "decode" not in figures:
            continue
        low, high = figures["decode"]["ratio_quartiles"]
        out.add_row(
            name,
            f"{figures['decode_tokens_per_second']:.1f}",
            f"{figures['decode']['ratio_median']:.3f}",
            f"{low:.3f}-{high:.3f}",
            f"{figures['whole']['ratio_median']:.3f}",
            "yes" if figures["tokens_equal"] else "no",
        )
    return out


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the figures here, as JSON.")
@click.option("--quick", is_flag=True, help="Tiny sizes: does the benchmark run? Its times mean nothing.")
def main(out: Path | None, quick: bool) -> None:
    """Measure generation against transformers on the same weights (a few minutes)."""
    torch.set_num_threads(1)
    console = Console(width=120)
    rows = []
    for job in QUICK_JOBS if quick else JOBS:
        rows.append(measure(job))
        console.print(table(rows[-1]))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        report = {"benchmark": "generate", "quick": quick, "machine": machine(), "rows": rows}
        out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
