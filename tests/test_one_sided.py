"""Functions that are not defined on one side of x: the default method uses the other side.

A point is bad where the function returns NaN or infinity, or raises `PointFailed`.
"""

import math

import pytest
import torch

from suture import FiniteDifference, differentiable, errors, stencils
from suture.errors import BadResult, EvaluationError, PointFailed


def wants(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def gradient(f, *args):
    return torch.autograd.grad(f(*args).sum(), args[0])[0]


def reported(fn, is_bad, how):
    """Return fn as a program that says in its own way that a point is bad."""

    def wrapped(*args):
        bad = is_bad(*args)
        if how == "raises":
            if bad.any():
                raise PointFailed("no solution")
            return fn(*args)
        return torch.where(bad, {"nan": math.nan, "inf": math.inf}[how], fn(*args))

    return wrapped


every_report = pytest.mark.parametrize("how", ["nan", "inf", "raises"])
BELOW, ABOVE = (lambda x: x < 1), (lambda x: x > 1)
every_side = pytest.mark.parametrize("is_bad", [BELOW, ABOVE], ids=["below", "above"])


def cube(x):
    return x**3


@every_report
@every_side
def test_half_lines(is_bad, how):
    """The first gradient needs both sides, and finds a formula of second order on one."""
    f = differentiable(reported(cube, is_bad, how))
    for k in range(4):
        x = wants(1.0)
        assert gradient(f, x).item() == pytest.approx(3, rel=1e-8 if k == 0 else 1e-6)
    assert f.last.one_sided in (0, 1)


@every_report
@every_side
def test_only_the_input_that_is_bad_uses_the_other_side(is_bad, how):
    f = differentiable(reported(cube, is_bad, how))
    g = differentiable(lambda x: torch.cat([f.fn(x[:1]), cube(x[1:])]))
    x = wants(1.0, 2.0, 3.0)
    found = gradient(g, x)
    assert g.last.one_sided == 1
    torch.testing.assert_close(found, 3 * x.detach() ** 2, rtol=1e-8, atol=0)
    found = gradient(g, x)
    assert g.last.one_sided == (1 if is_bad is ABOVE else 0)  # later steps go up
    torch.testing.assert_close(found, 3 * x.detach() ** 2, rtol=1e-6, atol=0)


@every_report
def test_what_a_bad_side_costs(how):
    """The missing side once more, as a second point on the good side; later, the other side."""
    f = differentiable(reported(cube, ABOVE, how))
    gradient(f, wants(0.5))
    before = f.evaluations
    gradient(f, wants(1.0))
    assert f.evaluations - before == 1 + 2
    f = differentiable(reported(cube, ABOVE, how), method=FiniteDifference(noise=1e-15))
    gradient(f, wants(1.0))
    assert f.evaluations == 1 + 2 + 2
    assert f.last.retried == 1


@every_report
@every_side
def test_curvature_is_seen_from_one_side(is_bad, how):
    f = differentiable(reported(cube, is_bad, how))
    gradient(f, wants(1.0))
    (tuning,) = f.calibration.tunings.values()
    assert tuning.curvature == pytest.approx([6], rel=0.1)


@every_side
@pytest.mark.parametrize("how", ["nan", "inf"])
@pytest.mark.parametrize("keywords", [{}, {"chunk_size": 1}, {"vectorized": True}])
def test_only_the_bad_rows_of_a_batch_use_the_other_side(keywords, how, is_bad):
    received = []
    inner = reported(cube, is_bad, how)

    def fn(x):
        received.append(x.reshape(-1, 3, 2).clone())
        return inner(x)

    f = differentiable(fn, batch_dims=0, **keywords)
    x = torch.tensor([[2.0, 2.0], [1.0, 2.0], [0.5, 0.5]], dtype=torch.float64)
    x = x if is_bad is BELOW else x.flip(0).clamp(max=1.0)
    x = x.clamp(min=1.0) if is_bad is BELOW else x
    x.requires_grad_()
    exact = 3 * x.detach() ** 2
    torch.testing.assert_close(gradient(f, x), exact, rtol=1e-7, atol=0)
    for _ in range(2):
        received.clear()
        torch.testing.assert_close(gradient(f, x), exact, rtol=1e-5, atol=0)
    points = torch.cat(received)[1:]
    moves = points - x.detach()
    in_the_middle = (x.detach() != 1).expand_as(moves)
    # Later gradients go up; a row that is defined there never sees the other side's value.
    assert (moves[in_the_middle] >= 0).any()
    assert f.last.one_sided == (2 if is_bad is ABOVE else 0)


def test_a_good_row_keeps_its_own_value():
    """The other side is asked for all rows together; the good rows keep what they had."""

    def fn(x, slope):
        # The slopes differ on both sides of 1: the gradient tells which one was used.
        y = torch.where(x > 1, 5 * (x - 1), 2 * (x - 1)) + 1
        return torch.where((x > 1) & slope, math.nan, y)

    f = differentiable(fn, batch_dims=0, method=FiniteDifference(noise=1e-15))
    x = torch.tensor([[1.0], [1.0]], dtype=torch.float64, requires_grad=True)
    slope = torch.tensor([[False], [True]])
    gradient(f, torch.tensor([[0.4], [0.4]], dtype=torch.float64, requires_grad=True), slope)
    found = gradient(f, x, slope)
    torch.testing.assert_close(found[0], torch.tensor([5.0], dtype=torch.float64))
    torch.testing.assert_close(found[1], torch.tensor([2.0], dtype=torch.float64))


@every_report
@every_side
def test_shared_inputs(is_bad, how):
    """A shared input moves for all rows; where one row has only one side, all go there."""

    def fn(p, x):
        return x * (p**3).sum()

    f = differentiable(
        reported(fn, lambda p, x: is_bad(p[0]).expand(x.shape), how), batch_dims=(None, 0)
    )
    p, x = wants(1.0, 2.0), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for rtol in (1e-7, 1e-5):
        found = torch.autograd.grad(f(p, x).sum(), p)[0]
        torch.testing.assert_close(found, 18 * p.detach() ** 2, rtol=rtol, atol=0)


@every_report
@every_side
def test_vmap(is_bad, how):
    f = differentiable(reported(cube, is_bad, how))
    rows = [[1.0], [2.0], [1.0]] if is_bad is BELOW else [[1.0], [0.5], [1.0]]
    x = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    for rtol in (1e-7, 1e-5):
        found = torch.autograd.grad(torch.func.vmap(f)(x).sum(), x)[0]
        torch.testing.assert_close(found, 3 * x.detach() ** 2, rtol=rtol, atol=0)


@every_report
@every_side
@pytest.mark.parametrize("direction", [1.0, -1.0])
@pytest.mark.parametrize("calibrated", [False, True])
def test_forward_mode(is_bad, how, direction, calibrated):
    f = differentiable(reported(cube, is_bad, how))
    x = torch.tensor([1.0], dtype=torch.float64)
    if calibrated:
        gradient(f, x.clone().requires_grad_())
    value, tangent = torch.func.jvp(f, (x,), (direction * torch.ones_like(x),))
    assert value.item() == 1
    assert tangent.item() == pytest.approx(3 * direction, rel=1e-6)
    jacobian = torch.func.jacfwd(f)(x)
    assert jacobian.item() == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_domain_that_is_narrower_than_the_first_arm(dtype):
    """A half circle of radius 1e-6: arms of 6e-6 end outside on both sides, shorter ones do not."""
    f = differentiable(lambda x: torch.sqrt(1e-12 - (x - 1) ** 2), seed=1)
    x = wants(1 + 5e-7, dtype=dtype)
    offset = x.detach().double() - 1
    exact = -offset / torch.sqrt(1e-12 - offset**2)
    for _ in range(2):
        assert gradient(f, x).item() == pytest.approx(exact.item(), rel=1e-2)
    assert f.last.retried == 0


def test_half_line_of_a_noisy_function():
    """jacobi's own case: a root that prints six digits."""
    f = differentiable(lambda x: torch.where(x >= 1, (torch.exp(x) * 1e6).round() / 1e6, math.nan))
    for k in range(3):
        found = gradient(f, wants(1.0)).item()
        assert found == pytest.approx(math.e, rel=1e-2), k


# ------------------------------------------------------------------------------------------------
# Nothing to be done
# ------------------------------------------------------------------------------------------------


def only_at(center):
    return lambda x: x != center


@every_report
def test_both_sides_bad_names_the_input(how):
    f = differentiable(reported(lambda x: x**2, lambda x: only_at(2.0)(x[1:2]).any(), how))
    x = wants(1.0, 2.0, 3.0)
    with pytest.raises(BadResult) as caught:
        gradient(f, x)
    what, why, _ = str(caught.value).splitlines()
    assert "on both sides of x: with argument 0[1] increased by" in what
    assert why == "A derivative needs f(x) and a value on one side of every input."
    assert isinstance(caught.value.__cause__, PointFailed if how == "raises" else type(None))


@every_report
def test_both_sides_bad_in_a_later_gradient(how):
    bad = []

    def is_bad(x):
        return (x[1:] != 2.0).any() if bad else torch.tensor(False)

    f = differentiable(reported(lambda x: x**2, is_bad, how))
    gradient(f, wants(1.0, 2.0))
    bad.append("from now on")
    with pytest.raises(BadResult, match=r"on both sides of x: with argument 0\[1\] increased by"):
        gradient(f, wants(1.0, 2.0))


@pytest.mark.parametrize("vectorized", [False, True])
def test_both_sides_bad_names_the_row(vectorized):
    def fn(x):
        bad = torch.zeros_like(x, dtype=torch.bool)
        bad[..., 2, 1] = x[..., 2, 1] != 2.0
        return torch.where(bad, math.nan, x**2)

    def rows(x):
        return fn(x.reshape(-1, 3, 2)).reshape(x.shape)

    f = differentiable(rows, batch_dims=0, vectorized=vectorized)
    x = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 2.0]], dtype=torch.float64).requires_grad_()
    with pytest.raises(BadResult, match=r"in row 2: with x\[2, 1\] increased by"):
        gradient(f, x)


