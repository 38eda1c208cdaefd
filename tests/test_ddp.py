"""Two processes, gloo, DistributedDataParallel: equal weights, and those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from suture import FiniteDifference, differentiable, stencils

# torch's own, in both processes (2.13).
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

WORLD = 2
STEPS = 3


def curve(x: Any, w: Any) -> Any:
    return 2 * x * w[0] + x**2 * w[1]


class Layer(nn.Module):
    """A layer whose weight passes through the black box."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -0.25]))
        self.before = nn.Linear(1, 1)
        nn.init.constant_(self.before.weight, 0.8)
        nn.init.constant_(self.before.bias, 0.1)
        self.curve = differentiable(
            curve,
            method=FiniteDifference(stencils.CENTRAL),
            interface="numpy",
            batch_dims=(0, None),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.curve(self.before(x), self.weight)


def steps(model: nn.Module, x: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model(x) - torch.cos(x)).square().mean().backward()
        optimizer.step()


def rows() -> Tensor:
    return torch.linspace(0, 1, 8).reshape(8, 1)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD
    )
    layer = Layer()
    model = DistributedDataParallel(layer)
    steps(model, rows()[rank::WORLD])
    torch.save((layer.state_dict(), layer.curve.evaluations), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_gloo_available(), reason="torch was built without gloo")
def test_two_ranks_agree_with_one_process(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=WORLD)
    results = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(WORLD)]
    alone = Layer()
    start = {name: value.detach().clone() for name, value in alone.named_parameters()}
    steps(alone, rows())
    for name, expected in alone.named_parameters():
        assert torch.equal(results[0][0][name], results[1][0][name])
        torch.testing.assert_close(results[0][0][name], expected.detach(), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(expected, start[name])
    # A column of rows and two shared weights, centrally, and the claim once, on each rank.
    assert [count for _, count in results] == [STEPS * (1 + 2 * (1 + 2)) + 1] * WORLD
