"""What has been evaluated along K lines, as difference quotients."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator

import numpy as np

from suture._methods._base import Points
from suture._methods._extrapolate import Extrapolated, Quotients, extrapolate
from suture._methods._lines import Lines
from suture._types import Array


@dataclasses.dataclass(slots=True)
class Side:
    """What one side of x alone says, of lines and rows where the other side failed.

    Attributes:
        eligible: (A, R) whether the other side failed.
        found: the tableau of one-sided differences.
    """

    eligible: Array
    found: Extrapolated


class History:
    """The arms of K lines, and their values."""

    def __init__(self, lines: Lines) -> None:
        """Begin without any."""
        self.lines, self.primal = lines, lines.primal
        self.base = lines.primal.value
        self.taken: list[Array] = []  # (K, 2, R) a round
        self.values: list[Array] = []  # (K, 2, R, O) a round
        self.counts = np.zeros(lines.longest.shape, dtype=int)
        self.moved = np.zeros(lines.longest.shape, dtype=bool)

    def need_value(self) -> Generator[Points, Array, None]:
        """Ask for f(x), unless it is known."""
        if self.base is None:
            here = self.primal
            alone = (
                Points(here.rows[None], None) if here.rows.size else Points(None, here.shared[None])
            )
            self.base = (yield alone)[0]

    def measure(self, which: Array, fractions: Array) -> Generator[Points, Array, None]:
        """Ask for one arm of lines `which`, at fractions of their longest arms."""
        arms = self.lines.arms(which, fractions)
        count, rows = self.lines.longest.shape
        taken = np.full((count, 2, rows), np.nan)
        values = np.full((*taken.shape, self.primal.outputs), np.nan)
        if arms.points is not None:
            values[which] = arms.values((yield arms.points))
            taken[which] = arms.taken
        self.taken.append(taken)
        self.values.append(values)
        self.moved |= np.isfinite(taken).any(axis=1)
        self.counts += np.isfinite(values[..., 0]).any(axis=1)

    @property
    def has_failures(self) -> bool:
        """Whether an end has no value that could have had one."""
        return bool(np.isnan(self.values).any())

    def forget(self, which: Array, rows: Array) -> None:
        """Drop all arms so far of some rows (A, R) of lines."""
        chosen = np.zeros(self.counts.shape, dtype=bool)
        chosen[which] = rows
        for values in self.values:
            np.moveaxis(values, 1, 2)[chosen] = np.nan
        self.counts[chosen] = 0

    def last_failed(self, which: Array) -> Array:
        """Whether the last arm had no value on either side, (A, R)."""
        return np.asarray(np.isnan(self.values[-1][which, :, :, 0]).all(axis=1))

    def last_parts(self, which: Array) -> tuple[Array, Array]:
        """Return the norms of odd and even part of f - f(x) at the last arm, (A, R) each."""
        lower, upper = self.values[-1][which, 0], self.values[-1][which, 1]
        odd, even = (upper - lower) / 2, (upper + lower) / 2 - self.base
        return np.linalg.norm(odd, axis=-1), np.linalg.norm(even, axis=-1)

    def best(self, which: Array, noise: Array | float = 0.0) -> Extrapolated:
        """Return the best entries of lines: central ones, or one-sided where a side failed."""
        found = self.central(which, noise)
        for side in self.sides(which, noise):
            # `not ≥`, so that anything is better than nothing.
            better = ~(side.found.error >= found.error) | np.isnan(found.slopes[..., 0])
            found.take(side.eligible & better, side.found)
        return found

    def central(self, which: Array, noise: Array | float = 0.0) -> Extrapolated:
        """Extrapolate central differences, whose errors are even powers of the arm."""
        taken, values = self._of(which)
        lower, upper = values[:, :, 0], values[:, :, 1]
        span = taken.sum(axis=2)
        arms = span / 2
        gains = 1 / (np.sqrt(2) * arms)
        quotients = Quotients(
            slopes=(upper - lower) / span[..., None],
            arms=arms,
            powers=arms**2,
            gains=gains,
            rounding=gains * self._rounding(values),
            defects=None if self.base is None else (upper + lower) / 2 - self.base,
        )
        return extrapolate(quotients, noise)

    def sides(self, which: Array, noise: Array | float = 0.0) -> Iterator[Side]:
        """Extrapolate one-sided differences, whose errors are all powers of the arm."""
        taken, values = self._of(which)
        is_known = ~np.isnan(values[..., 0])
        for side, sign in ((0, -1.0), (1, 1.0)):
            eligible = np.any(is_known[:, :, side] & ~is_known[:, :, 1 - side], axis=0)
            if not eligible.any() or self.base is None:
                continue
            arms = taken[:, :, side]
            gains = np.sqrt(2) / arms
            changes = values[:, :, side] - self.base
            quotients = Quotients(
                slopes=sign * changes / arms[..., None],
                arms=arms,
                powers=arms,
                gains=gains,
                rounding=gains * self._rounding(values[:, :, side : side + 1]),
                defects=changes,
            )
            yield Side(eligible, extrapolate(quotients, noise))

    def _of(self, which: Array) -> tuple[Array, Array]:
        """Return arms (L, A, 2, R) and values (L, A, 2, R, O) of lines."""
        taken = np.stack([each[which] for each in self.taken])
        return taken, np.stack([each[which] for each in self.values])

    def _rounding(self, values: Array) -> Array:
        """Return the known noise of values (L, A, s, R, O), relative to the largest: (L, A, R)."""
        largest = np.abs(values).max(axis=(2, 4))
        if self.base is not None:
            largest = np.maximum(largest, np.abs(self.base).max(axis=-1, initial=0.0))
        return np.asarray(self.primal.noise * largest)
