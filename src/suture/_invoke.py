"""What runs where the function runs: a few calls, and what came of each.

It may be another thread, another process or another machine, so what is called for is a plain
object that can be pickled, and so is what it returns.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple, TypeAlias

import cloudpickle
import numpy as np
import torch
from torch import Tensor

from suture import _tree
from suture._ambient import Ambient
from suture.executors._deaths import unpicklable
from suture.executors._notes import note

Point: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of one call, (args, kwargs)."""


class Sent(NamedTuple):
    """An exception of another process: its pickle if it has one, its type and its traceback."""

    pickled: bytes | None
    kind: str
    text: str


class Answer(NamedTuple):
    """What came of one call.

    Attributes:
        result: what the function returned, None if it raised.
        error: what it raised, None if it returned.
        when: seconds since 1970 at its start.
        seconds: how long it took.
        where: `host:process:thread`.
    """

    result: Any
    error: Exception | Sent | None
    when: float
    seconds: float
    where: str


class Invocation:
    """A function, and all that makes its calls the same everywhere."""

    def __init__(
        self, fn: Callable[..., Any], name: str, ambient: Ambient, pool: Any = None
    ) -> None:
        """Take the function, what messages call it, what torch is set to, and who runs this."""
        self.fn, self.ambient, self._origin = fn, ambient, (socket.gethostname(), os.getpid())
        # Who waits for this works for pools as well, in whose threads nothing may wait for it.
        self._pools = (*_served(), pool)
        self._pickled: bytes | None = None
        # What a pool calls it in its own messages.
        self.__qualname__ = name

    def __call__(self, *points: Point) -> list[Answer]:
        """Call the function at some points, one after another."""
        is_here = self._origin == (socket.gethostname(), os.getpid())
        before = _served()
        _thread.pools = (*before, *self._pools)
        try:
            with nullcontext() if self.ambient.is_current() else self.ambient.restored():
                return [self._answer(i, point, is_here) for i, point in enumerate(points)]
        finally:
            _thread.pools = before

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Carry the function as cloudpickle sends it: pickled once, and whoever asks for it.

        So functions need not be importable, with any executor; and all tasks of a round are sent
        the same one, without having it pickled again. The pool is left out: in another process
        nobody works for it.

        Raises:
            MethodError: if the function cannot be pickled.
        """
        if self._pickled is None:
            try:
                self._pickled = cloudpickle.dumps(self.fn)
            except Exception as error:
                raise unpicklable(self.__qualname__, error) from error
        carried = pickle.PickleBuffer(self._pickled) if protocol >= 5 else self._pickled
        return _arrived, (carried, self.__qualname__, self.ambient, self._origin)

    def _answer(self, i: int, point: Point, is_here: bool) -> Answer:
        note(i)
        args, kwargs = point
        when, start = time.time(), time.perf_counter()
        result, error = None, None
        try:
            result = self.fn(*args, **kwargs)
        except Exception as raised:
            error = raised if is_here else _sent(raised)
        seconds = time.perf_counter() - start
        if error is None:
            result = own(result)
        return Answer(result, error, when, seconds, place())


def _arrived(pickled: bytes, name: str, ambient: Ambient, origin: tuple[str, int]) -> Invocation:
    """Return an invocation in another process."""
    invocation = Invocation(pickle.loads(pickled), name, ambient)
    invocation._origin = origin
    return invocation


_thread = threading.local()


def _served() -> tuple[Any, ...]:
    return getattr(_thread, "pools", ())


def is_served_here(pool: Any) -> bool:
    """Whether this thread is at work for a pool: waiting for its other threads may never end."""
    return any(pool is served for served in _served())


def place() -> str:
    """Return where this runs: `host:process:thread`."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_native_id()}"


def own(result: Any) -> Any:
    """Return a result that shares no memory with the function, on the host."""
    if type(result) is float:
        return result
    leaves, structure = _tree.flatten(result)
    return _tree.unflatten([_own(leaf) for leaf in leaves], structure)


def _own(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
        return leaf.detach().to("cpu", copy=True)
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _sent(error: Exception) -> Sent:
    pickled: bytes | None = None
    with suppress(Exception):
        pickled = cloudpickle.dumps(error)
    text = "".join(traceback.format_exception(error)).rstrip()
    return Sent(pickled, type(error).__qualname__, text)
