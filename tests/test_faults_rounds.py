"""Rounds of points on engines: the same bits, all at once, in any order; what is skipped."""

import concurrent.futures
import os
import random
import signal

import cloudpickle
import numpy as np
import pytest
import torch
from engines import BASE, Box, boom
from gradients import (
    POINTS,
    elsewhere,
    expected,
    first_line,
    formula,
    gradient,
    weights,
    wrapped,
)

from suture import FiniteDifference, _elsewhere, differentiable, directions, stencils
from suture.errors import EvaluationError, MethodError, WorkerDied

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("nothing_left")]


# The same bits everywhere


def rowwise(x, w):
    """A function of rows (…, 3) and of w (…, 2), one operation after another."""
    return x[..., :2] * x[..., 1:] * w[..., :1] + x[..., 2:] * w[..., 1:]


def of_rows(x, w):
    """The same for a batch, whose rows share w."""
    return x[:, :2] * x[:, 1:] * w[0] + x[:, 2:] * w[1]


def backward(f, x, w):
    f(x, w).square().sum().backward()
    return x.grad, w.grad


def over_rows(f, x, w):
    torch.func.vmap(f, (0, None))(x, w).square().sum().backward()
    return x.grad, w.grad


def forward_mode(f, x, w):
    return torch.func.jvp(f, (x, w), (torch.ones_like(x), torch.ones_like(w)))


def hessian_vector(f, x, w):
    first = torch.autograd.grad(f(x, w).square().sum(), x, create_graph=True)[0]
    return torch.autograd.grad(first.sum(), (x, w))


CENTRAL = FiniteDifference(stencils.CENTRAL)
RANDOM = FiniteDifference(stencils.CENTRAL, directions.Rademacher(3))

HOW = {
    "default": (rowwise, {}, backward, False),
    "order 4": (rowwise, {"method": FiniteDifference(stencils.central(4))}, backward, False),
    "random": (rowwise, {"method": RANDOM, "seed": 3}, backward, False),
    "batch_dims": (of_rows, {"method": CENTRAL, "batch_dims": (0, None)}, backward, True),
    "vectorized": (rowwise, {"method": CENTRAL, "vectorized": True}, backward, False),
    "vmap": (rowwise, {"method": CENTRAL}, over_rows, True),
    "jvp": (rowwise, {"method": CENTRAL}, forward_mode, False),
    "hvp": (rowwise, {"method": CENTRAL}, hessian_vector, False),
}


def found(how, engine):
    fn, options, ask, rows = HOW[how]
    f = differentiable(fn, executor=engine, interface="numpy", **options)
    x = torch.linspace(0.3, 1.7, 12 if rows else 3, dtype=torch.float64)
    x = (x.reshape(4, 3) if rows else x).requires_grad_()
    w = torch.tensor([0.7, -0.4], dtype=torch.float64, requires_grad=True)
    value = f(x[0] if how == "vmap" else x, w).tolist()
    return value, [part.tolist() for part in ask(f, x, w)], f.tally.evaluations


@elsewhere
@pytest.mark.parametrize("how", HOW)
def test_the_same_bits_everywhere(engine, how):
    assert found(how, engine) == found(how, None)


# All at once, in any order


class Recording:
    """Answers when so many tasks are there, in a random order; so they must come together.

    Args:
        expected: how many tasks it waits for.
        n: how many workers it says that it has; None: it does not say.
        pace: how long an evaluation takes, according to it.
    """

    def __init__(self, expected=1, n=None, seed=0, pace=1.0):
        self.expected, self.tasks, self.order = expected, [], random.Random(seed)
        self.pace = pace
        self.sizes = []
        if n is not None:
            self.n = n

    def submit(self, fn, *points):
        future = concurrent.futures.Future()
        self.tasks.append((future, fn, points))
        self.sizes.append(len(points))
        if len(self.tasks) == self.expected:
            self.order.shuffle(self.tasks)
            for future_, fn_, points_ in self.tasks:
                future_.set_result([a._replace(seconds=self.pace) for a in fn_(*points_)])
            self.tasks.clear()
        return future


