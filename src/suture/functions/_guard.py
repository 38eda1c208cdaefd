"""No program outlives the process that runs it, however that one ends.

NOTE [orphans] Each process that runs programs has one guard: a small shell that holds the end of
a pipe, is told which process groups run and in which directories, and kills the ones and removes
the others when the pipe ends, which is when the process is gone. A program waits for a line before
it starts, which comes when the guard knows of it, so there is no moment at which an orphan could be
left. PR_SET_PDEATHSIG would kill the program, but not what the program has started; it is sent when
a *thread* ends; it has to be set between fork and exec, where Python must not run beside other
threads; and it is Linux's alone.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# A line has the groups, and then the directories with "//" in front of each: as in
# "12 13//tmp/run-a//tmp/run-b//.". The last one counts; one that was cut short has no "//." at its
# end, and does not. Signals of a terminal or a scheduler are not for the guard. What was killed may
# not be dead yet, and still write: so it removes more than once.
_GUARD = """
trap "" INT TERM HUP QUIT
while IFS= read -r line; do
  case $line in *//.) last=${line%//.} ;; esac
done
for group in ${last%%/*}; do kill -s KILL -- "-$group"; done
case $last in *//*) ;; *) exit ;; esac
for pause in 0 0.1 1; do
  sleep $pause
  rest=$last
  while [ "$rest" != "${rest#*//}" ]; do
    rest=${rest#*//}
    case $rest in */run-*) rm -rf -- "/${rest%%//*}" ;; esac
  done
done
"""


class _Guard:
    """The guard of this process; it starts with the first program."""

    def __init__(self) -> None:
        """Begin without a process."""
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._folders: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, group: int) -> None:
        """Have a group killed if this process dies."""
        with self._lock:
            self._groups.add(group)
            self._tell()

    @contextmanager
    def watching(self, folder: Path) -> Iterator[None]:
        """Have a directory of this process removed if it dies meanwhile."""
        path = str(folder)
        if not path.startswith("/") or "//" in path or "\n" in path:  # the guard would misread it
            yield
            return
        with self._lock:
            self._folders.add(path)
            self._tell()
        try:
            yield
        finally:
            with self._lock:
                self._folders.discard(path)
                self._tell()

    def forget(self, group: int) -> None:
        """Let go of a group that is dead."""
        with self._lock:
            self._groups.discard(group)
            self._tell()

    def _tell(self) -> None:
        folders = "".join(f"/{folder}" for folder in self._folders)
        groups = " ".join(map(str, self._groups))
        line = os.fsencode(f"\n{groups}{folders}//.\n")  # the last may have been cut short
        try:
            _write(self._pipe(), line)
        except BrokenPipeError:  # somebody has killed it
            self._leave()
            _write(self._pipe(), line)

    def _pipe(self) -> IO[bytes]:
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
        assert self._process.stdin is not None
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


def _write(pipe: IO[bytes], line: bytes) -> None:
    """Write all of a line: a signal may cut one short that is longer than the pipe."""
    while line:
        line = line[pipe.write(line) :]


guard = _Guard()
atexit.register(guard.close)
os.register_at_fork(after_in_child=guard.forked)
