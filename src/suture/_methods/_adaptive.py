"""Differences that choose their own arms: extrapolated to arm zero, input by input."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator

import numpy as np

from suture import _steps
from suture._methods._base import (
    AbstractMethod,
    Contract,
    Estimate,
    Linearization,
    Points,
    Primal,
    Pushforward,
)
from suture._methods._checks import check_directions
from suture._methods._displace import blocks, directions_per_block, joined, unit_length
from suture._methods._lines import Lines
from suture._methods._search import ARM, ROUNDS, extrapolated, searched
from suture._stencil import richardson
from suture._types import Array, Draw
from suture.directions import AbstractDirections, Coordinate
from suture.errors import MethodError, shown

# Two linearizations that will be subtracted must not decide differently: one fixed stencil. With
# three arms (order 6) the second derivative keeps 9 digits of 16; with two 8, with four 9.5.
_FIXED = richardson(3)


@dataclasses.dataclass(frozen=True)
class AdaptiveDifference(AbstractMethod):
    """Estimate slopes from arms that shrink until the estimates agree, each input by itself.

        T[j, 0] = (f(x + a_j) - f(x - a_j)) / 2 a_j,    a_j = a_0 / 2^j
        T[j, i] = T[j, i-1] + (T[j, i-1] - T[j-1, i-1]) / (4^i - 1)

    The arms start long, at 0.29 of the scale of an input, and an input stops when its best entry
    has an estimated error below `rtol` of its slope, or when shorter arms only bring noise. So
    the noise of f need not be known. An input with a side on which f fails (NaN, an exception,
    a bound) is differenced on the other side alone.

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
        """True: f(x) tells whether the arms have found its shape, and is an end if a side fails."""
        return True

    def is_complex(self) -> bool:
        """False."""
        return False

    def noise_floor(self) -> float:
        """Return 0: nothing is stated."""
        return 0.0

    def outer_step(self, noise: float) -> float:
        """Return the step between two linearizations with fixed arms."""
        return _steps.second_order(_FIXED, noise, None).outer

    def answers_failures(self) -> bool:
        """True: the other side, or a shorter arm."""
        return True

    def transposes_by_difference(self) -> bool:
        """Whether no direction is random."""
        return isinstance(self.directions, Coordinate)

    def linearize(self, primal: Primal, keep: Contract, draw: Draw) -> Estimate:
        """Yield the ends of the arms, one arm of every input that goes on, and return the slopes."""
        seeds = self._movable(self.directions.sample(primal.columns, draw), primal)
        kept, errors = [], []
        for block in blocks(seeds, primal, 2 * ROUNDS):
            slopes, error = yield from self._slopes(primal, *_moves(primal, block))
            if block.ndim == 1:
                unit = _column_units(primal, block)
                slopes, error = slopes / unit, error / unit
            kept.append(keep(slopes))
            errors.append(np.linalg.norm(error.reshape(len(error), -1), axis=1))
        units = (None, None) if seeds.ndim == 1 else (primal.scale_rows, primal.scale_shared)
        slopes = joined(kept)
        return Linearization(self.directions, seeds, slopes, *units, error=joined(errors))

    def push(self, primal: Primal, rows: Array, shared: Array) -> Pushforward:
        """Search along each tangent, or along every input where those are fewer."""
        alive = np.flatnonzero(np.any(rows != 0, axis=(1, 2)) | np.any(shared != 0, axis=1))
        if len(alive) > primal.columns:
            each = dataclasses.replace(self, directions=Coordinate())
            found = yield from each.linearize(primal, _everything, np.random.default_rng)
            return found.pushforward(rows, shared)
        result = np.zeros((len(rows), len(primal.rows), primal.outputs))
        size = directions_per_block(primal, 2 * ROUNDS)
        for start in range(0, len(alive), size):
            block = alive[start : start + size]
            alpha = unit_length(rows[block] / primal.scale_rows, shared[block] / primal.scale_shared)
            # Where a shared input moves, all rows have the same alpha.
            moves = (alpha[:, :, None] * rows[block], alpha[:, :1] * shared[block])
            slopes, _ = yield from self._slopes(primal, *_nonzero(primal, *moves))
            result[block] = slopes / alpha[:, :, None]
        return result

    def _slopes(
        self, primal: Primal, rows: Array | None, shared: Array | None
    ) -> Generator[Points, Array, tuple[Array, Array]]:
        """Return slopes per move, and their errors, both (K, R, O)."""
        if primal.derivative == 2:
            arm = _steps.second_order(_FIXED, primal.noise, None).inner
            lines = Lines.through(primal, rows, shared, arm)
            return (yield from extrapolated(lines, len(_FIXED.nodes) // 2))
        return (yield from searched(Lines.through(primal, rows, shared, ARM), self.rtol))

    def _movable(self, seeds: Array, primal: Primal) -> Array:
        """Leave inputs that cannot move in any row out of dense seeds: their gradient is 0."""
        if seeds.ndim == 1 or primal.room is None:
            return seeds
        room = primal.room
        free_rows = np.any(room.rows_down + room.rows_up > 0, axis=0)
        free_shared = room.shared_down + room.shared_up > 0
        return np.asarray(seeds * np.concatenate([free_rows, free_shared]))


def _everything(slopes: Array) -> Array:
    return slopes


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
        rows = np.where(primal.room.rows_down + primal.room.rows_up > 0, rows, 0.0)
        shared = np.where(primal.room.shared_down + primal.room.shared_up > 0, shared, 0.0)
    # Not both: a line that moves nothing still has a place to stand.
    keeps_shared = bool(np.any(shared))
    return (rows if rows.size or not keeps_shared else None), (shared if keeps_shared else None)


def _column_units(primal: Primal, seeds: Array) -> Array:
    """Return what a seed of 1 displaces, (K, R, 1) or (K, 1, 1), in units of x."""
    d = primal.rows.shape[1]
    if seeds[0] < d:
        return np.asarray(primal.scale_rows[:, seeds].T[:, :, None])
    return np.asarray(primal.scale_shared[seeds - d][:, None, None])
