"""Bounds: where the black box may be evaluated; nowhere else, not by one unit in the last place.

A fence around the black box compares every number that it receives with its bounds exactly, in the
precision in which it arrives.
"""

import math
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suture import AdaptiveDifference, CustomVJP, FiniteDifference, differentiable, stencils
from suture._bounds import parse
from suture._methods._arms import fitted
from suture.directions import Gaussian, Orthogonal, Rademacher
from suture.errors import BadResult, MethodError, PointFailed

INF = math.inf
DOUBLE = torch.float64


class Fence:
    """A black box with a fence around it, that remembers what climbed over."""

    def __init__(self, fn, *bounds):
        self.fn, self.bounds = fn, bounds
        self.outside, self.points = [], []

    def __call__(self, *args):
        self.points.append(args)
        for arg, pair in zip(args, self.bounds, strict=False):
            received = (arg.real if arg.is_complex() else arg).double()
            lower, upper = (torch.as_tensor(limit, dtype=DOUBLE) for limit in pair)
            if lower.ndim and lower.shape[0] not in (1, received.shape[0]):  # batches in a row
                received = received.reshape(-1, *lower.shape)
            over = (received < lower) | (received > upper)
            self.outside += received[over].tolist()
        return self.fn(*args)


def smooth(x):
    return torch.cat([x * x, torch.sin(2 * x), torch.exp(0.3 * x).sum(-1, keepdim=True)], -1)


def wants(values, dtype=DOUBLE):
    return torch.as_tensor(values, dtype=dtype).clone().requires_grad_()


def gradient(f, x):
    x = wants(x, x.dtype)
    y = f(x)
    return torch.autograd.grad(y, x, torch.ones_like(y))[0]


# Positions: (x, lower, upper).

ULP = math.ulp(1.0)
POSITIONS = {
    "inside": (0.4, 0.0, 1.0),
    "at the lower bound": (0.0, 0.0, 1.0),
    "at the upper bound": (1.0, 0.0, 1.0),
    "an ulp below the upper bound": (math.nextafter(1.0, 0.0), 0.0, 1.0),
    "1e-9 above the lower bound": (1e-9, 0.0, 1.0),
    "1e-9 below the upper bound": (1 - 1e-9, 0.0, 1.0),
    "1e-5 and 1e-3": (-0.5, -0.5 - 1e-5, -0.5 + 1e-3),
    "between two that are close": (0.7, 0.7 - 1e-7, 0.7 + 2e-7),
    "no upper bound": (2.0, 1.5, INF),
    "at the upper bound, no lower one": (-2.0, -INF, -2.0),
    "no bound": (3.0, -INF, INF),
    "where they meet": (0.3, 0.3, 0.3),
}
X, LOWER, UPPER = (
    torch.tensor(part, dtype=DOUBLE) for part in zip(*POSITIONS.values(), strict=True)
)
MEET = list(POSITIONS).index("where they meet")
NARROW = list(POSITIONS).index("between two that are close")
N = len(POSITIONS)
TANGENT = torch.linspace(-1, 1, N, dtype=DOUBLE)
JACOBIAN = torch.autograd.functional.jacobian(smooth, X)
JACOBIAN[:, MEET] = 0
CURVATURE = torch.autograd.functional.hessian(lambda z: smooth(z).sum(), X)

METHODS = {
    "default": FiniteDifference(),
    "rtol": FiniteDifference(rtol=1e-6),
    "step": FiniteDifference(step=1e-7),
    "FORWARD": FiniteDifference(stencils.FORWARD),
    "BACKWARD": FiniteDifference(stencils.BACKWARD),
    "CENTRAL": FiniteDifference(stencils.CENTRAL),
    "central(4)": FiniteDifference(stencils.central(4)),
    "central(6)": FiniteDifference(stencils.central(6)),
    "richardson(2)": FiniteDifference(stencils.richardson(2)),
    "COMPLEX_STEP": FiniteDifference(stencils.COMPLEX_STEP),
    "CustomVJP": CustomVJP(lambda args, output, cotangent: (NotImplemented,)),
    "adaptive": AdaptiveDifference(1e-6),
}
RANDOM = {
    f"{kind.__name__} {recovery} {name}": FiniteDifference(stencil, kind(3, recovery=recovery))
    for kind in (Gaussian, Rademacher, Orthogonal)
    for recovery in ("mean", "least_squares")
    for name, stencil in (
        ("default", None),
        ("FORWARD", stencils.FORWARD),
        ("CENTRAL", stencils.CENTRAL),
        ("central(4)", stencils.central(4)),
        ("COMPLEX_STEP", stencils.COMPLEX_STEP),
    )
}
# Relative to 10, the size of the slopes. A one-sided difference with 3e-7 of room has noise of
# 1e-15 / 1e-7; the others reach what their order allows.
ACCURACY = {
    "default": 1e-6,
    "rtol": 1e-6,
    "step": 1e-5,
    "FORWARD": 1e-5,
    "BACKWARD": 1e-5,
    "COMPLEX_STEP": 1e-14,
    "central(6)": 1e-6,
}

each_method = pytest.mark.parametrize("name", METHODS)
each_random = pytest.mark.parametrize("name", RANDOM)
each_stack = pytest.mark.parametrize("vectorized", [False, True], ids=["points", "stacked"])


