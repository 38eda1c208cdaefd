"""Arguments and results of any structure: nestings, keywords, shapes, dtypes, constants."""

import dataclasses
import functools
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree  # the registration that torch.func documents lives here

import suture
from suture import FiniteDifference, errors, stencils

CENTRAL = FiniteDifference(stencils.CENTRAL)


@dataclasses.dataclass
class Spring:
    stiffness: torch.Tensor
    length: torch.Tensor


class State(NamedTuple):
    position: torch.Tensor
    velocity: torch.Tensor


class Unregistered:
    def __init__(self, tensor):
        self.tensor = tensor


@pytest.fixture(scope="module", autouse=True)
def spring_is_a_pytree():
    pytree.register_pytree_node(
        Spring,
        lambda spring: ([spring.stiffness, spring.length], None),
        lambda leaves, _: Spring(*leaves),
    )
    yield
    pytree._deregister_pytree_node(Spring)


def leaf(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def differentiable_leaves(tree):
    """Return the tensors of a tree that are part of a graph."""
    return [
        node
        for node in pytree.tree_leaves(tree)
        if isinstance(node, torch.Tensor) and node.requires_grad
    ]


def loss_of(tree):
    """Reduce every output that has a gradient to one real number, no two elements alike."""
    total = torch.zeros((), dtype=torch.float64)
    for output in differentiable_leaves(tree):
        flat = output.reshape(-1)
        if flat.is_complex():
            flat = torch.view_as_real(flat).reshape(-1)
        weights = torch.cos(torch.arange(1, flat.numel() + 1, dtype=torch.float64))
        total = total + (flat.to(torch.float64) * weights).sum()
    return total


def gradients(call, leaves):
    """Return the gradient for each leaf, zeros where it is not connected."""
    found = torch.autograd.grad(loss_of(call()), leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves, found, strict=True)
    ]


def assert_like_autograd(fn, *args, tolerance=1e-7, **kwargs):
    """Compare values and gradients with those of the same function, differentiated by torch."""
    f = suture.differentiable(fn, method=CENTRAL)
    leaves = differentiable_leaves((args, kwargs))
    assert leaves, "nothing to compare"
    value, expected = f(*args, **kwargs), fn(*args, **kwargs)
    assert pytree.tree_structure(value) == pytree.tree_structure(expected)
    torch.testing.assert_close(
        [node for node in pytree.tree_leaves(value) if isinstance(node, torch.Tensor)],
        [node for node in pytree.tree_leaves(expected) if isinstance(node, torch.Tensor)],
    )
    found = gradients(lambda: f(*args, **kwargs), leaves)
    torch.testing.assert_close(
        found,
        gradients(lambda: fn(*args, **kwargs), leaves),
        rtol=tolerance,
        atol=tolerance,
    )
    assert all(g.shape == leaf.shape for g, leaf in zip(found, leaves, strict=True))


# ------------------------------------------------------------------------------------------------
# Arguments
# ------------------------------------------------------------------------------------------------

a, b, c = leaf(1.0, 2.0), leaf(0.5, -1.0), leaf(3.0)


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (lambda x: x[0] * x[1], ((a, b),)),
        (lambda x: x[0] * x[1], ([a, b],)),
        (lambda x: x["a"] * x["b"], ({"a": a, "b": b},)),
        (lambda x: x["b"] / x["a"], (OrderedDict(b=b, a=a),)),
        (lambda x: x.stiffness * x.length, (Spring(a, b),)),
        (lambda x: x.position * x.velocity, (State(a, b),)),
        (lambda x: x["k"][0].length * x["k"][1][0] + x["c"], ({"k": (Spring(a, b), [a]), "c": c},)),
        (lambda x, y: x * y, (a, b)),
        (lambda x, *rest: x * sum(rest), (a, b, c)),
        (lambda x, empty: x * len(empty), (a, ())),
        (lambda x, empty: x * len(empty), (a, {})),
        (lambda x, nothing: x if nothing is None else x * 2, (a, None)),
        (lambda x, nothing: x * nothing[0] + nothing[1]["k"][0], (a, (b, {"k": [c, None]}))),
    ],
    ids=[
        "tuple", "list", "dict", "OrderedDict", "dataclass", "NamedTuple", "deep", "two", "star",
        "empty tuple", "empty dict", "None", "None inside",
    ],
)  # fmt: skip
def test_nested_arguments(fn, args):
    assert_like_autograd(fn, *args)


