"""Workers: the protocol of executors, and what a fault costs."""

import concurrent.futures
import ctypes
import functools
import gc
import multiprocessing
import operator
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import psutil
import pytest
import torch
from faults import (
    ABORT,
    EXIT,
    KILL,
    LEAVE,
    SEGV,
    Refuses,
    boom,
    die,
    double,
    give,
    hang,
    heavy_is_imported,
    here,
    ignore,
    process,
    raise_awkward,
    resident,
    sleepy_process,
    start_session,
    there,
    wait,
)
from leftovers import nothing_is_left, sleepers, until  # noqa: F401 # the first is a fixture

from suture.errors import BadResult, EvaluationError, MethodError, TimedOut, WorkerDied
from suture.executors import Workers, _dispatcher

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(scope="module")
def workers():
    with Workers(2) as pool:
        yield pool


# The protocol


def test_it_is_an_executor(workers):
    assert isinstance(workers, concurrent.futures.Executor)
    assert workers.submit(double, 21).result() == 42
    assert workers.submit(int, "ff", base=16).result() == 255
    assert list(workers.map(double, range(50))) == [2 * i for i in range(50)]
    done = list(concurrent.futures.as_completed([workers.submit(double, i) for i in range(9)]))
    assert sorted(future.result() for future in done) == [2 * i for i in range(9)]


def test_work_is_done_elsewhere_and_by_n_processes():
    with Workers(3) as pool:
        found = {future.result() for future in [pool.submit(sleepy_process) for _ in range(9)]}
    assert len(found) == 3
    assert os.getpid() not in found


@pytest.mark.parametrize("n", [1, 2, 5])
def test_any_number_of_workers_survives_kills(n):
    with Workers(n) as pool:
        futures = [
            pool.submit(die, signal.SIGKILL) if i % 7 == 3 else pool.submit(double, i)
            for i in range(28)
        ]
        errors = [future.exception() for future in futures]
    assert [i for i, error in enumerate(errors) if error] == [3, 10, 17, 24]
    assert all(isinstance(error, WorkerDied) for error in errors if error)
    assert [f.result() for i, f in enumerate(futures) if i % 7 != 3] == [
        2 * i for i in range(28) if i % 7 != 3
    ]
    assert pool.deaths == 4


def test_functions_need_not_be_importable(workers):
    offset = 3
    assert workers.submit(lambda x: x + offset, 1).result() == 4
    offset = 5  # a closure is sent as it is when the task is submitted
    assert workers.submit(lambda x: x + offset, 1).result() == 6


def test_a_function_that_changes_is_sent_again(workers):
    class Scale:
        factor = 2

        def __call__(self, x):
            return self.factor * x

    scale = Scale()
    assert workers.submit(scale, 5).result() == 10
    scale.factor = 3
    assert workers.submit(scale, 5).result() == 15


def test_a_worker_keeps_its_function():
    class Counts:
        calls = 0

        def __call__(self):
            self.calls += 1
            return self.calls

    counts = Counts()
    with Workers(1) as pool:
        assert [pool.submit(counts).result() for _ in range(3)] == [1, 2, 3]


def test_arguments_are_taken_when_submitted():
    x = np.zeros(100_000)
    with Workers(1) as pool:
        blocker = pool.submit(wait, 0.2)
        future = pool.submit(np.sum, x)
        x[:] = 1.0
        assert future.result() == 0.0
        assert pool.submit(np.sum, x).result() == 100_000
        assert blocker.result() == 0.2


def test_functions_may_write_into_what_they_get(workers):
    def spoil(x):
        x += 1.0
        return float(x.sum())

    x = np.zeros(100_000)
    assert [workers.submit(spoil, x).result() for _ in range(4)] == [100_000.0] * 4
    t = torch.zeros(100_000, dtype=torch.float64)
    assert [workers.submit(spoil, t).result() for _ in range(4)] == [100_000.0] * 4


