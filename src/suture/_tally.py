"""How often a function was called, and how that ended."""

from __future__ import annotations

import dataclasses
import operator
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
        rule_retries: attempts of a `vjp` or `jvp` of `CustomVJP` after the first one; these are no
            evaluations.
    """

    evaluations: int = 0
    hits: int = 0
    retries: int = 0
    failures: int = 0
    timed_out: int = 0
    died: int = 0
    skipped: int = 0
    rule_retries: int = 0

    @property
    def points(self) -> int:
        """How many points were asked for."""
        return self.evaluations - self.retries + self.hits

    def minus(self, before: Tally) -> Tally:
        """Return what came since another tally."""
        return Tally(*map(operator.sub, _numbers(self), _numbers(before)))

    def copy(self) -> Tally:
        """Return the same numbers."""
        return Tally(*_numbers(self))


_NOTHING = Tally()
_numbers = operator.attrgetter(*(field.name for field in dataclasses.fields(Tally)))


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

    def add(self, now: Tally, before: Tally = _NOTHING) -> None:
        """Count what came of some points since another tally of them."""
        with self._lock:
            numbers = zip(_numbers(self.total), _numbers(now), _numbers(before), strict=True)
            self.total = Tally(*(total + new - old for total, new, old in numbers))

    @property
    def evaluations(self) -> int:
        """How many points have been evaluated."""
        return self.total.evaluations

    def __deepcopy__(self, memo: dict[int, Any]) -> Counter:
        """Return a counter that has counted the same."""
        copy = Counter()
        copy.total = self.total.copy()
        copy.checked, copy.pace, copy._calls = set(self.checked), self.pace, self._calls
        return copy

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock out."""
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a lock."""
        self.__dict__.update(state, _lock=threading.Lock())
