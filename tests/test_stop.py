"""`Workers.stop`, and the notes that a task leaves: what is left when it is ended from outside."""

import functools
import os
import signal
import threading
import time

import cloudpickle
import numpy as np
import psutil
import pytest
import torch
from faults import (
    KILL,
    Refuses,
    double,
    heavy_is_imported,
    ignore,
    keep_noting,
    note_and,
    process,
    start_session,
    stubborn,
    there,
    touch_and_wait,
    wait,
)
from leftovers import nothing_is_left, sleepers, until  # noqa: F401 # the first is a fixture

from suture.errors import MethodError, TimedOut, WorkerDied
from suture.executors import Workers, _children, _notes

pytestmark = pytest.mark.timeout(30)

ASLEEP = functools.partial(time.sleep, 60)


def stop(pool, futures):
    """Stop tasks, within half a second; the pool goes on."""
    start = time.monotonic()
    pool.stop(futures)
    assert time.monotonic() - start < 0.7
    assert all(future.done() for future in futures)
    assert pool.submit(double, 4).result(timeout=20) == 8


def was_stopped(future):
    error = future.exception(timeout=0)
    return isinstance(error, WorkerDied) and "was stopped" in str(error)


def children():
    return {child.pid for child in psutil.Process().children(recursive=True)}


def test_what_waits_is_canceled_and_what_runs_is_killed():
    with Workers(2) as pool:
        running = [pool.submit(wait, 60) for _ in range(2)]
        waiting = [pool.submit(double, i) for i in range(6)]
        until(lambda: all(future.running() for future in running))
        stop(pool, [running[0], *waiting[:4]])
        assert was_stopped(running[0])
        assert all(future.cancelled() for future in waiting[:4])
        assert not running[1].done()
        assert [future.result() for future in waiting[4:]] == [8, 10]
        assert pool.deaths == 1
        stop(pool, running)
        assert was_stopped(running[1])
        assert pool.deaths == 2


def test_its_process_is_gone_when_it_returns():
    with Workers(1) as pool:
        pid = pool.submit(process).result()
        future = pool.submit(wait, 60)
        until(future.running)
        pool.stop([future])
        assert pid not in children()


def test_a_worker_that_ignores_signals_and_has_children_is_killed():
    with Workers(2) as pool:
        futures = [pool.submit(stubborn), pool.submit(start_session, ASLEEP)]
        until(lambda: len(sleepers()) == 3)
        stop(pool, futures)
        assert all(was_stopped(future) for future in futures)
        until(lambda: not sleepers(), 0.5)


def test_a_task_that_loads_is_stopped(tmp_path):
    loads = tmp_path / "loads"
    with Workers(1) as pool:
        argument = Refuses(unpickled=there(functools.partial(touch_and_wait, loads)))
        future = pool.submit_within(5, ignore, argument)
        until(loads.exists)
        stop(pool, [future])
        assert was_stopped(future)


def test_a_task_that_is_being_sent_is_stopped():
    big = np.ones(8_000_000)  # 64 MB, to a worker that does not read
    with Workers(1) as pool:
        os.kill(pool.submit(process).result(), signal.SIGSTOP)
        future = pool.submit(np.sum, big)
        until(future.running)
        stop(pool, [future])
        assert was_stopped(future)
        assert pool.submit(np.sum, big).result() == 8e6


def test_a_task_whose_worker_is_not_born_does_not_begin(tmp_path, monkeypatch):
    monkeypatch.setattr(_children.Nursery, "kill", ignore)  # the order comes after the birth
    with Workers(1) as pool:
        future = pool.submit((tmp_path / "began").touch)
        until(future.running)
        stop(pool, [future])
        assert was_stopped(future)
        assert pool.deaths == 1
    assert not (tmp_path / "began").exists()


def test_a_nursery_that_imports_torch_holds_nothing_up():
    with Workers(2) as pool:
        pid = pool.submit(process).result()
        future = pool.submit(wait, 60)
        until(future.running)
        pool._dispatcher._crew.nursery._process.send_signal(signal.SIGSTOP)
        heavy = pool.submit(torch.sum, torch.ones(3))
        until(heavy.running)
        pool.stop([future])
        assert was_stopped(future)
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        pool._dispatcher._crew.nursery._process.send_signal(signal.SIGCONT)
        assert heavy.result() == 3.0


def test_hundreds_are_stopped_quickly():
    with Workers(1) as pool:
        blocker = pool.submit(wait, 60)
        futures = [pool.submit(double, i) for i in range(5000)]
        until(blocker.running)
        start = time.monotonic()
        pool.stop(futures[1:])
        assert time.monotonic() - start < 0.5
        assert all(future.cancelled() for future in futures[1:])
        assert len(pool._dispatcher._pending) == 1  # the arguments of the others are let go
        pool.stop([blocker])
        assert futures[0].result() == 0


