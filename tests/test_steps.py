"""Steps: two errors that are in balance, and the size of inputs whatever their numbers are."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from suture import Stencil, stencils
from suture._sizes import typical_size
from suture._steps import Steps, first_order, second_order

DOUBLE, SINGLE = 2.0**-52, 2.0**-23

each_real = pytest.mark.parametrize(
    "stencil",
    [
        stencils.FORWARD,
        stencils.BACKWARD,
        stencils.CENTRAL,
        stencils.central(4),
        stencils.richardson(3),
        Stencil((0, 1, 2), (-1.5, 2, -0.5), order=2),
    ],
    ids=lambda stencil: f"order {stencil.order}",
)
each_noise = pytest.mark.parametrize("noise", [DOUBLE, SINGLE, 1e-3])


# First derivatives.


@pytest.mark.parametrize(
    ("stencil", "step"),
    [
        (stencils.FORWARD, 2.0**-26),
        (stencils.BACKWARD, 2.0**-26),
        (stencils.CENTRAL, 2.0 ** (-52 / 3)),
        (stencils.central(4), 2.0 ** (-52 / 5)),
        (stencils.central(6), 2.0 ** (-52 / 7)),
        (stencils.richardson(2), 2.0 ** (-52 / 5)),
    ],
)
def test_step_in_double_precision(stencil, step):
    assert first_order(stencil, DOUBLE) == pytest.approx(step, rel=1e-15)


@each_real
@each_noise
def test_truncation_and_noise_are_in_balance(stencil, noise):
    h = first_order(stencil, noise)
    assert h**stencil.order == pytest.approx(noise / h, rel=1e-12)


@each_noise
def test_complex_step_vanishes_beside_one_in_any_precision(noise):
    h = first_order(stencils.COMPLEX_STEP, noise)
    assert h == 2.0**-100
    assert np.float32(h) > 0
    assert 1 + h**2 == 1


@each_noise
def test_score_estimates_smooth_over_a_tenth_of_the_scale(noise):
    assert first_order(stencils.ONE_POINT, noise) == 0.1


# Second derivatives: a central difference (outer) of first derivatives (inner).


@each_real
@each_noise
def test_three_errors_are_in_balance(stencil, noise):
    steps = second_order(stencil, noise, None)
    h, t = steps.inner, steps.outer
    assert h**stencil.order == pytest.approx(t**2, rel=1e-12)
    assert noise / (h * t) == pytest.approx(t**2, rel=1e-12)


@each_noise
def test_inner_step_is_larger_than_that_of_a_first_derivative(noise):
    for stencil in (stencils.FORWARD, stencils.CENTRAL, stencils.central(4)):
        assert second_order(stencil, noise, None).inner > first_order(stencil, noise)


@each_real
@each_noise
@pytest.mark.parametrize("step", [1e-4, 0.5])
def test_a_given_step_is_kept(stencil, noise, step):
    steps = second_order(stencil, noise, step)
    assert steps.inner == step
    assert noise / (step * steps.outer) == pytest.approx(steps.outer**2, rel=1e-12)


@each_noise
@pytest.mark.parametrize("step", [None, 1e-20])
def test_complex_step_leaves_only_the_outer_difference(noise, step):
    steps = second_order(stencils.COMPLEX_STEP, noise, step)
    assert steps == Steps(inner=step or 2.0**-100, outer=noise ** (1 / 3))


@each_noise
def test_score_estimates_keep_their_radius(noise):
    """Its variance is (f / h)²: a step that suits a difference would leave nothing but noise."""
    steps = second_order(stencils.ONE_POINT, noise, None)
    assert steps.inner == first_order(stencils.ONE_POINT, noise)
    assert steps.outer == pytest.approx((noise / steps.inner) ** (1 / 3), rel=1e-12)


def test_steps_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Steps(1e-4, 1e-3).inner = 1.0


# The typical size of an input: max(|x_j|, rms over axes), 1 where both are zero.


@pytest.mark.parametrize(
    ("x", "axes", "expected"),
    [
        ([3.0], (0,), [3.0]),
        ([-3.0], (0,), [3.0]),
        ([0.0], (0,), [1.0]),
        ([0.0, 0.0], (0,), [1.0, 1.0]),
        ([3.0, -4.0, 0.0, 0.0, 0.0], (0,), [3.0, 4.0, 5**0.5, 5**0.5, 5**0.5]),
        ([[3.0], [4.0]], (1,), [[3.0], [4.0]]),
        ([[3.0, 0.0], [4.0, 0.0]], (0,), [[12.5**0.5, 1.0], [4.0, 1.0]]),
        ([[3.0, 0.0], [4.0, 0.0]], (1,), [[3.0, 4.5**0.5], [4.0, 8**0.5]]),
        ([[3.0, 0.0], [5.0, 0.0]], (0, 1), [[3.0, 8.5**0.5], [5.0, 8.5**0.5]]),
        ([2.0], (), [2.0]),
        ([0.0], (), [1.0]),
        ([2.0, 0.0, -0.5], (), [2.0, 1.0, 0.5]),
    ],
)
def test_typical_size(x, axes, expected):
    np.testing.assert_allclose(typical_size(np.array(x), axes), expected, rtol=1e-15)


@pytest.mark.parametrize("factor", [1e-320, 1e-300, 1e-160, 1e160, 1e300])
@pytest.mark.parametrize("axes", [(0,), (0, 1)])
def test_squares_neither_overflow_nor_underflow(factor, axes):
    x = np.array([[1.0, 2.0], [7.0, 4.0]])
    expected = factor * typical_size(x, axes)
    # 1e-320 is denormal: it has three digits.
    rtol = 1e-2 if factor == 1e-320 else 1e-14
    np.testing.assert_allclose(typical_size(factor * x, axes), expected, rtol=rtol)


def test_columns_of_very_different_size_keep_their_own():
    x = np.array([[1e-300, 1.0, 1e300, 0.0], [1e-300, 1.0, 1e300, 0.0]])
    np.testing.assert_allclose(typical_size(x, (0,)), [[1e-300, 1.0, 1e300, 1.0]] * 2, rtol=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axes", [(0,), (0, 1)])
def test_what_is_not_a_number_says_nothing_about_the_others(bad, axes):
    with_bad = typical_size(np.array([[3.0, bad], [4.0, 2.0]]), axes)
    with_zero = typical_size(np.array([[3.0, 0.0], [4.0, 2.0]]), axes)
    np.testing.assert_array_equal(with_bad, with_zero)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_but_what_is_not_a_number(bad):
    np.testing.assert_array_equal(typical_size(np.full((2, 3), bad), (0, 1)), np.ones((2, 3)))


@pytest.mark.parametrize("axes", [(0,), (0, 1)])
def test_complex_numbers_have_the_size_of_their_modulus(axes):
    z = np.array([[3 + 4j, 0], [0, 1j]])
    size = typical_size(z, axes)
    assert size.dtype == np.float64
    np.testing.assert_array_equal(size, typical_size(np.abs(z), axes))
    assert size[0, 0] == 5


@pytest.mark.parametrize(
    ("shape", "axes"), [((0,), (0,)), ((2, 0), (1,)), ((0, 3), (0,)), ((2, 0, 3), (1, 2))]
)
def test_nothing_has_a_size_of_its_own(shape, axes):
    assert typical_size(np.zeros(shape), axes).shape == shape


def test_inputs_are_not_written_to():
    x = np.array([[0.0, np.nan], [-1.0, 1e300]])
    before = x.copy()
    typical_size(x, (0,))
    np.testing.assert_array_equal(x, before)


shapes = hnp.array_shapes(max_dims=3, max_side=4)
# Numbers whose squares, and sums of squares, are normal; the others are above.
finite = st.just(0.0) | st.floats(1e-100, 1e100) | st.floats(-1e100, -1e-100)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_size_is_between_the_number_and_the_largest(data):
    x = data.draw(hnp.arrays(np.float64, shapes, elements=finite))
    axes = tuple(i for i in range(x.ndim) if data.draw(st.booleans()))
    size = typical_size(x, axes)
    assert size.shape == x.shape
    assert (size > 0).all()
    assert (size >= np.abs(x)).all()
    largest = np.abs(x).max(axis=axes, keepdims=True)
    assert (size <= np.where(largest > 0, largest * (1 + 1e-12), 1.0)).all()
    rms = np.sqrt(np.mean(x**2, axis=axes, keepdims=True))
    assert (size >= rms * (1 - 1e-12)).all()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(hnp.arrays(np.float64, shapes, elements=st.floats(-8, 8, width=16)), st.integers(-900, 900))
def test_other_units_change_nothing(x, exponent):
    """Sizes in units 2^k times as large are 2^k times as small, where the numbers are normal."""
    axes = tuple(range(x.ndim))
    scaled = typical_size(np.ldexp(x, exponent), axes)
    if x.any():
        np.testing.assert_allclose(scaled, np.ldexp(typical_size(x, axes), exponent), rtol=1e-12)
    else:
        assert (scaled == 1).all()


def test_sizes_of_samples_do_not_mix():
    """The first axis counts the samples of a vmap and is never among the axes."""
    x = np.array([[1.0, 0.0], [100.0, 0.0]])
    alone = [typical_size(row[None], (1,))[0] for row in x]
    np.testing.assert_array_equal(typical_size(x, (1,)), alone)
    assert math.isclose(alone[0][1], 0.5**0.5)
