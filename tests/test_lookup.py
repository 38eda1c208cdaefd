"""The memo in the pipeline: which points are looked up, and what is kept of them."""

import copy
import functools
import sqlite3
import subprocess
import sys
import threading
import warnings
from concurrent.futures import Future

import numpy as np
import pytest
import torch

import suture
from suture import AdaptiveDifference, CustomVJP, FiniteDifference, Memo, directions, stencils
from suture.errors import BadResult, EvaluationError, MethodError, PointFailed
from suture.executors import Workers

pytestmark = pytest.mark.timeout(60)

CENTRAL = FiniteDifference(stencils.CENTRAL)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "memo.db"


def smooth(x):
    return torch.sin(x) * x.sum(-1, keepdim=True)


def wants(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype, requires_grad=True)


def gradients(f, *starts):
    """Return values and gradients at some points, one after another."""
    found = []
    for start in starts:
        x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        y = f(x)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
        found += [y.detach(), gradient]
    return found


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


METHODS = {
    "default": FiniteDifference(),
    "central": CENTRAL,
    "complex": FiniteDifference(stencils.COMPLEX_STEP),
    "random": FiniteDifference(directions=directions.Rademacher(2)),
    "adaptive": AdaptiveDifference(1e-6),
    "half a rule": CustomVJP(lambda args, output, cotangent: NotImplemented),
}
STACKS = {"none": {}, "rows": {"batch_dims": 0}, "points": {"vectorized": True}}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("stack", STACKS)
def test_a_second_run_evaluates_nothing_and_is_the_same(path, method, stack):
    starts = ([[0.1, 0.2], [0.3, 0.5], [0.2, 0.4]], [[0.4, 0.1], [0.2, 0.9], [0.8, 0.3]])
    options = {"method": method, **STACKS[stack]}
    bare = suture.differentiable(smooth, **options)
    expected = gradients(bare, *starts)
    first = suture.differentiable(smooth, **options, memo=Memo(path))
    assert same(gradients(first, *starts), expected)
    assert first.tally.hits == 0
    assert first.evaluations == bare.evaluations
    again = suture.differentiable(smooth, **options, memo=Memo(path))
    assert same(gradients(again, *starts), expected)
    assert again.evaluations == 0
    # Claims were checked in the first run.
    claims = (stack == "rows") + 3 * (method is METHODS["complex"])
    assert again.tally.hits == first.evaluations - claims


@pytest.mark.parametrize("stack", ["rows", "points"])
def test_chunks_of_another_size_find_the_same_points(path, stack):
    start = [[0.1, 0.2, 0.3], [0.4, 0.6, 0.5]]
    options = {"method": CENTRAL, **STACKS[stack]}
    first = suture.differentiable(smooth, **options, memo=Memo(path), chunk_size=2)
    expected = gradients(first, start)
    for others in ({}, {"chunk_size": 5}, {"chunk_size": 1}):
        again = suture.differentiable(smooth, **options, **others, memo=Memo(path))
        assert same(gradients(again, start), expected)
        assert again.evaluations == 0
    with Workers(2) as workers:
        again = suture.differentiable(smooth, **options, executor=workers, memo=Memo(path))
        assert same(gradients(again, start), expected)
        assert again.evaluations == 0


def test_what_is_missing_is_evaluated_in_chunks(path):
    sizes = []

    def counted(x, w):
        sizes.append(len(x))
        return x * w

    f = suture.differentiable(
        counted,
        method=FiniteDifference(stencils.FORWARD),
        vectorized=True,
        chunk_size=2,
        memo=Memo(path, version=1),
    )
    x, w = wants(1.0, 2.0, 3.0), wants(4.0, 5.0, 6.0)
    y = f(x, w).sum()
    torch.autograd.grad(y, x, retain_graph=True)
    assert sizes == [1, 2, 1]
    torch.autograd.grad(y, (x, w))
    assert sizes == [1, 2, 1, 2, 1]
    assert (f.evaluations, f.tally.hits) == (7, 3)


