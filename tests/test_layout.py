"""The columns of the leaves: there and back for any shapes, batches and complex numbers."""

from math import prod

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from suture._layout import Layout, Leaf, rounded

FLOAT64, COMPLEX128 = torch.float64, torch.complex128
NARROW = [torch.float16, torch.bfloat16, torch.float32]

LEADS = [(), (2,), (2, 3)]
fast = settings(max_examples=100, deadline=None, derandomize=True)


def numbers(*shape, kind=FLOAT64, seed=0):
    generator = np.random.default_rng(seed)
    array = generator.standard_normal(shape)
    return array + 1j * generator.standard_normal(shape) if kind.is_complex else array


@st.composite
def layouts(draw):
    """Any leaves, of which some have the batch; or no batch at all."""
    rows = draw(st.none() | st.integers(0, 3))
    leaves = []
    for _ in range(draw(st.integers(0, 4))):
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        dim = None
        if rows is not None and draw(st.booleans()):
            dim = draw(st.integers(0, len(shape)))
            shape.insert(dim, rows)
        leaves.append(Leaf(tuple(shape), draw(st.sampled_from([FLOAT64, COMPLEX128])), dim))
    return Layout(leaves, rows), leaves


def arrays_for(leaves, lead):
    return [numbers(*lead, *leaf.shape, kind=leaf.dtype, seed=i) for i, leaf in enumerate(leaves)]


# There and back.


@fast
@given(layouts(), st.sampled_from(LEADS))
def test_scatter_undoes_gather(drawn, lead):
    layout, leaves = drawn
    arrays = arrays_for(leaves, lead)
    rows, shared = layout.gather(arrays, lead)
    assert rows.shape == (*lead, layout.rows, layout.row_width)
    assert shared.shape == (*lead, layout.shared_width)
    assert rows.dtype == shared.dtype == np.float64
    for array, found in zip(arrays, layout.scatter(rows, shared), strict=True):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array, strict=True)


@fast
@given(layouts(), st.sampled_from(LEADS))
def test_gather_undoes_scatter(drawn, lead):
    layout, _ = drawn
    rows = numbers(*lead, layout.rows, layout.row_width)
    shared = numbers(*lead, layout.shared_width, seed=1)
    again = layout.gather(layout.scatter(rows, shared), lead)
    np.testing.assert_array_equal(again[0], rows, strict=True)
    np.testing.assert_array_equal(again[1], shared, strict=True)


@fast
@given(layouts())
def test_each_number_has_one_column(drawn):
    layout, leaves = drawn
    widths = [prod(leaf.row_shape) * (2 if leaf.dtype.is_complex else 1) for leaf in leaves]
    total = layout.rows * layout.row_width + layout.shared_width
    expected = sum(
        width * (layout.rows if leaf.batch_dim is not None or not layout.batched else 1)
        for leaf, width in zip(leaves, widths, strict=True)
    )
    assert total == expected


@fast
@given(layouts(), st.integers(0, 3))
def test_concatenated_batches(drawn, points):
    """P batches one after another are a batch of P·R rows."""
    layout, leaves = drawn
    assume(layout.batched)
    rows = numbers(points, layout.rows, layout.row_width)
    shared = numbers(layout.shared_width, seed=1)
    one_by_one = [layout.scatter(block, shared) for block in rows]
    together = layout.scatter(rows.reshape(points * layout.rows, layout.row_width), shared)
    for i, leaf in enumerate(leaves):
        if leaf.batch_dim is None:
            np.testing.assert_array_equal(together[i], layout.scatter(rows[:0], shared)[i])
        elif points:
            joined = np.concatenate([arrays[i] for arrays in one_by_one], axis=leaf.batch_dim)
            np.testing.assert_array_equal(together[i], joined)


# Where the columns stand.


def test_leaves_stand_one_after_another():
    layout = Layout([Leaf((2,), FLOAT64, None), Leaf((), FLOAT64, None)], None)
    rows, shared = layout.gather([np.array([1.0, 2.0]), np.array(3.0)], ())
    assert rows.tolist() == [[1, 2, 3]]
    assert shared.tolist() == []
    assert (layout.rows, layout.batched) == (1, False)


def test_batched_leaves_stand_in_the_rows_and_others_are_shared():
    leaves = [Leaf((2, 3), FLOAT64, 1), Leaf((2,), FLOAT64, None), Leaf((3,), FLOAT64, 0)]
    layout = Layout(leaves, 3)
    x = np.array([[1.0, 2, 3], [4, 5, 6]])
    rows, shared = layout.gather([x, np.array([7.0, 8]), np.array([9.0, 10, 11])], ())
    assert rows.tolist() == [[1, 4, 9], [2, 5, 10], [3, 6, 11]]
    assert shared.tolist() == [7, 8]


def test_complex_numbers_are_two_columns():
    layout = Layout([Leaf((), FLOAT64, None), Leaf((2,), COMPLEX128, None)], None)
    rows, _ = layout.gather([np.array(1.0), np.array([2 + 3j, 4 + 5j])], ())
    assert rows.tolist() == [[1, 2, 3, 4, 5]]


def test_complex_displacements_of_real_leaves_stay_complex():
    layout = Layout([Leaf((2,), FLOAT64, 0), Leaf((), FLOAT64, None)], 2)
    x, p = layout.scatter(np.array([[1j], [2j]]), np.array([3j]))
    assert x.tolist() == [1j, 2j]
    assert p == 3j


