"""The bar: seen by whoever sits at a terminal, when it takes long, and by nobody else."""

import io
import os
import re
import select
import subprocess
import sys
import threading
import time

import pytest

from suture import _progress
from suture._progress import Progress

pty = pytest.importorskip("pty")

PROGRAM = """
import os, sys, threading, time
from suture import _progress
from suture._progress import Progress
_progress.PATIENCE = 0.3

def work(progress, points=6, pause=0.1):
    progress.expect(points)
    for point in range(points):
        time.sleep(pause)
        progress.advance(1, failed=point == 1)
    progress.close()
"""

BAR = re.compile(r"simulate .*?(\d+)/(\d+) 0:00:0\d *(\d failed)? *(0:00:0\d left)?")
# What a terminal is told, but for letters: colors, the cursor, deleted lines.
CONTROL = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


def at_terminal(program, **environ):
    """Return what a program shows on a terminal."""
    leader, follower = pty.openpty()
    env = {"PATH": os.environ["PATH"], "TERM": "xterm", "PYTHONPATH": ":".join(sys.path), **environ}
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + program], stdin=follower, stdout=follower,
        stderr=follower, env=env, close_fds=True,
    )  # fmt: skip
    os.close(follower)
    shown, end = b"", time.monotonic() + 60
    while time.monotonic() < end and select.select([leader], [], [], 60)[0]:
        try:
            piece = os.read(leader, 4096)
        except OSError:  # the child has closed its side
            break
        if not piece:
            break
        shown += piece
    os.close(leader)
    assert child.wait(60) == 0, shown.decode()
    return shown.decode()


def last_screen(shown):
    """Return the lines that are left, as a terminal of endless width leaves them."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", shown):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif re.fullmatch(r"\x1b\[\d*A", piece):
            row -= int(piece[2:-1] or 1)
        elif not piece.startswith("\x1b"):
            lines[row] = (
                lines[row][:column].ljust(column) + piece + lines[row][column + len(piece) :]
            )
            column += len(piece)
    return [line.rstrip() for line in lines if line.strip()]


def bars(shown):
    return [match.groups() for match in BAR.finditer(CONTROL.sub("", shown))]


def test_a_bar_appears_by_itself_and_leaves_nothing_behind():
    shown = at_terminal("work(Progress('simulate')); print('done')")
    found = bars(shown)
    assert len(found) >= 2
    numbers = [int(done) for done, *_ in found]
    assert numbers == sorted(numbers)
    assert {total for _, total, *_ in found} == {"6"}
    assert found[-1][2] == "1 failed"
    assert last_screen(shown) == ["done"]
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor is back


def test_a_bar_appears_while_the_first_point_takes_long():
    shown = at_terminal("work(Progress('simulate'), points=1, pause=0.8)")
    assert bars(shown)[0][:2] == ("0", "1")


def test_a_short_gradient_has_no_bar():
    assert at_terminal("work(Progress('simulate'), points=2, pause=0.01)") == ""


def test_a_forced_bar_is_there_at_once():
    assert bars(at_terminal("p = Progress('simulate', True); p.expect(4); p.close()"))[0][1] == "4"


def test_a_silenced_bar_never_appears():
    assert at_terminal("work(Progress('simulate', False))") == ""


def test_the_total_grows_by_rounds():
    rounds = "for _ in range(3):\n    p.expect(2)\n    time.sleep(0.8)\n    p.advance(2)\n"
    found = bars(at_terminal(f"p = Progress('simulate', True)\n{rounds}p.close()"))
    assert {total for _, total, *_ in found} == {"2", "4", "6"}


def test_an_exception_takes_the_bar_away():
    program = """
import contextlib
with contextlib.suppress(ArithmeticError), contextlib.closing(Progress('simulate', True)) as p:
    p.expect(4)
    raise ArithmeticError
print("done")
"""
    shown = at_terminal(program)
    assert bars(shown)
    assert last_screen(shown) == ["done"]


def test_what_was_not_closed_is_gone_at_the_end_of_python():
    shown = at_terminal("Progress('simulate', True).expect(4); time.sleep(0.5)")
    assert bars(shown)
    assert last_screen(shown) == []
    assert shown.count("\x1b[?25h") == 1


def test_a_bar_of_the_training_loop_is_drawn_over():
    program = "print('epoch 3', end='', flush=True)\nwork(Progress('simulate', True))"
    shown = at_terminal(program + "\nprint('epoch 4')")
    assert shown.startswith("epoch 3\r\x1b[2K")
    assert last_screen(shown) == ["epoch 4"]


def test_of_two_gradients_one_has_a_bar():
    program = """
