"""Points that fail: what each method yields next, and what its slopes are then.

Values are fed to the methods as in `test_methods`, NaN where a point failed. The function is smooth
with exact derivatives: exp(W x) has all orders, so that a formula of order u is off by about h^u.
"""

import dataclasses
import hashlib

import numpy as np
import pytest
from test_methods import draw, everything, feed, linearize, primal, push

from suture import AdaptiveDifference, CustomVJP, FiniteDifference, directions, stencils
from suture._methods import NoFiniteValue, Room
from suture._methods._base import Remarks
from suture.stencils import BACKWARD, CENTRAL, COMPLEX_STEP, FORWARD, ONE_POINT

W = np.array([[1.0, 0.5, 2.0], [0.3, -1.0, 0.7]])
X = np.array([[0.7, 1.3, -0.4]])
TWO = np.array([[0.7, 1.3, -0.4], [0.2, -0.9, 1.1]])
SHARED = np.array([0.6])

C4, R2 = stencils.central(4), stencils.richardson(2)
NAMED = {"forward": FORWARD, "backward": BACKWARD, "central": CENTRAL, "order 4": C4, "two": R2}
each_policy = pytest.mark.parametrize("policy", ["shrink", "one_sided"])
each_named = pytest.mark.parametrize("stencil", NAMED.values(), ids=NAMED)


def smooth(rows, shared=None):
    """Values (P, R, 2) of rows (P, R, 3), and of what is shared (P, 1)."""
    extra = 0.0 if shared is None or not shared.size else np.sin(shared)[:, None]
    return np.exp(rows @ W.T) + extra


def exact(x=X):
    """The slopes (R, 2, 3)."""
    return np.exp(x @ W.T)[:, :, None] * W


def at(x=X, policy="one_sided", shared=(), **changes):
    shared = np.array(shared)
    value = smooth(x[None], shared[None])[0]
    return primal(x, shared, value=value, outputs=2, on_failure=policy, **changes)


class Failing:
    """`smooth` where it is defined, NaN elsewhere; counts its points.

    Args:
        is_bad: which rows fail, from displacements of rows (P, R, 3) and of shared inputs (P, p).
        x: the primal.
        whole: whether a point fails as a whole.
    """

    def __init__(self, is_bad, x, whole=False):
        self.is_bad, self.x, self.whole, self.points = is_bad, x, whole, 0

    def __call__(self, rows, shared):
        values = smooth(rows, shared)
        bad = self.is_bad(rows - self.x.rows, shared - self.x.shared)
        values[bad if not self.whole else bad.any(axis=1)] = np.nan
        self.points += len(rows)
        return values


def above(j=0):
    """Input j fails above x."""
    return lambda move, _: move[..., j] > 0


def below(j=0):
    return lambda move, _: move[..., j] < 0


def beyond(radius, j=0):
    """Input j fails farther than `radius` from x, on both sides."""
    return lambda move, _: np.abs(move[..., j]) > radius


def both(j=0):
    return beyond(0.0, j)


def by_hash(share, salt):
    """A share of all points fails, by a hash of where they are; not x itself."""

    def is_bad(move, _):
        def chance(row):
            digest = hashlib.blake2b(row.tobytes() + bytes([salt]), digest_size=8).digest()
            return int.from_bytes(digest, "little") / 2**64

        return np.array([[chance(r) < share for r in p] for p in move]) & np.any(move, axis=-1)

    return is_bad


def jacobian(found, x):
    """The slopes (R, O, d) by rows."""
    r, d = x.rows.shape
    cotangents = np.zeros((2, r, 2))
    cotangents[0, :, 0] = cotangents[1, :, 1] = 1
    return found.contracted(cotangents).gradients(d)[0].transpose(1, 0, 2)


def gradient(method, is_bad, x, *, whole=False):
    f = Failing(is_bad, x, whole)
    found, rounds = linearize(method, x, f)
    return found, f.points, rounds


def off(found, x, j=slice(None)):
    slopes, expected = jacobian(found, x)[:, :, j], exact(x.rows)[:, :, j]
    return float(np.abs(slopes / expected - 1).max())


def step_of(stencil):
    """The displacement of node 1 at scale 1."""
    return (2.0**-52) ** (1 / (stencil.order + 1))


