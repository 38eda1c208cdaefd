"""Evaluate the black box at points: the only file that calls it.

Points come as matrices and values leave as matrices. A point is handed to the function as a
private copy, never as a view of anything that is used again, and its result is copied.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from suture import _complaints, _results
from suture._inputs import Batch, Inputs
from suture._results import Read
from suture._types import Array, Stack
from suture.errors import BadResult, EvaluationError, PointFailed, SutureError


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
    """Calls one frame's black box."""

    def __init__(self, inputs: Inputs) -> None:
        """Take the arguments, and where they come from."""
        self.inputs, self.frame = inputs, inputs.frame
        self._forgiving = False
        self.failure: Exception | None = None

    def forward(self) -> tuple[Array, dict[int, Array]]:
        """Evaluate f(x) of every sample; nothing is displaced.

        Returns:
            The values (S, R, O), and the integer outputs (S, *shape) by their position.
        """
        self._forgiving = False
        vectorized = self.frame.box.vectorized
        integers: dict[int, list[Array]] = {}
        values: list[Array] = []
        everything = list(range(self.inputs.samples))
        for batch in self._together(everything) if vectorized else [[s] for s in everything]:
            part, found = self._run(
                "points" if vectorized else "none", self.inputs.undisplaced(batch)
            )
            values.append(part)
            for i, arrays in found.items():
                integers.setdefault(i, []).extend(arrays)
        return _concatenate(values), {i: np.concatenate(v) for i, v in integers.items()}

    def evaluate(self, requests: Sequence[Request], forgiving: bool = False) -> list[Array]:
        """Return the values (P, R, O) of each request; points that can share a call do.

        Args:
            requests: what to evaluate.
            forgiving: whether a point may fail, by a value that is not finite or by raising
                `PointFailed`; its values are then not finite.
        """
        self._forgiving = forgiving
        if len(requests) == 1:
            (request,) = requests
            samples = [request.sample] * len(request.rows)
            batch = Batch(request.rows, request.shared, samples)
            return [self._run(self._stack(request), batch)[0]]
        values: list[Array | None] = [None] * len(requests)
        for stack, members in self._groups(requests):
            chosen = [requests[i] for i in members]
            counts = [len(request.rows) for request in chosen]
            batch = Batch(
                _concatenate([request.rows for request in chosen]),
                _concatenate([request.shared for request in chosen]),
                [r.sample for n, r in zip(counts, chosen, strict=True) for _ in range(n)],
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
            if stack == "points" and self.inputs.has_integers():
                alone = request.sample
            is_complex = bool(request.rows.dtype == np.complex128)
            groups.setdefault((stack, alone, is_complex), []).append(i)
        for (stack, *_), members in groups.items():
            yield stack, members

    def _stack(self, request: Request) -> Stack:
        if self.frame.box.vectorized:
            return "points"
        return "rows" if self.frame.call.rows is not None and request.same_shared else "none"

    def _together(self, samples: list[int]) -> list[list[int]]:
        return [[s] for s in samples] if self.inputs.has_integers() else [samples]

    def _run(self, stack: Stack, batch: Batch) -> tuple[Array, dict[int, list[Array]]]:
        """Evaluate all points of a batch, in as few calls as its stack and chunk size allow.

        Returns:
            The values (P, R, O), and the integer outputs of each call by their position.
        """
        with nullcontext() if self.frame.is_ambient() else self.frame.restored():
            values, integers = (
                self._run_each(batch) if stack == "none" else self._run_stacked(stack, batch)
            )
        if not self._forgiving and not np.isfinite(values).all():
            point = int(np.flatnonzero(~np.isfinite(values).all(axis=(1, 2)))[0])
            one = batch.chunk(point, point + 1)
            where = functools.partial(self.inputs.where, one)
            still = batch.rows.size + batch.shared.size == 0
            raise self._located(
                _complaints.not_finite(self.frame, values, point, still, where), one
            )
        return values, integers

    def _run_each(self, batch: Batch) -> tuple[Array, dict[int, list[Array]]]:
        """Evaluate one point a call."""
        integers: dict[int, list[Array]] = {}
        displaced = self.inputs.each_displaced(batch)
        form = self.frame.outcome
        values = None if form is None else self._room(batch)
        quick = not batch.is_complex
        for p, sample in enumerate(batch.samples):
            rest = iter(displaced)
            inputs = [
                next(rest)[p] if constant is None else self.inputs.private(constant[sample])
                for constant in self.inputs.constants
            ]
            one = functools.partial(batch.chunk, p, p + 1)
            try:
                result = self._call("none", one, inputs)
            except PointFailed as failure:
                values = self._failed(failure, batch, values)
                values[p] = np.nan
                continue
            if values is None and self._is_known(result):
                form, values = self.frame.outcome, self._room(batch)
            if quick and values is not None and form is not None and form.is_alike(result):
                # It has type, dtype and shape of the first result: nothing need be checked.
                values[p] = _results.quick(result).reshape(values.shape[1:])
                continue
            leaves = self._read("none", one(), result)
            if values is None:  # the first result fixes the form
                values = self._room(batch)
            _results.store(self.frame.form.outputs, leaves, values[p : p + 1], integers)
        return (self._room(batch) if values is None else values), integers

    def _failed(self, failure: PointFailed, batch: Batch, values: Array | None) -> Array:
        """Take note of a failed point, or raise; return the room for values."""
        if not self._forgiving:
            raise failure
        self.failure = failure
        return self._room(batch) if values is None else values

    def _is_known(self, result: Any) -> bool:
        """Whether the first result of this call has the form of the last call's; then take it."""
        last = self.frame.call.last_outcome
        if self.frame.outcome is not None or last is None or not last.is_alike(result):
            return False
        self.frame.outcome = last
        return True

    def _room(self, batch: Batch) -> Array:
        """Return an array for the values of all points of a batch."""
        shape = (len(batch.samples), self.inputs.layout.rows, self.frame.form.width)
        return np.empty(shape, batch.rows.dtype)

    def _run_stacked(self, stack: Stack, batch: Batch) -> tuple[Array, dict[int, list[Array]]]:
        """Evaluate many points a call."""
        count = len(batch.samples)
        size = self.frame.box.chunk_size or max(count, 1)
        integers: dict[int, list[Array]] = {}
        values = None
        for start in range(0, count, size):
            chunk = batch.chunk(start, start + size)
            one = functools.partial(batch.chunk, start, start + size)
            try:
                result = self._call(stack, one, self.inputs.of_call(stack, chunk))
            except PointFailed as failure:
                values = self._failed(failure, batch, values)
                values[start : start + size] = self._alone(stack, chunk)
                continue
            leaves = self._read(stack, chunk, result)
            if values is None:  # the first result fixes the form
                values = self._room(batch)
            _results.store(self.frame.form.outputs, leaves, values[start : start + size], integers)
        return (self._room(batch) if values is None else values), integers

    def _alone(self, stack: Stack, chunk: Batch) -> Array:
        """Return values of points of a call that failed, each evaluated by itself."""
        count = len(chunk.samples)
        if count == 1:
            return np.full(self._room(chunk).shape, np.nan)
        parts = [self._run_stacked(stack, chunk.chunk(p, p + 1))[0] for p in range(count)]
        return np.concatenate(parts)

    def _call(self, stack: Stack, chunk: Callable[[], Batch], inputs: list[Any]) -> Any:
        args, kwargs = self.frame.arguments(inputs)
        try:
            result = self.frame.box.fn(*args, **kwargs)
        except PointFailed as failure:
            self._located(failure, chunk())
            raise
        except SutureError:
            raise
        except Exception as error:
            where = chunk()
            say = functools.partial(self.inputs.where, where)
            count, is_complex = len(where.samples), where.is_complex
            complaint = _complaints.raised(self.frame, stack, count, is_complex, say, error)
            self._located(complaint, where)
            raise complaint from error
        finally:
            self.frame.counter.evaluations += 1 if stack == "none" else len(chunk().samples)
        return result

    def _read(self, stack: Stack, chunk: Batch, result: Any) -> list[Any]:
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
            frame.call.last_outcome = frame.outcome
        else:
            try:
                where = functools.partial(self.inputs.where, chunk)
                still = chunk.rows.size + chunk.shared.size == 0
                _complaints.check_form(frame, leaves, structure, chunk.is_complex, still, where)
            except BadResult as complaint:
                raise self._located(complaint, chunk) from None
        return [leaf.array if isinstance(leaf, Read) else leaf for leaf in leaves]

    def _located(self, complaint: EvaluationError, batch: Batch) -> EvaluationError:
        """Save the first point of a call with the error: fresh copies, as the function had them."""
        one = batch.chunk(0, 1)
        stack: Stack = "points" if self.frame.box.vectorized else "none"
        complaint.point = self.frame.arguments(self.inputs.of_call(stack, one))
        return complaint

    def _unstacked(self, stack: Stack, array: Array, count: int) -> Array:
        if stack == "none":
            return array[None]
        rows = self.frame.call.rows if stack == "rows" else None
        expected = count if rows is None else count * rows
        if array.ndim == 0 or array.shape[0] != expected:
            raise _complaints.not_stacked(self.frame, array.shape, count, rows)
        return array if rows is None else array.reshape(count, rows, *array.shape[1:])


def _concatenate(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
