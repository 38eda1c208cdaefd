"""The rules of the house that a program can check."""

import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import suture

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "suture").rglob("*.py"))

PUBLIC_NAMES = {
    "AbstractMethod",
    "AdaptiveDifference",
    "CustomVJP",
    "Differentiable",
    "FiniteDifference",
    "Memo",
    "Stencil",
    "check",
    "differentiable",
    "directions",
    "errors",
    "executors",
    "functions",
    "methods",
    "record",
    "report",
    "stencils",
}


def run_python(program):
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout


def test_public_names_are_pinned():
    assert set(suture.__all__) == PUBLIC_NAMES
    assert len(suture.__all__) == len(PUBLIC_NAMES)
    for name in PUBLIC_NAMES:
        assert getattr(suture, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", suture.__version__)


def test_nothing_else_looks_public():
    program = "import suture; print(*[n for n in dir(suture) if not n.startswith('_')])"
    assert set(run_python(program).split()) == PUBLIC_NAMES


def test_import_takes_little_time_on_top_of_torch():
    # Time of the processor, not of the clock: other tests run at the same time.
    program = (
        "import torch, time; start = time.process_time(); import suture; suture.differentiable;"
        "print(time.process_time() - start)"
    )
    assert statistics.median(float(run_python(program)) for _ in range(3)) < 0.3


def test_import_leaves_slow_modules_alone():
    program = "import sys, suture; suture.differentiable; print(*sys.modules)"
    slow = {"torch._dynamo", "matplotlib", "typer", "rich", "scipy"}
    assert not slow & set(run_python(program).split())


def test_imports_only_go_down_the_floors():
    linter = pytest.importorskip("importlinter.cli")
    assert linter.lint_imports(str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True) == 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


def test_only_the_bridge_subclasses_the_autograd_function():
    subclass = re.compile(r"^class .*\bFunction\)", re.MULTILINE)
    found = [path for path in SOURCES if subclass.search(path.read_text(encoding="utf-8"))]
    assert found
    assert {path.parent.name for path in found} == {"_bridge"}