# ------------------------------------------------------------------------------------------------
# Who answers
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [directions.Coordinate(), directions.Gaussian(2)])
@each_named
def test_named_stencils_answer_where_they_are_told_to(stencil, chosen):
    method = FiniteDifference(stencil, chosen)
    told = [p for p in ("raise", "shrink", "one_sided", "skip") if method.answers_failures(p)]
    assert told == ["shrink", "one_sided"]


@pytest.mark.parametrize(
    "method", [FiniteDifference(), AdaptiveDifference(), CustomVJP(lambda *_: None)]
)
def test_methods_that_choose_their_steps_answer_always(method):
    assert all(method.answers_failures(p) for p in ("raise", "shrink", "one_sided", "skip"))


@pytest.mark.parametrize(
    "method",
    [
        FiniteDifference(COMPLEX_STEP),
        FiniteDifference(stencils.shift()),
        FiniteDifference(ONE_POINT, directions.Gaussian(2)),
    ],
)
def test_nodes_that_cannot_be_moved_have_no_answer(method):
    assert not any(method.answers_failures(p) for p in ("raise", "shrink", "one_sided", "skip"))


# ------------------------------------------------------------------------------------------------
# Named stencils, one input at a time
# ------------------------------------------------------------------------------------------------


@each_policy
@each_named
def test_where_nothing_fails_nothing_changes(stencil, policy):
    method = FiniteDifference(stencil)
    usual, count, _ = gradient(method, by_hash(0, 0), at(policy="raise"))
    found, points, rounds = gradient(method, by_hash(0, 0), at(policy=policy))
    assert (points, len(rounds)) == (count, 1)
    np.testing.assert_array_equal(found.kept, usual.kept)
    assert (found.error is None) == (usual.error is None)
    assert found.remarks == Remarks()


@pytest.mark.parametrize(
    ("stencil", "is_bad", "more", "order"),
    [
        (FORWARD, above(), 1, 1),
        (BACKWARD, below(), 1, 1),
        (CENTRAL, above(), 0, 1),
        (CENTRAL, below(), 0, 1),
        (C4, above(), 0, 2),
        (C4, beyond(1.5 * step_of(C4)), 0, 2),
        (C4, lambda m, _: m[..., 0] > 1.5 * step_of(C4), 0, 3),
        (R2, lambda m, _: m[..., 0] > 0.75 * step_of(R2), 0, 3),
    ],
)
def test_nodes_that_failed_are_left_out(stencil, is_bad, more, order):
    """The order is the number of nodes that are left, with the step that was taken."""
    x = at()
    found, points, _ = gradient(FiniteDifference(stencil), is_bad, x)
    assert points == 3 * len(stencil.moved_nodes) + more
    limit = 4 * step_of(stencil) ** order + 16 * 2.0**-52 / step_of(stencil)
    assert off(found, x, 0) < limit
    if order < stencil.order:
        assert off(found, x, 0) > step_of(stencil) ** order / 200
    assert (found.remarks.one_sided, found.remarks.shrunk) == (1, 0)
    assert found.error is None  # that of the formula does not hold


def test_a_forward_difference_becomes_the_backward_one():
    x, h = at(), step_of(FORWARD)
    found, _, (_, again) = gradient(FiniteDifference(FORWARD), above(1), x)
    np.testing.assert_array_equal(again.rows - x.rows, [[[0, (1.3 - h) - 1.3, 0]]])
    there = smooth(again.rows)[0, 0]
    taken = again.rows[0, 0, 1] - 1.3
    expected = (there - x.value[0]) / taken
    np.testing.assert_allclose(found.kept[1, 0], expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("stencil", "halvings", "more"),
    [(FORWARD, 1, 1), (FORWARD, 10, 10), (CENTRAL, 3, 6), (C4, 2, 4), (R2, 1, 2)],
)
def test_a_shell_halves_the_step(stencil, halvings, more):
    """Only as often as needed, and at no place twice; the order stays."""
    largest = np.abs(stencil.moved_nodes).max() * step_of(stencil)
    radius = 1.01 * largest * 2.0**-halvings
    x = at(policy="shrink")
    found, points, _ = gradient(FiniteDifference(stencil), beyond(radius), x)
    assert points == 3 * len(stencil.moved_nodes) + more
    noise = 16 * 2.0**-52 / step_of(stencil) * 2**halvings
    assert off(found, x, 0) < 4 * step_of(stencil) ** stencil.order + 4 * noise
    assert (found.remarks.one_sided, found.remarks.shrunk) == (0, 1)


