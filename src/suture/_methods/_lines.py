"""Lines through x: arms of any length along K directions, each row as far as it may go."""

from __future__ import annotations

import dataclasses

import numpy as np

from suture._methods._base import Points, Primal
from suture._methods._displace import rounded
from suture._types import Array

# Where one side of x has less than this share of the room of the other, the long side alone is
# used: arms of equal length would have to be shorter than one-sided ones by more than what the
# better order of a central difference gains.
_LOPSIDED = 1 / 8

# An arm that was made to fit may be longer than its room by rounding; the points are clamped.
_FITS = 1 + 2.0**-40


@dataclasses.dataclass(slots=True)
class Arms:
    """The two ends of an arm along some of the lines.

    Attributes:
        points: where to evaluate, or None if all ends are out of reach.
        asked: (A, 2) which lines have a point at their lower and upper end.
        taken: (A, 2, R) how long the arms are after rounding, in units of the line's move; NaN
            where a row has no end.
    """

    points: Points | None
    asked: Array
    taken: Array

    def values(self, reply: Array) -> Array:
        """Return values (A, 2, R, O) from those of the points; NaN where there is none."""
        values = np.full((*self.asked.shape, *reply.shape[1:]), np.nan)
        values[self.asked] = reply
        failed = ~np.isfinite(values).all(axis=-1) | np.isnan(self.taken)
        values[failed] = np.nan
        return values


