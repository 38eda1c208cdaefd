"""Methods are generators: each is fed numbers here, and no black box is called.

A primal has R rows of d inputs and p shared inputs; what stands for the black box is arithmetic
on the points that a method yields, mostly an affine map with known derivatives.
"""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suture import AbstractMethod, CustomVJP, FiniteDifference, Stencil, directions, stencils
from suture._claims import check_complex, check_rows
from suture._methods import Linearization, Points, Primal, Room, contract, unit_length
from suture.errors import BadResult, MethodError, TransformError
from suture.stencils import BACKWARD, CENTRAL, COMPLEX_STEP, FORWARD, ONE_POINT

DOUBLE = 2.0**-52
REAL = [FORWARD, BACKWARD, CENTRAL, stencils.central(4), stencils.richardson(2)]
NODES = [*REAL, COMPLEX_STEP, Stencil((0, 1, 2), (-1.5, 2, -0.5), order=2)]

each_real = pytest.mark.parametrize("stencil", REAL, ids=lambda s: f"nodes {s.nodes}")
each_stencil = pytest.mark.parametrize("stencil", NODES, ids=lambda s: f"nodes {s.nodes}")


def numbers(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


def draw():
    return np.random.default_rng(7)


def everything(slopes):
    return slopes


def primal(rows, shared=(), *, value=None, outputs=1, scale=None, scale_shared=None, **changes):
    rows, shared = np.array(rows, dtype=float), np.array(shared, dtype=float)
    settings = {"noise": DOUBLE, "derivative": 1, "round": None, "capacity": 10**6, **changes}
    return Primal(
        rows=rows,
        shared=shared,
        value=None if value is None else np.array(value, dtype=float),
        outputs=outputs,
        scale_rows=np.ones_like(rows) if scale is None else np.array(scale, dtype=float),
        scale_shared=np.ones_like(shared) if scale_shared is None else np.array(scale_shared),
        **settings,
    )


def places(points, here):
    """Return rows (P, R, d) and shared (P, p), with the primal's where the points leave them."""
    rows = np.repeat(here.rows[None], len(points), 0) if points.rows is None else points.rows
    shared = points.shared
    return rows, np.repeat(here.shared[None], len(points), 0) if shared is None else shared


class Affine:
    """Values a_r + A_r x_r + B_r p of R rows with O outputs."""

    def __init__(self, r, d, p, o):
        self.by_rows, self.by_shared = numbers(r, o, d), numbers(r, o, p, seed=2)
        self.constant = numbers(r, o, seed=3)

    def __call__(self, rows, shared):
        return (
            self.constant
            + np.einsum("rod,prd->pro", self.by_rows, rows)
            + np.einsum("rod,pd->pro", self.by_shared, shared)
        )

    def primal(self, **changes):
        r, o, d = self.by_rows.shape
        x = primal(numbers(r, d, seed=4), numbers(self.by_shared.shape[2], seed=5))
        value = self(x.rows[None], x.shared[None])[0]
        return dataclasses.replace(x, value=value, outputs=o, **changes)

    def gradients(self, cotangents):
        return (
            np.einsum("rod,cro->crd", self.by_rows, cotangents),
            np.einsum("rod,cro->cd", self.by_shared, cotangents),
        )

    def pushed(self, rows, shared):
        return np.einsum("rod,trd->tro", self.by_rows, rows) + np.einsum(
            "rod,td->tro", self.by_shared, shared
        )


def feed(generator, here, values):
    """Send a generator its values; return what it returns, and all points that it yielded.

    Args:
        generator: of a method or of a check.
        here: its primal.
        values: from rows (P, R, d) and shared (P, p) to values (P, R, O); or a list of them.
    """
    rounds, reply = [], None
    given = iter(values) if isinstance(values, list) else None
    try:
        while True:
            points = generator.send(reply)
            rounds.append(points)
            came = np.asarray(next(given) if given else values(*places(points, here)))
            # What an evaluation sends: float64 or complex128, and free to be overwritten.
            reply = np.array(came, dtype=np.result_type(came, float))
    except StopIteration as stop:
        return stop.value, rounds


def linearize(method, here, values, keep=everything):
    return feed(method.linearize(here, keep, draw), here, values)


def push(method, here, values, rows, shared):
    return feed(method.push(here, np.array(rows), np.array(shared)), here, values)


# ------------------------------------------------------------------------------------------------
# Points: places, count, order
# ------------------------------------------------------------------------------------------------


def test_forward_displaces_one_input_at_a_time():
    x = primal([[1.0, 2.0]], value=[[0.0]], scale=[[1.0, 4.0]])
    _, (points,) = linearize(FiniteDifference(FORWARD), x, [np.zeros((2, 1, 1))])
    h = 2.0**-26
    assert points.rows.tolist() == [[[1 + h, 2.0]], [[1.0, 2 + 4 * h]]]
    assert points.shared is None


def test_nodes_of_one_direction_stand_together():
    x = primal([[1.0, 2.0]])
    method = FiniteDifference(stencils.central(4), step=0.5)
    _, (points,) = linearize(method, x, [np.zeros((8, 1, 1))])
    assert points.rows[:, 0, 0].tolist() == [0.0, 0.5, 1.5, 2.0, 1.0, 1.0, 1.0, 1.0]
    assert points.rows[:, 0, 1].tolist() == [2.0, 2.0, 2.0, 2.0, 1.0, 1.5, 2.5, 3.0]


def test_all_rows_are_displaced_at_once_by_their_own_scale():
    x = primal([[1.0, 2.0], [3.0, 4.0]], value=[[0.0], [0.0]], scale=[[1.0, 2.0], [4.0, 8.0]])
    _, (points,) = linearize(FiniteDifference(step=0.5), x, [np.zeros((2, 2, 1))])
    assert points.rows.tolist() == [[[1.5, 2.0], [5.0, 4.0]], [[1.0, 3.0], [3.0, 8.0]]]


def test_shared_inputs_are_displaced_by_themselves():
    x = primal([[], []], [1.0, 2.0], value=[[0.0], [0.0]], scale_shared=[1.0, 2.0])
    _, (points,) = linearize(FiniteDifference(BACKWARD, step=0.5), x, [np.zeros((2, 2, 1))])
    assert points.rows is None
    assert points.shared.tolist() == [[0.5, 2.0], [1.0, 1.0]]


def test_rows_come_before_shared_inputs():
    x = primal([[1.0]], [2.0, 3.0], value=[[0.0]])
    replies = [np.zeros((1, 1, 1)), np.zeros((2, 1, 1))]
    _, (first, second) = linearize(FiniteDifference(step=0.5), x, replies)
    assert (first.rows.tolist(), first.shared) == ([[[1.5]]], None)
    assert (second.rows, second.shared.tolist()) == (None, [[2.5, 3.0], [2.0, 3.5]])


def test_complex_step_displaces_the_imaginary_part_alone():
    x = primal([[1.0, -3.0]], scale=[[1.0, 8.0]])
    _, (points,) = linearize(FiniteDifference(COMPLEX_STEP), x, [np.zeros((2, 1, 1), complex)])
    assert points.rows.dtype == np.complex128
    np.testing.assert_array_equal(points.rows.real, np.repeat(x.rows[None], 2, axis=0))
    np.testing.assert_array_equal(points.rows.imag[:, 0], 2.0**-100 * np.diag([1.0, 8.0]))


@pytest.mark.parametrize(
    "kind", [directions.Gaussian, directions.Rademacher, directions.Orthogonal]
)
def test_random_directions_displace_everything_at_once(kind):
    x = primal([[1.0], [2.0]], [3.0], scale=[[1.0], [4.0]], scale_shared=[2.0])
    method = FiniteDifference(CENTRAL, kind(3), step=0.5)
    _, (points,) = linearize(method, x, [np.zeros((6, 2, 1))])
    seeds = kind(3).sample(2, draw)
    for k, (by_row, by_shared) in enumerate(seeds):
        for s, node in enumerate([-1, 1]):
            expected = [[1 + 0.5 * node * by_row], [2 + 0.5 * node * by_row * 4]]
            np.testing.assert_allclose(points.rows[2 * k + s], expected, rtol=1e-15)
            move = 0.5 * node * by_shared * 2
            np.testing.assert_allclose(points.shared[2 * k + s], [3 + move], rtol=1e-15)


@each_stencil
@pytest.mark.parametrize("chosen", [directions.Coordinate(), directions.Orthogonal(5)])
@pytest.mark.parametrize(("r", "d", "p", "o"), [(1, 5, 0, 2), (3, 0, 5, 1), (2, 3, 2, 3)])
@pytest.mark.parametrize("per_block", [1, 2, 100])
def test_blocks_fit_the_room(stencil, chosen, r, d, p, o, per_block):
    """Blocks hold what there is room for; cut otherwise, all points and slopes are the same."""
    affine = Affine(r, d, p, o)
    nodes = len(stencil.moved_nodes)
    room = per_block * nodes * (r * d + p + r * o)
    method = FiniteDifference(stencil, chosen)
    whole, one = linearize(method, affine.primal(), affine)
    cut, many = linearize(method, affine.primal(capacity=room), affine)
    assert max(len(points) for points in many) <= per_block * nodes
    assert sum(len(points) for points in many) == nodes * (d + p)
    mixed = isinstance(chosen, directions.Coordinate) and bool(d and p)
    assert len(one) == (2 if mixed else 1)
    if per_block == 1:
        assert len(many) == d + p
    here = affine.primal()
    for part in (0, 1):
        joined = [np.concatenate([places(q, here)[part] for q in each]) for each in (one, many)]
        np.testing.assert_array_equal(*joined)
    np.testing.assert_allclose(whole.kept, cut.kept, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(whole.seeds, cut.seeds, rtol=1e-12)


def test_no_room_at_all_still_moves_on():
    affine = Affine(1, 3, 0, 2)
    _, rounds = linearize(FiniteDifference(FORWARD), affine.primal(capacity=1), affine)
    assert [len(points) for points in rounds] == [1, 1, 1]


# ------------------------------------------------------------------------------------------------
# Slopes: what comes back for given values
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stencil", "value", "values", "slopes"),
    [
        (FORWARD, 10, [11, 14], [2, 8]),
        (BACKWARD, 10, [11, 14], [-2, -8]),
        (CENTRAL, None, [11, 14, 1, 3], [3, 2]),
        (CENTRAL, 10, [11, 14, 1, 3], [3, 2]),
        (stencils.central(4), None, [12, 3, 3, 12, 0, 1, 2, 3], [0, 5 / 6]),
        (Stencil((0, 1, 2), (-1.5, 2, -0.5), 2), 10, [11, 12, 13, 14], [2, 8]),
        (COMPLEX_STEP, 10, [11 + 2j, 14 - 4j], [4, -8]),
    ],
)
def test_slopes_of_given_values(stencil, value, values, slopes):
    x = primal([[1.0, 2.0]], value=None if value is None else [[value]])
    reply = np.array(values).reshape(-1, 1, 1)
    found, _ = linearize(FiniteDifference(stencil, step=0.5), x, [reply])
    assert found.kept.ravel().tolist() == pytest.approx(slopes, rel=1e-15)


def test_score_estimates_weigh_the_value_itself():
    x = primal([[1.0, 2.0]])
    method = FiniteDifference(ONE_POINT, directions.Gaussian(2), step=0.5)
    found, _ = linearize(method, x, [[[[3.0]], [[5.0]]]])
    seeds = directions.Gaussian(2).sample(2, draw)
    rows, _ = found.contracted(np.ones((1, 1, 1))).gradients(2)
    # What the divisor sees is the displacement after rounding, here that of double precision.
    np.testing.assert_allclose(rows[0, 0], (3 * seeds[0] + 5 * seeds[1]) / 2 / 0.5, rtol=1e-14)


@each_stencil
@pytest.mark.parametrize(
    ("r", "d", "p", "o"), [(1, 4, 0, 3), (3, 2, 0, 2), (3, 0, 2, 2), (3, 2, 2, 1)]
)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_affine_maps_are_exact(stencil, r, d, p, o, scale):
    """Each row by its own inputs; by shared ones, the sum over the rows."""
    affine = Affine(r, d, p, o)
    x = affine.primal(scale_rows=np.full((r, d), scale), scale_shared=np.full(p, scale / 2))
    step = 1e-100 if stencil.is_complex else 0.3
    found, _ = linearize(FiniteDifference(stencil, step=step), x, affine)
    cotangents = numbers(2, r, o, seed=6)
    gradients = found.contracted(cotangents).gradients(d)
    for actual, expected in zip(gradients, affine.gradients(cotangents), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10 / min(scale, 1))


@pytest.mark.parametrize("scale", [1.0, 0.25, 8.0])
def test_scale_is_what_a_step_means(scale):
    """A forward difference of x² has the error h·scale, to the last digit for these numbers."""
    x = primal([[1.0]], value=[[1.0]], scale=[[scale]])
    found, _ = linearize(FiniteDifference(step=0.5), x, lambda rows, _: rows**2)
    assert found.kept.item() == 2 + 0.5 * scale


def test_complex_step_is_exact_for_analytic_values():
    x = primal([[0.3, -1.2]])
    found, _ = linearize(FiniteDifference(COMPLEX_STEP), x, lambda rows, _: np.exp(rows))
    np.testing.assert_allclose(found.kept[:, 0], np.diag(np.exp([0.3, -1.2])), rtol=1e-15)


@each_real
def test_as_many_orthogonal_directions_as_inputs_are_exact(stencil):
    affine = Affine(2, 2, 1, 2)
    x = affine.primal(scale_rows=np.array([[1.0, 0.1], [3.0, 10.0]]), scale_shared=np.array([0.5]))
    method = FiniteDifference(stencil, directions.Orthogonal(3), step=0.1)
    found, _ = linearize(method, x, affine)
    cotangents = numbers(1, 2, 2, seed=6)
    gradients = found.contracted(cotangents).gradients(2)
    for actual, expected in zip(gradients, affine.gradients(cotangents), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-10)


@pytest.mark.parametrize("recovery", ["mean", "least_squares"])
def test_fewer_directions_are_pulled_back_in_units_of_the_displacement(recovery):
    affine = Affine(1, 3, 1, 1)
    units = np.array([2.0, 0.5, 4.0, 8.0])
    x = affine.primal(scale_rows=units[None, :3], scale_shared=units[3:])
    chosen = directions.Rademacher(2, recovery)
    found, _ = linearize(FiniteDifference(CENTRAL, chosen, step=1.0), x, affine)
    gradient = np.concatenate([affine.by_rows[0, 0], affine.by_shared[0, 0]])
    seeds = chosen.sample(4, draw)
    expected = chosen.pullback(seeds, seeds @ (gradient * units)) / units
    rows, shared = found.contracted(np.ones((1, 1, 1))).gradients(3)
    np.testing.assert_allclose(np.concatenate([rows[0, 0], shared[0]]), expected, rtol=1e-10)


def test_what_is_kept_is_contracted_block_by_block():
    affine = Affine(2, 3, 1, 2)
    cotangents = numbers(4, 2, 2, seed=6)
    sizes = []

    def keep(slopes):
        sizes.append(len(slopes))
        return contract(slopes, cotangents)

    whole, _ = linearize(FiniteDifference(), affine.primal(), affine)
    kept, _ = linearize(FiniteDifference(), affine.primal(capacity=1), affine, keep)
    assert sizes == [1, 1, 1, 1]
    assert kept.kept.shape == (4, 4, 2)
    np.testing.assert_allclose(kept.kept, whole.contracted(cotangents).kept, rtol=1e-14)


# ------------------------------------------------------------------------------------------------
# Rounding: the displacement that was really taken
# ------------------------------------------------------------------------------------------------


def eighths(*arrays):
    """Round to multiples of 1/8, as an input of low precision does."""
    return tuple(None if array is None else np.round(array * 8) / 8 for array in arrays)


def test_points_are_rounded_and_the_quotient_knows():
    x = primal([[1.0, 2.0]], value=[[0.0]], round=eighths)
    found, (points,) = linearize(FiniteDifference(step=0.3), x, [[[[1.0]], [[2.0]]]])
    assert points.rows.tolist() == [[[1.25, 2.0]], [[1.0, 2.25]]]
    assert found.kept.ravel().tolist() == [4.0, 8.0]


@each_real
@pytest.mark.parametrize(("r", "d", "p"), [(1, 3, 0), (2, 2, 0), (2, 0, 2), (2, 2, 2)])
def test_affine_maps_are_exact_on_rounded_points(stencil, r, d, p):
    """Also where each row rounds its displacement in its own way."""
    affine = Affine(r, d, p, 2)
    x = affine.primal(round=eighths, scale_rows=1 + np.abs(numbers(r, d)))
    x = dataclasses.replace(x, rows=eighths(x.rows)[0], shared=eighths(x.shared)[0])
    x.value = affine(x.rows[None], x.shared[None])[0]
    found, _ = linearize(FiniteDifference(stencil, step=0.7), x, affine)
    cotangents = numbers(1, r, 2, seed=6)
    gradients = found.contracted(cotangents).gradients(d)
    for actual, expected in zip(gradients, affine.gradients(cotangents), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


def test_rounded_seeds_come_back_with_the_slopes():
    x = primal([[1.0, 2.0]], round=eighths)
    method = FiniteDifference(CENTRAL, directions.Rademacher(2), step=0.3)
    found, (points,) = linearize(method, x, [np.zeros((4, 1, 1))])
    np.testing.assert_array_equal(points.rows * 8, np.round(points.rows * 8))
    signs = directions.Rademacher(2).sample(2, draw)
    np.testing.assert_allclose(found.seeds, signs * 0.25 / 0.3, rtol=1e-15)


@pytest.mark.parametrize("part", ["rows", "shared"])
def test_a_displacement_that_is_lost_is_refused(part):
    x = primal([[1.0]], [1.0], value=[[0.0]], round=eighths)
    scales = {"scale_rows": np.array([[0.1]])} if part == "rows" else {"scale_shared": [0.1]}
    x = dataclasses.replace(x, **{name: np.array(scale) for name, scale in scales.items()})
    with pytest.raises(MethodError, match=r"A displacement of 0\.05 does not change an input\."):
        linearize(FiniteDifference(step=0.5), x, lambda rows, shared: rows + shared[:, None])


@pytest.mark.parametrize("r", [1, 2])
@pytest.mark.parametrize("stencil", [FORWARD, CENTRAL])
def test_random_directions_that_are_lost_are_refused(stencil, r):
    x = primal([[1.0, 1.0]] * r, value=[[0.0]] * r, round=eighths)
    method = FiniteDifference(stencil, directions.Rademacher(3), step=0.05)
    with pytest.raises(MethodError, match=r"A displacement of 0\.05 does not change an input\."):
        linearize(method, x, lambda rows, _: rows[..., :1])


LARGEST = np.finfo(float).max


@pytest.mark.parametrize("rows", [[[LARGEST]], [[LARGEST, 1.0]], [[1.0, -LARGEST]]])
@pytest.mark.parametrize("chosen", [directions.Coordinate(), directions.Rademacher(1)])
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_displacement_out_of_the_range_is_refused(rows, chosen):
    x = primal(rows, value=[[0.0]])
    x.scale_rows = np.abs(x.rows)
    method = FiniteDifference(CENTRAL, chosen, step=0.5)
    with pytest.raises(MethodError, match=r" leads out of the range of an input\."):
        linearize(method, x, lambda rows, _: np.exp(-np.abs(rows[..., :1]) / LARGEST))


@pytest.mark.parametrize("stencil", [FORWARD, CENTRAL])
def test_a_tangent_that_is_lost_is_refused(stencil):
    x = primal([[1.0, 1.0]], value=[[0.0]], round=eighths)
    method = FiniteDifference(stencil, step=0.05)
    with pytest.raises(MethodError, match=r"A displacement of 0\.05 does not change an input\."):
        push(method, x, lambda rows, _: rows[..., :1], [[[1.0, 1.0]]], np.zeros((1, 0)))


# ------------------------------------------------------------------------------------------------
# Inputs that are not numbers
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@each_stencil
def test_what_is_not_a_number_has_slope_zero_where_nobody_reads_it(bad, stencil):
    x = primal([[3.0, bad]], value=[[9.0]])

    def values(rows, _):
        assert all(np.isnan(v) or np.isinf(v) for v in rows[:, 0, 1].real)
        return rows[:, :, :1] ** 2

    found, _ = linearize(FiniteDifference(stencil), x, values)
    assert found.kept.ravel().tolist() == pytest.approx([6, 0], rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_random_directions_pass_over_what_is_not_a_number(bad):
    x = primal([[3.0, bad]])
    method = FiniteDifference(CENTRAL, directions.Orthogonal(2))
    found, _ = linearize(method, x, lambda rows, _: rows[:, :, :1] ** 2)
    rows, _ = found.contracted(np.ones((1, 1, 1))).gradients(2)
    assert rows.ravel().tolist() == pytest.approx([6, 0], rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_tangents_pass_over_what_is_not_a_number(bad):
    x = primal([[3.0, bad]], value=[[9.0]])
    tangent = [[[1.0, 1.0]]]
    pushed, _ = push(
        FiniteDifference(), x, lambda rows, _: rows[:, :, :1] ** 2, tangent, np.zeros((1, 0))
    )
    assert pushed.item() == pytest.approx(6, rel=1e-6)


# ------------------------------------------------------------------------------------------------
# Steps
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "changes", "step"),
    [
        (FiniteDifference(FORWARD), {}, 2.0**-26),
        (FiniteDifference(CENTRAL), {}, 2.0 ** (-52 / 3)),
        (FiniteDifference(CENTRAL), {"noise": 1e-6}, 1e-2),
        (FiniteDifference(FORWARD, noise=1e-6), {"noise": 1e-4}, 1e-2),
        (FiniteDifference(step=0.5), {"noise": 1e-4}, 0.5),
        (FiniteDifference(step=0.5), {"derivative": 2}, 0.5),
        (FiniteDifference(FORWARD), {"derivative": 2}, 2.0 ** (-52 / 2.5)),
        (FiniteDifference(), {"derivative": 2}, 2.0**-13),
        (FiniteDifference(CENTRAL), {"derivative": 2}, 2.0**-13),
    ],
)
def test_step_of_a_linearization_and_of_a_pushforward(method, changes, step):
    """The primal's noise is the largest of all that is known: the method's is one of them."""
    x = primal([[0.0]], value=[[0.0]], **changes)
    _, (points,) = linearize(method, x, lambda rows, _: rows)
    assert points.rows[-1].item() == pytest.approx(step, rel=1e-14)
    _, (points,) = push(method, x, lambda rows, _: rows, [[[3.0]]], np.zeros((1, 0)))
    assert points.rows[-1].item() == pytest.approx(step, rel=1e-14)


@pytest.mark.parametrize("stencil", [FORWARD, CENTRAL, COMPLEX_STEP])
def test_outer_step_is_that_of_second_derivatives(stencil):
    noise = 1e-12
    if stencil is COMPLEX_STEP:
        expected = noise ** (1 / 3)
    else:
        inner = noise ** (1 / (1.5 * stencil.order + 1))
        expected = (noise / inner) ** (1 / 3)
    assert FiniteDifference(stencil).outer_step(noise) == pytest.approx(expected, rel=1e-14)


# ------------------------------------------------------------------------------------------------
# Pushforwards
# ------------------------------------------------------------------------------------------------


@each_stencil
@pytest.mark.parametrize(("r", "d", "p"), [(1, 3, 0), (2, 3, 0), (2, 0, 3), (2, 2, 2)])
@pytest.mark.parametrize("tangents", [1, 2, 5])
def test_pushforward_of_affine_maps(stencil, r, d, p, tangents):
    affine = Affine(r, d, p, 2)
    rows, shared = numbers(tangents, r, d, seed=6), numbers(tangents, p, seed=7)
    pushed, rounds = push(FiniteDifference(stencil), affine.primal(), affine, rows, shared)
    np.testing.assert_allclose(pushed, affine.pushed(rows, shared), rtol=1e-5, atol=1e-6)
    # More tangents than inputs are made of the slopes by all inputs.
    cost = min(tangents, d + p) * len(stencil.moved_nodes)
    assert sum(len(points) for points in rounds) == cost


def test_a_tangent_is_displaced_by_one_step():
    """Along v by h v / ‖v / scale‖."""
    x = primal([[1.0, 2.0]], value=[[0.0]], scale=[[1.0, 4.0]])
    method = FiniteDifference(CENTRAL, step=0.5)
    pushed, (points,) = push(method, x, [[[[-1.0]], [[1.0]]]], [[[3.0, 16.0]]], np.zeros((1, 0)))
    # ‖(3, 16/4)‖ = 5, so one step is 0.1 v.
    np.testing.assert_allclose(points.rows[:, 0], [[0.7, 0.4], [1.3, 3.6]], rtol=1e-15)
    assert pushed.item() == pytest.approx(2 / 2 / 0.1, rel=1e-15)


def test_rows_have_their_own_length_unless_a_shared_input_moves():
    x = primal([[0.0], [0.0]], [0.0], value=[[0.0], [0.0]])
    method = FiniteDifference(step=0.5)
    zeros = np.zeros((1, 2, 1))
    _, (points,) = push(method, x, [zeros], [[[1.0], [100.0]]], [[0.0]])
    assert places(points, x)[0].ravel().tolist() == [0.5, 0.5]
    _, (points,) = push(method, x, [zeros], [[[0.0], [4.0]]], [[3.0]])
    assert places(points, x)[0].ravel().tolist() == pytest.approx([0.0, 0.4])
    assert points.shared.ravel().tolist() == pytest.approx([0.3])


@pytest.mark.parametrize("length", [1e-300, 1e-200, 1.0, 1e200, 1e300])
def test_length_of_a_tangent_is_no_matter(length):
    affine = Affine(2, 3, 1, 2)
    rows, shared = length * numbers(1, 2, 3, seed=6), length * numbers(1, 1, seed=7)
    pushed, _ = push(FiniteDifference(CENTRAL), affine.primal(), affine, rows, shared)
    expected = length * affine.pushed(rows / length, shared / length)
    np.testing.assert_allclose(pushed, expected, rtol=1e-6)


def test_zero_tangents_cost_nothing():
    affine = Affine(1, 3, 0, 2)
    rows = np.zeros((4, 1, 3))
    pushed, rounds = push(
        FiniteDifference(FORWARD), affine.primal(), affine, rows, np.zeros((4, 0))
    )
    assert rounds == []
    assert pushed.tolist() == np.zeros((4, 1, 2)).tolist()
    rows[2] = 1.0
    pushed, (points,) = push(
        FiniteDifference(FORWARD), affine.primal(), affine, rows, np.zeros((4, 0))
    )
    assert len(points) == 1
    np.testing.assert_allclose(pushed, affine.pushed(rows, np.zeros((4, 0))), rtol=1e-6)


def test_no_tangents():
    affine = Affine(1, 3, 0, 2)
    pushed, rounds = push(
        FiniteDifference(FORWARD), affine.primal(), affine, np.zeros((0, 1, 3)), np.zeros((0, 0))
    )
    assert (pushed.shape, rounds) == ((0, 1, 2), [])


def test_tangents_are_cut_into_blocks_that_fit():
    affine = Affine(1, 4, 0, 2)
    rows = numbers(3, 1, 4, seed=6)
    x = affine.primal(capacity=2 * 2 * (4 + 2))
    pushed, rounds = push(FiniteDifference(CENTRAL), x, affine, rows, np.zeros((3, 0)))
    assert [len(points) for points in rounds] == [4, 2]
    np.testing.assert_allclose(pushed, affine.pushed(rows, np.zeros((3, 0))), rtol=1e-8)


def test_tangents_ignore_the_directions():
    affine = Affine(1, 3, 0, 1)
    rows = numbers(1, 1, 3, seed=6)
    found = [
        push(FiniteDifference(FORWARD, chosen), affine.primal(), affine, rows, np.zeros((1, 0)))[0]
        for chosen in (directions.Coordinate(), directions.Gaussian(1))
    ]
    np.testing.assert_array_equal(*found)


def test_pushforward_on_rounded_points():
    x = primal([[1.0, 2.0]], value=[[11.0]], round=eighths)
    method = FiniteDifference(step=0.3)
    values = lambda rows, _: rows @ np.array([[3.0], [4.0]])  # noqa: E731 - numbers, no black box
    pushed, (points,) = push(method, x, values, [[[1.0, 0.0]]], np.zeros((1, 0)))
    assert points.rows.ravel().tolist() == [1.25, 2.0]
    assert pushed.item() == pytest.approx(3.0, rel=1e-15)


def test_score_estimates_have_no_pushforward():
    method = FiniteDifference(ONE_POINT, directions.Gaussian(2))
    with pytest.raises(TransformError):
        next(method.push(primal([[1.0]]), np.ones((1, 1, 1)), np.ones((1, 0))))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([1e-300, 1.0, 1e300]),
    st.integers(0, 99),
)
def test_unit_length(r, d, p, size, seed):
    rows, shared = size * numbers(2, r, d, seed=seed), size * numbers(2, p, seed=seed + 1)
    factors = unit_length(rows, shared)
    assert factors.shape == (2, r)
    scaled = np.concatenate(
        [factors[:, :, None] * rows, factors[:, :, None] * shared[:, None]], axis=-1
    )
    lengths = np.linalg.norm(scaled, axis=-1)
    if p:  # one factor for all rows: the longest has length one
        np.testing.assert_allclose(lengths.max(axis=1), 1, rtol=1e-12)
        assert (factors == factors[:, :1]).all()
    elif d:
        np.testing.assert_allclose(lengths, 1, rtol=1e-12)
    else:
        assert (factors == 1).all()


def test_a_row_without_a_tangent_is_left_alone():
    factors = unit_length(np.array([[[0.0], [4.0]]]), np.zeros((1, 1)))
    assert factors.tolist() == [[1.0, 0.25]]


# ------------------------------------------------------------------------------------------------
# Linearizations
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chosen",
    [
        directions.Coordinate(),
        directions.Gaussian(2),
        directions.Orthogonal(5),
        directions.Rademacher(3, "least_squares"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("units", [True, False])
@pytest.mark.parametrize(("r", "d", "p", "o"), [(1, 3, 0, 2), (3, 2, 2, 2), (2, 0, 3, 1)])
def test_gradients_are_the_adjoint_of_pushforward(chosen, units, r, d, p, o):
    """⟨c, J v⟩ = ⟨Jᵀ c, v⟩ for the estimate itself, whatever its slopes are."""
    seeds = chosen.sample(d + p, draw)
    found = Linearization(
        chosen,
        seeds,
        numbers(len(seeds), r, o),
        np.exp(numbers(r, d, seed=2)) if units else None,
        np.exp(numbers(p, seed=3)) if units else None,
    )
    cotangents = numbers(4, r, o, seed=4)
    rows, shared = numbers(3, r, d, seed=5), numbers(3, p, seed=6)
    by_rows, by_shared = found.contracted(cotangents).gradients(d)
    assert (by_rows.shape, by_shared.shape) == ((4, r, d), (4, p))
    pulled = np.einsum("crd,trd->ct", by_rows, rows) + by_shared @ shared.T
    pushed = np.einsum("cro,tro->ct", cotangents, found.pushforward(rows, shared))
    np.testing.assert_allclose(pulled, pushed, rtol=1e-10, atol=1e-12)


def test_contract_is_a_sum_over_the_outputs_of_each_row():
    slopes, cotangents = numbers(5, 3, 2), numbers(4, 3, 2, seed=2)
    expected = np.einsum("kro,cro->kcr", slopes, cotangents)
    np.testing.assert_allclose(contract(slopes, cotangents), expected, rtol=1e-13)


def test_infinite_cotangents_reach_the_gradients():
    """A gradient scaler looks for them there, and a warning would be wrong."""
    product = contract(np.array([[[1.0, 0.0]]]), np.array([[[np.inf, np.inf]]]))
    assert np.isnan(product).all()
    assert np.isinf(contract(np.array([[[2.0]]]), np.array([[[np.inf]]]))).all()


# ------------------------------------------------------------------------------------------------
# What a method says of itself
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "cost", "needs_value", "is_complex", "symmetric"),
    [
        (FiniteDifference(), "n", True, False, True),
        (FiniteDifference(BACKWARD), "n", True, False, True),
        (FiniteDifference(CENTRAL), "2n", False, False, True),
        (FiniteDifference(stencils.central(4)), "4n", False, False, True),
        (FiniteDifference(stencils.richardson(3)), "6n", False, False, True),
        (FiniteDifference(COMPLEX_STEP), "n", False, True, True),
        (FiniteDifference(FORWARD, directions.Gaussian(8)), "8", True, False, False),
        (FiniteDifference(CENTRAL, directions.Orthogonal(8)), "16", False, False, False),
        (FiniteDifference(ONE_POINT, directions.Gaussian(64)), "64", False, False, False),
        (CustomVJP(lambda *_: None), "0", True, False, True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, AbstractMethod) else repr(value),
)
def test_facts(method, cost, needs_value, is_complex, symmetric):
    assert isinstance(method, AbstractMethod)
    assert method.cost == cost
    assert method.needs_value() == needs_value
    assert method.is_complex() == is_complex
    assert method.transposes_by_difference() == symmetric
    assert method.noise_floor() == 0


def test_default_method():
    assert FiniteDifference().stencil is None
    assert FiniteDifference().rule is FORWARD
    assert FiniteDifference().directions == directions.Coordinate()
    assert FiniteDifference(noise=1e-6).noise_floor() == 1e-6


def test_methods_are_frozen_values():
    method = FiniteDifference(CENTRAL, directions.Gaussian(4), step=1e-3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.step = 1.0
    assert method == FiniteDifference(stencils.central(2), directions.Gaussian(4), step=1e-3)
    assert hash(method) == hash(copy.deepcopy(method))
    assert pickle.loads(pickle.dumps(method)) == method
    assert method != FiniteDifference(CENTRAL, directions.Gaussian(4))
    with pytest.raises(TypeError):
        FiniteDifference(CENTRAL, directions.Gaussian(4), 1e-3)  # step by keyword only


def test_a_method_is_complete_or_abstract():
    with pytest.raises(TypeError):
        AbstractMethod()


def test_custom_rule_leaves_the_rest_to_the_default_method():
    rule = CustomVJP(lambda *_: None)
    assert rule.remainder == FiniteDifference()
    affine = Affine(2, 2, 1, 2)
    # Each has its own primal: the noise and what is measured are written to it.
    mine, asked = linearize(rule, affine.primal(), affine)
    its, expected = linearize(FiniteDifference(), affine.primal(), affine)
    assert len(asked) == len(expected)
    np.testing.assert_array_equal(mine.kept, its.kept)
    for part in ("rows", "shared"):
        for here, there in zip(asked, expected, strict=True):
            np.testing.assert_array_equal(getattr(here, part), getattr(there, part))
    rows, shared = numbers(1, 2, 2, seed=6), numbers(1, 1, seed=7)
    np.testing.assert_array_equal(
        push(rule, affine.primal(), affine, rows, shared)[0],
        push(FiniteDifference(), affine.primal(), affine, rows, shared)[0],
    )


def test_custom_rule_is_exact_so_only_its_outer_step_counts():
    assert CustomVJP(lambda *_: None).outer_step(1e-12) == pytest.approx(1e-4, rel=1e-14)


# ------------------------------------------------------------------------------------------------
# Claims
# ------------------------------------------------------------------------------------------------


def batch(r, d=2, **changes):
    # In order, so that the first and the last row hold the extremes of every column.
    x = primal(np.sort(numbers(r, d), axis=0), value=np.zeros((r, 1)), **changes)
    x.value = x.rows.sum(axis=1, keepdims=True)
    return x


@pytest.mark.parametrize(
    ("rows", "displaced"),
    [
        (2, [0]),
        (3, [0, 2]),
        (4, [0, 2, 3]),
        (5, [0, 2, 3, 4]),
        (6, [0, 2, 4, 5]),
        (7, [0, 2, 5, 6]),
    ],
)
def test_about_half_of_the_rows_are_displaced(rows, displaced):
    x = batch(rows, scale=np.full((rows, 2), 4.0))
    result, (points,) = feed(check_rows(x, "f"), x, lambda r, _: r.sum(-1, keepdims=True))
    assert result is None
    assert points.rows.shape == (1, rows, 2)
    assert points.shared is None
    moved = points.rows[0] - x.rows
    assert np.flatnonzero(moved.any(axis=1)).tolist() == displaced
    size = np.abs(moved[displaced]) / (4 * 2.0**-26)
    assert size.min() > 0.999999
    assert size.max() < 2


COUPLINGS = {
    "mean": lambda rows: rows - rows.mean(axis=1, keepdims=True),
    "sum before": lambda rows: np.cumsum(rows, axis=1),
    "sum behind": lambda rows: np.cumsum(rows[:, ::-1], axis=1)[:, ::-1],
    "first row": lambda rows: rows - rows[:, :1],
    "last row": lambda rows: rows - rows[:, -1:],
    "neighbor": lambda rows: rows - np.roll(rows, 1, axis=1),
    "largest": lambda rows: rows / rows.max(axis=1, keepdims=True),
}


@pytest.mark.parametrize("coupling", COUPLINGS.values(), ids=COUPLINGS.keys())
@pytest.mark.parametrize("count", [3, 4, 7])
def test_rows_that_see_each_other_are_found(coupling, count):
    x = primal(np.linspace(1, 2, count)[:, None])
    x.value = coupling(x.rows[None])[0]
    with pytest.raises(BadResult, match=r"^Row \d of `f` moved by "):
        feed(check_rows(x, "f"), x, lambda rows, _: coupling(rows))


@pytest.mark.parametrize("count", [2, 4, 5, 7, 8])
def test_rows_in_another_order_are_found(count):
    x = primal(np.linspace(1, 2, count)[:, None])
    x.value = x.rows[::-1].copy()
    with pytest.raises(BadResult, match=r"^Row 1 of `f` moved by "):
        feed(check_rows(x, "f"), x, lambda rows, _: rows[:, ::-1])


@pytest.mark.parametrize(("row", "rows"), [(1, 4), (1, 2), (3, 7)])
def test_the_first_row_that_moved_is_named(row, rows):
    x = batch(rows)

    def values(points, _):
        result = points.sum(-1, keepdims=True)
        result[:, row:] += 1e-3
        return result

    with pytest.raises(BadResult, match=rf"^Row {row} of `f` moved by 0\.001 "):
        feed(check_rows(x, "f"), x, values)


@pytest.mark.parametrize("moves", [False, True])
def test_rows_of_a_noisy_function_may_move_by_its_noise(moves):
    """Two more evaluations tell how noisy it is; what the displaced rows do is beyond that."""
    x = batch(4)
    draw = np.random.default_rng(3)

    def values(points, _):
        coupled = points[:, :1].sum(-1, keepdims=True) if moves else 0.0
        return points.sum(-1, keepdims=True) + coupled + 1e-3 * draw.standard_normal((1, 4, 1))

    x.value = values(x.rows[None], None)[0]
    if moves:
        with pytest.raises(BadResult, match="although only other rows were displaced"):
            feed(check_rows(x, "f"), x, values)
    else:
        feed(check_rows(x, "f"), x, values)


def test_displaced_rows_may_do_what_they_like():
    x = batch(4)
    values = np.array([[[1e9], [x.value[1, 0]], [-1e9], [7.0]]])
    feed(check_rows(x, "f"), x, [values])


@pytest.mark.parametrize("noise", [DOUBLE, 1e-6])
def test_rows_may_move_by_noise(noise):
    """By 64 units of noise of the largest value: matrix kernels round batches differently."""
    x = batch(4, noise=noise)
    largest = np.abs(x.value).max()
    for factor, fails in ((60, False), (70, True)):
        values = x.value[None].copy()
        values[0, 1] += factor * noise * largest
        if fails:  # the same three times: that is no noise
            with pytest.raises(BadResult):
                feed(check_rows(x, "f"), x, [values, values, values])
        else:
            feed(check_rows(x, "f"), x, [values])


def test_rows_that_hold_the_extremes_are_displaced():
    x = primal(np.array([[2.0], [1.0], [3.0], [2.5]]))
    x.value = x.rows - x.rows.min(axis=0)
    with pytest.raises(BadResult, match=r"^Row \d of `f` moved by "):
        feed(check_rows(x, "f"), x, lambda rows, _: rows - rows.min(axis=1, keepdims=True))


def test_one_row_stands_between_displaced_copies():
    x = batch(1)
    honest = lambda rows, _: rows.sum(-1, keepdims=True)  # noqa: E731 # beside its use
    _, (points,) = feed(check_rows(x, "f"), x, honest)
    assert (points.rows != x.rows).any(axis=(1, 2)).tolist() == [True, False, True]


@pytest.mark.parametrize("coupling", ["half", "before", "behind"])
def test_one_row_must_not_depend_on_its_company(coupling):
    x = batch(1)

    def values(rows, _):
        sums = rows.sum(-1, keepdims=True)
        if coupling == "half":
            return sums / 2
        return (
            np.cumsum(sums, axis=0) if coupling == "before" else np.cumsum(sums[::-1], axis=0)[::-1]
        )

    with pytest.raises(BadResult, match=r"^Row 0 "):
        feed(check_rows(x, "f"), x, values)


def analytic(rows, shared):
    return np.exp(rows).sum(-1, keepdims=True) * shared[:, None, :1]


def conjugated(rows, shared):
    return (rows * np.conj(rows)).sum(-1, keepdims=True) * shared[:, None, :1]


def absolute(rows, shared):
    return np.abs(rows).sum(-1, keepdims=True) * shared[:, None, :1] + 0j


def moves_of(points, origin):
    """Return the displacements (P, n) of one row and the shared inputs."""
    return np.concatenate(
        [points.rows[:, 0] - origin.rows[0], points.shared - origin.shared], axis=1
    )


def test_complex_step_is_compared_with_a_central_difference():
    """Both along one line that passes near x, by different amounts of the scales."""
    x = primal([[0.5, 1.0]], [2.0], scale=[[1.0, 4.0]], scale_shared=[8.0])
    x.value = analytic(x.rows[None], x.shared[None])[0]
    settled, (first, second) = feed(check_complex(x, "f", draw), x, analytic)
    assert settled
    assert (len(first), len(second)) == (1, 2)
    units = np.array([1.0, 4.0, 8.0])
    aside = np.real(moves_of(first, x)[0]) / units
    assert np.all(np.abs(aside) > DOUBLE ** (1 / 4))
    assert np.all(np.abs(aside) < 2 * DOUBLE ** (1 / 4))
    along = np.imag(moves_of(first, x)[0]) / units / 2.0**-100
    assert np.all((np.abs(along) > 0.5) & (np.abs(along) < 1))
    assert len(set(np.abs(along))) == 3
    h = DOUBLE ** (1 / 3)
    taken = moves_of(second, x) / units
    np.testing.assert_allclose(taken, aside + h * np.outer([-1, 1], along), rtol=1e-9)


def test_an_output_that_cannot_be_judged_is_compared_with_a_longer_step():
    """A difference of large numbers: rounding is all that it holds, and falls with the step."""

    def rubbish(rows, shared):
        large = 1e3 * np.exp(rows[..., :1] * np.arange(1, 6) / 5)
        return np.concatenate([large, (large + 1e4) - 1e4 - large], axis=-1)

    x = primal([[0.3]], outputs=10)
    x.value = rubbish(x.rows[None], None)[0]
    settled, rounds = feed(check_complex(x, "f", draw), x, rubbish)
    assert settled
    assert [len(points) for points in rounds] == [1, 2, 2]
    steps = [np.ptp(points.rows.real) for points in rounds[1:]]
    assert steps[1] / steps[0] == pytest.approx(100)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-12])
def test_one_small_output_that_is_not_analytic_is_found(size, seed):
    def mixed(rows, shared):
        return np.concatenate(
            [1e3 * np.exp(rows[..., :1]), size * (rows * np.conj(rows)).sum(-1, keepdims=True)], -1
        )

    x = primal([[0.5, 1.0]], outputs=2)
    x.value = np.real(mixed(x.rows[None], None)[0])
    with pytest.raises(BadResult, match=r"^`f` is not complex-analytic: "):
        feed(check_complex(x, "f", lambda: np.random.default_rng(seed)), x, mixed)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_what_is_not_analytic_is_found_where_slopes_vanish_or_could_cancel(value, seed):
    """At zero, where parameters start; and at equal inputs, whose slopes cancel by signs."""
    x = primal([[value] * 4], [1.0], scale=[[1.0] * 4])
    x.value = conjugated(x.rows[None], x.shared[None])[0]
    with pytest.raises(BadResult, match=r"^`f` is not complex-analytic: "):
        feed(check_complex(x, "f", lambda: np.random.default_rng(seed)), x, conjugated)


@pytest.mark.parametrize("seed", range(20))
def test_truncation_at_zero_is_no_objection(seed):
    """The difference of x³ is off by its square, close to zero; nothing is settled by that."""
    x = primal([[0.0] * 8], value=[[0.0] * 8], outputs=8)
    generator = lambda: np.random.default_rng(seed)  # noqa: E731 - what the check asks for
    settled, rounds = feed(check_complex(x, "f", generator), x, lambda rows, _: rows**3)
    assert not settled
    assert [len(points) for points in rounds] == [1, 2, 2]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("noise", [DOUBLE, 1e-7, 1e-3])
def test_the_check_stays_inside_the_bounds(noise, seed):
    """Any point: at a bound, between two that are close, at one that cannot move."""
    inf = np.inf
    down, up = np.array([[0.0, inf, 1e-9, 0.0, 3.0]]), np.array([[inf, 0.0, 1e-9, 0.0, 1e-4]])
    x = primal([[1.0, 2.0, 3.0, 4.0, 5.0]], [1.0], noise=noise)
    x.room = Room(down, up, np.array([0.0]), np.array([1e-3]))
    x.value = np.ones((1, 1))
    check = check_complex(x, "f", lambda: np.random.default_rng(seed))
    rounds = [next(check), check.send(np.zeros((1, 1, 1), complex))]
    rounds.append(check.send(np.array([[[0.0]], [[1.0]]])))  # the two disagree
    for points in rounds:
        moves = points.rows.real - x.rows
        assert np.all((moves >= -down - 1e-15) & (moves <= up + 1e-15))
        assert np.all((points.shared.real >= 1.0 - 1e-15) & (points.shared.real <= 1.001 + 1e-15))
        assert np.all(np.ptp(points.rows.real, axis=0)[0, [0, 1, 2, 4]] > 0) or len(points) == 1


def test_a_kink_at_x_is_no_objection():
    """max(x, 0) at 0 is analytic on either side."""
    x = primal([[0.0, 0.0]], value=[[0.0, 0.0]], outputs=2)
    feed(check_complex(x, "f", draw), x, lambda rows, _: np.where(rows.real > 0, rows, 0))


@pytest.mark.parametrize("liar", [conjugated, absolute])
@pytest.mark.parametrize("noise", [DOUBLE, 1e-7])
def test_what_is_not_analytic_is_found(liar, noise):
    x = primal([[0.5, 1.0], [-2.0, 3.0]], [2.0], noise=noise)
    x.value = np.real(liar(x.rows[None], x.shared[None])[0])
    with pytest.raises(BadResult, match=r"^`f` is not complex-analytic: "):
        feed(check_complex(x, "f", draw), x, liar)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_constants_are_analytic(value):
    x = primal([[0.5]], value=[[value]])
    values = np.full((2, 1, 1), value)
    settled, _ = feed(check_complex(x, "f", draw), x, [values[:1] + 0j, values])
    assert not settled  # what is constant here may not be analytic elsewhere


def test_points_know_their_number():
    assert len(Points(np.zeros((3, 1, 2)), None)) == 3
