"""Directions: one input at a time, or random ones, averaged or solved by least squares."""

from __future__ import annotations

from suture.directions._base import AbstractDirections
from suture.directions._coordinate import Coordinate
from suture.directions._random import (
    AbstractRandomDirections,
    Gaussian,
    Orthogonal,
    Rademacher,
)

__all__ = [
    "AbstractDirections",
    "AbstractRandomDirections",
    "Coordinate",
    "Gaussian",
    "Orthogonal",
    "Rademacher",
]
