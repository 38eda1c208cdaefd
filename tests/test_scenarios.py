"""Every scenario with every method that is lawful on it: right gradients at the stated cost."""

from __future__ import annotations

import dataclasses
import functools
import math
import shutil
from typing import Any

import pytest
import torch
from scenarios import SCENARIOS, Scenario, as_real, differentiable_leaves
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from suture import CustomVJP, FiniteDifference, differentiable, directions, stencils


@dataclasses.dataclass(frozen=True)
class Case:
    """A method, the order of its stencil, and its evaluations for each real input.

    `loss` is the factor by which directions make the error of a slope larger in the gradient: seeds
    of length √n reach √n times as far as unit vectors, which multiplies the truncation by at most
    n, and solving for the gradient keeps the norm of the errors.
    """

    stencil: str
    order: float
    evaluations: int
    directions: str = "coordinate"
    once: int = 0

    def method(self, scenario: Scenario) -> FiniteDifference:
        chosen = {
            "coordinate": directions.Coordinate(),
            "orthogonal": directions.Orthogonal(scenario.size, "least_squares"),
            "rademacher": directions.Rademacher(4 * scenario.size, "least_squares"),
        }
        return FiniteDifference(
            _STENCILS[self.stencil], chosen[self.directions], noise=scenario.noise
        )

    def loss(self, scenario: Scenario) -> float:
        return 1.0 if self.directions == "coordinate" else scenario.size


# Forward mode loads decompositions that torch itself still scripts (2.13).
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
)

_STENCILS = {
    "forward": stencils.FORWARD,
    "backward": stencils.BACKWARD,
    "central": stencils.CENTRAL,
    "central4": stencils.central(4),
    "central6": stencils.central(6),
    "richardson2": stencils.richardson(2),
    "richardson3": stencils.richardson(3),
    "complex": stencils.COMPLEX_STEP,
}

CASES = {
    "forward": Case("forward", 1, 1),
    "backward": Case("backward", 1, 1),
    "central": Case("central", 2, 2),
    "central4": Case("central4", 4, 4),
    "central6": Case("central6", 6, 6),
    "richardson2": Case("richardson2", 4, 4),
    "richardson3": Case("richardson3", 6, 6),
    "complex": Case("complex", math.inf, 1, once=3),
    "orthogonal": Case("central", 2, 2, "orthogonal"),
    "rademacher": Case("central", 2, 8, "rademacher"),
}

LAWFUL = [
    pytest.param(scenario, case, id=f"{scenario.name}-{name}")
    for scenario in SCENARIOS
    for name, case in CASES.items()
    if scenario.analytic or case.stencil != "complex"
]
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)


@pytest.fixture(autouse=True)
def _program(request: pytest.FixtureRequest) -> None:
    scenario = request.node.callspec.params.get("scenario")
    if scenario is not None and scenario.program and not shutil.which(scenario.program):
        pytest.skip(f"`{scenario.program}` is not on this machine")


def wanting(scenario: Scenario) -> tuple[Any, ...]:
    """Copy the arguments, with every differentiable leaf asking for a gradient."""
    chosen = {id(leaf) for leaf in differentiable_leaves(scenario.args)}
    return tree_map(
        lambda leaf: leaf.clone().requires_grad_() if id(leaf) in chosen else leaf, scenario.args
    )


def backward(f: Any, scenario: Scenario) -> tuple[Tensor, Tensor]:
    """Run f and its backward with a fixed cotangent; return gradient and cotangent, real."""
    args = wanting(scenario)
    outputs = differentiable_leaves(f(*args))
    generator = torch.Generator().manual_seed(3)
    cotangents = [
        torch.randn(
            y.shape, dtype=torch.promote_types(y.dtype, torch.float64), generator=generator
        ).to(y.dtype)
        for y in outputs
    ]
    torch.autograd.backward(outputs, cotangents)
    leaves = differentiable_leaves(args)
    assert [leaf.grad.dtype for leaf in leaves] == [leaf.dtype for leaf in leaves]
    return as_real([leaf.grad for leaf in leaves]), as_real(cotangents)


def assert_gradient(scenario: Scenario, f: Any, order: float, loss: float = 1.0) -> None:
    """Compare with Jᵀc: each slope may err by `tolerance`·max|J|, and c adds up m of them."""
    gradient, cotangent = backward(f, scenario)
    jacobian = scenario.jacobian(*scenario.args)
    bound = loss * scenario.tolerance(order) * jacobian.abs().max() * cotangent.abs().sum()
    error = (gradient - jacobian.T @ cotangent).abs().max()
    assert error <= bound, f"error {error:.2e}, bound {bound:.2e}"


def wrap(scenario: Scenario, method: Any, **options: Any) -> Any:
    return differentiable(
        scenario.fn, method=method, interface=scenario.interface, dtype=scenario.dtype, **options
    )


@pytest.mark.parametrize(("scenario", "case"), LAWFUL)
def test_gradient_and_its_cost(scenario: Scenario, case: Case) -> None:
    f = wrap(scenario, case.method(scenario))
    assert_gradient(scenario, f, case.order, case.loss(scenario))
    assert f.evaluations == 1 + case.evaluations * scenario.size + case.once
    backward(f, scenario)
    assert f.evaluations == 2 + 2 * case.evaluations * scenario.size + case.once


