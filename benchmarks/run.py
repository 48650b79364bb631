"""Run every benchmark of this folder, each in a process of its own, and write its figures to `results/`."""

import os
import subprocess
import sys
from pathlib import Path

import click

HERE = Path(__file__).parent
# What the figures are measured under; your own environment wins.
SETTINGS = {
    # glibc hands freed memory back to the system and faults it in again, depending on what ran before: up to 4 % of a
    # pass, charged to whoever comes next. With these two it keeps what it has.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    # torch's profiler writes to stderr otherwise
    "KINETO_LOG_LEVEL": "6",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def benchmarks() -> list[Path]:
    """Every script here but this one; each takes `--out FILE` and `--quick`."""
    return [path for path in sorted(HERE.glob("*.py")) if path.name != Path(__file__).name]


@click.command()
@click.option("--quick", is_flag=True, help="Tiny sizes: do the benchmarks run? Their times mean nothing.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=HERE / "results", show_default=False)
def main(quick: bool, out: Path) -> None:
    """Run all benchmarks and write JSON files (default: benchmarks/results)."""
    failed = []
    for script in benchmarks():
        click.echo(f"{script.stem} ...")
        target = out / f"{script.stem}.json"
        command = [sys.executable, str(script), "--out", str(target), *(["--quick"] if quick else [])]
        # a process each, so that no benchmark inherits the threads, memory or warm caches of another
        if subprocess.run(command, check=False, env={**SETTINGS, **os.environ}).returncode:
            failed.append(script.stem)
        else:
            click.echo(f"{script.stem}: written to {target}")
    if failed:
        raise click.ClickException(f"these benchmarks failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
