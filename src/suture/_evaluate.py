"""Evaluate points, one pipeline in one order: memo, submit, deadline and retry, record.

The only file that calls the black box; `_elsewhere` has it called by an executor. `_attempts` says
what comes of a call. Each point comes back as a value, or it failed: a row of NaN, and an error
that says why.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from suture import _record
from suture._attempts import Attempts, Call, Forgiving
from suture._elsewhere import Elsewhere
from suture._frame import Frame
from suture._invoke import is_served_here, place
from suture._job import Job
from suture._lookup import Lookup


class Pipeline:
    """Evaluates the points of one gradient, or of one forward pass.

    Attributes:
        frame: the call that is differentiated.
        attempts: what came of all calls so far.
    """

    def __init__(self, frame: Frame, task: _record.Task) -> None:
        """Take the call, and what the points are for, in the words of a record."""
        self.frame, self.attempts = frame, Attempts(frame, task)

    def run(self, jobs: Sequence[Job], forgiving: Forgiving) -> None:
        """Evaluate all points of some jobs; the values are theirs then.

        Raises:
            EvaluationError: for the first point that failed and must not.
        """
        attempts, pool = self.attempts, self.frame.box.service.pool
        executor = None if pool is None else pool.current()
        points = sum(map(len, jobs))
        attempts.begin(points, forgiving)
        try:
            if executor is None or is_served_here(executor):
                self._here(self._calls(jobs, 1))
            else:
                elsewhere = Elsewhere(attempts, executor, points)
                elsewhere.run(self._calls(jobs, elsewhere.width))
            self._finish(jobs)
        except BaseException:
            attempts.progress.close()
            raise
        finally:
            attempts.count()

    def _finish(self, jobs: Sequence[Job]) -> None:
        """Count values that are not finite, or raise."""
        for job in jobs:
            lost = job.lost()
            if lost and self.attempts.forgiving == "nothing":
                raise job.not_finite(lost[0])
            self.attempts.tally.failures += len(lost) - len(job.failed)

    def _calls(self, jobs: Sequence[Job], workers: int) -> Iterator[Call]:
        """Yield the calls of jobs; first of all, points that the memo knows are taken from it."""
        lookup = self.attempts.lookup
        for job in jobs:
            count, size = len(job), 1
            if job.stack != "none":
                size = min(self.frame.box.chunk_size or count, -(-count // workers)) or 1
            if lookup is not None:
                yield from self._unknown(job, size, lookup)
            elif size == 1:
                for p in range(count):
                    yield Call(job, [p], job.stack)
            else:
                for start in range(0, count, size):
                    yield Call(job, range(start, min(start + size, count)), job.stack)

    def _unknown(self, job: Job, size: int, lookup: Lookup) -> Iterator[Call]:
        """Yield calls for the points of a job that the memo does not know."""
        points: list[int] = []
        keys: list[bytes] = []
        for p in range(len(job)):
            tensors = job.tensors([p], "none", again=False)
            key = lookup.key(tensors)
            found = lookup.find(key)
            if found is not None:
                self.attempts.hit(job, p, found)
                continue
            points.append(p)
            keys.append(key)
            if len(points) == size:
                yield Call(job, points, job.stack, keys, tensors if job.stack == "none" else None)
                points, keys = [], []
        if points:
            yield Call(job, points, job.stack, keys)

    def _here(self, calls: Iterator[Call]) -> None:
        """Call the function in this process, one call after another."""
        fn, ambient, attempts = self.frame.box.fn, self.frame.ambient, self.attempts
        observed, when, start, seconds = attempts.observed, 0.0, 0.0, 0.0
        where = place() if observed else ""
        with nullcontext() if ambient.is_current() else ambient.restored():
            while (call := attempts.following(calls)) is not None:
                args, kwargs = call.arguments()
                if observed:
                    when, start = time.time(), time.perf_counter()
                try:
                    result = fn(*args, **kwargs)
                except Exception as error:
                    seconds = time.perf_counter() - start if observed else 0.0
                    attempts.erred(call, error, when, seconds, where)
                except BaseException:
                    attempts.tally.evaluations += len(call.points)
                    raise
                else:
                    if observed:
                        seconds = time.perf_counter() - start
                    attempts.returned(call, result, when, seconds, where)
