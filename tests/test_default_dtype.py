"""The whole pipeline under every default dtype, and the defaults in force at the forward pass."""

import numpy as np
import pytest
import torch

import suture
from suture import CustomVJP, FiniteDifference, directions, stencils

DEFAULTS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

FORWARD = FiniteDifference(stencils.FORWARD)


@pytest.fixture(params=DEFAULTS, ids=lambda dtype: str(dtype).removeprefix("torch."))
def default_dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.fixture
def restore_default_dtype():
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


def point(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def cube(x):
    return x * x * x


def against(f, x, exact, tolerance=1e-6):
    (found,) = torch.autograd.grad(f(x).sum(), x)
    assert found.dtype is x.dtype
    torch.testing.assert_close(found, exact.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("interface", ["torch", "numpy"])
@pytest.mark.parametrize(
    "stencil",
    [stencils.FORWARD, stencils.CENTRAL, stencils.COMPLEX_STEP, stencils.richardson(2)],
    ids=["FORWARD", "CENTRAL", "COMPLEX_STEP", "richardson"],
)
def test_gradient(default_dtype, stencil, interface):
    f = suture.differentiable(cube, method=FiniteDifference(stencil), interface=interface)
    x = point(0.5, 1.0, 2.0)
    assert f(x).dtype is torch.float64
    against(f, x, 3 * x * x)


def test_gradient_in_the_default_dtype(default_dtype):
    x = torch.tensor([0.5, 1.0, 2.0], requires_grad=True)
    assert x.dtype is default_dtype
    f = suture.differentiable(cube)
    assert f(x).dtype is default_dtype
    against(f, x, 3 * x * x, tolerance=max(1e-6, 2 * torch.finfo(default_dtype).eps))


@pytest.mark.parametrize(
    "kind", [directions.Gaussian, directions.Rademacher, directions.Orthogonal]
)
def test_random_directions(default_dtype, kind):
    method = FiniteDifference(stencils.CENTRAL, kind(12, recovery="least_squares"))
    f = suture.differentiable(cube, method=method, seed=0)
    x = point(0.5, 1.0, 2.0)
    against(f, x, 3 * x * x)


def test_random_directions_do_not_depend_on_the_default_dtype(restore_default_dtype):
    method = FiniteDifference(directions=directions.Gaussian(2))
    f = suture.differentiable(cube, method=method, seed=3)
    x = point(0.5, 1.0, 2.0)
    found = []
    for dtype in DEFAULTS:
        torch.set_default_dtype(dtype)
        found += torch.autograd.grad(f(x).sum(), x)
    assert all(torch.equal(gradient, found[0]) for gradient in found)


def test_torch_func(default_dtype):
    f = suture.differentiable(cube, method=FiniteDifference(stencils.CENTRAL))
    x = point(0.5, 1.0, 2.0).detach()
    v = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(torch.func.jacrev(f)(x), torch.diag(3 * x * x), **close)
    torch.testing.assert_close(torch.func.jacfwd(f)(x), torch.diag(3 * x * x), **close)
    torch.testing.assert_close(torch.func.jvp(f, (x,), (v,))[1], 3 * x * x * v, **close)
    torch.testing.assert_close(
        torch.func.hessian(lambda x: f(x).sum())(x), torch.diag(6 * x), rtol=1e-4, atol=1e-4
    )
    rows = torch.stack([x, 2 * x])
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(lambda x: f(x).sum()))(rows), 3 * rows * rows, **close
    )


def test_double_backward(default_dtype):
    f = suture.differentiable(cube, method=FiniteDifference(stencils.CENTRAL))
    x = point(0.5, 1.0, 2.0)
    (first,) = torch.autograd.grad(f(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, (30 * x**4).detach(), rtol=1e-4, atol=1e-4)


def test_batch(default_dtype):
    f = suture.differentiable(lambda x, p: (x * x).sum(-1) * p, batch_dims=(0, None))
    x, p = point((1.0, 2.0), (3.0, 4.0)), point(0.5)
    found = torch.autograd.grad(f(x, p).sum(), (x, p))
    torch.testing.assert_close(found[0], x.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1], torch.tensor([30.0], dtype=torch.float64))


def test_vectorized(default_dtype):
    f = suture.differentiable(lambda x: x * x * x, vectorized=True)
    x = point(0.5, 1.0, 2.0)
    against(f, x, 3 * x * x)


def test_complex_input(default_dtype):
    z = torch.tensor([1 + 2j, -0.5j], dtype=torch.complex128, requires_grad=True)
    f = suture.differentiable(lambda z: (z * z.conj()).real)
    against(f, z, 2 * z)


@pytest.mark.parametrize("scale", [1.0, torch.tensor(1.0), np.float32(1.0)])
def test_scale_given_in_the_default_dtype(default_dtype, scale):
    scale = scale.to(default_dtype) if isinstance(scale, torch.Tensor) else scale
    f = suture.differentiable(cube, method=FiniteDifference(step=2.0**-20), scale=scale)
    x = point(0.5, 1.0, 2.0)
    against(f, x, 3 * x * x + 3 * x * 2.0**-20, tolerance=1e-9)


