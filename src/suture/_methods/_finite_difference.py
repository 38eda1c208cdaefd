"""Finite differences along any directions with any stencil: one formula."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

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
from suture._stencil import Stencil
from suture._types import Array, Draw
from suture.directions import AbstractDirections, Coordinate
from suture.errors import MethodError, TransformError
from suture.stencils import FORWARD


@dataclasses.dataclass(frozen=True)
class FiniteDifference(AbstractMethod):
    """Estimate slopes from f at displaced points.

        slope_k = Re Σ_s w_s f(x + h t_s scale∘d_k) / h

    Args:
        stencil: nodes t and weights w, from `suture.stencils`; None means `FORWARD`.
        directions: the directions d, from `suture.directions`.
        step: the dimensionless displacement h; None chooses it from the noise.
        noise: noise of f relative to its largest output, where it is worse than the precision
            of its numbers: 5e-7 for a program that prints six digits.

    Raises:
        MethodError: if stencil and directions do not go together, or a number is not positive.

    Example:
        >>> FiniteDifference(stencil=FORWARD).cost
        'n'
    """

    stencil: Stencil | None = None
    directions: AbstractDirections = Coordinate()
    _: dataclasses.KW_ONLY
    step: float | None = None
    noise: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is not lawful: the only place that does."""
        _check_types(self.stencil, self.directions)
        _check_positive("step", self.step)
        _check_positive("noise", self.noise)
        if not self.rule.consistent and not self.directions.centered:
            raise MethodError(
                f"A stencil whose weights sum to {sum(self.rule.weights):g} cannot be used with "
                f"{self.directions}.",
                "It leaves f(x) itself in every slope, and only the mean over random directions "
                "removes that.",
                "Use `FiniteDifference(stencils.ONE_POINT, directions.Gaussian(64))`, or another "
                "stencil.",
            )

    @property
    def rule(self) -> Stencil:
        """The stencil in use."""
        return FORWARD if self.stencil is None else self.stencil

    @property
    def cost(self) -> str:
        """Evaluations of one gradient: nodes times directions."""
        nodes = len(self.rule.moved)
        symbol = self.directions.symbol
        if symbol.isdigit():
            return str(nodes * int(symbol))
        return symbol if nodes == 1 else f"{nodes}{symbol}"

    def needs_value(self) -> bool:
        """Whether f(x) is a node of the stencil."""
        return self.rule.base_weight != 0

    def is_complex(self) -> bool:
        """Whether the stencil has complex nodes."""
        return self.rule.is_complex

    def noise_floor(self) -> float:
        """Return the noise that the user states."""
        return self.noise or 0.0

    def outer_step(self, noise: float) -> float:
        """Return the step between two linearizations."""
        return _steps.second_order(self.rule, noise, self.step).outer

    def transposes_by_difference(self) -> bool:
        """Whether no direction is random."""
        return isinstance(self.directions, Coordinate)

    def _inner_step(self, primal: Primal) -> float:
        if primal.derivative == 2:
            return _steps.second_order(self.rule, primal.noise, self.step).inner
        return self.step or _steps.first_order(self.rule, primal.noise)

    def linearize(self, primal: Primal, keep: Contract, draw: Draw) -> Estimate:
        """Yield the displaced points block by block, and return the slopes."""
        step = self._inner_step(primal)
        unit_rows, unit_shared = step * primal.scale_rows, step * primal.scale_shared
        seeds = self.directions.sample(primal.columns, draw)
        kept, taken_seeds = [], []
        for block in _blocks(seeds, primal, len(self.rule.moved)):
            points, taken = _displace(primal, self.rule, block, unit_rows, unit_shared)
            slopes = _combine(self.rule, (yield points), primal.value)
            if block.ndim == 1:
                slopes /= taken[:, :, None]
            kept.append(keep(slopes))
            taken_seeds.append(block if block.ndim == 1 else taken)
        seeds, slopes = np.concatenate(taken_seeds), np.concatenate(kept)
        if seeds.ndim == 1:
            return Linearization(self.directions, seeds, slopes, None, None)
        return Linearization(self.directions, seeds, slopes, unit_rows, unit_shared)

    def push(self, primal: Primal, rows: Array, shared: Array) -> Pushforward:
        """Difference along each tangent, or along every input where those are fewer."""
        if not self.rule.consistent:
            raise TransformError(
                "A score estimate has no forward mode.",
                "It is right only as a mean over random directions, and a jvp is one direction.",
                "Use another stencil, or reverse mode: `backward()`, `torch.func.vjp`.",
            )
        alive = np.flatnonzero(np.any(rows != 0, axis=(1, 2)) | np.any(shared != 0, axis=1))
        if len(alive) > primal.columns:
            return (yield from self._push_coordinates(primal, rows, shared))
        pushed: list[Array] = []
        room = _directions_per_block(primal, len(self.rule.moved))
        for start in range(0, len(alive), room):
            block = alive[start : start + room]
            pushed.append((yield from self._push_block(primal, rows[block], shared[block])))
        result = np.zeros((len(rows), len(primal.rows), primal.outputs))
        if pushed:
            result[alive] = np.concatenate(pushed)
        return result

    def _push_coordinates(self, primal: Primal, rows: Array, shared: Array) -> Pushforward:
        each = dataclasses.replace(self, directions=Coordinate())
        linearization = yield from each.linearize(
            primal, lambda slopes: slopes, np.random.default_rng
        )
        return linearization.pushforward(rows, shared)

    def _push_block(self, primal: Primal, rows: Array, shared: Array) -> Pushforward:
        step = self._inner_step(primal)
        unit_rows, unit_shared = step * primal.scale_rows, step * primal.scale_shared
        alpha = unit_length(rows / unit_rows, shared / unit_shared)  # (T, R)
        move_rows = alpha[:, :, None] * rows
        # Where a shared input moves, all rows have the same alpha.
        move_shared = alpha[:, :1] * shared
        nodes = [node for node, _ in self.rule.moved]
        points = Points(
            _along(primal.rows, move_rows, nodes) if rows.size else None,
            _along(primal.shared, move_shared, nodes) if np.any(shared) else None,
        )
        points = _rounded(points, primal)
        taken = _fraction_taken(
            self.rule, points, primal, (move_rows, move_shared), (unit_rows, unit_shared)
        )
        slopes = _combine(self.rule, (yield points), primal.value)
        slopes /= (taken * alpha)[:, :, None]
        return slopes


