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

# A number is a multiple if what remains is less than this part of the divisor: rounding of f in the
# sixteenth digit leaves less, for a grid in the twelfth.
_MULTIPLE = 1e-3
# A divisor smaller than this part of the smallest difference is none: values on a grid that does
# not pass through zero have no common divisor but by chance.
_FINEST = 1e-3

# Verdicts about the spacing of the points.
FINE, SHORT, LONG = 1, 2, 3

# Points of a table, f(x) among them: 7 leave four runs of three levels. Source: Moré and Wild
# recommend 6 to 8 points.
POINTS = 7

# Levels agree within this factor. Source: Moré and Wild (2011), section 4.
_AGREE = 4.0

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


def quantum_of(values: Array, otherwise: Array | None = None) -> Array:
    """Return the noise of values that are all on a coarse grid, (…), NaN where all are equal.

    A grid of spacing q is noise of standard deviation q/√12. The smallest difference seen is a
    multiple of q, and so are the values if they are printed digits: then q divides both. Where
    nothing does, it is that difference, or what is given `otherwise` (…).

    Example:
        >>> bool(np.isclose(quantum_of(np.array([0.841417, 0.841471, 0.841525])), 1e-6 / 12**0.5))
        True
    """
    steps = np.abs(np.diff(np.sort(values, axis=0), axis=0))
    smallest = np.where(steps > 0, steps, np.inf).min(axis=0)
    common = _common_divisor(np.abs(values).max(axis=0), smallest)
    unknown = smallest if otherwise is None else otherwise
    quantum = np.where(common > _FINEST * smallest, common, unknown)
    return np.where(np.isfinite(smallest), quantum / np.sqrt(12), np.nan)


def _common_divisor(numbers: Array, divisors: Array) -> Array:
    """Return the largest numbers of which both are multiples, by Euclid's algorithm."""
    larger, smaller = numbers, np.where(np.isfinite(divisors), divisors, 1.0)
    done = np.zeros(np.shape(smaller), dtype=bool)
    # Remainders are less than half of the divisor: thirty steps reach 1e-9 of it.
    for _ in range(30):
        rest = np.mod(larger, smaller)
        rest = np.minimum(rest, smaller - rest)
        done |= rest < _MULTIPLE * smaller
        larger, smaller = np.where(done, larger, smaller), np.where(done, smaller, rest)
    return np.where(done, smaller, 0.0)


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
