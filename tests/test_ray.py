"""The adapter to Ray; skipped where Ray is absent, as in the default environment."""

import os
import signal
import threading

import numpy as np
import pytest
import torch
from faults import Awkward, boom, die, double, raise_awkward

import suture
from suture import executors
from suture.errors import BadResult, EvaluationError, MethodError, WorkerDied
from suture.functions import Command, parse

ray = pytest.importorskip("ray")

# Ray's processes and sockets end with `ray.shutdown`, after the objects that hold them.
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def pool():
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    here = {"env_vars": {"PYTHONPATH": path}}  # `faults` lies beside this file
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=here)
    yield executors.ray()
    ray.shutdown()


def count_and_die(path):
    with open(path, "a") as file:
        file.write("x")
    die(signal.SIGKILL)


def test_values_in_order(pool):
    assert pool.n == 2
    assert list(pool.map(double, range(20))) == [2 * i for i in range(20)]
    offset = 3
    assert pool.submit(lambda x, *, y: x + y + offset, 1, y=2).result() == 6


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
        pool.submit(threading.Lock).result()
    with pytest.raises(EvaluationError, match="raised KeyboardInterrupt"):
        pool.submit(interrupt).result()
    with pytest.raises(MethodError, match="cannot be sent"):
        pool.submit(double, threading.Lock()).result()


def interrupt():
    raise KeyboardInterrupt


def test_a_death_costs_one_call_which_is_made_once(pool, tmp_path):
    count = tmp_path / "count"
    futures = [pool.submit(double, i) for i in range(4)]
    dead = pool.submit(count_and_die, str(count))
    futures += [pool.submit(double, i) for i in range(4, 8)]
    assert [future.result() for future in futures] == [2 * i for i in range(8)]
    with pytest.raises(WorkerDied, match=r"The Ray worker that evaluated `count_and_die` was lost"):
        dead.result()
    assert isinstance(dead.exception().__cause__, ray.exceptions.WorkerCrashedError)
    assert count.read_text() == "x"


def test_a_call_can_be_let_go(pool):
    event = pool.submit(die, 0)  # signal 0 does nothing; then it sleeps
    assert event.cancel()
    assert pool.submit(double, 1).result() == 2


def test_n_follows_what_a_call_needs(pool):
    assert executors.ray(num_cpus=2).n == 1
    assert executors.ray(num_cpus=0.5).n == 4
    assert executors.ray(num_cpus=0).n == 2


def test_shutdown_leaves_ray_alone(pool):
    with executors.ray() as own:
        future = own.submit(double, 4)
    assert future.result() == 8
    with pytest.raises(RuntimeError, match="is shut down"):
        own.submit(double, 1)
    assert ray.is_initialized()


def test_a_gradient_has_the_same_bits(pool):
    def simulate(x):
        return torch.sin(x) * x.sum()

    gradients = []
    for where in (None, pool):
        f = suture.differentiable(simulate, executor=where)
        x = torch.linspace(0.1, 1.0, 12, dtype=torch.float64, requires_grad=True)
        f(x).sum().backward()
        gradients.append(x.grad)
        assert f.tally.evaluations == f.last.evaluations + 1
    assert torch.equal(*gradients)


def test_a_program_of_the_command_line(pool):
    square = 'BEGIN { printf "%.17g\\n", {x[0]} ^ 2 * {x[1]} }'
    f = suture.differentiable(Command(["awk", square], parse=parse.regex(r"^.+$")), executor=pool)
    x = torch.tensor([3.0, 2.0], dtype=torch.float64, requires_grad=True)
    f(x).backward()
    assert x.grad.tolist() == pytest.approx([12.0, 9.0], rel=1e-6)
