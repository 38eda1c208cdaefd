"""Differences with shorter and shorter arms, extrapolated to arm zero."""

from __future__ import annotations

import dataclasses

import numpy as np

from suture._types import Array

# How many of the last arms tell the noise. Each tells it by the smallest of several differences,
# which is too small more often than too large; the largest of three makes up for that.
_WITNESSES = 3


@dataclasses.dataclass(slots=True)
class Quotients:
    """Difference quotients along K lines for L arms, longest first; NaN where there is none.

    Attributes:
        slopes: (L, K, R, O) quotients.
        arms: (L, K, R) their arms.
        powers: (L, K, R) what the error of a quotient is a power series in: arm² for central
            differences, arm for one-sided ones.
        gains: (L, K, R) noise of a quotient for an evaluation with noise 1.
        rounding: (L, K, R) noise of a quotient for the known noise of the values.
        defects: (L, K, R, O) the value, or the mean of the two values, less f(x); None without
            f(x). Extrapolated to arm zero it is 0, or the arms do not know the shape of f.
    """

    slopes: Array
    arms: Array
    powers: Array
    gains: Array
    rounding: Array
    defects: Array | None


@dataclasses.dataclass(slots=True)
class Extrapolated:
    """The best entries of a tableau.

    Attributes:
        slopes: (K, R, O), NaN where there is none.
        errors: (K, R, O) their estimated errors; infinite where nothing could be compared.
        rounding: (K, R, O) what the known noise of the values does to them.
        latest: (K, R) smallest error among the entries that the last arm brought, by the norm
            over the outputs.
        newest: (K, R, O) the best entry among those that the last arm brought.
        noise: (K, R, O) noise of an evaluation that would explain the errors of the last arms.
        corner: (K, R, O) the entry that all arms have in common.
    """

    slopes: Array
    errors: Array
    rounding: Array
    latest: Array
    newest: Array
    noise: Array
    corner: Array

    @classmethod
    def nothing(cls, like: Array) -> Extrapolated:
        """Return the state before the first arm, for quotients (K, R, O)."""
        return cls(
            slopes=np.full(like.shape, np.nan),
            errors=np.full(like.shape, np.inf),
            rounding=np.full(like.shape, np.inf),
            latest=np.full(like.shape[:2], np.inf),
            newest=np.full(like.shape, np.nan),
            noise=np.zeros(like.shape),
            corner=np.full(like.shape, np.nan),
        )

    def take(self, where: Array, other: Extrapolated) -> None:
        """Replace lines and rows (K, R) by those of another tableau."""
        for field in dataclasses.fields(self):
            getattr(self, field.name)[where] = getattr(other, field.name)[where]

    def put(self, which: Array, other: Extrapolated) -> None:
        """Replace the lines `which` by the lines (A, R) of a smaller tableau."""
        for field in dataclasses.fields(self):
            getattr(self, field.name)[which] = getattr(other, field.name)

    @property
    def error(self) -> Array:
        """The norm of the errors over the outputs, (K, R)."""
        return np.asarray(np.linalg.norm(self.errors, axis=-1))


@dataclasses.dataclass(slots=True)
class _Entry:
    """One entry of the tableau: what extrapolation made of quotients, and of their noise."""

    slopes: Array
    defects: Array | None
    gains: Array
    rounding: Array

    def extrapolated(self, longer: _Entry, factor: Array) -> _Entry:
        """Cancel one more power of the arm, with the entry that lacks the shortest arm.

        The weights 1 + factor and -factor are those of Lagrange interpolation at arm zero. They
        differ in sign, so that bounds of the noise add up.
        """
        by_output = factor[..., None]
        defects = self.defects
        if defects is not None and longer.defects is not None:
            defects = defects + by_output * (defects - longer.defects)
        return _Entry(
            self.slopes + by_output * (self.slopes - longer.slopes),
            defects,
            self.gains + factor * (self.gains + longer.gains),
            self.rounding + factor * (self.rounding + longer.rounding),
        )


