"""What is measured first: repeats, lines through x and beside it, and the sweep."""

from __future__ import annotations

import dataclasses

import numpy as np

from suture._check.findings import Precision
from suture._check.place import Place
from suture._check.precision import Evidence, classify
from suture._check.sweep import Sweep, sweep
from suture._noise import POINTS
from suture._types import Array

# Spacings of the noise tables, in multiples of the inputs' sizes: float64 shows its noise at the
# first three, float32 at the second and third, noise of 1e-6 at the last two.
_SPACINGS = (1e-9, 1e-7, 1e-5, 1e-3)
# Beside x, in multiples of the spacing: what is at x itself, a kink or a jump, is no noise.
_BESIDE = 20.0 + np.arange(POINTS)

_LINE = np.linspace(-0.3, 0.3, 17)
_FAR = (1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0)

# Below this part of an input's size a displacement is near, above it far.
_NEAR = 1e-4

# A change of this many standard deviations is no noise. Two values scatter by √2 of one; six of
# those are met once in 10^6 where the deviation is estimated from 34 values, as with three inputs.
CHANGED = 6 * 2**0.5

# Steps of a sweep, up to 3e-7 of an input's size, whose values tell how a random function scatters.
_SHORT = 4


@dataclasses.dataclass(frozen=True)
class Basics:
    """What is measured first.

    Attributes:
        swept: the sweep.
        precision: of each chosen output.
        noise: (K,) standard deviations.
        used: (K,) outputs that differences are of use for.
        moved: (C, K) which output an input changes.
        entries: (C, K) which output it changes by more than noise, also by one that repeats.
        line: (17, K) values on a line through x, and a few farther ones.
        deterministic: whether repeats were equal.
        relative: the noise relative to the largest output.
    """

    swept: Sweep
    precision: list[Precision]
    noise: Array
    used: Array
    moved: Array
    entries: Array
    line: Array
    deterministic: bool
    relative: float


def measured(place: Place, columns: Array) -> Basics:
    """Repeat f(x), look along lines, and displace the inputs `columns` one by one."""
    chosen = place.chosen
    y = place.y[chosen]
    repeats = place.at(np.repeat(place.x[None], 3, 0))
    tables = [place.at(_points(place, spacing * _BESIDE)) for spacing in _SPACINGS]
    line, beside = _lines(place, y)
    swept = sweep(place, columns)
    is_random = np.any(repeats != y, axis=0)
    draws = [repeats, tables[0], swept.values[:, :_SHORT].reshape(-1, len(y))]
    scatter = np.where(is_random, np.nanstd(np.concatenate(draws), axis=0), 0.0)
    largest = np.nan_to_num(np.abs(swept.values - y)).max(axis=(1, 2))
    moved = largest > CHANGED * scatter
    evidence = Evidence(
        y=y,
        repeats=repeats,
        tables=tuple(tables),
        line=line,
        beside=beside,
        ties=_ties(place, swept, moved),
        swept=swept.values.reshape(-1, len(y)),
        size=_sizes(place),
    )
    precision = classify(evidence)
    noise = np.array([entry.noise for entry in precision])
    is_noisy = np.array([entry.kind == "noisy" for entry in precision])
    entries = moved & (largest > CHANGED * np.where(is_noisy, noise, 0.0))
    used = np.array([not entry.is_flat for entry in precision])
    # A slope is no better than rounding allows, whatever the table says.
    noise = np.maximum(noise, 2.0**-53 * np.abs(y))
    size = np.linalg.norm(y[used])
    relative = float(np.linalg.norm(noise[used]) / size) if size > 0 else 0.0
    return Basics(
        swept, precision, noise, used, moved, entries, line, not is_random.any(), relative
    )


def _sizes(place: Place) -> Array:
    """Return the magnitude of the largest output of each leaf, (K,)."""
    sizes = np.zeros(place.m)
    for output in place.frame.form.outputs:
        part = slice(output.start, output.stop)
        sizes[part] = np.abs(place.y[part]).max(initial=0.0)
    return sizes[place.chosen]


def _points(place: Place, t: Array) -> Array:
    """Return points on a line through x, at the multiples t of the inputs' sizes."""
    signs = place.generator().choice([-1.0, 1.0], place.n)
    return place.inside(place.x + np.multiply.outer(t, place.unit * signs))


def _lines(place: Place, y: Array) -> tuple[Array, Array]:
    """Return values on a line through x, and values beside some of them, NaN beside the others.

    Where an output does not change on the line, points farther away are added.
    """
    values = np.repeat(y[None], len(_LINE), 0)
    moved = _LINE != 0
    values[moved] = place.at(_points(place, _LINE[moved]))
    few = [0, 5, 11, 16]
    beside = np.full_like(values, np.nan)
    beside[few] = place.at(_points(place, _LINE[few] + _SPACINGS[0]))
    if np.all(np.any(values != y, axis=0)):
        return values, beside
    normal = place.generator().standard_normal((len(_FAR), place.n))
    far = place.x + np.array(_FAR)[:, None] * place.scale * normal
    signs = place.generator().choice([-1.0, 1.0], place.n)
    shifted = far + _SPACINGS[0] * place.unit * signs
    return (
        np.concatenate([values, place.at(place.inside(far))]),
        np.concatenate([beside, place.at(place.inside(shifted))]),
    )


def _ties(place: Place, swept: Sweep, moved: Array) -> Array:
    """Return the share of equal neighbors among the short steps of a sweep, (K,)."""
    near = swept.steps[:, 1:] <= _NEAR * place.unit[swept.columns, None]
    known = np.isfinite(swept.values[:, 1:]) & np.isfinite(swept.values[:, :-1])
    known &= near[:, :, None, None] & moved[:, None, None, :]
    equal = known & (swept.values[:, 1:] == swept.values[:, :-1])
    count = known.sum(axis=(0, 1, 2))
    ties: Array = np.where(count > 0, equal.sum(axis=(0, 1, 2)) / np.maximum(count, 1), 1.0)
    return ties


def together(place: Place, basics: Basics) -> float:
    """Return how f grows along a line, if single inputs change nothing; NaN otherwise."""
    if basics.moved.any() or not basics.deterministic:
        return float("nan")
    y = place.y[place.chosen]
    near, far = np.abs(basics.line[[9, 12]] - y)
    o = int(far.argmax())
    if not near[o] > 0:
        return float("nan")
    return float(np.log(far[o] / near[o]) / np.log(_LINE[12] / _LINE[9]))
