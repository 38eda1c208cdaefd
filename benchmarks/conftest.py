"""Collects the rows of all benchmarks and prints them as the table of benchmarks/README.md."""

from collections.abc import Callable

import pytest
import torch
from measure import machine

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
    write(machine())