def fenced(method, vectorized=False, noise=None, **options):
    fence = Fence(smooth, (LOWER, UPPER))
    if noise is not None:
        fields = {"stencil": method.stencil, "directions": method.directions}
        method = FiniteDifference(**fields, noise=noise)
    return fence, differentiable(
        fence, method=method, bounds=((LOWER, UPPER),), vectorized=vectorized, **options
    )


def three_times(f):
    """Return the first, the second and the third gradient at the same x."""
    return torch.stack([gradient(f, X) for _ in range(3)])


OPERATIONS = {
    "backward": (three_times, JACOBIAN.sum(0).expand(3, -1)),
    "jacrev": (lambda f: torch.func.jacrev(f)(X), JACOBIAN),
    "jacfwd": (lambda f: torch.func.jacfwd(f)(X), JACOBIAN),
    "jvp": (lambda f: torch.func.jvp(f, (X,), (TANGENT,))[1], JACOBIAN @ TANGENT),
    "vmap": (
        lambda f: torch.func.vmap(torch.func.grad(lambda z: f(z).sum()))(torch.stack([X, X])),
        JACOBIAN.sum(0).expand(2, -1),
    ),
}
each_operation = pytest.mark.parametrize("operation", OPERATIONS)


@each_method
@each_operation
@each_stack
def test_nothing_is_outside_and_the_slope_is_right(name, operation, vectorized):
    if name == "CustomVJP" and operation in ("jvp", "jacfwd"):
        pytest.skip("a vjp has no forward mode")
    fence, f = fenced(METHODS[name], vectorized)
    run, expected = OPERATIONS[operation]
    found = run(f)
    assert fence.outside == []
    error = float((found - expected).abs().max()) / 10
    # A jvp has no calibrated step of its own.
    one_sided = operation in ("jvp", "jacfwd") and name in ("default", "rtol")
    assert error < (1e-5 if one_sided else ACCURACY.get(name, 1e-7))


@each_random
@pytest.mark.parametrize("operation", ["backward", "jacrev", "jvp", "vmap"])
@each_stack
def test_nothing_is_outside_along_random_directions(name, operation, vectorized):
    fence, f = fenced(RANDOM[name], vectorized)
    found = OPERATIONS[operation][0](f)
    assert fence.outside == []
    assert torch.isfinite(found).all()
    assert operation == "jvp" or (found[..., MEET] == 0).all()


@each_random
def test_an_input_fixed_in_one_row_only_has_slope_zero_there(name):
    x = torch.tensor([[0.5, 0.5], [0.5, 0.3]], dtype=DOUBLE)
    lower = torch.tensor([[0.5, 0.0], [0.0, 0.0]], dtype=DOUBLE)
    upper = torch.tensor([[0.5, 1.0], [1.0, 1.0]], dtype=DOUBLE)
    fence = Fence(lambda z: torch.exp(z).sum(1), (lower, upper))
    f = differentiable(fence, method=RANDOM[name], bounds=((lower, upper),), batch_dims=0)
    found = gradient(f, x)
    assert (found == 0).nonzero().tolist() == [[0, 0]]
    assert fence.outside == []


@pytest.mark.parametrize("noise", [1e-6, 1e-3])
@pytest.mark.parametrize(
    "method",
    [METHODS[n] for n in ("default", "FORWARD", "CENTRAL", "central(4)", "richardson(2)")]
    + [RANDOM["Gaussian mean CENTRAL"], RANDOM["Orthogonal least_squares default"]],
    ids=repr,
)
@each_operation
def test_nothing_is_outside_with_the_long_steps_of_a_noisy_function(method, noise, operation):
    fence, f = fenced(method, noise=noise)
    found = OPERATIONS[operation][0](f)
    assert fence.outside == []
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("noise", [1e-6, 1e-3])
def test_noise_that_is_measured_near_bounds(noise):
    """The default method measures along a line, which has to stay inside as well."""

    def noisy(x):
        random = np.random.default_rng(zlib.crc32(x.numpy().tobytes()))
        return smooth(x) * torch.from_numpy(1 + noise * random.standard_normal(2 * N + 1))

    inside = (0.0, 0.4, 1.0, 1e-9, 0.7, 0.5, 2.0, 1.5, -2.0, 3.0, 0.3, 0.3)
    x = torch.tensor(inside, dtype=DOUBLE)
    lower, upper = x - 0.2 * (TANGENT > 0), x + 0.2 * (TANGENT < 0.5)
    fence = Fence(noisy, (lower, upper))
    f = differentiable(fence, bounds=((lower, upper),))
    for _ in range(5):
        found = gradient(f, x)
        assert fence.outside == []
    expected = torch.autograd.functional.jacobian(smooth, x).sum(0)
    (tuning,) = f.calibration.tunings.values()
    assert noise / 10 < tuning.noise < 3 * noise
    # One-sided, error √(noise · ‖f‖ · curvature) for each of 25 outputs: 0.1 and 3 of 6 to 14.
    assert (found - expected).abs().max() < 100 * math.sqrt(noise)


def test_more_inputs_than_are_calibrated():
    n = 1100
    x = torch.linspace(0, 1, n, dtype=DOUBLE)
    fence = Fence(lambda z: (z**2).sum(), (0.0, 1.0))
    f = differentiable(fence, bounds=((0, 1),))
    for _ in range(2):
        torch.testing.assert_close(gradient(f, x), 2 * x, rtol=0, atol=1e-4)
    assert fence.outside == []
    (tuning,) = f.calibration.tunings.values()
    assert tuning.is_lazy


# Second derivatives.


