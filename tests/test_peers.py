"""The problems of the tests of other libraries, to the tolerances of those tests.

Each section names the library and the file. What is about coloring, and derivatives above the
second, is left out. A tolerance of theirs is never loosened: where one of our methods does not
reach it, the method that does is named, with what it costs.

Scales: SciPy and others step by max(1, |x_j|) of each number, this library by the typical size of a
tensor. Where numbers of very different size stand in one vector, `scale=` says so.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import rosen, rosen_der, rosen_hess

from suture import AdaptiveDifference, FiniteDifference, Stencil, differentiable, stencils
from suture._methods._arms import fitted
from suture.directions import Coordinate, Rademacher
from suture.errors import BadResult, EvaluationError, MethodError, PointFailed, TransformError

DOUBLE = torch.float64
FORWARD = FiniteDifference(stencils.FORWARD)
BACKWARD = FiniteDifference(stencils.BACKWARD)
CENTRAL = FiniteDifference(stencils.CENTRAL)
CENTRAL4 = FiniteDifference(stencils.central(4))
CENTRAL6 = FiniteDifference(stencils.central(6))
CENTRAL8 = FiniteDifference(stencils.central(8))
COMPLEX_STEP = FiniteDifference(stencils.COMPLEX_STEP)


def vector(x, dtype=DOUBLE):
    return torch.tensor(x, dtype=dtype)


def jacobian(fn, x, method, **options):
    """Return the Jacobian of a NumPy function, as an array."""
    f = differentiable(fn, method=method, interface="numpy", **options)
    return torch.func.jacrev(f)(vector(x)).numpy()


def first_and_later(fn, x, **options):
    """Return two Jacobians by the default method: that of the calibration, and a later one."""
    f = differentiable(fn, interface="numpy", **options)
    return [torch.func.jacrev(f)(vector(x)).numpy() for _ in range(2)]


def sized(x):
    """Return SciPy's scale: that of each number by itself, and at least 1."""
    return (torch.clamp(vector(x).abs(), min=1.0),)


def close(actual, expected, rtol=0.0, atol=0.0):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


# ------------------------------------------------------------------------------------------------
# SciPy, test__numdiff.py
# ------------------------------------------------------------------------------------------------


def to_three(x):
    return np.concatenate([x**2, np.tan(x), np.exp(x)])


def to_three_jacobian(x):
    return np.concatenate([2 * x, np.cos(x) ** -2, np.exp(x)])[:, None]


def of_two(x):
    return np.sin(x[0] * x[1]) * np.log(x[0])


def of_two_jacobian(x):
    phase, log = x[0] * x[1], np.log(x[0])
    return np.array([x[1] * np.cos(phase) * log + np.sin(phase) / x[0], x[0] * np.cos(phase) * log])


def to_vector(x):
    return np.array([x[0] * np.sin(x[1]), x[1] * np.cos(x[0]), x[0] ** 3 * x[1] ** -0.5])


def to_vector_jacobian(x):
    return np.array(
        [
            [np.sin(x[1]), x[0] * np.cos(x[1])],
            [-x[1] * np.sin(x[0]), np.cos(x[0])],
            [3 * x[0] ** 2 * x[1] ** -0.5, -0.5 * x[0] ** 3 * x[1] ** -1.5],
        ]
    )


SCIPY = {
    "sinh": (np.sinh, [1.0], lambda x: np.cosh(x)[:, None], (1e-6, 1e-9, 1e-12)),
    "to three": (to_three, [0.5], to_three_jacobian, (1e-6, 1e-9, 1e-12)),
    "of two": (of_two, [100.0, -0.5], of_two_jacobian, (1e-6, 1e-7, 1e-12)),
    "to vector": (to_vector, [-100.0, 0.2], to_vector_jacobian, (1e-5, 1e-6, 1e-12)),
}
each_of_scipy = pytest.mark.parametrize(
    ("fn", "x", "exact", "tolerances"), SCIPY.values(), ids=SCIPY
)


@each_of_scipy
def test_scipy_dense(fn, x, exact, tolerances):
    for method, rtol in zip((FORWARD, CENTRAL, COMPLEX_STEP), tolerances, strict=True):
        close(jacobian(fn, x, method, scale=sized(x)), exact(np.array(x)), rtol)


@each_of_scipy
def test_scipy_dense_by_default(fn, x, exact, tolerances):
    """The first gradient is as good as 3-point; later ones, at the cost of 2-point, as that."""
    # The noise of sin(50) is that of its argument, and so the arms are longer than SciPy's: at its
    # scale the first gradient is right to 8e-7, at that of the sine, 1/50, to 3e-10.
    scale = (vector([2.0, 0.02]),) if fn is of_two else sized(x)
    first, later = first_and_later(fn, x, scale=scale)
    close(first, exact(np.array(x)), tolerances[1])
    close(later, exact(np.array(x)), tolerances[0])


def test_scipy_bounds():
    x = [1.0, 2.0]
    exact = to_vector_jacobian(np.array(x))
    close(jacobian(to_vector, x, CENTRAL, bounds=((1, 2),)), exact, 1e-9)
    first, _ = first_and_later(to_vector, x, bounds=((1, 2),))
    close(first, exact, 1e-9)


@pytest.mark.parametrize("method", [FORWARD, CENTRAL, FiniteDifference()], ids=repr)
def test_scipy_bounds_that_are_closer_than_any_step(method):
    x = [10.0, 10.0]
    found = jacobian(to_vector, x, method, bounds=((10 - 3e-9, 10 + 2e-9),))
    close(found, to_vector_jacobian(np.array(x)), 1e-6)


@pytest.mark.parametrize("x", [0.0, 1e-8])
@pytest.mark.parametrize(
    ("method", "rtol"), [(FORWARD, 1e-6), (CENTRAL, 1e-9), (FiniteDifference(), 1e-9)], ids=repr
)
def test_scipy_nan_outside_of_the_bounds(x, method, rtol):
    def wrong_outside(x):
        return np.where(np.abs(x) <= 1e-8, x, np.nan)

    close(jacobian(wrong_outside, [x], method, bounds=((-1e-8, 1e-8),)), [[1]], rtol)


@pytest.mark.parametrize(("step", "tolerances"), [(1e-6, (1e-6, 1e-9)), (1e-7, (1e-6, 1e-9))])
def test_scipy_steps_of_ones_own(step, tolerances):
    """With rel_step (-1e-6, 1e-7) there; here a step has no sign, it turns at bounds."""
    c = np.array([-1.0, 1.0])
    for stencil, rtol in zip((stencils.FORWARD, stencils.CENTRAL), tolerances, strict=True):
        method = FiniteDifference(stencil, step=step)
        found = jacobian(lambda x: np.exp(c * x), [1.0, 1.0], method, bounds=((0, 2),))
        # A forward difference itself is off by h/2.
        close(found, np.diag(c * np.exp(c)), max(rtol, step) if stencil.order == 1 else rtol)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("stencil", [stencils.FORWARD, stencils.CENTRAL], ids=["F", "C"])
