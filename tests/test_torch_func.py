"""The composition matrix: every transform of torch, over every kind of method.

Each transform is a function of (f, a, b) that is run twice, on the black box and on a torch twin
that autograd differentiates, and must give the same numbers. Where a method cannot serve a
transform it must raise `TransformError`: forward mode through a rule without `jvp`, nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as fwad
from torch import Tensor
from torch.autograd.functional import hessian, hvp, jacobian, jvp, vhp, vjp
from torch.func import grad, jacfwd, jacrev, vmap
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from suture import (
    CustomVJP,
    Differentiable,
    FiniteDifference,
    differentiable,
    directions,
    errors,
    stencils,
)

# Forward mode loads decompositions that torch itself still scripts (2.13).
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
)

EPSILON = torch.finfo(torch.float64).eps
BOTH = (0, 1)


# The black box, its torch twin, and its derivatives: two inputs of two elements, two outputs.
# Leading axes are rows, so that the same function serves `vectorized` and `batch_dims`.


def black(a: Any, b: Any) -> Any:
    a0, a1, b0, b1 = a[..., 0], a[..., 1], b[..., 0], b[..., 1]
    u = np.stack([np.sin(a0) * b0, a1**2 * b1, np.exp(b1) + 0 * a0], -1)
    return u, a0 * a1 * b0 + np.cos(b1)


def twin(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a0, a1, b0, b1 = a[..., 0], a[..., 1], b[..., 0], b[..., 1]
    u = torch.stack([a0.sin() * b0, a1**2 * b1, b1.exp() + 0 * a0], -1)
    return u, a0 * a1 * b0 + b1.cos()


def black_vjp(args: Any, output: Any, cotangent: Any) -> Any:
    (a, b), (c, d) = args, cotangent
    by_a = [np.cos(a[0]) * b[0] * c[0] + a[1] * b[0] * d, 2 * a[1] * b[1] * c[1] + a[0] * b[0] * d]
    by_b = [
        np.sin(a[0]) * c[0] + a[0] * a[1] * d,
        a[1] ** 2 * c[1] + np.exp(b[1]) * c[2] - np.sin(b[1]) * d,
    ]
    return np.array(by_a), np.array(by_b)


def black_jvp(args: Any, output: Any, tangents: Any) -> Any:
    (a, b), (s, t) = args, tangents
    u = [
        np.cos(a[0]) * b[0] * s[0] + np.sin(a[0]) * t[0],
        2 * a[1] * b[1] * s[1] + a[1] ** 2 * t[1],
        np.exp(b[1]) * t[1],
    ]
    v = a[1] * b[0] * s[0] + a[0] * b[0] * s[1] + a[0] * a[1] * t[0] - np.sin(b[1]) * t[1]
    return np.array(u), np.asarray(v)


def black_half_vjp(args: Any, output: Any, cotangent: Any) -> Any:
    return black_vjp(args, output, cotangent)[0], NotImplemented


@dataclasses.dataclass(frozen=True)
class Kind:
    """A method, the order q of its stencil, and whether it serves forward mode."""

    method: Any
    order: float
    forward_mode: bool = True

    def tolerance(self, derivative: int) -> float:
        """Bound the error by ten times where truncation and noise balance.

        One derivative: h^q = noise/h. Two: h^q = t² = noise/(h t), with a central difference of
        step t outside; t² = noise/t where the first derivative is exact (q = inf). The factor
        covers the derivatives of these functions and sums over a few elements.
        """
        inverse = 0.0 if math.isinf(self.order) else 1 / self.order
        if derivative == 1:
            return 10 * EPSILON ** (1 / (1 + inverse))
        return 10 * EPSILON ** (2 / (3 + 2 * inverse))


KINDS = {
    "forward": Kind(FiniteDifference(stencils.FORWARD), 1),
    "backward": Kind(FiniteDifference(stencils.BACKWARD), 1),
    "central": Kind(FiniteDifference(stencils.CENTRAL), 2),
    "central4": Kind(FiniteDifference(stencils.central(4)), 4),
    "richardson2": Kind(FiniteDifference(stencils.richardson(2)), 4),
    "complex_step": Kind(FiniteDifference(stencils.COMPLEX_STEP), math.inf),
    "orthogonal": Kind(
        FiniteDifference(stencils.CENTRAL, directions.Orthogonal(4, "least_squares")), 2
    ),
    "rule": Kind(CustomVJP(black_vjp, black_jvp), math.inf),
    "half_rule": Kind(CustomVJP(black_half_vjp), 1, forward_mode=False),
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
FEW_KINDS = {name: KINDS[name] for name in ("forward", "central", "complex_step")}
few_kinds = pytest.mark.parametrize("kind", FEW_KINDS.values(), ids=FEW_KINDS.keys())
DIFFERENCES = {name: kind for name, kind in KINDS.items() if "rule" not in name}
each_kind_of_difference = pytest.mark.parametrize(
    "kind", DIFFERENCES.values(), ids=DIFFERENCES.keys()
)


# Transforms. Each takes the function, and its arguments as plain tensors.


@dataclasses.dataclass(frozen=True)
class Transform:
    run: Callable[..., Any]
    derivative: int
    forward_mode: bool


TRANSFORMS: dict[str, Transform] = {}


def transform(derivative: int, *, forward_mode: bool = False) -> Callable[[Any], Any]:
    """Enter a function of (f, a, b) in the matrix, under its own name."""

    def enter(run: Callable[..., Any]) -> Callable[..., Any]:
        TRANSFORMS[run.__name__] = Transform(run, derivative, forward_mode)
        return run

    return enter


def loss(f: Any) -> Callable[..., Tensor]:
    """Return a scalar function in which both outputs enter nonlinearly, and the inputs directly."""

    def scalar(a: Tensor, b: Tensor) -> Tensor:
        u, v = f(a, b)
        return (u**2).sum() + (v * (a**2).sum(-1)).sum() + (b.sin().sum() * u[..., 1]).sum()

    return scalar


def linear(f: Any) -> Callable[..., Tensor]:
    """Return a scalar function that is linear in the outputs."""

    def scalar(a: Tensor, b: Tensor) -> Tensor:
        u, v = f(a, b)
        return (u.sum(-1) + 2 * v).sum()

    return scalar


def wants(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.detach().clone().requires_grad_() for t in tensors)


def like(x: Tensor, seed: int) -> Tensor:
    return torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))


def some_rows(x: Tensor, count: int, seed: int) -> Tensor:
    return torch.stack([x + 0.3 * like(x, seed + i) for i in range(count)])


@transform(1)
def backward(f, a, b):
    a, b = wants(a, b)
    loss(f)(a, b).backward()
    return a.grad, b.grad


@transform(1)
def backward_twice_retained(f, a, b):
    a, b = wants(a, b)
    value = loss(f)(a, b)
    value.backward(retain_graph=True)
    value.backward()
    return a.grad, b.grad


@transform(1)
def backward_used_twice(f, a, b):
    a, b = wants(a, b)
    (loss(f)(a, b) * linear(f)(a, b)).backward()
    return a.grad, b.grad


@transform(1)
def backward_of_one_output(f, a, b):
    a, b = wants(a, b)
    f(a, b)[1].sum().backward()
    return a.grad, b.grad


@transform(1)
def backward_inputs(f, a, b):
    a, b = wants(a, b)
    loss(f)(a, b).backward(inputs=[b])
    assert a.grad is None
    return b.grad


@transform(1)
def backward_through_layers(f, a, b):
    a, b = wants(a, b)
    (f(a.sin() + b[0], b * a.sum())[0] * a.sum()).sum().backward()
    return a.grad, b.grad


@transform(1)
def autograd_grad_of_a_subset(f, a, b):
    a, b = wants(a, b)
    return torch.autograd.grad(loss(f)(a, b), b)


@transform(1)
def autograd_grad_of_intermediates(f, a, b):
    a, b = wants(a, b)
    middle = a * 2
    return torch.autograd.grad(loss(f)(middle, b), (middle, b))


@transform(2)
def create_graph(f, a, b):
    a, b = wants(a, b)
    first = torch.autograd.grad(loss(f)(a, b), (a, b), create_graph=True)
    weights = [like(g, 4) for g in first]
    second = torch.autograd.grad(first, (a, b), weights)
    return first, second


@transform(2)
def create_graph_of_a_linear_loss(f, a, b):
    a, b = wants(a, b)
    first = torch.autograd.grad(linear(f)(a, b), (a, b), create_graph=True)
    return torch.autograd.grad(first, (a, b), [like(g, 4) for g in first])


@transform(2)
def create_graph_of_a_subset(f, a, b):
    a, b = wants(a, b)
    (first,) = torch.autograd.grad(loss(f)(a, b), a, create_graph=True)
    return torch.autograd.grad(first.square().sum(), b)


@transform(2)
def create_graph_in_turn(f, a, b):
    """Through one node, by different outputs and to different inputs."""
    a, b = wants(a, b)
    u, v = f(a, b)
    by_u = torch.autograd.grad(u.square().sum(), a, create_graph=True)
    by_v = torch.autograd.grad(v.square().sum(), (a, b), create_graph=True)
    by_both = torch.autograd.grad(u.square().sum() + v.sum(), b, create_graph=True)
    firsts = (*by_v, *by_u, *by_both)
    return [
        torch.autograd.grad(first, (a, b), like(first, 4), retain_graph=True) for first in firsts
    ]


@transform(2)
def backward_of_a_gradient_penalty(f, a, b):
    a, b = wants(a, b)
    first = torch.autograd.grad(loss(f)(a, b), (a, b), create_graph=True)
    (loss(f)(a, b) + first[0].square().sum() + first[1].square().sum()).backward()
    return a.grad, b.grad


@transform(2)
def gradient_of_the_cotangent(f, a, b):
    a, b = wants(a, b)
    u, v = f(a, b)
    c, d = wants(like(u, 1), like(v, 2))
    first = torch.autograd.grad((u, v), (a, b), (c, d), create_graph=True)
    return torch.autograd.grad(first, (c, d, a, b), [like(g, 4) for g in first])


@transform(1)
def func_grad(f, a, b):
    return grad(loss(f), BOTH)(a, b), grad(loss(f), 1)(a, b)


@transform(1)
def func_grad_and_value(f, a, b):
    return torch.func.grad_and_value(loss(f), BOTH)(a, b)


@transform(1)
def func_vjp(f, a, b):
    outputs, pullback = torch.func.vjp(f, a, b)
    return outputs, pullback(tuple(like(y, 7) for y in outputs))


@transform(1)
def func_vjp_twice(f, a, b):
    outputs, pullback = torch.func.vjp(f, a, b)
    return [pullback(tuple(like(y, seed) for y in outputs)) for seed in (1, 2)]


@transform(1)
def func_vmap_of_a_pullback(f, a, b):
    outputs, pullback = torch.func.vjp(f, a, b)
    return vmap(pullback)(tuple(some_rows(y, 3, 7) for y in outputs))


@transform(1, forward_mode=True)
def func_jvp(f, a, b):
    return torch.func.jvp(f, (a, b), (like(a, 3), like(b, 4)))


@transform(1, forward_mode=True)
def func_jvp_by_one_argument(f, a, b):
    return torch.func.jvp(lambda b: f(a, b), (b,), (like(b, 4),))


@transform(1, forward_mode=True)
def func_jvp_of_zero(f, a, b):
    return torch.func.jvp(f, (a, b), (a * 0, b * 0))


@transform(1)
def func_jacrev(f, a, b):
    return jacrev(f, BOTH)(a, b)


@transform(1)
def func_jacrev_in_chunks(f, a, b):
    return jacrev(f, BOTH, chunk_size=1)(a, b), jacrev(f, BOTH, chunk_size=2)(a, b)


@transform(1, forward_mode=True)
def func_jacfwd(f, a, b):
    return jacfwd(f, BOTH)(a, b)


@transform(2, forward_mode=True)
def func_hessian(f, a, b):
    return torch.func.hessian(loss(f), BOTH)(a, b)


@transform(2, forward_mode=True)
def jacfwd_of_jacrev(f, a, b):
    return jacfwd(jacrev(f, BOTH), BOTH)(a, b)


@transform(2)
def jacrev_of_jacrev(f, a, b):
    return jacrev(jacrev(f, BOTH), BOTH)(a, b), jacrev(jacrev(loss(f), BOTH), BOTH)(a, b)


@transform(2, forward_mode=True)
def jacfwd_of_jacfwd(f, a, b):
    return jacfwd(jacfwd(f, BOTH), BOTH)(a, b), jacfwd(jacfwd(loss(f), BOTH), BOTH)(a, b)


@transform(2, forward_mode=True)
def jacrev_of_jacfwd(f, a, b):
    return jacrev(jacfwd(f, BOTH), BOTH)(a, b), jacrev(jacfwd(loss(f), BOTH), BOTH)(a, b)


@transform(2, forward_mode=True)
def jvp_of_grad(f, a, b):
    return torch.func.jvp(grad(loss(f), BOTH), (a, b), (like(a, 1), like(b, 2)))


@transform(2)
def vjp_of_grad(f, a, b):
    first, pullback = torch.func.vjp(grad(loss(f), BOTH), a, b)
    return first, pullback((like(a, 1), like(b, 2)))


@transform(2, forward_mode=True)
def grad_of_jvp(f, a, b):
    def along(a, b):
        return torch.func.jvp(loss(f), (a, b), (like(a, 1), like(b, 2)))[1]

    return grad(along, BOTH)(a, b)


@transform(2, forward_mode=True)
def grad_by_the_tangent(f, a, b):
    def along(s, t):
        return torch.func.jvp(loss(f), (a, b), (s, t))[1]

    return grad(along, BOTH)(like(a, 1), like(b, 2))


@transform(1)
def vmap_alone(f, a, b):
    return vmap(f)(some_rows(a, 3, 1), some_rows(b, 3, 2))


@transform(1)
def vmap_shared(f, a, b):
    return (
        vmap(f, (0, None))(some_rows(a, 3, 1), b),
        vmap(f, (None, 0))(a, some_rows(b, 3, 1)),
        vmap(f, (1, 0))(some_rows(a, 3, 1).movedim(0, 1), some_rows(b, 3, 1)),
        vmap(f, (-1, None), (-1, 0))(some_rows(a, 3, 1).movedim(0, -1), b),
    )


@transform(1)
def vmap_nested(f, a, b):
    return vmap(vmap(f, (0, None)), (None, 0))(some_rows(a, 3, 1), some_rows(b, 2, 2))


@transform(1)
def vmap_in_chunks(f, a, b):
    return vmap(f, (0, None), chunk_size=2)(some_rows(a, 3, 1), b)


@transform(1)
def backward_of_vmap(f, a, b):
    a, b = wants(some_rows(a, 3, 1), b)
    u, v = vmap(f, (0, None))(a, b)
    (u.square().sum() + v.sum()).backward()
    return a.grad, b.grad


@transform(1)
def backward_of_nested_vmap(f, a, b):
    a, b = wants(some_rows(a, 3, 1), some_rows(b, 2, 2))
    u, v = vmap(vmap(f, (0, None)), (None, 0))(a, b)
    (u.square().sum() + v.sum()).backward()
    return a.grad, b.grad


@transform(1)
def vmap_of_grad(f, a, b):
    rows = some_rows(a, 3, 1), some_rows(b, 3, 2)
    return vmap(grad(loss(f), BOTH))(*rows), vmap(grad(loss(f), BOTH), (0, None))(rows[0], b)


@transform(1)
def nested_vmap_of_grad(f, a, b):
    inner = vmap(grad(loss(f), BOTH), (0, None))
    return vmap(inner, (None, 0))(some_rows(a, 3, 1), some_rows(b, 2, 2))


@transform(1)
def grad_of_vmap_sum(f, a, b):
    def total(a, b):
        return vmap(loss(f), (0, None))(a, b).sum()

    return grad(total, BOTH)(some_rows(a, 3, 1), b)


@transform(1)
def vmap_of_jacrev(f, a, b):
    return vmap(jacrev(f, BOTH), (0, None))(some_rows(a, 3, 1), b)


@transform(1, forward_mode=True)
def vmap_of_jacfwd(f, a, b):
    return vmap(jacfwd(f, BOTH), (None, 0), (1, 0))(a, some_rows(b, 3, 1))


@transform(1)
def jacrev_of_vmap(f, a, b):
    return jacrev(vmap(f, (0, None)), BOTH)(some_rows(a, 2, 1), b)


@transform(1, forward_mode=True)
def jacfwd_of_vmap(f, a, b):
    return jacfwd(vmap(f, (0, None)), BOTH)(some_rows(a, 2, 1), b)


@transform(1, forward_mode=True)
def jvp_of_vmap(f, a, b):
    rows = some_rows(a, 3, 1)
    return torch.func.jvp(vmap(f, (0, None)), (rows, b), (like(rows, 5), like(b, 6)))


@transform(1, forward_mode=True)
def vmap_of_jvp(f, a, b):
    by_b = like(b, 6)

    def along(a, s):
        return torch.func.jvp(f, (a, b), (s, by_b))

    return vmap(along)(some_rows(a, 3, 1), some_rows(a, 3, 5))


@transform(1, forward_mode=True)
def vmap_over_tangents(f, a, b):
    def along(s, t):
        return torch.func.jvp(f, (a, b), (s, t))

    return vmap(along)(some_rows(a, 3, 5), some_rows(b, 3, 6))


@transform(2, forward_mode=True)
def vmap_of_hessian(f, a, b):
    return vmap(torch.func.hessian(loss(f), BOTH), (0, None))(some_rows(a, 3, 1), b)


@transform(2)
def vmap_of_jacrev_of_jacrev(f, a, b):
    return vmap(jacrev(jacrev(loss(f), BOTH), BOTH), (0, None))(some_rows(a, 2, 1), b)


@transform(2)
def create_graph_through_vmap(f, a, b):
    a, b = wants(some_rows(a, 3, 1), b)
    value = vmap(loss(f), (0, None))(a, b).sum()
    first = torch.autograd.grad(value, (a, b), create_graph=True)
    return torch.autograd.grad(first, (a, b), [like(g, 4) for g in first])


@transform(2, forward_mode=True)
def hessian_of_vmap_sum(f, a, b):
    rows = some_rows(a, 3, 1)

    def total(b):
        return vmap(loss(f), (0, None))(rows, b).sum()

    return torch.func.hessian(total)(b)


@transform(1)
def is_grads_batched(f, a, b):
    a, b = wants(a, b)
    outputs = f(a, b)
    cotangents = tuple(some_rows(y.detach(), 3, 2) for y in outputs)
    return torch.autograd.grad(outputs, (a, b), cotangents, is_grads_batched=True)


@transform(2)
def is_grads_batched_of_a_gradient(f, a, b):
    a, b = wants(a, b)
    first = torch.autograd.grad(loss(f)(a, b), (a, b), create_graph=True)
    cotangents = tuple(some_rows(g.detach(), 3, 2) for g in first)
    return torch.autograd.grad(first, (a, b), cotangents, is_grads_batched=True)


@transform(1)
def functional_jacobian(f, a, b):
    return jacobian(f, (a, b)), jacobian(f, (a, b), vectorize=True)


@transform(1, forward_mode=True)
def functional_jacobian_forward(f, a, b):
    return jacobian(f, (a, b), vectorize=True, strategy="forward-mode")


@transform(2)
def functional_jacobian_create_graph(f, a, b):
    a, b = wants(a, b)
    entries = tree_leaves(jacobian(f, (a, b), create_graph=True))
    return torch.autograd.grad(sum(j.square().sum() for j in entries), (a, b))


@transform(2)
def functional_hessian(f, a, b):
    return hessian(loss(f), (a, b)), hessian(loss(f), (a, b), vectorize=True)


@transform(2, forward_mode=True)
def functional_hessian_forward(f, a, b):
    return hessian(loss(f), (a, b), vectorize=True, outer_jacobian_strategy="forward-mode")


@transform(2)
def functional_products(f, a, b):
    tangents = (like(a, 1), like(b, 2))
    scalar = loss(f)
    return (
        jvp(f, (a, b), tangents),  # the double-backward trick: the gradient by the cotangent
        vjp(f, (a, b), tuple(like(y, 3) for y in f(a, b))),
        vhp(scalar, (a, b), tangents),
    )


@transform(2)
def functional_hvp(f, a, b):
    """Differentiates a second derivative by its tangent, in which it is linear."""
    return hvp(loss(f), (a, b), (like(a, 1), like(b, 2)))


@transform(1, forward_mode=True)
def dual_numbers(f, a, b):
    with fwad.dual_level():
        u, v = f(fwad.make_dual(a, like(a, 1)), fwad.make_dual(b, like(b, 2)))
        return fwad.unpack_dual(u), fwad.unpack_dual(v)


@transform(1, forward_mode=True)
def dual_numbers_of_one_argument(f, a, b):
    with fwad.dual_level():
        u, v = f(a, fwad.make_dual(b, like(b, 2)))
        return fwad.unpack_dual(u), fwad.unpack_dual(v)


@transform(2, forward_mode=True)
def dual_numbers_through_backward(f, a, b):
    a, b = wants(a, b)
    with fwad.dual_level():
        duals = fwad.make_dual(a, like(a, 1)), fwad.make_dual(b, like(b, 2))
        first = torch.autograd.grad(loss(f)(*duals), duals)
        return [fwad.unpack_dual(g) for g in first]


@transform(2, forward_mode=True)
def backward_through_a_tangent(f, a, b):
    a, b = wants(a, b)
    with fwad.dual_level():
        duals = fwad.make_dual(a, like(a, 1)), fwad.make_dual(b, like(b, 2))
        tangent = fwad.unpack_dual(loss(f)(*duals)).tangent
    return torch.autograd.grad(tangent, (a, b))


@transform(1)
def checkpointed(f, a, b):
    a, b = wants(a, b)
    checkpoint(loss(f), a, b, use_reentrant=False).backward()
    return a.grad, b.grad


@transform(1)
def checkpointed_reentrant(f, a, b):
    a, b = wants(a, b)
    checkpoint(loss(f), a, b, use_reentrant=True).backward()
    return a.grad, b.grad


each_transform = pytest.mark.parametrize("name", TRANSFORMS)

A = torch.tensor([0.7, -0.4], dtype=torch.float64)
B = torch.tensor([1.2, 0.5], dtype=torch.float64)
ROWS = torch.tensor([[0.7, -0.4], [0.2, 0.9], [-1.1, 0.3]], dtype=torch.float64)


@functools.cache
def exact(name: str, batched: bool) -> list[Any]:
    return tree_leaves(TRANSFORMS[name].run(twin, ROWS if batched else A, B))


def assert_agrees(name: str, kind: Kind, f: Differentiable, *, batched: bool = False) -> None:
    entry = TRANSFORMS[name]
    arguments = f, ROWS if batched else A, B
    if entry.forward_mode and not kind.forward_mode:
        with pytest.raises(errors.TransformError):
            entry.run(*arguments)
        return
    actual = tree_leaves(entry.run(*arguments))
    for new, old in zip(actual, exact(name, batched), strict=True):
        bound = kind.tolerance(entry.derivative) * max(1.0, float(old.detach().abs().max()))
        torch.testing.assert_close(new.detach(), old.detach(), rtol=0, atol=bound)


@each_kind
@each_transform
def test_matrix(name: str, kind: Kind) -> None:
    assert_agrees(name, kind, differentiable(black, method=kind.method, interface="numpy"))


@few_kinds
@each_transform
def test_matrix_vectorized(name: str, kind: Kind) -> None:
    f = differentiable(black, method=kind.method, interface="numpy", vectorized=True)
    assert_agrees(name, kind, f)


@few_kinds
@each_transform
def test_matrix_with_batch_dims(name: str, kind: Kind) -> None:
    f = differentiable(black, method=kind.method, interface="numpy", batch_dims=(0, None))
    assert_agrees(name, kind, f, batched=True)


@each_transform
def test_matrix_with_batch_dims_and_orthogonal_directions(name: str) -> None:
    """Each row has two inputs of its own and two shared ones: four directions are exact."""
    kind = KINDS["orthogonal"]
    f = differentiable(black, method=kind.method, interface="numpy", batch_dims=(0, None))
    assert_agrees(name, kind, f, batched=True)


@each_transform
def test_matrix_vectorized_with_batch_dims(name: str) -> None:
    def stacked(a: Any, b: Any) -> Any:
        return black(a, b[..., None, :])  # (P, B, 2) and (P, 2): P stands before the batch

    f = differentiable(
        stacked,
        method=KINDS["central"].method,
        interface="numpy",
        batch_dims=(0, None),
        vectorized=True,
    )
    assert_agrees(name, KINDS["central"], f, batched=True)


@each_transform
def test_matrix_of_float32_callers(name: str) -> None:
    """Values and derivatives come back in the caller's dtype, with its rounding alone."""
    f = differentiable(black, method=KINDS["central"].method, interface="numpy")
    actual = tree_leaves(TRANSFORMS[name].run(f, A.float(), B.float()))
    expected = tree_leaves(TRANSFORMS[name].run(twin, A.float(), B.float()))
    for new, old in zip(actual, expected, strict=True):
        torch.testing.assert_close(new.detach(), old.detach(), rtol=2e-5, atol=2e-5)


