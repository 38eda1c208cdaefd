"""What travels between a parent and its workers: pickles, and the bytes of large arrays aside.

A frame is two lengths, a pickle, and raw bytes that the pickle refers to. Nothing here imports
torch: a worker does so only when a task needs it.
"""

from __future__ import annotations

import functools
import io
import operator
import pickle
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

import cloudpickle

HEADER = struct.Struct("<QQ")
"""Before a frame: the lengths of its pickle and of the raw bytes behind it."""

BLOCK = 1 << 16
"""Bytes of a block, which is sent when it changed; smaller arrays lie in the pickle itself.

Comparing a block costs 8 µs, and a frame 0.1 ms in all: at this size a displaced element costs
a block (20 µs to send) and the table of an 8 MB array has 128 rows.
"""

MOST_BUFFERS = 512
"""How many buffers one system call takes: half of Linux's and macOS's IOV_MAX."""

HEAVY = ("numpy", "numpy.random", "torch", "suture._invoke")
"""What the nursery imports at need, before it forks: slow, common, and without own threads. (The
last is what the pipeline has called; with it, a new worker answers in 15 ms and not in 80.)"""


def heavy(data: bytes) -> int:
    """Return the set of heavy modules, as bits, that a pickle mentions."""
    return sum(1 << i for i, name in enumerate(HEAVY) if name.encode() in data)


def heavy_here() -> int:
    """Return the set of heavy modules, as bits, that this process has imported."""
    return sum(1 << i for i, name in enumerate(HEAVY) if name in sys.modules)


class Pickler(cloudpickle.Pickler):  # type: ignore[misc] # cloudpickle has no types
    """Pickles anything, and puts large arrays and tensors aside.

    Attributes:
        buffers: the contents of the arrays that were put aside, flat.
    """

    def __init__(self) -> None:
        """Write into memory."""
        self.file = io.BytesIO()
        self.buffers: list[memoryview] = []
        torch = sys.modules.get("torch")
        self._tensor = getattr(torch, "Tensor", None)
        super().__init__(self.file, protocol=5, buffer_callback=self._keeps)

    def _keeps(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether a buffer stays in the pickle; else put it aside."""
        raw = buffer.raw()
        if raw.nbytes < BLOCK:
            return True
        self.buffers.append(raw)
        return False

    def reducer_override(self, obj: Any) -> Any:
        """Reduce plain tensors to arrays, whose bytes need no copy; else do as cloudpickle."""
        if type(obj) is self._tensor and is_plain(obj):
            return operator.methodcaller("from_numpy", obj.numpy()), (sys.modules["torch"],)
        return super().reducer_override(obj)


def is_plain(tensor: Any) -> bool:
    """Whether a tensor is nothing but the numbers that NumPy would show, without gaps."""
    return bool(
        tensor.device.type == "cpu"
        and not tensor.requires_grad
        and str(tensor.layout) == "torch.strided"
        and tensor.is_contiguous()
        and not (tensor.is_conj() or tensor.is_neg() or tensor.__dict__)
        and not getattr(tensor, "has_names", bool)()  # new versions of torch have no names
        and tensor.dtype in _numpy_dtypes()
    )


@functools.cache
def _numpy_dtypes() -> frozenset[Any]:
    floats = ("float64", "float32", "float16", "complex128", "complex64")
    whole = ("int64", "int32", "int16", "int8", "uint8", "bool")
    return frozenset(getattr(sys.modules["torch"], name) for name in (*floats, *whole))


_ATOMS = frozenset({bool, bytes, complex, float, int, str, type(None)})


def _is_atomic(obj: Any) -> bool:
    """Whether an object, or the arguments of a call, are numbers and strings alone."""
    if type(obj) is tuple and len(obj) == 2 and type(obj[0]) is tuple and not obj[1]:
        return type(obj[1]) is dict and all(type(part) in _ATOMS for part in obj[0])
    return type(obj) in _ATOMS


def dumps(obj: Any) -> tuple[bytes, list[memoryview]]:
    """Return the pickle of an object, and the buffers that it refers to."""
    if _is_atomic(obj):
        return pickle.dumps(obj, protocol=5), []  # 1 µs, where a Pickler takes 15
    pickler = Pickler()
    pickler.dump(obj)
    return pickler.file.getvalue(), pickler.buffers


def frame(content: Any, raw: Sequence[bytes | memoryview] = ()) -> list[bytes | memoryview]:
    """Return the buffers of a frame, in order."""
    data = pickle.dumps(content, protocol=5)
    return [HEADER.pack(len(data), sum(map(len, raw))) + data, *raw]


def send(wire: socket.socket, buffers: list[bytes | memoryview]) -> None:
    """Write all of some buffers."""
    if len(buffers) == 1:
        wire.sendall(buffers[0])
        return
    rest = [memoryview(buffer) for buffer in buffers]
    while rest:
        rest = unsent(rest, wire.sendmsg(rest[:MOST_BUFFERS]))


def unsent(buffers: list[memoryview], sent: int) -> list[memoryview]:
    """Return what is left of some buffers after their first bytes have gone."""
    for i, buffer in enumerate(buffers):
        if sent < buffer.nbytes:
            return [buffer[sent:], *buffers[i + 1 :]]
        sent -= buffer.nbytes
    return []


def receive(wire: socket.socket) -> tuple[Any, memoryview] | None:
    """Return the content of a frame and its raw bytes; None when the parent is gone."""
    # One frame is under way at a time: a small one comes whole, in one system call.
    start = wire.recv(BLOCK)
    while 0 < len(start) < HEADER.size:
        start += wire.recv(HEADER.size - len(start))
    if not start:
        return None
    pickled, raw = HEADER.unpack_from(start)
    body = memoryview(bytearray(pickled + raw))
    done = len(start) - HEADER.size
    body[:done] = start[HEADER.size :]
    while done < len(body):
        count = wire.recv_into(body[done:])
        if not count:
            return None
        done += count
    return pickle.loads(body[:pickled]), body[pickled:]
