"""What evaluations cost on their way through `differentiable`: workers, memo, memory."""

import subprocess
import sys
import time

import pytest
import torch
from measure import take_turns

import suture
from suture import FiniteDifference, stencils
from suture.executors import Workers

CENTRAL = FiniteDifference(stencils.CENTRAL)


@pytest.fixture(scope="module")
def workers():
    with Workers(2) as pool:
        yield pool


def waits(x, seconds):
    """Wait, as for a program or a server: it takes the time, not the processor."""
    time.sleep(seconds)
    return x * 2.0


def gradient(f, x, seconds):
    return torch.autograd.grad(f(x, seconds).sum(), x)[0]


@pytest.mark.parametrize(("seconds", "wanted"), [(1e-3, 0.85), (1e-2, 0.95), (1e-1, 0.98)])
def test_two_workers(benchmark, row, workers, seconds, wanted):
    here = suture.differentiable(waits, interface="numpy", method=CENTRAL)
    there = suture.differentiable(waits, interface="numpy", method=CENTRAL, executor=workers)
    x = torch.rand(64, requires_grad=True)
    both, one, ratio = take_turns(
        lambda: gradient(there, x, seconds),
        lambda: gradient(here, x, seconds),
        rounds=9 if seconds < 0.1 else 1,
    )
    assert torch.equal(gradient(there, x, 1e-4), gradient(here, x, 1e-4))
    row(
        f"a gradient of 128 points of {seconds * 1e3:.0f} ms, 2 workers",
        f"{both:.3f} s",
        f"{one:.3f} s (one after another)",
        f"efficiency {0.5 / ratio:.3f}",
        f"at least {wanted}",
    )
    benchmark.pedantic(gradient, (there, x, seconds), rounds=1)


def test_hits(benchmark, row, tmp_path):
    memo = suture.Memo(tmp_path / "memo.db")
    known = suture.differentiable(waits, interface="numpy", method=CENTRAL, memo=memo)
    bare = suture.differentiable(waits, interface="numpy", method=CENTRAL)
    x = torch.rand(64, requires_grad=True)
    hits, calls, ratio = take_turns(
        lambda: gradient(known, x, 0.01), lambda: gradient(bare, x, 0.01), rounds=3
    )
    assert known.evaluations == 129
    row(
        "a gradient of 128 points of 10 ms, all in the memo",
        f"{hits * 1e3:.1f} ms",
        f"{calls:.3f} s (without a memo)",
        f"{1 / ratio:.0f} times faster",
        "at least 50",
    )
    benchmark.pedantic(gradient, (known, x, 0.01), rounds=1)


MEMORY = """
import gc, os, sys
import torch, suture
from suture.executors import Workers

def resident():
    gc.collect()
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

def double(x):
    return x * 2.0

where, path = sys.argv[1:]
options = {"executor": Workers(2)} if where == "workers" else {}
method = suture.FiniteDifference(suture.stencils.CENTRAL)
memo = suture.Memo(path)
f = suture.differentiable(double, interface="numpy", method=method, memo=memo, **options)
x = torch.rand(100, generator=torch.Generator().manual_seed(0), requires_grad=True)
held = []
while f.evaluations < 100_000:
    f(x).sum().backward()
    x = (x.detach() + 1e-3).requires_grad_()
    if f.evaluations >= 10_000 * (len(held) + 1):
        held.append(resident())
print(*(round(size) for size in held))
"""


@pytest.mark.parametrize("where", ["here", "workers"])
def test_memory_stays_flat(benchmark, row, tmp_path, where):
    def run():
        program = [sys.executable, "-c", MEMORY, where, tmp_path / "memo.db"]
        return subprocess.run(program, capture_output=True, text=True, check=True).stdout

    held = [int(word) for word in benchmark.pedantic(run, rounds=1).split()]
    way = "one after another" if where == "here" else "2 workers"
    row(
        f"memory of the parent after 1, 2, …, 10 times 10⁴ evaluations with a memo, {way}",
        ", ".join(map(str, held)) + " MiB",
        "",
        f"{held[-1] - held[1]:+d} MiB in the last 8·10⁴",
        "flat",
    )


STREAM = """
import concurrent.futures, sys
import torch, suture

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

class Counting:
    \"\"\"Threads, and how many tasks and points are submitted and not answered.\"\"\"
    n = 2

    def __init__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor(2)
        self.tasks, self.points, self.most = 0, 0, [0, 0]

    def submit(self, fn, *points):
        self.tasks += 1
        self.points += len(points)
        self.most = [max(self.most[0], self.tasks), max(self.most[1], self.points)]
        future = self.pool.submit(fn, *points)
        future.add_done_callback(lambda _: self.forget(len(points)))
        return future

    def forget(self, count):
        self.tasks -= 1
        self.points -= count

def double(x):
    return x * 2.0

def gradient(count):
    # As many points as draws, of two numbers each.
    method = suture.FiniteDifference(suture.stencils.FORWARD, suture.directions.Gaussian(count))
    f = suture.differentiable(double, interface=sys.argv[1], method=method, executor=executor)
    x = torch.rand(2, dtype=torch.float64, requires_grad=True)
    f(x).sum().backward()
    assert f.evaluations == count + 1

executor = Counting() if sys.argv[2] == "threads" else None
gradient(1000)  # what is loaded on first use does not count
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")  # the peak starts from here
before = status("VmRSS")
gradient(10**6)
print(round(status("VmHWM") - before), *(executor.most if executor else (1, 1)))
"""


@pytest.mark.parametrize("where", ["here", "threads"])
@pytest.mark.parametrize("interface", ["torch", "numpy"])
def test_a_large_round_is_streamed(benchmark, row, interface, where):
    def run():
        program = [sys.executable, "-c", STREAM, interface, where]
        return subprocess.run(program, capture_output=True, text=True, check=True).stdout

    peak, tasks, points = map(int, benchmark.pedantic(run, rounds=1).split())
    assert tasks <= 6  # three for each worker
    row(
        f"peak memory of a round of 10⁶ points of 2 numbers, {interface}, {where}",
        f"{peak} MiB",
        "31 MiB (the numbers of points and values)",
        f"at most {tasks} tasks with {points} points at a time",
        "streamed",
    )
