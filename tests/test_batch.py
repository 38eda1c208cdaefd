"""Batches whose rows are independent, stacked points, and functions that lie about either."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import suture
from suture import FiniteDifference, directions, errors, stencils

CENTRAL = FiniteDifference(stencils.CENTRAL)
EXACT = {"rtol": 1e-6, "atol": 1e-6}


def point(*shape, start=0.5, stop=2.0, dtype=torch.float64):
    n = int(np.prod(shape))
    return torch.linspace(start, stop, n, dtype=dtype).reshape(shape).requires_grad_()


def rowwise(x, p):
    """Map (B, 3) and (2,) to (B, 2), one row at a time."""
    return torch.stack([x[:, 0] * x[:, 1] * p[0], x[:, 2] ** 2 + p[1] * x[:, 0]], dim=1)


def weighted(outputs):
    """Reduce outputs to one real number in which no two elements count alike."""
    total = 0.0
    for output in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
        flat = output.reshape(-1)
        flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
        total = total + (flat * torch.cos(torch.arange(1.0, len(flat) + 1).to(flat))).sum()
    return total


def assert_like_autograd(f, fn, *leaves, **tolerance):
    torch.testing.assert_close(f(*leaves), fn(*leaves))
    found = torch.autograd.grad(weighted(f(*leaves)), leaves)
    exact = torch.autograd.grad(weighted(fn(*leaves)), leaves)
    torch.testing.assert_close(found, exact, **{**EXACT, **tolerance})


def assert_three_lines(error, *words):
    text = str(error)
    assert len(text.splitlines()) == 3
    for word in words:
        assert word in text


# ------------------------------------------------------------------------------------------------
# Right gradients
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stencil", [stencils.FORWARD, stencils.CENTRAL, stencils.COMPLEX_STEP])
@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_batched_and_shared_leaves(interface, size, stencil):
    def fn(x, p):
        return x[:, :1] * x[:, 1:] * p[0] + p[1] * x[:, :1] ** 3

    f = suture.differentiable(
        fn, batch_dims=(0, None), interface=interface, method=FiniteDifference(stencil)
    )
    for _ in range(2):  # the second gradient does not check the claim
        assert_like_autograd(f, fn, point(size, 3), point(2))


@pytest.mark.parametrize(
    ("batch_dims", "fn", "shapes"),
    [
        (0, lambda x: x[:, 0] * x[:, 1], [(4, 2)]),
        ((0,), lambda x: x[:, 0] * x[:, 1], [(4, 2)]),
        ([0], lambda x: x[:, 0] * x[:, 1], [(4, 2)]),
        (0, lambda x, y: (x * y).sum(1), [(4, 2), (4, 2)]),
        (0, lambda x, y: x * y, [(4,), (4,)]),
        (0, lambda x: x.flatten(1).prod(1), [(3, 2, 2)]),
        ((1, None), lambda x, p: (x[0] * x[1] * p[0] + p[1]), [(2, 4), (2,)]),
        ((-1, None), lambda x, p: (x[0] * x[1] * p[0] + p[1]), [(2, 4), (2,)]),
        ((1, 0), lambda x, y: x.t() * y, [(2, 4), (4, 2)]),
        ((2, None), lambda x, p: x.sum((0, 1)) * x[0, 0] * p, [(2, 3, 4), ()]),
        ((0, None), lambda x, p: (x @ p) ** 2, [(4, 2), (2, 3)]),
        ((None, 0), lambda p, x: (x @ p) ** 2, [(2, 3), (4, 2)]),
    ],
    ids=[
        "int prefix", "tuple", "list", "int over two", "rows of scalars", "rows of matrices",
        "second axis", "last axis", "two axes", "third axis", "shared matrix", "shared first",
    ],
)  # fmt: skip
def test_batch_dims(batch_dims, fn, shapes):
    f = suture.differentiable(fn, batch_dims=batch_dims, method=CENTRAL)
    assert_like_autograd(f, fn, *(point(*shape) for shape in shapes))


@pytest.mark.parametrize(
    "batch_dims",
    [
        ({"x": 0, "p": None}, 0),
        ({"x": 0, "p": (None, None)}, [0, 0]),
        ({"x": 0, "p": None}, [0, 0]),
    ],
)
def test_batch_dims_are_a_prefix_of_the_structure(batch_dims):
    def fn(nested, others):
        first, second = others
        p, q = nested["p"]
        return nested["x"].prod(1) * p + first * q * second[:, 0]

    leaves = [point(4, 2), point(1), point(1, start=3.0), point(4), point(4, 1)]

    def arrange(call):
        return lambda x, p, q, first, second: call({"x": x, "p": (p, q)}, [first, second])

    f = suture.differentiable(fn, batch_dims=batch_dims, method=CENTRAL)
    assert_like_autograd(arrange(f), arrange(fn), *leaves)


def test_keyword_arguments_are_shared():
    def fn(x, *, p=2.0):
        return x[:, 0] * x[:, 1] * p

    f = suture.differentiable(fn, batch_dims=(0,), method=CENTRAL)
    x, p = point(4, 2), point(1)
    found = torch.autograd.grad(weighted(f(x, p=p)), (x, p))
    exact = torch.autograd.grad(weighted(fn(x, p=p)), (x, p))
    torch.testing.assert_close(found, exact, **EXACT)


def test_constants_and_integers_beside_a_batch():
    def fn(x, index, power, name):
        return x.gather(1, index)[:, 0] ** power if name == "k" else x

    f = suture.differentiable(fn, batch_dims=(0, 0, None, None), method=CENTRAL)
    x, index = point(4, 3), torch.tensor([[0], [2], [1], [1]])
    (found,) = torch.autograd.grad(f(x, index, 2, "k").sum(), x)
    (exact,) = torch.autograd.grad(fn(x, index, 2, "k").sum(), x)
    torch.testing.assert_close(found, exact, **EXACT)


@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_numpy_array_beside_a_batch(interface):
    f = suture.differentiable(
        lambda x, table: x[:, 0] * float(table.sum()), batch_dims=(0, None), interface=interface
    )
    x = point(4, 3)
    (found,) = torch.autograd.grad(f(x, np.arange(3.0)).sum(), x)
    torch.testing.assert_close(found[:, 0], torch.full((4,), 3.0).to(found))


def test_several_outputs_with_the_batch_first():
    def fn(x, p):
        return x.prod(1) * p, (x * x)[:, :, None] * p, x[:, 0] > 1.0

    def floating(call):
        return lambda *args: call(*args)[:2]

    f = suture.differentiable(fn, batch_dims=(0, None), method=CENTRAL)
    assert_like_autograd(floating(f), floating(fn), point(4, 3), point(1))
    torch.testing.assert_close(f(point(4, 3), point(1))[2], point(4, 3)[:, 0] > 1.0)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_leaves(dtype):
    def fn(z, p):
        return z[:, 0] * z[:, 1].conj() * p

    z = torch.complex(point(4, 2), point(4, 2, start=-1.0, stop=1.0)).detach().to(dtype)
    p = torch.tensor([0.5 + 2j], dtype=dtype)
    f = suture.differentiable(fn, batch_dims=(0, None), method=CENTRAL)
    assert_like_autograd(f, fn, z.requires_grad_(), p.requires_grad_())


def test_empty_batch():
    f = suture.differentiable(rowwise, batch_dims=(0, None))
    x, p = point(0, 3), point(2)
    y = f(x, p)
    assert y.shape == (0, 2)
    found = torch.autograd.grad(y.sum(), (x, p))
    assert found[0].shape == (0, 3)
    torch.testing.assert_close(found[1], torch.zeros(2, dtype=torch.float64))


def test_first_batch_of_one_row_does_not_use_up_the_check():
    """With one row nothing can be seen of the claim, so the next batch is checked."""
    f = suture.differentiable(
        lambda x: 2 * x - x.mean(1, keepdim=True), batch_dims=0, vectorized=True
    )
    f(point(1, 3)).sum().backward()
    y = f(point(4, 3)).sum()
    with pytest.raises(errors.BadResult):
        y.backward()


def test_first_batch_without_rows_does_not_use_up_the_check():
    f = suture.differentiable(LIARS["batch norm"], batch_dims=0)
    f(point(0, 3)).sum().backward()
    y = f(point(4, 3)).sum()
    with pytest.raises(errors.BadResult):
        y.backward()


def test_each_row_has_its_own_step():
    """The displacement is step · max(|x|, rms of the column over the rows)."""
    seen = []

    def fn(x):
        seen.append(x.clone())
        return (x * x).sum(1)

    x = torch.tensor([[1.0, 100.0], [7.0, -0.01], [-1.0, 0.0]], dtype=torch.float64)
    x.requires_grad_()
    f = suture.differentiable(fn, batch_dims=0, method=FiniteDifference(step=0.01))
    for _ in range(2):  # the first gradient checks the claim as well
        f(x).sum().backward()
    x = x.detach()
    rms = x.square().mean(0).sqrt()
    expected = 0.01 * torch.maximum(x.abs(), rms)
    moved = seen[-1].reshape(2, 3, 2) - x
    torch.testing.assert_close(moved[0], expected * torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(moved[1], expected * torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("wide", [False, True])
def test_rows_of_very_different_magnitude_with_a_scale(wide):
    size = 10.0 ** torch.arange(-9.0, 10.0, 3.0, dtype=torch.float64)[:, None]
    x = (size * torch.tensor([[1.0, 2.0, -0.5]], dtype=torch.float64)).requires_grad_()
    scale = size.expand(-1, 3) if wide else size
    f = suture.differentiable(
        lambda x, size: ((x / size) ** 3).sum(1), batch_dims=0, scale=(scale, None)
    )
    (found,) = torch.autograd.grad(f(x, size).sum(), x)
    exact = 3 * (x.detach() / size) ** 2 / size
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 100])
@pytest.mark.parametrize("vectorized", [False, True])
def test_chunks_give_the_same_gradient(chunk_size, vectorized):
    def fn(x, p):
        return (x[..., 0] * x[..., 1]) * p.sum(-1, keepdim=True)

    whole = suture.differentiable(fn, batch_dims=(0, None), vectorized=vectorized)
    parts = suture.differentiable(
        fn, batch_dims=(0, None), vectorized=vectorized, chunk_size=chunk_size
    )
    leaves = point(5, 2), point(2)
    found = torch.autograd.grad(weighted(parts(*leaves)), leaves)
    exact = torch.autograd.grad(weighted(whole(*leaves)), leaves)
    assert all(torch.equal(*pair) for pair in zip(found, exact, strict=True))


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_large_output_is_contracted_in_chunks(chunk_size):
    def fn(x):
        return x[:, None] * x[None, :]

    x = point(40)
    f = suture.differentiable(fn, chunk_size=chunk_size, method=CENTRAL)
    assert_like_autograd(f, fn, x)


@pytest.mark.parametrize(
    "kind", [directions.Gaussian, directions.Rademacher, directions.Orthogonal]
)
def test_random_directions_that_span_a_row(kind):
    """Slopes are per row, so as many directions as a row has inputs recover it."""

    def fn(x):
        return x[:, 0] * x[:, 1] ** 2

    method = FiniteDifference(stencils.CENTRAL, kind(8, recovery="least_squares"))
    f = suture.differentiable(fn, batch_dims=0, method=method, seed=0)
    assert_like_autograd(f, fn, point(5, 2), rtol=1e-5, atol=1e-5)


def test_random_directions_over_batched_and_shared_leaves():
    method = FiniteDifference(stencils.CENTRAL, directions.Orthogonal(5, recovery="least_squares"))
    f = suture.differentiable(rowwise, batch_dims=(0, None), method=method, seed=0)
    assert_like_autograd(f, rowwise, point(6, 3), point(2), rtol=1e-5, atol=1e-5)


def test_random_directions_are_right_on_average():
    method = FiniteDifference(stencils.CENTRAL, directions.Rademacher(1))
    x, p = point(3, 3), point(2)
    found = torch.zeros_like(x)
    for seed in range(400):
        f = suture.differentiable(rowwise, batch_dims=(0, None), method=method, seed=seed)
        found += torch.autograd.grad(f(x, p).sum(), x)[0] / 400
    (exact,) = torch.autograd.grad(rowwise(x, p).sum(), x)
    # The standard deviation of an entry is at most √(n - 1) |g| / √400.
    assert (found - exact).abs().max() < 4 * 2 * exact.norm(dim=1).max() / 20


# ------------------------------------------------------------------------------------------------
# Under the transforms
# ------------------------------------------------------------------------------------------------


def test_jacobian_is_block_diagonal():
    f = suture.differentiable(rowwise, batch_dims=(0, None), method=CENTRAL)
    x, p = point(4, 3).detach(), point(2).detach()
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        found = transform(f, argnums=(0, 1))(x, p)
        exact = transform(rowwise, argnums=(0, 1))(x, p)
        torch.testing.assert_close(found, exact, **EXACT)
        off = found[0][0, :, 1:]  # row 0 of the output by the other rows of the input
        assert torch.equal(off, torch.zeros_like(off))


def test_hessian():
    f = suture.differentiable(rowwise, batch_dims=(0, None), method=CENTRAL)
    x, p = point(3, 3).detach(), point(2).detach()
    found = torch.func.hessian(lambda x, p: weighted(f(x, p)), argnums=(0, 1))(x, p)
    exact = torch.func.hessian(lambda x, p: weighted(rowwise(x, p)), argnums=(0, 1))(x, p)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_double_backward():
    f = suture.differentiable(rowwise, batch_dims=(0, None), method=CENTRAL)
    leaves = point(3, 3), point(2)

    def second(fn):
        first = torch.autograd.grad(fn(*leaves).square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(weighted(g) for g in first), leaves)

    torch.testing.assert_close(second(f), second(rowwise), rtol=1e-4, atol=1e-4)


def test_jvp():
    f = suture.differentiable(rowwise, batch_dims=(0, None), method=CENTRAL)
    primals = point(3, 3).detach(), point(2).detach()
    tangents = point(3, 3, start=-1.0).detach(), point(2, start=-3.0).detach()
    found = torch.func.jvp(f, primals, tangents)
    torch.testing.assert_close(found, torch.func.jvp(rowwise, primals, tangents), **EXACT)


@pytest.mark.parametrize("vectorized", [False, True])
def test_vmap_over_a_batch_function(vectorized):
    def fn(x, p):
        return x[..., 0] * x[..., 1] * p.sum(-1, keepdim=True)

    f = suture.differentiable(fn, batch_dims=(0, None), vectorized=vectorized, method=CENTRAL)
    x, p = point(3, 4, 2), point(3, 2)
    mapped = torch.func.vmap(f)
    assert_like_autograd(mapped, torch.func.vmap(fn), x, p)
    shared = torch.func.vmap(f, in_dims=(0, None))
    assert_like_autograd(shared, torch.func.vmap(fn, in_dims=(0, None)), x, point(2))


def test_vmap_grad_over_a_batch_function():
    f = suture.differentiable(rowwise, batch_dims=(0, None), method=CENTRAL)
    x, p = point(3, 4, 3).detach(), point(2).detach()

    def per_sample(fn):
        gradient = torch.func.grad(lambda x, p: weighted(fn(x, p)), argnums=(0, 1))
        return torch.func.vmap(gradient, in_dims=(0, None))(x, p)

    torch.testing.assert_close(per_sample(f), per_sample(rowwise), **EXACT)


def test_function_of_one_sample_is_mapped_with_vmap():
    def fn(row, p):
        return row.prod() * p.sum()

    f = suture.differentiable(fn, method=CENTRAL)
    maps = [torch.func.vmap(g, in_dims=(0, None)) for g in (f, fn)]
    assert_like_autograd(*maps, point(4, 3), point(2))


@pytest.mark.parametrize("out_dims", [0, 1])
@pytest.mark.parametrize("in_dims", [(0, None), (1, None), (2, 0)])
def test_vmap_dims(in_dims, out_dims):
    def fn(x, p):
        return x.flatten()[:2] * x.sum() * p

    f = suture.differentiable(fn, method=CENTRAL)
    p = point(2) if in_dims[1] is None else point(2, 2)
    maps = [torch.func.vmap(g, in_dims=in_dims, out_dims=out_dims) for g in (f, fn)]
    assert_like_autograd(*maps, point(2, 2, 2), p)


# ------------------------------------------------------------------------------------------------
# Functions that lie about their rows
# ------------------------------------------------------------------------------------------------

LIARS = {
    "batch norm": lambda x: x - x.mean(0),
    "softmax over rows": lambda x: torch.softmax(x, 0),
    "sorted rows": lambda x: x.sort(0).values,
    "neighbor": lambda x: x + 0.5 * x.roll(1, 0),
    "last row leads": lambda x: x * x[-1:],
    "first row leads": lambda x: x * x[:1],
    "reversed": lambda x: x.flip(0) ** 2,
    "cumulative": lambda x: x.cumsum(0),
}


HOW_CALLED = {
    "concatenated": {},
    "one by one": {"chunk_size": 1},
    "two by two": {"chunk_size": 2},
    "vectorized": {"vectorized": True},
    "vectorized one by one": {"vectorized": True, "chunk_size": 1},
}


def called(fn, keywords):
    """Return fn as `vectorized` wants it, with points on a new leading axis, or as it is."""
    return torch.func.vmap(fn) if keywords.get("vectorized") else fn


@pytest.mark.parametrize("keywords", HOW_CALLED.values(), ids=HOW_CALLED)
@pytest.mark.parametrize("fn", LIARS.values(), ids=LIARS)
def test_liar_is_caught(fn, keywords):
    f = suture.differentiable(called(fn, keywords), batch_dims=0, **keywords)
    x = torch.sin(torch.arange(1.0, 13.0, dtype=torch.float64)).reshape(4, 3).requires_grad_()
    y = f(x)
    with pytest.raises(errors.BadResult) as caught:
        weighted(y).backward()
    assert_three_lines(caught.value, "batch_dims")
    assert x.grad is None


@pytest.mark.parametrize("keywords", HOW_CALLED.values(), ids=HOW_CALLED)
def test_function_divided_by_the_number_of_rows(keywords):
    """It lies only where batches are concatenated; elsewhere it sees its true number of rows."""

    def fn(x):
        return x * x / len(x)

    f = suture.differentiable(called(fn, keywords), batch_dims=0, method=CENTRAL, **keywords)
    if keywords not in ({}, {"chunk_size": 2}):
        assert_like_autograd(f, fn, point(4, 3))
        return
    y = f(point(4, 3))
    with pytest.raises(errors.BadResult) as caught:
        weighted(y).backward()
    assert_three_lines(caught.value, "batch_dims")


def test_liar_is_told_which_row_moved():
    f = suture.differentiable(LIARS["batch norm"], batch_dims=0, name="norm")
    with pytest.raises(errors.BadResult, match=r"row"):
        f(point(4, 3)).sum().backward()


def test_liar_is_harmless_as_long_as_no_batched_leaf_is_differentiated():
    f = suture.differentiable(lambda x, p: (x - x.mean(0)) * p, batch_dims=(0, None))
    x, p = point(4, 3).detach(), point(1)
    (found,) = torch.autograd.grad(weighted(f(x, p)), p)
    (exact,) = torch.autograd.grad(weighted((x - x.mean(0)) * p), p)
    torch.testing.assert_close(found, exact, **EXACT)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: torch.func.grad(lambda x: weighted(f(x))),
        lambda f: lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),)),
        torch.func.jacfwd,
        torch.func.jacrev,
        lambda f: lambda x: torch.func.vmap(f)(torch.stack([x, 2 * x])),
    ],
    ids=["grad", "jvp", "jacfwd", "jacrev", "vmap"],
)
def test_liar_is_caught_under_transforms(transform):
    f = suture.differentiable(LIARS["batch norm"], batch_dims=0)
    x = point(4, 3)
    result = None
    with pytest.raises(errors.BadResult):  # noqa: PT012 - some transforms leave a graph
        result = transform(f)(x)
        weighted(result).backward()
    assert x.grad is None


def test_claim_is_checked_once_only():
    norm = []

    def fn(x):
        return x - x.mean(0) if norm else x * x

    f = suture.differentiable(fn, batch_dims=0, method=FiniteDifference(stencils.FORWARD))
    f(point(4, 3)).sum().backward()
    norm.append("now it lies")
    f(point(4, 3)).sum().backward()  # documented: the claim is the user's from here on
    assert f.evaluations == 2 * (1 + 3) + 1


def test_failed_claim_is_checked_again():
    f = suture.differentiable(LIARS["batch norm"], batch_dims=0)
    for _ in range(2):
        with pytest.raises(errors.BadResult):
            f(point(4, 3)).sum().backward()


def test_honest_function_with_rounding_that_depends_on_the_batch():
    """A matrix product may round another way for another number of rows; that is no lie."""
    weight = torch.sin(torch.arange(1.0, 1 + 64 * 8, dtype=torch.float64)).reshape(64, 8)
    f = suture.differentiable(lambda x: torch.tanh(x @ weight), batch_dims=0)
    for size in (2, 3, 33):
        x = torch.sin(torch.arange(size * 64, dtype=torch.float64)).reshape(size, 64)
        x.requires_grad_()
        assert_like_autograd(f, lambda x: torch.tanh(x @ weight), x)


@pytest.mark.parametrize("returned", [torch.float32, torch.bfloat16])
def test_honest_function_of_low_precision(returned):
    f = suture.differentiable(lambda x: (x * x).to(returned), batch_dims=0)
    x = point(4, 3)
    (found,) = torch.autograd.grad(f(x).sum(), x)
    torch.testing.assert_close(found, 2 * x.detach(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.sum(),
        lambda x: x.sum(0),
        lambda x: x[:2],
        lambda x: (x, x.sum()),
        lambda x: (x, torch.ones(3)),
        lambda x: 1.0,
        lambda x: x.t(),
    ],
    ids=["0-d", "summed", "two rows", "0-d beside", "constant beside", "number", "transposed"],
)
def test_output_without_the_batch_first(fn):
    f = suture.differentiable(fn, batch_dims=0)
    with pytest.raises(errors.BadResult) as caught:
        f(point(4, 3))
    assert_three_lines(caught.value, "batch_dims")


def test_integer_output_without_the_batch_first():
    """A count of iterations has no gradient, but it would change with the number of rows."""
    f = suture.differentiable(lambda x: (x * x, torch.tensor(7)), batch_dims=0)
    with pytest.raises(errors.BadResult) as caught:
        f(point(4, 3))
    assert_three_lines(caught.value, "batch_dims")


def test_function_of_a_fixed_number_of_rows():
    weight = torch.ones(4, 3, dtype=torch.float64)
    f = suture.differentiable(lambda x: x * x * weight, batch_dims=0)
    y = f(point(4, 3))
    with pytest.raises(errors.EvaluationError) as caught:
        y.sum().backward()
    assert_three_lines(caught.value, "chunk_size=1")


def test_function_that_returns_a_fixed_number_of_rows():
    f = suture.differentiable(lambda x: x[:4] * x[:4], batch_dims=0)
    y = f(point(4, 3))
    with pytest.raises(errors.BadResult) as caught:
        y.sum().backward()
    assert_three_lines(caught.value)


def test_fixed_number_of_rows_works_one_point_at_a_time():
    weight = torch.arange(1.0, 13.0, dtype=torch.float64).reshape(4, 3)

    def fn(x):
        return x * x * weight

    f = suture.differentiable(fn, batch_dims=0, chunk_size=1, method=CENTRAL)
    assert_like_autograd(f, fn, point(4, 3))


def test_nan_in_one_row_names_it():
    def fn(x):
        y = x * x
        y[2][x[2] > point(4, 3)[2]] = float("nan")
        return y

    f = suture.differentiable(fn, batch_dims=0, method=FiniteDifference(stencils.FORWARD))
    y = f(point(4, 3))
    with pytest.raises(errors.BadResult) as caught:
        y.sum().backward()
    assert_three_lines(caught.value)


# ------------------------------------------------------------------------------------------------
# batch_dims that do not fit
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_dims", "shapes"),
    [
        ((0, None, None), [(4, 3), (2,)]),
        ((0,), [(4, 3), (2,)]),
        ((2, None), [(4, 3), (2,)]),
        ((-3, None), [(4, 3), (2,)]),
        ((0, 0), [(4, 3), (2,)]),
        (0, [(4, 3), (5, 3)]),
        ((0, 0), [(4, 3), ()]),
        ((1, 0), [(4, 3), (4, 3)]),
        (({"a": 0}, None), [(4, 3), (2,)]),
        ((None, None), [(4, 3), (2,)]),
    ],
    ids=[
        "too many", "too few", "no such axis", "no such negative axis", "sizes differ",
        "sizes differ under an int", "0-d", "sizes differ by axis", "other structure", "no batch",
    ],
)  # fmt: skip
def test_batch_dims_that_do_not_fit(batch_dims, shapes):
    f = suture.differentiable(lambda x, p: x[:, 0] * p.sum(), batch_dims=batch_dims)
    with pytest.raises(errors.MethodError) as caught:
        f(*(point(*shape) for shape in shapes))
    assert_three_lines(caught.value, "batch_dims")
    assert f.evaluations == 0


@pytest.mark.parametrize("batch_dims", ["rows", (0, "p"), 0.0, (0, 1.5), True, (False, None)])
def test_batch_dims_of_another_type(batch_dims):
    with pytest.raises(errors.MethodError) as caught:
        suture.differentiable(rowwise, batch_dims=batch_dims)(point(4, 3), point(2))
    assert_three_lines(caught.value, "batch_dims")


def test_batch_dim_of_a_constant():
    f = suture.differentiable(lambda x, n: x[:, 0] * n, batch_dims=0)
    with pytest.raises(errors.MethodError) as caught:
        f(point(4, 3), 2.0)
    assert_three_lines(caught.value, "batch_dims")


# ------------------------------------------------------------------------------------------------
# Stacked points
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interface", ["torch", "numpy"])
@pytest.mark.parametrize("stencil", [stencils.FORWARD, stencils.CENTRAL, stencils.COMPLEX_STEP])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_vectorized(shape, stencil, interface):
    def fn(x):
        return x * x * x

    f = suture.differentiable(
        fn, vectorized=True, method=FiniteDifference(stencil), interface=interface
    )
    assert_like_autograd(f, fn, point(*shape))


def test_vectorized_takes_every_floating_argument_stacked():
    shapes = []

    def fn(x, w, index, n):
        shapes.append((x.shape, w.shape, index.shape, n))
        return (x * w[:, :1]) ** n + index.sum()

    f = suture.differentiable(fn, vectorized=True, method=CENTRAL)
    x, w, index = point(3), point(2), torch.arange(4)
    found = torch.autograd.grad(f(x, w, index, 2).sum(), (x, w))
    exact = torch.autograd.grad(fn(x[None], w[None], index, 2).sum(), (x, w))
    torch.testing.assert_close(found, exact, **EXACT)
    assert shapes[:2] == [((1, 3), (1, 2), (4,), 2), ((10, 3), (10, 2), (4,), 2)]


def test_vectorized_complex_inputs():
    z = torch.tensor([1 + 2j, -0.5j], dtype=torch.complex128, requires_grad=True)

    def fn(z):
        return z * z.conj() * (1 + 1j)

    f = suture.differentiable(fn, vectorized=True, method=CENTRAL)
    assert_like_autograd(f, fn, z)


def test_vectorized_several_outputs():
    def fn(x):
        return x[..., :1] * x[..., 1:], x.sum(-1)

    f = suture.differentiable(fn, vectorized=True, method=CENTRAL)
    assert_like_autograd(f, fn, point(4))


@pytest.mark.parametrize("batch_dims", [(0, None), (1, None)])
def test_vectorized_batch_has_points_first(batch_dims):
    shapes = []

    def fn(x, p):
        shapes.append((tuple(x.shape), tuple(p.shape)))
        x = x if batch_dims[0] == 0 else x.transpose(-1, -2)
        return x[..., 0] * x[..., 1] * p.sum(-1, keepdim=True)

    f = suture.differentiable(fn, vectorized=True, batch_dims=batch_dims, method=CENTRAL)
    shape = (4, 2) if batch_dims[0] == 0 else (2, 4)
    assert_like_autograd(f, fn, point(*shape), point(3))
    assert shapes[0] == ((1, *shape), (1, 3))
    assert all(x[1:] == shape and p == (x[0], 3) for x, p in shapes if len(x) == 3)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.sum(),
        lambda x: x[0],
        lambda x: x.sum(0),
        lambda x: x.t(),
        lambda x: (x, x.sum()),
        lambda x: x[:1],
        lambda x: 1.0,
    ],
    ids=["0-d", "first", "summed", "transposed", "0-d beside", "always one", "number"],
)
def test_vectorized_liar(fn):
    f = suture.differentiable(fn, vectorized=True)
    x = point(3)
    with pytest.raises(errors.BadResult) as caught:
        weighted(f(x)).backward()
    assert_three_lines(caught.value, "vectorized")
    assert x.grad is None


# ------------------------------------------------------------------------------------------------
# Private copies
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["both", "batched", "shared"])
@pytest.mark.parametrize("interface", ["torch", "numpy"])
@pytest.mark.parametrize("chunk_size", [None, 1, 2])
def test_function_that_changes_its_arguments(wanted, interface, chunk_size):
    def fn(x, p):
        result = x[:, 0] * x[:, 1] * p.sum()
        x *= 0.0
        p *= 0.0
        return result

    x, p = point(4, 2), point(2)
    leaves = [leaf for leaf, kind in ((x, "batched"), (p, "shared")) if wanted in (kind, "both")]
    exact = torch.autograd.grad((x[:, 0] * x[:, 1] * p.sum()).sum(), leaves)
    x, p = (t if any(t is leaf for leaf in leaves) else t.detach() for t in (x, p))
    before = x.detach().clone(), p.detach().clone()
    f = suture.differentiable(
        fn, batch_dims=(0, None), interface=interface, method=CENTRAL, chunk_size=chunk_size
    )
    for _ in range(2):
        found = torch.autograd.grad(f(x, p).sum(), leaves)
        torch.testing.assert_close(found, exact, **EXACT)
        assert torch.equal(x.detach(), before[0])
        assert torch.equal(p.detach(), before[1])


# ------------------------------------------------------------------------------------------------
# Random batches
# ------------------------------------------------------------------------------------------------


def features(x, leading):
    """Return one number for each combination of the leading axes."""
    if x.is_complex():
        x = (x * x * (1 + 2j)).imag + (x * x.conj()).real
    x = x.reshape(*x.shape[:leading], int(np.prod(x.shape[leading:])))
    return (torch.sin(x) * torch.arange(1.0, x.shape[-1] + 1, dtype=x.dtype)).sum(-1)


def any_batch(dims, stacked):
    """Return a function of arguments with these batch dimensions, None for shared ones."""

    def fn(*args):
        total = torch.ones((), dtype=torch.float64)
        for arg, dim in zip(args, dims, strict=True):
            if dim is None:
                shared = features(arg, stacked)
                total = total * (2.0 + (shared[:, None] if stacked else shared))
            else:
                total = total * (2.0 + features(arg.movedim(dim + stacked, stacked), stacked + 1))
        return total, torch.stack([total, total**2], -1), total * (1 + 1j)

    return fn


@st.composite
def batches(draw):
    """Return arguments, the batch dimension of each, and keywords for `differentiable`."""
    rows = draw(st.integers(0, 4))
    args, dims = [], []
    for i in range(draw(st.integers(1, 3))):
        shape = draw(st.lists(st.integers(0, 3), max_size=2))
        dim = draw(st.none() | st.integers(0, len(shape))) if i else len(shape)
        if dim is not None:
            shape.insert(dim, rows)
        dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.complex128]))
        values = torch.linspace(0.3, 1.3, int(np.prod(shape)), dtype=torch.float64)
        values = (values * (1 - 0.5j) if dtype.is_complex else values).to(dtype)
        args.append(values.reshape(shape).requires_grad_(i == 0 or draw(st.booleans())))
        dims.append(dim)
    keywords = {
        "vectorized": draw(st.booleans()),
        "chunk_size": draw(st.none() | st.integers(1, 5)),
        "interface": draw(st.sampled_from(["torch", "numpy"])),
    }
    return args, tuple(dims), keywords


@settings(max_examples=60, deadline=None, derandomize=True)
@given(batches())
def test_random_batch(batch):
    args, dims, keywords = batch
    fn, twin = any_batch(dims, int(keywords["vectorized"])), any_batch(dims, 0)

    def received(*args):
        if keywords["interface"] == "torch":
            return fn(*args)
        return tuple(y.numpy() for y in fn(*(torch.tensor(arg) for arg in args)))

    f = suture.differentiable(received, batch_dims=dims, method=CENTRAL, **keywords)
    wide = [t.to(torch.complex128 if t.is_complex() else torch.float64) for t in args]
    leaves = [leaf for leaf in args if leaf.requires_grad]
    close = {"rtol": 1e-5, "atol": 1e-5, "check_dtype": False}
    torch.testing.assert_close(f(*args), twin(*wide), **close)
    for _ in range(2):  # the first gradient checks the claim as well
        found = torch.autograd.grad(weighted(f(*args)), leaves)
        torch.testing.assert_close(
            found, torch.autograd.grad(weighted(twin(*wide)), leaves), **close
        )
