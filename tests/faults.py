"""What workers are made to do in tests; a module that is imported quickly, as each of them does."""

import ctypes
import functools
import os
import signal
import subprocess
import sys
import time
import types


def double(x):
    return 2 * x


def wait(seconds):
    time.sleep(seconds)
    return seconds


def process(_=None):
    return os.getpid()


def die(how):
    os.kill(os.getpid(), how)
    time.sleep(60)


def sleepy_process():
    time.sleep(0.1)
    return os.getpid()


class Refuses:
    """Does something when it is pickled, unpickled or collected."""

    def __init__(self, pickled=None, unpickled=None, collected=None):
        self.doings = pickled, unpickled, collected

    def __reduce__(self):
        pickled, unpickled, collected = self.doings
        if pickled is not None:
            pickled()
        return rebuild, (unpickled, collected)


def rebuild(unpickled, collected):
    if unpickled is not None:
        unpickled()
    if collected is None:
        return None
    made = types.SimpleNamespace()
    made.end = Collected(collected)
    return made


class Collected:
    def __init__(self, collected):
        self.collected = collected

    def __del__(self):
        self.collected()


def boom():
    raise ValueError("boom")


def child_side(parent, doing):
    """Do something, but only in a worker."""
    if os.getpid() != parent:
        doing()


def parent_side(parent, doing):
    """Do something, but only in the parent."""
    if os.getpid() == parent:
        doing()


def there(doing):
    return functools.partial(child_side, os.getpid(), doing)


def here(doing):
    return functools.partial(parent_side, os.getpid(), doing)


def ignore(*_):
    return None


def give(pickled, unpickled):
    return Refuses(pickled, unpickled)


KILL = functools.partial(die, signal.SIGKILL)
EXIT = functools.partial(os._exit, 0)
SEGV = functools.partial(ctypes.string_at, 0)
LEAVE = functools.partial(sys.exit, 3)
ABORT = os.abort


def start_session(end):
    """Leave a program, and its own child, in a session of their own."""
    script = "sleep 987 & exec sleep 987"
    subprocess.Popen(["sh", "-c", script], start_new_session=True)
    time.sleep(0.1)
    end()


class Awkward(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def raise_awkward():
    raise Awkward(1, 2)


def hang():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.run(["sleep", "987"], check=False)


def resident(_):
    import psutil

    return psutil.Process().memory_info().rss // 1000


def heavy_is_imported():
    return "torch" in sys.modules


def total(x):
    return float(x.sum())


def stubborn():
    """Ignore all signals that can be ignored, and wait for a child."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_IGN)
    subprocess.run(["sleep", "987"], check=False)


def touch_and_wait(path):
    path.touch()
    time.sleep(60)


def note_and(end, *notes):
    from suture.executors._notes import note

    for i in notes:
        note(i)
    return end()


def keep_noting(times):
    """Return the seconds of a note."""
    from suture.executors._notes import note

    return min(_noting(note, times) for _ in range(5)) / times


def _noting(note, times):
    start = time.perf_counter()
    for i in range(times):
        note(i)
    return time.perf_counter() - start
