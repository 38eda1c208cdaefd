"""AdaptiveDifference: what it asks for, when it stops, and how right it is.

The tables of functions are those of other libraries' tests, with their tolerances.
"""

import math

import numpy as np
import pytest
import torch

from suture import AdaptiveDifference, differentiable, directions
from suture._methods import NoFiniteValue, Primal, Room
from suture.errors import MethodError

DOUBLE = 2.0**-52
NAN = math.nan
DEFAULT = AdaptiveDifference()


def draw():
    return np.random.default_rng(7)


def everything(slopes):
    return slopes


def primal(f, rows, shared=(), *, scale=1.0, scale_shared=1.0, **changes):
    rows, shared = np.array(rows, dtype=float), np.array(shared, dtype=float)
    value = f(rows, shared)
    settings = {"noise": DOUBLE, "derivative": 1, "round": None, "capacity": 10**6, **changes}
    return Primal(
        rows=rows,
        shared=shared,
        value=value,
        outputs=value.shape[-1],
        scale_rows=np.full(rows.shape, scale, dtype=float),
        scale_shared=np.full(shared.shape, scale_shared, dtype=float),
        **settings,
    )


def feed(generator, here, f):
    """Send a generator the values of f(rows (R, d), shared (p,)), failed rows as NaN.

    Returns what it returns, and its rounds, each a list of (rows, shared).
    """
    reply, rounds = None, []
    try:
        while True:
            points = generator.send(reply)
            rows, shared = points.rows, points.shared
            asked = [
                (
                    here.rows if rows is None else rows[i],
                    here.shared if shared is None else shared[i],
                )
                for i in range(len(points))
            ]
            rounds.append(asked)
            values = np.array([f(*place) for place in asked], dtype=float)
            values[~np.isfinite(values).all(axis=-1)] = NAN
            reply = values
    except StopIteration as stop:
        return stop.value, rounds


def by_rows(f):
    """Let a function of one row's inputs stand for a black box without shared inputs."""
    return lambda rows, shared: np.array([np.atleast_1d(f(row)) for row in rows], dtype=float)


def slope(f, x, *, method=DEFAULT, scale=None, **changes):
    """Return slope, estimated error and evaluations of a scalar function."""
    box = by_rows(lambda row: f(row[0]))
    here = primal(box, [[x]], scale=scale or abs(x) or 1.0, **changes)
    found, rounds = feed(method.linearize(here, everything, draw), here, box)
    return found.kept.item(), found.error.item(), sum(len(each) for each in rounds)


def jacobian(f, x, *, method=DEFAULT, scale=None, **changes):
    """Return the Jacobian (O, n) of a function of a vector, and the linearization."""
    box = by_rows(f)
    size = np.maximum(np.abs(x), np.sqrt(np.mean(np.square(x)))) if scale is None else scale
    here = primal(box, [x], **changes)
    here.scale_rows[:] = size
    found, rounds = feed(method.linearize(here, everything, draw), here, box)
    return found.kept[:, 0].T, found, rounds


# What it asks for, and when it stops


def test_a_round_holds_both_ends_of_one_arm_of_every_input():
    _, _, rounds = jacobian(lambda x: x * x, np.array([1.0, 4.0]), scale=np.array([1.0, 4.0]))
    first, second = (np.array([rows[0] for rows, _ in each]) for each in rounds)
    arm = 12**-0.5
    expected = [[1 - arm, 4], [1 + arm, 4], [1, 4 - 4 * arm], [1, 4 + 4 * arm]]
    np.testing.assert_allclose(first, expected, rtol=1e-15)
    shorter = arm * ((math.sqrt(5) - 1) / 2) ** 1.5
    np.testing.assert_allclose(second[:, 0], [1 - shorter, 1 + shorter, 1, 1], rtol=1e-15)


def test_each_input_stops_by_itself():
    """A line is known after two arms; a wave of six lengths in its scale takes more."""
    found, _, rounds = jacobian(lambda x: [x[0] + np.sin(6 * x[1])], np.array([0.3, 0.3]), scale=1)
    assert [len(each) for each in rounds] == [4, 4, 2, 2, 2]
    moved = [[rows[0, 0] != 0.3 for rows, _ in each] for each in rounds]
    assert [sum(each) for each in moved] == [2, 2, 0, 0, 0]
    np.testing.assert_allclose(found, [[1, 6 * np.cos(1.8)]], rtol=1e-11)


