"""The lines of the package that no test runs, each with its reason. `make coverage` ends with the check of this table.

It fails for a line that no test runs and that is not here, and for a line that is here although a test runs it.
A line that a cheap test could run has no place here: write that test.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hooked_av"


@dataclass(frozen=True)
class Unrun:
    """Lines of one file, as they stand there without their indent; of a statement of several lines, the first."""

    file: str
    reason: str
    lines: Sequence[str]
    elsewhere: bool = False  # another machine, or chance, does run them: no fault


GPU = "a GPU does these, and CI has none; a test of tests/replay and the benchmarks run them where there is one"
UNRUN: Sequence[Unrun] = (
    Unrun("hooks/cache.py", GPU, ["return torch.cuda.mem_get_info(device)[0]"], elsewhere=True),
    Unrun("analyses/discard/cost.py", GPU, ["torch.cuda.synchronize(device)"], elsewhere=True),
    Unrun(
        "replay/shared_prefix.py",
        GPU,
        [
            "products = torch.backends.cuda.matmul",
            'before, products.fp32_precision = products.fp32_precision, "tf32"',
            "try:",
            "yield",
            "products.fp32_precision = before",
        ],
        elsewhere=True,
    ),
    Unrun(
        "study/tables.py",
        "tables are made of families that were asked, which have every result; the type says that they may lack one",
        ["return pd.DataFrame()"],
    ),
    Unrun(
        "plots/strip/ink.py", "asked for only where there is heat; the type says that there may be none", ['return ""']
    ),
    Unrun(
        "plots/strip/ink.py",
        "the names of all kinds of spans fit into one line; more kinds would not",
        ["lines.append([])", "x = LEFT"],
    ),
    Unrun(
        "replay/cones.py",
        "changes that reach nothing that is read: none of 1,200 random replays has met one that `touches` does not see",
        ["return None"],
        elsewhere=True,
    ),
)


def faults(missing: Mapping[str, Sequence[str]], table: Sequence[Unrun] = UNRUN) -> list[str]:
    """What is wrong, given the lines that no test ran, by file."""
    listed = {(one.file, line) for one in table for line in one.lines}
    unrun = {(file, line) for file, lines in missing.items() for line in lines}
    stale = {(one.file, line) for one in table for line in one.lines if not one.elsewhere} - unrun
    return [f"{file}: no test runs, and no reason is given for: {line}" for file, line in sorted(unrun - listed)] + [
        f"{file}: a test runs this now, take it out of {Path(__file__).name}: {line}" for file, line in sorted(stale)
    ]


def measured() -> dict[str, list[str]]:
    """Lines that no test ran, by file, from the data of the last run with --cov."""
    import coverage

    data, missing = coverage.Coverage(), {}
    data.load()
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8").splitlines()
        numbers = data.analysis2(str(path))[3]
        missing[path.relative_to(PACKAGE).as_posix()] = [source[number - 1].strip() for number in numbers]
    return missing


if __name__ == "__main__":
    sys.exit("\n".join(faults(measured())) or 0)
