"""What must not be left when a test of workers has ended."""

import contextlib
import gc
import threading
import time

import psutil
import pytest


def until(condition, seconds=5.0):
    """Wait for something that happens in another process."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    """No child, zombie or open file outlives a test, unless its pool does."""
    if "workers" in request.fixturenames:
        yield
        return
    gc.collect()
    me = psutil.Process()
    before, files = {child.pid for child in me.children(recursive=True)}, me.num_fds()
    yield
    gc.collect()
    until(lambda: {child.pid for child in me.children(recursive=True)} <= before)
    until(lambda: me.num_fds() <= files)
    assert not [t for t in threading.enumerate() if t.name == "suture-workers"] or before


def sleepers():
    """Return the sleeping programs that `hang` or `start_session` has left."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child] if child.cmdline()[:2] == ["sleep", "987"] else []
    return found
