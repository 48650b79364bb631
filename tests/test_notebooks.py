"""Notebooks that users of other libraries would write, run cell by cell as they stand."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "notebooks"


def cells(path: Path) -> dict[str, str]:
    """Code by title; lines are where they are in the file, so that a failure names them."""
    parts = re.split(r"^# %% (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [part.count("\n") for part in parts]
    return {
        title: "\n" * sum(lines[: 2 * n + 2]) + code
        for n, (title, code) in enumerate(zip(parts[1::2], parts[2::2], strict=True))
    }


@pytest.mark.usefixtures("one_thread", "as_a_user")
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_a_notebook_runs_from_the_first_cell_to_the_last(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    failed = {}
    for title, code in cells(path).items():
        try:
            exec(compile(code, str(path), "exec"), names)
        except Exception as error:  # noqa: BLE001 - every cell's own is told
            failed[title] = f"line {line_of(error, path)}: {type(error).__name__}: {error}"
    assert not failed, "\n".join(f"{cell}: {why}" for cell, why in failed.items())


def line_of(error: BaseException, path: Path) -> int:
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
