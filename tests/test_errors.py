"""Every message, word for word, each provoked by a mistake that somebody could make.

A message has three lines: what happened, with the user's names and values; what was needed;
something to type. The last section checks that no message in the source is missing here.
"""

import ast
import atexit
import concurrent.futures
import contextlib
import copy
import dataclasses
import functools
import math
import multiprocessing
import multiprocessing.pool
import os
import pickle
import re
import signal
import sqlite3
import sys
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import faults
import numpy as np
import pytest
import torch
import umbridge_server
from torch.fx.experimental.proxy_tensor import make_fx

import suture
from suture import (
    AdaptiveDifference,
    CustomVJP,
    FiniteDifference,
    Stencil,
    _memo_command,
    _tree,
    differentiable,
    directions,
    executors,
    functions,
    stencils,
)
from suture._fingerprint import fingerprint
from suture._lookup import RANDOM
from suture._memo import Memo
from suture.errors import (
    BadResult,
    EvaluationError,
    MethodError,
    MissingExtraError,
    PointFailed,
    SutureError,
    TimedOut,
    TransformError,
    WorkerDied,
)
from suture.executors import Workers, _parcel, _tasks
from suture.executors._deaths import RemoteTraceback
from suture.executors._refuse import check_executor
from suture.functions import Expression, UnsafePython
from suture.methods import Linearization, Points, Primal, Room

COMPLEX_STEP = FiniteDifference(stencils.COMPLEX_STEP)
BACKWARD = FiniteDifference(stencils.BACKWARD, step=0.5)
FORWARD = FiniteDifference(stencils.FORWARD)


@dataclasses.dataclass(frozen=True)
class Case:
    """A mistake, and what is said about it."""

    provoke: Callable[[], None]
    error: type[SutureError]
    lines: tuple[str, ...]


CASES: dict[str, Case] = {}


def says(error, *lines):
    """Register a function as a case: it must raise `error` with these lines."""

    def register(provoke):
        assert provoke.__name__ not in CASES
        CASES[provoke.__name__] = Case(provoke, error, lines)
        return provoke

    return register


def wants(*values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def spring(x):
    return 2 * x


def settle(x):
    if (x < 0).any():
        raise ArithmeticError("no equilibrium\nafter 100 iterations")
    return x**0.5


def real_only(x):
    if x.is_complex():
        raise TypeError("only real numbers")
    return x


def fill(x):
    """Lose the imaginary part in a real array."""
    result = torch.empty(x.shape, dtype=torch.float64)
    result[:] = x.real
    return result


class Strange(Exception):
    def __init__(self, one, two):
        super().__init__("no arguments of its own")


def fail_strangely(x):
    raise Strange(1, 2)


class Cart:
    def __init__(self, mass):
        self.mass = mass

    def push(self, x):
        return x * self.mass

    def __call__(self, x):
        return x * self.mass["left"]


GLOBAL_WEIGHT = wants(2.0)


def uses_a_global(x):
    return x * GLOBAL_WEIGHT


# ------------------------------------------------------------------------------------------------
# What is written: methods
# ------------------------------------------------------------------------------------------------


@says(
    MethodError,
    "A stencil with nodes (-1, 0, 1), weights (-0.5, 0.5) and order 2 is not a rule.",
    "Each node needs one weight, and no node may stand twice.",
    "Use one of `suture.stencils`, or `Stencil((0, 1), (-1, 1), order=1)` as a start.",
)
def stencil_with_a_weight_too_few():
    Stencil(nodes=(-1, 0, 1), weights=(-0.5, 0.5), order=2)


@says(
    MethodError,
    "A stencil with nodes (0, 1, 1), weights (-1, 0.5, 0.5) and order 1 is not a rule.",
    "Each node needs one weight, and no node may stand twice.",
    "Use one of `suture.stencils`, or `Stencil((0, 1), (-1, 1), order=1)` as a start.",
)
def stencil_with_a_node_twice():
    Stencil(nodes=(0, 1, 1), weights=(-1, 0.5, 0.5), order=1)


@says(
    MethodError,
    "A stencil with nodes (0, 1), weights (-inf, 1) and order 1 is not a rule.",
    "All nodes and weights must be finite numbers.",
    "Use one of `suture.stencils`, or `Stencil((0, 1), (-1, 1), order=1)` as a start.",
)
def stencil_with_a_weight_that_is_not_finite():
    Stencil(nodes=(0, 1), weights=(-math.inf, 1), order=1)


@says(
    MethodError,
    "A stencil with nodes (-1, 1), weights (-1, 1) and order 2 is not a rule.",
    "The real part of Σ weight·node must be 1, so that f(x) = x has slope 1; here it is 2.",
    "Use one of `suture.stencils`, or `Stencil((0, 1), (-1, 1), order=1)` as a start.",
)
def stencil_whose_weights_were_not_divided():
    Stencil(nodes=(-1, 1), weights=(-1, 1), order=2)


@says(
    MethodError,
    "A stencil with nodes (0, 1), weights ('minus', 1) and order 1 is not a rule.",
    "All nodes and weights must be finite numbers.",
    "Use one of `suture.stencils`, or `Stencil((0, 1), (-1, 1), order=1)` as a start.",
)
def stencil_with_a_weight_that_is_a_word():
    Stencil(nodes=(0, 1), weights=("minus", 1), order=1)


@says(
    MethodError,
    "A stencil with nodes (-1, 1), weights (-0.5, 0.5) and order 2 is not a rule.",
    "Each node needs one weight, and no node may stand twice.",
    "Use one of `suture.stencils`, or `Stencil((0, 1), (-1, 1), order=1)` as a start.",
)
def stencil_with_an_error_weight_too_few():
    Stencil(nodes=(-1, 1), weights=(-0.5, 0.5), order=2, error_weights=(1,))


@says(
    MethodError,
    "A stencil with nodes (0, 1), weights (-1, 1) and order -1 is not a rule.",
    "The order is 0, 1, 2, …: the error falls as step^order.",
    "Use one of `suture.stencils`, or `Stencil((0, 1), (-1, 1), order=1)` as a start.",
)
def stencil_of_negative_order():
    Stencil(nodes=(0, 1), weights=(-1, 1), order=-1)


@says(
    MethodError,
    "`central(order=3)` does not exist.",
    "A central difference has arms of equal length, so its order is 2, 4, 6, …",
    "Use `stencils.central(2)`, which is `stencils.CENTRAL`, or `stencils.central(4)`.",
)
def central_of_odd_order():
    stencils.central(3)


@says(
    MethodError,
    "`central(order=0)` does not exist.",
    "A central difference has arms of equal length, so its order is 2, 4, 6, …",
    "Use `stencils.central(2)`, which is `stencils.CENTRAL`, or `stencils.central(4)`.",
)
def central_of_order_zero():
    stencils.central(0)


@says(
    MethodError,
    "`central(order='fourth')` does not exist.",
    "A central difference has arms of equal length, so its order is 2, 4, 6, …",
    "Use `stencils.central(2)`, which is `stencils.CENTRAL`, or `stencils.central(4)`.",
)
def central_by_name():
    stencils.central("fourth")


@says(
    MethodError,
    "`richardson(levels=0)` does not exist.",
    "An extrapolation needs at least one step.",
    "Use `stencils.richardson(2)`.",
)
def richardson_of_no_levels():
    stencils.richardson(0)


@says(
    MethodError,
    "`richardson(levels=2.5)` does not exist.",
    "An extrapolation needs at least one step.",
    "Use `stencils.richardson(2)`.",
)
def richardson_of_half_a_level():
    stencils.richardson(2.5)


@says(
    MethodError,
    "`shift(angle=0)` does not exist.",
    "The rule divides by 2·sin(angle), so that the angle is a number of radians, and not near 0, "
    "π or another multiple of π.",
    "Use `stencils.shift()`, whose angle is π/2.",
)
def shift_by_nothing():
    stencils.shift(0)


@says(
    MethodError,
    "`shift(angle=3.141592653589793)` does not exist.",
    "The rule divides by 2·sin(angle), so that the angle is a number of radians, and not near 0, "
    "π or another multiple of π.",
    "Use `stencils.shift()`, whose angle is π/2.",
)
def shift_by_half_a_turn():
    stencils.shift(math.pi)


@says(
    MethodError,
    "`shift(angle='pi/2')` does not exist.",
    "The rule divides by 2·sin(angle), so that the angle is a number of radians, and not near 0, "
    "π or another multiple of π.",
    "Use `stencils.shift()`, whose angle is π/2.",
)
def shift_by_a_word():
    stencils.shift("pi/2")


@says(
    MethodError,
    "A stencil with nodes (-1.5, 1.5), weights (-0.3333333333333333, 0.3333333333333333) and "
    "order 2 is not a rule.",
    "The nodes of an absolute rule are angles: Σ weight and Σ weight·cos(node) must be 0 and "
    "Σ weight·sin(node) must be 1; here they are 0, 0 and 0.665.",
    "Use one of `suture.stencils`, or `Stencil((0, 1), (-1, 1), order=1)` as a start.",
)
def absolute_stencil_with_the_weights_of_a_difference():
    Stencil((-1.5, 1.5), (-1 / 3, 1 / 3), order=2, absolute=True)


@says(
    MethodError,
    "A stencil with nodes (1j,), weights ((-0-1j),) and order 2 is not a rule.",
    "The nodes of an absolute rule are angles, real numbers.",
    "Use one of `suture.stencils`, or `Stencil((0, 1), (-1, 1), order=1)` as a start.",
)
def absolute_stencil_with_a_complex_node():
    Stencil((1j,), (-1j,), order=2, absolute=True)


@says(
    MethodError,
    "`FiniteDifference(step=0.001)` is not possible with a shift.",
    "Its nodes are angles at which it is exact, and a step would scale them.",
    "Leave out `step`, or choose the angle: `stencils.shift(angle=0.5)`.",
)
def shift_with_a_step():
    FiniteDifference(stencils.shift(), step=1e-3)


@says(
    MethodError,
    "A shift cannot be used with Rademacher(count=4, recovery='mean').",
    "It is exact for one rotation at a time, and a random direction turns all of them by different "
    "amounts.",
    "Leave out `directions`, or use another stencil.",
)
def shift_along_random_directions():
    FiniteDifference(stencils.shift(), directions.Rademacher(4))


@says(
    MethodError,
    "`differentiable(scale=3.14)` is not possible with a shift.",
    "Its nodes are angles at which it is exact, and a scale would change them.",
    "Leave out `scale`; or use `FiniteDifference(stencils.CENTRAL)`, which has a step.",
)
def shift_with_a_scale():
    differentiable(torch.sin, method=FiniteDifference(stencils.shift()), scale=3.14)


@says(
    MethodError,
    "`sin` was to be differentiated by a complex input with a shift.",
    "A shift is exact for angles, and an angle is a real number.",
    "Pass the angles as real tensors, or use `FiniteDifference(stencils.CENTRAL)`.",
)
def shift_of_a_complex_input():
    f = differentiable(torch.sin, method=FiniteDifference(stencils.shift()))
    f(wants(1 + 2j, dtype=torch.complex128)).abs().sum().backward()


@says(
    MethodError,
    "An angle of 1e+06 was shifted by -1.5625, not by -1.5708.",
    "The precision that the black box receives has no digits for that, and a shift is exact only "
    "at its own angle.",
    "Wrap the angle before the call, `torch.remainder(x, 2 * torch.pi)`; or leave out `dtype`, for "
    "float64.",
)
def shift_of_an_angle_without_digits():
    f = differentiable(torch.sin, method=FiniteDifference(stencils.shift()), dtype=None)
    f(wants(0.5, 1e6, dtype=torch.float32)).sum().backward()


@says(
    MethodError,
    "A shift by 1.57 leads out of the bounds of an input by 0.571.",
    "It is exact only at its own angle, so that it can be neither shortened nor mirrored.",
    "Leave out the bounds (a rotation has a value at every angle), shift by a smaller angle, or "
    "use `FiniteDifference(stencils.CENTRAL)`.",
)
def shift_out_of_the_bounds():
    one, none = np.ones((1, 1)), np.zeros(0)
    primal = Primal(
        rows=one,
        shared=none,
        value=one,
        outputs=1,
        scale_rows=one,
        scale_shared=none,
        noise=1e-16,
        derivative=1,
        round=None,
        capacity=100,
        room=Room(one, one, none, none),
    )
    method = FiniteDifference(stencils.shift())
    next(method.linearize(primal, lambda slopes: slopes, np.random.default_rng))


@says(
    MethodError,
    "`FiniteDifference(stencil='central')` is not understood.",
    "A stencil is a table of numbers, not a name.",
    "Use one of `suture.stencils`, for example `FiniteDifference(stencils.CENTRAL)`.",
)
def stencil_by_name():
    FiniteDifference("central")


@says(
    MethodError,
    "`FiniteDifference(stencil=Gaussian(count=8, recovery='mean'))` is not understood.",
    "A stencil is a table of numbers, not a name.",
    "Write `FiniteDifference(directions=Gaussian(count=8, recovery='mean'))`.",
)
def stencil_that_is_directions():
    FiniteDifference(directions.Gaussian(8))


def test_a_stencil_that_still_has_to_be_called():
    for family, called in (
        (stencils.central, "4"),
        (stencils.richardson, "2"),
        (stencils.shift, ""),
    ):
        with pytest.raises(
            MethodError, match=rf"FiniteDifference\(stencils.{family.__name__}\({called}"
        ):
            FiniteDifference(family)


@says(
    MethodError,
    "`FiniteDifference(directions='gaussian')` is not understood.",
    "Directions are an object that samples seeds and knows the way back.",
    "Use one of `suture.directions`, for example `directions.Orthogonal(4)`.",
)
def directions_by_name():
    FiniteDifference(stencils.CENTRAL, "gaussian")


@says(
    MethodError,
    "`FiniteDifference(directions=<class 'suture.directions._coordinate.Coordinate'>)` is "
    "not understood.",
    "Directions are an object that samples seeds and knows the way back.",
    "Use one of `suture.directions`, for example `directions.Orthogonal(4)`.",
)
def directions_that_are_a_class():
    FiniteDifference(stencils.CENTRAL, directions.Coordinate)


@says(
    MethodError,
    "`FiniteDifference(step=-1e-06)` is not possible.",
    "The step is a positive, finite number without units.",
    "Leave `step` out, or give for example `step=1e-6`.",
)
def step_that_is_negative():
    FiniteDifference(step=-1e-6)


@says(
    MethodError,
    "`FiniteDifference(step=0)` is not possible.",
    "The step is a positive, finite number without units.",
    "Leave `step` out, or give for example `step=1e-6`.",
)
def step_that_is_zero():
    FiniteDifference(step=0)


@says(
    MethodError,
    "`FiniteDifference(noise='float32')` is not possible.",
    "The noise is a positive, finite number without units.",
    "Leave `noise` out, or give for example `noise=1e-6`.",
)
def noise_that_is_a_word():
    FiniteDifference(noise="float32")


@says(
    MethodError,
    "`FiniteDifference(noise=inf)` is not possible.",
    "The noise is a positive, finite number without units.",
    "Leave `noise` out, or give for example `noise=1e-6`.",
)
def noise_that_is_infinite():
    FiniteDifference(noise=math.inf)


@says(
    MethodError,
    "A stencil whose weights sum to 1 cannot be used with Coordinate().",
    "It leaves f(x) itself in every slope, and only the mean over random directions removes that.",
    "Use `FiniteDifference(stencils.ONE_POINT, directions.Gaussian(64))`, or another stencil.",
)
def score_estimate_along_coordinates():
    FiniteDifference(stencils.ONE_POINT)


@says(
    MethodError,
    "A stencil whose weights sum to 1 cannot be used with Gaussian(count=8, "
    "recovery='least_squares').",
    "It leaves f(x) itself in every slope, and only the mean over random directions removes that.",
    "Use `FiniteDifference(stencils.ONE_POINT, directions.Gaussian(64))`, or another stencil.",
)
def score_estimate_by_least_squares():
    FiniteDifference(stencils.ONE_POINT, directions.Gaussian(8, recovery="least_squares"))


@says(
    MethodError,
    "`Gaussian(count=0)` does not exist.",
    "The number of directions is a positive integer.",
    "Use for example `directions.Gaussian(4)`.",
)
def no_directions():
    directions.Gaussian(0)


@says(
    MethodError,
    "`Orthogonal(count=1.5)` does not exist.",
    "The number of directions is a positive integer.",
    "Use for example `directions.Orthogonal(4)`.",
)
def one_and_a_half_directions():
    directions.Orthogonal(1.5)


@says(
    MethodError,
    "`Rademacher(recovery='median')` does not exist.",
    'The way back from slopes to a gradient is "mean" or "least_squares".',
    'Use `directions.Rademacher(4, recovery="least_squares")`.',
)
def recovery_by_another_word():
    directions.Rademacher(4, recovery="median")


@says(
    MethodError,
    "`CustomVJP(vjp=tensor([[1., 0.], [0., 1.]]))` cannot be called.",
    "`vjp` is a function of three arguments.",
    "Write `def vjp(args, output, cotangent): …` and pass it.",
)
def vjp_that_is_no_function():
    CustomVJP(torch.eye(2))


@says(
    MethodError,
    "`CustomVJP(jvp=True)` cannot be called.",
    "`jvp` is a function of three arguments.",
    "Write `def jvp(args, output, tangents): …` and pass it.",
)
def jvp_that_is_no_function():
    CustomVJP(lambda args, output, cotangent: cotangent, jvp=True)


# ------------------------------------------------------------------------------------------------
# What is written: differentiable
# ------------------------------------------------------------------------------------------------


@says(
    MethodError,
    "`differentiable(fn='2 * x')` is not possible.",
    "The black box is a function.",
    "Write `differentiable(my_function)`.",
)
def function_that_is_a_string():
    differentiable("2 * x")


@says(
    MethodError,
    "`differentiable(fn=tensor([2., 2.]))` is not possible.",
    "The black box is a function.",
    "Write `differentiable(my_function)`.",
)
def function_that_was_called():
    differentiable(spring(torch.ones(2)))


@says(
    MethodError,
    "`spring` is differentiable already.",
    "A black box is wrapped once.",
    "Use it as it is, or wrap its `.fn` with other options.",
)
def function_that_is_differentiable_already():
    differentiable(differentiable(spring))


@says(
    MethodError,
    "`differentiable(method='central')` is not possible.",
    "A method is an object, not a name and not a class.",
    "Write `method=suture.FiniteDifference(suture.stencils.CENTRAL)`.",
)
def method_by_name():
    differentiable(spring, method="central")


@says(
    MethodError,
    "`differentiable(method=<class 'suture._methods._finite_difference.FiniteDifference'>)` "
    "is not possible.",
    "A method is an object, not a name and not a class.",
    "Write `method=FiniteDifference()`.",
)
def method_that_is_a_class():
    differentiable(spring, method=FiniteDifference)


@says(
    MethodError,
    "`differentiable(method=<class 'suture._methods._custom_vjp.CustomVJP'>)` is not possible.",
    "A method is an object, not a name and not a class.",
    "Write `method=CustomVJP(vjp)`.",
)
def method_that_is_a_class_with_a_rule():
    differentiable(spring, method=CustomVJP)


@says(
    MethodError,
    "`differentiable(method=Stencil(nodes=(0, 1), weights=(-1, 1), order=1, error_weights=None, "
    "absolute=Fa…)` is not possible.",
    "A method is an object, not a name and not a class.",
    "Write `method=suture.FiniteDifference(stencil)`.",
)
def method_that_is_a_stencil():
    differentiable(spring, method=stencils.FORWARD)


@says(
    MethodError,
    "`differentiable(method=Gaussian(count=8, recovery='mean'))` is not possible.",
    "A method is an object, not a name and not a class.",
    "Write `method=suture.FiniteDifference(directions=Gaussian(count=8, recovery='mean'))`.",
)
def method_that_is_directions():
    differentiable(spring, method=directions.Gaussian(8))


@says(
    MethodError,
    "`differentiable(interface='jax')` is not possible.",
    "A black box receives tensors or arrays.",
    'Write `interface="numpy"`.',
)
def interface_by_another_name():
    differentiable(spring, interface="jax")


@says(
    MethodError,
    "`differentiable(dtype=torch.int64)` is not possible.",
    "A precision is a floating torch dtype, or None for the caller's.",
    "Write `dtype=torch.float64`.",
)
def dtype_of_integers():
    differentiable(spring, dtype=torch.int64)


@says(
    MethodError,
    "`differentiable(dtype='float32')` is not possible.",
    "A precision is a floating torch dtype, or None for the caller's.",
    "Write `dtype=torch.float32`.",
)
def dtype_by_name():
    differentiable(spring, dtype="float32")


@says(
    MethodError,
    "`differentiable(dtype=<class 'numpy.float64'>)` is not possible.",
    "A precision is a floating torch dtype, or None for the caller's.",
    "Write `dtype=torch.float64`.",
)
def dtype_of_numpy():
    differentiable(spring, dtype=np.float64)


@says(
    MethodError,
    "`differentiable(dtype=torch.bfloat16)` is not possible.",
    "NumPy has no bfloat16.",
    "Write `dtype=torch.float32`.",
)
def dtype_that_numpy_does_not_have():
    differentiable(spring, interface="numpy", dtype=torch.bfloat16)


@says(
    MethodError,
    "`differentiable(vectorized=8)` is not possible.",
    "It is yes or no.",
    "Write `vectorized=True`.",
)
def vectorized_by_a_number():
    differentiable(spring, vectorized=8)


@says(
    MethodError,
    "`differentiable(vectorized=True)` is not possible with `Expression`.",
    "Points are stacked in front of every argument: `w[0]` in a formula would be the first point, "
    "and arguments of different shapes would not match.",
    "Say which arguments are batches, `batch_dims=(0, None)`, or leave `vectorized` out.",
)
def formula_of_stacked_points():
    differentiable(Expression("x*w[0]", "x", "w"), vectorized=True)


@says(
    MethodError,
    "`differentiable(chunk_size=0)` is not possible.",
    "A number of points is a positive integer.",
    "Write `chunk_size=64`.",
)
def chunks_of_nothing():
    differentiable(spring, chunk_size=0)


@says(
    MethodError,
    "`differentiable(chunk_size='auto')` is not possible.",
    "A number of points is a positive integer.",
    "Write `chunk_size=64`.",
)
def chunks_of_any_size():
    differentiable(spring, chunk_size="auto")


@says(
    MethodError,
    "`differentiable(seed=0.5)` is not possible.",
    "A seed is an integer.",
    "Write `seed=0`.",
)
def seed_that_is_no_integer():
    differentiable(spring, seed=0.5)


@says(
    MethodError,
    "`differentiable(name=7)` is not possible.",
    "A name is a string.",
    'Write `name="my function"`.',
)
def name_that_is_no_string():
    differentiable(spring, name=7)


@says(
    MethodError,
    "`scale=-1.0` is not possible.",
    "A scale is a positive, finite number in the units of its argument, or a tensor of them.",
    "Give one entry for each positional argument, for example `scale=(1e-9, None)`.",
)
def scale_that_is_negative():
    differentiable(spring, scale=-1.0)


@says(
    MethodError,
    "`scale=tensor([1., 0.])` is not possible.",
    "A scale is a positive, finite number in the units of its argument, or a tensor of them.",
    "Give one entry for each positional argument, for example `scale=(1e-9, None)`.",
)
def scale_with_a_zero():
    differentiable(spring, scale=torch.tensor([1.0, 0.0]))


@says(
    MethodError,
    "`scale=tensor([[-1., -1., -1., -1., -1., -1., -1., -1., -1.], [-1., -1., -1., -1., "
    "-1.…` is not possible.",
    "A scale is a positive, finite number in the units of its argument, or a tensor of them.",
    "Give one entry for each positional argument, for example `scale=(1e-9, None)`.",
)
def scale_that_is_long():
    differentiable(spring, scale=-torch.ones(9, 9))


@says(
    MethodError,
    "`scale='mm'` is not possible.",
    "A scale is a positive, finite number in the units of its argument, or a tensor of them.",
    "Give one entry for each positional argument, for example `scale=(1e-9, None)`.",
)
def scale_by_a_unit():
    differentiable(spring, scale="mm")


@says(
    MethodError,
    "`batch_dims='rows'` is not possible.",
    "A batch dimension is an integer, or None for arguments that all rows share.",
    "Give one entry for each positional argument, for example `batch_dims=(0, None)`.",
)
def batch_dims_by_name():
    differentiable(spring, batch_dims="rows")


# ------------------------------------------------------------------------------------------------
# What is called: arguments
# ------------------------------------------------------------------------------------------------


@says(
    MethodError,
    "`batch_dims=(0,)` does not fit a call with 2 positional arguments.",
    "`batch_dims` is a prefix of the tuple of positional arguments, as `in_dims` is in "
    "`torch.vmap`.",
    "Give one entry for each positional argument, for example `batch_dims=(0, None)`.",
)
def batch_dims_of_another_number_of_arguments():
    differentiable(torch.mul, batch_dims=(0,))(wants(1.0), wants(2.0))


@says(
    MethodError,
    "`scale=(1.0, 2.0)` does not fit a call with 1 positional argument.",
    "`scale` is a prefix of the tuple of positional arguments, as `in_dims` is in `torch.vmap`.",
    "Give one entry for each positional argument, for example `scale=(1e-9,)`.",
)
def scale_of_another_number_of_arguments():
    differentiable(spring, scale=(1.0, 2.0))(wants(1.0))


@says(
    MethodError,
    "`batch_dims=(None, None)` names no batch.",
    "At least one argument must have a batch dimension.",
    "Leave out `batch_dims`, or give for example `batch_dims=(0, None)`.",
)
def batch_dims_without_a_batch():
    differentiable(torch.mul, batch_dims=(None, None))(wants(1.0), wants(2.0))


@says(
    MethodError,
    "`batch_dims=0` finds batches of different sizes: [2, 3].",
    "All arguments with a batch dimension must have the same number of rows.",
    "Give None for arguments that all rows share: for example `batch_dims=(0, None)`.",
)
def batches_of_different_sizes():
    differentiable(torch.mul, batch_dims=0)(wants(1.0, 2.0), wants(1.0, 2.0, 3.0))


@says(
    MethodError,
    "`batch_dims=1` names dimension 1 of a tensor of shape (2,).",
    "A batch dimension is one of the tensor's dimensions, or None.",
    "Give None for arguments that all rows share, for example `batch_dims=(0, None)`.",
)
def batch_dimension_that_is_not_there():
    differentiable(spring, batch_dims=1)(wants(1.0, 2.0))


@says(
    MethodError,
    "`batch_dims=(0, 0)` names a batch dimension of 3.0.",
    "Only tensors have a batch dimension.",
    "Give None for arguments that are not tensors, for example `batch_dims=(0, None)`.",
)
def batch_dimension_of_a_number():
    differentiable(torch.mul, batch_dims=(0, 0))(wants(1.0, 2.0), 3.0)


@says(
    MethodError,
    "A scale of shape (3,) does not fit an argument of shape (2,).",
    "A scale is a number, or a tensor that broadcasts to its argument.",
    "Give one entry for each positional argument, for example `scale=(1e-9, None)`.",
)
def scale_of_another_shape():
    differentiable(spring, scale=(torch.ones(3),))(wants(1.0, 2.0))


@says(
    MethodError,
    "`spring` was given a sparse tensor.",
    "A black box is evaluated at numbers, all of which are stored.",
    "Pass `tensor.to_dense()`, or a tensor on a real device.",
)
def sparse_argument():
    differentiable(spring)(torch.eye(2).to_sparse())


@says(
    MethodError,
    "`spring` was given a meta tensor, which has no numbers.",
    "A black box is evaluated at numbers, all of which are stored.",
    "Pass `tensor.to_dense()`, or a tensor on a real device.",
)
def meta_argument():
    differentiable(spring)(torch.ones(2, device="meta"))


@says(
    MethodError,
    "`spring` was given a bfloat16 tensor.",
    'NumPy has no bfloat16, and `interface="numpy"` with `dtype=None` passes it on.',
    "Write `dtype=torch.float32`, or leave `dtype` out for float64.",
)
def bfloat16_for_numpy():
    f = differentiable(spring, interface="numpy", dtype=None)
    f(torch.ones(2, dtype=torch.bfloat16))


@says(
    MethodError,
    "`kinetic` was given `cart` of type Cart, which holds a tensor that requires grad.",
    "Torch cannot see into it, so no gradient could reach the tensor.",
    "Pass the tensor itself, or register the type: `torch.utils._pytree.register_dataclass(Cart)`.",
)
def argument_that_hides_a_tensor():
    differentiable(lambda cart: cart.mass**2, name="kinetic")(Cart(wants(1.0)))


@says(
    MethodError,
    "`kinetic` was given `state['cart']` of type Cart, which holds a tensor that requires grad.",
    "Torch cannot see into it, so no gradient could reach the tensor.",
    "Pass the tensor itself, or register the type: `torch.utils._pytree.register_dataclass(Cart)`.",
)
def nested_argument_that_hides_a_tensor():
    f = differentiable(lambda state: state["cart"].mass ** 2, name="kinetic")
    f({"cart": Cart([wants(1.0)])})


@says(
    MethodError,
    "`spring` was mapped over no rows at all.",
    "The shape of its result is known only from a call.",
    "Skip the call where the mapped dimension has size 0: `if len(x): …`.",
)
def mapped_over_nothing():
    torch.func.vmap(differentiable(spring))(torch.ones(0, 2))


# ------------------------------------------------------------------------------------------------
# What is called: tensors and modules that a function holds
# ------------------------------------------------------------------------------------------------


def holding(fn):
    """Call a function that holds a tensor that requires grad."""
    differentiable(fn, name="f")(wants(1.0))


@says(
    MethodError,
    "`f` holds a tensor that requires grad in its closure, as `weight`.",
    "Only arguments are differentiated, so it would silently learn nothing.",
    "Pass it as an argument, or call `.requires_grad_(False)` on it.",
)
def tensor_in_the_closure():
    weight = wants(2.0)
    holding(lambda x: x * weight)


@says(
    MethodError,
    "`f` holds a tensor that requires grad in its closure, as `model`: the parameter `0.weight`.",
    "Only arguments are differentiated, so it would silently learn nothing.",
    "Pass it as an argument, or call `.requires_grad_(False)` on it.",
)
def module_in_the_closure():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    holding(lambda x: model(x))


@says(
    MethodError,
    "`Linear` holds a tensor that requires grad: the parameter `weight`.",
    "Only arguments are differentiated, so it would silently learn nothing.",
    "Pass it as an argument, or call `.requires_grad_(False)` on it.",
)
def module_itself():
    differentiable(torch.nn.Linear(1, 1))(wants(1.0))


@says(
    MethodError,
    "`f` holds a tensor that requires grad, the global `GLOBAL_WEIGHT`.",
    "Only arguments are differentiated, so it would silently learn nothing.",
    "Pass it as an argument, or call `.requires_grad_(False)` on it.",
)
def tensor_among_the_globals():
    holding(uses_a_global)


@says(
    MethodError,
    "`f` holds a tensor that requires grad as the default of `weight`.",
    "Only arguments are differentiated, so it would silently learn nothing.",
    "Pass it as an argument, or call `.requires_grad_(False)` on it.",
)
def tensor_as_a_default():
    holding(lambda x, weight=wants(2.0): x * weight)  # noqa: B008 - this is the mistake


@says(
    MethodError,
    "`f` holds a tensor that requires grad as the default of `weight`.",
    "Only arguments are differentiated, so it would silently learn nothing.",
    "Pass it as an argument, or call `.requires_grad_(False)` on it.",
)
def tensor_as_a_keyword_default():
    holding(lambda x, *, weight=wants(2.0): x * weight)  # noqa: B008 - this is the mistake


@says(
    MethodError,
    "`f` holds a tensor that requires grad in an argument of its `partial`.",
    "Only arguments are differentiated, so it would silently learn nothing.",
    "Pass it as an argument, or call `.requires_grad_(False)` on it.",
)
def tensor_in_a_partial():
    holding(functools.partial(torch.mul, wants(2.0)))


@says(
    MethodError,
    "`f` holds a tensor that requires grad in `other` of its `partial`.",
    "Only arguments are differentiated, so it would silently learn nothing.",
    "Pass it as an argument, or call `.requires_grad_(False)` on it.",
)
def tensor_in_a_keyword_of_a_partial():
    holding(functools.partial(torch.mul, other=wants(2.0)))


@says(
    MethodError,
    "`f` holds a tensor that requires grad in its object, as `mass`.",
    "Only arguments are differentiated, so it would silently learn nothing.",
    "Pass it as an argument, or call `.requires_grad_(False)` on it.",
)
def tensor_in_the_object_of_a_method():
    holding(Cart(wants(2.0)).push)


@says(
    MethodError,
    "`f` holds a tensor that requires grad, as `mass`.",
    "Only arguments are differentiated, so it would silently learn nothing.",
    "Pass it as an argument, or call `.requires_grad_(False)` on it.",
)
def tensor_in_a_callable_object():
    holding(Cart({"left": wants(2.0)}))


@says(
    MethodError,
    "`model` was switched between train() and eval() after the forward.",
    "Differences between the two modes are not derivatives.",
    "Call `backward()` before switching the mode, or keep the black box in `eval()`.",
)
def module_switched_to_eval():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout()).requires_grad_(False)
    loss = differentiable(model, name="model", dtype=None)(torch.ones(1, requires_grad=True))
    model.eval()
    loss.backward()


