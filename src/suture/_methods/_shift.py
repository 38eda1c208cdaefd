"""Rules with displacements of their own: a shift is exact at its angle and at no other."""

from __future__ import annotations

import numpy as np

from suture._types import Array
from suture.errors import MethodError

# A shift that is off by this angle gives a slope that is off by about as much, in units of f.
_MISSED = 1e-3


def check_room(nodes: Array, room: tuple[Array, Array]) -> None:
    """Check that a shift stays inside the bounds: it cannot be shortened.

    Args:
        nodes: (s,) displacements.
        room: how far down and up, (K, R) each.
    """
    down, up = room
    left = min(np.min(down + nodes.min(), initial=np.inf), np.min(up - nodes.max(), initial=np.inf))
    if left < 0:
        raise MethodError(
            f"A shift by {nodes.max():.3g} leads out of the bounds of an input by {-left:.3g}.",
            "It is exact only at its own angle, so that it can be neither shortened nor mirrored.",
            "Leave out the bounds (a rotation has a value at every angle), shift by a smaller "
            "angle, or use `FiniteDifference(stencils.CENTRAL)`.",
        )


def check_shifted(here: Array, taken: Array, nodes: Array, noise: float) -> None:
    """Check that rounding left the shifts (K, s, R) of angles (K, R) where the rule is exact."""
    # What float16 itself does to an angle below 8 is allowed: half of 4 noise.
    wrong = ~(np.abs(taken - nodes[:, None]) <= max(_MISSED, 4 * noise))
    if not wrong.any():
        return
    k, s, r = np.argwhere(wrong)[0]
    raise MethodError(
        f"An angle of {here[k, r]:.6g} was shifted by {taken[k, s, r]:.6g}, not by {nodes[s]:.6g}.",
        "The precision that the black box receives has no digits for that, and a shift is exact "
        "only at its own angle.",
        "Wrap the angle before the call, `torch.remainder(x, 2 * torch.pi)`; or leave out "
        "`dtype`, for float64.",
    )
