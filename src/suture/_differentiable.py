"""The verb: a function that torch cannot differentiate becomes one that it can."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import weakref
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, overload

import torch
from torch import Tensor, nn

from suture import _bridge, _tree
from suture._calibration import Calibration
from suture._calls import Caller
from suture._compile import uncompiled
from suture._frame import BlackBox, Counter
from suture._holdings import may_hold, survey
from suture._memory import LastGradient, Memory
from suture._methods import AbstractMethod, FiniteDifference
from suture._node import Node
from suture._types import Interface
from suture.errors import MethodError, shown


@dataclasses.dataclass(frozen=True, slots=True)
class _Records:
    """What belongs to one function, or to one instance of a decorated method."""

    counter: Counter = dataclasses.field(default_factory=Counter)
    memory: Memory = dataclasses.field(default_factory=Memory)


class Differentiable(nn.Module):
    """A black box that torch can differentiate; made by `differentiable`.

    It is a module without parameters, so it sits in `nn.Sequential` and moves with `.to`.

    Attributes:
        fn: the black box.
        method: how its derivatives are obtained.
    """

    def __init__(self, box: BlackBox, method: AbstractMethod, caller: Caller, seed: int | None):
        """Take what `differentiable` has checked."""
        super().__init__()
        self._set(method, caller, seed)
        self._wrap(box, _Records(), _signature(box.fn))

    def _set(self, method: AbstractMethod, caller: Caller, seed: int | None) -> None:
        self._method, self._caller, self._seed = method, caller, seed
        # Of a decorated method, each instance has its own, as long as it lives.
        self._instances: dict[int, tuple[weakref.ref[Any], _Records]] = {}

    def _wrap(self, box: BlackBox, records: _Records, signature: inspect.Signature | None) -> None:
        self._box, self._signature = box, signature
        self._counter, self._memory = records.counter, records.memory
        self._scan = may_hold(box.fn)
        # Not through `__setattr__`, which would make a black box that is a module a submodule.
        for attribute in functools.WRAPPER_ASSIGNMENTS:
            if hasattr(box.fn, attribute):
                self.__dict__[attribute] = getattr(box.fn, attribute)
        self.__dict__.update(__wrapped__=box.fn, __name__=box.name)
        if signature is not None:
            self.__dict__["__signature__"] = signature

    @property
    def fn(self) -> Callable[..., Any]:
        """The black box."""
        return self._box.fn

    @property
    def method(self) -> AbstractMethod:
        """How its derivatives are obtained."""
        return self._method

    @property
    def evaluations(self) -> int:
        """How many points have been evaluated, those of forward passes included."""
        return self._counter.evaluations

    @property
    def calibration(self) -> Calibration:
        """What the default method has measured: noise, curvature and the steps that follow.

        A frozen value, empty before the first gradient. It may be assigned: that of another
        `Differentiable`, or None to measure anew. It is a part of the state dict.
        """
        return self._memory.calibration

    @calibration.setter
    def calibration(self, calibration: Calibration | None) -> None:
        if not isinstance(calibration, Calibration | None):
            raise MethodError(
                f"`calibration = {shown(calibration)}` is not possible.",
                "It is a value that `calibration` of a `Differentiable` has returned, or None.",
                "Write `f.calibration = None` to measure anew.",
            )
        self._memory.calibration = calibration or Calibration()

    @property
    def last(self) -> LastGradient | None:
        """What the last gradient was like: its estimated error, evaluations, seconds."""
        return self._memory.last

    def get_extra_state(self) -> Tensor:
        """Return the calibration as one uint8 tensor, empty if nothing was measured."""
        return (
            torch.frombuffer(bytearray(self.calibration.encoded()), dtype=torch.uint8)
            if (self.calibration)
            else torch.empty(0, dtype=torch.uint8)
        )

    def set_extra_state(self, state: Tensor) -> None:
        """Take a calibration from a state dict."""
        self.calibration = Calibration.decoded(state.cpu().numpy().tobytes())

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load; a checkpoint that was written before there was a calibration lacks nothing."""
        own: list[str] = []
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, own, unexpected_keys, error_msgs
        )
        missing_keys += [key for key in own if key != prefix + "_extra_state"]

    @uncompiled
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the black box returns, as a part of torch's graph.

        Args:
            *args: what the black box takes, in any nesting of tuples, lists, dicts and registered
                dataclasses. Gradients flow to the floating and complex tensors in it. Tensors and
                arrays are copied; other objects are passed as they are, to every evaluation, and
                should not be changed.
            **kwargs: likewise; those that have a position count as positional.

        Returns:
            The result in its own nesting: floating tensors in the promoted dtype of the floating
            tensors among the arguments, complex ones at the same precision, integer ones as they
            are; all on the device of the arguments.

        Raises:
            EvaluationError: if the black box raised.
            BadResult: if it returned something that is not a result.
            MethodError: if it holds tensors that require grad, or `batch_dims` do not fit.
            TransformError: if torch traces the call into a graph.
        """
        if kwargs and self._signature is not None:
            bound = self._signature.bind(*args, **kwargs)
            args, kwargs = bound.args, bound.kwargs
        modules = survey(self._box.fn, self._box.name) if self._scan else []
        frame, tensors = self._caller.frame(self._box, self._counter, modules, args, kwargs)
        node = Node(frame, self.method, self._seed, self._memory)
        outputs = iter(_bridge.call(node, tensors))
        form = frame.form
        leaves = [
            form.others[i] if output.kind == "other" else next(outputs)
            for i, output in enumerate(form.outputs)
        ]
        return (
            _tree.unflatten(leaves, form.structure) if len(leaves) > 1 or form.nested else leaves[0]
        )

    def __get__(self, instance: Any, owner: type | None = None) -> Differentiable:
        """Bind a decorated method to its instance, as a function would be bound."""
        if instance is None or not isinstance(self._box.fn, FunctionType):
            return self
        bound = object.__new__(Differentiable)
        nn.Module.__init__(bound)
        bound._set(self.method, self._caller, self._seed)
        box = dataclasses.replace(self._box, fn=MethodType(self._box.fn, instance))
        bound._wrap(box, self._records_of(instance), _without_self(self._signature))
        return bound

    def _records_of(self, instance: Any) -> _Records:
        """Return the instance's counter and memory; the instance is held weakly.

        Instances that cannot be held weakly (`__slots__` without `__weakref__`) share one.
        """
        key = id(instance)
        known = self._instances.get(key)
        if known is not None and known[0]() is instance:
            return known[1]
        instances = self._instances
        try:
            reference = weakref.ref(instance, lambda _: instances.pop(key, None))
        except TypeError:
            return _Records(self._counter, self._memory)
        instances[key] = (reference, _Records())
        return instances[key][1]

    def __repr__(self) -> str:
        """Return the function, the method and the evaluations per gradient."""
        return (
            f"differentiable({self._box.name}, method={self.method!r}, "
            f"evaluations per gradient: {self.method.cost})"
        )


def _signature(fn: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(fn)
    except (TypeError, ValueError):  # some builtins have none
        return None


def _without_self(signature: inspect.Signature | None) -> inspect.Signature | None:
    if signature is None:
        return None
    return signature.replace(parameters=list(signature.parameters.values())[1:])


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
    seed: int | None = None,
    name: str | None = None,
) -> Differentiable | Callable[[Callable[..., Any]], Differentiable]:
    """Make a function that torch cannot differentiate trainable inside a torch model.

    Main arguments:

    Args:
        fn: the black box: any callable from tensors, arrays, numbers and strings, in any nesting,
            to tensors, arrays and numbers. It is called without grad and without autocast, with
            private copies of its arguments. Without `fn`, a decorator is returned.
        method: how derivatives are obtained, see `FiniteDifference` and `CustomVJP`.
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
            the larger of |x_j| and the root mean square of its tensor, or of its column over the
            rows of a batch; 1 where both are zero).
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
        "seed": seed,
        "name": name,
    }
    _check(settings)
    if fn is None:
        return functools.partial(differentiable, **settings)
    _check_function(fn)
    box = BlackBox(fn, name or _name(fn), interface, dtype, vectorized, chunk_size)
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
        raise _refusal("fn", fn, "The black box is a function", "differentiable(my_function)")