def test_scipy_sin_in_each_precision(dtype, stencil):
    """|error| < h/2 max|f''| + eps/h max|f|, with max|f| = max|f''| = 1."""
    f = differentiable(torch.sin, method=FiniteDifference(stencil), dtype=None)
    x = vector([1.0], dtype)
    eps = torch.finfo(dtype).eps
    h = eps**0.5
    error = torch.func.jacrev(f)(x).double().item() - math.cos(1)
    assert abs(error) < h / 2 + eps / h


FLOATS = (torch.float16, torch.float32, torch.float64)


@pytest.mark.parametrize(("given", "returned"), [*itertools.product(FLOATS, FLOATS)], ids=str)
def test_scipy_pairs_of_precisions(given, returned):
    """There the result has the wider of both dtypes; a torch gradient has that of its input."""

    def rosenbrock(x):
        y = x.double()
        return (100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2).sum().to(returned)

    f = differentiable(rosenbrock, method=CENTRAL, dtype=None)
    x = vector([0.2, 0.3, 0.4], given).requires_grad_()
    y = f(x)
    y.backward()
    assert y.dtype == given
    assert x.grad.dtype == given
    noise = max(torch.finfo(given).eps, torch.finfo(returned).eps)
    expected = rosen_der(x.detach().double().numpy())
    error = np.abs(x.grad.double().numpy() - expected).max()
    assert error < 30 * noise ** (2 / 3) * np.abs(expected).max()


def test_scipy_workers():
    """All points in one call: the same numbers to the last bit, and as many evaluations."""
    x = vector([2.0, 3.0, 4.0])
    one = differentiable(rosen, method=CENTRAL, interface="numpy")
    together = differentiable(
        lambda x: rosen(x.T), method=CENTRAL, interface="numpy", vectorized=True
    )
    first, second = torch.func.grad(one)(x), torch.func.grad(together)(x)
    assert torch.equal(first, second)
    assert one.evaluations == together.evaluations == 1 + 6
    close(first, rosen_der(x.numpy()), 1e-9)


def structured(x):
    e = x[1:] ** 3 - x[:-1] ** 2
    return np.concatenate([[0.0], 3 * e]) + np.concatenate([2 * e, [0.0]])


def structured_jacobian(x):
    n = len(x)
    result = np.zeros((n, n))
    result[0, :2] = -4 * x[0], 6 * x[1] ** 2
    for i in range(1, n - 1):
        result[i, i - 1 : i + 2] = -6 * x[i - 1], 9 * x[i] ** 2 - 4 * x[i], 6 * x[i + 1] ** 2
    result[-1, -2:] = -6 * x[-2], 9 * x[-1] ** 2
    return result


@pytest.mark.parametrize("method", [FORWARD, CENTRAL, COMPLEX_STEP, FiniteDifference()], ids=repr)
@pytest.mark.parametrize("bounds", [None, "near", "one-sided"])
def test_scipy_sparse_problem_dense(method, bounds):
    """n = 50. Source: Nocedal and Wright, Numerical Optimization, p. 198."""
    x = np.random.default_rng(0).standard_normal(50)
    near = {None: None, "near": ((x - 0.02, x + 0.02),), "one-sided": ((x, x + 0.02),)}
    found = jacobian(structured, list(x), method, bounds=near[bounds])
    exact = structured_jacobian(x)
    close(found, exact, 1e-6, 1e-6)


def test_scipy_step_of_the_sparse_problem():
    x = np.random.default_rng(0).standard_normal(50)
    found = jacobian(structured, list(x), FiniteDifference(stencils.FORWARD, step=1e-8))
    close(found, structured_jacobian(x), 1e-5, 1e-5)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        # One point: the other side, as far as there is room for half of it.
        ([1.0], [[0.05], [-0.06]]),
        # Two points on one side: evenly, up to where there is room.
        ([1.0, 2.0], [[0.025, 0.05], [-0.03, -0.06]]),
    ],
)
def test_scipy_scheme_of_one_side(nodes, expected):
    """lower = -0.03, upper = 0.05, x = (0, 0.03), h = -0.1."""
    x, step = np.array([[0.0], [0.03]]), np.full((2, 1), -0.1)
    moves, odd = fitted(np.array(nodes), step, (x + 0.03, 0.05 - x))
    close(moves[:, :, 0], expected, 1e-15)
    assert odd.all()


def test_scipy_scheme_of_two_sides():
    """SciPy shrinks both arms to the shorter one, ±0.03, and goes one-sided where that is small.

    Here the arms may differ, so that each goes as far as it can: f at -0.03 and 0.05 is less noisy
    than at ±0.03, and as exact.
    """
    x, step = np.array([[0.0], [0.03]]), np.full((2, 1), 0.1)
    moves, _ = fitted(np.array([-1.0, 1.0]), step, (x + 0.03, 0.05 - x))
    close(moves[:, :, 0], [[-0.03, 0.05], [-0.06, 0.02]], 1e-12)


# ------------------------------------------------------------------------------------------------
# scipy.differentiate, test_differentiate.py
# ------------------------------------------------------------------------------------------------


def polar(z):
    r, phi = z
    return torch.stack([r * torch.cos(phi), r * torch.sin(phi)])


def spherical(z):
    r, phi, theta = z
    return torch.stack(
        [
            r * torch.sin(phi) * torch.cos(theta),
            r * torch.sin(phi) * torch.sin(theta),
            r * torch.cos(phi),
        ]
    )


def four_of_three(x):
    return torch.stack(
        [x[0], 5 * x[2], 4 * x[1] ** 2 - 2 * x[2], x[2] * torch.sin(x[0])],
    )


def three_of_three(x):
    return torch.stack([5 * x[1], 4 * x[0] ** 2 - 2 * torch.sin(x[1] * x[2]), x[1] * x[2]])


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


WIKIPEDIA = {
    "plane": (lambda z: torch.stack([z[0] ** 2 * z[1], 5 * z[0] + torch.sin(z[1])]), 2),
    "polar": (polar, 2),
    "spherical": (spherical, 3),
    "four of three": (four_of_three, 3),
    "three of three": (three_of_three, 3),
    "rosenbrock": (rosenbrock, 5),
}
each_jacobian = pytest.mark.parametrize(("fn", "n"), WIKIPEDIA.values(), ids=WIKIPEDIA)


@each_jacobian
@pytest.mark.parametrize("batch", [(), (6,), (2, 3)], ids=str)
@pytest.mark.parametrize("method", [AdaptiveDifference(), CENTRAL6, COMPLEX_STEP], ids=repr)
def test_scipy_jacobians(fn, n, batch, method):
    """To 1e-10: theirs has order 8 and many rounds; 6 n evaluations of ours do."""
    x = torch.from_numpy(np.random.default_rng(1).uniform(0, 1, (*batch, n)))
    derive, exact = torch.func.jacrev(differentiable(fn, method=method)), torch.func.jacrev(fn)
    for _ in batch:
        derive, exact = torch.func.vmap(derive), torch.func.vmap(exact)
    expected = exact(x)
    # Rosenbrock's slopes are around 100; SciPy's rtol of 6e-8 stands beside the 1e-10.
    close(derive(x), expected, 1.5e-8, 1e-10)