# ------------------------------------------------------------------------------------------------
# What is differentiated
# ------------------------------------------------------------------------------------------------


@says(
    MethodError,
    "A displacement of 1e-20 does not change an input.",
    "It is lost in the rounding of the precision that the black box receives.",
    "Give a larger `step=` to the method, or a larger `scale=` to `differentiable`.",
)
def step_that_is_lost_in_rounding():
    f = differentiable(spring, method=FiniteDifference(step=1e-20))
    f(wants(1.0)).sum().backward()


@says(
    MethodError,
    "A displacement of 2.05e+03 leads out of the range of an input.",
    "The displaced input is infinite in the precision that the black box receives.",
    "Give a smaller `scale=` to `differentiable`, or use `stencils.BACKWARD`.",
)
def step_that_leads_out_of_the_range():
    f = differentiable(lambda x: torch.exp(-x / 1e5), dtype=None, method=FORWARD)
    f(wants(65504.0, 1.0, dtype=torch.float16)).sum().backward()


@says(
    MethodError,
    "A displacement of 1e-20 does not change an input.",
    "It is lost in the rounding of the precision that the black box receives.",
    "Give a larger `step=` to the method, or a larger `scale=` to `differentiable`.",
)
def random_directions_that_are_lost_in_rounding():
    f = differentiable(
        spring, method=FiniteDifference(step=1e-20, directions=directions.Gaussian(2))
    )
    f(wants(1.0)).sum().backward()


@says(
    MethodError,
    "A displacement of 1e-20 does not change an input.",
    "It is lost in the rounding of the precision that the black box receives.",
    "Give a larger `step=` to the method, or a larger `scale=` to `differentiable`.",
)
def step_along_a_tangent_that_is_lost_in_rounding():
    f = differentiable(spring, method=FiniteDifference(step=1e-20))
    torch.func.jvp(f, (torch.ones(1),), (torch.ones(1),))


@says(
    MethodError,
    "The complex step cannot differentiate `modulus`: it already works with complex numbers.",
    "The derivative is read from the imaginary part of a result that is otherwise real.",
    "Use `FiniteDifference(stencils.CENTRAL)`, or return the real and the imaginary part as "
    "two real outputs.",
)
def complex_step_by_complex_inputs():
    f = differentiable(lambda z: z.abs(), method=COMPLEX_STEP, name="modulus")
    f(wants(1.0, dtype=torch.complex128)).sum().backward()


@says(
    MethodError,
    "The complex step cannot differentiate `spectrum`: it already works with complex numbers.",
    "The derivative is read from the imaginary part of a result that is otherwise real.",
    "Use `FiniteDifference(stencils.CENTRAL)`, or return the real and the imaginary part as "
    "two real outputs.",
)
def complex_step_of_complex_outputs():
    f = differentiable(torch.fft.fft, method=COMPLEX_STEP, name="spectrum")
    f(wants(1.0, 2.0)).abs().sum().backward()


# ------------------------------------------------------------------------------------------------
# EvaluationError
# ------------------------------------------------------------------------------------------------


@says(
    EvaluationError,
    "`settle` raised ArithmeticError: no equilibrium",
    "A black box must return a result at every point; this one was that of the forward pass.",
    "Mend `settle`, or restrict its inputs with `torch.clamp`. See `exc.point`.",
)
def function_that_raises_in_the_forward_pass():
    differentiable(settle)(wants(-1.0))


@says(
    EvaluationError,
    "`settle` raised ArithmeticError: no equilibrium",
    "A black box must return a result at every point; this one was x[0] decreased by 0.5.",
    'Give `bounds=` to `differentiable`, or `on_failure="one_sided"`: then the gradient does '
    "without such points. See `exc.point`.",
)
def function_that_raises_beside_the_point():
    f = differentiable(settle, method=FiniteDifference(stencils.BACKWARD, step=0.5), scale=1.0)
    f(wants(0.25)).sum().backward()


@says(
    EvaluationError,
    "`settle` raised ArithmeticError: no equilibrium",
    "A black box must return a result at every point; this one was displaced in several "
    "inputs, x among them.",
    'Give `bounds=` to `differentiable`, or `on_failure="one_sided"`: then the gradient does '
    "without such points. See `exc.point`.",
)
def function_that_raises_along_random_directions():
    chosen = directions.Rademacher(1)
    f = differentiable(settle, method=FiniteDifference(stencils.CENTRAL, chosen, step=0.5), scale=1)
    f(wants(0.25, 0.25)).sum().backward()


@says(
    EvaluationError,
    "`simulate` raised ArithmeticError: no equilibrium",
    "A black box must return a result at every point; this one was load['mass'][1] decreased "
    "by 0.36.",
    'Give `bounds=` to `differentiable`, or `on_failure="one_sided"`: then the gradient does '
    "without such points. See `exc.point`.",
)
def function_that_raises_at_an_argument_by_keyword():
    @differentiable(method=FiniteDifference(stencils.BACKWARD, step=0.5))
    def simulate(x, **options):
        return x * settle(options["load"]["mass"])

    simulate(torch.ones(2), load={"mass": wants(1.0, 0.1)}).sum().backward()


@says(
    EvaluationError,
    "`real_only` raised TypeError: only real numbers",
    "A black box must return a result at every point; this one was displaced in several "
    "inputs, x among them.",
    "Use `FiniteDifference(stencils.CENTRAL)`: the complex step needs a function that takes "
    "complex numbers.",
)
def function_that_raises_at_a_complex_point():
    f = differentiable(lambda x: real_only(x), method=COMPLEX_STEP, name="real_only")
    f(wants(1.0, 2.0)).sum().backward()


@says(
    EvaluationError,
    "`fail` raised KeyError",
    "A black box must return a result at every point; this one was that of the forward pass.",
    "Mend `fail`, or restrict its inputs with `torch.clamp`. See `exc.point`.",
)
def function_that_raises_without_a_word():
    def fail(x):
        raise KeyError

    differentiable(fail)(wants(1.0))


