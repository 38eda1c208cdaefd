"""Each way in which a numerical derivative inside torch is known to go wrong without an error.

Every test asserts the right value, or the exception that takes the place of a wrong one. What
torch.compile does is in `test_compile.py`, and the plain compositions are in `test_torch_func.py`.
"""

from __future__ import annotations

import copy
import functools
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import grad, jacrev, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from suture import CustomVJP, FiniteDifference, differentiable, directions, errors, stencils

# Forward mode loads decompositions that torch itself still scripts (2.13).
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
)

CENTRAL = FiniteDifference(stencils.CENTRAL)
FORWARD = FiniteDifference(stencils.FORWARD)


def wants(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def close(actual: Tensor, *expected: Any, atol: float = 1e-6) -> bool:
    """Whether `actual` has the given values, to the accuracy of a forward difference or better."""
    wanted = torch.tensor(expected, dtype=torch.float64)
    return actual.shape == wanted.shape and bool((actual.double() - wanted).abs().max() <= atol)


def square(x: Any) -> Any:
    return x**2


interfaces = pytest.mark.parametrize("interface", ["torch", "numpy"])


# Second order.


def test_hessian_of_a_plain_sum_is_not_zero() -> None:
    """A backward that is hidden from autograd raises only if the cotangent requires a gradient."""
    x = wants(1.0, 2.0)
    f = differentiable(lambda x: x**3, method=CENTRAL, interface="numpy")
    (first,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert close(second, 6.0, 12.0, atol=1e-5)
    hessian = torch.autograd.functional.hessian(lambda x: f(x).sum(), x.detach())
    assert close(hessian, [6.0, 0.0], [0.0, 12.0], atol=1e-5)


def test_third_derivative_is_refused_by_each_route() -> None:
    f = differentiable(lambda x: x**3, method=CENTRAL, interface="numpy")
    x = wants(1.0, 2.0)
    value = f(x).sum()
    for _ in range(2):
        (value,) = (g.sum() for g in torch.autograd.grad(value, x, create_graph=True))
    with pytest.raises(errors.TransformError):
        torch.autograd.grad(value, x)
    with pytest.raises(errors.TransformError):
        grad(lambda t: grad(lambda t: grad(lambda t: f(t).sum())(t).sum())(t).sum())(x.detach())


# Transforms that would bake a number in, or drop a tangent.


@pytest.mark.parametrize(
    "traced",
    [
        lambda f: f,
        lambda f: grad(lambda x: f(x).sum()),
        lambda f: vmap(f),
        lambda f: lambda x: torch.func.jvp(f, (x,), (x,))[1],
        lambda f: lambda x: torch.autograd.grad(f(x.requires_grad_()).sum(), x),
    ],
    ids=["value", "grad", "vmap", "jvp", "autograd.grad"],
)
def test_make_fx_is_refused(traced: Callable[[Any], Any]) -> None:
    f = differentiable(square, method=CENTRAL, interface="numpy")
    with pytest.raises(errors.TransformError):
        make_fx(traced(f))(torch.ones(2, dtype=torch.float64))


def test_linearize_is_refused() -> None:
    f = differentiable(square, method=CENTRAL, interface="numpy")
    with pytest.raises(errors.TransformError):
        torch.func.linearize(f, torch.ones(2, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit.trace itself
def test_jit_trace_is_refused() -> None:
    f = differentiable(square, method=CENTRAL, interface="numpy")
    with pytest.raises(errors.TransformError):
        torch.jit.trace(f, torch.ones(2, dtype=torch.float64))


def test_meta_tensor_is_refused() -> None:
    with pytest.raises(errors.MethodError):
        differentiable(square)(torch.ones(2, device="meta"))


def test_vmap_over_no_rows_is_refused() -> None:
    """The shape of the result is known only from a call."""
    with pytest.raises(errors.MethodError):
        vmap(differentiable(square))(torch.ones(0, 2))


def test_forward_mode_through_a_rule_without_jvp_is_refused() -> None:
    f = differentiable(square, method=CustomVJP(lambda args, y, c: (2 * args[0] * c,)))
    x = torch.ones(2, dtype=torch.float64)
    with pytest.raises(errors.TransformError):
        torch.func.jvp(f, (x,), (x,))


def test_legacy_vmap_reaches_backward_and_costs_one() -> None:
    x = wants(1.0, 2.0, 3.0)
    f = differentiable(square, interface="numpy", method=FORWARD)
    rows = torch.eye(3, dtype=torch.float64)
    (jacobian,) = torch.autograd.grad(f(x), x, rows, is_grads_batched=True)
    assert close(jacobian, [2.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 6.0])
    assert f.evaluations == 1 + 3


def test_legacy_vmap_in_forward_mode() -> None:
    f = differentiable(square, method=CENTRAL, interface="numpy")
    jacobian = torch.autograd.functional.jacobian(
        f, torch.tensor([1.0, 2.0], dtype=torch.float64), vectorize=True, strategy="forward-mode"
    )
    assert close(jacobian, [2.0, 0.0], [0.0, 4.0])


# What the function may do to what it is given, and to what it has returned.


def numpy_destroys(x: Any) -> Any:
    y = x**2
    x[...] = 0
    return y


def torch_destroys(x: Tensor) -> Tensor:
    y = x**2
    x.zero_()
    return y


@pytest.mark.parametrize(
    ("fn", "interface"), [(numpy_destroys, "numpy"), (torch_destroys, "torch")]
)
@pytest.mark.parametrize("dtype", [torch.float64, None])
@pytest.mark.parametrize("vectorized", [False, True])
def test_function_that_overwrites_its_input(
    fn: Any, interface: str, dtype: torch.dtype | None, vectorized: bool
) -> None:
    """Writes through NumPy bypass the version counter; shown gradient [0, 0] for [2, 4] once."""
    x, w = wants(1.0, 2.0), wants(3.0)
    f = differentiable(fn, method=CENTRAL, interface=interface, dtype=dtype, vectorized=vectorized)
    (f(x * 1).sum() * w).sum().backward()
    assert close(x.detach(), 1.0, 2.0, atol=0)
    assert close(x.grad, 6.0, 12.0)
    assert close(w.grad, 5.0, atol=1e-12)
    x.grad = None
    jacobian = jacrev(f)(x.detach())
    assert close(jacobian, [2.0, 0.0], [0.0, 4.0])
    assert close(x.detach(), 1.0, 2.0, atol=0)


def test_undifferentiated_argument_is_a_private_copy_too() -> None:
    data = torch.tensor([1.0, 2.0], dtype=torch.float64)

    def fn(x: Any, data: Any) -> Any:
        y = x * data.sum()
        data[...] = 0
        return y

    w = wants(3.0)
    f = differentiable(fn, interface="numpy")
    f(w, data).backward()
    assert close(w.grad, 3.0)
    assert close(data, 1.0, 2.0, atol=0)


def test_result_shares_nothing_with_the_input_without_grad() -> None:
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for interface in ("torch", "numpy"):
        for dtype in (torch.float64, None):
            with torch.no_grad():
                differentiable(lambda x: x, interface=interface, dtype=dtype)(x).add_(100)
    assert close(x, 1.0, 2.0, atol=0)


@interfaces
@pytest.mark.parametrize("fn", [lambda x: x, lambda x: x[:], lambda x: x.reshape(2)])
def test_function_that_returns_its_input(fn: Any, interface: str) -> None:
    """`y.add_(100)` turned the parameter into [101, 102] where the result was not copied."""
    x = wants(1.0, 2.0)
    y = differentiable(fn, interface=interface)(x)
    y.add_(100)
    assert close(x.detach(), 1.0, 2.0, atol=0)
    assert close(y.detach(), 101.0, 102.0, atol=0)
    y.sum().backward()
    assert close(x.grad, 1.0, 1.0)


@interfaces
def test_function_that_returns_its_own_buffer(interface: str) -> None:
    """All points of a difference would have the value of the last one."""
    buffer = np.zeros(2) if interface == "numpy" else torch.zeros(2, dtype=torch.float64)

    def fn(x: Any) -> Any:
        buffer[...] = x**2
        return buffer

    x = wants(1.0, 2.0)
    f = differentiable(fn, method=CENTRAL, interface=interface)
    y = f(x)
    f(x * 10)
    assert close(y.detach(), 1.0, 4.0, atol=0)
    y.sum().backward()
    assert close(y.detach(), 1.0, 4.0, atol=0)
    assert close(x.grad, 2.0, 4.0)
    y.detach().add_(5)
    assert close(f(x).detach(), 1.0, 4.0, atol=0)


def test_activation_in_place_on_the_result() -> None:
    x = wants(1.0, -2.0)
    model = nn.Sequential(differentiable(lambda x: x**3, method=CENTRAL), nn.ReLU(inplace=True))
    model(x).sum().backward()
    assert close(x.grad, 3.0, 0.0)


def test_input_overwritten_between_forward_and_backward_is_loud() -> None:
    x = wants(1.0, 2.0)
    middle = x * 1
    y = differentiable(square)(middle)
    middle.detach().add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    assert x.grad is None


# Structure.


def test_tensors_inside_dicts_and_lists_are_seen() -> None:
    inside, listed = wants(2.0), wants(3.0, 4.0)

    def fn(tree: Any, *, also: Any) -> Any:
        return {"y": [tree["a"]["b"] * tree["c"][0].sum(), also[1]]}

    out = differentiable(fn)({"a": {"b": inside}, "c": [listed, "text"]}, also=(None, inside))
    (out["y"][0].sum() + 5 * out["y"][1].sum()).backward()
    assert close(inside.grad, 12.0)
    assert close(listed.grad, 2.0, 2.0)


def test_default_argument_of_the_function() -> None:
    x, w = wants(1.0, 2.0), wants(5.0)
    f = differentiable(lambda x, w=3.0, *, shift=0.0: x * w + shift)
    f(x).sum().backward()
    assert close(x.grad, 3.0, 3.0)
    f(x, w=w).sum().backward()
    assert close(w.grad, 3.0)


@pytest.mark.parametrize("rule_jvp", [None, lambda args, y, t: 2 * args[0] * t[0]])
def test_graph_is_freed_without_the_garbage_collector(rule_jvp: Any) -> None:
    methods = (CENTRAL, CustomVJP(lambda args, y, c: (2 * args[0] * c,), rule_jvp))
    gc.collect()
    gc.disable()
    try:
        for method in methods:
            f = differentiable(square, method=method)
            x = wants(1.0, 2.0)
            middle = x * 1
            y = f(middle)
            (first,) = torch.autograd.grad(y.sum(), middle, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), x, retain_graph=True)
            assert close(second, 2.0, 2.0, atol=1e-4)
            watched = [weakref.ref(t) for t in (x, middle, y, first)]
            del x, middle, y, first, second
            assert [ref() for ref in watched] == [None] * 4
    finally:
        gc.enable()


# Gradients from the user's rule have the shape and the dtype of the input.


def rule(gradient: Callable[[Any], Any]) -> CustomVJP:
    return CustomVJP(lambda args, output, cotangent: (gradient(args[0]),))


@interfaces
@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x[None] * 2,
        lambda x: x[:1],
        lambda x: x.sum(),
        lambda x: (x, x),
        lambda x: "2x",
        lambda x: x * float("nan"),
    ],
    ids=["(1, 2)", "(1,)", "()", "two", "text", "nan"],
)
def test_rule_whose_gradient_does_not_fit_is_refused(wrong: Any, interface: str) -> None:
    x = wants(1.0, 2.0)
    f = differentiable(square, method=rule(wrong), interface=interface)
    with pytest.raises(errors.SutureError):
        f(x).sum().backward()
    assert x.grad is None


@interfaces
def test_rule_that_forgets_an_argument_is_refused(interface: str) -> None:
    x, w = wants(1.0, 2.0), wants(3.0)
    f = differentiable(lambda x, w: x * w, method=rule(lambda x: x), interface=interface)
    with pytest.raises(errors.SutureError):
        f(x, w).sum().backward()
    assert x.grad is None
    assert w.grad is None


@interfaces
def test_gradient_has_the_dtype_of_the_input(interface: str) -> None:
    received = []

    def vjp(args: Any, output: Any, cotangent: Any) -> Any:
        received.extend([args[0].dtype, output.dtype, cotangent.dtype])
        return (2 * args[0] * cotangent,)

    x = wants(1.0, 2.0, dtype=torch.float32)
    f = differentiable(square, method=CustomVJP(vjp), interface=interface)
    y = f(x)
    assert y.dtype == torch.float32
    y.sum().backward()
    assert x.grad.dtype == torch.float32
    assert close(x.grad, 2.0, 4.0)
    assert {str(d).removeprefix("torch.") for d in received} == {"float64"}


def test_rule_gets_private_copies() -> None:
    def vjp(args: Any, output: Any, cotangent: Any) -> Any:
        gradient = 2 * args[0] * cotangent
        args[0][...] = 0
        output[...] = 0
        cotangent[...] = 0
        return (gradient,)

    x = wants(1.0, 2.0)
    y = differentiable(square, method=CustomVJP(vjp), interface="numpy")(x)
    cotangent = torch.ones(2, dtype=torch.float64)
    y.backward(cotangent)
    assert close(x.grad, 2.0, 4.0)
    assert close(x.detach(), 1.0, 2.0, atol=0)
    assert close(y.detach(), 1.0, 4.0, atol=0)
    assert close(cotangent, 1.0, 1.0, atol=0)


# What differs between forward and backward.


def test_autocast_is_off_in_both_passes() -> None:
    seen = []

    def fn(x: Tensor) -> Tensor:
        product = x @ torch.eye(2, dtype=x.dtype)  # autocast would make it bfloat16
        seen.append((torch.is_autocast_enabled("cpu"), x.dtype, product.dtype))
        return product**2

    x = wants(1.0, 2.0, dtype=torch.float32)
    for dtype, inside in ((torch.float64, torch.float64), (None, torch.float32)):
        seen.clear()
        x.grad = None
        f = differentiable(fn, method=CENTRAL, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16):
            y = f(x)
        assert y.dtype == torch.float32
        y.sum().backward()
        assert set(seen) == {(False, inside, inside)}
        assert len(seen) == 5
        assert close(x.grad, 2.0, 4.0, atol=1e-6 if dtype else 1e-3)


@pytest.fixture
def _defaults() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)
    torch.set_default_device(None)


