"""Guards of the Functions: against tracing, for pruned gradients, for the legacy vmap."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from suture._node import Node
from suture._torch import apply, engine_skips, is_legacy_batched, tracer
from suture.errors import TransformError


def refuse_tracing(name: str) -> None:
    """Raise while torch traces a graph instead of computing.

    Under `make_fx` and `torch.func.linearize` the derivatives of a Function become zeros without
    an error; the tensors look ordinary, only the stack of dispatch modes shows it.
    """
    if tracer() is not None:
        raise TransformError(
            f"`{name}` was traced into a graph (by `make_fx`, `torch.func.linearize`, "
            "`torch.export` or `torch.jit.trace`).",
            "A tracer does not see into it: its derivatives would become zeros without an error.",
            "Call it outside the traced function; `torch.compile` without `fullgraph` works, and "
            "so does `torch.func.jvp` in the place of `linearize`.",
        )


def needed(ctx: Any, start: int, stop: int | None) -> tuple[bool, ...]:
    """Return which of the tensors start, …, stop - 1 of a Function need a gradient."""
    # The first argument of every Function here is its node, which is no tensor.
    flags = ctx.needs_input_grad[1:][start:stop]
    nodes = [function for function, _ in ctx.next_functions][start:stop]
    return tuple(
        bool(flag) and not engine_skips(node) for flag, node in zip(flags, nodes, strict=True)
    )


def batched_linearly(
    function: type[Function],
    node: Node,
    groups: Sequence[Sequence[Tensor]],
    which: int,
    direct: Callable[..., tuple[Tensor, ...]] | None = None,
) -> tuple[Tensor, ...]:
    """Apply a Function that is linear in one group of its tensors, also to legacy batched ones.

    The legacy vmap of `is_grads_batched=True` does not know `Function.vmap`. So the Function is
    applied once to all unit vectors (a leading axis of our own), and the batch multiplies what
    comes out: native operations, which the legacy vmap knows.

    Args:
        function: what to apply.
        node: its first argument.
        groups: its tensors.
        which: the group in which it is linear.
        direct: what to call instead of `function.apply` where nothing is batched.
    """
    linear = groups[which]
    if not any(is_legacy_batched(tensor) for tensor in linear):
        tensors = [tensor for group in groups for tensor in group]
        return direct(node, *tensors) if direct else apply(function, node, *tensors)
    units = _units(linear)
    lifted = [
        units if i == which else [tensor.unsqueeze(0) for tensor in group]
        for i, group in enumerate(groups)
    ]
    deeper = dataclasses.replace(node, lead=node.lead + 1)
    columns = apply(function, deeper, *(t for group in lifted for t in group))
    weights = torch.cat([part for tensor in linear for part in _real_parts(tensor)])
    return tuple(_weighted(weights, column) for column in columns)


def _units(linear: Sequence[Tensor]) -> list[Tensor]:
    """Return all unit vectors of all tensors: a leading axis, the others zero."""
    parts = [2 * t.numel() if t.is_complex() else t.numel() for t in linear]
    units, start = [], 0
    for tensor, size in zip(linear, parts, strict=True):
        unit = torch.zeros(sum(parts), tensor.numel(), dtype=tensor.dtype, device=tensor.device)
        each = torch.arange(tensor.numel(), device=tensor.device)
        unit.real[start + each, each] = 1
        if tensor.is_complex():
            unit.imag[start + tensor.numel() + each, each] = 1
        units.append(unit.reshape(-1, *tensor.shape))
        start += size
    return units


def _real_parts(tensor: Tensor) -> list[Tensor]:
    flat = tensor.reshape(-1)
    return [flat.real, flat.imag] if tensor.is_complex() else [flat]


def _weighted(weights: Tensor, column: Tensor) -> Tensor:
    flat = column.reshape(column.shape[0], -1)
    if column.is_complex():
        real, imag = (weights @ part.to(weights.dtype) for part in (flat.real, flat.imag))
        return torch.complex(real, imag).reshape(column.shape[1:])
    return (weights @ flat.to(weights.dtype)).to(column.dtype).reshape(column.shape[1:])
