"""Collects the rows of all benchmarks and prints them as the table of benchmarks/README.md."""

import os
import platform
from collections.abc import Callable

import numpy
import pytest
import torch

_rows: list[tuple[str, ...]] = []
_HEADER = ("what", "Suture", "hand-written or bare", "measured", "wanted")


@pytest.fixture
def row() -> Callable[..., None]:
    """Takes one row of the table: what, Suture, the other, the figure, the wanted figure."""
    return lambda *cells: _rows.append(tuple(cells))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _rows:
        return
    write = terminalreporter.write_line
    write("")
    for cells in (_HEADER, ("---",) * len(_HEADER), *_rows):
        write(f"| {' | '.join(cells)} |")
    write("")
    write(
        f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {numpy.__version__}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