def test_python_float_result(default_dtype):
    f = suture.differentiable(lambda x: float(cube(x).sum()))
    x = point(0.5, 1.0, 2.0)
    assert f(x).dtype is torch.float64
    against(f, x, 3 * x * x)


def test_custom_vjp(default_dtype):
    rule = CustomVJP(
        lambda args, output, cotangent: (3 * args[0] ** 2 * cotangent,),
        lambda args, output, tangents: 3 * args[0] ** 2 * tangents[0],
    )
    f = suture.differentiable(cube, method=rule)
    x = point(0.5, 1.0, 2.0)
    against(f, x, 3 * x * x, tolerance=1e-12)
    torch.testing.assert_close(
        torch.func.jvp(f, (x.detach(),), (torch.ones_like(x),))[1], (3 * x * x).detach()
    )


# ------------------------------------------------------------------------------------------------
# The defaults of the forward pass are the defaults of every evaluation
# ------------------------------------------------------------------------------------------------


def with_own_constants(seen):
    """Return a function whose constants take the default dtype and the default device."""

    def fn(x):
        one = torch.ones(())
        seen.append((one.dtype, one.device.type))
        return x * x * one.item() if one.device.type == "cpu" else x

    return fn


@pytest.mark.parametrize("at_backward", DEFAULTS)
@pytest.mark.parametrize("at_forward", DEFAULTS)
def test_backward_sees_the_default_dtype_of_the_forward(
    restore_default_dtype, at_forward, at_backward
):
    seen = []
    f = suture.differentiable(with_own_constants(seen), method=FORWARD)
    x = point(0.5, 1.0)
    torch.set_default_dtype(at_forward)
    y = f(x).sum()
    torch.set_default_dtype(at_backward)
    y.backward()
    assert seen == [(at_forward, "cpu")] * 3
    assert torch.get_default_dtype() is at_backward
    torch.testing.assert_close(x.grad, 2 * x.detach(), rtol=1e-6, atol=0)


def test_forward_mode_sees_the_default_dtype_of_the_call(restore_default_dtype):
    seen = []
    f = suture.differentiable(with_own_constants(seen), method=FORWARD)
    torch.set_default_dtype(torch.float16)
    torch.func.jvp(f, (point(0.5).detach(),), (torch.ones(1, dtype=torch.float64),))
    assert seen == [(torch.float16, "cpu")] * 2


def test_backward_sees_the_default_device_of_the_forward():
    seen = []
    f = suture.differentiable(with_own_constants(seen), method=FORWARD)
    x = point(0.5, 1.0)
    y = f(x).sum()
    with torch.device("meta"):
        y.backward()
        assert torch.ones(()).device.type == "meta"
    assert seen == [(torch.get_default_dtype(), "cpu")] * 3
    torch.testing.assert_close(x.grad, 2 * x.detach(), rtol=1e-6, atol=0)


def test_forward_under_a_default_device():
    """Only fn sees the default device; the library's own tensors are where the caller's are."""
    seen = []
    f = suture.differentiable(with_own_constants(seen), method=FORWARD)
    x = point(0.5, 1.0)
    with torch.device("meta"):
        y = f(x)
    assert y.device == x.device
    y.sum().backward()
    assert seen == [(torch.get_default_dtype(), "meta")] * 3
    torch.testing.assert_close(x.grad, torch.ones_like(x), rtol=1e-6, atol=0)


def test_defaults_are_restored_when_the_function_raises(restore_default_dtype):
    calls = []

    def fn(x):
        calls.append(x)
        if len(calls) > 1:
            raise RuntimeError("no")
        return x * x

    f = suture.differentiable(fn)
    x = point(0.5)
    torch.set_default_dtype(torch.float64)
    y = f(x).sum()
    torch.set_default_dtype(torch.float32)
    with pytest.raises(suture.errors.EvaluationError):
        y.backward()
    assert torch.get_default_dtype() is torch.float32
    assert torch.ones(()).device.type == "cpu"


def test_float32_noise_is_recognized_under_a_float64_default(restore_default_dtype):
    torch.set_default_dtype(torch.float64)
    f = suture.differentiable(lambda x: cube(x.to(torch.float32)))
    x = point(0.5, 1.0, 2.0)
    against(f, x, 3 * x * x, tolerance=2e-3 * 12)
    torch.set_default_dtype(torch.float32)
    g = suture.differentiable(lambda x: cube(x.to(torch.float64)))
    against(g, x, 3 * x * x, tolerance=1e-6)


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
def test_autocast_is_off_inside(amp):
    """Under autocast a matmul would be computed in half precision, at node 0 alone."""
    received = []

    def fn(x):
        y = x @ x
        received.append((y.dtype, torch.is_autocast_enabled("cpu")))
        return y

    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    f = suture.differentiable(fn, method=FORWARD)
    with torch.autocast("cpu", dtype=amp):
        y = f(x)
        assert torch.is_autocast_enabled("cpu")
    y.sum().backward()
    assert received == [(torch.float64, False)] * 5
    twin = x.detach().clone().requires_grad_()
    (twin @ twin).sum().backward()
    torch.testing.assert_close(x.grad, twin.grad, rtol=1e-6, atol=1e-6)
