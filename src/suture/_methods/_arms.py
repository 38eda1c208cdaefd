"""Differences whose arms differ from input to input: near bounds, and where one side fails.

The polynomial through f at x and at the displacements δ_s has at x the slope Σ_s w_s (f_s - f(x))
and the curvature Σ_s c_s (f_s - f(x)),

    w_s = 1/δ_s Π_{q≠s} δ_q / (δ_q - δ_s),

and for two displacements c_s = 2 / (δ_s (δ_s - δ_q)). Nodes that are not usable are left out.

Source: Fornberg (1988), Mathematics of Computation 51, 699-706.
"""

from __future__ import annotations

import numpy as np

from suture._methods._base import Primal
from suture._methods._displace import own_columns
from suture._types import Array

# An arm shorter than this part of what was wanted is not worth an evaluation: its noise is ten
# times that of the other arm.
_SHORTEST = 0.1


def slope_of(values: Array, base: Array, taken: Array, usable: Array) -> Array:
    """Return the slopes (K, R, O), 0 where no node is usable.

    Args:
        values: (K, s, R, O).
        base: (R, O) f(x).
        taken: (K, s, R) displacements, R or 1.
        usable: (K, s, R).
    """
    return _weighted(_slope_weights(taken, usable), values, base, usable)


def curvature_of(values: Array, base: Array, taken: Array, usable: Array) -> Array:
    """Return the curvatures (K, R, O) from two nodes, NaN where one of them is not usable."""
    first, second = taken[:, 0], taken[:, 1]
    both = np.all(usable, axis=1)
    safe = np.where(both, first - second, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.stack([2 / (first * safe), -2 / (second * safe)], axis=1)
    curvature = _weighted(np.where(both[:, None], weights, 0.0), values, base, usable)
    curvature[~both] = np.nan
    return curvature


def distinct(taken: Array) -> Array:
    """Return which nodes, of displacements (K, s, R), are neither x nor where an earlier one is.

    Rounding may bring them together where there is room for a few units in the last place only;
    or to infinity, at the end of the range of a precision.
    """
    apart: Array = (taken != 0) & np.isfinite(taken)
    for s in range(1, taken.shape[1]):
        apart[:, s] &= np.all(taken[:, s : s + 1] != taken[:, :s], axis=1)
    return apart


def _slope_weights(taken: Array, usable: Array) -> Array:
    safe = np.where(usable, taken, 1.0)
    weights = np.where(usable, 1 / safe, 0.0)
    for s in range(taken.shape[1]):
        for q in range(taken.shape[1]):
            if q != s:
                both = usable[:, s] & usable[:, q]
                apart = np.where(both, safe[:, q] - safe[:, s], 1.0)
                weights[:, s] *= np.where(both, safe[:, q] / apart, 1.0)
    return weights


def _weighted(weights: Array, values: Array, base: Array, usable: Array) -> Array:
    total = np.zeros((len(values), *values.shape[2:]))
    for s in range(values.shape[1]):
        # What is not usable may be NaN, which a weight of zero would not remove.
        change = np.where(usable[:, s, :, None], values[:, s] - base, 0.0)
        total += weights[:, s, :, None] * change
    return total


def room_of(primal: Primal, columns: Array) -> tuple[Array, Array] | None:
    """Return how far some columns may go down and up, (K, R) each, None without bounds."""
    room = primal.room
    if room is None:
        return None
    return (
        own_columns(primal, columns, room.rows_down, room.shared_down),
        own_columns(primal, columns, room.rows_up, room.shared_up),
    )


def are_free(primal: Primal) -> Array:
    """Return whether each column may move in some row, (n,)."""
    if primal.room is None:
        return np.ones(primal.columns, dtype=bool)
    return np.concatenate([primal.room.free_rows.any(axis=0), primal.room.free_shared])


def movable(primal: Primal) -> Array:
    """Return the columns that may move in some row: all but those whose bounds meet."""
    return np.flatnonzero(are_free(primal))


def fitted(nodes: Array, unit: Array, room: tuple[Array, Array]) -> tuple[Array, Array]:
    """Fit real nodes between the bounds.

    As wanted; else the same number of nodes on the other side; else, with nodes on both sides,
    each side as far as it goes (unequal arms); else fewer units on the roomier side.

    Args:
        nodes: (s,) real, without 0.
        unit: (K, R) signed displacement of node 1.
        room: how far down and up, (K, R) each.

    Returns:
        Displacements (K, s, R), 0 where there is no room at all; and which (K, R) are not as
        wanted.
    """
    down, up = room
    moves = nodes[:, None] * unit[:, None, :]
    low, high = -np.minimum(moves.min(axis=1), 0), np.maximum(moves.max(axis=1), 0)
    odd = (low > down) | (high > up)
    if not odd.any():
        return moves, odd
    reach = np.maximum(low, high)
    upward = np.where((reach <= up) & (reach <= down), low < high, up >= down)
    side = np.where(upward, 1.0, -1.0)
    # Nodes on one side are as far apart as they were on both.
    roomy = np.minimum(np.maximum(up, down), np.where(low * high > 0, 2 * reach, reach))
    # One side: the nodes 1, …, s, evenly up to where there is room.
    order = np.argsort(np.argsort(np.abs(nodes), kind="stable"), kind="stable") + 1
    single = (side * roomy / len(nodes))[:, None, :] * order[:, None]
    if (nodes > 0).any() and (nodes < 0).any():
        shrink_low = np.minimum(1, down / np.where(low > 0, low, 1.0))
        shrink_high = np.minimum(1, up / np.where(high > 0, high, 1.0))
        double = moves * np.where(moves < 0, shrink_low[:, None], shrink_high[:, None])
        worth = np.minimum(shrink_low, shrink_high) >= _SHORTEST
        whole = roomy >= 2 * reach
        single = np.where((worth & ~whole)[:, None], double, single)
    return np.where(odd[:, None], single, moves), odd
