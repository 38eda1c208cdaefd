"""Precision is a boundary rule: double inside, cast once, steps that fit the function."""

import math

import numpy as np
import pytest
import torch

import suture
from suture import FiniteDifference, directions, stencils

FLOAT16, BFLOAT16 = torch.float16, torch.bfloat16
FLOAT32, FLOAT64 = torch.float32, torch.float64
COMPLEX64, COMPLEX128 = torch.complex64, torch.complex128
NARROW = [FLOAT16, BFLOAT16, FLOAT32]

FORWARD = FiniteDifference(stencils.FORWARD)


def leaf(*values, dtype=FLOAT64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def gradient(f, *leaves):
    """Return the gradients of the sum of f."""
    return torch.autograd.grad(f(*leaves).sum(), leaves)


def relative_error(found, exact):
    exact = torch.as_tensor(exact, dtype=FLOAT64)
    return ((found.to(FLOAT64) - exact).abs() / exact.abs()).max().item()


# ------------------------------------------------------------------------------------------------
# The dtype of what leaves
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [FLOAT64, None, FLOAT32])
@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ((FLOAT64,), FLOAT64),
        ((FLOAT32,), FLOAT32),
        ((FLOAT16,), FLOAT16),
        ((BFLOAT16,), BFLOAT16),
        ((FLOAT32, FLOAT64), FLOAT64),
        ((FLOAT16, FLOAT32), FLOAT32),
        ((FLOAT16, BFLOAT16), FLOAT32),
        ((FLOAT32, torch.int64), FLOAT32),
        ((BFLOAT16, torch.bool), BFLOAT16),
        ((FLOAT32, COMPLEX64), FLOAT32),
        ((FLOAT64, COMPLEX64), FLOAT64),
        ((FLOAT32, COMPLEX128), FLOAT64),
        ((COMPLEX64,), FLOAT32),
        ((COMPLEX128,), FLOAT64),
    ],
)
def test_floating_output_has_the_promoted_dtype(inputs, expected, inside):
    def fn(*args):
        return sum((x * x.conj()).real.sum() for x in args)

    f = suture.differentiable(fn, dtype=inside)
    args = [torch.ones(2, dtype=dtype) for dtype in inputs]
    args[0].requires_grad_()
    y = f(*args)
    assert y.dtype is expected
    (found,) = torch.autograd.grad(y, args[0])
    assert found.dtype is inputs[0]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ((FLOAT64,), COMPLEX128),
        ((FLOAT32,), COMPLEX64),
        ((COMPLEX64,), COMPLEX64),
        ((COMPLEX128,), COMPLEX128),
        ((COMPLEX64, FLOAT64), COMPLEX128),
        ((COMPLEX64, FLOAT32), COMPLEX64),
        ((BFLOAT16,), COMPLEX64),
    ],
)
def test_complex_output_has_the_promoted_precision(inputs, expected):
    f = suture.differentiable(lambda *args: sum(x.sum() for x in args) * 1j)
    args = [torch.ones(2, dtype=dtype, requires_grad=True) for dtype in inputs]
    y = f(*args)
    assert y.dtype is expected
    found = torch.autograd.grad(torch.view_as_real(y).sum(), args)
    assert [g.dtype for g in found] == list(inputs)


@pytest.mark.parametrize("returned", [FLOAT16, BFLOAT16, FLOAT32, FLOAT64])
@pytest.mark.parametrize("caller", [FLOAT16, BFLOAT16, FLOAT32, FLOAT64])
def test_output_dtype_follows_the_caller_not_the_function(caller, returned):
    f = suture.differentiable(lambda x: (x * 2).to(returned))
    assert f(torch.ones(2, dtype=caller)).dtype is caller


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_integer_outputs_stay_as_they_are(dtype):
    f = suture.differentiable(lambda x: (x, x.to(dtype)))
    _, y = f(leaf(1.0, 2.0, dtype=FLOAT32))
    assert y.dtype is dtype
    assert not y.requires_grad


@pytest.mark.parametrize("index", [torch.int64, torch.bool])
def test_integer_inputs_alone(index):
    f = suture.differentiable(lambda i: i * 2)
    y = f(torch.ones(3, dtype=index))
    torch.testing.assert_close(y, torch.full((3,), 2))


