"""The messages of tasks that a worker could not finish, and of results that could not travel."""

from __future__ import annotations

import concurrent.futures
import pickle
import signal
from typing import Any

from suture.errors import BadResult, EvaluationError, MethodError, TimedOut, WorkerDied


class RemoteTraceback(Exception):
    """The traceback of a worker, as text: the `__cause__` of the error that came from there."""

    def __init__(self, text: str) -> None:
        """Keep the text."""
        super().__init__(text)

    def __str__(self) -> str:
        """Begin on a line of its own, as tracebacks do."""
        return f'\n"""\n{self.args[0]}\n"""'


def died(name: str, code: int) -> WorkerDied:
    """Return the error of a task whose worker ended.

    Args:
        name: the function.
        code: the exit code, or minus the signal.
    """
    if code >= 0:
        return WorkerDied(
            f"The worker that evaluated `{name}` exited with code {code}.",
            "A black box has to return or to raise; other points are not affected.",
            "Raise an exception instead of `sys.exit` or `os._exit`, also in native libraries.",
        )
    try:
        which = signal.Signals(-code).name
    except ValueError:
        which = f"signal {-code}"
    if -code == signal.SIGKILL:
        return WorkerDied(
            f"The worker that evaluated `{name}` was killed by {which}.",
            "Most often the system does so when memory runs out; other points are not affected.",
            "Use fewer workers, `Workers(n=1)`, or `memory_limit=` to get a MemoryError instead.",
        )
    return WorkerDied(
        f"The worker that evaluated `{name}` was killed by {which}.",
        "Native code has crashed, or somebody sent the signal; other points are not affected.",
        f"Call `{name}` at this point under `python -X faulthandler` to see the line.",
    )


def stopped(name: str) -> WorkerDied:
    """Return the error of a task that ran when it was stopped."""
    return WorkerDied(
        f"`{name}` was stopped: the worker that evaluated it was killed.",
        "`Workers.stop` was called for this task, as Ctrl-C does; the pool goes on.",
        "Submit it again, or call `future.cancel()` to end only what has not begun.",
    )


def left(name: str) -> WorkerDied:
    """Return the error of a task that ran when its pool was killed."""
    return WorkerDied(
        f"The worker that evaluated `{name}` was killed, as its pool was ended.",
        "The pool was left by an exception, or `kill_workers()` was called.",
        "Use `shutdown(wait=True)` to let tasks finish.",
    )


def bereaved(name: str) -> WorkerDied:
    """Return the error of a task whose worker lost the process that watches over it."""
    return WorkerDied(
        f"The worker that evaluated `{name}` was lost: the process that starts workers died.",
        "It does nothing but that, so it was killed, or could not start (see its error output).",
        "Use fewer workers, `Workers(n=1)`, if memory ran out; later tasks get new workers.",
    )


def gone(library: str, name: str, logs: str) -> WorkerDied:
    """Return the error of a call whose worker another library has lost.

    Args:
        library: Dask or Ray.
        name: the function.
        logs: where to read more, as one types it.
    """
    return WorkerDied(
        f"The {library} worker that evaluated `{name}` was lost.",
        "It was killed, crashed, ran out of memory, left the cluster, or cannot be reached; what "
        "did not run there is not affected.",
        f"Look at {logs}; `differentiable(..., retries=1)` evaluates such a point once more.",
    )


def no_worker(error: OSError) -> WorkerDied:
    """Return the error of a task for which no worker could be started."""
    return WorkerDied(
        f"No worker could be started: {said(error)}.",
        "A worker needs a process, memory, and an open file in its parent.",
        "Use fewer workers, `Workers(n=1)`, or raise the limits (`ulimit -n`, `ulimit -u`).",
    )


def late(name: str, seconds: float, started: bool) -> TimedOut:
    """Return the error of a task that did not answer in time."""
    where = f"`{name}`" if started else f"Loading the arguments of `{name}`"
    return TimedOut(
        f"{where} gave no result within {seconds:g} s.",
        "Its worker and all processes that it started were killed; other points are not affected.",
        "Allow more seconds, in `timeout=` or `submit_within(seconds, ...)`, or make the function "
        "stop by itself.",
    )


def closed(name: str, fix: str = "Make a new `Workers()`.") -> RuntimeError:
    """Return the error of a task that comes too late."""
    return RuntimeError(
        f"`{name}` was submitted to a pool that is shut down.\n"
        "A pool takes tasks until `shutdown()`, or the end of its `with` block.\n"
        f"{fix}"
    )


def broken(error: BaseException) -> concurrent.futures.BrokenExecutor:
    """Return the error of a pool whose thread has failed, which is a bug of this library."""
    return concurrent.futures.BrokenExecutor(
        f"The pool has failed by itself: {said(error)}.\n"
        "Its tasks were ended with this error.\n"
        "Make a new `Workers()`, and please report this."
    )


def unpicklable(name: str, error: BaseException) -> MethodError:
    """Return the error of a call that cannot be sent; what was sent may have said so already."""
    if isinstance(error, MethodError):
        return error
    refusal = MethodError(
        f"`{name}` or its arguments cannot be sent to a worker: {said(error)}.",
        "A process gets the function, what it closes over, and its arguments as a pickle.",
        "Create such objects inside of the function, or use a `ThreadPoolExecutor`.",
    )
    refusal.__cause__ = error
    return refusal


def not_sent(name: str, pool: str, error: BaseException) -> MethodError:
    """Return the error of a call that another executor cannot send, or of its result."""
    return MethodError(
        f"`{name}` or its result cannot be sent by {pool}: {said(error)}.",
        "A process gets the arguments and gives the result as a pickle, and plain pickles hold no "
        "functions but those of modules.",
        "Use `executor=suture.executors.Workers()`, which sends any function, and return numbers.",
    )


def value(name: str, data: bytes, buffers: list[memoryview]) -> Any:
    """Return a result.

    Raises:
        BadResult: it cannot be unpickled.
    """
    try:
        return pickle.loads(data, buffers=buffers)
    except BaseException as error:
        raise _not_received(name, said(error)) from error


def too_large(name: str) -> BadResult:
    """Return the error of a result for which the parent has no memory."""
    return _not_received(name, "it needs more memory than there is")


def unsendable(name: str, kind: str, reason: str, text: str) -> BadResult:
    """Return the error of a result that a worker could not pickle."""
    error = _not_received(name, f"a {kind} cannot be pickled ({reason})")
    error.__cause__ = RemoteTraceback(text)
    return error


def _not_received(name: str, reason: str) -> BadResult:
    return BadResult(
        f"The result of `{name}` could not be received from its worker: {reason}.",
        "A result travels as a pickle.",
        f"Return numbers, arrays or tensors from `{name}`.",
    )


def raised(name: str, data: bytes | None, kind: str, text: str) -> BaseException:
    """Return the error that a function raised; its cause is the worker's traceback."""
    error: BaseException | None = None
    if data is not None:
        try:
            error = pickle.loads(data)
        except BaseException:  # the error says less than the text does
            error = None
    if not isinstance(error, Exception):
        error = EvaluationError(
            f"`{name}` raised {kind}, which cannot be sent from a worker as it is.",
            "An error travels as a pickle; the traceback above is that of the worker.",
            f"Raise an Exception in `{name}` whose arguments are those of its `__init__`.",
        )
    error.__cause__ = RemoteTraceback(text)
    return error


def said(error: BaseException) -> str:
    """Return an error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(". ")
