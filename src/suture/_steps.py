"""How far to step: scale (units of x), step (dimensionless), noise (relative to the output).

All step formulas balance two errors. With a rule of order q and step h the truncation grows
like h^q; the noise of f, divided by the step, grows like noise / h. They meet at

    h = noise^(1 / (q + 1)).

These are the steps of stencils that are named; those of the default method, which measures noise
and curvature, are in `_calibration`.

Source: Press et al., Numerical Recipes, 3rd edition, section 5.7; Gill et al. (1983), SIAM
Journal on Scientific and Statistical Computing 4(2), 310-321.
"""

from __future__ import annotations

import dataclasses

from suture._stencil import Stencil

# The complex step subtracts nothing, so it cannot be too small: h² must vanish beside 1, and
# h times any scale must not underflow. 2^-100 = 8e-31 does both in float32 and in float64.
_COMPLEX_STEP = 2.0**-100

# A score estimate divides the whole of f by its step, so that its variance is (f / h)² / k: 1/10
# of the scale is where that is usable and the smoothing still small.
_SMOOTHING = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Steps:
    """The dimensionless steps of one linearization.

    Attributes:
        inner: the displacement of the difference rule.
        outer: the displacement between two linearizations whose difference is a second
            derivative.
    """

    inner: float
    outer: float


def first_order(stencil: Stencil, noise: float) -> float:
    """Return the step of a first derivative: noise^(1 / (order + 1)).

    The step of a score estimate (order 0) is a smoothing radius. An absolute rule has none: its
    nodes are the displacements.
    """
    if stencil.absolute:
        return 1.0
    if stencil.is_complex:
        return _COMPLEX_STEP
    if stencil.order == 0:
        return _SMOOTHING
    return float(noise ** (1 / (stencil.order + 1)))


def second_order(stencil: Stencil, noise: float, step: float | None) -> Steps:
    """Return the steps of a central difference (outer, t) of first derivatives (inner, h).

    The errors are h^q and t² by truncation and noise / (h t) by noise. They are equal for
    t = h^(q/2) and h = noise^(1 / (3q/2 + 1)); then t = (noise / h)^(1/3), which is also the
    best t for an h that is given. Where the inner derivative is exact (complex step, shift),
    only t² and noise / t remain, and t = noise^(1/3).
    """
    if stencil.absolute:
        return Steps(1.0, noise ** (1 / 3))
    if stencil.is_complex:
        return Steps(step or _COMPLEX_STEP, noise ** (1 / 3))
    if stencil.order == 0:
        inner = step or _SMOOTHING
    else:
        inner = step or float(noise ** (1 / (1.5 * stencil.order + 1)))
    return Steps(inner, (noise / inner) ** (1 / 3))
