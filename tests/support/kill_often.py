"""Runs a dataset in processes that are killed with SIGKILL at random moments, until one of them gets to the end.

    python -m support.kill_often MANIFEST OUT LOG KILLS

The model is loaded once; every process is forked. The disk is slow: a table takes 30 ms to be written, in two halves.
Every analysis that begins adds a line to LOG. Prints JSON: kills, and the finished files as they were seen after each.
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

import hooked_av as av
from hooked_av.datasets import run as datasets
from hooked_av.datasets import sample_table

SEED = 0
HALF_SECONDS = 0.015
MEAN_SAMPLES = 1.5  # between kills
TIMED = 4


def slow_write(table: pa.Table, path: Path, **options) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, **options)
    data = buffer.getvalue().to_pybytes()
    with open(path, "wb", buffering=0) as file:
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            file.write(part)
            time.sleep(HALF_SECONDS)


class SlowDisk:
    """pyarrow.parquet with slow writes."""

    write_table = staticmethod(slow_write)

    def __getattr__(self, name: str):
        return getattr(pq, name)


def run(model, manifest: str, out: str, log: str) -> None:
    def logged(model, case, top_k: int):
        with open(log, "a") as file:
            file.write(f"{case.id}\n")
        return datasets.ANALYSES["lens"](model, case, top_k=top_k)

    datasets.run_dataset(model, manifest, logged, out=out, top_k=40)


def sample_seconds(model, manifest: str) -> float:
    """What one sample takes on this machine, now."""
    samples = av.datasets.read_manifest(manifest)[:TIMED]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        datasets.run_dataset(model, samples, "lens", out=folder, top_k=40)
        return (time.perf_counter() - start) / TIMED


def run_and_leave(model, manifest: str, out: str, log: str) -> None:
    """A run that ends its process, without the clean-up that is the parent's."""
    code = 1
    try:
        run(model, manifest, out, log)
        code = 0
    except Exception:
        traceback.print_exc()
        raise
    finally:
        os._exit(code)


def finished(out: str) -> dict[str, list[int]]:
    """Every finished file with its number on the disk and the time of its last change."""
    paths = sorted(Path(out, "samples").glob("[0-9]*.parquet"))
    return {path.name: [path.stat().st_ino, path.stat().st_mtime_ns] for path in paths}


def main(manifest: str, out: str, log: str, kills: int) -> None:
    torch.set_num_threads(1)
    model = av.HookedAVTransformer.from_pretrained("tiny-av")
    sample_table.pq = SlowDisk()
    rng, seen = random.Random(SEED), []
    mean_seconds = MEAN_SAMPLES * sample_seconds(model, manifest)
    while True:
        child = os.fork()
        if not child:
            run_and_leave(model, manifest, out, log)
        if len(seen) < kills:
            time.sleep(rng.expovariate(1 / mean_seconds))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        seen.append(finished(out))
    if status:
        sys.exit("a run ended with an error")
    print(json.dumps({"kills": len(seen), "seen": [*seen, finished(out)]}))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
