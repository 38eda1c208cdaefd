"""The loop that a worker runs: take a task, do it, answer.

It knows nothing of Suture, whose package brings torch: see `_nursery`.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import cloudpickle

from suture.executors._frames import HEADER, dumps, frame, heavy_here, receive, send
from suture.executors._notes import is_stopped


def be_worker(become: Callable[[], socket.socket]) -> None:
    """Become a worker, serve, and end as Python would, without unwinding the nursery's stack."""
    code: Any = 1
    try:
        _serve(become())
        code = 0
    except SystemExit as leaving:
        code = leaving.code
    except ConnectionError:
        code = 0  # the parent is gone
    except BaseException:
        traceback.print_exc()
    _flush()
    os._exit((code or 0) & 0xFF if isinstance(code, int | None) else 1)


class _Shelf:
    """What a worker keeps between tasks: functions, and blocks of arrays."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._blocks: dict[int, bytes] = {}
        self._pickled: dict[int, tuple[bytes, Any]] = {}
        self._functions: dict[int, Any] = {}

    def take(self, content: Any, raw: memoryview) -> Any:
        """Put away what a frame brings, and return what is left: the task."""
        gone, fresh, pickled, *task = content
        for number in gone:
            for kept in (self._blocks, self._pickled, self._functions):
                kept.pop(number, None)
        start = 0
        for number, size in fresh:
            self._blocks[number] = bytes(raw[start : start + size])
            start += size
        if pickled is not None:
            self._pickled[task[0]] = pickled
        return task

    def function(self, number: int) -> Any:
        """Return a function; it is kept as it is unpickled once."""
        if number not in self._functions:
            self._functions[number] = self.load(*self._pickled[number])
            self._pickled[number] = (b"", ())
        return self._functions[number]

    def load(self, data: bytes, buffers: Iterable[Iterable[int]]) -> Any:
        """Unpickle; every array is a private copy, which the function may write into."""
        joined = [bytearray().join(self._blocks[i] for i in numbers) for numbers in buffers]
        return pickle.loads(data, buffers=joined)


def _serve(wire: socket.socket) -> None:
    """Do one task after another until the parent closes the pipe."""
    shelf, me = _Shelf(), os.getpid()
    while (received := receive(wire)) is not None:
        task = shelf.take(*received)
        del received
        reply = _reply(wire, shelf, *task)
        _flush()  # what was printed must not be lost if the worker is killed
        if os.getpid() != me:  # a child that the function forked must not answer for it
            os._exit(0)
        send(wire, reply)
        del task, reply  # while it waits for the next one, it holds no result


def _reply(
    wire: socket.socket, shelf: _Shelf, number: int, data: bytes, buffers: Any, timed: bool
) -> list[bytes | memoryview]:
    """Do one task, and return the frame that answers it.

    The arguments and the result are let go before the frame is sent: a worker that dies of
    that costs this task and not the next one.
    """
    try:
        function, (args, kwargs) = shelf.function(number), shelf.load(data, buffers)
        if is_stopped():  # before it was born
            raise SystemExit
        if timed:  # the clock starts when the imports are done
            send(wire, [HEADER.pack(0, 0)])
        result = function(*args, **kwargs)
    except SystemExit:
        raise
    except BaseException as error:
        return frame((*describe_error(error), heavy_here()))
    try:
        pickled, parts = dumps(result)
    except SystemExit:
        raise
    except BaseException as error:
        return frame((*describe_result(result, error), heavy_here()))
    return frame(("value", pickled, [part.nbytes for part in parts], heavy_here()), parts)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


def describe_error(error: BaseException) -> tuple[Any, ...]:
    """Return the answer of an error, with its traceback as text."""
    text = "".join(traceback.format_exception(error)).rstrip()
    pickled: bytes | None = None
    if isinstance(error, Exception):  # others would end the parent
        with suppress(Exception):
            pickled = cloudpickle.dumps(error)
    return "raised", pickled, _type_name(error), text


def describe_result(result: Any, error: BaseException) -> tuple[Any, ...]:
    """Return the answer of a result that cannot be pickled."""
    text = "".join(traceback.format_exception(error)).rstrip()
    reason = f"{type(error).__name__}: {error}"
    return "unsendable", _type_name(result), reason, text


def _type_name(obj: Any) -> str:
    return type(obj).__qualname__
