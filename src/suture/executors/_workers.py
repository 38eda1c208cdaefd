"""`Workers`: local processes in which a fault costs nothing but the task that it hit."""

from __future__ import annotations

import atexit
import concurrent.futures
import math
import multiprocessing
import os
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, final

from suture.errors import MethodError
from suture.executors import _deaths
from suture.executors._dispatcher import Dispatcher
from suture.executors._payload import Store
from suture.executors._tasks import Task, failed, name_of

T = TypeVar("T")


@final
class Workers(concurrent.futures.Executor):
    """A pool of local processes that survives what its functions do.

    A worker that is killed, crashes, exits, runs out of time or memory, or returns something that
    cannot be sent costs one task; the others do not notice, and the next task gets a new worker.
    Functions need not be importable (cloudpickle sends them), `if __name__ == "__main__"` is not
    needed, and Ctrl-C does not reach the workers. Large arrays and tensors in the arguments are
    sent once, and then only where they changed; the function still gets a copy of its own.

    Workers start with the first tasks. When the pool is left by Ctrl-C, or the program ends, it is
    killed with all processes that its functions have started. What a function leaves running may
    be killed as soon as some worker dies, and is when the pool ends.

    Not on Windows.

    Example:
        >>> from suture.executors import Workers
        >>> with Workers(2) as workers:
        ...     list(workers.map(pow, [2, 3, 4], [5, 2, 1]))
        [32, 9, 4]

    Args:
        n: how many processes; None = the processors that this process may use.
        memory_limit: bytes of address space of each worker, and of each of its children; beyond
            it, allocations raise MemoryError. The libraries count: torch alone maps 1 to 2 GB.
            Linux only; None = no limit.

    Attributes:
        n: how many processes.

    Raises:
        MethodError: an argument is not lawful, or not on this system.
    """

    def __init__(self, n: int | None = None, memory_limit: int | None = None) -> None:
        _check_system(memory_limit)
        self.n = _processors() if n is None else _whole("n", n)
        limit = 0 if memory_limit is None else _whole("memory_limit", memory_limit)
        self._dispatcher = Dispatcher(self.n, limit)
        self._store = Store()
        self._owner = os.getpid()
        # A pool that is dropped finishes its tasks, as other executors do; at exit it does not.
        weakref.finalize(self, self._dispatcher.close).atexit = False
        _at_exit.add(self._dispatcher)

    def __repr__(self) -> str:
        return f"Workers(n={self.n})"

    def submit(
        self, fn: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[T]:
        """Have `fn(*args, **kwargs)` called in a worker.

        The call is pickled before this returns, so what is changed later does not matter. A call
        that cannot be pickled fails in its future.

        Raises:
            RuntimeError: the pool is shut down.
            MethodError: the pool belongs to another process.
        """
        return self._submit(None, fn, args, kwargs)

    def submit_within(
        self, seconds: float, fn: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[T]:
        """Do as `submit`, but end with `errors.TimedOut` if the call takes longer.

        The clock runs from the moment when the worker calls the function: waiting in the queue
        and importing do not count (loading a call ends after another minute). The worker is then
        killed, with all processes of its group.

        Raises:
            RuntimeError: the pool is shut down.
            MethodError: the pool belongs to another process, or seconds are not positive.
        """
        if not 0 < seconds < math.inf:
            raise MethodError(
                f"`seconds` is {seconds!r}.",
                "A call needs a positive, finite time.",
                "Use `submit(fn, ...)` to wait forever.",
            )
        return self._submit(seconds, fn, args, kwargs)

    def _submit(
        self,
        seconds: float | None,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> concurrent.futures.Future[T]:
        self._check_owner()
        name = name_of(fn)
        try:
            payload = self._store.pack(name, fn, args, kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return failed(_deaths.unpicklable(name, error))
        task = Task(name, payload, seconds)
        self._dispatcher.put(task)
        return task.future

    @property
    def deaths(self) -> int:
        """How many workers have died, or were killed as their task was late or stopped."""
        return self._dispatcher.deaths

    @property
    def bytes_sent(self) -> int:
        """How many bytes were written to workers."""
        return self._dispatcher.sent

    def stop(self, futures: Iterable[concurrent.futures.Future[Any]]) -> None:
        """End some tasks, those that run too; the pool goes on with others.

        What waits is canceled. What runs ends with `errors.WorkerDied`: its worker is killed,
        with all processes of its group. Futures that have ended, or are not of this pool, do not
        matter. From a callback of a future this returns before the workers are dead.

        Example:
            >>> import time
            >>> with Workers(1) as workers:
            ...     futures = [workers.submit(time.sleep, 600) for _ in range(3)]
            ...     workers.stop(futures)
            ...     workers.submit(pow, 2, 5).result()
            32

        Args:
            futures: what `submit` has returned.

        Raises:
            MethodError: the pool belongs to another process.
        """
        self._check_owner()
        self._dispatcher.stop(futures)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; end when those that were submitted are done.

        Args:
            wait: return only then. Ctrl-C meanwhile kills the workers.
            cancel_futures: cancel the tasks that have not begun.
        """
        self._dispatcher.close(cancel=cancel_futures)
        if wait:
            try:
                self._dispatcher.join()
            except BaseException:
                self._dispatcher.close(kill=True)
                raise
            finally:
                self._store.forget()

    def kill_workers(self) -> None:
        """Cancel what waits, kill what runs, and shut down; return when no process is left."""
        self._dispatcher.close(kill=True)
        self._dispatcher.join()
        self._store.forget()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for all tasks; after Ctrl-C or `sys.exit` kill them."""
        if kind is None or issubclass(kind, Exception):
            self.shutdown(wait=True)
        else:
            self.kill_workers()

    def _check_owner(self) -> None:
        if os.getpid() != self._owner:
            raise MethodError(
                f"A pool of process {self._owner} was used in process {os.getpid()}.",
                "After a fork, the workers still belong to the parent alone.",
                "Make a new `Workers()` in each process.",
            )


_at_exit: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


@atexit.register
def _kill_all() -> None:
    """End all pools at the end of the program: nobody will ask for their results."""
    pools = list(_at_exit)
    for dispatcher in pools:
        dispatcher.close(kill=True)
    for dispatcher in pools:
        dispatcher.join()


def _check_system(memory_limit: object) -> None:
    if not hasattr(os, "fork"):
        raise MethodError(
            f"`Workers` was made on {sys.platform}, which has no fork.",
            "Workers are forked from a process that has imported torch once.",
            "Use `concurrent.futures.ProcessPoolExecutor()`.",
        )
    if memory_limit is not None and sys.platform != "linux":
        raise MethodError(
            f"`memory_limit` was given on {sys.platform}.",
            "Only Linux holds a process to RLIMIT_AS.",
            "Leave `memory_limit=` out.",
        )
    if multiprocessing.current_process().daemon:
        raise MethodError(
            "`Workers` was made in a daemonic process, as the workers of a DataLoader are.",
            "Such a process is ended without notice and may have no children.",
            "Evaluate one after another there, `executor=None`.",
        )


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise MethodError(
            f"`{name}` is {value!r}.",
            "It has to be a whole number, 1 or more.",
            "Use `Workers(n=2, memory_limit=8 * 2**30)`, for example.",
        )
    return value


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