def second_rows(f, rows):
    x = wants(X)
    (first,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    return torch.stack([torch.autograd.grad(first[i], x, retain_graph=True)[0] for i in rows])


WIDE = [i for i in range(N) if i != NARROW]


@each_method
def test_second_derivatives_stay_inside(name):
    fence, f = fenced(METHODS[name])
    found = second_rows(f, WIDE)
    assert fence.outside == []
    expected = CURVATURE.clone()
    expected[MEET] = 0
    expected[:, MEET] = 0
    # One-sided: the step itself, times a third derivative of 8. Fourth and sixth order have
    # shorter arms in the narrow interval, and so more noise.
    error = (found - expected[WIDE]).abs()
    assert error.max() < 2e-2
    diagonal = error[torch.arange(N - 1), WIDE]
    assert diagonal.max() < 1e-2


@pytest.mark.parametrize("name", ["default", "FORWARD", "CENTRAL", "COMPLEX_STEP"])
def test_a_hessian_by_forward_over_reverse_stays_inside(name):
    x = torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE)
    fence = Fence(lambda z: torch.exp(z).prod() + z[0] ** 2, (0.0, 1.0))
    f = differentiable(fence, method=METHODS[name], bounds=((0, 1),))
    expected = torch.autograd.functional.hessian(fence.fn, x)
    for hessian in (
        torch.func.jacfwd(torch.func.grad(f)),
        torch.func.jacrev(torch.func.jacrev(f)),
        lambda z: torch.autograd.functional.hessian(f, z),
    ):
        torch.testing.assert_close(hessian(x), expected, rtol=1e-2, atol=1e-2)
    assert fence.outside == []


@pytest.mark.parametrize("x", [0.0, 0.5, 1.0])
def test_a_third_of_the_room_on_one_side_is_still_central(x):
    """Second derivative of exp on [0, 1]: one-sided at the ends, central between."""
    fence = Fence(torch.exp, (0.0, 1.0))
    f = differentiable(fence, method=METHODS["CENTRAL"], bounds=((0, 1),))
    z = wants([x])
    (first,) = torch.autograd.grad(f(z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    assert float(second) == pytest.approx(math.exp(x), rel=1e-6 if x == 0.5 else 1e-3)
    assert fence.outside == []


def test_no_room_for_a_second_derivative():
    _, f = fenced(METHODS["CENTRAL"])
    with pytest.raises(MethodError, match=r"leave a second derivative 0\.00"):
        second_rows(f, [NARROW])


def test_rows_of_a_batch_have_their_own_room_in_second_derivatives():
    x = torch.tensor([[0.0, 0.5], [1.0, 0.0], [0.5, 1.0]], dtype=DOUBLE)
    w = torch.tensor([1.0, 2.0], dtype=DOUBLE)

    def rows(x, w):
        return torch.exp(x @ w)

    fence = Fence(rows, (0.0, 1.0), (1.0, 2.0))
    f = differentiable(
        fence, method=METHODS["CENTRAL"], batch_dims=(0, None), bounds=((0, 1), (1, 2))
    )
    for argnums in (0, 1):
        found = torch.func.hessian(lambda *args: f(*args).sum(), argnums)(x, w)
        expected = torch.func.hessian(lambda *args: rows(*args).sum(), argnums)(x, w)
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=0.1)
    assert fence.outside == []


# Batches.


def of_rows(x, w):
    return torch.exp(x * w).sum(1) + x[:, 0] ** 2


@pytest.mark.parametrize("name", [n for n in METHODS if n != "CustomVJP"])
@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}, {"vectorized": True}], ids=str)
def test_bounds_of_each_row(name, options):
    """The check of `batch_dims` rides along, and has to stay inside too."""
    x = torch.tensor([[0.0, 0.5], [1.0, 0.2], [0.5, 0.9], [0.3, 0.3]], dtype=DOUBLE)
    lower = torch.tensor([[0.0, 0.4], [0.9, 0.2], [0.5, -9.0], [0.3, 0.3]], dtype=DOUBLE)
    upper = lower + torch.tensor([[1.0, 0.1], [0.1, 1.0], [1e-3, 9.9], [0.0, 0.0]], dtype=DOUBLE)
    w = torch.tensor([1.0, 2.0], dtype=DOUBLE)

    def stacked(x, w):
        return torch.exp(x * w[:, None]).sum(2) + x[:, :, 0] ** 2

    fence = Fence(stacked if "vectorized" in options else of_rows, (lower, upper), (1.0, 2.0))
    f = differentiable(
        fence,
        method=METHODS[name],
        batch_dims=(0, None),
        bounds=((lower, upper), (1, 2)),
        **options,
    )
    expected = torch.func.grad(lambda *args: of_rows(*args).sum(), (0, 1))(x, w)
    expected[0][3] = 0
    for _ in range(2):
        found = torch.func.grad(lambda *args: f(*args).sum(), (0, 1))(x, w)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert fence.outside == []


@pytest.mark.parametrize(
    "x", [[[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]], [[0.0], [0.0]], [[1.0], [1.0]]]
)
def test_the_claim_is_checked_at_a_bound(x):
    """All rows are at bounds: the displaced rows of the check go inward, and still show."""
    x = wants(x)
    # Stacked, so that no other batch stands beside, whose displaced rows would show as well.
    fence = Fence(lambda z: z.sum(-1) + z.mean((-2, -1))[..., None], (0.0, 1.0))
    f = differentiable(fence, batch_dims=0, vectorized=True, bounds=((0, 1),))
    with pytest.raises(BadResult, match="although only other rows were displaced"):
        f(x).sum().backward()
    assert fence.outside == []