def unit_length(rows: Array, shared: Array) -> Array:
    """Return the factors (T, R) that bring tangents (T, R, d), (T, p) to length one.

    Rows are independent, so each has its own factor, unless a shared input moves too: then the
    longest row decides for all. A row whose tangent is zero is left alone.
    """
    squares = np.sum(rows * rows, axis=-1) + np.sum(shared * shared, axis=-1)[:, None]
    moves_shared = np.any(shared != 0, axis=-1)[:, None]
    longest = np.max(squares, axis=1, keepdims=True, initial=0.0)
    squares = np.where(moves_shared, longest, squares)
    factors: Array = 1 / np.sqrt(np.where(squares > 0, squares, 1.0))
    return factors


def _check_types(stencil: object, directions: object) -> None:
    if stencil is not None and not isinstance(stencil, Stencil):
        raise MethodError(
            f"`FiniteDifference(stencil={stencil!r})` is not understood.",
            "A stencil is a table of numbers, not a name.",
            "Use one of `suture.stencils`, for example `FiniteDifference(stencils.CENTRAL)`.",
        )
    if not isinstance(directions, AbstractDirections):
        raise MethodError(
            f"`FiniteDifference(directions={directions!r})` is not understood.",
            "Directions are an object that samples seeds and knows the way back.",
            "Use one of `suture.directions`, for example `directions.Orthogonal(4)`.",
        )


def _check_positive(name: str, number: float | None) -> None:
    if number is None:
        return
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
        raise MethodError(
            f"`FiniteDifference({name}={number!r})` is not possible.",
            f"The {name} is a positive, finite number without units.",
            f"Leave `{name}` out, or give for example `{name}=1e-6`.",
        )


