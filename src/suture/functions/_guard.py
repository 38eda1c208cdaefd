"""No program outlives the process that runs it, however that one ends.

NOTE [orphans] Each process that runs programs has one guard: a small shell that holds the end of
a pipe, is told which process groups run, and kills them when the pipe ends, which is when the
process is gone. A program waits for a line before it starts, which comes when the guard knows
of it, so there is no moment at which an orphan could be left. PR_SET_PDEATHSIG would kill the
program, but not what the program has started; it is sent when a *thread* ends; it has to be set
between fork and exec, where Python must not run beside other threads; and it is Linux's alone.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import threading

# It takes the last line as the list of groups. Signals of a terminal or a scheduler are not for it.
_GUARD = """
trap "" INT TERM HUP QUIT
while read -r line; do groups=$line; done
for group in $groups; do kill -s KILL -- "-$group"; done
"""


class _Guard:
    """The guard of this process; it starts with the first program."""

    def __init__(self) -> None:
        """Begin without a process."""
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, group: int) -> None:
        """Have a group killed if this process dies."""
        with self._lock:
            self._groups.add(group)
            self._tell()

    def forget(self, group: int) -> None:
        """Let go of a group that is dead."""
        with self._lock:
            self._groups.discard(group)
            self._tell()

    def _tell(self) -> None:
        line = (" ".join(map(str, self._groups)) + "\n").encode()
        try:
            self._pipe().write(line)
        except BrokenPipeError:  # somebody has killed it
            self._leave()
            self._pipe().write(line)

    def _pipe(self) -> subprocess.IO[bytes]:  # type: ignore[name-defined]
        if self._process is None:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                start_new_session=True,
            )
        return self._process.stdin

    def _leave(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.wait()

    def close(self) -> None:
        """End the guard, and what runs."""
        with self._lock:
            self._leave()

    def forked(self) -> None:
        """Leave the parent's guard alone: this is a child that was forked."""
        process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()  # or the parent's end would not be the end of the pipe
            process.returncode = 0  # it is no child of this process
        self.__init__()  # type: ignore[misc]


guard = _Guard()
atexit.register(guard.close)
os.register_at_fork(after_in_child=guard.forked)
