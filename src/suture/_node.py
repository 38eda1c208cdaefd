"""What a differentiated call needs besides tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from suture._drive import Site
from suture._frame import Frame
from suture._memory import Memory, Used
from suture._methods import AbstractMethod, Linearization
from suture._setting import Setting
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
        memory: what is kept from one gradient of the function to the next.
        used: what this node used in its first backward, by leaves and samples.
        keep: whether a second derivative may follow.
        kept: the slopes of a first derivative, one entry a sample.
    """

    frame: Frame
    method: AbstractMethod
    seed: int | None
    memory: Memory
    lead: int = 0
    wanted: tuple[bool, ...] = ()
    outputs: tuple[int, ...] = ()
    inputs: tuple[int, ...] = ()
    seconds: tuple[int, ...] = ()
    keep: bool = False
    used: dict[Any, Used] = dataclasses.field(default_factory=dict)
    kept: list[Linearization] = dataclasses.field(default_factory=list)

    def site(
        self, leaves: Sequence[Tensor], wanted: Sequence[bool], values: Array | None, lead: int
    ) -> Site:
        """Return the place where these leaves are."""
        return Site(self.setting, leaves, lead, wanted, values=values)

    @property
    def setting(self) -> Setting:
        """What is differentiated, and how."""
        return Setting(self.frame, self.method, self.seed, self.memory, self.used)

    def flags(self, positions: Sequence[int]) -> tuple[bool, ...]:
        """Return positions among the leaves as flags."""
        return tuple(i in positions for i in range(len(self.frame.call.leaves)))

    @property
    def moves(self) -> tuple[bool, ...]:
        """Which leaves have a tangent, as flags."""
        return self.flags(self.inputs)
