"""Jumps and kinks at x and near it.

At x: the slopes ahead and behind differ by g(h). For a smooth f, g falls as h; at a kink it stays,
at a vertical tangent it grows as h^-1/2, and at a jump as 1/h.

Near x: where the slope changes by more than the curvature closer to x explains, the interval is
halved again and again towards the largest second difference. That falls as h² where f is only
steep, as h at a kink, and stays at a jump.
"""

from __future__ import annotations

import math

import numpy as np

from suture._check.basics import Basics
from suture._check.findings import Break, BreakKind
from suture._check.place import Place
from suture._types import Array

# A second difference shows when it is this many standard deviations of the noise: those of four
# values add up to √6, and several thousand are looked at.
_SHOWS = 40.0

# A difference of slopes that decides must be seen over three steps of the sweep.
_RUN = 3

# Halves between the exponents 1 (smooth), 0 (kink), -1/2 (vertical tangent) and -1 (jump). A kink
# with curvature beside it comes near 0 from above.
_KINK, _TANGENT, _JUMP = 0.4, -0.3, -0.75

# Smaller changes of a slope do no harm: it is wrong by less than that.
_HARMLESS = 0.02

# Curvature may grow by this factor from one step of the sweep to the next and be smooth.
_GROWTH = 10.0

# A kink or a jump farther away than this part of the input's size is not near.
_NEAR = 0.1

# Rounds of a search, two evaluations each: it ends at 1/256 of a step of the sweep. One search for
# each eight inputs, but two in any case, costs two or three evaluations an input.
_HALVINGS = 8


def breaks_at(place: Place, basics: Basics) -> list[Break]:
    """Return what is at x itself: the worst for each input."""
    swept, noise = basics.swept, basics.noise
    y = place.y[place.chosen]
    found = []
    for c, column in enumerate(swept.columns):
        ahead, behind = swept.sides(c, y)
        with np.errstate(invalid="ignore"):
            gap = np.abs(ahead - behind)
        one_sided = not np.isfinite(gap).any()
        if one_sided:
            gap = np.abs(ahead if np.isfinite(ahead).any() else behind)
        gap = np.where(basics.used, gap, 0.0)
        exponents, first = _exponents(swept.steps[c], gap, noise)
        if one_sided:  # a slope that stays is no kink there
            exponents = np.where(exponents < _TANGENT, exponents, np.inf)
        with np.errstate(invalid="ignore"):
            slope = np.fmax(np.abs(ahead), np.abs(behind))[first, np.arange(len(y))]
            size = gap[first, np.arange(len(y))]
            size = np.where((exponents < _KINK) & (size > _HARMLESS * slope), size, 0.0)
        if size.max(initial=0.0) > 0:
            o = int(size.argmax())
            kind = _kind_at(float(exponents[o]))
            jump = float(size[o] * swept.steps[c, first[o]])
            found.append(
                Break(
                    kind,
                    place.name(int(column)),
                    place.output_name(int(place.chosen[o])),
                    0.0,
                    jump if kind == "jump" else float(size[o]),
                )
            )
    return found