@every_report
def test_both_sides_bad_along_a_tangent(how):
    f = differentiable(reported(cube, only_at(1.0), how))
    x = torch.ones(1, dtype=torch.float64)
    with pytest.raises(BadResult, match="on both sides of x"):
        torch.func.jvp(f, (x,), (x,))


@pytest.mark.parametrize("how", ["nan", "inf"])
def test_forward_that_is_bad_raises(how):
    f = differentiable(reported(cube, BELOW, how))
    with pytest.raises(BadResult, match="that of the forward pass"):
        f(wants(0.5))


def test_forward_that_fails_raises():
    f = differentiable(reported(cube, BELOW, "raises"))
    with pytest.raises(PointFailed, match="a point failed: no solution"):
        f(wants(0.5))
    with torch.no_grad(), pytest.raises(PointFailed):
        f(wants(0.5))


def test_other_exceptions_end_the_gradient():
    def fn(x):
        if (x < 1).any():
            raise ArithmeticError("a bug, and not a bad point")
        return x**3

    with pytest.raises(EvaluationError, match="a bug, and not a bad point"):
        gradient(differentiable(fn), wants(1.0))


@every_report
@pytest.mark.parametrize("stencil", [stencils.BACKWARD, stencils.CENTRAL])
def test_a_named_stencil_keeps_its_nodes(how, stencil):
    f = differentiable(reported(cube, BELOW, how), method=FiniteDifference(stencil))
    with pytest.raises(EvaluationError):
        gradient(f, wants(1.0))


def test_a_point_that_fails_can_be_pickled():
    import pickle

    error = pickle.loads(pickle.dumps(errors.PointFailed("no solution")))
    assert str(error) == str(errors.PointFailed("no solution"))
    assert str(errors.PointFailed()).startswith("The black box says that a point failed: this")
