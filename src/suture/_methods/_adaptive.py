"""Differences that choose their own arms: extrapolated to arm zero, input by input."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator

import numpy as np

from suture import _steps
from suture._methods._arms import are_free
from suture._methods._base import (
    AbstractMethod,
    Contract,
    Estimate,
    Linearization,
    NoFiniteValue,
    Points,
    Primal,
    Pushforward,
)
from suture._methods._checks import check_directions
from suture._methods._displace import (
    blocks,
    directions_per_block,
    joined,
    own_columns,
    unit_length,
)
from suture._methods._lines import Lines
from suture._methods._search import ARM, ROUNDS, extrapolated, searched
from suture._stencil import richardson
from suture._types import Array, Draw, OnFailure
from suture.directions import AbstractDirections, Coordinate
from suture.errors import MethodError, shown

# Two linearizations that will be subtracted must not decide differently: one fixed stencil. With
# three arms (order 6) the second derivative keeps 9 digits of 16; with two 8, with four 9.5.
_FIXED = richardson(3)


@dataclasses.dataclass(frozen=True)
class AdaptiveDifference(AbstractMethod):
    """Estimate slopes from arms that shrink until the estimates agree, each input by itself.

        T[j, 0] = (f(x + a_j) - f(x - a_j)) / 2 a_j,    a_j = 0.486 a_{j-1}
        T[j, i] = T[j, i-1] + (T[j, i-1] - T[j-1, i-1]) a_j² / (a_{j-i}² - a_j²)

    The arms start long, at 0.29 of the scale of an input, and an input stops when its best entry
    has an estimated error below `rtol` of its slope, or when shorter arms only bring noise. So
    the noise of f need not be known. An input with a side on which f fails (NaN, an exception,
    a bound) is differenced on the other side alone, and with shorter arms where both fail: that is
    its answer whatever `on_failure=` says.

    A smooth function in double precision takes 6 to 12 evaluations per input, a linear one 4.

    Args:
        rtol: estimated error of a slope, relative to its size, at which its input stops. It is
            the error of the entry before the best: usually the best has the square of it.
        directions: the directions, from `suture.directions`.

    Raises:
        MethodError: if `rtol` is not between 0 and 1, or `directions` are no directions.

    Example:
        >>> AdaptiveDifference(rtol=1e-6).cost
        'adaptive'

    Source: Ridders (1982), Advances in Engineering Software 4(2), 75-76.
    """

    rtol: float = 1e-8
    directions: AbstractDirections = Coordinate()

    def __post_init__(self) -> None:
        """Refuse what is not lawful."""
        rtol = self.rtol
        if isinstance(rtol, bool) or not isinstance(rtol, int | float) or not 0 < rtol < 1:
            raise MethodError(
                f"`AdaptiveDifference(rtol={shown(rtol)})` is not possible.",
                "The relative error at which an input stops lies between 0 and 1.",
                "Leave `rtol` out, or give for example `rtol=1e-6`.",
            )
        check_directions("AdaptiveDifference", self.directions)

    @property
    def cost(self) -> str:
        """`adaptive`: as many evaluations as the function needs."""
        return "adaptive"

    def needs_value(self) -> bool:
        """False: where f(x) is not known and a search needs it, the search asks for it."""
        return False

    def outer_step(self, noise: float) -> float:
        """Return the step between two linearizations with fixed arms."""
        return _steps.second_order(_FIXED, noise, None).outer

    def answers_failures(self, on_failure: OnFailure) -> bool:
        """True, whatever the policy: the other side, or a shorter arm."""
        return True

    def transposes_by_difference(self) -> bool:
        """Whether no direction is random."""
        return isinstance(self.directions, Coordinate)

    def linearize(self, primal: Primal, keep: Contract, draw: Draw) -> Estimate:
        """Yield one arm of every input that goes on, round by round, and return the slopes."""
        seeds = self._movable(self.directions.sample(primal.columns, draw), primal)
        kept, errors, norms = [], [], []
        for block in blocks(seeds, primal, 2 * ROUNDS):
            lines = self._lines(primal, *_moves(primal, block))
            if block.ndim > 1 and lines.is_stuck:
                raise _stuck(self.directions)
            try:
                slopes, error = yield from self._slopes(lines)
            except NoFiniteValue as lost:
                column = int(block[lost.column]) if block.ndim == 1 else None
                raise NoFiniteValue(column, lost.row, lost.reach) from None
            errors.append(np.linalg.norm(error.reshape(len(error), -1), axis=1))
            norms.append(np.linalg.norm(slopes.reshape(len(slopes), -1), axis=1))
            if block.ndim == 1:
                scales = own_columns(primal, block, primal.scale_rows, primal.scale_shared)
                slopes = slopes / scales[:, :, None]
            kept.append(keep(slopes))
        dense = seeds.ndim > 1  # slopes by unit vectors are per unit of x already
        return Linearization(
            self.directions,
            seeds,
            joined(kept),
            primal.scale_rows if dense else None,
            primal.scale_shared if dense else None,
            error=joined(errors),
            norms=joined(norms),
            relative_sampling=self.directions.relative_error(primal.columns),
        )

    def push(self, primal: Primal, rows: Array, shared: Array) -> Pushforward:
        """Search along each tangent; along every input where those are fewer.

        A tangent that leads out of the bounds both ways is pushed by inputs too.
        """
        alive = np.flatnonzero(np.any(rows != 0, axis=(1, 2)) | np.any(shared != 0, axis=1))
        if len(alive) > primal.columns:
            return (yield from self._push_coordinates(primal, rows, shared))
        result = np.zeros((len(rows), len(primal.rows), primal.outputs))
        size = directions_per_block(primal, 2 * ROUNDS)
        for start in range(0, len(alive), size):
            block = alive[start : start + size]
            scaled = (rows[block] / primal.scale_rows, shared[block] / primal.scale_shared)
            alpha = unit_length(*scaled)[:, :, None]
            # Where a shared input moves, all rows have the same alpha.
            moves = _nonzero(primal, alpha * rows[block], alpha[:, 0] * shared[block])
            lines = self._lines(primal, *moves)
            if lines.is_stuck:
                return (yield from self._push_coordinates(primal, rows, shared))
            try:
                slopes, _ = yield from self._slopes(lines)
            except NoFiniteValue as lost:
                raise NoFiniteValue(None, lost.row, lost.reach) from None
            result[block] = slopes / alpha
        return result

    def _push_coordinates(self, primal: Primal, rows: Array, shared: Array) -> Pushforward:
        each = dataclasses.replace(self, directions=Coordinate())
        found = yield from each.linearize(primal, lambda slopes: slopes, np.random.default_rng)
        return found.pushforward(rows, shared)

    def _lines(self, primal: Primal, rows: Array | None, shared: Array | None) -> Lines:
        """Lay lines through x, with first arms that fit what they are for."""
        fixed = primal.derivative == 2
        arm = _steps.second_order(_FIXED, primal.noise, None).inner if fixed else ARM
        return Lines.through(primal, rows, shared, arm)

    def _slopes(self, lines: Lines) -> Generator[Points, Array, tuple[Array, Array]]:
        """Return slopes per move, and their errors, both (K, R, O)."""
        if lines.primal.derivative == 2:
            return (yield from extrapolated(lines, len(_FIXED.nodes) // 2))
        return (yield from searched(lines, self.rtol))

    def _movable(self, seeds: Array, primal: Primal) -> Array:
        """Leave inputs that cannot move in any row out of dense seeds: their gradient is 0."""
        if seeds.ndim == 1 or primal.room is None:
            return seeds
        return np.asarray(np.where(are_free(primal), seeds, 0.0))


def _stuck(directions: AbstractDirections) -> MethodError:
    return MethodError(
        f"x lies in a corner of its bounds, and {shown(directions)} lead out of them both ways.",
        "A difference needs room on one side of x along each direction.",
        "Use `AdaptiveDifference(directions=directions.Coordinate())`, or move x off the bounds.",
    )


def _moves(primal: Primal, seeds: Array) -> tuple[Array | None, Array | None]:
    """Return the moves (K, R, d) and (K, p) of seeds, in units of x; None where none moves."""
    d = primal.rows.shape[1]
    if seeds.ndim == 1:
        # A block of unit vectors displaces rows, or shared inputs, and never both.
        in_rows = bool(seeds[0] < d)
        width = d if in_rows else len(primal.shared)
        picked = np.eye(width)[seeds - (0 if in_rows else d)]
        if in_rows:
            return picked[:, None] * primal.scale_rows, None
        return None, picked * primal.scale_shared
    return _nonzero(
        primal, seeds[:, None, :d] * primal.scale_rows, seeds[:, d:] * primal.scale_shared
    )


def _nonzero(primal: Primal, rows: Array, shared: Array) -> tuple[Array | None, Array | None]:
    """Take from moves what may not move at all; None where nothing is left."""
    if primal.room is not None:
        rows = np.where(primal.room.free_rows, rows, 0.0)
        shared = np.where(primal.room.free_shared, shared, 0.0)
    # Not both: a line that moves nothing still has a place to stand.
    keeps_shared = bool(np.any(shared))
    return (rows if rows.size or not keeps_shared else None), (shared if keeps_shared else None)
