"""A bar that shows how far a gradient is, where somebody is looking and it takes long."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any, Protocol, final

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

# Seconds. Who waits for less needs no bar, which would only flicker.
PATIENCE = 2.0

# Seconds between two looks at what is under way: a bar that moves less often seems to be stuck.
PAUSE = 0.2

# Longer names would leave no room for the bar.
_LONGEST = 32


@final
class Progress:
    """How many points of a gradient are evaluated; a bar shows it to whoever is looking.

    The bar is on the terminal of the standard error, or in a notebook. Nothing is ever printed
    elsewhere: there is no bar in the file of a log. Of several gradients at a time one has a bar,
    and of several ranks on a host the first. Counting costs next to nothing, because a thread draws
    the bar from the counts; it lives only while there is something to look at.

    Args:
        name: of the black box.
        setting: None for a bar after two seconds, but in no child of `multiprocessing`; True for a
            bar at once; False for none.

    Attributes:
        done: points that are evaluated.
        failed: those of them that have no value.
        total: points that are expected so far.
    """

    def __init__(self, name: str, setting: bool | None = None) -> None:
        self.done = 0
        self.failed = 0
        self.total = 0
        self._name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."
        self._begun = time.monotonic()
        self._is_forced = setting is True
        self._drawing: _Drawing | None = None
        self._is_watched = setting is not False and _is_seen(self._is_forced)
        if self._is_watched:
            _watch(self)

    def expect(self, points: int) -> None:
        """Say that so many more points will be evaluated."""
        self.total += points
        if self._is_forced and self._is_watched and self._drawing is None:
            with _lock:
                self._draw()

    def advance(self, points: int, failed: int = 0) -> None:
        """Say that so many more points are evaluated, and how many of them have no value."""
        self.done += points
        self.failed += failed

    def close(self) -> None:
        """Take the bar away. It has to be called, and may be called again."""
        if self._is_watched:
            self._is_watched = False
            _forget(self)

    def _draw(self) -> None:
        """Draw the bar, if it is time for one and no other is there."""
        global _shown
        elapsed = time.monotonic() - self._begun
        if not self.total or not (self._is_forced or elapsed >= PATIENCE):
            return
        if _shown not in (None, self):
            return
        _shown = self
        # A terminal that is gone, or a stream that was closed, must not end a training.
        with contextlib.suppress(OSError, ValueError):
            if self._drawing is None:
                self._drawing = _Drawing(self._name)
            self._drawing.show(self.done, self.total, self.failed, elapsed)

    def _erase(self) -> None:
        global _shown
        if _shown is self:
            _shown = None
        if self._drawing is not None:
            with contextlib.suppress(OSError, ValueError):
                self._drawing.erase()
            self._drawing = None


# ------------------------------------------------------------------------------------------------
# A thread looks at all gradients that are under way
# ------------------------------------------------------------------------------------------------

_lock = threading.RLock()
_watched: list[Progress] = []
_shown: Progress | None = None
_watcher: threading.Thread | None = None


def _watch(progress: Progress) -> None:
    global _watcher
    with _lock:
        _watched.append(progress)
        if _watcher is None:
            _watcher = threading.Thread(target=_look, name="suture-progress", daemon=True)
            _watcher.start()


def _forget(progress: Progress) -> None:
    with _lock:
        if progress in _watched:
            _watched.remove(progress)
        progress._erase()


def _look() -> None:
    global _watcher
    while True:
        time.sleep(PAUSE)
        with _lock:
            if not _watched:
                _watcher = None
                return
            for progress in _watched:
                progress._draw()


def _forget_all() -> None:
    for progress in list(_watched):
        progress.close()


def _begin_in_child() -> None:
    """Leave the bars to the parent; its thread is not here."""
    global _shown, _watcher
    _watched.clear()
    _shown = _watcher = None
    _lock.release()


# The thread must not write any more when Python ends.
atexit.register(_forget_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_begin_in_child
    )


# ------------------------------------------------------------------------------------------------
# Where bars are drawn
# ------------------------------------------------------------------------------------------------


def _is_seen(is_forced: bool) -> bool:
    """Say whether there is a terminal or a notebook, and it is for this process to draw there."""
    if os.environ.get("LOCAL_RANK", "0") != "0":  # torchrun sets it
        return False
    if parent_process() is not None and not is_forced:
        return False
    return _is_notebook() or _is_terminal()


def _is_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):  # None under pythonw, or closed
        return False


class _Place(Protocol):
    def draw(self, bar: Bar) -> None: ...

    def erase(self) -> None: ...


@final
class _Drawing:
    """A bar of rich, and where it is."""

    def __init__(self, name: str) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        words = ("points", "elapsed", "failed", "left")
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *(TextColumn(f"{{task.fields[{word}]}}", markup=False) for word in words),
            auto_refresh=False,
        )
        fields: dict[str, Any] = dict.fromkeys(words, "")
        self._task = self._bar.add_task(name, total=None, **fields)
        self._place: _Place = _Notebook() if _is_notebook() else _Terminal()

    def show(self, done: int, total: int, failed: int, elapsed: float) -> None:
        left = ""
        if 0 < done < total:
            left = f"{_clock(elapsed / done * (total - done))} left"
        self._bar.update(
            self._task,
            completed=done,
            total=total,
            points=f"{done}/{total}",
            elapsed=_clock(elapsed),
            failed=f"{failed} failed" if failed else "",
            left=left,
        )
        self._place.draw(self._bar)

    def erase(self) -> None:
        self._place.erase()


@final
class _Terminal:
    """The last line of the terminal.

    What the black box prints meanwhile ends up behind the bar. Rich could catch it, but it would
    exchange `sys.stdout` for that, under a black box that may have exchanged it itself.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.control import Control
        from rich.live import Live
        from rich.segment import ControlType

        self._console = Console(file=sys.stderr, force_jupyter=False)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        # The bar of the training loop may be on this line: it will be drawn anew.
        self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
        self._live.start()

    def draw(self, bar: Bar) -> None:
        self._live.update(bar, refresh=True)

    def erase(self) -> None:
        self._live.stop()


@final
class _Notebook:
    """An output of the cell."""

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, bar: Bar) -> None:
        if self._handle is None:
            self._handle = sys.modules["IPython"].display.display(bar, display_id=True)
        else:
            self._handle.update(bar)

    def erase(self) -> None:
        if self._handle is not None:
            self._handle.update({"text/plain": ""}, raw=True)


def _clock(seconds: float) -> str:
    """Return `1:02:03`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
