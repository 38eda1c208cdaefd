"""The user's own rule, and differences for what it does not know."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from suture._methods._base import AbstractMethod, Contract, Estimate, Primal, Pushforward
from suture._methods._finite_difference import FiniteDifference
from suture._types import Array, Draw, OnFailure
from suture.errors import MethodError, shown


@dataclasses.dataclass(frozen=True)
class CustomVJP(AbstractMethod):
    """Derivatives from the user's own rule.

    Args:
        vjp: `vjp(args, output, cotangent)` returns the structure of `args`, the tuple of
            positional arguments: for each argument the product of the cotangent with its
            Jacobian, in the argument's shape. None means zero; `NotImplemented` means that
            the argument is to be differenced (simulators often know half of their
            derivatives).
        jvp: `jvp(args, output, tangents)` returns the structure of the output: the product of
            the Jacobian with the tangents. Without it, forward mode raises.

    Arguments, output, cotangent and tangents come in the interface and the precision that the
    black box itself receives and returns; where there is no cotangent or tangent they hold
    zeros, and None for leaves that are not numbers with a fraction.

    Raises:
        MethodError: if `vjp` or `jvp` cannot be called.

    Example:
        >>> rule = CustomVJP(lambda args, output, cotangent: (2 * args[0] * cotangent,))
        >>> rule.cost
        '0'
    """

    vjp: Callable[[Any, Any, Any], Any]
    jvp: Callable[[Any, Any, Any], Any] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be called."""
        for name, rule in (("vjp", self.vjp), ("jvp", self.jvp)):
            if not callable(rule) and not (name == "jvp" and rule is None):
                raise MethodError(
                    f"`CustomVJP({name}={shown(rule)})` cannot be called.",
                    f"`{name}` is a function of three arguments.",
                    f"Write `def {name}(args, output, "
                    f"{'cotangent' if name == 'vjp' else 'tangents'}): …` and pass it.",
                )

    @property
    def remainder(self) -> FiniteDifference:
        """The method for arguments that the rule does not know."""
        return FiniteDifference()

    @property
    def cost(self) -> str:
        """No evaluations, unless an argument is left to differences."""
        return "0"

    def linearize(self, primal: Primal, keep: Contract, draw: Draw) -> Estimate:
        """Difference the arguments that the rule does not know."""
        return self.remainder.linearize(primal, keep, draw)

    def push(self, primal: Primal, rows: Array, shared: Array) -> Pushforward:
        """Difference along tangents."""
        return self.remainder.push(primal, rows, shared)

    def answers_failures(self, on_failure: OnFailure) -> bool:
        """As the differences for what the rule does not know."""
        return self.remainder.answers_failures(on_failure)

    def transposes_by_difference(self) -> bool:
        """True: where there is no `jvp`, the transpose is a difference."""
        return True

    def outer_step(self, noise: float) -> float:
        """Return noise^(1/3): the rule itself is exact, so only t² and noise / t are left."""
        return float(noise ** (1 / 3))