@pytest.mark.parametrize(
    "scenario",
    [scenario for scenario in SCENARIOS if scenario.batch_dims is not None],
    ids=lambda scenario: scenario.name,
)
@pytest.mark.parametrize("name", ["forward", "central", "richardson2", "complex"])
def test_batch_costs_its_columns(scenario: Scenario, name: str) -> None:
    """The columns of one row, the shared inputs, and once one evaluation to check the claim."""
    case = CASES[name]
    columns = sum(
        leaf.numel() if dim is None else leaf.numel() // leaf.shape[dim]
        for leaf, dim in zip(scenario.args, scenario.batch_dims, strict=True)
    )
    assert columns < scenario.size
    f = wrap(scenario, case.method(scenario), batch_dims=scenario.batch_dims)
    assert_gradient(scenario, f, case.order)
    assert f.evaluations == 1 + case.evaluations * columns + case.once + 1


@each_scenario
def test_each_evaluation_is_one_call(scenario: Scenario) -> None:
    calls = []

    @functools.wraps(scenario.fn, updated=())
    def counted(*args: Any) -> Any:
        calls.append(args)
        return scenario.fn(*args)

    f = wrap(dataclasses.replace(scenario, fn=counted), FiniteDifference(stencils.CENTRAL))
    backward(f, scenario)
    assert len(calls) == f.evaluations == 1 + 2 * scenario.size


@each_scenario
def test_value_is_the_value_of_the_function(scenario: Scenario) -> None:
    inside = {torch.float64: torch.float64, None: torch.float32}[scenario.dtype]

    def passed(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        leaf = leaf.to(inside) if leaf.is_floating_point() else leaf
        return leaf.numpy().copy() if scenario.interface == "numpy" else leaf

    expected = scenario.fn(*tree_map(passed, scenario.args))
    actual = wrap(scenario, FiniteDifference())(*wanting(scenario))
    assert tree_flatten(actual)[1] == tree_flatten(expected)[1]
    for new, old in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        if isinstance(old, str | None):
            assert new == old
        else:
            promoted = torch.complex128 if new.is_complex() else inside
            old = torch.as_tensor(old, dtype=promoted)
            torch.testing.assert_close(new, old, rtol=0, atol=0, check_dtype=True)


def exact_rule(scenario: Scenario) -> CustomVJP:
    """Make a rule from the exact Jacobian, in the interface of the function."""

    def as_tensors(tree: Any) -> Any:
        return tree_map(
            lambda leaf: torch.as_tensor(leaf) if hasattr(leaf, "dtype") else leaf, tree
        )

    def spread(vector: Tensor, like: Any) -> Any:
        """Cut a real vector to the shapes of the differentiable leaves of `like`."""
        leaves, spec = tree_flatten(like)
        parts: list[Any] = []
        for leaf in leaves:
            if not differentiable_leaves(as_tensors(leaf)):
                parts.append(None)
                continue
            leaf = torch.as_tensor(leaf)
            part = vector[: leaf.numel() * (2 if leaf.is_complex() else 1)]
            vector = vector[len(part) :]
            if leaf.is_complex():
                part = torch.view_as_complex(part.reshape(-1, 2))
            part = part.reshape(leaf.shape)
            parts.append(part.numpy() if scenario.interface == "numpy" else part)
        return tree_unflatten(parts, spec)

    def vjp(args: Any, output: Any, cotangent: Any) -> Any:
        jacobian = scenario.jacobian(*as_tensors(args))
        return spread(jacobian.T @ as_real(as_tensors(cotangent)), args)

    def jvp(args: Any, output: Any, tangents: Any) -> Any:
        jacobian = scenario.jacobian(*as_tensors(args))
        return spread(jacobian @ as_real(as_tensors(tangents)), output)

    return CustomVJP(vjp, jvp)


@each_scenario
def test_rule_from_the_exact_jacobian(scenario: Scenario) -> None:
    f = wrap(scenario, exact_rule(scenario))
    assert_gradient(scenario, f, math.inf)
    assert f.evaluations == 1


@each_scenario
def test_tangent_of_the_exact_rule_and_of_a_central_difference(scenario: Scenario) -> None:
    jacobian = scenario.jacobian(*scenario.args)
    generator = torch.Generator().manual_seed(8)
    primals = differentiable_leaves(scenario.args)
    tangents = [
        torch.randn(
            x.shape, dtype=torch.promote_types(x.dtype, torch.float64), generator=generator
        ).to(x.dtype)
        for x in primals
    ]
    expected = jacobian @ as_real(tangents)
    for method, order in ((exact_rule(scenario), math.inf), (CASES["central"].method(scenario), 2)):
        f = wrap(scenario, method)

        def of_leaves(*leaves: Tensor, f: Any = f) -> list[Tensor]:
            new = dict(zip(map(id, primals), leaves, strict=True))
            return differentiable_leaves(f(*tree_map(lambda x: new.get(id(x), x), scenario.args)))

        _, actual = torch.func.jvp(of_leaves, tuple(primals), tuple(tangents))
        bound = scenario.tolerance(order) * jacobian.abs().max() * as_real(tangents).abs().sum()
        assert (as_real(actual) - expected).abs().max() <= bound
        assert f.evaluations == 1 + (0 if math.isinf(order) else 2)


@pytest.mark.parametrize(
    "scenario",
    [scenario for scenario in SCENARIOS if scenario.pattern is not None],
    ids=lambda scenario: scenario.name,
)
def test_pattern_covers_the_exact_jacobian(scenario: Scenario) -> None:
    jacobian = scenario.jacobian(*scenario.args)
    assert jacobian.shape == scenario.pattern.shape
    assert torch.equal(jacobian != 0, (jacobian != 0) & scenario.pattern)