@each_jacobian
def test_scipy_jacobians_in_float32(fn, n):
    x = torch.from_numpy(np.random.default_rng(1).uniform(0, 1, n)).float()
    found = torch.func.jacrev(differentiable(fn, method=CENTRAL, dtype=None))(x)
    close(found, torch.func.jacrev(fn)(x.double()), 1.99e-3, 1.99e-3)


@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("method", [AdaptiveDifference(), CENTRAL4], ids=repr)
def test_scipy_domain(method, bounded):
    """NaN beyond x in the first input, below it in the second; 1e-8."""
    x = vector([1.0, 1.0, 1.0])
    infinite = torch.full((3,), math.inf, dtype=DOUBLE)
    lower, upper = -infinite, infinite.clone()
    upper[0], lower[1] = 1.0, 1.0

    def partial(z):
        bad = (z > upper).any() or (z < lower).any()
        return three_of_three(z) * (math.nan if bad else 1.0)

    bounds = ((lower, upper),) if bounded else None
    f = differentiable(partial, method=method, bounds=bounds)
    if method is CENTRAL4 and not bounded:
        with pytest.raises(BadResult, match="returned nan"):
            torch.func.jacrev(f)(x)
    else:
        close(torch.func.jacrev(f)(x), torch.func.jacrev(three_of_three)(x), 0, 1e-8)


def test_scipy_statuses():
    """x - 2.5 converges; what is noise is seen to be; NaN is an error."""
    x = vector([0.7]).requires_grad_()
    f = differentiable(lambda z: z - 2.5, method=AdaptiveDifference())
    f(x).sum().backward()
    close(x.grad, [1.0], 1e-12)
    assert f.last.relative_error < 1e-10
    generator = np.random.default_rng(0)
    g = differentiable(
        lambda z: np.exp(z) * generator.random(z.shape),
        method=AdaptiveDifference(),
        interface="numpy",
    )
    g(x).sum().backward()
    assert g.last.relative_error > 0.1
    with pytest.raises(BadResult, match="returned nan"):
        differentiable(lambda z: z * math.nan)(x)


@pytest.mark.parametrize("method", [AdaptiveDifference(), CENTRAL4, CENTRAL6], ids=repr)
def test_scipy_steep(method):
    """The scale of x⁹⁹ is x/99: a fixed rule has to be told, an adaptive one finds it."""
    options = {} if isinstance(method, AdaptiveDifference) else {"scale": (7 / 99,)}
    found = jacobian(lambda x: x**99 - 1, [7.0], method, **options)
    close(found, [[99 * 7.0**98]], 1e-9)


@pytest.mark.parametrize(
    ("method", "atol"),
    [
        (AdaptiveDifference(), 1e-10),
        (CENTRAL, 1e-10),
        (COMPLEX_STEP, 1e-50),
        (FiniteDifference(), 1e-5),
    ],
    ids=repr,
)
def test_scipy_triple_root(method, atol):
    """The slope is zero: nothing but h² is left of a difference, the arm squared by default."""
    close(jacobian(lambda x: (x - 1) ** 3, [1.0], method), [[0.0]], atol=atol)


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("method", [COMPLEX_STEP], ids=repr)
def test_scipy_powers(n, method):
    """2x^n to 1e-15, where only the complex step subtracts nothing."""
    x = np.random.default_rng(n).uniform(0.5, 1.5)
    found = jacobian(lambda x: 2 * np.prod(np.stack([x] * n), axis=0), [x], method)
    close(found, [[2 * n * x ** (n - 1)]], 1e-15)


def test_scipy_hessian():
    """rosen, atol 1e-8 and its rtol of 6e-8: the complex step inside of a central difference."""
    x = vector([0.3, 0.8, 1.4])
    f = differentiable(rosenbrock, method=COMPLEX_STEP)
    found = torch.autograd.functional.hessian(f, x)
    close(found, rosen_hess(x.numpy()), 6e-8, 1e-8)


# ------------------------------------------------------------------------------------------------
# FiniteDifferences.jl, test/methods.jl
# ------------------------------------------------------------------------------------------------


def cosc(x):
    """Return the derivative of sinc(x) = sin(πx) / πx."""
    safe = np.where(x == 0, 1.0, x)
    value = np.cos(np.pi * safe) / safe - np.sin(np.pi * safe) / (np.pi * safe**2)
    return np.where(x == 0, 0.0, value)


JULIA = {
    "zero at 0": (lambda x: 0 * x, 0.0, 0.0, 0.0),
    "x at 0": (lambda x: x, 0.0, 1.0, 5e-16),
    "exp at 0": (np.exp, 0.0, 1.0, 5e-14),
    "sin at 0": (np.sin, 0.0, 1.0, 5e-16),
    "cos at 0": (np.cos, 0.0, 0.0, 5e-14),
    "exp at 1": (np.exp, 1.0, math.e, 5e-13),
    "sin at 1": (np.sin, 1.0, math.cos(1), 5e-14),
    "cos at 1": (np.cos, 1.0, -math.sin(1), 5e-14),
    "sinc at 0": (np.sinc, 0.0, 0.0, 5e-14),
    "cosc at 0": (cosc, 0.0, -(math.pi**2) / 3, 5e-10),
}
# Their adaptive rules of ten points take steps of about 1/4 here. `central(8)` takes
# 2e-16^(1/9) = 0.018, where rounding leaves 2e-14: a step of its own reaches the three that ask for
# more.
JULIA_STEPS = {"x at 0": 0.25, "sin at 0": 0.1, "exp at 0": None}


@pytest.mark.filterwarnings("ignore:`<lambda>` is constant")
@pytest.mark.parametrize("name", JULIA)
def test_julia_table(name):
    fn, x, expected, atol = JULIA[name]
    stencil = stencils.central(12 if name == "sin at 0" else 8)
    method = FiniteDifference(stencil, step=JULIA_STEPS.get(name))
    close(jacobian(fn, [x], method), [[expected]], atol=atol)


@pytest.mark.filterwarnings("ignore:`<lambda>` is constant")
@pytest.mark.parametrize("name", JULIA)
def test_julia_table_of_any_method(name):
    """To ten times that for exp and sin, a hundred times for sinc: by order 6."""
    any_method = {"x at 0": 5e-15, "sin at 0": 1e-14, "sinc at 0": 5e-12, "cosc at 0": 5e-9}
    fn, x, expected, atol = JULIA[name]
    allowed = any_method.get(name, 10 * atol)
    close(jacobian(fn, [x], CENTRAL6), [[expected]], atol=allowed)


@pytest.mark.parametrize("method", [CENTRAL, CENTRAL6, FiniteDifference()], ids=repr)
def test_julia_log_near_its_end(method):
    """Steps in units of x stay inside of the domain, where a fixed one of 0.01 does not."""
    close(jacobian(np.log, [0.001], method), [[1000.0]], rtol=1.5e-8)
    naive = FiniteDifference(stencils.FORWARD, step=0.01)
    assert abs(jacobian(np.log, [0.001], naive, scale=(1.0,)).item() - 1000) > 1


@pytest.mark.parametrize(
    "method", [FORWARD, CENTRAL, CENTRAL6, FiniteDifference(), AdaptiveDifference()], ids=repr
)
def test_julia_kink_near_x(method):
    close(jacobian(np.abs, [0.001], method), [[1.0]], rtol=1e-6)


