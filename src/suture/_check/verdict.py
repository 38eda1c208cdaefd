"""What is wrong, and what is worth knowing: the sentences of a report."""

from __future__ import annotations

import numpy as np

from suture._check.advice import Case, is_own
from suture._check.findings import Precision, WrongEntry
from suture._check.place import Place
from suture._check.report import Report
from suture._check.written import written
from suture._module import Differentiable

# A method is wrong when a slope is off by more than this: an optimizer still goes down hill at
# 10 %, and the table of the accuracy benchmark counts failures from there.
_WRONG = 0.1

# Slopes of single inputs that do not add up to the slope along another direction, where two
# formulas agree about that: f is not linear to first order. Smooth functions stay below 1e-3.
_ADDS_UP = 1e-2

# Between f growing as the displacement, which single inputs would have to show, and as its square.
_SMOOTH = 1.5

_NAMED = 3


def unusable(error: BaseException) -> str:
    """Say why f(x) could not be evaluated."""
    first, *rest = str(error).splitlines() or [type(error).__name__]
    return " ".join([first if first.endswith((".", ":")) else f"{first}.", *rest])


def empty(place: Place) -> tuple[str, ...]:
    """Say why there is nothing to differentiate."""
    if not place.n:
        return (
            "nothing to differentiate by: pass floating or complex tensors, for example "
            "`torch.tensor([1.0, 2.0])`; arrays and numbers are constants",
        )
    return ("nothing to differentiate: return floating numbers, for example `result.double()`",)


def integers(place: Place) -> tuple[Precision, ...]:
    """Return the leaves of the result that are integers."""
    return tuple(
        Precision("integer", quantum=1.0, name=path, count=int(np.prod(output.shape)))
        for output, path in zip(place.frame.form.outputs, place.output_paths, strict=True)
        if output.kind == "integer"
    )


def problems(
    report: Report, f: Differentiable, case: Case, complaint: str, failed: str
) -> tuple[str, ...]:
    """Return what is wrong: the rule, the function here, the step, or a claim."""
    name = report.name
    found = []
    if report.remembers:
        return (f"`{name}` remembers earlier calls: differences of such values are no slopes",)
    found += [_rule(entry) for entry in report.wrong[:_NAMED]]
    if len(report.wrong) > _NAMED:
        found.append(f"your `vjp` is wrong for {len(report.wrong) - _NAMED} more inputs")
    if complaint:
        found.append(f"your rule is wrong: {complaint}")
    bad = [entry for entry in report.breaks if entry.distance == 0 and entry.kind != "kink"]
    for entry in bad[:_NAMED]:
        found.append(
            f"`{name}` is not differentiable here: "
            f"{'it jumps' if entry.kind == 'jump' else 'its slope is infinite'} at {entry.input}"
        )
    if not bad and not _is_differentiable(report):
        found.append(
            f"`{name}` is not differentiable here: along random directions the slope differs by "
            f"{report.additivity:.0%} from the sum over single inputs"
        )
    if report.together < _SMOOTH:
        found.append(
            f"`{name}` is not differentiable here: single inputs change nothing, but several "
            "together do"
        )
    if not report.curves and not case.is_flat:
        found += _drowned(report)
    if any(failure.distance == 0 for failure in case.place.failures):
        found.append(f"`{name}` fails at x itself in some calls and not in others: mend that first")
    elif not case.sides:
        found.append(f"`{name}` fails on both sides of x: move x inside, with `torch.clamp`")
    found += _step(report, f, case, failed) if not bad else []
    found += _claims(report, f)
    return tuple(found)


def _drowned(report: Report) -> list[str]:
    """Say what helps where no input has a slope, if that is because of noise."""
    kinds = {entry.kind for entry in report.precision}
    if not report.deterministic:
        fix = "average the function over several calls, or smooth it"
    elif "noisy" in kinds:
        fix = "smooth the function"
    else:
        return []
    return [f"the noise drowns every slope: {fix}"]


def _is_differentiable(report: Report) -> bool:
    """Whether slopes along random directions are what single inputs say."""
    if any(entry.distance == 0 for entry in report.breaks) or np.isnan(report.additivity):
        return True
    known = [curve.error for curve in report.curves]
    allowed = max(_ADDS_UP, 20 * report.agreement, 20 * max(known, default=0.0))
    return report.additivity <= allowed


def _rule(entry: WrongEntry) -> str:
    ratio = entry.ratio
    hint = ""
    if np.isfinite(ratio):
        hint = " (the sign)" if abs(ratio + 1) < 1e-3 else f" (a factor of {ratio:.3g})"
    return (
        f"your `vjp` is wrong for {entry.input}: it gives {entry.given:.4g}, differences give "
        f"{entry.expected:.4g}{hint}"
    )


def _step(report: Report, f: Differentiable, case: Case, failed: str) -> list[str]:
    """Say whether the method that f was given has the wrong step, or nothing has a right one."""
    if failed and len(case.sides) == 2:
        return [f"the method of `{report.name}` fails at x: {failed}"]
    best = max((curve.error for curve in report.curves), default=0.0)
    if is_own(f.method) and report.method_error > max(_WRONG, 10 * best):
        return [
            f"the step is wrong: slopes of `{written(f.method)}` are off by up to "
            f"{_percent(report.method_error)}, and a better step reaches {best:.0e}"
        ]
    if report.advice is not None and report.advice.error > max(_WRONG, 10 * best):
        return [f"no step is right for all inputs: the best is off by {report.advice.error:.0e}"]
    return []


def _percent(error: float) -> str:
    return f"{error:.0%}" if error < 10 else f"a factor of {error:.0e}"


def _claims(report: Report, f: Differentiable) -> list[str]:
    found = []
    claimed = f._caller.batch_dims
    if claimed is not None and report.rows is not None and report.rows.independent is False:
        found.append(f"`batch_dims={claimed!r}` is wrong: {report.rows.reason}")
    if f._box.vectorized and not report.vectorized:
        found.append(
            "`vectorized=True` is wrong: stacked points give other values than single ones"
        )
    return found


def notes(report: Report, place: Place, case: Case, left: int) -> tuple[str, ...]:
    """Return what is worth knowing."""
    found = []
    kinks = [entry for entry in report.breaks if entry.distance == 0 and entry.kind == "kink"]
    if kinks:
        found.append(
            f"`{report.name}` is not differentiable here: it has a kink at {kinks[0].input}; "
            "a difference gives a slope between the two sides"
        )
    if len(case.sides) == 1:
        side = "above" if case.sides == (1,) else "below"
        found.append(f"points right {side} x fail, the other side is used")
    if case.is_flat:
        found.append(
            f"`{report.name}` is piecewise constant: its derivative is zero almost everywhere, and "
            "every short difference too; train a smoothed version of it"
        )
    if all(entry.kind == "constant" for entry in report.precision):
        found.append("no output depends on any input: every gradient is zero")
    if left:
        found.append(f"{left} more places where the slope changes fast were not followed")
    if len(place.chosen) < place.m:
        found.append(f"{len(place.chosen)} of {place.m} outputs were looked at one by one")
    return tuple(found)