# ------------------------------------------------------------------------------------------------
# Double inside
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stencil", [stencils.FORWARD, stencils.BACKWARD, stencils.CENTRAL])
def test_float32_caller_gets_double_accuracy(stencil):
    x = leaf(*np.linspace(0.5, 3.0, 20).tolist(), dtype=FLOAT32)
    f = suture.differentiable(torch.sin, method=FiniteDifference(stencil))
    (found,) = gradient(f, x)
    exact = torch.cos(x.detach().to(FLOAT64))
    assert (found.to(FLOAT64) - exact).abs().max() < 1.5e-7

    steps = [1e-8, 1e-6, 1e-4, 3.5e-4, 1e-3]
    with torch.no_grad():
        loops = [((torch.sin(x + h) - torch.sin(x)) / h).to(FLOAT64) for h in steps]
    best = min((loop - exact).abs().max().item() for loop in loops)
    assert best > 500 * (found.to(FLOAT64) - exact).abs().max()


@pytest.mark.parametrize("interface", ["torch", "numpy"])
@pytest.mark.parametrize("caller", [*NARROW, FLOAT64])
def test_function_receives_double(caller, interface):
    received = []

    def fn(x):
        received.append(str(x.dtype).removeprefix("torch."))
        return x * x

    f = suture.differentiable(fn, interface=interface, method=FORWARD)
    gradient(f, leaf(1.0, 2.0, dtype=caller))
    assert received == ["float64"] * 3


@pytest.mark.parametrize("interface", ["torch", "numpy"])
@pytest.mark.parametrize("caller", [COMPLEX64, COMPLEX128])
def test_function_receives_double_complex(caller, interface):
    received = []

    def fn(x):
        received.append(str(x.dtype).removeprefix("torch."))
        return x * x

    f = suture.differentiable(fn, interface=interface, method=FORWARD)
    f(leaf(1 + 1j, 2.0, dtype=caller)).abs().sum().backward()
    assert received == ["complex128"] * 5


@pytest.mark.parametrize("dtype", [None, FLOAT32, FLOAT64])
@pytest.mark.parametrize("caller", [*NARROW, FLOAT64])
def test_function_receives_what_is_asked_for(caller, dtype):
    received = []

    def fn(x):
        received.append(x.dtype)
        return x * x

    (found,) = gradient(suture.differentiable(fn, dtype=dtype), leaf(1.0, 2.0, dtype=caller))
    assert set(received) == {dtype or caller}
    assert found.dtype is caller


def test_numpy_function_cannot_receive_bfloat16():
    f = suture.differentiable(lambda x: x * x, interface="numpy", dtype=None)
    with pytest.raises(suture.errors.SutureError) as caught:
        f(leaf(1.0, 2.0, dtype=BFLOAT16))
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(("caller", "bound"), [(FLOAT32, 2e-3), (FLOAT16, 0.1), (BFLOAT16, 0.3)])
def test_precision_of_the_caller(caller, bound):
    """With dtype=None, f resolves eps, and the best step leaves a few √eps of error."""
    x = leaf(0.5, 1.0, 2.0, dtype=caller)
    (found,) = gradient(suture.differentiable(lambda x: x * x * x, dtype=None), x)
    assert relative_error(found, 3 * x.detach().to(FLOAT64) ** 2) < bound


@pytest.mark.parametrize(("caller", "bound"), [(FLOAT32, 1e-4), (FLOAT16, 0.03), (BFLOAT16, 0.1)])
def test_precision_of_the_caller_with_central_differences(caller, bound):
    x = leaf(0.5, 1.0, 2.0, dtype=caller)
    f = suture.differentiable(
        lambda x: x * x * x, dtype=None, method=FiniteDifference(stencils.CENTRAL)
    )
    (found,) = gradient(f, x)
    assert relative_error(found, 3 * x.detach().to(FLOAT64) ** 2) < bound


def test_function_with_float32_weights_is_told_about_dtype():
    layer = torch.nn.Linear(2, 1).requires_grad_(False)
    x = leaf(1.0, 2.0, dtype=FLOAT32)
    with pytest.raises(suture.errors.EvaluationError) as caught:
        suture.differentiable(layer)(x)
    assert "dtype=None" in str(caught.value).splitlines()[2]
    (found,) = gradient(suture.differentiable(layer, dtype=None), x)
    torch.testing.assert_close(found, layer.weight[0], rtol=5e-3, atol=5e-4)


# ------------------------------------------------------------------------------------------------
# The function that computes in float32
# ------------------------------------------------------------------------------------------------


def cube_in_float32(x):
    x = x.to(FLOAT32)
    return x * x * x


def cube_through_a_string(x):
    """Return float32, as torch.tensor of Python floats does, from a string in double."""
    return torch.tensor([eval(f"{value} * {value} * {value}") for value in x], dtype=FLOAT32)


