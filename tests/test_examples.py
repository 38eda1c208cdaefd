"""The notebooks run from top to bottom; what they claim, they assert themselves."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))

PROGRAMS = {"structure": "ccx"}
"""What an example needs beside Python."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    program = PROGRAMS.get(path.stem)
    if program is not None and shutil.which(program) is None:
        pytest.skip(f"`{program}` is not installed")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=90, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    assert any("assert " in cell.source for cell in notebook.cells if cell.cell_type == "code")


def test_there_are_the_notebooks():
    assert [path.stem for path in EXAMPLES] == [
        "crashing_simulator",
        "noisy_simulator",
        "structure",
        "through_a_string",
    ]
