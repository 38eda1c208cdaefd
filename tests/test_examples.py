"""The notebooks run from top to bottom; what they claim, they assert themselves.

Those that train through somebody else's program run where it is installed: `sh scripts/examples`.
"""

import importlib.util
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# What a notebook trains through, as a program or as a package.
NEEDS = {
    "circuit": "ngspice",
    "control": "mujoco",
    "flow": "icoFoam",
    "heat": "gfortran",
    "piecewise": "lightgbm",
    "quantum": "pennylane",
    "structure": "ccx",
}


def examples():
    for path in NOTEBOOKS:
        need = NEEDS.get(path.stem)
        absent = need and not shutil.which(need) and not importlib.util.find_spec(need)
        marks = [pytest.mark.skipif(bool(absent), reason=f"{need} is not installed")]
        yield pytest.param(
            path, marks=[*marks, pytest.mark.example] if need else marks, id=path.stem
        )


@pytest.mark.parametrize("path", list(examples()))
def test_notebook_runs(path, tmp_path, monkeypatch):
    # A notebook of a user is not tied to one core, as the tests are.
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=110, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    assert any("assert " in cell.source for cell in notebook.cells if cell.cell_type == "code")


def test_there_are_the_notebooks():
    others = {"chaos", "crashing_simulator", "noisy_simulator", "through_a_string"}
    assert {path.stem for path in NOTEBOOKS} == others | NEEDS.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_with_what_it_printed_and_drew(path):
    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert all(output.output_type != "error" for output in outputs)
    assert path.stat().st_size < 800_000
