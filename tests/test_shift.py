"""The parameter-shift rule: exact for rotations, and refused where its angles would be scaled."""

import math

import numpy as np
import pytest
import torch
from torch.func import hessian, jacfwd, jacrev, jvp, vmap

from suture import FiniteDifference, Stencil, differentiable, stencils
from suture._methods import Primal, Room
from suture.errors import MethodError

ANGLES = [math.pi / 2, math.pi / 4, 1.0, -2.5]
each_angle = pytest.mark.parametrize("angle", ANGLES)

PAULI = {
    "X": np.array([[0, 1], [1, 0]], complex),
    "Y": np.array([[0, -1j], [1j, 0]]),
    "Z": np.diag([1.0 + 0j, -1.0]),
}
ONE = np.eye(2)
CNOT = np.eye(4)[[0, 1, 3, 2]]
# Observables of the two qubits, one for each output.
OBSERVED = [
    np.kron(PAULI["Z"], ONE) + np.kron(PAULI["X"], PAULI["Y"]),
    np.kron(PAULI["X"], PAULI["Z"]) + np.kron(ONE, PAULI["X"]),
    np.kron(PAULI["Y"], PAULI["Y"]) + np.kron(ONE, PAULI["Z"]),
]


def gate(axis, angle):
    """Return exp(-i angle P / 2), which has frequency one in every expectation."""
    return math.cos(angle / 2) * ONE - 1j * math.sin(angle / 2) * PAULI[axis]


def circuit(angles):
    """Expectations of a circuit of two qubits with six rotations, in NumPy."""
    a = [float(angle) for angle in angles]
    state = np.zeros(4, complex)
    state[0] = 1
    for layer in (a[:2], a[2:4], a[4:]):
        state = CNOT @ np.kron(gate("Y", layer[0]), gate("X", layer[1])) @ state
    return np.array([np.real(np.conj(state) @ P @ state) for P in OBSERVED])


def circuit_twin(angles):
    """The same in torch, for the exact derivatives."""
    cos, sin = torch.cos(angles / 2), torch.sin(angles / 2)
    x, y, one, cnot = (torch.as_tensor(m + 0j) for m in (PAULI["X"], PAULI["Y"], ONE, CNOT))
    state = torch.tensor([1, 0, 0, 0], dtype=torch.complex128)
    for i in (0, 2, 4):
        first = cos[i] * one - 1j * sin[i] * y
        second = cos[i + 1] * one - 1j * sin[i + 1] * x
        state = cnot @ torch.kron(first, second) @ state
    seen = [(state.conj() @ torch.as_tensor(P + 0j) @ state).real for P in OBSERVED]
    return torch.stack(seen)


def point(*shape, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-4, 4, shape))


def shifted(fn, angle=math.pi / 2, **options):
    return differentiable(fn, method=FiniteDifference(stencils.shift(angle)), **options)


@pytest.fixture(scope="module")
def angles():
    return point(6)


# What it is.


@each_angle
def test_rule_of_numbers(angle):
    rule = stencils.shift(angle)
    assert rule.nodes == (-angle, angle)
    assert rule.weights == (-1 / (2 * math.sin(angle)), 1 / (2 * math.sin(angle)))
    assert rule.absolute
    assert rule.error_weights is None
    assert not rule.is_complex
    assert FiniteDifference(rule).cost == "2n"


def test_default_angle_is_a_quarter_turn():
    assert stencils.shift() == stencils.shift(angle=math.pi / 2)
    assert stencils.shift().weights == (-0.5, 0.5)


def test_a_rule_of_ones_own_for_two_frequencies():
    """Four terms: for f with frequencies 1 and 2, as of an angle that turns two gates."""
    c = math.sqrt(2)
    nodes = (math.pi / 4, -math.pi / 4, 3 * math.pi / 4, -3 * math.pi / 4)
    # Σ w sin t = 1 and Σ w sin 2t = 2.
    a, b = (1 / c + 1) / 2, (1 / c - 1) / 2
    rule = Stencil(nodes, (a, -a, b, -b), order=2, absolute=True)
    x = point(3).requires_grad_()
    f = differentiable(lambda x: torch.sin(x + 0.3) ** 2, method=FiniteDifference(rule))
    f(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.sin(2 * (x + 0.3)).detach(), rtol=1e-13, atol=1e-13)