@pytest.mark.parametrize("before", [0, 1, 2, 3])
@pytest.mark.parametrize("lead", LEADS)
def test_complex_leaves_are_aligned(before, lead):
    """Torch crashes on complex numbers that do not begin at a multiple of 16 bytes."""
    leaves = [Leaf((before,), FLOAT64, None), Leaf((3,), COMPLEX128, None)]
    layout = Layout(leaves, None)
    arrays = arrays_for(leaves, lead)
    found = layout.scatter(*layout.gather(arrays, lead))[1]
    assert found.ctypes.data % 16 == 0
    assert all(stride % 16 == 0 for stride in found.strides)


@pytest.mark.parametrize("order", ["transposed", "reversed", "strided", "broadcast"])
@pytest.mark.parametrize("kind", [FLOAT64, COMPLEX128])
def test_arrays_need_not_be_contiguous(order, kind):
    array = {
        "transposed": numbers(3, 2, kind=kind).T,
        "reversed": numbers(2, 3, kind=kind)[:, ::-1],
        "strided": numbers(4, 6, kind=kind)[::2, ::2],
        "broadcast": np.broadcast_to(numbers(1, 3, kind=kind), (2, 3)),
    }[order]
    layout = Layout([Leaf((2, 3), kind, None)], None)
    (found,) = layout.scatter(*layout.gather([array], ()))
    np.testing.assert_array_equal(found, array)


def test_gathered_columns_are_a_copy():
    layout = Layout([Leaf((2,), FLOAT64, None)], None)
    x = np.array([1.0, 2.0])
    rows, _ = layout.gather([x], ())
    rows[...] = 0
    assert x.tolist() == [1, 2]


def test_no_leaves():
    for rows in (None, 3):
        layout = Layout([], rows)
        assert (layout.row_width, layout.shared_width) == (0, 0)
        assert layout.scatter(*layout.gather([], (2,))) == []


@pytest.mark.parametrize(
    ("shape", "dim", "expected"),
    [((2, 3), None, (2, 3)), ((2, 3), 0, (3,)), ((2, 3), 1, (2,)), ((4,), 0, ()), ((), None, ())],
)
def test_shape_of_a_row(shape, dim, expected):
    assert Leaf(shape, FLOAT64, dim).row_shape == expected


# Rounding to the precision that the black box receives.

doubles = hnp.arrays(np.float64, hnp.array_shapes(max_dims=2, max_side=4))


@fast
@given(doubles, st.sampled_from(NARROW))
def test_rounding_is_that_of_torch(array, dtype):
    expected = torch.from_numpy(array).to(dtype).double().numpy()
    found = rounded(array.copy(), dtype)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


@fast
@given(doubles, st.sampled_from([torch.complex32, torch.complex64]))
def test_complex_numbers_are_rounded_by_part(array, dtype):
    z = np.empty(array.shape, np.complex128)
    z.real, z.imag = array, array[::-1]
    found = rounded(z, dtype)
    np.testing.assert_array_equal(found.real, rounded(z.real, dtype.to_real()))
    np.testing.assert_array_equal(found.imag, rounded(z.imag, dtype.to_real()))


@pytest.mark.parametrize(
    ("dtype", "third"),
    [
        (torch.float16, 0.333251953125),
        (torch.bfloat16, 0.333984375),
        (torch.float32, 0.3333333432674408),
        (torch.float64, 1 / 3),
        (torch.complex64, 0.3333333432674408),
        (torch.complex128, 1 / 3),
    ],
)
def test_a_third(dtype, third):
    assert rounded(np.array([1 / 3]), dtype).tolist() == [third]
    assert rounded(np.array([1 / 3 + 1j / 3]), dtype).tolist() == [third + third * 1j]


def test_double_precision_is_left_alone():
    array = numbers(3)
    assert rounded(array, FLOAT64) is array
    assert rounded(array, COMPLEX128) is array


def test_each_leaf_is_rounded_to_its_own_precision():
    leaves = [
        Leaf((1,), torch.float32, 0),
        Leaf((1,), FLOAT64, 0),
        Leaf((), torch.bfloat16, None),
        Leaf((1,), torch.complex64, 0),
    ]
    layout = Layout(leaves, 1)
    third = 1 / 3
    rows, shared = layout.round(np.full((1, 1, 4), third), np.full((1, 1), third))
    single = float(np.float32(third))
    assert rows.tolist() == [[[single, third, single, single]]]
    assert shared.tolist() == [[0.333984375]]


def test_rounding_of_what_is_not_displaced():
    layout = Layout([Leaf((1,), torch.float32, 0), Leaf((), torch.float32, None)], 1)
    rows, shared = layout.round(None, np.array([[1 / 3]]))
    assert rows is None
    assert shared.tolist() == [[float(np.float32(1 / 3))]]
    rows, shared = layout.round(np.array([[[1 / 3 + 1e-30j]]]), None)
    assert shared is None
    assert rows.tolist() == [[[complex(np.complex64(1 / 3 + 1e-30j))]]]


@pytest.mark.parametrize(
    ("dtypes", "exact"),
    [
        ([], True),
        ([FLOAT64, COMPLEX128], True),
        ([FLOAT64, torch.float32], False),
        ([torch.complex64], False),
    ],
)
def test_only_double_precision_is_exact(dtypes, exact):
    assert Layout([Leaf((1,), dtype, None) for dtype in dtypes], None).exact == exact