def extrapolate(quotients: Quotients, noise: Array | float = 0.0) -> Extrapolated:
    """Return the entries of Neville's tableau with the smallest estimated error.

        T[j, 0] = quotient j
        T[j, i] = T[j, i-1] + (T[j, i-1] - T[j-1, i-1]) z_j / (z_{j-i} - z_j)

    The error of an entry is the largest of: its distances from the two entries that it was made
    of; the same extrapolation of what is known to vanish with the arm, divided by the longest
    arm; the noise of the values as the entry amplifies it.

    Args:
        quotients: with strictly decreasing powers z.
        noise: (K, R, O) of an evaluation, where more of it is known than the quotients say.

    Source: Ridders (1982), Advances in Engineering Software 4(2), 75-76; Press et al., Numerical
    Recipes, 3rd edition, section 5.7.
    """
    best = Extrapolated.nothing(quotients.slopes[0])
    witnesses: list[Array] = []
    longer: list[_Entry] = []
    # Failed points are NaN, and a quotient over a pole may be as large as a float can be.
    with np.errstate(all="ignore"):
        for j in range(len(quotients.slopes)):
            row, errors = _row(quotients, j, longer)
            witnesses.append(_choose(best, row, errors, noise))
            longer = row
        told = [np.where(np.isfinite(each), each, 0.0) for each in witnesses[-_WITNESSES:]]
        best.noise = np.max(told, axis=0)
        best.corner = longer[-1].slopes
    return best


def _row(quotients: Quotients, j: int, longer: list[_Entry]) -> tuple[list[_Entry], list[Array]]:
    """Return the entries of one more arm, and their errors (K, R, O) without noise."""
    z, defects = quotients.powers, quotients.defects
    first = _Entry(
        quotients.slopes[j],
        None if defects is None else defects[j],
        quotients.gains[j],
        quotients.rounding[j],
    )
    row = [first]
    errors = [
        np.abs(first.slopes - longer[0].slopes) if longer else np.full_like(first.slopes, np.inf)
    ]
    for i in range(1, j + 1):
        entry = row[-1].extrapolated(longer[i - 1], z[j] / (z[j - i] - z[j]))
        parents = (row[-1].slopes, longer[i - 1].slopes)
        errors.append(np.maximum(*(np.abs(entry.slopes - parent) for parent in parents)))
        row.append(entry)
    for i, entry in enumerate(row):
        if entry.defects is not None:
            defect = np.abs(entry.defects) / quotients.arms[j - i][..., None]
            errors[i] = np.maximum(errors[i], defect)
    return row, [np.where(np.isfinite(error), error, np.inf) for error in errors]


def _choose(
    best: Extrapolated, row: list[_Entry], errors: list[Array], noise: Array | float
) -> Array:
    """Take what is better than the best so far; return the noise that the row tells, (K, R, O)."""
    told = np.full_like(best.errors, np.inf)
    best.latest = np.full_like(best.latest, np.inf)
    smallest = np.full_like(best.errors, np.inf)
    for entry, error in zip(row, errors, strict=True):
        told = np.fmin(told, error / entry.gains[..., None])
        floor = np.maximum(entry.rounding[..., None], noise * entry.gains[..., None])
        total = np.maximum(error, floor)
        best.latest = np.fmin(best.latest, np.linalg.norm(total, axis=-1))
        best.newest = np.where(total < smallest, entry.slopes, best.newest)
        smallest = np.fmin(smallest, total)
        # One arm alone has nothing to be compared with: better than none.
        lone = np.isnan(best.slopes) & np.isfinite(entry.slopes)
        better = lone | (total < best.errors)
        best.slopes = np.where(better, entry.slopes, best.slopes)
        best.errors = np.where(better, total, best.errors)
        rounding = np.broadcast_to(entry.rounding[..., None], total.shape)
        best.rounding = np.where(better, rounding, best.rounding)
    return told
