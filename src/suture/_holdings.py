"""Tensors that a function holds: a gradient would silently stop at them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from suture import _tree
from suture.errors import MethodError

# Wrappers of wrappers of functions end somewhere; a longer chain is not looked through.
_DEPTH = 5


def may_hold_tensors(fn: Callable[..., Any]) -> bool:
    """Whether `fn` has any place where a tensor could be: a plain function has none."""
    return not isinstance(fn, FunctionType) or any(
        (fn.__closure__, fn.__defaults__, fn.__kwdefaults__)
    )


def refuse_trainable(fn: Callable[..., Any], name: str) -> None:
    """Raise if `fn` holds a tensor that requires grad.

    Looked through are the function's closure and defaults, the arguments of a `partial`, the
    object of a method, and modules, containers and wrapped functions in these places.

    Raises:
        MethodError: naming the place.
    """
    place = next(_trainable(fn, "", _DEPTH), None)
    if place is not None:
        raise MethodError(
            f"`{name}` holds a tensor that requires grad{place}.",
            "Only arguments are differentiated, so it would silently learn nothing.",
            "Pass it as an argument, or call `.requires_grad_(False)` on it.",
        )


def refuse_opaque(leaf: Any, name: str, place: str) -> None:
    """Raise if an argument that is not a pytree hides a tensor that requires grad.

    Raises:
        MethodError: naming the argument.
    """
    if isinstance(leaf, str | bytes | bool | int | float | complex | type(None)):
        return
    if next(_trainable(leaf, "", _DEPTH), None) is not None:
        raise MethodError(
            f"`{name}` was given {place} of type {type(leaf).__name__}, which holds a tensor that "
            "requires grad.",
            "Torch cannot see into it, so no gradient could reach the tensor.",
            "Pass the tensor itself, or register the type: "
            f"`torch.utils._pytree.register_dataclass({type(leaf).__name__})`.",
        )


def _trainable(held: Any, place: str, depth: int) -> Iterator[str]:
    """Yield the places of tensors that require grad."""
    if depth == 0:
        return
    if isinstance(held, Tensor):
        if held.requires_grad:
            yield place
    elif isinstance(held, nn.Module):
        for name, parameter in held.named_parameters():
            if parameter.requires_grad:
                yield f"{place}: the parameter `{name}`"
    else:
        for inner, where in _inside(held):
            yield from _trainable(inner, place + where, depth - 1)


def _inside(held: Any) -> Iterator[tuple[Any, str]]:
    if isinstance(held, functools.partial):
        yield held.func, ""
        yield from ((value, " in an argument of its `partial`") for value in held.args)
        yield from (
            (value, f" in `{key}` of its `partial`") for key, value in held.keywords.items()
        )
    elif isinstance(held, MethodType):
        yield held.__func__, ""
        yield held.__self__, " in its object"
    elif isinstance(held, FunctionType):
        yield from _in_function(held)
    elif isinstance(held, tuple | list | dict | set | frozenset):
        leaves = list(held) if isinstance(held, set | frozenset) else _tree.flatten(held)[0]
        yield from ((leaf, "") for leaf in leaves)
    elif not isinstance(held, type):
        slots = [name for kind in type(held).__mro__ for name in getattr(kind, "__slots__", ())]
        names = [name for name in [*slots, *getattr(held, "__dict__", ())] if hasattr(held, name)]
        yield from ((getattr(held, name), f", as `{name}`") for name in names)


def _in_function(fn: FunctionType) -> Iterator[tuple[Any, str]]:
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield cell.cell_contents, f" in its closure, as `{name}`"
        except ValueError:  # the cell of a name that is not bound yet
            continue
    yield from ((value, " as the default of an argument") for value in fn.__defaults__ or ())
    yield from (
        (value, f" as the default of `{key}`") for key, value in (fn.__kwdefaults__ or {}).items()
    )
