"""A call as bytes, for workers that another library runs, and the answer that comes back.

Nothing is left to the pickling of that library: the caller may change its arrays as soon as the
call is submitted, the function gets copies that are its own, and a result or an error that cannot
travel is said so at once.
"""

from __future__ import annotations

import pickle
from typing import Any

from suture.executors import _deaths
from suture.executors._frames import dumps
from suture.executors._worker import describe_error, describe_result

Answer = tuple[Any, ...]
"""What `perform` returns: a word, and what belongs to it; only strings and bytes."""


def pack(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Return a call as bytes."""
    data, buffers = dumps((fn, args, kwargs))
    return pickle.dumps((data, [bytes(buffer) for buffer in buffers]), protocol=5)


def perform(parcel: bytes) -> Answer:
    """Do a call; runs in the worker.

    `SystemExit` and `KeyboardInterrupt` are answers like others: the process belongs to others.
    """
    try:
        data, buffers = pickle.loads(parcel)
        fn, args, kwargs = pickle.loads(data, buffers=[bytearray(part) for part in buffers])
        result = fn(*args, **kwargs)
    except BaseException as error:
        return describe_error(error)
    try:
        data, buffers = dumps(result)
    except BaseException as error:
        return describe_result(result, error)
    return "value", data, [bytes(buffer) for buffer in buffers]


def opened(name: str, answer: Answer) -> Any:
    """Return the value that an answer holds.

    Args:
        name: the function.
        answer: what `perform` returned.

    Raises:
        BadResult: the value could not travel.
        Exception: what the function raised.
    """
    word, *content = answer
    if word == "raised":
        raise _deaths.raised(name, *content)
    if word == "unsendable":
        raise _deaths.unsendable(name, *content)
    data, buffers = content
    return _deaths.value(name, data, [memoryview(bytearray(part)) for part in buffers])