@pytest.mark.parametrize(
    ("f", "evaluations"),
    [
        (lambda x: 5.0, 4),
        (lambda x: 3 * x + 1, 4),
        (lambda x: x * x, 4),
        (lambda x: x**3, 6),
        (np.sin, 8),
        (np.exp, 8),
        (np.tan, 10),
    ],
)
def test_evaluations(f, evaluations):
    assert slope(f, 0.7)[2] == evaluations


def test_a_coarse_tolerance_stops_earlier():
    fine, coarse = (slope(np.exp, 1.0, method=AdaptiveDifference(rtol)) for rtol in (1e-12, 1e-2))
    assert coarse[2] < slope(np.exp, 1.0)[2] < fine[2]
    assert abs(coarse[0] / math.e - 1) < 1e-2
    assert abs(fine[0] / math.e - 1) < 1e-13


def test_outputs_of_any_size_are_all_resolved():
    """A large output that is simple does not stop the search for a small one that is not."""
    found, _, _ = jacobian(lambda x: [1e6 * x[0], 1e-3 * np.sin(8 * x[0])], np.array([0.3]))
    assert found[0, 0] == pytest.approx(1e6, rel=1e-12)
    assert found[1, 0] == pytest.approx(8e-3 * np.cos(2.4), rel=1e-6)


def test_rows_and_shared_inputs_have_their_own_arms():
    def box(rows, shared):
        return np.sin(rows[:, :1] * shared[0]) + rows[:, 1:] * shared[1]

    x = np.array([[0.3, 2.0], [1.1, -1.0], [0.0, 0.0]])
    here = primal(box, x, [1.5, 0.5])
    found, rounds = feed(AdaptiveDifference().linearize(here, everything, draw), here, box)
    rows, shared = found.contracted(np.ones((1, 3, 1))).gradients(2)
    wave = np.cos(1.5 * x[:, 0])
    np.testing.assert_allclose(rows[0], np.stack([1.5 * wave, np.full(3, 0.5)], 1), rtol=1e-10)
    np.testing.assert_allclose(shared[0], [np.sum(x[:, 0] * wave), x[:, 1].sum()], rtol=1e-10)
    for here_rows, here_shared in (place for each in rounds for place in each):
        assert np.array_equal(here_rows, x) or np.array_equal(here_shared, [1.5, 0.5])


@pytest.mark.parametrize("capacity", [1, 500, 10**6])
def test_blocks_give_the_same_numbers(capacity):
    x = np.array([0.3, 0.7, 1.9])
    found, linearization, rounds = jacobian(
        lambda x: [np.sin(x).sum(), np.exp(x[0] * x[1])], x, capacity=capacity
    )
    whole, same, _ = jacobian(lambda x: [np.sin(x).sum(), np.exp(x[0] * x[1])], x)
    np.testing.assert_array_equal(found, whole)
    np.testing.assert_array_equal(linearization.error, same.error)
    assert len(rounds[0]) == (2 if capacity == 1 else 6)


def test_what_is_kept_is_what_keep_returns():
    box = by_rows(lambda row: [row[0] * 2, row[0] * 3])
    here = primal(box, [[1.0]])
    found, _ = feed(AdaptiveDifference().linearize(here, lambda s: s.sum(axis=-1), draw), here, box)
    assert found.kept.ravel().tolist() == pytest.approx([5], rel=1e-14)


# How right it is


def sinc(x):
    return np.sinc(x)


def cosc(x):
    """The derivative of sinc."""
    if abs(x) < 0.05:
        terms = [
            (-1) ** k * (math.pi * x) ** (2 * k - 1) * 2 * k / math.factorial(2 * k + 1)
            for k in range(1, 8)
        ]
        return math.pi * sum(terms)
    return math.cos(math.pi * x) / x - math.sin(math.pi * x) / (math.pi * x * x)


