"""Finite differences along any directions with any stencil: one formula."""

from __future__ import annotations

import dataclasses
import math

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
from suture._methods._displace import (
    along,
    blocks,
    combine,
    directions_per_block,
    displace,
    fraction_taken,
    joined,
    rounded,
    unit_length,
)
from suture._stencil import Stencil
from suture._types import Array, Draw
from suture.directions import AbstractDirections, Coordinate
from suture.errors import MethodError, TransformError, shown
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
        nodes = len(self.rule.moved_nodes)
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

    def answers_failures(self) -> bool:
        """False: a failed point is an error."""
        return False

    def transposes_by_difference(self) -> bool:
        """Whether no direction is random."""
        return isinstance(self.directions, Coordinate)

    def _inner_step(self, primal: Primal) -> float:
        if primal.derivative == 2:
            return _steps.second_order(self.rule, primal.noise, self.step).inner
        return self.step or _steps.first_order(self.rule, primal.noise)

    def linearize(self, primal: Primal, keep: Contract, draw: Draw) -> Estimate:
        """Yield the displaced points block by block, and return the slopes."""
        rule, step = self.rule, self._inner_step(primal)
        unit_rows, unit_shared = step * primal.scale_rows, step * primal.scale_shared
        seeds = self.directions.sample(primal.columns, draw)
        kept, taken_seeds = [], []
        for block in blocks(seeds, primal, len(rule.moved_nodes)):
            points, taken = displace(primal, rule, block, unit_rows, unit_shared)
            slopes = combine(rule, (yield points), primal.value)
            if block.ndim == 1:
                slopes /= taken[:, :, None]
            kept.append(keep(slopes))
            taken_seeds.append(block if block.ndim == 1 else taken)
        seeds, slopes = joined(taken_seeds), joined(kept)
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
        room = directions_per_block(primal, len(self.rule.moved_nodes))
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
        nodes = self.rule.moved_nodes
        points = Points(
            along(primal.rows, move_rows, nodes) if rows.size else None,
            along(primal.shared, move_shared, nodes) if np.any(shared) else None,
        )
        points = rounded(points, primal)
        taken = fraction_taken(
            self.rule, points, primal, (move_rows, move_shared), (unit_rows, unit_shared)
        )
        slopes = combine(self.rule, (yield points), primal.value)
        slopes /= (taken * alpha)[:, :, None]
        return slopes


def _check_types(stencil: object, directions: object) -> None:
    if stencil is not None and not isinstance(stencil, Stencil):
        raise MethodError(
            f"`FiniteDifference(stencil={shown(stencil)})` is not understood.",
            "A stencil is a table of numbers, not a name.",
            "Use one of `suture.stencils`, for example `FiniteDifference(stencils.CENTRAL)`.",
        )
    check_directions("FiniteDifference", directions)


def _check_positive(name: str, number: float | None) -> None:
    if number is None:
        return
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
        raise MethodError(
            f"`FiniteDifference({name}={shown(number)})` is not possible.",
            f"The {name} is a positive, finite number without units.",
            f"Leave `{name}` out, or give for example `{name}=1e-6`.",
        )
