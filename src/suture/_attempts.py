"""Attempts: what comes of a call, and whether it is made again, fails, or ends the gradient."""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

from suture import _complaints, _record
from suture._frame import Frame
from suture._invoke import Point, place
from suture._job import Job
from suture._lookup import Lookup
from suture._progress import Progress
from suture._tally import Tally
from suture._types import Stack
from suture.errors import (
    BadResult,
    EvaluationError,
    PointFailed,
    SutureError,
    TimedOut,
    WorkerDied,
)

Forgiving: TypeAlias = Literal["nothing", "domain", "all"]
"""Which points may fail: none, those where f says that it is not defined, or all."""

# In the words of a record; what is not in it has raised.
_ENDS: dict[type[Exception], _record.Ended] = {
    PointFailed: "point failed",
    TimedOut: "timed out",
    WorkerDied: "died",
    BadResult: "bad result",
}


class Call:
    """One call of the function.

    Attributes:
        job: whose points.
        points: which.
        stack: how they share the call.
        attempt: 1 is the first.
        alone: whether it must not share a task with others.
        keys: of its points in the memo.
        tensors: its tensor arguments, None to have them made (again).
    """

    __slots__ = ("alone", "attempt", "job", "keys", "points", "stack", "tensors")

    def __init__(
        self,
        job: Job,
        points: Sequence[int],
        stack: Stack,
        keys: Sequence[bytes] = (),
        tensors: list[Any] | None = None,
    ) -> None:
        """Begin with the first attempt."""
        self.job, self.points, self.stack = job, points, stack
        self.attempt, self.alone = 1, False
        self.keys, self.tensors = keys, tensors

    def arguments(self) -> Point:
        """Return private copies of (args, kwargs)."""
        job, tensors = self.job, self.tensors
        if tensors is None:
            tensors = job.tensors(self.points, self.stack, self.attempt > 1 or self.alone)
        else:
            self.tensors = None
        return job.frame.arguments(tensors)


