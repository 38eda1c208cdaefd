"""Leading axes of vmap: which belong to the samples, and which only to what is contracted."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from torch import Tensor

from suture._results import host
from suture._types import Array


class Axes:
    """Sorts leading axes into those of the samples and the free ones of what is contracted."""

    def __init__(self, samples: Sequence[int], other: Sequence[int]) -> None:
        self.full = broadcast(samples, other)
        own = [i for i, size in enumerate(samples) if size != 1]
        free = [i for i, size in enumerate(samples) if size == 1]
        self.order = own + free
        self.own = tuple(self.full[i] for i in own)
        self.free = tuple(self.full[i] for i in free)

    def split(self, array: Array, tail: int) -> Array:
        """Return (S, C, …) from (*lead, …) with `tail` axes behind the leading ones."""
        inner = array.shape[array.ndim - tail :]
        if not self.full:
            return array[None, None]
        whole = np.broadcast_to(array, (*self.full, *inner))
        axes = [*self.order, *range(len(self.full), whole.ndim)]
        return whole.transpose(axes).reshape(prod(self.own), prod(self.free), *inner)

    def join(self, array: Array) -> Array:
        """Return (*lead, …) from (S, C, …)."""
        inner = array.shape[2:]
        if not self.full:
            return np.asarray(array[0, 0])
        split = array.reshape((*self.own, *self.free, *inner))
        axes = [*np.argsort(self.order), *range(len(self.full), split.ndim)]
        return split.transpose([int(axis) for axis in axes])


def lead_of(tensors: Sequence[Tensor], lead: int) -> tuple[int, ...]:
    """Return the leading axes of a group of tensors, all 1 for an empty one."""
    return tuple(tensors[0].shape[:lead]) if tensors else (1,) * lead


def broadcast(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """Return the leading axes of both together; each is 1 or the same in both."""
    return tuple(b if a == 1 else a for a, b in zip(first, second, strict=True))


def samples(raw: Tensor, tail: int) -> Array:
    """Return (S, …) from (*lead, …)."""
    array = host(raw)
    if array.ndim == tail:
        return array[None]
    return (
        array.reshape(-1, *array.shape[array.ndim - tail :]) if array.size else _empty(array, tail)
    )


def _empty(array: Array, tail: int) -> Array:
    return array.reshape(prod(array.shape[: array.ndim - tail]), *array.shape[array.ndim - tail :])
