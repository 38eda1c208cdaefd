"""Peak memory of a gradient with 10⁴ inputs and 10⁴ outputs (Linux: read from /proc)."""

import subprocess
import sys

PROGRAM = """
import numpy as np, torch, suture

def status(field):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

n = 10_000
x = torch.rand(n, dtype=torch.float64, requires_grad=True)
f = suture.differentiable(np.tanh, interface="numpy", vectorized={vectorized})
small = torch.rand(10, dtype=torch.float64, requires_grad=True)
f(small).sum().backward()  # what is loaded on first use does not count
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")  # the peak starts from here
before = status("VmRSS")
f(x).sum().backward()
print(status("VmHWM") - before)
assert torch.allclose(x.grad, 1 - torch.tanh(x.detach()) ** 2, rtol=1e-6)
"""


def test_memory(benchmark, row):
    for vectorized in (False, True):
        program = [sys.executable, "-c", PROGRAM.format(vectorized=vectorized)]
        peak = float(subprocess.run(program, capture_output=True, text=True, check=True).stdout)
        row(
            f"peak memory, 10⁴ inputs and 10⁴ outputs, {'' if vectorized else 'not '}vectorized",
            f"{peak:.0f} MiB",
            "763 MiB (the Jacobian)",
            f"{peak:.0f} MiB",
            "under 200 MiB",
        )
    benchmark.pedantic(subprocess.run, args=(program,), kwargs={"check": True}, rounds=1)
