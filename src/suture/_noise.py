r"""How noisy a function is, from its values at a few equally spaced points.

The k-th differences T_k of equally spaced values are, for a smooth function and a short spacing,
nothing but noise; for independent noise of standard deviation σ their mean square is
σ² (2k)! / (k!)². So each level of the table of differences is one estimate of σ,

    σ_k² = (k!)² / (2k)! · mean(T_k²),

and the first three consecutive levels that agree, and whose differences change their sign, say that
what is left is noise.

Source: Moré and Wild (2011), Estimating computational noise, SIAM Journal on Scientific Computing
33(3), 1292-1314.
"""

from __future__ import annotations

import numpy as np

from suture._types import Array

# Verdicts about the spacing of the points.
FINE, SHORT, LONG = 1, 2, 3

# Points of a table, f(x) among them: 7 leave four runs of three levels. Source: Moré and Wild
# recommend 6 to 8 points.
POINTS = 7

# Levels agree within this factor. Source: Moré and Wild (2011), section 4.
_AGREE = 4.0

# How many powers of ten below the smallest difference are tried, and how near to a whole number a
# multiple is: numbers of fewer than 26 bits are to 2^-26.
_DIGITS, _WHOLE = 4, 1e-6

# A result that is right to the last digit is off by up to half a unit: uniformly distributed, a
# standard deviation of 1/√12 of the unit 2^-52.
_ROUNDING = 2.0**-52 / np.sqrt(12)


def noise_of(values: Array) -> tuple[Array, Array]:
    """Estimate the noise of each output.

    Args:
        values: (q, …) at q ≥ 4 equally spaced points.

    Returns:
        The standard deviation of the noise of each output, (…), NaN where the table does not
        tell; and the verdict (…): `FINE`, or the spacing was `SHORT` (half of the neighbors are
        equal: rounding hides the function) or `LONG` (the function is not smooth over it).

    Example:
        >>> values = np.linspace(0, 1, 7) + 1e-3 * np.array([1, -1, 1, 1, -1, -1, 1])
        >>> noise, verdict = noise_of(values)
        >>> bool(5e-4 < noise < 2e-3), int(verdict) == FINE
        (True, True)
    """
    levels, changes = _table(values)
    short = np.sum(np.diff(values, axis=0) == 0, axis=0) >= len(values) / 2
    noise = np.full(values.shape[1:], np.nan)
    for k in range(len(levels) - 2):
        run = levels[k : k + 3]
        agree = (run.max(axis=0) <= _AGREE * run.min(axis=0)) & changes[k]
        noise = np.where(np.isnan(noise) & agree & ~short, levels[k], noise)
    verdict = np.where(short, SHORT, np.where(np.isnan(noise), LONG, FINE))
    return noise, verdict


def most_noise(values: Array) -> Array:
    """Return the highest level of the table, (…): an upper bound where the spacing was long."""
    levels, _ = _table(values)
    last: Array = levels[-1]
    return last


def quantum_of(values: Array) -> Array:
    """Return the noise of values that are all on a coarse grid, (…), NaN where all are equal.

    A grid of spacing q is noise of standard deviation q/√12. The smallest difference seen is a
    multiple of q; where all values are whole multiples of a smaller power of ten (printed digits),
    that is q.
    """
    steps = np.abs(np.diff(np.sort(values, axis=0), axis=0))
    smallest = np.where(steps > 0, steps, np.inf).min(axis=0)
    quantum = np.where(np.isfinite(smallest), smallest, np.nan)
    is_decimal = np.zeros(quantum.shape, dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exponent = np.floor(np.log10(quantum))
        for lower in range(_DIGITS):
            power = 10.0 ** (exponent - lower)
            counts = values / power
            whole = np.all(np.abs(counts - np.rint(counts)) < _WHOLE, axis=0)
            # A number of so many digits is a multiple of anything.
            whole &= (np.abs(counts).max(axis=0) < 2.0**26) & ~is_decimal
            quantum = np.where(whole, power, quantum)
            is_decimal |= whole
    noise: Array = quantum / np.sqrt(12)
    return noise


def relative_noise(noise: Array, size: Array) -> float:
    """Return one number for all outputs: their noise by its Euclidean norm, over that of f.

    Args:
        noise: (R, O) standard deviations, NaN where they are not known.
        size: (R, O) magnitudes of the outputs.

    Returns:
        The median over the rows of ‖noise‖ / ‖size‖, where an output that is not known has the
        median relative noise of the others; NaN if nothing is known.
    """
    known = np.isfinite(noise)
    if not known.any():
        return np.nan
    # Relative to the largest output of its row: an output near zero has no relative noise.
    largest = size.max(axis=1, keepdims=True, initial=0.0) + np.zeros_like(size)
    usual = np.median(noise[known] / np.where(largest[known] > 0, largest[known], 1.0))
    filled = np.where(known, noise, usual * largest)
    filled = np.maximum(filled, _ROUNDING * size)
    whole = np.linalg.norm(size, axis=1)
    alive = whole > 0
    if not alive.any():
        return np.nan
    return float(np.median(np.linalg.norm(filled, axis=1)[alive] / whole[alive]))


def _table(values: Array) -> tuple[Array, Array]:
    """Return σ_k for each level k = 1, …, (q-1, …), and whether its differences change sign."""
    levels, changes = [], []
    differences, factor = values, 1.0
    for k in range(1, len(values)):
        differences = differences[1:] - differences[:-1]
        factor *= 0.5 * k / (2 * k - 1)  # (k!)² / (2k)!
        levels.append(np.sqrt(factor * np.mean(differences**2, axis=0)))
        changes.append(differences.min(axis=0) * differences.max(axis=0) < 0)
    return np.array(levels), np.array(changes)