@pytest.mark.usefixtures("_defaults")
def test_default_dtype_and_device_of_the_forward_are_in_force_in_backward() -> None:
    seen = []

    def fn(x: Tensor) -> Tensor:
        made = torch.ones(2)
        seen.append((made.dtype, made.device.type))
        return torch.tensor([float((x * made).square().sum())])

    x = wants(1.0, 2.0)
    y = differentiable(fn, method=CENTRAL)(x)
    torch.set_default_dtype(torch.float16)
    torch.set_default_device("meta")
    y.backward(torch.ones(1, dtype=torch.float64, device="cpu"))
    assert set(seen) == {(torch.float32, "cpu")}
    assert torch.get_default_dtype() == torch.float16
    assert torch.get_default_device().type == "meta"
    torch.set_default_device(None)
    assert close(x.grad, 2.0, 4.0, atol=1e-2)


@pytest.mark.usefixtures("_defaults")
def test_default_device_is_set_throughout() -> None:
    """No tensor of the library's own lands on the default device."""
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    f = differentiable(square, method=CENTRAL, interface="numpy")
    rows = torch.eye(2, dtype=torch.float64)
    torch.set_default_device("meta")
    gradient = grad(lambda t: f(t).sum())(x)
    jacobian, tangent = jacrev(f)(x), torch.func.jvp(f, (x,), (x,))[1]
    hessian = torch.func.hessian(lambda t: f(t).sum())(x)
    x.requires_grad_()
    (batched,) = torch.autograd.grad(f(x), x, rows, is_grads_batched=True)
    torch.set_default_device(None)
    assert close(gradient, 2.0, 4.0)
    assert close(tangent, 2.0, 8.0)
    assert close(jacobian, [2.0, 0.0], [0.0, 4.0])
    assert close(batched, [2.0, 0.0], [0.0, 4.0])
    assert close(hessian, [2.0, 0.0], [0.0, 2.0], atol=1e-4)