# Precisions: bounds that the received precision does not have.


@pytest.mark.parametrize("received", [DOUBLE, torch.float32, None], ids=str)
@pytest.mark.parametrize("given", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_what_clamp_leaves_is_inside_in_any_precision(given, received):
    """`torch.clamp` is what the message says: its result is within a unit of the bounds."""
    fence = Fence(lambda z: z * 2, (0.1, 0.7000001))
    f = differentiable(fence, bounds=((0.1, 0.7000001),), dtype=received)
    x = wants(torch.tensor([0.0, 0.3, 5.0], dtype=given).clamp(0.1, 0.7000001), given)
    f(x).sum().backward()
    torch.testing.assert_close(
        x.grad.double(), torch.full((3,), 2.0, dtype=DOUBLE), rtol=0.05, atol=0
    )
    assert fence.outside == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "method",
    [
        FiniteDifference(),
        FiniteDifference(stencils.FORWARD),
        FiniteDifference(stencils.CENTRAL),
        FiniteDifference(stencils.central(4)),
        FiniteDifference(stencils.FORWARD, Gaussian(4)),
        FiniteDifference(stencils.CENTRAL, Rademacher(4, recovery="least_squares")),
        AdaptiveDifference(1e-2),
    ],
    ids=repr,
)
def test_bounds_between_two_numbers_of_the_received_precision(dtype, method):
    lower, upper = 0.1, 0.7000001
    x = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.7], dtype=dtype)
    fence = Fence(lambda z: torch.exp(z), (lower, upper))  # compared as float64
    f = differentiable(fence, method=method, bounds=((lower, upper),), dtype=None)
    for _ in range(2):
        found = gradient(f, x)
    torch.func.jvp(f, (x,), (torch.ones_like(x),))
    assert fence.outside == []
    assert fence.points[0][0].dtype == dtype
    if not isinstance(method, FiniteDifference) or method.transposes_by_difference():
        accuracy = 20 * torch.finfo(dtype).eps ** 0.5
        torch.testing.assert_close(found, torch.exp(x), rtol=accuracy, atol=0)


@pytest.mark.parametrize("x", [65504.0, -65504.0])
def test_the_end_of_the_range_of_a_precision_is_a_bound(x):
    """A displacement to infinity is none: a quotient by it would be a slope of zero."""
    linear = differentiable(lambda z: 0.01 * z, dtype=None)
    # This one is finite at infinity.
    decay = differentiable(lambda z: 1000 * torch.exp(-z.abs() / 1e5), dtype=None)
    slope = -math.copysign(0.01 * math.exp(-0.65504), x)
    for _ in range(3):
        at = torch.tensor([x], dtype=torch.float16)
        assert float(gradient(linear, at)) == pytest.approx(0.01, rel=0.02)
        assert float(gradient(decay, at)) == pytest.approx(slope, rel=0.2)


@pytest.mark.parametrize("units", [1, 2, 3])
@pytest.mark.parametrize("name", ["default", "CENTRAL", "central(4)", "richardson(2)", "adaptive"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_room_for_a_few_units_in_the_last_place(units, name, dtype):
    """Nodes that rounding brings together are one node."""
    x = torch.tensor([64.6875], dtype=dtype)
    room = units * 64 * torch.finfo(dtype).eps
    lower, upper = x.double(), x.double() + room
    fence = Fence(lambda z: z.double() ** 2, (lower, upper))
    f = differentiable(fence, method=METHODS[name], bounds=((lower, upper),), dtype=None)
    for _ in range(2):
        assert float(gradient(f, x)) == pytest.approx(2 * 64.6875, rel=0.01)
    torch.func.jacfwd(f)(x)
    assert fence.outside == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    data=st.data(),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16]),
    method=st.sampled_from(
        [
            FiniteDifference(),
            FiniteDifference(noise=1e-3),
            FiniteDifference(stencils.CENTRAL),
            FiniteDifference(stencils.central(4), noise=1e-4),
            FiniteDifference(stencils.CENTRAL, Gaussian(2)),
            FiniteDifference(stencils.FORWARD, Orthogonal(2), noise=1e-2),
        ]
    ),
)
# Between bounds that are very near, f really is constant.
@pytest.mark.filterwarnings("ignore:.* is constant around x")
def test_any_bounds_around_any_x(data, dtype, method):
    width = 16 if dtype == torch.float16 else 32 if dtype == torch.float32 else 64
    # Not subnormal, where torch and NumPy may flush to zero; squares stay finite.
    numbers = st.floats(-100, 100, width=width, allow_subnormal=False)
    x = data.draw(st.lists(numbers, min_size=1, max_size=4))
    gap = st.one_of(st.just(0.0), st.just(INF), st.floats(1e-20, 1e-12), st.floats(1e-6, 1))
    gaps = st.lists(gap, min_size=len(x), max_size=len(x))
    here = torch.tensor(x, dtype=dtype).double()
    lower = here - torch.tensor(data.draw(gaps), dtype=DOUBLE)
    upper = here + torch.tensor(data.draw(gaps), dtype=DOUBLE)
    fence = Fence(lambda z: (z.double() ** 2 + z.double()).sum(), (lower, upper))
    f = differentiable(fence, method=method, bounds=((lower, upper),), dtype=None)
    for _ in range(2):
        assert torch.isfinite(gradient(f, torch.tensor(x, dtype=dtype))).all()
    assert fence.outside == []