@pytest.mark.parametrize(
    "x",
    [
        torch.arange(6, dtype=torch.int16).reshape(2, 3),
        torch.rand(70_000, dtype=torch.float64),
        torch.rand(300, 400).T,
        torch.rand(3).bfloat16(),
        torch.rand(3, requires_grad=True),
        torch.rand(2, dtype=torch.complex128).conj(),
        torch.tensor(3.0),
        torch.zeros(0, 3),
    ],
    ids=lambda x: f"{x.dtype}{tuple(x.shape)}",
)
def test_tensors_arrive_as_they_are(workers, x):
    there = workers.submit(list, [x]).result()[0]
    assert there.dtype == x.dtype
    assert there.requires_grad == x.requires_grad
    assert there.is_conj() == x.is_conj()
    assert torch.equal(there, x)


@pytest.mark.parametrize(
    "x",
    [
        np.arange(12, dtype=">i2").reshape(3, 4),
        np.random.default_rng(0).random((300, 400)).T,
        np.random.default_rng(0).random(200_000)[::2],
        np.array(["a", None], dtype=object),
        np.zeros((0, 3)),
        np.float32(1.5),
    ],
    ids=lambda x: f"{x.dtype}{x.shape}",
)
def test_arrays_arrive_as_they_are(workers, x):
    there = workers.submit(list, [x]).result()[0]
    assert there.dtype == x.dtype
    assert there.shape == x.shape
    assert np.array_equal(there, x)


def test_large_results_come_back(workers):
    result = workers.submit(np.arange, 2_000_000).result()
    assert np.array_equal(result, np.arange(2_000_000))
    result[0] = 7  # it is the caller's


def test_cancel():
    with Workers(1) as pool:
        running = pool.submit(wait, 0.3)
        waiting = [pool.submit(double, i) for i in range(3)]
        assert waiting[1].cancel()
        until(running.running)
        assert not running.cancel()
        assert [waiting[0].result(), waiting[2].result()] == [0, 4]
        assert waiting[1].cancelled()


def test_shutdown_waits_for_what_was_submitted():
    pool = Workers(2)
    futures = [pool.submit(wait, 0.05) for _ in range(6)]
    pool.shutdown()
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [0.05] * 6
    pool.shutdown()  # again does nothing


def test_shutdown_that_does_not_wait():
    pool = Workers(1)
    future = pool.submit(wait, 0.3)
    pool.shutdown(wait=False)
    assert not future.done()
    assert future.result() == 0.3
    pool.shutdown()


def test_shutdown_that_cancels():
    pool = Workers(1)
    futures = [pool.submit(wait, 0.3) for _ in range(4)]
    until(futures[0].running)
    pool.shutdown(cancel_futures=True)
    assert futures[0].result() == 0.3
    assert all(future.cancelled() for future in futures[1:])
    assert concurrent.futures.wait(futures, timeout=1).not_done == set()


def test_submitting_after_shutdown_raises():
    for pool in (Workers(1), Workers(1)):
        if pool.deaths:
            pool.submit(double, 1)
        pool.shutdown()
        with pytest.raises(RuntimeError, match=r"`double` was submitted to a pool"):
            pool.submit(double, 1)


def test_a_dropped_pool_finishes_and_goes():
    future = Workers(1).submit(wait, 0.2)
    gc.collect()
    assert future.result(timeout=10) == 0.2


def test_callbacks_may_submit_and_raise():
    results = []
    with Workers(1) as pool:

        def again(future):
            results.append(pool.submit(double, future.result()))
            raise SystemExit("from a callback")

        first = pool.submit(double, 1)
        first.add_done_callback(again)
        until(lambda: results)
        assert results[0].result() == 4
        assert pool.submit(double, 5).result() == 10


def test_a_callback_may_shut_down():
    pool = Workers(1)
    blocker = pool.submit(wait, 0.1)
    blocker.add_done_callback(lambda _: pool.shutdown(wait=True))
    assert blocker.result() == 0.1
    until(lambda: not pool._dispatcher._thread.is_alive())


def test_many_threads_submit(workers):
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        sums = threads.map(lambda k: sum(workers.map(operator.add, range(50), [k] * 50)), range(8))
        assert list(sums) == [1225 + 50 * k for k in range(8)]


# Faults: each costs exactly one task