def test_a_halved_arm_of_a_central_difference_keeps_its_order():
    """Arms h and h/2 have an error of h²/12·f‴·…, not of h."""
    x = at(policy="shrink")
    bad = lambda m, _: m[..., 2] > 0.6e-2  # noqa: E731
    found, points, (_, again) = gradient(FiniteDifference(CENTRAL, step=1e-2), bad, x)
    assert points == 7
    np.testing.assert_allclose(again.rows - x.rows, [[[0, 0, 5e-3]]], atol=1e-15)
    assert 1e-6 < off(found, x, 2) < 1e-4
    assert (found.remarks.one_sided, found.remarks.shrunk) == (0, 1)


@pytest.mark.parametrize(
    ("stencil", "is_bad", "more"),
    [(FORWARD, above(), 11), (BACKWARD, below(), 11), (CENTRAL, above(), 10), (C4, below(), 10)],
)
def test_a_side_that_always_fails_is_left_after_ten_halvings(stencil, is_bad, more):
    """Nodes 1 and 2 have the places 1/2, 1/4, … between them, ten that are no nodes."""
    x = at(policy="shrink")
    found, points, rounds = gradient(FiniteDifference(stencil), is_bad, x)
    assert points == 3 * len(stencil.moved_nodes) + more
    assert len(rounds) <= 12
    assert off(found, x, 0) < 10 * step_of(stencil)
    assert (found.remarks.one_sided, found.remarks.shrunk) == (1, 0)


@each_named
@pytest.mark.parametrize("j", [0, 2])
def test_both_sides_fail(stencil, j):
    """Where both were nodes already nothing more is asked."""
    x = at()
    f = Failing(both(j), x)
    with pytest.raises(NoFiniteValue) as lost:
        linearize(FiniteDifference(stencil), x, f)
    least = np.abs(stencil.moved_nodes).min() * step_of(stencil)
    assert (lost.value.column, lost.value.row) == (j, 0)
    assert lost.value.reach == pytest.approx(least)
    mirrored = 1 if len(stencil.moved_nodes) == 1 else 0
    assert f.points == 3 * len(stencil.moved_nodes) + mirrored


def test_both_sides_fail_however_near():
    x = at(policy="shrink")
    f = Failing(both(1), x)
    with pytest.raises(NoFiniteValue) as lost:
        linearize(FiniteDifference(FORWARD), x, f)
    assert (lost.value.column, f.points) == (1, 3 + 10 + 1)
    assert lost.value.reach == pytest.approx(step_of(FORWARD) / 1024)


@each_policy
@each_named
@pytest.mark.parametrize("salt", range(8))
def test_points_fail_at_random(stencil, policy, salt):
    """Every column has some answer that is right, or none and says so."""
    x = at(policy=policy)
    f = Failing(by_hash(0.3, salt), x)
    try:
        found, _ = linearize(FiniteDifference(stencil), x, f)
    except NoFiniteValue:
        assert policy == "one_sided"
        return
    # First order at the worst, and the noise of a step that was halved a few times.
    assert off(found, x) < 10 * step_of(stencil) + 64 * 2.0**-52 / step_of(stencil)


def test_infinite_values_have_failed_too():
    x = at()
    values = lambda rows, _: np.where((rows - X)[..., :1] > 0, np.inf, smooth(rows))  # noqa: E731
    for stencil in (FORWARD, CENTRAL, C4):  # of order 4, infinities would cancel to NaN
        found, _ = linearize(FiniteDifference(stencil), x, values)
        assert off(found, x) < 10 * step_of(stencil)


