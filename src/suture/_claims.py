"""Claims that a gradient relies on, checked once, by points that ride along with its first round.

Each check is a generator like a method's: it yields points, is sent values, and raises if the
claim is false.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from typing import TypeVar

import numpy as np

from suture import _steps
from suture._methods import Points, Primal, rounded
from suture._stencil import Stencil
from suture._types import Array, Draw
from suture.errors import BadResult
from suture.stencils import CENTRAL, COMPLEX_STEP, FORWARD

T = TypeVar("T")

# The same row in a larger batch may differ in its last digits, because vector units and matrix
# kernels cut batches differently. Rows that really interact move by about noise^(1/2).
_SAME = 64

# The fractional parts of its multiples are all different, and evenly spread. Source: Knuth, The
# Art of Computer Programming, volume 3, section 6.4.
_GOLDEN = (math.sqrt(5) - 1) / 2


def accompanied(
    estimate: Generator[Points, Array, T],
    check: Generator[Points, Array, None],
    passed: Callable[[], None],
) -> Generator[Points, Array, T]:
    """Let the points of a check stand second in the first round that displaces rows alone.

    There they have displaced rows before them, so that a function shows that counts rows, sums
    over earlier ones or refers to the first; and they are not alone in a call, unless all are.

    Args:
        estimate: what asks for points first.
        check: what is asked once.
        passed: called if the check did not raise.
    """
    reply: Array | None = None
    pending = True
    while True:
        try:
            # The first `send` of a generator must be None; its type does not say so.
            points = estimate.send(reply)  # type: ignore[arg-type]
        except StopIteration as stop:
            result: T = stop.value
            return result
        if not pending or points.rows is None or points.shared is not None:
            reply = yield points
            continue
        asked = next(check)
        assert asked.rows is not None  # rows are what it displaces
        count = len(asked)
        together = np.concatenate([points.rows[:1], asked.rows, points.rows[1:]])
        values = yield Points(together, None)
        _finish(check, values[1 : 1 + count])
        reply = np.concatenate([values[:1], values[1 + count :]])
        pending = False
        passed()


def preceded(
    estimate: Generator[Points, Array, T],
    check: Generator[Points, Array, None],
    passed: Callable[[], None],
) -> Generator[Points, Array, T]:
    """Let a check of any number of rounds run before an estimate, if that asks for anything."""
    try:
        points = next(estimate)
    except StopIteration as stop:
        result: T = stop.value
        return result
    yield from check
    passed()
    reply = yield points
    return (yield from _rest(estimate, reply))


def _rest(estimate: Generator[Points, Array, T], reply: Array) -> Generator[Points, Array, T]:
    while True:
        try:
            points = estimate.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result
        reply = yield points


def _finish(check: Generator[Points, Array, None], values: Array) -> None:
    with contextlib.suppress(StopIteration):
        check.send(values)


def check_rows(primal: Primal, name: str) -> Generator[Points, Array, None]:
    """Check that row b of the result depends on row b of the batch alone.

    One more evaluation has about half of the rows displaced, in the company of the displaced
    batches of the gradient; the others must not move. A batch of one row is evaluated as it is,
    between two displaced copies: three evaluations.

    Raises:
        BadResult: naming the first row that moved.
    """
    displaced = _displaced_rows(primal.rows)
    sign = np.ones_like(primal.rows)
    # The smallest goes down, and so stays the smallest in the company of other batches.
    np.put_along_axis(sign, primal.rows.argmin(axis=0)[None], -1.0, axis=0)
    step = _steps.first_order(FORWARD, primal.noise)
    if primal.room is not None:
        # Inward where a bound is near.
        sign = np.where(primal.room.rows_up < primal.room.rows_down, -1.0, sign)
    # By different amounts, so that nothing cancels in a sum over the rows.
    sizes = displaced * (1 + np.arange(len(displaced)) * _GOLDEN % 1)
    moved = primal.rows + step * primal.scale_rows * sign * sizes[:, None]
    if len(primal.rows) == 1:
        moved = primal.rows + step * primal.scale_rows * sign
        points = Points(np.stack([moved, primal.rows, moved]), None)
        values = (yield rounded(points, primal))[1:2]
    else:
        values = yield rounded(Points(moved[None], None), primal)
    assert primal.value is not None  # the forward pass evaluated it
    change = np.abs(values[0] - primal.value).max(axis=1, initial=0.0)
    allowed = _SAME * primal.noise * np.abs(primal.value).max(initial=0.0)
    # NaN has moved too.
    moved_too = ~(change <= allowed) & ~displaced
    if not np.any(moved_too):
        return
    row = int(np.flatnonzero(moved_too)[0])
    raise BadResult(
        f"Row {row} of `{name}` moved by {change[row]:.2g} although only other rows were "
        "displaced.",
        "With `batch_dims`, row b of every output depends on row b and on shared arguments only, "
        "whatever the number of rows; and the function must be deterministic to its digits.",
        f"Leave out `batch_dims`; or take out of `{name}` what couples the rows (batch norm in "
        "train mode, a mean over the batch); or state its noise: `FiniteDifference(noise=…)`.",
    )


def _displaced_rows(rows: Array) -> Array:
    """Return which rows (R,) are displaced: some, but never all.

    Every second row and the last one, so that neighbors, sums over all rows, and the first or
    the last row as a reference for the others show; and the rows that are the smallest or the
    largest in some column, so that a minimum or a maximum over the batch shows.
    """
    count = len(rows)
    each = np.arange(count)
    # The second half of an odd number is shifted, so that rows in reverse order show as well.
    displaced: Array = (each + (count % 2) * (each > count // 2)) % 2 == 0
    displaced &= count > 1
    if count > 2:
        extremes = np.union1d(rows.argmin(axis=0), rows.argmax(axis=0))
        displaced[-1] = True
        displaced[extremes] = True
        if displaced.all():
            between = np.setdiff1d(each, extremes)
            displaced[between[0] if len(between) else count // 2] = False
    return displaced


def check_complex(primal: Primal, name: str, draw: Draw) -> Generator[Points, Array, None]:
    """Check that the function is complex-analytic: compare with a central difference.

    One complex and two real evaluations along one random direction. `abs`, `norm`, `conj` and
    other functions that are not analytic differ in the first digit.

    Raises:
        BadResult: if the two slopes differ.
    """
    signs = draw().integers(0, 2, primal.columns) * 2.0 - 1.0
    d = primal.rows.shape[1]
    complex_slope = yield from _slope(primal, COMPLEX_STEP, signs[:d], signs[d:])
    slope = yield from _slope(primal, CENTRAL, signs[:d], signs[d:])
    assert primal.value is not None  # the forward pass evaluated it
    # A central difference is right to about noise^(2/3) of the output.
    size = np.abs(primal.value).max(initial=0.0)
    allowed = 1e-4 * np.abs(slope).max(initial=0.0) + 10 * primal.noise ** (2 / 3) * size
    error = np.abs(slope - complex_slope).max(initial=0.0)
    if error <= allowed:
        return
    raise BadResult(
        f"`{name}` is not complex-analytic: the complex step and a difference disagree by "
        f"{error:.2g}, the slope being {np.abs(slope).max():.2g}.",
        "The complex step is right only where f(x + ih) is the analytic continuation of f: not "
        "for `abs`, `norm`, `conj`, Cholesky factors and the like.",
        "Use `FiniteDifference(stencils.CENTRAL)` or `FiniteDifference(stencils.central(4))`.",
    )


def _slope(
    primal: Primal, rule: Stencil, rows: Array, shared: Array
) -> Generator[Points, Array, Array]:
    """Return the slopes (R, O) along one direction, in units of the scale."""
    step = _steps.first_order(rule, primal.noise)
    moves = step * rule.moved_nodes
    values = yield Points(
        primal.rows + np.multiply.outer(moves, rows * primal.scale_rows),
        primal.shared + np.multiply.outer(moves, shared * primal.scale_shared),
    )
    slopes: Array = np.real(np.tensordot(rule.moved_weights, values, axes=(0, 0))) / step
    return slopes
