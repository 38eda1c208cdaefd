"""What an evaluation costs: every row of the contract, counted twice.

`f.evaluations` is the library's own count, the list beside every function is ours. Where nothing is
stacked the two must agree; where points are stacked into one call, the list holds the shapes that
this call brought.
"""

import functools
import math

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import suture
from suture import FiniteDifference, directions, stencils

NODES = {
    "FORWARD": (stencils.FORWARD, 1),
    "BACKWARD": (stencils.BACKWARD, 1),
    "CENTRAL": (stencils.CENTRAL, 2),
    "central(4)": (stencils.central(4), 4),
    "central(6)": (stencils.central(6), 6),
    "richardson(2)": (stencils.richardson(2), 4),
    "richardson(3)": (stencils.richardson(3), 6),
    "COMPLEX_STEP": (stencils.COMPLEX_STEP, 1),
}
ONE_SIDED_AND_CENTRAL = [(stencils.FORWARD, 1), (stencils.CENTRAL, 2)]
SELF_CHECK = 3  # evaluations that COMPLEX_STEP spends once to check itself
FORWARD = FiniteDifference(stencils.FORWARD)
CLAIM_CHECK = 1  # evaluations that batch_dims spends once to check its claim

every_stencil = pytest.mark.parametrize(("stencil", "s"), NODES.values(), ids=NODES)
forward_and_central = pytest.mark.parametrize(
    ("stencil", "s"), ONE_SIDED_AND_CENTRAL, ids=["FORWARD", "CENTRAL"]
)
every_interface = pytest.mark.parametrize("interface", ["torch", "numpy"])


def counted(fn):
    """Return fn, and the list to which each call adds the shapes of its arguments."""
    calls = []

    @functools.wraps(fn)
    def wrapper(*args):
        calls.append(tuple(tuple(arg.shape) for arg in args))
        return fn(*args)

    return wrapper, calls


def wrapped(fn, **keywords):
    """Return the Differentiable of fn, and the calls of fn."""
    fn, calls = counted(fn)
    return suture.differentiable(fn, **keywords), calls


def products(x):
    """Map n inputs to n - 1 outputs, in torch or NumPy."""
    return x[..., :-1] * x[..., 1:] + 0.5 * x[..., :-1]


def point(*shape, dtype=torch.float64):
    n = math.prod(shape)
    return (1.0 + 0.1 * torch.arange(n, dtype=dtype)).reshape(shape).requires_grad_()


def spent(f, calls, operation, *args):
    """Return what operation(f, *args) cost, once both counts agree on it."""
    evaluations, before = f.evaluations, len(calls)
    operation(f, *args)
    cost = f.evaluations - evaluations
    assert cost == len(calls) - before
    return cost


# ------------------------------------------------------------------------------------------------
# One input, n elements, each operation with its forward pass
# ------------------------------------------------------------------------------------------------


def forward(f, x):
    return f(x)


def under_no_grad(f, x):
    with torch.no_grad():
        return f(x)


def under_inference_mode(f, x):
    with torch.inference_mode():
        return f(x.detach())


def backward(f, x):
    f(x).sum().backward()


def backward_of_a_square(f, x):
    f(x).square().sum().backward()


def backward_with_graph(f, x):
    torch.autograd.grad(f(x).sum(), x, create_graph=True)


def backward_twice(f, x):
    loss = f(x).sum()
    loss.backward(retain_graph=True)
    loss.backward()


def two_forwards_one_backward(f, x):
    (f(x).sum() + f(x).sum()).backward()


def func_grad(f, x):
    torch.func.grad(lambda t: f(t).sum())(x)


def func_vjp(f, x):
    output, pull = torch.func.vjp(f, x)
    pull(torch.ones_like(output))


def func_jacrev(f, x):
    torch.func.jacrev(f)(x)


def func_jacfwd(f, x):
    torch.func.jacfwd(f)(x)


def grads_batched(f, x):
    output = f(x)
    torch.autograd.grad(
        output, x, torch.eye(output.numel(), dtype=output.dtype), is_grads_batched=True
    )


def vectorized_jacobian(f, x):
    torch.autograd.functional.jacobian(f, x, vectorize=True)


def func_jvp(f, x):
    torch.func.jvp(f, (x,), (torch.ones_like(x),))


def func_jvp_of_nothing(f, x):
    torch.func.jvp(f, (x,), (torch.zeros_like(x),))


def dual(f, x):
    with forward_ad.dual_level():
        f(forward_ad.make_dual(x.detach(), torch.ones_like(x)))


def checkpointed(f, x):
    checkpoint(f, x, use_reentrant=False).sum().backward()


def checkpointed_reentrant(f, x):
    checkpoint(f, x, use_reentrant=True).sum().backward()


