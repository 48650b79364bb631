"""Builds the notebooks: every tutorials/NN_*.py runs from a clean kernel, and becomes NN_*.ipynb with its outputs.

python tutorials/build.py             # all
python tutorials/build.py 03 07       # these
"""

import logging
import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
SECONDS = 300  # for one cell
logger = logging.getLogger(__name__)


def sources(*numbers: str) -> list[Path]:
    """The tutorials, or those with these numbers."""
    found = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    return [path for path in found if not numbers or path.name[:2] in numbers]


def run(source: Path) -> NotebookNode:
    """The notebook of a source, from a clean kernel, in the folder of the tutorials.

    Errors: `nbclient.exceptions.CellExecutionError` for the first cell that fails.
    """
    notebook = jupytext.read(source)
    del notebook.metadata["jupytext"]  # the source says how it is written; a notebook need not
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # the same at every build, so that a change shows
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(FOLDER)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if "outputs" in cell:
            cell.outputs = [_kept(output) for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)
    return notebook


def _kept(output: NotebookNode) -> NotebookNode:
    """An output without the text that stands for a figure where none can be shown."""
    data = output.get("data", {})
    if "image/png" in data:
        data.pop("text/plain", None)
    return output


def main(numbers: list[str]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for source in sources(*numbers):
        target = source.with_suffix(".ipynb")
        nbformat.write(run(source), target)
        logger.info("%s: %d kB", target.name, target.stat().st_size // 1000)


if __name__ == "__main__":
    main(sys.argv[1:])
