"""Stencils are numbers: moments, order, error estimate; and what they are as objects."""

import copy
import dataclasses
import itertools
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest

import suture
from suture import Stencil, stencils
from suture.stencils import BACKWARD, CENTRAL, COMPLEX_STEP, FORWARD, ONE_POINT

CENTRALS = {f"central({order})": stencils.central(order) for order in (2, 4, 6, 8)}
RICHARDSONS = {f"richardson({levels})": stencils.richardson(levels) for levels in (1, 2, 3, 4)}
NESTED = {**CENTRALS, **RICHARDSONS}
CONSISTENT = {
    "FORWARD": FORWARD,
    "BACKWARD": BACKWARD,
    "CENTRAL": CENTRAL,
    "COMPLEX_STEP": COMPLEX_STEP,
    **NESTED,
}
ALL = {**CONSISTENT, "ONE_POINT": ONE_POINT}


def each(table):
    return pytest.mark.parametrize("stencil", table.values(), ids=table.keys())


def moment(stencil, power, weights=None):
    """Return Re Σ w t^power, rounded once."""
    pairs = zip(weights or stencil.weights, stencil.nodes, strict=True)
    return math.fsum((complex(w) * complex(t) ** power).real for w, t in pairs)


def slope(stencil, f, x, step, weights=None):
    pairs = zip(weights or stencil.weights, stencil.nodes, strict=True)
    return math.fsum((w * f(x + step * t)).real for w, t in pairs) / step


# Moments: what a rule does to polynomials, whatever the function is.


@each(CONSISTENT)
def test_constants_have_slope_zero(stencil):
    assert moment(stencil, 0) == pytest.approx(0, abs=1e-15)
    assert stencil.consistent


def test_one_point_keeps_the_constant():
    assert moment(ONE_POINT, 0) == 1
    assert not ONE_POINT.consistent


@each(ALL)
def test_linear_functions_are_exact(stencil):
    assert moment(stencil, 1) == pytest.approx(1, abs=1e-14)


@each(CONSISTENT)
def test_moments_vanish_up_to_the_order_and_no_further(stencil):
    for power in range(2, stencil.order + 1):
        assert moment(stencil, power) == pytest.approx(0, abs=1e-13)
    # The smallest of them is that of richardson(4): the product of all squared arms, 2^-12.
    assert abs(moment(stencil, stencil.order + 1)) > 1e-4


@each(NESTED)
def test_nodes_are_symmetric_and_weights_antisymmetric(stencil):
    assert stencil.nodes == tuple(sorted(stencil.nodes))
    assert stencil.nodes == tuple(-t for t in reversed(stencil.nodes))
    assert stencil.weights == tuple(-w for w in reversed(stencil.weights))
    assert 0 not in stencil.nodes


def test_forward_and_backward_mirror_each_other():
    assert tuple(-t for t in reversed(FORWARD.nodes)) == BACKWARD.nodes
    assert tuple(-w for w in reversed(FORWARD.weights)) == BACKWARD.weights


# Tables. Central ones: Fornberg (1988), Mathematics of Computation 51, table 1; the others are
# the definitions, and Richardson's (4 D(h/2) - D(h)) / 3.

TABLES = [
    ("FORWARD", 1, "0 1", "-1 1"),
    ("BACKWARD", 1, "-1 0", "-1 1"),
    ("CENTRAL", 2, "-1 1", "-1/2 1/2"),
    ("ONE_POINT", 0, "1", "1"),
    ("central(4)", 4, "-2 -1 1 2", "1/12 -2/3 2/3 -1/12"),
    ("central(6)", 6, "-3 -2 -1 1 2 3", "-1/60 3/20 -3/4 3/4 -3/20 1/60"),
    (
        "central(8)",
        8,
        "-4 -3 -2 -1 1 2 3 4",
        "1/280 -4/105 1/5 -4/5 4/5 -1/5 4/105 -1/280",
    ),
    ("richardson(1)", 2, "-1 1", "-1/2 1/2"),
    ("richardson(2)", 4, "-1 -1/2 1/2 1", "1/6 -4/3 4/3 -1/6"),
]


