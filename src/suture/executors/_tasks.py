"""Tasks: what waits in the queue, and how its future ends."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import logging
import pickle
import threading
from collections.abc import Iterable
from typing import Any

from suture.errors import BadResult
from suture.executors import _deaths
from suture.executors._payload import Payload


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


class Stop:
    """What some thread wishes: that tasks end.

    Attributes:
        heard: set when none of them can begin any more.
        running: the futures of those that ran then, and are being killed.
    """

    def __init__(self, futures: Iterable[Any]) -> None:
        """Take the futures of the tasks, and maybe others."""
        self._futures = {id(future): future for future in futures}
        self.heard = threading.Event()
        self.running: list[concurrent.futures.Future[Any]] = []

    def __contains__(self, task: Task | None) -> bool:
        """Whether a task is meant."""
        return task is not None and id(task.future) in self._futures


def split(raw: memoryview, sizes: list[int]) -> list[memoryview]:
    """Cut the raw bytes of a frame into the buffers of a result."""
    starts = itertools.accumulate(sizes, initial=0)
    return [raw[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def begins(future: concurrent.futures.Future[Any]) -> bool:
    """Whether a task is to be done; from now on it cannot be canceled."""
    try:
        return future.set_running_or_notify_cancel()
    except (RuntimeError, concurrent.futures.InvalidStateError):
        return False  # somebody else has set its result


def cancel(task: Task) -> None:
    """Cancel a task that has not begun."""
    if task.future.cancel():
        begins(task.future)  # tells those who wait for it


def fail(task: Task, error: BaseException) -> None:
    """End a task with an error."""
    end(task.future.set_exception, error)


def end(how: Any, what: Any) -> None:
    """Set a result or an exception; whatever a callback does, the thread goes on."""
    try:
        how(what)
    except concurrent.futures.InvalidStateError:
        pass  # somebody else has set its result
    except BaseException:
        logging.getLogger("suture").exception("A callback of a future has failed.")


def settle(task: Task, frame: tuple[memoryview, memoryview]) -> int:
    """End a task with what its worker answered; return the heavy modules that it has, as bits."""
    kind, *words, modules = pickle.loads(frame[0])
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
    return int(modules)


def failed(error: BaseException) -> concurrent.futures.Future[Any]:
    """Return the future of a task that cannot even be sent."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()
    future.set_exception(error)
    return future


def name_of(fn: Any) -> str:
    """Return what a person calls a function."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return str(getattr(fn, "__qualname__", type(fn).__qualname__))
