"""What a call of a formula costs: the formula as a Python function, and `eval` of the string."""

import numpy as np
import pytest
import torch
from measure import take_turns

from suture.functions import Expression

TIMES = 2000
FORMULA = "2*x*w[0] + x**2*w[1]"
W = np.array([0.5, 2.0])


def bare(x, w):
    return 2 * x * w[0] + x**2 * w[1]


def evaluated(x, w):
    return eval(FORMULA, {}, {"x": x, "w": w})


ARGUMENTS = {
    "a number and two weights": (1.5, W),
    "100 numbers and two weights": (np.linspace(0, 1, 100), W),
    "tensors: a number and two weights": (torch.tensor(1.5).double(), torch.from_numpy(W)),
    "tensors: 100 numbers and two weights": (
        torch.linspace(0, 1, 100).double(),
        torch.from_numpy(W),
    ),
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_call(benchmark, row, kind):
    f, arguments = Expression(FORMULA, "x", "w"), ARGUMENTS[kind]
    ours, theirs, ratio = take_turns(
        lambda: f(*arguments), lambda: bare(*arguments), rounds=21, times=TIMES
    )
    row(
        f"a formula, {kind}",
        f"{ours * 1e6:.1f} µs",
        f"{theirs * 1e6:.1f} µs (a function)",
        f"{ours * 1e6:.1f} µs, {ratio:.2f} times",
        "" if kind.startswith("tensors: 100") else "at most 5 µs",
    )
    benchmark(lambda: f(*arguments))


def test_a_call_by_name(benchmark, row):
    f = Expression(FORMULA, "x", "w")
    ours, theirs, ratio = take_turns(
        lambda: f(w=W, x=1.5), lambda: evaluated(1.5, W), rounds=21, times=TIMES
    )
    row(
        "a formula, by name, a number and two weights",
        f"{ours * 1e6:.1f} µs",
        f"{theirs * 1e6:.1f} µs (`eval` of the string)",
        f"{ours * 1e6:.1f} µs, {1 / ratio:.1f} times faster",
        "at most 5 µs",
    )
    benchmark(lambda: f(w=W, x=1.5))


def test_numbers_with_a_condition(benchmark, row):
    f = Expression("a*x if x > 0 else b*x**2", "x", "a", "b")
    ours, theirs, ratio = take_turns(
        lambda: f(1.5, 2.0, 3.0),
        lambda: (lambda x, a, b: a * x if x > 0 else b * x**2)(1.5, 2.0, 3.0),
        rounds=21,
        times=TIMES,
    )
    row(
        "a formula with a condition, three numbers",
        f"{ours * 1e6:.1f} µs",
        f"{theirs * 1e6:.1f} µs (a function)",
        f"{ours * 1e6:.1f} µs, {ratio:.2f} times",
        "at most 5 µs",
    )
    benchmark(lambda: f(1.5, 2.0, 3.0))


def test_reading(benchmark, row):
    ours, theirs, ratio = take_turns(
        lambda: Expression(FORMULA, "x", "w"),
        lambda: compile(FORMULA, "formula", "eval"),
        rounds=21,
        times=100,
    )
    row(
        "a formula is read, once",
        f"{ours * 1e6:.0f} µs",
        f"{theirs * 1e6:.0f} µs (`compile`)",
        f"{ours * 1e6:.0f} µs, {ratio:.1f} times",
        "",
    )
    benchmark(lambda: Expression(FORMULA, "x", "w"))
