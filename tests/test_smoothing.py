"""Gaussian smoothing of functions that jump: the mean estimate is the closed form's gradient.

Differences along Gaussian directions with radius r estimate the gradient of F(x) = E f(x + r u).
Each estimate has its own seed; their mean is compared with the gradient of F in units of its
standard error, of which 4.5 would be exceeded by chance once in 150 000 comparisons.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import torch
from scipy.stats import norm
from torch.func import jacrev

from suture import FiniteDifference, differentiable, directions, stencils

BOUND = 4.5
SEEDS = 100
COUNT = 100

RULES = {
    "antithetic": stencils.CENTRAL,
    "shared baseline": stencils.FORWARD,
    "score": stencils.ONE_POINT,
}


def one_hot(x):
    return np.eye(x.shape[-1])[x.argmax(axis=-1)]


def two_choices(x, r):
    """P(first) = Φ((x0 - x1) / r√2)."""
    width = r * math.sqrt(2)
    slope = norm.pdf((x[0] - x[1]) / width) / width
    return np.array([[slope, -slope], [-slope, slope]])


def many_choices(x, r):
    """P(i) = ∫ φ(t) Π_j Φ((x_i - x_j) / r + t) dt over all j ≠ i; by quadrature."""
    n = len(x)
    jacobian = np.zeros((n, n))
    for i in range(n):
        for j in set(range(n)) - {i}:
            others = [(x[i] - x[k]) / r for k in range(n) if k not in (i, j)]

            def density(t, gap=(x[i] - x[j]) / r, others=others):
                return norm.pdf(t) * norm.pdf(gap + t) * np.prod(norm.cdf(np.array(others) + t))

            jacobian[i, j] = -scipy.integrate.quad(density, -12, 12)[0] / r
    return jacobian - np.diag(jacobian.sum(axis=1))


def floors(x, r):
    """F' = Σ_k φ((k - x) / r) / r over the integers."""
    steps = np.arange(-60, 60)
    return np.diag([norm.pdf((steps - a) / r).sum() / r for a in x])


@dataclasses.dataclass(frozen=True)
class Jumps:
    """A function that jumps, where to smooth it, and the Jacobian of its mean."""

    fn: Callable
    x: list[float]
    jacobian: Callable


CASES = {
    "step": Jumps(
        lambda x: (x > 0).astype(float),
        [0.2, -0.4, 1.0],
        lambda x, r: np.diag(norm.pdf(x / r) / r),
    ),
    "sign": Jumps(np.sign, [0.1, -0.6], lambda x, r: np.diag(2 * norm.pdf(x / r) / r)),
    "floor": Jumps(np.floor, [0.3, 7.9], floors),
    "rounding": Jumps(np.round, [0.3, -2.6], lambda x, r: floors(x + 0.5, r)),
    "argmax of two": Jumps(one_hot, [0.3, 0.1], two_choices),
    "argmax of four": Jumps(one_hot, [0.3, 0.1, -0.5, 0.35], many_choices),
}


def estimates(case, rule, radius, scale=1.0, **options):
    method = FiniteDifference(rule, directions.Gaussian(COUNT), step=radius / scale)
    x = torch.tensor(case.x, dtype=options.pop("caller", torch.float64))
    settings = {"interface": "numpy", "vectorized": True, "scale": scale, **options}
    return np.array(
        [
            jacrev(differentiable(case.fn, method=method, seed=seed, **settings))(x).numpy()
            for seed in range(SEEDS)
        ],
        dtype=np.float64,
    )


def standard_errors(samples, expected):
    error = np.mean(samples, axis=0) - expected
    spread = np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
    return np.abs(error) / np.maximum(spread, 1e-12), spread


@pytest.mark.parametrize("radius", [0.3, 1.0])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", CASES)
def test_mean_is_the_gradient_of_the_smoothed_function(name, rule, radius):
    case = CASES[name]
    expected = case.jacobian(np.array(case.x), radius)
    found, spread = standard_errors(estimates(case, RULES[rule], radius), expected)
    assert found.max() < BOUND
    if rule != "score":  # so small that a factor of 1.2 would show
        assert np.max(spread) * BOUND < 0.2 * np.abs(expected).max()


def test_closed_form_of_many_choices_agrees_with_that_of_two():
    x = np.array([0.4, -0.1])
    np.testing.assert_allclose(many_choices(x, 0.7), two_choices(x, 0.7), rtol=1e-9)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_radius_is_the_step_in_units_of_the_scale(scale):
    """The same radius, whatever it is made of; the automatic scale would be that of x."""
    case = CASES["step"]
    found = estimates(case, stencils.CENTRAL, 0.5, scale)
    expected = case.jacobian(np.array(case.x), 0.5)
    assert standard_errors(found, expected)[0].max() < BOUND
    # The draws do not depend on the scale, so that the points are the same to rounding.
    same = estimates(case, stencils.CENTRAL, 0.5, 1.0)
    np.testing.assert_allclose(found, same, rtol=1e-9)


@pytest.mark.parametrize("rule", ["antithetic", "shared baseline"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rounded_inputs_do_not_spoil_the_mean(rule, dtype):
    case = CASES["step"]
    found = estimates(case, RULES[rule], 0.5, dtype=None, caller=dtype)
    expected = case.jacobian(np.array(case.x), 0.5)
    # Float16 returns gradients with a relative error of 5e-4.
    error = np.abs(found.mean(axis=0) - expected)
    allowed = BOUND * standard_errors(found, expected)[1] + 1e-3 * np.abs(expected)
    assert np.all(error <= allowed)


def test_rows_of_a_batch_are_smoothed_each_by_itself():
    case = CASES["argmax of four"]
    rows = torch.tensor([case.x, case.x[::-1]], dtype=torch.float64)
    method = FiniteDifference(stencils.CENTRAL, directions.Gaussian(COUNT), step=0.5)
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)

    def gradient(seed):
        x = rows.clone().requires_grad_()
        f = differentiable(
            one_hot, method=method, interface="numpy", batch_dims=0, scale=1.0, seed=seed
        )
        (f(x) @ weights).sum().backward()
        return x.grad.numpy()

    found = np.array([gradient(seed) for seed in range(SEEDS)])
    expected = [weights.numpy() @ many_choices(row, 0.5) for row in rows.numpy()]
    assert standard_errors(found, expected)[0].max() < BOUND


def test_cost_is_what_the_stencil_says():
    x = torch.tensor([0.2, 0.1], dtype=torch.float64, requires_grad=True)
    for rule, cost in ((stencils.CENTRAL, 14), (stencils.FORWARD, 7), (stencils.ONE_POINT, 7)):
        method = FiniteDifference(rule, directions.Gaussian(7), step=0.5)
        f = differentiable(np.sign, method=method, interface="numpy", scale=1.0)
        f(x).sum().backward()
        assert f.evaluations == 1 + cost


def test_pairs_cancel_what_the_baseline_does_not():
    """For a linear function both see its slope alone; the score estimate sees its value."""
    case = Jumps(lambda x: 100 + x, [0.5], None)
    spreads = [np.std(estimates(case, rule, 0.5)) for rule in RULES.values()]
    assert spreads[0] == pytest.approx(spreads[1], rel=1e-6)
    assert spreads[2] > 50 * spreads[1]