OPERATIONS = {  # operation: (forward evaluations, gradients, slopes along one tangent)
    forward: (1, 0, 0),
    under_no_grad: (1, 0, 0),
    under_inference_mode: (1, 0, 0),
    backward: (1, 1, 0),
    backward_of_a_square: (1, 1, 0),
    backward_with_graph: (1, 1, 0),
    backward_twice: (1, 2, 0),
    two_forwards_one_backward: (2, 2, 0),
    func_grad: (1, 1, 0),
    func_vjp: (1, 1, 0),
    func_jacrev: (1, 1, 0),
    func_jacfwd: (1, 1, 0),
    grads_batched: (1, 1, 0),
    vectorized_jacobian: (1, 1, 0),
    func_jvp: (1, 0, 1),
    func_jvp_of_nothing: (1, 0, 0),
    dual: (1, 0, 1),
    checkpointed: (2, 1, 0),
    checkpointed_reentrant: (2, 1, 0),
}


@every_interface
@every_stencil
@pytest.mark.parametrize(
    ("operation", "cost"), OPERATIONS.items(), ids=[op.__name__ for op in OPERATIONS]
)
def test_operation(operation, cost, stencil, s, interface):
    f, calls = wrapped(products, method=FiniteDifference(stencil), interface=interface)
    forwards, gradients, tangents = cost
    x = point(5)
    operation(f, x)  # COMPLEX_STEP has checked itself by now
    assert spent(f, calls, operation, x) == forwards + 5 * s * gradients + s * tangents


@pytest.mark.parametrize("n", [1, 2, 7])
@every_stencil
def test_first_gradient(stencil, s, n):
    f, calls = wrapped(lambda x: x * x, method=FiniteDifference(stencil))
    once = SELF_CHECK if stencil is stencils.COMPLEX_STEP else 0
    assert spent(f, calls, backward, point(n)) == 1 + s * n + once
    assert spent(f, calls, backward, point(n)) == 1 + s * n


def test_complex_step_checks_each_signature_once():
    f, calls = wrapped(lambda x: x * x, method=FiniteDifference(stencils.COMPLEX_STEP))
    assert spent(f, calls, backward, point(3)) == 1 + 3 + SELF_CHECK
    assert spent(f, calls, backward, point(4)) == 1 + 4 + SELF_CHECK
    assert spent(f, calls, backward, point(3)) == 1 + 3
    other, other_calls = wrapped(lambda x: x * x, method=FiniteDifference(stencils.COMPLEX_STEP))
    assert spent(other, other_calls, backward, point(3)) == 1 + 3 + SELF_CHECK


def test_complex_step_checks_itself_in_forward_mode_too():
    f, calls = wrapped(products, method=FiniteDifference(stencils.COMPLEX_STEP))
    assert spent(f, calls, func_jvp, point(5)) == 1 + 1 + SELF_CHECK
    assert spent(f, calls, backward, point(5)) == 1 + 5
    assert spent(f, calls, func_jvp, point(5)) == 1 + 1


@pytest.mark.parametrize("outputs", [1, 3, 50])
@pytest.mark.parametrize(
    "operation", [func_jacrev, func_jacfwd, grads_batched, vectorized_jacobian]
)
def test_jacobian_costs_the_same_whatever_the_outputs(operation, outputs):
    def many(x):
        return x.sum() * torch.arange(1.0, outputs + 1, dtype=x.dtype)

    f, calls = wrapped(many, method=FiniteDifference(stencils.CENTRAL))
    assert spent(f, calls, operation, point(3)) == 1 + 2 * 3


def test_more_tangents_than_inputs_cost_the_inputs():
    f, calls = wrapped(products, method=FORWARD)
    x = point(3).detach()
    tangents = torch.eye(3, dtype=x.dtype).repeat(4, 1)

    def operation(f, x):
        torch.func.vmap(lambda v: torch.func.jvp(f, (x,), (v,))[1])(tangents)

    assert spent(f, calls, operation, x) == 1 + 3


def test_fewer_tangents_than_inputs_cost_the_tangents():
    f, calls = wrapped(products, method=FORWARD)
    x = point(6).detach()
    tangents = torch.eye(6, dtype=x.dtype)[:2] + 1.0

    def operation(f, x):
        torch.func.vmap(lambda v: torch.func.jvp(f, (x,), (v,))[1])(tangents)

    assert spent(f, calls, operation, x) == 1 + 2


@every_interface
@forward_and_central
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_element_costs_twice(stencil, s, dtype, interface):
    f, calls = wrapped(lambda z: z * z, method=FiniteDifference(stencil), interface=interface)
    z = torch.tensor([1 + 2j, 3 - 1j, 0.5j], dtype=dtype, requires_grad=True)
    assert spent(f, calls, lambda f, z: f(z).abs().sum().backward(), z) == 1 + 2 * 3 * s


