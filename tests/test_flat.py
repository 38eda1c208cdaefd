"""Memory stays flat: the short form of `tests/flat.py`, which does 10⁵ tasks."""

import gc
import tracemalloc

import numpy as np
import pytest
from flat import closures, displaced, reshaped, resident, small
from leftovers import nothing_is_left  # noqa: F401 # a fixture

from suture.executors import Workers, _payload

pytestmark = pytest.mark.timeout(120)

LIMIT = 1 << 23


@pytest.mark.parametrize(
    ("kind", "tasks", "spread"),
    [
        (small, 18_000, 2**17),  # a task that left 15 bytes behind would be seen
        (displaced, 800, 2**19),  # eight blocks more or less
        (reshaped, 800, LIMIT // 2),
        (closures, 400, 2**18),  # each brings 16 blocks, with 80 bytes in the books
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_memory_stays_flat(kind, tasks, spread, monkeypatch):
    monkeypatch.setattr(_payload, "_REMEMBERED", LIMIT)  # as 256 MiB take thousands of tasks
    held, workers = [], []

    with Workers(2) as pool:
        tracemalloc.start()
        try:
            for _, worker in resident(pool, kind, tasks, pieces=4):
                workers.append(worker)
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    assert held[-1] - held[1] < spread
    assert held[-1] < 2 * LIMIT  # one for arrays, one for functions
    assert workers[-1] - workers[1] < 2 * LIMIT


def test_a_pool_that_has_ended_holds_no_arrays():
    with Workers(1) as pool:
        list(resident(pool, displaced, 5, pieces=1))
        assert pool._store._series
        assert pool._store._functions
    assert not pool._store._series
    assert not pool._store._functions


def test_the_arrays_of_the_call_at_hand_are_remembered_however_large(monkeypatch):
    monkeypatch.setattr(_payload, "_REMEMBERED", 1)
    x, y = np.ones(100_000), np.ones(200_000)
    with Workers(1) as pool:
        pool.submit(np.outer, x[:1], y).result()
        pool.submit(max, 1, 2, key=lambda i: x[i] + y[i]).result()
        before = pool.bytes_sent
        pool.submit(max, 1, 2, key=lambda i: x[i] + y[i]).result()
        assert pool.bytes_sent - before < 4_000