def test_dataclass_registered_by_torch():
    if not hasattr(pytree, "register_dataclass"):
        pytest.skip("this torch has no register_dataclass")

    @dataclasses.dataclass
    class Beam:
        width: torch.Tensor
        height: torch.Tensor

    pytree.register_dataclass(Beam)

    def inertia(beam):
        return Beam(beam.width * 2, beam.width * beam.height**3 / 12)

    f = suture.differentiable(inertia, method=CENTRAL)
    result = f(Beam(a, c))
    assert isinstance(result, Beam)
    assert_like_autograd(inertia, Beam(a, c))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((a, b), {}),
        ((a,), {"y": b}),
        ((), {"x": a, "y": b}),
        ((), {"y": b, "x": a}),
        ((a,), {}),
        ((a,), {"power": 3}),
        ((a, b, 3), {}),
        ((a,), {"y": b, "mode": "negative"}),
        ((a,), {"extra": c}),
        ((a,), {"extra": c, "more": b}),
    ],
)
def test_keyword_arguments_and_defaults(args, kwargs):
    def fn(x, y=2.0, power=2, *, mode="positive", **rest):
        result = x**power * y + sum(rest.values())
        return result if mode == "positive" else -result

    assert_like_autograd(fn, *args, **kwargs)


def test_positional_and_keyword_only_parameters():
    def fn(x, /, y, *, z):
        return x * y + z

    assert_like_autograd(fn, a, y=b, z=c)


def test_star_arguments_and_keywords():
    def fn(*args, **kwargs):
        return sum(args) * kwargs["scale"]

    assert_like_autograd(fn, a, b, scale=c)
    assert_like_autograd(fn, a, scale=2.0)


def test_tensor_in_a_partial_is_a_constant():
    fn = functools.partial(torch.mul, b.detach())
    f = suture.differentiable(fn)
    (gradient,) = torch.autograd.grad(f(a).sum(), a)
    torch.testing.assert_close(gradient, b.detach())


def test_same_tensor_in_two_places():
    assert_like_autograd(lambda x, y: x * y["again"], a, {"again": a})


@pytest.mark.parametrize(
    "constant",
    [
        3,
        2.5,
        True,
        None,
        "text",
        (1, 2),
        [1.0],
        {"n": 3},
        np.arange(2.0),
        np.float64(2.0),
        b"bytes",
    ],
    ids=lambda constant: type(constant).__name__,
)
def test_constants_arrive_as_they_are(constant):
    received = []

    def fn(x, other):
        received.append(other)
        return x * x

    f = suture.differentiable(fn, method=FiniteDifference(stencils.FORWARD))
    torch.autograd.grad(f(a, constant).sum(), a)
    assert len(received) == 1 + 2
    for other in received:
        assert type(other) is type(constant)
        np.testing.assert_equal(other, constant)


def test_constants_by_keyword():
    def fn(x, *, n, name, flag, array):
        assert (type(n), type(name), type(flag), type(array)) == (int, str, bool, np.ndarray)
        return x * n * array if flag else x

    assert_like_autograd(
        lambda x, n, name, flag, array: x * n * torch.as_tensor(array), a,
        n=2, name="k", flag=True, array=np.array([1.0, 2.0]),
    )  # fmt: skip
    f = suture.differentiable(fn, interface="numpy")
    torch.autograd.grad(f(a, n=2, name="k", flag=True, array=np.array([1.0, 2.0])).sum(), a)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_integer_tensors_keep_their_dtype(dtype, interface):
    received = []

    def fn(x, index):
        received.append(str(index.dtype).removeprefix("torch."))
        return x * index.sum()

    f = suture.differentiable(fn, interface=interface)
    index = torch.ones(3, dtype=dtype)
    (gradient,) = torch.autograd.grad(f(a, index).sum(), a)
    torch.testing.assert_close(gradient, torch.full_like(a, 3.0))
    assert set(received) == {str(dtype).removeprefix("torch.")}
    assert index.grad is None