@forward_and_central
def test_complex_and_real_inputs_together(stencil, s):
    f, calls = wrapped(lambda z, x: z.sum() * x, method=FiniteDifference(stencil))
    z = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex128, requires_grad=True)
    cost = spent(f, calls, lambda f, *args: f(*args).abs().sum().backward(), z, point(3))
    assert cost == 1 + (2 * 2 + 3) * s


@forward_and_central
@pytest.mark.parametrize("recovery", ["mean", "least_squares"])
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize(
    "kind", [directions.Gaussian, directions.Rademacher, directions.Orthogonal]
)
def test_random_directions(kind, k, recovery, stencil, s):
    f, calls = wrapped(products, method=FiniteDifference(stencil, kind(k, recovery=recovery)))
    assert spent(f, calls, backward, point(6)) == 1 + k * s
    assert spent(f, calls, func_jacrev, point(6)) == 1 + k * s
    assert spent(f, calls, func_jvp, point(6)) == 1 + s


@pytest.mark.parametrize("k", [1, 5])
def test_one_point(k):
    method = FiniteDifference(stencils.ONE_POINT, directions.Gaussian(k), step=0.1)
    f, calls = wrapped(products, method=method)
    assert spent(f, calls, backward, point(6)) == 1 + k


@pytest.mark.parametrize("k", [2, 4])
def test_complex_step_along_random_directions(k):
    method = FiniteDifference(stencils.COMPLEX_STEP, directions.Rademacher(k))
    f, calls = wrapped(products, method=method)
    assert spent(f, calls, backward, point(6)) == 1 + k + SELF_CHECK
    assert spent(f, calls, backward, point(6)) == 1 + k


# ------------------------------------------------------------------------------------------------
# Only what torch asks for is perturbed
# ------------------------------------------------------------------------------------------------


def sum_of_two(f, a, b):
    f(a, b).sum().backward()


def mixed(a, b):
    return a.sum() * b


@every_stencil
def test_leaf_that_needs_no_gradient(stencil, s):
    f, calls = wrapped(mixed, method=FiniteDifference(stencil))
    a, b = point(4), point(2)
    spent(f, calls, sum_of_two, a, b.detach())
    spent(f, calls, sum_of_two, a.detach(), b)
    assert spent(f, calls, sum_of_two, a, b) in {1 + 6 * s, 1 + 6 * s + SELF_CHECK}
    assert spent(f, calls, sum_of_two, a, b) == 1 + 6 * s
    assert spent(f, calls, sum_of_two, a, b.detach()) == 1 + 4 * s
    assert spent(f, calls, sum_of_two, a.detach(), b) == 1 + 2 * s


def test_no_leaf_needs_a_gradient():
    f, calls = wrapped(mixed)
    a, b = point(4).detach(), point(2).detach()
    assert spent(f, calls, forward_of_two, a, b) == 1
    assert not f(a, b).requires_grad


def forward_of_two(f, a, b):
    f(a, b)


def test_backward_to_chosen_inputs():
    f, calls = wrapped(mixed, method=FORWARD)
    a, b = point(4), point(2)
    assert spent(f, calls, lambda f, a, b: f(a, b).sum().backward(inputs=[a]), a, b) == 1 + 4
    assert a.grad is not None
    assert b.grad is None


def test_gradient_of_chosen_inputs():
    """torch's `needs_input_grad` says True for both; only the running engine knows better."""
    f, calls = wrapped(mixed, method=FORWARD)
    a, b = point(4) * 1.0, point(2) * 1.0
    assert spent(f, calls, lambda f, a, b: torch.autograd.grad(f(a, b).sum(), a), a, b) == 1 + 4


def test_gradient_of_chosen_leaves():
    f, calls = wrapped(mixed, method=FORWARD)
    a, b = point(4), point(2)
    assert spent(f, calls, lambda f, a, b: torch.autograd.grad(f(a, b).sum(), a), a, b) == 1 + 4


@pytest.mark.parametrize("integer", [torch.int64, torch.uint8, torch.bool])
def test_integer_leaves(integer):
    f, calls = wrapped(lambda x, i: x * i.sum(), method=FORWARD)
    i = torch.ones(7, dtype=integer)
    assert spent(f, calls, sum_of_two, point(3), i) == 1 + 3


def test_zero_size_leaves():
    f, calls = wrapped(lambda x, empty: x * 2.0 + empty.sum(), method=FORWARD)
    empty = torch.zeros((0, 4), dtype=torch.float64, requires_grad=True)
    assert spent(f, calls, sum_of_two, point(3), empty) == 1 + 3
    assert empty.grad is not None
    assert empty.grad.shape == (0, 4)


def test_only_a_zero_size_leaf():
    f, calls = wrapped(lambda empty: empty.sum() + 1.0)
    assert spent(f, calls, backward, torch.zeros(0, dtype=torch.float64, requires_grad=True)) == 1


def test_constants_cost_nothing():
    f, calls = wrapped(lambda x, n: x * n.shape[0], method=FORWARD)
    assert spent(f, calls, sum_of_two, point(3), torch.zeros(9)) == 1 + 3


