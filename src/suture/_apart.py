"""Two places a little apart, whose gradients differ by a second derivative."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suture._axes import Axes
from suture._drive import Site
from suture._methods import CustomVJP, reach_of, unit_length
from suture._node import Node
from suture._results import host
from suture._types import Array
from suture.errors import MethodError

# They may be this part of the best distance apart: their noise counts ten times as much then.
_WORTH = 0.1


def columns_of(site: Site, axes: Axes, tangents: Sequence[Tensor]) -> tuple[Array, Array]:
    """Return tangents as rows (S, T, R, d) and shared columns (S, T, p)."""
    leaves = [leaf for leaf, want in zip(site.frame.call.leaves, site.wanted, strict=True) if want]
    arrays = []
    for tangent, leaf in zip(tangents, leaves, strict=True):
        array = host(tangent).astype(np.complex128 if leaf.dtype.is_complex else np.float64)
        arrays.append(axes.split(array, len(leaf.shape)))
    counts = (prod(axes.own), prod(axes.free))
    return site.inputs.layout.gather(arrays, counts)


def displaced_pair(
    node: Node, leaves: Sequence[Tensor], first: tuple[int, ...], tangents: Sequence[Tensor]
) -> tuple[Any, Array] | None:
    """Displace the leaves by ± a tangent.

    Args:
        node: its `inputs` name the leaves that have tangents.
        leaves: the arguments.
        first: the leading axes of leaves and tangents together: S samples.
        tangents: one for each of these leaves.

    Returns:
        A function that makes, for the leaves it is told to differentiate by, the site of 2S
        samples at x + αv and x - αv; and 1 / 2α for each sample and row, (S, R). Near bounds α is
        shorter, or one of the two is x. None if all tangents are zero.

    Raises:
        MethodError: if bounds leave too little room for either.
    """
    spread = [leaf.expand((*first, *leaf.shape[node.lead :])) for leaf in leaves]
    base = node.site(spread, node.moves, None, node.lead)
    rows, shared = columns_of(base, Axes(first, first), tangents)
    rows, shared = _movable(base, rows[:, 0], shared[:, 0])
    if not (np.any(rows) or np.any(shared)):
        return None
    method = node.method
    if isinstance(method, CustomVJP) and node.frame.rule_is_partial:
        method = method.remainder
    step = method.outer_step(base.noise)
    alpha = unit_length(rows / (step * base.scale_rows), shared / (step * base.scale_shared))
    moves = alpha[:, :, None] * rows, alpha[:, :1] * shared
    up, down = _ends(base, *moves)
    ends = base.inputs.layout.scatter(
        *_rounded(
            base,
            np.stack([base.inputs.rows + part[:, :, None] * moves[0] for part in (up, -down)]),
            np.stack([base.inputs.shared + part[:, :1] * moves[1] for part in (up, -down)]),
        )
    )
    moved = iter(ends)
    stacked = []
    for leaf, moves_here in zip(spread, node.moves, strict=True):
        samples = leaf.detach().reshape(base.samples, *leaf.shape[node.lead :])
        if moves_here:
            array = next(moved).reshape(2 * base.samples, *samples.shape[1:])
            stacked.append(torch.from_numpy(np.ascontiguousarray(array)).to(leaf.device))
        else:
            stacked.append(torch.cat([samples, samples]))

    def pair(wanted: Sequence[bool]) -> Site:
        origin = node.site(spread, wanted, None, node.lead)
        return Site(node.setting, stacked, 1, wanted, values=None, frozen=origin)

    return pair, 1 / ((up + down) * alpha)


def _movable(site: Site, rows: Array, shared: Array) -> tuple[Array, Array]:
    """Return tangents (S, R, d), (S, p) without the inputs whose bounds meet: they have slope 0."""
    rooms = [site.surroundings.room(s) for s in range(site.samples)]
    if rooms[0] is None:
        return rows, shared
    free_rows = [room.free_rows for room in rooms if room is not None]
    free_shared = [room.free_shared for room in rooms if room is not None]
    return np.where(free_rows, rows, 0.0), np.where(free_shared, shared, 0.0)


def _ends(site: Site, rows: Array, shared: Array) -> tuple[Array, Array]:
    """Return which parts of moves (S, R, d), (S, p) fit in ahead and back, (S, R) each.

    Both are the same, unless that would be less than a tenth: then one of them is 0.
    """
    ahead, back = np.ones(rows.shape[:2]), np.ones(rows.shape[:2])
    for s in range(site.samples):
        room = site.surroundings.room(s)
        if room is not None:
            for part, sign in ((ahead, 1.0), (back, -1.0)):
                reach = reach_of(room, sign * rows[s : s + 1], sign * shared[s : s + 1])
                part[s] = np.minimum(reach[0], 1.0)
    both = np.minimum(ahead, back)
    central, best = both >= _WORTH, np.maximum(ahead, back)
    if (best < _WORTH).any():
        raise MethodError(
            f"The bounds of `{site.frame.box.name}` leave a second derivative {best.min():.2g} of "
            "the displacement that it needs.",
            "It is a difference of two gradients, and over less than a tenth of that distance it "
            "is lost in their noise.",
            "Give wider `bounds=`, or equal ones: an input that cannot move has slope 0.",
        )
    upward = ahead >= back
    up = np.where(central, both, np.where(upward, ahead, 0.0))
    return up, np.where(central, both, np.where(upward, 0.0, back))


def _rounded(site: Site, rows: Array, shared: Array) -> tuple[Array, Array]:
    """Return points (2, S, R, d), (2, S, p) within the bounds."""
    if site.surroundings.is_bounded:
        for s in range(site.samples):
            bring = site.surroundings.round(s)
            assert bring is not None  # there are bounds
            inside = bring(rows[:, s], shared[:, s])
            assert inside[0] is not None  # as there were points
            assert inside[1] is not None
            rows[:, s], shared[:, s] = inside
    return rows, shared
