"""What the Functions share: groups of tensors, which `vmap` gives one more leading axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from torch import Tensor
from torch.autograd import Function

from suture._node import Node
from suture._torch import apply

Tensors: TypeAlias = tuple[Tensor, ...]
Maybe: TypeAlias = Tensor | None


class Stacked(Function):
    """A Function of a node and groups of tensors, which `vmap` gives one more leading axis."""

    @classmethod
    def sizes(cls, node: Node) -> list[int]:
        """Return the number of tensors in each group."""
        raise NotImplementedError

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], node: Node, *tensors: Tensor) -> Any:
        """Apply the same Function one level deeper; see NOTE [vmap is a leading axis]."""
        stacked: list[Tensor] = []
        rest = iter(zip(tensors, in_dims[1:], strict=True))
        for size in cls.sizes(node):
            group = [next(rest) for _ in range(size)]
            mapped = any(dim is not None for _, dim in group)
            stacked += [_with_axis(tensor, dim, mapped, info.batch_size) for tensor, dim in group]
        deeper = dataclasses.replace(node, lead=node.lead + 1)
        outputs: Tensors = apply(cls, deeper, *stacked)
        return outputs, (0,) * len(outputs)


class Derivative(Stacked):
    """A derivative: (node, *leaves, values, *linear, …), linear in each group but the first."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Save everything."""
        ctx.node, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @classmethod
    def groups(cls, node: Node, tensors: Sequence[Any]) -> list[list[Any]]:
        """Cut the tensors into their groups."""
        rest = iter(tensors)
        return [[next(rest) for _ in range(size)] for size in cls.sizes(node)]


def _with_axis(tensor: Tensor, dim: int | None, mapped: bool, size: int) -> Tensor:
    if dim is not None:
        return tensor.movedim(dim, 0)
    row = tensor.unsqueeze(0)
    return row.expand(size, *tensor.shape) if mapped else row


def differentiable(node: Node) -> tuple[bool, ...]:
    return tuple(output.has_derivative for output in node.frame.form.tensors)


def positions_of(tensors: Sequence[Maybe]) -> tuple[int, ...]:
    return tuple(i for i, tensor in enumerate(tensors) if tensor is not None)


def given_of(tensors: Sequence[Maybe]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def among(flags: Sequence[bool], tensors: Sequence[Maybe]) -> tuple[int, ...]:
    """Return the positions of the flags that are set and whose tensor is there."""
    return chosen([i for i, flag in enumerate(flags) if flag], tensors)


def chosen(positions: Sequence[int], tensors: Sequence[Maybe]) -> tuple[int, ...]:
    return tuple(i for i, tensor in zip(positions, tensors, strict=True) if tensor is not None)


def spread(tensors: Iterable[Tensor], where: Iterable[bool]) -> list[Maybe]:
    """Put tensors where the flags are set, None elsewhere."""
    rest = iter(tensors)
    return [next(rest) if here else None for here in where]


def total(parts: list[Tensors]) -> Tensors:
    if len(parts) == 1:
        return parts[0]
    return tuple(first + second for first, second in zip(*parts, strict=True))