@forward_and_central
def test_one_of_several_outputs(stencil, s):
    f, calls = wrapped(lambda x: (x * 2, x.sum(), x[:1] ** 3), method=FiniteDifference(stencil))
    assert spent(f, calls, lambda f, x: f(x)[1].backward(), point(4)) == 1 + 4 * s
    assert spent(f, calls, lambda f, x: f(x)[2].sum().backward(), point(4)) == 1 + 4 * s


def test_all_of_several_outputs_cost_one_gradient():
    f, calls = wrapped(lambda x: (x * 2, x.sum()), method=FORWARD)

    def operation(f, x):
        first, second = f(x)
        (first.sum() * second).backward()

    assert spent(f, calls, operation, point(4)) == 1 + 4


def test_unused_output_costs_nothing():
    f, calls = wrapped(lambda x: (x * 2, x.sum()))

    def operation(f, x):
        f(x)
        x.sum().backward()

    assert spent(f, calls, operation, point(4)) == 1


def test_same_tensor_twice():
    f, calls = wrapped(mixed, method=FORWARD)
    x = point(3)
    assert spent(f, calls, sum_of_two, x, x) == 1 + 6


# ------------------------------------------------------------------------------------------------
# Second order
# ------------------------------------------------------------------------------------------------


def hessian_vector(loss):
    def operation(f, x):
        (gradient,) = torch.autograd.grad(loss(f(x)), x, create_graph=True)
        torch.autograd.grad(gradient @ torch.ones_like(x), x)

    return operation


@pytest.mark.parametrize("n", [1, 4, 9])
@pytest.mark.parametrize("loss", [torch.sum, lambda y: y.square().sum()], ids=["sum", "square"])
@every_stencil
def test_hessian_vector_product(stencil, s, loss, n):
    """One gradient, and two more at x ± tv: with their own f(x ± tv) where that is a node."""
    f, calls = wrapped(lambda x: x**3, method=FiniteDifference(stencil))
    operation = hessian_vector(loss)
    operation(f, point(n))  # COMPLEX_STEP has checked itself by now
    cost = spent(f, calls, operation, point(n))
    bases = 2 if 0 in stencil.nodes else 0
    assert cost == 1 + 3 * s * n + bases
    assert cost <= 3 * s * n + 3  # the contract: 6n + 3 for CENTRAL


@every_stencil
def test_derivative_by_the_cotangent_costs_nothing_more(stencil, s):
    """It is Ĵu, with the slopes that the backward has kept."""
    f, calls = wrapped(lambda x: x**3, method=FiniteDifference(stencil))
    cotangent = torch.ones(4, dtype=torch.float64, requires_grad=True)

    def operation(f, x):
        (gradient,) = torch.autograd.grad(f(x), x, cotangent, create_graph=True)
        torch.autograd.grad(gradient.sum(), cotangent)

    operation(f, point(4))  # COMPLEX_STEP has checked itself by now
    assert spent(f, calls, operation, point(4)) == 1 + 4 * s


# ------------------------------------------------------------------------------------------------
# Batches
# ------------------------------------------------------------------------------------------------

B, D, P = 6, 3, 2


def rowwise(x, p):
    """Map (B, D) and (P,) to (B,), one row at a time."""
    return x[:, 0] * x[:, 1] * p[0] + x[:, 2] * p[1]


def rows(calls):
    """Return how many rows each call brought."""
    return [shapes[0][0] for shapes in calls]


def batched(stencil=stencils.FORWARD, **keywords):
    keywords.setdefault("batch_dims", (0, None))
    return wrapped(rowwise, method=FiniteDifference(stencil), **keywords)


def batch_cost(f, operation, *args):
    evaluations = f.evaluations
    operation(f, *args)
    return f.evaluations - evaluations


@every_interface
@every_stencil
def test_batch(stencil, s, interface):
    f, calls = batched(stencil, interface=interface)
    x, p = point(B, D), point(P)
    once = CLAIM_CHECK + (SELF_CHECK if stencil is stencils.COMPLEX_STEP else 0)
    assert batch_cost(f, sum_of_two, x, p) == 1 + (D + P) * s + once
    assert sum(rows(calls)) == B * f.evaluations
    calls.clear()
    assert batch_cost(f, sum_of_two, x, p) == 1 + (D + P) * s
    assert sorted(rows(calls)) == sorted([B, B * D * s] + [B] * (P * s))


@every_stencil
def test_batched_leaf_alone_is_one_call(stencil, s):
    f, calls = batched(stencil)
    x, p = point(B, D), point(P).detach()
    batch_cost(f, sum_of_two, x, p)
    calls.clear()
    assert batch_cost(f, sum_of_two, x, p) == 1 + D * s
    assert calls == [((B, D), (P,)), ((B * D * s, D), (P,))]


