"""Claims that a gradient relies on, checked once, by points that ride along with its first round.

Each check is a generator like a method's: it yields points, is sent values, and raises if the
claim is false.
"""

from __future__ import annotations

import dataclasses
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

# To see in spite of noise whether rows interact, they are displaced by this part of their scale.
# And the mean of two evaluations may be so many times their difference away from f(x): by chance
# that happens to one output by itself in one of eighteen cases, (2/π) atan(√(3/4) / 10).
_FAR, _RANDOM = 0.1, 10.0

# The fractional parts of its multiples are all different, and evenly spread. Source: Knuth, The
# Art of Computer Programming, volume 3, section 6.4.
_GOLDEN = (math.sqrt(5) - 1) / 2


# Rounding in a difference falls by these factors with its step, and truncation grows by their
# squares: as much as tells them apart, while the step stays below 1/50 of the scale.
_LONGER = (4.0, 100.0)
_LONGEST = 0.02


def accompanied(
    estimate: Generator[Points, Array, T],
    check: Generator[Points, Array, None],
    passed: Callable[[], None],
) -> Generator[Points, Array, T]:
    """Let the points of a check stand second in the first round that displaces rows alone.

    There they have displaced rows before them, so that a function shows that counts rows, sums
    over earlier ones or refers to the first; and they are not alone in a call, unless all are.
    Where there is no such round, they make one of their own.

    Args:
        estimate: what asks for points first.
        check: what is asked once.
        passed: called if the check did not raise.
    """
    reply: Array | None = None
    pending, started = True, False
    while True:
        try:
            # The first `send` of a generator must be None; its type does not say so.
            points = estimate.send(reply)  # type: ignore[arg-type]
        except StopIteration as stop:
            if pending and started:
                yield from _finish(check, (yield next(check)))
                passed()
            result: T = stop.value
            return result
        started = True
        if not pending or points.rows is None or points.shared is not None:
            reply = yield points
            continue
        asked = next(check)
        assert asked.rows is not None  # rows are what it displaces
        count = len(asked)
        together = np.concatenate([points.rows[:1], asked.rows, points.rows[1:]])
        values = yield Points(together, None)
        yield from _finish(check, values[1 : 1 + count])
        reply = np.concatenate([values[:1], values[1 + count :]])
        pending = False
        passed()


def preceded(
    estimate: Generator[Points, Array, T],
    check: Generator[Points, Array, bool],
    passed: Callable[[], None],
) -> Generator[Points, Array, T]:
    """Let a check of any number of rounds run before an estimate, if that asks for anything.

    Args:
        estimate: what asks for points first.
        check: what is asked before; it returns whether the claim is settled.
        passed: called if it is.
    """
    try:
        points = next(estimate)
    except StopIteration as stop:
        result: T = stop.value
        return result
    if (yield from check):
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


def _finish(check: Generator[Points, Array, None], values: Array) -> Generator[Points, Array, None]:
    """Send a check its values, and go on by itself where it asks for more."""
    while True:
        try:
            points = check.send(values)
        except StopIteration:
            return
        values = yield points


