"""The adapter to Dask: what it makes of deaths, pickles and futures."""

import logging
import os
import signal
import threading
import time
from concurrent.futures import BrokenExecutor

import distributed
import numpy as np
import pytest
from faults import Awkward, boom, die, double, process, raise_awkward

from suture import executors
from suture.errors import BadResult, EvaluationError, MethodError, WorkerDied
from suture.executors._refuse import check_executor

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module", autouse=True)
def quiet():
    """Dask logs every death that a test wants."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def pool(client):
    client.wait_for_workers(2)
    return executors.dask(client)


def note(path, then=None, how=None):
    with open(path, "a") as file:
        file.write("x")
    return then(how) if then else None


def held_keys(dask_scheduler):
    return [key for key in dask_scheduler.tasks if "_once" in str(key)]


def test_values_in_order(pool):
    assert pool.n == 2
    assert list(pool.map(double, range(20))) == [2 * i for i in range(20)]
    offset = 3
    assert pool.submit(lambda x, *, key: x + key + offset, 1, key=2).result() == 6
    assert pool.submit(process).result() != os.getpid()


def test_the_same_call_is_made_again(pool):
    """Dask's own executor takes the first result, as it holds every function to be pure."""
    assert pool.submit(time.monotonic_ns).result() != pool.submit(time.monotonic_ns).result()


def test_a_call_is_sent_as_it_is(pool):
    x = np.zeros(100_000)
    future = pool.submit(lambda a: a.__iadd__(1.0), x)
    x[:] = 7
    assert future.result()[0] == 1.0
    assert future.result().flags.writeable


def test_errors_come_back_as_themselves(pool):
    with pytest.raises(ValueError, match=r"^boom$"):
        pool.submit(boom).result()
    with pytest.raises(EvaluationError, match=f"raised {Awkward.__name__}"):
        pool.submit(raise_awkward).result()
    with pytest.raises(BadResult, match="a lock cannot be pickled"):
        pool.submit(threading.Lock).result(timeout=10)
    with pytest.raises(MethodError, match="cannot be sent"):
        pool.submit(double, threading.Lock()).result()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_stops_a_program_is_an_error_and_no_death(pool, stop):
    def leave():
        raise stop

    with pytest.raises(EvaluationError, match=f"raised {stop.__name__}"):
        pool.submit(leave).result()


@pytest.mark.parametrize("allowed", [0, 3])
def test_a_death_costs_one_call_which_is_made_once(pool, client, tmp_path, allowed):
    client.run_on_scheduler(allow, allowed)
    counts = [tmp_path / str(i) for i in range(21)]
    futures = [
        pool.submit(note, str(path), *((die, signal.SIGKILL) if i == 9 else (double, i)))
        for i, path in enumerate(counts)
    ]
    errors = [future.exception(timeout=30) for future in futures]
    assert [(i, type(error)) for i, error in enumerate(errors) if error] == [(9, WorkerDied)]
    assert [f.result() for i, f in enumerate(futures) if i != 9] == [
        2 * i for i in range(21) if i != 9
    ]
    assert [path.read_text() for path in counts] == ["x"] * 21


def allow(failures, dask_scheduler):
    dask_scheduler.allowed_failures = failures


def test_nothing_stays_on_the_cluster(pool, client):
    client.run_on_scheduler(allow, 0)
    assert isinstance(pool.submit(die, signal.SIGKILL).exception(), WorkerDied)
    futures = [pool.submit(double, i) for i in range(20)]
    assert [future.result() for future in futures] == [2 * i for i in range(20)]
    end = time.monotonic() + 5
    while client.run_on_scheduler(held_keys):
        assert time.monotonic() < end, client.run_on_scheduler(held_keys)
        time.sleep(0.02)
    assert not pool._open


def test_a_call_can_be_let_go(pool, tmp_path):
    count = tmp_path / "count"
    running = [pool.submit(time.sleep, 0.5) for _ in range(4)]
    waiting = pool.submit(note, str(count))
    assert waiting.cancel()
    assert all(future.cancel() for future in running)
    assert pool.submit(double, 1).result() == 2
    assert not count.exists()


def test_only_the_adapter_is_an_executor(client, pool):
    check_executor(pool)
    for looks_like_one in (client, client.get_executor(pure=False), distributed):
        with pytest.raises(MethodError, match=r"`executor=suture.executors.dask\("):
            check_executor(looks_like_one)


def test_shutdown_waits_and_leaves_the_cluster_alone(client):
    with executors.dask(client) as pool:
        future = pool.submit(time.sleep, 0.1)
    assert future.done()
    with pytest.raises(RuntimeError, match="is shut down"):
        pool.submit(double, 1)
    assert client.submit(double, 4).result() == 8


def test_threads_and_a_client_that_is_closed():
    """With `processes=False` the workers are threads of this process."""
    with distributed.LocalCluster(
        processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0"
    ) as cluster:
        client = distributed.Client(cluster)
        pool = executors.dask(client)
        assert pool.n == 2
        x = np.zeros(10)
        assert pool.submit(lambda a: a.__iadd__(1.0), x).result().tolist() == [1.0] * 10
        assert not x.any()
        slow = pool.submit(time.sleep, 0.5)
        client.close()
        broken = r"given up by the Dask client: the client was closed or restarted\.\n"
        with pytest.raises(BrokenExecutor, match=broken):
            slow.result(timeout=5)
        with pytest.raises(BrokenExecutor, match="ClosedClientError"):
            pool.submit(double, 1).result(timeout=5)
