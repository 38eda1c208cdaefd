"""The typical size of each input, where the user does not say it."""

from __future__ import annotations

import math

import numpy as np

from suture._types import Array

# Numbers between these can be squared, and a million squares added.
_SAFE = (1e-140, 1e140)


def typical_size(x: Array, axes: tuple[int, ...]) -> Array:
    """Return max(|x_j|, rms of x over `axes`), and 1 where both are zero.

    Args:
        x: real or complex values, any shape, in the user's units.
        axes: the leaf's axes; its batch axis alone for a leaf with a batch of rows.

    Returns:
        The scale of each element, real, in the shape of x.
    """
    size = np.abs(x)
    if size.size == 0:
        return size
    largest = size.max(axis=axes, keepdims=True)
    if largest.size == 1 and _SAFE[0] < largest.item() < _SAFE[1]:
        flat = size.reshape(-1)
        usual: Array = np.maximum(size, math.sqrt(float(flat @ flat) / flat.size))
        return usual
    if not np.isfinite(largest).all():
        # NaN and infinity (padding, masks) say nothing about the size of the others.
        size = np.where(np.isfinite(size), size, 0.0)
        largest = size.max(axis=axes, keepdims=True)
    largest[largest == 0] = 1.0
    # Divided by the largest, so that squares neither overflow nor underflow.
    unit = size / largest
    count = x.size // largest.size
    rms = largest * np.sqrt(np.sum(unit * unit, axis=axes, keepdims=True) / count)
    scale: Array = np.maximum(size, rms)
    scale[scale == 0] = 1.0
    return scale


def leaf_size(array: Array, batch_dim: int | None) -> Array:
    """Return the scale of every element of an argument, in its shape.

    Args:
        array: (S, *shape) samples.
        batch_dim: its batch dimension among `shape`, None without one.
    """
    if batch_dim is not None:
        return typical_size(array, (1 + batch_dim,))
    return typical_size(array, tuple(range(1, array.ndim)))
