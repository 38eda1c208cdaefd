"""Slopes by a stencil that is the same for every direction."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from suture._methods._along import MoveLines, bounded_slopes
from suture._methods._answers import Answer, ColumnLines, answered, has_failed
from suture._methods._arms import are_free, distinct, fitted, movable, room_of, slope_of
from suture._methods._base import (
    Contract,
    Estimate,
    Linearization,
    Points,
    Primal,
    Remarks,
)
from suture._methods._displace import (
    blocks,
    column_points,
    combine,
    displace,
    joined,
    norms_of,
    own_columns,
)
from suture._methods._shift import check_room, check_shifted
from suture._stencil import Stencil
from suture._types import Array
from suture.directions import AbstractDirections, Coordinate


def by_column(
    primal: Primal, rule: Stencil, units: tuple[Array, Array], keep: Contract
) -> Estimate:
    """Displace one input at a time, by `units` (R, d) and (p,) times the nodes."""
    columns = movable(primal)
    kept: list[Array] = []
    norms: list[Array] = []
    errors: list[Array | None] = []
    remarks = Remarks()
    for block in blocks(columns, primal, len(rule.moved_nodes)):
        room = None if rule.is_complex else room_of(primal, block)
        own = own_columns(primal, block, *units)
        error = None
        if rule.absolute:
            slopes = yield from _shifted(primal, rule, block, room)
        elif room is None:
            slopes, error = yield from _as_named(primal, rule, block, units, own, remarks)
        else:
            moves, odd = fitted(rule.moved_nodes, own, room)
            remarks.bounded += int(odd.any(axis=1).sum())
            slopes = yield from _as_fitted(primal, block, moves, remarks)
        errors.append(error)
        norms.append(norms_of(slopes, own))
        kept.append(keep(slopes))
    known = [error for error in errors if error is not None]
    return Linearization(
        Coordinate(),
        np.arange(primal.columns),
        spread(kept, columns, primal, keep),
        None,
        None,
        error=_filled(known, columns, primal) if known and len(known) == len(errors) else None,
        norms=_filled(norms, columns, primal),
        remarks=remarks,
    )


def _as_named(
    primal: Primal,
    rule: Stencil,
    block: Array,
    units: tuple[Array, Array],
    own: Array,
    remarks: Remarks,
) -> Generator[Points, Array, tuple[Array, Array | None]]:
    """Return slopes by the nodes of a stencil, and their errors where it tells them.

    `own` (K, R or 1) is the unit of each input of the block.
    """
    points, taken = displace(primal, rule, block, *units)
    values = yield points
    answer = None
    if has_failed(primal, rule, values):
        moves = rule.moved_nodes[:, None] * own[:, None]
        nodes = values.reshape((len(block), -1, *values.shape[1:]))
        answer = yield from _answered(primal, block, moves, nodes)
    error = _embedded_error(rule, values, primal.value, own / taken)
    slopes = combine(rule, values, primal.value)
    slopes /= taken[:, :, None]
    if answer is not None:
        answer.put(slopes, remarks)
        error = None  # that of fewer or unequal arms is not known
    if primal.room is not None:  # an imaginary part has room everywhere
        slopes[~_has_room(primal, block)] = 0.0
    return slopes, error


def _as_fitted(
    primal: Primal, block: Array, moves: Array, remarks: Remarks
) -> Generator[Points, Array, Array]:
    """Return slopes by nodes at `moves` (K, s, R) that fit between bounds."""
    points, displaced = column_points(primal, block, moves)
    values = yield points
    values = values.reshape((len(block), -1, *values.shape[1:]))
    assert primal.value is not None  # near bounds every formula has f(x) as a node
    slopes = slope_of(values, primal.value, displaced, distinct(displaced))
    if not np.isfinite(values).all() and primal.derivative == 1:
        answer = yield from _answered(primal, block, moves, values)
        answer.put(slopes, remarks)
    return slopes


def _answered(
    primal: Primal, block: Array, moves: Array, values: Array
) -> Generator[Points, Array, Answer]:
    taken = column_points(primal, block, moves)[1]
    lines = ColumnLines(primal, block)
    return (yield from answered(lines, moves, taken, values, primal.value, primal.on_failure))


def _shifted(
    primal: Primal, rule: Stencil, block: Array, room: tuple[Array, Array] | None
) -> Generator[Points, Array, Array]:
    """Return slopes by a rule that displaces by its nodes, in the units of the inputs."""
    if room is not None:
        check_room(rule.moved_nodes, room)
    here = own_columns(primal, block, primal.rows, primal.shared)
    moves = np.broadcast_to(
        rule.moved_nodes[:, None], (len(block), len(rule.moved_nodes), here.shape[1])
    )
    points, taken = column_points(primal, block, moves)
    check_shifted(here, taken, rule.moved_nodes, primal.noise)
    return combine(rule, (yield points), primal.value)


def by_direction(
    primal: Primal,
    rule: Stencil,
    units: tuple[Array, Array],
    keep: Contract,
    directions: AbstractDirections,
    seeds: Array,
) -> Estimate:
    """Displace many inputs at once, along seeds (k, n) in multiples of `units`."""
    d = primal.rows.shape[1]
    seeds, around = _without_fixed(primal, seeds, units)
    kept, taken_seeds = [], []
    remarks = Remarks()
    for block in blocks(seeds, primal, len(rule.moved_nodes)):
        moves = block[:, None, :d] * units[0], block[:, d:] * units[1]
        if primal.room is None:
            slopes, taken = yield from _along_seeds(primal, rule, block, units, moves, remarks)
        else:
            slopes = yield from bounded_slopes(primal, rule, units, *moves, remarks)
            taken = block
        kept.append(keep(slopes))
        taken_seeds.append(taken)
    return Linearization(
        directions,
        joined(taken_seeds),
        joined(kept),
        *around,
        relative_sampling=directions.relative_error(primal.columns),
        remarks=remarks,
    )


def _along_seeds(
    primal: Primal,
    rule: Stencil,
    seeds: Array,
    units: tuple[Array, Array],
    moves: tuple[Array, Array],
    remarks: Remarks,
) -> Generator[Points, Array, tuple[Array, Array]]:
    """Return slopes along seeds (K, n), and the seeds that were taken."""
    points, taken = displace(primal, rule, seeds, *units)
    values = yield points
    answer = None
    if has_failed(primal, rule, values):
        answer = yield from MoveLines(primal, units, *moves).answered(rule, values)
    slopes = combine(rule, values, primal.value)
    if answer is not None:
        answer.put(slopes, remarks)
        # Its rounding is in the slopes already, which are along the seeds as they were drawn.
        taken[answer.lines] = seeds[answer.lines]
    return slopes, taken


def _has_room(primal: Primal, block: Array) -> Array:
    """Return which columns can move in which rows, (K, R)."""
    room = room_of(primal, block)
    assert room is not None  # there are bounds
    free = (room[0] > 0) | (room[1] > 0)
    return np.broadcast_to(free, (len(block), len(primal.rows)))


def _without_fixed(
    primal: Primal, seeds: Array, units: tuple[Array, Array]
) -> tuple[Array, tuple[Array, Array]]:
    """Leave inputs whose bounds meet out of seeds (k, n); their slope is to be 0.

    Seeds are the same for all rows. Where an input is fixed in some rows only, its unit there is
    infinite: its slope per unit of x is 0.
    """
    room = primal.room
    if room is None:
        return seeds, units
    rows = np.where(room.free_rows, units[0], np.inf)
    shared = np.where(room.free_shared, units[1], np.inf)
    return np.where(are_free(primal), seeds, 0.0), (rows, shared)


def spread(kept: list[Array], columns: Array, primal: Primal, keep: Contract) -> Array:
    """Return what was kept of each column, (n, …); those that cannot move have slope 0."""
    if len(columns) == primal.columns:
        return joined(kept)
    if not kept:
        return keep(np.zeros((primal.columns, len(primal.rows), primal.outputs)))
    found = joined(kept)
    whole = np.zeros((primal.columns, *found.shape[1:]), found.dtype)
    whole[columns] = found
    return whole


def _filled(parts: list[Array], columns: Array, primal: Primal) -> Array:
    whole = np.zeros(primal.columns)
    whole[columns] = np.concatenate([np.zeros(0), *parts])
    return whole


def _embedded_error(rule: Stencil, values: Array, base: Array | None, share: Array) -> Array | None:
    """Return ‖Σ_s e_s f_s‖ · share with the error weights e of a stencil, (K,), None without.

    `share` (K, R or 1) is 1/h, or the unit of the input over the displacement.
    """
    if rule.error_weights is None:
        return None
    weights = np.array([w for t, w in zip(rule.nodes, rule.error_weights, strict=True) if t != 0])
    total = np.tensordot(weights, values.reshape((-1, len(weights), *values.shape[1:])), (0, 1))
    for node, weight in zip(rule.nodes, rule.error_weights, strict=True):
        if node == 0 and base is not None:
            total = total + weight * base
    return norms_of(np.real(total), share)