def test_it_becomes_the_central_difference():
    """For other functions the error falls as angle²: here -angle² / 6 of f' + f'''."""

    def error(angle):
        x = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        shifted(lambda x: x**3, angle)(x).backward()
        return x.grad.item() - 0.75

    assert math.log2(error(0.02) / error(0.01)) == pytest.approx(2, abs=0.01)


# Exactness.


@each_angle
@pytest.mark.parametrize("phase", [0.0, 0.7, -2.0])
def test_exact_for_a_sinusoid(angle, phase):
    x = point(5).requires_grad_()
    shifted(lambda x: 3 + 2 * torch.sin(x + phase), angle)(x).sum().backward()
    torch.testing.assert_close(
        x.grad, 2 * torch.cos(x.detach() + phase), rtol=1e-14, atol=1e-14 / abs(math.sin(angle))
    )


@each_angle
def test_exact_for_a_circuit(angle, angles):
    f = shifted(circuit, angle, interface="numpy")
    exact = jacrev(circuit_twin)(angles)
    assert exact.abs().amax(dim=0).min() > 0.1  # every angle matters
    torch.testing.assert_close(jacrev(f)(angles), exact, rtol=0, atol=1e-14)
    torch.testing.assert_close(jacfwd(f)(angles), exact, rtol=0, atol=1e-14)


def test_a_difference_is_not_exact(angles):
    """The tolerance above tells the two apart."""
    f = differentiable(circuit, method=FiniteDifference(stencils.CENTRAL), interface="numpy")
    assert (jacrev(f)(angles) - jacrev(circuit_twin)(angles)).abs().max() > 1e-12


@pytest.mark.parametrize("tangent", [[1.0] * 6, [0.3, -1.0, 2.0, 0.0, 0.5, 1e-3]])
def test_a_tangent_goes_by_coordinates(angles, tangent):
    """Along a sum of angles a circuit has many frequencies, and no shift of it is exact."""
    f = shifted(circuit, interface="numpy")
    tangent = torch.tensor(tangent, dtype=torch.float64)
    value, pushed = jvp(f, (angles,), (tangent,))
    expected = jvp(circuit_twin, (angles,), (tangent,))
    torch.testing.assert_close((value, pushed), expected, rtol=0, atol=1e-14)
    assert f.evaluations == 1 + 2 * 6


def test_second_derivatives(angles):
    """The inner derivative is exact: errors t² / 6 and 2^-52 / t at t = 2^(-52/3) = 6e-6."""
    f = shifted(circuit, interface="numpy")
    found = hessian(f)(angles)
    torch.testing.assert_close(found, hessian(circuit_twin)(angles), rtol=0, atol=1e-9)


def test_second_derivatives_by_the_cotangent(angles):
    f = shifted(circuit, interface="numpy")
    cotangent = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    x = angles.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(f(x), x, cotangent, create_graph=True)
    (pushed,) = torch.autograd.grad(gradient.sum(), cotangent)
    exact = jacrev(circuit_twin)(angles).sum(1)
    torch.testing.assert_close(pushed, exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1.0, 1e4])
def test_displacements_do_not_depend_on_the_size_of_the_input(size):
    seen = []

    def recorded(x):
        seen.append(x.copy())
        return np.sin(x)

    x = torch.tensor([size, 0.0], dtype=torch.float64, requires_grad=True)
    shifted(recorded, interface="numpy")(x).sum().backward()
    moves = np.array(seen[1:]) - np.array(seen[0])
    quarter = math.pi / 2
    expected = [[-quarter, 0], [quarter, 0], [0, -quarter], [0, quarter]]
    np.testing.assert_allclose(moves, expected, atol=1e-11)
    torch.testing.assert_close(x.grad, torch.cos(x.detach()), rtol=1e-11, atol=1e-11)


# Together with what else there is.


def test_evaluations(angles):
    f = shifted(circuit, interface="numpy")
    x = angles.clone().requires_grad_()
    f(x).sum().backward()
    assert f.evaluations == 1 + 2 * 6
    f(x).sum().backward()
    assert f.evaluations == 2 * (1 + 2 * 6)


