"""What is sent to a worker: a function once, and of the arguments what changed.

NOTE [blocks] A large array is cut into blocks of 64 KiB. Each is compared with the block at the
same place of two earlier arrays: the one that a series began with, and the last one. In a round
of differences all points equal the first but for an element or two, so that a point costs one
block, in the queue as on the way. Blocks are compared, not hashed: 8 MB take 1.5 ms and not 9,
and nothing rests on the luck of a digest.
"""

from __future__ import annotations

import collections
import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any

from suture.executors._frames import BLOCK, dumps, frame, heavy

Key = tuple[str, int, int]
"""Where an array stands: the function's name, its position among the large ones, its bytes."""

_REMEMBERED = 1 << 28
"""Bytes of the arrays that are remembered from earlier calls, in the parent and in each worker, and
as many of functions: 256 MiB. These are 32 arrays of 8 MB, more than a step of training has. What
does not fit is sent anew: a task with 8 MB took 8 ms then, where an unchanged array took 2."""

_FUNCTIONS = 64
"""How many functions are remembered; a training run has a few."""

_NEW_SERIES = 4
"""A fourth of the blocks changed: this is another x, not a displaced one."""


class Item:
    """Something that a worker keeps, for as long as the parent has it.

    Attributes:
        number: its name in the frames.
        data: a block's bytes, or a function's pickle.
        buffers: the blocks of the arrays that the function's pickle refers to.
        heavy: the heavy modules that the pickle mentions.
    """

    __slots__ = ("__weakref__", "buffers", "data", "heavy", "number")

    _numbers = itertools.count(1)

    def __init__(self, data: bytes, buffers: Buffers = (), heavy: int = 0) -> None:
        """Give it a number that no other item ever gets."""
        self.number, self.data = next(self._numbers), data
        self.buffers, self.heavy = buffers, heavy

    def size(self) -> int:
        """Return the bytes of its data and of its blocks."""
        return len(self.data) + sum(len(part.data) for blocks in self.buffers for part in blocks)


Buffers = tuple[tuple[Item, ...], ...]


class Payload:
    """One task, as it waits in the queue.

    Attributes:
        function: the function, shared by all tasks that call it.
        data: the pickle of `(args, kwargs)`.
        buffers: the blocks of the large arrays in it.
        heavy: the heavy modules that either pickle mentions, as bits.
    """

    __slots__ = ("buffers", "data", "function", "heavy")

    def __init__(self, function: Item, data: bytes, buffers: Buffers) -> None:
        """Take the parts."""
        self.function, self.data, self.buffers = function, data, buffers
        self.heavy = function.heavy | heavy(data)