def test_displacements_that_are_lost_in_rounding_are_no_nodes():
    """In half precision ten halvings are too many."""
    rounding = lambda rows, shared: (  # noqa: E731
        None if rows is None else rows.astype(np.float16).astype(float),
        shared,
    )
    here = X.astype(np.float16).astype(float)
    x = at(here, "shrink", noise=2.0**-10, round=rounding)
    found, points, _ = gradient(FiniteDifference(FORWARD), above(1), x)
    assert off(found, x) < 0.2
    assert (found.remarks.one_sided, points) == (1, 3 + 7 + 1)


def test_second_derivatives_do_not_mix_formulas():
    x = at(derivative=2)
    found, points, _ = gradient(FiniteDifference(CENTRAL), above(), x)
    assert np.isnan(found.kept[0]).all()
    assert points == 6


# ------------------------------------------------------------------------------------------------
# Batches, shared inputs, bounds, room
# ------------------------------------------------------------------------------------------------


@each_policy
@each_named
def test_rows_are_answered_by_themselves(stencil, policy):
    """Row 1 fails above x, in input 2 alone."""
    is_bad = lambda move, _: (move[..., 2] > 0) & (np.arange(2) == 1)  # noqa: E731
    usual, _, _ = gradient(FiniteDifference(stencil), by_hash(0, 0), at(TWO))
    x = at(TWO, policy)
    found, _, rounds = gradient(FiniteDifference(stencil), is_bad, x)
    if (stencil.moved_nodes > 0).any():
        assert found.remarks.one_sided == 1
        assert np.any(found.kept[2, 1] != usual.kept[2, 1])
    found.kept[2, 1] = usual.kept[2, 1]
    np.testing.assert_array_equal(found.kept, usual.kept)
    for again in rounds[1:]:  # the other row stays where it is
        np.testing.assert_array_equal(again.rows[:, 0], np.broadcast_to(TWO[0], (len(again), 3)))


@each_policy
@each_named
def test_points_that_fail_as_a_whole(stencil, policy):
    x = at(TWO, policy)
    is_bad = lambda move, _: (move[..., 2] > 0) & (np.arange(2) == 1)  # noqa: E731
    found, _, _ = gradient(FiniteDifference(stencil), is_bad, x, whole=True)
    assert off(found, x) < 10 * step_of(stencil)


@each_policy
@each_named
@pytest.mark.parametrize("rows", [[1], [0, 1]])
def test_shared_inputs_move_all_rows(stencil, policy, rows):
    """All rows see them move alike, and keep their values where those were finite."""
    x = at(TWO, policy, SHARED)
    is_bad = lambda move, shared: (shared > 0) & np.isin([0, 1], rows)  # noqa: E731
    usual, _, _ = gradient(FiniteDifference(stencil), by_hash(0, 0), x)
    found, _, _ = gradient(FiniteDifference(stencil), is_bad, x)
    np.testing.assert_allclose(found.kept[3], np.cos(0.6), rtol=10 * step_of(stencil))
    others = [r for r in (0, 1) if r not in rows]
    np.testing.assert_array_equal(found.kept[3, others], usual.kept[3, others])
    np.testing.assert_array_equal(found.kept[:3], usual.kept[:3])


def room(down, up, x=X):
    full = np.ones(x.shape)
    return Room(down * full, up * full, np.zeros(0), np.zeros(0))


@each_policy
@each_named
@pytest.mark.parametrize(("down", "up"), [(0.0, 1.0), (1.0, 0.0), (0.3, 0.4), (1.0, 1.0)])
def test_answers_stay_inside_of_the_bounds(stencil, policy, down, up):
    """Also where the step had to be turned or shortened before."""
    h = np.abs(stencil.moved_nodes).max() * step_of(stencil)
    x = at(policy=policy, room=room(down * h * 2, up * h * 2))
    outermost = lambda m, _: np.abs(m[..., 1]) > 0.25 * h  # noqa: E731
    f = Failing(outermost, x)
    inside = []

    def watched(rows, shared):
        move = rows - X
        inside.append(np.all((move >= -2.0001 * down * h) & (move <= 2.0001 * up * h)))
        return f(rows, shared)

    try:
        found, rounds = linearize(FiniteDifference(stencil), x, watched)
    except NoFiniteValue:
        assert policy == "one_sided"
    else:
        assert off(found, x) < 20 * step_of(stencil)
        assert len(rounds) > 1 or len(stencil.moved_nodes) > 1
    assert all(inside)


