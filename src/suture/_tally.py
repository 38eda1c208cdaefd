"""How often a function was called, and how that ended."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any


@dataclasses.dataclass(slots=True)
class Tally:
    """What came of some points.

    Attributes:
        evaluations: points that were evaluated, each attempt for itself.
        hits: points that the memo knew.
        retries: attempts after the first one.
        failures: points that failed to the last attempt.
        timed_out: attempts that took too long.
        died: attempts that ended with their worker.
        skipped: samples, or rows of a batch, whose gradient is zero because a point failed.
    """

    evaluations: int = 0
    hits: int = 0
    retries: int = 0
    failures: int = 0
    timed_out: int = 0
    died: int = 0
    skipped: int = 0

    @property
    def points(self) -> int:
        """How many points were asked for."""
        return self.evaluations - self.retries + self.hits

    def add(self, other: Tally) -> None:
        """Add another tally to this one."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def minus(self, before: Tally) -> Tally:
        """Return what came since another tally."""
        return Tally(*(getattr(self, name) - getattr(before, name) for name in self.__slots__))

    def copy(self) -> Tally:
        """Return the same numbers."""
        return dataclasses.replace(self)


class Counter:
    """What came of all points of a function, and which claims about it were checked.

    Attributes:
        total: all points together.
        checked: claims that hold.
        pace: seconds that an evaluation takes elsewhere, None before the first.
    """

    def __init__(self) -> None:
        """Begin at zero."""
        self.total, self.checked = Tally(), set[Any]()
        self.pace: float | None = None
        self._calls, self._lock = 0, threading.Lock()

    def begin(self) -> int:
        """Return the number of a new forward call, from 1."""
        with self._lock:
            self._calls += 1
            return self._calls

    def add(self, tally: Tally) -> None:
        """Count what came of some points."""
        with self._lock:
            self.total.add(tally)

    @property
    def evaluations(self) -> int:
        """How many points have been evaluated."""
        return self.total.evaluations

    def __deepcopy__(self, memo: dict[int, Any]) -> Counter:
        """Return a counter that has counted the same."""
        copy = Counter()
        copy.add(self.total)
        copy.checked, copy.pace, copy._calls = set(self.checked), self.pace, self._calls
        return copy

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock out."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a lock."""
        self.__dict__.update(state, _lock=threading.Lock())
