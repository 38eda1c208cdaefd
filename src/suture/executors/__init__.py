"""Where the black box is called: anything with the `submit` of `concurrent.futures`.

`Workers` are local processes in which a fault costs nothing but the task that it hit. `dask` and
`ray` hand calls to clusters that these libraries run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from suture.errors import MethodError, MissingExtraError
from suture.executors._workers import Workers as Workers

if TYPE_CHECKING:
    import distributed

    from suture.executors._dask import Dask
    from suture.executors._ray import Ray

__all__ = ["Workers", "dask", "ray"]


_OURS = {"max_retries", "num_returns", "retry_exceptions"}
"""Options of a Ray task that a user may not set."""


def dask(client: distributed.Client) -> Dask:
    """Return an executor whose calls run on the workers of a Dask cluster.

    Each call is made at most once: what Dask itself does when a worker dies, which is to run all
    its tasks again, is held back. A call that ran on a worker that was lost ends with
    `WorkerDied`; others are not affected. A task is pickled with all that its function holds, so
    load large data inside of the function.

    Suture has to be installed where the workers and the scheduler run. Whoever can reach the
    scheduler can run code on the workers: use TLS or a private network.

    Example:
        >>> client = distributed.Client("tcp://scheduler:8786")  # doctest: +SKIP
        >>> executor = suture.executors.dask(client)  # doctest: +SKIP
        >>> f = suture.differentiable(simulate, executor=executor)  # doctest: +SKIP

    Args:
        client: a client that is connected, and stays so; nothing closes it.

    Raises:
        MethodError: this is no such client, or its scheduler cannot be used.
        MissingExtraError: distributed is not installed.
    """
    try:
        import distributed  # noqa: F401 - only the next line's own mistakes should pass
    except ModuleNotFoundError as error:
        raise _missing("distributed", "dask") from error
    from suture.executors._dask import Dask

    return Dask(client)


def ray(**options: Any) -> Ray:
    """Return an executor whose calls are tasks of a Ray cluster.

    Each call is made at most once (`max_retries=0`). One whose worker died ends with
    `WorkerDied`; others are not affected. A task is pickled with all that its function holds, so
    load large data inside of the function.

    Suture has to be installed where the workers run. Whoever can reach the cluster can run code
    on it: use a private network.

    Example:
        >>> ray.init("auto")  # doctest: +SKIP
        >>> executor = suture.executors.ray(num_cpus=2)  # doctest: +SKIP
        >>> f = suture.differentiable(simulate, executor=executor)  # doctest: +SKIP

    Args:
        **options: what one call needs, as `ray.remote` takes it: `num_cpus` (1 if it is left
            out), `num_gpus`, `resources`, `runtime_env`, …

    Raises:
        MethodError: an option would have calls made twice.
        MissingExtraError: ray is not installed.
    """
    for name in _OURS & options.keys():
        raise MethodError(
            f"`executors.ray({name}={options[name]!r})` is not possible.",
            "A call is made once, and returns one thing.",
            "Leave it out; `differentiable(..., retries=1)` evaluates a point that failed again.",
        )
    try:
        import ray  # noqa: F401 - only the next line's own mistakes should pass
    except ModuleNotFoundError as error:
        raise _missing("ray", "ray") from error
    from suture.executors._ray import Ray

    return Ray(**options)


def _missing(package: str, extra: str) -> MissingExtraError:
    return MissingExtraError(
        f"`executors.{extra}` cannot be used: {package} is not installed.",
        f"It is the extra `{extra}`; everything else works without it.",
        f'Type `pip install "suture[{extra}]"`.',
    )