@pytest.mark.parametrize(
    ("f", "x", "expected", "atol"),
    [
        (lambda x: 0 * x, 0.0, 0, 0),
        (lambda x: x, 0.0, 1, 5e-16),
        (np.exp, 0.0, 1, 5e-14),
        (np.sin, 0.0, 1, 5e-16),
        (np.cos, 0.0, 0, 5e-14),
        (np.exp, 1.0, math.e, 5e-13),
        (np.sin, 1.0, math.cos(1), 5e-14),
        (np.cos, 1.0, -math.sin(1), 5e-14),
        (sinc, 0.0, 0, 5e-14),
        (cosc, 0.0, -(math.pi**2) / 3, 5e-10),
    ],
)
def test_finite_differences_jl(f, x, expected, atol):
    """The column of central differences of FiniteDifferences.jl, test/methods.jl."""
    assert abs(slope(f, x, method=AdaptiveDifference(1e-13))[0] - expected) <= atol


def test_finite_differences_jl_small_inputs():
    assert slope(np.log, 1e-3)[0] == pytest.approx(1000, rel=1e-10)
    assert slope(abs, 1e-3)[0] == pytest.approx(1, rel=1e-12)
    # Told that 1 is a typical input, it has to find out by itself that 1e-3 is not.
    with np.errstate(invalid="ignore", divide="ignore"):
        assert slope(np.log, 1e-3, scale=1.0)[0] == pytest.approx(1000, rel=1e-9)
    assert slope(abs, 1e-3, scale=1.0)[0] == pytest.approx(1, rel=1e-12)


def polar(x):
    return [x[0] * np.cos(x[1]), x[0] * np.sin(x[1])]


def spherical(x):
    r, phi, theta = x
    return [
        r * np.sin(phi) * np.cos(theta),
        r * np.sin(phi) * np.sin(theta),
        r * np.cos(phi),
    ]


def rosen(x):
    return [np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)]


PROBLEMS = [
    (lambda x: [x[0] ** 2 * x[1], 5 * x[0] + np.sin(x[1])], [1.3, 0.7]),
    (polar, [1.7, 0.4]),
    (spherical, [0.8, 1.1, 2.3]),
    (lambda x: [x[0], 5 * x[2], 4 * x[1] ** 2 - 2 * x[2], x[2] * np.sin(x[0])], [0.5, 1.5, -0.7]),
    (lambda x: [5 * x[1], 4 * x[0] ** 2 - 2 * np.sin(x[1] * x[2]), x[1] * x[2]], [1.2, 0.6, 0.9]),
    (rosen, [1.3, 0.7, 0.8, 1.9, 1.2]),
    (lambda x: [np.sinh(x[0]), x[0] ** 2, np.tan(x[0]), np.exp(x[0])], [0.5]),
    (lambda x: [np.sin(x[0] * x[1]) * np.log(x[0])], [100.0, -0.5]),
    (lambda x: [1 / (np.exp(x[0]) + np.cos(x[1]) + 10)], [1.0, 2.0]),
    (lambda x: np.outer(x, x).ravel(), [1.0, 2.0, 3.0]),
    (lambda x: [np.mean(x**2)], [1.0, 2.0, 3.0]),
    (lambda x: x**3 + 3, [1.0, 2.0, 3.0]),
]


def exact(f, x):
    """The complex step."""
    columns = [np.imag(f(np.array(x) + 1e-30j * unit)) / 1e-30 for unit in np.eye(len(x))]
    return np.array(columns).T


@pytest.mark.parametrize(("f", "x"), PROBLEMS)
def test_problems_of_scipy_and_jacobi(f, x):
    found, linearization, rounds = jacobian(f, np.array(x))
    truth = exact(f, x)
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-10)
    columns = np.linalg.norm(found - truth, axis=0)
    assert np.all(columns <= linearization.error + 1e-14 * np.linalg.norm(truth))
    assert sum(len(each) for each in rounds) <= 18 * len(x)


def test_directional_derivative_of_numdifftools():
    box = by_rows(lambda x: [(1 - x[0]) ** 2 + 105 * (x[1] - x[0] ** 2) ** 2])
    here = primal(box, [[2.0, 3.0]])
    tangent = np.array([[[1.0, -1.0]]]) / math.sqrt(2)
    pushed, rounds = feed(AdaptiveDifference().push(here, tangent, np.zeros((1, 0))), here, box)
    assert pushed.item() == pytest.approx(743.87633380824832, rel=1e-12)
    assert {len(each) for each in rounds} == {2}