def test_gradients_are_off_inside_the_function() -> None:
    seen = []

    def fn(x: Tensor) -> Tensor:
        seen.append((torch.is_grad_enabled(), x.requires_grad))
        return x**2

    x = wants(1.0)
    differentiable(fn)(x).backward()
    assert set(seen) == {(False, False)}


def frozen_dropout() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2, dtype=torch.float64), nn.Dropout(0.5))
    return module.requires_grad_(False).eval()


@pytest.mark.parametrize("as_method", [False, True])
def test_module_that_changes_mode_between_forward_and_backward(as_method: bool) -> None:
    module = frozen_dropout()
    x = wants(1.0, 2.0)
    y = differentiable(module.forward if as_method else module)(x)
    module.train()
    with pytest.raises(errors.MethodError):
        y.sum().backward()
    assert x.grad is None


def test_inner_module_that_changes_mode_between_forward_and_backward() -> None:
    module = frozen_dropout()
    y = differentiable(module)(wants(1.0, 2.0))
    module[1].train()
    with pytest.raises(errors.MethodError):
        y.sum().backward()


MODULE_HOLDERS: dict[str, Callable[[nn.Module], Any]] = {
    "closure": lambda module: lambda x: module(x),
    "partial": lambda module: functools.partial(module),
    "attribute": lambda module: Holder(module).call,
    "default": lambda module: lambda x, module=module: module(x),
}


