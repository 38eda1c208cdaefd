"""What is kept, and who kills it: rows 17 to 24 and 30 of the fault matrix."""

import concurrent.futures
import functools
import os
import pathlib
import signal
import threading
import time

import numpy as np
import pytest
import torch
from engines import BASE, Box
from gradients import (
    POINTS,
    assert_right,
    everywhere,
    gradient,
    weights,
    wrapped,
)
from leftovers import until

import suture
from suture import _memo_file
from suture._memo import Memo
from suture.errors import EvaluationError, WorkerDied

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("nothing_left")]


def remembered(path, **options):
    return Memo(path / "memo.db", version=1, **options)


# Row 17


def many_points(f):
    for shift in range(60):
        f(weights().detach() + shift)
    assert_right(f)


@everywhere
def test_row_17_the_disk_is_full(engine, tmp_path):
    """One warning, and training goes on without what cannot be kept."""
    box = Box(tmp_path)
    with remembered(tmp_path) as memo:
        f = wrapped(box, engine, memo=memo)
        database = memo._file._connected().database
        ((pages,),) = database.execute("PRAGMA page_count")
        database.execute(f"PRAGMA max_page_count={pages}")
        with pytest.warns(UserWarning, match="cannot be used now") as caught:
            many_points(f)
        assert len(caught) == 1
        counts = memo.counts
        assert counts.failed_writes > POINTS
        assert counts.failed_writes + counts.writes == box.count() == 60 + POINTS
        assert memo.info().values == counts.writes


# Row 18


@everywhere
def test_row_18_a_damaged_row_is_evaluated_again(engine, tmp_path):
    box = Box(tmp_path)
    with remembered(tmp_path) as memo:
        f = wrapped(box, engine, memo=memo)
        assert_right(f)
        database = memo._file._connected().database
        with database:
            database.execute(
                "UPDATE memo SET value = CAST(substr(value, 1, length(value) - 1) || x'00'"
                " AS BLOB) WHERE key = (SELECT max(key) FROM memo)"
            )
        assert_right(f)
        assert_right(f)
        assert memo.counts.bad_rows == 1
    assert box.count() == POINTS + 2


def test_row_18_a_file_that_is_no_memo_is_kept_and_another_begun(tmp_path):
    path = tmp_path / "memo.db"
    path.write_bytes(os.urandom(20_000))
    with pytest.warns(UserWarning, match="corrupt") as caught:
        memo = remembered(tmp_path)
    assert len(caught) == 1
    with memo:
        assert_right(wrapped(Box(tmp_path), None, memo=memo))
        assert memo.info().values == POINTS + 1
    assert len(list(tmp_path.glob("memo.db.corrupt-*"))) == 1


# Row 19


class Draws:
    """Each process draws for itself, so equal values were taken from one memo."""

    def __init__(self, folder):
        self.box = Box(folder)

    def __call__(self, x):
        return self.box(x) + np.random.default_rng().normal(size=2)


def descend(folder, steps):
    """Train, and return the weights."""
    with Memo(os.path.join(folder, "memo.db"), version=1) as memo:
        f = wrapped(Draws(folder), None, memo=memo)
        weight = weights()
        for _ in range(steps):
            f(weight).sum().backward()
            weight = (weight.detach() - 1e-12 * weight.grad).requires_grad_()
    return tuple(weight.tolist())


def test_row_19_four_processes_share_a_memo(workers, tmp_path):
    """All go on with the value that was written first, to the last bit."""
    trained = [workers.submit(descend, str(tmp_path), 5) for _ in range(2)]
    trained += [workers.submit(descend, str(tmp_path), 5) for _ in range(2)]
    assert len({future.result() for future in trained}) == 1
    with remembered(tmp_path) as memo:
        assert memo.info().values == 5 * (POINTS + 1)
    # Two at a time race for a point; the later two find all of them.
    assert 5 * (POINTS + 1) <= Box(tmp_path).count() <= 10 * (POINTS + 1)


# Row 20


def test_row_20_a_memo_on_a_network_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(_memo_file, "file_system", lambda _: "nfs4")
    with pytest.warns(UserWarning, match="write-ahead"):
        memo = remembered(tmp_path)
    with memo:
        f = wrapped(Box(tmp_path), None, memo=memo)
        assert_right(f)
        assert_right(f)
        assert memo.info().journal == "delete"
    assert f.tally.hits == f.tally.evaluations == POINTS + 1


# Rows 21 and 24


def train(folder, fatal):
    """Train as after any crash: from the checkpoint, with the memo; die in some evaluations."""
    box = Box(folder)

    def deadly(x):
        result = box(x)
        if box.count() in fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    checkpoint = os.path.join(folder, "checkpoint.pt")
    weight, step = weights(), 0
    if os.path.exists(checkpoint):
        saved = torch.load(checkpoint, weights_only=True)
        step = saved["step"]
        weight = saved["weight"].requires_grad_()
    with Memo(os.path.join(folder, "memo.db"), version=1) as memo:
        f = wrapped(deadly, None, memo=memo)
        while step < 6:
            f(weight).square().sum().backward()
            weight = (weight.detach() - 0.01 * weight.grad).requires_grad_()
            step += 1
            if step % 3 == 0:
                torch.save({"step": step, "weight": weight.detach()}, checkpoint + "~")
                os.replace(checkpoint + "~", checkpoint)
    return tuple(weight.tolist())


