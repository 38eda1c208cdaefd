"""Notes: a number that a function leaves behind as it goes on, for the case that it dies.

NOTE [notes] A file without a name holds a number for each worker. The parent maps it, and so does
the nursery, whose forks are the workers. So a note is one store into memory, nothing has to be
sent, and what a worker noted last can be read when it is gone. The same number tells a worker
that is still being born that its task was stopped meanwhile.

The nursery forgets the modules of Suture, so that a task can import the real ones, but not this
one: a function that imports `note` gets the one that knows the file, and need not import torch.
"""

from __future__ import annotations

import mmap
import os
import sys

_NUMBER = 8
"""Bytes of a note."""

NOTHING, STOPPED = -(1 << 63), -(1 << 63) + 1
"""What stands in the place of a note: none was left; the task must not begin. Both are the
farthest from what anybody counts with."""


class Page:
    """The notes of all workers of a pool.

    Attributes:
        numbers: one for each worker.
    """

    def __init__(self, file: int) -> None:
        """Map a file that is open, which may be closed then."""
        self._map = mmap.mmap(file, 0)
        self.numbers = memoryview(self._map).cast("q")

    def __setitem__(self, place: int, number: int) -> None:
        """Write a number."""
        self.numbers[place] = number

    def __getitem__(self, place: int) -> int | None:
        """Return a note; None = there is none."""
        number = self.numbers[place]
        return None if number in (NOTHING, STOPPED) else number

    def close(self) -> None:
        """Let the file go."""
        self.numbers.release()
        self._map.close()


def nameless(workers: int) -> int:
    """Return a new file, open and without a name, with a place for each worker."""
    if sys.platform == "linux":
        file = os.memfd_create("suture-notes")  # in memory: no full disk is in its way
    else:
        import tempfile

        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.write(file, bytes(workers * _NUMBER))
    return file


_numbers: memoryview[int] | None = None
_place = 0


def open_for(page: Page, place: int) -> None:
    """Have this process, a worker, write its notes into a place of a page."""
    global _numbers, _place
    _numbers, _place = page.numbers, place
    os.register_at_fork(after_in_child=_close)  # what the function forks has no notes


def _close() -> None:
    global _numbers
    _numbers = None


def note(i: int) -> None:
    """Leave a number behind; outside of a worker do nothing.

    If the worker dies or is killed in this task, its `WorkerDied` or `TimedOut` has it as `note`.

    Args:
        i: any whole number of 64 bits but the two smallest; a later note replaces it.
    """
    if _numbers is not None:
        _numbers[_place] = i


def is_stopped() -> bool:
    """Whether the task that this worker is about to begin was stopped."""
    return _numbers is not None and _numbers[_place] == STOPPED