class Store:
    """Makes payloads, which share what they have in common. Any thread may use it."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._lock = threading.RLock()  # what is collected meanwhile may submit
        self._functions: collections.OrderedDict[Any, Item] = collections.OrderedDict()
        self._series: collections.OrderedDict[Key, _Series] = collections.OrderedDict()
        self._function_bytes = self._series_bytes = 0

    def pack(self, name: str, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
        """Pickle a call as it is now: what the caller changes later does not reach the worker.

        The function is pickled as well, each time, as its closure may have changed; it is sent
        only if its pickle did.
        """
        function, its_buffers = dumps(fn)
        data, buffers = dumps((args, kwargs))
        with self._lock:
            kept = self._function(function, self._blocks(f"{name} itself", its_buffers))
            payload = Payload(kept, data, self._blocks(name, buffers))
            self._forget(len(its_buffers) + len(buffers))
            return payload

    def forget(self) -> None:
        """Remember nothing any more."""
        with self._lock:
            self._functions.clear()
            self._series.clear()
            self._function_bytes = self._series_bytes = 0

    def _forget(self, newest: int) -> None:
        """Forget what was used the longest ago; the call at hand has one function, and arrays.

        Its own arrays stay, however large they are: the next call mostly has the same.
        """
        while self._series_bytes > _REMEMBERED and len(self._series) > newest:
            _, series = self._series.popitem(last=False)
            self._series_bytes -= series.held
        functions = self._functions
        while len(functions) > 1 and (
            len(functions) > _FUNCTIONS or self._function_bytes > _REMEMBERED
        ):
            _, function = functions.popitem(last=False)
            self._function_bytes -= function.size()

    def _function(self, data: bytes, buffers: Buffers) -> Item:
        key = (data, buffers)
        item = self._functions.get(key)
        if item is None:
            item = self._functions[key] = Item(data, buffers, heavy(data))
            self._function_bytes += item.size()
        else:
            self._functions.move_to_end(key)
        return item

    def _blocks(self, name: str, buffers: list[memoryview]) -> Buffers:
        return tuple(self._one(name, i, buffer) for i, buffer in enumerate(buffers))

    def _one(self, name: str, position: int, buffer: memoryview) -> tuple[Item, ...]:
        """Return the blocks of an array; those that equal earlier ones are those."""
        key = (name, position, buffer.nbytes)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _Series(tuple(Item(bytes(p)) for p in _parts(buffer)))
            self._series_bytes += series.held
            return series.last
        self._series.move_to_end(key)
        self._series_bytes -= series.held
        blocks = series.follow(buffer)
        self._series_bytes += series.held
        return blocks


class _Series:
    """The arrays that stood at one place: see NOTE [blocks].

    Attributes:
        first: the blocks of the one that the series began with.
        last: those of the last one.
        held: the bytes of both.
    """

    __slots__ = ("first", "held", "last")

    def __init__(self, blocks: tuple[Item, ...]) -> None:
        """Begin with an array."""
        self.first = self.last = blocks
        self.held = sum(len(block.data) for block in blocks)

    def follow(self, buffer: memoryview) -> tuple[Item, ...]:
        """Return the blocks of another array; those that equal earlier ones are those."""
        blocks = tuple(map(_same_or_new, _parts(buffer), self.first, self.last))
        changed = sum(map(_differ, blocks, self.first))
        self.last, self.held = blocks, buffer.nbytes + BLOCK * changed
        if _NEW_SERIES * changed > len(blocks):
            self.first, self.held = blocks, buffer.nbytes
        return blocks


def _parts(buffer: memoryview) -> list[memoryview]:
    return [buffer[start : start + BLOCK] for start in range(0, buffer.nbytes, BLOCK)]


def _same_or_new(part: memoryview, first: Item, last: Item) -> Item:
    content = bytes(part)  # bytes are compared 20 times faster than memoryviews
    if content == first.data:
        return first
    return last if content == last.data else Item(content)


def _differ(one: Item, other: Item) -> bool:
    return one is not other


class Ledger:
    """What one worker has been sent and still keeps."""

    def __init__(self) -> None:
        """A new worker has nothing."""
        self._held: dict[int, weakref.ref[Item]] = {}
        self._gone: collections.deque[int] = collections.deque()

    def frame(self, payload: Payload, timed: bool) -> list[bytes | memoryview]:
        """Return the buffers of the frame that brings a task, and book what it brings."""
        gone = [self._gone.popleft() for _ in range(len(self._gone))]
        for number in gone:
            self._held.pop(number, None)
        function = payload.function
        brought = self._lacks(function)
        fresh = [
            block
            for blocks in ((*function.buffers, *payload.buffers) if brought else payload.buffers)
            for block in blocks
            if self._lacks(block)
        ]
        content = (
            gone,
            [(block.number, len(block.data)) for block in fresh],
            (function.data, _numbers(function.buffers)) if brought else None,
            function.number,
            payload.data,
            _numbers(payload.buffers),
            timed,
        )
        return frame(content, [block.data for block in fresh])

    def _lacks(self, item: Item) -> bool:
        """Whether the worker lacks an item; from now on it has it."""
        number = item.number
        if number in self._held:
            return False
        self._held[number] = weakref.ref(item, _noting(self._gone, number))
        return True


def _noting(gone: collections.deque[int], number: int) -> Callable[[object], None]:
    return lambda _: gone.append(number)


def _numbers(buffers: Buffers) -> list[list[int]]:
    return [[block.number for block in blocks] for blocks in buffers]