@says(
    EvaluationError,
    "`model` raised RuntimeError: expected Float but found Double",
    "A black box must return a result at every point; this one was that of the forward pass.",
    "If `model` holds weights in float32, pass `dtype=None` to `differentiable`: then it "
    "receives the caller's precision.",
)
def function_with_weights_of_its_own_precision():
    def model(x):
        if x.dtype != torch.float32:
            raise RuntimeError("expected Float but found Double")

    differentiable(model)(torch.ones(1, requires_grad=True))


@says(
    EvaluationError,
    "`simulate` raised ValueError: expected 2 rows",
    "A black box must return a result at every point; this one was in a call of 2 stacked points.",
    "With `batch_dims`, `simulate` must accept any number of rows; if it does not, pass "
    "`chunk_size=1`.",
)
def function_that_takes_one_batch_size():
    def simulate(x):
        if len(x) != 2:
            raise ValueError("expected 2 rows")
        return x**2

    differentiable(simulate, batch_dims=0, method=FORWARD)(wants(1.0, 2.0)).sum().backward()


@says(
    EvaluationError,
    "`simulate` raised ValueError: expected a vector",
    "A black box must return a result at every point; this one was that of the forward pass.",
    "With `vectorized=True`, `simulate` is given points stacked on a new leading axis; if it "
    "does not expect that, leave `vectorized` out.",
)
def function_that_takes_one_point():
    def simulate(x):
        if x.ndim != 1:
            raise ValueError("expected a vector")
        return x**2

    differentiable(simulate, vectorized=True)(wants(1.0, 2.0))


@says(
    EvaluationError,
    "The `vjp` of `spring` raised ArithmeticError: the adjoint diverged",
    "A rule must return the derivative at every point that the forward pass reaches.",
    "Mend `vjp`, or return `NotImplemented` for the arguments that it does not know.",
)
def rule_that_raises():
    def vjp(args, output, cotangent):
        raise ArithmeticError("the adjoint diverged")

    differentiable(spring, method=CustomVJP(vjp))(wants(1.0, 2.0)).sum().backward()


@says(
    EvaluationError,
    "The `jvp` of `spring` raised NotImplementedError: later",
    "A rule must return the derivative at every point that the forward pass reaches.",
    "Mend `jvp`, or use reverse mode: `backward()`, `torch.func.vjp`.",
)
def pushforward_rule_that_raises():
    def jvp(args, output, tangents):
        raise NotImplementedError("later")

    f = differentiable(spring, method=CustomVJP(lambda *_: None, jvp))
    torch.func.jvp(f, (torch.ones(1),), (torch.ones(1),))


# ------------------------------------------------------------------------------------------------
# BadResult: what a function returned
# ------------------------------------------------------------------------------------------------


@says(
    BadResult,
    "`show` returned 'tensor([1.], dtype=torch.float64)': no tensor and no number.",
    "There is nothing to differentiate and nothing to pass on.",
    "Let `show` return a tensor, an array or a number.",
)
def result_that_is_a_string():
    differentiable(lambda x: f"{x}", name="show")(wants(1.0))


@says(
    BadResult,
    "`forgets` returned None: no tensor and no number.",
    "There is nothing to differentiate and nothing to pass on.",
    "Let `forgets` return a tensor, an array or a number.",
)
def result_that_is_none():
    differentiable(lambda x: None, name="forgets")(wants(1.0))


@says(
    BadResult,
    "`collect` returned an empty structure: no tensor and no number.",
    "There is nothing to differentiate and nothing to pass on.",
    "Let `collect` return a tensor, an array or a number.",
)
def result_that_is_empty():
    differentiable(lambda x: [], name="collect")(wants(1.0))


@says(
    BadResult,
    "`build` returned a Cart.",
    "A result is made of tensors, arrays and numbers, in tuples, lists, dicts or registered "
    "dataclasses.",
    "Return `torch.as_tensor(…)` or `np.asarray(…, dtype=float)` from `build`.",
)
def result_that_is_an_object():
    differentiable(lambda x: Cart(x), name="build")(wants(1.0))


@says(
    BadResult,
    "`integrate` returned an Orbit.",
    "A result is made of tensors, arrays and numbers, in tuples, lists, dicts or registered "
    "dataclasses.",
    "Return `torch.as_tensor(…)` or `np.asarray(…, dtype=float)` from `integrate`.",
)
def result_that_is_an_object_with_a_vowel():
    class Orbit:
        pass

    differentiable(lambda x: Orbit(), name="integrate")(wants(1.0))


@says(
    BadResult,
    "`f` returned an array of dtype object.",
    "A result is made of tensors, arrays and numbers, in tuples, lists, dicts or registered "
    "dataclasses.",
    "Return `torch.as_tensor(…)` or `np.asarray(…, dtype=float)` from `f`.",
)
def result_that_is_an_array_of_objects():
    differentiable(lambda x: np.array([None, 1.0]), interface="numpy", name="f")(wants(1.0))


@says(
    BadResult,
    "`log` returned nan at 1 of 1 points.",
    "Every number must be finite; the first such point was that of the forward pass.",
    "Restrict the inputs with `torch.clamp`, or let `log` return a finite number there.",
)
def nan_in_the_forward_pass():
    differentiable(torch.log, name="log")(wants(-1.0))


@says(
    BadResult,
    "`log` returned nan at 1 of 2 points.",
    "Every number must be finite; the first such point was argument 0[1] decreased by 1.1.",
    "Restrict the inputs with `torch.clamp`, or use a stencil that stays inside the domain, "
    "such as `stencils.BACKWARD`.",
)
def infinity_beside_the_point():
    f = differentiable(torch.log, method=BACKWARD, name="log")
    f(wants(3.0, 0.5)).sum().backward()


@says(
    BadResult,
    "`roots` returned nan in output 1 at 1 of 1 points.",
    "Every number must be finite; the first such point was that of the forward pass.",
    "Restrict the inputs with `torch.clamp`, or let `roots` return a finite number there.",
)
def nan_in_the_second_output():
    f = differentiable(lambda x: (x, {"root": (x - 1).sqrt()}), name="roots")
    f(wants(2.0, 0.5))


@says(
    BadResult,
    "`log` returned nan in row 2 at 1 of 1 points.",
    "Every number must be finite; the first such point was that of the forward pass.",
    "Restrict the inputs with `torch.clamp`, or let `log` return a finite number there.",
)
def nan_in_a_row():
    differentiable(torch.log, batch_dims=0, name="log")(wants(1.0, 2.0, -3.0))


@says(
    BadResult,
    "`f` returned nan in output 1, row 1 at 1 of 1 points.",
    "Every number must be finite; the first such point was that of the forward pass.",
    "Restrict the inputs with `torch.clamp`, or let `f` return a finite number there.",
)
def nan_in_a_row_of_an_output():
    f = differentiable(lambda x: (x, torch.log(x)), batch_dims=0, name="f")
    f(wants(1.0, -2.0))


@says(
    BadResult,
    "`select` returned shape (2,) at one point and shape (1,) at another.",
    "The shape must be the same everywhere; the other point was x[0] decreased by 0.79.",
    "Make `select` pad or convert its result. The point is saved in `exc.point`.",
)
def another_shape_beside_the_point():
    f = differentiable(lambda x: x[x > 0.9], method=BACKWARD, name="select")
    f(wants(1.0, 2.0)).sum().backward()


@says(
    BadResult,
    "`label` returned ['3.0'] at one point and ['7.0'] at another.",
    "What stands beside the numbers, in all rows of a `vmap`, must be the same everywhere; the "
    "other point was that of the forward pass.",
    "Make `label` pad or convert its result. The point is saved in `exc.point`.",
)
def strings_that_differ_in_a_vmap():
    def label(x):
        return x * 2, f"{x.sum():.1f}"

    torch.vmap(differentiable(label))(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))


@says(
    BadResult,
    "`wrap` returned (*,) at one point and [*] at another.",
    "The nesting must be the same everywhere; the other point was x[0] increased by 1.5e-08.",
    "Make `wrap` pad or convert its result. The point is saved in `exc.point`.",
)
def another_nesting_beside_the_point():
    f = differentiable(lambda x: (x,) if x[0] == 1 else [x], name="wrap", method=FORWARD)
    f(wants(1.0))[0].sum().backward()


@says(
    BadResult,
    "`f` returned a string or None at one point and a number at another.",
    "The kind of result must be the same everywhere; the other point was x[0] increased by "
    "1.5e-08.",
    "Make `f` pad or convert its result. The point is saved in `exc.point`.",
)
def a_number_only_at_some_points():
    f = differentiable(lambda x: (x, None if x[0] == 1 else x), name="f", method=FORWARD)
    f(wants(1.0))[0].sum().backward()


@says(
    BadResult,
    "`f` returned a number at one point and 'diverged' at another.",
    "The kind of result must be the same everywhere; the other point was x[0] increased by "
    "1.5e-08.",
    "Make `f` pad or convert its result. The point is saved in `exc.point`.",
)
def a_string_only_at_some_points():
    f = differentiable(lambda x: (x, x if x[0] == 1 else "diverged"), name="f", method=FORWARD)
    f(wants(1.0))[0].sum().backward()


@says(
    BadResult,
    "`f` returned int64 at one point and float64 at another.",
    "The kind of number must be the same everywhere; the other point was x[0] increased by "
    "1.5e-08.",
    "Make `f` pad or convert its result. The point is saved in `exc.point`.",
)
def an_integer_only_at_some_points():
    f = differentiable(lambda x: (x, 1 if x[0] == 1 else 0.5), name="f", method=FORWARD)
    f(wants(1.0))[0].sum().backward()


@says(
    BadResult,
    "`f` returned float64 at one point and complex128 at another.",
    "The kind of number must be the same everywhere; the other point was x[0] increased by "
    "1.5e-08.",
    "Make `f` pad or convert its result. The point is saved in `exc.point`.",
)
def a_complex_number_only_at_some_points():
    f = differentiable(lambda x: x if x[0] == 1 else x * (1 + 1j), name="f", method=FORWARD)
    f(wants(1.0)).sum().backward()


@says(
    BadResult,
    "`f` returned float64 at one point and float32 at another.",
    "The precision must be the same everywhere; the other point was x[0] increased by 1.5e-08.",
    "Make `f` pad or convert its result. The point is saved in `exc.point`.",
)
def another_precision_beside_the_point():
    f = differentiable(lambda x: x if x[0] == 1 else x.float(), name="f", method=FORWARD)
    f(wants(1.0)).sum().backward()


@says(
    BadResult,
    "`fill` dropped the imaginary part: it returned float64 for complex inputs.",
    "The complex step reads the derivative from the imaginary part of the result.",
    "Use `stencils.CENTRAL`, or keep complex numbers all the way through (no `abs`, no "
    "`float()`, no real arrays filled in place).",
)
def imaginary_part_that_was_dropped():
    differentiable(fill, method=COMPLEX_STEP)(wants(1.0, 2.0)).sum().backward()


@says(
    BadResult,
    "`total` returned shape () for 1 stacked point.",
    "With `vectorized=True`, every output has the points as its dimension 0.",
    "Keep the leading axis in `total`, or leave out `vectorized=True`.",
)
def stack_without_its_axis():
    differentiable(lambda x: x.sum(), vectorized=True, name="total")(wants(1.0, 2.0))


@says(
    BadResult,
    "`average` returned shape (1, 2) for 2 stacked points.",
    "With `vectorized=True`, every output has the points as its dimension 0.",
    "Keep the leading axis in `average`, or leave out `vectorized=True`.",
)
def stack_of_several_points_without_its_axis():
    f = differentiable(
        lambda x: x.mean(0, keepdim=True), vectorized=True, name="average", method=FORWARD
    )
    f(wants(1.0, 2.0)).sum().backward()


@says(
    BadResult,
    "`total` returned shape () for a batch of 2 rows.",
    "With `batch_dims`, every output has the batch as its dimension 0.",
    "Let `total` return one row of output for each row of input, or leave out `batch_dims`.",
)
def batch_without_its_axis():
    differentiable(lambda x: x.sum(), batch_dims=0, name="total")(wants(1.0, 2.0))


@says(
    BadResult,
    "`first_three` returned shape (3,) for a batch of 6 rows.",
    "With `batch_dims`, every output has the batch as its dimension 0, whatever its size.",
    "Let `first_three` return one row of output for each row of input, or leave out `batch_dims`.",
)
def batch_of_a_fixed_size():
    f = differentiable(lambda x: x[:3] ** 2, batch_dims=0, name="first_three", method=FORWARD)
    f(wants(1.0, 2.0, 3.0)).sum().backward()


@says(
    BadResult,
    "Row 1 of `center` moved by 2.9e-08 although only other rows were displaced.",
    "With `batch_dims`, row b of every output depends on row b and on shared arguments only, "
    "whatever the number of rows; and the function must be deterministic to its digits.",
    "Leave out `batch_dims`; or take out of `center` what couples the rows (batch norm in "
    "train mode, a mean over the batch); or state its noise: `FiniteDifference(noise=…)`.",
)
def batch_whose_rows_see_each_other():
    f = differentiable(lambda x: x - x.mean(0), batch_dims=0, name="center", method=FORWARD)
    f(wants(1.0, 2.0, 4.0)).sum().backward()


@says(
    BadResult,
    "`energy` is not complex-analytic: the complex step and a difference disagree by 12, the "
    "slope being 12.",
    "The complex step is right only where f(x + ih) is the analytic continuation of f: not "
    "for `abs`, `norm`, `conj`, Cholesky factors and the like.",
    "Use `FiniteDifference(stencils.CENTRAL)` or `FiniteDifference(stencils.central(4))`.",
)
def function_that_is_not_analytic():
    f = differentiable(lambda x: (x * x.conj()).sum(), method=COMPLEX_STEP, name="energy")
    f(wants(3.0)).backward()


# ------------------------------------------------------------------------------------------------
# BadResult: what a rule returned
# ------------------------------------------------------------------------------------------------


def by_rule(vjp, *inputs):
    """Differentiate `spring` by a rule."""
    f = differentiable(lambda *args: spring(sum(args)), method=CustomVJP(vjp), name="spring")
    f(*inputs).sum().backward()


@says(
    BadResult,
    "The `vjp` of `spring` returned another structure than its arguments have.",
    "It must return a tuple of 2, one entry for each positional argument.",
    "Return for example `(gradient_of_the_first, None, NotImplemented)`: None is zero, "
    "NotImplemented is differenced.",
)
def gradients_of_too_few_arguments():
    by_rule(lambda args, output, cotangent: (cotangent,), wants(1.0), wants(2.0))


@says(
    BadResult,
    "The `vjp` of `spring` returned another structure than its arguments have.",
    "It must return a tuple of 1, one entry for each positional argument.",
    "Return for example `(gradient_of_the_first, None, NotImplemented)`: None is zero, "
    "NotImplemented is differenced.",
)
def gradients_in_another_nesting():
    by_rule(lambda args, output, cotangent: {"x": cotangent}, wants(1.0))


@says(
    BadResult,
    "The `vjp` of `spring` returned shape () for argument 0, whose shape is (2,).",
    "A derivative has the shape of what it belongs to; nothing is broadcast.",
    "Return it in shape (2,), for example with `.reshape((2,))`.",
)
def gradient_of_another_shape():
    by_rule(lambda args, output, cotangent: (cotangent.sum(),), wants(1.0, 2.0))


@says(
    BadResult,
    "The `vjp` of `spring` returned 'zero' for argument 0, whose shape is (1,).",
    "A derivative has the shape of what it belongs to; nothing is broadcast.",
    "Return it in shape (1,), for example with `.reshape((1,))`.",
)
def gradient_that_is_a_string():
    by_rule(lambda args, output, cotangent: ("zero",), wants(1.0))


@says(
    BadResult,
    "The `vjp` of `total` returned shape (2,) for x, whose shape is (1, 2).",
    "A derivative has the shape of what it belongs to; nothing is broadcast.",
    "Return it in shape (1, 2), for example with `.reshape((1, 2))`.",
)
def gradient_of_another_shape_for_stacked_points():
    f = differentiable(
        lambda x: x.sum(1),
        vectorized=True,
        method=CustomVJP(lambda *_: torch.ones(2)),
        name="total",
    )
    f(wants(1.0, 2.0)).backward()


@says(
    BadResult,
    "The `vjp` of `spring` returned nan or inf for argument 0.",
    "Every derivative must be finite.",
    "Mend `vjp`, or return `NotImplemented` there: then it is differenced.",
)
def gradient_that_is_nan():
    by_rule(lambda args, output, cotangent: (cotangent * math.nan,), wants(1.0))


@says(
    BadResult,
    "The `vjp` of `spring` returned a Cart for argument 0.",
    "A derivative is a tensor, an array, a number, None or NotImplemented.",
    "Return it in shape (1,), for example with `torch.as_tensor(…)`.",
)
def gradient_that_is_an_object():
    by_rule(lambda args, output, cotangent: (Cart(1),), wants(1.0))


def pushed_by(jvp):
    f = differentiable(
        lambda x: {"force": spring(x), "energy": x.sum()},
        method=CustomVJP(lambda *_: None, jvp),
        name="spring",
    )
    torch.func.jvp(f, (torch.ones(2),), (torch.ones(2),))


@says(
    BadResult,
    "The `jvp` of `spring` returned another structure than its output has.",
    "It must return one tangent for each output, or None for zero.",
    "Return the tangents in the nesting of the result: for example `(tangent, None)`.",
)
def tangents_in_another_nesting():
    pushed_by(lambda args, output, tangents: (tangents[0], None))


@says(
    BadResult,
    "The `jvp` of `spring` returned shape () for output 0, whose shape is (2,).",
    "A derivative has the shape of what it belongs to; nothing is broadcast.",
    "Return it in shape (2,), for example with `.reshape((2,))`.",
)
def tangent_of_another_shape():
    pushed_by(lambda args, output, tangents: {"force": tangents[0].sum(), "energy": None})


@says(
    BadResult,
    "The `jvp` of `spring` returned a NotImplementedType for output 1.",
    "A derivative is a tensor, an array, a number or None.",
    "Return it in shape (), for example with `torch.as_tensor(…)`.",
)
def tangent_that_is_not_implemented():
    pushed_by(lambda args, output, tangents: {"force": None, "energy": NotImplemented})


@says(
    BadResult,
    "The `jvp` of `spring` returned nan or inf for output 0.",
    "Every derivative must be finite.",
    "Mend `jvp`, or use reverse mode: `backward()`, `torch.func.vjp`.",
)
def tangent_that_is_infinite():
    pushed_by(lambda args, output, tangents: {"force": tangents[0] / 0, "energy": None})


# ------------------------------------------------------------------------------------------------
# TransformError
# ------------------------------------------------------------------------------------------------


@says(
    TransformError,
    "`spring` was traced into a graph (by `make_fx`, `torch.func.linearize`, `torch.export` "
    "or `torch.jit.trace`).",
    "A tracer does not see into it: its derivatives would become zeros without an error.",
    "Call it outside the traced function; `torch.compile` without `fullgraph` works, and so "
    "does `torch.func.jvp` in the place of `linearize`.",
)
def traced_by_make_fx():
    make_fx(differentiable(spring))(torch.ones(2))


@says(
    TransformError,
    "`spring` was traced into a graph (by `make_fx`, `torch.func.linearize`, `torch.export` "
    "or `torch.jit.trace`).",
    "A tracer does not see into it: its derivatives would become zeros without an error.",
    "Call it outside the traced function; `torch.compile` without `fullgraph` works, and so "
    "does `torch.func.jvp` in the place of `linearize`.",
)
def linearized():
    torch.func.linearize(differentiable(spring), torch.ones(2))


