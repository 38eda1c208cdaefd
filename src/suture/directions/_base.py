"""What a set of directions is: a seed matrix, and the way back from slopes to a gradient."""

from __future__ import annotations

import abc

from suture._types import Array, Draw


class AbstractDirections(abc.ABC):
    """Directions along which slopes are taken.

    They own both halves of an estimate: the seeds D (one direction a row, one input a column, in
    units of the displacement of each input) and the way back. With slopes s = D g the pullback
    returns an estimate R s of g, and the pushforward is its transpose, Rᵀ v.

    Seeds are float64 of shape (k, n), or, where every direction is a unit vector, integers of
    shape (k,) that name its column.
    """

    @abc.abstractmethod
    def count_for(self, n: int) -> int:
        """Return how many directions are taken for n inputs."""

    @abc.abstractmethod
    def sample(self, n: int, draw: Draw) -> Array:
        """Return the seeds for n inputs; random ones come from `draw()` and from nowhere else."""

    @abc.abstractmethod
    def pullback(self, seeds: Array, slopes: Array) -> Array:
        """Return R s of shape (n, …) for slopes of shape (k, …)."""

    @abc.abstractmethod
    def pushforward(self, seeds: Array, tangent: Array) -> Array:
        """Return Rᵀ v of shape (k, …) for a tangent of shape (n, …)."""

    @abc.abstractmethod
    def relative_error(self, n: int) -> float:
        """Return the root mean square error of the way back, relative to the gradient."""

    @property
    @abc.abstractmethod
    def centered(self) -> bool:
        """Whether R has mean zero, so that a constant in all slopes averages out."""

    @property
    @abc.abstractmethod
    def symbol(self) -> str:
        """The number of directions, for a person: `n`, or a number."""
