"""What a differentiated call needs besides tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from suture._drive import Site
from suture._frame import Frame
from suture._methods import AbstractMethod, Linearization
from suture._types import Array


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """What a differentiated call needs besides tensors.

    Attributes:
        frame: the call.
        method: how to differentiate.
        seed: the user's seed.
        lead: how many leading axes of vmap the tensors have.
        wanted: the leaves whose gradient is asked.
        outputs: which of the result's tensors have a cotangent.
        inputs: which of the leaves have a tangent.
        seconds: which of the leaves have a second tangent.
        keep: whether a second derivative may follow.
        kept: the slopes of a first derivative, one entry a sample.
    """

    frame: Frame
    method: AbstractMethod
    seed: int | None
    lead: int = 0
    wanted: tuple[bool, ...] = ()
    outputs: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    seconds: tuple[int, ...] = ()
    keep: bool = False
    kept: list[Linearization] = dataclasses.field(default_factory=list)

    def site(
        self, leaves: Sequence[Tensor], wanted: Sequence[bool], values: Array | None, lead: int
    ) -> Site:
        """Return the place where these leaves are."""
        return Site(self.frame, self.method, self.seed, leaves, lead, wanted, values=values)

    def flags(self, positions: Sequence[int]) -> tuple[bool, ...]:
        """Return positions among the leaves as flags."""
        return tuple(i in positions for i in range(len(self.frame.call.leaves)))

    @property
    def moves(self) -> tuple[bool, ...]:
        """Which leaves have a tangent, as flags."""
        return self.flags(self.inputs)