def test_scalar_extremes():
    assert slope(lambda x: x**99 - 1, 7.0)[0] == pytest.approx(99 * 7.0**98, rel=1e-10)
    assert abs(slope(lambda x: (x - 1) ** 3, 1.0)[0]) < 1e-15
    assert slope(abs, 0.0)[0] == 0


def test_two_arms_that_agree_by_accident_are_not_trusted():
    """The bend vanishes at the first two arms, all but 1e-10."""
    first, second = 12**-0.5, 12**-0.5 * ((math.sqrt(5) - 1) / 2) ** 1.5

    def f(x):
        return x + 9 * x * (x * x - first**2) * (x * x - second**2) + 1e-10 * x**3

    assert slope(f, 0.0)[0] == pytest.approx(1 + 9 * (first * second) ** 2, rel=1e-12)


# Noise, and shapes that look like it


@pytest.mark.parametrize("seed", range(20))
def test_relative_noise(seed):
    """Naive differences of this function have an error of 0.027 (FiniteDifferences.jl)."""
    generator = np.random.default_rng(seed)
    found, error, evaluations = slope(
        lambda x: math.sin(x) * (1 + 1e-6 * generator.standard_normal()), 1.0
    )
    assert abs(found - math.cos(1)) < 5e-5
    assert 1e-6 < error < 5e-4
    assert evaluations <= 20


def test_six_digits():
    found, error, _ = slope(lambda x: float(f"{math.sin(x):.6g}"), 1.0)
    assert abs(found - 0.5403) < 1e-4
    assert error < 1e-3


def test_printed_digits_are_no_perfect_lines():
    """On a grid, arms of ratio 1/2 agree to the last digit every few times; the error is 2e-4."""
    for x in np.linspace(0.5, 1.5, 50):
        found, error, _ = slope(lambda x: float(f"{math.sin(x):.6g}"), x)
        assert abs(found - math.cos(x)) < min(5e-5, 5 * error)


@pytest.mark.parametrize(
    ("f", "x", "expected"),
    [
        (lambda x: math.sin(1000 * x), 0.3, 1000 * math.cos(300)),
        (lambda x: math.exp(-(((x - 1) / 0.01) ** 2)), 1.005, -100 * math.exp(-0.25)),
        (lambda x: math.atan(1000 * (x - 1)), 1.0, 1000),
        (np.cbrt, 1e-3, 100 / 3),
        (lambda x: math.sin(8 * math.pi * x), 0.0, 8 * math.pi),
        (lambda x: x + (x > 0.1), 0.0, 1.0),
    ],
)
def test_shapes_finer_than_the_first_arms_are_found(f, x, expected):
    found, error, _ = slope(f, x, scale=1.0)
    assert found == pytest.approx(expected, rel=1e-8)
    assert error < 1e-5 * abs(expected)


# Sides that are not there


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("f", "x"),
    [(np.exp, 0.0), (lambda x: 3 * x, 1.0), (lambda x: x * x, 1.0), (np.sin, 1.0)],
)
def test_functions_on_a_half_line(sign, f, x):
    expected = np.imag(f(x + 1e-30j)) / 1e-30
    found, error, _ = slope(lambda y: f(y) if sign * (y - x) >= 0 else NAN, x)
    assert abs(found - expected) < 1e-10
    assert abs(found - expected) <= error


def test_the_other_side_is_taken_for_that_row_and_input_alone():
    def box(rows, shared):
        values = np.exp(rows[:, :1] + 2 * rows[:, 1:])
        values[(rows[:, 0] < 0)] = NAN
        return values

    here = primal(box, [[0.0, 0.1], [1.0, 0.2]])
    found, rounds = feed(AdaptiveDifference().linearize(here, everything, draw), here, box)
    expected = np.exp([0.2, 1.4]) * np.array([[1.0], [2.0]])
    np.testing.assert_allclose(found.kept[:, :, 0], expected, rtol=1e-9)
    alone, _, shorter = jacobian(lambda x: np.exp([x[0] + 0.2]), np.array([0.0]), scale=1.0)
    assert len(rounds) > len(shorter)
    assert alone.item() == pytest.approx(math.exp(0.2))