def test_julia_grid_of_ones_own():
    """Weights of the parabola through -2, 0 and 5."""
    grid = Stencil((-2, 0, 5), (-5 / 14, 3 / 10, 2 / 35), order=2)
    close(jacobian(np.sin, [1.0], FiniteDifference(grid)), [[math.cos(1)]], rtol=1e-9)


def test_julia_determinant():
    generator = np.random.default_rng(0)
    a = generator.standard_normal((4, 4))
    x = a @ a.T + 0.1 * np.eye(4)
    found = jacobian(lambda x: np.linalg.slogdet(x)[1], x.tolist(), CENTRAL)
    close(found, np.linalg.inv(x).T, 1e-6)


def with_noise(seed):
    generator = np.random.default_rng(seed)
    return lambda x: np.sin(x) * (1 + 1e-6 * generator.standard_normal(x.shape))


def errors_with_noise(method):
    return [
        abs(jacobian(with_noise(seed), [1.0], method).item() - math.cos(1)) for seed in range(20)
    ]


def test_julia_noise():
    """sin(x)(1 + 1e-6·N(0,1)): naive 0.027 there; below 5e-6, by ten evaluations, for all seeds.

    Noise of 8e-7 times the weights 1.2, over the step, is 2e-6 for a step of 1/2, where a rule of
    order ten is still exact to 4e-7.
    """
    assert max(errors_with_noise(FiniteDifference(stencils.central(10), step=0.5))) < 5e-6


def test_julia_noise_that_is_stated():
    """The steps that follow from the noise: eight evaluations are below 5e-6 in the median."""
    errors = errors_with_noise(FiniteDifference(stencils.central(8), noise=1e-6))
    assert np.median(errors) < 5e-6
    assert max(errors) < 1e-5


def test_julia_noise_that_is_measured():
    """The first gradient by default: six evaluations for the noise, two for the slope."""
    errors = errors_with_noise(FiniteDifference())
    assert np.median(errors) < 5e-5
    assert max(errors) < 2e-4
    assert np.median(errors_with_noise(FORWARD)) > 1  # what does not know of the noise
    assert np.median(errors_with_noise(CENTRAL)) > 0.027


# ------------------------------------------------------------------------------------------------
# FiniteDiff.jl, finitedifftests.jl
# ------------------------------------------------------------------------------------------------

FINITEDIFF = pytest.mark.parametrize(
    ("method", "which"), [(FORWARD, 0), (CENTRAL, 1), (COMPLEX_STEP, 2)], ids=["F", "C", "CS"]
)


@FINITEDIFF
def test_finitediff_sin(method, which):
    error = jacobian(np.sin, [math.pi / 4], method).item() - math.sqrt(0.5)
    assert abs(error) < (1e-4, 1e-8, 1e-15)[which]


def test_finitediff_direction():
    """`dir = -1` for a function that throws on one side; the default method finds out."""

    def left_of_one(x, error):
        if x[0] > 1:
            raise error
        return x**2

    found = jacobian(lambda x: left_of_one(x, ValueError("right of 1")), [1.0], BACKWARD)
    close(found, [[2.0]], 1e-7)
    for found in first_and_later(lambda x: left_of_one(x, PointFailed("right of 1")), [1.0]):
        close(found, [[2.0]], 1e-7)
    with pytest.raises(EvaluationError, match="right of 1"):
        jacobian(lambda x: left_of_one(x, ValueError("right of 1")), [1.0], FORWARD)


@FINITEDIFF
def test_finitediff_gradient(method, which):
    x = np.random.default_rng(0).random(2)
    found = jacobian(lambda x: 2 * x[0] + x[1] ** 2, list(x), method)
    assert np.abs(found - [2, 2 * x[1]]).max() < (1e-4, 1e-8, 1e-15)[which]


def two_of_two(x):
    return torch.stack([(x[0] + 3) * (x[1] ** 3 - 7) + 18, torch.sin(x[1] * torch.exp(x[0]) - 1)])


def two_of_two_jacobian(x):
    inner = np.cos(1 - x[1] * np.exp(x[0])) * np.exp(x[0])
    return np.array([[x[1] ** 3 - 7, 3 * (3 + x[0]) * x[1] ** 2], [x[1] * inner, inner]])


@FINITEDIFF
def test_finitediff_jacobian_and_jvp(method, which):
    x = torch.from_numpy(np.random.default_rng(0).random(2))
    v = torch.from_numpy(np.random.default_rng(1).random(2))
    exact = two_of_two_jacobian(x.numpy())
    f = differentiable(two_of_two, method=method)
    tolerance = (1e-6, 1e-8, 1e-14)[which]
    close(torch.func.jacrev(f)(x), exact, tolerance, tolerance)
    close(torch.func.jvp(f, (x,), (v,))[1], exact @ v.numpy(), tolerance, tolerance)


@pytest.mark.parametrize(
    ("method", "tolerance"), [(FORWARD, 1e-3), (CENTRAL, 1e-7)], ids=["F", "C"]
)
def test_finitediff_complex(method, tolerance):
    """sin + cos from complex to complex; torch's gradient is the conjugate of the derivative."""
    x = torch.tensor([0.3 + 0.5j, -0.2 + 0.1j], dtype=torch.complex128, requires_grad=True)
    f = differentiable(lambda z: torch.sin(z) + torch.cos(z), method=method)
    f(x).sum().real.backward()
    expected = (torch.cos(x) - torch.sin(x)).detach()
    assert (x.grad.conj() - expected).abs().max() < tolerance


def test_finitediff_calls():
    """Second differences, n = 30: 31 evaluations forward, dense."""
    x = vector(np.linspace(0, 1, 30).tolist())
    second = np.diag(np.full(30, -2.0)) + np.eye(30, k=1) + np.eye(30, k=-1)
    for method, calls in ((FORWARD, 31), (CENTRAL, 61)):
        f = differentiable(lambda x: second @ x, method=method, interface="numpy")
        close(torch.func.jacrev(f)(x), second, atol=1e-6)
        assert f.evaluations == calls


def test_finitediff_not_square():
    """y = (x₁ - 3)² + x₁x₂ + (x₂ + 4)² - 3, from 2n inputs to n outputs."""

    def pairs(z):
        a, b = z.reshape(2, -1)
        return (a - 3) ** 2 + a * b + (b + 4) ** 2 - 3

    z = np.random.default_rng(0).standard_normal(10)
    a, b = z.reshape(2, -1)
    exact = np.concatenate([np.diag(2 * a - 6 + b), np.diag(2 * b + 8 + a)], axis=1)
    close(jacobian(pairs, list(z), CENTRAL), exact, 1e-7, 1e-7)


# ------------------------------------------------------------------------------------------------
# PennyLane, tests/gradients
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stencil", "nodes", "weights"),
    [
        (stencils.FORWARD, (0, 1), (-1, 1)),
        (stencils.BACKWARD, (0, -1), (1, -1)),
        (stencils.CENTRAL, (-1, 1), (-0.5, 0.5)),
        (stencils.central(4), (-2, -1, 1, 2), (1 / 12, -2 / 3, 2 / 3, -1 / 12)),
    ],
)
def test_pennylane_coefficients(stencil, nodes, weights):
    table = dict(zip(stencil.nodes, stencil.weights, strict=True))
    assert set(table) == set(nodes)
    close([table[node] for node in nodes], weights, 1e-15)