@pytest.mark.parametrize("caller", [FLOAT32, FLOAT64])
@pytest.mark.parametrize("fn", [cube_in_float32, cube_through_a_string])
@pytest.mark.parametrize(("stencil", "bound"), [(stencils.FORWARD, 2e-3), (stencils.CENTRAL, 1e-4)])
def test_float32_result_gets_a_float32_step(fn, stencil, bound, caller):
    x = leaf(0.5, 1.0, 2.0, dtype=caller)
    exact = 3 * x.detach().to(FLOAT64) ** 2
    (found,) = gradient(suture.differentiable(fn, method=FiniteDifference(stencil)), x)
    assert relative_error(found, exact) < bound
    rubbish = suture.differentiable(fn, method=FiniteDifference(stencil, step=1e-8))
    assert relative_error(gradient(rubbish, x)[0], exact) > 10 * bound


def test_float32_result_of_a_numpy_function():
    f = suture.differentiable(lambda x: (x**3).astype(np.float32), interface="numpy")
    x = leaf(0.5, 1.0, 2.0)
    assert relative_error(gradient(f, x)[0], 3 * x.detach() ** 2) < 2e-3


@pytest.mark.parametrize("returned", [FLOAT16, BFLOAT16])
def test_half_precision_result_gets_a_half_precision_step(returned):
    x = leaf(0.5, 1.0, 2.0)
    f = suture.differentiable(
        lambda x: (x * x).to(returned), method=FiniteDifference(stencils.CENTRAL)
    )
    assert relative_error(gradient(f, x)[0], 2 * x.detach()) < 0.1


def test_one_narrow_output_among_several_sets_the_noise():
    f = suture.differentiable(lambda x: (x**3, (x**3).to(FLOAT32)))
    x = leaf(0.5, 1.0, 2.0)
    for which in (0, 1):
        (found,) = torch.autograd.grad(f(x)[which].sum(), x)
        assert relative_error(found, 3 * x.detach() ** 2) < 2e-3


def test_complex64_result_counts_as_float32():
    x = leaf(0.5, 1.0, 2.0)
    f = suture.differentiable(lambda x: (x**3 * (1 + 1j)).to(COMPLEX64))
    (found,) = torch.autograd.grad(f(x).real.sum(), x)
    assert relative_error(found, 3 * x.detach() ** 2) < 2e-3


def test_linear_float32_function_is_exact_because_the_taken_step_is_used():
    x = leaf(*np.linspace(0.1, 3.0, 101).tolist(), dtype=FLOAT32)
    step = 1e-4
    f = suture.differentiable(
        lambda x: x * 2, dtype=FLOAT32, scale=1.0, method=FiniteDifference(step=step)
    )
    (found,) = gradient(f, x)
    eps = torch.finfo(FLOAT32).eps
    assert relative_error(found, torch.full_like(x, 2.0)) <= 2 * eps

    with torch.no_grad():
        naive = ((x + step) * 2 - x * 2) / step
    assert relative_error(naive, torch.full_like(x, 2.0)) > 1e-4


@pytest.mark.parametrize("stencil", [stencils.FORWARD, stencils.BACKWARD, stencils.CENTRAL])
@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16, FLOAT32])
def test_default_step_is_exact_on_the_identity_in_any_precision(dtype, stencil):
    """x + δ is a number of that dtype, and so is their difference: nothing may be lost."""
    x = leaf(0.1, 0.7, 1.3, -2.6, dtype=dtype)
    f = suture.differentiable(lambda x: x * 1, dtype=None, method=FiniteDifference(stencil))
    (found,) = gradient(f, x)
    torch.testing.assert_close(found, torch.ones_like(x), rtol=2 * torch.finfo(dtype).eps, atol=0)


def test_step_below_the_resolution_of_the_input():
    """A step that rounds to nothing would divide by zero."""
    f = suture.differentiable(
        lambda x: x * 2, dtype=FLOAT32, scale=1.0, method=FiniteDifference(step=1e-12)
    )
    y = f(leaf(1.0, 3.0, dtype=FLOAT32)).sum()
    with pytest.raises(suture.errors.MethodError) as caught:
        y.backward()
    assert len(str(caught.value).splitlines()) == 3


# ------------------------------------------------------------------------------------------------
# step=, noise=, scale=
# ------------------------------------------------------------------------------------------------