@every_stencil
def test_shared_leaf_alone_checks_nothing(stencil, s):
    f, calls = batched(stencil)
    once = SELF_CHECK if stencil is stencils.COMPLEX_STEP else 0
    x, p = point(B, D).detach(), point(P)
    assert batch_cost(f, sum_of_two, x, p) == 1 + P * s + once
    assert rows(calls) == [B] * f.evaluations


def test_claim_is_checked_on_the_first_gradient_that_uses_it():
    f, _ = batched()
    x, p = point(B, D), point(P)
    assert batch_cost(f, sum_of_two, x.detach(), p) == 1 + P
    assert batch_cost(f, sum_of_two, x, p.detach()) == 1 + D + CLAIM_CHECK
    assert batch_cost(f, sum_of_two, x, p) == 1 + D + P


def test_claim_is_checked_once_whatever_the_batch_size():
    f, _ = batched()
    p = point(P)
    assert batch_cost(f, sum_of_two, point(B, D), p) == 1 + D + P + CLAIM_CHECK
    assert batch_cost(f, sum_of_two, point(B + 1, D), p) == 1 + D + P


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_batch_size_costs_nothing(size):
    f, _ = batched()
    p = point(P)
    batch_cost(f, sum_of_two, point(size, D), p)
    assert batch_cost(f, sum_of_two, point(size, D), p) == 1 + D + P


@pytest.mark.parametrize("operation", [func_jacrev, grads_batched])
def test_jacobian_of_a_batch(operation):
    f, _ = wrapped(lambda x: x[:, 0] * x[:, 1], batch_dims=0, method=FORWARD)
    x = point(B, D)
    batch_cost(f, operation, x)
    assert batch_cost(f, operation, x) == 1 + D


@forward_and_central
def test_jvp_of_a_batch(stencil, s):
    """One tangent moves all rows at once, and the shared leaves with them."""
    f, _ = batched(stencil)

    def operation(f, x, p):
        torch.func.jvp(f, (x, p), (torch.ones_like(x), torch.ones_like(p)))

    x, p = point(B, D).detach(), point(P).detach()
    assert batch_cost(f, operation, x, p) == 1 + s + CLAIM_CHECK
    assert batch_cost(f, operation, x, p) == 1 + s


@forward_and_central
def test_hessian_vector_product_of_a_batch(stencil, s):
    f, _ = batched(stencil)

    def operation(f, x, p):
        (gradient,) = torch.autograd.grad(f(x, p).square().sum(), x, create_graph=True)
        torch.autograd.grad(gradient.sum(), x)

    x, p = point(B, D), point(P).detach()
    batch_cost(f, operation, x, p)
    bases = 2 if 0 in stencil.nodes else 0
    assert batch_cost(f, operation, x, p) == 1 + 3 * s * D + bases


def test_undifferentiated_batched_leaves_are_repeated():
    f, calls = wrapped(
        lambda x, target: (x - target).square().sum(-1), batch_dims=0, method=FORWARD
    )
    x, target = point(B, D), point(B, D).detach()
    batch_cost(f, sum_of_two, x, target)
    calls.clear()
    batch_cost(f, sum_of_two, x, target)
    assert calls == [((B, D), (B, D)), ((B * D, D), (B * D, D))]


@pytest.mark.parametrize(
    ("chunk_size", "expected"),
    [(1, [1, 1, 1, 1, 1, 1]), (2, [2, 2, 2]), (4, [4, 2]), (6, [6]), (100, [6])],
)
def test_chunks_of_a_batch(chunk_size, expected):
    f, calls = batched(stencils.CENTRAL, chunk_size=chunk_size)
    x, p = point(B, D), point(P).detach()
    batch_cost(f, sum_of_two, x, p)
    calls.clear()
    assert batch_cost(f, sum_of_two, x, p) == 1 + 2 * D
    assert rows(calls) == [B, *(B * points for points in expected)]


# ------------------------------------------------------------------------------------------------
# Stacked points
# ------------------------------------------------------------------------------------------------


def stacked_products(x):
    """Map P stacked points of n inputs to P stacked results."""
    return x[:, :-1] * x[:, 1:]


@every_interface
@every_stencil
def test_vectorized(stencil, s, interface):
    f, calls = wrapped(
        stacked_products, method=FiniteDifference(stencil), vectorized=True, interface=interface
    )
    x = point(5)
    batch_cost(f, backward, x)
    calls.clear()
    assert batch_cost(f, backward, x) == 1 + 5 * s
    assert calls == [((1, 5),), ((5 * s, 5),)]


@pytest.mark.parametrize(
    ("chunk_size", "expected"),
    [(1, [1] * 10), (3, [3, 3, 3, 1]), (5, [5, 5]), (10, [10]), (11, [10])],
)
def test_chunks_of_stacked_points(chunk_size, expected):
    f, calls = wrapped(
        stacked_products,
        method=FiniteDifference(stencils.CENTRAL),
        vectorized=True,
        chunk_size=chunk_size,
    )
    assert batch_cost(f, backward, point(5)) == 1 + 10
    assert rows(calls) == [1, *expected]