class Attempts:
    """All attempts to evaluate the points of one gradient, or of one forward pass.

    Attributes:
        frame: the call that is differentiated.
        service: what the user asked for.
        tally: what came of the points.
        failure: the last error of a point that was allowed to fail.
        forgiving: which points may fail now.
        progress: the bar.
        observed: whether somebody records.
    """

    def __init__(self, frame: Frame, task: _record.Task) -> None:
        """Take the call, and what the points are for, in the words of a record."""
        self.frame, self.service = frame, frame.box.service
        self.tally = Tally()
        self.failure: Exception | None = None
        self.forgiving: Forgiving = "nothing"
        self.progress = Progress(frame.box.name, self.service.progress)
        self.observed = False
        self._task = task
        self._counted = Tally()
        self._again: collections.deque[Call] = collections.deque()

    def begin(self, points: int, forgiving: Forgiving) -> None:
        """Expect some points."""
        self.forgiving = forgiving
        self.observed = bool(_record.active())
        self.progress.expect(points)

    @functools.cached_property
    def lookup(self) -> Lookup | None:
        """The memo, None without one; the function is looked at once, not in each round."""
        memo = self.service.memo
        return None if memo is None else Lookup(memo, self.frame)

    def count(self) -> None:
        """Add what is new to what the function has counted."""
        self.frame.counter.add(self.tally, self._counted)
        self._counted = self.tally.copy()

    def following(self, calls: Iterator[Call]) -> Call | None:
        """Return the next call: one that is made again, or the next of `calls`."""
        return self._again.popleft() if self._again else next(calls, None)

    def repeat(self, call: Call) -> None:
        """Have a call made again, in a task of its own."""
        call.alone = True
        self._again.append(call)

    def hit(self, job: Job, point: int, found: Any) -> None:
        """Take the value of a point that the memo knows."""
        job.take([point], found, "none")
        self.tally.hits += 1
        self.progress.advance(1)
        self._note(Call(job, [point], "none"), "value", hit=True)

    def returned(self, call: Call, result: Any, when: float, seconds: float, where: str) -> None:
        """Take the result of a call."""
        job, count = call.job, len(call.points)
        self.tally.evaluations += count
        try:
            job.take(call.points, result, call.stack)
            if call.keys:
                self._keep(call, result)
        except BadResult as complaint:
            self._note(call, "bad result", complaint, when, seconds, where)
            job.located(complaint, call.points).attempt = call.attempt
            if self.forgiving != "all":
                raise
            self.fail(call, complaint)
            return
        if self.observed:
            finite = job.is_finite(call.points)
            self._note(call, "value" if finite else "not finite", None, when, seconds, where)
        self.progress.advance(count)

    def _keep(self, call: Call, result: Any) -> None:
        """Write the finite results of a call into the memo; all go on with what is stored."""
        lookup = self.lookup
        assert lookup is not None  # where the keys come from
        for place_, (p, key) in enumerate(zip(call.points, call.keys, strict=True)):
            if call.job.is_finite([p]):
                one = call.job.result_of(call.points, place_, result, call.stack)
                call.job.take([p], lookup.keep(key, one), "none")

    def erred(self, call: Call, error: Exception, when: float, seconds: float, where: str) -> None:
        """Try a call again that raised, or let its points fail.

        Raises:
            EvaluationError: if it must not fail, with the exception as its cause.
            SutureError: what is no fault of a point, as it is.
        """
        count = len(call.points)
        self.tally.evaluations += count
        words = (word for kind, word in _ENDS.items() if isinstance(error, kind))
        ends: _record.Ended = next(words, "raised")
        self.tally.timed_out += ends == "timed out"
        self.tally.died += ends == "died"
        self._note(call, ends, error, when, seconds, where)
        if isinstance(error, SutureError) and not isinstance(error, EvaluationError):
            raise error
        # Those two are answers: the same question would have the same one.
        is_answer = isinstance(error, PointFailed | BadResult)
        if call.attempt <= self.service.retries and not is_answer:
            self.tally.retries += count
            call.attempt += 1
            self.repeat(call)
            return
        forgiven = self.forgiving == "all" or (
            self.forgiving == "domain" and isinstance(error, PointFailed)
        )
        if not forgiven:
            complaint = self._complaint(call, error)
            if complaint is error:
                raise error
            raise complaint from error
        self.fail(call, error)

    def fail(self, call: Call, error: Exception) -> None:
        """Let the points of a call fail; those of a call with many are evaluated each by itself."""
        if len(call.points) > 1:
            self.tally.retries += len(call.points)
            for i, p in enumerate(call.points):
                self.repeat(Call(call.job, [p], call.stack, call.keys[i : i + 1]))
            return
        self.failure = error
        call.job.fail(call.points)
        self.tally.failures += 1
        self.progress.advance(1, failed=1)

    def _complaint(self, call: Call, error: Exception) -> EvaluationError:
        """Return the error of a call, with its point and its attempt."""
        complaint = error
        if not isinstance(error, EvaluationError):
            batch = call.job.batch.pick(call.points)
            say = functools.partial(call.job.inputs.where, batch)
            complaint = _complaints.raised(
                self.frame, call.stack, len(call.points), batch.is_complex, say, error
            )
        assert isinstance(complaint, EvaluationError)  # either it was, or it is one now
        call.job.located(complaint, call.points)
        complaint.attempt = call.attempt
        return complaint

    def _note(
        self,
        call: Call,
        ended: _record.Ended,
        error: Exception | None = None,
        when: float = 0.0,
        seconds: float = 0.0,
        where: str = "",
        hit: bool = False,
    ) -> None:
        """Write a row to all records."""
        if not self.observed:
            return
        _record.write(
            _record.Row(
                when=when or time.time(),
                seconds=seconds,
                name=self.frame.box.name,
                task=self._task,
                call=self.frame.number,
                points=len(call.points),
                where=where or place(),
                ended=ended,
                error=None if error is None else type(error).__name__,
                hit=hit,
                attempt=call.attempt,
            )
        )