def displacement(*values, scale=None, dtype=FLOAT64, **keywords):
    """Return the displacement of each input: what a forward difference of x² adds to 2x."""
    x = leaf(*values, dtype=dtype)
    method = FiniteDifference(stencils.FORWARD, **keywords)
    f = suture.differentiable(torch.square, method=method, scale=scale)
    return gradient(f, x)[0].detach() - 2 * x.detach()


def test_step_is_in_units_of_the_typical_size():
    rms = math.sqrt((3**2 + 4**2) / 2)
    found = displacement(3.0, -4.0, step=0.01)
    torch.testing.assert_close(found, torch.tensor([0.01 * rms, 0.04]).to(FLOAT64))


@pytest.mark.parametrize("scale", [2.0, 2, torch.tensor(2.0), torch.tensor([2.0, 2.0])])
@pytest.mark.parametrize("as_tuple", [False, True])
def test_scale_of_one_argument(scale, as_tuple):
    found = displacement(3.0, -4.0, step=0.01, scale=(scale,) if as_tuple else scale)
    torch.testing.assert_close(found, torch.tensor([0.02, 0.02]).to(FLOAT64))


def test_scale_of_each_element():
    found = displacement(3.0, -4.0, 0.0, step=0.01, scale=torch.tensor([1.0, 10.0, 100.0]))
    torch.testing.assert_close(found, torch.tensor([0.01, 0.1, 1.0]).to(FLOAT64))


def test_scale_as_numpy_array():
    found = displacement(3.0, -4.0, step=0.01, scale=(np.array([1.0, 10.0]),))
    torch.testing.assert_close(found, torch.tensor([0.01, 0.1]).to(FLOAT64))


@pytest.mark.parametrize("none", [None, (None,)])
def test_scale_none_is_measured(none):
    torch.testing.assert_close(
        displacement(3.0, -4.0, step=0.01, scale=none), displacement(3.0, -4.0, step=0.01)
    )


def test_scale_has_the_structure_of_the_arguments():
    def fn(x, parts):
        return (x**2).sum() + sum((part**2).sum() for part in parts.values())

    f = suture.differentiable(
        fn,
        method=FiniteDifference(step=0.01),
        scale=(None, {"a": 7.0, "b": torch.tensor([1.0, 3.0]), "c": None}),
    )
    x, a, b, c = leaf(2.0), leaf(5.0), leaf(1.0, 1.0), leaf(0.0)
    found = torch.autograd.grad(f(x, {"a": a, "b": b, "c": c}), (x, a, b, c))
    moved = [g - 2 * t.detach() for g, t in zip(found, (x, a, b, c), strict=True)]
    expected = ([0.02], [0.07], [0.01, 0.03], [0.01])
    torch.testing.assert_close(moved, [torch.tensor(e, dtype=FLOAT64) for e in expected])


def test_scale_of_a_whole_argument_counts_for_all_its_leaves():
    f = suture.differentiable(
        lambda parts: parts[0] ** 2 + parts[1] ** 2,
        method=FiniteDifference(step=0.01),
        scale=(5.0,),
    )
    a, b = leaf(1.0), leaf(100.0)
    found = torch.autograd.grad(f((a, b)).sum(), (a, b))
    torch.testing.assert_close(found[0], torch.tensor([2.05]).to(FLOAT64))
    torch.testing.assert_close(found[1], torch.tensor([200.05]).to(FLOAT64))


@pytest.mark.parametrize(("values", "scale"), [((0.0, 0.0), 1.0), ((0.0, 4.0), math.sqrt(8.0))])
def test_zero_input_is_displaced(values, scale):
    found = displacement(*values, step=0.01)
    torch.testing.assert_close(found[0], torch.tensor(0.01 * scale, dtype=FLOAT64))


@pytest.mark.parametrize("value", [1.0, -1.0, 0.0, -0.0, 1e-30, -1e30])
def test_sign_of_the_input_does_not_turn_the_difference(value):
    seen = []

    def fn(x):
        seen.append(x.item())
        return x * 2

    gradient(suture.differentiable(fn, method=FiniteDifference(stencils.FORWARD)), leaf(value))
    gradient(suture.differentiable(fn, method=FiniteDifference(stencils.BACKWARD)), leaf(value))
    assert seen[1] > value > seen[3]


@pytest.mark.parametrize(
    ("stencil", "order"), [(stencils.FORWARD, 1), (stencils.BACKWARD, 1), (stencils.CENTRAL, 2)]
)
@pytest.mark.parametrize("noise", [1e-4, 1e-6, 1e-10])
def test_noise_sets_the_step(stencil, order, noise):
    """The step is noise^(1 / (order + 1)); a larger noise than the precision's is believed."""
    seen = []

    def fn(x):
        seen.append(x.item())
        return x * 2

    f = suture.differentiable(fn, method=FiniteDifference(stencil, noise=noise))
    gradient(f, leaf(1.0))
    step = max(abs(value - 1.0) for value in seen)
    assert step == pytest.approx(noise ** (1 / (order + 1)), rel=0.5)


