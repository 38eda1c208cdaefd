"""What the function receives: in rounds that are larger than what is made at once, too."""

import numpy as np
import pytest
import torch

from suture import FiniteDifference, differentiable, stencils
from suture._inputs import _BLOCK, parts

N = 2 * _BLOCK + 10
FORWARD = FiniteDifference(stencils.FORWARD)


@pytest.mark.parametrize("make", [torch.from_numpy, lambda array: array])
def test_parts_are_those_of_the_stack_in_any_order(make):
    stack = np.arange(3.0 * N).reshape(N, 3)
    found = parts(make(stack.copy()))
    order = [*range(N), N - 1, 0, _BLOCK, _BLOCK - 1, N - 1]
    assert all(np.array_equal(found[p], stack[p]) for p in order)


@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_a_point_may_be_written_into_in_a_large_round(interface):
    def overwrites(x):
        y = x * x
        x[:] = np.nan
        return y.sum()

    f = differentiable(overwrites, interface=interface, method=FORWARD)
    x = torch.linspace(1, 2, N, dtype=torch.float64, requires_grad=True)
    f(x).backward()
    assert torch.allclose(x.grad, 2 * x.detach(), rtol=1e-5)


def test_a_large_round_is_not_there_at_once():
    seen = parts(torch.zeros(N, 2))
    for p in range(N):
        assert seen[p].shape == (2,)
        assert len(seen._made) <= _BLOCK


def test_retries_in_a_large_round_get_the_same_point():
    failed = set()

    def fails_once(x):
        which = int(np.abs(x - start).argmax())
        if np.any(x != start) and which % 100 == 0 and which not in failed:
            failed.add(which)
            raise OSError("busy")
        return x**2

    start = np.linspace(1, 2, N)
    f = differentiable(fails_once, interface="numpy", method=FORWARD, retries=1)
    x = torch.tensor(start, requires_grad=True)
    f(x).sum().backward()
    assert torch.allclose(x.grad, 2 * x.detach(), rtol=1e-5)
    assert f.tally.retries == len(failed) == 6