def _directions_per_block(primal: Primal, nodes: int) -> int:
    values = len(primal.rows) * primal.outputs
    per_direction = nodes * (primal.rows.size + primal.shared.size + values)
    return max(1, primal.room // max(1, per_direction))


def _blocks(seeds: Array, primal: Primal, nodes: int) -> Iterator[Array]:
    """Cut the seeds into blocks that fit; unit vectors of rows and of shared inputs apart."""
    size = _directions_per_block(primal, nodes)
    d = primal.rows.shape[1]
    parts = [seeds[seeds < d], seeds[seeds >= d]] if seeds.ndim == 1 else [seeds]
    for part in parts:
        for start in range(0, len(part), size):
            yield part[start : start + size]


def _displace(
    primal: Primal, rule: Stencil, seeds: Array, unit_rows: Array, unit_shared: Array
) -> tuple[Points, Array]:
    """Return the points of K directions, node after node, and what was really taken.

    For unit vectors that is Σ_s w_s (x + δ_s - x) in units of x, (K, R) or (K, 1): the divisor
    of the quotient. For dense seeds it is the seeds after rounding, (K, n).
    """
    nodes = [node for node, _ in rule.moved]
    d = primal.rows.shape[1]
    if seeds.ndim == 1:
        return _displace_columns(primal, rule, seeds, unit_rows, unit_shared)
    rows = seeds[:, None, :d] * unit_rows
    shared = seeds[:, d:] * unit_shared
    points = _rounded(
        Points(
            _along(primal.rows, rows, nodes) if d else None,
            _along(primal.shared, shared, nodes) if primal.shared.size else None,
        ),
        primal,
    )
    if len(primal.rows) != 1 or points.rows is None or primal.shared.size:
        # Rounding differs from row to row; it is far below the error of random directions.
        return points, seeds
    taken = _moment(rule, points.rows, primal.rows)[:, 0] / unit_rows[0]
    return points, taken


def _displace_columns(
    primal: Primal, rule: Stencil, seeds: Array, unit_rows: Array, unit_shared: Array
) -> tuple[Points, Array]:
    d = primal.rows.shape[1]
    in_rows = bool(seeds[0] < d)
    base, unit = (primal.rows, unit_rows) if in_rows else (primal.shared[None], unit_shared[None])
    columns = seeds if in_rows else seeds - d
    nodes = [node for node, _ in rule.moved]
    k, s, each = len(seeds), len(nodes), np.arange(len(seeds))
    moved = np.empty((k, s, *base.shape), np.complex128 if rule.is_complex else np.float64)
    moved[...] = base
    displaced = base[:, columns].T[:, None] + np.multiply.outer(nodes, unit[:, columns].T).swapaxes(
        0, 1
    )
    moved[each, :, :, columns] = displaced
    flat = moved.reshape(k * s, *base.shape)
    points = Points(flat, None) if in_rows else Points(None, flat[:, 0])
    if primal.round is not None:
        points = _rounded(points, primal)
        rounded = points.rows if points.rows is not None else points.shared
        assert rounded is not None  # the block displaces one of the two
        displaced = rounded.reshape(k, s, *base.shape)[each, :, :, columns]
    weights = np.array([weight for _, weight in rule.moved])
    taken = np.real(np.einsum("s,ksr->kr", weights, displaced - base[:, columns].T[:, None]))
    _check_moved(taken, unit[:, columns].T)
    return points, taken


def _check_moved(taken: Array, wanted: Array) -> None:
    if np.all(taken != 0):
        return
    lost = float(wanted[taken == 0][0])
    raise MethodError(
        f"A displacement of {lost:.3g} does not change an input.",
        "It is lost in the rounding of the precision that the black box receives.",
        "Give a larger `step=` to the method, or a larger `scale=` to `differentiable`.",
    )


def _along(base: Array, moves: Array, nodes: list[complex]) -> Array:
    """Return base + t·move for K moves and every node t, (K·s, …)."""
    points = base + np.multiply.outer(nodes, moves).swapaxes(0, 1)
    return points.reshape(-1, *base.shape)


def _rounded(points: Points, primal: Primal) -> Points:
    return points if primal.round is None else Points(*primal.round(points.rows, points.shared))


def _moment(rule: Stencil, points: Array, base: Array) -> Array:
    """Return Σ_s w_s (point_s - x), (K, …): the displacement that the quotient divides by."""
    weights = np.array([weight for _, weight in rule.moved])
    displacements = points.reshape(-1, len(weights), *base.shape) - base
    return np.real(np.tensordot(weights, displacements, axes=(0, 1)))


def _fraction_taken(
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
        taken += np.sum(_moment(rule, points.rows, primal.rows) * weight, axis=-1)
        whole += np.sum(moves[0] * weight, axis=-1)
    if points.shared is not None:
        weight = moves[1] / units[1] ** 2
        taken += np.sum(_moment(rule, points.shared, primal.shared) * weight, axis=-1)[:, None]
        whole += np.sum(moves[1] * weight, axis=-1)[:, None]
    still = whole == 0
    if np.any((taken == 0) & ~still):
        _check_moved(np.zeros(1), np.array([float(np.min(units[0], initial=np.inf))]))
    fraction: Array = np.where(still, 1.0, taken / np.where(still, 1.0, whole))
    return fraction


def _combine(rule: Stencil, values: Array, base: Array | None) -> Array:
    """Return Re Σ_s w_s f_s, (K, R, O); `values` (K·s, R, O) may be overwritten."""
    weights = [weight for _, weight in rule.moved]
    split = values.reshape(-1, len(weights), *values.shape[1:])
    total = split[:, 0] if weights[0] == 1 else weights[0] * split[:, 0]
    for s, weight in enumerate(weights[1:], start=1):
        total += weight * split[:, s]
    total = np.real(total)
    if rule.base_weight and base is not None:
        total += base if rule.base_weight == 1 else rule.base_weight * base
    return total
