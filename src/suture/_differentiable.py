"""The verb: a function that torch cannot differentiate becomes one that it can."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, overload

import torch

from suture._calls import Caller
from suture._frame import BlackBox, can_be_stacked
from suture._memo import Memo
from suture._methods import AbstractMethod, CustomVJP, FiniteDifference
from suture._module import Differentiable
from suture._service import Pool, Service
from suture._stencil import Stencil
from suture._types import Interface, OnFailure
from suture.directions import AbstractDirections
from suture.errors import MethodError, refusal, shown


@overload
def differentiable(
    fn: Callable[..., Any],
    *,
    method: AbstractMethod = ...,
    interface: Interface = ...,
    dtype: torch.dtype | None = ...,
    batch_dims: Any = ...,
    vectorized: bool = ...,
    chunk_size: int | None = ...,
    bounds: Any = ...,
    scale: Any = ...,
    executor: Any = ...,
    memo: Memo | None = ...,
    retries: int = ...,
    timeout: float | None = ...,
    on_failure: OnFailure = ...,
    max_failed_fraction: float = ...,
    progress: bool | None = ...,
    seed: int | None = ...,
    name: str | None = ...,
) -> Differentiable: ...


@overload
def differentiable(
    fn: None = None,
    *,
    method: AbstractMethod = ...,
    interface: Interface = ...,
    dtype: torch.dtype | None = ...,
    batch_dims: Any = ...,
    vectorized: bool = ...,
    chunk_size: int | None = ...,
    bounds: Any = ...,
    scale: Any = ...,
    executor: Any = ...,
    memo: Memo | None = ...,
    retries: int = ...,
    timeout: float | None = ...,
    on_failure: OnFailure = ...,
    max_failed_fraction: float = ...,
    progress: bool | None = ...,
    seed: int | None = ...,
    name: str | None = ...,
) -> Callable[[Callable[..., Any]], Differentiable]: ...


def differentiable(
    fn: Callable[..., Any] | None = None,
    *,
    method: AbstractMethod = FiniteDifference(),
    interface: Interface = "torch",
    dtype: torch.dtype | None = torch.float64,
    batch_dims: Any = None,
    vectorized: bool = False,
    chunk_size: int | None = None,
    bounds: Any = None,
    scale: Any = None,
    executor: Any = None,
    memo: Memo | None = None,
    retries: int = 0,
    timeout: float | None = None,
    on_failure: OnFailure = "raise",
    max_failed_fraction: float = 0.25,
    progress: bool | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> Differentiable | Callable[[Callable[..., Any]], Differentiable]:
    """Make a function that torch cannot differentiate trainable inside a torch model.

    Main arguments:

    Args:
        fn: the black box: any callable from tensors, arrays, numbers and strings, in any nesting,
            to tensors, arrays and numbers. It is called without grad and without autocast, with
            private copies of its arguments. Without `fn`, a decorator is returned.
        method: how derivatives are obtained: `FiniteDifference`, which calibrates itself unless
            it is told how, `AdaptiveDifference`, or the user's own rule in `CustomVJP`.
        interface: what `fn` receives, `"torch"` tensors or `"numpy"` arrays.
        dtype: the precision in which `fn` receives floating arguments; None for the caller's.
        batch_dims: says that `fn` takes a batch whose rows are independent: the batch dimension
            of each argument, None for arguments that all rows share; a prefix of the tuple of
            arguments, as `in_dims` is in `torch.vmap`. Every output has the batch as dimension
            0. The gradient by a batch (B, d) then costs d evaluations, not B·d. The claim is
            checked once, with one more evaluation. `fn` must accept any number of rows.

    Other arguments, safe to ignore:

    Args:
        vectorized: says that `fn` takes P points stacked on a new leading axis of every floating
            argument, and returns outputs with P leading. A gradient is then one call.
        chunk_size: at most this many points in one call of `fn`.
        bounds: where `fn` may be evaluated, and nowhere else: for each argument a pair (lower,
            upper) of numbers or tensors that broadcast to it, None where there is no bound; a
            prefix of the tuple of arguments. Near a bound the points lie on the other side, or
            closer. An argument that is outside by rounding (1e-6 of its scale) is moved to the
            bound; one that is farther outside is an error.
        scale: the typical size of each argument, in its own units: a prefix of the tuple of
            arguments with numbers, tensors that broadcast to the argument, or None (automatic:
            the larger of abs(x_j) and the root mean square of its tensor, or of its column over the
            rows of a batch; 1 where both are zero).
        executor: where `fn` is called: anything with the `submit` of `concurrent.futures`
            (`executors.Workers()`, a thread pool, Dask, MPI, …), or a function without arguments
            that returns it, which is called again when a pool broke. None: in this process, one
            after another. All points of a round are submitted together.
        memo: a `Memo`: points that it knows are not evaluated again.
        retries: how often the same point is tried again after an exception, a time-out or the
            death of its worker; not after `PointFailed`, `BadResult` or NaN. A failed forward pass
            raises then.
        timeout: seconds for one call of `fn`; its worker is killed then. It needs an executor that
            can do that, `executors.Workers()`.
        on_failure: what a gradient does about displaced points that failed. `"raise"`: it raises;
            but where `fn` says that it is not defined, by NaN or `PointFailed`, the default method
            takes the other side of x. `"shrink"`: the step is halved toward x, at most 10 times,
            and then the other side taken. `"one_sided"`: the other side. `"skip"`: the sample (the
            row of a batch or of a `vmap`) has gradient zero, and a warning says so.
        max_failed_fraction: a gradient more of whose points failed raises, whatever `on_failure`
            says, unless that is `"raise"`.
        progress: whether a progress bar is drawn, in terminals and notebooks only; None: for
            gradients that take longer than two seconds.
        seed: chooses the random directions, together with the content of the arguments: the same
            call gives the same gradient, also when it is repeated or resumed.
        name: what messages call the black box; its own name if left out.

    Returns:
        A `torch.nn.Module` that is called as `fn` is.

    Raises:
        MethodError: if an argument is not lawful.

    Example:
        >>> import numpy as np
        >>> f = differentiable(np.sin, interface="numpy")
        >>> x = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> f(x).sum().backward()
        >>> x.grad
        tensor([1.0000, 0.5403])
    """
    settings = {
        "method": method,
        "interface": interface,
        "dtype": dtype,
        "batch_dims": batch_dims,
        "vectorized": vectorized,
        "chunk_size": chunk_size,
        "bounds": bounds,
        "scale": scale,
        "executor": executor,
        "memo": memo,
        "retries": retries,
        "timeout": timeout,
        "on_failure": on_failure,
        "max_failed_fraction": max_failed_fraction,
        "progress": progress,
        "seed": seed,
        "name": name,
    }
    _check(settings)
    service = Service(
        None if executor is None else Pool(executor, timeout),
        memo,
        retries,
        timeout,
        on_failure,
        max_failed_fraction,
        progress,
    )
    if fn is None:
        return functools.partial(differentiable, **settings)
    _check_function(fn)
    if vectorized and not can_be_stacked(fn):
        raise MethodError(
            f"`differentiable(vectorized=True)` is not possible with `{name or _name(fn)}`.",
            "Points are stacked in front of every argument: `w[0]` in a formula would be the first "
            "point, and arguments of different shapes would not match.",
            "Say which arguments are batches, `batch_dims=(0, None)`, or leave `vectorized` out.",
        )
    box = BlackBox(fn, name or _name(fn), interface, dtype, vectorized, chunk_size, service)
    return Differentiable(box, method, Caller(batch_dims, scale, bounds), seed)


def _name(fn: Callable[..., Any]) -> str:
    if isinstance(fn, functools.partial):
        return _name(fn.func)
    return getattr(fn, "__name__", type(fn).__name__)


def _check_function(fn: object) -> None:
    if isinstance(fn, Differentiable):
        raise MethodError(
            f"`{fn._box.name}` is differentiable already.",
            "A black box is wrapped once.",
            "Use it as it is, or wrap its `.fn` with other options.",
        )
    if not callable(fn):
        raise refusal("fn", fn, "The black box is a function", "differentiable(my_function)")


def _check(settings: dict[str, Any]) -> None:
    """Refuse what is not lawful before anything is called."""
    if not isinstance(settings["method"], AbstractMethod):
        raise refusal(
            "method",
            settings["method"],
            "A method is an object, not a name and not a class",
            _method_for(settings["method"]),
        )
    if settings["interface"] not in ("torch", "numpy"):
        raise refusal(
            "interface",
            settings["interface"],
            "A black box receives tensors or arrays",
            'interface="numpy"',
        )
    if not isinstance(settings["vectorized"], bool):
        raise refusal("vectorized", settings["vectorized"], "It is yes or no", "vectorized=True")
    if not isinstance(settings["name"], str | None):
        raise refusal("name", settings["name"], "A name is a string", 'name="my function"')
    _check_numbers(settings)
    if settings["scale"] is not None and settings["method"].is_absolute():
        raise MethodError(
            f"`differentiable(scale={shown(settings['scale'])})` is not possible with a shift.",
            "Its nodes are angles at which it is exact, and a scale would change them.",
            "Leave out `scale`; or use `FiniteDifference(stencils.CENTRAL)`, which has a step.",
        )


def _method_for(given: object) -> str:
    """Return what to type instead of something that is no method."""
    if isinstance(given, type) and issubclass(given, AbstractMethod):
        return f"method={given.__name__}({'vjp' if given is CustomVJP else ''})"
    if isinstance(given, Stencil):
        return "method=suture.FiniteDifference(stencil)"
    if isinstance(given, AbstractDirections):
        return f"method=suture.FiniteDifference(directions={given})"
    return "method=suture.FiniteDifference(suture.stencils.CENTRAL)"


def _check_numbers(settings: dict[str, Any]) -> None:
    dtype, size = settings["dtype"], settings["chunk_size"]
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise refusal(
            "dtype",
            dtype,
            "A precision is a floating torch dtype, or None for the caller's",
            f"dtype=torch.{dtype if dtype in ('float32', 'float16', 'bfloat16') else 'float64'}",
        )
    if dtype == torch.bfloat16 and settings["interface"] == "numpy":
        raise refusal("dtype", dtype, "NumPy has no bfloat16", "dtype=torch.float32")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise refusal(
            "chunk_size", size, "A number of points is a positive integer", "chunk_size=64"
        )
    if settings["seed"] is not None and not isinstance(settings["seed"], int):
        raise refusal("seed", settings["seed"], "A seed is an integer", "seed=0")
