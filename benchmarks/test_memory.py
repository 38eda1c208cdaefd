"""Peak memory of a gradient with 10⁴ inputs and 10⁴ outputs."""

import subprocess
import sys

PROGRAM = """
import resource
import numpy as np, torch, suture

n = 10_000
x = torch.rand(n, dtype=torch.float64, requires_grad=True)
f = suture.differentiable(np.tanh, interface="numpy", vectorized={vectorized})
small = torch.rand(10, dtype=torch.float64, requires_grad=True)
f(small).sum().backward()  # what is loaded on first use does not count
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
f(x).sum().backward()
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert torch.allclose(x.grad, 1 - torch.tanh(x.detach()) ** 2, rtol=1e-6)
print((after - before) / 1024)
"""


def test_memory(benchmark, row):
    for vectorized in (False, True):
        program = PROGRAM.format(vectorized=vectorized)
        run = [sys.executable, "-c", program]
        peak = float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
        row(
            f"peak memory, 10⁴ inputs and 10⁴ outputs, {'' if vectorized else 'not '}vectorized",
            f"{peak:.0f} MiB",
            "763 MiB (the Jacobian)",
            f"{peak:.0f} MiB",
            "under 200 MiB",
        )
    benchmark.pedantic(subprocess.run, args=(run,), kwargs={"capture_output": True}, rounds=1)
