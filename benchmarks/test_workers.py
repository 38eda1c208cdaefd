"""What a task costs through `Workers`, and what two of them gain."""

import concurrent.futures
import multiprocessing
import time

import numpy as np
import pytest
from measure import seconds, take_turns
from tasks import compute, die, double, simulate, total

from suture.executors import Workers

TASKS = 500


@pytest.fixture(scope="module")
def workers():
    with Workers(2) as pool:
        list(pool.map(double, range(100)))
        yield pool


@pytest.fixture(scope="module")
def standard():
    """The executor of the standard library, which one dead worker breaks."""
    context = multiprocessing.get_context("forkserver")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        list(pool.map(double, range(100)))
        yield pool


def through(pool, fn, arguments):
    futures = [pool.submit(fn, argument) for argument in arguments]
    return [future.result() for future in futures]


def test_dispatch(benchmark, row, workers, standard):
    arguments = [float(i) for i in range(TASKS)]
    ours, theirs, ratio = take_turns(
        lambda: through(workers, double, arguments),
        lambda: through(standard, double, arguments),
        rounds=21,
    )
    row(
        "a task that does nothing, 2 workers",
        f"{ours / TASKS * 1e3:.3f} ms",
        f"{theirs / TASKS * 1e3:.3f} ms (ProcessPoolExecutor)",
        f"{ours / TASKS * 1e3:.3f} ms, {ratio:.2f} times",
        "at most 0.15 ms, 1.5 times",
    )
    benchmark(through, workers, double, arguments)


def test_dispatch_of_arrays(benchmark, row, workers, standard):
    points = list(np.random.default_rng(0).random((TASKS, 100)))
    ours, theirs, ratio = take_turns(
        lambda: through(workers, total, points),
        lambda: through(standard, total, points),
        rounds=11,
    )
    row(
        "a task with an array of 100 numbers, 2 workers",
        f"{ours / TASKS * 1e3:.3f} ms",
        f"{theirs / TASKS * 1e3:.3f} ms (ProcessPoolExecutor)",
        f"{ours / TASKS * 1e3:.3f} ms, {ratio:.2f} times",
        "at most 0.15 ms, 1.5 times",
    )
    benchmark(through, workers, total, points)


@pytest.mark.parametrize("kind", ["unchanged", "one element displaced"])
def test_a_large_argument(benchmark, row, workers, standard, kind):
    x = np.random.default_rng(0).random(1_000_000)
    places = iter(range(10**6))

    def points():
        for _ in range(10):
            if kind != "unchanged":
                x[next(places) * 997 % 10**6] += 1.0
            yield x

    ours, theirs, ratio = take_turns(
        lambda: through(workers, total, points()),
        lambda: through(standard, total, points()),
        rounds=7,
    )
    row(
        f"a task with 8 MB, {kind}",
        f"{ours / 10 * 1e3:.1f} ms",
        f"{theirs / 10 * 1e3:.1f} ms (ProcessPoolExecutor)",
        f"{1 / ratio:.1f} times faster",
        "",
    )
    benchmark(lambda: through(workers, total, points()))


def turns_of(duration):
    """Return the turns of `compute` that take so many seconds alone."""
    return int(100_000 * duration / min(seconds(lambda: compute(100_000)) for _ in range(9)))


@pytest.mark.parametrize("fn", [simulate, compute])
@pytest.mark.parametrize(("duration", "wanted"), [(1e-3, 0.85), (1e-2, 0.95), (1e-1, 0.98)])
def test_two_workers(benchmark, row, workers, fn, duration, wanted):
    count = max(20, int(0.4 / duration))
    arguments = [turns_of(duration) if fn is compute else duration] * count

    def alone():
        for argument in arguments:
            fn(argument)

    both, one, ratio = take_turns(
        lambda: through(workers, fn, arguments), alone, rounds=7 if duration < 0.1 else 3
    )
    row(
        f"{count} tasks of {duration * 1e3:.0f} ms that {fn.__name__}, 2 workers",
        f"{both:.3f} s",
        f"{one:.3f} s (one after another)",
        f"efficiency {0.5 / ratio:.3f}",
        f"at least {wanted}",
    )
    benchmark.pedantic(through, (workers, fn, arguments), rounds=1)


def test_start(benchmark, row):
    def start():
        with Workers(2) as pool:
            return pool.submit(double, 1.0).result()

    context = multiprocessing.get_context("forkserver")

    def standard():
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            return pool.submit(double, 1.0).result()

    ours, theirs, ratio = take_turns(start, standard, rounds=5)
    row(
        "start a pool, one task, end it",
        f"{ours * 1e3:.0f} ms",
        f"{theirs * 1e3:.0f} ms (ProcessPoolExecutor, its server runs already)",
        f"{ratio:.2f} times",
        "",
    )
    benchmark.pedantic(start, rounds=1)


def test_recovery(benchmark, row, workers):
    """From the death of a worker to the next result."""

    def recover():
        for _ in range(2):
            workers.submit(die).exception()
        start = time.perf_counter()
        through(workers, double, [1.0, 2.0])
        return time.perf_counter() - start

    took = float(np.median([recover() for _ in range(9)]))
    row("two dead workers replaced, two tasks", f"{took * 1e3:.1f} ms", "", "", "")
    benchmark.pedantic(recover, rounds=1)
