"""Calls that hang, crash, or cannot be sent: rows 10 to 16 and 25 to 27 of the fault matrix."""

import functools
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import psutil
import pytest
import torch
from engines import (
    BASE,
    NAMES,
    PROCESSES,
    Box,
    hang,
    kill,
    leave,
    segfault,
    start_children_and,
)
from gradients import (
    POINTS,
    assert_bad_point,
    assert_right,
    expected,
    first_line,
    gradient,
    refused,
    weights,
    wrapped,
)
from leftovers import until

from suture import FiniteDifference, differentiable, stencils
from suture.errors import (
    EvaluationError,
    MethodError,
    TimedOut,
    WorkerDied,
)
from suture.executors import Workers

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("nothing_left")]


def on(*names):
    return pytest.mark.parametrize("engine", names, indirect=True)


# Row 10


@on("workers")
def test_row_10_f_hangs(engine, tmp_path):
    box = Box(tmp_path, hang)
    f = wrapped(box, engine, timeout=0.3)
    start = time.monotonic()
    error = refused(f, TimedOut)
    assert time.monotonic() - start < 0.3 + 1
    assert first_line(error) == "`box` gave no result within 0.3 s."
    assert error.attempt == 1
    assert_bad_point(error)
    assert (box.count("bad"), f.tally.timed_out, f.tally.died) == (1, 1, 0)
    assert_right(wrapped(Box(tmp_path / ".."), engine, timeout=60))


@on("workers")
def test_row_10_f_hangs_and_is_tried_again(engine, tmp_path):
    box = Box(tmp_path, hang, times=2)
    f = wrapped(box, engine, timeout=0.2, retries=2)
    assert_right(f)
    assert (f.tally.timed_out, f.tally.retries, f.tally.failures) == (2, 2, 0)
    assert f.tally.evaluations == box.count() == POINTS + 3


@on("workers")
def test_row_10_other_rows_do_not_notice(engine, tmp_path):
    """The row that hangs has no gradient; the others have theirs."""
    box = Box(tmp_path, hang)
    f = wrapped(box, engine, timeout=0.3, on_failure="skip")
    x = torch.tensor([[0.1, 0.2, 0.3], BASE], dtype=torch.float64, requires_grad=True)
    with pytest.warns(UserWarning, match="1 of 2 samples"):
        torch.func.vmap(f)(x).sum().backward()
    assert x.grad[1].tolist() == [0.0, 0.0, 0.0]
    alone = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64, requires_grad=True)
    wrapped(Box(tmp_path), None)(alone).sum().backward()
    assert torch.equal(x.grad[0], alone.grad)


@on("serial", "threads", "loky", "dask")
def test_row_10_who_cannot_stop_a_call_says_so(engine, tmp_path):
    """At construction, or where a function makes the executor, before the first call."""
    box = Box(tmp_path)
    with pytest.raises(MethodError, match=r"timeout=1\.0.* cannot be kept"):
        wrapped(box, engine, timeout=1.0)(weights())
    if engine is None or hasattr(engine, "submit"):
        with pytest.raises(MethodError):
            wrapped(box, engine, timeout=1.0)
    assert box.count() == 0


# Rows 11 and 12


ENDS = {
    "SIGSEGV": segfault,
    "SIGKILL": kill,
    "exited with code 3": functools.partial(leave, os._exit),
}


@on("workers")
@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("retries", [0, 2])
def test_rows_11_and_12_a_worker_dies(engine, tmp_path, name, retries):
    """As often as it may, and not once more: `retries=0` is 0 for deaths too."""
    box = Box(tmp_path, ENDS[name])
    f = wrapped(box, engine, retries=retries)
    error = refused(f, WorkerDied)
    assert name in first_line(error)
    assert ("memory" in str(error)) == (name == "SIGKILL")
    assert error.attempt == retries + 1
    assert_bad_point(error)
    assert box.count("bad") == retries + 1 == f.tally.died
    assert f.tally.retries == retries


@on("workers")
@pytest.mark.parametrize("name", ENDS)
def test_rows_11_and_12_a_worker_dies_once(engine, tmp_path, name):
    box = Box(tmp_path, ENDS[name], times=1)
    f = wrapped(box, engine, retries=1)
    assert_right(f)
    assert (f.tally.died, f.tally.retries, f.tally.failures) == (1, 1, 0)
    assert f.tally.evaluations == box.count() == POINTS + 2


@on("loky", "dask")
def test_row_12_a_worker_of_others_dies(engine, tmp_path):
    box = Box(tmp_path, kill)
    f = wrapped(box, engine)
    error = refused(f, WorkerDied)
    assert "died" in first_line(error) or "lost" in first_line(error)
    assert box.count("bad") == 1
    assert_right(wrapped(Box(tmp_path), engine))


@on("loky", "dask")
def test_row_12_a_worker_of_others_dies_once(engine, tmp_path):
    """Where the pool breaks, nobody knows whose fault it was: what was lost is made again."""
    box = Box(tmp_path, kill, times=1)
    f = wrapped(box, engine, retries=1)
    assert_right(f)
    assert box.count() >= f.tally.evaluations >= POINTS + 1
    assert f.tally.failures == 0


# Row 13 and 14


