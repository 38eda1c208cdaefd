"""The bridge to autograd: the only file that subclasses `torch.autograd.Function`.

    Call ──backward──► Pullback ──────► PullbackAlong      the derivative of Jᵀc by x
      │                    └──────────► Transpose          and by c
      └────jvp───────► Pushforward ───► PushforwardAlong   the derivative of Jv by x

NOTE [one Function is not enough]: a backward that computes its derivative with NumPy is a
constant in the eyes of autograd, and a second derivative through it is silently zero. So the
backward of each Function is another Function, whose own backward is right or raises. Third
derivatives raise.

NOTE [vmap is a leading axis]: the `vmap` of every Function calls the same Function again, with
one more leading axis on its tensors. The tensors of a group (leaves, cotangents, tangents) have
it in full, or of size 1 where none of the group is mapped: nothing is evaluated twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from suture import _derivatives
from suture._derivatives import Node
from suture._guards import batched_linearly, needed, refuse_tracing
from suture.errors import TransformError

Tensors: TypeAlias = tuple[Tensor, ...]
Maybe: TypeAlias = Tensor | None


def call(node: Node, leaves: Sequence[Tensor]) -> Tensors:
    """Evaluate the black box as a part of torch's graph, and return the result's tensors."""
    refuse_tracing(node.frame.box.name)
    outputs: Tensors = Call.apply(node, *leaves)  # type: ignore[no-untyped-call]
    return outputs[:-1]


class Call(Function):
    """The forward pass: leaves to the result's tensors, and the values in float64."""

    @staticmethod
    def forward(node: Node, *leaves: Tensor) -> Tensors:
        """Evaluate."""
        return _derivatives.forward(node.frame, node.lead, leaves)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Save the leaves and node 0."""
        ctx.node, *leaves = inputs
        ctx.kept = {}
        ctx.set_materialize_grads(False)
        form = ctx.node.frame.form
        fixed = [t for t, o in zip(output[:-1], form.tensors, strict=True) if not o.has_derivative]
        ctx.mark_non_differentiable(*fixed, output[-1])
        ctx.save_for_backward(*leaves, output[-1])
        ctx.save_for_forward(*leaves, output[-1])

    @staticmethod
    def backward(ctx: Any, *cotangents: Maybe) -> tuple[Maybe, ...]:
        """Pull back."""
        *leaves, raw = ctx.saved_tensors
        refuse_tracing(ctx.node.frame.box.name)
        asked = needed(ctx, 0, len(leaves))
        present = _present(cotangents[:-1])
        if not present or not any(asked):
            return (None,) * (1 + len(leaves))
        # Filled by a backward with create_graph; a loss that is not linear in the output comes
        # back to this node in the second derivative.
        kept = ctx.kept.setdefault(asked, [])
        node = dataclasses.replace(ctx.node, wanted=asked, outputs=present, kept=kept)
        gradients = _pullback(node, leaves, raw, _given(cotangents))
        return (None, *_spread(gradients, asked))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Maybe) -> tuple[Maybe, ...]:
        """Push forward."""
        *leaves, raw = ctx.saved_tensors
        refuse_tracing(ctx.node.frame.box.name)
        node = dataclasses.replace(ctx.node, inputs=_present(tangents))
        pushed = batched_linearly(Pushforward, node, [*leaves, raw], _given(tangents))
        return (*_spread(pushed, _differentiable(node)), None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], node: Node, *leaves: Tensor) -> Any:
        """Add a leading axis."""
        return _mapped(Call, info, in_dims, node, leaves, [len(leaves)])


class Pullback(Function):
    """(node, *leaves, values, *cotangents) to Jᵀc for every wanted leaf."""

    @staticmethod
    def forward(node: Node, *tensors: Tensor) -> Tensors:
        """Estimate."""
        *leaves, raw = tensors[: _count(node) + 1]
        return _derivatives.pullback(node, leaves, raw, tensors[_count(node) + 1 :])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Save everything."""
        _save(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, *tangents: Maybe) -> tuple[Maybe, ...]:
        """Differentiate uᵀJᵀc: by x the derivative of Jᵀc along u, by c the transpose Ĵu."""
        node, count = ctx.node, _count(ctx.node)
        leaves, raw, cotangents = _split(node, ctx.saved_tensors)
        wanted = [i for i, want in enumerate(node.wanted) if want]
        node = dataclasses.replace(node, inputs=tuple(wanted[i] for i in _present(tangents)))
        asked = needed(ctx, 0, count)
        by_leaves: Iterable[Maybe] = [None] * count
        if node.inputs and any(asked):
            along = dataclasses.replace(node, wanted=asked)
            found = batched_linearly(PullbackAlong, along, [*leaves, *cotangents], _given(tangents))
            by_leaves = _spread(found, asked)
        by_cotangents: list[Maybe] = [None] * len(cotangents)
        if node.inputs and any(needed(ctx, count + 1, None)):
            pushed = batched_linearly(Transpose, node, [*leaves, raw], _given(tangents))
            outputs = _spread(pushed, _differentiable(node))
            by_cotangents = [outputs[i] for i in node.outputs]
        return (None, *by_leaves, None, *by_cotangents)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Maybe) -> Tensors:
        """Push tangents of x and of c through Jᵀc."""
        node, count = ctx.node, _count(ctx.node)
        leaves, raw, cotangents = _split(node, ctx.saved_tensors)
        of_leaves, of_cotangents = tangents[:count], tangents[count + 1 :]
        parts: list[Tensors] = []
        if _given(of_leaves):
            along = dataclasses.replace(node, inputs=_present(of_leaves))
            parts.append(
                batched_linearly(PullbackAlong, along, [*leaves, *cotangents], _given(of_leaves))
            )
        if _given(of_cotangents):
            some = tuple(node.outputs[i] for i in _present(of_cotangents))
            linear = dataclasses.replace(node, outputs=some)
            parts.append(batched_linearly(Pullback, linear, [*leaves, raw], _given(of_cotangents)))
        return _sum(parts)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], node: Node, *tensors: Tensor) -> Any:
        """Add a leading axis."""
        return _mapped(
            Pullback, info, in_dims, node, tensors, [_count(node) + 1, len(node.outputs)]
        )


