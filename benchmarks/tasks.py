"""What the workers of benchmarks do; a module that is imported quickly, as each of them does."""

import os
import signal
import time


def double(x):
    return 2.0 * x


def simulate(seconds):
    """Wait, as for a program or a server: it takes the time, not the processor."""
    time.sleep(seconds)
    return seconds


def compute(turns):
    """Keep a processor busy."""
    x = 0.5
    for _ in range(turns):
        x = 3.7 * x * (1.0 - x)
    return x


def total(x):
    return float(x.sum())


def die():
    os.kill(os.getpid(), signal.SIGKILL)