def test_noise_below_the_precision_of_the_result_is_not_believed():
    """The noise is the largest of what came in, what came out, and what was stated."""
    x = leaf(0.5, 1.0, 2.0)
    f = suture.differentiable(cube_in_float32, method=FiniteDifference(noise=1e-16))
    assert relative_error(gradient(f, x)[0], 3 * x.detach() ** 2) < 2e-3


def test_step_is_taken_literally():
    """A step that is given is used, whatever noise is given beside it."""
    found = displacement(1.0, step=0.25, noise=1e-3)
    torch.testing.assert_close(found, torch.tensor([0.25]).to(FLOAT64))


@pytest.mark.parametrize("stencil", [stencils.FORWARD, stencils.CENTRAL, stencils.central(4)])
def test_arguments_eighteen_orders_of_magnitude_apart(stencil):
    def fn(a, b):
        return (a / 1e-9) ** 2 * (b / 1e9) ** 3

    a, b = leaf(1e-9, 2e-9), leaf(1e9, 3e9)
    f = suture.differentiable(fn, method=FiniteDifference(stencil))
    found = gradient(f, a, b)
    exact = torch.autograd.grad(fn(a, b).sum(), (a, b))
    assert relative_error(found[0], exact[0]) < 1e-6
    assert relative_error(found[1], exact[1]) < 1e-6


def test_elements_eighteen_orders_of_magnitude_apart_with_a_scale():
    size = torch.tensor([1e-9, 1e9], dtype=FLOAT64)
    x = leaf(1.5e-9, 2.5e9)
    f = suture.differentiable(lambda x: (x / size) ** 2, scale=size)
    assert relative_error(gradient(f, x)[0], 2 * x.detach() / size**2) < 1e-6


@pytest.mark.parametrize("magnitude", [1e-150, 1e-30, 1e30, 1e150])
def test_extreme_magnitudes(magnitude):
    x = leaf(1.0 * magnitude, -2.0 * magnitude)
    f = suture.differentiable(lambda x: x / magnitude * 3)
    assert relative_error(gradient(f, x)[0], torch.full((2,), 3 / magnitude, dtype=FLOAT64)) < 1e-6


@pytest.mark.parametrize(("dtype", "largest"), [(FLOAT32, 3.4e38), (FLOAT16, 6.5e4)])
def test_input_at_the_end_of_its_range_goes_the_other_way(dtype, largest):
    f = suture.differentiable(lambda x: torch.exp(-x / largest), dtype=None)
    x = leaf(largest, dtype=dtype)
    exact = -math.exp(-1) / largest
    for _ in range(3):
        assert relative_error(gradient(f, x)[0] * largest, [exact * largest]) < 0.1


@pytest.mark.parametrize(
    "kind", [directions.Rademacher, directions.Gaussian, directions.Orthogonal]
)
def test_steps_take_the_place_of_the_scale_under_random_directions(kind):
    size = torch.tensor([1e-6, 1.0, 1e6], dtype=FLOAT64)
    x = leaf(1e-6, 1.0, 1e6)
    method = FiniteDifference(stencils.CENTRAL, kind(3, recovery="least_squares"))
    f = suture.differentiable(lambda x: ((x / size) ** 2).sum(), method=method, scale=size, seed=0)
    assert relative_error(gradient(f, x)[0], 2 * x.detach() / size**2) < 1e-6


# ------------------------------------------------------------------------------------------------
# Complex numbers
# ------------------------------------------------------------------------------------------------

HOLOMORPHIC = {
    "square": lambda z: z * z,
    "exp": torch.exp,
    "product": lambda z: z[:1] * z[1:],
    "inverse": lambda z: 1 / z,
}
NOT_HOLOMORPHIC = {
    "conj": torch.conj_physical,
    "modulus": lambda z: z.abs() ** 2,
    "real": lambda z: z.real * 2,
    "mixed": lambda z: z * z.conj() * (1 + 2j) + z,
    "angle": torch.angle,
    "sum": lambda z: (z.sum() * z.conj()).real,
}


