"""Calls that are made elsewhere: submitted together, answered in any order.

NOTE [tasks] Calls of a cheap function share a task, so that sending does not cost more than the
function. If a task ends without an answer, at most one call is to blame: `Workers` tell which;
with other executors the calls of the task are made again, each in a task of its own.

NOTE [broken pools] Where one death breaks the pool (those of the standard library, loky), nobody
knows whose it was. What is not finished is then evaluated one at a time, and the next death has a
name. So that the point to blame is evaluated twice; unless nothing may fail and nothing is to be
tried again: then the gradient ends at once.
"""

from __future__ import annotations

import collections
import concurrent.futures
import pickle
import queue
from collections.abc import Iterator
from math import prod
from typing import Any, NoReturn

import cloudpickle
import numpy as np

from suture import _complaints_elsewhere
from suture._attempts import Attempts, Call
from suture._frame import Frame
from suture._invoke import Answer, Invocation, Sent
from suture.errors import EvaluationError, SutureError
from suture.executors._deaths import not_sent, raised, unpicklable

# Calls share a task until they take this many seconds together: a task costs 0.15 ms with
# `Workers`, 2.6 ms with Dask (facts: 0.3 with loky), and 1.5 ms where other programs keep the
# processors busy; and so at most a tenth of what it does.
_TASK = 0.03
# And never so many: what each call takes to be sent, 10 µs and more, is then far more than what
# the task takes, and their arguments and results are held until it is answered.
_CALLS = 1000

# To pickle so many bytes takes 0.02 ms (3 GB/s), and to send them 0.06 (1 GB/s): as they do with a
# task of their own they do with many, and `Workers` send of them only what changed.
_LARGE = 1 << 16

# Each worker has so many tasks ahead of it, so that none waits for the parent; …
_AHEAD = 3
# … of an executor that does not say how many workers it has, so many tasks are running at once.
_UNKNOWN = 256

# Futures of other executors are looked at so often, in seconds, to show that time passes.
_TICK = 0.5


