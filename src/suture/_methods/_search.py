"""Search for the arms of K lines at once: one arm of every line that goes on is one round."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias

import numpy as np

from suture._methods._base import NoFiniteValue, Points
from suture._methods._extrapolate import Extrapolated
from suture._methods._history import History
from suture._methods._lines import Lines
from suture._types import Array
from suture.errors import MethodError

Found: TypeAlias = Generator[Points, Array, tuple[Array, Array]]
"""Yields points, is sent values, returns slopes and errors, both (K, R, O)."""

# The first arm, as a share of the scale. Long, because noise is divided by it; of 0.15, 0.29 and
# 0.5 it is the best on the Moré-Garbow-Hillstrom problems: 0.15 doubles the failures under noise
# 1e-3, and 0.5 steps over five times as many singularities. Not a round number, so that the arms
# do not fall on the period or the grid of a function.
ARM = 12**-0.5

# At most so many arms: about 4 until noise is suspected, 1 to look closely, 9 for what is there.
ROUNDS = 14

# The next arm is about 1/2 of this one: a power of the golden section, whose fractions are the
# worst. With 1/2 itself, values on a grid (printed digits) lie on a straight line to the last
# digit once in three times, and that looks like a perfect slope. Where estimates differ from each
# other by more than _FAR of themselves, extrapolation means nothing yet, and the next arm is
# about 1/4; where both sides failed, 1/16.
_HALF = ((5**0.5 - 1) / 2) ** 1.5  # 0.486
_QUARTER, _SIXTEENTH = _HALF**2, _HALF**4
_FAR = 0.3

# So many arms in a row that bring no smaller error are noise, or a shape that is finer than all
# arms so far. A look at 1/2^18 of the first arm tells which: at 1e-6 of the scale, float32 and
# six printed digits still move.
_STALE = 2
_CLOSE = 2.0**-18

# It is a shape if f is straight there (the mean of the ends is from f(x) less than 1/4 of half
# their difference) and half the difference is less than 1/64 of what the noise would be. Rounding
# to a grid is less than its usual noise between near points, but not by so much: with 1/8 instead
# of 1/64, one in 40 of the float32 problems of Moré, Garbow and Hillstrom is taken for a shape.
_STRAIGHT, _QUIET = 1 / 4, 1 / 64

# Errors below 8 times what the known noise explains are noise: a value has several roundings.
_ROUNDING = 8.0


def extrapolated(lines: Lines, count: int) -> Found:
    """Return the slopes of `count` arms, halved each time, and their errors: no decisions."""
    history = History(lines)
    everything = np.arange(len(lines.longest))
    for j in range(count):
        yield from history.measure(everything, np.full(len(everything), 0.5**j))
    found = history.central(everything)
    if history.has_failures:
        yield from history.need_value()
        for side in history.sides(everything):
            found.take(side.eligible & np.isnan(found.corner).any(axis=-1), side.found)
    found.slopes = found.corner
    return _finished(history, found)


def searched(lines: Lines, rtol: float) -> Found:
    """Return the slopes and their errors.

    A line goes on until every row that may move is finished: every output has an error below
    `rtol` of its slope or below rounding, or shorter arms bring nothing.
    """
    history = History(lines)
    yield from history.need_value()
    search = _Search(history, rtol)
    going = np.flatnonzero(np.any(~search.is_finished, axis=1))
    while len(going) and len(history.values) < ROUNDS:
        yield from history.measure(going, search.fractions[going])
        going = search.judge(going)
    search.settle()
    return _finished(history, search.best)


class _Search:
    """What is known of K lines, and which arm each of them needs next."""

    def __init__(self, history: History, rtol: float) -> None:
        self.history, self.rtol = history, rtol
        self.longest = history.lines.longest
        shape = self.longest.shape
        outputs = history.lines.primal.outputs
        self.best = Extrapolated.nothing(np.empty((*shape, outputs)))
        self.fractions = np.ones(len(self.longest))
        self.before_look = np.ones(len(self.longest))
        self.looks = np.zeros(len(self.longest), dtype=int)
        self.record = np.full(shape, np.inf)
        self.stale = np.zeros(shape, dtype=int)
        self.is_accurate = self.longest == 0
        self.is_finished = self.longest == 0

    def judge(self, going: Array) -> Array:
        """Take the last arm of lines into account, and return those that go on."""
        suspected = np.linalg.norm(self.best.noise[going], axis=-1)
        found = self.history.best(going)
        self.best.put(going, found)
        self.is_accurate[going] |= self._accuracy(going, found)
        self.is_finished |= self.is_accurate
        self._count(going, found)
        looking = self.fractions[going] == _CLOSE
        self._after_look(going[looking], suspected[looking])
        self._next(going[~looking], found.latest[~looking], found.slopes[~looking])
        return going[np.any(~self.is_finished[going], axis=1)]

    def _accuracy(self, going: Array, found: Extrapolated) -> Array:
        """Whether every output of lines and rows is as accurate as it need or can be, (A, R)."""
        rounding = _ROUNDING * found.rounding
        wanted = np.maximum(rounding, self.rtol * np.abs(found.slopes))
        # Two arms may agree by accident, unless they agree to the last digit.
        many = self.history.counts[going] > 2
        limit = np.where(many[..., None], wanted, rounding)
        fine = (found.errors <= limit) & np.isfinite(found.errors)
        # So may three, unless what the last arm says is the same.
        fine &= ~many[..., None] | (np.abs(found.newest - found.slopes) <= wanted)
        return np.asarray(np.all(fine, axis=-1))

    def _count(self, going: Array, found: Extrapolated) -> None:
        """Count the arms in a row that brought no smaller error; failed ones say nothing."""
        told = np.isfinite(found.latest)
        worse = found.latest >= self.record[going]
        stale = self.stale[going]
        self.stale[going] = np.where(told, np.where(worse, stale + 1, 0), stale)
        self.record[going] = np.fmin(self.record[going], found.latest)

    def _after_look(self, which: Array, suspected: Array) -> None:
        """Go on from where a shape was seen, without the arms that stepped over it."""
        odd, even = self.history.last_parts(which)
        seen = (even <= _STRAIGHT * odd) & (odd <= _QUIET * suspected) & (odd > 0)
        seen &= ~self.is_finished[which]
        self.is_finished[which] |= ~seen
        self.history.forget(which, seen)
        self.record[which] = np.where(seen, np.inf, self.record[which])
        self.stale[which] = 0
        self.fractions[which] = np.sqrt(self.before_look[which] * _CLOSE)

    def _next(self, which: Array, latest: Array, slopes: Array) -> None:
        """Choose the next arm: shorter, or a close look where all rows are stale."""
        is_stale = self.stale[which] >= _STALE
        self.is_finished[which] |= is_stale & (self.looks[which] > 0)[:, None]
        open_rows = ~self.is_finished[which]
        searching = open_rows & ~is_stale
        far = latest > _FAR * np.linalg.norm(slopes, axis=-1)
        failed = self.history.last_failed(which)
        wanted = np.where(failed, _SIXTEENTH, np.where(far & np.isfinite(latest), _QUARTER, _HALF))
        factor = np.where(searching, wanted, 0.0).max(axis=1)
        look = factor == 0
        self.before_look[which] = self.fractions[which]
        self.looks[which] += look
        self.fractions[which] = np.where(look, _CLOSE, self.fractions[which] * factor)

    def settle(self) -> None:
        """Choose anew for what is noisy: the last arms have told how noisy it is."""
        rough = ~self.is_accurate
        which = np.flatnonzero(rough.any(axis=1))
        if len(which):
            found = self.best
            chosen = self.history.best(which, found.noise[which])
            again = Extrapolated.nothing(found.slopes)
            again.put(which, chosen)
            found.take(rough, again)


def _finished(history: History, found: Extrapolated) -> tuple[Array, Array]:
    """Return slopes and errors; what cannot move has slope 0.

    Raises:
        MethodError: if all arms of a line were lost in rounding.
        NoFiniteValue: if no arm of a line had a value; its column is the line.
    """
    fixed = history.lines.longest == 0
    found.slopes[fixed] = found.errors[fixed] = 0.0
    missing = ~np.isfinite(found.slopes).all(axis=-1)
    if not missing.any():
        return found.slopes, found.errors
    line, row = (int(i) for i in np.argwhere(missing)[0])
    if history.moved[line, row]:
        raise NoFiniteValue(line, row, float(history.lines.longest[line, row]))
    raise MethodError(
        f"Row {row} cannot be displaced along direction {line}.",
        "Every displacement is lost in the rounding of the precision that the black box receives, "
        "or leads out of its range.",
        "Give another `scale=` to `differentiable`.",
    )