def test_other_futures_do_not_matter():
    with Workers(1) as pool, Workers(1) as other:
        pool.stop([])
        done, foreign = pool.submit(double, 1), other.submit(wait, 0.3)
        assert done.result() == 2
        stop(pool, [done])
        pool.stop([foreign, None, "text"])
        assert foreign.result() == 0.3
        assert pool.deaths == 0
    pool.stop([done])


def test_a_callback_may_stop():
    with Workers(2) as pool:
        running, waiting = [pool.submit(wait, 60)], []
        until(running[0].running)
        first = pool.submit(wait, 0.2)
        waiting += [pool.submit(wait, 60) for _ in range(3)]
        first.add_done_callback(lambda _: pool.stop(running + waiting))
        ended = [future.exception(timeout=5) for future in running]
        assert isinstance(ended[0], WorkerDied)
        until(lambda: all(future.done() for future in waiting))
        assert pool.submit(double, 1).result() == 2


def test_a_stop_of_a_late_task_leaves_its_time_out():
    with Workers(1) as pool:
        future = pool.submit_within(0.2, wait, 60)
        assert isinstance(future.exception(), TimedOut)
        stop(pool, [future])


def test_many_threads_may_stop():
    with Workers(2) as pool:
        futures = [pool.submit(wait, 60) for _ in range(40)]
        threads = [threading.Thread(target=pool.stop, args=(futures[i::8],)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(future.done() for future in futures)
        assert pool.submit(double, 1).result() == 2


def test_a_hundred_stops_leave_nothing():
    me, before = psutil.Process(), children()
    with Workers(2) as pool:
        list(pool.map(process, range(8)))
        files = me.num_fds()
        for _ in range(100):
            futures = [pool.submit(wait, 60) for _ in range(4)]
            until(lambda futures=futures: futures[0].running())
            pool.stop(futures)
            assert all(future.done() for future in futures)
        until(lambda: len(children() - before) <= 3)
        until(lambda: me.num_fds() <= files)
        assert pool.submit(double, 1).result() == 2
        assert not [p for p in me.children(recursive=True) if p.status() == psutil.STATUS_ZOMBIE]


def test_a_pool_of_another_process_stops_nothing(monkeypatch):
    with Workers(1) as pool:
        monkeypatch.setattr(pool, "_owner", 1)
        with pytest.raises(MethodError, match="A pool of process 1"):
            pool.stop([])


# Notes


def noted(pool):
    crew = pool._dispatcher._crew
    return {crew.note(worker) for worker in crew.workers.values()}


ENDS = {
    "killed": (KILL, WorkerDied, "SIGKILL"),
    "exit": (functools.partial(os._exit, 3), WorkerDied, "code 3"),
    "late": (ASLEEP, TimedOut, "within 0.5 s"),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_last_note_is_kept(end):
    how, kind, message = ENDS[end]
    with Workers(2) as pool:
        for i in (0, 7, -1, 2**62):
            error = pool.submit_within(0.5, note_and, how, 1, 2, i).exception()
            assert type(error) is kind
            assert message in str(error)
            assert error.note == i
            assert cloudpickle.loads(cloudpickle.dumps(error)).note == i


def test_a_note_is_of_its_task():
    with Workers(1) as pool:
        assert pool.submit(note_and, double, 5).exception() is not None
        assert pool.submit(note_and, ignore, 5).result() is None
        assert pool.submit(KILL).exception().note is None
        assert pool.submit(note_and, KILL, 6).exception().note == 6
        assert pool.submit(KILL).exception().note is None


def test_each_worker_has_its_own_notes():
    with Workers(3) as pool:
        futures = [pool.submit(note_and, ASLEEP, i) for i in range(3)]
        until(lambda: noted(pool) == {0, 1, 2})
        pool.stop(futures)
        assert [future.exception().note for future in futures] == [0, 1, 2]


def test_notes_outlive_the_nursery_and_the_pool():
    with Workers(2) as pool:
        futures = [pool.submit(note_and, ASLEEP, i) for i in range(2)]
        until(lambda: noted(pool) == {0, 1})
        pool._dispatcher._crew.nursery._process.kill()
        assert [future.exception().note for future in futures] == [0, 1]
        future = pool.submit(note_and, ASLEEP, 2)
        until(lambda: 2 in noted(pool))
        pool.kill_workers()
    assert future.exception().note == 2


def test_what_the_function_forks_has_no_notes():
    def fork():
        _notes.note(1)
        child = os.fork()
        if child == 0:
            _notes.note(2)
            os._exit(0)
        os.waitpid(child, 0)
        KILL()

    with Workers(1) as pool:
        assert pool.submit(fork).exception().note == 1


def test_noting_needs_no_torch():
    with Workers(1) as pool:
        assert pool.submit(note_and, ignore, 1).result() is None
        assert not pool.submit(heavy_is_imported).result()


def test_outside_of_a_worker_a_note_is_nothing():
    _notes.note(3)


def test_a_note_is_cheap():
    """Some 0.1 µs; ten times that would still be nothing beside a call."""
    with Workers(1) as pool:
        assert pool.submit(keep_noting, 100_000).result() < 1e-6