def test_vmap(path):
    f = suture.differentiable(smooth, method=CENTRAL, memo=Memo(path))
    x = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def slopes():
        return torch.vmap(torch.func.grad(lambda row: f(row).sum()))(x)

    first, evaluated = slopes(), f.evaluations
    assert evaluated == 4 * 7
    assert torch.equal(slopes(), first)
    assert (f.evaluations, f.tally.hits) == (evaluated, evaluated)
    one = torch.func.grad(lambda row: f(row).sum())(x[2])
    assert torch.equal(one, first[2])
    assert f.evaluations == evaluated


def labeled(x):
    return {"y": x**2, "steps": 7, "even": np.arange(3) % 2 == 0, "how": "newton", "no": None}


def test_integers_and_strings_come_back(path):
    for evaluations in (1, 0):
        f = suture.differentiable(labeled, interface="numpy", memo=Memo(path))
        result = f(wants(1.0, 2.0, 3.0))
        assert f.evaluations == evaluations
        assert result["how"] == "newton"
        assert result["no"] is None
        assert result["steps"].item() == 7
        assert result["even"].tolist() == [True, False, True]
        assert result["even"].dtype == torch.bool
        assert result["y"].tolist() == [1.0, 4.0, 9.0]


PROGRAM = """
import sys, numpy as np, torch, suture

fns = [
    lambda x: float((x ** 2).sum()),
    lambda x: (x ** 2).sum(),
    lambda x: (x ** 2).astype(np.float32),
    lambda x: torch.as_tensor(x ** 2),
    lambda x: torch.as_tensor(x ** 2).bfloat16(),
    lambda x: (x ** 2, int(x.sum()), complex(x[0], 1)),
    lambda x: np.broadcast_to(x[0] ** 2, (2, 3)),
]
memo, evaluations = suture.Memo(sys.argv[1]), 0
for fn in fns:
    f = suture.differentiable(fn, interface="numpy", memo=memo)
    x = torch.tensor([0.3, 0.6, 0.1], requires_grad=True)
    y = f(x)
    leaves = y if isinstance(y, tuple) else (y,)
    sum(leaf.abs().sum() for leaf in leaves if leaf.requires_grad).backward()
    print([(leaf.tolist(), leaf.dtype) for leaf in leaves], x.grad.tolist(), f.calibration)
    evaluations += f.evaluations
print(evaluations)
"""


def test_another_process_begins_with_hits(path):
    """The form of a result is then that of what the memo holds."""
    program = [sys.executable, "-c", PROGRAM, path]
    first, again = (
        subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
        for _ in range(2)
    )
    assert len(first) == 8
    assert first[:-1] == again[:-1]
    assert int(first[-1]) > int(again[-1]) == 0


# ------------------------------------------------------------------------------------------------
# What is not kept
# ------------------------------------------------------------------------------------------------


def test_nan_is_not_kept(path):
    memo = Memo(path, version=1)
    f = suture.differentiable(lambda x: x.sqrt(), memo=memo, method=CENTRAL, on_failure="one_sided")
    x = wants(1e-12, 0.5, 0.7, 0.9)
    for evaluated in (9, 10):  # NaN at the same point, again
        f(x).sum().backward()
        assert f.last.failed == 1
        assert f.evaluations >= evaluated
    assert memo.info().values == memo.counts.writes == f.evaluations - 2


def test_failures_are_not_kept(path):
    def fails(x):
        if x[0] > 1.0:
            raise PointFailed("diverged")
        if x[0] < 1.0:
            return "diverged", 1.0
        return x**2

    memo = Memo(path, version=1)
    for method in (FiniteDifference(stencils.FORWARD), FiniteDifference(stencils.BACKWARD)):
        f = suture.differentiable(fails, memo=memo, method=method)
        for _ in range(2):
            with pytest.raises(EvaluationError):
                f(wants(1.0, 2.0)).sum().backward()
    assert memo.info().values == 1


