"""Objects that look like an executor and are none, told apart without importing their libraries."""

from __future__ import annotations

import types

from suture.errors import MethodError, shown


def check_executor(executor: object) -> None:
    """Refuse what cannot be used as `executor=`, and say what to type instead.

    What has a `submit` and is not known to be wrong is accepted, and so is a function that makes
    such an object; None is for the caller.

    Raises:
        MethodError: it is no executor.
    """
    if isinstance(executor, type):
        raise _refusal(
            f"the class {executor.__name__}",
            "A class has no workers yet.",
            f"Make one: `executor={executor.__name__}()`.",
        )
    for names, why, fix in _KNOWN:
        if names & _names(executor):
            raise _refusal(shown(executor), why, fix)
    if _forks(executor):
        kind = type(executor).__name__
        raise _refusal(
            f"a {kind} that forks",
            "Torch has threads, and what is forked from a process with threads may hang.",
            f'Use `executor={kind}(mp_context=multiprocessing.get_context("forkserver"))`, or '
            "`suture.executors.Workers()`.",
        )
    if not callable(getattr(executor, "submit", executor)):
        count = executor if type(executor) is int and executor > 0 else ""
        raise _refusal(
            shown(executor),
            "An executor has `submit(fn, *args)`, which returns a `concurrent.futures.Future`.",
            f"Use `executor=suture.executors.Workers({count})`, or `executor=None` for this "
            "process.",
        )


def check_made(executor: object) -> None:
    """Do as `check_executor`, with what the user's function has returned: it must be one itself.

    Raises:
        MethodError: it is no executor.
    """
    if executor is not None:
        check_executor(executor)
    if not hasattr(executor, "submit"):
        raise MethodError(
            f"A function that was given as `executor` returned {shown(executor)}.",
            "It has to return an executor, which has `submit(fn, *args)`.",
            "Use `executor=lambda: suture.executors.Workers(2)`, for example.",
        )


_DASK_FIX = "Use `executor=suture.executors.dask(client)`."

_KNOWN = (
    (
        {"distributed.client.Client"},
        "Its `submit` returns futures of another kind, and it takes one result for two calls that "
        "look the same.",
        _DASK_FIX,
    ),
    (
        {"distributed.cfexecutor.ClientExecutor"},
        "Dask calls a function again when a worker dies, three times, and without `pure=False` "
        "takes one result for two calls that look the same.",
        _DASK_FIX,
    ),
    (
        {"module ray"},
        "Ray has no executor of its own.",
        "Use `executor=suture.executors.ray()`.",
    ),
    (
        {"module dask", "module dask.distributed", "module distributed"},
        "A module has no workers.",
        "Use `executor=suture.executors.dask(distributed.Client(...))`.",
    ),
    (
        {"joblib.parallel.Parallel"},
        "It has no `submit`, and gives up all calls when one fails.",
        "Use `executor=lambda: loky.get_reusable_executor(max_workers=2)`, whose processes joblib "
        "uses as well.",
    ),
    (
        {"multiprocessing.pool.Pool"},
        "It has no `submit`, and waits forever for the result of a process that was killed.",
        "Use `executor=suture.executors.Workers()`, or `concurrent.futures.ProcessPoolExecutor()`.",
    ),
)
"""Names of classes and modules, why they are refused, and what to type."""


def _forks(executor: object) -> bool:
    """Whether the workers of an executor are forks of this process."""
    context = getattr(executor, "_mp_context", None)
    method = getattr(context, "get_start_method", None)
    return method is not None and method() == "fork"


def _names(executor: object) -> set[str]:
    """Return the full names of an object's classes, or of a module."""
    if isinstance(executor, types.ModuleType):
        return {f"module {executor.__name__}"}
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(executor).__mro__}


def _refusal(what: str, why: str, fix: str) -> MethodError:
    return MethodError(f"`executor` is {what}.", why, fix)
