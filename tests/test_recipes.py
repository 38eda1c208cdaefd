"""The recipes of docs/discrete.md train: small models whose loss no derivative leads down.

The recipes are those of the page itself. Each model is small enough for seconds, and each loss
must fall by the factor that its test states.
"""

import contextlib
import io
import itertools
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from test_docs import PYTHON_BLOCK
from torch import nn

from suture import FiniteDifference, differentiable, directions, stencils

PAGE = Path(__file__).parents[1] / "docs" / "discrete.md"


@pytest.fixture(scope="module")
def recipes():
    """Return what the python blocks of the page define."""
    namespace = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for block in PYTHON_BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
            exec(block["code"], namespace)
    return namespace


def train(parameters, loss, steps, lr):
    """Return the losses before and after; `loss` takes the number of the step."""
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        value = loss(step)
        value.backward()
        optimizer.step()
        if step == 0:
            first = value.item()
    return first, value.item()


def numbers(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


# Gaussian smoothing: a simulator with integer decisions.

DEMAND = np.random.default_rng(3).poisson(4.0, (12, 60))  # 12 runs of 60 days


def stock_cost(policy):
    """Mean daily cost of a store that orders up to `policy[1]` when stock falls to `policy[0]`.

    Stock is counted in whole pieces: 1 for each in the store overnight, 9 for each not delivered,
    8 for each order. It arrives after two days.
    """
    low, high = np.round(policy)
    stock, cost = np.full(len(DEMAND), max(high, 0.0)), 0.0
    waiting = np.zeros((2, len(DEMAND)))
    for demand in DEMAND.T:
        stock, waiting = stock + waiting[0], np.stack([waiting[1], np.zeros(len(DEMAND))])
        sold = np.minimum(stock, demand)
        stock = stock - sold
        orders = stock + waiting.sum(axis=0) <= low
        waiting[1] = np.where(orders, np.maximum(high - stock - waiting.sum(axis=0), 0), 0)
        cost += np.mean(stock + 9 * (demand - sold) + 8 * orders)
    return cost / DEMAND.shape[1]


def test_smoothing_trains_a_policy_of_whole_pieces():
    start = stock_cost(np.array([1.0, 4.0]))

    def trained(method):
        cost = differentiable(stock_cost, method=method, interface="numpy", scale=1.0)
        policy = torch.tensor([1.0, 4.0], dtype=torch.float64, requires_grad=True)
        train([policy], lambda step: cost(policy), steps=100, lr=0.4)
        return stock_cost(policy.detach().numpy())

    best = min(stock_cost(np.array(p)) for p in itertools.product(range(16), range(4, 28)))
    smooth = FiniteDifference(stencils.CENTRAL, directions.Gaussian(6), step=2.0)
    assert trained(smooth) < best + 0.1 * (start - best)  # nine tenths of the way to the best
    assert trained(FiniteDifference(stencils.CENTRAL)) == start  # differences see no way at all


# A perturbed optimizer: learn to choose as somebody does.


def test_a_perturbed_argmax_learns_to_choose(recipes):
    """Of 5 offers, 24 times, somebody takes the best by 4 weights that are to be learned."""
    offers, taste = numbers(24, 5, 4), numbers(4, seed=1)
    taken = torch.eye(5, dtype=torch.float64)[(offers @ taste).argmax(dim=1)]
    choice = recipes["perturbed"](recipes["choose"], spread=0.5, count=30)
    weights = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def loss(step):
        scores = offers @ weights
        return sum((choice(s) - t).square().sum() for s, t in zip(scores, taken, strict=True)) / 24

    first, last = train([weights], loss, steps=25, lr=0.3)
    assert last < first / 4
    agreement = ((offers @ weights).argmax(1) == (offers @ taste).argmax(1)).double().mean()
    assert agreement > 0.9


def test_a_perturbed_optimizer_takes_any_solver(recipes):
    """The 2 best of 5 as one choice; the gradient agrees with smoothing by other noise in sign."""

    def best_two(scores):
        return np.isin(np.arange(5), np.argsort(-scores, kind="stable")[:2]).astype(float)

    chosen = recipes["perturbed"](best_two, count=4000)
    scores = torch.tensor([0.5, 0.0, 1.0, -1.0, 0.2], dtype=torch.float64, requires_grad=True)
    result = chosen(scores)
    assert result.sum().item() == pytest.approx(2)
    result[0].backward()
    assert scores.grad[0] > 0.1  # a better score is taken more often, and displaces the others
    assert scores.grad[[1, 2, 4]].max() < 0
    assert scores.grad.sum().item() == pytest.approx(0, abs=0.05)


def test_gumbel_argmax_is_a_softmax(recipes):
    """Forward and backward, as means over independent noise, within 4.5 standard errors."""
    scores = numbers(4, seed=2)
    spread = 0.7
    p = torch.softmax(scores / spread, 0).numpy()
    expected = (np.diag(p) - np.outer(p, p)) / spread
    count = 40
    choice = recipes["perturbed"](recipes["choose"], spread=spread, count=count)
    values, jacobians = [], []
    for k in range(100):
        # A constant in all scores changes nothing but the noise, which is a function of them.
        here = scores + k * 1e-9
        values.append(choice(here).numpy())
        jacobians.append(torch.func.jacrev(choice)(here).numpy())
    for found, exact in ((values, p), (jacobians, expected)):
        error = np.abs(np.mean(found, axis=0) - exact)
        spreads = np.std(found, axis=0, ddof=1) / np.sqrt(len(found))
        assert np.max(error / np.maximum(spreads, 1e-12)) < 4.5
        assert np.max(spreads) < 0.05


# Interpolation: learn the costs of a map from the paths that were taken.

SIDE = 6


def shortest_path(costs):
    """Cells of the cheapest path from corner to corner, by dynamic programming; each step costs."""
    grid = costs.reshape(SIDE, SIDE)
    total = np.full((SIDE, SIDE), np.inf)
    for i, j in np.ndindex(SIDE, SIDE):
        before = [total[i - 1, j] if i else np.inf, total[i, j - 1] if j else np.inf]
        total[i, j] = grid[i, j] + (min(before) if i or j else 0)
    path, (i, j) = np.zeros((SIDE, SIDE)), (SIDE - 1, SIDE - 1)
    path[i, j] = 1
    while i or j:
        up = total[i - 1, j] if i else np.inf
        left = total[i, j - 1] if j else np.inf
        i, j = (i - 1, j) if up <= left else (i, j - 1)
        path[i, j] = 1
    return path.ravel()


def test_interpolation_learns_a_map_from_paths(recipes):
    """Costs are a linear function of 3 features of each cell, unknown but for the paths."""
    features = numbers(10, SIDE * SIDE, 3, seed=5)
    truth = torch.tensor([1.0, -0.5, 0.7], dtype=torch.float64)
    paths = [torch.from_numpy(shortest_path((f @ truth).exp().numpy())) for f in features]
    path = recipes["interpolated"](shortest_path, strength=10.0)
    weights = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def loss(step):
        found = [path((f @ weights).exp()) for f in features]
        return sum((a - b).abs().sum() for a, b in zip(found, paths, strict=True)) / 10

    first, last = train([weights], loss, steps=40, lr=0.1)
    assert first > 4  # cells that differ, per path
    assert last < first / 5


def test_interpolation_costs_one_solution(recipes):
    calls = []

    def counted(costs):
        calls.append(zlib.crc32(costs.tobytes()))
        return shortest_path(costs)

    costs = torch.ones(SIDE * SIDE, dtype=torch.float64, requires_grad=True)
    found = recipes["interpolated"](counted)(costs)
    assert len(calls) == 1
    (found - 0.5).square().sum().backward()
    assert len(calls) == 2
    assert torch.isfinite(costs.grad).all()


# Straight-through: a network whose hidden values are rounded.


def test_straight_through_trains_a_quantized_network(recipes):
    """XOR of the signs of two numbers, through hidden values in steps of 1/4."""
    torch.manual_seed(0)
    x = numbers(80, 2, seed=6).float()
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).float()
    rounding = recipes["straight_through"](lambda h: np.round(4 * h) / 4)
    first, last = nn.Linear(2, 16), nn.Linear(16, 1)

    def loss(step):
        hidden = rounding(torch.tanh(first(x)))
        return nn.functional.binary_cross_entropy_with_logits(last(hidden)[:, 0], y)

    before, after = train([*first.parameters(), *last.parameters()], loss, steps=250, lr=0.05)
    assert after < before / 5
