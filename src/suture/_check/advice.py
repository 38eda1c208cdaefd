"""What to write: candidates are tried at x, and the first that is good enough is recommended."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from suture import _tree
from suture._calls import Caller
from suture._check.compare import is_compared, method_errors
from suture._check.findings import Advice, Curve, Rows
from suture._check.place import Place
from suture._methods import AbstractMethod, CustomVJP, FiniteDifference
from suture._module import Differentiable
from suture._steps import first_order
from suture._types import Array
from suture.errors import shown
from suture.stencils import (
    BACKWARD,
    CENTRAL,
    COMPLEX_STEP,
    FORWARD,
    ONE_POINT,
    central,
    richardson,
    shift,
)

# A slope that is right to 1 % trains a model as well as an exact one does: batches scatter more.
# Where the function allows less, ten times the best that any step reaches is enough.
_ENOUGH, _TIMES = 1e-2, 10.0

# Above this noise, relative to the largest output, one-sided differences are left with fewer than
# four digits, and a method has to be told.
_QUIET = 1e-9

# Smoothing: as many directions as there are inputs, in these limits.
_FEWEST, _MOST = 16, 256
# A smoothing radius, in units of the scale: enough to cross a piece, and no more than the input.
_RADII = (0.1, 1.0)


_STENCILS = {
    "FORWARD": FORWARD,
    "BACKWARD": BACKWARD,
    "CENTRAL": CENTRAL,
    "COMPLEX_STEP": COMPLEX_STEP,
    "ONE_POINT": ONE_POINT,
    "central(4)": central(4),
    "central(6)": central(6),
    "richardson(2)": richardson(2),
    "richardson(3)": richardson(3),
    "shift()": shift(),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is known when the advice is given.

    Attributes:
        f: as it was given.
        place: where it was checked.
        change: `dtype=None` or `interface="numpy"`, if it needs that; else empty.
        noise: relative to the largest output.
        curves: of the inputs that have a slope.
        used: (K,) the outputs that differences are of use for.
        is_flat: whether all outputs that change are piecewise constant.
        reach: how far to the next piece, in units of the inputs' scale.
        sides: the sides at which no input fails, of 0 (up) and 1 (down).
        rows: what is known of rows.
        can_stack: whether points can be stacked.
        rule_is_right: whether the user's rule was compared and agreed.
    """

    f: Differentiable
    place: Place
    change: str
    noise: float
    curves: list[Curve]
    used: Array
    is_flat: bool
    reach: float
    sides: tuple[int, ...]
    rows: Rows | None
    can_stack: bool
    rule_is_right: bool


@dataclasses.dataclass(frozen=True)
class _Candidate:
    method: AbstractMethod
    text: str
    scale: Any = None
    scale_text: str = ""
    reason: str = ""


def advise(case: Case) -> Advice:
    """Return the first candidate that is good enough, or else the best."""
    if isinstance(case.f.method, CustomVJP) and case.rule_is_right:
        rule = "vjp" if case.f.method.jvp is None else "vjp, jvp"
        return _advice(case, _Candidate(case.f.method, f"suture.CustomVJP({rule})"), float("nan"))
    own = case.f.method
    if case.is_flat and isinstance(own, FiniteDifference) and not is_compared(own):
        return _advice(case, _Candidate(own, method_text(own)), float("nan"))
    if case.is_flat:
        return _advice(case, _smoothing(case), float("nan"))
    tried = []
    for candidate in _candidates(case):
        worst, bad = _tried(case, candidate)
        tried.append((bad, worst, candidate))
        if bad <= 1:
            break
    if not tried:
        return _advice(case, _Candidate(FiniteDifference(), ""), float("nan"))
    _, worst, candidate = min(tried, key=lambda entry: entry[0])
    return _advice(case, candidate, worst)


def _tried(case: Case, candidate: _Candidate) -> tuple[float, float]:
    """Return the largest error of a candidate, and the largest in units of what is enough."""
    place = case.place if candidate.scale is None else _scaled(case, candidate.scale)
    errors = method_errors(place, candidate.method, case.curves, case.used)
    if isinstance(errors, str):
        return float("inf"), float("inf")
    enough = [max(_ENOUGH, _TIMES * curve.error) for curve in case.curves[: len(errors)]]
    return float(errors.max(initial=0.0)), float((errors / np.array(enough)).max(initial=0.0))


def _scaled(case: Case, scale: Any) -> Place:
    """Return the same place with a scale."""
    bounds = case.f._caller._given_bounds
    f = Differentiable(case.place.box, case.f.method, Caller(None, scale, bounds), case.f._seed)
    place = Place(f._box, f, case.place.args, case.place.kwargs)
    case.place.counter.evaluations += place.evaluations
    place.counter = place.frame.counter = case.place.counter
    return place


def _candidates(case: Case) -> Iterator[_Candidate]:
    """Yield candidates, the cheapest first."""
    own = case.f.method
    if is_own(own):
        yield _Candidate(own, method_text(own))
    if not case.curves:
        return
    yield _Candidate(FiniteDifference(), "")
    if len(case.sides) == 1:
        stencil, word = ((FORWARD, "FORWARD"), (BACKWARD, "BACKWARD"))[case.sides[0]]
        yield _Candidate(
            FiniteDifference(stencil),
            f"suture.FiniteDifference(suture.stencils.{word})",
            reason="one-sided, because the other side of x fails",
        )
        return
    told = float(f"{case.noise:.0e}") if case.noise > _QUIET else None
    suffix = "" if told is None else f", noise={told:.0e}"
    yield _Candidate(
        FiniteDifference(CENTRAL, noise=told),
        f"suture.FiniteDifference(suture.stencils.CENTRAL{suffix})",
        reason="two-sided, because the function is noisy"
        if told
        else "two-sided, because one side is not enough",
    )
    yield from _stepped(case)


