"""Every example that a reader can copy runs: in the README, in docs/, and in the docstrings."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import suture

ROOT = Path(__file__).parents[1]
PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page.exists()
]
ABSENT = set() if importlib.util.find_spec("ray") else {"suture.executors._ray"}
MODULES = sorted(
    {module.name for module in pkgutil.walk_packages(suture.__path__, "suture.")} - ABSENT
)
# A python block, and what it prints: the text block directly below it, if there is one.
PYTHON_BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$(?:\s*^```text\n(?P<printed>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run_and_print_what_stands_below(page, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    namespace = {"__name__": page.stem}
    for block in PYTHON_BLOCK.finditer(text):
        # Empty lines in front: a traceback names the line of the page.
        lines_above = text[: block.start("code")].count("\n")
        exec(compile("\n" * lines_above + block["code"], page, "exec"), namespace)
        printed = capsys.readouterr().out
        assert block["printed"] in (None, printed)


def test_the_page_of_the_command_line_is_what_the_command_says():
    page = ROOT / "docs" / "api" / "command_line.md"
    command = ["-m", "typer", "suture.cli", "utils", "docs", "--name", "suture", "--title"]
    said = subprocess.run(
        [sys.executable, *command, "Command line"], capture_output=True, text=True, check=True
    )
    assert page.read_text(encoding="utf-8").strip() == said.stdout.strip()


def test_readme_has_code_that_runs_by_line_25():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = PYTHON_BLOCK.search(text)
    assert text[: block.end()].count("\n") < 25


@pytest.mark.parametrize("name", ["suture", *MODULES])
def test_docstring_examples_run(name):
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        runner.run(example, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def test_there_are_docstring_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [e for name in MODULES for e in finder.find(importlib.import_module(name))]
    assert sum(len(example.examples) for example in found) >= 10