def test_undifferentiated_leaves_are_expanded():
    f, calls = wrapped(lambda x, w, i: x * w + i, vectorized=True, method=FORWARD)
    x, w, i = point(3), point(3).detach(), torch.arange(3)
    batch_cost(f, lambda f, *args: f(*args).sum().backward(), x, w, i)
    assert calls == [((1, 3), (1, 3), (3,)), ((3, 3), (3, 3), (3,))]


@forward_and_central
def test_vectorized_batch(stencil, s):
    f, calls = wrapped(
        lambda x, p: x[..., 0] * x[..., 1] * p[:, :1] + x[..., 2] * p[:, 1:],
        method=FiniteDifference(stencil),
        vectorized=True,
        batch_dims=(0, None),
    )
    x, p = point(B, D), point(P)
    assert batch_cost(f, sum_of_two, x, p) == 1 + (D + P) * s + CLAIM_CHECK
    calls.clear()
    assert batch_cost(f, sum_of_two, x, p) == 1 + (D + P) * s
    assert sum(rows(calls)) == 1 + (D + P) * s
    assert 2 <= len(calls) <= 3  # the forward; batched and shared columns, together or apart
    assert {shapes[0][1:] for shapes in calls} == {(B, D)}
    assert all(x[0] == p[0] for x, p in calls)


def test_vectorized_random_directions_are_one_call():
    method = FiniteDifference(stencils.CENTRAL, directions.Rademacher(4))
    f, calls = wrapped(stacked_products, method=method, vectorized=True)
    assert batch_cost(f, backward, point(9)) == 1 + 8
    assert rows(calls) == [1, 8]


# ------------------------------------------------------------------------------------------------
# vmap
# ------------------------------------------------------------------------------------------------


@forward_and_central
def test_vmap(stencil, s):
    f, calls = wrapped(products, method=FiniteDifference(stencil))
    x = point(B, 5)

    def gradient(f, x):
        torch.func.vmap(torch.func.grad(lambda row: f(row).sum()))(x)

    def backward_of_rows(f, x):
        torch.func.vmap(f)(x).sum().backward()

    assert spent(f, calls, lambda f, x: torch.func.vmap(f)(x), x) == B
    assert spent(f, calls, gradient, x.detach()) == B * (1 + 5 * s)
    assert spent(f, calls, backward_of_rows, x) == B * (1 + 5 * s)


def test_vmap_makes_one_round():
    f, calls = wrapped(stacked_products, vectorized=True, method=FORWARD)
    x = point(B, 5)
    torch.func.vmap(f)(x).sum().backward()
    assert f.evaluations == B * (1 + 5)
    assert sum(rows(calls)) == f.evaluations
    assert rows(calls)[-1] == B * 5


def test_vmap_over_the_tangent_costs_no_more_points():
    f, calls = wrapped(products, method=FORWARD)
    x = point(5).detach()

    def operation(f, x):
        torch.func.vmap(lambda v: torch.func.jvp(f, (x,), (v,))[1])(torch.eye(5, dtype=x.dtype))

    assert spent(f, calls, operation, x) == 1 + 5


# ------------------------------------------------------------------------------------------------
# The default method: it calibrates once
# ------------------------------------------------------------------------------------------------

NOISE = 6  # evaluations that measure the noise once, where the first spacing shows it


def six_digits(x):
    return torch.round(torch.sin(x) * 1e6) / 1e6


def rounded_once(x):
    return torch.sin(x).to(torch.float32).to(torch.float64)


MEASURED = {  # function: evaluations that measure its noise
    "float64": (torch.sin, 6),
    "linear": (lambda x: 3 * x, 6),
    "float32 inside": (rounded_once, 12),
    "six digits": (six_digits, 12),
    "returns float32": (lambda x: torch.sin(x).to(torch.float32), 6),
}


@pytest.mark.parametrize(("fn", "noise"), MEASURED.values(), ids=MEASURED)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_default_first_and_later(fn, noise, n):
    f, calls = wrapped(fn)
    first = spent(f, calls, backward, point(n))
    assert first == 1 + noise + 2 * (n + f.last.retried)
    assert f.last.evaluations == first - 1
    for k in range(3):
        assert spent(f, calls, backward, point(n) + 0.01 * k) == 1 + n
        assert f.last.evaluations == n


@pytest.mark.parametrize("fn", [torch.sin, rounded_once, six_digits])
def test_default_retries_nothing_here(fn):
    f, calls = wrapped(fn)
    spent(f, calls, backward, point(5))
    assert f.last.retried == 0


