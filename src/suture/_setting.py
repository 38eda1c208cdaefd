"""One call that is differentiated: what is fixed, and what its gradients have found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from suture._frame import Frame
from suture._memory import Memory, Used
from suture._methods import AbstractMethod
from suture._tuning import Tuning, combined
from suture._types import Array

Kind: TypeAlias = Literal["gradient", "tangents"]
"""What is asked for: slopes for cotangents, or the slopes along tangents."""


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One call that is differentiated.

    Attributes:
        frame: the arguments, as the forward pass saw them.
        method: how to differentiate.
        seed: the user's seed.
        memory: what is kept from one gradient of the function to the next.
        used: what the node used before, by what was asked.
    """

    frame: Frame
    method: AbstractMethod
    seed: int | None
    memory: Memory
    used: dict[Any, Used]

    def recall(
        self, kind: Kind, wanted: tuple[bool, ...], samples: int
    ) -> tuple[Tuning | None, tuple[Array | None, ...] | None]:
        """Return what this node used before, or what the function is calibrated with now."""
        used = self.used.get((kind, wanted, samples))
        if used is not None:
            return used.tuning, used.replay
        return self._current(wanted), None

    def learn(
        self,
        kind: Kind,
        wanted: tuple[bool, ...],
        before: Tuning | None,
        found: Sequence[Tuning],
        arms: tuple[Array | None, ...],
    ) -> None:
        """Keep what was measured: with the node as it was used, for the function from now on.

        Args:
            kind: what was asked for.
            wanted: the leaves that were differentiated.
            before: the tuning that it began with.
            found: the tuning of each sample, none for methods that measure nothing.
            arms: those of central differences, of each sample, None where it took none.
        """
        key = (kind, wanted, len(arms))
        if not found or key in self.used:
            return
        after = combined(found)
        calibrated = any(each is not None for each in arms)
        # Where it did not calibrate, the tuning that it began with makes the same steps again.
        self.used[key] = Used(after if calibrated or before is None else before, arms)
        if after is not before:
            self.memory.learn(self.frame.signature(wanted), before, after)

    def noise(self, wanted: tuple[bool, ...]) -> float:
        """Return the noise that was measured, 0 if none was.

        A second derivative by other leaves relies on what was measured by these.
        """
        known = [used.tuning for key, used in self.used.items() if key[1] == wanted]
        current = self._current(wanted)
        if current is not None:
            known.append(current)
        return max((t.noise for t in known), default=self.memory.noise)

    def _current(self, wanted: tuple[bool, ...]) -> Tuning | None:
        tunings = self.memory.calibration.tunings
        return tunings.get(self.frame.signature(wanted)) if tunings else None