class Pushforward(Function):
    """(node, *leaves, values, *tangents) to Jv for every output with a derivative."""

    @staticmethod
    def forward(node: Node, *tensors: Tensor) -> Tensors:
        """Estimate."""
        *leaves, raw = tensors[: _count(node) + 1]
        return _derivatives.pushforward(node, leaves, raw, tensors[_count(node) + 1 :])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Save everything."""
        _save(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Maybe) -> tuple[Maybe, ...]:
        """Differentiate cᵀJv: by x the derivative of Jᵀc along v, by v the pullback Jᵀc."""
        node, count = ctx.node, _count(ctx.node)
        leaves, raw, tangents = _split(node, ctx.saved_tensors)
        which = [i for i, has in enumerate(_differentiable(node)) if has]
        node = dataclasses.replace(node, outputs=tuple(which[i] for i in _present(cotangents)))
        given, asked = _given(cotangents), needed(ctx, 0, count)
        by_leaves: Iterable[Maybe] = [None] * count
        if given and any(asked):
            # Linear in the cotangents; the tangents come last in the call.
            along = dataclasses.replace(node, wanted=asked)
            found: Tensors = PullbackAlong.apply(along, *leaves, *given, *tangents)  # type: ignore[no-untyped-call]
            by_leaves = _spread(found, asked)
        by_tangents: list[Maybe] = [None] * len(tangents)
        if given and any(needed(ctx, count + 1, None)):
            back = dataclasses.replace(node, wanted=node.moves, keep=True, kept=[])
            by_tangents = list(batched_linearly(Pullback, back, [*leaves, raw], given))
        return (None, *by_leaves, None, *by_tangents)

    @staticmethod
    def jvp(ctx: Any, _: None, *seconds: Maybe) -> Tensors:
        """Push tangents of x and of v through Jv."""
        node, count = ctx.node, _count(ctx.node)
        leaves, raw, tangents = _split(node, ctx.saved_tensors)
        of_leaves, of_tangents = seconds[:count], seconds[count + 1 :]
        parts: list[Tensors] = []
        if _given(of_leaves):
            along = dataclasses.replace(node, seconds=_present(of_leaves))
            parts.append(
                batched_linearly(PushforwardAlong, along, [*leaves, *tangents], _given(of_leaves))
            )
        if _given(of_tangents):
            some = tuple(node.inputs[i] for i in _present(of_tangents))
            linear = dataclasses.replace(node, inputs=some)
            parts.append(batched_linearly(Pushforward, linear, [*leaves, raw], _given(of_tangents)))
        return _sum(parts)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], node: Node, *tensors: Tensor) -> Any:
        """Add a leading axis."""
        sizes = [_count(node) + 1, len(node.inputs)]
        return _mapped(Pushforward, info, in_dims, node, tensors, sizes)


class Transpose(Function):
    """(node, *leaves, values, *tangents) to Ĵu, by the slopes of the pullback itself."""

    @staticmethod
    def forward(node: Node, *tensors: Tensor) -> Tensors:
        """Push forward by the transpose of the estimate."""
        *leaves, raw = tensors[: _count(node) + 1]
        return _derivatives.transpose(node, leaves, raw, tensors[_count(node) + 1 :])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Remember whose it is."""
        ctx.node = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Maybe) -> Any:
        """Refuse."""
        raise _third_derivative(ctx.node)

    @staticmethod
    def jvp(ctx: Any, *_: Maybe) -> Any:
        """Refuse."""
        raise _third_derivative(ctx.node)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], node: Node, *tensors: Tensor) -> Any:
        """Add a leading axis."""
        sizes = [_count(node) + 1, len(node.inputs)]
        return _mapped(Transpose, info, in_dims, node, tensors, sizes)


