"""The workers of a pool: who there is, who is idle, and how each comes and goes."""

from __future__ import annotations

import itertools
import os
import selectors
import time
from contextlib import suppress

from suture.executors._children import Nursery, Worker
from suture.executors._notes import NOTHING, STOPPED, Page, nameless
from suture.executors._tasks import Task

_DYING = 0.5
"""Seconds until the task of a worker that is killed ends even if the kernel has not ended the
worker yet."""


class Crew:
    """What belongs to the dispatcher's thread alone.

    Attributes:
        workers: all of them, by number.
        idle: those that wait for a task.
        nursery: what bears them, once there was a task.
        heavy: the heavy modules that tasks have needed, as bits.
        selector: tells which pipe has something to read, or room to write.
    """

    def __init__(self, n: int, limit: int) -> None:
        """Have at most n workers, with a limit of memory; start nothing yet."""
        self._n, self._limit = n, limit
        self._numbers = itertools.count(1)
        self.workers: dict[int, Worker] = {}
        self.idle: list[Worker] = []
        self.nursery: Nursery | None = None
        self.heavy = 0
        self.selector = selectors.DefaultSelector()
        self._file = nameless(n)
        self._notes = Page(self._file)

    def is_able(self) -> bool:
        """Whether a task could begin now."""
        return bool(self.idle) or len(self.workers) < self._n

    def take(self, task: Task) -> Worker:
        """Return a worker for a task: an idle one, or a new one.

        Raises:
            OSError: there are no more processes, or files.
        """
        return self.idle.pop() if self.idle else self._hire(task)

    def _hire(self, task: Task) -> Worker:
        if self.nursery is None:
            self.nursery = Nursery(self._limit, self._file)
            self.selector.register(self.nursery.control, selectors.EVENT_READ)
        self.nursery.load(self.heavy | task.payload.heavy)
        number = next(self._numbers)
        place = min(set(range(self._n)) - {worker.place for worker in self.workers.values()})
        worker = Worker(number, place, self.nursery.bear(number, place))
        self.workers[number] = worker
        self.selector.register(worker.pipe, selectors.EVENT_READ, worker)
        return worker

    def give(self, worker: Worker, task: Task) -> int:
        """Begin to send a task to a worker; return the bytes."""
        timed = task.seconds is not None
        worker.task, worker.started = task, not timed
        self._notes[worker.place] = NOTHING
        sent = worker.send(worker.ledger.frame(task.payload, timed))
        if worker.push():
            self.selector.modify(worker.pipe, selectors.EVENT_READ | selectors.EVENT_WRITE, worker)
        return sent

    def push(self, worker: Worker) -> None:
        """Write to a worker what is left to write."""
        if not worker.push():
            self.selector.modify(worker.pipe, selectors.EVENT_READ, worker)

    def note(self, worker: Worker) -> int | None:
        """Return what a worker noted in its task."""
        return self._notes[worker.place]

    def kill(self, worker: Worker, verdict: Exception) -> None:
        """Have a worker killed; its task ends with the verdict when it is dead, or soon."""
        worker.verdict, worker.deaf = verdict, False
        worker.ends = time.monotonic() + _DYING
        self.end(worker)

    def end(self, worker: Worker) -> None:
        """Have a worker killed."""
        if not worker.pid:  # it may be born yet, and its task lies in the pipe
            self._notes[worker.place] = STOPPED
        if self.nursery is not None:
            self.nursery.kill(worker)

    def dismiss(self, worker: Worker) -> None:
        """Listen to a worker no more, give it nothing, and have it killed.

        Most often it is dying already: killing it at once could hide of what.
        """
        self.selector.unregister(worker.pipe)
        with suppress(ValueError):
            self.idle.remove(worker)
        if worker.verdict is None:
            worker.deaf, worker.ends = True, time.monotonic() + _DYING
        else:
            self.end(worker)

    def forget(self, worker: Worker) -> None:
        """Strike out a worker that is dead."""
        del self.workers[worker.number]
        with suppress(ValueError):
            self.idle.remove(worker)
        with suppress(KeyError):
            self.selector.unregister(worker.pipe)
        worker.pipe.close()

    def lose_nursery(self) -> list[Worker]:
        """The nursery was killed: so are its workers, whom this returns; others may follow."""
        self.idle.clear()
        if self.nursery is not None:
            self.selector.unregister(self.nursery.control)
            self.nursery.end()
            self.nursery = None
        for worker in self.workers.values():
            worker.kill()
        return list(self.workers.values())

    def leave(self) -> None:
        """End all workers and their nursery, and close all files but the selector."""
        try:
            if self.nursery is not None:
                self.nursery.end()
            for worker in list(self.workers.values()):
                self.forget(worker)
        finally:
            self._notes.close()
            os.close(self._file)
