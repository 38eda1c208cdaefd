"""The faults of the function itself, rows 1 to 9 of the fault matrix, on every engine."""

import functools

import numpy as np
import pytest
import torch
from engines import BASE, Box, become, boom
from gradients import (
    GRADIENT,
    POINTS,
    assert_bad_point,
    assert_right,
    everywhere,
    expected,
    first_line,
    formula,
    gradient,
    refused,
    weights,
    wrapped,
)

import suture
from suture import FiniteDifference, differentiable, stencils
from suture._memo import Memo
from suture.errors import BadResult, EvaluationError, MethodError

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("nothing_left")]

# Row 1


@everywhere
def test_row_1_f_raises_once(engine, tmp_path):
    box = Box(tmp_path, boom, times=1)
    f = wrapped(box, engine, retries=1)
    assert_right(f)
    assert (f.tally.evaluations, f.tally.retries, f.tally.failures) == (POINTS + 2, 1, 0)
    assert (f.last.evaluations, f.last.repeated, f.last.failed) == (POINTS + 1, 1, 0)
    assert (box.count(), box.count("bad")) == (POINTS + 2, 2)


@everywhere
def test_row_1_a_forward_that_raises_once(engine, tmp_path):
    f = wrapped(Box(tmp_path, boom, times=1), engine, retries=1)
    x = torch.tensor(BASE, dtype=torch.float64) + 0.25
    assert f(x).tolist() == formula(x).tolist()
    assert (f.tally.evaluations, f.tally.retries) == (2, 1)


# Row 2


@everywhere
def test_row_2_f_always_raises(engine, tmp_path):
    box = Box(tmp_path, boom)
    with Memo(tmp_path / "memo.db", version=1) as memo:
        f = wrapped(box, engine, retries=1, memo=memo)
        error = refused(f, EvaluationError)
        assert first_line(error) == "`box` raised ValueError: boom"
        assert "increased" in str(error)
        assert isinstance(error.__cause__, ValueError)
        assert "boom" in str(error.__cause__)
        assert error.attempt == 2
        assert_bad_point(error)
        assert (f.tally.retries, f.tally.failures, box.count("bad")) == (1, 0, 2)
        kept = memo.info().values
        # Good points are kept, those that were running as well (Dask lets go of them).
        good = box.count() - 2
        assert kept == good or (good >= kept >= 1 and "dask" in repr(engine))
    with Memo(tmp_path / "memo.db", version=1) as memo:
        mended = Box(tmp_path)
        assert_right(wrapped(mended, engine, memo=memo))
        assert mended.count() == box.count() == 2 + good + (1 + POINTS - kept)


@everywhere
def test_row_2_a_forward_that_always_raises(engine, tmp_path):
    f = wrapped(Box(tmp_path, boom), engine, retries=2)
    with pytest.raises(EvaluationError) as caught:
        f(torch.tensor(BASE, dtype=torch.float64) + 0.25)
    assert caught.value.attempt == 3
    assert str(caught.value).splitlines()[1].endswith("this one was that of the forward pass.")


def test_row_2_layers_behind_may_have_a_gradient_and_nothing_before_has(tmp_path):
    f = wrapped(Box(tmp_path, boom), None)
    before, behind = weights(), weights()
    loss = (f(1.0 * before) * behind[:2]).sum()
    with pytest.raises(EvaluationError):
        loss.backward()
    assert before.grad is None
    assert behind.grad is not None


# Row 3


@everywhere
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_row_3_not_finite(engine, tmp_path, value):
    box = Box(tmp_path, functools.partial(become, np.array([1.0, value])))
    with Memo(tmp_path / "memo.db", version=1) as memo:
        f = wrapped(box, engine, retries=2, memo=memo)
        error = refused(f, BadResult)
        assert first_line(error) == f"`box` returned {value} at 1 of {POINTS} points."
        assert "x[1] increased" in str(error)
        assert_bad_point(error)
        assert box.count("bad") == 1  # it is no exception: trying again would not help
        assert memo.info().values == POINTS  # with the forward, and without the bad one
        assert f.tally.evaluations == box.count() == POINTS + 1


@everywhere
def test_row_3_the_default_method_takes_the_other_side(engine, tmp_path):
    box = Box(tmp_path, functools.partial(become, np.full(2, np.nan)))
    f = wrapped(box, engine, method=FiniteDifference())
    assert gradient(f).tolist() == pytest.approx(GRADIENT, rel=1e-6)
    assert f.last.one_sided == 1
    assert f.tally.evaluations == box.count()


# Row 4


@everywhere
@pytest.mark.parametrize("shape", [(1, 2), (1,), (), (3,), (2, 1)])
def test_row_4_another_shape(engine, tmp_path, shape):
    box = Box(tmp_path, functools.partial(become, np.ones(shape)))
    error = refused(wrapped(box, engine, retries=1), BadResult)
    assert first_line(error) == (
        f"`box` returned shape (2,) at one point and shape {shape} at another."
    )
    assert_bad_point(error)
    assert box.count("bad") == 1


