"""The vocabulary that both sides of the house share: arrays and their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""A NumPy array; shapes stand in the docstrings. Inside the library it is float64 or complex128."""

Interface: TypeAlias = Literal["torch", "numpy"]
"""What the black box receives."""

Draw: TypeAlias = Callable[[], np.random.Generator]
"""Makes the generator of a node. Every call returns it at its start, so draws can be repeated."""

OnFailure: TypeAlias = Literal["raise", "shrink", "one_sided", "skip"]
"""What happens where f fails at a displaced point."""

Round: TypeAlias = Callable[[Array | None, Array | None], tuple[Array | None, Array | None]]
"""Rounds (rows, shared) to the precision that the black box receives."""

Stack: TypeAlias = Literal["none", "points", "rows"]
"""How points share a call: each its own, on a new leading axis, or along the batch."""
