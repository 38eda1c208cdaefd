"""Look at a black box before training through it: `check`.

`place` evaluates; `basics`, `sweep`, `breaks`, `rows` and `compare` are experiments; `precision`
and `pattern` read what they saw; `findings` are what all of them return. `advice` and `verdict`
draw the conclusions, `written` types the first. `examine` runs everything. `report`, `console` and
`picture` show what was found, and `command` is `suture check`.
"""

from __future__ import annotations

from typing import Any

from suture._check.examine import examine
from suture._check.report import Report
from suture.errors import MethodError, shown


def check(f: Any, /, *args: Any, budget: int | None = None, **kwargs: Any) -> Report:
    """Look at a black box at x, print what was found, and say what to write.

    It says whether f is deterministic and how noisy, the precision of its outputs, jumps and kinks
    near x, whether rows are independent, which output depends on which input, how the error of a
    difference depends on the step, how two formulas agree, and which call of `differentiable` it
    recommends. It tells a wrong step from a function that is not differentiable here and from a
    wrong `vjp`.

    Args:
        f: the black box, or what `differentiable` made of it; then its options are checked too, and
            if it is random, its memo refuses it from then on (no memo knows of a bare function).
        *args: x: what f takes. It is evaluated near these, and never outside of its bounds.
        budget: about how many evaluations to spend; None for 40 for each of at most 64 inputs,
            and 100. With more inputs than that, a sample of them is displaced one by one.
        **kwargs: likewise.

    Returns:
        The findings. `print(report)` shows them again, `report.ok` says whether nothing is wrong,
        `report.plot()` draws the error by the step. Nothing that the black box does is raised: it
        is a finding.

    Raises:
        MethodError: if the budget is not a positive integer.

    Example:
        >>> import torch
        >>> report = check(lambda x: (x * 30).round() / 100, torch.ones(3))  # doctest: +ELLIPSIS
        <lambda>: 3 inputs, 3 outputs, ...
        >>> report.ok, report.deterministic, report.precision[0].quantum
        (True, True, 0.01)
    """
    if budget is not None and (not isinstance(budget, int) or budget < 1):
        raise MethodError(
            f"`check(budget={shown(budget)})` is not possible.",
            "It is about how many evaluations to spend, a positive integer.",
            "Leave `budget` out, or give for example `budget=400`.",
        )
    report = examine(f, args, kwargs, budget)
    show(report)
    return report


def show(report: Report) -> None:
    """Print a report."""
    # Here: rich takes longer to import than all of Suture.
    from suture._check import console

    console.show(report)


__all__ = ["Report", "check", "examine", "show"]
