"""The process that forks workers, reaps them, and kills them.

It is started by `_children` and imports nothing of Suture but its neighbors here, as the package
brings torch; `HEAVY` modules are imported when the first task needs them: once, before the fork.

NOTE [reaping] The nursery is the parent of all workers and thus the one that learns how they
died. A worker leads a process group; when it dies, the nursery kills what is left of the group.
On Linux, a process whose parent died becomes the nursery's child (PR_SET_CHILD_SUBREAPER). So a
simulator in a session of its own is found and killed as well, and leaves no zombie even where
process 1 does not reap.

NOTE [orphans] Three things end the children of a parent that is gone: the nursery reads the end
of its control pipe; on Linux the kernel sends it SIGTERM, as forks of the parent may hold the
pipe open; and on Linux the kernel kills the workers of a nursery that is gone.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import socket
import struct
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from suture.executors._frames import BLOCK, HEAVY
from suture.executors._notes import Page, open_for
from suture.executors._worker import be_worker

ORDER = struct.Struct("<cqq")
"""What the nursery is told: FORK or KILL and a worker's number, LOAD and a bit set, or QUIT; with
FORK also the place of the worker's notes."""

NEWS = struct.Struct("<qqi")
"""What the nursery tells: a worker's number, its process, and its wait status (or ALIVE)."""

FORK, KILL, LOAD, QUIT = b"f", b"k", b"l", b"q"

ALIVE, REFUSED, LOADED = -1, -2, -3
"""In the place of a wait status, which is never negative. With REFUSED, the number of the
system's error stands in the place of the process; LOADED is about no worker, and follows LOAD."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # Source: <linux/prctl.h>


def main(control: int, notes: int, limit: int, parent: int) -> None:
    """Be the nursery of a parent.

    Args:
        control: the pipe that orders come from.
        notes: the file of the workers' notes.
        limit: bytes of memory that a worker and each of its children may map, 0 = any.
        parent: the process that must not die.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # NumPy's threads of linear algebra are ready for a fork; Python warns of any thread.
    warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
    page = Page(notes)
    os.close(notes)
    _Nursery(socket.socket(fileno=control), page, limit).serve(parent)


class _Nursery:
    """Forks workers, reaps them, and kills them; it does nothing else, so it answers at once."""

    def __init__(self, control: socket.socket, page: Page, limit: int) -> None:
        """Take orders from a pipe; workers get a limit of memory in bytes, 0 = none."""
        self._control, self._page, self._limit = control, page, limit
        self._workers: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._waker, self._wakes = socket.socketpair()

    def serve(self, parent: int) -> None:
        """Obey until told to quit, or until the parent is gone."""
        self._wakes.setblocking(False)
        self._waker.setblocking(False)
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        _die_with(parent, signal.SIGTERM)
        if sys.platform == "linux":
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        with suppress(ConnectionError):
            while self._turn():
                pass
        self._end()

    def _turn(self) -> bool:
        """Do what there is to do; return whether to go on."""
        ready, _, _ = select.select([self._control, self._waker], [], [])
        if self._waker in ready:
            with suppress(BlockingIOError):
                self._waker.recv(BLOCK)
            self._reap()
        return self._control not in ready or self._obey()

    def _obey(self) -> bool:
        """Take one order; return whether to go on."""
        order, fds, *_ = socket.recv_fds(self._control, ORDER.size, 1)
        while 0 < len(order) < ORDER.size:
            order += self._control.recv(ORDER.size - len(order))
        what, number, place = ORDER.unpack(order) if order else (QUIT, 0, 0)
        if what == FORK:
            self._fork(number, place, fds[0])
        elif what == KILL and number in self._workers:
            _kill(self._workers[number])
        elif what == LOAD:
            _load(number)
            self._control.sendall(NEWS.pack(0, 0, LOADED))
        return bool(what != QUIT)

    def _fork(self, number: int, place: int, fd: int) -> None:
        gc.freeze()  # the child shares the pages of what the nursery has imported
        mine = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(fd)
            self._control.sendall(NEWS.pack(number, error.errno or 0, REFUSED))
            return
        if pid == 0:
            be_worker(lambda: self._become(fd, place, mine))
        os.close(fd)
        with suppress(OSError):  # both sides do it, so that no one can be early
            os.setpgid(pid, pid)
        self._workers[number], self._numbers[pid] = pid, number
        self._control.sendall(NEWS.pack(number, pid, ALIVE))

    def _become(self, fd: int, place: int, mine: int) -> socket.socket:
        """Turn the child of a fork into a worker; return its pipe."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setpgid(0, 0)
        _die_with(mine, signal.SIGKILL)
        for other in (self._control, self._waker, self._wakes):
            other.close()
        if random := sys.modules.get("numpy.random"):
            random.seed()  # or all workers would draw the same
        open_for(self._page, place)
        if self._limit:
            _limit_memory(self._limit)
        return socket.socket(fileno=fd)

    def _reap(self) -> None:
        """Tell of the workers that died, and end what they leave behind."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                number = self._numbers.pop(pid, None)
                if number is not None:
                    _kill_group(pid)
                    del self._workers[number]
                    self._control.sendall(NEWS.pack(number, pid, status))
        self._sweep()

    def _sweep(self) -> bool:
        """Kill the processes whose worker died; return whether there were any."""
        orphans = [pid for pid in _children() if pid not in self._numbers]
        for pid in orphans:
            _kill(pid)
        return bool(orphans)

    def _end(self, *_: Any) -> None:
        """Kill everybody, reap them, and exit."""
        for pid in self._numbers:
            _kill(pid)
        end = time.monotonic() + 2.0  # the kernel may be freeing much memory
        with suppress(ChildProcessError):
            while time.monotonic() < end:
                pid, _status = os.waitpid(-1, os.WNOHANG)
                self._numbers.pop(pid, None)
                if pid == 0 and not self._sweep() and not self._numbers:
                    break
                if pid == 0:
                    time.sleep(0.002)
        os._exit(0)


def _load(modules: int) -> None:
    """Import heavy modules; a module that fails here fails again in the task, and says why."""
    for i, name in enumerate(HEAVY):
        if modules >> i & 1:
            with suppress(BaseException):
                __import__(name)


def _children() -> list[int]:
    """Return the children of this process, those that it has adopted among them."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:  # not on Linux
        return []


def _limit_memory(limit: int) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _kill(pid: int) -> None:
    """Kill a child that has not been reaped, and its group if it leads one."""
    _kill_group(pid)
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _die_with(parent: int, how: signal.Signals) -> None:
    """Have the kernel send a signal when the parent dies, and go if it is dead already."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, how)
    if os.getppid() != parent:
        os._exit(0)


def _prctl(option: int, value: int) -> None:
    prctl: Callable[..., int] = ctypes.CDLL(None).prctl
    prctl(option, value, 0, 0, 0)
