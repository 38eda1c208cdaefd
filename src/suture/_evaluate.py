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
        attempts.begin(sum(map(len, jobs)), forgiving)
        try:
            if executor is None or is_served_here(executor):
                self._here(self._calls(jobs, 1))
            else:
                elsewhere = Elsewhere(attempts, executor, sum(map(len, jobs)))
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
        for job in jobs:
            count = len(job)
            size = 1
            if job.stack != "none":
                size = min(self.frame.box.chunk_size or count, -(-count // workers)) or 1
            if self.attempts.lookup is None:
                for start in range(0, count, size):
                    yield Call(job, range(start, min(start + size, count)), job.stack)
            else:
                yield from self._unknown(job, size, self.attempts.lookup)

    def _unknown(self, job: Job, size: int, lookup: Lookup) -> Iterator[Call]:
        """Yield calls for the points of a job that the memo does not know."""
        call = Call(job, [], job.stack)
        for p in range(len(job)):
            tensors = job.tensors([p], "none", again=False)
            key = lookup.key(tensors)
            found = lookup.find(key)
            if found is not None:
                self.attempts.hit(job, p, found)
                continue
            call.points = [*call.points, p]
            call.keys.append(key)
            if size == 1:
                call.tensors = tensors if job.stack == "none" else None
            if len(call.points) == size:
                yield call
                call = Call(job, [], job.stack)
        if call.points:
            yield call

    def _here(self, calls: Iterator[Call]) -> None:
        """Call the function in this process, one call after another."""
        fn, ambient, clock = self.frame.box.fn, self.frame.ambient, time.perf_counter
        attempts = self.attempts
        where = place() if attempts.observed else ""
        with nullcontext() if ambient.is_current() else ambient.restored():
            while (call := attempts.following(calls)) is not None:
                when, start = time.time() if attempts.observed else 0.0, clock()
                args, kwargs = call.arguments()
                try:
                    result = fn(*args, **kwargs)
                except Exception as error:
                    attempts.erred(call, error, when, clock() - start, where)
                except BaseException:
                    attempts.tally.evaluations += len(call.points)
                    raise
                else:
                    attempts.returned(call, result, when, clock() - start, where)
