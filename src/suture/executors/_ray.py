"""Ray: calls as tasks of a Ray cluster, each of them made once."""

from __future__ import annotations

import concurrent.futures
import math
from typing import Any, final

import ray
from ray.exceptions import RayError, RayTaskError

from suture.executors._foreign import AbstractForeign, Call
from suture.executors._parcel import perform


@final
class Ray(AbstractForeign):
    """The workers of a Ray cluster; see `executors.ray`."""

    library, logs = "Ray", "`ray logs`"

    def __init__(self, **options: Any) -> None:
        """Connect to the cluster that `ray.init` made, or let Ray start one."""
        super().__init__()
        if not ray.is_initialized():
            ray.init()
        self._options = {"num_cpus": 1, **options}
        self._task = ray.remote(max_retries=0, **self._options)(perform)

    def __repr__(self) -> str:
        return f"executors.ray({', '.join(f'{k}={v!r}' for k, v in self._options.items())})"

    @property
    def n(self) -> int:
        """How many calls the resources of the cluster allow now, at least 1."""
        names = {"num_cpus": "CPU", "num_gpus": "GPU"}
        there: dict[str, float] = ray.cluster_resources()
        wanted = {names[k]: self._options[k] for k in names if k in self._options}
        wanted |= self._options.get("resources") or {}
        fits = [there.get(name, 0) / amount for name, amount in wanted.items() if amount]
        return max(1, math.floor(min(fits, default=there.get("CPU", 1))))

    def _send(self, call: Call) -> None:
        call.inner = self._task.remote(call.parcel)
        call.inner.future().add_done_callback(lambda inner: self._done(call, inner))

    def _done(self, call: Call, inner: concurrent.futures.Future[Any]) -> None:
        """Take what Ray says of a call; runs in a thread of Ray."""
        if call.future.done():
            return
        error = inner.exception()
        if error is None:
            self._settle(call, inner.result())
        elif isinstance(error, RayError) and not isinstance(error, RayTaskError):
            self._lose(call, error)
        else:
            self._fail(call, error)

    def _drop(self, call: Call) -> None:
        if call.inner is not None and ray.is_initialized():
            ray.cancel(call.inner)
