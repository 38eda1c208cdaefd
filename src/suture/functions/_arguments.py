"""The arguments of a program: real numbers and arrays, one row or a batch of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from suture._types import Array
from suture.errors import MethodError, shown
from suture.functions._template import Slot


def numbers(name: str, value: Any, slots: Sequence[Slot]) -> Array:
    """Return an argument as an array of real numbers.

    Raises:
        MethodError: it has none, or another shape than the places that it fills; or it is a
            tensor whose gradient would be lost.
    """
    held = _plain(name, value) if hasattr(value, "detach") else value
    try:
        array = np.asarray(held)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        kind = f"{array.dtype} numbers" if array.dtype.kind in "bc" else shown(value)
        raise MethodError(
            f"`{name}` was given {kind}, which cannot be written into a template.",
            "Programs read real numbers only; words are a part of the template.",
            "Pass a real tensor, for example `x.real`, and use a stencil of real points, as "
            "`stencils.CENTRAL`.",
        )
    shape = shape_of(slots)
    one = array.shape[len(array.shape) - len(shape) :] if array.ndim >= len(shape) else None
    if one is None or array.ndim > len(shape) + 1 or not _fits(one, shape, slots):
        used = ", ".join(sorted({slot.label for slot in slots}))
        raise MethodError(
            f"`{name}` has shape {array.shape}, and the templates write {used}.",
            "All its elements must be written: others would be without influence, and silently "
            "learn nothing.",
            f"Pass `{name}` with shape {shape}, or write the other elements into a template as "
            f"`{{{name}[…]}}`.",
        )
    return array


def _plain(name: str, tensor: Any) -> Array:
    """Return a tensor as an array, if nothing is lost by that."""
    torch = sys.modules["torch"]
    what = "requires grad" if tensor.requires_grad and torch.is_grad_enabled() else ""
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        what = "a transform of `torch.func` has wrapped"
    if what:
        raise MethodError(
            f"`{name}` was given a tensor that {what}.",
            "A program takes plain numbers, so its gradient or its rows would be lost.",
            "Wrap the program, `f = suture.differentiable(command)`, and call `f`.",
        )
    held = tensor.detach().cpu()
    array: Array = (held.double() if held.is_floating_point() else held).numpy()
    return array


def shape_of(slots: Sequence[Slot]) -> tuple[int, ...]:
    """Return the smallest shape that has all the elements that are written."""
    return tuple(max(column) + 1 for column in zip(*(slot.at for slot in slots), strict=True))


def _fits(one: tuple[int, ...], shape: tuple[int, ...], slots: Sequence[Slot]) -> bool:
    """Whether an array of shape `one` has exactly the elements that are written."""
    return one == shape and len({slot.at for slot in slots}) == int(np.prod(shape))


def rows_of(
    values: Mapping[str, Array], places: Mapping[str, Sequence[Slot]]
) -> tuple[list[dict[str, Array]], int | None]:
    """Return the arguments of each run, and the number of rows; None = it is no batch.

    Raises:
        MethodError: batches of different sizes.
    """
    batched = {n: len(v) for n, v in values.items() if v.ndim > len(places[n][0].at)}
    if not batched:
        return [dict(values)], None
    if len(set(batched.values())) > 1 or not all(batched.values()):
        raise MethodError(
            f"The batches have {', '.join(f'{b} rows in `{n}`' for n, b in batched.items())}.",
            "Arguments with one dimension more than their placeholders are a batch: all have the "
            "same number of rows, at least one.",
            "Pass arguments that all rows share without the dimension, for example `x[0]`.",
        )
    count = next(iter(batched.values()))
    rows = [{n: v[i] if n in batched else v for n, v in values.items()} for i in range(count)]
    return rows, count
