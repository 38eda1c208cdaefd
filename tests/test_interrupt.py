"""Ctrl-C in a long backward: it leaves at once, keeps what is finished, leaves nobody behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import numpy as np
import psutil
import pytest
import torch
from leftovers import until

import suture
from suture import FiniteDifference, stencils
from suture.executors import Workers

pytestmark = pytest.mark.timeout(60)

FORWARD = FiniteDifference(stencils.FORWARD)

# The forward pass and the first point of the gradient are quick; the others take half a minute in
# a program, as that of a simulator.
PROGRAM = """
import json, subprocess, sys
import numpy as np, torch, suture
from suture.executors import Workers

def simulate(x):
    if (x[1:] > 1.0).any():
        subprocess.run(["sleep", "30"])
    return np.sin(x)

weight = torch.ones(6, requires_grad=True)
method = suture.FiniteDifference(suture.stencils.FORWARD)
with Workers(2) as workers:
    f = suture.differentiable(simulate, interface="numpy", method=method, executor=workers,
                              memo=suture.Memo(sys.argv[1]))
    try:
        f(weight).sum().backward()
    except KeyboardInterrupt:
        weights = weight.tolist()
        print(json.dumps([weights, weight.grad is None, f.tally.evaluations]), flush=True)
        raise
"""


def marked(mark):
    """Return the processes that have a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("MARK") == mark and process.status() != "zombie":
                found.append(process)
    return found


def sleepers(mark):
    return [process for process in marked(mark) if process.name() == "sleep"]


def test_a_long_backward_under_workers_is_left_at_once(tmp_path):
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path / "memo.db"],
        env=os.environ | {"MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        try:
            until(lambda: len(sleepers(mark)) == 2, 30)
            pressed = time.monotonic()
            os.killpg(program.pid, signal.SIGINT)  # a terminal tells the whole group
            program.wait(10)
            took = time.monotonic() - pressed
            said, errors = program.communicate()
        finally:
            program.kill()
    assert errors.splitlines()[-1] == "KeyboardInterrupt"
    assert took < 2
    assert program.returncode == -signal.SIGINT
    assert json.loads(said) == [[1.0] * 6, True, 2]
    assert suture.Memo(tmp_path / "memo.db").info().values == 2
    until(lambda: not marked(mark), 1)


@contextlib.contextmanager
def pressing(after):
    """Press Ctrl-C once, so many seconds from now; gives the moment when that was."""
    moments = []

    def press():
        moments.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(after, press)
    timer.start()
    yield moments
    timer.join()


def test_in_this_process_it_is_left_between_evaluations(tmp_path):
    moments = []
    matrix = np.random.default_rng(0).random((350, 350))

    def slow(x):
        moments.append(time.monotonic())
        np.linalg.eigvals(matrix)  # 0.1 s in C, which no signal ends
        return x**2

    memo = suture.Memo(tmp_path / "memo.db", version=1)
    f = suture.differentiable(slow, interface="numpy", method=FORWARD, memo=memo)
    x = torch.ones(100, requires_grad=True)
    y = f(x).sum()
    with pressing(0.5) as pressed, pytest.raises(KeyboardInterrupt):
        y.backward()
    assert time.monotonic() - pressed[0] < max(np.diff(moments)) + 0.1
    assert x.grad is None
    begun = len(moments)
    assert 2 < begun < 90
    assert f.evaluations == begun
    kept = memo.info().values
    assert kept in (begun - 1, begun)

    matrix = np.eye(2)
    y.backward()  # the same graph, again
    assert torch.allclose(x.grad, 2 * torch.ones(100))
    assert len(moments) == begun + 101 - kept


def test_afterwards_the_same_workers_go_on():
    def slow(x, seconds):
        time.sleep(seconds * bool((x != 1.0).any()))
        return x**2

    with Workers(2) as workers:
        f = suture.differentiable(slow, interface="numpy", method=FORWARD, executor=workers)
        x = torch.ones(5, requires_grad=True)
        for _ in range(2):
            y = f(x, 30.0).sum()
            with pressing(0.3) as pressed, pytest.raises(KeyboardInterrupt):
                y.backward()
            assert time.monotonic() - pressed[0] < 1
            assert x.grad is None
        f(x, 0.0).sum().backward()
        assert torch.allclose(x.grad, 2 * torch.ones(5))
        assert f.evaluations == 3 + 5
        assert workers.submit(pow, 2, 5).result() == 32
