"""Directions: the way back is the transpose of the way out, and its mean error is as promised.

Random quantities are averaged over seeded draws, so a test gives the same verdict every time. A
mean of N independent draws is compared with what it should be in units of its standard error;
4.5 of them would be exceeded by chance once in 150 000 comparisons.
"""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

from suture import FiniteDifference, directions, stencils
from suture.directions import Coordinate, Gaussian, Orthogonal, Rademacher

RANDOM = [Gaussian, Rademacher, Orthogonal]
RECOVERIES = ["mean", "least_squares"]
SIZES = [(1, 1), (1, 3), (2, 5), (4, 4), (5, 4), (7, 3), (3, 1)]
BOUND = 4.5

each_random = pytest.mark.parametrize("kind", RANDOM)
each_recovery = pytest.mark.parametrize("recovery", RECOVERIES)
each_size = pytest.mark.parametrize(("k", "n"), SIZES, ids=lambda size: str(size))


def draw(seed):
    return lambda: np.random.default_rng(seed)


def numbers(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


def standard_errors(samples, expected):
    """Return how far the mean over axis 0 is from `expected`, in standard errors."""
    error = np.mean(samples, axis=0) - expected
    spread = np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
    # Where nothing varies, the mean must be right to rounding.
    return np.abs(error) / np.maximum(spread, 1e-12)


# Both halves of an estimate.


@each_random
@each_recovery
@each_size
def test_pullback_is_the_adjoint_of_pushforward(kind, recovery, k, n):
    """⟨R s, v⟩ = ⟨s, Rᵀ v⟩, for any trailing axes."""
    chosen = kind(k, recovery=recovery)
    seeds = chosen.sample(n, draw(0))
    slopes, tangent = numbers(k, 2, 3), numbers(n, 2, 3, seed=2)
    pulled, pushed = chosen.pullback(seeds, slopes), chosen.pushforward(seeds, tangent)
    assert pulled.shape == tangent.shape
    assert pushed.shape == slopes.shape
    np.testing.assert_allclose(
        np.sum(pulled * tangent, axis=0), np.sum(slopes * pushed, axis=0), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("n", [1, 4])
def test_coordinates_are_their_own_way_back(n):
    seeds = Coordinate().sample(n, draw=None)
    np.testing.assert_array_equal(seeds, np.arange(n))
    assert seeds.dtype.kind == "i"
    slopes = numbers(n, 2)
    np.testing.assert_array_equal(Coordinate().pullback(seeds, slopes), slopes)
    np.testing.assert_array_equal(Coordinate().pushforward(seeds, slopes), slopes)


@each_random
def test_mean_recovery_is_the_mean_of_direction_times_slope(kind):
    chosen = kind(3)
    seeds, slopes = chosen.sample(4, draw(0)), numbers(3, 2)
    expected = sum(np.multiply.outer(d, s) for d, s in zip(seeds, slopes, strict=True)) / 3
    np.testing.assert_allclose(chosen.pullback(seeds, slopes), expected, rtol=1e-14)


# Least squares.


@each_random
@pytest.mark.parametrize(("k", "n"), [(1, 1), (4, 4), (6, 4), (9, 3)])
def test_least_squares_is_exact_once_the_directions_span_the_inputs(kind, k, n):
    chosen = kind(k, recovery="least_squares")
    draws = (chosen.sample(n, draw(seed)) for seed in range(100))
    seeds = next(d for d in draws if np.linalg.matrix_rank(d) == n)  # random signs may repeat
    gradient = numbers(n, 2)
    np.testing.assert_allclose(chosen.pullback(seeds, seeds @ gradient), gradient, rtol=1e-10)


@each_random
@pytest.mark.parametrize(("k", "n"), [(1, 3), (2, 5), (3, 4)])
def test_least_squares_projects_where_there_are_fewer_directions(kind, k, n):
    chosen = kind(k, recovery="least_squares")
    seeds = chosen.sample(n, draw(5))
    gradient = numbers(n)
    found = chosen.pullback(seeds, seeds @ gradient)
    np.testing.assert_allclose(seeds @ found, seeds @ gradient, atol=1e-12)  # explains the slopes
    assert found @ (gradient - found) == pytest.approx(
        0, abs=1e-12
    )  # and is the smallest that does
    again = chosen.pullback(seeds, seeds @ found)
    np.testing.assert_allclose(again, found, rtol=1e-11)
    assert np.linalg.norm(found) < np.linalg.norm(gradient)


def test_least_squares_survives_directions_that_repeat():
    chosen = Rademacher(3, recovery="least_squares")
    seeds = np.array([[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
    found = chosen.pullback(seeds, seeds @ np.array([3.0, 1.0]))
    np.testing.assert_allclose(found, [2.0, 2.0])


# What the directions are.


@each_random
@each_size
def test_seeds_are_k_rows_of_n_numbers(kind, k, n):
    seeds = kind(k).sample(n, draw(0))
    assert seeds.shape == (k, n)
    assert seeds.dtype == np.float64
    assert kind(k).count_for(n) == k
    assert kind(k).count_for(0) == 0


@each_random
@pytest.mark.parametrize(("k", "n"), [(1, 3), (2, 3), (5, 3)])
def test_second_moment_is_the_identity(kind, k, n):
    """E[d dᵀ] = I; all entries over 2000 draws."""
    moments = [d.T @ d / k for d in (kind(k).sample(n, draw(seed)) for seed in range(2000))]
    assert standard_errors(moments, np.eye(n)).max() < BOUND


@each_random
def test_directions_point_everywhere(kind):
    """E[d] = 0. QR by itself would give the first entry of every first row the same sign."""
    seeds = [kind(2).sample(3, draw(seed)) for seed in range(2000)]
    assert standard_errors(seeds, np.zeros((2, 3))).max() < BOUND


def test_gaussian_directions_are_normal():
    seeds = Gaussian(20000).sample(1, draw(0))[:, 0]
    for power, expected in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        assert standard_errors(seeds**power, expected) < BOUND


def test_rademacher_directions_are_signs():
    seeds = Rademacher(500).sample(4, draw(0))
    assert set(np.unique(seeds)) == {-1.0, 1.0}


@each_size
def test_orthogonal_directions_in_blocks_of_n(k, n):
    seeds = Orthogonal(k).sample(n, draw(0))
    for start in range(0, k, n):
        block = seeds[start : start + n]
        np.testing.assert_allclose(block @ block.T, n * np.eye(len(block)), atol=1e-12)


def test_orthogonal_blocks_are_independent():
    seeds = Orthogonal(6).sample(3, draw(0))
    assert np.abs(seeds[:3] @ seeds[3:].T).max() > 0.1
    assert not np.array_equal(seeds[:3], seeds[3:])


def test_orthogonal_directions_are_uniform_on_the_sphere():
    """For Haar measure every entry of every row has E[d⁴] = 3 n / (n + 2)."""
    n = 3
    seeds = np.array([Orthogonal(2).sample(n, draw(seed)) for seed in range(2000)])
    assert standard_errors(seeds**4, 3 * n / (n + 2)).max() < BOUND


# What their mean is worth.


def estimates(chosen, gradient, count):
    n = len(gradient)
    seeds = [chosen.sample(n, draw(seed)) for seed in range(count)]
    return np.array([chosen.pullback(d, d @ gradient) for d in seeds])


@each_random
@pytest.mark.parametrize(("k", "n"), [(1, 4), (3, 4), (6, 4)])
def test_mean_recovery_is_unbiased(kind, k, n):
    gradient = numbers(n)
    assert standard_errors(estimates(kind(k), gradient, 1000), gradient).max() < BOUND


def mean_square_error(kind, k, n):
    """Return the formula of the relative mean square error of the mean recovery."""
    if kind is Gaussian:
        return (n + 1) / k
    if kind is Rademacher:
        return (n - 1) / k
    # Whole sets of n are exact; the r directions that are left count for r of k.
    r = k % n
    return (r / k) ** 2 * (n / r - 1) if r else 0.0


@each_random
@pytest.mark.parametrize(("k", "n"), [(1, 2), (1, 6), (3, 6), (5, 6), (6, 6), (8, 6), (12, 6)])
def test_relative_mean_square_error(kind, k, n):
    """The formulas hold for every gradient; this one has entries of very different size."""
    gradient = np.geomspace(0.1, 2.0, n)
    found = estimates(kind(k), gradient, 1000)
    errors = np.sum((found - gradient) ** 2, axis=1) / (gradient @ gradient)
    assert standard_errors(errors, mean_square_error(kind, k, n)) < BOUND


def test_orthogonal_directions_are_exact_at_k_equal_n():
    gradient = numbers(5)
    np.testing.assert_allclose(estimates(Orthogonal(5), gradient, 3), [gradient] * 3, rtol=1e-12)


@each_random
def test_least_squares_beats_the_mean(kind):
    """The projection's relative error is 1 - k / n, below that of every mean."""
    gradient = numbers(6)
    found = estimates(kind(2, recovery="least_squares"), gradient, 1000)
    errors = np.sum((found - gradient) ** 2, axis=1) / (gradient @ gradient)
    if kind is Rademacher:  # two signs may be parallel, and then they span one dimension
        assert 1 - 2 / 6 < errors.mean() < 1 - 1 / 6
    else:
        assert standard_errors(errors, 1 - 2 / 6) < BOUND


# Draws.


@each_random
def test_draws_repeat(kind):
    chosen = kind(3)
    np.testing.assert_array_equal(chosen.sample(4, draw(7)), chosen.sample(4, draw(7)))
    again = draw(7)  # the same object, asked twice
    np.testing.assert_array_equal(chosen.sample(4, again), chosen.sample(4, again))
    assert not np.array_equal(chosen.sample(4, draw(7)), chosen.sample(4, draw(8)))


@each_random
def test_draws_leave_the_global_generator_alone(kind):
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - it is what must not move
    kind(3).sample(4, draw(7))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("kind", [Gaussian, Rademacher])
def test_fewer_directions_are_the_first_of_more(kind):
    np.testing.assert_array_equal(kind(2).sample(4, draw(7)), kind(5).sample(4, draw(7))[:2])


# What a method asks of them.


@each_random
def test_only_the_mean_is_centered(kind):
    assert kind(3).centered
    assert not kind(3, recovery="least_squares").centered
    assert not Coordinate().centered


@each_random
def test_symbol_is_the_count(kind):
    assert kind(3).symbol == "3"
    assert FiniteDifference(stencils.CENTRAL, kind(3)).cost == "6"
    assert FiniteDifference(stencils.CENTRAL, Coordinate()).cost == "2n"


@each_random
def test_directions_are_frozen_values(kind):
    chosen = kind(3, recovery="least_squares")
    with pytest.raises(dataclasses.FrozenInstanceError):
        chosen.count = 4
    assert chosen == kind(3, "least_squares")
    assert chosen != kind(3)
    assert hash(chosen) == hash(kind(3, "least_squares"))
    assert repr(chosen) == f"{kind.__name__}(count=3, recovery='least_squares')"
    assert pickle.loads(pickle.dumps(chosen)) == copy.deepcopy(chosen) == chosen


def test_kinds_are_distinct():
    assert len({Coordinate(), Gaussian(2), Rademacher(2), Orthogonal(2)}) == 4
    assert Gaussian(2) != Rademacher(2)
    assert Coordinate() == Coordinate()
    assert issubclass(directions.AbstractRandomDirections, directions.AbstractDirections)
