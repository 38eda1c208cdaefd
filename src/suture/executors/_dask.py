"""Dask: calls on the workers of a cluster, each of them made once.

NOTE [once] When a worker dies, the scheduler of Dask runs again what ran there, what waited there,
and what had a result that nobody had fetched yet; and at the fourth death of a task
(`distributed.scheduler.allowed-failures`) it gives the task up, even if it only waited. So a
worker asks the scheduler before each call whether the call has begun before, and hands it the
answer when it has ended. A call that has begun is not made again: if it has ended, its answer is
there; else it died. And a task that was given up is sent again, as it may only have waited. So a
call is made at most once, and a death costs what ran there. That takes two messages to the
scheduler: 3.0 ms a call and not 2.0, on two cores.
"""

from __future__ import annotations

import concurrent.futures
import functools
import time
import uuid
from typing import Any, cast, final

import distributed
from distributed.scheduler import KilledWorker
from distributed.utils import sync

from suture.errors import MethodError
from suture.executors._deaths import said
from suture.executors._foreign import AbstractForeign, Call
from suture.executors._parcel import Answer, perform

_BEGIN, _END = "suture_begin", "suture_end"
"""What the scheduler answers to, besides its own messages."""

_MOST_TRIES = 10
"""How often a call is sent while Dask has no answer to it; each time it may have waited behind
one that killed the worker."""

_LARGEST = 1 << 20
"""Bytes of the answers that the scheduler keeps until they are settled, 1 MiB each: it serves
all workers, 8 MB would keep it busy for 10 ms. Larger ones are lost with their worker."""

_SETTLED = 0.1
"""Seconds before the first call in a process. A worker that dies before its nanny has heard that
it runs is never replaced: when every second call killed, two workers were lost so within 60."""

_DIED: Answer = ("died",)
"""The answer to a call that has begun, and not ended."""


@final
class Dask(AbstractForeign):
    """The workers of a Dask cluster; see `executors.dask`."""

    library, logs = "Dask", "`client.get_worker_logs()`"

    def __init__(self, client: distributed.Client) -> None:
        """Teach the scheduler to remember which calls have begun."""
        super().__init__()
        if not isinstance(client, distributed.Client) or client.asynchronous:
            raise MethodError(
                f"`executors.dask` was given {_described(client)}.",
                "It takes a `distributed.Client` that is not asynchronous.",
                'Use `executors.dask(distributed.Client("tcp://scheduler:8786"))`.',
            )
        self._client = cast(Any, client)  # most of it has no types
        self._name = uuid.uuid4().hex
        self._executor = self._client.get_executor(pure=False)
        try:
            self._client.run_on_scheduler(_teach)
        except Exception as error:
            raise MethodError(
                f"The Dask scheduler cannot be used: {said(error)}.",
                "It keeps the list of calls that have begun, so that none is made twice when a "
                "worker dies.",
                "Connect the client, and `pip install suture` where the scheduler and the workers "
                "run.",
            ) from error

    def __repr__(self) -> str:
        return f"executors.dask({self._client!r})"

    @property
    def n(self) -> int:
        """How many threads the workers have now, at least 1."""
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def _send(self, call: Call) -> None:
        call.tries += 1
        with self._lock:
            oldest = next(iter(self._open), call.number)
        try:
            call.inner = self._executor.submit(_once, self._name, call.number, oldest, call.parcel)
        except Exception as error:
            self._fail(call, _given_up(call.name, said(error)))
            return
        call.inner.add_done_callback(lambda inner: self._done(call, inner))
        if call.future.cancelled():  # while it was sent again
            self._drop(call)

    def _done(self, call: Call, inner: concurrent.futures.Future[Any]) -> None:
        """Take what Dask says of a call; runs in the thread of the client."""
        if call.future.done():
            return
        if inner.cancelled():
            self._fail(call, _given_up(call.name, "the client was closed or restarted"))
            return
        error = inner.exception()
        if error is not None:  # through its frames it would keep itself, and a task, alive
            error.__traceback__ = None
        if error is not None and call.tries < _MOST_TRIES:
            self._send(call)
        elif isinstance(error, KilledWorker) or (error is None and inner.result() == _DIED):
            self._lose(call)
        elif error is not None:
            self._fail(call, error)
        else:
            self._settle(call, inner.result())

    def _drop(self, call: Call) -> None:
        if call.inner is not None:
            call.inner.cancel()


class _Calls:
    """What the scheduler knows of calls: that they have begun, and their answers."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, Answer]] = {}

    def begin(self, executor: str, number: int, oldest: int) -> Answer | None:
        """Return None if a call begins for the first time, else its answer.

        Calls before the oldest are settled, and forgotten.
        """
        known = self._known.setdefault(executor, {})
        for other in [other for other in known if other < oldest]:
            del known[other]
        if number in known:
            return known[number]
        known[number] = _DIED
        return None

    def end(self, executor: str, number: int, answer: Answer) -> None:
        """Keep an answer."""
        known = self._known[executor]
        if number in known:
            known[number] = answer


def _teach(dask_scheduler: Any) -> None:
    """Have the scheduler answer; runs there."""
    if _BEGIN not in dask_scheduler.handlers:
        calls = _Calls()
        dask_scheduler.handlers |= {_BEGIN: calls.begin, _END: calls.end}


def _once(executor: str, number: int, oldest: int, parcel: bytes) -> Answer:
    """Make a call if nobody has begun it; runs in a worker."""
    _settle()
    worker = distributed.get_worker()
    begin, end = getattr(worker.scheduler, _BEGIN), getattr(worker.scheduler, _END)
    known = sync(worker.loop, begin, executor=executor, number=number, oldest=oldest)
    if known is not None:
        return tuple(known)  # it has traveled as a list
    answer = perform(parcel)
    if _size(answer) <= _LARGEST:
        sync(worker.loop, end, executor=executor, number=number, answer=answer)
    return answer


@functools.cache
def _settle() -> None:
    """Wait, in the first call of a process."""
    time.sleep(_SETTLED)


def _size(answer: Answer) -> int:
    """Return about how many bytes an answer has."""
    word, *content = answer
    if word != "value":
        return 0
    data, buffers = content
    return len(data) + sum(map(len, buffers))


def _given_up(name: str, reason: str) -> concurrent.futures.BrokenExecutor:
    return concurrent.futures.BrokenExecutor(
        f"`{name}` was given up by the Dask client: {reason}.\n"
        "The client has to stay connected to its scheduler until all results are there.\n"
        "Make a new one: `executors.dask(distributed.Client(...))`."
    )


def _described(client: object) -> str:
    if isinstance(client, distributed.Client):
        return "an asynchronous client"
    return f"{type(client).__module__}.{type(client).__qualname__}"
