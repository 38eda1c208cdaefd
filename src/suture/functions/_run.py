"""One run of a program: in a process group of its own, under a deadline and a cap of bytes."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.process import parent_process
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from suture.functions._guard import guard

# See NOTE [orphans] in `_guard`. The words of the program are arguments of this shell, which does
# not read them. Its own start costs 0.15 ms where /bin/sh is dash.
_START = 'read -r go && exec "$@" </dev/null'

_BLOCK = 1 << 16
"""Bytes that are read at once: what a pipe of Linux holds."""

_LAST_LINES = 40
_LAST_BYTES = 1 << 16
"""What an error shows of the output: lines, and bytes that are kept to find them in."""

_GLANCE = 0.005
"""Seconds between two looks at a program, where the kernel does not tell that it has ended."""


_LOOK = 1.0
"""Seconds between two looks of a pool's worker at whether the process that it works for lives."""


How = Literal["over", "late", "too much", "alone"]


class Ran(NamedTuple):
    """How a run ended.

    Attributes:
        how: "over" by itself, or killed as "late", because it wrote "too much", or because it was
            left "alone" by the process for which it is run.
        code: its exit code, negative for a signal.
        streams: what it wrote into standard output and standard error.
        tail: the last lines of both, as they came.
    """

    how: How
    code: int
    streams: tuple[bytes, bytes]
    tail: str


def run(
    argv: Sequence[str],
    folder: Path,
    timeout: float | None,
    cap: int,
    environment: Mapping[str, str] | None,
) -> Ran:
    """Run a program; when this returns or raises, nothing of its process group is left.

    Args:
        argv: the program and its arguments.
        folder: where it runs.
        timeout: seconds that it may take, None = any.
        cap: bytes that it may write into each of its two streams.
        environment: variables beside those of this process.

    Raises:
        OSError: there is no memory, or no process to be had.
    """
    end = float("inf") if timeout is None else time.monotonic() + timeout
    process = subprocess.Popen(
        ["/bin/sh", "-c", _START, "sh", *argv],
        cwd=folder,
        env={**os.environ, **environment} if environment else None,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    try:
        guard.watch(process.pid)
        _go(process)
        watched = _Streams(process, cap)
        try:
            how = watched.follow(end)
            _kill(process)
            return watched.ran(how, process.wait())
        finally:
            watched.close()
    finally:
        _kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        guard.forget(process.pid)


def _go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it was killed; its exit code will tell
        process.stdin.write(b"\n")
    process.stdin.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the group while its leader is not reaped: its number cannot be another's yet."""
    if process.returncode is None:
        _kill_group(process.pid)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _lives(parent: Any) -> bool:
    """Whether the process that made this one, the worker of a pool, is alive.

    Nothing else would tell a worker that is busy: neither `multiprocessing` nor loky does. (The
    parent of a trainer that is none is no matter: it may be a shell that was left.)
    """
    try:
        return bool(parent.is_alive())
    except (TypeError, ValueError):  # loky's workers have no pipe for that, but are its children
        return os.getppid() == int(parent.pid)


class _Streams:
    """Reads what a program writes, until it ends."""

    def __init__(self, process: subprocess.Popen[bytes], cap: int) -> None:
        """Watch both streams, and the end of the program where the kernel tells it."""
        self._process, self._cap = process, cap
        self._content = (bytearray(), bytearray())
        self._last = bytearray()
        self._selector = selectors.DefaultSelector()
        self._over: int | None = None
        for pipe, content in zip((process.stdout, process.stderr), self._content, strict=True):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, content)
        with suppress(AttributeError, OSError):  # not on Linux, or not in this sandbox
            self._over = os.pidfd_open(process.pid)
            self._selector.register(self._over, selectors.EVENT_READ)

    def close(self) -> None:
        """Stop watching."""
        self._selector.close()
        if self._over is not None:
            os.close(self._over)

    def follow(self, end: float) -> How:
        """Read until the program ends, is late, has written too much, or nobody waits for it."""
        parent = parent_process()
        while True:
            rest = end - time.monotonic()
            if rest <= 0:
                return "late"
            wait = None if rest == float("inf") else rest
            if self._over is None:
                wait = min(rest, _GLANCE)
            elif parent is not None:
                wait = min(rest, _LOOK)
            ready = [key for key, _ in self._selector.select(wait)]
            for key in ready:
                if key.fd != self._over:
                    self._read(key.fileobj, key.data)
            if any(len(content) > self._cap for content in self._content):
                return "too much"
            if parent is not None and not _lives(parent):
                return "alone"
            if any(key.fd == self._over for key in ready) or self._is_over():
                return "over"

    def ran(self, how: How, code: int) -> Ran:
        """Read what is left in the pipes, and return how the run ended."""
        for key in list(self._selector.get_map().values()):
            while key.fd != self._over and len(key.data) <= self._cap:
                if not self._read(key.fileobj, key.data):
                    break
        if any(len(content) > self._cap for content in self._content):
            how = "too much"
        lines = self._last[-_LAST_BYTES:].decode(errors="replace").splitlines()
        streams = bytes(self._content[0]), bytes(self._content[1])
        return Ran(how, code, streams, "\n".join(lines[-_LAST_LINES:]))

    def _read(self, pipe: Any, content: bytearray) -> bool:
        """Read one block; return whether there was one."""
        stream: IO[bytes] = pipe
        try:
            block = os.read(stream.fileno(), _BLOCK)
        except BlockingIOError:
            return False
        if not block:
            self._selector.unregister(stream)
            return False
        content += block
        self._last += block
        if len(self._last) > 4 * _LAST_BYTES:
            del self._last[:-_LAST_BYTES]
        return True

    def _is_over(self) -> bool:
        if self._over is not None:
            return False
        if hasattr(os, "waitid"):  # it is not reaped, so that its group can still be killed
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self._process.pid, flags) is not None
        if self._process.poll() is None:
            return False
        _kill_group(self._process.pid)  # macOS with Python below 3.13: right after it is reaped
        return True