def test_default_retries_what_it_cannot_see():
    """An input that hardly counts beside the noise has longer arms: two more evaluations."""
    f, calls = wrapped(lambda x: six_digits(x[0] + 1e-4 * x[1]))
    x = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    cost = spent(f, calls, backward, x)
    assert f.last.retried > 0
    assert cost == 1 + 12 + 2 * (2 + f.last.retried)


@pytest.mark.parametrize(
    ("caller", "noise"),
    [(torch.float64, 6), (torch.float32, 6), (torch.float16, 0), (torch.bfloat16, 0)],
)
def test_default_measures_what_the_received_precision_can_show(caller, noise):
    f, calls = wrapped(lambda x: 3 * x, dtype=None)
    x = point(4, dtype=torch.float32).to(caller).detach().requires_grad_()
    assert spent(f, calls, backward, x) == 1 + noise + 2 * (4 + f.last.retried)


@pytest.mark.parametrize("noise", [1e-15, 1e-6])
def test_default_with_a_stated_noise_measures_none(noise):
    f, calls = wrapped(torch.sin, method=FiniteDifference(noise=noise))
    assert spent(f, calls, backward, point(5)) == 1 + 2 * 5
    assert spent(f, calls, backward, point(5)) == 1 + 5


def test_a_step_measures_nothing():
    f, calls = wrapped(torch.sin, method=FiniteDifference(step=1e-6))
    assert spent(f, calls, backward, point(5)) == 1 + 5
    assert not f.calibration


def test_default_refreshes_one_curvature_per_hundred_inputs():
    f, calls = wrapped(torch.sin)
    assert spent(f, calls, backward, point(30)) == 1 + NOISE + 2 * 30
    costs = [spent(f, calls, backward, point(30)) for _ in range(40)]
    for k in range(1, 41):
        assert sum(costs[:k]) == k * (1 + 30) + 30 * k // 100
    # More than a hundred at once: as many as there are hundreds.
    f, calls = wrapped(torch.sin)
    spent(f, calls, backward, point(250))
    costs = [spent(f, calls, backward, point(250)) for _ in range(4)]
    assert costs == [1 + 250 + 2, 1 + 250 + 3, 1 + 250 + 2, 1 + 250 + 3]


@pytest.mark.parametrize("n", [1, 5])
def test_default_jvp(n):
    """Without a calibration it measures the noise; the gradient after it does not do so again."""
    f, calls = wrapped(torch.sin)
    assert spent(f, calls, func_jvp, point(n)) == 1 + NOISE + 1
    assert spent(f, calls, func_jvp, point(n)) == 1 + 1
    assert spent(f, calls, dual, point(n)) == 1 + 1
    assert spent(f, calls, backward, point(n)) == 1 + 2 * n
    assert spent(f, calls, backward, point(n)) == 1 + n
    assert spent(f, calls, func_jvp, point(n)) == 1 + 1


@pytest.mark.parametrize("operation", [func_jacrev, grads_batched, vectorized_jacobian])
@pytest.mark.parametrize("outputs", [1, 3, 50])
def test_default_jacobian(operation, outputs):
    def many(x):
        return x.sum() * torch.arange(1.0, outputs + 1, dtype=x.dtype)

    f, calls = wrapped(many)
    assert spent(f, calls, operation, point(3)) == 1 + NOISE + 2 * 3
    assert spent(f, calls, operation, point(3)) == 1 + 3


def test_default_jacfwd():
    f, calls = wrapped(products)
    assert spent(f, calls, func_jacfwd, point(5)) == 1 + NOISE + 5
    assert spent(f, calls, func_jacfwd, point(5)) == 1 + 5


@pytest.mark.parametrize(
    ("operation", "cost"), OPERATIONS.items(), ids=[op.__name__ for op in OPERATIONS]
)
def test_default_later_operations(operation, cost):
    f, calls = wrapped(products)
    forwards, gradients, tangents = cost
    spent(f, calls, backward, point(5))
    assert spent(f, calls, operation, point(5)) == forwards + 5 * gradients + tangents


def test_default_twice_on_a_retained_node():
    """The node that calibrated differences centrally again, with the arms that it found."""
    f, calls = wrapped(torch.exp)
    first, later = f(point(5)).sum(), f(point(5)).sum()

    def again(f, loss):
        loss.backward(retain_graph=True)

    assert spent(f, calls, again, first) == NOISE + 2 * 5
    assert spent(f, calls, again, first) == 2 * 5
    assert spent(f, calls, again, later) == 5
    assert spent(f, calls, again, later) == 5
    assert spent(f, calls, again, first) == 2 * 5


@pytest.mark.parametrize("operation", [checkpointed, checkpointed_reentrant])
def test_default_under_a_checkpoint(operation):
    f, calls = wrapped(torch.exp)
    assert spent(f, calls, operation, point(5)) == 2 + NOISE + 2 * 5
    assert spent(f, calls, operation, point(5)) == 2 + 5


