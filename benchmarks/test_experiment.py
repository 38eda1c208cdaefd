"""The experiment's 400 training steps through `f_str`, against hand-written Functions."""

import pytest
import torch
from handwritten import Recomputing, Reusing
from measure import take_turns
from torch import nn

import suture
from suture.demo.experiment import f_str


def train(through, batches):
    """Train as the demo does: 20 epochs of 20 batches, Adam, mean squared error."""
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(20):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.mse_loss(through(x, weight), y).backward()
            optimizer.step()
    return weight.detach()


@pytest.fixture
def batches():
    x = torch.rand(200, generator=torch.Generator().manual_seed(0))
    y = 2 * x * 1.2 + x**2 * -3.4
    return list(zip(x.split(10), y.split(10), strict=True))


@pytest.mark.parametrize(
    ("handwritten", "name", "wanted"),
    [
        (Reusing, "float64 points, f(x) reused, 3 calls a step", "at most 1.15"),
        (Recomputing, "the blog's float32 loop, 5 calls a step", "at most 1"),
    ],
)
def test_training(benchmark, row, batches, handwritten, name, wanted):
    f = suture.differentiable(f_str, batch_dims=(0, None))
    ours, theirs, ratio = take_turns(
        lambda: train(f, batches), lambda: train(handwritten.apply, batches), rounds=9
    )
    assert torch.allclose(train(f, batches), torch.tensor([1.2, -3.4]), atol=0.005)
    assert torch.allclose(train(handwritten.apply, batches), torch.tensor([1.2, -3.4]), atol=0.02)
    row(f"400 steps, {name}", f"{ours:.2f} s", f"{theirs:.2f} s", f"{ratio:.2f} times", wanted)
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(train, args=(f, batches), rounds=1)
