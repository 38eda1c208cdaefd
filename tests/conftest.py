"""What several files of tests share: engines, which are slow to start."""

import contextlib
import gc
import time

import psutil
import pytest
from engines import Engines


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
def nothing_left(request):
    """No zombie and no process outlives a test; no file stays open that was not before it."""
    name = None
    if "engine" in request.fixturenames:
        request.getfixturevalue("engine")
        name = request.node.callspec.params["engine"]
    me = psutil.Process()
    before, files = len(me.children(recursive=True)), me.num_fds()
    yield
    until(lambda: len(alive(me)) <= before)
    assert not [child for child in alive(me) if "987" in said(child)]
    if name not in ("loky", "dask"):  # which open connections when they want to
        until(lambda: me.num_fds() <= files or (gc.collect(), me.num_fds() <= files)[1])


def alive(me):
    """Return all children; a zombie is one that nobody has buried."""
    children = me.children(recursive=True)
    until(lambda: not [child for child in children if is_zombie(child)])
    return [child for child in children if child.is_running()]


def is_zombie(child):
    with contextlib.suppress(psutil.NoSuchProcess):
        return child.status() == psutil.STATUS_ZOMBIE
    return False


def said(child):
    with contextlib.suppress(psutil.NoSuchProcess):
        return child.cmdline()
    return []


def until(condition, seconds=10.0):
    """Wait for something that happens in another process."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
