"""The default method measures noise and curvature once, and what follows from that."""

import copy
import math
import pickle
import re
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from suture import FiniteDifference, differentiable, errors, stencils
from suture._calibration import Calibration
from suture._memory import Memory
from suture._methods import _steady
from suture._noise import FINE, LONG, SHORT, noise_of
from suture._tuning import LONGEST, Tuning, combined
from suture.directions import Gaussian

EPSILON = 2.0**-52


def wants(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def gradient(f, *args):
    """Return the gradient of the sum of f by its first argument."""
    return torch.autograd.grad(f(*args).sum(), args[0])[0]


def spent(f, *args):
    before = f.evaluations
    gradient(f, *args)
    return f.evaluations - before


def only(f):
    """Return the one tuning that f has."""
    (tuning,) = f.calibration.tunings.values()
    return tuning


def noisy(fn, noise):
    """Return fn with relative noise that is a function of its inputs."""

    def wrapped(x):
        y = fn(x)
        bits = np.frombuffer(x.detach().numpy().tobytes(), np.uint32)
        draws = np.random.default_rng([int(bit) for bit in bits]).standard_normal(y.shape)
        return y * (1 + noise * torch.as_tensor(draws))

    return wrapped


def single(fn):
    """Return fn as a program in float32 computes it."""
    return lambda x: fn(x.float()).double()


def printed(fn, digits=6):
    """Return fn as a program prints it."""
    return lambda x: torch.tensor(
        [float(f"{y:.{digits}g}") for y in fn(x).reshape(-1).tolist()], dtype=torch.float64
    )


def waves(x):
    return torch.stack([torch.sin(x[0]) * x[1], torch.exp(x[1] / 3) + x[2], x[2] ** 2 * x[0]])


X = (0.7, 1.3, -0.4)


def exact_waves(x):
    return torch.autograd.functional.jacobian(waves, x.detach()).sum(0)


# ------------------------------------------------------------------------------------------------
# The noise
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("count", [5, 7, 9])
def test_noise_of_a_table(sigma, count):
    places = 1e-9 * np.arange(count)[:, None]
    draws = np.random.default_rng(0).standard_normal((count, 1000))
    found, verdict = noise_of(np.sin(1 + places) + sigma * draws)
    fine = verdict == FINE
    assert fine.mean() > 0.6
    assert sigma / 1.5 < np.median(found[fine]) < 1.5 * sigma
    assert np.mean((found[fine] > sigma / 3) & (found[fine] < 3 * sigma)) > 0.9
    assert np.isnan(found[~fine]).all()


def test_verdicts_about_the_spacing():
    places = np.linspace(-1, 1, 7)[:, None]
    assert noise_of(np.exp(places))[1].tolist() == [LONG]
    assert noise_of(np.floor(places + 5))[1].tolist() == [SHORT]


NOISY = {  # function: its relative noise
    "float32 inside": (single(waves), 2.0**-23 / 12**0.5),
    "1e-9": (noisy(waves, 1e-9), 1e-9),
    "1e-6": (noisy(waves, 1e-6), 1e-6),
    "1e-3": (noisy(waves, 1e-3), 1e-3),
    # The second output, 1.14233, has a unit of 1e-5, or 1e-3; the norm of all three is 1.4.
    "six digits": (printed(waves), 1e-5 / 12**0.5 / 1.4),
    "four digits": (printed(waves, 4), 1e-3 / 12**0.5 / 1.4),
}


@pytest.mark.parametrize(("fn", "noise"), NOISY.values(), ids=NOISY)
def test_noise_that_a_calibration_finds(fn, noise):
    found = []
    for k in range(9):
        f = differentiable(fn, seed=k)
        gradient(f, wants(*X))
        found.append(only(f).noise)
    # A relative noise of the largest output, of a few roundings: within a factor of 3.
    assert noise / 3 < np.median(found) < 3 * noise
    assert noise / 10 < min(found)
    assert max(found) < 10 * noise


def test_noise_of_float64_is_its_rounding():
    f = differentiable(waves)
    gradient(f, wants(*X))
    assert only(f).noise == EPSILON


def test_six_digits_whose_grid_the_spacing_meets():
    """At x = 1 a spacing of 1e-4 is 54.03 units of the sixth digit: nearly the same remainders."""
    f = differentiable(printed(torch.sin))
    x = wants(1.0)
    assert gradient(f, x).item() == pytest.approx(np.cos(1), rel=1e-2)
    assert gradient(f, x).item() == pytest.approx(np.cos(1), rel=2e-2)
    assert only(f).noise > 1e-8


@pytest.mark.parametrize("noise", [1e-9, 1e-4])
def test_stated_noise_is_taken(noise):
    f = differentiable(waves, method=FiniteDifference(noise=noise))
    gradient(f, wants(*X))
    assert only(f).noise == noise


def test_noise_does_not_see_the_cotangent():
    calibrations = []
    for factor in (1.0, 1e-9, 1e9, 0.0):
        f = differentiable(noisy(waves, 1e-6))
        (factor * f(wants(*X))).sum().backward()
        calibrations.append(f.calibration)
    assert all(c == calibrations[0] for c in calibrations)


# ------------------------------------------------------------------------------------------------
# The steps
# ------------------------------------------------------------------------------------------------


def tuned(noise=1e-8, size=2.0, scale=(1.0,), curvature=(0.5,), slope=(1.0,), arm=(1e-3,)):
    arrays = (np.array(a, dtype=float) for a in (scale, curvature, slope, arm, curvature))
    return Tuning(noise, size, *arrays)


def test_step_where_both_errors_are_least():
    """h = 8^(1/4) √(σ/c), where the root mean square error is 2^(1/4) √(σc)."""
    tuning = tuned()
    level, curvature = 1e-8 * 2.0, 0.5
    (step,) = tuning.steps(2.0, EPSILON)
    assert step == pytest.approx(8**0.25 * np.sqrt(level / curvature))

    def mean_square(h):
        return (h * curvature / 2) ** 2 + 2 * (level / h) ** 2

    assert tuning.errors(np.array([step]), 2.0) == pytest.approx(np.sqrt(mean_square(step)))
    others = step * np.array([0.5, 0.9, 1.1, 2.0])
    assert (mean_square(others) > mean_square(step)).all()
    assert np.sqrt(mean_square(step)) == pytest.approx(2**0.25 * np.sqrt(level * curvature))


def test_step_is_bounded_by_scale_and_precision():
    flat, steep = tuned(curvature=(1e-30,), arm=(1.0,)), tuned(curvature=(1e30,))
    assert flat.steps(2.0, EPSILON).tolist() == [LONGEST]
    assert steep.steps(2.0, EPSILON).tolist() == [64 * EPSILON]
    assert steep.steps(2.0, 0.1).tolist() == [LONGEST]  # no precision takes it farther


def test_step_is_no_longer_than_what_was_seen():
    assert tuned(curvature=(1e-30,)).steps(2.0, EPSILON).tolist() == [1e-3]
    lazy = tuned(curvature=(1e-30,), arm=(np.nan,))
    assert lazy.steps(2.0, EPSILON) == pytest.approx([1e-8 ** (1 / 3)])


def test_step_without_a_curvature():
    """A function that changes by itself over its scale has curvature 1 per output and scale²."""
    (step,) = tuned(curvature=(np.nan,)).steps(2.0, EPSILON)
    assert step == pytest.approx(8**0.25 * 1e-4)


def test_step_where_the_output_has_grown():
    before, after = tuned().steps(2.0, EPSILON), tuned().steps(32.0, EPSILON)
    assert after == pytest.approx(2 * before)  # √√16
    assert tuned().steps(0.1, EPSILON) == pytest.approx(before)


def test_curvature_and_slope():
    f = differentiable(lambda x: torch.stack([x[0] ** 3, torch.exp(2 * x[1])]))
    gradient(f, wants(0.5, 2.0))
    tuning = only(f)
    exact = np.array([6 * 0.5, 4 * np.exp(4.0)]) * tuning.scale**2
    np.testing.assert_allclose(tuning.curvature, exact, rtol=1e-2)
    exact = np.array([3 * 0.5**2, 2 * np.exp(4.0)]) * tuning.scale
    np.testing.assert_allclose(tuning.slope, exact, rtol=1e-8)
    assert tuning.arm.tolist() == pytest.approx([tuning.noise ** (1 / 3)] * 2)


@pytest.mark.parametrize("least", [0.0, 1.0])
def test_curvature_at_a_minimum(least):
    """Parameters often start at zero; a slope of zero is not a sign of roughness."""
    f = differentiable(lambda x: (x**2).sum() + least)
    x = wants(0.0, 0.0, 0.0)
    assert gradient(f, x).tolist() == [0, 0, 0]
    assert only(f).curvature == pytest.approx([2, 2, 2], rel=0.1)
    assert gradient(f, x).abs().max() < 1e-7
    assert f.last.relative_error is None or f.last.relative_error > 0.1  # all of it is error


def test_step_follows_the_curvature():
    """A hundred times as curved, a tenth of the step."""
    f = differentiable(lambda x: x[0] ** 2 + 100 * x[1] ** 2)
    gradient(f, wants(1.0, 1.0))
    first, second = only(f).steps(101.0, EPSILON)
    assert first / second == pytest.approx(10, rel=1e-2)


@pytest.mark.parametrize(("fn", "noise"), NOISY.values(), ids=NOISY)
def test_gradients_are_as_good_as_the_noise_allows(fn, noise):
    f = differentiable(fn)
    x = wants(*X)
    exact = exact_waves(x)
    first, later = gradient(f, x), gradient(f, x)
    assert (first - exact).norm() < 20 * noise ** (2 / 3) * exact.norm()
    assert (later - exact).norm() < 20 * noise**0.5 * exact.norm()


def test_lazy_form():
    f = differentiable(single(lambda x: torch.sin(x).sum(0, keepdim=True)))
    x = torch.linspace(0.5, 1, 1001, dtype=torch.float64).requires_grad_()
    gradient(f, x)
    tuning = only(f)
    assert tuning.is_lazy
    assert np.isfinite(tuning.curvature).sum() == 10  # those that were refreshed by the way
    assert np.isnan(tuning.arm).all()
    assert 1e-8 < tuning.noise < 1e-6
    assert "no curvature" in str(tuning)


# ------------------------------------------------------------------------------------------------
# Which part is switched off by what is given
# ------------------------------------------------------------------------------------------------


def test_step_switches_everything_off():
    f = differentiable(waves, method=FiniteDifference(step=1e-7))
    gradient(f, wants(*X))
    assert not f.calibration
    assert f.last.calibrated == ""


def test_scale_is_not_measured_where_it_is_given():
    f, g = differentiable(waves, scale=(torch.tensor([1.0, 2.0, 3.0]),)), differentiable(waves)
    gradient(f, wants(*X))
    gradient(g, wants(*X))
    assert only(f).scale.tolist() == [1, 2, 3]
    rms = np.sqrt(np.mean(np.square(X)))
    assert only(g).scale.tolist() == pytest.approx(np.maximum(np.abs(X), rms))


# ------------------------------------------------------------------------------------------------
# Refresh and drift
# ------------------------------------------------------------------------------------------------


def test_refresh_follows_the_curvature():
    """Each of 50 inputs is measured anew once in a hundred gradients."""
    bend = [1.0]
    f = differentiable(lambda x: bend[0] * (x**2).sum() / 2 + 1)
    x = torch.ones(50, dtype=torch.float64, requires_grad=True)
    gradient(f, x)
    np.testing.assert_allclose(only(f).curvature, 1, rtol=1e-2)
    bend[0] = 4.0
    for k in range(1, 101):
        gradient(f, x)
        fresh = np.abs(only(f).curvature - 4) < 0.4
        assert fresh.tolist() == [j < k // 2 for j in range(50)]
    assert only(f).calibrations == 1


def test_input_that_has_grown_ten_times():
    f = differentiable(waves)
    gradient(f, wants(1.0, 1.0, 1.0))
    assert f.last.calibrated == "the first gradient"
    assert spent(f, wants(9.0, 1.0, 1.0)) == 1 + 3
    assert f.last.calibrated == ""
    assert spent(f, wants(11.0, 1.0, 1.0)) >= 1 + 6 + 6
    assert f.last.calibrated == "input 0 went from a size of 1 to 11"
    assert only(f).calibrations == 2
    assert only(f).scale[0] == 11
    assert "calibrated 2 times, the last time because input 0 went from" in repr(f.calibration)
    assert spent(f, wants(12.0, 1.0, 1.0)) == 1 + 3


@pytest.mark.parametrize("fn", [torch.log, lambda x: torch.log1p(x.abs())], ids=["half", "whole"])
def test_input_that_has_shrunk_below_its_step(fn):
    """Calibrated anew where the function looks different on a smaller scale."""
    f = differentiable(noisy(fn, 1e-3))
    gradient(f, wants(1000.0))
    assert spent(f, wants(500.0)) == 1 + 1
    assert spent(f, wants(2.0)) > 1 + 2
    assert only(f).calibrations == 2
    assert "input 0 went from a size of 1e+03 to 2" in repr(f.calibration)


def test_input_that_passes_zero():
    """A parameter that is small by chance keeps its step, and costs one evaluation more."""
    rng = np.random.default_rng(0)
    f = differentiable(lambda x: x**2 / 2 + 1e-4 * torch.tensor(rng.normal(size=1)))
    gradient(f, wants(1.0))
    for x in (0.3, 1e-3, 1e-5, 1e-9, -1e-12, -1e-3, -0.3):
        assert gradient(f, wants(x)).item() == pytest.approx(x, abs=0.1)
    assert spent(f, wants(0.3)) == 1 + 1
    assert spent(f, wants(1e-9)) == 1 + 2
    assert only(f).calibrations == 1


def test_output_that_has_grown_a_hundred_times():
    f = differentiable(lambda x: torch.exp(x))
    gradient(f, wants(1.0))
    assert spent(f, wants(5.0)) == 1 + 1
    assert spent(f, wants(6.0)) > 1 + 1
    assert f.last.calibrated == "the output grew from 2.7 to 4e+02"


def test_curvature_that_has_jumped():
    bend = [1.0]
    f = differentiable(lambda x: torch.sin(bend[0] * x).sum(0, keepdim=True))
    x = torch.linspace(0.5, 1, 50, dtype=torch.float64).requires_grad_()
    gradient(f, x)
    bend[0] = 100.0
    reasons = []
    for _ in range(4):
        gradient(f, x)
        reasons.append(f.last.calibrated)
    assert [bool(reason) for reason in reasons] == [False, False, True, False]
    assert reasons[2].startswith("the curvature by input 0 went from ")
    torch.testing.assert_close(gradient(f, x), 100 * torch.cos(100 * x.detach()), rtol=1e-4, atol=0)


def test_a_new_batch_is_no_drift():
    generator = torch.Generator().manual_seed(0)
    f = differentiable(lambda w, x: torch.tanh(w * x).sum(-1), batch_dims=(None, 0))
    w = wants(0.3, 0.5, 0.7)
    for size in (1.0, 1.0, 5.0, 0.01, 1.0):
        x = size * torch.randn(16, 3, generator=generator, dtype=torch.float64)
        gradient(f, w, x)
    assert only(f).calibrations == 1
    g = differentiable(lambda x: torch.tanh(x).sum(-1), batch_dims=0)
    for rows in (16, 1, 40):
        gradient(g, torch.randn(rows, 3, generator=generator, dtype=torch.float64).requires_grad_())
    assert only(g).calibrations == 1


def test_drift_is_right_again():
    f = differentiable(waves)
    for size in (1.0, 1e2, 1e4):
        x = wants(*(size * v for v in (1.0, 1e-5, 1.0)))
        for _ in range(2):
            found, exact = gradient(f, x), exact_waves(x)
            assert (found - exact).norm() < 1e-6 * exact.norm()


# ------------------------------------------------------------------------------------------------
# The predicted error, and rtol
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fn", "noise"), [*NOISY.values(), (waves, EPSILON)])
def test_predicted_error_against_the_true_one(fn, noise):
    """Within a factor of 5, as root mean squares over the seeds."""
    first, later, predicted = [], [], []
    for k in range(12):
        f = differentiable(fn, seed=k)
        x = wants(*(v * (1 + 1e-3 * k) for v in X))
        scale = torch.as_tensor(np.maximum(np.abs(X), np.sqrt(np.mean(np.square(X)))))
        exact = torch.autograd.functional.jacobian(waves, x.detach()) * scale
        for errors_found, predictions in ((first, None), (later, predicted)):
            jacobian = torch.func.jacrev(f)(x.detach()) * scale
            errors_found.append(((jacobian - exact).norm() / exact.norm()).item() ** 2)
            if predictions is not None:
                predictions.append(f.last.relative_error**2)
    ratio = np.sqrt(np.mean(predicted) / np.mean(later))
    assert 1 / 5 < ratio < 5


def test_relative_error_counts_each_input_by_its_scale():
    f = differentiable(lambda x: x[0] + 1e9 * x[1], method=FiniteDifference(noise=1e-8))
    gradient(f, wants(1.0, 1e-9))
    assert 0 < f.last.relative_error < 1e-3


def test_rtol_differences_centrally_what_is_predicted_worse():
    def fn(x):
        return (100 * torch.sin(x[0]) + x[1] + torch.sin(3 * x[2])).reshape(1)

    x = wants(1.0, 1.0, 1.0)
    exact = torch.tensor([100 * np.cos(1), 1, 3 * np.cos(3)], dtype=torch.float64)
    noise = 1e-9
    counts = []
    for rtol in (None, 1e-1, 1e-3, 1e-4, 1e-12):
        f = differentiable(noisy(fn, noise), method=FiniteDifference(rtol=rtol))
        gradient(f, x)
        assert f.last.central == 0  # the first gradient is central everywhere
        cost = spent(f, x)
        predicted = only(f).errors(only(f).steps(85.0, EPSILON), 85.0) / only(f).slope
        worse = 0 if rtol is None else int((predicted > rtol).sum())
        assert f.last.central == pytest.approx(worse, abs=1)
        assert cost == 1 + 3 + f.last.central
        counts.append(f.last.central)
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == 3
    assert 0 < counts[2] < 3 or 0 < counts[3] < 3
    # All of them central: as good as the first gradient.
    assert (gradient(f, x) - exact).norm() < 100 * noise ** (2 / 3) * exact.norm()


# ------------------------------------------------------------------------------------------------
# One calibration per form of call
# ------------------------------------------------------------------------------------------------


def test_rows_of_a_batch_are_rows_of_one_calibration():
    f = differentiable(lambda x: x**2 * torch.tensor([1.0, 10.0]), batch_dims=0)
    gradient(f, torch.ones(4, 2, dtype=torch.float64).requires_grad_())
    tuning = only(f)
    assert tuning.scale.tolist() == [1, 1]
    np.testing.assert_allclose(tuning.curvature, [2, 20], rtol=1e-2)
    assert tuning.size == pytest.approx(np.sqrt(101))


def test_rows_of_a_vmap_are_rows_of_one_calibration():
    """Noise: the median; curvature: the root mean square, each row in units of its own scale."""
    f = differentiable(lambda x: x**3)
    x = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64, requires_grad=True)
    gradient(torch.func.vmap(f), x)
    tuning = only(f)
    assert len(tuning.curvature) == 1
    curvature = np.sqrt(np.mean(np.square([6.0 * 1, 12.0 * 4, 18.0 * 9])))
    assert 16 < tuning.size < 27
    assert tuning.curvature == pytest.approx([curvature], rel=1e-2)


def test_combined():
    one, two, three = (tuned(noise=n, curvature=(c,)) for n, c in ((1, 3), (2, 4), (9, np.nan)))
    together = combined([one, two, three])
    assert together.noise == 2
    assert together.curvature == pytest.approx([np.sqrt(12.5)])
    assert combined([one]) is one


def test_forms_of_call_do_not_share():
    f = differentiable(lambda a, b: a.sum() * b)
    a, b = wants(1.0, 2.0), wants(3.0)
    for given in ((a, b), (a, b.detach()), (wants(1.0, 2.0, 3.0), b)):
        f(*given).sum().backward()
    assert list(f.calibration.tunings) == [
        "a* float64[2], b* float64[1]",
        "a* float64[2], b float64[1]",
        "a* float64[3], b* float64[1]",
    ]


# ------------------------------------------------------------------------------------------------
# The same node again, and random signs
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [waves, noisy(waves, 1e-6), printed(waves)])
@pytest.mark.parametrize("which", ["first", "later"])
def test_a_retained_node_gives_the_same_numbers(fn, which):
    f = differentiable(fn)
    x = wants(*X)
    if which == "later":
        gradient(f, wants(*(1.1 * v for v in X)))
    loss = f(x).sum()
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    gradient(f, wants(*(20 * v for v in X)))  # calibrates again
    f.calibration = None
    gradient(f, wants(*(1.2 * v for v in X)))
    (again,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert torch.equal(first, again)
    before = f.calibration
    assert torch.equal(first, torch.autograd.grad(loss, x)[0])
    assert f.calibration == before  # what an old node does teaches nothing new


def test_a_retained_node_that_refreshed_gives_the_same_numbers():
    bend = [1.0]
    f = differentiable(lambda x: bend[0] * torch.exp(x).sum(0, keepdim=True))
    x = torch.linspace(0.5, 1, 120, dtype=torch.float64).requires_grad_()
    gradient(f, x)
    bend[0] = 30.0  # the curvature that is measured next differs
    loss = f(x).sum()
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert f.last.evaluations == 120 + 1
    assert torch.equal(first, torch.autograd.grad(loss, x, retain_graph=True)[0])
    assert torch.equal(first, torch.autograd.grad(loss, x)[0])


@pytest.mark.parametrize("noise", [0, 1e-14, 1e-9, 1e-3])
def test_signs_are_random_where_the_function_is_noisy(noise):
    received = []
    exact = lambda x: torch.sin(x).sum(0, keepdim=True)  # noqa: E731 - passed on with noise

    def fn(x):
        received.append(x.clone())
        return noisy(exact, noise)(x)

    f = differentiable(fn)
    x = torch.linspace(0.5, 1, 40, dtype=torch.float64).requires_grad_()
    gradient(f, x)
    signs = []
    for k in range(2):
        at = (x.detach() + 1e-3 * k).requires_grad_()
        received.clear()
        gradient(f, at)
        moves = torch.stack(received[1:]) - at.detach()
        largest = [row[row.abs().argmax()].sign().item() for row in moves]
        signs.append(largest[:40])
    assert len(signs[0]) == 40
    if noise <= 1e-12:
        assert set(signs[0]) == {1.0}
    else:
        assert 8 <= signs[0].count(1.0) <= 32
        assert signs[0] != signs[1]  # another content, other signs


def test_signs_are_a_function_of_content_and_seed():
    def run(seed, size=1.0):
        f = differentiable(noisy(waves, 1e-6), seed=seed)
        gradient(f, wants(*X))
        return gradient(f, wants(*(size * v for v in X)))

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_global_generators_are_left_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global one
    f = differentiable(noisy(waves, 1e-6))
    for _ in range(3):
        gradient(f, wants(*X))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()  # noqa: NPY002 - the global one


# ------------------------------------------------------------------------------------------------
# A value that is kept, copied, saved and set by hand
# ------------------------------------------------------------------------------------------------


def calibrated(fn=waves, *at):
    f = differentiable(fn)
    gradient(f, wants(*(at or X)))
    return f


def test_calibration_is_a_frozen_value():
    f = calibrated()
    assert f.calibration
    assert f.calibration == calibrated().calibration
    assert hash(f.calibration) == hash(calibrated().calibration)
    assert f.calibration != calibrated(waves, 1.0, 1.0, 1.0).calibration
    with pytest.raises(AttributeError, match="frozen"):
        f.calibration.tunings = {}
    with pytest.raises(TypeError):
        f.calibration.tunings["x"] = only(f)
    before = f.calibration
    gradient(f, wants(*(20 * v for v in X)))
    assert f.calibration is not before
    assert before.tunings["x* float64[3]"].calibrations == 1


def test_repr():
    assert repr(differentiable(waves).calibration) == "not calibrated"
    f = differentiable(lambda x: x[0] ** 2 + 100 * x[1] ** 2, method=FiniteDifference(noise=1e-8))
    gradient(f, wants(1.0, 1.0))
    assert repr(f.calibration) == (
        "x* float64[2]: noise 1.0e-08 of the output, curvature of each input, steps 1.2e-04 to "
        "1.2e-03"
    )


def test_last_reads_without_evaluating():
    f = differentiable(waves)
    assert f.last is None
    gradient(f, wants(*X))
    before = f.evaluations
    assert f.last.evaluations == before - 1
    assert f.last.seconds > 0
    assert 0 < f.last.relative_error < 1e-8
    assert f.evaluations == before


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("nested", [False, True])
def test_state_dict_round_trip(nested, strict):
    def model():
        f = differentiable(waves)
        return f, nn.Sequential(nn.Linear(3, 3, dtype=torch.float64), f) if nested else f

    torch.manual_seed(0)
    (f, saved), (g, loaded) = model(), model()
    x = wants(*X)
    for _ in range(40):  # so that a refresh is due at another input
        gradient(saved, x)
    state = saved.state_dict()
    extra = state["1._extra_state" if nested else "_extra_state"]
    assert extra.dtype is torch.uint8
    assert extra.dim() == 1
    loaded.load_state_dict(pickle.loads(pickle.dumps(state)), strict=strict)
    assert g.calibration == f.calibration
    assert only(g).cursor == only(f).cursor > 0
    assert spent(g, x) == 1 + 3
    assert torch.equal(gradient(saved, x), gradient(loaded, x))


def test_checkpoint_through_a_file(tmp_path):
    f = calibrated()
    torch.save(f.state_dict(), tmp_path / "f.pt")
    g = differentiable(waves)
    g.load_state_dict(torch.load(tmp_path / "f.pt", weights_only=True))
    assert g.calibration == f.calibration


def test_checkpoint_without_a_calibration():
    f = calibrated()
    assert differentiable(waves).state_dict()["_extra_state"].tolist() == []
    assert f.load_state_dict({}, strict=True).missing_keys == []
    assert f.calibration  # nothing was said about it
    model = nn.Sequential(nn.Linear(1, 3), f)
    old = {key: value for key, value in model.state_dict().items() if "extra" not in key}
    model.load_state_dict(old, strict=True)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({"1._extra_state": f.get_extra_state()}, strict=True)
    f.load_state_dict(differentiable(waves).state_dict())
    assert not f.calibration


@pytest.mark.parametrize("place", [0, 40, 200, -30])
def test_checkpoint_that_is_broken(place):
    f = calibrated()
    state = f.state_dict()
    broken = state["_extra_state"].clone()
    broken[place:][:20] = 0
    with pytest.raises(errors.MethodError, match="cannot be read"):
        differentiable(waves).load_state_dict({"_extra_state": broken})
    with pytest.raises(errors.MethodError, match="cannot be read"):
        f.load_state_dict({"_extra_state": state["_extra_state"][:-40]})
    assert f.calibration == calibrated().calibration


def test_shallow_copies_share_and_deep_ones_do_not():
    f = differentiable(waves)
    shallow, deep = copy.copy(f), copy.deepcopy(f)
    gradient(f, wants(*X))
    assert shallow.calibration is f.calibration
    assert not deep.calibration
    later = copy.deepcopy(f)
    assert later.calibration == f.calibration
    shallow.calibration = None
    assert not f.calibration
    assert later.calibration
    assert spent(later, wants(*X)) == 1 + 3


@pytest.mark.parametrize("way", ["pickle", "torch"])
def test_saved_module_keeps_its_calibration(way, tmp_path):
    f = calibrated()
    if way == "pickle":
        g = pickle.loads(pickle.dumps(f))
    else:
        torch.save(f, tmp_path / "f.pt")
        g = torch.load(tmp_path / "f.pt", weights_only=False)
    assert g.calibration == f.calibration
    assert spent(g, wants(*X)) == 1 + 3
    g.calibration = None
    assert f.calibration


def test_calibration_by_hand():
    f, g = calibrated(), differentiable(waves)
    g.calibration = f.calibration
    assert spent(g, wants(*X)) == 1 + 3
    g.calibration = None
    assert repr(g.calibration) == "not calibrated"
    assert spent(g, wants(*X)) > 1 + 6
    assert only(g).calibrations == 1
    with pytest.raises(errors.MethodError):
        g.calibration = {"x": 1}


def test_the_first_of_two_calibrations_stays():
    """A thread that began before the other had finished learns nothing over it."""
    one, two, three = (tuned(noise=noise) for noise in (1e-9, 1e-8, 1e-7))
    memory = Memory()
    memory.learn("x", None, one)
    memory.learn("x", None, two)
    assert memory.calibration.tunings["x"] is one
    memory.learn("x", one, three)
    assert memory.calibration.tunings["x"] is three


def test_two_threads_calibrate_once():
    barrier = threading.Barrier(2, timeout=20)
    meeting = []

    def fn(x):
        if len(meeting) < 2 and not torch.equal(x, at):
            meeting.append(threading.get_ident())
            barrier.wait()  # both are in their first gradient
        return waves(x)

    at = wants(*X).detach()
    f = differentiable(fn)
    exact, found = exact_waves(at), {}

    def work(number):
        found[number] = [gradient(f, wants(*X)) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(set(meeting)) == 2
    for number in (0, 1):
        for each in found[number]:
            torch.testing.assert_close(each, exact, rtol=1e-6, atol=1e-6)
    assert only(f).calibrations == 1
    assert spent(f, wants(*X)) == 1 + 3


# ------------------------------------------------------------------------------------------------
# Torch's own judge
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [waves, lambda x: (x[0] * x[1]).reshape(1)])
@pytest.mark.parametrize("fast_mode", [False, True])
def test_gradcheck(fn, fast_mode):
    f = differentiable(fn)
    assert gradcheck(
        f,
        (wants(*X),),
        eps=1e-5,
        atol=1e-5,
        rtol=1e-4,
        nondet_tol=0.0,
        fast_mode=fast_mode,
        check_undefined_grad=True,
        check_grad_dtypes=True,
        check_batched_grad=True,
        check_forward_ad=True,
        check_backward_ad=True,
        check_batched_forward_grad=True,
    )


def test_gradgradcheck():
    f = differentiable(waves)
    assert gradgradcheck(
        f,
        (wants(*X),),
        eps=1e-4,
        atol=1e-3,
        rtol=1e-3,
        nondet_tol=0.0,
        gen_non_contig_grad_outputs=True,
        check_batched_grad=True,
    )


# ------------------------------------------------------------------------------------------------
# What random signs are for
# ------------------------------------------------------------------------------------------------


def logistic():
    """Return a noisy regression with 20 weights, its exact loss, and the least loss there is."""
    rows = np.random.default_rng(5).standard_normal((200, 20)) * np.linspace(0.5, 2, 20)
    truth = np.random.default_rng(6).standard_normal(20)
    noise = 0.5 * np.random.default_rng(8).standard_normal(200)
    signed = -np.sign(rows @ truth + noise)[:, None] * rows

    def loss(w):
        return np.logaddexp(0, signed @ w).mean() + 5e-3 * (w @ w)

    w = np.zeros(20)
    for _ in range(3000):
        w -= (signed / (1 + np.exp(-(signed @ w)))[:, None]).mean(0) + 1e-2 * w
    return loss, loss(w)


def excess(loss, least, noise, run):
    """Train 300 steps with a cosine schedule; return how much loss is left."""
    generator = np.random.default_rng(run)

    def fn(w):
        return np.array(loss(w) + noise * generator.standard_normal())

    f = differentiable(fn, interface="numpy", seed=run)
    w = torch.zeros(20, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        optimizer.zero_grad()
        f(w).backward()
        optimizer.step()
        schedule.step()
    return loss(w.detach().numpy()) - least


def test_random_signs_beat_fixed_ones(monkeypatch):
    loss, least = logistic()
    random = np.median([excess(loss, least, 1e-4, run) for run in range(3)])
    monkeypatch.setattr(_steady, "_ROUNDING", np.inf)
    fixed = np.median([excess(loss, least, 1e-4, run) for run in range(3)])
    assert 3 * random < fixed


def test_calibration_reads_only_what_it_wrote():
    assert Calibration.decoded(b"") == Calibration()
    f = calibrated()
    assert Calibration.decoded(f.calibration.encoded()) == f.calibration


def test_steps_do_not_grow_along_a_straight_line():
    """A long way down a line, and then the bend: no step may reach across it."""
    f = differentiable(lambda x: torch.where(x > 61, x - 60.5, (x - 60) ** 2 / 2))
    gradient(f, wants(80.0))
    for k in range(1500):
        gradient(f, wants(80.0 - k / 100))
    assert only(f).calibrations == 1
    assert gradient(f, wants(60.5)).item() == pytest.approx(0.5, rel=1e-3)


def test_steps_do_not_shrink_where_the_noise_has_grown():
    """A refresh takes the noise for curvature, again and again, until f is calibrated anew."""
    rng = np.random.default_rng(0)
    noise = [1e-9]
    f = differentiable(lambda x: torch.sin(x) + noise[0] * torch.tensor(rng.normal(size=3)))
    gradient(f, wants(1.0, 2.0, 0.5))
    noise[0] = 1e-6
    most = 0.0
    for _ in range(600):
        x = wants(1.0, 2.0, 0.5)
        most = max(most, (gradient(f, x) - torch.cos(x.detach())).norm().item())
    assert only(f).calibrations == 2
    assert most < 5
    assert gradient(f, x).tolist() == pytest.approx(torch.cos(x.detach()).tolist(), abs=2e-2)


def test_first_refresh_of_the_lazy_form_is_what_later_ones_are_compared_with():
    tuning = tuned(curvature=(np.nan,), arm=(np.nan,))
    for factor in (1.0, 100.0, 200.0):
        tuning = tuning.refreshed(np.array([0]), np.array([factor]), np.array([1.0]))
        assert tuning.drifted == ""
    tuning = tuning.refreshed(np.array([0]), np.array([400.0]), np.array([1.0]))
    assert "curvature by input 0" in tuning.drifted


def test_error_of_inputs_that_is_not_known():
    """Not zero: none of all inputs, or that of those which are known."""
    f = differentiable(single(lambda x: torch.sin(x).sum(0, keepdim=True)))
    x = torch.linspace(0.5, 1, 1500, dtype=torch.float64).requires_grad_()
    gradient(f, x)
    assert f.last.relative_error is None
    error = (gradient(f, x) - torch.cos(x)).norm() / torch.cos(x).norm()
    assert 0.2 * error < f.last.relative_error < 5 * error


@pytest.mark.parametrize(
    ("fn", "x", "exact", "bound"),
    [
        (lambda x: torch.sin(50 * x), np.pi, 50.0, 1e-5),
        (lambda x: torch.sin(x - 1), 1.0, 1.0, 1e-9),
        (lambda x: torch.sin(x), np.pi, -1.0, 1e-9),
        (lambda x: 1e8 * torch.sin(x), 3.1415926, -1e8, 1e-9),
    ],
)
def test_where_the_output_is_zero_by_chance(fn, x, exact, bound):
    """Noise relative to such an output would be large, and the arms too long."""
    f = differentiable(fn)
    for _ in range(2):
        assert gradient(f, wants(x)).item() == pytest.approx(exact, rel=bound)


@pytest.mark.parametrize(
    ("fn", "x"),
    [
        (lambda x: 1 / x, (1e-6, 1.0)),
        (torch.log, (1e-6, 1.0)),
        (lambda x: x**10, (0.1, 1.0, 3.0)),
        (lambda x: torch.exp(-((x - 1) ** 2) / 2e-8), (1.00005,)),
        (lambda x: x**3 + x, (0.0, 0.0)),
        (lambda x: torch.exp(30 * x), (1.0, 0.5)),
        (torch.sin, (1.0, 2.0)),
    ],
)
def test_error_of_the_first_gradient(fn, x):
    """Central differences do not see their truncation, a third derivative."""
    f = differentiable(fn)
    there = wants(*x)
    (exact,) = torch.autograd.grad(fn(there).sum(), there)
    error = (gradient(f, there) - exact).norm() / exact.norm()
    assert error / 8 < f.last.relative_error < 100 * error


@pytest.mark.parametrize("fn", [lambda x: x + x**2, lambda x: x**2], ids=["root", "minimum"])
def test_stated_noise_where_the_output_is_zero(fn):
    """Relative to nothing it would be nothing, and the steps lost between the digits."""
    f = differentiable(printed(fn), method=FiniteDifference(noise=1e-6))
    (exact,) = torch.autograd.grad(fn(x := wants(0.0, 0.0)).sum(), x)
    for _ in range(3):
        assert (gradient(f, x) - exact).abs().max() < 1e-2
    assert (only(f).steps(0.0, EPSILON) > 1e-4).all()


def test_the_last_gradient_reads_as_one_line():
    f = differentiable(lambda x: torch.where(x < 0, torch.nan, 3 * x + x**2))
    x = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    f(x).sum().backward()
    first, calibrated = repr(f.last).split(", calibrated: ")
    assert calibrated == "the first gradient"
    told = r"\d+ evaluations in \S+ s, error about \S+, 4 failed, 1 retried, 1 one_sided"
    assert re.fullmatch(told, first)
    f(x)[1].backward()
    assert "calibrated" not in repr(f.last)
    h = differentiable(torch.sin, method=FiniteDifference(stencils.ONE_POINT, Gaussian(1), step=1))
    h(x).sum().backward()
    assert repr(h.last).startswith("1 evaluation in ")


def test_an_output_that_is_coarser_than_another():
    """Flat over the longest spacing, it has no noise to see; its grid shows in the differences."""
    f = differentiable(lambda x: [float(f"{x[0]:.6g}"), float(f"{x[1]:.3g}")])
    for _ in range(2):
        x = wants(0.5, 1.37)
        (first,) = torch.autograd.grad(sum(f(x)), x)
        assert first.tolist() == pytest.approx([1, 1], abs=0.05)
        assert f.last.relative_error > 1e-3
    assert only(f).noise == pytest.approx(1e-2 / 12**0.5 / math.hypot(0.5, 1.37), rel=0.1)


def test_a_difference_of_two_inputs_is_not_taken_for_a_grid():
    f = differentiable(lambda x: torch.stack([x[0] - x[1], x[0] + x[1], torch.sin(x[0])]))
    for k in range(10):
        f.calibration = None
        gradient(f, wants(1.0 + k, 1.0 + k))
        assert only(f).noise < 1e-15
