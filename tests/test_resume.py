"""Training that is killed by SIGKILL and started again ends with the same weights, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from memo_writers import check_rows

KILLS = 3

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forked"),
]


@pytest.fixture(scope="module")
def program():
    """The program that trains, and kills its trainings."""
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name("training.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as program:
        yield program
        program.stdin.close()


def trained(program, folder, kind, where, seconds, kills=0, whole=1):
    """Return the digest of the end, and the points that were evaluated, in their order."""
    folder.mkdir()
    print(folder, kind, where, seconds, kills, whole, file=program.stdin, flush=True)
    assert program.stdout.readline() == "done\n"
    return (folder / "digest").read_text(), (folder / "calls").read_text().split()


@pytest.mark.parametrize(
    ("kind", "where", "seconds", "at_once"),
    [
        ("smooth", "here", 0.001, 1),
        ("noisy", "here", 0.001, 1),
        ("random", "here", 0.001, 1),
        ("adaptive", "here", 0.001, 1),
        ("complex", "here", 0.001, 1),
        # A call has all points of a round: at most two for each of three columns and the check.
        ("rows", "here", 0.003, 7),
        # Two tasks are running, and the answers of two more may be on their way; each has two
        # calls, …
        ("smooth", "workers", 0.012, 4 * 2),
        # … or a call of half a round.
        ("rows", "workers", 0.012, 4 * 4),
    ],
)
def test_three_kills_change_nothing(program, tmp_path, kind, where, seconds, at_once):
    digest, points = trained(program, tmp_path / "whole", kind, "here", 0.0)
    killed = tmp_path / "killed"
    again, evaluated = trained(program, killed, kind, where, seconds, KILLS, len(points))
    assert again == digest
    assert set(evaluated) == set(points)
    assert len(evaluated) <= len(set(points)) + KILLS * at_once
    verdict, good, bad = check_rows(killed / "memo.db")
    assert (verdict, bad) == ("ok", 0)
    assert good >= len(set(points))