@pytest.mark.parametrize(("name", "order", "nodes", "weights"), TABLES)
def test_known_tables(name, order, nodes, weights):
    stencil = ALL[name]
    assert stencil.order == order
    assert stencil.nodes == tuple(float(Fraction(t)) for t in nodes.split())
    exact = [float(Fraction(w)) for w in weights.split()]
    assert stencil.weights == pytest.approx(exact, rel=4e-16)


def test_the_complex_step_reads_the_imaginary_part():
    assert (COMPLEX_STEP.nodes, COMPLEX_STEP.weights, COMPLEX_STEP.order) == ((1j,), (-1j,), 2)


def test_central_is_central_of_order_two():
    assert stencils.central(2) == CENTRAL


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_richardson_is_the_extrapolation_tableau(levels):
    """Neville's scheme in h²: D ← D(h/2) + (D(h/2) - D(h)) / (4^j - 1)."""
    column = [slope(CENTRAL, math.exp, 0.3, 0.8 / 2**i) for i in range(levels)]
    for j in range(1, levels):
        column = [
            fine + (fine - coarse) / (4**j - 1) for coarse, fine in itertools.pairwise(column)
        ]
    found = slope(stencils.richardson(levels), math.exp, 0.3, 0.8)
    assert found == pytest.approx(column[0], rel=1e-14)


# Order of accuracy, by halving the step.

# Steps at which truncation is far above rounding, also after halving.
HALVED = {
    "FORWARD": 1e-3,
    "BACKWARD": 1e-3,
    "CENTRAL": 1e-2,
    "COMPLEX_STEP": 1e-2,
    "central(2)": 1e-2,
    "central(4)": 0.1,
    "central(6)": 0.2,
    "central(8)": 0.4,
    "richardson(1)": 1e-2,
    "richardson(2)": 0.1,
    "richardson(3)": 0.4,
    "richardson(4)": 1.0,
}


@pytest.mark.parametrize("name", CONSISTENT)
def test_error_falls_as_the_order_says(name):
    stencil, step = CONSISTENT[name], HALVED[name]
    f = np.exp if stencil.is_complex else math.exp
    coarse, fine = (slope(stencil, f, 0.3, h) - math.exp(0.3) for h in (step, step / 2))
    assert abs(fine) > 1e-13
    assert math.log2(coarse / fine) == pytest.approx(stencil.order, abs=0.05)


def test_complex_step_is_exact_to_rounding():
    assert slope(COMPLEX_STEP, np.exp, 0.3, 2.0**-100) == pytest.approx(math.exp(0.3), rel=2e-16)


# The estimate of the error.


@pytest.mark.parametrize(
    "stencil",
    [FORWARD, BACKWARD, CENTRAL, COMPLEX_STEP, ONE_POINT, stencils.richardson(1)],
    ids=repr,
)
def test_the_shortest_rules_estimate_no_error(stencil):
    assert stencil.error_weights is None


LONGER = {name: stencil for name, stencil in NESTED.items() if stencil.order > 2}


@each(LONGER)
def test_error_weights_see_neither_constants_nor_lines(stencil):
    for power in range(stencil.order - 1):
        assert moment(stencil, power, stencil.error_weights) == pytest.approx(0, abs=1e-13)
    assert abs(moment(stencil, stencil.order - 1, stencil.error_weights)) > 1e-4