@pytest.mark.timeout(10)
@pytest.mark.parametrize("seed", range(3))
def test_all_points_of_a_round_are_submitted_together(seed):
    """Five samples of six points each, answered in any order."""
    pool = Recording(expected=5, seed=seed)
    f = wrapped(formula, pool)
    x = torch.linspace(0.3, 1.7, 15, dtype=torch.float64).reshape(5, 3).requires_grad_()
    y = torch.func.vmap(f)(x)
    pool.expected = 5 * POINTS
    y.sum().backward()
    assert pool.sizes == [1] * (5 + 5 * POINTS)
    plain = x.detach().requires_grad_()
    torch.func.vmap(wrapped(formula, None))(plain).sum().backward()
    assert torch.equal(x.grad, plain.grad)


@pytest.mark.parametrize(
    ("pace", "sizes"),
    [(1e-4, [5, 5, 4, 3, 3, 2, 2] + [1] * 6), (0.012, [2] * 12 + [1] * 6), (1.0, [1] * 30)],
)
def test_cheap_calls_share_a_task(pace, sizes):
    """Until they take 0.03 s together, and never more than leave each worker three tasks."""
    pool = Recording(n=2, pace=pace)
    f = wrapped(formula, pool)
    x = torch.linspace(0.3, 1.7, 15, dtype=torch.float64).reshape(5, 3).requires_grad_()
    y = torch.func.vmap(f)(x)
    pool.sizes.clear()
    y.sum().backward()
    assert pool.sizes == sizes
    assert sum(sizes) == 5 * POINTS


def test_a_task_has_no_more_calls_than_are_worth_it(monkeypatch):
    """However cheap they are: those of 10⁶ points must not all be held at once."""
    monkeypatch.setattr(_elsewhere, "_CALLS", 4)
    pool = Recording(n=2, pace=1e-6)
    f = wrapped(formula, pool)
    x = torch.linspace(0.3, 1.7, 15, dtype=torch.float64).reshape(5, 3).requires_grad_()
    torch.func.vmap(f)(x).sum().backward()
    assert sum(pool.sizes) == 5 + 5 * POINTS
    assert max(pool.sizes) == 4


class Fragile:
    """Its bits are the same everywhere; a worker dies of its 11th input when that is increased."""

    def __init__(self, folder, times):
        self.box = Box(folder, times=times)

    def __call__(self, x):
        self.box.note("calls")
        if x[10] > 1.0 and self.box.note("bad") <= self.box.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return x * x


def test_a_death_in_a_shared_task_costs_one_attempt(workers, tmp_path):
    """It is known which call it was; those before it are made again, as their answers are lost."""
    f = wrapped(Fragile(tmp_path, times=1), workers, retries=1)
    x = torch.ones(24, dtype=torch.float64, requires_grad=True)
    loss = f(x).sum()
    f._counter.pace = 1e-5
    loss.backward()
    assert x.grad.tolist() == pytest.approx([2.0] * 24)
    assert (f.tally.died, f.tally.failures, f._box.service.retries) == (1, 0, 1)
    assert f.tally.evaluations == f.last.evaluations + 1 == f.last.repeated + 49
    assert f.tally.evaluations == Box(tmp_path).count()
    assert Box(tmp_path).count("bad") == 2


def test_a_death_in_a_shared_task_is_that_of_its_call(workers, tmp_path):
    f = wrapped(Fragile(tmp_path, times=99), workers)
    x = torch.ones(24, dtype=torch.float64, requires_grad=True)
    loss = f(x).sum()
    f._counter.pace = 1e-5
    with pytest.raises(WorkerDied) as caught:
        loss.backward()
    assert caught.value.point[0][0][10] > 1.0
    assert caught.value.attempt == 1
    assert Box(tmp_path).count("bad") == 1


def test_calls_with_large_arguments_share_no_task():
    """To send them takes longer than to send a task."""
    pool = Recording(n=2, pace=1e-6)
    large = torch.ones(10_000, dtype=torch.float64)
    gradient(lambda x: wrapped(first, pool)(x, large))
    gradient(lambda x: wrapped(first, pool)(x, large.numpy()))
    assert set(pool.sizes) == {1}


def first(x, large):
    return x * large[0]