def gigabytes(count, x, result):
    return np.ones(count * 2**27)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_row_13_memory_blows_up(tmp_path):
    box = Box(tmp_path, functools.partial(gigabytes, 8))
    with Workers(1, memory_limit=6 * 2**30) as pool:
        f = wrapped(box, pool)
        error = refused(f, EvaluationError)
        assert_right(wrapped(Box(tmp_path), pool))
    assert "Memory" in first_line(error)
    assert isinstance(error.__cause__, MemoryError)
    assert_bad_point(error)
    assert (box.count("bad"), f.tally.died) == (1, 0)


@on(*NAMES)
def test_row_14_a_large_result_arrives_to_the_last_bit(engine):
    def large(x):
        return np.arange(10**6) * x[0]

    f = wrapped(large, engine)
    x = weights()
    y = f(x)
    assert torch.equal(y.detach(), torch.arange(10**6) * x.detach()[0])
    y[-1].backward()
    assert x.grad[0].item() == pytest.approx(10**6 - 1)


@on("workers")
def test_row_14_what_is_printed_fills_no_pipe(engine, tmp_path, capfd):
    def chatty(x):
        print("x" * 10**5)
        return x * 2.0

    x = weights()
    wrapped(chatty, engine)(x).sum().backward()
    assert x.grad.tolist() == pytest.approx([2.0] * 3)


# Rows 15 and 16


def sleepers(seconds):
    """Return the programs that sleep so long, whoever their parent is now."""
    found = psutil.process_iter(["cmdline"])
    return [p for p in found if p.info["cmdline"] == ["sleep", str(seconds)]]


@on("workers")
@pytest.mark.parametrize("end", [hang, kill])
def test_row_15_f_leaves_children_behind(engine, tmp_path, end):
    """They are killed with their worker, even those in a session of their own."""
    f = wrapped(Box(tmp_path, functools.partial(start_children_and, end, 986)), engine, timeout=0.5)
    refused(f, TimedOut if end is hang else WorkerDied)
    until(lambda: not sleepers(986))


def test_row_16_the_trainer_is_killed(tmp_path):
    """Neither a worker nor what it started outlives the process that trains."""
    script = f"""
        import sys
        sys.path[:0] = {[p for p in sys.path if p]!r}
        import functools, torch
        from engines import Box, hang, start_children_and
        from gradients import weights, wrapped
        from suture.executors import Workers

        doing = functools.partial(start_children_and, hang, 985)
        f = wrapped(Box({str(tmp_path)!r}, doing), Workers(2))
        loss = f(weights()).sum()
        print("ready", flush=True)
        loss.backward()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout.readline() == "ready\n"
        until(lambda: len(sleepers(985)) == 2)
        family = psutil.Process(trainer.pid).children(recursive=True)
        trainer.kill()
    assert len(family) >= 4  # the nursery, two workers, the program
    until(lambda: not [member for member in family if member.is_running()])


# Row 25


class Locked:
    """A function that holds what cannot be sent."""

    def __init__(self):
        self.lock = threading.Lock()

    def __call__(self, x):
        with self.lock:
            return x[:2] * x[1:] + x[0]


@on(*PROCESSES)
def test_row_25_a_function_that_cannot_be_sent(engine):
    with pytest.raises(MethodError) as caught:
        wrapped(Locked(), engine)(weights())
    assert "lock" in first_line(caught.value)
    assert "ThreadPoolExecutor" in str(caught.value)


@on(*PROCESSES)
def test_row_25_an_argument_that_cannot_be_sent(engine, tmp_path):
    with pytest.raises(MethodError, match="lock"):
        wrapped(lambda x, lock: x, engine)(weights(), threading.Lock())


@on("serial", "threads")
def test_row_25_nothing_is_sent_within_a_process(engine):
    assert_right(wrapped(Locked(), engine))


# Row 26


def multiplied(x):
    return (torch.outer(x, x).repeat(100, 100) @ torch.ones(300, dtype=x.dtype))[:3]


@on("workers")
def test_row_26_threads_of_torch_before_workers(engine):
    """A fork of a process whose threads hold locks would hang."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(500, 500) @ torch.ones(500, 500)
        f = differentiable(multiplied, executor=engine, method=FiniteDifference(stencils.CENTRAL))
        x = weights()
        f(x).sum().backward()
    finally:
        torch.set_num_threads(threads)
    assert x.grad.tolist() == pytest.approx([100 * 2 * sum(BASE)] * 3)


# Row 27


class Gradients(torch.utils.data.Dataset):
    def __init__(self, f):
        self.f = f

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return torch.tensor([tuple(gradient(self.f)), (float(os.getpid()),) * 3])


def make_workers():
    return Workers(2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork, in Python 3.12 and later
def test_row_27_a_worker_of_a_data_loader(tmp_path):
    """It may have no children: it evaluates right there, the same numbers."""
    box = Box(tmp_path)
    f = wrapped(box, make_workers)
    loader = torch.utils.data.DataLoader(
        Gradients(f), batch_size=None, num_workers=1, multiprocessing_context="fork"
    )
    found = list(loader)
    assert [tuple(each[0]) for each in found] == [tuple(torch.tensor(expected()))] * 2
    assert all(each[1, 0] != os.getpid() for each in found)
    assert box.count() == 2 * (POINTS + 1)


def test_row_27_a_pool_of_the_parent_is_refused_in_a_fork(workers, tmp_path):
    """Its workers still belong to the parent."""
    f = wrapped(Box(tmp_path), workers)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            f(weights())
        except MethodError as error:
            os.write(writer, first_line(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as said:
        text = said.read()
    os.waitpid(child, 0)
    assert text == f"An executor of process {os.getpid()} was used in process {child}."