@pytest.mark.parametrize("dtype", [COMPLEX64, COMPLEX128])
@pytest.mark.parametrize("stencil", [stencils.FORWARD, stencils.CENTRAL])
@pytest.mark.parametrize(
    "fn",
    [*HOLOMORPHIC.values(), *NOT_HOLOMORPHIC.values()],
    ids=[*HOLOMORPHIC, *NOT_HOLOMORPHIC],
)
def test_complex_input_follows_the_conjugate_convention(fn, stencil, dtype):
    z = leaf(1 + 2j, -0.5 + 0.3j, dtype=dtype)
    cotangent = torch.tensor([1.0 - 0.5j, 0.25 + 2j], dtype=dtype)
    f = suture.differentiable(fn, method=FiniteDifference(stencil))

    def against(y):
        g = cotangent[: y.numel()]
        return g if y.is_complex() else g.real

    y, expected = f(z), fn(z)
    assert y.is_complex() == expected.is_complex()
    (found,) = torch.autograd.grad(y, z, against(y))
    (exact,) = torch.autograd.grad(expected, z, against(expected))
    assert found.dtype is dtype
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "stencil", [stencils.FORWARD, stencils.CENTRAL, stencils.COMPLEX_STEP, stencils.central(6)]
)
def test_complex_output_of_a_real_input(stencil):
    def fn(x):
        return torch.stack([x[0] * x[1] * (1 + 2j), x[0] ** 2 + 1j * x[1] ** 3])

    x = leaf(0.5, 2.0)
    cotangent = torch.tensor([1.0 - 0.5j, 0.25 + 2j], dtype=COMPLEX128)
    if stencil is stencils.COMPLEX_STEP:
        f = suture.differentiable(fn, method=FiniteDifference(stencil))
        with pytest.raises(suture.errors.SutureError):
            torch.autograd.grad(f(x), x, cotangent)
        return
    f = suture.differentiable(fn, method=FiniteDifference(stencil))
    (found,) = torch.autograd.grad(f(x), x, cotangent)
    (exact,) = torch.autograd.grad(fn(x), x, cotangent)
    assert found.dtype is FLOAT64
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6)


def test_gradient_descent_on_a_complex_input_goes_down():
    z = leaf(1 + 2j, -0.5 + 0.3j, dtype=COMPLEX128)
    f = suture.differentiable(lambda z: (z - (2 - 1j)).abs().square().sum())
    loss = f(z)
    (found,) = torch.autograd.grad(loss, z)
    with torch.no_grad():
        assert f(z - 0.1 * found) < loss


def test_complex_jvp():
    z, v = torch.tensor([1 + 2j, 0.5j]), torch.tensor([0.3 - 1j, 2.0 + 0j])
    z, v = z.to(COMPLEX128), v.to(COMPLEX128)
    f = suture.differentiable(NOT_HOLOMORPHIC["mixed"], method=FiniteDifference(stencils.CENTRAL))
    found = torch.func.jvp(f, (z,), (v,))
    torch.testing.assert_close(found, torch.func.jvp(NOT_HOLOMORPHIC["mixed"], (z,), (v,)))


def test_scale_of_a_complex_input_is_its_modulus():
    seen = []

    def fn(z):
        seen.append(z.clone())
        return z * 2

    z = leaf(3 + 4j, dtype=COMPLEX128)
    f = suture.differentiable(fn, method=FiniteDifference(step=0.01))
    f(z).real.sum().backward()
    moved = sorted((torch.stack(seen[1:]) - z.detach()).flatten().tolist(), key=lambda d: d.imag)
    assert moved == [pytest.approx(0.05), pytest.approx(0.05j)]


# ------------------------------------------------------------------------------------------------
# Complex step
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interface", ["torch", "numpy"])
@pytest.mark.parametrize("caller", [FLOAT32, FLOAT64])
def test_complex_step_is_right_to_rounding(caller, interface):
    x = leaf(0.3, 1.7, -2.5, dtype=caller)
    f = suture.differentiable(
        lambda x: x**3 / (1 + x * x), interface=interface,
        method=FiniteDifference(stencils.COMPLEX_STEP),
    )  # fmt: skip
    (found,) = gradient(f, x)
    (exact,) = gradient(lambda x: x**3 / (1 + x * x), leaf(*x.tolist()))
    assert relative_error(found, exact) < 4 * torch.finfo(caller).eps