def test_with_no_other_side_half_of_this_one_is_tried():
    h = step_of(FORWARD)
    x = at(room=room(0.0, 1.0))
    found, points, (_, again) = gradient(FiniteDifference(FORWARD), beyond(0.7 * h), x)
    assert points == 4
    assert again.rows[0, 0, 0] - 0.7 == pytest.approx(h / 2)
    assert off(found, x) < 1e-7


def test_inputs_whose_bounds_meet_are_not_asked_for():
    fixed = np.array([[0.0, 1.0, 1.0]])
    x = at(room=Room(fixed, fixed, np.zeros(0), np.zeros(0)))
    found, points, _ = gradient(FiniteDifference(CENTRAL), above(1), x)
    assert points == 4
    assert found.kept[0].tolist() == [[0.0, 0.0]]
    assert off(found, x, 1) < 1e-4


@each_policy
def test_blocks_answer_by_themselves(policy):
    whole, count, _ = gradient(FiniteDifference(CENTRAL), above(1), at(policy=policy))
    cut, points, _ = gradient(FiniteDifference(CENTRAL), above(1), at(policy=policy, capacity=1))
    assert points == count
    np.testing.assert_array_equal(cut.kept, whole.kept)


# ------------------------------------------------------------------------------------------------
# Random directions and tangents
# ------------------------------------------------------------------------------------------------


@each_policy
@each_named
@pytest.mark.parametrize("bounded", [False, True])
def test_random_directions(stencil, policy, bounded):
    """As many orthogonal ones as inputs give the whole Jacobian."""
    x = at(policy=policy, room=room(1.0, 1.0) if bounded else None)
    method = FiniteDifference(stencil, directions.Orthogonal(3))
    usual, count, _ = gradient(method, by_hash(0, 0), x)
    found, points, _ = gradient(method, above(), x)
    assert off(found, x) < 50 * step_of(stencil)
    assert off(usual, x) < 50 * step_of(stencil) ** stencil.order + 1e-6
    failing = found.remarks.one_sided
    assert failing == 3 if len(stencil.moved_nodes) > 1 else failing > 0
    if policy == "one_sided":
        assert points == count + (failing if len(stencil.moved_nodes) == 1 else 0)


@each_named
@pytest.mark.parametrize("bounded", [False, True])
def test_random_directions_are_halved_in_a_shell(stencil, bounded):
    x = at(policy="shrink", room=room(1.0, 1.0) if bounded else None)
    method = FiniteDifference(stencil, directions.Orthogonal(3))
    # Each direction moves some input by more than half of the step.
    shell = lambda m, _: np.abs(m).max(axis=-1) > step_of(stencil) / 4  # noqa: E731
    found, _, _ = gradient(method, shell, x)
    assert (found.remarks.one_sided, found.remarks.shrunk) == (0, 3)
    assert off(found, x) < 50 * step_of(stencil) ** stencil.order + 1e-6


@each_policy
@each_named
@pytest.mark.parametrize("bounded", [False, True])
@pytest.mark.parametrize("batch", [X, TWO], ids=["one row", "two rows"])
def test_tangents(stencil, policy, bounded, batch):
    x = at(batch, policy, room=room(1.0, 1.0, batch) if bounded else None)
    tangents = np.array([[[1.0, -2.0, 0.5]] * len(batch), [[-0.3, 0.2, 1e-13]] * len(batch)])
    f = Failing(above(), x)
    pushed, _ = push(FiniteDifference(stencil), x, f, tangents, np.zeros((2, 0)))
    expected = np.einsum("rod,trd->tro", exact(batch), tangents)
    np.testing.assert_allclose(pushed, expected, rtol=20 * step_of(stencil))
    if policy == "one_sided":  # one of both directions goes up
        nodes = len(stencil.moved_nodes)
        assert f.points == 2 * nodes + (1 if nodes == 1 else 0)


@pytest.mark.parametrize("bounded", [False, True])
def test_tangents_that_fail_both_ways(bounded):
    x = at(policy="shrink", room=room(1.0, 1.0) if bounded else None)
    f = Failing(both(), x)
    with pytest.raises(NoFiniteValue) as lost:
        push(FiniteDifference(FORWARD), x, f, [[[1.0, 0.0, 0.0]]], np.zeros((1, 0)))
    assert (lost.value.column, f.points) == (None, 1 + 10 + 1)