@says(
    TransformError,
    "`spring` was traced into a graph (by `make_fx`, `torch.func.linearize`, `torch.export` "
    "or `torch.jit.trace`).",
    "A tracer does not see into it: its derivatives would become zeros without an error.",
    "Call it outside the traced function; `torch.compile` without `fullgraph` works, and so "
    "does `torch.func.jvp` in the place of `linearize`.",
)
def traced_by_jit():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(differentiable(spring), torch.ones(2))


@says(
    TransformError,
    "`spring` was traced into a graph (by `make_fx`, `torch.func.linearize`, `torch.export` "
    "or `torch.jit.trace`).",
    "A tracer does not see into it: its derivatives would become zeros without an error.",
    "Call it outside the traced function; `torch.compile` without `fullgraph` works, and so "
    "does `torch.func.jvp` in the place of `linearize`.",
)
def exported():
    torch.export.export(differentiable(spring), (torch.ones(2),), strict=False)


@says(
    TransformError,
    "`spring` was traced into a graph (by `make_fx`, `torch.func.linearize`, `torch.export` "
    "or `torch.jit.trace`).",
    "A tracer does not see into it: its derivatives would become zeros without an error.",
    "Call it outside the traced function; `torch.compile` without `fullgraph` works, and so "
    "does `torch.func.jvp` in the place of `linearize`.",
)
def backward_under_a_tracer():
    f = differentiable(spring)
    make_fx(torch.func.grad(lambda x: f(x).sum()))(torch.ones(2))


@says(
    TransformError,
    "`spring` was differentiated a third time.",
    "Numerical derivatives of third order would be mostly noise, so there are none.",
    "Call `.detach()` on the second derivative, or write the function in torch.",
)
def differentiated_three_times():
    f = differentiable(spring)
    torch.func.grad(torch.func.grad(torch.func.grad(lambda x: f(x))))(torch.tensor(1.0))


@says(
    TransformError,
    "`spring` was differentiated a third time.",
    "Numerical derivatives of third order would be mostly noise, so there are none.",
    "Call `.detach()` on the second derivative, or write the function in torch.",
)
def differentiated_three_times_in_forward_mode():
    f = differentiable(spring)
    torch.func.jacfwd(torch.func.jacfwd(torch.func.jacfwd(f)))(torch.tensor(1.0))


@says(
    TransformError,
    "A score estimate has no forward mode.",
    "It is right only as a mean over random directions, and a jvp is one direction.",
    "Use another stencil, or reverse mode: `backward()`, `torch.func.vjp`.",
)
def score_estimate_in_forward_mode():
    method = FiniteDifference(stencils.ONE_POINT, directions.Gaussian(4))
    f = differentiable(spring, method=method)
    torch.func.jvp(f, (torch.ones(2),), (torch.ones(2),))


@says(
    TransformError,
    "`spring` was differentiated in forward mode, but its rule has no `jvp`.",
    "A vjp alone cannot push a tangent forward.",
    "Pass `CustomVJP(vjp, jvp=…)`, or use reverse mode: `backward()`, `torch.func.vjp`.",
)
def rule_without_a_jvp_in_forward_mode():
    f = differentiable(spring, method=CustomVJP(lambda args, output, cotangent: 2 * cotangent))
    torch.func.jvp(f, (torch.ones(2),), (torch.ones(2),))


@says(
    MethodError,
    "The bounds of `curved` leave a second derivative 0.00082 of the displacement that it needs.",
    "It is a difference of two gradients, and over less than a tenth of that distance it is lost "
    "in their noise.",
    "Give wider `bounds=`, or equal ones: an input that cannot move has slope 0.",
)
def no_room_for_a_second_derivative():
    central = FiniteDifference(stencils.CENTRAL)
    f = differentiable(lambda x: x**2, name="curved", method=central, bounds=((0.5, 0.5 + 1e-7),))
    x = wants(0.5 + 5e-8)
    (slope,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    slope.sum().backward()


# ------------------------------------------------------------------------------------------------
# Bounds, calibration, and points that fail
# ------------------------------------------------------------------------------------------------

PAIRS = "Give one pair for each positional argument, for example `bounds=((0, 1), None)`."


@says(
    MethodError,
    "`bounds=3` is not possible.",
    "They are a tuple with one entry for each positional argument.",
    PAIRS,
)
def bounds_that_are_a_number():
    differentiable(spring, bounds=3)


@says(
    MethodError,
    "`bounds=(0, None)` is not possible.",
    "They are a tuple with one pair (lower, upper) for each positional argument.",
    "For one argument write `bounds=((0, None),)`.",
)
def bounds_that_are_the_pair_of_one_argument():
    differentiable(spring, bounds=(0, None))


@says(
    MethodError,
    "`bounds=('positive',)` is not possible.",
    "'positive' is not a pair (lower, upper).",
    PAIRS,
)
def bounds_that_are_a_word():
    differentiable(spring, bounds=("positive",))


@says(
    MethodError,
    "`bounds=((0, nan),)` is not possible.",
    "A bound is a real number, and not NaN.",
    PAIRS,
)
def bound_that_is_not_a_number():
    differentiable(spring, bounds=((0, math.nan),))


@says(
    MethodError,
    "`bounds=((1, 0),)` is not possible.",
    "A lower bound is above the upper one.",
    PAIRS,
)
def bounds_that_are_crossed():
    differentiable(spring, bounds=((1, 0),))


@says(
    MethodError,
    "`bounds=((array([0., 0.]), array([1., 1., 1.])),)` is not possible.",
    "The shapes of the lower and the upper bound differ.",
    PAIRS,
)
def bounds_of_two_shapes():
    differentiable(spring, bounds=((np.zeros(2), np.ones(3)),))


@says(
    MethodError,
    "`bounds=((0, 1),)` is not possible.",
    "Complex numbers have no order, and so no bounds.",
    PAIRS,
)
def bounds_of_complex_numbers():
    differentiable(spring, bounds=((0, 1),))(wants(1j, dtype=torch.complex128))


@says(
    MethodError,
    "`bounds=((array([0., 0.]), 9),)` is not possible.",
    "A bound of shape (2,) does not fit an argument of (3,).",
    PAIRS,
)
def bound_of_another_shape():
    differentiable(spring, bounds=((np.zeros(2), 9),))(wants(1.0, 2.0, 3.0))


@says(
    MethodError,
    "`bounds=((0, 1), (0, 1))` does not fit a call with 1 positional argument.",
    "`bounds` is a prefix of the tuple of positional arguments, as `in_dims` is in `torch.vmap`.",
    "Give one entry for each positional argument, for example `bounds=((0, 1),)`.",
)
def bounds_for_an_argument_too_many():
    differentiable(spring, bounds=((0, 1), (0, 1)))(wants(0.5))


@says(
    MethodError,
    "`lift` was given x[1] = 1.25, outside of its bounds [0, 1].",
    "It is never evaluated outside; only what is outside by rounding (1e-6 of the scale) is "
    "moved to the bound.",
    "Write `torch.clamp(x, 0, 1)`, or give wider `bounds=`.",
)
def argument_outside_of_its_bounds():
    differentiable(lambda x: x, bounds=((0, 1),), name="lift")(wants(0.5, 1.25))


@says(
    MethodError,
    "`sin` was given argument 0 = -0.5, outside of its bounds [0, inf].",
    "It is never evaluated outside; only what is outside by rounding (1e-6 of the scale) is "
    "moved to the bound.",
    "Write `torch.clamp(x, min=0)`, or give wider `bounds=`.",
)
def argument_without_a_name_below_its_only_bound():
    differentiable(torch.sin, bounds=((0, None),))(torch.tensor(-0.5))


class Careless(FiniteDifference):
    """A method of somebody's own, which forgets that there may be bounds."""

    def linearize(self, primal, keep, draw):
        rows = primal.rows + 2.0
        values = yield Points(rows[None], None)
        return Linearization(directions.Coordinate(), np.arange(1), keep(values), None, None)


@says(
    MethodError,
    "A method asked for `lift` at 2.5, where a bound is 1.",
    "No method may leave the bounds: `Primal.room` says how far each input may move.",
    "Displace by no more than that; or leave out `bounds=`, if the function can be evaluated "
    "there.",
)
def method_that_leaves_the_bounds():
    f = differentiable(lambda x: x, method=Careless(), bounds=((0, 1),), name="lift")
    f(wants(0.5)).sum().backward()


@says(
    MethodError,
    "`lift` was given x = 3, outside of its bounds [-inf, 2].",
    "It is never evaluated outside; only what is outside by rounding (1e-6 of the scale) is "
    "moved to the bound.",
    "Write `torch.clamp(x, max=2)`, or give wider `bounds=`.",
)
def argument_above_its_only_bound():
    differentiable(lambda x: x, bounds=((None, 2),), name="lift")(torch.tensor(3.0))


@says(
    MethodError,
    "A score estimate needs room on both sides of every input, and a bound leaves none.",
    "It is right only as a mean over directions and their opposites.",
    "Use `stencils.FORWARD` or `stencils.CENTRAL` with these directions.",
)
def score_estimate_on_a_bound():
    method = FiniteDifference(stencils.ONE_POINT, directions.Gaussian(4))
    differentiable(spring, bounds=((0, 9),), method=method)(wants(0.0)).sum().backward()


@says(
    MethodError,
    "x lies in a corner of its bounds, and Rademacher(count=4, recovery='mean') lead out of them "
    "both ways.",
    "A difference needs room on one side of x along each direction.",
    "Use `AdaptiveDifference(directions=directions.Coordinate())`, or move x off the bounds.",
)
def random_directions_in_a_corner():
    method = AdaptiveDifference(directions=directions.Rademacher(4))
    differentiable(spring, bounds=((0, 1),), method=method)(wants(0.0, 1.0)).sum().backward()


@says(
    MethodError,
    "`AdaptiveDifference(rtol=2)` is not possible.",
    "The relative error at which an input stops lies between 0 and 1.",
    "Leave `rtol` out, or give for example `rtol=1e-6`.",
)
def relative_error_above_one():
    AdaptiveDifference(rtol=2)


@says(
    MethodError,
    "Row 0 cannot be displaced along direction 0.",
    "Every displacement is lost in the rounding of the precision that the black box receives, or "
    "leads out of its range.",
    "Give another `scale=` to `differentiable`.",
)
def arms_that_are_all_lost_in_rounding():
    f = differentiable(spring, scale=1e-20, method=AdaptiveDifference())
    f(wants(1.0)).sum().backward()


CALIBRATED = (
    "The calibration chooses the inputs that are differenced centrally; a named stencil, a "
)


@says(
    MethodError,
    "`FiniteDifference(rtol=0.1)` has a stencil, a step or directions too.",
    CALIBRATED + "step and random directions do without.",
    "Write `FiniteDifference(rtol=0.1)`, or leave `rtol` out.",
)
def relative_error_with_a_stencil():
    FiniteDifference(stencils.CENTRAL, rtol=0.1)


@says(
    MethodError,
    "`FiniteDifference(rtol=-1)` is not possible.",
    "The rtol is a positive, finite number without units.",
    "Leave `rtol` out, or give for example `rtol=1e-6`.",
)
def relative_error_below_zero():
    FiniteDifference(rtol=-1)


@says(
    MethodError,
    "`calibration = 3` is not possible.",
    "It is a value that `calibration` of a `Differentiable` has returned, or None.",
    "Write `f.calibration = None` to measure anew.",
)
def calibration_that_is_a_number():
    differentiable(spring).calibration = 3


@says(
    MethodError,
    "A calibration of 22 bytes cannot be read: KeyError('text is not a file in the archive').",
    "It is what `state_dict()` of a `Differentiable` holds, written by this version.",
    "Load without it: `f.calibration = None`; the next gradient calibrates again.",
)
def calibration_from_a_broken_checkpoint():
    empty = torch.frombuffer(bytearray(b"PK\5\6" + bytes(18)), dtype=torch.uint8)  # a zip file
    differentiable(spring).load_state_dict({"_extra_state": empty})


@says(
    MethodError,
    "A calibration cannot be read from {'noise': 1}.",
    "In a state dict it is one uint8 tensor.",
    "Load without it: take the key `_extra_state` out of the state dict.",
)
def calibration_that_is_no_tensor():
    differentiable(spring).load_state_dict({"_extra_state": {"noise": 1}})


def only_at_one(x):
    return torch.where(x == 1, 2 * x, math.nan)


@says(
    BadResult,
    "`only_at_one` returned nan or inf on both sides of x: with x[1] increased by 6.1e-10, and in "
    "the other direction.",
    "A derivative needs f(x) and a value on one side of every input.",
    "Restrict the inputs with `torch.clamp`, or give `bounds=` and `scale=` to `differentiable`.",
)
def nothing_on_either_side_of_an_input():
    f = differentiable(lambda x: x[0] + only_at_one(x[1]), name="only_at_one")
    f(wants(1.0, 1.0)).backward()


@says(
    BadResult,
    "`only_at_one` returned nan or inf on both sides of x in row 1: with x[1, 0] increased by "
    "6.1e-10, and in the other direction.",
    "A derivative needs f(x) and a value on one side of every input.",
    "Restrict the inputs with `torch.clamp`, or give `bounds=` and `scale=` to `differentiable`.",
)
def nothing_on_either_side_in_a_row():
    def fn(x, bad):
        return torch.where(bad[:, None], only_at_one(x), x)

    f = differentiable(fn, batch_dims=0, name="only_at_one")
    f(wants(1.0, 1.0)[:, None], torch.tensor([False, True])).sum().backward()


def torn(x):
    if x[0] != 1:
        raise PointFailed("the mesh was torn")
    return 2 * x


@says(
    BadResult,
    "`torn` returned no value (PointFailed: The black box says that a point failed: the mesh was "
    "torn.) on both sides of x: with x[0] increased by 6.1e-10, and in the other direction.",
    "A derivative needs f(x) and a value on one side of every input.",
    "Restrict the inputs with `torch.clamp`, or give `bounds=` and `scale=` to `differentiable`.",
)
def points_that_fail_on_both_sides():
    differentiable(torn)(wants(1.0)).sum().backward()


@says(
    EvaluationError,
    "`two` raised TypeError: points_that_need_two_arguments.<locals>.two() missing 1 required "
    "positional argument: 'load'",
    "A black box must return a result at every point; this one was that of the forward pass.",
    "Give it the arguments that it takes: `two(width, load, *, mode='fast')`.",
)
def points_that_need_two_arguments():
    def two(width, load, *, mode="fast"):
        return width * load

    differentiable(two)(wants(1.0))


@says(
    PointFailed,
    "The black box says that a point failed: the mesh was torn.",
    "The value at x itself is needed, and one on some side of every input; a stencil that is "
    "named needs all of its points, unless `on_failure=` says otherwise.",
    'Restrict the inputs with `torch.clamp`, give `bounds=` or `on_failure="one_sided"` to '
    "`differentiable`, or use the default method.",
)
def point_that_fails_in_the_forward_pass():
    differentiable(torn)(wants(2.0))


# ------------------------------------------------------------------------------------------------
# The memo
# ------------------------------------------------------------------------------------------------

folder = tempfile.TemporaryDirectory()
atexit.register(folder.cleanup)
FOLDER = Path(folder.name)


def used_memo(name="memo.db", **pragmas):
    """Return the path of a memo with one value in it."""
    path = FOLDER / name
    if not path.exists():
        with Memo(path) as memo:
            memo.put(b"key", 1.0)
        with_pragmas(path, **pragmas)
    return path


def with_pragmas(path, **pragmas):
    database = sqlite3.connect(path)
    for pragma, value in pragmas.items():
        database.execute(f"PRAGMA {pragma}={value}")
    database.close()


def key_of(*args):
    leaves, tree = _tree.flatten((args, {}))
    with Memo(used_memo()) as memo:
        return memo.key(b"f", tree, leaves)


@says(
    MethodError,
    "A memo has no key for `args[1][0]`, of type array of dtype object: "
    "array([None], dtype=object).",
    "Its key is made of what the function is given: tensors, arrays, int, float, str, bool and "
    "None.",
    "Pass its numbers, for example as `np.asarray(…)`, or leave out `memo=`.",
)
def memo_of_an_object():
    key_of(1.0, [np.array([None])])


@says(
    MethodError,
    "A memo has no key for an argument of type builtins.dict: its pytree context holds a value of "
    "type range.",
    "The key holds the structure of the arguments, made of numbers, strings, None and types.",
    "Pass a `dict` with such keys, or leave out `memo=`.",
)
def memo_of_a_dict_with_odd_keys():
    key_of({range(3): 1.0})


@says(
    BadResult,
    "A memo cannot keep a result with a value of type set.",
    "It keeps tensors, arrays, numbers, strings and None, in tuples, lists and dicts, and gives "
    "back what it was given.",
    "Return a `dict` or a `tuple` of arrays, or leave out `memo=`.",
)
def memo_of_a_result_with_a_set():
    with Memo(used_memo()) as memo:
        memo.put(b"other key", {"y": {1.0}})


@says(
    MethodError,
    "`spring` holds, as the global `CART`, an object of type Cart, which has no fingerprint.",
    "A memo must know when the function changes: it looks at code, at constants, and at libraries, "
    "not into objects, arrays and modules, which can change unseen.",
    'Say it yourself: `version="1"`, and another version whenever the results change.',
)
def memo_of_a_function_that_holds_an_object():
    fingerprint(lambda x: CART.push(x), "spring")


CART = Cart(2.0)


@says(
    MethodError,
    "`cart` is an object of type Cart, which has no fingerprint.",
    "A memo must know when the function changes: it looks at code, at constants, and at libraries, "
    "not into objects, arrays and modules, which can change unseen.",
    'Say it yourself: `version="1"`, and another version whenever the results change.',
)
def memo_of_an_object_that_is_called():
    fingerprint(CART, "cart")


@says(
    MethodError,
    "`spring` holds, as its `import an_absent_module`, an object of type str, which has no "
    "fingerprint.",
    "A memo must know when the function changes: it looks at code, at constants, and at libraries, "
    "not into objects, arrays and modules, which can change unseen.",
    'Say it yourself: `version="1"`, and another version whenever the results change.',
)
def memo_of_a_function_that_imports_what_is_absent():
    def spring(x):
        import an_absent_module

        return an_absent_module.run(x)

    fingerprint(spring, "spring")


@says(
    MethodError,
    "`version=1.5` of `spring` is neither a string nor an integer.",
    "It is a part of the memo's keys, and stands for all that the results depend on.",
    'Write, for example, `version="2"`, and another one whenever the results change.',
)
def version_that_is_a_float():
    fingerprint(spring, "spring", version=1.5)


@says(
    MethodError,
    f"The memo {FOLDER / 'memo.db'} is closed.",
    "Its values can be read and written only while it is open.",
    f'Open it again: `Memo("{FOLDER / "memo.db"}")`.',
)
def memo_that_is_closed():
    with Memo(used_memo()) as memo:
        pass
    memo.get(b"key")


@says(
    MethodError,
    f"{FOLDER / 'other.db'} is a database of something else.",
    "A memo has its file to itself, and does not write into others.",
    'Give another path, for example `Memo("runs/memo.db")`.',
)
def memo_in_the_database_of_something_else():
    with_pragmas(FOLDER / "other.db", application_id=17)
    Memo(FOLDER / "other.db")


@says(
    MethodError,
    f"The memo {FOLDER / 'newer.db'} has format 99; this version of Suture reads 1.",
    "A newer version of Suture wrote it.",
    "`pip install --upgrade suture`, or give another path.",
)
def memo_of_a_newer_version():
    Memo(used_memo("newer.db", user_version=99))


@says(
    MethodError,
    f"The memo {FOLDER} cannot be used: it is a directory.",
    "A memo is a file that can be read and written; it is made if it does not exist.",
    'Give another path, for example `Memo("runs/memo.db")`.',
)
def memo_that_is_a_directory():
    Memo(FOLDER)


@says(
    MethodError,
    f"The memo {FOLDER / 'memo.db' / 'inner.db'} cannot be used: Not a directory.",
    "A memo is a file that can be read and written; it is made if it does not exist.",
    'Give another path, for example `Memo("runs/memo.db")`.',
)
def memo_below_a_file():
    Memo(used_memo() / "inner.db")


@says(
    MethodError,
    f"The memo {FOLDER / 'link.db'} cannot be used: unable to open database file.",
    "A memo is a file that can be read and written; it is made if it does not exist.",
    'Give another path, for example `Memo("runs/memo.db")`.',
)
def memo_behind_a_broken_link():
    if not (FOLDER / "link.db").is_symlink():
        (FOLDER / "link.db").symlink_to(FOLDER / "absent" / "memo.db")
    Memo(FOLDER / "link.db")


@says(
    MethodError,
    "`prune(older_than=-1, larger_than=None)` does not say what to delete.",
    "At least one limit is needed, and none is negative.",
    "For example `prune(older_than=timedelta(days=30))`, or `prune(older_than=0)` for all.",
)
def prune_what_is_not_written_yet():
    with Memo(used_memo()) as memo:
        memo.prune(older_than=-1)


@says(
    MethodError,
    f"{FOLDER / 'absent.db'} is not a memo that can be read: there is no such file.",
    "This command looks at memos that exist.",
    f"Look for it: `ls {FOLDER}`. A damaged memo is renamed as soon as a program uses it.",
)
def command_for_an_absent_memo():
    _memo_command.info(FOLDER / "absent.db")


@says(
    MethodError,
    "`suture memo prune` was not told what to delete.",
    "At least one of `--older-than` and `--larger-than` is needed.",
    "`suture memo prune memo.db --older-than 30d`",
)
def command_to_prune_without_a_limit():
    _memo_command.prune(Path("memo.db"), None, None)


@says(
    MethodError,
    "`--older-than` 'a month' is no amount.",
    "It is a number with one of the units s, m, h, d, w.",
    "For example `--older-than 30d`.",
)
def command_to_prune_with_words():
    _memo_command.prune(Path("memo.db"), "a month", None)


@says(
    MethodError,
    f"The memo {FOLDER / 'memo.db'} cannot be used now: attempt to write a readonly database.",
    "Others may hold it for long, or the disk may be full.",
    f"Try again: `suture memo info {FOLDER / 'memo.db'}`.",
)
def command_for_a_memo_that_cannot_be_written():
    with pytest.MonkeyPatch.context() as patch:

        def refused(*_, **__):
            raise sqlite3.OperationalError("attempt to write a readonly database")

        patch.setattr(Memo, "prune", refused)
        _memo_command.prune(used_memo(), "0s", None)


# ------------------------------------------------------------------------------------------------
# Workers
# ------------------------------------------------------------------------------------------------


def through_a_worker(fn, *args, **patches):
    """Call a function in a worker, with some parts of the library replaced meanwhile."""
    with pytest.MonkeyPatch.context() as patch, Workers(1) as workers:
        for place, value in patches.items():
            patch.setattr(f"suture.executors.{place.replace('__', '.')}", value)
        workers.submit(fn, *args).result(timeout=30)


def refuse(*_):
    raise OSError(11, "Resource temporarily unavailable")


def run_out(*_):
    raise MemoryError


@says(
    WorkerDied,
    "The worker that evaluated `exit` exited with code 3.",
    "A black box has to return or to raise; other points are not affected.",
    "Raise an exception instead of `sys.exit` or `os._exit`, also in native libraries.",
)
def worker_that_exits():
    through_a_worker(sys.exit, 3)


@says(
    WorkerDied,
    "The worker that evaluated `die` was killed by SIGKILL.",
    "Most often the system does so when memory runs out; other points are not affected.",
    "Use fewer workers, `Workers(n=1)`, or `memory_limit=` to get a MemoryError instead.",
)
def worker_that_is_killed():
    through_a_worker(faults.die, signal.SIGKILL)


@says(
    WorkerDied,
    "The worker that evaluated `string_at` was killed by SIGSEGV.",
    "Native code has crashed, or somebody sent the signal; other points are not affected.",
    "Call `string_at` at this point under `python -X faulthandler` to see the line.",
)
def worker_that_crashes():
    through_a_worker(faults.SEGV)


@says(
    WorkerDied,
    "`wait` was stopped: the worker that evaluated it was killed.",
    "`Workers.stop` was called for this task, as Ctrl-C does; the pool goes on.",
    "Submit it again, or call `future.cancel()` to end only what has not begun.",
)
def task_that_is_stopped():
    with Workers(1) as workers:
        future = workers.submit(faults.wait, 60)
        while not future.running():
            time.sleep(0.01)
        workers.stop([future])
        future.result(timeout=30)


@says(
    WorkerDied,
    "The worker that evaluated `wait` was killed, as its pool was ended.",
    "The pool was left by an exception, or `kill_workers()` was called.",
    "Use `shutdown(wait=True)` to let tasks finish.",
)
def pool_that_is_killed():
    workers = Workers(1)
    future = workers.submit(faults.wait, 60)
    while not future.running():
        time.sleep(0.01)
    workers.kill_workers()
    future.result(timeout=30)


@says(
    WorkerDied,
    "The worker that evaluated `wait` was lost: the process that starts workers died.",
    "It does nothing but that, so it was killed, or could not start (see its error output).",
    "Use fewer workers, `Workers(n=1)`, if memory ran out; later tasks get new workers.",
)
def nursery_that_is_killed():
    with Workers(1) as workers:
        workers.submit(faults.double, 1).result(timeout=30)
        future = workers.submit(faults.wait, 60)
        while not future.running():
            time.sleep(0.01)
        workers._dispatcher._crew.nursery._process.kill()
        future.result(timeout=30)


NO_WORKER = (
    "A worker needs a process, memory, and an open file in its parent.",
    "Use fewer workers, `Workers(n=1)`, or raise the limits (`ulimit -n`, `ulimit -u`).",
)


@says(
    WorkerDied,
    "No worker could be started: BlockingIOError: [Errno 11] Resource temporarily unavailable.",
    *NO_WORKER,
)
def nursery_that_cannot_start():
    through_a_worker(faults.double, 1, _crew__Nursery=refuse)


@says(
    WorkerDied,
    "No worker could be started: BlockingIOError: [Errno 11] Resource temporarily unavailable.",
    *NO_WORKER,
)
def fork_that_is_refused():
    unavailable = OSError(11, "Resource temporarily unavailable")
    through_a_worker(faults.double, 1, _children___how=lambda *_: unavailable)


@says(
    TimedOut,
    "`wait` gave no result within 0.2 s.",
    "Its worker and all processes that it started were killed; other points are not affected.",
    "Allow more seconds, in `timeout=` or `submit_within(seconds, ...)`, or make the function "
    "stop by itself.",
)
def task_that_is_late():
    with Workers(1) as workers:
        workers.submit_within(0.2, faults.wait, 60).result(timeout=30)


@says(
    MethodError,
    "`ignore` or its arguments cannot be sent to a worker: ValueError: boom.",
    "A process gets the function, what it closes over, and its arguments as a pickle.",
    "Create such objects inside of the function, or use a `ThreadPoolExecutor`.",
)
def argument_that_cannot_be_pickled():
    through_a_worker(faults.ignore, faults.Refuses(pickled=faults.boom))


RECEIVED = "A result travels as a pickle."


@says(
    BadResult,
    "The result of `double` could not be received from its worker:"
    " it needs more memory than there is.",
    RECEIVED,
    "Return numbers, arrays or tensors from `double`.",
)
def result_that_is_too_large():
    through_a_worker(faults.double, 1, _children__Worker__receive=run_out)


@says(
    BadResult,
    "The result of `give` could not be received from its worker:"
    " a Refuses cannot be pickled (ValueError: boom).",
    RECEIVED,
    "Return numbers, arrays or tensors from `give`.",
)
def result_that_cannot_be_pickled():
    through_a_worker(faults.give, faults.there(faults.boom), None)


@says(
    BadResult,
    "The result of `give` could not be received from its worker: ValueError: boom.",
    RECEIVED,
    "Return numbers, arrays or tensors from `give`.",
)
def result_that_cannot_be_unpickled():
    through_a_worker(faults.give, None, faults.here(faults.boom))


@says(
    EvaluationError,
    "`raise_awkward` raised Awkward, which cannot be sent from a worker as it is.",
    "An error travels as a pickle; the traceback above is that of the worker.",
    "Raise an Exception in `raise_awkward` whose arguments are those of its `__init__`.",
)
def error_that_cannot_be_unpickled():
    through_a_worker(faults.raise_awkward)


@says(
    MethodError,
    "`seconds` is 0.",
    "A call needs a positive, finite time.",
    "Use `submit(fn, ...)` to wait forever.",
)
def no_seconds():
    Workers(1).submit_within(0, faults.double, 1)


@says(
    MethodError,
    "A pool of process 1 was used in process 2.",
    "After a fork, the workers still belong to the parent alone.",
    "Make a new `Workers()` in each process.",
)
def pool_of_another_process():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.getpid", lambda: 1)
        workers = Workers(1)
        patch.setattr("os.getpid", lambda: 2)
        workers.submit(faults.double, 1)


@says(
    MethodError,
    "`Workers` was made on plan9, which has no fork.",
    "Workers are forked from a process that has imported torch once.",
    "Use `concurrent.futures.ProcessPoolExecutor()`.",
)
def system_without_fork():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.platform", "plan9")
        patch.delattr("os.fork")
        Workers()


@says(
    MethodError,
    "`memory_limit` was given on darwin.",
    "Only Linux holds a process to RLIMIT_AS.",
    "Leave `memory_limit=` out.",
)
def memory_limit_on_another_system():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.platform", "darwin")
        Workers(memory_limit=1 << 30)


@says(
    MethodError,
    "`Workers` was made in a daemonic process, as the workers of a DataLoader are.",
    "Such a process is ended without notice and may have no children.",
    "Evaluate one after another there, `executor=None`.",
)
def workers_of_a_daemon():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(multiprocessing.current_process()._config, "daemon", True)
        Workers()


@says(
    MethodError,
    "`n` is 0.",
    "It has to be a whole number, 1 or more.",
    "Use `Workers(n=2, memory_limit=8 * 2**30)`, for example.",
)
def no_workers():
    Workers(0)


# ------------------------------------------------------------------------------------------------
# Records
# ------------------------------------------------------------------------------------------------

ROW = '{"when": 1.0, "seconds": 2.0, "name": "f", "ended": "value"}'


def report_of(text, page="page.html"):
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("run.jsonl").write_text(text)
        suture.report("run.jsonl", page)


def no_record(reason):
    return says(
        MethodError,
        f"run.jsonl is no record: {reason}.",
        "A record has rows of JSON, one a call of a black box.",
        "Record a training, `with suture.record(path):`, and report that.",
    )


@no_record("it has no rows")
def report_of_nothing():
    report_of("")


@no_record("line 2 is {'when': 1.0}")
def report_of_something_else():
    report_of(ROW + '\n{"when": 1.0}')


@no_record("a time is negative, or no number")
def report_of_a_negative_time():
    report_of(ROW.replace("2.0", "-2.0"))


@no_record("a count is negative")
def report_of_a_negative_count():
    report_of(ROW.replace('"name"', '"step": -1, "name"'))


@says(
    MethodError,
    "The record run.jsonl cannot be read: No such file or directory.",
    "A record is a file that `with suture.record(path):` wrote.",
    'Give its path, for example `report("runs/record.jsonl", "run.html")`.',
)
def report_of_no_file():
    suture.report("run.jsonl", "page.html")


@says(
    MethodError,
    "The page run.jsonl would replace the record itself.",
    "Page and record are two files.",
    'Give another path, for example `report("run.jsonl", "run-page.html")`.',
)
def page_in_the_place_of_its_record():
    report_of(ROW, page="run.jsonl")


@says(
    MethodError,
    "The page . cannot be written: Is a directory.",
    "A page is a file; it is made if it does not exist, and its directory too.",
    'Give another path, for example `report("run.jsonl", "page.html")`.',
)
def page_that_is_a_directory():
    report_of(ROW, page=".")


@says(
    MissingExtraError,
    "The report of a record cannot draw: matplotlib is not installed.",
    "Its page consists of figures, which are the extra `plot`.",
    '`pip install "suture[plot]"`',
)
def report_without_matplotlib():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)
        report_of(ROW)


