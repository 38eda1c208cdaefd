"""Where the tests of faults evaluate, and black boxes that fail at one point of a gradient.

Some of it runs in workers, so this module is imported quickly.
"""

import functools
import os
import signal
import subprocess
import threading
import time
import warnings

NAMES = ("serial", "threads", "workers", "loky", "dask")
ELSEWHERE = NAMES[1:]
PROCESSES = NAMES[2:]
"""Engines on which a death costs a worker, and not the test."""

BASE = (0.25, 0.5, 0.75)
"""x; central differences of three inputs take six points, in one of which x[1] is increased."""


class Box:
    """A function of three numbers whose bits are the same everywhere, and that notes each call.

    Args:
        folder: where it notes its calls: a letter a call, and one in another file at the bad point.
        doing: what it does at the point with x[1] increased: called with its arguments and its
            result, it raises, ends, or returns another result.
        times: how often it does so.
    """

    def __init__(self, folder, doing=None, times=10**9):
        self.folder, self.doing, self.times = str(folder), doing, times
        self.__name__ = "box"

    def note(self, name):
        path = os.path.join(self.folder, name)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, b"x")
        os.close(file)
        return os.path.getsize(path)

    def count(self, name="calls"):
        path = os.path.join(self.folder, name)
        return os.path.getsize(path) if os.path.exists(path) else 0

    def __call__(self, x):
        self.note("calls")
        result = x[:2] * x[1:] + x[0]
        if self.doing is not None and x[1] > BASE[1] and self.note("bad") <= self.times:
            return self.doing(x, result)
        return result


def boom(x, result):
    raise ValueError("boom")


def become(value, x, result):
    return value


def hang(x, result):
    time.sleep(60)


def kill(x, result):
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def segfault(x, result):
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def leave(how, x, result):
    how(3)


def start_children_and(then, seconds, x, result):
    """Leave a program and its own child in a session of their own."""
    script = f"sleep {seconds} & exec sleep {seconds}"
    subprocess.Popen(["sh", "-c", script], start_new_session=True)
    time.sleep(0.05)
    return then(x, result)


def rest(seconds):
    import suture._invoke  # noqa: F401  # loky replaces workers whose memory has grown since

    time.sleep(seconds)
    return threading.get_native_id()


class Engines:
    """All engines, made when they are asked for first; deaths do not end them."""

    def __init__(self):
        self._made = {}
        self._closing = []
        self._client = None

    def __call__(self, name):
        """Return what is passed as `executor=`; all of its workers are alive."""
        if name not in self._made:
            self._made[name] = getattr(self, f"_{name}")()
        if name == "workers":
            warm(self._made[name])
        return self._made[name]

    def _serial(self):
        return None

    def _threads(self):
        from concurrent.futures import ThreadPoolExecutor

        pool = ThreadPoolExecutor(2)
        self._closing.append(pool.shutdown)
        return warm(pool)

    def _workers(self):
        from suture.executors import Workers

        pool = Workers(2)
        self._closing.append(pool.kill_workers)
        return warm(pool)

    def _loky(self):
        import pytest

        loky = pytest.importorskip("loky")
        make = functools.partial(loky.get_reusable_executor, max_workers=2, timeout=None)
        self._closing.append(lambda: make().shutdown(wait=True, kill_workers=True))
        warm(make())
        return make

    def _dask(self):
        import logging

        import pytest

        distributed = pytest.importorskip("distributed")
        from suture import executors

        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cluster = distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, dashboard_address=None
            )
            client = distributed.Client(cluster)
        self._closing += [client.close, cluster.close]
        self._client = client
        return executors.dask(client)

    def settle(self):
        """Wait until Dask has replaced its dead workers."""
        if self._client is not None:
            self._client.wait_for_workers(2)

    def close(self):
        for close in self._closing:
            close()


def warm(pool):
    """Have both workers started: what a test finds before it, it must find after it."""
    while len({future.result() for future in [pool.submit(rest, 0.01) for _ in range(2)]}) < 2:
        pass
    return pool