@pytest.mark.parametrize("name", LONGER)
@pytest.mark.parametrize("x", [-1.0, 0.3])
def test_error_weights_bound_the_error_from_the_same_evaluations(name, x):
    """They give the difference from the rule one shorter, whose error is the larger one."""
    stencil, step = LONGER[name], HALVED[name]
    arm = 1 if name.startswith("central") else 0.5
    shorter = (
        stencils.central(stencil.order - 2)
        if name.startswith("central")
        else stencils.richardson(stencil.order // 2 - 1)
    )
    estimate = slope(stencil, math.exp, x, step, stencil.error_weights)
    error = slope(stencil, math.exp, x, step) - math.exp(x)
    larger = slope(shorter, math.exp, x, arm * step) - math.exp(x)
    assert abs(error) < abs(estimate)
    assert estimate == pytest.approx(error - larger, rel=1e-6)
    assert estimate == pytest.approx(-larger, rel=0.1)


@pytest.mark.parametrize("name", LONGER)
def test_error_estimate_falls_two_orders_slower(name):
    stencil, step = LONGER[name], HALVED[name]
    coarse, fine = (
        slope(stencil, math.exp, 0.3, h, stencil.error_weights) for h in (step, step / 2)
    )
    assert math.log2(coarse / fine) == pytest.approx(stencil.order - 2, abs=0.1)


# What the methods read.


@pytest.mark.parametrize("name", ALL)
def test_moved_nodes_leave_out_the_forward_pass(name):
    stencil = ALL[name]
    pairs = [(t, w) for t, w in zip(stencil.nodes, stencil.weights, strict=True) if t != 0]
    assert stencil.moved_nodes.tolist() == [t for t, _ in pairs]
    assert stencil.moved_weights.tolist() == [w for _, w in pairs]
    assert stencil.base_weight == {"FORWARD": -1, "BACKWARD": 1}.get(name, 0)
    assert stencil.is_complex == (name == "COMPLEX_STEP")


def test_a_rule_of_ones_own():
    """One-sided, second order: -3/2, 2, -1/2."""
    rule = Stencil((0, 1, 2), (-1.5, 2, -0.5), order=2)
    assert rule.consistent
    assert rule.base_weight == -1.5
    coarse, fine = (slope(rule, math.exp, 0.3, h) - math.exp(0.3) for h in (1e-2, 5e-3))
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.05)


def test_lists_become_tuples():
    rule = Stencil([0, 1], [-1, 1], order=1)
    assert rule == FORWARD
    assert hash(rule) == hash(FORWARD)
    assert Stencil([-1, 1], [-0.5, 0.5], 2, error_weights=[0, 0]).error_weights == (0, 0)


def test_weights_may_be_off_by_rounding_only():
    third = 1 / 3
    assert Stencil((-1.5, 1.5), (-third, third), order=2).consistent
    with pytest.raises(suture.errors.MethodError):
        Stencil((-1.5, 1.5), (-0.3333, 0.3333), order=2)


# Stencils as objects.


def test_repr_can_be_typed():
    assert (
        repr(FORWARD)
        == "Stencil(nodes=(0, 1), weights=(-1, 1), order=1, error_weights=None, absolute=False)"
    )
    for stencil in ALL.values():
        assert eval(repr(stencil)) == stencil


def test_equal_numbers_are_equal_stencils():
    again = Stencil(nodes=(0, 1), weights=(-1, 1), order=1)
    again.moved_nodes.sum()  # what is derived and kept does not count
    assert again == FORWARD
    assert hash(again) == hash(FORWARD)
    assert {again: "kept"}[FORWARD] == "kept"
    distinct = [FORWARD, BACKWARD, CENTRAL, COMPLEX_STEP, ONE_POINT, *LONGER.values()]
    assert len(set(distinct)) == len(distinct)


@each(ALL)
def test_stencils_survive_copies(stencil):
    for again in (
        copy.copy(stencil),
        copy.deepcopy(stencil),
        pickle.loads(pickle.dumps(stencil)),
        dataclasses.replace(stencil),
    ):
        assert again == stencil
        assert again.moved_weights.tolist() == stencil.moved_weights.tolist()


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Stencil)])
def test_stencils_are_frozen(field):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(CENTRAL, field, None)


def test_the_constants_have_names():
    names = {"BACKWARD", "CENTRAL", "COMPLEX_STEP", "FORWARD", "ONE_POINT"}
    assert {name for name in stencils.__all__ if name.isupper()} == names
    assert all(isinstance(getattr(stencils, name), Stencil) for name in names)