def test_a_point_brings_no_other_points_along():
    """A tensor is pickled with all of its storage, so each point needs one of its own."""
    sent = []

    class Sending(Recording):
        def submit(self, fn, *points):
            sent.append(len(cloudpickle.dumps(points)) / len(points))
            return super().submit(fn, *points)

    f = differentiable(doubled, executor=Sending(), method=CENTRAL)
    x = torch.linspace(1, 2, 1000, dtype=torch.float64, requires_grad=True)
    f(x, torch.ones(2000)[::2])[3].backward()
    assert max(sent) < 2 * 8 * 1000 + 1000


def doubled(x, y):
    return 2.0 * x


def test_workers_are_sent_what_changed(workers):
    """A point of 8 MB differs from the others in one block of 64 KiB."""
    f = differentiable(first_ones, executor=workers, method=CENTRAL)
    x = torch.linspace(1, 2, 4, dtype=torch.float64, requires_grad=True)
    large = torch.linspace(0, 1, 10**6, dtype=torch.float64)
    before = workers.bytes_sent
    f(x, large).sum().backward()
    assert f.tally.evaluations == 9
    assert workers.bytes_sent - before < 2.5 * 8 * 10**6  # once for each worker


def first_ones(x, large):
    return x * large[-4:]


# Executors that are none


def test_what_submits_has_to_return_futures():
    class Wrong:
        def submit(self, fn, *args):
            return 42

    with pytest.raises(MethodError) as caught:
        wrapped(formula, Wrong())(weights())
    assert first_line(caught.value) == "The executor of `formula`, a Wrong, returned an int."


@pytest.mark.parametrize("kind", ["threads", "workers"])
def test_an_executor_that_is_shut_down(kind):
    from suture.executors import Workers

    pool = concurrent.futures.ThreadPoolExecutor(1) if kind == "threads" else Workers(1)
    f = wrapped(formula, pool)
    x = weights()
    loss = f(x).sum()
    pool.shutdown()
    with pytest.raises(MethodError, match="takes no calls"):
        loss.backward()
    assert x.grad is None


def test_a_pool_that_breaks_is_made_anew_once():
    """However many tasks are lost with it; what was lost is evaluated one at a time."""
    made = []

    class Breaking(Recording):
        def submit(self, fn, *points):
            if len(made) > 1 or not self.sizes:
                return super().submit(fn, *points)
            future = concurrent.futures.Future()
            self.tasks.append(future)
            if len(self.tasks) == POINTS:
                for lost in self.tasks:
                    lost.set_exception(concurrent.futures.BrokenExecutor("a worker died"))
            return future

    def make():
        made.append(Breaking())
        return made[-1]

    f = wrapped(formula, make, retries=1)
    x = weights()
    loss = f(x).sum()
    loss.backward()
    assert tuple(x.grad.tolist()) == tuple(float(g) for g in expected())
    assert len(made) == 2
    assert made[1].sizes == [1] * POINTS


def test_a_pool_that_breaks_under_one_call_names_it():
    """Nothing else ran there, so it need not be evaluated twice to be blamed."""

    class Breaking:
        calls = 0

        def submit(self, fn, *points):
            Breaking.calls += 1
            future = concurrent.futures.Future()
            future.set_exception(concurrent.futures.BrokenExecutor("a worker died"))
            return future

    f = wrapped(formula, lambda: Breaking())
    with pytest.raises(WorkerDied) as caught:
        f(weights())
    assert caught.value.point[0][0].tolist() == list(BASE)
    assert Breaking.calls == 1


# What is skipped


def lost(x, w):
    """A batch in which rows have no value that begin with a number above 2."""
    result = x[:, :2] * x[:, 1:] * w[0] + x[:, 2:] * w[1]
    result[x[:, 0] > 2.0] = np.nan
    return result


def refusing(x, w):
    """A batch that is refused with such a row."""
    if (x[:, 0] > 2.0).any():
        raise ValueError("boom")
    return of_rows(x, w)