def test_both_sides_failing_far_away_need_shorter_arms():
    found, _, _ = slope(lambda y: math.exp(y) if abs(y - 1) < 1e-4 else NAN, 1.0)
    assert found == pytest.approx(math.e, rel=1e-9)


def test_no_side_at_all_is_an_error():
    with pytest.raises(NoFiniteValue) as caught:
        jacobian(lambda x: [x[0] if x[1] == 2 else NAN], np.array([1.0, 2.0]))
    assert (caught.value.column, caught.value.row) == (1, 0)


def test_arms_lost_in_rounding_are_an_error():
    def to_ones(rows, shared):
        return np.ones_like(rows), shared

    with pytest.raises(MethodError, match="cannot be displaced along direction 0"):
        slope(lambda x: x, 1.0, round=to_ones)


def room(down, up, shared_down=(), shared_up=()):
    return Room(*(np.array(each, dtype=float) for each in (down, up, shared_down, shared_up)))


@pytest.mark.parametrize("clamped", [True, False])
@pytest.mark.parametrize(
    ("down", "up", "rtol"),
    [
        (0.0, 1.0, 1e-10),
        (1.0, 0.0, 1e-10),
        (0.0, 1e-3, 1e-8),
        (0.05, 0.2, 1e-10),
        (0.001, 0.5, 1e-10),
        (3e-9, 2e-9, 1e-6),
        (np.inf, 0.0, 1e-10),
    ],
)
def test_no_point_leaves_the_room(down, up, rtol, clamped):
    slack = 0 if clamped else 1e-12  # rounding alone is left to whoever clamps

    def f(x):
        assert 1 - down - slack <= x[0] <= 1 + up + slack
        return [np.exp(x[0])]

    def clamp(rows, shared):
        return np.clip(rows, 1 - down, 1 + up), shared

    found, _, rounds = jacobian(
        f, np.array([1.0]), room=room([[down]], [[up]]), round=clamp if clamped else None
    )
    assert found.item() == pytest.approx(math.e, rel=rtol)
    if min(down, up) == 0:  # nothing is asked on a side that is not there
        assert {len(each) for each in rounds} == {1}


def test_what_cannot_move_has_slope_zero_at_no_cost():
    found, linearization, rounds = jacobian(
        lambda x: [x[0] + 5 * x[1]], np.array([1.0, 2.0]), room=room([[9, 0]], [[9, 0]])
    )
    assert found.tolist() == [[pytest.approx(1, rel=1e-14), 0.0]]
    assert linearization.error[1] == 0
    assert [len(each) for each in rounds] == [2, 2]


def test_a_tangent_out_of_a_corner_is_pushed_by_inputs():
    box = by_rows(lambda x: [np.exp(x[0] + 2 * x[1])])
    here = primal(box, [[0.0, 0.0]], room=room([[0, 1]], [[1, 0]]))
    pushed, _ = feed(
        AdaptiveDifference().push(here, np.ones((1, 1, 2)), np.zeros((1, 0))), here, box
    )
    assert pushed.item() == pytest.approx(3, rel=1e-9)
    with pytest.raises(MethodError, match="corner of its bounds"):
        jacobian(
            lambda x: [x[0] + x[1]],
            np.zeros(2),
            scale=1.0,
            method=AdaptiveDifference(directions=directions.Rademacher(8)),
            room=room([[0, 1]], [[1, 0]]),
        )


# Directions, second derivatives, refusals


