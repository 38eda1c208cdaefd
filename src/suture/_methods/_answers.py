"""What becomes of a difference whose points failed: shorter arms, fewer nodes, the other side.

Where f failed at a node, in a row of the batch, one of these takes its place, in this order:

    halved       the node at 1/2, 1/4, … of its displacement         with "shrink" alone
    left out     the polynomial through x and the other nodes        where one is usable
    mirrored     the nodes on the opposite side of x                 where none is

So x and u usable nodes give a slope of order u. Rows in which nothing failed keep their values.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Generator
from typing import TypeAlias

import numpy as np

from suture._methods._arms import distinct, room_of, slope_of
from suture._methods._base import NoFiniteValue, Points, Primal, Remarks
from suture._methods._displace import column_points
from suture._stencil import Stencil
from suture._types import Array, OnFailure

# Each halving doubles what the noise of f does to the slope: ten cost three digits. Source: Dakota,
# whose failure mitigation by continuation ends after ten halvings too.
_LEAST = 2.0**-10

Reply: TypeAlias = Generator[Points, Array, tuple[Array, Array]]
"""Yields points, is sent values, returns values (A, R, O) and displacements taken (A, R)."""


def is_movable(rule: Stencil) -> bool:
    """Whether other nodes can stand for those of a stencil: it is a difference along a line."""
    return rule.consistent and not rule.is_complex and not rule.absolute


def has_failed(primal: Primal, rule: Stencil, values: Array) -> bool:
    """Whether some values are those of failed points, to which there is an answer."""
    return not np.isfinite(values).all() and is_movable(rule) and primal.derivative == 1


class AbstractLines(abc.ABC):
    """K lines through x along which nodes stand, in multiples of a unit that is theirs."""

    @abc.abstractmethod
    def ask(self, lines: Array, moves: Array) -> Reply:
        """Ask for one node at `moves` (A, R) on each of `lines` (A,)."""

    @abc.abstractmethod
    def are_joined(self) -> Array:
        """Return which lines move all rows by the same amount, (K,)."""

    @abc.abstractmethod
    def room(self) -> tuple[Array, Array] | None:
        """Return how far down and up, (K, R) each, None without bounds."""

    @abc.abstractmethod
    def lost(self, line: int, row: int, reach: float) -> NoFiniteValue:
        """Return what to raise where no node of a line is usable."""


@dataclasses.dataclass(frozen=True, slots=True)
class ColumnLines(AbstractLines):
    """Lines along single inputs, in units of x."""

    primal: Primal
    columns: Array

    def ask(self, lines: Array, moves: Array) -> Reply:
        """Displace one input for each node."""
        each = moves[:, None, :1] if self._are_shared else moves[:, None]
        points, taken = column_points(self.primal, self.columns[lines], each)
        return (yield points), np.broadcast_to(taken[:, 0], moves.shape)

    def are_joined(self) -> Array:
        """Shared inputs are the same in all rows."""
        return np.full(len(self.columns), self._are_shared)

    def room(self) -> tuple[Array, Array] | None:
        """Return that of the inputs."""
        found = room_of(self.primal, self.columns)
        if found is None:
            return None
        shape = len(self.columns), len(self.primal.rows)
        return np.broadcast_to(found[0], shape), np.broadcast_to(found[1], shape)

    def lost(self, line: int, row: int, reach: float) -> NoFiniteValue:
        """Name the input."""
        return NoFiniteValue(int(self.columns[line]), row, reach)

    @property
    def _are_shared(self) -> bool:
        return bool(self.columns[0] >= self.primal.rows.shape[1])


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """Slopes of lines on which a point failed.

    Attributes:
        lines: (A,) which of the K lines.
        rows: (A, R) in which rows.
        slopes: (A, R, O), to be used in those rows.
        one_sided: (A,) whether a node was left out or mirrored.
        shrunk: (A,) whether a node was halved.
        share: (A,) the smallest part of a node's displacement that was taken.
    """

    lines: Array
    rows: Array
    slopes: Array
    one_sided: Array
    shrunk: Array
    share: Array

    def put(self, slopes: Array, remarks: Remarks) -> None:
        """Write them into the slopes (K, R, O), and count what was done."""
        slopes[self.lines] = np.where(self.rows[:, :, None], self.slopes, slopes[self.lines])
        remarks.one_sided += int(self.one_sided.sum())
        remarks.shrunk += int(self.shrunk.sum())


def answered(
    lines: AbstractLines,
    moves: Array,
    taken: Array,
    values: Array,
    base: Array | None,
    on_failure: OnFailure,
) -> Generator[Points, Array, Answer]:
    """Find slopes where points failed, and set their values to NaN.

    Args:
        lines: K of them.
        moves: (K, s, R or 1) where the nodes were to be, in units of the line.
        taken: (K, s, R or 1) where they are, after rounding.
        values: (K, s, R, O); not finite where f failed.
        base: (R, O) f(x).
        on_failure: whether displacements are halved first.

    Raises:
        NoFiniteValue: if f failed on both sides of x.
    """
    assert base is not None  # known wherever a point may fail
    failed = ~np.isfinite(values).all(axis=-1) | ~np.isfinite(taken)
    values[failed] = np.nan
    which = np.flatnonzero(failed.any(axis=(1, 2)))
    shape = failed.shape
    wanted = np.broadcast_to(moves, shape)[which].astype(float)
    there = np.broadcast_to(taken, shape)[which]
    search = _Search(lines, which, wanted, there, values[which], failed[which])
    if on_failure == "shrink":
        yield from search.halve()
    yield from search.mirror()
    return search.answer(base)


class _Search:
    """Nodes of A lines, some of which failed."""

    def __init__(
        self,
        lines: AbstractLines,
        which: Array,
        moves: Array,
        taken: Array,
        values: Array,
        failed: Array,
    ) -> None:
        self.lines, self.which = lines, which
        self.moves, self.taken, self.values, self.failed = moves, taken, values, failed
        self.joined = lines.are_joined()[which]
        # Rows that stay where they are have nothing to be asked.
        self.first, self.moved = moves.copy(), moves != 0
        self.tried, self.share = moves.copy(), np.ones(moves.shape)

    def _usable(self) -> Array:
        """Return which nodes have a value, and a place of their own, (A, s, R)."""
        known = np.isfinite(self.values).all(axis=-1)
        return distinct(np.where(known, self.taken, np.nan))

    def _lost(self) -> Array:
        """Return in which rows no node is usable although they moved, (A, R)."""
        lost: Array = ~self._usable().any(axis=1) & self.moved.any(axis=1)
        return lost

    def _together(self, rows: Array) -> Array:
        """Return the same for (A, …, R), and all rows of a line that moves them together."""
        joined = self.joined.reshape(-1, *[1] * (rows.ndim - 1))
        return np.where(joined, rows.any(axis=-1, keepdims=True), rows)

    def halve(self) -> Generator[Points, Array, None]:
        """Halve displacements until f has a value, or they are too short."""
        while (missing := self.moved & np.isnan(self.values).any(axis=-1)).any():
            missing &= self.share > _LEAST
            for node in range(missing.shape[1]):
                self._shorten(node, self._together(missing[:, node]))
            missing &= self.share >= _LEAST
            if not missing.any():
                return
            yield from self._ask(missing)

    def _shorten(self, node: int, going: Array) -> None:
        """Halve displacements of one node (A, R), past places that were tried already."""
        moves, share = self.moves[:, node], self.share[:, node]
        again = going
        while again.any():
            moves[again] /= 2
            share[again] /= 2
            known = (moves[:, None] == self.tried).any(axis=1) & (share >= _LEAST)
            again = self._together(again & known)
        places = np.where(going, moves, np.nan)
        self.tried = np.concatenate([self.tried, places[:, None]], axis=1)

    def mirror(self) -> Generator[Points, Array, None]:
        """Ask for the opposite nodes where no node is usable."""
        lost = self._lost()
        if not lost.any():
            return
        opposite = -self.first
        room = self.lines.room()
        if room is not None:
            down, up = (part[self.which][:, None] for part in room)
            # Where there is no other side within the bounds, half of this one.
            opposite = np.where((opposite > up) | (opposite < -down), self.first / 2, opposite)
        known = (opposite[:, :, None] == self.tried[:, None]).any(axis=2)
        missing = lost[:, None] & ~known
        if not missing.any():
            return
        nothing = np.full(opposite.shape, np.nan)
        self.moves = np.concatenate([self.moves, opposite], axis=1)
        self.tried = np.concatenate([self.tried, np.where(missing, opposite, np.nan)], axis=1)
        self.taken = np.concatenate([self.taken, nothing], axis=1)
        more = np.full((*nothing.shape, self.values.shape[-1]), np.nan)
        self.values = np.concatenate([self.values, more], axis=1)
        yield from self._ask(np.concatenate([np.zeros_like(missing), missing], axis=1))

    def _ask(self, wanted: Array) -> Generator[Points, Array, None]:
        """Ask for nodes (A, s, R) where they stand now; the other rows stay at x."""
        going = self._together(wanted)
        line, node = np.nonzero(going.any(axis=2))
        places = np.where(going[line, node], self.moves[line, node], 0.0)
        values, taken = yield from self.lines.ask(self.which[line], places)
        taken = np.where(np.isfinite(values).all(axis=-1) & np.isfinite(taken), taken, np.nan)
        values = np.where(np.isnan(taken)[..., None], np.nan, values)
        into = wanted[line, node]
        self.values[line, node] = np.where(into[..., None], values, self.values[line, node])
        self.taken[line, node] = np.where(into, taken, self.taken[line, node])

    def answer(self, base: Array) -> Answer:
        """Return the slopes of rows in which a node failed.

        Raises:
            NoFiniteValue: if there is none.
        """
        usable, rows = self._usable(), self.failed.any(axis=1)
        slopes = slope_of(self.values, base, self.taken, usable)
        # Beyond the range of a float nothing is known either.
        lost = self._lost() | (rows & ~np.isfinite(slopes).all(axis=-1))
        if lost.any():
            line, row = (int(i) for i in np.argwhere(lost)[0])
            tried = np.abs(self.tried[line, :, row])
            reach = float(np.min(tried, where=tried > 0, initial=np.inf))
            raise self.lines.lost(int(self.which[line]), row, reach)
        count = self.failed.shape[1]
        failed, found = self.failed & self.moved, usable[:, :count]
        left_out, halved = failed & ~found, failed & found
        return Answer(
            self.which,
            np.asarray(rows),
            slopes,
            one_sided=left_out.any(axis=(1, 2)),
            shrunk=halved.any(axis=(1, 2)),
            share=np.where(halved, self.share, 1.0).min(axis=(1, 2)),
        )