@says(
    MethodError,
    "The record /dev/null/run.jsonl cannot be written: Not a directory.",
    "A record is a file that can be written and read; it is made if it does not exist.",
    'Give another path, for example `record("runs/record.jsonl")`.',
)
def record_in_a_file():
    with suture.record("/dev/null/run.jsonl"):
        pass


# ------------------------------------------------------------------------------------------------
# What happens elsewhere
# ------------------------------------------------------------------------------------------------


class Fake:
    """An executor that does what it is told to."""

    def __init__(self, submit):
        self.submit = submit


def answers_with(error):
    """Return a `submit` whose futures end with an error."""

    def submit(*_):
        future = concurrent.futures.Future()
        future.set_exception(error)
        return future

    return submit


def raises(error):
    def submit(*_):
        raise error

    return submit


def evaluated_by(executor, fn=spring, **options):
    differentiable(fn, executor=executor, name=fn.__name__, **options)(wants(1.0))


BROKEN = concurrent.futures.BrokenExecutor("a process ended")


@says(
    MethodError,
    "A function that was given as `executor` returned None.",
    "It has to return an executor, which has `submit(fn, *args)`.",
    "Use `executor=lambda: suture.executors.Workers(2)`, for example.",
)
def maker_that_makes_no_executor():
    evaluated_by(lambda: None)


@says(
    MethodError,
    "`differentiable(timeout=2)` cannot be kept without an executor.",
    "In this process, nothing can stop a call that takes too long.",
    "Write `executor=suture.executors.Workers()` with it, or leave out `timeout`.",
)
def timeout_in_this_process():
    differentiable(spring, timeout=2)


@says(
    MethodError,
    "`differentiable(timeout=2)` cannot be kept by a ThreadPoolExecutor.",
    "A call that takes too long has to be stopped from outside, and threads and the workers of "
    "others cannot be.",
    "Use `executor=suture.executors.Workers()`, or leave out `timeout`.",
)
def timeout_with_threads():
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        differentiable(spring, executor=threads, timeout=2)


@says(
    MethodError,
    "`differentiable(timeout=-1)` is not possible.",
    "It is a positive number of seconds.",
    "Write `timeout=60`.",
)
def timeout_that_is_negative():
    differentiable(spring, timeout=-1)


@says(
    MethodError,
    "`differentiable(retries=-1)` is not possible.",
    "It is a number of attempts, 0 or more.",
    "Write `retries=2`.",
)
def retries_below_zero():
    differentiable(spring, retries=-1)


@says(
    MethodError,
    "`differentiable(max_failed_fraction=25)` is not possible.",
    "It is a part of 1.",
    "Write `max_failed_fraction=0.25`.",
)
def fraction_in_percent():
    differentiable(spring, max_failed_fraction=25)


@says(
    MethodError,
    "`differentiable(on_failure='ignore')` is not possible.",
    'It is one of "raise", "shrink", "one_sided", "skip".',
    'Write `on_failure="one_sided"`.',
)
def policy_that_is_none():
    differentiable(spring, on_failure="ignore")


@says(
    MethodError,
    "`differentiable(memo='memo.db')` is not possible.",
    "A memo is an object.",
    'Write `memo=suture.Memo("memo.db")`.',
)
def memo_that_is_a_path():
    differentiable(spring, memo="memo.db")


@says(
    MethodError,
    "`differentiable(progress='bar')` is not possible.",
    "It is yes, no or None.",
    "Write `progress=False`.",
)
def progress_that_is_a_word():
    differentiable(spring, progress="bar")


@says(
    WorkerDied,
    "The executor of `spring`, a Fake, is broken: one of its workers died.",
    "Such a pool loses all of its tasks with one worker.",
    "Use `executor=suture.executors.Workers()`, or pass a function that makes the pool, "
    "`executor=lambda: loky.get_reusable_executor()`: it is called again then.",
)
def executor_that_is_broken():
    evaluated_by(Fake(raises(BROKEN)))


@says(
    WorkerDied,
    "The executor of `spring`, a Fake, is broken: one of its workers died.",
    "Such a pool loses all of its tasks with one worker.",
    "Use `executor=suture.executors.Workers()`, or pass a function that makes the pool, "
    "`executor=lambda: loky.get_reusable_executor()`: it is called again then.",
)
def executor_that_breaks_and_cannot_be_made_again():
    f = differentiable(spring, executor=Fake(answers_with(BROKEN)), retries=1)
    torch.func.vmap(f)(torch.ones(2))


@says(
    WorkerDied,
    "A worker that evaluated `spring` died, and a Fake with it.",
    "A black box has to return or to raise; such a pool loses all of its tasks with one worker.",
    "Use `executor=suture.executors.Workers()`, which loses nothing but the point, or `retries=1` "
    "and a function that makes the pool, `executor=lambda: …`.",
)
def executor_that_breaks():
    evaluated_by(Fake(answers_with(BROKEN)))


@says(
    MethodError,
    "The executor of `spring`, a ThreadPoolExecutor, takes no calls: RuntimeError: cannot schedule "
    "new futures after shutdown",
    "Forward and backward need it; a pool ends with its `with` block.",
    "Train inside of the block, or make the pool without one: `pool = Workers()`.",
)
def executor_that_is_shut_down():
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        pass
    evaluated_by(threads)


@says(
    MethodError,
    "The executor of `spring`, a Fake, returned an int.",
    "Its `submit` has to return a future with the methods of `concurrent.futures.Future`.",
    "Use `executors.dask(client)` for Dask, `executors.ray()` for Ray, or another executor.",
)
def executor_without_futures():
    evaluated_by(Fake(lambda *_: 7))


@says(
    MethodError,
    "A future of the executor of `spring`, a Fake, held a NoneType.",
    "It has to hold what the submitted function returned.",
    "Use another executor, for example `executor=suture.executors.Workers()`.",
)
def executor_that_loses_answers():
    def submit(*_):
        future = concurrent.futures.Future()
        future.set_result(None)
        return future

    evaluated_by(Fake(submit))


@says(
    EvaluationError,
    "An evaluation of `spring` was canceled.",
    "Its executor was shut down, or somebody canceled its tasks, while a gradient waited.",
    "Call `shutdown()` after the training.",
)
def evaluation_that_is_canceled():
    evaluated_by(Fake(answers_with(concurrent.futures.CancelledError())))


@says(
    EvaluationError,
    "`settle` raised ArithmeticError: no equilibrium",
    "A black box must return a result at every point; this one was that of the forward pass.",
    "Mend `settle`, or restrict its inputs with `torch.clamp`. See `exc.point`.",
)
def function_that_raises_in_a_worker():
    with Workers(1) as workers:
        differentiable(settle, executor=workers)(wants(-1.0))


@says(
    EvaluationError,
    "`fail_strangely` raised Strange, which cannot be sent from a worker as it is.",
    "An error travels as a pickle; the traceback above is that of the worker.",
    "Raise an Exception in `fail_strangely` whose arguments are those of its `__init__`.",
)
def error_that_cannot_travel():
    with Workers(1) as workers:
        differentiable(fail_strangely, executor=workers)(wants(1.0))


@says(
    MethodError,
    "`spring` or its arguments cannot be sent to a worker: ValueError: boom.",
    "A process gets the function, what it closes over, and its arguments as a pickle.",
    "Create such objects inside of the function, or use a `ThreadPoolExecutor`.",
)
def argument_that_cannot_travel():
    with Workers(1) as workers:
        f = differentiable(lambda x, _: x, executor=workers, name="spring")
        f(torch.ones(2), faults.Refuses(pickled=faults.boom))