def test_pennylane_forward_of_order_two():
    rule = Stencil((0, 1, 2), (-1.5, 2, -0.5), order=2)
    close(jacobian(np.sin, [1.0], FiniteDifference(rule)), [[math.cos(1)]], 1e-9)


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [((0, 1, 2), (1, -2, 1)), ((-2, -1, 0, 1, 2), (-1 / 12, 4 / 3, -5 / 2, 4 / 3, -1 / 12))],
)
def test_pennylane_second_derivatives_are_no_stencils(nodes, weights):
    with pytest.raises(MethodError, match="is not a rule"):
        Stencil(nodes, weights, order=1)


def test_pennylane_step_is_honored():
    """x³ at 2 with h = 0.1: (2.1³ - 2³) / 0.1 = 12.61."""
    f = differentiable(
        lambda x: x**3, method=FiniteDifference(stencils.FORWARD, step=0.1), scale=(1.0,)
    )
    _, tangent = torch.func.jvp(f, (vector(2.0),), (vector(1.0),))
    assert tangent.item() == pytest.approx(12.61, rel=1e-12)


def test_pennylane_calls():
    """An input without a gradient costs nothing; four inputs cost five calls."""
    f = differentiable(lambda x, y, z: x * y * z, method=FORWARD)
    x, y = vector(1.0).requires_grad_(), vector(2.0).requires_grad_()
    f(x, y, vector(3.0)).backward()
    assert (x.grad.item(), y.grad.item()) == pytest.approx((6, 3), rel=1e-7)
    assert f.evaluations == 3
    g = differentiable(lambda x: torch.sin(x).sum(), method=FORWARD)
    torch.func.grad(g)(vector([0.1, 0.2, 0.3, 0.4]))
    assert g.evaluations == 5


def test_pennylane_float32_inputs():
    """There a warning, for their step of 1e-7 is lost in float32; here f receives float64."""
    x = torch.tensor([0.1, 0.2], requires_grad=True)
    differentiable(torch.sin, method=FORWARD)(x).sum().backward()
    close(x.grad, np.cos(x.detach().numpy()), 1e-6)


def test_pennylane_spsa():
    """Coordinates as directions are exact; the mean over random signs is right to 4/√N."""
    x = vector([0.3, -0.5, 0.8])

    def circuit(x):
        return torch.cos(x).prod()

    exact = torch.func.grad(circuit)(x)
    found = torch.func.grad(
        differentiable(circuit, method=FiniteDifference(stencils.CENTRAL, Coordinate()))
    )(x)
    close(found, exact, atol=1e-3)
    count = 2000
    random = FiniteDifference(stencils.CENTRAL, Rademacher(count))
    first = torch.func.grad(differentiable(circuit, method=random, seed=7))(x)
    again = torch.func.grad(differentiable(circuit, method=random, seed=7))(x)
    other = torch.func.grad(differentiable(circuit, method=random, seed=8))(x)
    assert (first - exact).abs().max() < 4 / math.sqrt(count)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ------------------------------------------------------------------------------------------------
# jacobi, numdifftools
# ------------------------------------------------------------------------------------------------

# jacobi's own tolerance is 1e-10, reached by an adaptive method; these are adaptive or of order 6.
PRECISE = pytest.mark.parametrize("method", [AdaptiveDifference(), CENTRAL6], ids=repr)


@PRECISE
def test_jacobi_shapes(method):
    x = np.array([1.0, 2.0, 3.0])
    eye = np.eye(3)
    outer = np.einsum("ik,j->ijk", eye, x) + np.einsum("jk,i->ijk", eye, x)
    close(jacobian(lambda x: np.outer(x, x), list(x), method), outer, atol=1e-10)
    close(jacobian(lambda x: np.mean(x**2), list(x), method), 2 * x / 3, atol=1e-10)
    a = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    close(jacobian(lambda x: a @ x**2, list(x), method), 2 * a * x, atol=1e-10)
    close(jacobian(lambda x: x**3 + 3, 2.0, method), 12.0, atol=1e-10)
    grid = jacobian(lambda x: x**2, [[1.0, 2.0], [3.0, 4.0]], method)
    close(grid.reshape(4, 4), np.diag([2.0, 4.0, 6.0, 8.0]), atol=1e-10)


@pytest.mark.parametrize(
    "method", [AdaptiveDifference(), CENTRAL, CENTRAL6, FiniteDifference()], ids=repr
)
def test_jacobi_kink(method):
    """|x| at 0 is 0, the mean of both sides."""
    assert abs(jacobian(np.abs, [0.0], method).item()) < 1e-16


@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("method", [AdaptiveDifference(), FiniteDifference()], ids=repr)
def test_jacobi_half_lines(side, method):
    """NaN on one side of 0: the other one is used, by itself."""

    def half(x):
        return np.where(side * x >= 0, x, np.nan)

    f = differentiable(half, method=method, interface="numpy")
    for _ in range(2):
        close(torch.func.jacrev(f)(vector([0.0])), [[1.0]], atol=1e-10)
    both = differentiable(lambda x: np.where(x == 0, x, np.nan), method=method, interface="numpy")
    with pytest.raises(BadResult, match=r"both sides"):
        torch.func.jacrev(both)(vector([0.0]))


def test_jacobi_nan_input():
    """There it spoils its own row and column; here a NaN that is not read costs nothing, and one
    that comes out is an error."""
    x = [1.0, math.nan, 3.0]
    found = jacobian(lambda x: np.array([x[0] ** 2, x[2] ** 2]), x, CENTRAL)
    close(found, [[2, 0, 0], [0, 0, 6]], atol=1e-9)
    with pytest.raises(BadResult, match="returned nan"):
        jacobian(lambda x: x**2, x, CENTRAL)


def test_jacobi_stops_early():
    """With `rtol` an adaptive method is within 3 %, and takes fewer evaluations."""
    x = vector([0.5])
    calls = []
    for rtol in (3e-2, 1e-10):
        f = differentiable(torch.exp, method=AdaptiveDifference(rtol))
        close(torch.func.jacrev(f)(x), [[math.exp(0.5)]], max(rtol, 1e-10))
        calls.append(f.evaluations)
    assert calls[0] < calls[1]


ELEMENTARY = {
    "cos": (torch.cos, lambda x: -torch.sin(x)),
    "sin": (torch.sin, torch.cos),
    "tan": (torch.tan, lambda x: 1 / torch.cos(x) ** 2),
    "acos": (torch.acos, lambda x: -1 / torch.sqrt(1 - x**2)),
    "asin": (torch.asin, lambda x: 1 / torch.sqrt(1 - x**2)),
    "atan": (torch.atan, lambda x: 1 / (1 + x**2)),
    "cosh": (torch.cosh, torch.sinh),
    "sinh": (torch.sinh, torch.cosh),
    "tanh": (torch.tanh, lambda x: 1 / torch.cosh(x) ** 2),
    "asinh": (torch.asinh, lambda x: 1 / torch.sqrt(1 + x**2)),
    "acosh": (lambda x: torch.acosh(1 + x), lambda x: 1 / torch.sqrt(x * (2 + x))),
    "atanh": (torch.atanh, lambda x: 1 / (1 - x**2)),
    "exp": (torch.exp, torch.exp),
    "exp2": (torch.exp2, lambda x: math.log(2) * torch.exp2(x)),
    "expm1": (torch.expm1, torch.exp),
    "log": (torch.log, lambda x: 1 / x),
    "log10": (torch.log10, lambda x: 1 / (x * math.log(10))),
    "log1p": (torch.log1p, lambda x: 1 / (1 + x)),
    "sqrt": (torch.sqrt, lambda x: 0.5 / torch.sqrt(x)),
}


