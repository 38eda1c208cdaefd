"""Compare: two formulas along random directions, a method with the sweep, a rule with both."""

from __future__ import annotations

import dataclasses

import numpy as np

from suture._check.basics import Basics
from suture._check.findings import Curve, Trial, WrongEntry
from suture._check.place import Place, quiet
from suture._drive import Site
from suture._memory import Memory
from suture._methods import AbstractMethod, CustomVJP, FiniteDifference, output_size
from suture._rules import ask_jvp, ask_vjp
from suture._steps import first_order
from suture._types import Array
from suture.directions import Coordinate
from suture.errors import SutureError
from suture.stencils import central

DIRECTIONS = 3
"""Random directions, four evaluations each: one that happens to hide an error is believable,
three are not."""

_FOURTH = central(4)

# How many slopes a comparison may hold: 32 MiB.
_ROOM = 2**22

# With more inputs than a sweep takes, methods are compared along those that were swept only.
_COLUMNS = 64

# A rule is exact, so it may differ by what the differences are off, and by rounding. 20 times the
# estimated error of a slope was never exceeded by a right rule; 1e-5 is far below a wrong factor.
_ESTIMATES, _EXACT = 20.0, 1e-5


@dataclasses.dataclass(frozen=True)
class Along:
    """Slopes along random directions.

    Attributes:
        moves: (T, n) the directions, in units of x.
        slopes: (T, K) of order four; NaN where a point failed.
        agreement: the largest relative difference from those of order two, NaN if unknown.
        additivity: the largest relative difference from the sum of the slopes of the single
            inputs, NaN if unknown.
    """

    moves: Array
    slopes: Array
    agreement: float
    additivity: float


def along(place: Place, basics: Basics, curves: list[Curve | None]) -> Along:
    """Difference along random directions, each input by its best step.

    Args:
        place: where.
        basics: what was measured first.
        curves: of the inputs that were swept, None where the slope is zero.
    """
    columns, used = basics.swept.columns, basics.used
    floor = float(np.linalg.norm(basics.noise[used]))
    steps = np.full(place.n, np.nan)
    for curve, j in zip(curves, columns, strict=True):
        if curve is not None:
            steps[j] = curve.chosen
    usual = np.nanmedian(steps / place.unit) if np.isfinite(steps).any() else 1e-5
    steps = np.where(np.isfinite(steps), steps, usual * place.unit)
    signs = place.generator().choice([-1.0, 1.0], (DIRECTIONS, place.n))
    moves = signs * steps / np.sqrt(max(place.n, 1))
    moves = np.where(2 * steps <= place.room, moves, 0.0)
    nodes = _FOURTH.moved_nodes.real
    points = place.inside(place.x + np.multiply.outer(nodes, moves)).reshape(-1, place.n)
    values = place.at(points).reshape(len(nodes), DIRECTIONS, -1)
    fourth = np.where(used, np.tensordot(_FOURTH.moved_weights.real, values, axes=(0, 0)), 0.0)
    inner = [int(np.flatnonzero(np.isclose(nodes, t))[0]) for t in (1, -1)]
    second = np.where(used, (values[inner[0]] - values[inner[1]]) / 2, 0.0)
    size = np.linalg.norm(fourth, axis=1)
    size = np.where(size > 2 * floor, size, np.nan)
    agreement = np.linalg.norm(fourth - second, axis=1) / size
    additivity = np.full(DIRECTIONS, np.nan)
    if len(columns) == place.n:
        jacobian = np.zeros((place.n, len(used)))
        for curve, j in zip(curves, columns, strict=True):
            if curve is not None:
                jacobian[j] = curve.slope
        additivity = np.linalg.norm(fourth - moves @ jacobian, axis=1) / size
    return Along(moves, fourth, _largest(agreement), _largest(additivity))


def _largest(values: Array) -> float:
    return float(np.nanmax(values)) if np.isfinite(values).any() else float("nan")


def trial_of(place: Place, method: AbstractMethod, curves: list[Curve], used: Array) -> Trial:
    """Return how a method does along the inputs that have a curve."""
    if method not in place.tried:
        with quiet():
            try:
                place.tried[method] = _trial(place, method, curves, used)
            except (SutureError, SystemExit) as error:
                place.tried[method] = Trial(failure=str(error).splitlines()[0])
    return place.tried[method]


