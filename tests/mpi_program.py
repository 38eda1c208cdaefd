"""Gradients through `MPIPoolExecutor` have the bits of serial ones: `sh scripts/mpi` runs this.

One of the processes runs this program, the others are its workers.
"""

import os

import torch
from mpi4py.futures import MPIPoolExecutor

import suture

INPUTS = 12


def simulate(x):
    """Cut the graph, as a simulator does."""
    return torch.tensor([float(x.sin().sum()), float((x * x).prod())], dtype=torch.float64)


def process(_):
    return os.getpid()


def gradient(**where):
    f = suture.differentiable(simulate, **where)
    x = torch.linspace(0.5, 1.5, INPUTS, dtype=torch.float64, requires_grad=True)
    f(x).sum().backward()
    return x.grad


def main():
    with MPIPoolExecutor() as pool:
        found = {future.result() for future in [pool.submit(process, i) for i in range(20)]}
        assert os.getpid() not in found
        assert pool.submit(simulate, torch.zeros(2)).result().tolist() == [0.0, 0.0]
        print(f"{pool.num_workers} workers, {len(found)} of them did something")
        assert torch.equal(gradient(executor=pool), gradient())
        print(f"a gradient of {INPUTS} inputs has the same bits")


if __name__ == "__main__":
    main()
