"""Points that are evaluated in calls of one kind: what each call is given, where values go."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from suture import _complaints, _results, _tree
from suture._inputs import Batch, Inputs
from suture._results import Read
from suture._types import Array, Stack
from suture.errors import BadResult, EvaluationError


class Job:
    """Points of one kind.

    Attributes:
        inputs: the arguments that they are displaced from.
        stack: how points share a call.
        batch: the P points.
        values: (P, R, O), None until the form of the result is known.
        integers: the integer outputs (P, *shape), by their position.
        failed: the points that have no value.
    """

    def __init__(self, inputs: Inputs, stack: Stack, batch: Batch) -> None:
        """Take the points."""
        self.inputs, self.frame, self.stack, self.batch = inputs, inputs.frame, stack, batch
        self.values: Array | None = None if self.frame.outcome is None else self._room()
        self.integers: dict[int, Array] = {}
        self.failed: set[int] = set()
        self._displaced = inputs.each_displaced(batch) if stack == "none" else None
        self._all_displaced = not any(constant is not None for constant in inputs.constants)
        self._quick = not batch.is_complex

    def __len__(self) -> int:
        """The number P of points."""
        return len(self.batch.samples)

    def _room(self) -> Array:
        shape = (len(self), self.inputs.layout.rows, self.frame.form.width)
        return np.empty(shape, self.batch.rows.dtype)

    def tensors(self, points: Sequence[int], stack: Stack, again: bool) -> list[Any]:
        """Return the tensor arguments of a call: private copies.

        Args:
            points: which.
            stack: how they share the call; "none" for one point by itself.
            again: whether the call was made before, and may have written into its copies.
        """
        if self._displaced is None or again:
            return self.inputs.of_call(stack, self.batch.pick(points))
        p = points[0]
        if self._all_displaced:
            return [column[p] for column in self._displaced]
        rest, sample = iter(self._displaced), self.batch.samples[p]
        return [
            self._alone(next(rest)[p])
            if constant is None
            else self.inputs.private(constant[sample])
            for constant in self.inputs.constants
        ]

    def _alone(self, point: Any) -> Any:
        """Return a point that takes no others along: a tensor is pickled with all its storage."""
        is_sent = self.frame.box.service.pool is not None and isinstance(point, torch.Tensor)
        return point.clone() if is_sent else point

    def take(self, points: Sequence[int], result: Any, stack: Stack) -> None:
        """Check the result of a call and store its numbers.

        Raises:
            BadResult: if it is none, or has another form than the first one.
        """
        if self._quick and stack == "none":
            if self.values is None:
                self._recall(result)
            values, form = self.values, self.frame.outcome
            if values is not None and form is not None and form.is_alike(result):
                # It has type, dtype and shape of the first: nothing need be checked.
                values[points[0]] = _results.quick(result).reshape(values.shape[1:])
                return
        leaves = self._read(points, result, stack)
        if self.values is None:  # the first result fixes the form
            self.values = self._room()
        block, found = _results.stored(self.frame.form.outputs, leaves, self._block(len(points)))
        self.values[points] = block
        for i, array in found.items():
            if i not in self.integers:
                self.integers[i] = np.zeros((len(self), *array.shape[1:]), array.dtype)
            self.integers[i][points] = array

    def _recall(self, result: Any) -> None:
        """Make room for values, if the form is known; that of the last call may be it."""
        frame, last = self.frame, self.frame.call.last_outcome
        if frame.outcome is None and last is not None and last.is_alike(result):
            frame.outcome = last
        if frame.outcome is not None:
            self.values = self._room()

    def _block(self, count: int) -> Array:
        shape = (count, self.inputs.layout.rows, self.frame.form.width)
        return np.empty(shape, self.batch.rows.dtype)

    def fail(self, points: Sequence[int]) -> None:
        """Note that points have no value."""
        if self.values is None:
            self.values = self._room()
        self.values[points] = np.nan
        self.failed.update(points)

    def is_finite(self, points: Sequence[int]) -> bool:
        """Whether all values of some points are finite."""
        return self.values is None or bool(np.isfinite(self.values[points]).all())

    def _read(self, points: Sequence[int], result: Any, stack: Stack) -> list[Any]:
        """Return the leaves of a result, numeric ones as arrays (P, *shape), and check them."""
        frame = self.frame
        leaves, structure = _results.read(frame.box.name, result)
        leaves = [
            Read(self._unstacked(stack, leaf.array, len(points)), leaf.dtype)
            if isinstance(leaf, Read)
            else leaf
            for leaf in leaves
        ]
        if frame.outcome is None:
            frame.outcome = _results.outcome(frame.box.name, leaves, structure, frame.call.rows)
            frame.outcome.remember(result, stack)
            frame.call.last_outcome = frame.outcome
        else:
            batch = self.batch.pick(points)
            where = functools.partial(self.inputs.where, batch)
            still = batch.rows.size + batch.shared.size == 0
            _complaints.check_form(frame, leaves, structure, batch.is_complex, still, where)
        return [leaf.array if isinstance(leaf, Read) else leaf for leaf in leaves]

    def _unstacked(self, stack: Stack, array: Array, count: int) -> Array:
        if stack == "none":
            return array[None]
        rows = self.frame.call.rows if stack == "rows" else None
        expected = count if rows is None else count * rows
        if array.ndim == 0 or array.shape[0] != expected:
            raise _complaints.not_stacked(self.frame, array.shape, count, rows)
        return array if rows is None else array.reshape(count, rows, *array.shape[1:])

    def result_of(self, points: Sequence[int], place: int, result: Any, stack: Stack) -> Any:
        """Return the result of one point of a call, as a call of its own would return it."""
        if stack == "none":
            return result
        leaves, structure = _results.read(self.frame.box.name, result)
        parts = [
            _part(self._unstacked(stack, leaf.array, len(points))[place], leaf.dtype)
            if isinstance(leaf, Read)
            else leaf
            for leaf in leaves
        ]
        return _tree.unflatten(parts, structure)

    def located(self, complaint: EvaluationError, points: Sequence[int]) -> EvaluationError:
        """Save the first point of a call with the error: fresh copies, as the function had them."""
        one = self.batch.pick(points[:1])
        stack: Stack = "points" if self.frame.box.vectorized else "none"
        complaint.point = self.frame.arguments(self.inputs.of_call(stack, one))
        return complaint

    def lost(self) -> list[int]:
        """Return the points that have no value, or one that is not finite."""
        values = self.values
        if values is None or np.isfinite(values).all():
            return []
        return np.flatnonzero(~np.isfinite(values).all(axis=(1, 2))).tolist()

    def not_finite(self, point: int) -> BadResult:
        """Return the complaint about the first point that is not finite."""
        values = self.finished()
        one = self.batch.pick([point])
        where = functools.partial(self.inputs.where, one)
        still = self.batch.rows.size + self.batch.shared.size == 0
        complaint = _complaints.not_finite(self.frame, values, point, still, where)
        self.located(complaint, [point])
        return complaint

    def finished(self) -> Array:
        """Return the values (P, R, O)."""
        return self._room() if self.values is None else self.values


def _part(array: Array, dtype: torch.dtype) -> Any:
    """Return the numbers of one point in the precision in which they came."""
    tensor = torch.from_numpy(np.array(array))
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