@pytest.mark.parametrize(
    "fn",
    [lambda x: x.abs(), lambda x: x * x.conj(), lambda x: x.real**2, lambda x: x.abs() * x],
    ids=["abs", "conj", "real", "abs times x"],
)
def test_complex_step_through_a_function_that_is_not_analytic(fn):
    """Im f is wrong there without any sign of it, so the check must raise."""
    f = suture.differentiable(fn, method=FiniteDifference(stencils.COMPLEX_STEP))
    x = leaf(0.3, 1.7, -2.5)
    with pytest.raises(suture.errors.SutureError) as caught:
        f(x).real.sum().backward()
    assert len(str(caught.value).splitlines()) == 3


# ------------------------------------------------------------------------------------------------
# What fn receives
# ------------------------------------------------------------------------------------------------


def strided(shape):
    return torch.arange(1.0, 1 + 2 * math.prod(shape), dtype=FLOAT64).reshape(*shape, 2)[..., 0]


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("x", ["contiguous", "strided"])
def test_torch_function_receives_private_tensors(x, shape, vectorized):
    received = []  # with vectorized, the constant is expanded and cannot be written to

    def fn(x, constant):
        received.append((x, constant))
        assert type(x) is torch.Tensor
        assert not x.requires_grad
        assert x.is_leaf
        assert not torch.is_grad_enabled()
        result = x * constant
        x.fill_(7.0)
        if not vectorized:
            constant.fill_(7.0)
        return result

    x = strided(shape) if x == "strided" else strided(shape).contiguous()
    x.requires_grad_()
    constant = strided(shape)
    before = x.detach().clone()
    f = suture.differentiable(fn, vectorized=vectorized)
    (found,) = torch.autograd.grad(f(x, constant).sum(), x)
    torch.testing.assert_close(found, constant, rtol=1e-6, atol=0)
    torch.testing.assert_close(x.detach(), before)
    torch.testing.assert_close(constant, strided(shape))
    leading = 1 if vectorized else 0
    assert all(tuple(r.shape[leading:]) == shape for pair in received for r in pair)


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
def test_numpy_function_receives_private_arrays(dtype, shape, vectorized):
    def fn(x, constant, index):
        assert type(x) is type(constant) is type(index) is np.ndarray
        assert (x.dtype, constant.dtype, index.dtype) == (np.float64, np.float64, np.int64)
        assert all(array.flags.writeable for array in (x, index))
        assert all(array.flags.c_contiguous for array in (x, index))
        result = x * constant * index
        x[...] = 7.0
        index[...] = 7
        if not vectorized:
            constant[...] = 7.0
        return result

    x = strided(shape).to(dtype).requires_grad_()
    constant, index = strided(shape), torch.full(shape, 2)
    f = suture.differentiable(fn, interface="numpy", vectorized=vectorized)
    (found,) = torch.autograd.grad(f(x, constant, index).sum(), x)
    torch.testing.assert_close(found, (2 * constant).to(dtype), rtol=1e-6, atol=0)
    torch.testing.assert_close(x.detach(), strided(shape).to(dtype))
    torch.testing.assert_close(constant, strided(shape))
    torch.testing.assert_close(index, torch.full(shape, 2))


def test_points_do_not_share_memory():
    kept = []

    def fn(x):
        kept.append(x)
        return x * x

    x = leaf(1.0, 2.0)
    gradient(suture.differentiable(fn, method=FiniteDifference(step=0.5, noise=None)), x)
    values = [tuple(point.tolist()) for point in kept]
    assert len(set(values)) == 3
    assert values[0] == (1.0, 2.0)
    assert len({point.data_ptr() for point in kept}) == 3


def test_parameter_arrives_as_a_tensor():
    received = []

    def fn(x):
        received.append(type(x))
        return x * x

    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    y = suture.differentiable(fn)(parameter)
    y.sum().backward()
    assert set(received) == {torch.Tensor}
    assert type(y) is torch.Tensor
    torch.testing.assert_close(parameter.grad, torch.tensor([2.0, 4.0]))


@pytest.mark.parametrize("caller", [FLOAT16, BFLOAT16, FLOAT32, FLOAT64])
def test_jvp_has_the_dtype_of_the_caller(caller):
    x, v = torch.ones(3, dtype=caller), torch.full((3,), 0.5, dtype=caller)
    y, tangent = torch.func.jvp(suture.differentiable(lambda x: x * x), (x,), (v,))
    assert y.dtype is tangent.dtype is caller
    torch.testing.assert_close(tangent, torch.ones(3, dtype=caller), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1.0, 1e30, 1e200])