def test_a_point_of_a_stack_that_is_not_finite_is_not_kept(path):
    def pole(x):
        return torch.where(x[:, :1] > 1.0, torch.nan, x)

    f = suture.differentiable(pole, vectorized=True, memo=Memo(path), method=CENTRAL)
    with pytest.raises(BadResult, match="returned nan"):
        f(wants(1.0, 2.0)).sum().backward()
    assert Memo(path).info().values == 4  # x, and three of four points


# ------------------------------------------------------------------------------------------------
# Which function, which precision
# ------------------------------------------------------------------------------------------------


def evaluations(memo, fn, x, **options):
    f = suture.differentiable(fn, memo=memo, method=CENTRAL, **options)
    f(x).sum().backward()
    return f.evaluations


def test_functions_do_not_take_each_others_values(path):
    memo, x = Memo(path), wants(1.0, 2.0)
    assert evaluations(memo, lambda x: x**2, x) == 5
    assert evaluations(memo, lambda x: x**3, x) == 5
    assert x.grad.tolist() == pytest.approx([2.0 + 3.0, 4.0 + 12.0], rel=1e-6)
    assert evaluations(memo, lambda x: x**2, x) == 0


def test_a_function_that_changed_is_evaluated_anew(path, monkeypatch):
    memo, x = Memo(path), wants(1.0, 2.0)
    monkeypatch.setitem(globals(), "GAIN", 2.0)
    assert evaluations(memo, scaled, x) == 5
    monkeypatch.setitem(globals(), "GAIN", 3.0)
    assert evaluations(memo, scaled, x) == 5
    assert evaluations(memo, scaled, x) == 0


GAIN = 1.0


def scaled(x):
    return GAIN * x**2


def test_a_version_is_the_users_word(path):
    table = {"gain": 2.0}

    def closed(x):
        return table["gain"] * x

    x = wants(1.0, 2.0)
    with pytest.raises(MethodError, match="holds, as `table` in its closure") as refused:
        evaluations(Memo(path), closed, x)
    assert 'version="1"' in str(refused.value)
    assert evaluations(Memo(path, version="1"), closed, x) == 5
    table["gain"] = 3.0  # which nobody can see
    assert evaluations(Memo(path, version="1"), closed, x) == 0
    assert evaluations(Memo(path, version="2"), closed, x) == 5


def test_precisions_do_not_take_each_others_values(path):
    memo, x = Memo(path), wants(1.0, 2.0, dtype=torch.float32)
    assert evaluations(memo, smooth, x) == 5
    assert evaluations(memo, smooth, x, dtype=None) == 5
    assert evaluations(memo, smooth, x.double().detach().requires_grad_(), dtype=None) == 5
    # The same numbers reach the function in the same precision, but it is called another way.
    assert evaluations(memo, smooth, x, dtype=None) == 0


def test_arguments_that_cannot_be_compared_are_refused_by_name(path):
    f = suture.differentiable(lambda x, settings: x * 2, memo=Memo(path))
    with pytest.raises(MethodError, match=r"no key for `args\[1\]`, of type object"):
        f(wants(1.0), object())


# ------------------------------------------------------------------------------------------------
# Random functions
# ------------------------------------------------------------------------------------------------

RANDOM = """
import sys, numpy as np, torch, suture

def roll(x):
    return x + np.random.default_rng().random(3)

x = torch.tensor([1.0, 2.0, 3.0])
for allow in (False, True):
    memo = suture.Memo(sys.argv[1], allow_random=allow)
    f = suture.differentiable(roll, interface="numpy", memo=memo)
    try:
        print("the same:", torch.equal(f(x), f(x)))
    except suture.errors.MethodError as error:
        print(str(error).splitlines()[0])
suture.check(roll, x)  # it cannot know of a memo
f(x)
suture.check(f, x)
"""


def test_what_check_finds_to_be_random_is_refused_in_all_processes(path):
    first, again = (
        subprocess.run(
            [sys.executable, "-c", RANDOM, path], capture_output=True, text=True, check=True
        ).stdout.splitlines()[:2]
        for _ in range(2)
    )
    assert first == ["the same: True"] * 2
    assert again == [
        "`roll` returned different values for the same arguments when `check` looked.",
        "the same: True",
    ]


