"""A training that is killed and started again, as a program.

Each line that it reads asks for one: `FOLDER KIND WHERE SECONDS KILLS WHOLE`. Each of its lives is
a process that is forked before torch has done anything, so torch is imported once; it is killed
with SIGKILL at random moments, after one to WHOLE evaluations of SECONDS each. The last life ends
by itself. Without kills there is no memo either.
"""

import hashlib
import os
import random
import signal
import sys
import time
import zlib
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import nn

import suture
from suture import AdaptiveDifference, FiniteDifference, directions, stencils
from suture.executors import Workers

STEPS, EVERY = 25, 5
LINE = 9
"""Bytes of a line: eight digits of a point's check sum."""


def note(points):
    """Write down that points are evaluated: a line for each, in one piece for a call."""
    lines = b"".join(b"%08x\n" % zlib.crc32(point.tobytes()) for point in points)
    file = os.open(os.environ["CALLS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, lines)
    os.close(file)
    time.sleep(float(os.environ["SECONDS"]))


def smooth(x):
    note([x])
    return np.sin(x) * x.sum()


def rows(x):
    note(x.reshape(-1, 4, 3))
    return np.sin(x) * x.sum(axis=1, keepdims=True)


def noisy(x):
    """Have noise that is the same for the same x, as that of a solver."""
    note([x])
    noise = np.random.default_rng(zlib.crc32(x.tobytes())).random(3)
    return np.sin(x) * x.sum() + 1e-5 * noise


KINDS = {
    "smooth": (smooth, {}),
    "rows": (rows, {"batch_dims": 0}),
    "noisy": (noisy, {}),
    "complex": (smooth, {"method": FiniteDifference(stencils.COMPLEX_STEP)}),
    "adaptive": (smooth, {"method": AdaptiveDifference(1e-4)}),
    "random": (smooth, {"method": FiniteDifference(directions=directions.Rademacher(2))}),
}


class Model(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
        self.f = f

    def forward(self, x):
        return self.f(self.net(x))


def save(path, model, optimizer, step):
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "step": step,
    }
    torch.save(state, f"{path}.new")
    os.replace(f"{path}.new", path)


def load(path, model, optimizer):
    """Return the step to go on with."""
    if not path.exists():
        return 0
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    return state["step"]


def train(folder, kind, has_workers, has_memo):
    fn, options = KINDS[kind]
    torch.manual_seed(0)
    with ExitStack() as stack:
        if has_workers:
            options = {**options, "executor": stack.enter_context(Workers(2))}
        memo = stack.enter_context(suture.Memo(folder / "memo.db")) if has_memo else None
        model = Model(suture.differentiable(fn, interface="numpy", memo=memo, **options))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        checkpoint = folder / "checkpoint.pt"
        for step in range(load(checkpoint, model, optimizer), STEPS):
            x = torch.rand(4, 2) if kind == "rows" else torch.rand(2)
            optimizer.zero_grad()
            (model(x) - 1.0).square().mean().backward()
            optimizer.step()
            if (step + 1) % EVERY == 0:
                save(checkpoint, model, optimizer, step + 1)
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():  # the calibration is one of them
        digest.update(tensor.numpy().tobytes())
    (folder / "digest").write_text(digest.hexdigest())


def live(*arguments):
    """Train in a process of its own, and return its number."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(*arguments)
            code = 0
        finally:
            os._exit(code)
    return child


def calls(path):
    return os.stat(path).st_size // LINE if path.exists() else 0


def relive(folder, kind, where, kills, whole):
    file = Path(os.environ["CALLS"])
    chance = random.Random(f"{kind} {where}")
    for moment in sorted(chance.sample(range(1, whole), kills)):
        child = live(folder, kind, where == "workers", True)
        while calls(file) < moment:
            time.sleep(0.0002)
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before it was killed"
        time.sleep(chance.random() * float(os.environ["SECONDS"]))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    child = live(folder, kind, where == "workers", kills > 0)
    assert os.waitpid(child, 0)[1] == 0


def main():
    torch.optim.Adam([nn.Parameter(torch.zeros(1))])  # what this imports takes a second
    for line in sys.stdin:
        folder, kind, where, seconds, kills, whole = line.split()
        os.environ.update(CALLS=f"{folder}/calls", SECONDS=seconds)
        relive(Path(folder), kind, where, int(kills), int(whole))
        print("done", flush=True)


if __name__ == "__main__":
    main()
