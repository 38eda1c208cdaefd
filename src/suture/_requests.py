"""From requests of points to their values: which points share calls.

Points come as matrices and values leave as matrices. A point is handed to the function as a
private copy, never as a view of anything that is used again, and its result is copied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from suture import _record
from suture._attempts import Forgiving
from suture._evaluate import Pipeline
from suture._inputs import Batch, Inputs
from suture._job import Job
from suture._types import Array, Stack


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
    """Evaluates points of one frame.

    Attributes:
        inputs: the arguments, and where they come from.
        pipeline: the way that all of its points go.
    """

    def __init__(self, inputs: Inputs, task: _record.Task = "forward") -> None:
        """Take the arguments, and what the points are for, in the words of a record."""
        self.inputs, self.frame = inputs, inputs.frame
        self.pipeline = Pipeline(self.frame, task)

    def forward(self) -> tuple[Array, dict[int, Array]]:
        """Evaluate f(x) of every sample; nothing is displaced.

        Returns:
            The values (S, R, O), and the integer outputs (S, *shape) by their position.
        """
        stack: Stack = "points" if self.frame.box.vectorized else "none"
        everything = list(range(self.inputs.samples))
        apart = stack == "points" and self.inputs.has_integers()
        groups = [[s] for s in everything] if apart else [everything]
        jobs = [Job(self.inputs, stack, self.inputs.undisplaced(group)) for group in groups]
        self.pipeline.run(jobs, "nothing")
        integers = {i: _concatenate([job.integers[i] for job in jobs]) for i in jobs[0].integers}
        return _concatenate([job.finished() for job in jobs]), integers

    def evaluate(
        self, requests: Sequence[Request], forgiving: Forgiving = "nothing"
    ) -> list[Array]:
        """Return the values (P, R, O) of each request; points that can share a call do.

        Args:
            requests: what to evaluate.
            forgiving: which points may fail; their values are then not finite.
        """
        if len(requests) == 1:
            (request,) = requests
            samples = [request.sample] * len(request.rows)
            job = Job(
                self.inputs, self._stack(request), Batch(request.rows, request.shared, samples)
            )
            self.pipeline.run([job], forgiving)
            return [job.finished()]
        groups = list(self._groups(requests))
        jobs = [self._joined(stack, [requests[i] for i in who]) for stack, who in groups]
        self.pipeline.run(jobs, forgiving)
        values: dict[int, Array] = {}
        for job, (_, who) in zip(jobs, groups, strict=True):
            start = 0
            for i in who:
                values[i] = job.finished()[start : start + len(requests[i].rows)]
                start += len(requests[i].rows)
        return [values[i] for i in range(len(requests))]

    def _joined(self, stack: Stack, chosen: Sequence[Request]) -> Job:
        batch = Batch(
            _concatenate([request.rows for request in chosen]),
            _concatenate([request.shared for request in chosen]),
            [request.sample for request in chosen for _ in range(len(request.rows))],
        )
        return Job(self.inputs, stack, batch)

    def _groups(self, requests: Sequence[Request]) -> Iterator[tuple[Stack, list[int]]]:
        """Sort requests into those that share calls."""
        groups: dict[tuple[Stack, int, bool], list[int]] = {}
        for i, request in enumerate(requests):
            stack = self._stack(request)
            alone = {"none": -1, "rows": request.sample, "points": -1}[stack]
            if stack == "points" and self.inputs.has_integers():
                alone = request.sample
            is_complex = bool(request.rows.dtype == np.complex128)
            groups.setdefault((stack, alone, is_complex), []).append(i)
        for (stack, *_), members in groups.items():
            yield stack, members

    def _stack(self, request: Request) -> Stack:
        if self.frame.box.vectorized:
            return "points"
        rows = self.frame.call.rows
        # A memo has f(x) of a lone row, so that nothing would show whether company moves it.
        is_alone = rows == 1 and self.frame.box.service.memo is not None
        return "rows" if rows is not None and request.same_shared and not is_alone else "none"


def _concatenate(arrays: Sequence[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
