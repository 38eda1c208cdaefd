"""Fewer directions than inputs: random ones, averaged or solved by least squares."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Literal, TypeAlias, get_args

import numpy as np

from suture._types import Array, Draw
from suture.directions._base import AbstractDirections
from suture.errors import MethodError, shown

Recovery: TypeAlias = Literal["mean", "least_squares"]


@dataclasses.dataclass(frozen=True)
class AbstractRandomDirections(AbstractDirections):
    """Random directions with E[d dᵀ] = I.

    `recovery="mean"` averages d s over the directions, R = Dᵀ / k, which is unbiased.
    `recovery="least_squares"` takes the smallest gradient that explains the slopes, R = D⁺: the
    projection of the gradient on the directions, and the gradient itself once they span the
    inputs.

    Args:
        count: how many directions, k.
        recovery: the way back.

    Raises:
        MethodError: if `count` is not a positive integer or `recovery` is another word.

    Source: Spall (1992), IEEE Transactions on Automatic Control 37(3), 332-341; Berahas, Cao,
    Choromanski and Scheinberg (2022), Foundations of Computational Mathematics 22, 507-560.
    """

    count: int
    recovery: Recovery = "mean"

    def __post_init__(self) -> None:
        """Refuse counts and recoveries that do not exist."""
        name = type(self).__name__
        if not isinstance(self.count, int) or isinstance(self.count, bool) or self.count < 1:
            raise MethodError(
                f"`{name}(count={shown(self.count)})` does not exist.",
                "The number of directions is a positive integer.",
                f"Use for example `directions.{name}(4)`.",
            )
        if self.recovery not in get_args(Recovery):
            raise MethodError(
                f"`{name}(recovery={shown(self.recovery)})` does not exist.",
                'The way back from slopes to a gradient is "mean" or "least_squares".',
                f'Use `directions.{name}({self.count}, recovery="least_squares")`.',
            )

    def count_for(self, n: int) -> int:
        """Return k, whatever n is."""
        return self.count if n else 0

    @abc.abstractmethod
    def sample(self, n: int, draw: Draw) -> Array:
        """Return (k, n) seeds with E[d dᵀ] = I."""

    def pullback(self, seeds: Array, slopes: Array) -> Array:
        """Return R s."""
        return np.tensordot(self._recovery(seeds), slopes, axes=(1, 0))

    def pushforward(self, seeds: Array, tangent: Array) -> Array:
        """Return Rᵀ v."""
        return np.tensordot(self._recovery(seeds), tangent, axes=(0, 0))

    def _recovery(self, seeds: Array) -> Array:
        if self.recovery == "mean":
            return seeds.T / len(seeds)
        return np.asarray(np.linalg.pinv(seeds))

    def relative_error(self, n: int) -> float:
        """Return the root of the mean square error over ‖g‖².

        For the smallest solution that is the part of g outside of the directions, 1 - k/n; for the
        mean it depends on the distribution.
        """
        if self.recovery == "least_squares":
            return math.sqrt(max(0.0, 1 - self.count / max(n, 1)))
        return math.sqrt(max(0.0, self._mean_square_error(n)))

    @abc.abstractmethod
    def _mean_square_error(self, n: int) -> float:
        """Return E‖ĝ - g‖² / ‖g‖² of the mean over the directions."""

    @property
    def centered(self) -> bool:
        """Whether the recovery is the mean: then E[R] = E[Dᵀ] / k = 0."""
        return self.recovery == "mean"

    @property
    def symbol(self) -> str:
        """The number k."""
        return str(self.count)


@dataclasses.dataclass(frozen=True)
class Gaussian(AbstractRandomDirections):
    """Standard normal directions. The relative mean square error is (n + 1) / k.

    Example:
        >>> Gaussian(4).sample(3, np.random.default_rng).shape
        (4, 3)

    Source: Nesterov and Spokoiny (2017), Foundations of Computational Mathematics 17, 527-566.
    """

    def sample(self, n: int, draw: Draw) -> Array:
        """Return (k, n) independent standard normal numbers."""
        return np.asarray(draw().standard_normal((self.count, n)))

    def _mean_square_error(self, n: int) -> float:
        return (n + 1) / self.count


@dataclasses.dataclass(frozen=True)
class Rademacher(AbstractRandomDirections):
    """Directions of random signs, as in SPSA. The relative mean square error is (n - 1) / k.

    Example:
        >>> bool(np.all(np.abs(Rademacher(4).sample(3, np.random.default_rng)) == 1))
        True

    Source: Spall (1992), IEEE Transactions on Automatic Control 37(3), 332-341.
    """

    def sample(self, n: int, draw: Draw) -> Array:
        """Return (k, n) independent signs."""
        return draw().integers(0, 2, (self.count, n)) * 2.0 - 1.0

    def _mean_square_error(self, n: int) -> float:
        return (n - 1) / self.count


@dataclasses.dataclass(frozen=True)
class Orthogonal(AbstractRandomDirections):
    """Mutually orthogonal random directions of length √n, n at a time.

    The relative mean square error is n / k - 1 for k ≤ n, so k = n is exact. More than n
    directions are independent sets of n.

    Example:
        >>> seeds = Orthogonal(2).sample(3, np.random.default_rng)
        >>> bool(np.allclose(seeds @ seeds.T, 3 * np.eye(2)))
        True

    Source: Haar measure by QR: Mezzadri (2007), Notices of the AMS 54(5), 592-604.
    """

    def sample(self, n: int, draw: Draw) -> Array:
        """Return (k, n) seeds whose rows are orthogonal in blocks of n."""
        generator = draw()
        blocks = [
            _haar(generator, min(n, self.count - start), n) for start in range(0, self.count, n)
        ]
        return np.asarray(np.concatenate(blocks) * np.sqrt(n))

    def _mean_square_error(self, n: int) -> float:
        whole, rest = divmod(self.count, max(n, 1))
        if not whole:
            return n / self.count - 1
        # Independent sets: those of n directions are exact, only the last one is not.
        return (rest / self.count) ** 2 * (n / rest - 1) if rest else 0.0


def _haar(generator: np.random.Generator, k: int, n: int) -> Array:
    """Return k orthonormal rows in n dimensions, uniformly distributed."""
    q, r = np.linalg.qr(generator.standard_normal((n, k)))
    # QR leaves the signs of the columns to the algorithm; the diagonal of R makes them random.
    signed: Array = (q * np.sign(np.diagonal(r))).T
    return signed
