"""Later gradients of the default method: one-sided, with the steps that the first one found."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from suture._methods._answers import ColumnLines, answered
from suture._methods._arms import curvature_of, distinct, fitted, movable, room_of, slope_of
from suture._methods._base import (
    Contract,
    Estimate,
    Linearization,
    Points,
    Primal,
    Remarks,
)
from suture._methods._displace import blocks, column_points, norms_of, own_columns
from suture._tuning import LONGEST, Tuning, central_error
from suture._types import Array, Draw
from suture.directions import Coordinate

# Noise above this is not rounding: then the sign of each step is random, so that errors of
# truncation average out over a training. Measured: 8 to 14 times lower final loss.
_ROUNDING = 1e-12

# A curvature is measured anew by a second arm of this length, on the other side: where the step is
# the best one, its noise is then 1/7 of it.
_SECOND_ARM = 6.0

# An input smaller than its step has kept its step rightly if the function still bends as it did
# where the step was chosen, by this factor: the step is then wrong by three.
_BENT = 10.0


class Steady:
    """One gradient with a tuning.

    Attributes:
        lost: why what it returns is not to be used, empty if it is.
    """

    def __init__(
        self, primal: Primal, tuning: Tuning, keep: Contract, draw: Draw, rtol: float | None
    ) -> None:
        """Choose the step of every input."""
        n = primal.columns
        self.primal, self.tuning, self.keep = primal, tuning, keep
        self.steps = tuning.steps(primal.output_size(), primal.precision)
        self.units = scaled_as(primal, tuning)
        d = primal.rows.shape[1]
        self.rows, self.shared = self.steps[:d] * self.units[0], self.steps[d:] * self.units[1]
        if tuning.noise > _ROUNDING:
            self._sign(draw)
        self.error = tuning.errors(self.steps, primal.output_size())
        self.refreshed, self.next = tuning.due()
        scale, size = primal.column_scale(), primal.output_size()
        self.watched = tuning.passed(scale, size, self.steps)[1]
        if self.watched.any():
            self.refreshed = np.union1d(self.refreshed, np.flatnonzero(self.watched))
        self.lost = ""
        self.central = np.zeros(n, dtype=bool)
        if rtol is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                self.central = self.error > rtol * tuning.slope
            self._center()
        self.kept: Array | None = None
        self.norms = np.zeros(n)
        self.curvature, self.slope = np.full(n, np.nan), np.full(n, np.nan)
        self.remarks = Remarks(central=int(self.central.sum()))

    def _sign(self, draw: Draw) -> None:
        """Give the step of every input, in every row, a random sign."""
        count = self.rows.size
        signs = draw().integers(0, 2, count + self.shared.size) * 2.0 - 1.0
        self.rows = self.rows * signs[:count].reshape(self.rows.shape)
        self.shared = self.shared * signs[count:]

    def _center(self) -> None:
        """Give central columns the error that they will have."""
        tuning, chosen = self.tuning, self.central
        arms = tuning.arm[chosen]
        size = self.primal.output_size()
        self.error[chosen] = central_error(
            arms, tuning.level(size), tuning.slope[chosen], tuning.curvature[chosen], size
        )

    def run(self) -> Estimate:
        """Difference all columns: some with two nodes, most with one."""
        primal = self.primal
        primal.noise = max(primal.noise, self.tuning.noise)
        columns = movable(primal)
        double = self.central.copy()
        double[self.refreshed] = True
        narrow = self._narrow(columns)
        self.remarks.bounded += len(narrow)
        double[narrow] = True
        for block in blocks(columns[~double[columns]], primal, 1):
            yield from self._one_sided(block)
        for block in blocks(columns[double[columns]], primal, 2):
            yield from self._two_sided(block)
        if self.kept is None:
            self.kept = self.keep(np.zeros((primal.columns, len(primal.rows), primal.outputs)))
        seen = self.refreshed[np.isfinite(self.curvature[self.refreshed])]
        primal.tuning = self.next.refreshed(seen, self.curvature[seen], self.slope[seen])
        rows = np.sqrt(len(primal.rows))
        return Linearization(
            Coordinate(),
            np.arange(primal.columns),
            self.kept,
            None,
            None,
            error=self.error * rows,
            norms=self.norms,
            remarks=self.remarks,
        )

    def _narrow(self, columns: Array) -> Array:
        """Return the columns with too little room for the step on either side, in some row."""
        room = self.primal.room
        if room is None:
            return columns[:0]
        rows = np.maximum(room.rows_down, room.rows_up) < np.abs(self.rows)
        shared = np.maximum(room.shared_down, room.shared_up) < np.abs(self.shared)
        narrow = np.concatenate([rows.any(axis=0), shared])
        found: Array = columns[narrow[columns]]
        return found

    def _one_sided(self, block: Array) -> Generator[Points, Array, None]:
        primal = self.primal
        unit = own_columns(primal, block, self.rows, self.shared)
        room = room_of(primal, block)
        moves = unit[:, None, :]
        if room is not None:
            moves, odd = fitted(np.ones(1), unit, room)
            self.remarks.bounded += int(odd.any(axis=1).sum())
        points, taken = column_points(primal, block, moves)
        values = yield points
        assert primal.value is not None  # node 0 of every difference
        # Infinite at the end of the range of a precision: NaN, so that the other side is taken.
        taken = taken if np.isfinite(taken).all() else np.where(np.isfinite(taken), taken, np.nan)
        slopes = _quotient(values, primal.value, taken[:, 0])
        if not np.isfinite(slopes).all():
            values[~np.isfinite(slopes).all(axis=-1)] = np.nan
            yield from self._answer(block, moves, values[:, None], slopes)
        self._store(block, slopes)

    def _answer(
        self, block: Array, moves: Array, values: Array, slopes: Array
    ) -> Generator[Points, Array, None]:
        """Replace slopes that points gave which failed, and say how accurate the others are."""
        primal = self.primal
        taken = column_points(primal, block, moves)[1]
        lines = ColumnLines(primal, block)
        found = yield from answered(lines, moves, taken, values, primal.value, primal.on_failure)
        found.put(slopes, self.remarks)
        if found.shrunk.any():
            steps = self.steps.copy()
            steps[block[found.lines]] *= found.share
            short = block[found.lines[found.shrunk]]
            self.error[short] = self.tuning.errors(steps, primal.output_size())[short]

    def _two_sided(self, block: Array) -> Generator[Points, Array, None]:
        primal = self.primal
        moves = self._two_moves(block)
        points, taken = column_points(primal, block, moves)
        values = yield points
        values = values.reshape((len(block), 2, *values.shape[1:]))
        apart = distinct(taken)
        usable = np.isfinite(values).all(axis=-1) & apart
        taken = np.broadcast_to(taken, usable.shape)
        half = ~usable.all(axis=1) & np.all(apart, axis=1)
        assert primal.value is not None
        slopes = slope_of(values, primal.value, taken, usable)
        if not np.isfinite(values).all():
            yield from self._answer(block, moves, values, slopes)
        self._store(block, slopes)
        units, rows = own_columns(primal, block, *self.units), np.sqrt(len(primal.rows))
        curvature = curvature_of(values, primal.value, taken / units[:, None], usable)
        self.curvature[block] = np.sqrt(np.sum(curvature**2, axis=(1, 2))) / rows
        self.slope[block] = self.norms[block] / rows
        # What is left of a curvature that noise hides: 2√2 level / (7 h²).
        level = self.tuning.level(primal.output_size())
        least = 2 * np.sqrt(2) * level / ((1 + _SECOND_ARM) * self.steps[block] ** 2)
        self.curvature[block] = np.maximum(self.curvature[block], least)
        bent = half.any(axis=1) | (self.curvature[block] > _BENT * self.tuning.origin[block])
        bent &= self.watched[block]
        if bent.any():
            self.lost = self.tuning.went(int(block[np.argmax(bent)]), primal.column_scale())

    def _two_moves(self, block: Array) -> Array:
        """Return the step and an arm on the other side, or the arms of a central difference."""
        primal, tuning = self.primal, self.tuning
        unit = own_columns(primal, block, self.rows, self.shared)
        units, steps = own_columns(primal, block, *self.units), self.steps[block]
        second = np.minimum(_SECOND_ARM * steps, LONGEST)[:, None] * units
        moves = np.stack([unit, -np.sign(unit) * second], axis=1)
        arms = np.where(self.central[block], tuning.arm[block], steps)[:, None] * units
        both = np.stack([arms, -arms], axis=1)
        refreshed = np.isin(block, self.refreshed) & ~self.central[block]
        moves = np.where(refreshed[:, None, None], moves, both)
        room = room_of(primal, block)
        if room is None:
            return moves
        beyond = (moves > room[1][:, None]) | (moves < -room[0][:, None])
        outside = np.any(beyond, axis=1)
        fits, _ = fitted(np.array([1.0, -1.0]), arms, room)
        return np.where(outside[:, None], fits, moves)

    def _store(self, block: Array, slopes: Array) -> None:
        kept = self.keep(slopes)
        if len(block) == self.primal.columns:
            self.kept = kept
        else:
            if self.kept is None:
                self.kept = np.zeros((self.primal.columns, *kept.shape[1:]), kept.dtype)
            self.kept[block] = kept
        self.norms[block] = norms_of(slopes, own_columns(self.primal, block, *self.units))


def _quotient(values: Array, base: Array, taken: Array) -> Array:
    """Return (f(x + δ) - f(x)) / δ, (K, R, O), 0 where nothing moved."""
    slopes = values - base
    if taken.all():
        slopes /= taken[:, :, None]
        return slopes
    still = np.broadcast_to(taken == 0, slopes.shape[:2])
    slopes /= np.where(taken == 0, 1.0, taken)[:, :, None]
    slopes[still] = 0.0
    return slopes


def scaled_as(primal: Primal, tuning: Tuning) -> tuple[Array, Array]:
    """Return the unit of the steps of a tuning, (R, d) and (p,), in the units of the inputs.

    Rows of different scale have different units; but that of a column stays what it was when the
    tuning was made: an input that approaches zero keeps its step.
    """
    d = primal.rows.shape[1]
    share = tuning.scale / primal.column_scale()
    return primal.scale_rows * share[:d], primal.scale_shared * share[d:]