@pytest.mark.parametrize("hold", MODULE_HOLDERS.values(), ids=MODULE_HOLDERS.keys())
def test_held_module_that_changes_mode_between_forward_and_backward(hold: Any) -> None:
    module = frozen_dropout()
    x = wants(1.0, 2.0)
    y = differentiable(hold(module))(x)
    module.train()
    with pytest.raises(errors.MethodError):
        y.sum().backward()
    assert x.grad is None


def test_frozen_module_is_welcome_and_not_a_child() -> None:
    module = frozen_dropout()
    f = differentiable(module)
    x = wants(1.0, 2.0)
    f(x).sum().backward()
    torch.testing.assert_close(x.grad, module[0].weight.sum(0), rtol=0, atol=1e-6)
    assert list(f.modules()) == [f]
    f.train()
    assert not module.training


# Tensors that require a gradient, and that the function would hide from autograd.


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held

    def method(self, x: Any) -> Any:
        return x * 2

    def call(self, x: Any) -> Any:
        return self.held(x)

    __call__ = method


def held_by_closure(weight: Tensor) -> Any:
    return lambda x: x * weight


def held_by_list_in_closure(weight: Tensor) -> Any:
    weights = [weight]
    return lambda x: x * weights[0]


def held_by_module_in_closure(weight: Tensor) -> Any:
    layer = nn.Linear(2, 2)
    return lambda x: layer(x)


def held_by_default(weight: Tensor) -> Any:
    return lambda x, w=weight: x * w


def held_by_keyword_default(weight: Tensor) -> Any:
    return lambda x, *, w=weight: x * w


def held_by_inner_function(weight: Tensor) -> Any:
    inner = held_by_closure(weight)
    return lambda x: inner(x)


HOLDERS: dict[str, Callable[[Tensor], Any]] = {
    "closure": held_by_closure,
    "list in a closure": held_by_list_in_closure,
    "module in a closure": held_by_module_in_closure,
    "function in a closure": held_by_inner_function,
    "default": held_by_default,
    "keyword default": held_by_keyword_default,
    "partial": lambda weight: functools.partial(torch.mul, weight),
    "partial keyword": lambda weight: functools.partial(torch.mul, other=weight),
    "partial of a closure": lambda weight: functools.partial(held_by_closure(weight)),
    "self": lambda weight: Holder(weight).method,
    "self, nested": lambda weight: Holder({"w": [weight]}).method,
    "self holding a module": lambda weight: Holder(nn.Linear(2, 2)).method,
    "callable object": lambda weight: Holder(weight),
    "module": lambda weight: nn.Linear(2, 2),
    "method of a module": lambda weight: nn.Linear(2, 2).forward,
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS.keys())
@pytest.mark.parametrize("wanted", [False, True])
def test_held_tensor_that_requires_grad_is_refused(hold: Any, wanted: bool) -> None:
    """It would get no gradient without an error, whether or not the input wants one."""
    x = torch.ones(2, requires_grad=wanted)
    with pytest.raises(errors.MethodError, match="requires_grad_\\(False\\)"):
        differentiable(hold(torch.ones(2, requires_grad=True)), dtype=None)(x)


@pytest.mark.parametrize("name", [n for n in HOLDERS if "module" not in n])
def test_held_tensor_without_grad_is_welcome(name: str) -> None:
    x = torch.ones(2, requires_grad=True)
    f = differentiable(HOLDERS[name](torch.full((2,), 2.0)), dtype=None)
    f(x).sum().backward()
    assert close(x.grad, 2.0, 2.0, atol=1e-2)


GLOBAL = torch.tensor([2.0, 3.0], dtype=torch.float64)


