"""Who differentiates in benchmarks/accuracy.py, and how their answers are judged."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jacobi
import numdifftools
import numpy as np
import problems
import scipy.differentiate
import torch
from problems import Residual, Vector
from scipy.optimize._numdiff import approx_derivative

import suture
from suture import stencils


@dataclasses.dataclass(frozen=True)
class Condition:
    """What stands between the formula and the numbers that come out.

    Attributes:
        name: what the table calls it.
        dtype: the precision in which the residual computes; it returns float64.
        noise: standard deviation of uniform additive noise, relative to the largest output at the
            case's point.
    """

    name: str
    dtype: Any = np.float64
    noise: float = 0.0


CONDITIONS = (
    Condition("float64"),
    Condition("float32 inside", dtype=np.float32),
    Condition("noise 1e-6", noise=1e-6),
    Condition("noise 1e-3", noise=1e-3),
)


class BlackBox:
    """A residual under a condition, that counts its evaluations."""

    def __init__(self, residual: Residual, condition: Condition, at: Vector, seed: int):
        self.residual, self.condition = residual, condition
        # A uniform variable on (-√3, √3) has standard deviation 1.
        self.amplitude = condition.noise * np.abs(residual(at)).max() * 3**0.5
        self.generator = np.random.default_rng(seed)
        self.evaluations = 0

    def __call__(self, x: Vector) -> Vector:
        self.evaluations += 1
        y = self.residual(np.asarray(x).astype(self.condition.dtype)).astype(np.float64)
        if self.amplitude:
            y = y + self.amplitude * self.generator.uniform(-1, 1, y.shape)
        return y

    def forward(self, x: Vector) -> Vector:
        """Return f(x), and count from zero after it."""
        y = self(x)
        self.evaluations = 0
        return y


@dataclasses.dataclass(frozen=True)
class Answer:
    """A Jacobian, where it was asked, and how often the steps were measured again on the way."""

    at: Vector
    jacobian: Vector
    recalibrations: int = 0


Contestant = Callable[[BlackBox, Vector], Answer]


def peer(rule: Callable[[BlackBox, Vector, Vector], Any]) -> Contestant:
    """Make a contestant of a rule that takes the black box, x and f(x)."""
    return lambda box, x: Answer(x, np.atleast_2d(rule(box, x, box.forward(x))))


def _scipy_differentiate(box: BlackBox, x: Vector, y: Vector) -> Any:
    def stacked(points: Vector) -> Vector:
        """Evaluate points (n, ...) one after another, to (m, ...)."""
        columns = points.reshape(len(x), -1).T
        return np.stack([box(point) for point in columns], -1).reshape(-1, *points.shape[1:])

    return scipy.differentiate.jacobian(stacked, x).df


PEERS: dict[str, Contestant] = {
    "SciPy approx_derivative, 2-point": peer(
        lambda box, x, y: approx_derivative(box, x, method="2-point", f0=y)
    ),
    "SciPy approx_derivative, 3-point": peer(
        lambda box, x, y: approx_derivative(box, x, method="3-point", f0=y)
    ),
    "scipy.differentiate.jacobian": peer(_scipy_differentiate),
    "numdifftools.Jacobian": peer(lambda box, x, y: numdifftools.Jacobian(box)(x)),
    "jacobi.jacobi": peer(lambda box, x, y: jacobi.jacobi(box, x)[0]),
}


def _ours(
    box: BlackBox, method: Any = None
) -> tuple[suture.Differentiable, Callable[[Vector], Vector]]:
    """Return what is differentiated, and a function from x to its Jacobian.

    After it, `box` has counted its evaluations.
    """
    method = suture.FiniteDifference() if method is None else method
    f = suture.differentiable(box, interface="numpy", method=method)

    def jacobian(x: Vector) -> Vector:
        at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        y = f(at)
        box.evaluations = 0
        unit = torch.eye(y.numel(), dtype=torch.float64)
        return torch.autograd.grad(y, at, unit, is_grads_batched=True)[0].numpy()

    return f, jacobian


def _once(method: Any = None) -> Contestant:
    return lambda box, x: Answer(x, _ours(box, method)[1](x))


def _steady(box: BlackBox, x: Vector) -> Answer:
    _, jacobian = _ours(box)
    jacobian(x)
    return Answer(x, jacobian(x))


def six_steps_on(box: BlackBox, x: Vector, method: Any = None) -> Answer:
    """Train for six steps; the noise stays as large as it was where the steps were calibrated."""
    f, jacobian = _ours(box, method)
    slopes, at, recalibrations = jacobian(x), x, 0
    for at in problems.walk(box.residual, x, 6):
        slopes = jacobian(at)
        recalibrations += bool(f.last and f.last.calibrated)
    return Answer(at, slopes, recalibrations)


FIRST, STEADY, LATER = (
    "Suture, first gradient",
    "Suture, steady state",
    "Suture, six optimizer steps on",
)

OURS: dict[str, Contestant] = {
    FIRST: _once(),
    STEADY: _steady,
    LATER: six_steps_on,
    "Suture, stencils.CENTRAL": _once(suture.FiniteDifference(stencils.CENTRAL)),
    "Suture, stencils.FORWARD": _once(suture.FiniteDifference(stencils.FORWARD)),
}
if hasattr(suture, "AdaptiveDifference"):
    OURS["Suture, AdaptiveDifference"] = _once(suture.AdaptiveDifference())


def relative_error(found: Vector, true: Vector) -> float:
    """Return the root mean square over columns of each column's relative error.

    A column counts as at least a thousandth of the root mean square column.
    """
    floor = 1e-3 * np.linalg.norm(true) / np.sqrt(true.shape[1])
    errors = np.linalg.norm(found - true, axis=0) / (np.linalg.norm(true, axis=0) + floor)
    return float(np.sqrt(np.mean(errors**2)))


@dataclasses.dataclass(frozen=True)
class Result:
    """How one case ended; `error` is infinite where it failed, and `failure` says how."""

    error: float
    evaluations_per_input: float
    recalibrations: int = 0
    failure: str | None = None


def judge(name: str, condition: Condition, residual: Residual, seeds: range) -> Iterator[Result]:
    """Judge a contestant at the three points of a problem, with every seed if there is noise."""
    for x in problems.points(residual):
        for seed in seeds if condition.noise else seeds[:1]:
            yield _judge((PEERS | OURS)[name], BlackBox(residual, condition, x, seed), x.copy())


def _judge(contestant: Contestant, box: BlackBox, x: Vector) -> Result:
    try:
        answer = contestant(box, x)
    except Exception as error:  # whatever it is: no gradient came out
        return Result(np.inf, box.evaluations / len(x), failure=type(error).__name__)
    error = relative_error(answer.jacobian, problems.jacobian(box.residual, answer.at))
    cost = box.evaluations / len(x)
    if not np.isfinite(error):
        return Result(np.inf, cost, answer.recalibrations, "not finite")
    return Result(error, cost, answer.recalibrations)