def _exponents(steps: Array, gap: Array, noise: Array) -> tuple[Array, Array]:
    """Return how g grows with h at its smallest visible steps, (K,), and where, (K,)."""
    with np.errstate(invalid="ignore"):
        visible = gap * steps[:, None] > _SHOWS * noise
    whole = np.array([visible[i : i + _RUN + 1].all(axis=0) for i in range(len(steps) - _RUN)])
    first = whole.argmax(axis=0)
    each = np.arange(gap.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        # Each step of the run must agree: smooth curvature may begin at a kink elsewhere.
        local = np.array(
            [
                np.log(gap[first + r + 1, each] / gap[first + r, each])
                / np.log(steps[first + r + 1] / steps[first + r])
                for r in range(_RUN)
            ]
        )
    exponents = np.median(local, axis=0)
    exponents = np.where(local.max(axis=0) < 1.0, exponents, np.inf)
    # What is at x itself would show at shorter steps too, unless noise hides it there.
    shorter = np.maximum(first - 1, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = steps[shorter] / steps[first]
        hidden = gap[first, each] * steps[first] * ratio ** (1 + exponents) <= 2 * _SHOWS * noise
    exponents = np.where((first == 0) | hidden, exponents, np.inf)
    return np.where(whole.any(axis=0), exponents, np.inf), first


def _kind_at(exponent: float) -> BreakKind:
    if exponent > _TANGENT:
        return "kink"
    return "vertical tangent" if exponent > _JUMP else "jump"


def breaks_near(place: Place, basics: Basics) -> tuple[list[Break], int]:
    """Return what is near x, and how many suspicions were left."""
    columns = basics.swept.columns
    suspicions = []
    for c in range(len(columns)):
        for side in (0, 1):
            suspicions += _suspicion(place, basics, c, side)
    suspicions.sort(key=lambda suspicion: -suspicion[0])
    most = max(2, len(columns) // _HALVINGS)
    found = []
    for _, c, o, start, end in suspicions[:most]:
        located = _search(place, int(columns[c]), o, start, end, float(basics.noise[o]))
        found += [] if located is None else [located]
    return found, max(0, len(suspicions) - most)


def _suspicion(
    place: Place, basics: Basics, c: int, side: int
) -> list[tuple[float, int, int, float, float]]:
    """Return the first place on one side of an input where the slope changes too much.

    As (strength, input, output, start, end), start and end being signed displacements.
    """
    swept, noise = basics.swept, basics.noise
    limit = _NEAR * max(place.unit[swept.columns[c]], place.scale[swept.columns[c]])
    good = np.isfinite(swept.values[c, :, side]).all(axis=1) & (swept.steps[c] <= 1.5 * limit)
    t = np.r_[0.0, swept.taken[c, good, side]]
    v = np.concatenate([place.y[None, place.chosen], swept.values[c, good, side]])
    if len(t) < 4:
        return []
    gaps = np.diff(t)[:, None]
    slopes = np.diff(v, axis=0) / gaps
    change = np.where(basics.used, np.abs(np.diff(slopes, axis=0)), 0.0)
    blur = noise * (1 / gaps[1:] + 1 / gaps[:-1])
    curvature = np.where(change > blur, change / (gaps[1:] + gaps[:-1]), 0.0)
    before = np.maximum.accumulate(curvature, axis=0)[:-1]
    before = np.concatenate([np.zeros_like(before[:1]), before])
    steepest = np.maximum.accumulate(np.abs(slopes), axis=0)[1:]
    suspect = (
        (change > _SHOWS * blur) & (change > _HARMLESS * steepest) & (curvature > _GROWTH * before)
    )
    # At the first step there is nothing to compare with: that is looked at from x.
    suspect[0] = False
    if not suspect.any():
        return []
    k = int(suspect.any(axis=1).argmax())
    strength = np.where(suspect[k], change[k] / np.maximum(steepest[k], 1e-300), 0.0)
    o, sign = int(strength.argmax()), 1 - 2 * side
    return [(float(strength[o]), c, o, sign * float(t[k]), sign * float(t[k + 2]))]


def _search(
    place: Place, column: int, o: int, start: float, end: float, noise: float
) -> Break | None:
    """Halve an interval towards the largest second difference, and say what is there."""

    def f(*displacements: float) -> list[float]:
        points = np.repeat(place.x[None], len(displacements), 0)
        points[:, column] += displacements
        return [float(v) for v in place.at(place.inside(points))[:, o]]

    t = np.linspace(start, end, 3)
    v = f(*t)
    sizes = []
    for _ in range(_HALVINGS):
        quarters = ((t[0] + t[1]) / 2, (t[1] + t[2]) / 2)
        left, right = f(*quarters)
        ts = [t[0], quarters[0], t[1], quarters[1], t[2]]
        vs = [v[0], left, v[1], right, v[2]]
        seconds = [abs(vs[i] - 2 * vs[i + 1] + vs[i + 2]) for i in range(3)]
        if not np.isfinite(seconds).all():
            return None
        i = int(np.argmax(seconds))
        if seconds[i] <= _SHOWS / 2 * noise:
            break
        sizes.append(seconds[i])
        t, v = np.array(ts[i : i + 3]), vs[i : i + 3]
    if len(sizes) < _HALVINGS // 2:
        return None
    exponent = math.log2(sizes[0] / sizes[-1]) / (len(sizes) - 1)
    if exponent > 1.5:  # halfway between h² and h
        return None
    kind: BreakKind = "kink" if exponent > 0.5 else "jump"
    size = sizes[-1] if kind == "jump" else sizes[-1] / abs(t[1] - t[0])
    return Break(
        kind,
        place.name(column),
        place.output_name(int(place.chosen[o])),
        float(t[1]),
        float(size),
    )
