"""Displace each input by many steps, and see how the error of a slope depends on the step."""

from __future__ import annotations

import dataclasses

import numpy as np

from suture._check.findings import Curve
from suture._check.place import Place
from suture._types import Array

STEPS = 16
"""Steps of a sweep, evenly spaced in their logarithm: half a decade each where the scale of an
input is its magnitude."""

# From rounding of float64 (a central difference loses half its digits at 1e-8 of x) to where
# noise of 3 % is answered, in multiples of an input's size and of its scale.
_SHORTEST, _LONGEST = 10.0**-8, 10.0**-0.5

# A truncation line goes through errors that are this far above the noise floor.
_ABOVE = 3.0


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Values at displacements of C inputs by S steps; NaN where f was not or failed.

    Attributes:
        columns: (C,) which inputs.
        steps: (C, S) the steps, in units of x.
        taken: (C, S, 2) the displacements up and down that were really taken, positive.
        values: (C, S, 2, K) the chosen outputs.
        asked: (C, S, 2) where f was evaluated.
        change: (C,) the largest change that any output showed.
    """

    columns: Array
    steps: Array
    taken: Array
    values: Array
    asked: Array
    change: Array

    def sides(self, c: int, y: Array) -> tuple[Array, Array]:
        """Return the slopes (S, K) of one input up and down from x, where f(x) is y."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ahead = (self.values[c, :, 0] - y) / self.taken[c, :, 0, None]
            behind = (y - self.values[c, :, 1]) / self.taken[c, :, 1, None]
        return ahead, behind


def sweep(place: Place, columns: Array) -> Sweep:
    """Evaluate: at most 2·`STEPS` evaluations for each of the inputs `columns`."""
    shape = (len(columns), STEPS)
    steps = np.empty(shape)
    taken, asked = np.zeros((*shape, 2)), np.zeros((*shape, 2), bool)
    values = np.full((*shape, 2, len(place.chosen)), np.nan)
    change = np.zeros(len(columns))
    for c, j in enumerate(columns):
        longest = _LONGEST * max(place.unit[j], place.scale[j])
        steps[c] = np.geomspace(_SHORTEST * place.unit[j], longest, STEPS)
        points = np.repeat(place.x[None, None], STEPS, 0).repeat(2, 1)
        points[:, 0, j] += steps[c]
        points[:, 1, j] -= steps[c]
        points = place.inside(points)
        taken[c] = np.abs(points[:, :, j] - place.x[j])
        # A bound, or the precision that f receives, has made another step of it.
        asked[c] = np.abs(taken[c] - steps[c, :, None]) < 0.5 * steps[c, :, None]
        values[c, asked[c]] = place.at(points[asked[c]])
        change[c] = place.change
    return Sweep(columns, steps, taken, values, asked, change)


def curve(place: Place, swept: Sweep, c: int, noise: Array, used: Array) -> Curve | None:
    """Return the curve of one input, None where every slope is zero or nothing is known.

    Args:
        place: where.
        swept: the sweep.
        c: which of its inputs.
        noise: (K,) standard deviations.
        used: (K,) the outputs that differences are of use for.
    """
    steps = swept.steps[c]
    slopes, order = _slopes(swept, c, place.y[place.chosen])
    slopes = np.where(used, slopes, 0.0)
    known = np.isfinite(slopes).all(axis=1)
    if known.sum() < 4:
        return None
    at = np.flatnonzero(known)
    h, d = steps[at], slopes[at]
    floors = float(np.linalg.norm(noise[used])) / np.sqrt(2) / h
    lengths = np.linalg.norm(d, axis=1)
    calm = _calmest(d, lengths, floors)
    ratio = (h[calm + 1] / h[calm]) ** order
    best = (ratio * d[calm] - d[calm + 1]) / (ratio - 1)
    size = float(np.linalg.norm(best))
    if size * h[calm] <= 2 * float(np.linalg.norm(noise[used])) or size == 0:
        return None
    if np.any(lengths[:calm] + _ABOVE * floors[:calm] < 0.1 * size):
        return None  # closer to x it vanishes: a ReLU that begins farther away
    errors = np.linalg.norm(d - best, axis=1) / size
    seen = np.maximum(errors, floors / size)
    # The better of the two neighbors that are best together: one alone may be good by chance.
    pair = int(np.argmin(seen[1:] + seen[:-1]))
    chosen = pair + int(seen[pair + 1] < seen[pair])
    shown = np.full(len(steps), np.nan)
    shown[at] = errors
    return Curve(
        name=place.name(int(swept.columns[c])),
        column=int(swept.columns[c]),
        steps=steps,
        errors=shown,
        slope=best,
        chosen=float(h[chosen]),
        error=float(seen[chosen]),
        order=order,
        truncation=_truncation(h, seen, floors / size, chosen, order),
        floor=float(floors[0] * h[0] / size),
    )


def _slopes(swept: Sweep, c: int, y: Array) -> tuple[Array, int]:
    """Return two-sided slopes (S, K) and their order 2; one-sided ones where a side is missing."""
    with np.errstate(invalid="ignore", divide="ignore"):
        change = swept.values[c, :, 0] - swept.values[c, :, 1]
        both = change / swept.taken[c].sum(axis=1, keepdims=True)
    if np.isfinite(both).all(axis=1).sum() >= 4:
        return both, 2
    sides = swept.sides(c, y)
    return max(sides, key=lambda slopes: int(np.isfinite(slopes).all(axis=1).sum())), 1


def _calmest(slopes: Array, lengths: Array, floors: Array) -> int:
    """Return where the slope of the next step is the same, but for the noise."""
    neighbors = np.linalg.norm(np.diff(slopes, axis=0), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        unrest = (neighbors + floors[:-1]) / np.maximum(lengths[1:], lengths[:-1])
    return int(np.argmin(np.nan_to_num(unrest, nan=np.inf)))


def _truncation(h: Array, errors: Array, floors: Array, chosen: int, order: int) -> float:
    """Return T of T·h^order through the errors on the right of the chosen step."""
    right = np.arange(len(h)) > chosen
    right &= (errors > _ABOVE * floors) & (errors < 0.5)
    return float(np.median(errors[right] / h[right] ** order)) if right.sum() >= 2 else 0.0