# Complex numbers follow torch's conjugate convention.


def complex_black(z: Any, w: Any) -> Any:
    return np.exp(1j * w) * z * np.abs(z) ** 2 + np.conj(z), (z * w).real


def complex_twin(z: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return torch.exp(1j * w) * z * z.abs() ** 2 + z.conj(), (z * w).real


def complex_loss(f: Any) -> Callable[..., Tensor]:
    def scalar(z: Tensor, w: Tensor) -> Tensor:
        u, v = f(z, w)
        return u.abs().square().sum() + (u * z).real.sum() + v.square().sum()

    return scalar


def complex_backward(f, z, w):
    z, w = wants(z, w)
    complex_loss(f)(z, w).backward()
    return z.grad, w.grad


def complex_cotangents(f, z, w):
    z, w = wants(z, w)
    outputs = f(z, w)
    return torch.autograd.grad(outputs, (z, w), [like(y, 2) for y in outputs])


def complex_create_graph(f, z, w):
    z, w = wants(z, w)
    first = torch.autograd.grad(complex_loss(f)(z, w), (z, w), create_graph=True)
    return torch.autograd.grad(first, (z, w), [like(g, 4) for g in first])


def complex_grad(f, z, w):
    return grad(complex_loss(f), BOTH)(z, w)


def complex_vjp(f, z, w):
    outputs, pullback = torch.func.vjp(f, z, w)
    return pullback(tuple(like(y, 3) for y in outputs))


def complex_jvp(f, z, w):
    return torch.func.jvp(f, (z, w), (like(z, 1), like(w, 2)))


def complex_jvp_of_grad(f, z, w):
    return torch.func.jvp(grad(complex_loss(f), BOTH), (z, w), (like(z, 1), like(w, 2)))


def complex_grad_of_jvp(f, z, w):
    def along(z, w):
        return torch.func.jvp(complex_loss(f), (z, w), (like(z, 1), like(w, 2)))[1]

    return grad(along, BOTH)(z, w)


def complex_dual_numbers(f, z, w):
    with fwad.dual_level():
        outputs = f(fwad.make_dual(z, like(z, 1)), fwad.make_dual(w, like(w, 2)))
        return [fwad.unpack_dual(y) for y in outputs]


def complex_vmap(f, z, w):
    return vmap(f, (0, None))(some_rows(z, 3, 1), w)


def complex_vmap_of_grad(f, z, w):
    return vmap(grad(complex_loss(f), BOTH), (0, None))(some_rows(z, 3, 1), w)


def complex_is_grads_batched(f, z, w):
    z, w = wants(z, w)
    outputs = f(z, w)
    cotangents = tuple(some_rows(y.detach(), 3, 2) for y in outputs)
    return torch.autograd.grad(outputs, (z, w), cotangents, is_grads_batched=True)


COMPLEX = {
    complex_backward: 1,
    complex_cotangents: 1,
    complex_create_graph: 2,
    complex_grad: 1,
    complex_vjp: 1,
    complex_jvp: 1,
    complex_jvp_of_grad: 2,
    complex_grad_of_jvp: 2,
    complex_dual_numbers: 1,
    complex_vmap: 1,
    complex_vmap_of_grad: 1,
    complex_is_grads_batched: 1,
}

Z = torch.tensor([0.5 + 0.3j, -0.4 + 1.1j], dtype=torch.complex128)
W = torch.tensor([0.7, -1.2], dtype=torch.float64)


@pytest.mark.parametrize("name", ["forward", "central", "orthogonal"])
@pytest.mark.parametrize("run", COMPLEX, ids=lambda run: run.__name__)
def test_complex(run: Any, name: str) -> None:
    """Two complex and two real inputs are six real ones."""
    method = {
        "orthogonal": FiniteDifference(stencils.CENTRAL, directions.Orthogonal(6, "least_squares"))
    }
    f = differentiable(
        complex_black, method=method.get(name, KINDS[name].method), interface="numpy"
    )
    actual, expected = tree_leaves(run(f, Z, W)), tree_leaves(run(complex_twin, Z, W))
    for new, old in zip(actual, expected, strict=True):
        bound = KINDS[name].tolerance(COMPLEX[run]) * max(1.0, float(old.detach().abs().max()))
        torch.testing.assert_close(new.detach(), old.detach(), rtol=0, atol=bound)


def test_complex_gradcheck() -> None:
    f = differentiable(complex_black, method=KINDS["central"].method, interface="numpy")
    assert torch.autograd.gradcheck(f, wants(Z, W), check_forward_ad=True, check_batched_grad=True)


# Second order in a mixed graph, with the numbers worked out by hand: y = x sin x at (0.5, 1).


@each_kind_of_difference
def test_second_order_of_squares(kind: Kind) -> None:
    """Σy² has the second derivative 2 y'² + 2 y y'', and Σy² + Σx² has 2 more."""
    f = differentiable(lambda x: x * np.sin(x), method=kind.method, interface="numpy")
    for mixed, expected in ((False, [2.4128, 4.2210]), (True, [4.4128, 6.2210])):
        x = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
        value = f(x).square().sum() + (x.square().sum() if mixed else 0)
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        bound = 5e-5 + kind.tolerance(2) * 10
        torch.testing.assert_close(
            second, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=bound
        )


# gradcheck with every flag. Its own differences have a step of 1e-6 in x, and torch's bounds.


@pytest.mark.parametrize("fast_mode", [False, True])
@each_kind
def test_gradcheck(kind: Kind, fast_mode: bool) -> None:
    f = differentiable(black, method=kind.method, interface="numpy")
    assert torch.autograd.gradcheck(
        f,
        wants(A, B),
        check_undefined_grad=True,
        check_batched_grad=True,
        check_forward_ad=kind.forward_mode,
        check_batched_forward_grad=kind.forward_mode,
        fast_mode=fast_mode,
    )


@pytest.mark.parametrize("batch_dims", [None, (0, None)])
@pytest.mark.parametrize("vectorized", [False, True])
@few_kinds
def test_gradcheck_of_structured_functions(kind: Kind, vectorized: bool, batch_dims: Any) -> None:
    fn = black
    if vectorized and batch_dims is not None:
        fn = lambda a, b: black(a, b[..., None, :])  # noqa: E731 - one case of four
    f = differentiable(
        fn,
        method=kind.method,
        interface="numpy",
        vectorized=vectorized,
        batch_dims=batch_dims,
    )
    assert torch.autograd.gradcheck(
        f,
        wants(A if batch_dims is None else ROWS, B),
        check_batched_grad=True,
        check_forward_ad=True,
        check_batched_forward_grad=True,
    )


@pytest.mark.parametrize("fast_mode", [False, True])
@each_kind
def test_gradgradcheck(kind: Kind, fast_mode: bool) -> None:
    """The step of 1e-3 keeps the error of a first derivative, divided by it, below the bound."""
    f = differentiable(black, method=kind.method, interface="numpy")
    assert torch.autograd.gradgradcheck(
        f,
        wants(A, B),
        eps=1e-3,
        atol=1e-3,
        check_undefined_grad=True,
        # Compared to 1e-8 with the rows one by one: more than a one-sided difference can hold.
        check_batched_grad=kind.order > 1,
        check_fwd_over_rev=kind.forward_mode,
        fast_mode=fast_mode,
    )


# What is refused.


THIRD = {
    "create_graph": lambda f: _third_by_create_graph(f),
    "jacrev": lambda f: jacrev(jacrev(jacrev(linear(f))))(A, B),
    "jacfwd": lambda f: jacfwd(jacfwd(jacfwd(linear(f))))(A, B),
    "jacfwd_of_hessian": lambda f: jacfwd(torch.func.hessian(linear(f)))(A, B),
    "jacrev_of_hessian": lambda f: jacrev(torch.func.hessian(linear(f)))(A, B),
    "vmap_of_jacrev": lambda f: vmap(jacrev(jacrev(jacrev(linear(f)))), (0, None))(ROWS, B),
}


def _third_by_create_graph(f: Any) -> Tensor:
    (x,) = wants(A)
    derivative = linear(f)(x, B)
    for _ in range(3):
        (derivative,) = torch.autograd.grad(derivative.sum(), x, create_graph=True)
    return derivative


@pytest.mark.parametrize("third", THIRD.values(), ids=THIRD.keys())
@each_kind
def test_third_derivatives_are_refused(kind: Kind, third: Any) -> None:
    f = differentiable(black, method=kind.method, interface="numpy")
    with pytest.raises(errors.TransformError):
        third(f)


def test_backward_through_a_tangent_inside_its_level_is_refused() -> None:
    """The gradient would have a tangent of its own there: a third derivative."""
    f = differentiable(black, method=KINDS["central"].method, interface="numpy")
    (a,) = wants(A)
    with fwad.dual_level():
        tangent = fwad.unpack_dual(linear(f)(fwad.make_dual(a, like(a, 1)), B)).tangent
        with pytest.raises(errors.TransformError):
            torch.autograd.grad(tangent, a)


def test_forward_mode_is_refused_for_one_point() -> None:
    """A score estimate of one tangent alone would be noise of the size of f over the step."""
    method = FiniteDifference(stencils.ONE_POINT, directions.Gaussian(8))
    f = differentiable(black, method=method, interface="numpy")
    with pytest.raises(errors.TransformError):
        torch.func.jvp(f, (A, B), (A, B))


# Mixed precision and checkpoints.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@each_kind
def test_low_precision_callers(kind: Kind, dtype: torch.dtype) -> None:
    """Everything inside is float64, so only one rounding of the gradient is left."""
    seen = []

    def watched(a: Any, b: Any) -> Any:
        seen.append((a.dtype, b.dtype))
        return black(a, b)

    f = differentiable(watched, method=kind.method, interface="numpy")
    a, b = wants(A.to(dtype), B.to(dtype))
    u, v = f(a, b)
    assert u.dtype == v.dtype == dtype
    (u.sum() + v).backward()
    wide = wants(a.to(torch.float64), b.to(torch.float64))
    linear_sum = twin(*wide)[0].sum() + twin(*wide)[1]
    linear_sum.backward()
    for low, high in zip((a, b), wide, strict=True):
        assert low.grad.dtype == dtype
        rounding = torch.finfo(dtype).eps * high.grad.abs().max().item()
        torch.testing.assert_close(
            low.grad.double(), high.grad, rtol=0, atol=rounding + kind.tolerance(1)
        )
    assert all(d in (np.float64, np.complex128) for pair in seen for d in pair)


@each_kind
def test_autocast(kind: Kind) -> None:
    """A layer under autocast hands bfloat16 on; the black box sees float64 in both passes."""
    seen = []

    def watched(a: Any, b: Any) -> Any:
        seen.append((a.dtype, torch.is_autocast_enabled("cpu")))
        return black(a, b)

    f = differentiable(watched, method=kind.method, interface="numpy")
    weight = torch.eye(2, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        a = A.float() @ weight
        assert a.dtype == torch.bfloat16
        u, v = f(a, B.float())
        assert u.dtype == torch.float32  # promoted from bfloat16 and float32
        value = u.sum() + v
    value.backward()
    assert weight.grad.dtype == torch.float32
    assert all(d in (np.float64, np.complex128) and not on for d, on in seen)
    rounded = a.detach().double().requires_grad_()
    (twin(rounded, B)[0].sum() + twin(rounded, B)[1]).backward()
    expected = torch.outer(A, rounded.grad).float()
    torch.testing.assert_close(weight.grad, expected, rtol=0, atol=2e-2)


@each_kind
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_costs_the_forward_once_more(kind: Kind, reentrant: bool) -> None:
    f = differentiable(black, method=kind.method, interface="numpy")
    a, b = wants(A, B)
    loss(f)(a, b).backward()
    plain, plain_grads = f.evaluations, (a.grad, b.grad)
    f = differentiable(black, method=kind.method, interface="numpy")
    a, b = wants(A, B)
    checkpoint(loss(f), a, b, use_reentrant=reentrant).backward()
    assert f.evaluations == plain + 1
    assert torch.equal(a.grad, plain_grads[0])
    assert torch.equal(b.grad, plain_grads[1])