@says(
    MethodError,
    "`spring` or its arguments cannot be sent to a worker: ValueError: boom.",
    "A process gets the function, what it closes over, and its arguments as a pickle.",
    "Create such objects inside of the function, or use a `ThreadPoolExecutor`.",
)
def argument_that_another_pool_cannot_send():
    pool = Fake(answers_with(pickle.PicklingError("the task")))
    f = differentiable(lambda x, _: x, executor=pool, name="spring")
    f(torch.ones(2), faults.Refuses(pickled=faults.boom))


@says(
    MethodError,
    "`spring` or its result cannot be sent by Fake: PicklingError: not found in __main__.",
    "A process gets the arguments and gives the result as a pickle, and plain pickles hold no "
    "functions but those of modules.",
    "Use `executor=suture.executors.Workers()`, which sends any function, and return numbers.",
)
def function_that_a_plain_pool_cannot_send():
    evaluated_by(Fake(answers_with(pickle.PicklingError("not found in __main__"))))


@says(
    MethodError,
    f"An executor of process {os.getpid() + 1} was used in process {os.getpid()}.",
    "Its workers belong to that process alone, also after a fork; and a copy from a file or a "
    "pipe has none.",
    "Pass a function that makes it, `executor=lambda: executors.Workers(2)`.",
)
def executor_of_a_parent():
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        f = differentiable(spring, executor=threads)
        f._box.service.pool._pools = {}
        f._box.service.pool._home = os.getpid() + 1
        f(wants(1.0))


@says(
    EvaluationError,
    "2 of 4 points of a gradient of `half` failed, more than 25%.",
    'With `on_failure="skip"` the others would have to stand for them.',
    "Mend the cause (above), or allow more: `max_failed_fraction=0.5`.",
)
def too_many_points_that_fail():
    def half(x):
        if (x[:2] > 1.0).any():
            raise ValueError("boom")
        return x

    differentiable(half, method=FORWARD, on_failure="skip")(
        wants(1.0, 1.0, 1.0, 1.0)
    ).sum().backward()


@says(
    MethodError,
    "`spring` returned different values for the same arguments when `check` looked.",
    "A memo would return the first draw for ever, and never another one.",
    "Pass the seed to `spring` as an argument; or, if the first draw is what you want, "
    "`Memo(path, allow_random=True)`.",
)
def memo_of_a_random_function():
    with tempfile.TemporaryDirectory() as home, Memo(Path(home) / "memo.db") as memo:
        memo.note(fingerprint(spring, "spring"), RANDOM)
        differentiable(spring, memo=memo)(wants(1.0))


@says(
    BadResult,
    "Row 1 of `breaks` has no value where only other rows are displaced.",
    "Whether the rows are independent, as `batch_dims` says, cannot be seen there: either they are "
    "not, or the whole call fails because of one row.",
    "Let `breaks` return NaN in the rows that fail, and values in the others.",
)
def rows_that_fail_together():
    def breaks(x):
        if x[0] != 1 and x[1] == 3:
            raise RuntimeError("boom")
        return x

    f = differentiable(breaks, batch_dims=0, on_failure="one_sided", chunk_size=1)
    f(wants(1.0, 3.0)).sum().backward()


@says(
    MethodError,
    "Two functions named `<lambda>` use the version 1 of one memo.",
    "With a version, a memo knows a function by its name: it would give one of them the values of "
    "the other.",
    'Give one another name, `differentiable(<lambda>, name="<lambda> 2")`; or, if it '
    "replaces the other, open the file by another `Memo`.",
)
def memo_of_two_lambdas():
    one, two = (lambda x: x), (lambda x: 2 * x)
    with tempfile.TemporaryDirectory() as home, Memo(Path(home) / "memo.db", version=1) as memo:
        differentiable(one, memo=memo)(wants(1.0))
        differentiable(two, memo=memo)(wants(1.0))


@says(
    MethodError,
    "`spring` was given `x` of type list_iterator, which is empty once it was read.",
    "A gradient evaluates many points, with the same arguments at each of them.",
    "Pass what it holds, `list(…)`; or what makes it, as the path of a file.",
)
def iterator_as_an_argument():
    differentiable(spring)(iter([1.0]))


@says(
    MissingExtraError,
    "`executors.dask` cannot be used: distributed is not installed.",
    "It is the extra `dask`; everything else works without it.",
    'Type `pip install "suture[dask]"`.',
)
def dask_that_is_not_installed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "distributed", None)
        executors.dask(None)


@says(
    MissingExtraError,
    "`executors.ray` cannot be used: ray is not installed.",
    "It is the extra `ray`; everything else works without it.",
    'Type `pip install "suture[ray]"`.',
)
def ray_that_is_not_installed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        executors.ray()


@says(
    MethodError,
    "`executors.ray(max_retries=3)` is not possible.",
    "A call is made once, and returns one thing.",
    "Leave it out; `differentiable(..., retries=1)` evaluates a point that failed again.",
)
def ray_that_calls_again():
    executors.ray(num_cpus=2, max_retries=3)


@says(
    MethodError,
    "`executors.dask` was given builtins.str.",
    "It takes a `distributed.Client` that is not asynchronous.",
    'Use `executors.dask(distributed.Client("tcp://scheduler:8786"))`.',
)
def dask_without_a_client():
    executors.dask("tcp://scheduler:8786")


def dask_client(asynchronous=False, error=None):
    distributed = pytest.importorskip("distributed")
    client = mock.create_autospec(distributed.Client, instance=True, asynchronous=asynchronous)
    client.run_on_scheduler.side_effect = error
    return client


@says(
    MethodError,
    "`executors.dask` was given an asynchronous client.",
    "It takes a `distributed.Client` that is not asynchronous.",
    'Use `executors.dask(distributed.Client("tcp://scheduler:8786"))`.',
)
def dask_with_an_asynchronous_client():
    executors.dask(dask_client(asynchronous=True))


@says(
    MethodError,
    "The Dask scheduler cannot be used: ModuleNotFoundError: No module named 'suture'.",
    "It keeps the list of calls that have begun, so that none is made twice when a worker dies.",
    "Connect the client, and `pip install suture` where the scheduler and the workers run.",
)
def dask_without_suture():
    executors.dask(dask_client(error=ModuleNotFoundError("No module named 'suture'")))


@says(
    WorkerDied,
    "The Dask worker that evaluated `spring` was lost.",
    "It was killed, crashed, ran out of memory, left the cluster, or cannot be reached; what did "
    "not run there is not affected.",
    "Look at `client.get_worker_logs()`; `differentiable(..., retries=1)` evaluates such a point "
    "once more.",
)
def dask_worker_that_dies():
    client = dask_client()
    pool = client.get_executor.return_value
    pool.submit.side_effect = lambda *_: _tasks.failed(distributed_error(client))
    raise executors.dask(client).submit(spring, 1).exception()


def distributed_error(client):
    """Return the error of a task that was given up."""
    return sys.modules["distributed"].scheduler.KilledWorker("spring", client, 3)


class Unpicklable:
    def __reduce__(self):
        raise TypeError("cannot pickle 'module.lock' object")


@says(
    MethodError,
    "`spring` or its arguments cannot be sent to a worker: TypeError: cannot pickle 'module.lock' "
    "object.",
    "A process gets the function, what it closes over, and its arguments as a pickle.",
    "Create such objects inside of the function, or use a `ThreadPoolExecutor`.",
)
def call_that_cannot_be_pickled_for_dask():
    raise executors.dask(dask_client()).submit(spring, Unpicklable()).exception()


@says(
    BadResult,
    "The result of `spring` could not be received from its worker: a Unpicklable cannot be pickled "
    "(TypeError: cannot pickle 'module.lock' object).",
    "A result travels as a pickle.",
    "Return numbers, arrays or tensors from `spring`.",
)
def parcel_whose_result_cannot_be_pickled():
    _parcel.opened("spring", _parcel.perform(_parcel.pack(Unpicklable, (), {})))


@says(
    EvaluationError,
    "`spring` raised SystemExit, which cannot be sent from a worker as it is.",
    "An error travels as a pickle; the traceback above is that of the worker.",
    "Raise an Exception in `spring` whose arguments are those of its `__init__`.",
)
def parcel_whose_function_leaves():
    _parcel.opened("spring", _parcel.perform(_parcel.pack(sys.exit, (3,), {})))


@says(
    MethodError,
    "`executor` is the class ThreadPoolExecutor.",
    "A class has no workers yet.",
    "Make one: `executor=ThreadPoolExecutor()`.",
)
def executor_that_is_a_class():
    check_executor(concurrent.futures.ThreadPoolExecutor)


@says(
    MethodError,
    "`holds_a_lock` or its arguments cannot be sent to a worker: TypeError: cannot pickle "
    "'_thread.lock' object.",
    "A process gets the function, what it closes over, and its arguments as a pickle.",
    "Create such objects inside of the function, or use a `ThreadPoolExecutor`.",
)
def function_that_cannot_travel():
    lock = threading.Lock()

    def holds_a_lock(x):
        with lock:
            return x

    with Workers(1) as workers:
        evaluated_by(workers, holds_a_lock)


@says(
    MethodError,
    "`executor` is a ProcessPoolExecutor that forks.",
    "Torch has threads, and what is forked from a process with threads may hang.",
    'Use `executor=ProcessPoolExecutor(mp_context=multiprocessing.get_context("forkserver"))`, or '
    "`suture.executors.Workers()`.",
)
def executor_that_forks():
    fork = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=fork) as pool:
        check_executor(pool)


@says(
    MethodError,
    "`executor` is 4.",
    "An executor has `submit(fn, *args)`, which returns a `concurrent.futures.Future`.",
    "Use `executor=suture.executors.Workers(4)`, or `executor=None` for this process.",
)
def executor_that_is_a_number():
    check_executor(4)


@says(
    MethodError,
    "`executor` is 'processes'.",
    "An executor has `submit(fn, *args)`, which returns a `concurrent.futures.Future`.",
    "Use `executor=suture.executors.Workers()`, or `executor=None` for this process.",
)
def executor_by_name():
    check_executor("processes")


class Foreign:
    """Stands for an object of a library, under its class's name."""

    def __init__(self, home, name):
        self.__class__ = type(name, (Foreign,), {"__module__": home})

    def __repr__(self):
        return f"<{type(self).__name__}>"

    def submit(self, fn, *args):
        raise NotImplementedError


@says(
    MethodError,
    "`executor` is <Client>.",
    "Its `submit` returns futures of another kind, and it takes one result for two calls that look "
    "the same.",
    "Use `executor=suture.executors.dask(client)`.",
)
def executor_that_is_a_dask_client():
    check_executor(Foreign("distributed.client", "Client"))


@says(
    MethodError,
    "`executor` is <ClientExecutor>.",
    "Dask calls a function again when a worker dies, three times, and without `pure=False` takes "
    "one result for two calls that look the same.",
    "Use `executor=suture.executors.dask(client)`.",
)
def executor_of_dask_itself():
    check_executor(Foreign("distributed.cfexecutor", "ClientExecutor"))


@says(
    MethodError,
    "`executor` is <module 'ray'>.",
    "Ray has no executor of its own.",
    "Use `executor=suture.executors.ray()`.",
)
def executor_that_is_ray():
    check_executor(types.ModuleType("ray"))


@says(
    MethodError,
    "`executor` is <module 'distributed'>.",
    "A module has no workers.",
    "Use `executor=suture.executors.dask(distributed.Client(...))`.",
)
def executor_that_is_a_module():
    check_executor(types.ModuleType("distributed"))


@says(
    MethodError,
    "`executor` is <Parallel>.",
    "It has no `submit`, and gives up all calls when one fails.",
    "Use `executor=lambda: loky.get_reusable_executor(max_workers=2)`, whose processes joblib uses "
    "as well.",
)
def executor_that_is_joblibs():
    check_executor(Foreign("joblib.parallel", "Parallel"))


@says(
    MethodError,
    "`executor` is <multiprocessing.pool.ThreadPool state=RUN pool_size=1>.",
    "It has no `submit`, and waits forever for the result of a process that was killed.",
    "Use `executor=suture.executors.Workers()`, or `concurrent.futures.ProcessPoolExecutor()`.",
)
def executor_that_is_an_old_pool():
    with multiprocessing.pool.ThreadPool(1) as pool:
        check_executor(pool)


# ------------------------------------------------------------------------------------------------
# Formulas in strings
# ------------------------------------------------------------------------------------------------


@says(
    MethodError,
    "`Expression(2.0)` is not possible.",
    "The first argument is a string, and the names of its variables follow.",
    'Write, for example, `Expression("w * x**2", "x", "w")`.',
)
def formula_that_is_no_string():
    Expression(2.0, "x")


@says(
    MethodError,
    "`Expression('x')` cannot have a variable 'x, w'.",
    "A variable is a name that begins with a letter, is listed once, and means nothing else "
    "in Python or in a formula.",
    'List them one by one: `Expression("w * x**2", "x", "w")`.',
)
def formula_with_a_name_that_is_none():
    Expression("x", "x, w")


@says(
    MethodError,
    "`Expression('exp')` cannot have a variable 'exp'.",
    "A variable is a name that begins with a letter, is listed once, and means nothing else "
    "in Python or in a formula.",
    'List them one by one: `Expression("w * x**2", "x", "w")`.',
)
def formula_with_the_name_of_a_function():
    Expression("exp", "exp")


@says(
    MethodError,
    "`Expression('w * x.real')` is not possible: `x.real`, at column 5, is an attribute.",
    "A formula holds numbers, listed names, listed functions, arithmetic, conditions and "
    "constant indices.",
    "Write it with those, or write a function instead of a string: `def f(x): …`.",
)
def formula_with_an_attribute():
    Expression("w * x.real", "x", "w")


@says(
    MethodError,
    "`Expression(\"x * 'a'\")` is not possible: `'a'`, at column 5, is text.",
    "A formula holds numbers, listed names, listed functions, arithmetic, conditions and "
    "constant indices.",
    "Write it with those, or write a function instead of a string: `def f(x): …`.",
)
def formula_with_text():
    Expression("x * 'a'", "x")


@says(
    MethodError,
    "`Expression('w * x')` is not possible: `w`, at column 1, is not one of the names.",
    "Those of this formula are `x`.",
    'List it too, in the place where it is passed: `Expression(…, "x", "w")`.',
)
def formula_with_a_name_that_is_not_listed():
    Expression("w * x", "x")


@says(
    MethodError,
    "`Expression('x * sin')` is not possible: `sin`, at column 5, is a function without its "
    "arguments.",
    "A formula is a number, and a function is none.",
    "Call it: `sin(x)`.",
)
def formula_with_a_function_that_is_not_called():
    Expression("x * sin", "x")


@says(
    MethodError,
    "`Expression('arcsin(x)')` is not possible: `arcsin(x)`, at column 1, is a call of "
    "something that is not a listed function.",
    "Those are sin, cos, tan, asin, acos, atan, sinh, cosh, tanh, asinh, acosh, atanh, exp, "
    "expm1, log, log1p, log2, log10, sqrt, abs, floor, ceil, round, atan2, hypot, min, max, "
    "where.",
    "Write `asin`, or a function instead of a string: `def f(x): …`.",
)
def formula_with_an_unknown_function():
    Expression("arcsin(x)", "x")


@says(
    MethodError,
    "`Expression(\"__import__('os')\")` is not possible: `__import__('os')`, at column 1, is a "
    "call of something that is not a listed function.",
    "Those are sin, cos, tan, asin, acos, atan, sinh, cosh, tanh, asinh, acosh, atanh, exp, "
    "expm1, log, log1p, log2, log10, sqrt, abs, floor, ceil, round, atan2, hypot, min, max, "
    "where.",
    "Write a function instead of a string: `def f(x): …`.",
)
def formula_with_a_function_of_the_system():
    Expression("__import__('os')", "x")


@says(
    MethodError,
    "`Expression('sin(x, out=x)')` is not possible: `sin(x, out=x)`, at column 1, is a call "
    "with a keyword.",
    "A formula holds numbers, listed names, listed functions, arithmetic, conditions and "
    "constant indices.",
    "Write it with those, or write a function instead of a string: `def f(x): …`.",
)
def formula_with_a_keyword():
    Expression("sin(x, out=x)", "x")


@says(
    MethodError,
    "`Expression('where(x)')` is not possible: `where(x)`, at column 1, is a call with 1 argument.",
    "It takes 3.",
    "Write, for example, `sin(x)`, `atan2(y, x)`, `min(x, y)` or `where(x > 0, x, 0)`.",
)
def formula_with_too_few_arguments():
    Expression("where(x)", "x")


@says(
    MethodError,
    "`Expression('x[0](1)')` is not possible: `x[0](1)`, at column 1, is a call of something "
    "that is not a function.",
    "A formula holds numbers, listed names, listed functions, arithmetic, conditions and "
    "constant indices.",
    "Write it with those, or write a function instead of a string: `def f(x): …`.",
)
def formula_that_calls_a_number():
    Expression("x[0](1)", "x")


@says(
    MethodError,
    "`Expression('x[i]')` is not possible: `i`, at column 3, is not a constant index.",
    "An index is a whole number, written as one.",
    "Write `w[0]`, `w[-1]` or, in two dimensions, `w[1][2]`.",
)
def formula_with_a_computed_index():
    Expression("x[i]", "x", "i")


@says(
    MethodError,
    "`Expression('(x + 1)[0]')` is not possible: `x + 1`, at column 2, is not a name, and has"
    " no elements.",
    "A formula holds numbers, listed names, listed functions, arithmetic, conditions and "
    "constant indices.",
    "Write it with those, or write a function instead of a string: `def f(x): …`.",
)
def formula_with_an_index_of_a_sum():
    Expression("(x + 1)[0]", "x")


@says(
    MethodError,
    "`Expression('(x > 0) * x')` is not possible: `x > 0`, at column 2, is a comparison where"
    " a number is needed.",
    "A comparison is a condition, and a formula is a number.",
    "Write the number: `1 if x > 0 else 0`.",
)
def formula_that_is_a_comparison():
    Expression("(x > 0) * x", "x")


@says(
    MethodError,
    "`Expression('1 if x else 2')` is not possible: `x`, at column 6, is not a comparison.",
    "A condition is made of `<`, `<=`, `>`, `>=`, `==`, `!=`, with `and`, `or`, `not`.",
    "Compare a number with zero: `1 if x != 0 else 2`.",
)
def formula_with_a_condition_that_is_a_number():
    Expression("1 if x else 2", "x")


@says(
    MethodError,
    "`Expression('x * 1e999')` is not possible: `1e999`, at column 5, is too large.",
    "Numbers are floating ones of 64 bits, up to 1.8e308.",
    "Write it in other units, as in `1e300`.",
)
def formula_with_a_number_without_end():
    Expression("x * 1e999", "x")


@says(
    MethodError,
    "`Expression('x + x + x + x + x + x + x + x + x + x + x + x + x + x + x + x + x + x + x +"
    " x …)` has 10001 characters.",
    "A formula has at most 10000.",
    "Write a function instead of a string: `def f(x): …`.",
)
def formula_that_is_too_long():
    Expression("x + " * 2500 + "1", "x")


@says(
    MethodError,
    "`Expression('(x "
    "+\\n------------------------------------------------------------------------…)` is not "
    "possible: `-1`, at column 200 of line 2, is nested more than 200 deep.",
    "That is as deep as it may be; each term of a sum is one deeper than the next.",
    "Put parentheses around the halves of a long sum: `(a + b) + (c + d)`.",
)
def formula_that_is_too_deep():
    Expression("(x +\n" + "-" * 200 + "1)", "x")


@says(
    MethodError,
    "`Expression('2 x')` cannot be read, at column 3: invalid syntax.",
    "A formula is written as in Python.",
    'Write, for example, `Expression("w * x**2", "x", "w")`.',
)
def formula_that_cannot_be_read():
    Expression("2 x", "x")


