r"""Stencils: where to evaluate along a direction, and how to weigh what comes back.

A stencil estimates the slope of f along a direction d from f at a few nodes,

    slope = Re Σ_s w_s f(x + h t_s d) / h  +  O(h^order),

as a Butcher tableau describes a Runge-Kutta method: numbers, not code.

    forward    o───●            t = 0, 1      w = -1, 1
    central    ●───o───●        t = -1, 1     w = -1/2, 1/2
    complex    o                t = i         w = -i        because Re(-i f(x + ih)) = Im f(x + ih)
               ┊
               ●

An absolute stencil has no step: its nodes are angles, and slope = Σ_s w_s f(x + t_s d), which is
exact where f turns with each input as a rotation does.
"""

from __future__ import annotations

import cmath
import dataclasses
import functools
import math
from math import factorial, prod

import numpy as np

from suture._types import Array
from suture.errors import MethodError, shown

# Rounding in the sums below is a few units of 2^-52; a wrong table is off by far more.
_TOLERANCE = 1e-12

# A shift by the angle a multiplies the noise of f by 1 / sin a: here three digits are lost.
_FLATTEST = 1e-3


@dataclasses.dataclass(frozen=True)
class Stencil:
    """Nodes `t`, weights `w` and order of a difference rule.

    Args:
        nodes: where f is evaluated, in steps along the direction. Node 0 is f(x), which the
            forward pass has evaluated already.
        weights: one for each node; Re Σ w t = 1, so that the rule is right for linear functions.
        order: the error falls as step^order.
        error_weights: weights whose sum estimates the error from the same evaluations.
        absolute: whether the nodes are displacements in the input's own units (radians), not
            multiples of a step. Then Σ w = Σ w cos t = 0 and Σ w sin t = 1, so that the rule is
            right for a + b sin(x + c).

    Raises:
        MethodError: if the numbers do not form a rule for the first derivative.

    Example:
        >>> Stencil(nodes=(0, 1, 2), weights=(-1.5, 2, -0.5), order=2).consistent
        True
    """

    nodes: tuple[complex, ...]
    weights: tuple[complex, ...]
    order: int
    error_weights: tuple[float, ...] | None = None
    absolute: bool = False

    def __post_init__(self) -> None:
        """Refuse tables that are not rules."""
        for field in ("nodes", "weights", "error_weights"):
            if isinstance(numbers := getattr(self, field), list):
                object.__setattr__(self, field, tuple(numbers))
        numbers = (*self.nodes, *self.weights, *(self.error_weights or ()))
        if not all(_is_finite(number) for number in numbers):
            raise self._refusal("All nodes and weights must be finite numbers.")
        lengths = {len(self.nodes), len(self.weights), len(self.error_weights or self.nodes)}
        if len(lengths) > 1 or len(set(self.nodes)) != len(self.nodes):
            raise self._refusal("Each node needs one weight, and no node may stand twice.")
        if not _is_count(self.order) or self.order < 0:
            raise self._refusal("The order is 0, 1, 2, …: the error falls as step^order.")
        if self.absolute:
            self._check_rotations()
        else:
            self._check_lines()

    def _check_lines(self) -> None:
        moment = sum(complex(w) * complex(t) for w, t in zip(self.weights, self.nodes, strict=True))
        if abs(moment.real - 1) > _TOLERANCE:
            raise self._refusal(
                "The real part of Σ weight·node must be 1, so that f(x) = x has slope 1; here it "
                f"is {moment.real:g}."
            )

    def _check_rotations(self) -> None:
        if self.is_complex:
            raise self._refusal("The nodes of an absolute rule are angles, real numbers.")
        nodes = np.array(self.nodes, np.float64)
        weights = np.real(np.array(self.weights))
        found = (weights.sum(), weights @ np.cos(nodes), weights @ np.sin(nodes))
        # Weights of a flat shift are large, and so is the rounding of their sums.
        if np.abs(np.subtract(found, (0, 0, 1))).max() > _TOLERANCE * np.abs(weights).sum():
            ones, cosines, sines = np.round(found, 9) + 0.0  # no -0
            raise self._refusal(
                "The nodes of an absolute rule are angles: Σ weight and Σ weight·cos(node) must be "
                "0 and Σ weight·sin(node) must be 1; here they are "
                f"{ones:.3g}, {cosines:.3g} and {sines:.3g}."
            )

    def _refusal(self, why: str) -> MethodError:
        return MethodError(
            f"A stencil with nodes {shown(self.nodes)}, weights {shown(self.weights)} and order "
            f"{shown(self.order)} is not a rule.",
            why,
            "Use one of `suture.stencils`, or `Stencil((0, 1), (-1, 1), order=1)` as a start.",
        )

    @property
    def consistent(self) -> bool:
        """Whether constants have slope zero, along any direction."""
        return abs(complex(sum(self.weights)).real) < _TOLERANCE

    @functools.cached_property
    def is_complex(self) -> bool:
        """Whether the function is evaluated at complex inputs."""
        return any(isinstance(node, complex) for node in self.nodes)

    @functools.cached_property
    def moved_nodes(self) -> Array:
        """The nodes that have to be evaluated, (s,): all but node 0."""
        return np.array([t for t in self.nodes if t != 0])

    @functools.cached_property
    def moved_weights(self) -> Array:
        """Their weights, (s,)."""
        return np.array([w for t, w in zip(self.nodes, self.weights, strict=True) if t != 0])

    @functools.cached_property
    def base_weight(self) -> float:
        """The weight of f(x), 0 where the rule does not use it."""
        return float(
            sum(complex(w).real for t, w in zip(self.nodes, self.weights, strict=True) if t == 0)
        )