def test_global_tensor_that_requires_grad_is_refused() -> None:
    f = differentiable(lambda x: x * GLOBAL)
    GLOBAL.requires_grad_()
    try:
        with pytest.raises(errors.MethodError):
            f(wants(1.0, 2.0))
    finally:
        GLOBAL.requires_grad_(False)
    assert close(f(wants(1.0, 2.0)).detach(), 2.0, 6.0, atol=0)


def test_held_tensor_that_requires_grad_later_is_refused() -> None:
    weight = torch.ones(2, dtype=torch.float64)
    f = differentiable(held_by_closure(weight))
    f(wants(1.0, 2.0))
    weight.requires_grad_()
    with pytest.raises(errors.MethodError):
        f(wants(1.0, 2.0))
    with torch.no_grad():
        assert close(f(wants(1.0, 2.0)), 1.0, 2.0, atol=0)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_held_tensor_that_is_differentiated_by_func_is_refused(mode: Any) -> None:
    x, w = torch.ones(2, dtype=torch.float64), torch.full((2,), 2.0, dtype=torch.float64)

    def through(w: Tensor) -> Tensor:
        return differentiable(held_by_closure(w), method=CENTRAL)(x)

    with mode():
        with pytest.raises(errors.MethodError):
            grad(lambda w: through(w).sum())(w)
        with pytest.raises(errors.MethodError):
            torch.func.jvp(through, (w,), (w,))  # the tangent would be zero, without an error
        with pytest.raises(errors.MethodError):
            vmap(through)(w[None])


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_held_dual_tensor_is_refused(mode: Any) -> None:
    x, w = torch.ones(2, dtype=torch.float64), torch.full((2,), 2.0, dtype=torch.float64)
    with mode(), forward_ad.dual_level():
        f = differentiable(held_by_closure(forward_ad.make_dual(w, w)), method=CENTRAL)
        with pytest.raises(errors.MethodError):
            f(x)


# The weight itself is never displaced.


def test_weight_is_never_touched() -> None:
    """A loop over `weight.detach()` shares storage and version counter with the weight."""
    weight = wants(1.0, 2.0, 3.0)
    version, seen = weight._version, []

    def fn(w: Any) -> Any:
        seen.append((watched.detach().tolist(), w.data_ptr() == watched.data_ptr()))
        return w.square().sum()

    watched = weight.detach()
    differentiable(fn, method=CENTRAL)(weight).backward()
    assert len(seen) == 7
    assert all(values == [1.0, 2.0, 3.0] and not same for values, same in seen)
    assert weight._version == version


def test_weight_used_twice_with_retain_graph_and_decay() -> None:
    weight = wants(1.0, 2.0)
    f = differentiable(square, method=CENTRAL)
    value = (weight * weight).sum() + f(weight).sum() + (f(weight) * weight).sum()
    value.backward(retain_graph=True)
    value.backward()
    # 2w + 2w + 3w², twice
    assert close(weight.grad, 14.0, 40.0)


def test_tied_weights() -> None:
    layer = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    f = differentiable(lambda x, w: torch.tanh(x @ w.T), method=CENTRAL)
    x = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    f(layer(x), layer.weight).sum().backward()
    actual, layer.weight.grad = layer.weight.grad, None
    torch.tanh(layer(x) @ layer.weight.T).sum().backward()
    torch.testing.assert_close(actual, layer.weight.grad, rtol=0, atol=1e-9)


