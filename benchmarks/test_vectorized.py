"""A vectorized NumPy function of 1000 inputs, against its bare call and against the loop."""

import numpy as np
import torch
from handwritten import looping
from measure import take_turns

import suture

N = 1000


def tanh_sum(points):
    return np.tanh(points).sum(axis=-1, keepdims=True)


def test_vectorized(benchmark, row):
    f = suture.differentiable(tanh_sum, interface="numpy", vectorized=True)
    x = torch.rand(N, dtype=torch.float64, requires_grad=True)
    at = x.detach().numpy()

    def gradient():
        return torch.autograd.grad(f(x).sum(), x)

    def bare():
        points = np.repeat(at[None], N, axis=0)
        points[np.arange(N), np.arange(N)] += 1.5e-8 * at
        return tanh_sum(points)

    by_hand = looping(tanh_sum)

    def loop():
        return torch.autograd.grad(by_hand(x).sum(), x)

    (found,) = gradient()
    # The rounding of the sum, about 460, divided by the step of 1.5e-8.
    assert torch.allclose(found, 1 - torch.tanh(x.detach()) ** 2, atol=1e-4)
    ours, calls, ratio = take_turns(gradient, bare, rounds=41)
    row(
        "tanh(P).sum(1), 1000 inputs: points and bare call",
        f"{ours * 1e3:.1f} ms",
        f"{calls * 1e3:.1f} ms",
        f"{ratio:.2f} times",
        "at most 1.3",
    )
    _, slow, ratio = take_turns(loop, gradient, rounds=11)
    slow = ours * ratio
    row(
        "tanh(P).sum(1), 1000 inputs: the loop",
        f"{ours * 1e3:.1f} ms",
        f"{slow * 1e3:.1f} ms",
        f"{ratio:.1f} times faster",
        "at least 20",
    )
    benchmark.extra_info["ratio"] = ratio
    benchmark(gradient)