@each_policy
def test_tangents_of_shared_inputs(policy):
    x = at(TWO, policy, SHARED)
    is_bad = lambda move, shared: (shared > 0) & (np.arange(2) == 1)  # noqa: E731
    rows = np.zeros((1, 2, 3))
    pushed, _ = push(FiniteDifference(CENTRAL), x, Failing(is_bad, x), rows, [[2.0]])
    np.testing.assert_allclose(pushed, np.full((1, 2, 2), 2 * np.cos(0.6)), rtol=1e-4)


@pytest.mark.parametrize("method", [FiniteDifference(), FiniteDifference(CENTRAL)])
def test_more_tangents_than_inputs_are_pushed_by_inputs(method):
    x = at()
    tangents = np.concatenate([np.eye(3), np.ones((1, 3))])[:, None]
    pushed, _ = push(method, x, Failing(above(), x), tangents, np.zeros((4, 0)))
    expected = np.einsum("rod,trd->tro", exact(), tangents)
    np.testing.assert_allclose(pushed, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stencil", [FORWARD, CENTRAL])
def test_small_parts_of_a_tangent_that_rounding_loses_do_not_count_near_bounds(stencil):
    """The displacement is measured in units of the step, not each input in units of its own."""
    x = at(room=room(1.0, 1.0))
    pushed, _ = push(FiniteDifference(stencil), x, smooth, [[[1.0, 1e-12, 0.0]]], np.zeros((1, 0)))
    np.testing.assert_allclose(pushed[0, 0], exact()[0, :, 0], rtol=1e-6)


# ------------------------------------------------------------------------------------------------
# Methods that choose their own steps
# ------------------------------------------------------------------------------------------------


def first(policy, is_bad, **changes):
    x = at(policy=policy, **changes)
    found, points, _ = gradient(FiniteDifference(), is_bad, x)
    return x, found, points


@each_policy
@pytest.mark.parametrize(
    "is_bad", [above(), below(), beyond(1e-7)], ids=["above", "below", "shell"]
)
def test_the_first_gradient_of_the_default_method(policy, is_bad):
    x, found, _ = first(policy, is_bad)
    assert off(found, x) < 1e-7


@each_policy
@pytest.mark.parametrize("salt", range(12))
@pytest.mark.parametrize("share", [0.1, 0.25])
def test_the_default_method_where_points_fail_at_random(policy, share, salt):
    """Also those of the noise table; and the error bar knows of it."""
    x, found, _ = first(policy, by_hash(share, salt))
    # An arm of noise^(1/3) that has no partner is of first order.
    assert off(found, x) < 2e-5
    worst = np.abs(jacobian(found, x) / exact() - 1)[0].max(axis=0)
    assert (worst < 1e-9 + 20 * found.error / found.norms).all()
    y = at(policy=policy, tuning=x.tuning)
    try:
        later, _, _ = gradient(FiniteDifference(), by_hash(share, salt + 100), y)
    except NoFiniteValue:
        assert policy == "one_sided"
        return
    assert off(later, y) < 1e-5


@pytest.mark.parametrize("salt", range(12))
def test_noise_is_measured_where_points_fail_at_random(salt):
    """A table needs neighbors: other directions are tried until it has some."""
    x = at()
    f = Failing(by_hash(0.25, salt), x)
    grain = np.random.default_rng(salt)

    def noisy(rows, shared):
        return f(rows, shared) * (1 + 1e-6 * grain.standard_normal((len(rows), 1, 2)))

    linearize(FiniteDifference(), x, noisy)
    assert 1e-8 < x.noise < 1e-5


@pytest.mark.parametrize(
    ("policy", "is_bad", "more", "shrunk", "one_sided"),
    [
        ("one_sided", above(), 1, 0, 1),
        ("raise", above(), 1, 0, 1),
        ("shrink", above(), 11, 0, 1),
        ("one_sided", below(), 0, 0, 0),
        ("shrink", beyond(1e-9), 5, 1, 0),
    ],
)
def test_later_gradients_of_the_default_method(policy, is_bad, more, shrunk, one_sided):
    x, _, _ = first(policy, by_hash(0, 0))
    y = at(policy=policy, tuning=x.tuning)
    usual, count, _ = gradient(FiniteDifference(), by_hash(0, 0), y)
    y = at(policy=policy, tuning=x.tuning)
    found, points, _ = gradient(FiniteDifference(), is_bad, y)
    assert points == count + more
    assert off(found, y) < 1e-5
    assert (found.remarks.shrunk, found.remarks.one_sided) == (shrunk, one_sided)
    np.testing.assert_array_equal(found.kept[1:], usual.kept[1:])
    # A shorter step has more noise, and says so.
    assert (found.error[0] > 10 * usual.error[0]) == bool(shrunk)
    np.testing.assert_array_equal(found.error[1:], usual.error[1:])


@pytest.mark.parametrize("policy", ["raise", "shrink", "one_sided"])
@pytest.mark.parametrize("method", [FiniteDifference(), FiniteDifference(rtol=1e-12)])
def test_later_gradients_with_both_sides_failing_name_the_column(policy, method):
    x, _, _ = first(policy, by_hash(0, 0))
    y = at(policy=policy, tuning=x.tuning)
    with pytest.raises(NoFiniteValue) as lost:
        gradient(method, both(1), y)
    assert lost.value.column == 1


@pytest.mark.parametrize(("policy", "more"), [("one_sided", 0), ("shrink", 6)])
def test_central_columns_of_later_gradients(policy, more):
    x, _, _ = first(policy, by_hash(0, 0))
    shell = lambda m, _: m[..., 0] > 1e-7  # noqa: E731
    y = at(policy=policy, tuning=x.tuning)
    found, points, _ = gradient(FiniteDifference(rtol=1e-12), shell, y)
    assert points == 6 + more
    assert off(found, y, 0) < (1e-4 if policy == "one_sided" else 1e-7)
    assert found.remarks == Remarks(central=3, one_sided=1 - bool(more), shrunk=bool(more))


@each_policy
def test_a_curvature_is_not_learned_from_halved_arms(policy):
    x, _, _ = first(policy, by_hash(0, 0))
    due = dataclasses.replace(x.tuning, since=99)
    y = at(policy=policy, tuning=due)
    shell = lambda m, _: m[..., 0] < -1e-8  # noqa: E731
    found, _, _ = gradient(FiniteDifference(), shell, y)
    assert off(found, y) < 1e-6
    np.testing.assert_array_equal(y.tuning.curvature, due.curvature)


@each_policy
@pytest.mark.parametrize("bounded", [False, True])
def test_random_directions_of_the_default_method(policy, bounded):
    x = at(policy=policy, room=room(1.0, 1.0) if bounded else None)
    found, _, _ = gradient(FiniteDifference(directions=directions.Orthogonal(3)), above(), x)
    assert off(found, x) < 1e-6
    assert found.remarks.one_sided > 0


@each_policy
@pytest.mark.parametrize("salt", range(6))
@pytest.mark.parametrize("share", [0.1, 0.25])
def test_adaptive_differences_where_points_fail_at_random(policy, share, salt):
    x = at(policy=policy)
    found, _, _ = gradient(AdaptiveDifference(), by_hash(share, salt), x)
    assert off(found, x) < 1e-7


@each_policy
@pytest.mark.parametrize(
    "is_bad", [above(), below(), beyond(1e-3)], ids=["above", "below", "shell"]
)
def test_adaptive_differences(policy, is_bad):
    x = at(policy=policy)
    found, _, _ = gradient(AdaptiveDifference(), is_bad, x)
    assert off(found, x) < 1e-7


def test_the_remainder_of_a_rule_answers_too():
    x, _, _ = first("shrink", by_hash(0, 0))
    y = at(policy="shrink", tuning=x.tuning)
    rule = CustomVJP(lambda *_: NotImplemented)
    found, _ = feed(rule.linearize(y, everything, draw), y, Failing(beyond(1e-9), y))
    assert found.remarks.shrunk == 1


def test_remarks_add_up():
    both_of = Remarks(one_sided=1, shrunk=2) + Remarks(one_sided=3, shrunk=5)
    assert (both_of.one_sided, both_of.shrunk) == (4, 7)