# What it costs.


@pytest.mark.parametrize(
    ("method", "each"),
    [
        (FiniteDifference(stencils.FORWARD), 1),
        (FiniteDifference(stencils.CENTRAL), 2),
        (FiniteDifference(stencils.central(4)), 4),
    ],
)
def test_inputs_whose_bounds_meet_cost_nothing(method, each):
    x = torch.tensor([0.2, 0.3, 0.4], dtype=DOUBLE)
    upper = torch.tensor([1.0, 0.3, 0.4], dtype=DOUBLE)
    lower = torch.tensor([0.0, 0.3, 0.4], dtype=DOUBLE)
    f = differentiable(lambda z: (z**2).sum(), method=method, bounds=((lower, upper),))
    found = gradient(f, x)
    assert found[1:].tolist() == [0, 0]
    assert float(found[0]) == pytest.approx(0.4, rel=1e-6)
    assert f.evaluations == 1 + each


def test_inputs_whose_bounds_meet_cost_the_default_nothing():
    x = torch.tensor([0.2, 0.3, 0.4], dtype=DOUBLE)
    upper = torch.tensor([1.0, 0.3, 0.4], dtype=DOUBLE)
    lower = torch.tensor([0.0, 0.3, 0.4], dtype=DOUBLE)
    f = differentiable(lambda z: (z**2).sum(), bounds=((lower, upper),))
    gradient(f, x)
    assert f.evaluations <= 1 + 2 + 12
    before = f.evaluations
    gradient(f, x)
    assert f.evaluations == before + 1 + 1  # forward and one input


def test_nothing_can_move():
    f = differentiable(lambda z: (z**2).sum(), bounds=((0.5, 0.5),))
    assert gradient(f, torch.tensor([0.5, 0.5], dtype=DOUBLE)).tolist() == [0, 0]
    assert f.evaluations == 1 + f.last.evaluations
    named = differentiable(lambda z: (z**2).sum(), method=METHODS["CENTRAL"], bounds=((0.5, 0.5),))
    assert gradient(named, torch.tensor([0.5], dtype=DOUBLE)).tolist() == [0]
    assert named.evaluations == 1


@pytest.mark.parametrize(
    ("x", "cost"),
    [((0.5, 0.5), 3), ((0.0, 1.0), 3), ((0.5, 0.0), 3)],
)
def test_bounds_cost_forward_differences_nothing(x, cost):
    f = differentiable(smooth, method=METHODS["FORWARD"], bounds=((0, 1),))
    gradient(f, torch.tensor(x, dtype=DOUBLE))
    assert f.evaluations == cost


def test_what_bounds_did_is_counted():
    f = differentiable(smooth, method=METHODS["CENTRAL"], bounds=((0, 1),))
    gradient(f, torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE))
    assert (f.last.bounded, f.last.projected) == (2, 0)


# Which points: the other side, unequal arms, a smaller step.


def nodes_of(x, bounds, method, scale=1.0):
    fence = Fence(lambda z: torch.exp(z), bounds)
    f = differentiable(fence, method=method, bounds=(bounds,), scale=(scale,))
    slope = float(gradient(f, torch.tensor([x], dtype=DOUBLE)))
    return [float(point[0]) - x for point in fence.points[1:]], slope


@pytest.mark.parametrize(
    ("x", "bounds", "expected"),
    [
        (0.0, (-1, 1), [0.1]),
        (0.0, (-1, 0.05), [-0.1]),  # the other side
        (0.0, (-0.04, 0.06), [0.06]),  # a smaller step
        (0.0, (-0.07, 0.06), [-0.07]),
    ],
)
def test_where_a_forward_difference_goes(x, bounds, expected):
    nodes, slope = nodes_of(x, bounds, FiniteDifference(stencils.FORWARD, step=0.1))
    assert nodes == pytest.approx(expected, rel=1e-12)
    assert slope == pytest.approx((math.exp(expected[0]) - 1) / expected[0], rel=1e-12)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ((-1, 1), [-0.1, 0.1]),
        ((-1, 0), [-0.1, -0.2]),  # the other side
        ((0, 1), [0.1, 0.2]),
        ((-0.1, 0.05), [-0.1, 0.05]),  # unequal arms
        ((-0.15, 0.05), [-0.1, 0.05]),
        ((-0.15, 0.005), [-0.075, -0.15]),  # an arm of 1/20 is not worth its noise
        ((0, 0.05), [0.025, 0.05]),  # a smaller step
    ],
)
def test_where_a_central_difference_goes(bounds, expected):
    nodes, slope = nodes_of(0.0, bounds, FiniteDifference(stencils.CENTRAL, step=0.1))
    assert sorted(nodes) == pytest.approx(sorted(expected), rel=1e-12)
    a, b = expected
    # The parabola through three points.
    parabola = (math.expm1(a) * b / a - math.expm1(b) * a / b) / (b - a)
    assert slope == pytest.approx(parabola, rel=1e-12)
    assert abs(slope - 1) < 0.02


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    unit=st.floats(-2, 2).filter(lambda u: abs(u) > 1e-3),
    down=st.one_of(st.just(0.0), st.floats(1e-12, 10), st.just(INF)),
    up=st.one_of(st.just(0.0), st.floats(1e-12, 10), st.just(INF)),
    nodes=st.sampled_from([(1.0,), (-1.0,), (-1.0, 1.0), (-2.0, -1.0, 1.0, 2.0), (1.0, 2.0)]),
)
def test_fitted_arms_stay_inside_and_apart(unit, down, up, nodes):
    room = np.full((1, 1), down), np.full((1, 1), up)
    moves, odd = fitted(np.array(nodes), np.full((1, 1), unit), room)
    assert moves.shape == (1, len(nodes), 1)
    assert (moves >= -down * (1 + 1e-15)).all()
    assert (moves <= up * (1 + 1e-15)).all()
    wanted = np.array(nodes) * unit
    fits = wanted.min() >= -down and wanted.max() <= up
    assert bool(odd) != fits
    if fits:
        np.testing.assert_array_equal(moves[0, :, 0], wanted)
    if down + up > 0:
        assert (moves != 0).all()
        assert len(set(moves[0, :, 0])) == len(nodes)
    assert np.abs(moves).max() <= 2 * np.abs(wanted).max() * (1 + 1e-12)