@says(
    MethodError,
    "A formula was given a str for `x`: '1.5'.",
    "It computes with numbers, arrays and tensors, and with lists of them.",
    "Pass `float(x)` or `np.asarray(x, dtype=float)`.",
)
def formula_of_a_string():
    Expression("2 * x", "x")("1.5")


@says(
    MethodError,
    "`UnsafePython('import os')` is no Python at column 1: invalid syntax.",
    "It is one expression, not a statement.",
    "Write a function instead of a string: `def f(x): …`.",
)
def unsafe_python_that_is_a_statement():
    UnsafePython("import os", "x")


# ------------------------------------------------------------------------------------------------
# Programs on the command line
# ------------------------------------------------------------------------------------------------

COLUMN = functions.parse.table("out")


def run_of(script, *args, **options):
    """Run a script whose directory, if it fails, is called /kept."""
    f = functions.Command(["sh", "-c", script], **{"parse": COLUMN, **options})
    with mock.patch("suture.functions._command.keep", return_value=Path("/kept")):
        f(*args)


@says(
    EvaluationError,
    "`w[1]` is nan, which cannot be written into a template.",
    "Programs read finite numbers only.",
    "Restrict the inputs with `torch.clamp`, or look where the number comes from.",
)
def program_given_nan():
    run_of("echo {w[0]} {w[1]}", torch.tensor([1.0, torch.nan]))


@says(
    EvaluationError,
    "`n` is 2.5, and its format `d` is for integers.",
    "A number is never rounded quietly: a derivative would be zero.",
    "Write `{n}` in the template, or pass an integer tensor.",
)
def program_given_a_fraction_for_an_integer():
    run_of("echo {n:d}", 2.5)


@says(
    MethodError,
    "`{w[i]}` in `argv[2]` is not a placeholder.",
    "An index is a number, as in `{w[3]}`, and a format ends with one of the letters e, f, g and "
    "d, as in `{w:.6e}`.",
    "Write it like that; if it is text, rename the argument or change `delimiters=`.",
)
def placeholder_that_is_almost_one():
    run_of("echo {w[0]} {w[i]}")


@says(
    MethodError,
    "`{w: 1}` in the file `in.json` is not a placeholder.",
    "An index is a number, as in `{w[3]}`, and a format ends with one of the letters e, f, g and "
    "d, as in `{w:.6e}`.",
    "Write it like that; if it is text, rename the argument or change `delimiters=`.",
)
def text_that_is_almost_a_placeholder():
    run_of("echo {w}", files={"in.json": "{w: 1}"})


@says(
    MethodError,
    "`Command(delimiters='{}')` is not possible.",
    "Delimiters are two strings: what stands before and behind a placeholder.",
    'Write, for example, `delimiters=("<<", ">>")`.',
)
def delimiters_in_one_string():
    run_of("true", delimiters="{}")


@says(
    MethodError,
    "The placeholder `y[0]` is unknown: `inputs` has no `y`.",
    "All placeholders of `argv` and `files` are arguments.",
    'Add `"y"` to `inputs=`; if it is text, change `delimiters=`.',
)
def placeholder_that_is_unknown():
    run_of("echo {x}", files={"in.txt": "{y[0]}"}, inputs=["x"])


@says(
    MethodError,
    "The input `y` is unused: it is a placeholder nowhere in `argv` and `files`.",
    "It would be an argument without influence, and silently learn nothing.",
    "Write `{y}` into a template, or take it out of `inputs=`.",
)
def placeholder_that_is_unused():
    run_of("echo {x}", files={"in.txt": "${y}"}, inputs=["x", "y"])


@says(
    MethodError,
    "The placeholder `lambda` cannot be an argument: it is a word of Python's.",
    "Placeholders are the keyword arguments of the function.",
    "Rename it, for example `{lambda_}`; if it is text, change `delimiters=`.",
)
def placeholder_that_is_a_word_of_python():
    run_of("echo {lambda}")


@says(
    MethodError,
    "`w` is used in two ways: as `w` and as `w[1]`.",
    "An argument is a number or an array, not both.",
    "Write `{w[0]}`, `{w[1]}`, … for an array, everywhere.",
)
def placeholder_that_is_a_number_and_an_array():
    run_of("echo {w}", files={"in.txt": "{w[1]}"})


@says(
    MethodError,
    "`x` was given complex128 numbers, which cannot be written into a template.",
    "Programs read real numbers only; words are a part of the template.",
    "Pass a real tensor, for example `x.real`, and use a stencil of real points, as "
    "`stencils.CENTRAL`.",
)
def program_given_complex_numbers():
    run_of("echo {x}", 1j)


@says(
    MethodError,
    "`x` was given a tensor that requires grad.",
    "A program takes plain numbers, so its gradient or its rows would be lost.",
    "Wrap the program, `f = suture.differentiable(command)`, and call `f`.",
)
def program_given_a_tensor_that_requires_grad():
    run_of("echo {x}", torch.ones((), requires_grad=True))


@says(
    MethodError,
    "`x` was given a tensor that a transform of `torch.func` has wrapped.",
    "A program takes plain numbers, so its gradient or its rows would be lost.",
    "Wrap the program, `f = suture.differentiable(command)`, and call `f`.",
)
def program_under_vmap():
    torch.vmap(lambda x: run_of("echo {x}", x))(torch.ones(2))


@says(
    MethodError,
    "`x` was given '1; rm -r /', which cannot be written into a template.",
    "Programs read real numbers only; words are a part of the template.",
    "Pass a real tensor, for example `x.real`, and use a stencil of real points, as "
    "`stencils.CENTRAL`.",
)
def program_given_a_word():
    run_of("echo {x}", "1; rm -r /")


@says(
    MethodError,
    "`w` has shape (3,), and the templates write w[0], w[2].",
    "All its elements must be written: others would be without influence, and silently learn "
    "nothing.",
    "Pass `w` with shape (3,), or write the other elements into a template as `{w[…]}`.",
)
def program_that_reads_a_part_of_its_argument():
    run_of("echo {w[0]} {w[2]}", torch.ones(3))


@says(
    MethodError,
    "`w` has shape (3,), and the templates write w[0], w[1].",
    "All its elements must be written: others would be without influence, and silently learn "
    "nothing.",
    "Pass `w` with shape (2,), or write the other elements into a template as `{w[…]}`.",
)
def program_given_too_many_numbers():
    run_of("echo {w[0]} {w[1]}", torch.ones(3))


@says(
    MethodError,
    "The batches have 3 rows in `x`, 2 rows in `y`.",
    "Arguments with one dimension more than their placeholders are a batch: all have the same "
    "number of rows, at least one.",
    "Pass arguments that all rows share without the dimension, for example `x[0]`.",
)
def program_given_batches_of_different_sizes():
    run_of("echo {x} {y}", torch.ones(3), torch.ones(2))


@says(
    BadResult,
    "`sh` gave results of shape (1,) and (2,) in the rows of one batch.",
    "All rows must have results of one shape.",
    "Have the rule read a part that is always there, or pad it with `parse.function(fn)`.",
)
def program_whose_rows_have_different_shapes():
    run_of("seq {n:d}", np.array([1, 2]), parse=functions.parse.regex("[0-9]+", count=None))


@says(
    MethodError,
    "The file '../etc/passwd' is not a path inside of the run directory.",
    "A run reads and writes only below its own directory.",
    'Write a relative path without `..`, for example `"results/out.csv"`.',
)
def file_outside_of_the_run():
    run_of("true", files={"../etc/passwd": ""})


@says(
    MethodError,
    "The output '/etc/passwd' is not a path inside of the run directory.",
    "A run reads and writes only below its own directory.",
    'Write a relative path without `..`, for example `"results/out.csv"`.',
)
def output_outside_of_the_run():
    functions.parse.table("/etc/passwd")


@says(
    MethodError,
    f"`/nowhere/suture-{os.getuid()}` is not a directory that only you can use.",
    "Runs of `Command` take place in it, and others must not change their files.",
    'Remove it, or give `Command` another place: `folder="runs"`.',
)
def directory_of_runs_that_everybody_can_use():
    with (
        mock.patch("tempfile.gettempdir", return_value="/nowhere"),
        mock.patch.object(Path, "mkdir"),
        mock.patch.object(Path, "lstat", return_value=os.stat("/tmp")),
    ):
        run_of("true")


@says(
    MethodError,
    "`parse.csv(…, 'u', header=False)` is not possible.",
    "A column is found by name in the first row, which is then a header.",
    "Give its position, `parse.csv(path, 0, header=False)`.",
)
def column_by_name_without_a_header():
    functions.parse.csv("out.csv", "u", header=False)


@says(
    MethodError,
    "`parse.csv(delimiter='\\\\s+')` is not possible.",
    "What separates columns is one character.",
    'Write, for example, `delimiter=";"`; where blanks do, use `parse.table(path, 0)`.',
)
def delimiter_of_two_characters():
    functions.parse.csv("out.csv", "u", delimiter=r"\s+")


@says(
    MethodError,
    "`parse.regex(count=0)` is not possible.",
    "It is the number of matches that there must be, 1 or more, or None for any.",
    "Write `count=1`, or leave it out.",
)
def pattern_that_matches_never():
    functions.parse.regex("x", count=0)


@says(
    MethodError,
    "`parse.regex('(x')` is not possible: missing ), unterminated subpattern at position 0.",
    "It takes a regular expression, as `re.compile` does.",
    r'Write, for example, `parse.regex(r"energy = (\S+)")`.',
)
def pattern_of_a_result_that_is_none():
    functions.parse.regex("(x")


@says(
    MethodError,
    r"`parse.regex(re.compile('x'))` is not possible: cannot process flags argument with a "
    "compiled pattern.",
    "It takes a regular expression, as `re.compile` does.",
    r'Write, for example, `parse.regex(r"energy = (\S+)")`.',
)
def rule_of_a_compiled_pattern():
    functions.parse.regex(re.compile("x"))


@says(
    MethodError,
    "`Command('ls | wc')` is not possible.",
    "A program and its arguments are a list of strings and paths: no shell takes a line apart.",
    'Write, for example, `Command(["ngspice", "-b", "circuit.cir"], …)`.',
)
def program_as_a_line():
    functions.Command("ls | wc", parse=COLUMN)


@says(
    MethodError,
    "`Command(files=PosixPath('nowhere'))` is not possible: no files are there.",
    "A path is that of a directory, with all the files that a run needs.",
    'Give it the name it has there: `files={"input.txt": Path("input.txt")}`.',
)
def directory_without_files():
    run_of("true", files=Path("nowhere"))


@says(
    MethodError,
    "`Command(files=PosixPath('case'))` is not possible: `case/a/b` is a link that leads back.",
    "All that is in the directory is copied before each run, and must have an end.",
    'Remove the link, or name the files one by one, as `files={"input.txt": Path("input.txt")}`.',
)
def directory_that_is_in_itself():
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("case/a").mkdir(parents=True)
        Path("case/a/b").symlink_to("..")
        run_of("true", files=Path("case"))


@says(
    MethodError,
    "`Command(files='in.txt')` is not possible.",
    "Files are a dict of names and contents: text, bytes, or a path to read them from.",
    'Write, for example, `files={"input.txt": Path("template.txt")}`.',
)
def files_that_are_a_word():
    run_of("true", files="in.txt")


@says(
    MethodError,
    "`Command(parse='out.csv')` is not possible.",
    "Results are read by a rule of `suture.functions.parse`, or by a dict of rules.",
    r'Write, for example, `parse=parse.regex(r"energy = (\S+)")`.',
)
def rule_that_is_a_word():
    run_of("true", parse="out.csv")


@says(
    MethodError,
    "`Command(timeout=0)` is not possible.",
    "It is a positive number of seconds.",
    "Write, for example, `timeout=60`, or leave it out.",
)
def program_without_time():
    run_of("true", timeout=0)


@says(
    MethodError,
    "`Command(max_bytes=None)` is not possible.",
    "It is a positive whole number of bytes; without a limit, a program that never stops printing "
    "would fill the memory.",
    "Write, for example, `max_bytes=2**30`, or leave it out.",
)
def program_without_a_limit():
    run_of("true", max_bytes=None)


@says(
    MethodError,
    "`Command(inputs='xy')` is not possible.",
    "The names of the arguments are a list of strings, each once.",
    'Write, for example, `inputs=["x"]`, or leave it out.',
)
def inputs_in_one_string():
    run_of("echo {x} {y}", inputs="xy")


@says(
    MethodError,
    "`Command(ok_codes=3)` is not possible.",
    "The exit codes of runs that succeed are a list of integers, at least one.",
    "Write, for example, `ok_codes=(0, 3)`, or leave it out.",
)
def one_exit_code():
    run_of("exit 3", ok_codes=3)


@says(
    MethodError,
    "`Command(env=…)` is not possible.",
    "Environment variables are a dict of names and texts; a number is written as a text.",
    'Write, for example, `env={"OMP_NUM_THREADS": "1"}`.',
)
def environment_with_a_number():
    run_of("true", env={"OMP_NUM_THREADS": 1})


@says(
    EvaluationError,
    "`sh` was killed: the process that had asked for it is gone.",
    "Nobody waits for its result; the last lines that it printed are in `exc.output`.",
    "Look at its files: `cd /kept`.",
)
def program_that_nobody_waits_for():
    dead = multiprocessing.process._ParentProcess("trainer", os.getpid(), None)
    with (
        mock.patch("suture.functions._run.parent_process", return_value=dead),
        mock.patch("os.getppid", return_value=1),
    ):
        run_of("sleep 60")


@says(
    MethodError,
    "`Command(success='(')` is not possible: missing ), unterminated subpattern at position 0.",
    "It is a regular expression, as `re.compile` takes it.",
    'Write, for example, `success="converged"`.',
)
def pattern_of_success_that_is_none():
    run_of("true", success="(")


@says(
    MethodError,
    "`Command(success=b'done')` is not possible: it is bytes.",
    "It is a regular expression, as `re.compile` takes it.",
    'Write, for example, `success="converged"`.',
)
def pattern_of_success_in_bytes():
    run_of("true", success=b"done")


@says(
    MethodError,
    "The program `no-such-program` was not found.",
    "It must be a file that can be run, in one of the directories of PATH.",
    'Install it, or give its place: `Command([Path("/opt/bin/no-such-program"), …])`.',
)
def program_that_is_not_installed():
    functions.Command(["no-such-program"], parse=COLUMN)()


@says(
    MethodError,
    "The program `no-such-script.sh` was not found.",
    "It must be a file that can be run, in one of the directories of PATH.",
    'It is one of the `files`: run it by `Command(["sh", "no-such-script.sh"], …)`.',
)
def program_that_is_among_the_files():
    functions.Command(["no-such-script.sh"], {"no-such-script.sh": "echo 1"}, parse=COLUMN)()


@says(
    TimedOut,
    "`sh` was killed: it took longer than 0.1 s.",
    "A run has to end in time; the last lines that it printed are in `exc.output`.",
    "Look at its files: `cd /kept`.",
)
def program_that_is_late():
    run_of("sleep 60", timeout=0.1)


@says(
    BadResult,
    "`sh` was killed: it printed more than 1000 bytes.",
    "A stream is read up to `max_bytes=`; the last lines that it printed are in `exc.output`.",
    "Look at its files: `cd /kept`.",
)
def program_that_prints_without_end():
    run_of("yes", max_bytes=1000)


@says(
    EvaluationError,
    "`sh` ended with exit code 3.",
    "A run that succeeds ends with one of the codes [0, 1]; the last lines that it printed are in "
    "`exc.output`.",
    "Look at its files: `cd /kept`.",
)
def program_that_fails():
    run_of("exit 3", ok_codes=(0, 1))


@says(
    EvaluationError,
    "`sh` was killed by SIGKILL.",
    "A run that succeeds ends with one of the codes [0]; the last lines that it printed are in "
    "`exc.output`.",
    "Look at its files: `cd /kept`.",
)
def program_that_is_killed():
    run_of("kill -KILL $$")


@says(
    EvaluationError,
    "`sh` did not print 'converged'.",
    "`success=` must be found in what it prints; the last lines that it printed are in "
    "`exc.output`.",
    "Look at its files: `cd /kept`.",
)
def program_without_success():
    run_of("echo diverged", success="converged")


@says(
    BadResult,
    "`sh` ended with exit code 0, but left no result `out`: No such file or directory.",
    "Every result must be there after every run; the last lines that it printed are in "
    "`exc.output`.",
    "Look at its files: `cd /kept`.",
)
def program_without_a_result():
    run_of("true")


@says(
    BadResult,
    "`sh` ended with exit code 0, but left no result `out`: No such file or directory; it wrote "
    "`a/log`, `out.dat`.",
    "Every result must be there after every run; the last lines that it printed are in "
    "`exc.output`.",
    "Look at its files: `cd /kept`.",
)
def program_with_a_result_of_another_name():
    run_of("mkdir a; cp in out.dat; cp in a/log", files={"in": "1"})


@says(
    BadResult,
    "`sh` ended with exit code 0, but left no result `force` in `<stdout>`: 'x' matches 2 times, "
    "expected 1.",
    "Every result must be there after every run; the last lines that it printed are in "
    "`exc.output`.",
    "Look at its files: `cd /kept`.",
)
def program_with_two_results():
    run_of("echo xx", parse={"force": functions.parse.regex("x")})


# ------------------------------------------------------------------------------------------------
# Models behind HTTP
# ------------------------------------------------------------------------------------------------


def met(model="squares", inputs=((2.0, 1.0),), timeout=60, **faults):
    """Evaluate a model of a server with faults."""
    with umbridge_server.serving() as server:
        server.faults.update(faults)
        box = functions.UMBridge(server.url, model, timeout=timeout)
        box(*inputs)


@says(
    MethodError,
    "`UMBridge('example.com:4242/path', …)` has no address.",
    "It is http:// or https://, a host, and perhaps a port and a path; no password and no query.",
    'Write, for example, `UMBridge("http://localhost:4242", "forward")`.',
)
def model_behind_a_password():
    functions.UMBridge("http://me:secret@example.com:4242/path", "forward")


@says(
    MethodError,
    "`UMBridge(timeout=0)` is not possible.",
    "A limit is a positive number.",
    "Write `timeout=60.0`.",
)
def model_without_time():
    functions.UMBridge("http://127.0.0.1:1", "forward", timeout=0)


@says(
    MethodError,
    "`UMBridge(config={'table': array([1., 2.])})` is not possible.",
    "It is sent as JSON: a dict of finite numbers, strings, lists and dicts.",
    'Write, for example, `config={"level": 2}`.',
)
def model_configured_with_an_array():
    functions.UMBridge("http://127.0.0.1:1", "forward", {"table": np.array([1.0, 2.0])})


@says(
    EvaluationError,
    "There is no connection to http://127.0.0.1:1: Connection refused.",
    "A server has to run there, all the time.",
    "Start it; if it is only away for moments, use `differentiable(…, retries=2)`.",
)
def model_whose_server_does_not_run():
    functions.UMBridge("http://127.0.0.1:1", "forward")


@says(
    MethodError,
    "The certificate of https://localhost is not valid: self-signed certificate.",
    "Certificates are always checked.",
    "Use the name that the certificate is for; for an authority of your own, set the variable "
    "`SSL_CERT_FILE` to its certificate.",
)
def model_whose_server_is_not_trusted():
    with umbridge_server.serving(secure=True) as server:
        parts = (True, "localhost", server.server_port, "/")
        with mock.patch("suture.functions._http._parts", return_value=parts):
            functions.UMBridge("https://localhost", "forward")


