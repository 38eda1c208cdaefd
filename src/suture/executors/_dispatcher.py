"""Hands tasks to workers and results to futures: one thread, which never blocks on a worker.

NOTE [one at a time] A worker has one task at a time, and its own pipe. So a death is one task's,
no lock is shared that a dying worker could hold, and a slow task delays no other.
"""

from __future__ import annotations

import collections
import itertools
import logging
import os
import pickle
import selectors
import socket
import threading
import time
from contextlib import suppress

from suture.errors import BadResult
from suture.executors import _deaths
from suture.executors._children import Frame, Nursery, Worker, patience
from suture.executors._tasks import Task, begins, end, fail, split

_LOADING = 60.0
"""Seconds to load a function and its arguments before its own time begins: importing torch takes
2.5 s on a busy machine, and large packages on network disks have been seen to take 30."""

_DYING = 0.5
"""Seconds until a late task ends even if the kernel has not ended its worker yet."""


class Dispatcher:
    """The thread, and all that belongs to it.

    Attributes:
        deaths: how many workers died, or were killed as they were late.
        sent: how many bytes were written to workers.
    """

    def __init__(self, n: int, limit: int) -> None:
        """Start nothing yet: the first task does."""
        self._n, self._limit, self._owner = n, limit, os.getpid()
        self._lock = threading.RLock()  # a collected pool may close it at any moment
        self._thread: threading.Thread | None = None
        self._pending: collections.deque[Task] = collections.deque()
        self._closing = self._killing = self._cancelling = self._hungry = False
        self._broken: BaseException | None = None
        self._numbers = itertools.count(1)
        self._workers: dict[int, Worker] = {}
        self._idle: list[Worker] = []
        self._nursery: Nursery | None = None
        self._heavy = 0
        self.deaths = self.sent = 0

    # Called from any thread

    def put(self, task: Task) -> None:
        """Add a task to the queue.

        Raises:
            RuntimeError: the pool is shut down.
            BrokenExecutor: the thread has failed.
        """
        with self._lock:
            if self._broken is not None:
                raise _deaths.broken(self._broken) from self._broken
            if self._closing:
                raise _deaths.closed(task.name)
            self._pending.append(task)
            if self._thread is None:
                self._start()
            if self._hungry:
                self._hungry = False
                self._wake()

    def close(self, kill: bool = False, cancel: bool = False) -> None:
        """Have the thread end: when all is done, or when what runs is done, or now."""
        if os.getpid() != self._owner:
            return  # a fork: the children are not ours
        with self._lock:
            self._closing = True
            self._killing |= kill
            self._cancelling |= cancel or kill
            if self._thread is not None:
                self._wake()

    def join(self) -> None:
        """Wait until the thread has ended."""
        thread = self._thread
        if thread not in (None, threading.current_thread()) and os.getpid() == self._owner:
            thread.join()

    def _start(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._waker, self._wakes = socket.socketpair()
        self._waker.setblocking(False)
        self._wakes.setblocking(False)
        self._selector.register(self._waker, selectors.EVENT_READ)
        # A daemon: the end of the program must not wait for it, and `Workers` ends it then.
        self._thread = threading.Thread(target=self._run, name="suture-workers", daemon=True)
        self._thread.start()

    def _wake(self) -> None:
        with suppress(OSError):  # full: it is being woken; closed: it has ended
            self._wakes.send(b"!")

    # Called from the thread alone

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException as error:
            self._broken = error
            logging.getLogger("suture").exception("The pool of workers has failed.")
        finally:
            self._leave()

    def _turn(self) -> bool:
        """Hand out tasks, wait, and see what has happened; return whether to go on."""
        if self._cancelling:
            self._cancel()
        self._assign()
        with self._lock:
            busy = any(worker.task for worker in self._workers.values())
            if self._killing or (self._closing and not self._pending and not busy):
                return False
            able = bool(self._idle) or len(self._workers) < self._n
            self._hungry = able
            wait = 0.1 if able and self._pending else patience(self._workers.values())
        for key, mask in self._selector.select(wait):
            if isinstance(key.data, Worker):
                self._hear(key.data, mask)
            elif key.fileobj is self._waker:
                with suppress(BlockingIOError):
                    self._waker.recv(1 << 12)
            else:
                self._read_news()
        self._expire()
        return True

    def _assign(self) -> None:
        """Give tasks to workers that have none, and hire more up to n."""
        while self._pending and (self._idle or len(self._workers) < self._n):
            try:
                worker = self._idle.pop() if self._idle else self._hire(self._pending[0])
            except OSError as error:  # no more processes, or files: others may end soon
                if not self._workers:
                    fail(self._pending.popleft(), _deaths.no_worker(error))
                return
            while self._pending:
                task = self._pending.popleft()
                if begins(task.future):
                    self._give(worker, task)
                    break
            else:
                self._idle.append(worker)

    def _hire(self, task: Task) -> Worker:
        if self._nursery is None:
            self._nursery = Nursery(self._limit)
            self._selector.register(self._nursery.control, selectors.EVENT_READ)
        self._nursery.load(self._heavy | task.payload.heavy)
        number = next(self._numbers)
        worker = Worker(number, self._nursery.bear(number))
        self._workers[number] = worker
        self._selector.register(worker.pipe, selectors.EVENT_READ, worker)
        return worker

    def _give(self, worker: Worker, task: Task) -> None:
        timed = task.seconds is not None
        worker.task, worker.started = task, not timed
        if task.seconds is not None:
            worker.ends = time.monotonic() + task.seconds + _LOADING
        self.sent += worker.send(worker.ledger.frame(task.payload, timed))
        if worker.push():
            self._selector.modify(worker.pipe, selectors.EVENT_READ | selectors.EVENT_WRITE, worker)

    def _hear(self, worker: Worker, mask: int) -> None:
        """Write to a worker what is left to write, and read what it says."""
        if worker.number not in self._workers:
            return  # it has died in this turn
        if mask & selectors.EVENT_WRITE and not worker.push():
            self._selector.modify(worker.pipe, selectors.EVENT_READ, worker)
        if not mask & selectors.EVENT_READ:
            return
        try:
            while worker.task is not None:
                if self._take(worker, worker.receive()):
                    return
            worker.receive()
            raise EOFError  # it speaks unasked: it is not to be trusted
        except BlockingIOError:
            return
        except MemoryError:
            worker.verdict = _deaths.too_large(worker.task.name if worker.task else "")
            self._dismiss(worker)
        except (EOFError, OSError):
            self._dismiss(worker)

    def _take(self, worker: Worker, frame: Frame) -> bool:
        """Take a frame; return whether it was the answer."""
        task = worker.task
        if not frame[0]:
            worker.started = True
            if task.seconds is not None and worker.verdict is None:
                worker.ends = time.monotonic() + task.seconds
            return False
        if worker.verdict is not None:
            return True  # it answered too late, and is being killed
        worker.task, worker.ends = None, float("inf")
        self._idle.append(worker)
        self._assign()  # first, so that the worker need not wait for callbacks
        self._settle(task, frame)
        return True

    def _settle(self, task: Task, frame: Frame) -> None:
        """End a task with what its worker answered."""
        kind, *words, heavy = pickle.loads(frame[0])
        self._heavy |= heavy
        if kind == "raised":
            fail(task, _deaths.raised(task.name, *words))
        elif kind == "unsendable":
            fail(task, _deaths.unsendable(task.name, *words))
        else:
            data, sizes = words
            try:
                value = _deaths.value(task.name, data, split(frame[1], sizes))
            except BadResult as error:
                fail(task, error)
            else:
                end(task.future.set_result, value)

    def _read_news(self) -> None:
        """Hear who was born and who died."""
        if self._nursery is None:
            return
        try:
            news = self._nursery.news()
        except EOFError:
            self._lose_nursery()
            return
        for number, pid, how in news:
            worker = self._workers.get(number)
            if worker is None:
                continue
            if how is None:
                worker.pid = pid
                continue
            if isinstance(how, OSError):
                worker.verdict, how = _deaths.no_worker(how), 0
            self._bury(worker, how)

    def _bury(self, worker: Worker, code: int | None) -> None:
        """Forget a dead worker and end its task; None = nobody knows how it died."""
        task, verdict = worker.task, worker.verdict
        frame = None if verdict else worker.last_words()
        self.deaths += 1
        self._forget(worker)
        self._assign()
        if task is None:
            return
        if frame is not None:
            self._settle(task, frame)
        elif code is None:
            fail(task, verdict or _deaths.bereaved(task.name))
        else:
            fail(task, verdict or _deaths.died(task.name, code))

    def _forget(self, worker: Worker) -> None:
        del self._workers[worker.number]
        with suppress(ValueError):
            self._idle.remove(worker)
        with suppress(KeyError):
            self._selector.unregister(worker.pipe)
        worker.pipe.close()

    def _lose_nursery(self) -> None:
        """The nursery was killed: so are its workers; the next task starts others."""
        lost, self._workers, self._idle = list(self._workers.values()), {}, []
        if self._nursery is not None:
            self._selector.unregister(self._nursery.control)
            self._nursery.end()
            self._nursery = None
        for worker in lost:
            self._workers[worker.number] = worker
            worker.kill()
        for worker in lost:
            self._bury(worker, None)

    def _dismiss(self, worker: Worker) -> None:
        """Listen to a worker no more, give it nothing, and have it killed.

        Most often it is dying already: killing it at once could hide of what.
        """
        self._selector.unregister(worker.pipe)
        with suppress(ValueError):
            self._idle.remove(worker)
        if worker.verdict is None:
            worker.deaf, worker.ends = True, time.monotonic() + _DYING
        else:
            self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        if self._nursery is not None:
            self._nursery.kill(worker.number)

    def _expire(self) -> None:
        """Kill workers whose task is late."""
        now = time.monotonic()
        for worker in [w for w in self._workers.values() if w.ends <= now]:
            task = worker.task
            if worker.deaf:
                worker.ends = float("inf")
                self._kill(worker)
            elif worker.verdict is None:
                allowed = task.seconds if worker.started else _LOADING
                worker.verdict = _deaths.late(task.name, allowed, worker.started)
                worker.ends = now + _DYING
                self._kill(worker)
            else:
                worker.task, worker.ends = None, float("inf")
                fail(task, worker.verdict)

    def _cancel(self) -> None:
        """Cancel what has not begun."""
        while self._pending:
            future = self._pending.popleft().future
            if future.cancel():
                begins(future)  # tells those who wait for it

    def _leave(self) -> None:
        """End everything: nobody and no open file is left behind."""
        with self._lock:
            self._closing = True
        running = [worker.task for worker in self._workers.values() if worker.task is not None]
        try:
            if self._nursery is not None:
                self._nursery.end()
            for worker in list(self._workers.values()):
                self._forget(worker)
            with self._lock:
                for file in (self._selector, self._waker, self._wakes):
                    file.close()
        finally:
            if self._broken is None:
                self._cancel()
            for task in [*running, *self._pending]:
                fail(task, self._broken or _deaths.left(task.name))
