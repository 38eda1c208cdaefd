"""Slopes along any directions: tangents, and random directions near bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

import numpy as np

from suture._methods._answers import AbstractLines, Answer, Reply, answered, has_failed
from suture._methods._arms import distinct, fitted, slope_of
from suture._methods._base import NoFiniteValue, Points, Primal, Remarks, Room
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
        slopes = yield from bounded_slopes(primal, rule, units, *moves, Remarks())
    else:
        slopes = yield from _slopes(primal, rule, units, *moves)
    slopes /= alpha[:, :, None]
    return slopes


def _slopes(
    primal: Primal, rule: Stencil, units: tuple[Array, Array], rows: Array, shared: Array
) -> Generator[Points, Array, Array]:
    points = rounded(_points(primal, rule.moved_nodes, rows, shared), primal)
    taken = fraction_taken(rule, points, primal, (rows, shared), units)
    values = yield points
    answer = None
    if has_failed(primal, rule, values):
        answer = yield from MoveLines(primal, units, rows, shared).answered(rule, values)
    slopes = combine(rule, values, primal.value)
    slopes /= taken[:, :, None]
    if answer is not None:
        answer.put(slopes, Remarks())
    return slopes


def _points(primal: Primal, nodes: Array, rows: Array, shared: Array) -> Points:
    return Points(
        along(primal.rows, rows, nodes) if rows.size else None,
        along(primal.shared, shared, nodes) if np.any(shared) else None,
    )


def bounded_slopes(
    primal: Primal,
    rule: Stencil,
    units: tuple[Array, Array],
    rows: Array,
    shared: Array,
    remarks: Remarks,
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
        lines = MoveLines(primal, units, rows[free], shared[free])
        slopes[free] = yield from _placed(lines, places[free], remarks)
    stuck = np.flatnonzero(blocked.any(axis=1))
    if len(stuck):
        lines = MoveLines(primal, units, rows[stuck], shared[stuck])
        halves = yield from _in_parts(lines, room, nodes, remarks)
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


@dataclasses.dataclass(frozen=True, slots=True)
class MoveLines(AbstractLines):
    """K moves, and places along them: how many times each is taken.

    Attributes:
        primal: x.
        units: what a step displaces, (R, d) and (p,).
        rows: (K, R, d) moves.
        shared: (K, p).
    """

    primal: Primal
    units: tuple[Array, Array]
    rows: Array
    shared: Array

    def ask(self, lines: Array, moves: Array) -> Reply:
        """Take moves to one place each."""
        chosen = dataclasses.replace(self, rows=self.rows[lines], shared=self.shared[lines])
        points, taken = chosen.placed(moves[:, None])
        return (yield points), taken[:, 0]

    def are_joined(self) -> Array:
        """Where a shared input moves, all rows go with it."""
        joined: Array = np.any(self.shared != 0, axis=-1)
        return joined

    def room(self) -> tuple[Array, Array] | None:
        """Return how many times each move fits in, backward and forward."""
        room = self.primal.room
        if room is None:
            return None
        return reach_of(room, -self.rows, -self.shared), reach_of(room, self.rows, self.shared)

    def lost(self, line: int, row: int, reach: float) -> NoFiniteValue:
        """No input is to blame."""
        return NoFiniteValue(None, row, reach * float(np.abs(self.rows).max(initial=0.0)))

    def placed(self, places: Array) -> tuple[Points, Array]:
        """Return the points at places (K, s, R), and the places after rounding."""
        primal = self.primal
        points = Points(
            (primal.rows + places[..., None] * self.rows[:, None]).reshape(-1, *primal.rows.shape)
            if self.rows.size
            else None,
            (primal.shared + places[:, :, :1] * self.shared[:, None]).reshape(
                -1, len(primal.shared)
            )
            if np.any(self.shared)
            else None,
        )
        points = rounded(points, primal)
        return points, self._taken(points, places)

    def _taken(self, points: Points, places: Array) -> Array:
        """Return the displacements projected on the moves, with lengths in units of the step."""
        whole, part = np.zeros(places.shape), np.zeros(places.shape)
        for at, base, move, unit in (
            (points.rows, self.primal.rows, self.rows[:, None], self.units[0]),
            (points.shared, self.primal.shared, self.shared[:, None, None], self.units[1]),
        ):
            if at is None:
                continue
            moved = at.reshape(*places.shape[:2], -1, base.shape[-1]) - base
            moved = np.where(np.isfinite(base), moved, places[..., None] * move)
            weight = move / unit**2
            part = part + np.sum(moved * weight, axis=-1)
            whole = whole + np.sum(move * weight, axis=-1)
        taken: Array = np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 0.0)
        return taken

    def answered(self, rule: Stencil, values: Array) -> Generator[Points, Array, Answer]:
        """Find slopes where points failed, at the nodes of a stencil and without bounds."""
        shape = (len(self.rows), len(rule.moved_nodes), len(self.primal.rows))
        places = np.broadcast_to(rule.moved_nodes[:, None], shape)
        taken = self.placed(places)[1]
        split = values.reshape(*shape, -1)
        primal = self.primal
        return (yield from answered(self, places, taken, split, primal.value, primal.on_failure))


def _placed(lines: MoveLines, places: Array, remarks: Remarks) -> Generator[Points, Array, Array]:
    """Return the slopes of moves whose nodes stand at `places`, (K, s, R)."""
    primal = lines.primal
    points, taken = lines.placed(places)
    values = yield points
    values = values.reshape((*places.shape[:2], *values.shape[1:]))
    assert primal.value is not None
    slopes = slope_of(values, primal.value, taken, distinct(taken))
    if not np.isfinite(values).all() and primal.derivative == 1:
        answer = yield from answered(lines, places, taken, values, primal.value, primal.on_failure)
        answer.put(slopes, remarks)
    return slopes


def _in_parts(
    lines: MoveLines, room: Room, nodes: Array, remarks: Remarks
) -> Generator[Points, Array, Array]:
    """Take moves in parts, each with the inputs that can go the same way about as far.

    Each has as many nodes as wanted, evenly on its side, so that the order is the same.
    """
    primal, rows, shared = lines.primal, lines.rows, lines.shared
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
            along_part = dataclasses.replace(lines, rows=part[0], shared=part[1])
            total[some] += yield from _placed(along_part, places, remarks)
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