@says(
    TimedOut,
    "The server of `squares` had not answered Evaluate after 0.1 s.",
    "This is the time for all of a request: to connect, to send, and to read the answer.",
    "Allow more, `UMBridge(…, timeout=600)`, or try again, `differentiable(…, retries=2)`.",
)
def model_that_drips():
    met(Evaluate=umbridge_server.drips(b"HTTP/1.1 200 OK\r\n"), timeout=0.1)


@says(
    EvaluationError,
    "The server of `squares` broke off its answer to Evaluate (RemoteDisconnected).",
    "It died, was restarted, or speaks something else than HTTP.",
    "Look into its log; to try again, use `differentiable(…, retries=2)`.",
)
def model_that_dies():
    met(Evaluate=umbridge_server.writes(b""))


@says(
    BadResult,
    "The server of `squares` answered Evaluate with more than 67108864 bytes.",
    "An answer is read into memory, so its length has a limit.",
    "Let the server return less, or allow more: `UMBridge(…, max_bytes=2**30)`.",
)
def model_that_floods():
    met(Evaluate=umbridge_server.says(200, b" " * (2**26 + 1)))


@says(
    EvaluationError,
    "The server of `squares` answered Evaluate with 500 Internal Server Error: 'no equilibrium'.",
    "It says that it failed, at this point or at this moment.",
    "Look into its log; to try again, use `differentiable(…, retries=2)`.",
)
def model_that_fails():
    met(Evaluate=umbridge_server.says(500, b'{"error": {"message": "no equilibrium"}}'))


@says(
    BadResult,
    "The server of `squares` answered Evaluate with 302 Found, and leads to 'http://elsewhere/'.",
    "Redirects are not followed: they could lead anywhere.",
    'Give the address of the server itself: `UMBridge("http://…", …)`.',
)
def model_that_redirects():
    met(Evaluate=umbridge_server.says(302, Location="http://elsewhere/"))


@says(
    BadResult,
    "The server of `squares` answered Evaluate with 404 Not Found.",
    "It refuses the request, and would refuse it again.",
    "Compare address, `config` and arguments with what `squares` expects.",
)
def model_that_is_not_there():
    met(Evaluate=umbridge_server.says(404, b"<h1>404</h1>"))


@says(
    BadResult,
    "The server of `squares` answered Evaluate with nan or inf.",
    "Every number must be finite.",
    "Restrict the inputs with `torch.clamp`, give `bounds=` to `differentiable`, or let the server "
    "return a finite number there.",
)
def model_that_returns_infinity():
    met(Evaluate=umbridge_server.says(200, b'{"output": [[Infinity, 1.0]]}'))


@says(
    BadResult,
    "The server of `squares` answered Evaluate with nan or inf.",
    "Every number must be finite.",
    "Restrict the inputs with `torch.clamp`, give `bounds=` to `differentiable`, or let the server "
    "return a finite number there.",
)
def model_that_returns_nan_as_python_prints_it():
    met(Evaluate=umbridge_server.says(200, b'{"output": [[nan, 1.0]]}'))


@says(
    BadResult,
    "The server of `squares` answered Evaluate with what is no JSON: '<!doctype html>'.",
    "The protocol UM-Bridge 1.0 speaks JSON.",
    'Look at the address: is it that of `squares`, as in `"http://host:4242"`?',
)
def model_that_is_a_web_page():
    met(Evaluate=umbridge_server.says(200, b"<!doctype html>"))


@says(
    MethodError,
    "`unusable` cannot be evaluated.",
    "Its server does not support Evaluate for it.",
    "Implement `__call__` and `supports_evaluate` in the model.",
)
def model_without_evaluate():
    met("unusable")


@says(
    MethodError,
    "`squares` was given a tensor that requires grad.",
    "The server returns plain numbers, so it would silently learn nothing.",
    "Wrap it, `f = suture.differentiable(server, method=server.method())`, and call `f`.",
)
def model_that_is_not_wrapped():
    met(inputs=[wants(2.0, 1.0)])


@says(
    MethodError,
    "`two` was given shapes [(2,)].",
    "Its server takes [(3,), (2,)]: one vector for each argument.",
    "Reshape them, for example with `x.reshape(-1)`; for many points use `torch.vmap(f)`.",
)
def model_that_was_given_too_little():
    met("two", [[2.0, 1.0]])


@says(
    MethodError,
    "A model behind HTTP was given ['2', 1.0].",
    "It takes vectors of real numbers: tensors, arrays or lists.",
    "Write, for example, `server([1.0, 2.0])`.",
)
def model_that_was_given_words():
    met(inputs=[["2", 1.0]])


@says(
    MethodError,
    "`squares` was given nan or inf.",
    "JSON, which is sent to its server, has no such numbers.",
    "Restrict the inputs with `torch.clamp`, or look where `torch.isfinite` fails.",
)
def model_that_was_given_nan():
    met(inputs=[[math.nan, 1.0]])


@says(
    BadResult,
    "The server of `squares` answered Evaluate with [['2', 1.0]].",
    "Its output is made of vectors of numbers.",
    "Compare it with a server of the package `umbridge`.",
)
def model_that_returns_words():
    met(Evaluate=umbridge_server.says(200, b'{"output": [["2", 1]]}'))


@says(
    BadResult,
    "The server of `squares` answered Evaluate with vectors of sizes (2, 1).",
    "It has declared (2,).",
    "Let `InputSizes` and `OutputSizes` of `squares` say what it takes and returns.",
)
def model_that_returns_too_much():
    met(Evaluate=umbridge_server.says(200, b'{"output": [[2, 1], [3]]}'))


@says(
    BadResult,
    "The server of `squares` answered Info with ['squares'].",
    "It lists its version and its models.",
    "Compare it with a server of the package `umbridge`.",
)
def model_whose_server_has_no_version():
    met(Info=umbridge_server.says(200, b'["squares"]'))


@says(
    MethodError,
    "The server of `squares` speaks version 2.0 of UM-Bridge.",
    "Suture speaks version 1.0.",
    "Use a server of version 1.0, such as `umbridge` 1.2.",
)
def model_of_another_version():
    met(Info=umbridge_server.says(200, b'{"protocolVersion": 2, "models": ["squares"]}'))


@says(
    MethodError,
    "The server has no model 'cubes'.",
    "It has ['two', 'squares', 'plain', 'reverse', 'ahead', 'unusable'].",
    "Write `UMBridge(…, 'two')`.",
)
def model_that_the_server_does_not_have():
    met("cubes")


@says(
    BadResult,
    "The server of `squares` answered InputSizes with [2.5].",
    "Sizes are whole numbers, one for each vector.",
    "Compare it with a server of the package `umbridge`.",
)
def model_of_two_and_a_half_inputs():
    met(InputSizes=umbridge_server.says(200, b'{"inputSizes": [2.5]}'))


@says(
    BadResult,
    "The server of `squares` answered OutputSizes with {'sizes': [2.0]}.",
    'The protocol has an object with "outputSizes" here.',
    "Compare it with a server of the package `umbridge`.",
)
def model_whose_sizes_have_another_name():
    met(OutputSizes=umbridge_server.says(200, b'{"sizes": [2]}'))


# ------------------------------------------------------------------------------------------------
# All messages are here, and each is what it should be
# ------------------------------------------------------------------------------------------------


def caught_from(provoke):
    with pytest.raises(SutureError) as caught:
        provoke()
    return caught.value


@pytest.mark.parametrize("name", CASES)
def test_message(name):
    case = CASES[name]
    error = caught_from(case.provoke)
    assert type(error) is case.error
    assert str(error).splitlines() == list(case.lines)


@pytest.mark.parametrize("name", CASES)
def test_a_message_has_three_lines_and_the_third_can_be_typed(name):
    lines = CASES[name].lines
    assert len(lines) == 3
    for line in lines:
        assert line == line.strip()
        assert "\n" not in line
        assert line.count("`") % 2 == 0
    assert "`" in lines[2]


HOME = Path(suture.__file__).parent
KINDS = {
    name
    for name, value in vars(suture.errors).items()
    if isinstance(value, type) and issubclass(value, SutureError)
}


def modules():
    """Return the parsed source, but for the command line, its report and the demo."""
    apart = {"_check", "demo"}
    files = [path for path in HOME.rglob("*.py") if path.relative_to(HOME).parts[0] not in apart]
    rest = [path for path in files if path.name not in ("cli.py", "errors.py")]
    return {str(path): ast.parse(path.read_text(encoding="utf-8")) for path in rest}


def functions_of(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def calls_of(tree, names):
    """Return the calls of any of these names, also as attributes of a module."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [c for c in calls if getattr(c.func, "id", getattr(c.func, "attr", None)) in names]


def makers(trees):
    """Return the names that make errors: the classes, and functions that return what these make."""
    names: set[str] = set()
    grown = {*KINDS, "refusal"}
    while grown != names:
        names = set(grown)
        for tree in trees.values():
            for function in functions_of(tree):
                returns = function.returns and ast.unparse(function.returns)
                if returns in KINDS and calls_of(function, names):
                    grown.add(function.name)
    return names


def sites():
    """Return where the source makes an error: (file, first line, last line) and a label."""
    trees = modules()
    names = makers(trees)
    found = {}
    for path, tree in trees.items():
        label = Path(path).relative_to(HOME)
        for function in functions_of(tree):
            for number, call in enumerate(calls_of(function, names), start=1):
                place = (path, call.lineno, call.end_lineno)
                found[place] = f"{label}: {function.name}, error {number}"
    return found


def test_every_message_of_the_source_has_a_case(monkeypatch):
    """Run all cases, note through which lines of the source each error came, and compare."""
    lines = set()
    original = SutureError.__init__

    def noting(self, *args):
        frame = sys._getframe(1)
        while frame is not None:
            lines.add((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        original(self, *args)

    monkeypatch.setattr(SutureError, "__init__", noting)
    for case in CASES.values():
        caught_from(case.provoke)
    places = sites()
    assert len(places) > 50  # it does find them
    missing = [
        label
        for (path, first, last), label in places.items()
        if not any((path, line) in lines for line in range(first, last + 1))
    ]
    assert missing == []


# ------------------------------------------------------------------------------------------------
# The tree of classes
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (SutureError, {Exception}),
        (EvaluationError, {SutureError}),
        (BadResult, {EvaluationError}),
        (MethodError, {SutureError, ValueError}),
        (TransformError, {SutureError}),
        (PointFailed, {EvaluationError}),
        (TimedOut, {EvaluationError}),
        (WorkerDied, {EvaluationError}),
        (MissingExtraError, {SutureError, ImportError}),
    ],
)
def test_tree(error, bases):
    assert set(error.__bases__) == bases


def test_no_other_errors():
    assert {SutureError} | every_subclass(SutureError) == {getattr(suture.errors, n) for n in KINDS}


def every_subclass(kind):
    return {kind for sub in kind.__subclasses__() for kind in {sub} | every_subclass(sub)}


def test_an_unlawful_request_is_a_value_error():
    with pytest.raises(ValueError, match="does not exist"):
        stencils.central(3)


ALL = [
    SutureError,
    EvaluationError,
    BadResult,
    PointFailed,
    MethodError,
    TransformError,
    MissingExtraError,
]


@pytest.mark.parametrize("error", ALL)
def test_an_error_is_its_three_lines(error):
    raised = error("What.", "Why.", "Fix.")
    assert str(raised) == "What.\nWhy.\nFix."
    assert raised.args == ("What.", "Why.", "Fix.")
    assert repr(raised) == f"{error.__name__}('What.', 'Why.', 'Fix.')"


@pytest.mark.parametrize("error", ALL)
@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))]
)
def test_errors_survive_copies(error, again):
    raised = error("What.", "Why.", "Fix.")
    raised.point = ((torch.ones(2), "text"), {"mass": np.ones(3)})
    found = again(raised)
    assert type(found) is error
    assert str(found) == str(raised)
    (x, text), kwargs = found.point
    assert (x.tolist(), text, kwargs["mass"].tolist()) == ([1, 1], "text", [1, 1, 1])


# ------------------------------------------------------------------------------------------------
# Where it happened
# ------------------------------------------------------------------------------------------------

BACK = {"method": BACKWARD, "scale": 1.0}


def point_of(provoke):
    error = caught_from(provoke)
    assert isinstance(error, EvaluationError)
    return error.point


@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_point_of_the_forward_pass(interface):
    x = torch.tensor([0.25, -1.0], requires_grad=True)
    ((found,), kwargs) = point_of(lambda: differentiable(settle, interface=interface)(x))
    assert isinstance(found, torch.Tensor if interface == "torch" else np.ndarray)
    assert found.tolist() == [0.25, -1.0]
    assert str(found.dtype).endswith("float64")
    assert kwargs == {}


@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_point_of_the_backward_pass(interface):
    y = differentiable(settle, interface=interface, **BACK)(wants(1.0, 0.25, 0.0))
    ((found,), _) = point_of(lambda: y.sum().backward())
    assert found.tolist() == [1.0, -0.25, 0.0]  # the first of two


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_point_that_is_not_finite_among_stacked_ones(chunk_size):
    f = differentiable(lambda x: x**0.5, vectorized=True, chunk_size=chunk_size, **BACK)
    y = f(wants(1.0, 2.0, 0.25))
    ((found,), _) = point_of(lambda: y.sum().backward())
    assert found.tolist() == [[1.0, 2.0, -0.25]]


def test_point_of_another_shape():
    y = differentiable(lambda x: x[x > 0.9], **BACK)(wants(2.0, 1.0))
    ((found,), _) = point_of(lambda: y.sum().backward())
    assert found.tolist() == [2.0, 0.5]


def test_point_of_a_batch():
    """The first batch of those that were concatenated."""
    f = differentiable(lambda x, p: settle(x * p), batch_dims=(0, None), **BACK)
    x, p = wants(1.0, 0.25, 4.0), wants(1.0).detach()
    y = f(x[:, None], p)
    (found, shared), _ = point_of(lambda: y.sum().backward())
    assert (found.shape, shared.tolist()) == ((3, 1), [1.0])


def test_point_of_a_row_of_vmap():
    f = differentiable(settle)
    x = torch.tensor([[1.0], [-2.0], [3.0]])
    ((found,), _) = point_of(lambda: torch.func.vmap(f)(x))
    assert found.tolist() == [-2.0]


def test_point_of_a_complex_step():
    f = differentiable(real_only, method=COMPLEX_STEP)
    ((found,), _) = point_of(lambda: f(wants(3.0)).sum().backward())
    assert found.is_complex()
    assert found.real.item() == pytest.approx(3.0, rel=1e-3)  # near x, where it checks itself
    assert abs(found.imag.item()) == pytest.approx(3 * 2.0**-100)


def test_point_has_the_structure_of_the_call():
    @differentiable(**{**BACK, "scale": None})
    def simulate(state, mode, table, *, load):
        return state["x"] * settle(load[0])

    table = np.arange(3)
    y = simulate({"x": wants(2.0), "n": 3}, "fast", table, load=(wants(0.0), None))
    (state, mode, same), kwargs = point_of(lambda: y.sum().backward())
    assert {key: getattr(v, "tolist", lambda v=v: v)() for key, v in state.items()} == {
        "x": [2.0],
        "n": 3,
    }
    assert (mode, same.tolist()) == ("fast", [0, 1, 2])
    assert same is not table
    assert list(kwargs) == ["load"]
    assert kwargs["load"][0].tolist() == [-0.5]
    assert kwargs["load"][1] is None


@pytest.mark.parametrize("interface", ["torch", "numpy"])
@pytest.mark.parametrize("forward", [True, False])
def test_point_is_a_private_copy(interface, forward):
    def scribble(x):
        first = float(x[0])
        x[:] = 99.0
        if forward or first < 0:
            raise ArithmeticError("no equilibrium")
        return x * 0 + first

    f = differentiable(scribble, interface=interface, **BACK)
    x = wants(0.25, 1.0)
    ((found,), _) = point_of(lambda: f(x).sum().backward())
    assert found.tolist() == ([0.25, 1.0] if forward else [-0.25, 1.0])
    found[:] = 7.0
    assert x.tolist() == [0.25, 1.0]
    assert x.grad is None


def test_errors_with_a_point_survive_pickling():
    error = caught_from(lambda: differentiable(settle)(wants(-1.0)))
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert again.point[0][0].tolist() == [-1.0]
    assert not again.point[0][0].requires_grad


def test_a_false_claim_has_no_point():
    assert point_of(CASES["batch_whose_rows_see_each_other"].provoke) is None


# ------------------------------------------------------------------------------------------------
# The user's own exception
# ------------------------------------------------------------------------------------------------

MINE = ArithmeticError("no equilibrium")


def fail(*_):
    raise MINE


def fail_below_zero(x):
    if (x < 0).any():
        raise MINE
    return x


CAUSED = {
    "forward": lambda: differentiable(fail)(wants(1.0)),
    "backward": lambda: differentiable(fail_below_zero, **BACK)(wants(0.25)).sum().backward(),
    "vjp": lambda: differentiable(spring, method=CustomVJP(fail))(wants(1.0)).sum().backward(),
    "jvp": lambda: torch.func.jvp(
        differentiable(spring, method=CustomVJP(fail, fail)), (torch.ones(1),), (torch.ones(1),)
    ),
    "vmap": lambda: torch.func.vmap(differentiable(fail))(torch.ones(2, 1)),
    "stacked": lambda: differentiable(fail, vectorized=True)(wants(1.0)),
}


@pytest.mark.parametrize("provoke", CAUSED.values(), ids=CAUSED.keys())
def test_cause_is_the_users_exception(provoke):
    error = caught_from(provoke)
    assert type(error) is EvaluationError
    assert error.__cause__ is MINE
    assert MINE.__traceback__ is not None


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.error is BadResult])
def test_a_bad_result_has_a_cause_only_if_something_else_failed(name):
    error = caught_from(CASES[name].provoke)
    causes = {
        "points_that_fail_on_both_sides": PointFailed,
        "parcel_whose_result_cannot_be_pickled": RemoteTraceback,
        "result_that_cannot_be_pickled": RemoteTraceback,
        "result_that_cannot_be_unpickled": ValueError,
    }
    assert type(error.__cause__) is causes.get(name, type(None))
    assert error.__context__ is None or error.__suppress_context__


def test_errors_of_a_black_box_inside_pass_through():
    inner = differentiable(settle, name="inner")
    outer = differentiable(lambda x: inner(x), name="outer")
    error = caught_from(lambda: outer(wants(-1.0)))
    assert str(error).startswith("`inner` raised ArithmeticError")
    assert isinstance(error.__cause__, ArithmeticError)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_stops_the_program_is_not_touched(stop):
    def interrupted(x):
        raise stop

    with pytest.raises(stop):
        differentiable(interrupted)(wants(1.0))


# ------------------------------------------------------------------------------------------------
# The one warning
# ------------------------------------------------------------------------------------------------


def test_a_function_that_is_constant_around_x_warns_once():
    f = differentiable(lambda x: torch.floor(x + 0.5), name="decide")
    x = wants(1.0, 1.0)
    with pytest.warns(UserWarning) as caught:  # noqa: PT030 - the whole text is compared below
        f(x).sum().backward()
    assert [str(warning.message) for warning in caught] == [
        "`decide` is constant around x: every difference is exactly zero, and so is its gradient. "
        "For rounding, argmax, decision trees and integer solvers use a smoothed gradient: "
        "`FiniteDifference(stencils.CENTRAL, directions.Gaussian(32), step=0.1)`, or one of the "
        "estimators for solvers (perturbed, black-box interpolation, straight-through; see "
        "docs/discrete.md)."
    ]
    assert x.grad.tolist() == [0.0, 0.0]
    f(x).sum().backward()  # it is known by now


def test_an_input_without_influence_does_not_warn():
    f = differentiable(lambda x: x[:1] ** 2)
    x = wants(3.0, 2.0)
    f(x).sum().backward()
    assert x.grad.tolist() == [pytest.approx(6), 0]
