"""What several methods refuse."""

from __future__ import annotations

from suture.directions import AbstractDirections
from suture.errors import MethodError, shown


def check_directions(method: str, directions: object) -> None:
    """Refuse what is not a set of directions."""
    if not isinstance(directions, AbstractDirections):
        raise MethodError(
            f"`{method}(directions={shown(directions)})` is not understood.",
            "Directions are an object that samples seeds and knows the way back.",
            "Use one of `suture.directions`, for example `directions.Orthogonal(4)`.",
        )