@pytest.mark.parametrize("name", ELEMENTARY)
def test_numdifftools_elementary_functions(name):
    fn, exact = ELEMENTARY[name]
    x = vector([0.2, 0.4, 0.6])
    expected = exact(x)
    for method, rtol in ((CENTRAL, 1e-8), (AdaptiveDifference(), 1e-9), (FiniteDifference(), 1e-8)):
        f = differentiable(fn, method=method)
        close(torch.func.grad(lambda x, f=f: f(x).sum())(x), expected, rtol)


@pytest.mark.parametrize("method", [AdaptiveDifference(), COMPLEX_STEP], ids=repr)
def test_numdifftools_residuals_at_the_optimum(method):
    """(c₀ + c₁ e^(c₂x) - y)² where all residuals vanish: slope 0 to 1e-12.

    A central difference of a square is off by h², 1e-9, and by order 8 still 2e-12 through noise.
    """
    data = np.linspace(0, 1, 11)
    truth = np.array([1.0, 2.0, 0.75])
    y = truth[0] + truth[1] * np.exp(truth[2] * data)

    def residuals(c):
        return (c[0] + c[1] * np.exp(c[2] * data) - y) ** 2

    close(jacobian(residuals, list(truth), method), np.zeros((11, 3)), atol=1e-12)


def test_numdifftools_direction():
    """Along (1, -1)/√2 of (1 - x)² + 105 (y - x²)² at (2, 3)."""
    f = differentiable(lambda z: (1 - z[0]) ** 2 + 105 * (z[1] - z[0] ** 2) ** 2, method=CENTRAL)
    tangent = vector([1.0, -1.0]) / math.sqrt(2)
    _, found = torch.func.jvp(f, (vector([2.0, 3.0]),), (tangent,))
    assert found.item() == pytest.approx(743.87633380824832, rel=1e-8)


def test_numdifftools_gradient():
    for found in first_and_later(lambda x: 1 / (np.exp(x[0]) + np.cos(x[1]) + 10), [1.0, 2.0]):
        close(found, [-0.0179611, 0.0060082], atol=5e-8)


@pytest.mark.parametrize("n", [500, 1000])
def test_numdifftools_large_jacobian(n):
    x = vector(np.linspace(0.5, 1.5, n).tolist())
    f = differentiable(lambda x: x**2, method=FORWARD, interface="numpy")
    found = torch.func.jacrev(f)(x)
    close(found, np.diag(2 * x.numpy()), atol=1e-6)
    assert f.evaluations == 1 + n


def test_numdifftools_matrices():
    a = np.array([[1.0, 2.0], [3.0, 4.0]])
    found = jacobian(lambda x: a * np.sin(x[0]) + a.T * x[1] ** 2, [0.5, 1.5], CENTRAL)
    close(found, np.stack([a * math.cos(0.5), 3 * a.T], axis=-1), 1e-8)