def test_check_writes_nothing_down_about_other_functions(path, capsys):
    f = suture.differentiable(smooth, memo=Memo(path))
    assert suture.check(f, torch.tensor([0.3, 0.7])).deterministic
    assert Memo(path).info().values == 0  # it looks at the function, not at the memo
    assert evaluations(Memo(path), smooth, wants(0.3, 0.7)) == 5


# ------------------------------------------------------------------------------------------------
# Threads, and disks that fail
# ------------------------------------------------------------------------------------------------


def test_two_threads_share_a_function_and_its_memo(path):
    f = suture.differentiable(smooth, memo=Memo(path), method=CENTRAL)
    starts = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = {}

    def work(name, order):
        for i in order:
            x = starts[i].clone().requires_grad_()
            f(x).sum().backward()
            found[name, i] = x.grad

    threads = [
        threading.Thread(target=work, args=("up", range(20))),
        threading.Thread(target=work, args=("down", reversed(range(20)))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bare = suture.differentiable(smooth, method=CENTRAL)
    for i in range(20):
        x = starts[i].clone().requires_grad_()
        bare(x).sum().backward()
        assert torch.equal(found["up", i], x.grad)
        assert torch.equal(found["down", i], x.grad)
    assert f.evaluations + f.tally.hits == 2 * 20 * 7
    assert f.tally.hits >= 20


def test_a_full_disk_costs_one_warning_and_training_goes_on(path, monkeypatch):
    memo = Memo(path)
    changed = memo._file.changed

    def full(statement, values=()):
        if "INSERT" in statement:
            raise sqlite3.OperationalError("database or disk is full")
        return changed(statement, values)

    f = suture.differentiable(smooth, memo=memo, method=CENTRAL, batch_dims=0)
    x = wants([0.1, 0.2], [0.4, 0.3], [0.9, 0.7])
    f(x).sum().backward()
    monkeypatch.setattr(memo._file, "changed", full)
    expected, grads = suture.differentiable(smooth, method=CENTRAL, batch_dims=0), []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            x = x.detach().mul(0.9).requires_grad_()
            f(x).sum().backward()
            grads.append(x.grad)
    assert [str(w.message).split(": ")[1].split(".")[0] for w in caught] == [
        "database or disk is full"
    ]
    x = wants([0.1, 0.2], [0.4, 0.3], [0.9, 0.7])
    for gradient in grads:
        x = x.detach().mul(0.9).requires_grad_()
        expected(x).sum().backward()
        assert torch.equal(gradient, x.grad)
    assert memo.counts.failed_writes == 3 * 5


# ------------------------------------------------------------------------------------------------
# Claims
# ------------------------------------------------------------------------------------------------


def test_a_claim_is_checked_once_for_all_runs(path):
    options = {"batch_dims": 0, "method": CENTRAL}
    x = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def cost(x, **others):
        f = suture.differentiable(smooth, memo=Memo(path), **options, **others)
        f(x.clone().requires_grad_()).sum().backward()
        return f.evaluations

    assert cost(x) == 1 + 6 + 1
    assert cost(x + 1) == 1 + 6
    assert cost((x + 1).float(), dtype=None) == 1 + 6 + 1  # other code may run
    assert cost((x + 2).float(), dtype=None) == 1 + 6


def test_a_claim_that_failed_is_not_established(path):
    f = suture.differentiable(lambda x: x - x.mean(0), memo=Memo(path), batch_dims=0)
    for _ in range(2):
        with pytest.raises(BadResult, match="moved by"):
            f(wants([0.1, 0.2], [0.4, 0.3], [0.9, 0.7])).sum().backward()


def test_one_row_with_a_memo_has_no_company(path):
    """Its f(x) comes from the memo, and so cannot show that it depends on its company."""
    f = suture.differentiable(lambda x: x**2 - x.mean(0), memo=Memo(path), batch_dims=0)
    x = wants([1.0, 2.0])
    f(x).sum().backward()
    assert torch.allclose(x.grad, 2 * x.detach() - 1)


def test_one_row_with_a_memo_is_not_checked_at_the_price_of_three(path):
    f = suture.differentiable(smooth, memo=Memo(path), method=CENTRAL, batch_dims=0)
    f(wants([0.1, 0.2])).sum().backward()
    assert f.evaluations == 1 + 4


def test_a_claim_about_another_dimension_is_another_claim(path):
    def summed(x):  # column b of a square is row b of the result; of its rows that is not true
        return x.cumsum(0).T.contiguous()

    options = {"method": CENTRAL, "chunk_size": 1}
    memo, x = Memo(path), torch.eye(3, dtype=torch.float64, requires_grad=True)
    suture.differentiable(summed, memo=memo, batch_dims=1, **options)(x).sum().backward()
    f = suture.differentiable(summed, memo=memo, batch_dims=0, **options)
    with pytest.raises(BadResult, match="moved by"):
        f(x + 1).sum().backward()


# ------------------------------------------------------------------------------------------------
# What looks the same and is not
# ------------------------------------------------------------------------------------------------


def test_a_stacked_call_is_another_one(path):
    def second(x):  # over another dimension of a matrix when it gets a stack of them
        return x.sum(dim=1)

    x, memo = torch.arange(4.0).reshape(2, 2), Memo(path)
    stacked = suture.differentiable(second, memo=memo, vectorized=True)
    assert stacked(x).tolist() == [2, 4]
    assert suture.differentiable(second, memo=memo)(x).tolist() == [1, 5]


def test_a_module_in_train_mode_is_another_one(path):
    norm = torch.nn.BatchNorm1d(2).double().requires_grad_(False)
    f = suture.differentiable(norm, memo=Memo(path, version=1))
    x = wants([1.0, 2.0], [3.0, 5.0]).detach()
    trained = f(x)
    norm.eval()
    assert torch.equal(f(x), norm(x))
    assert not torch.equal(f(x), trained)


class Spring:
    def __init__(self, stiffness):
        self.stiffness = stiffness

    def force(self, x):
        return self.stiffness * x


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Spring(1.0).force, Spring(2.0).force),
        (functools.partial(torch.mul, other=1.0), functools.partial(torch.mul, other=2.0)),
        (lambda x: 1 * x, lambda x: 2 * x),
    ],
    ids=["methods", "partials", "lambdas"],
)
def test_a_version_does_not_stand_for_two_functions(path, one, other):
    memo, x = Memo(path, version=1), torch.ones(2)
    assert suture.differentiable(one, memo=memo)(x).tolist() == [1, 1]
    with pytest.raises(MethodError, match="Two functions named"):
        suture.differentiable(other, memo=memo)(x)
    assert suture.differentiable(other, memo=memo, name="other")(x).tolist() == [2, 2]
    copy_ = suture.differentiable(copy.deepcopy(one), memo=memo)
    assert copy_(x).tolist() == [1, 1]
    assert copy_.evaluations == 0


class AtOnce:
    """An executor of one worker that is done before anybody looks."""

    n = 1

    def submit(self, fn, *args):
        future = Future()
        future.set_result(fn(*args))
        return future


def test_what_a_task_has_evaluated_is_kept_although_one_of_its_calls_failed(path):
    def breaks(x):
        if x[1] > 2.0:
            raise RuntimeError("broken")
        return x**2

    memo, x = Memo(path), wants(*range(1, 9))
    f = suture.differentiable(breaks, method=CENTRAL, memo=memo, executor=AtOnce())
    y = f(x)
    f._counter.pace = 1e-6  # so that calls share tasks
    before = memo.counts.writes
    with pytest.raises(EvaluationError, match="broken"):
        y.sum().backward()
    # The first tasks have 6, 4 and 2 calls, and one of these fails.
    assert memo.counts.writes - before == 11
