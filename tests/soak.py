"""Many tasks, one in seven of which ends its worker, in all ways: `sh scripts/soak [TASKS]`."""

import argparse
import time

import psutil
from faults import EXIT, KILL, LEAVE, SEGV, double, hang

from suture.errors import TimedOut, WorkerDied
from suture.executors import Workers

ENDS = [KILL, SEGV, LEAVE, EXIT, hang]


def soak(tasks: int, workers: int, seconds: float) -> str:
    """Return a line that says what was lost: nothing but the tasks that end their worker."""
    me = psutil.Process()
    files, start = me.num_fds(), time.monotonic()
    with Workers(workers) as pool:
        futures = [
            pool.submit_within(seconds, ENDS[i // 7 % len(ENDS)])
            if i % 7 == 0
            else pool.submit(double, i)
            for i in range(tasks)
        ]
        for i, future in enumerate(futures):
            error = future.exception(timeout=60)
            if i % 7 == 0:
                wanted = TimedOut if ENDS[i // 7 % len(ENDS)] is hang else WorkerDied
                assert type(error) is wanted, (i, error)
            else:
                assert error is None, (i, error)
                assert future.result() == 2 * i
    left = me.children(recursive=True)
    assert not left, left
    assert me.num_fds() == files
    took = time.monotonic() - start
    return f"{tasks} tasks, {pool.deaths} deaths, nothing else lost: {took:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", type=int, nargs="?", default=1200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.3, help="until a hang is ended")
    arguments = parser.parse_args()
    print(soak(arguments.tasks, arguments.workers, arguments.seconds))


if __name__ == "__main__":
    main()
