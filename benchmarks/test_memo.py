"""What the memo costs: a write, and a hit with its key, beside what SQLite alone takes."""

import itertools
import sqlite3

import numpy as np
import pytest
import torch
from measure import take_turns

from suture import _tree
from suture._fingerprint import fingerprint
from suture._memo import Memo

TIMES = 500
X = torch.rand(10, dtype=torch.float64)
LEAVES, TREE = _tree.flatten(((X, 2.0), {"steps": 3}))
Y = np.random.default_rng(0).random(10)


def box(x, gain, steps):
    return np.sin(x) * gain * steps


@pytest.fixture
def memo(tmp_path):
    with Memo(tmp_path / "memo.db") as memo:
        yield memo


@pytest.fixture
def bare(tmp_path):
    """A table of digests and bytes, with the same settings."""
    database = sqlite3.connect(tmp_path / "bare.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=wal")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("CREATE TABLE bare (key BLOB PRIMARY KEY, value BLOB)")
    yield database
    database.close()


def keys(memo):
    """Yield the keys of point after point."""
    mark = fingerprint(box, "box")
    for number in itertools.count():
        yield memo.key(mark, TREE, (X, 2.0, number), torch.float64)


def test_write(benchmark, row, memo, bare):
    values, others = keys(memo), keys(memo)
    content = Y.tobytes()

    def write():
        memo.put(next(values), Y)

    def write_bare():
        bare.execute("INSERT OR IGNORE INTO bare VALUES (?, ?)", (next(others), content))

    ours, theirs, ratio = take_turns(write, write_bare, rounds=11, times=TIMES)
    row(
        "memo: a write of 10 numbers, with its key",
        f"{ours * 1e6:.0f} µs",
        f"{theirs * 1e6:.0f} µs (SQLite, with the key)",
        f"{ratio:.2f} times",
        "at most 100 µs",
    )
    assert memo.counts.failed_writes == 0
    benchmark(write)


def test_hit(benchmark, row, memo, bare):
    begun = keys(memo)
    for key in itertools.islice(begun, 5000):
        memo.put(key, Y)
        bare.execute("INSERT INTO bare VALUES (?, ?)", (key, Y.tobytes()))
    mark = fingerprint(box, "box")
    numbers, others = itertools.cycle(range(5000)), itertools.cycle(range(5000))

    def hit():
        return memo.get(memo.key(mark, TREE, (X, 2.0, next(numbers)), torch.float64))

    every = list(itertools.islice(keys(memo), 5000))

    def hit_bare():
        key = every[next(others)]
        ((content,),) = bare.execute("SELECT value FROM bare WHERE key = ?", (key,)).fetchall()
        return np.frombuffer(content).copy()

    ours, theirs, ratio = take_turns(hit, hit_bare, rounds=21, times=TIMES)
    row(
        "memo: a hit of 10 numbers, with its key",
        f"{ours * 1e6:.0f} µs",
        f"{theirs * 1e6:.0f} µs (SQLite, without a key)",
        f"{ratio:.2f} times",
        "at most 30 µs",
    )
    assert memo.counts.misses == 0
    benchmark(hit)


def test_fingerprint(benchmark, row):
    def mark():
        fingerprint(box, "box")

    def nothing():
        pass

    ours, _, _ = take_turns(mark, nothing, rounds=11, times=TIMES)
    row("memo: the fingerprint of a small function", f"{ours * 1e6:.0f} µs", "", "", "")
    benchmark(mark)
