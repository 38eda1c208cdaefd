"""What each executor costs, and how long Ctrl-C takes: `python benchmarks/executors.py [NAME ...]`.

Two workers each. Start: from nothing to the first result. A task: one of 300 that do nothing,
submitted together, the fastest of three runs. Ctrl-C: a program of its own submits four calls of
ten seconds, waits for them, and cancels what has not begun when it is interrupted; after a second,
all processes of its terminal get SIGINT. Executors whose library is absent are left out.
"""

import argparse
import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import psutil

TASKS, RUNS = 300, 3
CALL, CALLS, PATIENCE = 10.0, 4, 60.0  # seconds, calls, and seconds until the program is killed


class Serial(Executor):
    """Calls at once."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def workers():
    from suture.executors import Workers

    return Workers(2)


def loky():
    import loky

    return loky.get_reusable_executor(max_workers=2)


def dask():
    import distributed

    from suture.executors import dask

    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
    )
    return dask(distributed.Client(cluster))


def ray():
    import ray

    from suture.executors import ray as on_ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    return on_ray()


MAKERS = {
    "serial": (Serial, "psutil"),
    "threads": (lambda: ThreadPoolExecutor(2), "psutil"),
    "workers": (workers, "cloudpickle"),
    "processes": (
        lambda: ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")),
        "psutil",
    ),
    "loky": (loky, "loky"),
    "dask": (dask, "distributed"),
    "ray": (ray, "ray"),
}
"""For each executor, how it is made, and what has to be installed."""


def work(name):
    """Be the program that is measured, and interrupted."""
    start = time.perf_counter()
    pool = MAKERS[name][0]()
    pool.submit(abs, -1).result()
    started = time.perf_counter() - start
    print(started, min(seconds_a_task(pool) for _ in range(RUNS)), flush=True)
    futures = [pool.submit(time.sleep, CALL) for _ in range(CALLS)]
    try:
        for future in futures:
            future.result()
    finally:
        for future in futures:
            future.cancel()


def seconds_a_task(pool):
    start = time.perf_counter()
    for future in [pool.submit(abs, i) for i in range(TASKS)]:
        future.result()
    return (time.perf_counter() - start) / TASKS


def measure(name):
    """Return the seconds to start, a task, and to leave, and how many processes are left."""
    program = subprocess.Popen(
        [sys.executable, __file__, "--work", name],
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    started, a_task = map(float, program.stdout.readline().split())
    time.sleep(1.0)
    family = psutil.Process(program.pid).children(recursive=True)
    start = time.monotonic()
    os.killpg(program.pid, signal.SIGINT)
    try:
        program.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
    took = time.monotonic() - start
    program.stdout.close()
    time.sleep(1.0)
    left = [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    for process in left:
        process.kill()
    return started, a_task, took, len(left)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=MAKERS, metavar="NAME")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.work)
        return
    for name in arguments.names:
        if importlib.util.find_spec(MAKERS[name][1]):
            started, a_task, took, left = measure(name)
            print(
                f"{name:10} start {started:5.2f} s, a task {a_task * 1e3:5.2f} ms, "
                f"Ctrl-C {took:4.1f} s, {left} processes left",
                flush=True,
            )


if __name__ == "__main__":
    main()