# Outside.


def test_what_is_outside_by_rounding_is_projected():
    fence = Fence(lambda z: torch.exp(z).sum(), (0.0, 1.0))
    f = differentiable(fence, method=METHODS["CENTRAL"], bounds=((0, 1),))
    x = wants([1 + 9e-7, -5e-7, 0.5, 1.0])
    y = f(x)
    assert fence.points[0][0].tolist() == [1.0, 0.0, 0.5, 1.0]  # the bounds, exactly
    assert y.item() == float(torch.exp(fence.points[0][0]).sum())
    y.backward()
    torch.testing.assert_close(x.grad, torch.exp(fence.points[0][0]), rtol=1e-8, atol=0)
    assert fence.outside == []
    assert f.evaluations == 1 + 8  # node 0 is valid
    assert f.last.projected == 2
    assert float(x.detach()[0]) == 1 + 9e-7  # the caller's own tensor is not touched


@pytest.mark.parametrize("interface", ["torch", "numpy"])
@pytest.mark.parametrize("vectorized", [False, True])
def test_projection_reaches_what_is_not_differentiated(interface, vectorized):
    seen = []

    def black(x, w):
        seen.append(w.tolist())
        return x * w

    f = differentiable(black, interface=interface, vectorized=vectorized, bounds=(None, (0, 1)))
    w = torch.tensor([1 + 1e-7], dtype=torch.float64)
    f(wants([2.0]), w).sum().backward()
    with torch.no_grad():
        f(torch.ones(1), w)
    assert all(np.all(np.array(w) == 1) for w in seen)


def test_float32_inputs_that_end_on_a_bound():
    """0.1 in float32 is above 0.1 in float64."""
    fence = Fence(lambda z: z**2, (0.0, 0.1))
    f = differentiable(fence, bounds=((0, 0.1),))
    x = wants([0.1, 0.1], torch.float32)
    f(x).sum().backward()
    assert fence.outside == []
    assert f.last.projected == 2
    torch.testing.assert_close(x.grad, torch.full((2,), 0.2), rtol=1e-5, atol=0)


@pytest.mark.parametrize("lead", ["no_grad", "grad", "vmap"])
def test_what_is_farther_outside_is_an_error(lead):
    calls = []
    f = differentiable(lambda z: calls.append(z) or z, bounds=((0, 1),))
    x = torch.tensor([[0.5, 1.00001]], dtype=DOUBLE)
    ask = {
        "no_grad": lambda: f(x[0]),
        "grad": lambda: f(wants(x[0])),
        "vmap": lambda: torch.func.vmap(f)(x),
    }
    with pytest.raises(MethodError) as caught:
        ask[lead]()
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "[1] = 1.00001, outside of its bounds [0, 1]" in lines[0]
    assert "torch.clamp(x, 0, 1)" in lines[2] or "torch.clamp(z, 0, 1)" in lines[2]
    assert calls == []


@pytest.mark.parametrize("bad", [INF, -INF])
def test_infinity_is_outside(bad):
    f = differentiable(lambda z: z, bounds=((-1, 1),))
    with pytest.raises(MethodError, match="outside of its bounds"):
        f(torch.tensor([bad], dtype=DOUBLE))


def test_the_scale_decides_what_is_rounding():
    x = torch.tensor([1e-3 + 1e-12], dtype=DOUBLE)
    differentiable(lambda z: z, bounds=((0, 1e-3),))(x)
    with pytest.raises(MethodError, match="outside of its bounds"):
        differentiable(lambda z: z, bounds=((0, 1e-3),), scale=(1e-9,))(x)


# Random directions at a bound.


@pytest.mark.parametrize("kind", [Gaussian, Rademacher, Orthogonal])
@pytest.mark.parametrize("stencil", [stencils.FORWARD, stencils.CENTRAL], ids=["F", "C"])
def test_the_mean_over_directions_is_unbiased_in_a_corner(kind, stencil):
    x = torch.tensor([0.0, 1.0, 0.5, 0.0], dtype=DOUBLE)
    linear = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=DOUBLE)
    truth = 2 * x + linear
    # The draw depends on the content of all arguments, and so on the number of the draw.
    fence = Fence(lambda z, number: (z * z + z * linear).sum(-1), (0.0, 1.0))
    f = differentiable(
        fence,
        method=FiniteDifference(stencil, kind(2)),
        bounds=((0, 1), None),
        vectorized=True,
    )
    draws = torch.func.vmap(torch.func.grad(f))(x.expand(400, 4), torch.arange(400.0))
    assert fence.outside == []
    standard_error = draws.std(0) / math.sqrt(len(draws))
    # 4.5 standard errors are exceeded by chance once in 150 000 comparisons.
    assert ((draws.mean(0) - truth).abs() < 4.5 * standard_error + 1e-6).all()
    assert (standard_error > 0).all()


