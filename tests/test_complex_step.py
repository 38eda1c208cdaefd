"""The complex step through NumPy and SciPy: the exact derivative, or a refusal with its reason.

Twelve of these functions are evaluated at complex inputs as the analytic functions that they are.
The others drop the imaginary part, conjugate it somewhere, or do not accept it: their complex
step would be wrong, mostly zero.
"""

import itertools
import math
import re
import warnings

import numpy as np
import pytest
import scipy.special
import torch
from scipy.integrate import solve_ivp

from suture import FiniteDifference, differentiable, stencils
from suture.errors import BadResult, EvaluationError

N = 4
M = np.random.default_rng(0).standard_normal((N, N))
TABLE_X = np.linspace(-6, 6, 97)
TABLE_Y = np.sin(TABLE_X)


def filled(x):
    result = np.zeros(N)
    result[:] = x**2
    return result


def oscillator(x):
    start = np.ones(N) + 0 * x
    run = solve_ivp(lambda t, y: -x * y + np.sin(t), (0, 1), start, rtol=1e-8, atol=1e-10)
    return run.y[:, -1]


def factor(x):
    return np.diag(np.linalg.cholesky(M @ M.T + 5 * np.eye(N) + np.diag(x**2)))


ANALYTIC = {
    "polynomial and sine": lambda x: np.sin(x) * np.exp(-(x**2)) + x @ M,
    "network with tanh": lambda x: np.tanh(M @ np.tanh(M @ x)),
    "linalg.solve": lambda x: np.linalg.solve(M + np.diag(x), np.ones(N)),
    "linalg.det": lambda x: np.array([np.linalg.det(M + np.diag(x))]),
    "maximum": lambda x: np.maximum(x, 0) * 2,
    "where": lambda x: np.where(x > 0, x**2, x),
    "branch": lambda x: x**3 if x[0] > 0 else -x,
    "clip": lambda x: np.clip(x, -0.5, 0.5),
    "sort": lambda x: np.sort(x) ** 2,
    "solve_ivp": oscillator,
    "string and eval": lambda x: eval("x**2 * np.cos(x) + 1 / (1 + np.exp(-x))"),
    "erf": scipy.special.erf,
}

DROPPED = "dropped the imaginary part: it returned float"
NOT_ANALYTIC = "is not complex-analytic: the complex step and a difference disagree by"
RAISED = "raised TypeError: "

REFUSED = {
    "eigvalsh": (lambda x: np.linalg.eigvalsh(M @ M.T + np.diag(x)), DROPPED),
    "cholesky": (factor, NOT_ANALYTIC),
    "norm": (lambda x: np.array([np.linalg.norm(x)]), DROPPED),
    "abs": (np.abs, DROPPED),
    "float": (lambda x: np.array([float(a) ** 2 for a in x]), DROPPED),
    "a preallocated result": (filled, DROPPED),
    "math.sin": (lambda x: np.array([math.sin(a) for a in x]), DROPPED),
    "arctan2": (lambda x: np.arctan2(x, 1 + x**2), RAISED),
    "interp": (lambda x: np.interp(x, TABLE_X, TABLE_Y), RAISED),
    "power spectrum": (lambda x: np.abs(np.fft.fft(x)) ** 2, DROPPED),
    "vdot": (lambda x: np.array([np.vdot(x, x)]), NOT_ANALYTIC),
    "float32 inside": (lambda x: np.sin(x.astype(np.float32)), DROPPED),
    "gammaln": (lambda x: scipy.special.gammaln(x + 5), RAISED),
}

# Where the inputs are equal or zero, as parameters are that have just been made, slopes may
# cancel or vanish that do not elsewhere.
POINTS = {
    "random": np.random.default_rng(1).standard_normal(N) + 0.1,
    "another": np.random.default_rng(2).standard_normal(N) + 0.1,
    "ones": np.ones(N),
    "zero": np.zeros(N),
    "mixed sizes": np.array([0.05, -0.7, 2.0, 0.3]),
}

# There is no gradient at a jump or a kink: these points lie in one.
KINKS = {*itertools.product(["branch", "maximum", "where", "sort"], ["zero"]), ("sort", "ones")}


def jacobian(fn, x, seed):
    f = differentiable(
        fn, interface="numpy", method=FiniteDifference(stencils.COMPLEX_STEP), seed=seed
    )
    # NumPy warns of some of the dropped imaginary parts; the refusal must not depend on that.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.func.jacrev(f)(torch.from_numpy(x.copy()))


def reference(fn, x):
    """Difference at sixth order: right to about 1e-12."""
    method = FiniteDifference(stencils.central(6), step=2e-3)
    f = differentiable(fn, interface="numpy", method=method, scale=1.0)
    return torch.func.jacrev(f)(torch.from_numpy(x.copy()))


def test_the_table_has_25_rows():
    assert (len(ANALYTIC), len(REFUSED)) == (12, 13)


@pytest.mark.parametrize(
    ("name", "point"), [pair for pair in itertools.product(ANALYTIC, POINTS) if pair not in KINKS]
)
def test_exact(name, point):
    x = POINTS[point]
    found = [jacobian(ANALYTIC[name], x, seed) for seed in range(5)]
    assert all(torch.equal(found[0], again) for again in found)
    expected = reference(ANALYTIC[name], x)
    # The solver's own tolerance is 1e-8.
    tolerance = 1e-7 if name == "solve_ivp" else 1e-9
    size = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found[0], expected, rtol=0, atol=tolerance * size)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, point):
    fn, reason = REFUSED[name]
    for seed in range(5):
        with pytest.raises((BadResult, EvaluationError), match=re.escape(reason)):
            jacobian(fn, POINTS[point], seed)


@pytest.mark.parametrize("start", [np.full(N, 1e-9), np.full(N, -2.0)], ids=["noise", "flat"])
def test_a_start_where_nothing_shows_settles_nothing(start):
    """Slopes that are lost in the noise, or zero, say nothing of the next point."""

    def f(x):
        return 5 + np.where(np.real(x) < 0, 0, x * np.conj(x))

    wrapped = differentiable(f, interface="numpy", method=FiniteDifference(stencils.COMPLEX_STEP))
    jacobian = torch.func.jacrev(wrapped)
    assert jacobian(torch.from_numpy(start)).abs().max() < 1e-8
    with pytest.raises(BadResult, match=NOT_ANALYTIC):
        jacobian(torch.ones(N, dtype=torch.float64))
