"""What to write: candidates are tried at x, and the first that is good enough is recommended."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from suture import _tree
from suture._calls import Caller
from suture._check.compare import is_compared, trial_of
from suture._check.findings import Advice, Curve, Rows, Trial, counted
from suture._check.place import Place
from suture._check.written import written
from suture._methods import AbstractMethod, CustomVJP, FiniteDifference
from suture._module import Differentiable
from suture._steps import first_order
from suture._types import Array
from suture.directions import Gaussian
from suture.errors import shown
from suture.stencils import BACKWARD, CENTRAL, FORWARD

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
    scale: Any = None
    scale_text: str = ""
    reason: str = ""


def advise(case: Case) -> Advice:
    """Return the first candidate that is good enough, or else the best."""
    own = case.f.method
    if isinstance(own, CustomVJP) and case.rule_is_right:
        return _advice(case, _Candidate(own), Trial())
    if case.is_flat:
        smooths = isinstance(own, FiniteDifference) and not is_compared(own)
        return _advice(case, _Candidate(own) if smooths else _smoothing(case), Trial())
    best = float("inf"), _Candidate(FiniteDifference()), Trial()
    for candidate in _candidates(case):
        place = case.place if candidate.scale is None else _scaled(case, candidate.scale)
        trial = trial_of(place, candidate.method, case.curves, case.used)
        best = min(best, (_badness(case, trial), candidate, trial), key=lambda entry: entry[0])
        if best[0] <= 1:
            break
    return _advice(case, *best[1:])


def _badness(case: Case, trial: Trial) -> float:
    """Return the largest error of a candidate, in units of what is enough."""
    if trial.failure:
        return float("inf")
    return max(
        (
            error / max(_ENOUGH, _TIMES * curve.error)
            for error, curve in zip(trial.errors, case.curves, strict=False)
        ),
        default=0.0,
    )


def _scaled(case: Case, scale: Any) -> Place:
    """Return the same place with a scale."""
    bounds = case.f._caller._given_bounds
    f = Differentiable(case.place.box, case.f.method, Caller(None, scale, bounds), case.f._seed)
    place = Place(f._box, f, case.place.args, case.place.kwargs)
    case.place.counter.add(place.counter.total)
    place.counter = place.frame.counter = case.place.counter
    return place


def _candidates(case: Case) -> Iterator[_Candidate]:
    """Yield candidates, the cheapest first."""
    own = case.f.method
    if is_own(own):
        yield _Candidate(own)
    if not case.curves:
        return
    yield _Candidate(FiniteDifference())
    if len(case.sides) == 1:
        stencil = (FORWARD, BACKWARD)[case.sides[0]]
        why = "one-sided, because the other side of x fails"
        yield _Candidate(FiniteDifference(stencil), reason=why)
        return
    told = float(f"{case.noise:.0e}") if case.noise > _QUIET else None
    why = "the function is noisy" if told else "one side is not enough"
    yield _Candidate(FiniteDifference(CENTRAL, noise=told), reason=f"two-sided, because {why}")
    yield from _stepped(case)


def _stepped(case: Case) -> Iterator[_Candidate]:
    """Yield central differences with the steps that the sweep found: one step, then scales."""
    scale = case.place.scale
    best = np.array([curve.chosen / scale[curve.column] for curve in case.curves])
    step = float(f"{np.exp(np.mean(np.log(best))):.0e}")
    why = "with the step that the sweep found"
    yield _Candidate(FiniteDifference(CENTRAL, step=step), reason=why)
    if len(case.curves) < case.place.n or case.f._caller.scale is not None or case.place.kwargs:
        return
    # What a central difference of a function without noise multiplies the scale with.
    usual = first_order(CENTRAL, case.place.site.noise)
    ideal = scale.copy()
    for curve in case.curves:
        ideal[curve.column] = float(f"{curve.chosen / usual:.0e}")
    why = "with a scale, because the function varies over unlike lengths"
    yield _Candidate(FiniteDifference(CENTRAL), *_scale_of(case.place, ideal), why)


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
    count = int(np.clip(case.place.n, _FEWEST, _MOST))
    radius = float(f"{np.clip(2 * case.reach, *_RADII):.1g}")
    return _Candidate(
        FiniteDifference(CENTRAL, Gaussian(count), step=radius),
        reason=f"smoothed over {radius:g} of the inputs' scale, because the function is flat",
    )


def is_own(method: AbstractMethod) -> bool:
    """Whether the user has chosen a formula."""
    return method != FiniteDifference() and not isinstance(method, CustomVJP)


def _advice(case: Case, candidate: _Candidate, trial: Trial) -> Advice:
    """Write the call."""
    f, reasons = case.f, [candidate.reason] if candidate.reason else []
    parts = [case.place.box.name if case.place.box.name.isidentifier() else "f"]  # a lambda
    if candidate.method != FiniteDifference():
        parts.append(f"method={written(candidate.method)}")
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
    return Advice(tuple(parts), trial, _cost(case, candidate.method), tuple(reasons))


def _cost(case: Case, method: AbstractMethod) -> str:
    """Return what a gradient costs: `2n = 6 evaluations`."""
    n = case.rows.columns if case.rows is not None and case.rows.columns else case.place.n
    factor = method.cost.removesuffix("n")
    if method.cost == "adaptive":
        return "as many evaluations as it takes"
    if factor == method.cost:  # a number, whatever n is
        return f"{method.cost} evaluations"
    if not (factor == "" or factor.isdigit()):
        return f"{method.cost} evaluations, n = {n}"
    return f"{method.cost} = {counted(int(factor or 1) * n, 'evaluation')}"
