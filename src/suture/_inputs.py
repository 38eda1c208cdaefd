"""What the black box receives: private copies of its arguments, displaced or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import prod
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from suture import _complaints
from suture._bounds import project, rounding
from suture._frame import Frame
from suture._layout import rounded
from suture._results import host
from suture._sizes import leaf_size
from suture._torch import CPU
from suture._types import Array, Stack
from suture.errors import MethodError

_DOUBLE = (torch.float64, torch.complex128)


@dataclasses.dataclass(slots=True)
class Batch:
    """Points (P, R, d), (P, p) and the sample (P,) of each."""

    rows: Array
    shared: Array
    samples: list[int]

    @property
    def is_complex(self) -> bool:
        """Whether the points are complex."""
        return bool(self.rows.dtype == np.complex128)

    def pick(self, points: Sequence[int]) -> Batch:
        """Return copies of some of the points: the function may write into what it gets of them."""
        which = slice(points.start, points.stop) if isinstance(points, range) else list(points)
        samples = [self.samples[p] for p in points]
        return Batch(self.rows[which].copy(), self.shared[which].copy(), samples)


class Parts(Protocol):
    """What the function receives for one argument at each point."""

    def __getitem__(self, point: int, /) -> Any:
        """Return it for one point."""


# A part is an object of half a kilobyte beside its numbers, so those of a large round are not
# made at once; and so many tensors by `unbind` take half the time of one by one.
_BLOCK = 256


def parts(stack: Any) -> Parts:
    """Return the parts of a stack (P, *shape), an array or a tensor."""
    if len(stack) > _BLOCK:
        return _Blocks(stack)
    if isinstance(stack, np.ndarray):
        return [stack[p, ...] for p in range(len(stack))]
    made: Sequence[Any] = stack.unbind(0)
    return made


class _Blocks:
    """The parts of a large stack, made as they are asked for, one after another."""

    def __init__(self, stack: Any) -> None:
        self._stack, self._first, self._made = stack, 0, parts(stack[:_BLOCK])

    def __getitem__(self, point: int, /) -> Any:
        if not self._first <= point < self._first + _BLOCK:
            self._first, self._made = point, parts(self._stack[point : point + _BLOCK])
        return self._made[point - self._first]


class Inputs:
    """The arguments of one frame, for S samples (the rows of a vmap; 1 without)."""

    def __init__(
        self, frame: Frame, tensors: Sequence[Tensor], lead: int, wanted: Sequence[bool]
    ) -> None:
        """Bring the arguments to the precision that the function receives.

        Args:
            frame: the call.
            tensors: its tensor arguments, each with `lead` leading axes.
            lead: how many axes of vmap they have.
            wanted: which of them are displaced.
        """
        self.frame = frame
        self.samples = prod(tensors[0].shape[:lead]) if tensors else 1
        if not self.samples:
            raise MethodError(
                f"`{frame.box.name}` was mapped over no rows at all.",
                "The shape of its result is known only from a call.",
                "Skip the call where the mapped dimension has size 0: `if len(x): …`.",
            )
        self.devices = [tensor.device for tensor in tensors]
        # How many numbers were outside of their bounds by rounding.
        self.projected = 0
        tensors = self._within_bounds(tensors)
        # Of each argument that is not displaced, one tensor a sample; None for the others.
        self.constants: list[Sequence[Tensor] | None] = []
        self.arrays: list[Array] = []
        for tensor, leaf, want in zip(tensors, frame.call.leaves, wanted, strict=True):
            if want:
                kind = np.complex128 if leaf.dtype.is_complex else np.float64
                array = np.asarray(host(tensor), kind).reshape((self.samples, *leaf.shape))
                self.arrays.append(rounded(array, leaf.dtype))
                self.constants.append(None)
            else:
                constant = tensor.detach()
                constant = constant if constant.dtype == leaf.dtype else constant.to(leaf.dtype)
                shape = (self.samples, *leaf.shape)
                self.constants.append(constant.reshape(shape).unbind(0) if lead else (constant,))
        self.layout = frame.call.layout(tuple(wanted))
        self.rows, self.shared = self.layout.gather(self.arrays, (self.samples,))

    def _within_bounds(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Bring what is outside of its bounds by rounding to them, or raise."""
        call = self.frame.call
        if not any(pair is not None for pair in call.bounds):
            return tensors
        inside = []
        for i, (tensor, leaf, pair) in enumerate(
            zip(tensors, call.leaves, call.bounds, strict=True)
        ):
            if pair is not None:
                array = np.asarray(host(tensor), np.float64).reshape((self.samples, *leaf.shape))
                array = rounded(array, leaf.dtype)
                scale = call.scales[i]
                size = leaf_size(array, leaf.batch_dim) if scale is None else scale
                place = self.frame.names()[i]
                allowed = rounding(tensor.dtype) * size
                array, count = project(array, pair, allowed, self.frame.box.name, place)
                if count:
                    self.projected += count
                    tensor = torch.from_numpy(array.reshape(tuple(tensor.shape)))
                    tensor = tensor.to(self.devices[i], leaf.dtype)
            inside.append(tensor)
        return inside

    def arguments(self, sample: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return private copies of (args, kwargs) at x, as the function receives them."""
        one = self.undisplaced([sample])
        stack: Stack = "points" if self.frame.box.vectorized else "none"
        return self.frame.arguments(self.of_call(stack, one))

    def has_integers(self) -> bool:
        """Whether samples cannot be stacked, because leaves that are not floating differ."""
        return any(
            constant is not None and not _is_stacked(constant[0]) for constant in self.constants
        )

    def undisplaced(self, samples: list[int]) -> Batch:
        """Return copies of x of some samples, as points."""
        return Batch(self.rows[samples], self.shared[samples], samples)

    def each_displaced(self, batch: Batch) -> list[Parts]:
        """Return, for each displaced argument, what the function receives at each point."""
        displaced = (i for i, constant in enumerate(self.constants) if constant is None)
        # Copies, so that an error can still say where a point was that the function overwrote.
        arrays = [array.copy() for array in self.layout.scatter(batch.rows, batch.shared)]
        return [parts(self._received(i, array)) for i, array in zip(displaced, arrays, strict=True)]

    def of_call(self, stack: Stack, chunk: Batch) -> list[Any]:
        """Return what the function receives for each tensor argument: private copies."""
        if stack == "rows":
            flat = chunk.rows.reshape((-1, self.layout.row_width))
            arrays = iter(self.layout.scatter(flat, chunk.shared[0]))
        elif stack == "points":
            arrays = iter(self.layout.scatter(chunk.rows, chunk.shared))
        else:
            arrays = iter(self.layout.scatter(chunk.rows[0], chunk.shared[0]))
        return [
            self._received(i, next(arrays))
            if constant is None
            else self._constant(i, constant, stack, chunk.samples)
            for i, constant in enumerate(self.constants)
        ]

    def _received(self, i: int, array: Array) -> Any:
        """Return points of an argument in the interface and the precision of the function."""
        dtype = self.frame.call.leaves[i].dtype
        if array.dtype == np.complex128:
            dtype = dtype.to_complex()
        if not array.flags.c_contiguous:
            array = array.copy()
        if self.frame.box.interface == "numpy":
            return array if dtype in _DOUBLE else torch.from_numpy(array).to(dtype).numpy()
        tensor = torch.from_numpy(array)
        device = self.devices[i]
        # `to` costs 3 µs even where there is nothing to do.
        return tensor if dtype in _DOUBLE and device == CPU else tensor.to(device, dtype)

    def private(self, constant: Tensor) -> Any:
        """Return a copy of an argument that is not displaced."""
        own = constant.clone()
        return host(own) if self.frame.box.interface == "numpy" else own

    def _constant(
        self, i: int, constant: Sequence[Tensor], stack: Stack, samples: list[int]
    ) -> Any:
        """Return copies of an argument that is not displaced, for the points of one call."""
        leaf, first = self.frame.call.leaves[i], constant[samples[0]]
        if stack == "rows" and leaf.batch_dim is not None:
            repeats = [1] * len(leaf.shape)
            repeats[leaf.batch_dim] = len(samples)
            return self.private(first.repeat(repeats))
        if stack != "points" or not _is_stacked(first):
            return self.private(first)
        if len(constant) > 1:
            return self.private(torch.stack([constant[s] for s in samples]))
        own = self.private(first)[None]
        if len(samples) == 1:
            return own
        # Expanded, not repeated: a function that writes into it gets an error.
        shape = (len(samples), *leaf.shape)
        return np.broadcast_to(own, shape) if isinstance(own, np.ndarray) else own.expand(shape)

    def where(self, batch: Batch) -> str:
        """Say where the point of a call is."""
        if len(batch.samples) > 1:
            return f"in a call of {len(batch.samples)} stacked points"
        rows = batch.rows[0] - self.rows[batch.samples[0]]
        shared = batch.shared[0] - self.shared[batch.samples[0]]
        return self.described(rows, shared)

    def described(self, rows: Array, shared: Array) -> str:
        """Say what is displaced, (R, d) and (p,): `x[5] increased by 2.1e-06`."""
        names = self.frame.names()
        displaced = [names[i] for i, constant in enumerate(self.constants) if constant is None]
        return _complaints.describe(self.layout, displaced, rows, shared)


def _is_stacked(constant: Tensor) -> bool:
    return constant.is_floating_point() or constant.is_complex()
