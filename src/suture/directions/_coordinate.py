"""One direction for each input."""

from __future__ import annotations

import dataclasses

import numpy as np

from suture._types import Array, Draw
from suture.directions._base import AbstractDirections


@dataclasses.dataclass(frozen=True)
class Coordinate(AbstractDirections):
    """Displace one input at a time: n directions for n inputs, and nothing to recover.

    Example:
        >>> Coordinate().sample(3, draw=None)
        array([0, 1, 2])
    """

    def count_for(self, n: int) -> int:
        """Return n."""
        return n

    def sample(self, n: int, draw: Draw | None) -> Array:
        """Return the n unit vectors as their column numbers."""
        return np.arange(n)

    def pullback(self, seeds: Array, slopes: Array) -> Array:
        """Return the slopes: slope k is the derivative by input k."""
        return slopes

    def pushforward(self, seeds: Array, tangent: Array) -> Array:
        """Return the tangent."""
        return tangent

    def relative_error(self, n: int) -> float:
        """Return 0: nothing is random."""
        return 0.0

    @property
    def centered(self) -> bool:
        """False: nothing averages out."""
        return False

    @property
    def symbol(self) -> str:
        """`n`."""
        return "n"