@pytest.mark.parametrize("stencil", [stencils.FORWARD, stencils.CENTRAL, stencils.COMPLEX_STEP])
def test_jvp_is_linear_in_tangents_of_any_size(stencil, size):
    x = torch.tensor([0.5, 2.0], dtype=FLOAT64)
    v = torch.tensor([1.0, -0.25], dtype=FLOAT64) * size
    f = suture.differentiable(lambda x: x * x, method=FiniteDifference(stencil))
    (_, found) = torch.func.jvp(f, (x,), (v,))
    torch.testing.assert_close(found / size, 2 * x * (v / size), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1.0, 1e30, 1e200])
@pytest.mark.parametrize("stencil", [stencils.FORWARD, stencils.CENTRAL, stencils.COMPLEX_STEP])
def test_gradient_is_linear_in_cotangents_of_any_size(stencil, size):
    x = leaf(0.5, 2.0)
    f = suture.differentiable(lambda x: x * x, method=FiniteDifference(stencil))
    (found,) = torch.autograd.grad(f(x), x, torch.full((2,), size, dtype=FLOAT64))
    torch.testing.assert_close(found / size, 2 * x.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_element_that_is_not_finite_does_not_spoil_the_others(value):
    """Right or loud: fn ignores the second element, so the first has an ordinary derivative."""
    f = suture.differentiable(lambda x: x[0] ** 2)
    x = leaf(3.0, value)
    (found,) = gradient(f, x)
    torch.testing.assert_close(found[0].item(), 6.0, rtol=1e-6, atol=0)
    assert found[1].item() == 0.0


@pytest.mark.parametrize("caller", [FLOAT32, FLOAT64])
def test_hessian_has_the_dtype_of_the_caller(caller):
    x = torch.tensor([0.5, 2.0], dtype=caller)
    f = suture.differentiable(lambda x: (x**3).sum(), method=FiniteDifference(stencils.CENTRAL))
    found = torch.func.hessian(f)(x)
    assert found.dtype is caller
    torch.testing.assert_close(found, torch.diag(6 * x), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------
# Textbook tables of peers
# ------------------------------------------------------------------------------------------------


def polar_power(x):
    """Map as SciPy's test of _numdiff does: (x₀ sin x₁, x₁ cos x₀, x₀³ / √x₁)."""
    return torch.stack([x[0] * torch.sin(x[1]), x[1] * torch.cos(x[0]), x[0] ** 3 * x[1] ** -0.5])


@pytest.mark.parametrize(
    ("stencil", "rtol"),
    [(stencils.FORWARD, 1e-5), (stencils.CENTRAL, 1e-6), (stencils.COMPLEX_STEP, 1e-12)],
)
@pytest.mark.parametrize(
    ("fn", "x"),
    [
        (torch.sinh, (1.0,)),
        (lambda x: torch.stack([x[0] ** 2, torch.tan(x[0]), torch.exp(x[0])]), (0.5,)),
        (lambda x: torch.sin(x[0] * x[1]) * torch.log(x[0]), (100.0, -0.5)),
        (polar_power, (-100.0, 0.2)),
    ],
    ids=["sinh", "three functions", "sin log", "polar"],
)
def test_scipy_table(fn, x, stencil, rtol):
    """Meet the tolerances of SciPy's own tests at SciPy's own points.

    Source: scipy/optimize/tests/test__numdiff.py, TestApproxDerivativesDense.
    """
    x = torch.tensor(x, dtype=FLOAT64)
    f = suture.differentiable(fn, method=FiniteDifference(stencil), scale=x.abs())
    found, exact = torch.func.jacrev(f)(x), torch.func.jacrev(fn)(x)
    torch.testing.assert_close(found, exact, rtol=rtol, atol=0)


@pytest.mark.parametrize(("stencil", "bound"), [(stencils.FORWARD, 1e-6), (stencils.CENTRAL, 1e-9)])
def test_wikipedia_jacobians(stencil, bound):
    """Source: scipy/differentiate/tests/test_differentiate.py, the functions f1 to f5."""

    def spherical(x):
        r, theta, phi = x
        sine = torch.sin(phi)
        return torch.stack(
            [r * sine * torch.cos(theta), r * sine * torch.sin(theta), r * torch.cos(phi)]
        )

    def mixed(x):
        return torch.stack([5 * x[1], 4 * x[0] ** 2 - 2 * torch.sin(x[1] * x[2]), x[1] * x[2]])

    x = torch.tensor([1.2, 0.7, 0.4], dtype=FLOAT64)
    for fn in (spherical, mixed):
        f = suture.differentiable(fn, method=FiniteDifference(stencil))
        error = (torch.func.jacrev(f)(x) - torch.func.jacrev(fn)(x)).abs().max()
        assert error < bound
