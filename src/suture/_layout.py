"""Where each differentiated leaf stands among the rows and columns that methods work with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import prod

import numpy as np
import torch

from suture._types import Array

_NUMPY_FLOATS = {torch.float32: np.float32, torch.float16: np.float16}


@dataclasses.dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor argument.

    Attributes:
        shape: its shape, without the leading axes of a vmap.
        dtype: what the black box receives.
        batch_dim: its batch dimension, None where it is shared by all rows.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    batch_dim: int | None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        if self.batch_dim is None:
            return self.shape
        return self.shape[: self.batch_dim] + self.shape[self.batch_dim + 1 :]


@dataclasses.dataclass(frozen=True, slots=True)
class _Segment:
    leaf: Leaf
    in_rows: bool
    start: int
    stop: int


class Layout:
    """Maps leaves to rows (R, d) and shared columns (p,), and back.

    A black box without a batch is one row. Complex elements are two real columns.
    """

    def __init__(self, leaves: Sequence[Leaf], rows: int | None) -> None:
        """Give each leaf its columns; `rows` is the size of the batch, None without one."""
        self.batched = rows is not None
        self.rows = 1 if rows is None else rows
        self.segments: list[_Segment] = []
        widths = {True: 0, False: 0}
        for leaf in leaves:
            in_rows = not self.batched or leaf.batch_dim is not None
            width = prod(leaf.row_shape) * (2 if leaf.dtype.is_complex else 1)
            start = widths[in_rows]
            widths[in_rows] = start + width
            self.segments.append(_Segment(leaf, in_rows, start, start + width))
        self.row_width, self.shared_width = widths[True], widths[False]
        self.exact = all(leaf.dtype in (torch.float64, torch.complex128) for leaf in leaves)

    def gather(self, arrays: Sequence[Array], lead: tuple[int, ...]) -> tuple[Array, Array]:
        """Return rows (*lead, R, d) and shared (*lead, p) from arrays (*lead, *leaf shape)."""
        rows = np.empty((*lead, self.rows, self.row_width))
        shared = np.empty((*lead, self.shared_width))
        for segment, array in zip(self.segments, arrays, strict=True):
            if segment.in_rows:
                rows[..., segment.start : segment.stop] = self._as_rows(segment, array)
            else:
                width = segment.stop - segment.start
                shared[..., segment.start : segment.stop] = _real(array).reshape((*lead, width))
        return rows, shared

    def _as_rows(self, segment: _Segment, array: Array) -> Array:
        leaf = segment.leaf
        lead = array.shape[: array.ndim - len(leaf.shape)]
        if leaf.batch_dim is not None:
            array = np.moveaxis(array, len(lead) + leaf.batch_dim, len(lead))
        return _real(array).reshape((*lead, self.rows, segment.stop - segment.start))

    def scatter(self, rows: Array, shared: Array) -> list[Array]:
        """Return arrays (…, *leaf shape) from rows (…, R, d) and shared (…, p).

        Rows may be more or fewer than R: concatenated batches have P·R. The arrays are views of
        the columns where NumPy can make views.
        """
        return [self._leaf_array(segment, rows, shared) for segment in self.segments]

    def _leaf_array(self, segment: _Segment, rows: Array, shared: Array) -> Array:
        block = (rows if segment.in_rows else shared)[..., segment.start : segment.stop]
        leaf = segment.leaf
        if leaf.dtype.is_complex and not np.iscomplexobj(block):
            # A copy: torch needs complex numbers aligned to 16 bytes, and crashes on a view
            # behind an odd number of real columns.
            block = block.copy().view(np.complex128)
        if not segment.in_rows:
            return block.reshape((*block.shape[:-1], *leaf.shape))
        lead = block.shape[:-2]
        if leaf.batch_dim is None:
            return block.reshape((*lead, *leaf.shape))
        array = block.reshape((*block.shape[:-1], *leaf.row_shape))
        return np.moveaxis(array, len(lead), len(lead) + leaf.batch_dim)

    def round(self, rows: Array | None, shared: Array | None) -> tuple[Array | None, Array | None]:
        """Round rows and shared columns to the precision that the black box receives."""
        for segment in self.segments:
            array = rows if segment.in_rows else shared
            if array is not None:
                block = array[..., segment.start : segment.stop]
                array[..., segment.start : segment.stop] = rounded(block, segment.leaf.dtype)
        return rows, shared


def rounded(array: Array, dtype: torch.dtype) -> Array:
    """Return `array` (float64 or complex128) after rounding to a torch dtype."""
    real = dtype.to_real()
    if real == torch.float64:
        return array
    if np.iscomplexobj(array):
        both = np.empty_like(array)
        both.real, both.imag = rounded(array.real, real), rounded(array.imag, real)
        return both
    if real in _NUMPY_FLOATS:
        with np.errstate(over="ignore"):  # beyond the range it is infinite, as in torch
            return array.astype(_NUMPY_FLOATS[real]).astype(np.float64)
    # NumPy has no bfloat16.
    return torch.from_numpy(np.ascontiguousarray(array)).to(real).double().numpy()


def _real(array: Array) -> Array:
    """View complex elements as pairs of real ones, on the last axis or a new one."""
    if not np.iscomplexobj(array):
        return array
    pairs: Array = _contiguous(array)[..., None].view(np.float64)
    return pairs


def _contiguous(array: Array) -> Array:
    """Return an array whose elements can be viewed in another size."""
    return array if array.flags.c_contiguous else array.copy()
