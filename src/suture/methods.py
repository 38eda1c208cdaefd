"""What a method of your own is made of; see the page "Extending Suture" of the documentation.

A method is a generator. It is given a `Primal`, what may be known of f at x, yields `Points`, is
sent the values of f there, and returns a `Linearization`, slopes along directions. It never calls
f, so where and how f is evaluated is not its business.

Example:
    >>> import numpy as np
    >>> points = Points(rows=np.zeros((3, 1, 2)), shared=None)
    >>> len(points)
    3
"""

from __future__ import annotations

from suture._methods import (
    AbstractMethod,
    Linearization,
    Points,
    Primal,
    Remarks,
    Room,
    contract,
)

__all__ = [
    "AbstractMethod",
    "Linearization",
    "Points",
    "Primal",
    "Remarks",
    "Room",
    "contract",
]
