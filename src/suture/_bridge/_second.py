"""Second derivatives: central differences of first ones, linear in all but the leaves."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from suture import _derivatives
from suture._bridge._base import (
    Derivative,
    Maybe,
    Tensors,
    among,
    chosen,
    differentiable,
    given_of,
    spread,
    total,
)
from suture._bridge._guards import batched_linearly, needed
from suture._compile import uncompiled
from suture._node import Node
from suture.errors import TransformError


class PullbackAlong(Derivative):
    """The derivative of Jᵀc along u; groups are (leaves, values), the cotangents, the tangents."""

    @classmethod
    def sizes(cls, node: Node) -> list[int]:
        """Leaves with values, cotangents, tangents."""
        return [len(node.frame.call.leaves) + 1, len(node.outputs), len(node.inputs)]

    @staticmethod
    def forward(node: Node, *tensors: Tensor) -> Tensors:
        """Difference two pullbacks."""
        (*leaves, _), cotangents, tangents = PullbackAlong.groups(node, tensors)
        return _derivatives.pullback_along(node, leaves, cotangents, tangents)

    @staticmethod
    @uncompiled
    def backward(ctx: Any, *seconds: Maybe) -> tuple[Maybe, ...]:
        """Differentiate by c and by u, in which it is linear: second derivatives again."""
        node, at, given = ctx.node, len(ctx.node.frame.call.leaves), given_of(seconds)
        here, cotangents, tangents = PullbackAlong.groups(node, ctx.saved_tensors)
        _refuse_third(node, any(needed(ctx, 0, at)))
        which = among(node.wanted, seconds)
        by_cotangents: list[Maybe] = [None] * len(cotangents)
        end = at + 1 + len(cotangents)
        if given and any(needed(ctx, at + 1, end)):
            along = dataclasses.replace(node, inputs=which, seconds=node.inputs)
            pushed = batched_linearly(PushforwardAlong, along, [here, given, tangents], 1)
            outputs = spread(pushed, differentiable(node))
            by_cotangents = [outputs[i] for i in node.outputs]
        by_tangents: list[Maybe] = [None] * len(tangents)
        if given and any(needed(ctx, end, None)):
            along = dataclasses.replace(node, wanted=node.moves, inputs=which)
            by_tangents = list(batched_linearly(PullbackAlong, along, [here, cotangents, given], 2))
        return (None, *[None] * (at + 1), *by_cotangents, *by_tangents)

    @staticmethod
    def jvp(ctx: Any, _: None, *moves: Maybe) -> Tensors:
        """Push tangents of c and of u through it."""
        node = ctx.node
        here, cotangents, tangents = PullbackAlong.groups(node, ctx.saved_tensors)
        of_leaves, of_cotangents, of_tangents = PullbackAlong.groups(node, moves)
        _refuse_third(node, bool(given_of(of_leaves)))
        parts: list[Tensors] = []
        if given := given_of(of_cotangents):
            linear = dataclasses.replace(node, outputs=chosen(node.outputs, of_cotangents))
            parts.append(batched_linearly(PullbackAlong, linear, [here, given, tangents], 1))
        if given := given_of(of_tangents):
            linear = dataclasses.replace(node, inputs=chosen(node.inputs, of_tangents))
            parts.append(batched_linearly(PullbackAlong, linear, [here, cotangents, given], 2))
        return total(parts)


class PushforwardAlong(Derivative):
    """The derivative of Jv along w; groups are (leaves, values), the v, the w."""

    @classmethod
    def sizes(cls, node: Node) -> list[int]:
        """Leaves with values, tangents, second tangents."""
        return [len(node.frame.call.leaves) + 1, len(node.inputs), len(node.seconds)]

    @staticmethod
    def forward(node: Node, *tensors: Tensor) -> Tensors:
        """Difference two pushforwards."""
        (*leaves, _), tangents, seconds = PushforwardAlong.groups(node, tensors)
        return _derivatives.pushforward_along(node, leaves, tangents, seconds)

    @staticmethod
    @uncompiled
    def backward(ctx: Any, *cotangents: Maybe) -> tuple[Maybe, ...]:
        """Differentiate by v and by w, in which it is linear: second derivatives again."""
        node, at, given = ctx.node, len(ctx.node.frame.call.leaves), given_of(cotangents)
        here, tangents, seconds = PushforwardAlong.groups(node, ctx.saved_tensors)
        _refuse_third(node, any(needed(ctx, 0, at)))
        node = dataclasses.replace(node, outputs=among(differentiable(node), cotangents))
        end = at + 1 + len(tangents)
        by_both: list[list[Maybe]] = []
        for own, other, moves, start, stop in (
            (node.inputs, node.seconds, seconds, at + 1, end),
            (node.seconds, node.inputs, tangents, end, None),
        ):
            if given and any(needed(ctx, start, stop)):
                along = dataclasses.replace(node, wanted=node.flags(own), inputs=other)
                by_both.append(
                    list(batched_linearly(PullbackAlong, along, [here, given, moves], 1))
                )
            else:
                by_both.append([None] * len(own))
        return (None, *[None] * (at + 1), *by_both[0], *by_both[1])

    @staticmethod
    def jvp(ctx: Any, _: None, *moves: Maybe) -> Tensors:
        """Push tangents of v and of w through it."""
        node = ctx.node
        here, tangents, seconds = PushforwardAlong.groups(node, ctx.saved_tensors)
        of_leaves, of_tangents, of_seconds = PushforwardAlong.groups(node, moves)
        _refuse_third(node, bool(given_of(of_leaves)))
        parts: list[Tensors] = []
        if given := given_of(of_tangents):
            linear = dataclasses.replace(node, inputs=chosen(node.inputs, of_tangents))
            parts.append(batched_linearly(PushforwardAlong, linear, [here, given, seconds], 1))
        if given := given_of(of_seconds):
            linear = dataclasses.replace(node, seconds=chosen(node.seconds, of_seconds))
            parts.append(batched_linearly(PushforwardAlong, linear, [here, tangents, given], 2))
        return total(parts)


def _refuse_third(node: Node, asked: bool) -> None:
    if asked:
        raise TransformError(
            f"`{node.frame.box.name}` was differentiated a third time.",
            "Numerical derivatives of third order would be mostly noise, so there are none.",
            "Call `.detach()` on the second derivative, or write the function in torch.",
        )
