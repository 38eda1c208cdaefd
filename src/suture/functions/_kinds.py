"""What a formula is computed with: Python's numbers, NumPy's arrays or torch's tensors.

A formula is compiled once. Its operators are those of its arguments; what has no operator that
works for all of them (functions, conditions, powers) it finds by name in one of three tables.
"""

from __future__ import annotations

import builtins
import functools
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from suture.errors import MethodError, shown

Table = dict[str, Any]

# Names of what a formula's text cannot name: no Python name has a dot.
POWER, CHOOSE, BOTH, EITHER = ".power", ".choose", ".both", ".either"

# How many arguments a function takes; None is two or more. `where` is a condition, see `_grammar`.
ARITY: dict[str, int | None] = {
    **dict.fromkeys(("sin", "cos", "tan", "asin", "acos", "atan"), 1),
    **dict.fromkeys(("sinh", "cosh", "tanh", "asinh", "acosh", "atanh"), 1),
    **dict.fromkeys(("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt"), 1),
    **dict.fromkeys(("abs", "floor", "ceil", "round"), 1),
    **dict.fromkeys(("atan2", "hypot"), 2),
    **dict.fromkeys(("min", "max"), None),
}

# NumPy before 2.0 has no other names for these.
_NUMPY_NAMES = {
    **{f"a{name}": f"arc{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "atan2": "arctan2",
    "min": "minimum",
    "max": "maximum",
}
_TORCH_NAMES = {"min": "minimum", "max": "maximum"}


def _power(base: Any, exponent: Any) -> Any:
    value = base**exponent
    # Of real numbers: Python would go on with a complex one. `math.pow` raises, as `sqrt(-1)` does.
    if type(value) is complex:
        return math.pow(base, exponent)
    return value


def _as_float(function: Callable[[Any], Any]) -> Callable[[Any], float]:
    return lambda x: float(function(x))


def _in_turn(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda *values: functools.reduce(function, values)


def _numbers() -> Table:
    table: Table = {name: getattr(math, name) for name in ARITY if hasattr(math, name)}
    table.update({"abs": abs, "min": min, "max": max})
    table.update({name: _as_float(table.get(name, round)) for name in ("floor", "ceil", "round")})
    return table | {
        # Torch imports with those of its caller. No formula can name them: see `_grammar`.
        "__builtins__": vars(builtins),
        POWER: _power,
        CHOOSE: lambda condition, yes, no: yes() if condition else no(),
        BOTH: lambda first, second: first and second(),
        EITHER: lambda first, second: first or second(),
    }


NUMBERS = _numbers()


def _array_choose(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    if not isinstance(condition, np.ndarray):
        return yes() if condition else no()
    # Each side is computed everywhere, also where the condition excludes it.
    with np.errstate(all="ignore"):
        return np.where(condition, yes(), no())


def _array_both(first: Any, second: Callable[[], Any]) -> Any:
    if not isinstance(first, np.ndarray):
        return first and second()
    with np.errstate(all="ignore"):
        return first & second()


def _array_either(first: Any, second: Callable[[], Any]) -> Any:
    if not isinstance(first, np.ndarray):
        return first or second()
    with np.errstate(all="ignore"):
        return first | second()


def _arrays() -> Table:
    table: Table = {name: getattr(np, _NUMPY_NAMES.get(name, name)) for name in ARITY}
    table.update({name: _in_turn(table[name]) for name in ("min", "max")})
    return NUMBERS | table | {CHOOSE: _array_choose, BOTH: _array_both, EITHER: _array_either}


ARRAYS = _arrays()


def _either(name: str, of_others: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that leaves numbers to Python, and all others to `of_others`."""
    of_numbers = NUMBERS[name]

    def function(*values: Any) -> Any:
        if all(type(value) is float for value in values):
            return of_numbers(*values)
        return of_others(*values)

    return _in_turn(function) if ARITY[name] is None else function


def _both(first: Any, second: Callable[[], Any]) -> Any:
    return (first and second()) if type(first) is bool else first & second()


def _either_truth(first: Any, second: Callable[[], Any]) -> Any:
    return (first or second()) if type(first) is bool else first | second()


def _sure(function: Callable[..., float]) -> Callable[..., float]:
    """Return `min` or `max`, which Python does not define for nan."""

    def chosen(*values: float) -> float:
        if any(value != value for value in values):
            raise ArithmeticError("nan")
        return function(*values)

    return chosen


def _signed(function: Callable[[float], float]) -> Callable[[float], float]:
    """Return a rounding that keeps the sign of zero, as torch's does."""
    return lambda x: math.copysign(function(x), x)


# NOTE [elements] Torch takes more than a microsecond for each operation on one number, Python a
# tenth of that. So a formula of some elements of tensors, whose value is one number, is computed by
# Python, and by torch after all where Python raises: where torch has nan or inf. Batches are left
# to torch: it is faster with many rows, and the choice must not depend on how many there are, or
# the rows of a batch would differ in their last bits by where they are computed.
ELEMENTS = NUMBERS | {
    **{name: _sure(NUMBERS[name]) for name in ("min", "max")},
    **{name: _signed(NUMBERS[name]) for name in ("floor", "ceil", "round")},
}

# Torch takes as long for two operations as Python for a list of so many.
_ELEMENTS = 64


def depths_of(count: int, used: Sequence[tuple[int, int]]) -> tuple[int, ...] | None:
    """Return how many dimensions each argument has if the value is one number; -1 = any.

    None where there are no such: an argument is used with more and with less indices, or none is.

    Args:
        count: of arguments.
        used: which of them a formula uses, by position, and behind how many indices.
    """
    depths = dict(used)
    if not depths or len(depths) < len(used):
        return None
    return tuple(depths.get(i, -1) for i in range(count))


def elements(values: Sequence[Any], depths: Sequence[int]) -> list[Any] | None:
    """Return float64 tensors of the CPU as numbers and lists; None where torch must compute.

    That is where more than one number comes out, or where torch watches what is done: to
    differentiate, to transform, to trace, to compile.
    """
    torch = sys.modules.get("torch")
    if torch is None or _is_watched(torch):
        return None
    plain, float64 = torch.Tensor, torch.float64
    found: list[Any] = []
    forward = torch.autograd.forward_ad
    for value, depth in zip(values, depths, strict=True):
        if type(value) is not plain or value.dtype is not float64 or value.requires_grad:
            return None
        if forward._current_level >= 0 and forward.unpack_dual(value).tangent is not None:
            return None
        if depth < 0:
            found.append(None)
        elif value.dim() != depth or value.numel() > _ELEMENTS or not value.is_cpu:
            return None
        else:
            found.append(value.tolist())
    return found


def tensor_of(value: float) -> Any:
    """Return a number as a tensor, whatever the default dtype and device are."""
    return sys.modules["torch"].from_numpy(np.asarray(value))


def _is_watched(torch: Any) -> bool:
    c = torch._C
    return bool(
        torch.compiler.is_compiling()
        or c._are_functorch_transforms_active()
        or c._len_torch_dispatch_stack()
        or c._is_torch_function_mode_enabled()
        or c._get_tracing_state() is not None
    )


@functools.cache
def tensors() -> Table:
    """Return torch's table; torch is imported by whoever has a tensor, not here."""
    import torch

    def tensor(value: Any) -> Any:
        # A number would become a tensor of the default dtype, which has 7 digits.
        return torch.tensor(value, dtype=torch.float64) if type(value) is float else value

    def either_kind(name: str) -> Callable[..., Any]:
        of_tensors = getattr(torch, _TORCH_NAMES.get(name, name))
        return _either(name, lambda *values: of_tensors(*map(tensor, values)))

    def choose(condition: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        if type(condition) is bool:
            return yes() if condition else no()
        return torch.where(condition, tensor(yes()), tensor(no()))

    return (
        NUMBERS
        | {name: either_kind(name) for name in ARITY}
        | {CHOOSE: choose, BOTH: _both, EITHER: _either_truth}
    )


def is_ready(values: Sequence[Any], kinds: Sequence[type]) -> bool:
    """Whether all are of these types and floating: there is nothing to prepare."""
    for value in values:
        if type(value) not in kinds or (type(value) is np.ndarray and value.dtype != np.float64):
            return False
    return True


def prepared(names: Sequence[str], values: Sequence[Any]) -> tuple[Table, list[Any]]:
    """Return the table for some arguments, and them as floating numbers of one kind.

    Raises:
        MethodError: an argument is no number, array or tensor, naming it.
    """
    tensor_type = _tensor_type()
    ready = [_floating(*pair, tensor_type) for pair in zip(names, values, strict=True)]
    if any(isinstance(value, tensor_type) for value in ready):
        return tensors(), [_as_tensor(value) for value in ready]
    return (NUMBERS if is_ready(ready, (float,)) else ARRAYS), ready


def spread(value: Any, values: Sequence[Any], used: Sequence[tuple[int, int]]) -> Any:
    """Return a value in the shape that all arguments together have.

    A condition on numbers chooses one side, which alone may be smaller: the shape would depend on
    the values.

    Args:
        value: of the formula.
        values: its arguments.
        used: which of them the formula uses, and behind how many indices.
    """
    shapes = [getattr(values[i], "shape", ())[indices:] for i, indices in used]
    if not any(shapes) or getattr(value, "shape", ()) == (shape := np.broadcast_shapes(*shapes)):
        return value
    if like := [part for part in values if isinstance(part, _tensor_type())]:
        zeros = like[0].new_zeros(shape)
        return zeros + value
    return np.broadcast_to(value, shape).copy()


def _tensor_type() -> tuple[type[Any], ...]:
    torch = sys.modules.get("torch")  # who has not imported it has no tensors
    return (torch.Tensor,) if torch is not None else ()


def _floating(name: str, value: Any, tensor_type: tuple[type[Any], ...]) -> Any:
    kind = type(value)
    if kind is np.ndarray or isinstance(value, np.generic):
        if value.dtype.kind in "fc":
            return value
        if value.dtype.kind in "biu":  # products of integers would overflow unseen
            return value.astype(np.float64)
    elif kind in (float, int, bool):
        return float(value)
    elif kind is complex:
        return np.complex128(value)
    elif isinstance(value, tensor_type):
        return value if value.is_floating_point() or value.is_complex() else value.double()
    elif kind in (list, tuple):
        return _stacked(name, value, tensor_type)
    raise MethodError(
        f"A formula was given a {kind.__name__} for `{name}`: {shown(value)}.",
        "It computes with numbers, arrays and tensors, and with lists of them.",
        f"Pass `float({name})` or `np.asarray({name}, dtype=float)`.",
    )


def _stacked(name: str, values: Sequence[Any], tensor_type: tuple[type, ...]) -> Any:
    """Return a list of numbers of one shape as an array, a list of tensors as a tensor."""
    parts = [_floating(name, value, tensor_type) for value in values]
    if any(isinstance(part, tensor_type) for part in parts):
        return sys.modules["torch"].stack([_as_tensor(part) for part in parts])
    return np.asarray(parts, None if parts else np.float64)


def _as_tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return sys.modules["torch"].as_tensor(value)
    return value
