"""The problems of benchmarks/accuracy.py and the bookkeeping of its table."""

import contestants
import numpy as np
import problems
import pytest
import scipy.optimize
from contestants import CONDITIONS, BlackBox, judge, relative_error
from problems import STARTS

import suture

# Sums of squares at the minimum that a descent from the start finds.
# Source: Moré, Garbow and Hillstrom (1981), section 3; 0 where a solution is known.
MINIMA = {
    problems.freudenstein_roth: 48.9842,
    problems.jennrich_sampson: 124.362,
    problems.bard: 8.21487e-3,
    problems.gaussian: 1.12793e-8,
    problems.meyer: 87.9458,
    problems.kowalik_osborne: 3.07505e-4,
    problems.brown_dennis: 85822.2,
    problems.osborne1: 5.46489e-5,
    problems.osborne2: 4.01377e-2,
    problems.penalty1: 7.08765e-5,
    problems.trigonometric: 2.79506e-5,
    problems.chebyquad: 3.51687e-3,
}

every_problem = pytest.mark.parametrize("residual", STARTS, ids=lambda residual: residual.__name__)


@every_problem
def test_the_minimum_is_the_published_one(residual):
    found = scipy.optimize.least_squares(
        residual,
        np.asarray(STARTS[residual], dtype=np.float64),
        jac=lambda x: problems.jacobian(residual, x),
        method="lm",
        xtol=1e-15,
        ftol=1e-15,
        gtol=1e-15,
        max_nfev=20000,
    )
    assert 2 * found.cost == pytest.approx(MINIMA.get(residual, 0.0), rel=1e-5, abs=1e-12)


@every_problem
def test_the_jacobian_agrees_with_central_differences(residual):
    for x in problems.points(residual):
        steps = 6e-6 * np.diag(np.maximum(np.abs(x), 1e-3))
        columns = [(residual(x + h) - residual(x - h)) / (2 * h.sum()) for h in steps]
        # Rounding: 1e-16 of the largest output over the smallest step, 6e-9.
        rounding = 1e-7 * np.abs(residual(x)).max()
        exact = problems.jacobian(residual, x)
        np.testing.assert_allclose(np.stack(columns, 1), exact, rtol=1e-6, atol=rounding + 1e-6)


@every_problem
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_residuals_keep_the_dtype(residual, dtype):
    x = problems.points(residual)[1].astype(dtype)
    assert residual(x).dtype == dtype


@every_problem
def test_the_walk_goes_down(residual):
    start, _, last = problems.points(residual)
    assert (residual(last) ** 2).sum() < (residual(start) ** 2).sum()


def test_the_error_is_that_of_the_columns():
    true = np.array([[1.0, 0.0], [0.0, 1e-9]])
    found = np.array([[1.3, 0.0], [0.0, 1e-3]])
    floor = 1e-3 * 0.5**0.5
    expected = ((0.3 / (1 + floor)) ** 2 / 2 + (1e-3 / floor) ** 2 / 2) ** 0.5
    assert relative_error(found, true) == pytest.approx(expected, rel=1e-5)


SPREADS = ((0, 0), (6e-8, 6e-7), (0.97e-6, 1.03e-6), (0.97e-3, 1.03e-3))


@pytest.mark.parametrize(("condition", "spread"), list(zip(CONDITIONS, SPREADS, strict=True)))
def test_conditions_are_what_they_say(condition, spread):
    residual = problems.osborne2
    x = problems.points(residual)[0]
    box = BlackBox(residual, condition, x, seed=0)
    exact = residual(x)
    errors = np.stack([box(x) - exact for _ in range(200)]) / np.abs(exact).max()
    assert spread[0] <= np.sqrt(np.mean(errors**2)) <= spread[1]
    assert box(x).dtype == np.float64


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SciPy approx_derivative, 2-point", 1),
        ("SciPy approx_derivative, 3-point", 2),
        ("Suture, stencils.FORWARD", 1),
        ("Suture, stencils.CENTRAL", 2),
    ],
)
def test_evaluations_are_counted_without_the_value(name, expected):
    results = list(judge(name, CONDITIONS[0], problems.bard, range(1)))
    assert [result.evaluations_per_input for result in results] == [expected] * 3
    assert all(result.error < 1e-6 for result in results)


@pytest.mark.parametrize("method", [None, suture.FiniteDifference(suture.stencils.FORWARD)])
def test_six_steps_on_is_judged_at_the_sixth(method):
    x = problems.points(problems.bard)[0]
    box = BlackBox(problems.bard, CONDITIONS[0], x, seed=0)
    answer = contestants.six_steps_on(box, x, method)
    np.testing.assert_array_equal(answer.at, problems.points(problems.bard)[2])
    assert answer.recalibrations == 0
    assert relative_error(answer.jacobian, problems.jacobian(problems.bard, answer.at)) < 1e-6


def test_six_steps_on_counts_calibrations():
    """The inputs of Brown's badly scaled function end at 1e6 and 2e-6."""
    x = problems.points(problems.brown_badly_scaled)[0]
    box = BlackBox(problems.brown_badly_scaled, CONDITIONS[0], x, seed=0)
    assert contestants.six_steps_on(box, x).recalibrations > 0


def test_seeds_are_for_noise():
    name = "Suture, stencils.CENTRAL"
    assert len(list(judge(name, CONDITIONS[0], problems.bard, range(5)))) == 3
    noisy = [result.error for result in judge(name, CONDITIONS[2], problems.bard, range(5))]
    assert len(set(noisy)) == 15


def test_a_failure_is_an_infinite_error(monkeypatch):
    def broken(box, x):
        raise suture.errors.BadResult("a", "b", "c")

    monkeypatch.setitem(contestants.OURS, "broken", broken)
    nothing = contestants.peer(lambda box, x, y: np.full((len(y), len(x)), np.nan))
    monkeypatch.setitem(contestants.OURS, "nothing", nothing)
    for name, why in (("broken", "BadResult"), ("nothing", "not finite")):
        for result in judge(name, CONDITIONS[0], problems.bard, range(1)):
            assert (result.error, result.failure) == (np.inf, why)