def test_third_derivatives_are_refused():
    """Where others have tables for higher derivatives, this library has an error."""
    x = vector([0.5]).requires_grad_()
    f = differentiable(torch.sin)
    (first,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    close(second.detach(), [-math.sin(0.5)], 1e-3)
    with pytest.raises(TransformError, match=r"third|two times|twice"):
        torch.autograd.grad(second.sum(), x)


# ------------------------------------------------------------------------------------------------
# optimagic, CasADi, OpenMDAO, Tesseract
# ------------------------------------------------------------------------------------------------


def test_optimagic_logit():
    """Log-likelihood of a logit model, to six decimals."""
    generator = np.random.default_rng(0)
    features = torch.from_numpy(generator.standard_normal((50, 3)))
    chosen = torch.from_numpy(generator.integers(0, 2, 50) * 1.0)

    def likelihood(beta):
        z = features @ beta
        return (chosen * z - torch.log1p(torch.exp(z))).sum()

    beta = vector([0.3, -0.2, 0.5])
    exact = features.T @ (chosen - torch.sigmoid(features @ beta))
    f = differentiable(likelihood)
    for _ in range(2):
        close(torch.func.grad(f)(beta), exact, atol=5e-7)
    g = differentiable(likelihood, method=CENTRAL)
    weight = torch.sigmoid(features @ beta)
    hessian = -(features.T * (weight * (1 - weight))) @ features
    # Four decimals of a second derivative there.
    close(torch.autograd.functional.hessian(g, beta), hessian, atol=1e-4)


@pytest.mark.parametrize("method", [CENTRAL, FiniteDifference()], ids=repr)
def test_optimagic_trees(method):
    """Scalars, arrays and dicts, in and out, to five decimals."""

    def model(p):
        return {"a": p["x"] * p["y"].sum(), "b": p["y"] ** 2 * p["x"], "c": p["x"] ** 2}

    p = {"x": vector(2.0), "y": vector([1.0, 3.0])}
    found = torch.func.jacrev(differentiable(model, method=method))(p)
    expected = torch.func.jacrev(model)(p)
    for out, into in itertools.product("abc", "xy"):
        close(found[out][into], expected[out][into], atol=5e-6)


@pytest.mark.parametrize(
    "method", [FORWARD, BACKWARD, CENTRAL, AdaptiveDifference(1e-5), FiniteDifference()], ids=repr
)
def test_casadi_sin(method):
    """To five digits; the last two in place of their smoothing."""
    close(jacobian(np.sin, [1.1], method), [[math.cos(1.1)]], 1e-5)


# Errors at 1e10, 1 and 1e-10: OpenMDAO's for a forward and for a central difference.
ONE_SIDED, TWO_SIDED = (1e4, 1e-5, 1e-10), (1e4, 1e-6, 1e-16)


@pytest.mark.parametrize(
    ("method", "first", "later"),
    [
        (FORWARD, ONE_SIDED, ONE_SIDED),
        (CENTRAL, TWO_SIDED, TWO_SIDED),
        (FiniteDifference(rtol=1e-6), TWO_SIDED, TWO_SIDED),
        # By default there is one noise for all outputs, that of the largest: 1e4 of 5e19. The
        # others do not have it, but their steps are chosen as if: 2e-3 in place of 1e-8.
        (FiniteDifference(), TWO_SIDED, (1e4, 2e-3, 2e-13)),
    ],
    ids=repr,
)
def test_openmdao_magnitudes(method, first, later):
    """0.5x² at 1e10, 1 and 1e-10, in arguments of their own; no scale is given."""
    x = [vector([value]).requires_grad_() for value in (1e10, 1.0, 1e-10)]
    f = differentiable(lambda *x: tuple(0.5 * z**2 for z in x), method=method)
    for allowed in (first, later):
        slopes = torch.autograd.grad([y.sum() for y in f(*x)], x)
        for z, slope, tolerance in zip(x, slopes, allowed, strict=True):
            assert abs(slope.item() - z.item()) < tolerance


@pytest.mark.parametrize("method", [FORWARD, CENTRAL, FiniteDifference()], ids=repr)
def test_openmdao_zeros(method):
    """Zero has a scale of 1 here, where there a `minimum_step` must be given."""
    close(jacobian(lambda x: 0.5 * x**2, [0.0, 0.0, 0.0], method), np.zeros((3, 3)), atol=1e-6)


def paraboloid(x, y):
    return (x - 3) ** 2 + x * y + (y + 4) ** 2 - 3


def test_openmdao_paraboloid():
    """Gradient, and the minimum of -27 1/3 at (20/3, -22/3) by descending."""
    f = differentiable(paraboloid)
    x, y = vector(1.0).requires_grad_(), vector(2.0).requires_grad_()
    slopes = torch.autograd.grad(f(x, y), (x, y))
    close([slope.item() for slope in slopes], [2 - 6 + 2, 4 + 8 + 1], 1e-6)
    optimizer = torch.optim.SGD([x, y], lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        f(x, y).backward()
        optimizer.step()
    close([x.item(), y.item()], [20 / 3, -22 / 3], 1e-6)
    assert f(x, y).item() == pytest.approx(-82 / 3, rel=1e-10)


def sellar(z, x):
    """Solve y₁ = z₁² + z₂ + x - 0.2y₂, y₂ = √y₁ + z₁ + z₂ by iteration."""
    y1, y2 = 1.0, 1.0
    for _ in range(60):
        y1, y2 = z[0] ** 2 + z[1] + x - 0.2 * y2, np.sqrt(y1) + z[0] + z[1]
    return np.stack([y1, y2])


def test_openmdao_sellar():
    """Two coupled disciplines; the total derivatives by the implicit function theorem."""
    z, x = np.array([5.0, 2.0]), np.array(1.0)
    y1, _ = sellar(z, x)
    coupling = np.array([[1, 0.2], [-0.5 / np.sqrt(y1), 1]])
    partial = np.array([[2 * z[0], 1, 1], [1, 1, 0]])
    exact = np.linalg.solve(coupling, partial)
    f = differentiable(sellar, interface="numpy")
    for _ in range(2):
        by_z, by_x = torch.func.jacrev(f, (0, 1))(torch.from_numpy(z), torch.from_numpy(x))
        close(np.concatenate([by_z, by_x[:, None]], axis=1), exact, 1e-6)


def test_tesseract_vectors():
    """s·a + b, and v/|v| with the Jacobian (I - vvᵀ/|v|²)/|v|."""
    s, a, b = vector(2.0), vector([1.0, 2.0, 3.0]), vector([0.5, 0.0, -1.0])
    f = differentiable(lambda s, a, b: s * a + b)
    by_s, by_a, by_b = torch.func.jacrev(f, (0, 1, 2))(s, a, b)
    close(by_s, a, 1e-7)
    close(by_a, 2 * np.eye(3), atol=1e-7)
    close(by_b, np.eye(3), atol=1e-7)
    v = np.array([1.0, -2.0, 2.0])
    exact = (np.eye(3) - np.outer(v, v) / 9) / 3
    for found in first_and_later(lambda v: v / np.linalg.norm(v), list(v)):
        close(found, exact, atol=1e-7)


def test_tesseract_spsa():
    """x² of twenty inputs: unbiased, with an error of √((n - 1)/k) of its norm for k directions."""
    x = vector(np.linspace(0.1, 2, 20).tolist())
    f = differentiable(
        lambda x: (x**2).sum(), method=FiniteDifference(stencils.CENTRAL, Rademacher(400)), seed=1
    )
    error = (torch.func.grad(f)(x) - 2 * x).norm() / (2 * x).norm()
    assert error < 2 * math.sqrt(19 / 400)


# ------------------------------------------------------------------------------------------------
# JAX, HIPS autograd, torch, Qiskit
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float64, 1e-5),
        (torch.float32, 2e-3),
        (torch.float16, 1e-2),
        (torch.bfloat16, 1e-1),
    ],
    ids=str,
)
def test_jax_tolerances(dtype, tolerance):
    """Gradients of numbers in each precision: f receives float64, whatever came."""
    x = vector([0.4, -0.7, 1.1], dtype)
    f = differentiable(lambda x: torch.sin(x) * torch.exp(x))
    exact = torch.exp(x.double()) * (torch.sin(x.double()) + torch.cos(x.double()))
    for _ in range(2):
        found = torch.func.grad(lambda x: f(x).sum())(x)
        assert found.dtype == dtype
        close(found.double(), exact, tolerance, tolerance)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 2e-3)], ids=str
)
def test_jax_tolerances_in_the_precision_itself(dtype, tolerance):
    """f computes in the precision: half precision leaves a slope 6e-2, by any step."""
    x = vector([0.4, -0.7, 1.1], dtype)
    f = differentiable(lambda x: torch.sin(x) * torch.exp(x), dtype=None)
    exact = torch.exp(x.double()) * (torch.sin(x.double()) + torch.cos(x.double()))
    for _ in range(2):
        close(torch.func.grad(lambda x: f(x).sum())(x).double(), exact, tolerance, tolerance)


@pytest.mark.parametrize(
    "method", [FORWARD, CENTRAL, CENTRAL6, COMPLEX_STEP, FiniteDifference()], ids=repr
)
def test_jax_inner_products(method):
    """⟨t, Jᵀc⟩ = ⟨Jt, c⟩, to 1e-6 as in HIPS autograd."""
    generator = np.random.default_rng(0)
    x, t = torch.from_numpy(generator.standard_normal((2, 3)))
    c = torch.from_numpy(generator.standard_normal(4))
    f = differentiable(four_of_three, method=method)
    _, pull = torch.func.vjp(f, x)
    _, pushed = torch.func.jvp(f, (x,), (t,))
    assert (t @ pull(c)[0]).item() == pytest.approx((pushed @ c).item(), rel=1e-6)


def test_torch_gradcheck():
    """eps 1e-6, atol 1e-5, rtol 1e-3, nondet_tol 0; backward twice gives the same numbers."""
    x = vector([0.4, -0.7, 1.1]).requires_grad_()
    f = differentiable(lambda x: torch.sin(x) * torch.exp(x))
    assert torch.autograd.gradcheck(f, (x,))


def test_qiskit_batches():
    """The loss of a batch is the sum of those of its rows, and so are the gradients."""
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 3)))
    w = vector([0.5, -1.0, 2.0])

    def network(x, w):
        return torch.tanh(x @ w) ** 2

    f = differentiable(network, method=CENTRAL, batch_dims=(0, None))
    together = torch.func.grad(lambda w: f(rows, w).sum())(w)
    single = sum(torch.func.grad(lambda w, r=r: f(r[None], w).sum())(w) for r in rows)
    close(together, single, 1e-9)
    assert f(rows, w).sum().item() == pytest.approx(
        sum(f(r[None], w).sum().item() for r in rows), rel=1e-14
    )


