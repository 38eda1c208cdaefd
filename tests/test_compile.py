"""torch.compile: a graph break around the black box, and the numbers and counts of eager mode.

Upstream drops the tangent and the gradient of an autograd.Function inside a compiled region without
a word (pytorch#192985, #193279), so each of these would be zero if the boundary were traced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, hessian, jacfwd, jacrev, vmap

from suture import Differentiable, FiniteDifference, differentiable, errors, stencils

pytestmark = [
    # The compiler's own use of torch.jit.script and of lru_cache (2.13).
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    import torch._dynamo  # here and not above: collection stays cheap

    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def cubes(x: Any) -> Any:
    return x**3 * np.array([1.0, 2.0])


def cubes_twin(x: Tensor) -> Tensor:
    return x**3 * torch.tensor([1.0, 2.0], dtype=x.dtype)


def black_box(**options: Any) -> Differentiable:
    method = FiniteDifference(stencils.CENTRAL)
    return differentiable(cubes, method=method, interface="numpy", **options)


def model_with(activation: Callable[[Tensor], Tensor]) -> nn.Module:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.Linear(2, 2), nn.Linear(2, 1)
            self.activation = activation

        def forward(self, x: Tensor) -> Tensor:
            return self.after(torch.relu(self.activation(self.before(x).tanh())))

    model = Model()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            numbers = torch.arange(parameter.numel(), dtype=torch.float32)
            parameter.copy_((numbers + i).sin().reshape(parameter.shape))
    return model


def train(model: nn.Module, run: Callable[[Tensor], Tensor], sizes: list[int]) -> list[Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for size in sizes:
        x = torch.linspace(-1, 1, 2 * size).reshape(size, 2)
        optimizer.zero_grad()
        (run(x) - 0.5).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, [3]),  # the default backend: one step
        ({"backend": "aot_eager"}, [3, 3]),
        ({"backend": "aot_eager", "dynamic": True}, [3, 5, 2]),
    ],
    ids=["inductor", "aot_eager", "dynamic batch"],
)
def test_training_step(options: dict[str, Any], sizes: list[int]) -> None:
    eager_box, compiled_box = black_box(batch_dims=0), black_box(batch_dims=0)
    eager, model = model_with(eager_box), model_with(compiled_box)
    expected = train(eager, eager, sizes)
    actual = train(model, torch.compile(model, **options), sizes)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    assert compiled_box.evaluations == eager_box.evaluations == len(sizes) * (1 + 4) + 1
    start = list(model_with(nn.Identity()).parameters())
    assert all(not torch.allclose(new, old) for new, old in zip(actual, start, strict=True))
    twin = model_with(cubes_twin)
    torch.testing.assert_close(actual, train(twin, twin, sizes), rtol=1e-5, atol=1e-6)


X = torch.tensor([0.5, -1.2], dtype=torch.float64)
ROWS = torch.tensor([[0.5, -1.2], [0.3, 0.8], [-0.6, 1.1]], dtype=torch.float64)

COMPILED: dict[str, Callable[[Any], tuple[Callable[..., Any], Tensor]]] = {
    "value": lambda f: (f, X),
    "grad": lambda f: (grad(lambda x: f(x).square().sum()), X),
    "jvp": lambda f: (lambda x: torch.func.jvp(f, (x,), (x + 1,)), X),
    "vjp": lambda f: (lambda x: torch.func.vjp(f, x)[1](x), X),
    "jacrev": lambda f: (jacrev(f), X),
    "jacfwd": lambda f: (jacfwd(f), X),
    "hessian": lambda f: (hessian(lambda x: f(x).square().sum()), X),
    "vmap": lambda f: (vmap(f), ROWS),
    "vmap of grad": lambda f: (vmap(grad(lambda x: f(x).square().sum())), ROWS),
}


@pytest.mark.parametrize("build", COMPILED.values(), ids=COMPILED.keys())
def test_compile_of_a_transform(build: Any) -> None:
    f = black_box()
    run, x = build(f)
    actual = torch.compile(run, backend="aot_eager")(x)
    expected = build(cubes_twin)[0](x)
    assert not all((t == 0).all() for t in torch.utils._pytree.tree_leaves(expected))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_nothing_of_the_black_box_is_compiled() -> None:
    """A graph break alone is not enough: the frames below it would be compiled one by one, and the
    user's NumPy be rewritten to torch operations."""
    seen = []

    def watched(x: Any) -> Any:
        seen.append(torch.compiler.is_compiling())
        return cubes(x)

    f = differentiable(watched, interface="numpy", method=FiniteDifference(stencils.FORWARD))
    torch.compile(lambda x: f(x) * 2, backend="aot_eager")(X)
    torch.compile(grad(lambda x: f(x).sum()), backend="aot_eager")(X)
    assert seen == [False] * (1 + 3)


def test_transform_of_a_compiled_function() -> None:
    f = black_box()
    compiled = torch.compile(lambda x: (f(x) ** 2).sum(), backend="aot_eager")
    expected = grad(lambda x: cubes_twin(x).square().sum())(X)
    torch.testing.assert_close(grad(compiled)(X), expected, rtol=1e-7, atol=1e-7)


def test_backward_inside_a_compiled_function() -> None:
    f = black_box()

    @torch.compile(backend="aot_eager")
    def step(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((f(x * 2) ** 2).sum(), x)
        return gradient * 3

    expected = 3 * grad(lambda x: cubes_twin(2 * x).square().sum())(X)
    torch.testing.assert_close(step(X), expected, rtol=1e-7, atol=1e-7)


def test_second_derivative_through_a_compiled_region_is_right_or_loud() -> None:
    """The black box alone is never compiled; torch refuses to go twice through what it compiled."""
    f = black_box()
    x = X.clone().requires_grad_()
    (first,) = torch.autograd.grad(
        torch.compile(f, backend="aot_eager")(x).square().sum(), x, create_graph=True
    )
    (second,) = torch.autograd.grad(first.sum(), x)
    wanted = hessian(lambda x: cubes_twin(x).square().sum())(X).sum(0)
    torch.testing.assert_close(second, wanted, rtol=1e-5, atol=1e-5)
    compiled = torch.compile(lambda x: (f(x).sin() ** 2).sum(), backend="aot_eager")
    (first,) = torch.autograd.grad(compiled(x), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(first.sum(), x)


def test_fullgraph_is_refused() -> None:
    from torch._dynamo.exc import Unsupported

    f = black_box()
    with pytest.raises(Unsupported):
        torch.compile(lambda x: f(x) * 2, backend="aot_eager", fullgraph=True)(X)


def test_export_is_refused() -> None:
    with pytest.raises(errors.TransformError):
        torch.export.export(model_with(black_box(batch_dims=0)), (torch.ones(3, 2),))
