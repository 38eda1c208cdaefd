"""Tensors that a function holds: a gradient would silently stop at them."""

from __future__ import annotations

import collections
import dis
import functools
from collections.abc import Callable, Iterator
from types import (
    BuiltinMethodType,
    CodeType,
    FunctionType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any

import numpy as np
from torch import Tensor, nn

from suture._torch import is_differentiated, is_differentiating
from suture.errors import MethodError

# How many objects are looked at: all of any reasonable closure or object, and no more than about
# ten milliseconds for one that holds a database.
_OBJECTS = 20_000
_ATOMS = (type(None), bool, int, float, complex, str, bytes, np.generic, type)


def may_hold(fn: Callable[..., Any]) -> bool:
    """Whether `fn` has any place where a tensor could be: most plain functions have none."""
    return not isinstance(fn, FunctionType) or any(
        (fn.__closure__, fn.__defaults__, fn.__kwdefaults__, global_names(fn.__code__))
    )


def survey(fn: Callable[..., Any], name: str) -> list[nn.Module]:
    """Return the modules that `fn` is or holds.

    Looked through are the function's closure and defaults and the globals that it names, the
    arguments of a `partial`, the object of a method, and containers, attributes and wrapped
    functions in these places.

    Raises:
        MethodError: if a tensor is held that somebody differentiates by, naming its place.
    """
    modules, refused = [], is_differentiating()
    for held, place in _walk(fn):
        if isinstance(held, nn.Module):
            modules.append(held)
        if refused and (found := _trainable(held, place)) is not None:
            raise MethodError(
                f"`{name}` holds a tensor that requires grad{found}.",
                "Only arguments are differentiated, so it would silently learn nothing.",
                "Pass it as an argument, or call `.requires_grad_(False)` on it.",
            )
    return modules


def refuse_opaque(leaf: Any, name: str, place: str) -> None:
    """Raise if an argument that is not a pytree hides a tensor that requires grad.

    Raises:
        MethodError: naming the argument.
    """
    if any(_trainable(held, "") is not None for held, _ in _walk(leaf)):
        kind = type(leaf).__name__
        raise MethodError(
            f"`{name}` was given {place} of type {kind}, which holds a tensor that requires grad.",
            "Torch cannot see into it, so no gradient could reach the tensor.",
            "Pass the tensor itself, or register the type: "
            f"`torch.utils._pytree.register_dataclass({kind})`.",
        )


def _trainable(held: Any, place: str) -> str | None:
    """Return the place of a tensor that somebody differentiates by, None if it is not."""
    if isinstance(held, Tensor):
        return place if is_differentiated(held) else None
    if isinstance(held, nn.Module):
        named = [*held.named_parameters(), *held.named_buffers()]
        found = next((name for name, tensor in named if is_differentiated(tensor)), None)
        return None if found is None else f"{place}: the parameter `{found}`"
    return None


def _walk(root: Any) -> Iterator[tuple[Any, str]]:
    """Yield the tensors and modules that an object is or holds, and their places."""
    queue, seen = collections.deque([(root, "")]), {id(root)}
    while queue and len(seen) < _OBJECTS:
        held, place = queue.popleft()
        if isinstance(held, Tensor | nn.Module):
            yield held, place
        if isinstance(held, Tensor):
            continue
        for inner, where in _inside(held):
            if not _is_atom(inner) and id(inner) not in seen:
                seen.add(id(inner))
                queue.append((inner, place + where))


def _is_atom(held: Any) -> bool:
    if isinstance(held, np.ndarray):
        return bool(held.dtype != object)
    return isinstance(held, _ATOMS)


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
    elif isinstance(held, dict):
        yield from ((value, "") for value in held.values())
    elif isinstance(held, tuple | list | set | frozenset | collections.deque):
        yield from ((value, "") for value in held)
    elif isinstance(held, np.ndarray):
        yield from ((value, "") for value in held.flat)
    elif isinstance(held, BuiltinMethodType | MethodWrapperType):
        if not isinstance(held.__self__, ModuleType):
            yield held.__self__, " in its object"
    elif isinstance(held, nn.Module):
        yield from _in_module(held)
    elif not isinstance(held, type | ModuleType):
        yield from _in_object(held)


def _in_module(module: nn.Module) -> Iterator[tuple[Any, str]]:
    """Yield what a module holds beside its parameters, buffers and submodules."""
    own = ("_parameters", "_buffers", "_modules")
    for inner in module.modules():
        plain = {key: value for key, value in vars(inner).items() if key not in own}
        yield from ((value, f", as `{key}`") for key, value in plain.items())


def _in_object(held: Any) -> Iterator[tuple[Any, str]]:
    kinds = type(held).__mro__
    slots = [name for kind in kinds for name in getattr(kind, "__slots__", ())]
    names = [name for name in [*slots, *getattr(held, "__dict__", ())] if hasattr(held, name)]
    yield from ((getattr(held, name), f", as `{name}`") for name in names)
    for kind in kinds:
        for name, value in vars(kind).items():
            if isinstance(value, Tensor | nn.Module):
                yield value, f", as `{name}` of its class"


@functools.lru_cache(maxsize=1024)
def global_names(code: CodeType) -> tuple[str, ...]:
    """Return the globals that a function names."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    # Lambdas and comprehensions inside of it have code of their own.
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return tuple(names.union(*(global_names(constant) for constant in inner)))


@functools.lru_cache(maxsize=1024)
def imported_names(code: CodeType) -> tuple[str, ...]:
    """Return the modules that a function imports when it runs; relative ones without dots."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "IMPORT_NAME"}
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return tuple(sorted(names.union(*(imported_names(constant) for constant in inner))))


def _in_function(fn: FunctionType) -> Iterator[tuple[Any, str]]:
    for name in global_names(fn.__code__):
        # Not through functions and objects: all the program hangs on globals.
        if isinstance(held := fn.__globals__.get(name), Tensor | nn.Module):
            yield held, f", the global `{name}`"
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield cell.cell_contents, f" in its closure, as `{name}`"
        except ValueError:  # the cell of a name that is not bound yet
            continue
    defaults = fn.__defaults__ or ()
    positional = fn.__code__.co_varnames[: fn.__code__.co_argcount]
    with_default = positional[len(positional) - len(defaults) :]
    yield from (
        (value, f" as the default of `{name}`")
        for name, value in zip(with_default, defaults, strict=True)
    )
    yield from (
        (value, f" as the default of `{key}`") for key, value in (fn.__kwdefaults__ or {}).items()
    )