# ------------------------------------------------------------------------------------------------
# Hard cases that no library tests
# ------------------------------------------------------------------------------------------------


def printed(x):
    return np.array([float(f"{value:.6g}") for value in np.sin(x)])


def test_six_digits():
    """A difference with a step of 1e-8 sees nothing; the truth is 0.5403."""
    naive = FiniteDifference(stencils.FORWARD)
    assert jacobian(printed, [1.0], naive).item() == 0
    first, later = first_and_later(printed, [1.0])
    close(first, [[math.cos(1)]], 1e-3)
    close(later, [[math.cos(1)]], 1e-2)
    close(jacobian(printed, [1.0], AdaptiveDifference()), [[math.cos(1)]], 1e-4)
    stated = FiniteDifference(stencils.CENTRAL, noise=5e-7)
    close(jacobian(printed, [1.0], stated), [[math.cos(1)]], 1e-3)


@pytest.mark.parametrize(("fn", "slope"), [(np.sin, np.cos), (np.exp, np.exp)], ids=["sin", "exp"])
@pytest.mark.parametrize(("digits", "worst"), [(4, 0.1), (6, 0.01), (8, 0.01)])
def test_digits_at_any_place(fn, slope, digits, worst):
    """Evenly spaced values may fall on evenly spaced digits, and then look free of noise.

    One in ten of these places did, and was wrong by 10 % to 100 %.
    """
    for x in np.random.default_rng(0).uniform(0.3, 1.2, 40):
        rounded = lambda z: np.array([float(f"{v:.{digits}g}") for v in fn(z)])  # noqa: E731
        for found in first_and_later(rounded, [x]):
            close(found, [[slope(x)]], worst)


def test_float32_inside_of_float64():
    def inside(x):
        return np.sin(x.astype(np.float32)).astype(np.float64)

    first, later = first_and_later(inside, [1.0])
    close(first, [[math.cos(1)]], 1e-3)
    close(later, [[math.cos(1)]], 1e-2)


@pytest.mark.parametrize("way", ["nan", "failed"])
def test_one_side_is_wrong(way):
    def half(x):
        if x[0] < 1 and way == "failed":
            raise PointFailed("below 1")
        return np.where(x < 1, np.nan, x**3)

    for found in first_and_later(half, [1.0]):
        close(found, [[3.0]], 1e-6)


def test_outside_of_bounds_by_a_little_raises():
    def strict(x):
        if (x > 1).any() or (x < 1 - 1e-3).any():
            raise ValueError("outside")
        return x**2

    for method in (FiniteDifference(), FORWARD, CENTRAL, CENTRAL6, AdaptiveDifference()):
        found = jacobian(strict, [1.0, 1 - 1e-12], method, bounds=((1 - 1e-3, 1),))
        close(found, 2 * np.eye(2), atol=1e-6)


def test_magnitudes_eighteen_orders_apart():
    a, b = vector([1e-9]).requires_grad_(), vector([1e9]).requires_grad_()
    f = differentiable(lambda a, b: torch.sin(a * 1e9) + torch.cos(b * 1e-9))
    for _ in range(2):
        by_a, by_b = torch.autograd.grad(f(a, b).sum(), (a, b))
        close(by_a, [1e9 * math.cos(1)], 1e-6)
        close(by_b, [-1e-9 * math.sin(1)], 1e-6)
    # In one vector, `scale=` says it.
    x = vector([1e-9, 1e9]).requires_grad_()
    g = differentiable(lambda x: torch.sin(x * vector([1e9, 1e-9])), scale=(vector([1e-9, 1e9]),))
    for _ in range(2):
        (found,) = torch.autograd.grad(g(x).sum(), x)
        close(found, [1e9 * math.cos(1), 1e-9 * math.cos(1)], 1e-6)


def test_a_step_function_says_so():
    f = differentiable(np.floor, interface="numpy")
    with pytest.warns(UserWarning, match="is constant around x"):
        assert torch.func.jacrev(f)(vector([0.5])).item() == 0


def test_common_random_numbers():
    """A simulation with a seed of its own is smooth in its parameter."""

    def simulated(x):
        normal = np.random.default_rng(0).standard_normal(1000)
        return np.mean(np.exp(x * normal), keepdims=True)

    normal = np.random.default_rng(0).standard_normal(1000)
    for found in first_and_later(simulated, [0.5]):
        close(found, [[np.mean(normal * np.exp(0.5 * normal))]], 1e-6)


def test_functions_that_write_into_their_input_or_return_views():
    def writes(x):
        x *= 2
        return x**2

    def views(x):
        return x[::-1]

    x = [1.0, 2.0, 3.0]
    for method in (FORWARD, CENTRAL, FiniteDifference()):
        close(jacobian(writes, x, method), np.diag([8.0, 16.0, 24.0]), 1e-6, 1e-6)
        close(jacobian(views, x, method), np.eye(3)[::-1], atol=1e-6)


def test_inputs_of_every_kind():
    """Not contiguous, of size zero, 0-d, integer, without a gradient."""
    grid = vector([[1.0, 2.0], [3.0, 4.0]]).requires_grad_()
    empty = torch.zeros(0, 3, dtype=DOUBLE, requires_grad=True)
    scalar = vector(2.0).requires_grad_()
    frozen, count = vector([5.0]), torch.tensor([2])

    def mixed(grid, empty, scalar, frozen, count):
        return (grid**2).sum() * scalar * frozen * count + empty.sum()

    f = differentiable(mixed)
    for _ in range(2):
        found = torch.autograd.grad(
            f(grid.T, empty, scalar, frozen, count), (grid, empty, scalar), torch.ones(1)
        )
        close(found[0], 2 * grid.detach() * 20, 1e-6)
        assert found[1].shape == (0, 3)
        assert found[2].item() == pytest.approx(30 * 10, rel=1e-6)


def test_second_order_of_a_mixed_graph():
    """|∇(Σy² + Σx²)|² for y = x sin x: its gradient needs J' of the black box as well."""
    x = vector([0.5, 1.0]).requires_grad_()

    def loss(y):
        return (y**2).sum() + (x**2).sum()

    def penalty(f):
        (slope,) = torch.autograd.grad(loss(f(x)), x, create_graph=True)
        return slope.square().sum() / 2, slope

    exact, slope = penalty(lambda x: x * torch.sin(x))
    (expected,) = torch.autograd.grad(exact, x)
    for method in (CENTRAL, FiniteDifference()):
        found, by_us = penalty(differentiable(lambda x: x * torch.sin(x), method=method))
        close(by_us.detach(), slope.detach(), 1e-6)
        close(torch.autograd.grad(found, x)[0], expected, 1e-3)


def test_compiled_gradients_equal_eager_ones():
    x = vector([0.5, 1.0])
    f = differentiable(lambda x: (x * torch.sin(x)).sum(), method=CENTRAL)
    eager = torch.func.grad(f)(x)
    compiled = torch.compile(torch.func.grad(f), backend="eager")
    try:
        found = compiled(x)
    except TransformError:
        return  # a clear exception is right too
    close(found, eager, 1e-12)
