"""What goes with a function to where it runs, and what it may raise, hold or be there."""

import concurrent.futures
import copy
import functools
import multiprocessing
import pickle
import threading

import pytest
import torch
from engines import BASE, PROCESSES, Box
from faults import KILL, Refuses, boom, give, here, ignore, raise_awkward, there
from gradients import (
    POINTS,
    assert_bad_point,
    assert_right,
    elsewhere,
    everywhere,
    first_line,
    formula,
    gradient,
    refused,
    weights,
    wrapped,
)

from suture import FiniteDifference, differentiable, stencils
from suture._memo import Memo
from suture.errors import BadResult, EvaluationError, MethodError, WorkerDied
from suture.executors import Workers

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("nothing_left")]

CENTRAL = FiniteDifference(stencils.CENTRAL)

processes = pytest.mark.parametrize("engine", PROCESSES, indirect=True)


# What torch is set to


def settings(x):
    """Return what the function sees, as numbers."""
    own = torch.ones(1)
    seen = [own.element_size(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")]
    product = torch.ones(2, 2, dtype=torch.float32) @ torch.ones(2, 2, dtype=torch.float32)
    return x.sum() * 2, torch.tensor([*map(int, seen), product.element_size()])


@everywhere
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_defaults_and_autocast_are_the_same_everywhere(engine, dtype):
    f = differentiable(settings, executor=engine, method=CENTRAL)
    x = weights()
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y, seen = f(x)
    finally:
        torch.set_default_dtype(before)
    assert seen.tolist() == [dtype.itemsize, 0, 0, 4]
    y.backward()  # here the default is another one, and integers must be the same
    assert x.grad.tolist() == pytest.approx([2.0] * 3)


class Meeting:
    """Two calls in two threads: the second begins while the first runs, and outlasts it."""

    def __init__(self):
        self.began, self.ended = threading.Event(), threading.Event()
        self.order, self.lock, self.seen = iter(range(99)), threading.Lock(), []

    def __call__(self, x):
        with self.lock:
            which = next(self.order)
        if which == 1:
            self.began.wait(5)
        elif which == 2:
            self.began.set()
            self.ended.wait(5)
        self.seen.append(torch.get_default_dtype())
        return x * 2.0


def test_a_thread_does_not_lose_the_default_dtype_to_another(engines):
    """The one that leaves first must not make the default what it was for the others."""
    meeting = Meeting()
    f = differentiable(meeting, executor=engines("threads"), method=CENTRAL)
    x = torch.ones(1, dtype=torch.float64, requires_grad=True)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        y = f(x)
    finally:
        torch.set_default_dtype(before)
    threading.Timer(0.1, meeting.ended.set).start()  # after the first of the two has left
    y.backward()
    assert meeting.seen == [torch.float64] * 3
    assert torch.get_default_dtype() == before


# What the function is


class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(3.0), requires_grad=False)

    def forward(self, x):
        return x * self.factor


@everywhere
def test_a_module_as_a_black_box(engine):
    """It is sent anew when it has changed."""
    module = Scale().eval()
    f = differentiable(module, executor=engine, method=CENTRAL, dtype=None)
    for factor in (3.0, 5.0):
        module.factor.fill_(factor)
        x = torch.ones(2, requires_grad=True)
        f(x).sum().backward()
        assert x.grad.tolist() == pytest.approx([factor] * 2, rel=1e-2)


@elsewhere
def test_copies_share_the_executor(engine, tmp_path):
    with Memo(tmp_path / "memo.db", version=1) as memo:
        box = Box(tmp_path)
        f = wrapped(box, engine, memo=memo)
        assert_right(f)
        for other in (copy.copy(f), copy.deepcopy(f)):
            assert other._box.service is f._box.service
            assert_right(other)
        assert box.count() == POINTS + 1


def make_workers():
    return Workers(1)


def test_a_function_that_makes_its_executor_can_be_pickled(tmp_path):
    with Memo(tmp_path / "memo.db", version=1) as memo:
        f = pickle.loads(pickle.dumps(wrapped(formula, make_workers, memo=memo)))
        assert_right(f)
        f._box.service.memo.close()
        f._box.service.pool.current().shutdown()


def test_a_pickled_function_has_no_executor(monkeypatch):
    """Its threads stay here; a process that may have no children evaluates by itself."""
    with Workers(1) as workers:
        f = pickle.loads(pickle.dumps(wrapped(formula, workers)))
    with pytest.raises(MethodError, match="a copy from a file or a pipe has none"):
        assert_right(f)
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {"daemon": True})
    assert_right(f)


def nested(inner, x):
    own = x.clone().requires_grad_()
    with torch.enable_grad():
        (slopes,) = torch.autograd.grad(inner(own).sum(), own)
    return slopes * x