class PullbackAlong(Function):
    """(node, *leaves, *cotangents, *tangents) to the derivative of Jᵀc along the tangents."""

    @staticmethod
    def forward(node: Node, *tensors: Tensor) -> Tensors:
        """Difference two pullbacks."""
        leaves, rest = tensors[: _count(node)], tensors[_count(node) :]
        cotangents, tangents = rest[: len(node.outputs)], rest[len(node.outputs) :]
        return _derivatives.pullback_along(node, leaves, cotangents, tangents)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Remember whose it is."""
        ctx.node = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Maybe) -> Any:
        """Refuse."""
        raise _third_derivative(ctx.node)

    @staticmethod
    def jvp(ctx: Any, *_: Maybe) -> Any:
        """Refuse."""
        raise _third_derivative(ctx.node)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], node: Node, *tensors: Tensor) -> Any:
        """Add a leading axis."""
        sizes = [_count(node), len(node.outputs), len(node.inputs)]
        return _mapped(PullbackAlong, info, in_dims, node, tensors, sizes)


class PushforwardAlong(Function):
    """(node, *leaves, *tangents, *seconds) to the derivative of Jv along second tangents."""

    @staticmethod
    def forward(node: Node, *tensors: Tensor) -> Tensors:
        """Difference two pushforwards."""
        leaves, rest = tensors[: _count(node)], tensors[_count(node) :]
        tangents, seconds = rest[: len(node.inputs)], rest[len(node.inputs) :]
        return _derivatives.pushforward_along(node, leaves, tangents, seconds)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        """Remember whose it is."""
        ctx.node = inputs[0]

    @staticmethod
    def backward(ctx: Any, *_: Maybe) -> Any:
        """Refuse."""
        raise _third_derivative(ctx.node)

    @staticmethod
    def jvp(ctx: Any, *_: Maybe) -> Any:
        """Refuse."""
        raise _third_derivative(ctx.node)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], node: Node, *tensors: Tensor) -> Any:
        """Add a leading axis."""
        sizes = [_count(node), len(node.inputs), len(node.seconds)]
        return _mapped(PushforwardAlong, info, in_dims, node, tensors, sizes)


def _pullback(node: Node, leaves: Sequence[Tensor], raw: Tensor, given: list[Tensor]) -> Tensors:
    """Pull back; as a node of the graph only where somebody may differentiate it again."""
    if not (
        torch.is_grad_enabled()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    ):
        return batched_linearly(Pullback, node, [*leaves, raw], given, direct=Pullback.forward)
    node = dataclasses.replace(node, keep=True)
    return batched_linearly(Pullback, node, [*leaves, raw], given)


def _third_derivative(node: Node) -> TransformError:
    return TransformError(
        f"`{node.frame.box.name}` was differentiated a third time.",
        "Numerical derivatives of third order would be mostly noise, so they do not exist here.",
        "Detach the second derivative, or give a rule that torch can differentiate: write the "
        "function with torch operations.",
    )


def _count(node: Node) -> int:
    return len(node.frame.leaves)


def _differentiable(node: Node) -> list[bool]:
    return [output.has_derivative for output in node.frame.form.tensors]


def _present(tensors: Sequence[Maybe]) -> tuple[int, ...]:
    return tuple(i for i, tensor in enumerate(tensors) if tensor is not None)


def _given(tensors: Sequence[Maybe]) -> list[Tensor]:
    return [tensor for tensor in tensors if tensor is not None]


def _spread(tensors: Iterable[Tensor], where: Iterable[bool]) -> list[Maybe]:
    """Put tensors where the flags are set, None elsewhere."""
    rest = iter(tensors)
    return [next(rest) if here else None for here in where]


def _sum(parts: list[Tensors]) -> Tensors:
    if len(parts) == 1:
        return parts[0]
    return tuple(first + second for first, second in zip(*parts, strict=True))


def _save(ctx: Any, inputs: tuple[Any, ...]) -> None:
    ctx.node, *tensors = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def _split(node: Node, saved: Sequence[Tensor]) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    count = _count(node)
    return list(saved[:count]), saved[count], list(saved[count + 1 :])


def _mapped(
    function: type[Function],
    info: Any,
    in_dims: tuple[Any, ...],
    node: Node,
    tensors: Sequence[Tensor],
    sizes: Sequence[int],
) -> tuple[Tensors, tuple[int, ...]]:
    """Call the same Function with one more leading axis.

    See NOTE [vmap is a leading axis].
    """
    stacked: list[Tensor] = []
    dims = iter(in_dims[1:])
    rest = iter(tensors)
    for size in sizes:
        group = [(next(rest), next(dims)) for _ in range(size)]
        mapped = any(dim is not None for _, dim in group)
        for tensor, dim in group:
            if dim is not None:
                stacked.append(tensor.movedim(dim, 0))
            else:
                row = tensor.unsqueeze(0)
                stacked.append(row.expand(info.batch_size, *tensor.shape) if mapped else row)
    deeper = dataclasses.replace(node, lead=node.lead + 1)
    outputs: Tensors = function.apply(deeper, *stacked)  # type: ignore[no-untyped-call]
    return outputs, (0,) * len(outputs)
