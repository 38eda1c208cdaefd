"""Points that are displaced, and how far they really went."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from suture._methods._base import Points, Primal
from suture._stencil import Stencil
from suture._types import Array
from suture.errors import MethodError


def unit_length(rows: Array, shared: Array) -> Array:
    """Return the factors (T, R) that bring tangents (T, R, d), (T, p) to length one.

    Rows are independent, so each has its own factor, unless a shared input moves too: then the
    longest row decides for all. A row whose tangent is zero is left alone.
    """
    moves_shared = np.any(shared != 0, axis=-1)[:, None]
    sizes = np.abs(rows).max(axis=-1, initial=0.0)
    largest = np.maximum(sizes, np.abs(shared).max(axis=-1, initial=0.0)[:, None])
    largest = np.where(moves_shared, largest.max(axis=1, keepdims=True, initial=0.0), largest)
    largest = np.where(largest > 0, largest, 1.0)
    # Divided by the largest, so that squares neither overflow nor underflow.
    squares = np.sum((rows / largest[:, :, None]) ** 2, axis=-1)
    squares = squares + np.sum((shared[:, None] / largest[:, :, None]) ** 2, axis=-1)
    longest = squares.max(axis=1, keepdims=True, initial=0.0)
    squares = np.where(moves_shared, longest, squares)
    factors: Array = 1 / np.sqrt(np.where(squares > 0, squares, 1.0)) / largest
    return factors


def directions_per_block(primal: Primal, nodes: int) -> int:
    values = len(primal.rows) * primal.outputs
    per_direction = nodes * (primal.rows.size + primal.shared.size + values)
    return max(1, primal.capacity // max(1, per_direction))


def blocks(seeds: Array, primal: Primal, nodes: int) -> Iterator[Array]:
    """Cut the seeds into blocks that fit; unit vectors of rows and of shared inputs apart."""
    size = directions_per_block(primal, nodes)
    d = primal.rows.shape[1]
    if seeds.ndim > 1 and len(seeds) <= size:
        yield seeds
        return
    mixed = seeds.ndim == 1 and d and primal.shared.size
    parts = [seeds[seeds < d], seeds[seeds >= d]] if mixed else [seeds]
    for part in parts:
        for start in range(0, len(part), size):
            yield part[start : start + size]


def displace(
    primal: Primal, rule: Stencil, seeds: Array, unit_rows: Array, unit_shared: Array
) -> tuple[Points, Array]:
    """Return the points of K directions, node after node, and what was really taken.

    For unit vectors that is Σ_s w_s (x + δ_s - x) in units of x, (K, R) or (K, 1): the divisor
    of the quotient. For dense seeds it is the seeds after rounding,
    (K, n).
    """
    nodes = rule.moved_nodes
    d = primal.rows.shape[1]
    if seeds.ndim == 1:
        return _displace_columns(primal, rule, seeds, unit_rows, unit_shared)
    rows = seeds[:, None, :d] * unit_rows
    shared = seeds[:, d:] * unit_shared
    points = rounded(
        Points(
            along(primal.rows, rows, nodes) if d else None,
            along(primal.shared, shared, nodes) if primal.shared.size else None,
        ),
        primal,
    )
    _check_columns(points.rows, primal.rows, unit_rows)
    _check_columns(points.shared, primal.shared, unit_shared)
    if len(primal.rows) != 1 or points.rows is None or primal.shared.size:
        # Rounding differs from row to row; it is far below the error of random directions.
        return points, seeds
    taken = _moment(rule, points.rows, primal.rows)[:, 0] / unit_rows[0]
    taken = np.where(np.isfinite(primal.rows[0]), taken, seeds)
    if not np.isfinite(taken).all():
        _check_moved(taken, np.broadcast_to(unit_rows, taken.shape))
    return points, taken


def _displace_columns(
    primal: Primal, rule: Stencil, seeds: Array, unit_rows: Array, unit_shared: Array
) -> tuple[Points, Array]:
    unit = own_columns(primal, seeds, unit_rows, unit_shared)  # (K, R)
    points, displacements = column_points(
        primal, seeds, rule.moved_nodes[:, None] * unit[:, None, :]
    )
    with np.errstate(invalid="ignore"):  # infinity minus infinity, see below
        taken = (rule.moved_weights @ displacements).real
    size = np.abs(taken)
    if not (size.min() > 0 and size.max() < np.inf):  # some are zero, NaN or infinite
        _check_moved(taken, unit)
    return points, taken


def own_columns(primal: Primal, columns: Array, rows: Array, shared: Array) -> Array:
    """Return, of numbers (R, d) and (p,) that belong to inputs, those of some columns, (K, R).

    The columns are all in the rows or all shared; R is 1 for shared ones.
    """
    d = primal.rows.shape[1]
    own: Array = rows[:, columns].T if columns[0] < d else shared[None, columns - d].T
    return own


def norms_of(slopes: Array, units: Array) -> Array:
    """Return the norm of slopes (K, R, O) over rows and outputs, per unit (K, R or 1), (K,)."""
    with np.errstate(over="ignore"):
        scaled = slopes * units[:, :, None]
        norms: Array = np.sqrt(np.einsum("kro,kro->k", scaled, scaled))
    return norms


def column_points(primal: Primal, columns: Array, moves: Array) -> tuple[Points, Array]:
    """Return points that displace one column each, and the displacements really taken.

    Args:
        primal: where.
        columns: (K,) all in the rows or all shared.
        moves: (K, s, R) in units of x, R = 1 for shared columns.

    Returns:
        K·s points, and (K, s, R) displacements after rounding.
    """
    d = primal.rows.shape[1]
    in_rows = bool(columns[0] < d)
    base, own = (primal.rows, columns) if in_rows else (primal.shared[None], columns - d)
    each = np.arange(len(columns))
    moved = np.empty((*moves.shape[:2], *base.shape), moves.dtype)
    moved[...] = base
    here = base[:, own].T[:, None]  # (K, 1, R)
    displaced = here + moves
    moved[each, :, :, own] = displaced
    flat = moved.reshape((-1, *base.shape))
    points = Points(flat, None) if in_rows else Points(None, flat[:, 0])
    if primal.round is not None:
        points = rounded(points, primal)
        exact = points.rows if points.rows is not None else points.shared
        assert exact is not None  # the block displaces one of the two
        displaced = exact.reshape(moved.shape)[each, :, :, own]
    with np.errstate(invalid="ignore"):
        taken = displaced - here
    if not np.isfinite(here).all():
        # Where x is NaN or infinite it cannot be displaced, and what f does not read has slope 0.
        taken = np.where(np.isfinite(here), taken, moves)
    return points, taken


def _check_columns(points: Array | None, base: Array, unit: Array) -> None:
    """Check that each input moved along at least one of several directions."""
    if points is not None:
        moved = np.any(points != base, axis=0) | ~np.isfinite(base)
        _check_moved(moved.astype(float), unit)


def _check_moved(taken: Array, wanted: Array) -> None:
    if not np.isfinite(taken).all():
        far = float(wanted[~np.isfinite(taken)][0])
        raise MethodError(
            f"A displacement of {far:.3g} leads out of the range of an input.",
            "The displaced input is infinite in the precision that the black box receives.",
            "Give a smaller `scale=` to `differentiable`, or use `stencils.BACKWARD`.",
        )
    if taken.all():
        return
    lost = float(wanted[taken == 0][0])
    raise MethodError(
        f"A displacement of {lost:.3g} does not change an input.",
        "It is lost in the rounding of the precision that the black box receives.",
        "Give a larger `step=` to the method, or a larger `scale=` to `differentiable`.",
    )


def along(base: Array, moves: Array, nodes: Array) -> Array:
    """Return base + t·move for K moves and every node t, (K·s, …)."""
    points = base + np.multiply.outer(nodes, moves).swapaxes(0, 1)
    return points.reshape(-1, *base.shape)


def rounded(points: Points, primal: Primal) -> Points:
    return points if primal.round is None else Points(*primal.round(points.rows, points.shared))


def _moment(rule: Stencil, points: Array, base: Array) -> Array:
    """Return Σ_s w_s (point_s - x), (K, …): the displacement that the quotient divides by."""
    weights = rule.moved_weights
    with np.errstate(invalid="ignore"):  # infinity minus infinity: the caller looks for NaN
        displacements = points.reshape(-1, len(weights), *base.shape) - base
    return np.real(np.tensordot(weights, displacements, axes=(0, 1)))


def fraction_taken(
    rule: Stencil,
    points: Points,
    primal: Primal,
    moves: tuple[Array, Array],
    units: tuple[Array, Array],
) -> Array:
    """Return how much of each move was really taken, (T, R); 1 but for rounding.

    The displacement after rounding, projected on the move, with lengths in units of the step.
    """
    shape = moves[0].shape[:2]
    taken, whole = np.zeros(shape), np.zeros(shape)
    if points.rows is not None:
        weight = moves[0] / units[0] ** 2
        moment = _moment(rule, points.rows, primal.rows)
        moment = np.where(np.isfinite(primal.rows), moment, moves[0])
        taken += np.sum(moment * weight, axis=-1)
        whole += np.sum(moves[0] * weight, axis=-1)
    if points.shared is not None:
        weight = moves[1] / units[1] ** 2
        moment = _moment(rule, points.shared, primal.shared)
        moment = np.where(np.isfinite(primal.shared), moment, moves[1])
        taken += np.sum(moment * weight, axis=-1)[:, None]
        whole += np.sum(moves[1] * weight, axis=-1)[:, None]
    still = whole == 0
    if np.any((taken == 0) & ~still):
        _check_moved(np.zeros(1), np.array([float(np.min(units[0], initial=np.inf))]))
    fraction: Array = np.where(still, 1.0, taken / np.where(still, 1.0, whole))
    return fraction


def combine(rule: Stencil, values: Array, base: Array | None) -> Array:
    """Return Re Σ_s w_s f_s, (K, R, O); `values` (K·s, R, O) may be overwritten."""
    first, *others = rule.moved_weights.tolist()
    split = values.reshape((-1, 1 + len(others), *values.shape[1:]))
    total = split[:, 0] if first == 1 else first * split[:, 0]
    for s, weight in enumerate(others, start=1):
        total += weight * split[:, s]
    total = total.real
    if base is None:
        return total
    if rule.base_weight == -1:
        total -= base
    elif rule.base_weight:
        total += rule.base_weight * base
    return total


def joined(arrays: list[Array]) -> Array:
    """Concatenate; one array is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