class Breaks:
    """x² until the call with number `at`, and an exception from then on."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.calls, self.at, self.error = 0, at, error

    def __call__(self, x: Any) -> Any:
        self.calls += 1
        if self.calls >= self.at:
            raise self.error
        return x**2


@pytest.mark.parametrize("at", [2, 4])
def test_exception_in_the_middle_of_backward(at: int) -> None:
    weight = wants(1.0, 2.0)
    cause = RuntimeError("solver diverged")
    value = differentiable(Breaks(at, cause), method=CENTRAL, name="solver")(weight).sum()
    with pytest.raises(errors.EvaluationError, match="solver") as caught:
        value.backward()
    assert caught.value.__cause__ is cause
    assert close(weight.detach(), 1.0, 2.0, atol=0)
    assert weight.grad is None
    args, kwargs = caught.value.point
    assert kwargs == {}
    assert 0 < (torch.as_tensor(args[0]) - weight.detach()).abs().max() < 1e-3


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_passes_through(at: int, error: type[BaseException]) -> None:
    weight = wants(1.0, 2.0)
    f = differentiable(Breaks(at, error()), method=CENTRAL)
    with pytest.raises(error):
        f(weight).sum().backward()
    assert close(weight.detach(), 1.0, 2.0, atol=0)
    assert weight.grad is None


@pytest.mark.parametrize(
    "method",
    [CENTRAL, CustomVJP(lambda args, output, cotangent: (2 * args[0] * cotangent,))],
    ids=["difference", "rule"],
)
def test_overflowing_cotangent_reaches_the_grad_scaler(method: Any) -> None:
    """The scaler provokes infinities, skips that step, and scales down."""
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    value = differentiable(square, method=method)(weight).sum() * 1e3
    scaler.scale(value).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**126
    assert close(weight.detach(), 1.0, 1.0, atol=0)


# Only what is asked for is displaced.


def product(a: Any, b: Any) -> Any:
    return a.sum() * b


def test_backward_with_inputs_displaces_only_those() -> None:
    a, b = wants(1.0, 2.0), wants(3.0)
    f = differentiable(product, method=FORWARD)
    f(a, b).backward(inputs=[b])
    assert close(b.grad, 3.0)
    assert a.grad is None
    assert f.evaluations == 1 + 1


def test_backward_with_an_intermediate_as_input() -> None:
    a, b = wants(1.0, 2.0), wants(3.0)
    middle = a * 2
    middle.retain_grad()
    differentiable(product)(middle, b).backward(inputs=[middle, b])
    assert close(middle.grad, 3.0, 3.0)
    assert close(b.grad, 6.0)
    assert a.grad is None


def test_autograd_grad_of_a_subset() -> None:
    """torch does not say which leaves `autograd.grad` wants: all may be displaced, never fewer."""
    a, b = wants(1.0, 2.0), wants(3.0)
    f = differentiable(product, method=FORWARD)
    (actual,) = torch.autograd.grad(f(a, b).sum(), b)
    assert close(actual, 3.0)
    assert 1 + 1 <= f.evaluations <= 1 + 3
    middle = a * 2
    (actual,) = torch.autograd.grad(f(middle, b).sum(), middle)
    assert close(actual, 3.0, 3.0)


def test_unused_output_and_constant_inputs_cost_nothing() -> None:
    a, b = torch.ones(5, dtype=torch.float64), wants(3.0)
    f = differentiable(
        lambda a, b, n: (a.sum() * b, torch.ones(2, dtype=torch.float64) * n), method=FORWARD
    )
    f(a, b, torch.tensor(2))[0].sum().backward()
    assert close(b.grad, 5.0)
    assert f.evaluations == 1 + 1


# Random directions.


def test_directions_are_a_function_of_the_inputs() -> None:
    """A node that is run again, and another node at the same point, draw the same directions."""
    method = FiniteDifference(stencils.CENTRAL, directions.Rademacher(2))
    f = differentiable(lambda x: np.sin(x).sum() * x, method=method, interface="numpy")
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global one
    x = wants(0.1, 0.5, 0.9, -0.3)
    value = f(x).sum()
    first, again = (torch.autograd.grad(value, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(first, torch.autograd.grad(f(x).sum(), x)[0])
    assert not torch.equal(first, grad(lambda t: f(t).sum())(x.detach() + 1e-3))
    other = differentiable(f.fn, method=method, interface="numpy", seed=1)
    assert not torch.equal(first, torch.autograd.grad(other(x).sum(), x)[0])
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002 - the global one


# Modes, hooks, threads, copies.


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_grad_the_call_is_the_function(mode: Any) -> None:
    f = differentiable(square, interface="numpy")
    x = wants(1.0, 2.0)
    with mode():
        y = f(x)
    assert not y.requires_grad
    assert close(y, 1.0, 4.0, atol=0)
    assert f.evaluations == 1


def test_function_that_differentiates_inside() -> None:
    """The transforms around the black box are not those inside it."""

    def fn(x: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (eager,) = torch.autograd.grad((leaf**3).sum(), leaf)
        _, tangent = torch.func.jvp(lambda t: t**3, (x,), (torch.ones_like(x),))
        return eager + grad(lambda t: (t**3).sum())(x) + tangent + vmap(square)(x)  # 10 x²

    f = differentiable(fn, method=CENTRAL)
    x = wants(1.0, 2.0)
    f(x).sum().backward()
    assert close(x.grad, 20.0, 40.0)
    x = x.detach()
    assert close(grad(lambda t: f(t).sum())(x), 20.0, 40.0)
    assert close(torch.func.jacfwd(f)(x), [20.0, 0.0], [0.0, 40.0])
    assert close(vmap(grad(lambda t: f(t).sum()))(x[None]), [20.0, 40.0])


def test_vmap_and_jvp_without_grad() -> None:
    f = differentiable(square, method=CENTRAL, interface="numpy")
    with torch.no_grad():
        rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
        assert close(vmap(f)(rows), [1.0, 4.0], [9.0, 16.0], atol=0)
        _, tangent = torch.func.jvp(f, (rows,), (torch.ones_like(rows),))
    assert close(tangent, [2.0, 4.0], [6.0, 8.0])


def test_inference_tensor_beside_a_weight() -> None:
    with torch.inference_mode():
        data = torch.tensor([1.0, 2.0], dtype=torch.float64)
    weight = wants(3.0)
    f = differentiable(lambda x, w: x * w)
    with pytest.raises(RuntimeError, match=r"[Ii]nference tensor"):
        f(data, weight).sum().backward()
    assert weight.grad is None


def test_saved_tensors_hooks() -> None:
    x = wants(1.0, 2.0)
    f = differentiable(square, method=CENTRAL)
    with torch.autograd.graph.save_on_cpu():
        y = f(x)
    y.sum().backward()
    assert close(x.grad, 2.0, 4.0)
    packed = []

    def pack(t: Tensor) -> Tensor:
        packed.append(t.shape)
        return t.detach().clone()

    x.grad = None
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = f(x)
    y.sum().backward()
    assert packed
    assert close(x.grad, 2.0, 4.0)


def test_tensor_and_module_hooks() -> None:
    x, seen = wants(1.0, 2.0), []
    f = differentiable(square, method=CENTRAL)
    f.register_forward_hook(lambda module, args, output: seen.append("forward"))
    f.register_full_backward_hook(lambda module, inputs, outputs: seen.append("backward"))
    y = f(x)
    y.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    y.sum().backward()
    assert close(x.grad, 21.0, 41.0, atol=1e-5)
    assert seen == ["forward", "backward"]


def run_in_thread(work: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join()
    return results[0]


def test_backward_in_another_thread() -> None:
    x = wants(1.0, 2.0)
    y = differentiable(square, method=CENTRAL)(x)
    assert run_in_thread(lambda: y.sum().backward()) is None
    assert close(x.grad, 2.0, 4.0)


def test_one_function_in_many_threads() -> None:
    f = differentiable(lambda x: x**3, method=CENTRAL, interface="numpy")
    points = [wants(float(i), -float(i)) for i in range(1, 9)]
    threads = [threading.Thread(target=lambda x=x: f(x).sum().backward()) for x in points]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for x in points:
        torch.testing.assert_close(x.grad, 3 * x.detach() ** 2, rtol=1e-8, atol=1e-8)
    assert f.evaluations == 8 * (1 + 4)


def test_deepcopy_is_independent() -> None:
    f = differentiable(square, method=CENTRAL)
    f(wants(1.0))
    twin = copy.deepcopy(f)
    x = wants(1.0, 2.0)
    twin(x).sum().backward()
    assert close(x.grad, 2.0, 4.0)
    assert f.evaluations == 1
    assert copy.deepcopy(nn.Sequential(nn.Linear(2, 2), f))[1].method == f.method


def test_layer_without_state() -> None:
    f = differentiable(square)
    model = nn.Sequential(nn.Linear(2, 3), f, nn.Linear(3, 1))
    assert list(f.state_dict()) == ["_extra_state"]  # empty, and nobody misses it
    assert f.state_dict()["_extra_state"].tolist() == []
    assert list(f.parameters()) == []
    plain = nn.Sequential(nn.Linear(2, 3), nn.Identity(), nn.Linear(3, 1))
    assert set(model.state_dict()) == {*plain.state_dict(), "1._extra_state"}
    model.load_state_dict(plain.state_dict(), strict=True)
    assert plain.load_state_dict(model.state_dict(), strict=False).missing_keys == []
    model.to(torch.float64)(torch.ones(2, dtype=torch.float64)).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float64 for p in model.parameters())


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x**2


def test_functional_call_and_gradients_per_sample() -> None:
    torch.manual_seed(0)
    first, last = (nn.Linear(2, 2, dtype=torch.float64) for _ in range(2))
    rows = torch.tensor([[0.3, -0.2], [0.8, 0.5], [-1.0, 0.1]], dtype=torch.float64)

    def per_sample(middle: nn.Module) -> dict[str, Tensor]:
        model = nn.Sequential(first, middle, last)

        def value(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(model, parameters, (x,)).square().sum()

        return vmap(grad(value), (None, 0))(dict(model.named_parameters()), rows)

    actual = per_sample(differentiable(square, method=CENTRAL))
    torch.testing.assert_close(actual, per_sample(Square()), rtol=0, atol=1e-8)


def test_rows_of_a_vmap_draw_the_directions_of_single_calls() -> None:
    method = FiniteDifference(stencils.CENTRAL, directions.Rademacher(2))
    f = differentiable(lambda x: x * np.sin(x).sum(), method=method, interface="numpy")
    rows = torch.tensor([[0.1, 0.5, 0.9], [-0.3, 0.2, 0.7]], dtype=torch.float64)
    gradient = grad(lambda t: f(t).sum())
    single = torch.stack([gradient(row) for row in rows])
    torch.testing.assert_close(vmap(gradient)(rows), single, rtol=1e-10, atol=0)
    assert not torch.allclose(single[0], torch.func.jacfwd(f)(rows[0]).sum(0))  # two of three


def test_sequential_trains_like_its_twin() -> None:
    def build(activation: nn.Module) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 3), activation, nn.Linear(3, 1))

    class Cubed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x**3

    x = torch.tensor([[0.3, -0.2], [0.8, 0.5]])
    losses = []
    for activation in (differentiable(lambda x: x**3, method=CENTRAL, batch_dims=0), Cubed()):
        with torch.random.fork_rng():
            model = build(activation)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(5):
            optimizer.zero_grad()
            value = (model(x) - 1).square().mean()
            value.backward()
            optimizer.step()
        losses.append(value.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# The import stays cheap.


def test_import_does_not_load_the_compiler_and_a_later_compile_is_right() -> None:
    """`torch.compiler.disable` imports torch._dynamo, 1.6 s, the moment it decorates."""
    program = """
