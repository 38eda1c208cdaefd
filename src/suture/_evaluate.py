"""Evaluate the black box at points: the only file that calls it.

Points come as matrices and values leave as matrices. A point is handed to the function as a
private copy, never as a view of anything that is used again, and its result is copied.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suture import _complaints, _results
from suture._frame import Frame
from suture._layout import layout_of, rounded
from suture._results import Read, host
from suture._torch import CPU
from suture._types import Array, Stack
from suture.errors import BadResult, EvaluationError, MethodError, SutureError


@dataclasses.dataclass(slots=True)
class Request:
    """P points of one sample.

    Attributes:
        sample: which row of a vmap.
        rows: (P, R, d) inputs that differ from row to row.
        shared: (P, p) inputs that all rows share.
        same_shared: whether all points have the same shared inputs.
    """

    sample: int
    rows: Array
    shared: Array
    same_shared: bool


class Evaluator:
    """Calls one frame's black box, for S samples (the rows of a vmap; 1 without)."""

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
                "Skip the call where the mapped dimension has size 0.",
            )
        self.devices = [tensor.device for tensor in tensors]
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
        displaced = (leaf for leaf, want in zip(frame.call.leaves, wanted, strict=True) if want)
        self.layout = layout_of(tuple(displaced), frame.call.rows)
        self.rows, self.shared = self.layout.gather(self.arrays, (self.samples,))

    def arguments(self, sample: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return private copies of (args, kwargs) at x, as the function receives them."""
        one = self._no_points(np.array([sample]))
        stack: Stack = "points" if self.frame.box.vectorized else "none"
        return self.frame.arguments(self._inputs(stack, one))

    def forward(self) -> tuple[Array, dict[int, Array]]:
        """Evaluate f(x) of every sample; nothing is displaced.

        Returns:
            The values (S, R, O), and the integer outputs (S, *shape) by their position.
        """
        vectorized = self.frame.box.vectorized
        integers: dict[int, list[Array]] = {}
        values: list[Array] = []
        everything = np.arange(self.samples)
        for batch in self._together(everything) if vectorized else everything[:, None]:
            part, found = self._run("points" if vectorized else "none", self._no_points(batch))
            values.append(part)
            for i, arrays in found.items():
                integers.setdefault(i, []).extend(arrays)
        return _concatenate(values), {i: np.concatenate(v) for i, v in integers.items()}

    def evaluate(self, requests: Sequence[Request]) -> list[Array]:
        """Return the values (P, R, O) of each request; points that can share a call do."""
        if len(requests) == 1:
            (request,) = requests
            samples = np.full(len(request.rows), request.sample)
            batch = _Batch(request.rows, request.shared, samples)
            return [self._run(self._stack(request), batch)[0]]
        values: list[Array | None] = [None] * len(requests)
        for stack, members in self._groups(requests):
            chosen = [requests[i] for i in members]
            counts = [len(request.rows) for request in chosen]
            batch = _Batch(
                _concatenate([request.rows for request in chosen]),
                _concatenate([request.shared for request in chosen]),
                _concatenate([np.full(n, r.sample) for n, r in zip(counts, chosen, strict=True)]),
            )
            together, _ = self._run(stack, batch)
            start = 0
            for i, count in zip(members, counts, strict=True):
                values[i] = together[start : start + count]
                start += count
        return [value for value in values if value is not None]

    def _groups(self, requests: Sequence[Request]) -> Iterator[tuple[Stack, list[int]]]:
        """Sort requests into those that share calls."""
        groups: dict[tuple[Stack, int, bool], list[int]] = {}
        for i, request in enumerate(requests):
            stack = self._stack(request)
            alone = {"none": i, "rows": request.sample, "points": -1}[stack]
            if stack == "points" and self._has_integers():
                alone = request.sample
            is_complex = bool(request.rows.dtype == np.complex128)
            groups.setdefault((stack, alone, is_complex), []).append(i)
        for (stack, *_), members in groups.items():
            yield stack, members

    def _stack(self, request: Request) -> Stack:
        if self.frame.box.vectorized:
            return "points"
        return "rows" if self.frame.call.rows is not None and request.same_shared else "none"

    def _has_integers(self) -> bool:
        """Whether samples cannot be stacked, because leaves that are not floating differ."""
        return any(
            constant is not None and not _is_stacked(constant[0]) for constant in self.constants
        )

    def _together(self, samples: Array) -> list[Array]:
        return list(samples[:, None]) if self._has_integers() else [samples]

    def _no_points(self, samples: Array) -> _Batch:
        if self.samples == 1:
            return _Batch(self.rows, self.shared, samples)
        return _Batch(self.rows[samples], self.shared[samples], samples)

    def _run(self, stack: Stack, batch: _Batch) -> tuple[Array, dict[int, list[Array]]]:
        """Evaluate all points of a batch, in as few calls as its stack and chunk size allow.

        Returns:
            The values (P, R, O), and the integer outputs of each call by their position.
        """
        with nullcontext() if self.frame.is_ambient() else self.frame.restored():
            values, integers = (
                self._run_each(batch) if stack == "none" else self._run_stacked(stack, batch)
            )
        if not np.isfinite(values).all():
            point = int(np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))[0])
            one = batch.chunk(point, point + 1)
            raise self._located(
                _complaints.not_finite(self.frame, values, point, lambda: self._where(one)), one
            )
        return values, integers

    def _run_each(self, batch: _Batch) -> tuple[Array, dict[int, list[Array]]]:
        """Evaluate one point a call."""
        integers: dict[int, list[Array]] = {}
        displaced = self._each_displaced(batch)
        form = self.frame.outcome
        values = None if form is None else self._room(batch)
        for p, sample in enumerate(batch.samples.tolist()):
            rest = iter(displaced)
            inputs = [
                next(rest)[p] if constant is None else self._private(constant[sample])
                for constant in self.constants
            ]
            one = functools.partial(batch.chunk, p, p + 1)
            result = self._call("none", one, inputs)
            if values is not None and form is not None and form.is_alike(result):
                values[p] = _results.quick(result).reshape(values.shape[1:])
                continue
            leaves = self._read("none", one(), result)
            if values is None:  # the first result fixes the form
                values = self._room(batch)
            _results.store(self.frame.form.outputs, leaves, values[p : p + 1], integers)
        return (self._room(batch) if values is None else values), integers

    def _room(self, batch: _Batch) -> Array:
        """Return an array for the values of all points of a batch."""
        shape = (len(batch.samples), self.layout.rows, self.frame.form.width)
        return np.empty(shape, batch.rows.dtype)

    def _each_displaced(self, batch: _Batch) -> list[Sequence[Any]]:
        """Return, for each displaced argument, what the function receives at each point."""
        displaced = (i for i, constant in enumerate(self.constants) if constant is None)
        arrays = self.layout.scatter(batch.rows, batch.shared)
        stacks = [self._received(i, array) for i, array in zip(displaced, arrays, strict=True)]
        if self.frame.box.interface == "numpy":
            return [[stack[p, ...] for p in range(len(stack))] for stack in stacks]
        return [stack.unbind(0) for stack in stacks]

    def _run_stacked(self, stack: Stack, batch: _Batch) -> tuple[Array, dict[int, list[Array]]]:
        """Evaluate many points a call."""
        count = len(batch.samples)
        size = self.frame.box.chunk_size or max(count, 1)
        integers: dict[int, list[Array]] = {}
        values = None
        for start in range(0, count, size):
            chunk = batch.chunk(start, start + size)
            one = functools.partial(batch.chunk, start, start + size)
            leaves = self._read(stack, chunk, self._call(stack, one, self._inputs(stack, chunk)))
            if values is None:  # the first result fixes the form
                values = self._room(batch)
            _results.store(self.frame.form.outputs, leaves, values[start : start + size], integers)
        return (self._room(batch) if values is None else values), integers

    def _inputs(self, stack: Stack, chunk: _Batch) -> list[Any]:
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

    def _private(self, constant: Tensor) -> Any:
        """Return a copy of an argument that is not displaced."""
        own = constant.clone()
        return host(own) if self.frame.box.interface == "numpy" else own

    def _constant(self, i: int, constant: Sequence[Tensor], stack: Stack, samples: Array) -> Any:
        """Return copies of an argument that is not displaced, for the points of one call."""
        leaf, first = self.frame.call.leaves[i], constant[samples[0]]
        if stack == "rows" and leaf.batch_dim is not None:
            repeats = [1] * len(leaf.shape)
            repeats[leaf.batch_dim] = len(samples)
            return self._private(first.repeat(repeats))
        if stack != "points" or not _is_stacked(first):
            return self._private(first)
        if len(constant) > 1:
            return self._private(torch.stack([constant[s] for s in samples.tolist()]))
        own = self._private(first)[None]
        if len(samples) == 1:
            return own
        # Expanded, not repeated: a function that writes into it gets an error.
        shape = (len(samples), *leaf.shape)
        return np.broadcast_to(own, shape) if isinstance(own, np.ndarray) else own.expand(shape)

    def _call(self, stack: Stack, chunk: Callable[[], _Batch], inputs: list[Any]) -> Any:
        args, kwargs = self.frame.arguments(inputs)
        try:
            result = self.frame.box.fn(*args, **kwargs)
        except SutureError:
            raise
        except Exception as error:
            where = chunk()
            complaint = _complaints.raised(
                self.frame, stack, len(where.samples), lambda: self._where(where), error
            )
            self._located(complaint, where)
            raise complaint from error
        finally:
            self.frame.counter.evaluations += 1 if stack == "none" else len(chunk().samples)
        return result

    def _read(self, stack: Stack, chunk: _Batch, result: Any) -> list[Any]:
        """Return the leaves of a result, numeric ones as arrays (P, *shape), and check them."""
        frame = self.frame
        leaves, structure = _results.read(frame.box.name, result)
        leaves = [
            Read(self._unstacked(stack, leaf.array, len(chunk.samples)), leaf.dtype)
            if isinstance(leaf, Read)
            else leaf
            for leaf in leaves
        ]
        if frame.outcome is None:
            frame.outcome = _results.outcome(frame.box.name, leaves, structure, frame.call.rows)
            frame.outcome.remember(result, stack)
        else:
            try:
                where = functools.partial(self._where, chunk)
                _complaints.check_form(frame, leaves, structure, chunk.is_complex, where)
            except BadResult as complaint:
                raise self._located(complaint, chunk) from None
        return [leaf.array if isinstance(leaf, Read) else leaf for leaf in leaves]

    def _where(self, batch: _Batch) -> str:
        """Say where the point of a call is."""
        if len(batch.samples) > 1:
            return f"in a call of {len(batch.samples)} stacked points"
        rows = batch.rows[0] - self.rows[batch.samples[0]]
        shared = batch.shared[0] - self.shared[batch.samples[0]]
        names = self.frame.names()
        displaced = [names[i] for i, constant in enumerate(self.constants) if constant is None]
        return _complaints.describe(self.layout, displaced, rows, shared)

    def _located(self, complaint: EvaluationError, batch: _Batch) -> EvaluationError:
        """Save the first point of a call with the error: fresh copies, as the function had them."""
        one = batch.chunk(0, 1)
        stack: Stack = "points" if self.frame.box.vectorized else "none"
        complaint.point = self.frame.arguments(self._inputs(stack, one))
        return complaint

    def _unstacked(self, stack: Stack, array: Array, count: int) -> Array:
        if stack == "none":
            return array[None]
        rows = self.frame.call.rows if stack == "rows" else None
        expected = count if rows is None else count * rows
        if array.ndim == 0 or array.shape[0] != expected:
            raise _complaints.not_stacked(self.frame, array.shape, count, rows)
        return array if rows is None else array.reshape(count, rows, *array.shape[1:])


@dataclasses.dataclass(slots=True)
class _Batch:
    """Points (P, R, d), (P, p) and the sample (P,) of each."""

    rows: Array
    shared: Array
    samples: Array

    @property
    def is_complex(self) -> bool:
        """Whether the points are complex."""
        return bool(self.rows.dtype == np.complex128)

    def chunk(self, start: int, stop: int) -> _Batch:
        """Return some of the points."""
        return _Batch(self.rows[start:stop], self.shared[start:stop], self.samples[start:stop])


_DOUBLE = (torch.float64, torch.complex128)


def _is_stacked(constant: Tensor) -> bool:
    return constant.is_floating_point() or constant.is_complex()


def _concatenate(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
