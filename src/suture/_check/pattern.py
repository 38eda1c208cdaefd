"""Which output depends on which input, and how few groups of inputs can be displaced together."""

from __future__ import annotations

import numpy as np

from suture._types import Array


def colors_of(pattern: Array) -> int:
    """Return a small number of groups of columns that share no row.

    Inputs of one group can be displaced together: no output depends on two of them. Greedy
    coloring in three orders, natural, largest first and smallest last; the best of them.

    Args:
        pattern: (m, n) whether an output depends on an input.

    Example:
        >>> colors_of(np.eye(5, dtype=bool) | np.eye(5, k=1, dtype=bool))
        2

    Source: Curtis, Powell and Reid (1974), IMA Journal of Applied Mathematics 13(1), 117-119;
    the orders: Coleman and Moré (1983), SIAM Journal on Numerical Analysis 20(1), 187-209.
    """
    rows = np.unique(pattern, axis=0).astype(np.float32)
    conflict = rows.T @ rows > 0
    np.fill_diagonal(conflict, False)
    # An input that nothing depends on needs no evaluation.
    alive = np.flatnonzero(rows.any(axis=0))
    degrees = conflict[alive].sum(axis=1)
    largest_first = alive[np.argsort(-degrees, kind="stable")]
    orders = (alive, largest_first, _smallest_last(conflict, alive))
    return min(_greedy(conflict, order) for order in orders)


def _greedy(conflict: Array, order: Array) -> int:
    """Give each column in turn the first color that none of its neighbors has."""
    color = np.full(len(conflict), -1)
    for j in order:
        taken = set(color[conflict[j]].tolist())
        color[j] = next(i for i in range(len(conflict)) if i not in taken)
    return int(color.max(initial=-1)) + 1


def _smallest_last(conflict: Array, alive: Array) -> Array:
    """Return the columns in the order in which the one with fewest neighbors left is last."""
    left = np.zeros(len(conflict), bool)
    left[alive] = True
    order: list[int] = []
    while left.any():
        degrees = np.where(left, conflict[:, left].sum(axis=1), len(conflict) + 1)
        j = int(degrees.argmin())
        order.append(j)
        left[j] = False
    return np.array(order[::-1], int)
