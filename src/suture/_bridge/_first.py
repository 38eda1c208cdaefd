"""The forward pass and first derivatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from suture import _derivatives
from suture._bridge._base import (
    Derivative,
    Maybe,
    Stacked,
    Tensors,
    among,
    chosen,
    differentiable,
    given_of,
    positions_of,
    spread,
    total,
)
from suture._bridge._guards import batched_linearly, needed, refuse_tracing
from suture._bridge._second import PullbackAlong, PushforwardAlong
from suture._compile import uncompiled
from suture._node import Node
from suture._torch import apply, is_differentiating


def call(node: Node, leaves: Sequence[Tensor]) -> Tensors:
    """Evaluate the black box as a part of torch's graph, and return the result's tensors."""
    refuse_tracing(node.frame.box.name)
    outputs: Tensors = apply(Call, node, *leaves)
    return outputs[:-1]


class Call(Stacked):
    """The forward pass: leaves to the result's tensors, and the values in float64."""

    @classmethod
    def sizes(cls, node: Node) -> list[int]:
        """Leaves."""
        return [len(node.frame.call.leaves)]

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
        outputs = ctx.node.frame.form.tensors
        fixed = [t for t, o in zip(output[:-1], outputs, strict=True) if not o.has_derivative]
        ctx.mark_non_differentiable(*fixed, output[-1])
        ctx.save_for_backward(*leaves, output[-1])
        ctx.save_for_forward(*leaves, output[-1])

    @staticmethod
    @uncompiled
    def backward(ctx: Any, *cotangents: Maybe) -> tuple[Maybe, ...]:
        """Pull back."""
        *leaves, raw = ctx.saved_tensors
        refuse_tracing(ctx.node.frame.box.name)
        asked, present = needed(ctx, 0, len(leaves)), positions_of(cotangents[:-1])
        if not present or not any(asked):
            return (None,) * (1 + len(leaves))
        # Filled by a backward with create_graph; a loss that is not linear in the output comes
        # back to this node in the second derivative.
        kept = ctx.kept.setdefault(asked, [])
        made = ctx.node
        node = dataclasses.replace(made, wanted=asked, outputs=present, kept=kept)
        gradients = _pull_back(node, [*leaves, raw], given_of(cotangents))
        return (None, *spread(gradients, asked))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Maybe) -> tuple[Maybe, ...]:
        """Push forward."""
        *leaves, raw = ctx.saved_tensors
        refuse_tracing(ctx.node.frame.box.name)
        node = dataclasses.replace(ctx.node, inputs=positions_of(tangents))
        pushed = batched_linearly(Pushforward, node, [[*leaves, raw], given_of(tangents)], 1)
        return (*spread(pushed, differentiable(node)), None)


class Pullback(Derivative):
    """Jᵀc for every wanted leaf; groups are (leaves, values) and the cotangents."""

    @classmethod
    def sizes(cls, node: Node) -> list[int]:
        """Leaves with values, cotangents."""
        return [len(node.frame.call.leaves) + 1, len(node.outputs)]

    @staticmethod
    def forward(node: Node, *tensors: Tensor) -> Tensors:
        """Estimate."""
        (*leaves, raw), cotangents = Pullback.groups(node, tensors)
        return _derivatives.pullback(node, leaves, raw, cotangents)

    @staticmethod
    @uncompiled
    def backward(ctx: Any, *tangents: Maybe) -> tuple[Maybe, ...]:
        """Differentiate uᵀJᵀc: by x it is the derivative of Jᵀc along u, by c it is Ĵu."""
        node, at, given = ctx.node, len(ctx.node.frame.call.leaves), given_of(tangents)
        here, cotangents = Pullback.groups(node, ctx.saved_tensors)
        node = dataclasses.replace(node, inputs=among(node.wanted, tangents))
        asked = needed(ctx, 0, at)
        by_leaves: list[Maybe] = [None] * at
        if given and any(asked):
            along = dataclasses.replace(node, wanted=asked)
            found = batched_linearly(PullbackAlong, along, [here, cotangents, given], 2)
            by_leaves = spread(found, asked)
        by_cotangents: list[Maybe] = [None] * len(cotangents)
        if given and any(needed(ctx, at + 1, None)):
            pushed = batched_linearly(Transpose, node, [here, given], 1)
            outputs = spread(pushed, differentiable(node))
            by_cotangents = [outputs[i] for i in node.outputs]
        return (None, *by_leaves, None, *by_cotangents)

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Maybe) -> Tensors:
        """Push tangents of x and of c through Jᵀc."""
        node = ctx.node
        here, cotangents = Pullback.groups(node, ctx.saved_tensors)
        (*of_leaves, _raw), of_cotangents = Pullback.groups(node, tangents)
        parts: list[Tensors] = []
        if moves := given_of(of_leaves):
            along = dataclasses.replace(node, inputs=positions_of(of_leaves))
            parts.append(batched_linearly(PullbackAlong, along, [here, cotangents, moves], 2))
        if moves := given_of(of_cotangents):
            linear = dataclasses.replace(node, outputs=chosen(node.outputs, of_cotangents))
            parts.append(batched_linearly(Pullback, linear, [here, moves], 1))
        return total(parts)


