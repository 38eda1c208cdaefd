"""The stencils: rows of numbers, from two evaluations a direction to as many as you like.

| stencil | evaluations per direction | error falls as | use |
|---|---|---|---|
| `FORWARD` | 1, and f(x) of the forward pass | step | the cheapest |
| `BACKWARD` | 1, and f(x) of the forward pass | step | where f is undefined ahead of x |
| `CENTRAL` | 2 | step² | noisy or rounded functions |
| `central(order)` | order | step^order | smooth functions that are expensive to get right |
| `richardson(levels)` | 2·levels | step^(2·levels) | the same, with nested arms |
| `COMPLEX_STEP` | 1 | to rounding | functions that accept complex inputs and stay analytic |
| `shift(angle)` | 2 | exact | angles of rotations, as in quantum circuits: no step, no scale |
| `ONE_POINT` | 1 | variance | score estimates along random directions only |
"""

from __future__ import annotations

from suture._stencil import Stencil, central, richardson, shift

FORWARD = Stencil((0, 1), (-1, 1), order=1)
"""(f(x + h) - f(x)) / h."""

BACKWARD = Stencil((-1, 0), (-1, 1), order=1)
"""(f(x) - f(x - h)) / h."""

CENTRAL = central(2)
"""(f(x + h) - f(x - h)) / 2h."""

COMPLEX_STEP = Stencil((1j,), (-1j,), order=2)
"""Im f(x + ih) / h. Source: Squire and Trapp (1998), SIAM Review 40(1), 110-112."""

ONE_POINT = Stencil((1,), (1,), order=0)
"""f(x + hd) / h: the score estimate. Source: Flaxman, Kalai and McMahan (2005), SODA, 385-394."""

__all__ = [
    "BACKWARD",
    "CENTRAL",
    "COMPLEX_STEP",
    "FORWARD",
    "ONE_POINT",
    "Stencil",
    "central",
    "richardson",
    "shift",
]
