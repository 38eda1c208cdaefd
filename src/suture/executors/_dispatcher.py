"""Hands tasks to workers and results to futures: one thread, which never blocks on a worker.

NOTE [one at a time] A worker has one task at a time, and its own pipe. So a death is one task's,
no lock is shared that a dying worker could hold, and a slow task delays no other.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import logging
import os
import pickle
import selectors
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from suture.executors import _deaths
from suture.executors._children import Nursery, Worker
from suture.executors._payload import Payload

Frame = tuple[memoryview, memoryview]

_LOADING = 60.0
"""Seconds to load a function and its arguments before its own time begins: importing torch takes
2.5 s on a busy machine, and large packages on network disks have been seen to take 30."""

_DYING = 0.5
"""Seconds until a late task ends even if the kernel has not ended its worker yet."""


class Task:
    """What a future waits for.

    Attributes:
        future: what the caller holds.
        name: the function's, for messages.
        payload: what is sent.
        seconds: how long the function may run; None = forever.
    """

    __slots__ = ("future", "name", "payload", "seconds")

    def __init__(self, name: str, payload: Payload, seconds: float | None) -> None:
        """Make its future."""
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.name, self.payload, self.seconds = name, payload, seconds


class Dispatcher:
    """The thread, and all that belongs to it.

    Attributes:
        deaths: how many workers died, or were killed as they were late.
        sent: how many bytes were written to workers.
    """

    def __init__(self, n: int, limit: int) -> None:
        """Start nothing yet: the first task does."""
        self._n, self._limit, self._owner = n, limit, os.getpid()
        self._lock = threading.Lock()
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
                raise concurrent.futures.BrokenExecutor(
                    f"The pool has failed by itself: {self._broken!r}.\n"
                    "Its tasks were ended with this error.\n"
                    "Make a new `Workers()`, and please report this."
                ) from self._broken
            if self._closing:
                raise RuntimeError(
                    f"`{task.name}` was submitted to a pool that is shut down.\n"
                    "A pool takes tasks until `shutdown()`, or the end of its `with` block.\n"
                    "Make a new `Workers()`."
                )
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
            wait = 0.1 if able and self._pending else self._patience()
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

    def _patience(self) -> float | None:
        """Return the seconds until a task is late."""
        ends = min((worker.ends for worker in self._workers.values()), default=float("inf"))
        return None if ends == float("inf") else max(0.0, ends - time.monotonic())

    def _assign(self) -> None:
        """Give tasks to workers that have none, and hire more up to n."""
        while self._pending and (self._idle or len(self._workers) < self._n):
            try:
                worker = self._idle.pop() if self._idle else self._hire(self._pending[0])
            except OSError as error:  # no more processes, or files: others may end soon
                if not self._workers:
                    _fail(self._pending.popleft(), _deaths.no_worker(error))
                return
            while self._pending:
                task = self._pending.popleft()
                if _begins(task.future):
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
            while worker.task is not None or worker.overdue:
                if self._take(worker, worker.receive()):
                    return
            worker.receive()
            raise EOFError  # it speaks unasked: it is not to be trusted
        except BlockingIOError:
            return
        except (EOFError, OSError, MemoryError):
            self._selector.unregister(worker.pipe)
            self._order_kill(worker)

    def _take(self, worker: Worker, frame: Frame) -> bool:
        """Take a frame; return whether it was the answer."""
        task = worker.task
        if not frame[0]:
            worker.started = True
            if task is not None and task.seconds is not None and not worker.overdue:
                worker.ends = time.monotonic() + task.seconds
            return False
        if worker.overdue:
            return True  # it answered too late, and is being killed
        worker.task, worker.ends = None, float("inf")
        self._idle.append(worker)
        self._assign()  # first, so that the worker need not wait for callbacks
        self._settle(task, frame)
        return True

    def _settle(self, task: Task, frame: Frame) -> None:
        """End a task with what its worker answered."""
        try:
            kind, *words = pickle.loads(frame[0])
            self._heavy |= words.pop()
            if kind == "value":
                value = _deaths.value(task.name, words[0], _split(frame[1], words[1]))
                _end(task.future.set_result, value)
                return
            error = {"raised": _deaths.raised, "unsendable": _deaths.unsendable}[kind](
                task.name, *words
            )
        except Exception as failure:
            error = failure
        _fail(task, error)

    def _read_news(self) -> None:
        """Hear who was born and who died."""
        if self._nursery is None:
            return
        try:
            news = self._nursery.news()
        except EOFError:
            self._lose_nursery()
            return
        for number, pid, code in news:
            worker = self._workers.get(number)
            if worker is not None and code is None:
                worker.pid = pid
            elif worker is not None:
                self._bury(worker, code)

    def _bury(self, worker: Worker, code: int | None) -> None:
        """Forget a dead worker and end its task; None = nobody knows how it died."""
        task = worker.task
        # It may have answered before it died.
        frame = None if worker.overdue or task is None else _last_words(worker)
        self._forget(worker)
        if worker.overdue or frame is None or task is None:
            self.deaths += 1
        self._assign()
        if task is None:
            return
        if frame is not None:
            self._settle(task, frame)
        elif worker.overdue:
            _fail(task, _deaths.late(task.name, task.seconds, worker.started))
        elif code is None:
            _fail(task, _deaths.bereaved(task.name))
        else:
            _fail(task, _deaths.died(task.name, code))

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
            if worker.pid:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(worker.pid, signal.SIGKILL)
        for worker in lost:
            self._bury(worker, None)

    def _order_kill(self, worker: Worker) -> None:
        if self._nursery is not None:
            self._nursery.kill(worker.number)

    def _expire(self) -> None:
        """Kill workers whose task is late."""
        now = time.monotonic()
        for worker in [w for w in self._workers.values() if w.ends <= now]:
            if not worker.overdue:
                worker.overdue, worker.ends = True, now + _DYING
                self._order_kill(worker)
            elif (task := worker.task) is not None:
                worker.task, worker.ends = None, float("inf")
                _fail(task, _deaths.late(task.name, task.seconds, worker.started))

    def _cancel(self) -> None:
        """Cancel what has not begun."""
        while self._pending:
            future = self._pending.popleft().future
            if future.cancel():
                _begins(future)  # tells those who wait for it

    def _leave(self) -> None:
        """End everything: nobody and no open file is left behind."""
        with self._lock:
            self._closing = True
        running = [worker.task for worker in self._workers.values() if worker.task is not None]
        if self._nursery is not None:
            self._nursery.end()
        for worker in list(self._workers.values()):
            self._forget(worker)
        self._selector.close()
        with self._lock:
            self._waker.close()
            self._wakes.close()
        if self._broken is None:
            self._cancel()
        for task in [*running, *self._pending]:
            _fail(task, self._broken or _deaths.left(task.name))


def _split(raw: memoryview, sizes: list[int]) -> list[memoryview]:
    starts = itertools.accumulate(sizes, initial=0)
    return [raw[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def _last_words(worker: Worker) -> Frame | None:
    """Return the answer of a dead worker, if it got to send it."""
    try:
        while True:
            frame = worker.receive()
            if frame[0]:
                return frame
            worker.started = True
    except (EOFError, OSError, MemoryError):
        return None


def _begins(future: concurrent.futures.Future[Any]) -> bool:
    """Whether a task is to be done; from now on it cannot be canceled."""
    try:
        return future.set_running_or_notify_cancel()
    except (RuntimeError, concurrent.futures.InvalidStateError):
        return False  # somebody else has set its result


def _fail(task: Task, error: BaseException) -> None:
    _end(task.future.set_exception, error)


def _end(how: Any, what: Any) -> None:
    """Set a result or an exception; whatever a callback does, the thread goes on."""
    try:
        how(what)
    except concurrent.futures.InvalidStateError:
        pass  # somebody else has set its result
    except BaseException:
        logging.getLogger("suture").exception("A callback of a future has failed.")
