"""What was measured for one form of call, and what follows from it for each step.

With noise σ and curvature c, a one-sided difference of step h is off by h c / 2 through truncation
and by √2 σ / h through noise. The mean square of both is least at

    h = 8^(1/4) √(σ / c),    where it is  error = 2^(1/4) √(σ c).

Source: Moré and Wild (2012), Estimating derivatives of noisy simulations, ACM Transactions on
Mathematical Software 38(3), article 19.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from suture._types import Array

_BEST = 8**0.25

# A step is at most this part of the scale: beyond it, a function need not look like its Taylor
# polynomial at all.
LONGEST = 0.25

# A step is at least this many units in the last place of an input of the size of its scale: a
# shorter one would be mostly rounding.
_SHORTEST = 64

# One curvature is measured anew for each hundred inputs that were differentiated: 1 % more
# evaluations. Measured on the Moré-Garbow-Hillstrom problems: it halves the error six steps on.
_REFRESH = 100

# An input has drifted when it is ten times as large as where its step was chosen, an output when
# it is a hundred times as large: the geometric mean below is then wrong by ten, the step by three.
_GROWN_INPUT, _GROWN_OUTPUT = 10.0, 100.0

# A curvature that is this many times what the calibration saw belongs to another function: the
# step is then wrong by more than ten. Or f has become noisier: then each refresh takes the noise
# for curvature, and the next step is shorter, so that what is compared is not the last refresh.
_GROWN_CURVATURE = 300.0

# A difference of fewer standard deviations of the noise has no two digits: not worth a calibration.
_HIDDEN = 100.0


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Tuning:
    """What was measured for one form of call, with n differentiated inputs.

    Attributes:
        noise: of f, relative to ‖f(x)‖.
        size: ‖f(x)‖ of a row, in units of the output.
        scale: (n,) typical size of each input, in its units.
        curvature: (n,) ‖∂²f/∂x²‖ of a row, per scale²; NaN where it was not seen.
        slope: (n,) ‖∂f/∂x‖ of a row, per scale; NaN where it was not seen.
        arm: (n,) how far the central difference that saw them reached, in units of the scale; NaN
            likewise.
        origin: (n,) the curvature that the calibration saw, which no refresh replaces.
        since: how many inputs were differentiated since the last refresh.
        cursor: the input whose curvature is measured next.
        calibrations: how often it was calibrated.
        reason: why, the last time.
        drifted: why it must be calibrated again, empty if it need not.
    """

    noise: float
    size: float
    scale: Array
    curvature: Array
    slope: Array
    arm: Array
    origin: Array
    since: int = 0
    cursor: int = 0
    calibrations: int = 1
    reason: str = "the first gradient"
    drifted: str = ""

    @property
    def is_lazy(self) -> bool:
        """Whether no curvature was measured."""
        return bool(np.isnan(self.arm).all())

    @property
    def blind_step(self) -> float:
        """The step for a function that changes by itself over its scale."""
        return _BEST * float(np.sqrt(self.noise))

    def level(self, size: float) -> float:
        """Return the noise in units of the output, where ‖f(x)‖ is `size`.

        Whether noise grows with the output is not known: the geometric mean between "it stays"
        and "it grows" is never wrong by more than the root of the growth.
        """
        return self.noise * float(np.sqrt(self.size * max(self.size, size)))

    def steps(self, size: float, precision: float) -> Array:
        """Return the one-sided step of each input, (n,), in units of its scale.

        Args:
            size: ‖f(x)‖ now.
            precision: relative rounding of the numbers that f receives.
        """
        # 0/0 where squares of the output underflow: as without a curvature.
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            best = _BEST * np.sqrt(self.level(size) / self.curvature)
        best = np.where(np.isnan(best), self.blind_step, best)
        # No farther than f was seen: where it is straight each refresh would allow a longer step,
        # and the first one across a bend would be wrong without a sign of it.
        seen = np.where(np.isnan(self.arm), self.noise ** (1 / 3), self.arm)
        best = np.minimum(best, seen)
        steps: Array = np.clip(best, min(_SHORTEST * precision, LONGEST), LONGEST)
        return steps

    def errors(self, steps: Array, size: float) -> Array:
        """Return the expected error of one-sided slopes per scale, (n,), NaN where unknown."""
        level = self.level(size)
        error: Array = np.sqrt((steps * self.curvature / 2) ** 2 + 2 * (level / steps) ** 2)
        return error

    def drift(self, scale: Array, size: float, steps: Array) -> str:
        """Return why these steps do not fit any more, empty if they do.

        Args:
            scale: (n,) typical sizes now.
            size: ‖f(x)‖ now.
            steps: (n,) that would be taken, in units of the scale then.
        """
        if self.drifted:
            return self.drifted
        if size > _GROWN_OUTPUT * self.size:
            return f"the output grew from {self.size:.2g} to {size:.2g}"
        moved = (scale > _GROWN_INPUT * self.scale) | self.passed(scale, size, steps)[0]
        return self.went(int(np.argmax(moved)), scale) if moved.any() else ""

    def went(self, j: int, scale: Array) -> str:
        """Say what became of the size of an input."""
        return f"input {j} went from a size of {self.scale[j]:.2g} to {scale[j]:.2g}"

    def passed(self, scale: Array, size: float, steps: Array) -> tuple[Array, Array]:
        """Return which inputs are smaller than their steps, (n,): fit to be calibrated, and not.

        An input on its way through zero is small by chance. By what is known of it, a step as
        small would show nothing but noise: it keeps the one that it has, and is watched instead.
        """
        small = steps * self.scale > scale
        if not small.any():
            return small, small
        arm = LONGEST * scale / self.scale
        least = _HIDDEN * self.level(size)
        hidden = (2 * arm * self.slope < least) & (arm**2 * self.curvature < least)
        return small & ~hidden, small & hidden

    def due(self) -> tuple[Array, Tuning]:
        """Return the inputs whose curvature this gradient measures anew, and the next tuning."""
        n = len(self.scale)
        count, since = divmod(self.since + n, _REFRESH)
        count = min(count, n)
        columns = (self.cursor + np.arange(count)) % max(n, 1)
        cursor = (self.cursor + count) % max(n, 1)
        return np.sort(columns), dataclasses.replace(self, since=since, cursor=cursor)

    def refreshed(self, columns: Array, curvature: Array, slope: Array) -> Tuning:
        """Return it with new curvatures and slopes of some inputs."""
        if not len(columns):
            return self
        old = self.origin[columns]
        drifted = np.isfinite(old) & (curvature > _GROWN_CURVATURE * old)
        curvatures, slopes, origin = self.curvature.copy(), self.slope.copy(), self.origin.copy()
        curvatures[columns], slopes[columns] = curvature, slope
        # Without a calibration of each input the first refresh stands for it.
        origin[columns] = np.where(np.isnan(old), curvature, old)
        why = ""
        if drifted.any():
            j = int(np.argmax(drifted))
            why = (
                f"the curvature by input {int(columns[j])} went from {old[j]:.2g} to "
                f"{curvature[j]:.2g}"
            )
        return dataclasses.replace(
            self, curvature=curvatures, slope=slopes, origin=origin, drifted=why
        )

    def after(self, previous: Tuning | None, reason: str) -> Tuning:
        """Return it as the calibration that replaces a previous one."""
        if previous is None:
            return self
        count = previous.calibrations + 1
        return dataclasses.replace(self, calibrations=count, reason=reason or self.reason)

    def __str__(self) -> str:
        """Return one line."""
        steps = self.steps(self.size, 0.0)
        spread = f"{steps.min():.1e} to {steps.max():.1e}" if len(steps) else "none"
        seen = "no curvature" if self.is_lazy else "curvature of each input"
        again = f"; calibrated {self.calibrations} times, the last time because {self.reason}"
        return (
            f"noise {self.noise:.1e} of the output, {seen}, steps {spread}"
            f"{again if self.calibrations > 1 else ''}"
        )


def central_error(arm: Array, level: float, slope: Array, curvature: Array, size: float) -> Array:
    """Return the expected error of central slopes per scale, (n,): noise and truncation.

    The noise leaves level / (√2 arm), the truncation arm² |f‴| / 6.

    The third derivative is not seen. It is at least that of a function which changes by itself
    over its scale: like slope and curvature. On a shorter length of its own it grows as from the
    value to the curvature, √(curvature / size), or from the slope to the curvature, whichever is
    less: near a minimum the slope is small by chance, near a root the value.

    Args:
        arm: (n,) in units of the scale.
        level: the noise, in units of the output.
        slope: (n,) per scale.
        curvature: (n,) per scale², NaN where it was not seen.
        size: of the output.
    """
    seen = np.nan_to_num(curvature)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        faster = np.fmin(seen / slope, np.sqrt(seen / size))
    third: Array = np.maximum(slope, seen * np.maximum(1.0, np.nan_to_num(faster, posinf=1.0)))
    return np.asarray(np.hypot(level / (np.sqrt(2) * arm), arm**2 * third / 6))


def combined(tunings: Sequence[Tuning]) -> Tuning:
    """Return one tuning for the samples of a vmap: rows of one calibration."""
    if len(tunings) == 1:
        return tunings[0]

    def rms(name: str) -> Array:
        squares = np.array([getattr(t, name) for t in tunings]) ** 2
        known = np.isfinite(squares)
        total = np.where(known, squares, 0.0).sum(axis=0)
        mean: Array = total / np.maximum(known.sum(axis=0), 1)
        return np.where(known.any(axis=0), np.sqrt(mean), np.nan)

    arms = np.array([t.arm for t in tunings])
    return dataclasses.replace(
        tunings[0],
        noise=float(np.median([t.noise for t in tunings])),
        size=float(np.sqrt(np.mean([t.size**2 for t in tunings]))),
        curvature=rms("curvature"),
        slope=rms("slope"),
        origin=rms("origin"),
        arm=np.median(arms, axis=0),
        drifted=next((t.drifted for t in tunings if t.drifted), ""),
    )