class Pushforward(Derivative):
    """Jv for every output with a derivative; groups are (leaves, values) and the tangents."""

    @classmethod
    def sizes(cls, node: Node) -> list[int]:
        """Leaves with values, tangents."""
        return [len(node.frame.call.leaves) + 1, len(node.inputs)]

    @staticmethod
    def forward(node: Node, *tensors: Tensor) -> Tensors:
        """Estimate."""
        (*leaves, raw), tangents = Pushforward.groups(node, tensors)
        return _derivatives.pushforward(node, leaves, raw, tangents)

    @staticmethod
    @uncompiled
    def backward(ctx: Any, *cotangents: Maybe) -> tuple[Maybe, ...]:
        """Differentiate cᵀJv: by x it is the derivative of Jᵀc along v, by v it is Jᵀc."""
        node, at, given = ctx.node, len(ctx.node.frame.call.leaves), given_of(cotangents)
        here, tangents = Pushforward.groups(node, ctx.saved_tensors)
        node = dataclasses.replace(node, outputs=among(differentiable(node), cotangents))
        asked = needed(ctx, 0, at)
        by_leaves: list[Maybe] = [None] * at
        if given and any(asked):
            along = dataclasses.replace(node, wanted=asked)
            found = batched_linearly(PullbackAlong, along, [here, given, tangents], 1)
            by_leaves = spread(found, asked)
        by_tangents: list[Maybe] = [None] * len(tangents)
        if given and any(needed(ctx, at + 1, None)):
            back = dataclasses.replace(node, wanted=node.moves, keep=True, kept=[])
            by_tangents = list(batched_linearly(Pullback, back, [here, given], 1))
        return (None, *by_leaves, None, *by_tangents)

    @staticmethod
    def jvp(ctx: Any, _: None, *seconds: Maybe) -> Tensors:
        """Push tangents of x and of v through Jv."""
        node = ctx.node
        here, tangents = Pushforward.groups(node, ctx.saved_tensors)
        (*of_leaves, _raw), of_tangents = Pushforward.groups(node, seconds)
        parts: list[Tensors] = []
        if moves := given_of(of_leaves):
            along = dataclasses.replace(node, seconds=positions_of(of_leaves))
            parts.append(batched_linearly(PushforwardAlong, along, [here, tangents, moves], 2))
        if moves := given_of(of_tangents):
            linear = dataclasses.replace(node, inputs=chosen(node.inputs, of_tangents))
            parts.append(batched_linearly(Pushforward, linear, [here, moves], 1))
        return total(parts)


class Transpose(Pushforward):
    """Ĵu by the slopes of the pullback itself: to the last digit its transpose."""

    @staticmethod
    def forward(node: Node, *tensors: Tensor) -> Tensors:
        """Push forward by the transpose of the estimate."""
        (*leaves, raw), tangents = Transpose.groups(node, tensors)
        return _derivatives.transpose(node, leaves, raw, tangents)


def _pull_back(node: Node, here: list[Tensor], given: list[Tensor]) -> Tensors:
    """Pull back; as a node of the graph only where somebody may differentiate it again."""
    if not is_differentiating():
        return batched_linearly(Pullback, node, [here, given], 1, direct=Pullback.forward)
    return batched_linearly(Pullback, dataclasses.replace(node, keep=True), [here, given], 1)
