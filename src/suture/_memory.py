"""What is kept from one gradient of a function to the next."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np

from suture._calibration import Calibration
from suture._methods import Linearization, Remarks
from suture._tally import Tally
from suture._tuning import Tuning
from suture._types import Array

_lock = threading.Lock()

# What is counted besides the ordinary.
_COUNTS = (
    "hits",
    "repeated",
    "failed",
    "skipped",
    "retried",
    "central",
    "one_sided",
    "shrunk",
    "bounded",
    "projected",
)


@dataclasses.dataclass(frozen=True, slots=True)
class LastGradient:
    """What the last gradient was like; reading it evaluates nothing.

    Attributes:
        evaluations: how often the function was evaluated for it, the forward pass not counted.
        seconds: how long that took.
        hits: points that the memo knew.
        repeated: evaluations that were made again after a failure.
        failed: points that had no value to the last attempt.
        skipped: samples, or rows of a batch, whose gradient is zero because a point failed.
        retried: inputs whose differences had to be longer or shorter.
        central: inputs differenced centrally, because one side would have been worse than `rtol`.
        one_sided: inputs (random directions, where there are such) that were differenced without
            points at which the function failed: mostly those on one side.
        shrunk: inputs whose step was halved, because the function failed farther out.
        bounded: inputs whose step was turned or shortened by a bound.
        projected: numbers that were outside of their bounds by rounding.
        calibrated: why the function was calibrated, empty if it was not.
    """

    evaluations: int
    seconds: float
    hits: int
    repeated: int
    failed: int
    skipped: int
    retried: int
    central: int
    one_sided: int
    shrunk: int
    bounded: int
    projected: int
    calibrated: str
    # Of each sample: errors and norms of its slopes, and the part that random directions add.
    _found: tuple[tuple[Array | None, Array | None, float], ...] = dataclasses.field(repr=False)

    @property
    def relative_error(self) -> float | None:
        """The estimated relative error of the gradient, None where the method has no estimate.

        That of the Jacobian, each input in units of its scale: ‖error∘scale‖ / ‖slope∘scale‖. It
        does not depend on the loss. For random directions it is what their number leaves. Inputs
        whose error is not known are like the others; None if nothing is known of any.
        """
        total, size, sampling = 0.0, 0.0, 0.0
        silent = False
        for error, norms, part in self._found:
            sampling = max(sampling, part)
            if part and error is None:
                continue
            if error is None or norms is None:
                return None
            known = np.isfinite(error) & np.isfinite(norms)
            total += float(np.sum(error[known] ** 2))
            size += float(np.sum(norms[known] ** 2))
            silent = silent or bool(np.any(norms[~known]))
        if not size:
            return sampling or (0.0 if self._found and not total and not silent else None)
        return float(np.hypot(np.sqrt(total / size), sampling))

    def __repr__(self) -> str:
        """Return one line: the cost, the error, and what is not as usual."""
        error = self.relative_error
        parts = [
            f"{self.evaluations} evaluation{'' if self.evaluations == 1 else 's'} "
            f"in {self.seconds:.1e} s",
            "no estimate of the error" if error is None else f"error about {error:.0e}",
        ]
        for count in _COUNTS:
            number = getattr(self, count)
            parts += [f"{number} {count}"] if number else []
        parts += [f"calibrated: {self.calibrated}"] if self.calibrated else []
        return ", ".join(parts)


@dataclasses.dataclass(slots=True)
class Memory:
    """The calibration of a function, and what its last gradient was like."""

    calibration: Calibration = dataclasses.field(default_factory=Calibration)
    last: LastGradient | None = None

    def learn(self, signature: str, before: Tuning | None, after: Tuning) -> None:
        """Replace a tuning, unless another thread has done so in the meantime."""
        with _lock:
            if self.calibration.tunings.get(signature) is before:
                self.calibration = self.calibration.replaced(signature, after)

    @property
    def noise(self) -> float:
        """The largest noise that was measured in any form of call, 0 if none was."""
        return max((t.noise for t in self.calibration.tunings.values()), default=0.0)

    def note(
        self,
        found: list[Linearization],
        tally: Tally,
        seconds: float,
        projected: int,
    ) -> None:
        """Keep what a gradient was like."""
        remarks = sum((f.remarks for f in found), start=Remarks())
        self.last = LastGradient(
            tally.evaluations,
            seconds,
            tally.hits,
            tally.retries,
            tally.failures,
            tally.skipped,
            remarks.retried,
            remarks.central,
            remarks.one_sided,
            remarks.shrunk,
            remarks.bounded,
            projected,
            remarks.calibrated,
            tuple((f.error, f.norms, f.relative_sampling) for f in found),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Used:
    """What a node used in its first backward, so that the next one gives the same numbers.

    Attributes:
        tuning: the one that it began with, or that it made.
        replay: the arms of each sample, where it calibrated.
    """

    tuning: Tuning
    replay: tuple[Array | None, ...]