def test_batch_and_shared_angles():
    def rows(x, w):
        return torch.sin(x[:, :1]) * torch.cos(x[:, 1:] + w[0]) + torch.sin(w[1])

    x, w = point(7, 2).requires_grad_(), point(2, seed=2).requires_grad_()
    f = shifted(rows, batch_dims=(0, None))
    found = torch.autograd.grad(f(x, w).sum(), (x, w))
    # d = 2 columns of the rows, p = 2 shared ones, and 1 to check the claim of the rows.
    assert f.evaluations == 1 + 2 * (2 + 2) + 1
    expected = torch.autograd.grad(rows(x, w).sum(), (x, w))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_vmap():
    f = shifted(circuit, interface="numpy")
    x = point(4, 6)
    found = vmap(jacrev(f))(x)
    torch.testing.assert_close(found, vmap(jacrev(circuit_twin))(x), rtol=0, atol=1e-14)


def test_vectorized_and_chunked(angles):
    def many(x):
        return np.stack([circuit(row) for row in x])

    f = shifted(many, interface="numpy", vectorized=True, chunk_size=5)
    exact = jacrev(circuit_twin)(angles)
    torch.testing.assert_close(jacrev(f)(angles), exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_low_precision_of_the_caller(dtype):
    """Float32 inputs, computed in float32: right to a few roundings, with no step to lose them."""
    x = torch.tensor([0.3, 2.0, -3.0], dtype=dtype, requires_grad=True)
    received = []

    def f(x):
        received.append(x.dtype)
        return torch.sin(x)

    shifted(f, dtype=None)(x).sum().backward()
    assert set(received) == {dtype}
    precision = torch.finfo(dtype).eps
    torch.testing.assert_close(x.grad, torch.cos(x.detach()), rtol=0, atol=4 * precision)


def test_what_is_not_read_may_be_nan():
    x = torch.tensor([0.3, math.nan], dtype=torch.float64, requires_grad=True)
    shifted(lambda x: torch.sin(x[0]))(x).backward()
    torch.testing.assert_close(x.grad, torch.tensor([math.cos(0.3), 0.0], dtype=torch.float64))


# Bounds.


def bounded(down, up):
    rows = np.array([[0.5, 0.1]])
    room = Room(np.array([down]), np.array([up]), np.zeros(0), np.zeros(0))
    return Primal(
        rows=rows,
        shared=np.zeros(0),
        value=np.sin(rows),
        outputs=2,
        scale_rows=np.ones((1, 2)),
        scale_shared=np.zeros(0),
        noise=2.0**-52,
        derivative=1,
        round=None,
        capacity=1000,
        room=room,
    )


def first_points(primal):
    method = FiniteDifference(stencils.shift())
    return next(method.linearize(primal, lambda slopes: slopes, np.random.default_rng))


def test_a_shift_that_fits_into_the_bounds():
    quarter = math.pi / 2
    points = first_points(bounded([quarter, np.inf], [2.0, quarter]))
    assert points.rows.shape == (4, 1, 2)


@pytest.mark.parametrize(
    ("down", "up"), [([1.5, 9.0], [9.0, 9.0]), ([9.0, 9.0], [9.0, 1.5]), ([9.0, 0.0], [9.0, 1.0])]
)
def test_a_shift_that_does_not_fit_into_the_bounds(down, up):
    with pytest.raises(MethodError, match="leads out of the bounds of an input by"):
        first_points(bounded(down, up))


def test_an_angle_that_cannot_move_costs_nothing():
    method = FiniteDifference(stencils.shift())
    primal = bounded([9.0, 0.0], [9.0, 0.0])
    estimate = method.linearize(primal, lambda slopes: slopes, np.random.default_rng)
    points = next(estimate)
    assert points.rows[:, 0, 1].tolist() == [0.1, 0.1]
    with pytest.raises(StopIteration) as stop:
        estimate.send(np.sin(points.rows))
    assert stop.value.value.kept[:, 0].tolist() == [[pytest.approx(np.cos(0.5)), 0], [0, 0]]