@pytest.mark.parametrize("n", [1, 4, 9])
def test_default_hessian_vector_product(n):
    """Central differences and f itself at x ± tv, besides the gradient."""
    f, calls = wrapped(torch.sin)
    operation = hessian_vector(lambda y: y.square().sum())
    assert spent(f, calls, operation, point(n)) == (1 + NOISE + 2 * n) + 2 * (1 + 2 * n)
    later = spent(f, calls, operation, point(n))
    assert later == (1 + n) + 2 * (1 + 2 * n)
    assert later <= 6 * n + 3  # the contract


def test_default_hessian():
    """Forward over reverse: f along 3 tangents, its gradient, and two more for each tangent."""
    f, calls = wrapped(torch.sin)

    def hessian(f, x):
        torch.func.hessian(lambda t: f(t).sum())(x)

    assert spent(f, calls, hessian, point(3)) == 1 + NOISE + 3 + 2 * 3 + 3 * 2 * (1 + 2 * 3)
    assert spent(f, calls, hessian, point(3)) == 1 + 3 + 3 + 3 * 2 * (1 + 2 * 3)


def test_default_batch():
    f, calls = wrapped(rowwise, batch_dims=(0, None))
    x, p = point(B, D), point(P)
    once = CLAIM_CHECK + NOISE
    assert batch_cost(f, sum_of_two, x, p) == 1 + once + 2 * (D + P)
    assert sum(rows(calls)) == B * f.evaluations
    calls.clear()
    assert batch_cost(f, sum_of_two, x, p) == 1 + D + P
    assert sorted(rows(calls)) == sorted([B, B * D] + [B] * P)
    # Another batch size is the same form of call, fewer leaves are another one.
    assert batch_cost(f, sum_of_two, point(B + 2, D), p) == 1 + D + P
    assert batch_cost(f, sum_of_two, x, p.detach()) == 1 + NOISE + 2 * D
    assert batch_cost(f, sum_of_two, x, p.detach()) == 1 + D


def test_default_calibrates_every_form_of_call():
    f, calls = wrapped(torch.sin)
    for shape in ((3,), (4,), (2, 2)):
        x = point(*shape)
        assert spent(f, calls, backward, x) == 1 + NOISE + 2 * x.numel()
        assert spent(f, calls, backward, x) == 1 + x.numel()
    # The black box receives float64 here too.
    assert spent(f, calls, backward, point(3, dtype=torch.float32)) == 1 + 3
    assert len(f.calibration.tunings) == 3


def test_default_vmap():
    """The rows are rows of one calibration: each measures, and later ones need not."""
    f, calls = wrapped(torch.exp)

    def rows_of(f, x):
        torch.func.vmap(f)(x).sum().backward()

    assert spent(f, calls, rows_of, point(B, 5)) == B * (1 + NOISE + 2 * 5)
    assert len(f.calibration.tunings) == 1
    assert spent(f, calls, rows_of, point(B, 5)) == B * (1 + 5)
    assert spent(f, calls, rows_of, point(B + 1, 5)) == (B + 1) * (1 + 5)
    assert spent(f, calls, backward, point(5)) == 1 + 5


def test_default_measures_noise_only_for_many_inputs():
    f, calls = wrapped(lambda x: torch.sin(x).sum())
    assert spent(f, calls, backward, point(1001) / 100) == 1 + NOISE + 1001 + 10
    assert spent(f, calls, backward, point(1001) / 100) == 1 + 1001 + 10
    f, calls = wrapped(lambda x: torch.sin(x).sum())
    assert spent(f, calls, backward, point(1000) / 100) == 1 + NOISE + 2 * 1000


@pytest.mark.parametrize("k", [1, 3])
def test_default_along_random_directions_measures_noise_only(k):
    f, calls = wrapped(torch.sin, method=FiniteDifference(directions=directions.Gaussian(k)))
    assert spent(f, calls, backward, point(6)) == 1 + NOISE + k
    assert spent(f, calls, backward, point(6)) == 1 + k


def test_default_leaves_that_need_no_gradient():
    f, calls = wrapped(mixed)
    a, b = point(4), point(2)
    assert spent(f, calls, sum_of_two, a, b.detach()) == 1 + NOISE + 2 * 4
    assert spent(f, calls, sum_of_two, a, b.detach()) == 1 + 4
    assert spent(f, calls, sum_of_two, a.detach(), b) == 1 + NOISE + 2 * 2


def test_an_input_whose_bounds_meet_costs_nothing():
    lower = torch.tensor([0.0, 1.1, 0.0], dtype=torch.float64)
    upper = torch.tensor([9.0, 1.1, 9.0], dtype=torch.float64)
    f, calls = wrapped(lambda x: torch.sin(x).sum(), bounds=((lower, upper),))
    assert spent(f, calls, backward, point(3)) == 1 + NOISE + 2 * 2
    assert spent(f, calls, backward, point(3)) == 1 + 2