@pytest.mark.parametrize(
    "chosen", [directions.Orthogonal(3), directions.Gaussian(6, "least_squares")]
)
def test_random_directions_that_span_the_inputs_are_exact(chosen):
    def box(rows, shared):
        return np.sin(rows[:, :1] * shared[0]) + rows[:, 1:] ** 2

    x = np.array([[0.3, 2.0], [1.1, -1.0]])
    here = primal(box, x, [1.5], scale=0.5, scale_shared=2.0)
    method = AdaptiveDifference(directions=chosen)
    found, _ = feed(method.linearize(here, everything, draw), here, box)
    rows, shared = found.contracted(np.ones((1, 2, 1))).gradients(2)
    wave = np.cos(1.5 * x[:, 0])
    np.testing.assert_allclose(rows[0], np.stack([1.5 * wave, 2 * x[:, 1]], 1), rtol=1e-9)
    np.testing.assert_allclose(shared[0], [np.sum(x[:, 0] * wave)], rtol=1e-9)


def test_two_linearizations_to_be_subtracted_have_the_same_arms():
    _, _, rounds = jacobian(
        lambda x: [np.sin(9 * x[0]) + x[1]], np.array([0.3, 1.0]), scale=1.0, derivative=2
    )
    assert [len(each) for each in rounds] == [4, 4, 4]
    ends = np.array([each[1][0][0, 0] for each in rounds]) - 0.3
    np.testing.assert_allclose(ends, ends[0] * np.array([1, 0.5, 0.25]), rtol=1e-12)


def test_a_side_that_fails_leaves_the_other_to_second_derivatives():
    found, _, _ = slope(lambda x: math.exp(x) if x >= 0 else NAN, 0.0, derivative=2)
    assert found == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("rtol", [0, 1, -1e-3, True, "small", NAN, 2.0])
def test_unlawful_tolerances_are_refused(rtol):
    with pytest.raises(MethodError, match="lies between 0 and 1"):
        AdaptiveDifference(rtol)


def test_unlawful_directions_are_refused():
    with pytest.raises(MethodError, match=r"AdaptiveDifference\(directions='all'\)"):
        AdaptiveDifference(directions="all")


# Through torch


def black(x, w):
    return np.sin(x * w[0]) * np.exp(w[1] * x) + x**2


def white(x, w):
    return torch.sin(x * w[0]) * torch.exp(w[1] * x) + x**2


X = torch.linspace(0.3, 1.2, 3, dtype=torch.float64)
W = torch.tensor([0.7, 0.2], dtype=torch.float64)


def wrapped(fn=black, **options):
    return differentiable(fn, method=AdaptiveDifference(), interface="numpy", **options)


def test_gradcheck():
    leaves = (X.clone().requires_grad_(), W.clone().requires_grad_())
    assert torch.autograd.gradcheck(
        wrapped(), leaves, check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(wrapped(), leaves)


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd])
def test_jacobians(transform):
    for found, expected in zip(
        transform(wrapped(), argnums=(0, 1))(X, W),
        torch.func.jacrev(white, argnums=(0, 1))(X, W),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_hessian():
    found = torch.func.hessian(lambda x: wrapped()(x, W).sum())(X)
    expected = torch.func.hessian(lambda x: white(x, W).sum())(X)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_vmap_merges_the_rounds_of_its_rows():
    stacked = torch.stack([X, 2 * X])
    f = wrapped()
    found = torch.vmap(torch.func.grad(lambda x: f(x, W).sum()))(stacked)
    expected = torch.vmap(torch.func.grad(lambda x: white(x, W).sum()))(stacked)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_batches():
    x = torch.rand(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    leaves = (x.requires_grad_(), W.clone().requires_grad_())
    found = torch.autograd.grad(wrapped(batch_dims=(0, None))(*leaves).sum(), leaves)
    expected = torch.autograd.grad(white(*leaves).sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_evaluations_through_torch():
    calls = []

    def fn(x):
        calls.append(x.copy())
        return x[:1] * 2 + np.sin(x[1:])

    x = torch.tensor([1.0, 0.7], dtype=torch.float64, requires_grad=True)
    wrapped(fn)(x).backward()
    assert len(calls) == 1 + 4 + 8
    np.testing.assert_allclose(x.grad, [2, math.cos(0.7)], rtol=1e-11)


def test_float32_inputs():
    """Arms are long, so that what rounding leaves is little."""
    leaves = (X.float().requires_grad_(), W.float().requires_grad_())
    found = torch.autograd.grad(wrapped(dtype=None)(*leaves).sum(), leaves)
    expected = torch.autograd.grad(white(*leaves).sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)