def test_index_tensor_selects():
    index = torch.tensor([2, 0, 2])
    assert_like_autograd(lambda x, i: x[i] ** 2, leaf(1.0, 2.0, 3.0), index)


# ------------------------------------------------------------------------------------------------
# Shapes and strides
# ------------------------------------------------------------------------------------------------

SHAPES = {
    "0-d": lambda t: t.reshape(-1)[0],
    "1 element": lambda t: t.reshape(-1)[:1],
    "zero-size": lambda t: t[:0],
    "zero-size inside": lambda t: t[:, :0],
    "4-d": lambda t: t.reshape(2, 1, 3, 4),
    "transposed": lambda t: t.transpose(0, 1),
    "strided": lambda t: t[::2, 1:],
    "offset": lambda t: t.reshape(-1)[5:],
    "flipped": lambda t: t.flip(0),
    "expanded": lambda t: t[:1].expand(4, -1),
    "expanded 0-d": lambda t: t[0, 0].expand(3),
    "channels last": lambda t: t.reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
    "as_strided": lambda t: t.as_strided((3, 3), (1, 1)),
}


@pytest.mark.parametrize("interface", ["torch", "numpy"])
@pytest.mark.parametrize("view", SHAPES.values(), ids=SHAPES)
def test_shape(view, interface):
    base = torch.linspace(0.5, 2.0, 24, dtype=torch.float64).reshape(6, 4).requires_grad_()
    other = leaf(2.0)
    shapes = []

    def fn(x, w):
        shapes.append(tuple(x.shape))
        return x * x * x + w.sum() * x, w * x.sum()

    f = suture.differentiable(fn, method=CENTRAL, interface=interface)
    found = gradients(lambda: f(view(base), other), [base, other])
    expected = gradients(lambda: fn(view(base), other), [base, other])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
    assert set(shapes) == {tuple(view(base).shape)}


@pytest.mark.parametrize("view", SHAPES.values(), ids=SHAPES)
def test_shape_of_the_result(view):
    base = torch.linspace(0.5, 2.0, 24, dtype=torch.float64).reshape(6, 4).requires_grad_()
    assert_like_autograd(lambda t: view(t * t), base)


@pytest.mark.parametrize("view", SHAPES.values(), ids=SHAPES)
def test_shape_of_the_cotangent(view):
    x = torch.linspace(0.5, 2.0, 24, dtype=torch.float64).reshape(6, 4).requires_grad_()
    f = suture.differentiable(torch.square, method=CENTRAL)
    found = gradients(lambda: view(f(x)), [x])
    torch.testing.assert_close(found, gradients(lambda: view(x.square()), [x]))


@pytest.mark.parametrize("interface", ["torch", "numpy"])
@pytest.mark.parametrize("before", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_complex_leaf_behind_real_ones_is_aligned(size, before, interface):
    """torch takes 16-byte alignment of complex numbers for granted, and crashes without it."""
    received = []

    def fn(x, z, y):
        received.append(z)
        return (z * z.conj()).real.sum() * y.sum() + x.sum()

    f = suture.differentiable(fn, method=CENTRAL, interface=interface)
    z = torch.linspace(0.5, 1.5, size, dtype=torch.float64) * (1 - 2j)
    leaves = leaf(*range(before)), z.requires_grad_(), leaf(2.0)
    found = torch.autograd.grad(f(*leaves), leaves)
    torch.testing.assert_close(found, torch.autograd.grad(fn(*leaves), leaves))
    addresses = [t.data_ptr() if interface == "torch" else t.ctypes.data for t in received[:-1]]
    assert [address % 16 for address in (*addresses, found[1].data_ptr())] == [0] * (
        len(addresses) + 1
    )


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_complex_output_behind_real_ones_is_aligned(before):
    f = suture.differentiable(lambda x: (x[:before], x * (1 + 1j)), method=CENTRAL)
    x = leaf(1.0, 2.0, 3.0, 4.0)
    assert f(x)[1].data_ptr() % 16 == 0
    _, tangent = torch.func.jvp(f, (x.detach(),), (torch.ones_like(x),))[1]
    assert tangent.data_ptr() % 16 == 0
    torch.testing.assert_close(tangent, torch.full((4,), 1 + 1j, dtype=torch.complex128))


def test_all_inputs_are_zero_size():
    empty = torch.zeros((0, 3), dtype=torch.float64, requires_grad=True)
    f = suture.differentiable(lambda x: (x * 2, x.sum()))
    rows, total = f(empty)
    assert rows.shape == (0, 3)
    (gradient,) = torch.autograd.grad(rows.sum() + total, empty)
    assert gradient.shape == (0, 3)


def test_output_is_zero_size():
    f = suture.differentiable(lambda x: x[:0])
    (gradient,) = torch.autograd.grad(f(a).sum(), a)
    torch.testing.assert_close(gradient, torch.zeros_like(a))


# ------------------------------------------------------------------------------------------------
# Results
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * x,
        lambda x: (x * x, x.sum()),
        lambda x: [x * x, x.sum()],
        lambda x: {"b": x * x, "a": x.sum()},
        lambda x: (x * x,),
        lambda x: Spring(x * x, x.sum()),
        lambda x: State(x * x, x.sum()),
        lambda x: {"k": [Spring(x[0], (x * x, x.sum()))], "n": (), "m": {}},
        lambda x: (x * x, None),
        lambda x: (x * x, x),
    ],
    ids=[
        "tensor", "tuple", "list", "dict", "1-tuple", "dataclass", "NamedTuple", "deep", "None",
        "its own input",
    ],
)  # fmt: skip
def test_nested_results(fn):
    assert_like_autograd(fn, a)
    f = suture.differentiable(fn)
    assert type(f(a)) is type(fn(a))


