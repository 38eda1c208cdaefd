"""Gradients of the black box of `engines`, as they are and as they fail."""

import functools

import pytest
import torch
from engines import BASE, ELSEWHERE, NAMES

from suture import FiniteDifference, differentiable, stencils

everywhere = pytest.mark.parametrize("engine", NAMES, indirect=True)
elsewhere = pytest.mark.parametrize("engine", ELSEWHERE, indirect=True)

# Jacobian of `Box` at BASE: central differences of products are exact but for rounding.
GRADIENT = [BASE[1] + 2, BASE[0] + BASE[2], BASE[1]]
POINTS = 6


def wrapped(box, engine, **options):
    settings = {"interface": "numpy", "method": FiniteDifference(stencils.CENTRAL)}
    return differentiable(box, executor=engine, **(settings | options))


def weights():
    return torch.tensor(BASE, dtype=torch.float64, requires_grad=True)


def gradient(f):
    x = weights()
    f(x).sum().backward()
    return x.grad


@functools.cache
def expected():
    """Return the gradient of an engine without faults, in this process."""
    numbers = tuple(gradient(differentiable(formula, method=FiniteDifference(stencils.CENTRAL))))
    assert torch.tensor(numbers).tolist() == pytest.approx(GRADIENT)
    return numbers


def formula(x):
    return x[:2] * x[1:] + x[0]


def assert_right(f):
    """The gradient is what it would be without a fault, to the last bit."""
    assert tuple(gradient(f)) == expected()


def refused(f, kind):
    """Return the error of a backward pass, which leaves everything as it was."""
    weight = weights()
    loss = f(1.0 * weight).sum()
    with pytest.raises(kind) as caught:
        loss.backward()
    assert type(caught.value) is kind
    assert weight.grad is None
    assert weight.tolist() == list(BASE)
    return caught.value


def assert_bad_point(error):
    """The error carries the point at which x[1] was increased."""
    (x,), kwargs = error.point
    assert x[1] > BASE[1]
    assert (x[0], x[2], kwargs) == (BASE[0], BASE[2], {})


def first_line(error):
    return str(error).splitlines()[0]
