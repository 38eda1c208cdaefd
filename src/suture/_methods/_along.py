"""Slopes along any directions: tangents, and random directions near bounds."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from suture._methods._arms import distinct, fitted, slope_of
from suture._methods._base import NoFiniteValue, Points, Primal, Room
from suture._methods._displace import (
    along,
    combine,
    fraction_taken,
    rounded,
    unit_length,
)
from suture._stencil import Stencil
from suture._types import Array
from suture.errors import MethodError

# A direction that bounds shorten to less than this part is taken in parts instead, each as far as
# it goes: the noise of the quotient would grow tenfold.
_WORTH = 0.1


def tangent_slopes(
    primal: Primal, rule: Stencil, units: tuple[Array, Array], rows: Array, shared: Array
) -> Generator[Points, Array, Array]:
    """Return output tangents (T, R, O) for tangents (T, R, d), (T, p), one difference for each.

    A tangent v is displaced by v / ‖v/u‖₂ with the displacements u of single inputs.
    """
    alpha = unit_length(rows / units[0], shared / units[1])  # (T, R)
    # Where a shared input moves, all rows have the same alpha.
    moves = alpha[:, :, None] * rows, alpha[:, :1] * shared
    if primal.room is not None:
        slopes = yield from bounded_slopes(primal, rule, units, *moves)
    else:
        slopes = yield from _slopes(primal, rule, units, *moves)
        if not np.isfinite(slopes).all():
            yield from mirrored(primal, rule, units, moves, slopes)
    slopes /= alpha[:, :, None]
    return slopes


def _slopes(
    primal: Primal, rule: Stencil, units: tuple[Array, Array], rows: Array, shared: Array
) -> Generator[Points, Array, Array]:
    points = rounded(_points(primal, rule.moved_nodes, rows, shared), primal)
    taken = fraction_taken(rule, points, primal, (rows, shared), units)
    slopes = combine(rule, (yield points), primal.value)
    slopes /= taken[:, :, None]
    return slopes


def mirrored(
    primal: Primal,
    rule: Stencil,
    units: tuple[Array, Array],
    moves: tuple[Array, Array],
    slopes: Array,
) -> Generator[Points, Array, None]:
    """Replace slopes that are not finite by those in the opposite direction."""
    bad = ~np.all(np.isfinite(slopes), axis=-1)  # (T, R)
    again = np.flatnonzero(bad.any(axis=1))
    back = yield from _slopes(primal, rule, units, -moves[0][again], -moves[1][again])
    slopes[again] = np.where(bad[again][:, :, None], -back, slopes[again])
    if not np.isfinite(slopes).all():
        row = int(np.argwhere(~np.isfinite(slopes))[0][1])
        raise NoFiniteValue(None, row, float(np.abs(moves[0]).max(initial=0.0)))


def _points(primal: Primal, nodes: Array, rows: Array, shared: Array) -> Points:
    return Points(
        along(primal.rows, rows, nodes) if rows.size else None,
        along(primal.shared, shared, nodes) if np.any(shared) else None,
    )


def bounded_slopes(
    primal: Primal, rule: Stencil, units: tuple[Array, Array], rows: Array, shared: Array
) -> Generator[Points, Array, Array]:
    """Return slopes per move, (K, R, O), of moves (K, R, d), (K, p), within the bounds.

    A move is taken as it is, mirrored, or shortened, whatever fits first: its slope is the same.
    Where both its ends are blocked it is taken in parts, the inputs that can follow it, those that
    can go the other way, and those that can go only a tenth as far: one more evaluation for each,
    and still the slope along all of it.

    Raises:
        MethodError: if a stencil that relies on the mean over directions finds no room.
    """
    room = primal.room
    assert room is not None
    # What cannot move at all has slope 0.
    rows = np.where(room.free_rows, rows, 0.0)
    shared = np.where(room.free_shared, shared, 0.0)
    down, up = reach_of(room, -rows, -shared), reach_of(room, rows, shared)
    if not rule.consistent:
        return (yield from _symmetric(primal, rule, units, rows, shared, np.minimum(down, up)))
    nodes = np.real(rule.moved_nodes)
    if rule.is_complex:
        return (yield from _slopes(primal, rule, units, rows, shared))
    places, _ = fitted(nodes, np.ones_like(up), (down, up))  # (K, s, R)
    blocked = np.maximum(down, up) < _WORTH * np.abs(nodes).max()
    slopes = np.zeros((len(rows), len(primal.rows), primal.outputs))
    free = np.flatnonzero(~blocked.all(axis=1))
    if len(free):
        slopes[free] = yield from _placed(primal, rows[free], shared[free], places[free])
    stuck = np.flatnonzero(blocked.any(axis=1))
    if len(stuck):
        halves = yield from _in_parts(primal, room, nodes, rows[stuck], shared[stuck])
        slopes[stuck] = np.where(blocked[stuck][:, :, None], halves, slopes[stuck])
    return slopes


def reach_of(room: Room, rows: Array, shared: Array) -> Array:
    """Return how many times each move fits in, (K, R); the same for all rows that a move shares."""
    reach = np.minimum(
        _times(rows, room.rows_down, room.rows_up).min(axis=-1, initial=np.inf),
        _times(shared, room.shared_down, room.shared_up).min(axis=-1, initial=np.inf)[:, None],
    )
    moves_shared = np.any(shared != 0, axis=-1)[:, None]
    least: Array = np.where(moves_shared, reach.min(axis=1, keepdims=True), reach)
    return least


def _times(moves: Array, down: Array, up: Array) -> Array:
    ahead = np.where(moves > 0, up, down)
    with np.errstate(divide="ignore", invalid="ignore"):
        times: Array = np.where(moves == 0, np.inf, ahead / np.abs(moves))
    return times


def _placed(
    primal: Primal, rows: Array, shared: Array, places: Array
) -> Generator[Points, Array, Array]:
    """Return the slopes of moves whose nodes stand at `places`, (K, s, R)."""
    points = rounded(
        Points(
            (primal.rows + places[..., None] * rows[:, None]).reshape(-1, *primal.rows.shape)
            if rows.size
            else None,
            (primal.shared + places[:, :, :1] * shared[:, None]).reshape(-1, len(primal.shared))
            if np.any(shared)
            else None,
        ),
        primal,
    )
    taken = _places_taken(primal, points, rows, shared, places)
    values = yield points
    values = values.reshape((len(rows), -1, *values.shape[1:]))
    assert primal.value is not None
    usable = distinct(taken) & np.isfinite(values).all(axis=-1)
    lost = ~usable.any(axis=1) & (taken != 0).any(axis=1)
    if lost.any():
        raise NoFiniteValue(None, int(np.argwhere(lost)[0][1]), float(np.abs(rows).max(initial=0)))
    return slope_of(values, primal.value, taken, usable)


def _places_taken(
    primal: Primal, points: Points, rows: Array, shared: Array, places: Array
) -> Array:
    """Return the places after rounding: displacements projected on the moves, (K, s, R)."""
    whole, part = np.zeros(places.shape), np.zeros(places.shape)
    for at, base, move in (
        (points.rows, primal.rows, rows[:, None]),
        (points.shared, primal.shared, shared[:, None, None]),
    ):
        if at is None:
            continue
        moved = at.reshape(*places.shape[:2], -1, base.shape[-1]) - base
        moved = np.where(np.isfinite(base), moved, places[..., None] * move)
        # Each input counts in units of its own move.
        weight = np.where(move == 0, 0.0, 1 / np.where(move == 0, 1.0, move))
        part = part + np.sum(moved * weight, axis=-1)
        whole = whole + np.sum(move != 0, axis=-1)
    taken: Array = np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 0.0)
    return taken


def _in_parts(
    primal: Primal, room: Room, nodes: Array, rows: Array, shared: Array
) -> Generator[Points, Array, Array]:
    """Take moves in parts, each with the inputs that can go the same way about as far.

    Each has as many nodes as wanted, evenly on its side, so that the order is the same.
    """
    both_sides = nodes.min() < 0 < nodes.max()
    most = np.abs(nodes).max() * (2 if both_sides else 1)
    evenly = np.arange(1, len(nodes) + 1)[:, None] / len(nodes)
    total = np.zeros((len(rows), len(primal.rows), primal.outputs))
    ahead = (
        _times(rows, room.rows_down, room.rows_up),
        _times(shared, room.shared_down, room.shared_up),
    )
    back = (
        _times(-rows, room.rows_down, room.rows_up),
        _times(-shared, room.shared_down, room.shared_up),
    )
    far = [np.minimum(np.maximum(*both), most) for both in zip(ahead, back, strict=True)]
    for sign in (1.0, -1.0):
        left = [
            (move != 0) & ((a >= b) if sign > 0 else (a < b))
            for move, a, b in zip((rows, shared), ahead, back, strict=True)
        ]
        while (some := _moves_with_any(*left)).size:
            longest = _longest(far, left)
            taken = (
                left[0] & (far[0] >= _WORTH * longest[:, :, None]),
                left[1] & (far[1] >= _WORTH * longest[:, :1]),
            )
            part = np.where(taken[0], rows, 0.0)[some], np.where(taken[1], shared, 0.0)[some]
            reach = np.minimum(reach_of(room, sign * part[0], sign * part[1]), most)
            places = sign * reach[:, None, :] * evenly
            total[some] += yield from _placed(primal, *part, places)
            left = [whole & ~done for whole, done in zip(left, taken, strict=True)]
    return total


def _moves_with_any(rows: Array, shared: Array) -> Array:
    return np.flatnonzero(np.any(rows, axis=(1, 2)) | np.any(shared, axis=1))


def _longest(far: list[Array], left: list[Array]) -> Array:
    """Return how far the roomiest input that is left can go, (K, R), together with shared ones."""
    of_rows = np.where(left[0], far[0], 0.0).max(axis=-1, initial=0.0)
    of_shared = np.where(left[1], far[1], 0.0).max(axis=-1, initial=0.0)[:, None]
    both = np.maximum(of_rows, of_shared)
    coupled = np.any(left[1], axis=-1)[:, None]
    longest: Array = np.where(coupled, both.max(axis=1, keepdims=True, initial=0.0), both)
    return longest


def _symmetric(
    primal: Primal,
    rule: Stencil,
    units: tuple[Array, Array],
    rows: Array,
    shared: Array,
    reach: Array,
) -> Generator[Points, Array, Array]:
    """Shorten moves by what fits in both directions, so that f(x) still averages out."""
    share = np.minimum(1.0, reach)
    if (share < _WORTH).any():
        raise MethodError(
            "A score estimate needs room on both sides of every input, and a bound leaves none.",
            "It is right only as a mean over directions and their opposites.",
            "Use `stencils.FORWARD` or `stencils.CENTRAL` with these directions.",
        )
    slopes = yield from _slopes(
        primal, rule, units, share[:, :, None] * rows, share[:, :1] * shared
    )
    return slopes / share[:, :, None]