class Elsewhere:
    """Calls on their way through an executor.

    Attributes:
        width: how many tasks it does at once, as far as it says so.
    """

    def __init__(self, attempts: Attempts, pool: Any, points: int) -> None:
        """Take who is told what comes of them, where they go, and how many points there are."""
        self._attempts, self.frame, self._pool = attempts, attempts.frame, pool
        self._workers, self._left = _workers(pool), points
        self.width = self._workers or _UNKNOWN
        self._is_large = _argument_bytes(self.frame) > _LARGE
        self._invocation = Invocation(
            self.frame.box.fn, self.frame.box.name, self.frame.ambient, pool
        )
        self._done: queue.SimpleQueue[concurrent.futures.Future[Any]] = queue.SimpleQueue()
        # Of each future its calls, and where they went: a pool may have been made anew since.
        self._running: dict[concurrent.futures.Future[Any], tuple[list[Call], Any]] = {}
        self._suspects: collections.deque[Call] = collections.deque()

    def run(self, calls: Iterator[Call]) -> None:
        """Have all calls made."""
        most = _AHEAD * self._workers if self._workers else _UNKNOWN
        try:
            while True:
                while self._has_room(most) and (task := self._next(calls)):
                    self._submit(task)
                if not self._running:
                    return
                self._await_one()
        except BaseException as error:
            self._leave(isinstance(error, Exception))
            raise

    def _has_room(self, most: int) -> bool:
        """Whether another task may be submitted; suspects run by themselves."""
        return not self._running if self._suspects else len(self._running) < most

    def _next(self, calls: Iterator[Call]) -> list[Call]:
        """Return the calls of the next task, none if there are no more."""
        if self._suspects:
            return [self._suspects.popleft()]
        task: list[Call] = []
        size = self._size()
        while len(task) < size and (call := self._attempts.following(calls)) is not None:
            task.append(call)
            if call.alone or len(call.points) > 1:
                break  # it shares a task with calls before it only if those are cheap as well
        return task

    def _size(self) -> int:
        """Return how many calls share a task."""
        pace = self.frame.counter.pace
        if pace is None or self._is_large or self._attempts.service.timeout is not None:
            return 1
        share = -(-self._left // (self.width * _AHEAD))
        return max(1, min(int(_TASK / max(pace, 1e-9)), _CALLS, share))

    def _submit(self, task: list[Call]) -> None:
        timeout = self._attempts.service.timeout
        points = [call.arguments() for call in task]
        for attempt in (1, 2):
            try:
                if timeout is None:
                    future = self._pool.submit(self._invocation, *points)
                else:
                    future = self._pool.submit_within(timeout, self._invocation, *points)
                break
            except concurrent.futures.BrokenExecutor as error:
                if attempt == 2 or not self._renew():
                    raise _complaints_elsewhere.pool_broken(self.frame, self._pool) from error
            except RuntimeError as error:
                raise _complaints_elsewhere.pool_closed(self.frame, self._pool, error) from error
        if not hasattr(future, "add_done_callback"):
            raise _complaints_elsewhere.no_future(self.frame, self._pool, future)
        self._running[future] = task, self._pool
        self._left -= sum(len(call.points) for call in task)
        future.add_done_callback(self._done.put)

    def _renew(self) -> bool:
        pool = self._attempts.service.pool
        if pool is None or not pool.renew(self._pool):
            return False
        self._pool = pool.current()
        return True

    def _await_one(self) -> None:
        try:
            future = self._done.get(timeout=_TICK)
        except queue.Empty:
            self._attempts.progress.advance(0)
            return
        if future in self._running:
            self._settle(*self._running.pop(future), future)

    def _settle(self, task: list[Call], pool: Any, future: concurrent.futures.Future[Any]) -> None:
        """Take what came of a task."""
        try:
            answers: list[Answer] = future.result()
        except concurrent.futures.CancelledError as error:
            raise _complaints_elsewhere.canceled(self.frame) from error
        except concurrent.futures.BrokenExecutor as error:
            self._suspect(task, pool, error)
        except Exception as error:
            self._blame(task, error)
        else:
            if not isinstance(answers, list) or len(answers) != len(task):
                raise _complaints_elsewhere.no_answers(self.frame, pool, answers)
            self._take_all(task, answers)

    def _take_all(self, task: list[Call], answers: list[Answer]) -> None:
        """Take all answers of a task, also those after one that ends the gradient."""
        first: Exception | None = None
        for call, answer in zip(task, answers, strict=True):
            try:
                self._take(call, answer)
            except Exception as error:
                first = first or error
        if first is not None:
            raise first

    def _take(self, call: Call, answer: Answer) -> None:
        counter = self.frame.counter
        seconds = answer.seconds / len(call.points)
        # The last ones count most: what was slow for imports at first is soon forgotten.
        counter.pace = seconds if counter.pace is None else 0.8 * counter.pace + 0.2 * seconds
        when = answer.when, answer.seconds, answer.where
        if answer.error is None:
            self._attempts.returned(call, answer.result, *when)
            return
        error: Any = answer.error
        if isinstance(error, Sent):
            error = raised(self.frame.box.name, *error)
        self._attempts.erred(call, error, *when)

    def _blame(self, task: list[Call], error: Exception) -> None:
        """Find the call for which a task has no answer."""
        if isinstance(error, SutureError) and not isinstance(error, EvaluationError):
            raise error  # it cannot be sent, for example
        if not isinstance(error, SutureError) and _is_about_pickling(error):
            self._unsent(task, error)
        to_blame = getattr(error, "note", None) if len(task) > 1 else 0
        for i, call in enumerate(task):
            if i == to_blame:
                self._attempts.erred(call, error, 0.0, 0.0, "")
            else:
                if to_blame is not None and i < to_blame:
                    # It was evaluated, and its answer is lost.
                    self._attempts.tally.evaluations += len(call.points)
                    self._attempts.tally.retries += len(call.points)
                self._repeat(call)

    def _unsent(self, task: list[Call], error: Exception) -> NoReturn:
        """Say what it is that an executor could not send; few of them do."""
        name = self.frame.box.name
        try:
            cloudpickle.dumps((self.frame.box.fn, [call.arguments() for call in task]))
        except Exception as reason:
            raise unpicklable(name, reason) from reason
        raise not_sent(name, type(self._pool).__name__, error) from error

    def _repeat(self, call: Call) -> None:
        """Make a call again that is not known to have failed, in a task of its own."""
        self._left += len(call.points)
        self._attempts.repeat(call)

    def _suspect(self, task: list[Call], pool: Any, error: Exception) -> None:
        """Note that a task was lost with its pool."""
        service, is_first = self._attempts.service, pool is self._pool
        died = _complaints_elsewhere.died_with_pool(self.frame, pool)
        died.__cause__ = error
        if len(task) == 1 and is_first and not self._running:  # nothing else ran there
            self._attempts.erred(task[0], died, 0.0, 0.0, "")
            return
        if not service.retries and self._attempts.forgiving != "all":
            raise died
        if is_first and not self._renew():
            raise _complaints_elsewhere.pool_broken(self.frame, pool) from error
        for call in task:
            call.alone = True
            self._left += len(call.points)
            self._suspects.append(call)

    def _leave(self, keep: bool) -> None:
        """Cancel what was submitted; with a memo, running evaluations are worth being awaited.

        Args:
            keep: whether to await them: not if the user is leaving.
        """
        keep = keep and self._attempts.service.memo is not None
        if not keep and hasattr(self._pool, "stop"):
            self._pool.stop(list(self._running))
        # The oldest ones are those that run: Dask and Ray do not tell, and would let go of them.
        for future in list(self._running)[self.width if keep else 0 :]:
            future.cancel()
        self._attempts.forgiving = "all"
        for future, (task, _) in list(self._running.items()):
            if (keep or future.done()) and not future.cancelled():
                try:
                    for call, answer in zip(task, future.result(), strict=True):
                        if answer.error is None:
                            self._take(call, answer)
                except Exception:
                    continue  # the first failure is the one that is told


def _is_about_pickling(error: Exception) -> bool:
    """Whether what an executor says (and not the function) is that it cannot send something."""
    return isinstance(error, pickle.PicklingError) or "pickle" in str(error)


def _argument_bytes(frame: Frame) -> int:
    """Return about how many bytes the arguments of one call have."""
    arrays = [leaf.nbytes for leaf in frame.constants if isinstance(leaf, np.ndarray)]
    return sum(arrays) + sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in frame.call.leaves)


def _workers(pool: Any) -> int | None:
    """Return how many tasks an executor does at once, None if it does not say."""
    for name in ("n", "_max_workers"):
        count = getattr(pool, name, None)
        if isinstance(count, int) and not isinstance(count, bool) and count > 0:
            return count
    return None
