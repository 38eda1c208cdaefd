"""Where a function is called, and what happens when that fails: what the user asked for."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any, get_args

from suture._memo import Memo
from suture._results import article
from suture._types import OnFailure
from suture.errors import MethodError, refusal
from suture.executors._refuse import check_executor, check_made


@dataclasses.dataclass(frozen=True, eq=False)
class Service:
    """How a function's points are evaluated.

    Attributes:
        pool: where.
        memo: what need not be evaluated again.
        retries: how often a point is tried again.
        timeout: seconds that one evaluation may take.
        on_failure: what a gradient does about points that failed.
        max_failed_fraction: the part of a gradient's points that may fail.
        progress: whether a bar is drawn; None: by itself.
    """

    pool: Pool | None = None
    memo: Memo | None = None
    retries: int = 0
    timeout: float | None = None
    on_failure: OnFailure = "raise"
    max_failed_fraction: float = 0.25
    progress: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what is not lawful: the only place that does."""
        if self.memo is not None and not isinstance(self.memo, Memo):
            raise refusal("memo", self.memo, "A memo is an object", 'memo=suture.Memo("memo.db")')
        _check_numbers(self)
        if self.on_failure not in get_args(OnFailure):
            raise refusal(
                "on_failure",
                self.on_failure,
                "It is one of " + ", ".join(f'"{word}"' for word in get_args(OnFailure)),
                'on_failure="one_sided"',
            )
        if self.progress not in (None, True, False):
            raise refusal("progress", self.progress, "It is yes, no or None", "progress=False")

    def __deepcopy__(self, memo: dict[int, Any]) -> Service:
        """Return this: copies of a function share its executor and its memo."""
        return self


class Pool:
    """The user's executor, or what makes it, in this process and in those forked from it."""

    def __init__(self, given: Any, timeout: float | None) -> None:
        """Take anything with `submit`, or a function without arguments that returns it.

        Raises:
            MethodError: if it is neither, or cannot stop a call that takes too long.
        """
        check_executor(given)
        self._make: Callable[[], Any] | None = None if hasattr(given, "submit") else given
        self._pools: dict[int, Any] = {} if self._make else {os.getpid(): given}
        self._lock = threading.Lock()
        self._timeout, self._home = timeout, os.getpid()
        if self._make is None:
            _check_deadline(given, timeout)

    def current(self) -> Any:
        """Return the executor of this process, made if need be; None to evaluate right here.

        A process that may have no children (the workers of a DataLoader) evaluates right here:
        the numbers are the same.

        Raises:
            MethodError: if there is none here and nothing that makes one.
        """
        me = os.getpid()
        with self._lock:
            pool = self._pools.get(me)
            if pool is None:
                if multiprocessing.current_process().daemon and self._timeout is None:
                    return None
                if self._make is None:
                    raise MethodError(
                        f"An executor of process {self._home} was used in process {me}.",
                        "Its workers belong to that process alone, also after a fork; and a copy "
                        "from a file or a pipe has none.",
                        "Pass a function that makes it, `executor=lambda: executors.Workers(2)`.",
                    )
                pool = self._pools[me] = self._make()
                check_made(pool)
                _check_deadline(pool, self._timeout)
        return pool

    def renew(self, broken: Any) -> bool:
        """Have a broken executor made anew; return whether that is possible."""
        with self._lock:
            if self._make is None:
                return False
            if self._pools.get(os.getpid()) is broken:
                del self._pools[os.getpid()]
            return True

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock out, and executors: they belong to the process in which they are."""
        return {"_make": self._make, "_timeout": self._timeout, "_home": self._home}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a lock."""
        self.__dict__.update(state, _lock=threading.Lock(), _pools={})


def _check_deadline(executor: Any, timeout: float | None) -> None:
    if timeout is not None and not hasattr(executor, "submit_within"):
        raise MethodError(
            f"`differentiable(timeout={timeout!r})` cannot be kept by "
            f"{article(type(executor).__name__)}.",
            "A call that takes too long has to be stopped from outside, and threads and the "
            "workers of others cannot be.",
            "Use `executor=suture.executors.Workers()`, or leave out `timeout`.",
        )


def _check_numbers(service: Service) -> None:
    retries, timeout = service.retries, service.timeout
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise refusal("retries", retries, "It is a number of attempts, 0 or more", "retries=2")
    if timeout is not None:
        if not _is_number(timeout) or not 0 < timeout < math.inf:
            raise refusal("timeout", timeout, "It is a positive number of seconds", "timeout=60")
        if service.pool is None:
            raise MethodError(
                f"`differentiable(timeout={timeout!r})` cannot be kept without an executor.",
                "In this process, nothing can stop a call that takes too long.",
                "Write `executor=suture.executors.Workers()` with it, or leave out `timeout`.",
            )
    fraction = service.max_failed_fraction
    if not _is_number(fraction) or not 0 <= fraction <= 1:
        raise refusal(
            "max_failed_fraction", fraction, "It is a part of 1", "max_failed_fraction=0.25"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