both = Progress("simulate", True), Progress("b", True)
threads = [threading.Thread(target=work, args=(progress,)) for progress in both]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    shown = CONTROL.sub("", at_terminal(program))
    assert ("simulate" in shown) != (re.search(r"\bb ", shown) is not None)


def test_names_are_not_read_as_markup():
    assert "[red]x[/red]" in at_terminal("work(Progress('[red]x[/red]', True))")


@pytest.mark.parametrize(
    "environ", [{"TERM": "dumb"}, {"LOCAL_RANK": "1"}], ids=["dumb terminal", "second rank"]
)
def test_where_bars_would_be_garbage_there_is_none(environ):
    assert at_terminal("work(Progress('simulate', True))", **environ) == ""


def test_a_terminal_without_the_letters_ends_nothing():
    program = "work(Progress('simuläte', True)); print('done')"
    assert "done" in at_terminal(program, PYTHONIOENCODING="ascii")


# Says whether all is well in a process whose standard error is gone.
WAIT = """
time.sleep(0.6)
p.close()
time.sleep(0.1)
print(_progress._watcher is None or _progress._watcher.is_alive())
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_stream_that_is_closed_ends_nothing(moment):
    program = f"p = Progress('simulate', {moment == 'after'}); p.expect(4); sys.stderr.close()"
    assert "True" in at_terminal(program + WAIT)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_terminal_that_is_gone_ends_nothing(moment):
    leader, follower = pty.openpty()
    program = f"p = Progress('simulate', {moment == 'after'}); p.expect(4); print(); input()"
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM + program + WAIT], text=True, stderr=follower,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(follower)
    assert child.stdout.readline() == "\n"
    os.close(leader)
    assert child.communicate("\n", timeout=60)[0] == "True\n"
    assert child.returncode == 0


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_a_terminal_that_goes_away_while_it_is_written_to_ends_nothing(monkeypatch, error):
    class Gone(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            raise error

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Gone())
    progress = Progress("simulate", True)
    progress.expect(3)
    progress.close()


def test_children_have_no_bar_by_themselves():
    program = """
import multiprocessing
child = multiprocessing.get_context("fork").Process(target=lambda: work(Progress("simulate")))
child.start()
child.join()
"""
    assert at_terminal(program) == ""


def test_a_fork_takes_neither_the_lock_nor_the_bar_along():
    program = """
p = Progress("simulate", True)
p.expect(4)
time.sleep(0.3)
child = os.fork()
if not child:
    work(Progress("child"), points=2, pause=0.01)
    os._exit(0 if not _progress._watched else 1)
assert os.waitpid(child, 0)[1] == 0
p.close()
"""
    assert "child" not in at_terminal(program)


@pytest.mark.parametrize("setting", [None, True])
def test_a_file_never_gets_a_bar(tmp_path, setting):
    log = tmp_path / "log"
    with open(log, "wb") as file:
        subprocess.run(
            [sys.executable, "-c", f"{PROGRAM}\nwork(Progress('simulate', {setting}))"],
            stdout=file, stderr=file, check=True, env={**os.environ, "FORCE_COLOR": "1"},
        )  # fmt: skip
    assert log.read_bytes() == b""


def test_without_a_bar_no_thread_is_started(monkeypatch):
    for stream in (io.StringIO(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        progress = Progress("simulate", True)
        progress.expect(3)
        progress.advance(2, failed=1)
        assert (progress.done, progress.total, progress.failed) == (2, 3, 1)
        assert _progress._watcher is None
        progress.close()
        progress.close()


def test_the_thread_ends_with_the_last_gradient(monkeypatch):
    monkeypatch.setattr(_progress, "_is_seen", lambda is_forced: True)
    monkeypatch.setattr(_progress, "PAUSE", 0.01)
    progresses = [Progress("simulate") for _ in range(3)]
    thread = _progress._watcher
    assert [t.name for t in threading.enumerate()].count("suture-progress") == 1
    for progress in progresses:
        progress.close()
    thread.join(10)
    assert not thread.is_alive()
    assert _progress._watched == []


def test_a_notebook_has_a_bar():
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    program = PROGRAM + "\nwork(Progress('simulate'), points=12)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(program)])
    seen = []
    client = nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3")
    original = client.process_message

    def noting(message, *args):
        seen.append(message)
        return original(message, *args)

    client.process_message = noting
    client.execute()
    assert not [message for message in seen if message["msg_type"] == "stream"]  # a warning, say
    shown = [message for message in seen if "display_data" in message["msg_type"]]
    assert [message["msg_type"] for message in shown[:2]] == ["display_data", "update_display_data"]
    *drawn, last = [message["content"]["data"]["text/plain"] for message in shown]
    assert [bars(text)[0][1] for text in drawn] == ["12"] * len(drawn)
    assert last == ""
