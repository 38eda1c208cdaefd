"""Many tasks of all kinds, and the memory that the parent and its workers hold meanwhile.

`.venv/bin/python tests/flat.py [TASKS]`; without a number it takes ten minutes.
"""

import argparse
import collections
import functools
import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
from faults import total

from suture.executors import Workers

Call = tuple[Any, ...]

IN_FLIGHT = 64
"""Tasks that wait or run at a time: a caller who submits all at once holds all of them."""


def small() -> Iterator[Call]:
    """Arrays of 100 numbers, each another one."""
    draw = np.random.default_rng(0)
    for _ in itertools.count():
        yield total, draw.random(100)


def displaced() -> Iterator[Call]:
    """An array of 1 MB; each differs in one element from the one before."""
    x = np.zeros(125_000)
    for i in itertools.count():
        x[i * 997 % x.size] += 1.0
        yield total, x


def reshaped() -> Iterator[Call]:
    """Arrays of ever new sizes, from 64 kB on."""
    for i in itertools.count():
        yield total, np.ones(8192 + 4 * i)


def closures() -> Iterator[Call]:
    """A function that holds 1 MB, which changes as the weights of a model do."""
    for i in itertools.count():
        yield (functools.partial(total, np.full(125_000, float(i))),)


KINDS = {small: 100_000, displaced: 10_000, reshaped: 10_000, closures: 10_000}


def resident(pool: Workers, kind: Any, tasks: int, pieces: int = 10) -> Iterator[tuple[int, int]]:
    """Yield the bytes of the parent and of its largest worker, after each piece of the tasks."""
    calls = kind()
    for _ in range(pieces):
        waiting: collections.deque[Any] = collections.deque()
        for call in itertools.islice(calls, tasks // pieces):
            waiting.append(pool.submit(*call))
            if len(waiting) == IN_FLIGHT:
                waiting.popleft().result()
        while waiting:
            waiting.popleft().result()
        yield _resident()


def _resident() -> tuple[int, int]:
    me = psutil.Process()
    workers = [child.memory_info().rss for child in me.children(recursive=True)]
    return me.memory_info().rss, max(workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", type=int, nargs="?", default=100_000)
    share = parser.parse_args().tasks / 100_000
    for kind, tasks in KINDS.items():
        with Workers(2) as pool:
            start = time.monotonic()
            seen = list(resident(pool, kind, int(tasks * share)))
        took = time.monotonic() - start
        print(f"{int(tasks * share)} x {kind.__name__}, {took:.0f} s")
        for who, held in zip(("parent", "worker"), zip(*seen, strict=True), strict=True):
            print(f"  {who} MiB:", *(round(size / 2**20) for size in held), flush=True)


if __name__ == "__main__":
    main()