def central(order: int) -> Stencil:
    """Build the central difference of an even order, with an estimate of its error.

    The Lagrange polynomial that is 1 at node t of {-a, …, a} and 0 at the others has the slope
    w_t = (-1)^(t+1) a!² / (t (a-t)! (a+t)!) at zero; the order is 2a. The error is estimated by
    the difference from the rule with arms one shorter.

    Args:
        order: 2, 4, 6, …

    Raises:
        MethodError: if `order` is odd or below 2.

    Example:
        >>> central(4).weights
        (0.0833..., -0.6666..., 0.6666..., -0.0833...)

    Source: Fornberg (1988), Mathematics of Computation 51, 699-706, table 1.
    """
    if not _is_count(order) or order < 2 or order % 2:
        raise MethodError(
            f"`central(order={shown(order)})` does not exist.",
            "A central difference has arms of equal length, so its order is 2, 4, 6, …",
            "Use `stencils.central(2)`, which is `stencils.CENTRAL`, or `stencils.central(4)`.",
        )
    arm = order // 2
    nodes = tuple(t for t in range(-arm, arm + 1) if t)
    weights = _central_weights(arm)
    return Stencil(nodes, weights, order, _minus_shorter(weights, arm))


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float | complex) and cmath.isfinite(number)


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _central_weights(arm: int) -> tuple[float, ...]:
    def weight(t: int) -> float:
        sign = 1 if t % 2 else -1
        return sign * factorial(arm) ** 2 / (t * factorial(arm - t) * factorial(arm + t))

    return tuple(weight(t) for t in range(-arm, arm + 1) if t)


def _minus_shorter(weights: tuple[float, ...], arm: int) -> tuple[float, ...] | None:
    if arm == 1:
        return None
    shorter = (0.0, *_central_weights(arm - 1), 0.0)
    return tuple(w - s for w, s in zip(weights, shorter, strict=True))


def richardson(levels: int) -> Stencil:
    """Extrapolate central differences with steps 1, 1/2, 1/4, … to step zero.

    The central difference D(a) with arm a has an error in even powers of a. The combination
    Σ c_i D(a_i) with c_i = Π_{j≠i} a_j² / (a_j² - a_i²) cancels the first `levels` - 1 of them,
    so the order is 2·levels. The error is estimated by the difference from the extrapolation
    that leaves out the longest arm.

    Args:
        levels: how many arms, at least 1; the cost is twice as many evaluations per direction.

    Raises:
        MethodError: if `levels` is below 1.

    Source: Richardson (1911), Philosophical Transactions A 210, 307-357; the coefficients are
    those of Lagrange interpolation in a² at zero.
    """
    if not _is_count(levels) or levels < 1:
        raise MethodError(
            f"`richardson(levels={shown(levels)})` does not exist.",
            "An extrapolation needs at least one step.",
            "Use `stencils.richardson(2)`.",
        )
    arms = tuple(2.0**-i for i in range(levels))
    weights = _richardson_weights(arms)
    nodes = tuple(-a for a in arms) + tuple(reversed(arms))
    error = None
    if levels > 1:
        shorter = _richardson_weights(arms[1:])
        padded = (0.0, *shorter, 0.0)
        error = tuple(w - s for w, s in zip(weights, padded, strict=True))
    return Stencil(nodes, weights, 2 * levels, error)


def _richardson_weights(arms: tuple[float, ...]) -> tuple[float, ...]:
    halves = tuple(prod(b * b / (b * b - a * a) for b in arms if b != a) / (2 * a) for a in arms)
    return tuple(-w for w in halves) + tuple(reversed(halves))


def shift(angle: float = math.pi / 2) -> Stencil:
    """Build the parameter-shift rule: exact, at any angle, where f turns as a rotation does.

    Along an input with f(x) = a + b sin(x + c), as every rotation gate exp(-i x P / 2) with
    P² = 1 gives it,

        f'(x) = (f(x + angle) - f(x - angle)) / (2 sin angle),

    because sin(u + t) - sin(u - t) = 2 sin t cos u. At π/2 the noise of f counts least. An angle
    that turns two gates has two frequencies: pass it to the function twice, as two inputs.

    Args:
        angle: the shift, in the units of the input (radians). As it shrinks, the rule becomes
            the central difference: for other functions its error falls as angle².

    Raises:
        MethodError: if `angle` is not a number, or nearly a multiple of π.

    Example:
        >>> shift().nodes
        (-1.5707..., 1.5707...)

    Source: Mitarai, Negoro, Kitagawa and Fujii (2018), Physical Review A 98, 032309; Schuld,
    Bergholm, Gogolin, Izaac and Killoran (2019), Physical Review A 99, 032331; any angle: Mari,
    Bromley and Killoran (2021), Physical Review A 103, 012405.
    """
    is_number = isinstance(angle, int | float) and not isinstance(angle, bool)
    if not is_number or not math.isfinite(angle) or abs(math.sin(angle)) < _FLATTEST:
        raise MethodError(
            f"`shift(angle={shown(angle)})` does not exist.",
            "The rule divides by 2·sin(angle), so that the angle is a number of radians, and not "
            "near 0, π or another multiple of π.",
            "Use `stencils.shift()`, whose angle is π/2.",
        )
    weight = 1 / (2 * math.sin(angle))
    return Stencil((-angle, angle), (-weight, weight), order=2, absolute=True)
