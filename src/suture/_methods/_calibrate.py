"""The first gradient of the default method: it measures noise and curvature.

It takes central differences with arms σ^(1/3) of the scale, σ the noise, where their truncation and
their noise meet. The same values show the curvature by each input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

import numpy as np

from suture._methods._arms import curvature_of, distinct, fitted, movable, room_of, slope_of
from suture._methods._base import (
    Contract,
    Estimate,
    Linearization,
    NoFiniteValue,
    Points,
    Primal,
    Remarks,
)
from suture._methods._displace import blocks, column_points, norms_of, own_columns
from suture._methods._measure import Noise, measure_noise
from suture._noise import quantum_of
from suture._tuning import LONGEST, Tuning, central_error
from suture._types import Array, Draw
from suture.directions import Coordinate

# A second difference below this many standard deviations of the noise is not seen, …
_UNSEEN = 8.0
# … which matters where the slope has fewer than two digits: then the arm becomes longer.
_WEAK = 100.0
_LONGER = 20.0
# Where values are even equal they are on a coarse grid, and a much longer arm is needed.
_MUCH_LONGER = 1000.0
# A second difference of more than this part of the first one, far above the noise, and many times
# that of a function which changes by itself over its scale (at a minimum all slopes are small),
# says that the arm is longer than the function is smooth; so does a side that is not defined.
_ROUGH, _CLEAR, _STEEP = 0.3, 30.0, 100.0
# What is then as rough has a kink at x and no curvature: with one that is above this many standard
# deviations the step would be 1/100 of the arm and, after shorter arms, hardly above rounding.
_KINK = 3e4
# Its second difference falls with the arm, that of a curvature with the square of it: between the
# two, for arms that became shorter by a tenth or more.
_LIKE_A_KINK = 0.3
# A rough arm becomes shorter by the factor at which second and first difference would be equal, by
# no less than a tenth and no more than a thousandth.
_SHORTER = (1e-3, 0.1)
# An arm this near to the longest one is not made longer.
_ALMOST = 0.8
_INSIDE = 0.01
_ATTEMPTS = 3
# These numbers were chosen on the problems of Moré, Garbow and Hillstrom, by the medians and the
# shares of failures that `benchmarks/accuracy.py` prints.

# A curvature is not known better than to this many standard deviations of the noise, divided by the
# arm squared: 1.6 times that of a second difference. For the nodes 1/2 and 1 on one side the noise
# is √(4² + 8² + 4²) / √6 = 4 times as large.
_LEAST, _LEAST_ONE_SIDED = 4.0, 16.0


def calibrate(
    primal: Primal, keep: Contract, noise: Noise, blank: Tuning
) -> Generator[Points, Array, Linearization]:
    """Take central differences, and write to `primal.tuning` what they show."""
    arms = np.full(primal.columns, min(primal.noise ** (1 / 3), LONGEST))
    passes = _Passes(primal, keep, arms, noise, judged=True)
    linearization = yield from passes.run()
    primal.replay, primal.tuning = passes.used, passes.tuning(blank)
    return linearization


def noise_only(primal: Primal, draw: Draw, stated: bool) -> Generator[Points, Array, Noise]:
    """Measure the noise, and write a tuning without curvature to `primal.tuning`."""
    noise = yield from measure_noise(primal, draw, stated)
    unknown = np.full(primal.columns, np.nan)
    scale = np.array(primal.column_scale())
    primal.tuning = Tuning(
        primal.noise, noise.size, scale, unknown, unknown, arm=unknown, origin=unknown
    )
    return noise


def replay(primal: Primal, keep: Contract, arms: Array) -> Estimate:
    """Take the central differences of a calibration again."""
    size = primal.output_size()
    if primal.tuning is not None:
        size, primal.noise = primal.tuning.size, max(primal.noise, primal.tuning.noise)
    return (
        yield from _Passes(
            primal, keep, arms, Noise(size, known=True, measured=True), judged=False
        ).run()
    )


class _Passes:
    """Central differences, where some inputs need a second and a third try.

    An input has one arm for all rows; it is judged by norms over rows and outputs.
    """

    def __init__(
        self, primal: Primal, keep: Contract, arms: Array, noise: Noise, *, judged: bool
    ) -> None:
        """Begin with `arms`, (n,) in units of the scale; judged ones may change."""
        n, rows = primal.columns, len(primal.rows)
        self.primal, self.keep, self.noise, self.judged = primal, keep, noise, judged
        self.arms, self.used = arms.copy(), arms.copy()
        # Where only one side is there: 1 above x, -1 below.
        self.side = np.zeros((n, rows), dtype=np.int8)
        self.good = np.zeros(n, dtype=bool)
        self.kept: Array | None = None
        self.error, self.norms, self.curvature = np.zeros(n), np.zeros(n), np.full(n, np.nan)
        # The noise of outputs that are not flat, and of the grid that those are on which were.
        self.fine, self.grid = primal.noise, np.full((rows, primal.outputs), np.inf)
        # The arm and the second difference of rough columns before.
        self.before = np.zeros((2, n))
        self.remarks = Remarks()

    @property
    def level(self) -> float:
        """The noise of all rows and outputs together, in units of the output."""
        return self.primal.noise * self.noise.size * float(np.sqrt(len(self.primal.rows)))

    def run(self) -> Estimate:
        """Difference all columns, and those again that need it."""
        primal = self.primal
        pending = movable(primal)
        # One more than are judged, for inputs whose one side is found missing in the last.
        for attempt in range(_ATTEMPTS + 1):
            again = []
            for block in blocks(pending, primal, 2):
                again.append((yield from self._difference(block, attempt)))
            pending = np.concatenate([pending[:0], *again])
            self.remarks.retried += len(pending)
            if not len(pending):
                break
        if self.kept is None:
            self.kept = self.keep(np.zeros((primal.columns, len(primal.rows), primal.outputs)))
        self.remarks.is_flat = not (self.noise.known or self.norms.any() or not self.good.any())
        self.remarks.one_sided = int(np.any(self.side != 0, axis=1).sum())
        return Linearization(
            Coordinate(),
            np.arange(primal.columns),
            self.kept,
            None,
            None,
            error=self.error,
            norms=self.norms,
            remarks=self.remarks,
        )

    def _difference(self, block: Array, attempt: int) -> Generator[Points, Array, Array]:
        """Difference some columns; return those that need another try."""
        primal = self.primal
        points, taken = column_points(primal, block, self._moves(block, attempt))
        values = yield points
        values = values.reshape((len(block), 2, *values.shape[1:]))
        apart = distinct(taken)
        usable = np.isfinite(values).all(axis=-1) & apart
        taken = np.broadcast_to(taken, usable.shape)
        count = usable.sum(axis=1)
        missing = (count == 0) & apart.any(axis=1)
        single = (count == 1) & apart.all(axis=1) & (self.side[block] == 0)
        bad, turned = missing.any(axis=1), single.any(axis=1)
        assert primal.value is not None  # node 0 of every difference
        slopes = slope_of(values, primal.value, taken, usable)
        units = own_columns(primal, block, primal.scale_rows, primal.scale_shared)
        curvatures = curvature_of(values, primal.value, taken / units[:, None], usable)
        alone = np.any((count == 1) & apart.all(axis=1), axis=1)
        self._store(block, ~bad, slopes, curvatures, units, alone)
        self.side[block] = np.where(single, np.where(usable[:, 0], 1, -1), self.side[block])
        if self.judged:
            self._notice_grid(values, usable)
        again = turned & ~bad
        if attempt < _ATTEMPTS - 1:
            again = self._judge(block, ~bad & ~turned) | again | bad
        elif attempt == _ATTEMPTS or (bad & ~self.good[block]).any():
            self._refuse(block, bad & ~self.good[block], missing)
            again = again & (attempt < _ATTEMPTS)
        self.arms[block[bad]] *= _INSIDE
        pending: Array = block[again]
        return pending

    def _moves(self, block: Array, attempt: int) -> Array:
        primal = self.primal
        in_rows = block[0] < primal.rows.shape[1]
        side = self.side[block]
        if not in_rows:
            # All rows see a shared input go the same way: where one row has only one side, all.
            side = np.take_along_axis(side, np.argmax(side != 0, axis=1)[:, None], axis=1)
        units = own_columns(primal, block, primal.scale_rows, primal.scale_shared)
        arms = self.arms[block][:, None] * units
        # One-sided: the end and the middle of the arm, so that the curvature is seen there too.
        moves = np.stack(
            [np.where(side, side * arms, arms), np.where(side, side * arms / 2, -arms)], axis=1
        )
        room = room_of(primal, block)
        if room is None:
            return moves
        both, odd = fitted(np.array([1.0, -1.0]), arms, room)
        if not attempt:
            self.remarks.bounded += int(odd.any(axis=1).sum())
        ahead = np.where(side > 0, room[1], room[0])
        fits = (side != 0) & (arms <= ahead)
        return np.where(fits[:, None], moves, both)

    def _store(
        self,
        block: Array,
        fine: Array,
        slopes: Array,
        curvatures: Array,
        units: Array,
        alone: Array,
    ) -> None:
        kept = self.keep(slopes)
        if self.kept is None:
            self.kept = np.zeros((self.primal.columns, *kept.shape[1:]), kept.dtype)
        chosen, arms = block[fine], self.arms[block]
        self.kept[chosen], self.used[chosen], self.good[chosen] = kept[fine], arms[fine], True
        norms, seen = norms_of(slopes, units), _norm_of_known(curvatures)
        if not self.noise.size:
            # f(x) is zero: its size is that by which it changes over the scale.
            size = float(np.hypot(norms[fine], np.nan_to_num(seen[fine])).max(initial=0.0))
            self.noise = self.noise._replace(size=size / float(np.sqrt(len(self.primal.rows))))
        whole = self.noise.size * float(np.sqrt(len(self.primal.rows)))
        error = central_error(arms, self.level, norms, seen, whole)
        # One node has an error of first order: of a function that bends by itself over its scale.
        bend = arms * np.fmax(seen, norms) / 2
        error = np.where(alone, np.hypot(bend, np.sqrt(2) * self.level / arms), error)
        for every, part in ((self.norms, norms), (self.curvature, seen), (self.error, error)):
            every[chosen] = part[fine]

    def _judge(self, block: Array, asked: Array) -> Array:
        """Choose the next arms of columns that are asked about; return those that need one."""
        if not self.judged:
            return np.zeros_like(asked)
        arms = self.arms[block]
        seen = asked & ~np.isnan(self.curvature[block])
        first, second = self._differences(block)
        rough = seen & (second > _ROUGH * first + _CLEAR * self.level)
        rough &= second > _STEEP * self.level * self.primal.noise ** (-1 / 3)
        self.before[:, block[rough]] = arms[rough], second[rough]
        with np.errstate(divide="ignore", invalid="ignore"):
            shorter = np.clip(0.5 * np.sqrt(first / second), *_SHORTER) * arms
        weak = (second < _UNSEEN * self.level) & (first < _WEAK * self.level)
        equal = (first == 0) & (second == 0)
        # Rounding to coarse numbers is no more than its unit, so that no arm need be longer for it.
        weak &= self.noise.measured
        # Where the noise was seen, an input that changes nothing has no influence.
        weak = (
            seen & ~rough & (arms < _ALMOST * LONGEST) & np.where(equal, not self.noise.known, weak)
        )
        longer = np.minimum(np.where(equal, _MUCH_LONGER, _LONGER) * arms, LONGEST)
        self.arms[block] = np.where(rough, shorter, np.where(weak, longer, arms))
        again: Array = rough | weak
        return again

    def _differences(self, block: Array) -> tuple[Array, Array]:
        """Return the sizes of the first and the second difference of columns."""
        arms = self.used[block]
        return 2 * arms * self.norms[block], np.nan_to_num(self.curvature[block]) * arms**2

    def _notice_grid(self, values: Array, usable: Array) -> None:
        """Add the noise of the grid that outputs are on which have been flat so far."""
        flat = self.noise.flat
        if flat is None or not flat.any() or not self.noise.size or self.primal.value is None:
            return
        here = np.broadcast_to(self.primal.value, values.shape)
        around = np.where(usable[..., None], values, here).reshape(-1, *here.shape[2:])
        found = quantum_of(np.concatenate([here[0, :1], around]))
        self.grid = np.where(flat, np.fmin(self.grid, found), self.grid)
        seen = self.grid[np.isfinite(self.grid)]
        rows = np.sqrt(len(self.primal.rows))
        coarse = float(np.linalg.norm(seen)) / (self.noise.size * rows)
        self.primal.noise = min(1.0, float(np.hypot(self.fine, coarse)))

    def _refuse(self, block: Array, hopeless: Array, missing: Array) -> None:
        if hopeless.any():
            k = int(np.argmax(hopeless))
            column = int(block[k])
            reach = float(self.arms[column] * self.primal.column_scale()[column])
            raise NoFiniteValue(column, int(np.argmax(missing[k])), reach)

    def tuning(self, blank: Tuning) -> Tuning:
        """Return what is known now."""
        rows = np.sqrt(len(self.primal.rows))
        least = np.where(np.any(self.side != 0, axis=1), _LEAST_ONE_SIDED, _LEAST)
        curvature = np.maximum(self.curvature, least * self.level / self.used**2) / rows
        first, second = self._differences(np.arange(len(curvature)))
        kink = (second > _ROUGH * first + _KINK * self.level) & (self.before[1] > 0)
        # At a kink it falls as the arm does, elsewhere as its square.
        kink &= second * self.before[0] >= _LIKE_A_KINK * self.before[1] * self.used
        curvature[kink] = np.nan
        return dataclasses.replace(
            blank,
            noise=self.primal.noise,
            size=self.noise.size,
            curvature=curvature,
            slope=np.where(self.good, self.norms / rows, np.nan),
            arm=self.used.copy(),
            origin=curvature,
        )


def _norm_of_known(curvatures: Array) -> Array:
    """Return the same where some rows are NaN: those are like the others; NaN if all are."""
    known = np.isfinite(curvatures)
    share = known.mean(axis=(1, 2)) if curvatures[0].size else np.ones(len(curvatures))
    squares = np.sum(np.where(known, curvatures, 0.0) ** 2, axis=(1, 2))
    return np.where(share > 0, np.sqrt(squares / np.where(share > 0, share, 1.0)), np.nan)