import sys, warnings
import torch
before = set(sys.modules)
import suture
assert "torch._dynamo" not in sys.modules, "the import loads the compiler"
added = {name.partition(".")[0] for name in set(sys.modules) - before}
assert not added & {"scipy", "matplotlib", "rich", "typer"}, added
f = suture.differentiable(lambda x: x**2, interface="numpy")
x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
f(x).sum().backward()
assert "torch._dynamo" not in sys.modules, "a call loads the compiler"
warnings.simplefilter("ignore")
compiled = torch.compile(torch.func.grad(lambda t: f(t).sum()), backend="aot_eager")
print((compiled(x.detach()) - 2 * x.detach()).abs().max().item())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-6


# Found by an attack.


def test_rule_that_writes_into_its_arguments() -> None:
    """The rule is given private copies for each cotangent."""

    def vjp(args: Any, output: Any, cotangent: Any) -> Any:
        gradient = 2 * args[0] * cotangent
        args[0].mul_(3)
        return (gradient,)

    f = differentiable(lambda x: x**2, method=CustomVJP(vjp))
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    assert close(jacrev(f)(x), [2.0, 0.0], [0.0, 4.0])


@pytest.mark.parametrize(
    "coupled", [lambda x: x.cumsum(0), lambda x: x * x[:1], lambda x: x * x[-1:]]
)
def test_batch_of_one_row_is_checked(coupled: Any) -> None:
    x = torch.tensor([[2.0]], dtype=torch.float64, requires_grad=True)
    with pytest.raises(errors.BadResult):
        differentiable(coupled, batch_dims=0)(x).sum().backward()


