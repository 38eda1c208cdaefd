"""Black boxes of many kinds, each with its exact Jacobian and what accuracy is attainable.

A scenario is judged in real numbers: the differentiable leaves of its arguments are laid end to
end as one real vector of n entries (a complex element counts as its real and its imaginary part,
which is also torch's gradient convention), its outputs as one of m entries, and `jacobian` is the
(m, n) matrix.
"""

from __future__ import annotations

import atexit
import ctypes
import dataclasses
import functools
import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.integrate
import scipy.linalg
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

EPSILON32 = torch.finfo(torch.float32).eps
EPSILON64 = torch.finfo(torch.float64).eps


def differentiable_leaves(tree: Any) -> list[Tensor]:
    """Return the floating and complex tensors of `tree`, in order."""
    return [
        leaf
        for leaf in tree_leaves(tree)
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())
    ]


def as_real(tree: Any) -> Tensor:
    """Lay the differentiable leaves of `tree` end to end as float64 numbers."""
    parts = [
        (torch.view_as_real(leaf) if leaf.is_complex() else leaf).reshape(-1).to(torch.float64)
        for leaf in differentiable_leaves(tree)
    ]
    return torch.cat(parts)


def jacobian_of(twin: Callable[..., Any]) -> Callable[..., Tensor]:
    """Return the function that computes the exact Jacobian of a torch function, in float64."""

    def jacobian(*args: Any) -> Tensor:
        leaves, spec = tree_flatten(args)
        chosen = {id(leaf) for leaf in differentiable_leaves(args)}

        def flat(x: Tensor) -> Tensor:
            rest, new = x, []
            for leaf in leaves:
                if id(leaf) not in chosen:
                    new.append(leaf)
                    continue
                count = leaf.numel() * (2 if leaf.is_complex() else 1)
                part, rest = rest[:count], rest[count:]
                if leaf.is_complex():
                    part = torch.view_as_complex(part.reshape(-1, 2))
                new.append(part.reshape(leaf.shape))
            return as_real(twin(*tree_unflatten(new, spec)))

        return torch.autograd.functional.jacobian(flat, as_real(args))

    return jacobian


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A black box, where to differentiate it, and the exact answer.

    Attributes:
        name: what kind of function it is.
        fn: the black box.
        args: its positional arguments, tensors in the caller's dtype.
        jacobian: maps `args` to the exact (m, n) Jacobian in real numbers.
        interface: what `fn` receives.
        dtype: precision that `fn` receives; None = the caller's.
        noise: evaluation noise relative to the largest output, where neither the dtype that `fn`
            receives nor the one that it returns shows it; None where they do.
        visible: the noise that the dtypes show.
        analytic: whether complex numbers pass through `fn` as through the analytic function that it
            computes, so that COMPLEX_STEP is lawful.
        constant: error of a slope in units of noise^(p/(p+1)) times the largest entry of the
            Jacobian, for a stencil of order p; covers the higher derivatives of `fn`.
        pattern: which entries of the Jacobian may differ from zero; None = all.
        batch_dims: the batch structure that is true of `fn`; None = none.
        program: an executable that `fn` needs.
    """

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    jacobian: Callable[..., Tensor]
    interface: str = "torch"
    dtype: torch.dtype | None = torch.float64
    noise: float | None = None
    visible: float = EPSILON64
    analytic: bool = False
    constant: float = 10.0
    pattern: Tensor | None = None
    batch_dims: Any = None
    program: str | None = None

    @property
    def size(self) -> int:
        """Count the real inputs, n."""
        return as_real(self.args).numel()

    @property
    def precision(self) -> float:
        """Return the rounding of the caller's dtype, in which the gradient arrives."""
        return max(torch.finfo(leaf.dtype).eps for leaf in differentiable_leaves(self.args))

    def tolerance(self, order: float) -> float:
        """Bound the error of a slope, relative to the largest entry of the Jacobian.

        Truncation C h^p and noise/h balance at h = noise^(1/(p+1)), where both are of the size
        noise^(p/(p+1)). A complex step and an exact rule subtract nothing: p = inf leaves the
        noise.

        Source: Press et al., Numerical Recipes, §5.7.
        """
        noise = self.visible if self.noise is None else self.noise
        exponent = 1.0 if math.isinf(order) else order / (order + 1)
        return self.constant * noise**exponent + 4 * self.precision