FAULTS = {
    "killed": (KILL, (), WorkerDied, "killed by SIGKILL"),
    "segfault": (SEGV, (), WorkerDied, "killed by SIGSEGV"),
    "abort": (ABORT, (), WorkerDied, "killed by SIGABRT"),
    "terminated": (die, (signal.SIGTERM,), WorkerDied, "killed by SIGTERM"),
    "exit": (LEAVE, (), WorkerDied, "exited with code 3"),
    "exit at once": (EXIT, (), WorkerDied, "exited with code 0"),
    "libc exit": (lambda: ctypes.CDLL(None).exit(7), (), WorkerDied, "exited with code 7"),
    "raises": (boom, (), ValueError, "boom"),
    "recursion": (lambda: (lambda f: f(f))(lambda f: f(f)), (), RecursionError, "recursion"),
    "raises no Exception": (lambda: exec("raise KeyboardInterrupt"), (), EvaluationError, "raised"),
    "a result that cannot be pickled": (threading.Lock, (), BadResult, "a lock cannot be"),
    "closes all files": (os.closerange, (3, 512), WorkerDied, "The worker that"),
    "crash at pickle": (ignore, (Refuses(pickled=boom),), MethodError, "ValueError: boom"),
    "exit at pickle": (ignore, (Refuses(pickled=LEAVE),), MethodError, "SystemExit: 3"),
    "raise at unpickle": (ignore, (Refuses(unpickled=there(boom)),), ValueError, "boom"),
    "kill at unpickle": (ignore, (Refuses(unpickled=there(KILL)),), WorkerDied, "SIGKILL"),
    "exit at unpickle": (ignore, (Refuses(unpickled=there(LEAVE)),), WorkerDied, "code 3"),
    "raise at result pickle": (give, (there(boom), None), BadResult, "boom"),
    "kill at result pickle": (give, (there(KILL), None), WorkerDied, "SIGKILL"),
    "raise at result unpickle": (give, (None, here(boom)), BadResult, "ValueError: boom"),
    "exit at result unpickle": (give, (None, here(LEAVE)), BadResult, "SystemExit: 3"),
    "kill at collection": (ignore, (Refuses(collected=there(KILL)),), WorkerDied, "SIGKILL"),
    "exit at collection": (ignore, (Refuses(collected=there(EXIT)),), WorkerDied, "code 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_one_task_of_sixteen(workers, fault):
    fn, args, kind, message = FAULTS[fault]
    futures = [
        workers.submit(fn, *args) if i == 5 else workers.submit(double, i) for i in range(16)
    ]
    error = futures[5].exception(timeout=20)
    assert isinstance(error, kind)
    assert message in str(error)
    if isinstance(error, EvaluationError | MethodError):
        assert len(str(error).splitlines()) == 3
    rest = [future.result(timeout=20) for i, future in enumerate(futures) if i != 5]
    assert rest == [2 * i for i in range(16) if i != 5]


def test_a_raised_error_has_the_workers_traceback(workers):
    error = workers.submit(boom).exception()
    assert "in boom" in str(error.__cause__)
    assert "faults.py" in str(error.__cause__)


def test_an_error_that_cannot_be_rebuilt_is_described(workers):
    error = workers.submit(raise_awkward).exception()
    assert isinstance(error, EvaluationError)
    assert "`raise_awkward` raised Awkward" in str(error)
    assert "in raise_awkward" in str(error.__cause__)


def test_a_hang_costs_its_task_and_its_children():
    with Workers(2) as pool:
        start = time.monotonic()
        futures = [
            pool.submit_within(0.5, hang) if i == 5 else pool.submit_within(20, double, i)
            for i in range(16)
        ]
        error = futures[5].exception()
        assert time.monotonic() - start < 3  # 0.5, one more at most, and the start of the pool
        assert isinstance(error, TimedOut)
        assert str(error).startswith("`hang` gave no result within 0.5 s.\n")
        rest = [future.result() for i, future in enumerate(futures) if i != 5]
        assert rest == [2 * i for i in range(16) if i != 5]
        until(lambda: not sleepers())


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_CHILD_SUBREAPER")
@pytest.mark.parametrize("end", [EXIT, KILL, functools.partial(time.sleep, 60)])
def test_what_a_dead_worker_started_in_another_session_dies(end):
    with Workers(1) as pool:
        future = pool.submit_within(0.5, start_session, end)
        until(lambda: len(sleepers()) == 2)
        assert isinstance(future.exception(), WorkerDied | TimedOut)
        until(lambda: not sleepers())
        assert pool.submit(double, 1).result() == 2


def test_what_is_left_running_ends_with_the_pool():
    with Workers(1) as pool:
        pool.submit(start_session, ignore).result()
        until(lambda: len(sleepers()) == 2)
        assert pool.submit(double, 1).result() == 2
        assert len(sleepers()) == 2
    assert not sleepers()


def test_what_was_printed_is_not_lost(tmp_path):
    script = """
        from suture.executors import Workers

        with Workers(1) as workers:
            workers.submit(print, "printed").result()
            workers.kill_workers()
        """
    assert run_script(script, tmp_path).communicate(timeout=25) == ("printed\n", "")


def test_a_deadline_is_kept_to_a_second(workers):
    workers.submit_within(5, double, 1).result()
    start = time.monotonic()
    assert isinstance(workers.submit_within(0.3, wait, 60).exception(), TimedOut)
    assert 0.3 <= time.monotonic() - start < 1.3


def test_waiting_in_the_queue_does_not_count():
    with Workers(1) as pool:
        futures = [pool.submit_within(0.6, wait, 0.3) for _ in range(4)]
        assert [future.result() for future in futures] == [0.3] * 4


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_a_deadline_is_positive_and_finite(workers, seconds):
    with pytest.raises(MethodError, match="positive, finite"):
        workers.submit_within(seconds, double, 1)


def test_loading_has_a_deadline_as_well(monkeypatch):
    monkeypatch.setattr(_dispatcher, "_LOADING", 0.2)
    with Workers(1) as pool:
        argument = Refuses(unpickled=there(functools.partial(time.sleep, 60)))
        error = pool.submit_within(0.1, ignore, argument).exception()
    assert str(error).startswith("Loading the arguments of `ignore` gave no result within 0.2 s")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_a_blow_up_of_memory_costs_one_task():
    with Workers(2, memory_limit=1 << 30) as pool:
        futures = [
            pool.submit(bytearray, 3 << 30) if i == 5 else pool.submit(double, i) for i in range(16)
        ]
        assert isinstance(futures[5].exception(), MemoryError)
        assert [f.result() for i, f in enumerate(futures) if i != 5] == [
            2 * i for i in range(16) if i != 5
        ]
        assert pool.deaths == 0
        child = "import sys; sys.exit(7 if len(bytearray(3 << 30)) else 0)"
        assert pool.submit(subprocess.call, [sys.executable, "-c", child]).result() == 1


def test_a_child_that_the_function_forks_does_not_answer(workers):
    def fork():
        return ("child", os.getpid()) if os.fork() == 0 else ("parent", os.getpid())

    for _ in range(5):
        assert workers.submit(fork).result()[0] == "parent"
    assert list(workers.map(double, range(9))) == [2 * i for i in range(9)]


def test_frames_larger_than_the_pipe_block_nobody():
    big = np.ones(4_000_000)  # 32 MB, to a worker that is asleep while it should read
    with Workers(2) as pool:
        slow = pool.submit(np.sum, Refuses(unpickled=there(functools.partial(time.sleep, 0.2))))
        futures = [pool.submit(np.sum, big + i) for i in range(4)]
        quick = [pool.submit(double, i) for i in range(50)]
        assert [f.result() for f in futures] == [4e6 * (1 + i) for i in range(4)]
        assert [f.result() for f in quick] == [2 * i for i in range(50)]
        assert slow.exception() is None or isinstance(slow.exception(), Exception)


def test_the_death_of_the_nursery_costs_what_was_running():
    with Workers(2) as pool:
        assert pool.submit(double, 1).result() == 2
        running = [pool.submit(wait, 30) for _ in range(2)]
        until(lambda: all(future.running() for future in running))
        waiting = [pool.submit(double, i) for i in range(8)]
        pool._dispatcher._crew.nursery._process.kill()
        assert all("starts workers" in str(f.exception(timeout=10)) for f in running)
        assert [future.result() for future in waiting] == [2 * i for i in range(8)]


def test_a_failure_of_the_dispatcher_ends_all_tasks(monkeypatch, caplog):
    pool = Workers(1)
    assert pool.submit(double, 1).result() == 2
    running = pool.submit(wait, 30)
    waiting = pool.submit(double, 3)
    until(running.running)
    monkeypatch.setattr(pool._dispatcher, "_expire", boom)
    pool._dispatcher._wake()
    assert isinstance(running.exception(timeout=10), ValueError)
    assert isinstance(waiting.exception(timeout=10), ValueError)
    with pytest.raises(concurrent.futures.BrokenExecutor, match="The pool has failed by itself"):
        pool.submit(double, 4)
    assert "The pool of workers has failed" in caplog.text


def test_the_death_of_an_idle_worker_costs_nothing():
    with Workers(1) as pool:
        idle = pool.submit(process).result()
        os.kill(idle, signal.SIGKILL)
        until(lambda: pool.deaths == 1)
        assert pool.submit(process).result() != idle


def test_workers_draw_different_numbers():
    with Workers(2) as pool:
        pool.submit(double, 1).result()
        for _ in range(2):  # the second time, NumPy was imported before the fork
            drawn = [pool.submit(draw).result() for _ in range(2) if not kill_all(pool)]
            assert len(set(drawn)) == 2


def draw():
    return float(np.random.random())  # noqa: NPY002 # what simulators do


def kill_all(pool):
    pids = [worker.pid for worker in pool._dispatcher._crew.workers.values() if worker.pid]
    before = pool.deaths
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: pool.deaths == before + len(pids))


def test_soak():
    """300 tasks, every seventh of which kills its worker; scripts/soak does more."""
    with Workers(2) as pool:
        futures = [pool.submit(KILL) if i % 7 == 0 else pool.submit(double, i) for i in range(300)]
        for i, future in enumerate(futures):
            if i % 7 == 0:
                assert isinstance(future.exception(timeout=20), WorkerDied)
            else:
                assert future.result(timeout=20) == 2 * i
    assert pool.deaths == 43


# What is sent


def sent(pool, fn, *args):
    before = pool.bytes_sent
    pool.submit(fn, *args).result()
    return pool.bytes_sent - before


@pytest.mark.parametrize("make", [np.zeros, functools.partial(torch.zeros, dtype=torch.float64)])
def test_an_unchanged_argument_is_sent_once(make):
    x = make(1_000_000)
    with Workers(1) as pool:
        assert 8_000_000 < sent(pool, len, x) < 8_004_000
        again = sent(pool, len, x)
        assert again < 2_000
        assert sent(pool, len, x + 0) == again  # content counts, not identity


def test_of_a_displaced_argument_a_block_is_sent():
    x = np.zeros(1_000_000)
    with Workers(1) as pool:
        sent(pool, np.sum, x)
        for place in (0, 499_999, 999_999):
            moved = x.copy()
            moved[place] = 1.0
            assert sent(pool, np.sum, moved) < 65_536 + 2_000
            assert pool.submit(np.argmax, moved).result() == place
        assert sent(pool, np.sum, x) < 2_000


def test_workers_forget_what_the_parent_forgot():
    with Workers(1) as pool:
        kilobytes = [pool.submit(resident, np.random.default_rng(i).random(2_000_000)).result()
                     for i in range(12)]  # fmt: skip
    assert kilobytes[-1] - kilobytes[2] < 2 * 16_000  # each was 16 MB


def test_a_function_is_sent_once():
    weights = np.ones(100_000)
    with Workers(1) as pool:
        assert sent(pool, lambda x: x * weights[0], 2.0) > 800_000
        weighted = functools.partial(operator.matmul, weights)
        first, second = sent(pool, weighted, weights), sent(pool, weighted, weights)
        assert second < 2_000 < first


def test_torch_is_imported_only_for_those_who_need_it():
    with Workers(1) as pool:
        assert not pool.submit(heavy_is_imported).result()
        assert pool.submit(torch.sum, torch.ones(3)).result() == 3.0
        pool.submit(KILL).exception()
        assert pool.submit(heavy_is_imported).result()


# Ends


def run_script(script, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        [sys.executable, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_a_script_needs_no_guard(tmp_path):
    script = """
        import dataclasses
        from suture.executors import Workers

        @dataclasses.dataclass
        class Point:
            x: float

        def move(point):
            return Point(point.x + 1)

        workers = Workers(2)
        moved = workers.submit(move, Point(1.0)).result()
        print(type(moved) is Point, moved)
        """
    process = run_script(script, tmp_path)
    out, err = process.communicate(timeout=25)
    assert out == "True Point(x=2.0)\n"
    assert err == ""
    assert process.returncode == 0


BUSY = """
    import os, signal, subprocess, sys, time
    from suture.executors import Workers

    def long(i):
        subprocess.run(["sleep", "654"])

    def main():
        with Workers(2) as workers:
            print(*workers.map(pid, range(2)), flush=True)
            futures = [workers.submit(long, i) for i in range(4)]
            time.sleep(0.3)
            print("busy", flush=True)
            futures[0].result()

    def pid(i):
        time.sleep(0.1)
        return os.getpid()

    main()
    """


def family(pid):
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def alive(processes):
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_parent_that_ends_leaves_nobody(how, tmp_path):
    process = run_script(BUSY, tmp_path)
    assert len(process.stdout.readline().split()) == 2
    assert process.stdout.readline() == "busy\n"
    members = family(process.pid)
    assert sum(p.name() == "sleep" for p in members) == 2
    start = time.monotonic()
    process.send_signal(how)
    _, err = process.communicate(timeout=10)
    until(lambda: not alive(members), 3.0)
    assert time.monotonic() - start < 2.0
    if how == signal.SIGINT:
        assert "KeyboardInterrupt" in err


def test_workers_ignore_ctrl_c(workers):
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        pid = workers.submit(process).result()
        sleeping = threads.submit(workers.submit(wait, 0.3).result)
        os.kill(pid, signal.SIGINT)
        assert sleeping.result() == 0.3
    assert workers.submit(process).result() is not None


def test_leaving_by_ctrl_c_kills_what_runs():
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Workers(1) as pool:  # noqa: PT012 # that is the test
        running, waiting = pool.submit(wait, 60), pool.submit(wait, 60)
        until(running.running)
        raise KeyboardInterrupt
    assert time.monotonic() - start < 2
    assert "its pool was ended" in str(running.exception())
    assert waiting.cancelled()


def test_many_pools_leave_nothing():
    me = psutil.Process()
    gc.collect()
    files = me.num_fds()
    for _ in range(5):
        with Workers(2) as pool:
            assert list(pool.map(double, range(4))) == [0, 2, 4, 6]
            pool.submit(KILL).exception()
    assert me.num_fds() <= files


def test_a_fork_may_not_use_the_pool(workers):
    assert workers.submit(double, 1).result() == 2
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            workers.submit(double, 1)
        except MethodError as error:
            os.write(writer, str(error).encode())
        workers._dispatcher.close(kill=True)  # as at the end of the program
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert f"A pool of process {os.getpid()} was used in process {child}." in pipe.read()
    os.waitpid(child, 0)
    assert workers.submit(double, 1).result() == 2


def test_a_daemonic_process_is_told_to_do_without(monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    with pytest.raises(MethodError, match="executor=None"):
        Workers(1)


@pytest.mark.parametrize("arguments", [{"n": 0}, {"n": 1.0}, {"n": True}, {"memory_limit": -1}])
def test_arguments_are_checked(arguments):
    with pytest.raises(MethodError, match="whole number"):
        Workers(**arguments)


def test_other_systems_are_told(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(MethodError, match="`memory_limit` was given on darwin"):
        Workers(memory_limit=1 << 30)
    monkeypatch.delattr(os, "fork")
    with pytest.raises(MethodError, match="no fork"):
        Workers()


def test_the_default_is_one_worker_a_processor():
    assert Workers().n == len(os.sched_getaffinity(0))
