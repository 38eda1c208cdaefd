"""Run the experiments in their order, and put together the report."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from suture._check import verdict
from suture._check.advice import Case, advise
from suture._check.basics import CHANGED, Basics, measured, together
from suture._check.breaks import breaks_at, breaks_near
from suture._check.compare import along, check_rule, is_compared, trial_of
from suture._check.findings import Break, Precision, Trial, WrongEntry
from suture._check.pattern import colors_of
from suture._check.place import Place, places, spread
from suture._check.report import Report
from suture._check.rows import can_stack, look_at_rows
from suture._check.sweep import STEPS, Sweep, curve
from suture._differentiable import differentiable
from suture._fingerprint import fingerprint
from suture._lookup import RANDOM
from suture._methods import CustomVJP
from suture._module import Differentiable
from suture._types import Array
from suture.errors import EvaluationError, SutureError

INPUTS = 64
"""Inputs that are displaced one by one unless the budget says otherwise: 40·64 evaluations of a
function of a millisecond are three seconds."""

EACH, FIXED = 40, 100
"""Evaluations for each input, and for all of them together: 32 in the sweep, 2 for the pattern,
up to 5 for the methods that are tried; and about 80 for repeats, lines and rows."""

# Random numbers stay within this many standard deviations of each other, though the deviation is
# estimated from ten of them.
_DRIFT = 15.0


def examine(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], budget: int | None) -> Report:
    """Return the report of a black box at x; nothing that it does is raised."""
    name = getattr(fn, "__name__", type(fn).__name__)
    try:
        f = fn if isinstance(fn, Differentiable) else differentiable(fn)
        if kwargs and f._signature is not None:
            args, kwargs = _bound(f, args, kwargs)
        place, change = places(f, args, kwargs)
    except (SutureError, SystemExit) as error:
        return Report(name, problems=(verdict.unusable(error),))
    if not place.n or not place.m:
        return _finished(Report(place.box.name, problems=(), notes=verdict.empty(place)), place)
    # What overflows is not finite afterwards, and looked at as such.
    with np.errstate(all="ignore"):
        return _examined(f, place, change, budget)


def _bound(f: Differentiable, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Return the arguments with those that have a position in their places."""
    assert f._signature is not None  # the caller has looked
    try:
        bound = f._signature.bind(*args, **kwargs)
    except TypeError as error:
        raise EvaluationError(
            f"`{f._box.name}` cannot be called like this: {error}.",
            "A check calls the function with the arguments that it is given.",
            "Give the arguments as you would give them to the function.",
        ) from error
    return bound.args, bound.kwargs