def _check(settings: dict[str, Any]) -> None:
    """Refuse what is not lawful before anything is called."""
    if not isinstance(settings["method"], AbstractMethod):
        raise _refusal(
            "method",
            settings["method"],
            "A method is an object, not a name and not a class",
            "method=suture.FiniteDifference(suture.stencils.CENTRAL)",
        )
    if settings["interface"] not in ("torch", "numpy"):
        raise _refusal(
            "interface",
            settings["interface"],
            "A black box receives tensors or arrays",
            'interface="numpy"',
        )
    if not isinstance(settings["vectorized"], bool):
        raise _refusal("vectorized", settings["vectorized"], "It is yes or no", "vectorized=True")
    if not isinstance(settings["name"], str | None):
        raise _refusal("name", settings["name"], "A name is a string", 'name="my function"')
    _check_numbers(settings)
    if settings["scale"] is not None and settings["method"].is_absolute():
        raise MethodError(
            f"`differentiable(scale={shown(settings['scale'])})` is not possible with a shift.",
            "Its nodes are angles at which it is exact, and a scale would change them.",
            "Leave out `scale`; or use `FiniteDifference(stencils.CENTRAL)`, which has a step.",
        )


def _check_numbers(settings: dict[str, Any]) -> None:
    dtype, size = settings["dtype"], settings["chunk_size"]
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise _refusal(
            "dtype",
            dtype,
            "A precision is a floating torch dtype, or None for the caller's",
            "dtype=torch.float64",
        )
    if dtype == torch.bfloat16 and settings["interface"] == "numpy":
        raise _refusal("dtype", dtype, "NumPy has no bfloat16", "dtype=torch.float32")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise _refusal(
            "chunk_size", size, "A number of points is a positive integer", "chunk_size=64"
        )
    if settings["seed"] is not None and not isinstance(settings["seed"], int):
        raise _refusal("seed", settings["seed"], "A seed is an integer", "seed=0")


def _refusal(keyword: str, value: object, why: str, fix: str) -> MethodError:
    return MethodError(
        f"`differentiable({keyword}={shown(value)})` is not possible.", f"{why}.", f"Write `{fix}`."
    )