def check_rows(primal: Primal, name: str) -> Generator[Points, Array, None]:
    """Check that row b of the result depends on row b of the batch alone.

    One more evaluation has about half of the rows displaced, in the company of the displaced
    batches of the gradient; the others must not move. A batch of one row is evaluated as it is,
    between two displaced copies: three evaluations. Where a row moved, two evaluations by
    themselves tell whether the function is noisy: then the others must not move by more than that.

    Raises:
        BadResult: naming the first row that moved.
    """
    displaced = _displaced_rows(primal.rows)
    value = primal.value
    assert value is not None  # the forward pass evaluated it
    values = yield _half_displaced(primal, displaced, _steps.first_order(FORWARD, primal.noise))
    change = np.abs(values[len(values) // 2] - value).max(axis=1, initial=0.0)
    allowed = _SAME * primal.noise * np.abs(value).max(initial=0.0)
    # NaN has moved too.
    moved = ~(change <= allowed) & ~displaced
    if not np.any(moved):
        return
    far = _half_displaced(primal, displaced, _FAR)
    first = yield far
    second = yield far
    noise = np.abs(first - second)[:, ~displaced].max(initial=0.0)
    if noise > 0:
        mean = (first + second)[len(first) // 2] / 2
        change = np.abs(mean - value).max(axis=1, initial=0.0)
        moved = ~(change <= _RANDOM * noise) & ~displaced
        if not np.any(moved):
            return
    row = int(np.flatnonzero(moved)[0])
    if np.isnan(change[row]):
        raise BadResult(
            f"Row {row} of `{name}` has no value where only other rows are displaced.",
            "Whether the rows are independent, as `batch_dims` says, cannot be seen there: either "
            "they are not, or the whole call fails because of one row.",
            f"Let `{name}` return NaN in the rows that fail, and values in the others.",
        )
    raise BadResult(
        f"Row {row} of `{name}` moved by {change[row]:.2g} although only other rows were "
        "displaced.",
        "With `batch_dims`, row b of every output depends on row b and on shared arguments only, "
        "whatever the number of rows; and the function must be deterministic to its digits.",
        f"Leave out `batch_dims`; or take out of `{name}` what couples the rows (batch norm in "
        "train mode, a mean over the batch); or state its noise: `FiniteDifference(noise=…)`.",
    )


def _half_displaced(primal: Primal, displaced: Array, step: float) -> Points:
    """Return a batch some of whose rows are displaced; one row stands between two that are."""
    sign = np.ones_like(primal.rows)
    # The smallest goes down, and so stays the smallest in the company of other batches.
    np.put_along_axis(sign, primal.rows.argmin(axis=0)[None], -1.0, axis=0)
    if primal.room is not None:
        # The other way where a bound is nearer than twice the step, and the other one is not.
        down, up = primal.room.rows_down, primal.room.rows_up
        blocked = np.where(sign > 0, up, down) < 2 * step * primal.scale_rows
        sign = np.where(blocked, np.where(up < down, -1.0, 1.0), sign)
    if len(primal.rows) == 1:
        moved = primal.rows + step * primal.scale_rows * sign
        return rounded(Points(np.stack([moved, primal.rows, moved]), None), primal)
    # By different amounts, so that nothing cancels in a sum over the rows.
    sizes = displaced * (1 + np.arange(len(displaced)) * _GOLDEN % 1)
    moved = primal.rows + step * primal.scale_rows * sign * sizes[:, None]
    return rounded(Points(moved[None], None), primal)


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


def check_complex(primal: Primal, name: str, draw: Draw) -> Generator[Points, Array, bool]:
    """Check that the function is complex-analytic: compare with a central difference.

    One complex and two real evaluations along one random direction. `abs`, `norm`, `conj` and
    other functions that are not analytic differ in the first digit. Where the two differ without
    that being proof, two more evaluations with a longer step decide.

    Returns:
        Whether it is settled: not where all slopes are lost in the noise.

    Raises:
        BadResult: if the two slopes differ.
    """
    line = _Line.near(primal, draw())
    complex_slope = yield from line.slope(COMPLEX_STEP, _steps.first_order(COMPLEX_STEP, 0.0))
    step = _steps.first_order(CENTRAL, primal.noise)
    slope = yield from line.slope(CENTRAL, step)
    assert primal.value is not None  # the forward pass evaluated it
    error, value = np.abs(slope - complex_slope), np.abs(primal.value)
    # A central difference is right to about noise^(2/3) of the largest output; most are right to
    # that of their own size.
    floor = 10 * primal.noise ** (2 / 3)
    lost = floor * value.max(initial=0.0)
    far = error > 1e-4 * np.abs(slope).max(initial=0.0) + lost
    near = ~far & (error > 1e-4 * np.abs(slope) + 10 * floor * value)
    settled = not far.any() and bool(np.any(np.abs(slope) > lost))
    if not (far.any() or near.any()):
        return settled
    longer = float(np.clip(_LONGEST / step, *_LONGER))
    again = yield from line.slope(CENTRAL, longer * step)
    # What is not analytic differs by as much as before. Near by, rounding may explain it, which
    # falls with the step: in a difference of large numbers. Farther off, only truncation may,
    # which grows with its square: in x³ at zero.
    stays = np.abs(again - slope) < 0.1 * error
    grows = np.abs(again - complex_slope) > longer * error
    wrong = (far & ~grows) | (near & stays)
    if not wrong.any():
        return settled
    worst = np.unravel_index(np.argmax(np.where(wrong, error, -1.0)), error.shape)
    raise BadResult(
        f"`{name}` is not complex-analytic: the complex step and a difference disagree by "
        f"{error[worst]:.2g}, the slope being {abs(slope[worst]):.2g}.",
        "The complex step is right only where f(x + ih) is the analytic continuation of f: not "
        "for `abs`, `norm`, `conj`, Cholesky factors and the like.",
        "Use `FiniteDifference(stencils.CENTRAL)` or `FiniteDifference(stencils.central(4))`.",
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Line:
    """A line near x: its origin, and what one step along it displaces, in units of x."""

    primal: Primal
    rows: Array
    shared: Array
    unit_rows: Array
    unit_shared: Array

    @classmethod
    def near(cls, primal: Primal, generator: np.random.Generator) -> _Line:
        """Draw a line.

        By different amounts, so that the slopes of inputs of equal size do not cancel; and not
        through x, where the slopes of an even function vanish (parameters often start at zero),
        and where a kink may be that is analytic on either side.
        """
        signs = generator.integers(0, 2, primal.columns) * 2.0 - 1.0
        sizes, aside = generator.uniform(0.5, 1.0, (2, primal.columns))
        # Farther than a step: noise^(1/4) is 20 steps of 6e-6 in float64, 4 of 5e-3 in float32.
        far, along = (1 + aside) * primal.noise ** (1 / 4) * signs, sizes * signs
        d, room = primal.rows.shape[1], primal.room
        rows, unit_rows = primal.scale_rows * far[:d], primal.scale_rows * along[:d]
        shared, unit_shared = primal.scale_shared * far[d:], primal.scale_shared * along[d:]
        if room is not None:
            longest = max(_LONGEST, _LONGER[0] * _steps.first_order(CENTRAL, primal.noise))
            rows, unit_rows = _within(room.rows_down, room.rows_up, rows, unit_rows, longest)
            shared, unit_shared = _within(
                room.shared_down, room.shared_up, shared, unit_shared, longest
            )
        return cls(primal, primal.rows + rows, primal.shared + shared, unit_rows, unit_shared)

    def slope(self, rule: Stencil, step: float) -> Generator[Points, Array, Array]:
        """Return the slopes (R, O) along the line."""
        moves = step * rule.moved_nodes
        points = Points(
            self.rows + np.multiply.outer(moves, self.unit_rows),
            self.shared + np.multiply.outer(moves, self.unit_shared),
        )
        values = yield rounded(points, self.primal)
        slopes: Array = np.real(np.tensordot(rule.moved_weights, values, axes=(0, 0))) / step
        return slopes


def _within(down: Array, up: Array, aside: Array, unit: Array, steps: float) -> tuple[Array, Array]:
    """Shorten and shift a line so that `steps` of it on either side stay inside the bounds."""
    half = (down + up) / 2
    fits = np.sign(unit) * np.minimum(np.abs(unit), half / steps)
    arm = steps * np.abs(fits)
    return np.clip(aside, arm - down, up - arm), fits
