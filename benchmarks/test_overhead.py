"""What one forward and one backward cost over the bare calls of the function."""

import pytest
import torch
from handwritten import looping
from measure import take_turns

import suture


def double(x):
    return x * 2.0


@pytest.mark.parametrize("n", [1, 10, 100])
def test_overhead(benchmark, row, n):
    f = suture.differentiable(double, interface="numpy")
    x = torch.rand(n, requires_grad=True)
    cotangent = torch.ones(n)
    point = x.detach().double().numpy()

    def gradient():
        return torch.autograd.grad(f(x), x, cotangent)

    def bare():
        for _ in range(n + 1):
            double(point)

    written = looping(double)

    def by_hand():
        return torch.autograd.grad(written(x), x, cotangent)

    times = 2000 // (n + 10)
    ours, calls, _ = take_turns(gradient, bare, rounds=21, times=times)
    theirs, _, _ = take_turns(by_hand, bare, rounds=11, times=times)
    overhead, allowed = (ours - calls) * 1e6, 250 + 10 * (n + 1)
    row(
        f"overhead over bare calls, n = {n}",
        f"{overhead:.0f} µs",
        f"{(theirs - calls) * 1e6:.0f} µs",
        f"{overhead / allowed:.2f} of the budget",
        f"at most {allowed} µs",
    )
    benchmark.extra_info["overhead"] = overhead
    benchmark(gradient)