@pytest.mark.parametrize("kind", [Gaussian, Rademacher, Orthogonal])
def test_least_squares_is_exact_in_a_corner(kind):
    x = torch.tensor([0.0, 1.0, 0.5], dtype=DOUBLE)
    fence = Fence(lambda z: torch.exp(z).sum(), (0.0, 1.0))
    directions = kind(12, recovery="least_squares")
    method = FiniteDifference(stencils.CENTRAL, directions)
    f = differentiable(fence, method=method, bounds=((0, 1),), seed=1)
    torch.testing.assert_close(gradient(f, x), torch.exp(x), rtol=1e-6, atol=0)
    assert fence.outside == []


ONE_POINT = FiniteDifference(stencils.ONE_POINT, Gaussian(4), step=0.01)


@pytest.mark.parametrize("x", [[0.0, 0.5], [0.5, 1.0], [1e-9, 0.5]])
def test_a_score_estimate_is_refused_at_a_bound(x):
    fence = Fence(lambda z: z.sum(), (0.0, 1.0))
    f = differentiable(fence, method=ONE_POINT, bounds=((0, 1),))
    with pytest.raises(MethodError, match="needs room on both sides of every input"):
        gradient(f, torch.tensor(x, dtype=DOUBLE))
    assert fence.outside == []


def test_a_score_estimate_with_room():
    fence = Fence(lambda z, number: z.sum(-1), (0.0, 1.0))
    f = differentiable(fence, method=ONE_POINT, bounds=((0, 1), None), vectorized=True)
    x = torch.tensor([0.98, 0.5], dtype=DOUBLE).expand(300, 2)
    draws = torch.func.vmap(torch.func.grad(f))(x, torch.arange(300.0))
    assert fence.outside == []
    assert ((draws.mean(0) - 1).abs() < 4.5 * draws.std(0) / math.sqrt(300)).all()


# A tangent that leads out both ways is taken in parts.


@pytest.mark.parametrize("name", ["FORWARD", "CENTRAL", "central(4)", "default"])
@pytest.mark.parametrize("narrow", [1.0, 1e-3, 1e-6])
def test_a_tangent_in_parts(name, narrow):
    """x₀ can only grow, x₁ only shrink, x₂ has little room; the tangent grows all of them."""
    x = torch.tensor([0.0, 1.0, 0.5], dtype=DOUBLE)
    lower = torch.tensor([0.0, 0.0, 0.5 - narrow], dtype=DOUBLE)
    upper = torch.tensor([1.0, 1.0, 0.5 + narrow], dtype=DOUBLE)
    fence = Fence(lambda z: torch.exp(z), (lower, upper))
    f = differentiable(fence, method=METHODS[name], bounds=((lower, upper),))
    tangent = torch.tensor([1.0, 1.0, 1.0], dtype=DOUBLE)
    _, found = torch.func.jvp(f, (x,), (tangent,))
    torch.testing.assert_close(found, torch.exp(x), rtol=1e-6, atol=0)
    assert fence.outside == []


@pytest.mark.parametrize("room", [1e-10, 1e-12])
def test_one_input_with_little_room_does_not_spoil_a_tangent(room):
    """All inputs in one move would be shortened to what fits, and drown in rounding."""
    x = torch.tensor([3.0, 1.0], dtype=DOUBLE)
    upper = torch.tensor([INF, 1.0 + room], dtype=DOUBLE)
    lower = torch.tensor([-INF, 1.0 - room], dtype=DOUBLE)
    fence = Fence(lambda z: z**2, (lower, upper))
    f = differentiable(fence, method=METHODS["FORWARD"], bounds=((lower, upper),))
    _, found = torch.func.jvp(f, (x,), (torch.ones(2, dtype=DOUBLE),))
    assert float(found[0]) == pytest.approx(6.0, rel=1e-6)
    assert float(found[1]) == pytest.approx(2.0, rel=10 * 2.2e-16 / room)
    assert f.evaluations == 3
    assert fence.outside == []


# Failures at a bound.


@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_a_side_that_fails_inside_of_the_bounds(x):
    """Defined up to 0.3 only, or from there on."""

    def halves(z):
        if x == 0.3 and (z > 0.3).any():
            raise PointFailed("too warm")
        return torch.exp(z)

    fence = Fence(halves, (0.0, 1.0))
    f = differentiable(fence, bounds=((0, 1),))
    for _ in range(3):
        found = gradient(f, torch.tensor([x], dtype=DOUBLE))
        assert float(found) == pytest.approx(math.exp(x), rel=1e-6)
    assert fence.outside == []


@pytest.mark.parametrize("kind", [Gaussian, Rademacher, Orthogonal])
def test_a_random_direction_that_fails_is_mirrored(kind):
    """No bounds here: the domain ends at x. Its gradient was NaN once, without a word."""
    domain = lambda z: torch.where(z[0] > 1, math.nan, (z**2).sum())  # noqa: E731 - one line
    method = FiniteDifference(directions=kind(8, recovery="least_squares"))
    f = differentiable(domain, method=method, seed=3)
    x = torch.tensor([1.0, 1.0], dtype=DOUBLE)
    for _ in range(2):
        torch.testing.assert_close(gradient(f, x), 2 * x, rtol=1e-6, atol=0)


