"""The stencils: rows of numbers, from two evaluations a direction to as many as you like.

==================== =========== =============== ===========================================
stencil              evaluations error           use
==================== =========== =============== ===========================================
`FORWARD`            1           step            the cheapest
`BACKWARD`           1           step            where f is undefined ahead of x
`CENTRAL`            2           step²           noisy or rounded functions
`central(order)`     order       step^order      smooth functions, expensive to get right
`richardson(levels)` 2·levels    step^(2·levels) the same, with nested arms
`COMPLEX_STEP`       1           rounding        analytic functions that take complex inputs
`shift(angle)`       2           none            angles of rotations, as in quantum circuits
`ONE_POINT`          1           variance        score estimates along random directions
==================== =========== =============== ===========================================

Evaluations are those of each direction; f(x), which the first two need, is that of the forward
pass. The error of a difference falls as what stands in its column; `shift` has no step, no scale.
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
"""Im f(x + ih) / h.

Source: Squire and Trapp (1998), SIAM Review 40(1), 110-112.
"""

ONE_POINT = Stencil((1,), (1,), order=0)
"""f(x + hd) / h, the score estimate.

Source: Flaxman, Kalai and McMahan (2005), SODA, 385-394.
"""

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
