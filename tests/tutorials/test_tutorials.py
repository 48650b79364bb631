"""The tutorials: how they are made, that they run, and that their checkers tell right from wrong."""

import re
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from planted import wrong_answers

FOLDER = Path(__file__).parent.parent.parent / "tutorials"
sys.path.insert(0, str(FOLDER))
import build  # noqa: E402

SOURCES = build.sources()
WRONG_ANSWERS = wrong_answers()
IDS = [path.stem for path in SOURCES]
MAX_CELL_LINES = 10
N_EXERCISES = range(2, 5)
N_WRONG = 3  # at least, of each tutorial
PATH_OF_A_MACHINE = re.compile(r"(?<![\w.<:/])/(home|root|Users|tmp|opt|usr|var)/\w")

each = pytest.mark.parametrize("source", SOURCES, ids=IDS)


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def checker_of(cell) -> str:
    """The name of the checker that a solution calls last."""
    (name,) = re.findall(r"^av\.checks\.\w+\.(\w+)\(", cell.source, flags=re.MULTILINE)
    return name


def parts_of(notebook) -> dict[str, list]:
    """Cells by the `##` that they stand under."""
    found: dict[str, list] = {"": []}
    for cell in notebook.cells:
        title = re.match(r"## (.+)", cell.source) if cell.cell_type == "markdown" else None
        if title:
            found[title[1]] = []
        found[[*found][-1]].append(cell)
    return found


@each
def test_a_notebook_is_its_source(source):
    """Cell by cell; the notebook has been run to its end, and nothing in it failed."""
    wanted = jupytext.read(source).cells
    built = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    assert [(cell.cell_type, cell.source) for cell in built.cells] == [
        (cell.cell_type, cell.source) for cell in wanted
    ], f"run python tutorials/build.py {source.name[:2]}"
    assert [cell.execution_count for cell in code_of(built)] == list(range(1, len(code_of(built)) + 1))
    for cell in built.cells:
        assert not any(output.output_type == "error" for output in cell.get("outputs", []))
        assert not any(PATH_OF_A_MACHINE.search(str(output)) for output in cell.get("outputs", []))


@each
def test_a_tutorial_has_what_a_newcomer_needs(source):
    notebook = jupytext.read(source)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert text.startswith(f"# {source.name[:2]} · ")
    assert "**You will learn**" in text
    assert re.search(r"\*\*Takes\*\* \d+ minutes", text)
    assert text.count('pip install "hooked-av[tutorials]"') == 1
    assert "**Predict, then run.**" in text
    assert "## What to try on a real model" in text
    assert text.count("<details>") == text.count("</details>")
    code = code_of(notebook)
    imports = [
        line for cell in code for line in cell.source.splitlines() if re.match(r"import hooked_av|from hooked_av", line)
    ]
    assert imports == ["import hooked_av as av"]
    assert all(len(cell.source.splitlines()) <= MAX_CELL_LINES for cell in code)


@each
def test_exercises_have_hints_and_folded_solutions(source):
    cells = jupytext.read(source).cells
    exercises = [number for number, cell in enumerate(cells) if "exercise" in tags(cell)]
    assert len(exercises) in N_EXERCISES
    for number in exercises:
        asked, open_cell, solution = cells[number - 1 : number + 2]
        assert "### Exercise" in asked.source
        assert "<summary>Hint" in asked.source
        assert "..." in open_cell.source
        assert "solution" in tags(solution)
        assert solution.metadata["jupyter"]["source_hidden"]
        assert checker_of(open_cell) == checker_of(solution)


@each
def test_every_part_has_a_figure(source):
    built = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    for title, cells in parts_of(built).items():
        outputs = [str(output.get("data", {})) for cell in cells for output in cell.get("outputs", [])]
        if title and outputs and not title.startswith("What to try"):
            assert any("<svg" in shown or "image/png" in shown or "<img" in shown for shown in outputs), title


@each
def test_wrong_answers_are_planted(source):
    cells = jupytext.read(source).cells
    exercises = {checker_of(cell) for cell in cells if "exercise" in tags(cell)}
    wrong = [row for row in WRONG_ANSWERS if row.tutorial == source.name[:2]]
    assert len(wrong) >= N_WRONG
    assert {row.exercise for row in wrong} == exercises


def test_every_wrong_answer_has_its_tutorial():
    assert {row.tutorial for row in WRONG_ANSWERS} == {source.name[:2] for source in SOURCES}


@pytest.mark.tutorial
@each
def test_a_notebook_runs_from_a_clean_kernel(source):
    """From the top to the bottom; solutions are right."""
    notebook = build.run(source)
    for cell in code_of(notebook):
        shown = "".join(str(output.get("data", {}).get("text/plain", "")) for output in cell.outputs)
        if "exercise" in tags(cell):
            assert shown.startswith("✗ not answered yet"), cell.source
        if "solution" in tags(cell):
            assert shown.startswith("✓"), f"{cell.source}\n{shown}"


@pytest.mark.tutorial
@pytest.mark.usefixtures("one_thread", "as_a_user")
@each
def test_wrong_answers_are_told_what_is_wrong(source, monkeypatch):
    """In the very state that the notebook has where the exercise stands."""
    monkeypatch.chdir(FOLDER)
    names: dict = {"__name__": "__main__"}
    for cell in code_of(jupytext.read(source)):
        if "solution" in tags(cell):
            name = checker_of(cell)
            call = cell.source[cell.source.rindex("av.checks.") :]
            for row in WRONG_ANSWERS:
                if (row.tutorial, row.exercise) == (source.name[:2], name):
                    exec(row.code, names)
                    said = eval(call, names)
                    assert not said.right, row
                    assert re.search(row.says, said.says), f"{row}: {said}"
        exec(compile(cell.source, source.name, "exec"), names)