def test_rows_21_and_24_training_that_is_killed_again_and_again(workers, tmp_path):
    """The same weights, and no evaluation repeated but those in which it was killed."""
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    weight, calls = train(str(undisturbed), ()), Box(undisturbed).count()
    assert calls == 6 * (POINTS + 1)
    fatal = (4, 19, 38)
    for _ in fatal:
        with pytest.raises(WorkerDied):
            workers.submit(train, str(tmp_path), fatal).result()
    assert workers.submit(train, str(tmp_path), fatal).result() == weight
    assert Box(tmp_path).count() == calls + len(fatal)
    with remembered(tmp_path) as memo:
        assert memo.info().values == calls


# Row 22


def test_row_22_f_was_changed(tmp_path):
    def first(x):
        return x * 2.0

    def second(x):
        return x * 3.0

    second.__qualname__, second.__name__ = first.__qualname__, first.__name__
    with Memo(tmp_path / "memo.db") as memo:
        for function, slope in [(first, 2.0), (second, 3.0), (first, 2.0)]:
            f = wrapped(function, None, memo=memo)
            assert gradient(f).tolist() == pytest.approx([slope] * 3)
        assert f.tally.evaluations == 0
        assert memo.info().values == 2 * (POINTS + 1)


# Row 23


def interrupt(folder, x, result):
    """Ctrl-C while other points run; this one takes long."""
    os.kill(int(pathlib.Path(folder, "trainer").read_text()), signal.SIGINT)
    time.sleep(3)
    return result


@pytest.mark.parametrize("engine", ["serial", "threads", "workers"], indirect=True)
def test_row_23_ctrl_c_in_backward(engine, tmp_path):
    (tmp_path / "trainer").write_text(str(os.getpid()))
    box = Box(tmp_path, functools.partial(interrupt, str(tmp_path)))
    with remembered(tmp_path) as memo:
        f = wrapped(box, engine, memo=memo)
        weight = weights()
        loss = f(weight).sum()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            loss.backward()
        assert time.monotonic() - start < 2
        assert weight.grad is None
        assert weight.tolist() == list(BASE)
        assert 1 <= memo.info().values <= box.count() - 1
        assert box.count("bad") == 1
        if hasattr(engine, "kill_workers"):  # who slept has been killed
            until(lambda: engine.deaths)
        # What was finished is found again.
        again = Box(tmp_path)
        found, before = memo.info().values, again.count()
    with remembered(tmp_path) as memo:
        assert_right(wrapped(again, None, memo=memo))
        assert again.count() - before == POINTS + 1 - found


# Row 30


@everywhere
def test_row_30_two_threads_call_backward_at_once(engine, tmp_path):
    box = Box(tmp_path)
    with remembered(tmp_path) as memo:
        f = wrapped(box, engine, memo=memo)
        if engine is not None:
            f._box.service.pool.current()  # loky makes a pool for each thread that asks for one
        shifts = [[0.5 * i for i in range(3)], [0.25 + 0.5 * i for i in range(3)]]
        found = [[], []]
        together = threading.Barrier(2)

        def run(which):
            together.wait()
            for shift in shifts[which]:
                x = (weights().detach() + shift).requires_grad_()
                f(x).sum().backward()
                found[which].append(tuple(x.grad.tolist()))

        threads = [threading.Thread(target=run, args=(which,)) for which in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        points = 6 * (POINTS + 1)
        assert (f.tally.evaluations, f.tally.hits, box.count()) == (points, 0, points)
        assert memo.info().values == points
    plain = wrapped(Box(tmp_path), None)
    for which in range(2):
        for shift, slope in zip(shifts[which], found[which], strict=True):
            x = (weights().detach() + shift).requires_grad_()
            plain(x).sum().backward()
            assert tuple(x.grad.tolist()) == slope


class Untelling:
    """Threads whose futures do not tell that they run, as those of Dask: they can be canceled."""

    def __init__(self):
        self.threads = concurrent.futures.ThreadPoolExecutor(2)
        self.n = 2

    def submit(self, fn, *points):
        future = concurrent.futures.Future()

        def run():
            result = fn(*points)
            if future.set_running_or_notify_cancel():
                future.set_result(result)

        self.threads.submit(run)
        return future


def assert_kept(pool, tmp_path):
    """What runs beside a failure may have run for hours: it is awaited and kept."""
    slow = tmp_path / "slow"

    def fails_or_takes_long(x):
        if x[0] > 1.0:
            until(slow.exists, 30.0)
            raise ValueError("boom")
        if x[1] > 1.0:
            slow.write_text("")
            time.sleep(0.5)
        return x**2

    def gradient():
        f = suture.differentiable(
            fails_or_takes_long,
            method=suture.FiniteDifference(suture.stencils.FORWARD),
            executor=pool,
            memo=remembered(tmp_path),
            name="f",
        )
        loss = f(torch.ones(2, dtype=torch.float64, requires_grad=True)).sum()
        with pytest.raises(EvaluationError, match="raised ValueError: boom"):
            loss.backward()
        return f

    gradient()
    assert gradient().tally.hits == 2  # f(x), and the slow point


@pytest.mark.parametrize("engine", ["threads", "workers"], indirect=True)
def test_no_fault_costs_more_than_the_evaluation_that_it_hit(engine, tmp_path):
    assert_kept(engine, tmp_path)


def test_nor_where_futures_do_not_tell_that_they_run(tmp_path):
    pool = Untelling()
    assert_kept(pool, tmp_path)
    pool.threads.shutdown()
