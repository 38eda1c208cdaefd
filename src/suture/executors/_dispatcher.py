"""Hands tasks to workers and results to futures: one thread, which never blocks on a worker.

NOTE [one at a time] A worker has one task at a time, and its own pipe. So a death is one task's,
no lock is shared that a dying worker could hold, and a slow task delays no other. A second task in
the pipe would hide the way there and back (0.04 ms a task and not 0.07, two workers), but it would
have to be taken back from a worker that is slow; who has cheap calls sends several as one task.
"""

from __future__ import annotations

import collections
import concurrent.futures
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from suture.errors import TimedOut, WorkerDied
from suture.executors import _deaths
from suture.executors._children import Frame, Worker, patience
from suture.executors._crew import Crew
from suture.executors._tasks import Stop, Task, begins, cancel, fail, settle

_LOADING = 60.0
"""Seconds to load a function and its arguments before its own time begins: importing torch takes
2.5 s on a busy machine, and large packages on network disks have been seen to take 30."""

_PATIENCE = 1.0
"""Seconds that `stop` waits for the thread, and again for what it kills, which ends after half a
second at most: only a callback that blocks the thread can take longer."""


class Dispatcher:
    """The thread, and all that belongs to it.

    Attributes:
        deaths: how many workers died, or were killed with their task.
        sent: how many bytes were written to workers.
    """

    def __init__(self, n: int, limit: int) -> None:
        """Start nothing yet: the first task does."""
        self._n, self._limit, self._owner = n, limit, os.getpid()
        self._lock = threading.RLock()  # a collected pool may close it at any moment
        self._thread: threading.Thread | None = None
        self._pending: collections.deque[Task] = collections.deque()
        self._stops: collections.deque[Stop] = collections.deque()
        self._closing = self._killing = self._cancelling = self._hungry = self._over = False
        self._broken: BaseException | None = None
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

    def stop(self, futures: Iterable[object]) -> None:
        """Cancel tasks that wait, and kill those that run; return when they have ended."""
        stop = Stop(futures)
        with self._lock:
            if self._thread is None or self._over:
                return
            self._stops.append(stop)
            self._wake()
        if threading.current_thread() is self._thread:  # a callback
            self._stop()
        elif stop.heard.wait(_PATIENCE):
            concurrent.futures.wait(stop.running, _PATIENCE)

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
        self._crew = Crew(self._n, self._limit)
        self._waker, self._wakes = socket.socketpair()
        self._waker.setblocking(False)
        self._wakes.setblocking(False)
        self._crew.selector.register(self._waker, selectors.EVENT_READ)
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
        self._stop()
        self._assign()
        workers = self._crew.workers.values()
        with self._lock:
            busy = any(worker.task for worker in workers)
            if self._killing or (self._closing and not self._pending and not busy):
                return False
            self._hungry = able = self._crew.is_able()
            wait = 0.1 if able and self._pending else patience(workers)
        for key, mask in self._crew.selector.select(wait):
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
        while self._pending and self._crew.is_able():
            try:
                worker = self._crew.take(self._pending[0])
            except OSError as error:  # no more processes, or files: others may end soon
                if not self._crew.workers:
                    fail(self._pending.popleft(), _deaths.no_worker(error))
                return
            while self._pending:
                task = self._pending.popleft()
                if begins(task.future):
                    if task.seconds is not None:
                        worker.ends = time.monotonic() + task.seconds + _LOADING
                    self.sent += self._crew.give(worker, task)
                    break
            else:
                self._crew.idle.append(worker)

    def _hear(self, worker: Worker, mask: int) -> None:
        """Write to a worker what is left to write, and read what it says."""
        if worker.number not in self._crew.workers:
            return  # it has died in this turn
        if mask & selectors.EVENT_WRITE:
            self._crew.push(worker)
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
            self._crew.dismiss(worker)
        except (EOFError, OSError):
            self._crew.dismiss(worker)

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
        self._crew.idle.append(worker)
        self._assign()  # first, so that the worker need not wait for callbacks
        self._crew.heavy |= settle(task, frame)
        return True

    def _read_news(self) -> None:
        """Hear who was born and who died."""
        if self._crew.nursery is None:
            return
        try:
            news = self._crew.nursery.news()
        except EOFError:
            for lost in self._crew.lose_nursery():
                self._bury(lost, None)
            return
        for number, pid, how in news:
            worker = self._crew.workers.get(number)
            if worker is None:
                continue
            if how is None:
                worker.pid = pid
            elif isinstance(how, OSError):
                worker.verdict = _deaths.no_worker(how)
                self._bury(worker, 0)
            else:
                self._bury(worker, how)

    def _bury(self, worker: Worker, code: int | None) -> None:
        """Forget a dead worker and end its task; None = nobody knows how it died."""
        task, verdict, note = worker.task, worker.verdict, self._crew.note(worker)
        frame = None if verdict else worker.last_words()
        self.deaths += 1
        self._crew.forget(worker)
        self._assign()
        if task is None:
            return
        if frame is not None:
            self._crew.heavy |= settle(task, frame)
        elif code is None:
            _lose(task, verdict or _deaths.bereaved(task.name), note)
        else:
            _lose(task, verdict or _deaths.died(task.name, code), note)

    def _expire(self) -> None:
        """Kill workers whose task is late."""
        now = time.monotonic()
        for worker in [w for w in self._crew.workers.values() if w.ends <= now]:
            task = worker.task
            if worker.deaf:
                worker.ends = float("inf")
                self._crew.end(worker)
            elif worker.verdict is None:
                allowed = task.seconds if worker.started else _LOADING
                self._crew.kill(worker, _deaths.late(task.name, allowed, worker.started))
            else:
                worker.task, worker.ends = None, float("inf")
                _lose(task, worker.verdict, self._crew.note(worker))

    def _stop(self) -> None:
        """End the tasks that somebody wants stopped."""
        while self._stops:
            stop = self._stops.popleft()
            for worker in list(self._crew.workers.values()):
                if worker.task in stop:
                    stop.running.append(worker.task.future)
                    if worker.verdict is None:
                        self._crew.kill(worker, _deaths.stopped(worker.task.name))
            with self._lock:
                tasks = list(self._pending)
                self._pending = collections.deque(task for task in tasks if task not in stop)
            for task in tasks:
                if task in stop:
                    cancel(task)
            stop.heard.set()

    def _cancel(self) -> None:
        """Cancel what has not begun."""
        while self._pending:
            cancel(self._pending.popleft())

    def _leave(self) -> None:
        """End everything: nobody and no open file is left behind."""
        with self._lock:
            self._closing = self._over = True
        running = [
            (worker.task, self._crew.note(worker))
            for worker in self._crew.workers.values()
            if worker.task is not None
        ]
        try:
            self._crew.leave()
            with self._lock:
                for file in (self._crew.selector, self._waker, self._wakes):
                    file.close()
        finally:
            if self._broken is None:
                self._cancel()
            for task, note in [*running, *((task, None) for task in self._pending)]:
                _lose(task, self._broken or _deaths.left(task.name), note)
            for stop in self._stops:
                stop.heard.set()


def _lose(task: Task, error: BaseException, note: int | None) -> None:
    """End a task whose worker is gone; the error has the last note."""
    if isinstance(error, WorkerDied | TimedOut):
        error.note = note
    fail(task, error)