def tensor(*values: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    """Make a tensor whose dtype does not depend on the default dtype."""
    return torch.tensor(values if len(values) > 1 else values[0], dtype=dtype)


# NumPy, with the closed form of SciPy's own test of finite differences (test__numdiff.py).


def numpy_waves(x: Any) -> Any:
    return np.array([x[0] * np.sin(x[1]), x[1] * np.cos(x[0]), x[0] ** 3 * x[1] ** -0.5])


def numpy_waves_jacobian(x: Tensor) -> Tensor:
    a, b = x.tolist()
    return tensor(
        [math.sin(b), a * math.cos(b)],
        [-b * math.sin(a), math.cos(a)],
        [3 * a**2 * b**-0.5, -0.5 * a**3 * b**-1.5],
    )


# NumPy with branches and sorting: piecewise smooth, and a tridiagonal Jacobian.


def numpy_chain(x: Any) -> Any:
    """Compute x_i² + 3 x_{i+1} - x_{i-1} where x_i > 0, and sin x_i elsewhere."""
    right = np.concatenate([x[1:], x[:1] * 0])
    left = np.concatenate([x[:1] * 0, x[:-1]])
    return np.where(x.real > 0, x**2 + 3 * right - left, np.sin(x))


def numpy_chain_jacobian(x: Tensor) -> Tensor:
    positive = x > 0
    jacobian = torch.diag(torch.where(positive, 2 * x, x.cos()))
    ones = torch.ones(len(x) - 1, dtype=torch.float64)
    return jacobian + positive[:, None] * (3 * ones.diag(1) - ones.diag(-1))


# Torch operations whose graph is cut by `detach`, in the style of a hand-written layer.


def torch_detached(x: Tensor, w: Tensor) -> Tensor:
    return torch_twin(x.detach(), w.detach())


def torch_twin(x: Tensor, w: Tensor) -> Tensor:
    return torch.tanh(x @ w) + torch.logsumexp(w, 0)


# A frozen torch module, held by the library and not trained.


@functools.cache
def frozen_module() -> torch.nn.Module:
    generator = torch.Generator().manual_seed(5)
    module = torch.nn.Sequential(
        torch.nn.Linear(3, 4, dtype=torch.float64),
        torch.nn.Tanh(),
        torch.nn.Linear(4, 2, dtype=torch.float64),
    ).requires_grad_(False)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


# float32 weights of its own: `dtype=None` hands the caller's float32 on.


def torch_float32_weights(x: Tensor) -> Tensor:
    weights = torch.arange(6, dtype=torch.float32, device=x.device).reshape(3, 2) / 4 - 0.5
    return torch.sin(x @ weights)


def torch_float32_twin(x: Tensor) -> Tensor:
    return torch.sin(x @ (torch.arange(6, dtype=torch.float64).reshape(3, 2) / 4 - 0.5))


# An ordinary differential equation: logistic growth, whose solution is known.


def ode_logistic(rate: Any, capacity: Any, start: Any) -> Any:
    dtype = np.result_type(rate, capacity, start)
    solution = scipy.integrate.solve_ivp(
        lambda t, y: rate * y * (1 - y / capacity),
        (0.0, 2.0),
        np.array([start], dtype=dtype),
        method="DOP853",
        t_eval=(1.0, 2.0),
        rtol=1e-12,
        atol=1e-12,
    )
    return solution.y[0]


def ode_logistic_twin(rate: Tensor, capacity: Tensor, start: Tensor) -> Tensor:
    times = tensor(1.0, 2.0)
    return capacity / (1 + (capacity / start - 1) * torch.exp(-rate * times))


# A linear solve: A(p) y = b, so dy = A⁻¹ (db - dA y).


def linear_solve(p: Any, b: Any) -> Any:
    matrix = np.diag(p) + np.diag(p[1:] ** 2, 1) + np.diag(p[:-1] * p[1:], -1)
    return scipy.linalg.solve(matrix, b)


def linear_solve_jacobian(p: Tensor, b: Tensor) -> Tensor:
    def matrix(p: Tensor) -> Tensor:
        return torch.diag(p) + torch.diag(p[1:] ** 2, 1) + torch.diag(p[:-1] * p[1:], -1)

    inverse = torch.linalg.inv(matrix(p))
    slopes = torch.autograd.functional.jacobian(matrix, p)
    by_p = -inverse @ torch.einsum("ijk,j->ik", slopes, inverse @ b)
    return torch.cat([by_p, inverse], 1)


# A string through eval, in float32, as in the experiment.


def string_eval(x: Tensor, w: Tensor) -> Tensor:
    return torch.tensor(
        [eval(f"2 * {x_} * {w[0]} + ({x_})**2 * {w[1]}") for x_ in x], dtype=torch.float32
    )


def string_eval_jacobian(x: Tensor, w: Tensor) -> Tensor:
    by_x = torch.diag(2 * w[0] + 2 * x * w[1])
    return torch.cat([by_x, torch.stack([2 * x, x**2], 1)], 1)


# A report with six significant digits, as many command-line simulators print.


def six_digits(x: Any) -> Any:
    text = f"{np.exp(x[0]) * x[1]:.6g} {x[0] / (1 + x[1] ** 2):.6g}"
    return np.array([float(word) for word in text.split()])


def six_digits_jacobian(x: Tensor) -> Tensor:
    a, b = x.tolist()
    return tensor([math.exp(a) * b, math.exp(a)], [1 / (1 + b**2), -2 * a * b / (1 + b**2) ** 2])


# Text that keeps every digit, and plain Python floats as a result.


def json_service(text_x: Any) -> Any:
    x = json.loads(json.dumps(np.asarray(text_x).tolist()))
    return [math.hypot(*x), math.atan2(x[0], x[1])]


def json_service_jacobian(x: Tensor) -> Tensor:
    a, b = x.tolist()
    square = a * a + b * b
    return tensor([a / square**0.5, b / square**0.5], [b / square, -a / square])


# float32 inside a function that returns float64: the dtypes do not show the noise.


def float32_inside(x: Any) -> Any:
    y = x.astype(np.float32)
    return np.array([np.sin(y).sum(), (y * y).prod()]).astype(np.float64)


def float32_inside_jacobian(x: Tensor) -> Tensor:
    return torch.stack([x.cos(), 2 * (x**2).prod() / x])


# Complex numbers in and out, and not analytic: the conjugate and the modulus appear.


def complex_mixer(z: Any, c: Any) -> Any:
    return z**2 * c + np.conj(z[::-1]), np.abs(z) ** 2 + c.real


def complex_mixer_twin(z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    return z**2 * c + z.flip(0).conj(), z.abs() ** 2 + c.real


# Dicts in and dicts out, with leaves that are no numbers.


def bookkeeping(parts: Any) -> Any:
    gain = parts["gain"] * parts["repeats"]
    return {
        "label": parts["label"],
        "total": gain * parts["load"]["mass"].sum(),
        "list": [parts["load"]["mass"] ** 2, None],
    }


def bookkeeping_jacobian(parts: dict[str, Any]) -> Tensor:
    gain, mass, repeats = parts["gain"], parts["load"]["mass"], parts["repeats"]
    by_gain = torch.cat([repeats * mass.sum().reshape(1), torch.zeros_like(mass)])
    by_mass = torch.cat([repeats * gain.expand(1, len(mass)), torch.diag(2 * mass)])
    return torch.cat([by_gain[:, None], by_mass], 1)


# Several arguments of different shapes, one of them 0-d, and two results of different shapes.


def many_shapes(s: Any, v: Any, matrix: Any) -> Any:
    return np.exp(s) * (matrix @ v), s * v.sum()


def many_shapes_twin(s: Tensor, v: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    return torch.exp(s) * (matrix @ v), s * v.sum()


# Matrix in, matrix out.


def matrix_exponential(x: Any) -> Any:
    return scipy.linalg.expm(x)


# Rows that are independent of each other, with shared parameters: block diagonal in x.


def rows(x: Any, w: Any) -> Any:
    return np.stack([w[0] * x[:, 0] * x[:, 1], np.sin(w[1] * x[:, 0]) + w[2]], 1)


def rows_twin(x: Tensor, w: Tensor) -> Tensor:
    return torch.stack([w[0] * x[:, 0] * x[:, 1], torch.sin(w[1] * x[:, 0]) + w[2]], 1)


# A compiled program, loaded into this process.

_C_SOURCE = """
#include <math.h>
void orbit(const double *x, double *y) {
    double r = sqrt(x[0] * x[0] + x[1] * x[1]);
    y[0] = x[2] / r;
    y[1] = exp(-x[0]) * x[1] + x[2] * x[2];
}
"""


@functools.cache
def compiled_library() -> ctypes.CDLL:
    """Compile the C source once per process, into a folder that goes when the process ends."""
    folder = tempfile.mkdtemp(prefix="suture-scenarios-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source, library = Path(folder, "orbit.c"), Path(folder, "orbit.so")
    source.write_text(_C_SOURCE)
    subprocess.run(
        ["gcc", "-O1", "-shared", "-fPIC", str(source), "-o", str(library), "-lm"], check=True
    )
    return ctypes.CDLL(str(library))


def compiled_c(x: Any) -> Any:
    pointer = ctypes.POINTER(ctypes.c_double)
    x, y = np.ascontiguousarray(x, dtype=np.float64), np.empty(2)
    compiled_library().orbit(x.ctypes.data_as(pointer), y.ctypes.data_as(pointer))
    return y


def compiled_c_jacobian(x: Tensor) -> Tensor:
    a, b, c = x.tolist()
    r = math.hypot(a, b)
    return tensor([-c * a / r**3, -c * b / r**3, 1 / r], [-math.exp(-a) * b, math.exp(-a), 2 * c])


# A program in a process of its own, with 17 digits each way.

_AWK = 'BEGIN { printf "%.17g %.17g", exp(ARGV[1]) * sin(ARGV[2]), ARGV[1] / ARGV[2] }'


def command_line(x: Any) -> Any:
    words = [f"{float(value):.17g}" for value in x]
    done = subprocess.run(["awk", _AWK, *words], capture_output=True, text=True, check=True)
    return np.array([float(word) for word in done.stdout.split()])


def command_line_jacobian(x: Tensor) -> Tensor:
    a, b = x.tolist()
    return tensor([math.exp(a) * math.sin(b), math.exp(a) * math.cos(b)], [1 / b, -a / b**2])


_tridiagonal = (torch.arange(6)[:, None] - torch.arange(6)).abs() <= 1
_per_row = torch.eye(4).repeat_interleave(2, 0).repeat_interleave(2, 1).bool()

SCENARIOS = [
    Scenario(
        "numpy",
        numpy_waves,
        (tensor(-1.1, 0.4),),
        numpy_waves_jacobian,
        interface="numpy",
        analytic=True,
        constant=100,  # x₁^(-1/2) at 0.4, with a step for inputs of size 0.8
    ),
    Scenario(
        "numpy-branches",
        numpy_chain,
        (tensor(0.5, -0.7, 1.2, 0.9, -1.4, 2.0),),
        numpy_chain_jacobian,
        interface="numpy",
        analytic=True,
        pattern=_tridiagonal,
    ),
    Scenario(
        "torch",
        torch_detached,
        (tensor([0.3, -0.2, 0.8], [1.1, 0.4, -0.5]), tensor(0.7, -0.3, 0.2)),
        jacobian_of(torch_twin),
        analytic=True,
    ),
    Scenario(
        "torch-module",
        frozen_module(),
        (tensor(0.2, -0.6, 1.1),),
        jacobian_of(frozen_module()),
        constant=30,  # weights of size 1 inside tanh, whose own slopes are small
    ),
    Scenario(
        "torch-float32",
        torch_float32_weights,
        (tensor(0.3, -0.9, 0.5, dtype=torch.float32),),
        lambda x: jacobian_of(torch_float32_twin)(x.to(torch.float64)),
        dtype=None,
        visible=EPSILON32,
    ),
    Scenario(
        "ode",
        ode_logistic,
        (tensor(0.8), tensor(3.0), tensor(0.5)),
        jacobian_of(ode_logistic_twin),
        interface="numpy",
        noise=1e-11,  # ten times the tolerance of the solver
        analytic=True,
    ),
    Scenario(
        "linear-solve",
        linear_solve,
        (tensor(3.0, -2.5, 1.6), tensor(1.0, 0.3, -0.8)),
        linear_solve_jacobian,
        interface="numpy",
        analytic=True,
        constant=100,  # the inverse has a pole near, and its derivatives grow like factorials
    ),
    Scenario(
        "string-eval",
        string_eval,
        (tensor(0.1, 0.5, 0.9), tensor(1.2, -3.4)),
        string_eval_jacobian,
        visible=EPSILON32,
    ),
    Scenario(
        "six-digits",
        six_digits,
        (tensor(0.4, 1.3),),
        six_digits_jacobian,
        interface="numpy",
        noise=5e-6,  # half a unit of the sixth digit, of the smaller output
    ),
    Scenario("json", json_service, (tensor(0.6, -1.1),), json_service_jacobian, interface="numpy"),
    Scenario(
        "float32-inside",
        float32_inside,
        (tensor(0.5, -0.8, 1.3),),
        float32_inside_jacobian,
        interface="numpy",
        noise=EPSILON32,
    ),
    Scenario(
        "complex",
        complex_mixer,
        (
            tensor(0.5 + 0.3j, -0.4 + 1.1j, dtype=torch.complex128),
            tensor(0.7 - 0.2j, dtype=torch.complex128),
        ),
        jacobian_of(complex_mixer_twin),
        interface="numpy",
    ),
    Scenario(
        "dict",
        bookkeeping,
        (
            {
                "gain": tensor(1.5),
                "load": {"mass": tensor(0.4, -0.9), "unused": None},
                "repeats": torch.tensor(3),
                "label": "run 7",
            },
        ),
        bookkeeping_jacobian,
        analytic=True,
    ),
    Scenario(
        "many-shapes",
        many_shapes,
        (tensor(0.3), tensor(1.0, -0.4, 0.6), tensor([0.2, 0.9, -1.0], [0.5, 0.1, 0.8])),
        jacobian_of(many_shapes_twin),
        interface="numpy",
        analytic=True,
    ),
    Scenario(
        "matrix",
        matrix_exponential,
        (tensor([0.2, -0.5], [0.7, 0.1]),),
        jacobian_of(torch.linalg.matrix_exp),
        interface="numpy",
        analytic=True,
    ),
    Scenario(
        "rows",
        rows,
        (tensor([0.2, 0.4], [-0.6, 1.0], [0.9, -0.3], [1.2, 0.7]), tensor(1.1, -0.6, 0.4)),
        jacobian_of(rows_twin),
        interface="numpy",
        analytic=True,
        pattern=torch.cat([_per_row, torch.ones(8, 3, dtype=torch.bool)], 1),
        batch_dims=(0, None),
    ),
    Scenario(
        "compiled",
        compiled_c,
        (tensor(0.8, -0.5, 1.4),),
        compiled_c_jacobian,
        interface="numpy",
        constant=30,  # 1/r, whose derivatives grow like factorials
        program="gcc",
    ),
    Scenario(
        "command-line",
        command_line,
        (tensor(0.4, 0.9),),
        command_line_jacobian,
        interface="numpy",
        constant=30,  # 1/x₁, whose derivatives grow like factorials
        program="awk",
    ),
]