def _stepped(case: Case) -> Iterator[_Candidate]:
    """Yield central differences with the steps that the sweep found: one step, then scales."""
    scale = case.place.scale
    best = np.array([curve.chosen / scale[curve.column] for curve in case.curves])
    step = float(f"{np.exp(np.mean(np.log(best))):.0e}")
    text = f"suture.FiniteDifference(suture.stencils.CENTRAL, step={step:.0e})"
    yield _Candidate(
        FiniteDifference(CENTRAL, step=step), text, reason="with the step that the sweep found"
    )
    if len(case.curves) < case.place.n or case.f._caller.scale is not None or case.place.kwargs:
        return
    # What a central difference of a function without noise multiplies the scale with.
    usual = first_order(CENTRAL, case.place.site.noise)
    ideal = scale.copy()
    for curve in case.curves:
        ideal[curve.column] = float(f"{curve.chosen / usual:.0e}")
    tree, typed = _scale_of(case.place, ideal)
    yield _Candidate(
        FiniteDifference(CENTRAL),
        "suture.FiniteDifference(suture.stencils.CENTRAL)",
        tree,
        typed,
        "with a scale, because the function varies over unlike lengths",
    )


def _scale_of(place: Place, ideal: Array) -> tuple[Any, str]:
    """Return a scale for each argument, and how it is typed."""
    arrays = iter(place.inputs.layout.scatter(ideal[None], np.empty(0)))
    leaves: list[Any] = [None] * len(place.frame.constants)
    texts: list[Any] = ["None"] * len(leaves)
    for position, leaf, want in zip(
        place.frame.call.positions, place.frame.call.leaves, place.wanted, strict=True
    ):
        if want:
            array = np.real(next(arrays)).reshape(leaf.shape)
            same = array.size and array.max() <= 30 * array.min()
            size = float(np.exp(np.log(array).mean())) if same else 0.0
            leaves[position] = size if same else torch.tensor(array)
            texts[position] = f"{size:.0e}" if same else f"torch.tensor({array.tolist()})"
    args, _ = _tree.unflatten(leaves, place.frame.call.structure)
    typed, _ = _tree.unflatten([_Typed(text) for text in texts], place.frame.call.structure)
    return args, repr(typed)


class _Typed(str):
    def __repr__(self) -> str:
        return str(self)


def _smoothing(case: Case) -> _Candidate:
    from suture.directions import Gaussian

    count = int(np.clip(case.place.n, _FEWEST, _MOST))
    radius = float(f"{np.clip(2 * case.reach, *_RADII):.1g}")
    return _Candidate(
        FiniteDifference(CENTRAL, Gaussian(count), step=radius),
        f"suture.FiniteDifference(suture.stencils.CENTRAL, suture.directions.Gaussian({count}), "
        f"step={radius:g})",
        reason=f"smoothed over {radius:g} of the inputs' scale, because the function is flat",
    )


def is_own(method: AbstractMethod) -> bool:
    """Whether the user has chosen a formula."""
    return method != FiniteDifference() and not isinstance(method, CustomVJP)


def method_text(method: AbstractMethod) -> str:
    """Return a method as it is typed."""
    if not isinstance(method, FiniteDifference):
        return f"suture.{method!r}"
    known = [text for text, stencil in _STENCILS.items() if stencil == method.stencil]
    parts = [f"suture.stencils.{known[0]}" if known else repr(method.stencil)]
    parts = [] if method.stencil is None else parts
    if repr(method.directions) != "Coordinate()":
        parts.append(f"suture.directions.{method.directions!r}")
    for keyword in ("step", "noise", "rtol"):
        value = getattr(method, keyword)
        parts += [] if value is None else [f"{keyword}={value:g}"]
    return f"suture.FiniteDifference({', '.join(parts)})"


def _advice(case: Case, candidate: _Candidate, error: float) -> Advice:
    """Write the call."""
    f, reasons = case.f, [candidate.reason] if candidate.reason else []
    parts = [case.place.box.name if case.place.box.name.isidentifier() else "f"]  # a lambda
    if candidate.text:
        parts.append(f"method={candidate.text}")
    if case.place.box.interface == "numpy":
        parts.append('interface="numpy"')
    if case.place.box.dtype != torch.float64:
        parts.append(f"dtype={case.place.box.dtype}")
    if case.change:
        reasons.append(f"with {case.change}, because float64 tensors make it fail")
    if case.rows is not None and case.rows.batch_dims is not None:
        parts.append(f"batch_dims={case.rows.batch_dims}")
    elif case.can_stack:
        parts.append("vectorized=True")
    if candidate.scale_text:
        parts.append(f"scale={candidate.scale_text}")
    elif f._caller.scale is not None:
        parts.append(f"scale={shown(f._caller._given)}")
    if f._caller.bounds is not None:
        parts.append(f"bounds={shown(f._caller._given_bounds)}")
    return Advice(tuple(parts), error, _cost(case, candidate.method), tuple(reasons))


def _cost(case: Case, method: AbstractMethod) -> str:
    """Return what a gradient costs: `2n = 6 evaluations`."""
    n = case.rows.columns if case.rows is not None and case.rows.columns else case.place.n
    factor = method.cost.removesuffix("n")
    if factor == method.cost:  # a number, whatever n is
        return f"{method.cost} evaluations"
    if not (factor == "" or factor.isdigit()):
        return f"{method.cost} evaluations, n = {n}"
    total = int(factor or 1) * n
    return f"{method.cost} = {total} evaluation{'' if total == 1 else 's'}"