def _trial(place: Place, method: AbstractMethod, curves: list[Curve], used: Array) -> Trial:
    room = max(1, _ROOM // max(place.m, 1))
    curves = curves[:room]
    columns = [curve.column for curve in curves]
    tangents = np.zeros((len(curves), 1, place.n))
    tangents[np.arange(len(curves)), 0, columns] = 1.0
    shared = np.empty((len(curves), 0))
    site = place.site_of(method, memory=Memory())
    steps = np.empty(0)
    if isinstance(method, FiniteDifference) and place.n <= min(room, _COLUMNS):
        is_tuned = method.stencil is None and method.step is None
        for _ in range(2 if is_tuned else 1):
            site = place.site_of(method, memory=site.setting.memory)
            (linear,) = site.linearize([lambda slopes: slopes])
        slopes = linear.pushforward(tangents, shared)[:, 0]
        if is_compared(method):
            steps = (_tuned_steps if is_tuned else _named_steps)(site, method)[columns]
    else:
        slopes = site.push(tangents[None], shared[None])[0, :, 0]
    slopes = np.where(used, slopes[:, place.chosen], 0.0)
    best = np.array([curve.slope for curve in curves])
    errors = np.linalg.norm(slopes - best, axis=1) / np.linalg.norm(best, axis=1)
    return Trial(tuple(errors.tolist()), tuple(steps.tolist()))


def _named_steps(site: Site, method: FiniteDifference) -> Array:
    """Return how far the farthest node of a stencil is from x, (n,), in units of the inputs."""
    step = method.step or first_order(method.rule, site.stated)
    steps: Array = step * np.abs(method.rule.moved_nodes).max() * site.scale_rows[0, 0]
    return steps


def _tuned_steps(site: Site, method: FiniteDifference) -> Array:
    """Return the steps of the gradient after the one that calibrated, likewise."""
    assert site.values is not None  # f(x) is known to the place
    (tuning,) = site.setting.memory.calibration.tunings.values()
    size = output_size(site.values[0])
    steps = tuning.steps(size, site.frame.call.noise)
    if method.rtol is not None:
        is_central = tuning.errors(steps, size) > method.rtol * tuning.slope
        steps = np.where(is_central, tuning.arm, steps)
    return steps * tuning.scale


def is_compared(method: AbstractMethod) -> bool:
    """Whether a method means the derivative: random directions may mean a smoothed one."""
    return not isinstance(method, CustomVJP) and (
        not isinstance(method, FiniteDifference) or isinstance(method.directions, Coordinate)
    )


def check_rule(
    place: Place,
    rule: CustomVJP,
    basics: Basics,
    curves: list[Curve | None],
    seen: Along,
    excused: set[str],
) -> tuple[list[WrongEntry], str]:
    """Compare a rule with differences by ⟨c, Jv⟩ = ⟨Jᵀc, v⟩.

    Args:
        place: where.
        rule: the user's.
        basics: what was measured first.
        curves: of the inputs that were swept.
        seen: slopes along random directions.
        excused: inputs at which the function is not differentiable.

    Returns:
        The entries of Jᵀc that are wrong, and a complaint if the rule failed or is wrong along a
        direction only.
    """
    used = basics.used
    cotangents = np.zeros((2, place.m))
    cotangents[:, place.chosen] = place.generator().standard_normal((2, len(used))) * used
    site = place.site_of(rule)
    try:
        answers = ask_vjp(site, rule, cotangents[None, :, None])
    except (SutureError, SystemExit) as error:
        return [], str(error).splitlines()[0]
    known = [answer is not None for answer in answers]
    filled = [
        np.zeros((2, *segment.leaf.shape), complex if segment.leaf.dtype.is_complex else float)
        if answer is None
        else answer[0]
        for answer, segment in zip(answers, place.inputs.layout.segments, strict=True)
    ]
    gradients = place.inputs.layout.gather(filled, (2,))[0][:, 0]
    given = np.zeros(place.n, bool)
    for segment, is_known in zip(place.inputs.layout.segments, known, strict=True):
        given[segment.start : segment.stop] = is_known
    c = cotangents[:, place.chosen]
    wrong = []
    depends = np.asarray(basics.moved.any(axis=1))
    for curve, j, is_used in zip(curves, basics.swept.columns, depends, strict=True):
        name = place.name(int(j))
        if given[j] and name not in excused and (curve is not None or not is_used):
            entry = _entry(name, gradients[:, j], c, curve)
            wrong += [] if entry is None else [entry]
    complaint = "" if wrong or not given.all() or excused else _directional(gradients, c, seen)
    return wrong, complaint or _jvp(place, rule, seen, used, bool(excused))


def _entry(name: str, gradient: Array, c: Array, curve: Curve | None) -> WrongEntry | None:
    """Compare Jᵀc of one input, (2,), with c·slope."""
    slope = np.zeros(c.shape[1]) if curve is None else curve.slope
    expected = c @ slope
    allowed = max(_EXACT, _ESTIMATES * (0.0 if curve is None else curve.error))
    size = np.linalg.norm(c * slope, axis=1)
    if np.all(np.abs(gradient - expected) <= allowed * size):
        return None
    k = int(np.abs(gradient - expected).argmax())
    ratio = float("nan")
    if np.all(expected != 0):
        ratios = gradient / expected
        if abs(ratios[0] - ratios[1]) <= 0.01 * np.abs(ratios).max():
            ratio = float(ratios.mean())
    return WrongEntry(name, float(gradient[k]), float(expected[k]), ratio)


def _directional(gradients: Array, c: Array, seen: Along) -> str:
    expected = seen.slopes @ c.T  # (T, 2)
    got = seen.moves @ gradients.T
    size = np.linalg.norm(seen.slopes, axis=1)[:, None] * np.linalg.norm(c, axis=1)
    allowed = max(_EXACT, _ESTIMATES * np.nan_to_num(seen.agreement))
    with np.errstate(invalid="ignore"):
        if np.any(np.abs(got - expected) > allowed * size):
            return "in an input that was not displaced by itself: ⟨c, Jv⟩ ≠ ⟨Jᵀc, v⟩"
    return ""


def _jvp(place: Place, rule: CustomVJP, seen: Along, used: Array, excused: bool) -> str:
    """Compare the rule's `jvp` with the slopes along random directions."""
    if rule.jvp is None or excused:
        return ""
    shared = np.empty((1, DIRECTIONS, 0))
    try:
        pushed = ask_jvp(place.site_of(rule), rule, seen.moves[None, :, None], shared)
    except (SutureError, SystemExit) as error:
        return str(error).splitlines()[0]
    tangents = np.where(used, pushed[0, :, 0][:, place.chosen], 0.0)
    errors = np.linalg.norm(tangents - seen.slopes, axis=1)
    allowed = max(_EXACT, _ESTIMATES * np.nan_to_num(seen.agreement))
    with np.errstate(invalid="ignore"):
        if np.any(errors > allowed * np.linalg.norm(seen.slopes, axis=1)):
            return "in `jvp`: Jv differs from the difference along v"
    return ""