def test_minimum_over_the_batch_is_found() -> None:
    x = torch.tensor([[2.0], [1.0], [3.0]], dtype=torch.float64, requires_grad=True)
    with pytest.raises(errors.BadResult):
        differentiable(lambda x: x - x.min(0).values, batch_dims=0)(x).square().sum().backward()


def test_autocast_of_another_device_is_off() -> None:
    seen = []

    def fn(x: Tensor) -> Tensor:
        seen.append(torch.is_autocast_enabled("cuda"))
        return x * x

    x = wants(1.0, 2.0)
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        y = differentiable(fn, method=FORWARD)(x).sum()
    finally:
        torch.set_autocast_enabled("cuda", before)
    y.backward()
    assert seen == [False] * 3


class Attributes(nn.Module):
    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held

    def forward(self, x: Any) -> Any:
        return x * 2


class OfTheClass:
    weight = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def run(self, x: Any) -> Any:
        return x * self.weight


WEIGHT = nn.Parameter(torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize(
    "fn",
    [
        Attributes(torch.ones(2, requires_grad=True)),
        Attributes([nn.Linear(2, 2)]),
        OfTheClass().run,
        lambda x: (lambda z: z * WEIGHT)(x),
        lambda x: sum(x * w for w in [WEIGHT]),
        WEIGHT.mul,
        WEIGHT.__mul__,
    ],
    ids=[
        "attribute",
        "list of modules",
        "class",
        "inner lambda",
        "comprehension",
        "mul",
        "__mul__",
    ],
)
def test_hidden_tensors_are_refused(fn: Any) -> None:
    with pytest.raises(errors.MethodError, match="holds a tensor that requires grad"):
        differentiable(fn)(wants(1.0, 2.0))


def test_array_of_objects_as_an_argument_is_looked_into() -> None:
    hidden = np.empty(1, dtype=object)
    hidden[0] = torch.ones(2, requires_grad=True)
    with pytest.raises(errors.MethodError, match="holds a tensor that requires grad"):
        differentiable(lambda x, hidden: x * 2)(wants(1.0, 2.0), hidden)


@pytest.mark.parametrize(
    "result",
    [lambda x: np.ma.array(x, mask=[True, False]), lambda x: torch.as_tensor(x).to_sparse()],
    ids=["masked", "sparse"],
)
def test_results_without_all_of_their_numbers_are_refused(result: Any) -> None:
    with pytest.raises(errors.BadResult):
        differentiable(result, interface="numpy")(wants(1.0, 2.0))


def test_default_dtype_survives_backward_in_threads() -> None:
    """It belongs to the process: threads must not restore what another has set for a while."""
    f, before = differentiable(lambda x: x**2), torch.get_default_dtype()
    losses = [f(wants(1.0, 2.0)).sum() for _ in range(4)]
    try:
        torch.set_default_dtype(torch.float64)
        threads = [threading.Thread(target=loss.backward) for loss in losses]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)


def test_infinite_shared_input_does_not_spoil_a_tangent() -> None:
    f = differentiable(lambda x, m: x * m[0], batch_dims=(0, None))
    x, m = (
        torch.ones(3, dtype=torch.float64),
        torch.tensor([2.0, float("inf")], dtype=torch.float64),
    )
    _, tangent = torch.func.jvp(f, (x, m), (torch.ones_like(x), torch.ones_like(m)))
    assert close(tangent, 3.0, 3.0, 3.0)


@pytest.mark.parametrize("method", [FiniteDifference(), CENTRAL])
@pytest.mark.parametrize("lossy", [torch.float32, torch.bfloat16])
def test_hooks_that_lose_digits(method: FiniteDifference, lossy: torch.dtype) -> None:
    """Node 0 belongs to the leaves before the loss: it is evaluated again where they are now."""
    x = torch.tensor([0.1, 0.7], dtype=torch.float64, requires_grad=True)
    f = differentiable(lambda x: x**2, method=method)
    pack, unpack = lambda t: t.to(lossy), lambda t: t.double()
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        y = f(x).sum()
    y.backward()
    rounded = x.detach().to(lossy).double()
    torch.testing.assert_close(x.grad, 2 * rounded, rtol=1e-6, atol=0)


def test_rows_that_know_their_position_are_found() -> None:
    def fn(x: Tensor) -> Tensor:
        return x + torch.arange(len(x))[:, None]

    x = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(errors.BadResult):
        differentiable(fn, batch_dims=0)(x).sum().backward()


@pytest.mark.parametrize("options", [{}, {"batch_dims": 0}, {"vectorized": True}])
def test_what_is_tried_again_sees_its_arguments_as_they_were(options: dict[str, Any]) -> None:
    calls = 0

    def overwrites(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        x *= 2
        if calls % 4:
            raise RuntimeError("busy")
        return x.clone()

    method = FiniteDifference(stencils.CENTRAL)
    f = differentiable(overwrites, method=method, retries=3, **options)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    f(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, torch.full_like(x, 2.0))
