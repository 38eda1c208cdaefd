"""Measure the noise of a function: one or two rounds of six points along a random direction."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from suture._methods._base import Points, Primal
from suture._methods._displace import rounded
from suture._noise import (
    FINE,
    LONG,
    POINTS,
    SHORT,
    most_noise,
    noise_of,
    quantum_of,
    relative_noise,
)
from suture._types import Array, Draw

# The spacings that are tried, in units of the scale. The first shows the rounding of float64
# and any noise that does not depend on the spacing, the second that of float32 and of six or
# more printed digits: it is far above their unit, and the sixth difference of a function that is
# smooth over 1/100 of the scale is still far below it. Measured on the problems of Moré, Garbow
# and Hillstrom: a third spacing changes nothing there.
_SPACINGS = (1e-9, 1e-4)
# Values are on a grid where noise of this many standard deviations would not have hidden a change:
# a grid of spacing q has 1/√12 of it, and hides half a q.
_HIDDEN = 10.0
# A spacing shows rounding only if it is this many units long.
_UNITS = 100
# Where points fail here and there, the fewest neighbors that make a table. Measured with normal
# noise: of four one table in six tells nothing, of five one in forty.
_FEWEST = 5
# And so many directions are tried. Where one point in four fails, one has too few neighbors in 53 %
# of the cases, four have in 8 %; and there are two spacings.
_DIRECTIONS = 4


class Noise(NamedTuple):
    """What was measured.

    Attributes:
        size: ‖f(x)‖ of a row, or that of its neighbors where it is zero.
        known: whether it was seen; if not, f is constant around x.
        measured: whether it was measured or stated, and is not only what coarse numbers leave.
        flat: (R, O) outputs that did not change over the longest spacing, None if none was tried.
    """

    size: float
    known: bool
    measured: bool
    flat: Array | None = None


def measure_noise(primal: Primal, draw: Draw, stated: bool) -> Generator[Points, Array, Noise]:
    """Measure the noise, and write it to `primal.noise`; nothing is done where it is stated."""
    size = primal.output_size()
    if stated:
        return Noise(size, known=True, measured=True)
    assert primal.value is not None  # node 0, the middle of the table
    noise = np.full(primal.value.shape, np.nan)
    sizes = np.abs(primal.value)
    grid = _Grid(primal, draw)
    spacings = [s for s in _SPACINGS if s > _UNITS * primal.noise]
    changes: list[bool] = []
    shorter: tuple[float, Array] | None = None
    slope, flat = 0.0, None
    for spacing in spacings:
        table = yield from grid.table(spacing, primal.value)
        if table is None:
            continue
        told = np.isfinite(table).all(axis=0)
        sizes = np.fmax(sizes, np.max(np.abs(table), axis=0))
        found, verdict = noise_of(table)
        if shorter is not None:
            change = _hidden_change(table, found, spacing / shorter[0], shorter[1])
            found = np.where(change > 0, quantum_of(table, POINTS * change), found)
            verdict = np.where(change > 0, FINE, verdict)
        shorter = spacing, verdict
        noise = np.where(np.isnan(noise) & (verdict == FINE), found, noise)
        slope = max(slope, _slope(table, np.where(verdict == FINE, found, np.nan), spacing))
        flat = np.all(table == table[0], axis=0) if spacing == _SPACINGS[-1] else None
        changes.append(bool(np.any(np.diff(table[:, told], axis=0))))
        fine = np.mean(verdict[told] == FINE) if told.any() else 1.0
        if fine >= 0.5:
            break
        if fine == 0 and np.sum(verdict[told] == LONG) > np.sum(verdict[told] == SHORT):
            noise = np.where(np.isnan(noise), most_noise(table), noise)
            break
        if spacing == _SPACINGS[-1]:
            coarse = np.isnan(noise) & (verdict == SHORT)
            noise = np.where(coarse, quantum_of(table), noise)
    relative = relative_noise(noise, sizes)
    size = max(size, float(np.linalg.norm(sizes)) / np.sqrt(max(1, len(sizes))))
    if np.isfinite(relative):
        # Where f(x) is near zero by chance, its size is that by which it changes over the scale:
        # noise relative to that, and the size that leaves the noise what it is.
        least, relative = primal.noise, min(1.0, max(primal.noise, relative))
        primal.noise = max(least, relative * min(1.0, size / slope)) if slope else relative
        size *= relative / primal.noise
    # Where f fails too near to x for a table, nothing says that it is not as smooth as others.
    return Noise(size, any(changes) or not changes, bool(spacings), flat)


def _slope(table: Array, noise: Array, spacing: float) -> float:
    """Return how fast f changes along a table (q, R, O), per scale; 0 where noise (R, O) hides it.

    The root mean square over the rows of its norm over the outputs.
    """
    change = np.abs(table[-1] - table[0])
    seen = np.where(change > _HIDDEN * noise, change, 0.0)  # not where either is NaN
    length = spacing * (len(table) - 1)
    return float(np.linalg.norm(seen) / np.sqrt(max(1, len(seen)))) / length


def _hidden_change(table: Array, found: Array, longer: float, verdict: Array) -> Array:
    """Return how much f changed over the shorter spacing although its values did not, (R, O).

    0 where nothing is hidden. The spacing may be nearly a multiple of a grid that the values are
    on: then they grow evenly, as if without noise: sin(1 + 1e-4 k) to six digits by 54 units for
    every k. But over the shorter spacing a function with so little noise would have changed.

    Args:
        table: (q, R, O) over the longer spacing.
        found: the noise that it seems to have, NaN where it does not tell.
        longer: by how much the spacing is longer.
        verdict: about the shorter spacing.
    """
    steps = np.abs(np.diff(table, axis=0))
    # Steps that differ, as beside a minimum, say nothing of those over a shorter spacing.
    even = steps.min(axis=0) > 0.5 * steps.max(axis=0)
    change = np.where(even, steps.min(axis=0) / longer, 0.0)
    visible = change > _UNITS * 2.0**-52 * np.abs(table).max(axis=0)
    level = np.where(np.isnan(found), most_noise(table), found)
    hidden: Array = visible & (verdict == SHORT) & (_HIDDEN * level < change)
    return np.where(hidden, change, 0.0)


class _Grid:
    """Seven equally spaced points along a random direction, x among them."""

    def __init__(self, primal: Primal, draw: Draw) -> None:
        """Draw the direction; near a bound it leads away from it, and x is at its end."""
        self.primal, self.generator = primal, draw()
        self._turn()

    def _turn(self) -> None:
        """Draw a direction."""
        primal, generator = self.primal, self.generator
        signs = generator.integers(0, 2, primal.columns) * 2.0 - 1.0
        # By different amounts, so that a difference of two inputs does not stay what it is.
        signs *= generator.uniform(0.9, 1.0, primal.columns)
        d = primal.rows.shape[1]
        self.rows, self.shared = signs[:d] * primal.scale_rows, signs[d:] * primal.scale_shared
        half = POINTS // 2
        self.first = -half
        if primal.room is not None and not self._is_roomy(half):
            room = primal.room
            self.first = 0
            self.rows = np.where(room.rows_up >= room.rows_down, 1, -1) * np.abs(self.rows)
            self.shared = np.where(room.shared_up >= room.shared_down, 1, -1) * np.abs(self.shared)

    def _is_roomy(self, half: int) -> bool:
        room, reach = self.primal.room, half * _SPACINGS[-1]
        return room is None or bool(
            np.all(np.minimum(room.rows_down, room.rows_up) >= reach * np.abs(self.rows))
            and np.all(np.minimum(room.shared_down, room.shared_up) >= reach * np.abs(self.shared))
        )

    @property
    def _places(self) -> Array:
        places = np.arange(self.first, self.first + POINTS)
        others: Array = places[places != 0]
        return others

    def _points(self, spacing: float) -> Points:
        """Return the six points that are not x."""
        primal, steps = self.primal, spacing * self._places
        rows, shared = self.rows, self.shared
        if primal.room is not None:
            # As far as there is room, so that the points stay equally spaced.
            last = spacing * np.abs(self._places).max()
            rows = _within(rows, primal.room.rows_down, primal.room.rows_up, last, self.first)
            shared = _within(
                shared, primal.room.shared_down, primal.room.shared_up, last, self.first
            )
        # Not the shared inputs beside those of rows: batches with the same shared inputs can be
        # one call, and the noise shows along either.
        if rows.size:
            points = Points(primal.rows + np.multiply.outer(steps, rows), None)
        else:
            points = Points(None, primal.shared + np.multiply.outer(steps, shared))
        return rounded(points, primal)

    def table(self, spacing: float, base: Array) -> Generator[Points, Array, Array | None]:
        """Return a table (q, R, O) of neighbors, None where no row has enough of them.

        A row that is not finite everywhere is NaN. Where points failed, but not all of them,
        other directions are tried.
        """
        for _ in range(_DIRECTIONS):
            values = yield self._points(spacing)
            found = self._table(values, base)
            if found is not None or not _finite(values).any():
                return found
            self._turn()
        return None

    def _table(self, values: Array, base: Array) -> Array | None:
        """Return the table with f(x) in its place.

        Where f is not defined on one side, the other side makes a shorter table, and the next
        round stays there; where points failed here and there, the longest run of neighbors does.
        """
        at = -self.first
        table = np.concatenate([values[:at], base[None], values[at:]])
        if (whole := _finite_rows(table)) is not None:
            return whole
        if at and not _finite(values[at:]).any():
            self.first, self.rows, self.shared = 0, -self.rows, -self.shared
            return _finite_rows(table[at::-1])
        if at and not _finite(values[:at]).any():
            self.first = 0
            return _finite_rows(table[at:])
        return _longest_run(table)


def _finite(values: Array) -> Array:
    """Return which rows are finite in all outputs, (…, R)."""
    return np.asarray(np.isfinite(values).all(axis=-1))


def _longest_run(table: Array) -> Array | None:
    """Return the longest part of the table in which a row is finite, None if all are short."""
    for length in range(len(table) - 1, _FEWEST - 1, -1):
        for start in range(len(table) - length + 1):
            if (part := _finite_rows(table[start : start + length])) is not None:
                return part
    return None


def _finite_rows(table: Array) -> Array | None:
    """Return the table with NaN in rows that are not finite, None if all are."""
    finite = np.all(np.isfinite(table), axis=(0, 2))
    if finite.all():
        return table
    return np.where(finite[:, None], table, np.nan) if finite.any() else None


def _within(move: Array, down: Array, up: Array, last: float, first: int) -> Array:
    """Shorten moves so that `last` of them, on both sides unless first is 0, stay inside."""
    ahead = np.where(move > 0, up, down)
    room = ahead if first == 0 else np.minimum(down, up)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(np.abs(move) * last > room, room / (np.abs(move) * last), 1.0)
    shortened: Array = move * share
    return shortened