def test_order_of_dict_results():
    f = suture.differentiable(lambda x: {"b": x, "a": x * x})
    result = f(a)
    assert list(result) == ["b", "a"]
    torch.testing.assert_close(result["a"], a * a)
    torch.testing.assert_close(result["b"], a)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.uint8])
def test_integer_output(dtype):
    def fn(x):
        return x * x, (x > 0.7).to(dtype)

    assert_like_autograd(fn, a)
    _, flags = suture.differentiable(fn)(a)
    assert flags.dtype is dtype
    assert not flags.requires_grad


def test_integer_output_may_change_between_points():
    f = suture.differentiable(lambda x: (x * x, torch.round(x * 1e12).to(torch.int64)))
    values, count = f(a)
    (gradient,) = torch.autograd.grad(values.sum(), a)
    torch.testing.assert_close(gradient, 2 * a.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(count, torch.tensor([10**12, 2 * 10**12]))


def test_strings_and_none_beside_tensors():
    f = suture.differentiable(lambda x: {"y": x * x, "status": "converged", "log": None})
    result = f(a)
    assert result["status"] == "converged"
    assert result["log"] is None
    (gradient,) = torch.autograd.grad(result["y"].sum(), a)
    torch.testing.assert_close(gradient, 2 * a.detach(), rtol=1e-6, atol=0)


def test_strings_may_change_between_points():
    f = suture.differentiable(lambda x: (x * x, f"{x.sum():.17g}"))
    values, text = f(a)
    assert text == "3"
    (gradient,) = torch.autograd.grad(values.sum(), a)
    torch.testing.assert_close(gradient, 2 * a.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_python_float_result(interface):
    f = suture.differentiable(lambda x: float(x.sum() * 2), interface=interface)
    value = f(a)
    assert value.shape == ()
    assert value.dtype is torch.float64
    (gradient,) = torch.autograd.grad(value, a)
    torch.testing.assert_close(gradient, torch.full_like(a, 2.0), rtol=1e-6, atol=0)


def test_python_numbers_nested():
    def fn(x):
        return {"a": float(x[0]) ** 2, "b": [float(x[1]), complex(x[0], 1)]}

    f = suture.differentiable(fn, method=CENTRAL)
    result = f(a)
    assert result["a"].dtype is torch.float64
    assert result["b"][1].dtype is torch.complex128
    (gradient,) = torch.autograd.grad(result["a"] + result["b"][0] + result["b"][1].real, a)
    torch.testing.assert_close(gradient, torch.tensor([3.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * x,
        lambda x: (x * x).astype(np.float32),
        lambda x: (x * x).sum(),
        lambda x: (x * x).reshape(1, 2),
        lambda x: (x * x)[::-1],
        lambda x: np.asfortranarray(np.outer(x, x)),
        lambda x: np.broadcast_to(x.sum(), (3,)),
        lambda x: x[:0],
    ],
    ids=["array", "float32", "scalar", "2-d", "negative stride", "Fortran", "broadcast", "empty"],
)
def test_numpy_results(fn):
    f = suture.differentiable(fn, interface="numpy", method=CENTRAL)
    expected = np.asarray(fn(a.detach().numpy()))
    value = f(a)
    assert value.dtype is torch.float64
    np.testing.assert_allclose(value.detach().numpy(), expected)
    jacobian = torch.func.jacrev(f)(a.detach())
    h = 1e-3  # exact for these quadratics but for float32
    columns = [
        (fn(np.array([1.0 + h, 2.0])) - fn(np.array([1.0 - h, 2.0]))) / (2 * h),
        (fn(np.array([1.0, 2.0 + h])) - fn(np.array([1.0, 2.0 - h]))) / (2 * h),
    ]
    np.testing.assert_allclose(jacobian.numpy(), np.stack(columns, -1), atol=2e-3)


def test_torch_result_of_a_numpy_function_and_back():
    to_torch = suture.differentiable(lambda x: torch.from_numpy(x) * 2.0, interface="numpy")
    to_numpy = suture.differentiable(lambda x: x.numpy() * 2.0)
    for f in (to_torch, to_numpy):
        (gradient,) = torch.autograd.grad(f(a).sum(), a)
        torch.testing.assert_close(gradient, torch.full_like(a, 2.0))


@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_function_that_returns_its_own_input(interface):
    f = suture.differentiable(lambda x: x, interface=interface)
    x = leaf(1.0, 2.0)
    y = f(x)
    with torch.no_grad():
        y.add_(100.0)
    torch.testing.assert_close(x.detach(), torch.tensor([1.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_function_that_returns_its_own_buffer(interface):
    buffer = torch.zeros(2, dtype=torch.float64)
    if interface == "numpy":
        buffer = buffer.numpy()

    def fn(x):
        buffer[:] = x * x
        return buffer

    f = suture.differentiable(fn, interface=interface, method=CENTRAL)
    x = leaf(1.0, 2.0)
    first, second = f(x), f(2 * x)
    torch.testing.assert_close(first.detach(), (x * x).detach())
    (gradient,) = torch.autograd.grad((first * second).sum(), x)
    torch.testing.assert_close(gradient, (16 * x**3).detach())


@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_function_that_changes_its_arguments(interface):
    def fn(x, n, nested):
        result = x * x * nested["w"] * n.sum()
        x *= 0
        n *= 0
        nested["w"] *= 0
        nested.clear()
        return result

    f = suture.differentiable(fn, interface=interface)
    x, n, w = leaf(1.0, 2.0), torch.tensor([1, 2]), leaf(0.5)
    nested = {"w": w}
    f(x, n, nested).sum().backward()
    torch.testing.assert_close(x.grad, 3.0 * x.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(w.grad, torch.tensor([15.0], dtype=torch.float64), rtol=1e-6, atol=0)
    torch.testing.assert_close(x.detach(), torch.tensor([1.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(n, torch.tensor([1, 2]))
    assert nested == {"w": w}


# ------------------------------------------------------------------------------------------------
# What is refused
# ------------------------------------------------------------------------------------------------


def assert_three_lines(error):
    assert len(str(error).splitlines()) == 3


@pytest.mark.parametrize("by_keyword", [False, True])
@pytest.mark.parametrize("inside", [False, True], ids=["bare", "in a list"])
def test_unregistered_object_that_holds_a_tensor_that_requires_grad(by_keyword, inside):
    f = suture.differentiable(lambda x, held: x * (held[0] if inside else held).tensor)
    held = [Unregistered(b)] if inside else Unregistered(b)
    with pytest.raises(errors.MethodError) as caught:
        f(a, held=held) if by_keyword else f(a, held)
    assert_three_lines(caught.value)
    assert "Unregistered" in str(caught.value)


@dataclasses.dataclass(slots=True)
class Slotted:
    tensor: object


@pytest.mark.parametrize(
    "held",
    [
        Slotted(b),
        Unregistered([b]),
        Unregistered({"weights": (1, b)}),
        Unregistered(Unregistered(b)),
        torch.nn.Linear(2, 2),
        Unregistered(torch.nn.Linear(2, 2)),
        functools.partial(torch.mul, b),
        {b},
    ],
    ids=[
        "slots", "list", "dict", "object", "Module", "Module inside", "partial", "set",
    ],
)  # fmt: skip
def test_places_where_an_argument_may_hold_a_tensor_that_requires_grad(held):
    f = suture.differentiable(lambda x, held: x * x)
    with pytest.raises(errors.MethodError) as caught:
        f(a, held)
    assert_three_lines(caught.value)


def test_unregistered_object_that_holds_a_constant():
    f = suture.differentiable(lambda x, held: x * held.tensor)
    (gradient,) = torch.autograd.grad(f(a, Unregistered(b.detach())).sum(), a)
    torch.testing.assert_close(gradient, b.detach())


def test_unregistered_object_under_no_grad():
    f = suture.differentiable(lambda x, held: x * held.tensor)
    with torch.no_grad():
        torch.testing.assert_close(f(a, Unregistered(b)), a * b)


@pytest.mark.parametrize(
    "fn",
    [lambda x: None, lambda x: "text", lambda x: (), lambda x: {"a": "b"}, lambda x: object()],
    ids=["None", "string", "empty tuple", "dict of strings", "object"],
)
def test_result_without_a_number(fn):
    f = suture.differentiable(fn)
    with pytest.raises(errors.BadResult) as caught:
        f(a)
    assert_three_lines(caught.value)


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x[:1],
        lambda x: (x, x),
        lambda x: {"a": x},
        lambda x: x.to(torch.complex128),
        lambda x: x.to(torch.float32),
        lambda x: None,
        lambda x: "text",
    ],
    ids=["shape", "tuple", "dict", "complex", "float32", "None", "string"],
)
def test_result_that_changes_between_points(other):
    calls = []

    def fn(x):
        calls.append(x)
        return x if len(calls) < 3 else other(x)

    f = suture.differentiable(fn)
    y = f(a)
    with pytest.raises(errors.BadResult) as caught:
        torch.autograd.grad(y.sum(), a)
    assert_three_lines(caught.value)


@pytest.mark.parametrize("convert", [torch.Tensor.to_sparse, lambda t: t.to("meta")])
def test_tensor_without_stored_numbers(convert):
    f = suture.differentiable(lambda x: x * 2)
    with pytest.raises(errors.MethodError) as caught:
        f(convert(torch.eye(3)))
    assert_three_lines(caught.value)


@pytest.mark.parametrize("dtype", [">f8", ">f4", ">c16", ">i4"])
def test_numpy_result_of_the_other_byte_order(dtype):
    f = suture.differentiable(lambda x: (x, (x * 2).astype(dtype)), interface="numpy")
    value = f(a)[1].detach()
    torch.testing.assert_close(value, torch.tensor([2, 4], dtype=value.dtype))


def test_too_many_arguments_is_the_error_of_the_function():
    f = suture.differentiable(lambda x: x * x)
    with pytest.raises((TypeError, errors.EvaluationError)):
        f(a, b)
    with pytest.raises((TypeError, errors.EvaluationError)):
        f(a, unknown=b)


# ------------------------------------------------------------------------------------------------
# Random structures
# ------------------------------------------------------------------------------------------------

FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
COMPLEX = [torch.complex64, torch.complex128]
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@st.composite
def tensors(draw, dtypes=(*FLOATING, *COMPLEX)):
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(shapes)
    seed = draw(st.integers(0, 10**6))
    generator = torch.Generator().manual_seed(seed)
    real = 0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)
    if dtype.is_complex:
        imaginary = torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5
        real = torch.complex(real, imaginary)
    return real.to(dtype).requires_grad_(draw(st.booleans()))


constants = st.one_of(
    st.none(),
    st.integers(-5, 5),
    st.floats(-5, 5),
    st.booleans(),
    st.text(max_size=3),
    shapes.map(lambda shape: torch.ones(shape, dtype=torch.int64)),
)


def nestings(leaves):
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(st.sampled_from("pqrs"), inner, max_size=3),
            st.tuples(inner, inner).map(lambda pair: State(*pair)),
            st.tuples(inner, inner).map(lambda pair: Spring(*pair)),
        ),
        max_leaves=6,
    )


def promoted(tree):
    """Return the dtype of the floating results, as the design promises it."""
    real = {torch.complex64: torch.float32, torch.complex128: torch.float64}
    dtypes = [
        real.get(node.dtype, node.dtype)
        for node in pytree.tree_leaves(tree)
        if isinstance(node, torch.Tensor) and node.dtype in (*FLOATING, *COMPLEX)
    ]
    return functools.reduce(torch.promote_types, dtypes)


def entangle(*args, **kwargs):
    """Return a nesting in which every output depends on every floating input."""
    leaves = pytree.tree_leaves((args, kwargs))
    floating = [
        node
        for node in leaves
        if isinstance(node, torch.Tensor) and (node.is_floating_point() or node.is_complex())
    ]
    moduli = [(node * node.conj()).real.sum() for node in floating]
    total = sum(moduli) + sum((node * node * (1 + 2j)).sum().imag for node in floating)
    return {
        "total": total,
        "each": [torch.sin(node) * total for node in floating],
        "count": torch.tensor(len(floating)),
        "words": ("text", None),
    }


def in_double(tree):
    """Return the tree with its floating leaves in double precision, by differentiable casts."""

    def cast(node):
        if not isinstance(node, torch.Tensor):
            return node
        if node.is_complex():
            return node.to(torch.complex128)
        return node.to(torch.float64) if node.is_floating_point() else node

    return pytree.tree_map(cast, tree)


def tolerance_of(dtype):
    """Return the relative error to expect: rounding of the caller's dtype, or of the difference."""
    return max(8 * torch.finfo(dtype).eps, 1e-7)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    args=st.lists(nestings(tensors() | constants), max_size=3),
    kwargs=st.dictionaries(st.sampled_from(["u", "v"]), nestings(tensors()), max_size=2),
    first=tensors(),
)
def test_random_structure(args, kwargs, first):
    args = [first.detach().requires_grad_(), *args]
    f = suture.differentiable(entangle, method=CENTRAL)
    leaves = differentiable_leaves((args, kwargs))
    value = f(*args, **kwargs)
    double_args, double_kwargs = in_double((args, kwargs))
    expected = entangle(*double_args, **double_kwargs)
    assert pytree.tree_structure(value) == pytree.tree_structure(expected)
    dtype = promoted((args, kwargs))
    assert value["total"].dtype is dtype
    assert value["words"] == ("text", None)
    assert value["count"].dtype is torch.int64
    for mine, exact in zip(value["each"], expected["each"], strict=True):
        assert mine.is_complex() == exact.is_complex()
        assert mine.real.dtype is dtype
        torch.testing.assert_close(
            mine.to(exact.dtype), exact, rtol=tolerance_of(dtype), atol=tolerance_of(dtype)
        )
    found = gradients(lambda: f(*args, **kwargs), leaves)
    exact = gradients(lambda: entangle(*double_args, **double_kwargs), leaves)
    for mine, theirs, node in zip(found, exact, leaves, strict=True):
        assert mine.dtype is node.dtype
        assert mine.shape == node.shape
        wide = torch.complex128 if node.is_complex() else torch.float64
        size = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
        torch.testing.assert_close(
            mine.to(wide), theirs.to(wide), rtol=0, atol=8 * tolerance_of(dtype) * size
        )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(shape=shapes, dtype=st.sampled_from(FLOATING), interface=st.sampled_from(["torch", "numpy"]))
def test_random_shape_and_dtype(shape, dtype, interface):
    x = torch.linspace(0.5, 2.0, max(1, int(np.prod(shape))), dtype=torch.float64)
    x = x[: int(np.prod(shape))].reshape(shape).to(dtype).requires_grad_()
    f = suture.differentiable(lambda x: x * x * x, interface=interface, method=CENTRAL)
    y = f(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (y.dtype, y.shape) == (dtype, shape)
    assert (gradient.dtype, gradient.shape) == (dtype, shape)
    torch.testing.assert_close(
        gradient.to(torch.float64), 3 * x.detach().to(torch.float64) ** 2,
        rtol=tolerance_of(dtype), atol=0,
    )  # fmt: skip