# Row 5


@everywhere
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([1.0, None]), "`box` returned an array of dtype object."),
        ("text", "`box` returned shape (2,) at one point"),
        (object(), "`box` returned an object."),
        (np.ones(2, complex), "`box` returned float64 at one point and complex128 at another."),
        (np.ones(2, np.float32), "`box` returned float64 at one point and float32 at another."),
    ],
)
def test_row_5_another_type(engine, tmp_path, value, said):
    box = Box(tmp_path, functools.partial(become, value))
    error = refused(wrapped(box, engine), BadResult)
    assert first_line(error).startswith(said) or "a number at one point" in first_line(error)
    assert_bad_point(error)


@everywhere
def test_row_5_whole_numbers_among_real_ones_are_converted(engine, tmp_path):
    box = Box(tmp_path, functools.partial(become, np.array([1, 2])))
    assert gradient(wrapped(box, engine)).isfinite().all()


# Row 6


class Learned:
    """A torch function whose result hangs on a graph of its own."""

    def __call__(self, x):
        with torch.enable_grad():
            own = torch.ones(2, dtype=x.dtype, requires_grad=True)
            return (x[:2] * x[1:] + x[0]) * own


@everywhere
def test_row_6_the_result_requires_grad(engine):
    f = differentiable(Learned(), executor=engine, method=FiniteDifference(stencils.CENTRAL))
    y = f(weights().detach())
    assert not y.requires_grad
    assert_right(f)


# Row 7


class Mutating:
    """Overwrites its argument; raises when it does so for the first time at the bad point."""

    def __init__(self, folder, interface):
        self.box = Box(folder, boom, times=1)

    def __call__(self, x, y):
        assert y.tolist() == [3.0, 3.0], "the argument of another call came back"
        numbers = x.copy() if isinstance(x, np.ndarray) else x.numpy().copy()
        x[:] = -1.0
        y[:] = -1.0
        return self.box(numbers) if isinstance(x, np.ndarray) else torch.tensor(self.box(numbers))


@everywhere
@pytest.mark.parametrize("interface", ["numpy", "torch"])
def test_row_7_f_writes_into_its_arguments_and_is_tried_again(engine, tmp_path, interface):
    f = wrapped(Mutating(tmp_path, interface), engine, interface=interface, retries=1)
    x, y = weights(), torch.full((2,), 3.0, dtype=torch.float64)
    f(x, y).sum().backward()
    assert tuple(x.grad) == expected()
    assert (x.tolist(), y.tolist()) == (list(BASE), [3.0, 3.0])
    assert f.tally.retries == 1


@everywhere
def test_row_7_the_point_of_an_error_is_what_f_was_given(engine, tmp_path):
    def writes(x):
        if x[1] > 0.5:
            x[:] = 99.0
            raise ValueError("after writing")
        return x * 1.0

    assert_bad_point(refused(wrapped(writes, engine), EvaluationError))


# Row 8


class Buffered:
    """Returns the same memory at every call."""

    def __init__(self):
        self.buffer = np.empty(2)

    def __call__(self, x):
        np.multiply(x[:2], x[1:], out=self.buffer)
        self.buffer += x[0]
        return self.buffer


@everywhere
def test_row_8_f_returns_its_own_buffer(engine):
    if hasattr(engine, "_threads"):  # two threads at once would be its own fault
        engine = one_thread()
    f = wrapped(Buffered(), engine)
    y = f(weights().detach())
    before = y.tolist()
    assert_right(f)
    assert y.tolist() == before == formula(np.array(BASE)).tolist()


def one_thread():
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1)


@everywhere
def test_row_8_f_returns_its_input(engine):
    x = weights()
    y = wrapped(lambda x: x, engine)(x)
    with torch.no_grad():
        y += 100.0
    assert x.tolist() == list(BASE)


# Row 9


def test_row_9_a_random_function_is_no_function_for_a_memo(tmp_path):
    draws = np.random.default_rng(0)

    def random(x):
        return x + draws.normal()

    with Memo(tmp_path / "memo.db", version=1) as memo:
        f = wrapped(random, None, memo=memo)
        suture.check(f, weights().detach())
        with pytest.raises(MethodError, match="returned different values for the same arguments"):
            f(weights())


@everywhere
def test_row_9_the_same_point_twice_is_two_calls(engine, tmp_path):
    """No engine may take one draw for two."""
    box = Box(tmp_path)
    f = wrapped(box, engine)
    torch.func.vmap(f)(torch.tensor([BASE] * 4, dtype=torch.float64))
    assert box.count() == f.tally.evaluations == 4