def test_random_directions_with_no_good_side():
    f = differentiable(
        lambda z: torch.where(z == 1, z, math.nan), method=FiniteDifference(directions=Gaussian(2))
    )
    with pytest.raises(BadResult, match="on both sides of x"):
        gradient(f, torch.tensor([1.0, 1.0], dtype=DOUBLE))


# Forms of bounds.


@pytest.mark.parametrize(
    "bounds",
    [
        ((0, 1),),
        [(0, 1)],
        ([0, 1],),
        ((np.float32(0), torch.tensor(1.0)),),
        ((None, 1),),
        ((0, None),),
        ((torch.zeros(2), 1.0),),
        ((0, np.ones(2)),),
        ((torch.zeros(2), torch.ones(2)),),
        ((torch.zeros(1, 2), torch.ones(3, 1)),),
        ((-INF, 1.0),),
    ],
    ids=repr,
)
def test_forms_of_bounds(bounds):
    fence = Fence(torch.exp, (-INF, INF))
    f = differentiable(fence, method=METHODS["CENTRAL"], bounds=bounds)
    x = torch.tensor([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]], dtype=DOUBLE)
    torch.testing.assert_close(gradient(f, x), torch.exp(x), rtol=1e-8, atol=0)
    below, above = (
        limit is not None and torch.as_tensor(limit).isfinite().all() for limit in bounds[0]
    )
    assert (min(float(point[0].min()) for point in fence.points) == 0.0) == below
    assert (max(float(point[0].max()) for point in fence.points) == 1.0) == above


def test_bounds_follow_nested_arguments():
    def black(p, q, options):
        assert 0 <= p["a"] <= 1
        assert (p["b"][0] >= 2).all()
        assert q <= 3
        return p["a"] * p["b"][0].sum() * q + p["b"][1]

    a, b, c, q = (wants(v) for v in (1.0, [2.0, 5.0], 7.0, 3.0))
    bounds = ({"a": (0, 1), "b": [(2, None), None]}, (None, 3), None)
    f = differentiable(black, bounds=bounds)
    f({"a": a, "b": [b, c]}, q, {"any": "thing"}).backward()
    found = [float(leaf.grad.sum()) for leaf in (a, b, c, q)]
    assert found == pytest.approx([21, 6, 1, 7], rel=1e-6)


def test_a_pair_for_a_whole_argument():
    f = differentiable(lambda p: p["a"] + p["b"], bounds=((0, 1),))
    a, b = wants([1.0]), wants([0.0])
    f({"a": a, "b": b}).sum().backward()
    with pytest.raises(MethodError, match="outside of its bounds"):
        f({"a": a, "b": wants([2.0])})


def test_keyword_arguments_have_the_bounds_of_their_position():
    seen = []

    def black(x, w):
        seen.append(float(w))
        return x * w

    f = differentiable(black, bounds=(None, (0, 1)), method=METHODS["CENTRAL"])
    f(w=wants(1.0), x=wants(2.0)).backward()
    assert max(seen) <= 1


def test_integers_have_bounds_too():
    f = differentiable(lambda x, k: x * k, bounds=(None, (0, 3)))
    f(wants([2.0]), torch.tensor([3])).sum().backward()
    with pytest.raises(MethodError, match="outside of its bounds"):
        f(wants([2.0]), torch.tensor([4]))


@pytest.mark.parametrize(
    ("bounds", "why"),
    [
        (3, "a tuple with one entry for each positional argument"),
        ({"x": (0, 1)}, "a tuple with one entry for each positional argument"),
        ((3,), "3 is not a pair"),
        (("ab",), "is not a pair"),
        (((0, 1, 2),), "is not a pair"),
        (((0, True),), "is not a pair"),
        (((1, 0),), "A lower bound is above the upper one"),
        (((0, math.nan),), "not NaN"),
        (((0, 1j),), "is not a pair"),
        (((np.zeros(2), np.ones(3)),), "shapes of the lower and the upper bound differ"),
        (((torch.tensor([0.0, 2.0]), 1),), "A lower bound is above the upper one"),
        (((torch.tensor(1j), 1),), "A bound is a real number"),
        (((torch.tensor([True]), 1),), "A bound is a real number"),
    ],
    ids=repr,
)
def test_bounds_that_are_none(bounds, why):
    with pytest.raises(MethodError, match=why) as caught:
        differentiable(lambda x: x, bounds=bounds)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("bounds", "arguments", "why"),
    [
        (((torch.zeros(3), 1),), (torch.zeros(2),), "does not fit an argument of"),
        (((0, 1), (0, 1)), (torch.zeros(2),), "bounds"),
        (((0, 1),), (torch.zeros(2, dtype=torch.complex128),), "no order"),
        (((None, {"a": (0, 1)}),), (torch.zeros(2),), "bounds"),
        (({"b": (0, 1)},), ({"a": torch.zeros(2)},), "bounds"),
    ],
    ids=repr,
)
def test_bounds_that_do_not_fit_the_arguments(bounds, arguments, why):
    with pytest.raises(MethodError, match=why) as caught:
        differentiable(lambda x: x, bounds=bounds)(*arguments)
    assert len(str(caught.value).splitlines()) == 3


def test_what_is_passed_is_read_once():
    lower = torch.zeros(1, dtype=DOUBLE)
    parsed = parse(((lower, 1),))
    lower += 5
    assert parsed[0].lower.tolist() == [0.0]


def test_no_bounds_are_none():
    assert parse(None) is None
    assert parse((None, None)) == (None, None)
