"""Bounds of the arguments: where the black box may be evaluated, and nowhere else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from suture import _tree
from suture._layout import Leaf, rounded
from suture._results import host
from suture._types import Array
from suture.errors import MethodError, shown

# An argument may be outside of its bounds by this part of its scale, as after a step of an
# optimizer that ends on a bound up to rounding in float32 (6e-8) and a few operations more. In half
# precision `torch.clamp` itself leaves half a unit, and the bound is the next number inside.
_ROUNDING, _UNITS = 1e-6, 2

Pair: TypeAlias = tuple[Array, Array]
"""Lower and upper bound, each broadcastable to the argument; infinite where there is none."""


@dataclasses.dataclass(frozen=True)
class _Bounds:
    """A pair that is a leaf, so that it can be spread over the leaves of an argument."""

    lower: Array
    upper: Array


def parse(bounds: Any) -> Any:
    """Return the user's bounds with pairs of numbers as leaves.

    Args:
        bounds: None, or a prefix of the tuple of positional arguments that ends in pairs
            (lower, upper) or None; each bound is a number, an array, a tensor or None.

    Raises:
        MethodError: if a bound is not a number, or the lower one is above the upper one.
    """
    if bounds is None:
        return None
    if not isinstance(bounds, tuple | list):
        raise _refusal(bounds, "They are a tuple with one entry for each positional argument")
    if len(bounds) == 2 and any(limit is not None for limit in bounds) and _are_limits(bounds):
        # The pair of one argument, as a tuple of its own.
        raise MethodError(
            f"`bounds={shown(bounds)}` is not possible.",
            "They are a tuple with one pair (lower, upper) for each positional argument.",
            f"For one argument write `bounds=({shown(bounds)},)`.",
        )
    return tuple(_parse(entry, bounds) for entry in bounds)


def _parse(entry: Any, bounds: Any) -> Any:
    if entry is None:
        return None
    if isinstance(entry, tuple | list):
        if len(entry) == 2 and _are_limits(entry):
            return _pair(entry, bounds)
        return type(entry)(_parse(inner, bounds) for inner in entry)
    if isinstance(entry, dict):
        return {key: _parse(inner, bounds) for key, inner in entry.items()}
    raise _refusal(bounds, f"{shown(entry)} is not a pair (lower, upper)")


def _are_limits(pair: Sequence[Any]) -> bool:
    return all(_is_limit(limit) for limit in pair)


def _is_limit(limit: Any) -> bool:
    if limit is None or isinstance(limit, Tensor | np.ndarray):
        return True
    return isinstance(limit, int | float | np.generic) and not isinstance(limit, bool)


def _pair(entry: Sequence[Any], bounds: Any) -> _Bounds:
    numbers = []
    for limit, without in zip(entry, (-np.inf, np.inf), strict=True):
        given = without if limit is None else limit
        array = np.array(host(given) if isinstance(given, Tensor) else given)
        if array.dtype.kind not in "iuf" or np.isnan(array).any():
            raise _refusal(bounds, "A bound is a real number, and not NaN")
        numbers.append(array.astype(np.float64))
    lower, upper = numbers
    try:
        crossed = bool(np.any(lower > upper))
    except ValueError:
        raise _refusal(bounds, "The shapes of the lower and the upper bound differ") from None
    if crossed:
        raise _refusal(bounds, "A lower bound is above the upper one")
    return _Bounds(lower, upper)


def _refusal(bounds: Any, why: str) -> MethodError:
    return MethodError(
        f"`bounds={shown(bounds)}` is not possible.",
        f"{why}.",
        "Give one pair for each positional argument, for example `bounds=((0, 1), None)`.",
    )


def of_leaves(
    bounds: Any,
    structure: _tree.Structure,
    leaves: Sequence[Leaf],
    positions: Sequence[int],
    count: int,
    given: Any,
) -> list[Pair | None]:
    """Return the bounds of each tensor argument, in the precision that the black box receives.

    Raises:
        MethodError: if they do not fit the arguments.
    """
    spread = _tree.broadcast(bounds, structure, count, "bounds", "(0, 1)", given)
    return [_of_leaf(spread[i], leaf, given) for i, leaf in zip(positions, leaves, strict=True)]


def _of_leaf(bounds: _Bounds | None, leaf: Leaf, given: Any) -> Pair | None:
    if bounds is None:
        return None
    if leaf.dtype.is_complex:
        raise _refusal(given, "Complex numbers have no order, and so no bounds")
    lower, upper = bounds.lower, bounds.upper
    for limit in (lower, upper):
        try:
            np.broadcast_to(limit, leaf.shape)
        except ValueError:
            raise _refusal(
                given, f"A bound of shape {limit.shape} does not fit an argument of {leaf.shape}"
            ) from None
    if not leaf.dtype.is_floating_point:
        return lower, upper
    # The received precision may not have the bound: then the next number inside.
    return _inward(lower, leaf.dtype, 1), _inward(upper, leaf.dtype, -1)


def _inward(limit: Array, dtype: torch.dtype, sign: int) -> Array:
    near = rounded(limit, dtype)
    outside = np.isfinite(limit) & (sign * near < sign * limit)
    if not outside.any():
        return near
    tensor = torch.from_numpy(np.ascontiguousarray(near)).to(dtype)
    target = torch.full_like(tensor, sign * torch.inf)
    inside = torch.nextafter(tensor, target).double().numpy().reshape(near.shape)
    return np.where(outside, inside, near)


def rounding(dtype: torch.dtype) -> float:
    """Return how far outside rounding may leave a number of the caller's, relative to its scale."""
    return max(_ROUNDING, _UNITS * torch.finfo(dtype).eps if dtype.is_floating_point else 0.0)


def project(array: Array, pair: Pair, allowed: Array, name: str, place: str) -> tuple[Array, int]:
    """Bring what is outside by rounding to its bound.

    Args:
        array: (S, *shape) samples of an argument.
        pair: its bounds.
        allowed: how far outside is rounding, broadcastable to its shape.
        name: of the black box.
        place: what the argument is called.

    Returns:
        The argument within its bounds, and how many numbers were outside.

    Raises:
        MethodError: if a number is farther outside.
    """
    lower, upper = pair
    inside = np.clip(array, lower, upper)
    moved = np.abs(inside - array)
    moved = np.where(np.isfinite(array), moved, np.where(np.isnan(array), 0.0, np.inf))
    moved = np.where(inside == array, 0.0, moved)
    outside = moved > 0
    if not outside.any():
        return array, 0
    far = moved > allowed
    if far.any():
        index = tuple(int(i) for i in np.argwhere(far)[0])
        low, high = (float(np.broadcast_to(limit, array.shape)[index]) for limit in pair)
        where = f"[{', '.join(map(str, index[1:]))}]" if len(index) > 1 else ""
        raise MethodError(
            f"`{name}` was given {place}{where} = {array[index]:.9g}, outside of its bounds "
            f"[{low:.6g}, {high:.6g}].",
            "It is never evaluated outside; only what is outside by rounding (1e-6 of the scale) "
            "is moved to the bound.",
            f"Write `{_clamp(place, low, high)}`, or give wider `bounds=`.",
        )
    return np.where(outside, inside, array), int(outside.sum())


def _clamp(place: str, low: float, high: float) -> str:
    """Return what to type so that an argument stays within its bounds."""
    x = "x" if " " in place else place  # an argument without a name
    if np.isinf(high):
        return f"torch.clamp({x}, min={low:.6g})"
    if np.isinf(low):
        return f"torch.clamp({x}, max={high:.6g})"
    return f"torch.clamp({x}, {low:.6g}, {high:.6g})"