def _columns(place: Place, budget: int | None) -> Array:
    """Return the inputs that are displaced: all, or as many as the budget allows."""
    most = INPUTS if budget is None else max(1, (budget - FIXED) // EACH)
    return spread(place.n, most)


def _examined(f: Differentiable, place: Place, change: str, budget: int | None) -> Report:
    basics = measured(place, _columns(place, budget))
    memo = f._box.service.memo
    if memo is not None and not basics.deterministic:
        memo.note(fingerprint(f.fn, f._box.name, memo.version), RANDOM)
    swept, columns, used = basics.swept, basics.swept.columns, basics.used
    curves = [curve(place, swept, c, basics.noise, used) for c in range(len(columns))]
    known = [entry for entry in curves if entry is not None]
    at = breaks_at(place, basics)
    near, left = breaks_near(place, basics)
    sides = _sides(swept)
    place.toward = -1.0 if sides == (1,) else 1.0
    seen = along(place, basics, curves)
    largest = float(basics.noise.max(initial=0.0))
    rows = look_at_rows(place, f._caller.batch_dims, largest)
    # What loops over stacked points by itself gains nothing by them.
    loops = getattr(f.fn, "__suture_one_by_one__", False)
    stacks = not loops and can_stack(place, largest)
    wrong: list[WrongEntry] = []
    complaint = ""
    if isinstance(f.method, CustomVJP):
        broken = {entry.input for entry in at}
        wrong, complaint = check_rule(place, f.method, basics, curves, seen, broken)
    tried = Trial()
    if known and not change and is_compared(f.method):
        tried = trial_of(place, f.method, known, used)
    case = Case(
        f=f,
        place=place,
        change=change,
        noise=basics.relative,
        curves=known,
        used=used,
        is_flat=_is_flat(basics.precision, bool(known)),
        reach=_reach(place, basics),
        sides=sides,
        rows=rows,
        can_stack=stacks,
        rule_is_right=not wrong and not complaint,
    )
    report = dataclasses.replace(
        _report(case, basics),
        breaks=_one_of_each(at + near),
        agreement=seen.agreement,
        additivity=seen.additivity,
        method_error=tried.error,
        wrong=tuple(wrong),
        advice=advise(case) if sides and (used.any() or case.is_flat) else None,
        remembers=_remembers(place, basics),
        together=together(place, basics),
    )
    problems = verdict.problems(report, f, case, complaint, tried.failure)
    notes = verdict.notes(report, place, case, left)
    return _finished(dataclasses.replace(report, problems=problems, notes=notes), place)


def _report(case: Case, basics: Basics) -> Report:
    """Return what the case and the first measurements say."""
    place, swept = case.place, basics.swept
    largest = float(basics.noise.max(initial=0.0))
    unseen = 0.0 if basics.deterministic else CHANGED * largest
    is_whole = len(swept.columns) == place.n and len(place.chosen) == place.m
    pattern = basics.entries.T if is_whole else None
    return Report(
        name=place.box.name,
        swept=len(swept.columns),
        deterministic=basics.deterministic,
        noise=basics.relative,
        precision=_leaves(place, basics.precision),
        rows=case.rows,
        vectorized=case.can_stack,
        unused=tuple(place.name(int(j)) for j in swept.columns[swept.change <= unseen]),
        pattern=pattern,
        colors=None if pattern is None else colors_of(pattern),
        curves=tuple(case.curves),
    )


def _finished(report: Report, place: Place) -> Report:
    """Fill in what is known at the end."""
    failures = sorted(place.failures, key=lambda failure: failure.distance)
    return dataclasses.replace(
        report,
        n=place.n,
        m=place.m,
        evaluations=place.evaluations,
        seconds=float(np.median(place.seconds)) if place.seconds else float("nan"),
        failures=tuple(failures),
        precision=report.precision + verdict.integers(place),
    )


def _one_of_each(breaks: list[Break]) -> tuple[Break, ...]:
    """Drop what is near an input that has something at x."""
    at = {entry.input for entry in breaks if entry.distance == 0}
    return tuple(e for e in breaks if e.distance == 0 or e.input not in at)


def _is_flat(precision: list[Precision], has_slopes: bool) -> bool:
    """Whether no difference is of use: other outputs may count as quantized for many levels."""
    kinds = {entry.kind for entry in precision}
    all_flat = all(entry.is_flat for entry in precision)
    return "piecewise constant" in kinds and (all_flat or not has_slopes)


def _reach(place: Place, basics: Basics) -> float:
    """Return how far the next piece is: the median over inputs of the shortest step that shows."""
    y = place.y[place.chosen]
    changed = np.nan_to_num(np.abs(basics.swept.values - y)).max(axis=(2, 3)) > 0
    scale = place.scale[basics.swept.columns]
    reaches = [
        basics.swept.steps[c, changed[c].argmax()] / scale[c]
        for c in range(len(changed))
        if changed[c].any()
    ]
    return float(np.median(reaches)) if reaches else 1.0


def _sides(swept: Sweep) -> tuple[int, ...]:
    """Return the sides, 0 (up) and 1 (down), at which no input fails right beside x."""
    failed = swept.asked & ~np.isfinite(swept.values).all(axis=3)
    # The shorter half of the steps: what fails farther away is the edge of a domain.
    return tuple(side for side in (0, 1) if not failed[:, : STEPS // 2, side].any())


def _remembers(place: Place, basics: Basics) -> bool:
    """Whether f(x) has moved during the experiments by more than repeats differ at once."""
    again = place.at(np.repeat(place.x[None], 2, 0))
    allowed = _DRIFT * basics.noise * (not basics.deterministic)
    return bool(np.any(np.abs(again - place.y[place.chosen]) > allowed))


def _leaves(place: Place, precision: list[Precision]) -> tuple[Precision, ...]:
    """Sum up the precision of the outputs of each leaf."""
    entries = []
    for output, path in zip(place.frame.form.outputs, place.output_paths, strict=True):
        own = [
            entry
            for o, entry in zip(place.chosen, precision, strict=True)
            if output.start <= o < output.stop
        ]
        for kind in dict.fromkeys(entry.kind for entry in own):
            alike = [entry for entry in own if entry.kind == kind]
            entries.append(
                Precision(
                    kind,
                    max(entry.noise for entry in alike),
                    max(entry.digits for entry in alike),
                    min(entry.quantum for entry in alike),
                    path,
                    len(alike),
                )
            )
    return tuple(entries)
