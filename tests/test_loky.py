"""loky's pool, as `executor=lambda: loky.get_reusable_executor(...)` uses it."""

import concurrent.futures
import signal

import loky
import pytest
from faults import die, double, process

from suture.executors._refuse import check_executor

pytestmark = pytest.mark.timeout(60)


def make():
    return loky.get_reusable_executor(max_workers=2)


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    make().shutdown(wait=True, kill_workers=True)


def test_values_in_order_and_closures():
    offset = 3
    assert list(make().map(lambda x: double(x) + offset, range(9))) == [2 * i + 3 for i in range(9)]


def test_what_is_accepted_as_an_executor():
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        for executor in (threads, make(), make, concurrent.futures.Executor()):
            check_executor(executor)


def test_a_death_breaks_the_pool_and_another_is_made():
    """The pipeline makes another pool when it sees a `BrokenExecutor`."""
    pool = make()
    assert make() is pool
    with pytest.raises(concurrent.futures.BrokenExecutor, match="SIGKILL"):
        pool.submit(die, signal.SIGKILL).result()
    with pytest.raises(concurrent.futures.BrokenExecutor):
        pool.submit(double, 1)
    healed = make()
    assert healed is not pool
    assert healed.submit(double, 21).result() == 42
    assert len({future.result() for future in [healed.submit(process) for _ in range(9)]}) <= 2
