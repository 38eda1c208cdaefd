"""Compare two things in one run: they take turns, so that both see the same machine."""

import statistics
import time
from collections.abc import Callable


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
