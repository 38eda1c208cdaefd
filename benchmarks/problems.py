"""27 least-squares residuals from nature and from optimizers, with their exact Jacobians.

Every residual maps one NumPy vector to another, and keeps its dtype: float32, float64 or complex.

Source: Moré, Garbow and Hillstrom (1981), ACM Transactions on Mathematical Software 7(1), 17-41.
The number of each problem there is in its docstring.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[Any]
Residual = Callable[[Vector], Vector]


def _like(x: Vector, numbers: Any) -> Vector:
    """Return constants in the real precision of `x`, so that they do not widen it."""
    return np.asarray(numbers, dtype=x.real.dtype)


def rosenbrock(x: Vector) -> Vector:
    """(1) A banana-shaped valley."""
    return np.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def freudenstein_roth(x: Vector) -> Vector:
    """(2) Two cubics."""
    return np.stack(
        [
            -13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1],
            -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1],
        ]
    )


def powell_badly_scaled(x: Vector) -> Vector:
    """(3) Outputs four orders of magnitude apart."""
    return np.stack([1e4 * x[0] * x[1] - 1, np.exp(-x[0]) + np.exp(-x[1]) - 1.0001])


def brown_badly_scaled(x: Vector) -> Vector:
    """(4) Solution twelve orders of magnitude apart."""
    return np.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def beale(x: Vector) -> Vector:
    """(5) Polynomials up to order 4."""
    return _like(x, (1.5, 2.25, 2.625)) - x[0] * (1 - np.stack([x[1], x[1] ** 2, x[1] ** 3]))


def jennrich_sampson(x: Vector) -> Vector:
    """(6) Sums of exponentials, up to e¹⁰ˣ."""
    i = _like(x, range(1, 11))
    return 2 + 2 * i - (np.exp(i * x[0]) + np.exp(i * x[1]))


def helical_valley(x: Vector) -> Vector:
    """(7) An angle and a radius."""
    turn = np.arctan(x[1] / x[0]) / (2 * math.pi) + (0.0 if x[0].real > 0 else 0.5)
    radius = np.sqrt(x[0] ** 2 + x[1] ** 2)
    return np.stack([10 * (x[2] - 10 * turn), 10 * (radius - 1), x[2]])


_BARD = (0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39)


def bard(x: Vector) -> Vector:
    """(8) A rational function."""
    u = _like(x, range(1, 16))
    v = 16 - u
    return _like(x, _BARD) - (x[0] + u / (v * x[1] + np.minimum(u, v) * x[2]))


_GAUSS = (0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521)


def gaussian(x: Vector) -> Vector:
    """(9) A bell curve."""
    t = (8 - _like(x, range(1, 16))) / 2
    bell = _like(x, (*_GAUSS, 0.3989, *reversed(_GAUSS)))
    return x[0] * np.exp(-x[1] * (t - x[2]) ** 2 / 2) - bell


_MEYER = (34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744)
_MEYER += (8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872)


def meyer(x: Vector) -> Vector:
    """(10) The resistance of a thermistor; inputs six orders of magnitude apart."""
    t = 45 + 5 * _like(x, range(1, 17))
    return x[0] * np.exp(x[1] / (t + x[2])) - _like(x, _MEYER)


def box(x: Vector) -> Vector:
    """(12) Three exponentials."""
    t = _like(x, range(1, 11)) / 10
    return np.exp(-t * x[0]) - np.exp(-t * x[1]) - x[2] * (np.exp(-t) - np.exp(-10 * t))


def powell_singular(x: Vector) -> Vector:
    """(13) The Jacobian is singular at the solution."""
    return np.stack(
        [
            x[0] + 10 * x[1],
            math.sqrt(5) * (x[2] - x[3]),
            (x[1] - 2 * x[2]) ** 2,
            math.sqrt(10) * (x[0] - x[3]) ** 2,
        ]
    )


def wood(x: Vector) -> Vector:
    """(14) Two coupled valleys."""
    return np.stack(
        [
            10 * (x[1] - x[0] ** 2),
            1 - x[0],
            math.sqrt(90) * (x[3] - x[2] ** 2),
            1 - x[2],
            math.sqrt(10) * (x[1] + x[3] - 2),
            (x[1] - x[3]) / math.sqrt(10),
        ]
    )


_KOWALIK_AT = (4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625)
_KOWALIK = (0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246)


def kowalik_osborne(x: Vector) -> Vector:
    """(15) An enzyme reaction."""
    u = _like(x, _KOWALIK_AT)
    return _like(x, _KOWALIK) - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def brown_dennis(x: Vector) -> Vector:
    """(16) Squares of squares."""
    t = _like(x, range(1, 21)) / 5
    return (x[0] + t * x[1] - np.exp(t)) ** 2 + (x[2] + x[3] * np.sin(t) - np.cos(t)) ** 2


_OSBORNE1 = (0.844, 0.908, 0.932, 0.936, 0.925, 0.908, 0.881, 0.850, 0.818, 0.784, 0.751)
_OSBORNE1 += (0.718, 0.685, 0.658, 0.628, 0.603, 0.580, 0.558, 0.538, 0.522, 0.506, 0.490)
_OSBORNE1 += (0.478, 0.467, 0.457, 0.448, 0.438, 0.431, 0.424, 0.420, 0.414, 0.411, 0.406)


def osborne1(x: Vector) -> Vector:
    """(17) Two decays."""
    t = 10 * _like(x, range(33))
    return _like(x, _OSBORNE1) - (x[0] + x[1] * np.exp(-t * x[3]) + x[2] * np.exp(-t * x[4]))


def biggs(x: Vector) -> Vector:
    """(18) Three exponentials with weights."""
    t = _like(x, range(1, 14)) / 10
    data = np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t)
    model = x[2] * np.exp(-t * x[0]) - x[3] * np.exp(-t * x[1]) + x[5] * np.exp(-t * x[4])
    return model - data


_OSBORNE2 = (1.366, 1.191, 1.112, 1.013, 0.991, 0.885, 0.831, 0.847, 0.786, 0.725, 0.746)
_OSBORNE2 += (0.679, 0.608, 0.655, 0.616, 0.606, 0.602, 0.626, 0.651, 0.724, 0.649, 0.649)
_OSBORNE2 += (0.694, 0.644, 0.624, 0.661, 0.612, 0.558, 0.533, 0.495, 0.500, 0.423, 0.395)
_OSBORNE2 += (0.375, 0.372, 0.391, 0.396, 0.405, 0.428, 0.429, 0.523, 0.562, 0.607, 0.653)
_OSBORNE2 += (0.672, 0.708, 0.633, 0.668, 0.645, 0.632, 0.591, 0.559, 0.597, 0.625, 0.739)
_OSBORNE2 += (0.710, 0.729, 0.720, 0.636, 0.581, 0.428, 0.292, 0.162, 0.098, 0.054)


def osborne2(x: Vector) -> Vector:
    """(19) A decay and three peaks."""
    t = _like(x, range(65)) / 10
    peaks = sum(x[k] * np.exp(-((t - x[k + 7]) ** 2) * x[k + 4]) for k in (1, 2, 3))
    return _like(x, _OSBORNE2) - (x[0] * np.exp(-t * x[4]) + peaks)


def extended_rosenbrock(x: Vector) -> Vector:
    """(21) Independent pairs of inputs."""
    residual = np.empty_like(x)
    residual[0::2] = 10 * (x[1::2] - x[0::2] ** 2)
    residual[1::2] = 1 - x[0::2]
    return residual


def penalty1(x: Vector) -> Vector:
    """(23) Small linear outputs and one large quadratic."""
    return np.append(math.sqrt(1e-5) * (x - 1), (x**2).sum() - 0.25)


def variably_dimensioned(x: Vector) -> Vector:
    """(25) A sum, and its square."""
    total = (_like(x, range(1, len(x) + 1)) * (x - 1)).sum()
    return np.concatenate([x - 1, np.stack([total, total**2])])


def trigonometric(x: Vector) -> Vector:
    """(26) Sines and cosines, all coupled."""
    i = _like(x, range(1, len(x) + 1))
    return len(x) - np.cos(x).sum() + i * (1 - np.cos(x)) - np.sin(x)


def brown_almost_linear(x: Vector) -> Vector:
    """(27) Sums, and one product of all inputs."""
    return np.append(x[:-1] + x.sum() - (len(x) + 1), x.prod() - 1)


def discrete_boundary_value(x: Vector) -> Vector:
    """(28) A boundary value problem on a grid."""
    h = 1 / (len(x) + 1)
    t = h * _like(x, range(1, len(x) + 1))
    around = np.pad(x, 1)
    return 2 * x - around[:-2] - around[2:] + h**2 * (x + t + 1) ** 3 / 2


def broyden_tridiagonal(x: Vector) -> Vector:
    """(30) Each output knows three inputs."""
    around = np.pad(x, 1)
    return (3 - 2 * x) * x - around[:-2] - 2 * around[2:] + 1


def broyden_banded(x: Vector) -> Vector:
    """(31) Each output knows five inputs before its own, and one after."""
    offset = np.arange(len(x))[:, None] - np.arange(len(x))
    neighbor = _like(x, (offset >= -1) & (offset <= 5) & (offset != 0))
    return x * (2 + 5 * x**2) + 1 - neighbor @ (x * (1 + x))


def chebyquad(x: Vector) -> Vector:
    """(35) Chebyshev polynomials: mean over the nodes x, less the integral over [0, 1]."""
    before, now, outputs = np.ones_like(x), 2 * x - 1, []
    for degree in range(1, len(x) + 1):
        integral = 0.0 if degree % 2 else -1 / (degree**2 - 1)
        outputs.append(now.sum() / len(x) - integral)
        before, now = now, 2 * (2 * x - 1) * now - before
    return np.stack(outputs)


_GRID = np.arange(1, 11) / 11

# The standard starting points with one change: 0.1 in place of one zero in powell_badly_scaled,
# helical_valley, gaussian, box and powell_singular. At zero, nothing tells the size of an input.
STARTS: dict[Residual, Any] = {
    rosenbrock: (-1.2, 1),
    freudenstein_roth: (0.5, -2),
    powell_badly_scaled: (0.1, 1),
    brown_badly_scaled: (1, 1),
    beale: (1, 1),
    jennrich_sampson: (0.3, 0.4),
    helical_valley: (-1, 0.1, 0),
    bard: (1, 1, 1),
    gaussian: (0.4, 1, 0.1),
    meyer: (0.02, 4000, 250),
    box: (0.1, 10, 20),
    powell_singular: (3, -1, 0.1, 1),
    wood: (-3, -1, -3, -1.1),
    kowalik_osborne: (0.25, 0.39, 0.415, 0.39),
    brown_dennis: (25, 5, -5, -1),
    osborne1: (0.5, 1.5, -1, 0.01, 0.02),
    biggs: (1, 2, 1, 1, 1, 1),
    osborne2: (1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5),
    extended_rosenbrock: (-1.2, 1) * 10,
    penalty1: range(1, 11),
    variably_dimensioned: 1 - np.arange(1, 11) / 10,
    trigonometric: (0.1,) * 10,
    brown_almost_linear: (0.5,) * 10,
    discrete_boundary_value: _GRID * (_GRID - 1),
    broyden_tridiagonal: (-1,) * 10,
    broyden_banded: (-1,) * 10,
    chebyquad: np.arange(1, 9) / 9,
}


def jacobian(residual: Residual, x: Vector) -> Vector:
    """Return the (m, n) Jacobian by complex steps, exact to rounding: nothing is subtracted.

    Source: Squire and Trapp (1998), SIAM Review 40(1), 110-112.
    """
    step = 1e-30  # its square is lost beside 1, and itself is far from underflow
    columns = [residual(x + 1j * step * unit).imag / step for unit in np.eye(len(x))]
    return np.stack(columns, axis=1)


def walk(residual: Residual, x: Vector, steps: int) -> Iterator[Vector]:
    """Yield the points after each of some Levenberg-Marquardt steps with exact Jacobians.

    Source: Marquardt (1963), SIAM Journal on Applied Mathematics 11(2), 431-441. The damping
    starts at 0.01 and changes by factors of 5; a point is repeated where 12 trials do not descend.
    """
    damping = 1e-2
    for _ in range(steps):
        y, slopes = residual(x), jacobian(residual, x)
        normal, descent = slopes.T @ slopes, -slopes.T @ y
        # Keeps the matrix regular where an output does not see an input.
        diagonal = np.diag(np.diag(normal) + 1e-12)
        for _ in range(12):
            trial = x + np.linalg.solve(normal + damping * diagonal, descent)
            with np.errstate(all="ignore"):  # a trial may overflow; it is refused then
                descends = (residual(trial) ** 2).sum() < (y**2).sum()
            if descends:
                x, damping = trial, damping / 5
                break
            damping *= 5
        yield x


@functools.cache
def points(residual: Residual) -> tuple[Vector, Vector, Vector]:
    """Return the start, a random point about 10 % away, and the start's sixth step of `walk`."""
    start = np.asarray(STARTS[residual], dtype=np.float64)
    away = np.random.default_rng(7).standard_normal(len(start))
    perturbed = start + 0.1 * np.maximum(np.abs(start), 0.1) * away
    *_, last = walk(residual, start, 6)
    return start, perturbed, last