@dataclasses.dataclass(slots=True)
class Lines:
    """K lines x + t·move, and how far each row may go along them.

    Attributes:
        primal: x.
        rows: (K, R, d) moves of the rows, None where no row moves.
        shared: (K, p) moves of what all rows share, None where it does not move.
        reach: (K, 2, R) room below and above, in units of the move.
        longest: (K, R) the longest arm, in units of the move; 0 where a row cannot move.
    """

    primal: Primal
    rows: Array | None
    shared: Array | None
    reach: Array
    longest: Array

    @classmethod
    def through(cls, primal: Primal, rows: Array | None, shared: Array | None, arm: float) -> Lines:
        """Lay lines through x, and find their longest arms.

        An arm is shortened where there is no room for it: on both sides, or, where one side has
        hardly any, on the other.
        """
        count = len(rows) if rows is not None else len(shared) if shared is not None else 0
        reach = np.full((count, 2, len(primal.rows)), np.inf)
        if primal.room is not None:
            if rows is not None:
                reach = np.minimum(reach, _reach(rows, primal.room.rows_down, primal.room.rows_up))
            if shared is not None:
                room = (primal.room.shared_down, primal.room.shared_up)
                reach = np.minimum(reach, _reach(shared, *room)[:, :, None])
        both, one = reach.min(axis=1), reach.max(axis=1)
        longest = np.minimum(arm, np.where(both >= _LOPSIDED * one, both, one))
        if shared is not None:
            # Where a shared input moves, the rows move together.
            together = np.any(shared != 0, axis=-1)[:, None]
            longest = np.where(together, longest.min(axis=1, keepdims=True), longest)
        return cls(primal, rows, shared, reach, longest)

    @property
    def is_stuck(self) -> bool:
        """Whether a row that has a move has no room for it on either side."""
        moves = np.zeros(self.longest.shape, dtype=bool)
        if self.rows is not None:
            moves |= np.any(self.rows != 0, axis=-1)
        if self.shared is not None:
            moves |= np.any(self.shared != 0, axis=-1)[:, None]
        return bool(np.any(moves & (self.longest == 0)))

    def arms(self, which: Array, fractions: Array) -> Arms:
        """Return the ends of one arm along lines `which` (A,), at fractions of the longest."""
        signed = np.stack([-fractions, fractions], axis=1)[:, :, None]
        ends = signed * self.longest[which, None]  # (A, 2, R)
        fits = (np.abs(ends) <= self.reach[which] * _FITS) & (ends != 0)
        ends = np.where(fits, ends, 0.0)
        points = self._points(which, ends)
        lost = ~self._is_finite(points)
        if lost.any():
            fits &= ~lost
            ends = np.where(fits, ends, 0.0)
            points = self._points(which, ends)
        taken = np.where(fits, self._taken(which, points, ends), 0.0)
        taken[taken == 0] = np.nan
        asked: Array = np.any(np.isfinite(taken), axis=-1)
        if not asked.any():
            return Arms(None, asked, taken)
        flat = [None if part is None else part[asked] for part in (points.rows, points.shared)]
        return Arms(Points(*flat), asked, np.abs(taken))

    def _points(self, which: Array, ends: Array) -> Points:
        """Return the points, rows (A, 2, R, d) and shared (A, 2, p), after rounding."""
        rows = shared = None
        with np.errstate(invalid="ignore", over="ignore"):
            if self.rows is not None:
                rows = self.primal.rows + ends[..., None] * self.rows[which, None]
            if self.shared is not None:
                # All rows have the same end here, unless the line moves no shared input.
                shared = self.primal.shared + ends[:, :, :1] * self.shared[which, None]
        flat = Points(
            None if rows is None else rows.reshape(-1, *rows.shape[2:]),
            None if shared is None else shared.reshape(-1, shared.shape[-1]),
        )
        done = rounded(flat, self.primal)
        return Points(
            None if rows is None or done.rows is None else done.rows.reshape(rows.shape),
            None if shared is None or done.shared is None else done.shared.reshape(shared.shape),
        )

    def _is_finite(self, points: Points) -> Array:
        """Whether every input is finite that is so at x, (A, 2, R)."""
        finite: Array = np.array(True)
        if points.rows is not None:
            finite = np.all(np.isfinite(points.rows) | ~np.isfinite(self.primal.rows), axis=-1)
        if points.shared is not None:
            by_shared = np.isfinite(points.shared) | ~np.isfinite(self.primal.shared)
            finite = finite & np.all(by_shared, axis=-1)[:, :, None]
        return finite

    def _taken(self, which: Array, points: Points, ends: Array) -> Array:
        """Return how far the points really are from x, (A, 2, R), in units of the move.

        The displacement after rounding, projected on the move, with lengths in units of scale.
        """
        share, whole = np.zeros(ends.shape), np.zeros(ends.shape)
        if self.rows is not None and points.rows is not None:
            move, scale = self.rows[which, None], self.primal.scale_rows
            part = _projected(points.rows, self.primal.rows, ends[..., None], move, scale)
            share, whole = share + part, whole + np.sum((move / scale) ** 2, axis=-1)
        if self.shared is not None and points.shared is not None:
            move, scale = self.shared[which, None], self.primal.scale_shared
            part = _projected(points.shared, self.primal.shared, ends[:, :, :1], move, scale)
            share = share + part[:, :, None]
            whole = whole + np.sum((move / scale) ** 2, axis=-1)[:, :, None]
        # A row that has no tangent stays where it is, however long the arm.
        taken: Array = np.where(whole == 0, ends, share / np.where(whole == 0, 1.0, whole))
        return taken


def _reach(moves: Array, down: Array, up: Array) -> Array:
    """Return how often moves (K, …, w) fit into the room (…, w): (K, 2, …), below and above."""
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.abs(moves)
        above = np.where(moves > 0, up, down) / size
        below = np.where(moves > 0, down, up) / size
    both = np.stack([below, above], axis=1)
    free = np.broadcast_to((moves == 0)[:, None], both.shape)
    return np.asarray(np.where(free, np.inf, both).min(axis=-1))


def _projected(points: Array, base: Array, ends: Array, move: Array, scale: Array) -> Array:
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        displaced = np.where(np.isfinite(base), points - base, ends * move)
    return np.asarray(np.sum((displaced / scale) * (move / scale), axis=-1))
