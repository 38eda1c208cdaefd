"""The parent's side of its children: the nursery, and one record for each worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from suture.executors._frames import HEADER, MOST_BUFFERS, unsent
from suture.executors._nursery import (
    ALIVE,
    FORK,
    KILL,
    LOAD,
    LOADED,
    NEWS,
    ORDER,
    QUIT,
    REFUSED,
)
from suture.executors._payload import Ledger

# The package `suture` brings torch, which takes two seconds: the nursery imports its own files
# through an empty stand-in, and forgets it, so that a task can import the real one.
_START = """
import json, sys, types
control, notes, limit, parent, here, path = sys.argv[1:]
sys.path[:], sys.argv[1:] = json.loads(path), []
for name in ("suture", "suture.executors"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [here]
from suture.executors._nursery import main
for name in [name for name in sys.modules if name.partition(".")[0] == "suture"]:
    if name != "suture.executors._notes":  # see NOTE [notes]
        del sys.modules[name]
main(int(control), int(notes), int(limit), int(parent))
"""

Frame = tuple[memoryview, memoryview]
"""A pickle, and the raw bytes that it refers to."""

_PATIENCE = 5.0
"""Seconds in which the nursery has to end; it allows itself two, for memory to be freed."""


class Nursery:
    """The process that forks workers.

    Call it from the thread that lives as long as the workers should: on Linux the kernel ends
    the nursery when the thread that started it ends.

    Attributes:
        control: the pipe to it.
    """

    def __init__(self, limit: int, notes: int) -> None:
        """Start it; it needs some 0.1 s until it forks, and orders wait for that.

        Args:
            limit: bytes of memory of each worker, 0 = any.
            notes: the file of their notes.
        """
        self.control, its_end = socket.socketpair()
        self.control.setblocking(False)
        self._news = b""
        self._loaded = self._loading = 0
        words = [its_end.fileno(), notes, limit, os.getpid(), Path(__file__).parent]
        with its_end:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined] # as multiprocessing does
                    *(
                        "-c",
                        _START,
                        *map(str, words),
                        json.dumps([str(place) for place in sys.path]),
                    ),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[its_end.fileno(), notes],
                start_new_session=True,  # Ctrl-C is for the parent
            )

    def bear(self, number: int, place: int) -> socket.socket:
        """Have a worker forked; return the pipe to it, which can be written to at once.

        Args:
            number: its name.
            place: that of its notes.
        """
        mine, its_end = socket.socketpair()
        mine.setblocking(False)
        with its_end, suppress(OSError):  # a dead nursery tells by the end of its pipe
            socket.send_fds(self.control, [ORDER.pack(FORK, number, place)], [its_end.fileno()])
        return mine

    def load(self, modules: int) -> None:
        """Have heavy modules imported, so that later workers have them."""
        if modules & ~self._loaded:
            self._loaded |= modules
            self._loading += 1
            self._order(LOAD, self._loaded)

    def kill(self, worker: Worker) -> None:
        """Have a worker killed, and all processes of its group.

        While the nursery imports torch, for seconds, it neither kills nor reaps: the number of
        the worker's process cannot be another's yet.
        """
        self._order(KILL, worker.number)
        if self._loading:
            worker.kill()

    def news(self) -> list[tuple[int, int, int | OSError | None]]:
        """Return (number, process, how) of workers: born (None), dead (exit code), or neither.

        Raises:
            EOFError: the nursery itself has died.
        """
        try:
            data = self.control.recv(1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            raise EOFError
        self._news += data
        whole = len(self._news) - len(self._news) % NEWS.size
        told, self._news = self._news[:whole], self._news[whole:]
        news = list(NEWS.iter_unpack(told))
        self._loading -= sum(status == LOADED for *_, status in news)
        return [(number, pid, _how(pid, status)) for number, pid, status in news if number]

    def end(self) -> None:
        """Have all workers killed; return when nobody is left."""
        self._order(QUIT, 0)
        self.control.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _order(self, what: bytes, number: int) -> None:
        with suppress(OSError):
            self.control.send(ORDER.pack(what, number, 0))


def _how(pid: int, status: int) -> int | OSError | None:
    if status == REFUSED:
        return OSError(pid, os.strerror(pid))
    return None if status == ALIVE else os.waitstatus_to_exitcode(status)


class Worker:
    """One worker, and the task that it has.

    Attributes:
        number: its name in orders and news.
        place: that of its notes.
        pipe: the pipe to it, which never blocks.
        pid: its process, 0 until it is known.
        task: what it has to do, or None.
        ends: when the task is late, in the seconds of `time.monotonic`; inf = never.
        started: whether the function runs.
        deaf: whether it has closed its pipe.
        verdict: why the worker is being killed; its task ends with that.
    """

    def __init__(self, number: int, place: int, pipe: socket.socket) -> None:
        """Take the pipe."""
        self.number, self.place, self.pipe = number, place, pipe
        self.pid, self.task, self.ends = 0, None, float("inf")  # type: int, Any, float
        self.started = self.deaf = False
        self.verdict: Exception | None = None
        self.ledger = Ledger()
        self._unsent: list[memoryview] = []
        self._head = b""
        self._body: memoryview | None = None
        self._filled = self._pickled = 0

    def kill(self) -> None:
        """Kill its group, where the nursery is gone or busy."""
        if self.pid:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def send(self, buffers: Sequence[bytes | memoryview]) -> int:
        """Begin to write a frame; return its bytes."""
        self._unsent = [memoryview(buffer) for buffer in buffers]
        return sum(buffer.nbytes for buffer in self._unsent)

    def push(self) -> bool:
        """Write what the pipe takes; return whether something is left."""
        try:
            while self._unsent:
                sent = self.pipe.sendmsg(self._unsent[:MOST_BUFFERS])
                self._unsent = unsent(self._unsent, sent)
        except BlockingIOError:
            return True
        except OSError:  # it has died: the nursery will tell how
            self._unsent = []
        return False

    def receive(self) -> Frame:
        """Read what there is; return a frame once it is whole.

        Raises:
            BlockingIOError: there is no more to read now.
            EOFError: the worker has closed its pipe.
        """
        while self._body is None:
            self._head += self._some(self.pipe.recv(HEADER.size - len(self._head)))
            if len(self._head) == HEADER.size:
                self._pickled, raw = HEADER.unpack(self._head)
                self._body, self._filled = memoryview(bytearray(self._pickled + raw)), 0
        while self._filled < len(self._body):
            count = self.pipe.recv_into(self._body[self._filled :])
            self._filled += self._some(count)
        body, self._body, self._head = self._body, None, b""
        return body[: self._pickled], body[self._pickled :]

    def last_words(self) -> Frame | None:
        """Return the answer of a dead worker, if it got to send it."""
        try:
            while True:
                frame = self.receive()
                if frame[0]:
                    return frame
                self.started = True
        except (EOFError, OSError, MemoryError):
            return None

    @staticmethod
    def _some(read: Any) -> Any:
        if not read:
            raise EOFError
        return read


def patience(workers: Iterable[Worker]) -> float | None:
    """Return the seconds until some task is late; None = never."""
    ends = min((worker.ends for worker in workers), default=float("inf"))
    return None if ends == float("inf") else max(0.0, ends - time.monotonic())
