"""The record: every row whole, whoever writes, and whatever happens to the writer."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
import torch
from torch.optim.optimizer import _global_optimizer_post_hooks

import suture
from suture import _record
from suture._record import Row, active, record, write
from suture._report.read import read
from suture.errors import MethodError


def row(**changes):
    fields = {
        "when": time.time(),
        "seconds": 0.25,
        "name": "simulate",
        "task": "gradient",
        "call": 3,
        "points": 1,
        "where": "host:7:MainThread",
        "ended": "value",
        "error": None,
        "hit": False,
        "attempt": 1,
    }
    return Row(**{**fields, **changes})


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def step(optimizer=None):
    weight = torch.nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    (optimizer or torch.optim.SGD)([weight], lr=0.1).step()


PROGRAM = """
import itertools, os, resource, signal, sys, threading, time, warnings
from suture._record import Row, record, write

def row(call):
    return Row(time.time(), 0.25, "simulate", "gradient", call, 1, f"host:{os.getpid()}:main",
               "value", None, False, 1)

path = sys.argv[1]
"""


def start(program, path):
    return subprocess.Popen([sys.executable, "-c", PROGRAM + program, str(path)])


def test_fields_of_a_row(tmp_path):
    path = tmp_path / "run.jsonl"
    written = row(ended="raised", error="ArithmeticError", attempt=2, name='f "1"\n')
    with suture.record(path) as r:
        write(written)
    assert (r.rows, r.lost) == (1, 0)
    (found,) = rows_of(path)
    run = found.pop("run")
    assert len(bytes.fromhex(run)) == 4
    assert found.pop("step") == 0
    assert found == {name: getattr(written, name) for name in Row.__slots__}


def test_every_field_is_documented(tmp_path):
    with record(tmp_path / "run.jsonl"):
        write(row())
    (found,) = rows_of(tmp_path / "run.jsonl")
    for name in found:
        assert f"- `{name}`: " in record.__doc__
    for word in (*_record.Task.__args__, *_record.Ended.__args__):
        assert f"`{word}`" in record.__doc__


def test_a_record_can_be_read_while_it_grows(tmp_path):
    path = tmp_path / "new" / "run.jsonl"
    with record(path) as r:
        for number in range(1, 4):
            write(row())
            assert len(rows_of(path)) == r.rows == number


def test_nothing_is_written_outside_of_the_context(tmp_path):
    assert active() == ()
    with record(tmp_path / "run.jsonl"):
        assert len(active()) == 1
    write(row())
    assert (tmp_path / "run.jsonl").read_text() == ""


def test_an_error_ends_the_recording(tmp_path):
    with pytest.raises(ArithmeticError), record(tmp_path / "run.jsonl"):
        raise ArithmeticError
    assert active() == ()


def test_nested_and_parallel_recordings_are_all_fed(tmp_path):
    outer, inner, other = (tmp_path / name for name in ("outer", "inner", "other"))
    with record(outer):
        write(row(call=1))
        with record(inner) as r:
            write(row(call=2))
            entered = record(other)
            entered.__enter__()
            write(row(call=3))
        write(row(call=4))
        entered.__exit__(None, None, None)
        write(row(call=5))
    calls = {
        path.name: [found["call"] for found in rows_of(path)] for path in (outer, inner, other)
    }
    assert calls == {"outer": [1, 2, 3, 4, 5], "inner": [2, 3], "other": [3, 4]}
    assert r.rows == 2


def test_rows_know_the_step_of_any_optimizer(tmp_path):
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    hooks = dict(_global_optimizer_post_hooks)
    step()  # before
    with record(outer):
        write(row())
        step()
        write(row())
        with record(inner):
            step(torch.optim.Adam)
            write(row())
        step()
        write(row())
    assert [found["step"] for found in rows_of(outer)] == [0, 1, 2, 3]
    assert [found["step"] for found in rows_of(inner)] == [1]
    assert _global_optimizer_post_hooks == hooks


def test_another_run_appends(tmp_path):
    for call in (1, 2):
        with record(tmp_path / "run.jsonl"):
            write(row(call=call))
            step()
    first, second = rows_of(tmp_path / "run.jsonl")
    assert (first["call"], first["step"]) == (1, 0)
    assert (second["call"], second["step"]) == (2, 0)
    assert first["run"] != second["run"]


def test_threads_write_whole_rows(tmp_path):
    def work(thread):
        for call in range(200):
            write(row(call=call, where=f"host:7:{thread}"))

    with record(tmp_path / "run.jsonl") as r:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = rows_of(tmp_path / "run.jsonl")
    assert r.rows == len(found) == 1600
    assert set(Counter(entry["where"] for entry in found).values()) == {200}


def test_processes_append_whole_rows_to_one_file(tmp_path):
    path = tmp_path / "run.jsonl"
    program = "with record(path):\n    for call in range(2000):\n        write(row(call))"
    others = [start(program, path) for _ in range(2)]
    assert [other.wait(60) for other in others] == [0, 0]
    found = rows_of(path)
    assert list(Counter(entry["run"] for entry in found).values()) == [2000, 2000]


def test_a_killed_process_leaves_a_record(tmp_path):
    path = tmp_path / "run.jsonl"
    program = "with record(path):\n    for call in itertools.count():\n        write(row(call))"
    whole = 0
    for _ in range(3):
        child = start(program, path)
        size = path.stat().st_size if path.exists() else 0
        while not path.exists() or path.stat().st_size < size + 50_000:
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        table = read(path)
        assert table.unreadable <= 3
        assert len(table.when) > whole
        whole = len(table.when)
    assert len(table.run.names) == 3


def test_a_cut_line_costs_no_other_row(tmp_path):
    path = tmp_path / "run.jsonl"
    with record(path):
        write(row(call=1))
    line = path.read_text()
    path.write_text(line + line[:40])
    with record(path):
        write(row(call=2))
    assert path.read_text().splitlines()[:2] == [line.strip(), line[:40]]
    assert read(path).call.tolist() == [1, 2]


def test_a_full_disk_costs_one_warning_and_the_rows():
    with record("/dev/full") as r:
        with pytest.warns(UserWarning, match="No space left on device"):
            write(row())
        for _ in range(4):
            write(row())  # a second warning would be an error
    assert (r.rows, r.lost) == (0, 5)


def test_recording_goes_on_when_there_is_room_again(tmp_path):
    path = tmp_path / "run.jsonl"
    program = """
with record(path) as r, warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for call in range(10):
        limit = 500 if call < 5 else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        write(row(call))
assert (r.rows, r.lost, len(caught)) == (7, 3, 1), (r, caught)
"""
    assert start(program, path).wait(60) == 0
    table = read(path)
    assert table.call.tolist() == [0, 1, 5, 6, 7, 8, 9]
    assert table.unreadable == 1


def test_a_fork_inherits_no_lock(tmp_path):
    path = tmp_path / "run.jsonl"
    program = """
def work():
    while not stop.is_set():
        write(row(0))

with record(path):
    stop = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(20):
        child = os.fork()
        if not child:
            write(row(1))
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    thread.join()
"""
    assert start(program, path).wait(60) == 0
    assert sum(found["call"] for found in rows_of(path)) == 20


@pytest.mark.parametrize("make", [lambda folder: folder, lambda folder: folder / "file" / "run"])
def test_a_path_that_cannot_be_written(tmp_path, make):
    (tmp_path / "file").write_text("")
    with pytest.raises(MethodError, match="cannot be written"), record(make(tmp_path)):
        pass
    assert active() == ()
