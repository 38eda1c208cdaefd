"""What `differentiable` returns: a module that is called as the black box is."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import weakref
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from suture import _bridge, _tree
from suture._calibration import Calibration
from suture._calls import Caller
from suture._compile import uncompiled
from suture._frame import BlackBox
from suture._holdings import may_hold, survey
from suture._memory import LastGradient, Memory
from suture._methods import AbstractMethod
from suture._node import Node
from suture._tally import Counter, Tally
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
        evaluations: how many points have been evaluated.
        calibration: what the default method has measured; a part of the state dict.
        last: what the last gradient was like, None before the first.

    Example:
        >>> from suture import differentiable
        >>> f = differentiable(lambda x: x.sin())
        >>> x = torch.ones(3, requires_grad=True)
        >>> f(x).sum().backward()
        >>> f.evaluations, f.last.evaluations, f.last.relative_error < 1e-6
        (13, 12, True)
        >>> print(f.calibration)
        x* float64[3]: noise ... of the output, curvature of each input, steps ... to ...
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
    def tally(self) -> Tally:
        """What came of all points so far: evaluations, memo hits, retries, failures.

        A copy: the numbers of now.
        """
        return self._counter.total.copy()

    @property
    def calibration(self) -> Calibration:
        """What the default method has measured: noise, curvature and the steps that follow.

        A frozen value, empty before the first gradient. It may be assigned: that of another
        `Differentiable`, or None to measure anew. It is a part of the state dict.

        Raises:
            MethodError: if something else is assigned.
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
        """What the last gradient was like: its estimated error, evaluations, seconds.

        None before the first one. Reading it evaluates nothing.
        """
        return self._memory.last

    def get_extra_state(self) -> Tensor:
        """Return the calibration as one uint8 tensor, empty if nothing was measured."""
        data = bytearray(self.calibration.encoded())
        if not data:  # which `frombuffer` refuses
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(data, dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take a calibration from a state dict.

        Raises:
            MethodError: if it is not what `get_extra_state` returns.
        """
        if not isinstance(state, Tensor):
            raise MethodError(
                f"A calibration cannot be read from {shown(state)}.",
                "In a state dict it is one uint8 tensor.",
                "Load without it: take the key `_extra_state` out of the state dict.",
            )
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
            MethodError: if it holds tensors that require grad, if `batch_dims`, `scale` or
                `bounds` do not fit the arguments, or if one of these is outside of its bounds by
                more than rounding.
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
