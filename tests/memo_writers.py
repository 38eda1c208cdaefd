"""What other processes do in the tests of the memo."""

import itertools
import os
import sqlite3
import zlib

import numpy as np

from suture import _tree
from suture._memo import Memo

TREE = _tree.flatten(((0.0,), {}))[1]


def key_of(memo, number):
    return memo.key(b"f", TREE, (number,))


def value_of(number):
    return np.random.default_rng(number).random(number % 50)


def write_all(path, barrier, queue, seed, count):
    """Write values of their own for the same keys as others do, and say what the memo returned."""
    with Memo(path) as memo:
        got = {}
        for start in range(0, count, 50):  # meet again and again: nobody may run ahead
            barrier.wait(20)
            order = start + np.random.default_rng(seed).permutation(50)
            got |= {n: float(memo.put(key_of(memo, n), seed)) for n in order.tolist()}
        queue.put((got, memo.counts))


def write_on(path, start):
    """Write until killed, one file row after another."""
    memo = Memo(path)
    for number in itertools.count(start):
        memo.put(key_of(memo, number), value_of(number))


def find_damage(path, barrier, queue):
    """Use a memo that is damaged, at the same time as others do."""
    import warnings

    barrier.wait(20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Memo(path) as memo:
            memo.put(key_of(memo, os.getpid()), os.getpid())
            queue.put((os.getpid(), len(caught), memo.counts.failed_writes))


def check_rows(path):
    """Return SQLite's verdict, and how many rows are good and bad, without Suture."""
    database = sqlite3.connect(path)
    ((verdict,),) = database.execute("PRAGMA integrity_check")
    good = bad = 0
    for key, row in database.execute("SELECT key, value FROM memo"):
        whole = zlib.crc32(row[:-4], zlib.crc32(key)).to_bytes(4, "little") == row[-4:]
        good, bad = good + whole, bad + (not whole)
    database.close()
    return verdict, good, bad