def test_a_black_box_in_a_black_box_with_the_same_threads(engines):
    """All threads of the pool wait for the inner one: it has to be evaluated by them."""
    pool = engines("threads")
    inner = differentiable(formula, executor=pool, method=CENTRAL)
    f = differentiable(functools.partial(nested, inner), executor=pool, method=CENTRAL)
    x = weights()
    f(x).sum().backward()
    # The gradient of Σ x_j ∂_j (x₀x₁ + x₁x₂ + 2x₀).
    first, second, third = BASE
    assert x.grad.tolist() == pytest.approx([2 * second + 2, 2 * (first + third), 2 * second])


def test_black_boxes_that_call_each_other_by_turns_in_two_pools():
    """The only thread of the first pool waits for the second one, which must not wait for it."""
    one, two = (concurrent.futures.ThreadPoolExecutor(1) for _ in range(2))
    f = differentiable(formula, executor=one)
    for pool in (two, one):
        f = differentiable(f.forward, executor=pool, name="f")
    with one, two:
        assert f(weights()).tolist() == formula(weights()).tolist()


@processes
def test_a_black_box_in_a_black_box_in_a_worker(engine):
    inner = differentiable(formula, method=CENTRAL)
    f = differentiable(functools.partial(nested, inner), executor=engine, method=CENTRAL)
    assert gradient(f).tolist() == pytest.approx([2 * BASE[1] + 2, 2.0, 2 * BASE[1]])


# What it may raise


@pytest.mark.parametrize("engine", ["serial", "threads"], indirect=True)
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_who_wants_to_leave_leaves(engine, tmp_path, kind):
    """In this process it is the program that is ended: no policy, and no second attempt."""

    def leaving(x, result):
        raise kind(3)

    box = Box(tmp_path, leaving)
    f = wrapped(box, engine, retries=3, on_failure="skip")
    x = weights()
    loss = f(x).sum()
    with pytest.raises(kind):
        loss.backward()
    assert x.grad is None
    assert box.count("bad") == 1


@pytest.mark.parametrize("engine", ["workers"], indirect=True)
@pytest.mark.parametrize(
    ("kind", "error"), [(SystemExit, WorkerDied), (KeyboardInterrupt, EvaluationError)]
)
def test_a_worker_that_wants_to_leave_costs_its_point(engine, tmp_path, kind, error):
    def leaving(x, result):
        raise kind(3)

    assert_bad_point(refused(wrapped(Box(tmp_path, leaving), engine), error))


@processes
def test_an_error_that_cannot_be_unpickled(engine, tmp_path):
    def awkward(x, result):
        raise_awkward()

    error = refused(wrapped(Box(tmp_path, awkward), engine), EvaluationError)
    assert "Awkward" in first_line(error)
    assert "Awkward: 1" in "".join(map(str, chain(error)))
    assert_bad_point(error)


@processes
def test_an_error_that_holds_what_cannot_be_pickled(engine, tmp_path):
    def locked(x, result):
        error = ValueError("boom")
        error.lock = threading.Lock()
        raise error

    error = refused(wrapped(Box(tmp_path, locked), engine), EvaluationError)
    assert "ValueError" in first_line(error)
    assert "ValueError: boom" in "".join(map(str, chain(error)))


def chain(error):
    while error is not None:
        yield error
        error = error.__cause__


# At every stage of its way through a worker: the list of loky's tests


def with_object(x, thing):
    return x * 2.0


def returning(make, x):
    return x * 2.0, make()


STAGES = {
    "pickle": (lambda: Refuses(pickled=here(boom)), MethodError, 0),
    "unpickle": (lambda: Refuses(unpickled=there(boom)), EvaluationError, 0),
    "unpickle and die": (lambda: Refuses(unpickled=there(KILL)), WorkerDied, 1),
    "collect and die": (lambda: Refuses(ignore, None, there(KILL)), WorkerDied, 1),
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_argument_that_does_something_on_its_way(workers, stage):
    make, kind, deaths = STAGES[stage]
    f = wrapped(with_object, workers)
    before = workers.deaths
    thing = make()
    with torch.no_grad(), pytest.raises(kind) as caught:
        f(weights(), thing)
    assert type(caught.value) is kind
    assert workers.deaths - before == deaths
    assert_right(wrapped(formula, workers))


RESULTS = {
    "pickle": (there(boom), None, BadResult, 0),
    "pickle and die": (there(KILL), None, WorkerDied, 1),
    "unpickle": (None, here(boom), BadResult, 0),
}


@pytest.mark.parametrize("stage", RESULTS)
def test_a_result_that_does_something_on_its_way(workers, stage):
    pickled, unpickled, kind, deaths = RESULTS[stage]
    f = wrapped(functools.partial(returning, functools.partial(give, pickled, unpickled)), workers)
    before = workers.deaths
    with pytest.raises(kind) as caught:
        f(weights())
    assert type(caught.value) is kind
    assert workers.deaths - before == deaths
    assert_right(wrapped(formula, workers))
