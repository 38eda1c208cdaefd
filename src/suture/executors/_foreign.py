"""What the adapters share: an executor whose workers another library runs."""

from __future__ import annotations

import abc
import concurrent.futures
import dataclasses
import itertools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from suture.executors import _deaths
from suture.executors._parcel import Answer, opened, pack
from suture.executors._tasks import begins, end, failed, name_of

T = TypeVar("T")


@dataclasses.dataclass(eq=False, slots=True)
class Call:
    """A call that was submitted and has no answer yet.

    Attributes:
        name: the function's, for messages.
        parcel: what is sent.
        number: of the calls of one executor, in order.
        future: what the caller holds.
        inner: the other library's own handle, once there is one.
        tries: how often it was sent.
    """

    name: str
    parcel: bytes
    number: int
    future: concurrent.futures.Future[Any]
    inner: Any = None
    tries: int = 0


class AbstractForeign(concurrent.futures.Executor, abc.ABC):
    """An executor that hands pickled calls to another library.

    Nothing of that library is kept once a call has its answer: a result that stays on a cluster
    takes memory there, and is computed again when its worker dies.

    Attributes:
        library: what a person calls the other library.
        logs: where a person reads why a worker died, as one types it.
    """

    library: str
    logs: str

    def __init__(self) -> None:
        """Begin without calls."""
        self._open: dict[int, Call] = {}  # in the order of their numbers
        self._numbers = itertools.count()
        self._lock = threading.RLock()  # what is collected meanwhile may submit
        self._ended = False

    @property
    @abc.abstractmethod
    def n(self) -> int:
        """How many calls run at once."""

    @abc.abstractmethod
    def _send(self, call: Call) -> None:
        """Hand over a call, and have `_settle` or `_fail` called when it ends."""

    @abc.abstractmethod
    def _drop(self, call: Call) -> None:
        """Tell the library that nobody waits for a call."""

    def submit(
        self, fn: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[T]:
        """Have `fn(*args, **kwargs)` called by a worker.

        The call is pickled before this returns. One that cannot be pickled fails in its future.
        A future can be canceled until its result is there; a call that has begun may go on.

        Raises:
            RuntimeError: the executor is shut down.
        """
        name = name_of(fn)
        try:
            parcel = pack(fn, args, kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            refusal = _deaths.unpicklable(name, error)
            refusal.__cause__ = error
            return failed(refusal)
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        with self._lock:
            if self._ended:
                raise _deaths.closed(
                    name, "Make a new one: `executors.dask(client)`, `executors.ray()`."
                )
            call = Call(name, parcel, next(self._numbers), future)
            self._open[call.number] = call
        future.add_done_callback(lambda _: self._forget(call.number))
        try:
            self._send(call)
        except BaseException:
            self._forget(call.number)
            raise
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the cluster itself is left as it is.

        Args:
            wait: return only when all calls have ended.
            cancel_futures: let go of the calls that have no result yet.
        """
        with self._lock:
            self._ended = True
            futures = [call.future for call in self._open.values()]
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait:
            concurrent.futures.wait(futures)

    def _settle(self, call: Call, answer: Answer) -> None:
        """End a call with what its worker answered."""
        if not begins(call.future):
            return
        try:
            value = opened(call.name, answer)
        except BaseException as error:
            end(call.future.set_exception, error)
        else:
            end(call.future.set_result, value)

    def _fail(self, call: Call, error: BaseException) -> None:
        """End a call that has no answer."""
        if begins(call.future):
            end(call.future.set_exception, error)

    def _lose(self, call: Call, cause: BaseException | None = None) -> None:
        """End a call whose worker is gone."""
        error = _deaths.gone(self.library, call.name, self.logs)
        error.__cause__ = cause
        self._fail(call, error)

    def _forget(self, number: int) -> None:
        with self._lock:
            call = self._open.pop(number, None)
        if call is not None and call.future.cancelled():
            self._drop(call)
        if call is not None:
            call.inner = None