@elsewhere
def test_skipping_a_row_of_a_batch(engine):
    """Its gradient is zero, and shared inputs get the sum of the others."""
    options = {"method": CENTRAL, "batch_dims": (0, None), "interface": "numpy"}
    x = torch.tensor([[0.5, 1.0, 1.5], [2.0, 0.4, 0.6], [1.2, 0.3, 0.1]], dtype=torch.float64)
    w = torch.tensor([0.7, -0.4], dtype=torch.float64)
    rows, shared = x.clone().requires_grad_(), w.clone().requires_grad_()
    f = differentiable(lost, executor=engine, on_failure="skip", **options)
    with pytest.warns(UserWarning, match="1 of 3 samples"):
        f(rows, shared).sum().backward()
    assert (f.last.skipped, f.last.failed, f.tally.skipped) == (1, 1, 1)
    others, alone = x[[0, 2]].clone().requires_grad_(), w.clone().requires_grad_()
    differentiable(of_rows, **options)(others, alone).sum().backward()
    assert rows.grad[1].tolist() == [0.0] * 3
    assert torch.allclose(rows.grad[[0, 2]], others.grad, rtol=1e-9)
    assert torch.allclose(shared.grad, alone.grad, rtol=1e-9)


def test_a_batch_that_raises_loses_all_of_its_rows():
    """An exception does not say which row it was."""
    x = torch.tensor([[0.5, 1.0, 1.5], [2.0, 0.4, 0.6]], dtype=torch.float64, requires_grad=True)
    w = torch.tensor([0.7, -0.4], dtype=torch.float64)
    options = {"method": CENTRAL, "batch_dims": (0, None), "interface": "numpy"}
    f = differentiable(refusing, on_failure="skip", max_failed_fraction=0.5, **options)
    with pytest.warns(UserWarning, match="2 of 2 samples"):
        f(x, w).sum().backward()
    assert not x.grad.any()


def test_skipping_in_forward_mode(tmp_path):
    f = wrapped(Box(tmp_path, boom), None, on_failure="skip", max_failed_fraction=1)
    x = torch.stack([weights().detach(), weights().detach() * 0.5])
    v = torch.ones(3, dtype=torch.float64)
    with pytest.warns(UserWarning, match="1 of 2 samples"):
        _, tangents = torch.func.vmap(lambda one: torch.func.jvp(f, (one,), (v,)))(x)
    assert tangents[0].tolist() == [0.0, 0.0]
    right = torch.func.jvp(wrapped(formula, None), (x[1],), (v,))[1]
    assert torch.allclose(tangents[1], right)


@pytest.mark.parametrize(
    ("fraction", "passes"), [(1 / 6, True), (0.166, False), (0, False), (1, True)]
)
def test_the_part_of_points_that_may_fail(tmp_path, fraction, passes):
    """Of the six points of a gradient, one fails; the forward pass is not counted."""
    f = wrapped(Box(tmp_path, boom), None, on_failure="skip", max_failed_fraction=fraction)
    x = weights()
    loss = f(x).sum()
    if passes:
        with pytest.warns(UserWarning, match="gradient is zero"):
            loss.backward()
        assert x.grad.tolist() == [0.0] * 3
        return
    with pytest.raises(EvaluationError) as caught:
        loss.backward()
    assert first_line(caught.value).startswith("1 of 6 points of a gradient of `box` failed")
    assert isinstance(caught.value.__cause__, ValueError)
    assert x.grad is None


def test_a_call_of_many_points_that_fails_counts_each_point_once():
    """The points are evaluated each by itself then, which makes no more points of them."""

    def picky(x):
        if (x[..., 1] > BASE[1]).any():
            raise ValueError("boom")
        return x * 1.0

    options = {"vectorized": True, "on_failure": "skip"}
    f = wrapped(picky, None, max_failed_fraction=1 / 6, **options)
    with pytest.warns(UserWarning, match="gradient is zero"):
        assert gradient(f).tolist() == [0.0] * 3
    assert (f.last.failed, f.last.repeated, f.last.evaluations) == (1, 6, 12)
    assert f.tally.points == 1 + POINTS
    with pytest.raises(EvaluationError, match="1 of 6 points"):
        gradient(wrapped(picky, None, max_failed_fraction=0.16, **options))


@pytest.mark.parametrize("policy", ["skip", "one_sided", "shrink"])
def test_second_derivatives_do_without_points_or_raise(policy):
    """No policy makes up for points that the difference of two gradients needs."""

    def picky(x):
        if x[1] > BASE[1] + 1e-5:
            raise ValueError("boom")
        return x * x

    f = wrapped(picky, None, on_failure=policy, max_failed_fraction=1)
    x = weights()
    (first,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    with pytest.raises(EvaluationError):
        first.sum().backward()
    assert x.grad is None
