"""What several files of tests share: engines, which are slow to start."""

import contextlib
import gc

import psutil
import pytest
from engines import Engines
from leftovers import until


@pytest.fixture(scope="session")
def engines():
    made = Engines()
    yield made
    made.close()


@pytest.fixture
def engine(request, engines):
    """What `executor=` is; the name of the engine is the parameter."""
    return engines(request.param)


@pytest.fixture
def workers(engines):
    return engines("workers")


@pytest.fixture
def nothing_left(request, engines):
    """No zombie and no process outlives a test; no file stays open that was not before it."""
    name = None
    for fixture in {"engine", "workers"} & set(request.fixturenames):
        request.getfixturevalue(fixture)
        name = request.node.callspec.params["engine"] if fixture == "engine" else fixture
    engines.settle()
    me = psutil.Process()
    before, files = len(me.children(recursive=True)), open_files(me)
    yield
    until(lambda: len(alive(me)) <= before, seconds=20)
    if name not in ("loky", "dask"):  # which open some when they want to
        until(lambda: open_files(me) <= files or (gc.collect(), open_files(me) <= files)[1], 20)


def open_files(me):
    """Return how many files are open; the connections of Dask come and go."""
    return me.num_fds() - len(me.net_connections("inet"))


def alive(me):
    """Return all children; a zombie is one that nobody has buried."""
    children = me.children(recursive=True)
    until(lambda: not [child for child in children if is_zombie(child)], seconds=20)
    return [child for child in children if child.is_running()]


def is_zombie(child):
    with contextlib.suppress(psutil.NoSuchProcess):
        return child.status() == psutil.STATUS_ZOMBIE
    return False
