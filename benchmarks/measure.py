"""Compare two things in one run: they take turns, so that both see the same machine."""

import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy
import torch


def seconds(call: Callable[[], object], times: int = 1) -> float:
    """Return the seconds of one call, over `times` calls."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def take_turns(
    first: Callable[[], object], second: Callable[[], object], rounds: int, times: int = 1
) -> tuple[float, float, float]:
    """Return the medians of both, in seconds, and the median of the ratios of neighbors."""
    first(), second()
    pairs = [(seconds(first, times), seconds(second, times)) for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in pairs)
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), ratio


def machine() -> str:
    """Return the line that tells where figures were measured, and with which versions."""
    return (
        f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, numpy {numpy.__version__}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
