"""What was called, when, where, and how it ended: JSON lines, one row an evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias, final

from suture.errors import MethodError

Task: TypeAlias = Literal["forward", "gradient", "tangents", "second derivative", "check"]

Ended: TypeAlias = Literal[
    "value", "not finite", "raised", "point failed", "bad result", "timed out", "died", "canceled"
]


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One call of a black box, or one value that a memo had; `record` says what the fields are."""

    when: float
    seconds: float
    name: str
    task: Task
    call: int
    points: int
    where: str
    ended: Ended
    error: str | None
    hit: bool
    attempt: int


_FIELDS = tuple(field.name for field in dataclasses.fields(Row))

# A row begins with its first field, and JSON escapes quotes in texts: so these bytes are nowhere
# else in a row, and tell where one begins behind one that was cut.
BEGINNING = '{"when": '


@final
class Recording:
    """A record that is being written.

    Attributes:
        path: of the file.
        rows: how many rows this process wrote since the recording began.
        lost: how many rows could not be written.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        self.rows = 0
        self.lost = 0
        self._run = secrets.token_hex(4)
        self._first_step = first_step
        self._file, self._is_cut = _opened(path)

    def __repr__(self) -> str:
        return f"Recording({str(self.path)!r}, rows={self.rows}, lost={self.lost})"

    def _append(self, head: str, step: int) -> OSError | None:
        """Write a row that lacks what only the recording knows; return what prevented it, once."""
        line = f'{head}, "step": {step - self._first_step}, "run": "{self._run}"}}\n'
        whole = rest = ("\n" + line if self._is_cut else line).encode()
        try:
            # One call writes all of it, so what several processes append is not mixed. Only where
            # the disk becomes full is there a rest, and the next call says why.
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            self._is_cut |= len(rest) < len(whole)
            self.lost += 1
            return error if self.lost == 1 else None
        self._is_cut = False
        self.rows += 1
        return None

    def _close(self) -> None:
        # Network file systems may tell only here that the disk is full.
        with contextlib.suppress(OSError):
            os.close(self._file)


def _opened(path: Path) -> tuple[int, bool]:
    """Return a file that grows at its end, and whether its last line was cut.

    Raises:
        MethodError: if the file cannot be written.
    """
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        is_file = stat.S_ISREG(os.fstat(file).st_mode)  # and not /dev/null, or a pipe
        return file, is_file and _ends_within_a_line(path)
    except OSError as error:
        raise MethodError(
            f"The record {path} cannot be written: {error.strerror}.",
            "A record is a file that can be written and read; it is made if it does not exist.",
            'Give another path, for example `record("runs/record.jsonl")`.',
        ) from error


def _ends_within_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


# ------------------------------------------------------------------------------------------------
# All recordings of this process. Torch calls a backward pass from threads of its own, so they are
# no context variable.
# ------------------------------------------------------------------------------------------------

_lock = threading.RLock()
_active: tuple[Recording, ...] = ()
_steps = 0
_stop_counting: Callable[[], None] | None = None

if hasattr(os, "register_at_fork"):
    # A child must not inherit a lock that some other thread of the parent holds.
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def active() -> tuple[Recording, ...]:
    """Return the recordings that `write` would feed; () costs next to nothing."""
    return _active


def write(row: Row) -> None:
    """Append a row to all recordings. It never raises, unless warnings are errors."""
    head = json.dumps({name: getattr(row, name) for name in _FIELDS}).removesuffix("}")
    with _lock:
        failed = [(to, to._append(head, _steps)) for to in _active]
    for recording, error in failed:
        if error is not None:
            warnings.warn(
                f"The record {recording.path} cannot be written now: {error.strerror}. Rows are "
                "lost, and nothing else; `lost` counts them.",
                stacklevel=2,
            )


@contextlib.contextmanager
def record(path: str | os.PathLike[str]) -> Iterator[Recording]:
    """Write down every evaluation of every black box, as long as the context is open.

    The file holds JSON lines, one row a call of a black box, appended when the call has ended: it
    can be read while it grows, and by `report` at any time. All threads of this process are
    recorded. Several processes may append to one file, and a training that is resumed to that of
    its beginning; a process that is killed leaves at most one line that is cut. Recordings may be
    nested, and side by side. A full disk costs one warning and the rows (`lost`), and not the
    training.

    No row holds an argument, a value, or the message of an error: they may be secret.

    A row has these fields:

    - `when`: when the call began, in seconds since 1970 (UTC)
    - `seconds`: how long it took, in seconds
    - `name`: of the black box
    - `task`: what it was for: `forward`, `gradient`, `tangents`, `second derivative`, `check`
    - `call`: the number of the forward call that it belongs to
    - `points`: how many points this call evaluated: more than 1 where they are stacked
    - `where`: the host, the number of the process, and the thread: `host:pid:thread`
    - `ended`: `value`, or why there is none: `not finite`, `raised`, `point failed`,
      `bad result`, `timed out`, `died`, `canceled`
    - `error`: the type of the exception, null without one
    - `hit`: whether a memo had the value, and nothing was called
    - `attempt`: 1, and 2 or more where it was tried again
    - `step`: the number of optimizer steps that were finished, since the recording began
    - `run`: which recording wrote the row, as 8 hexadecimal digits

    A step is one call of the `step` of any optimizer of torch in this process: two optimizers that
    take turns make two steps.

    Args:
        path: the file; it is made if it does not exist, and its directory too.

    Yields:
        The recording, which counts its `rows`.

    Raises:
        MethodError: if the file cannot be written.

    Example:
        >>> import os, suture, torch
        >>> f = suture.differentiable(lambda x: x**2)
        >>> with suture.record(os.devnull) as r:
        ...     f(torch.ones(3))
        tensor([1., 1., 1.])
        >>> r.rows, r.lost
        (1, 0)
    """
    recording = _begin(Path(path).expanduser().absolute())
    try:
        yield recording
    finally:
        _end(recording)


def _begin(path: Path) -> Recording:
    global _active, _stop_counting
    with _lock:
        recording = Recording(path, _steps)
        if not _active:
            _stop_counting = _count_steps()
        _active = (*_active, recording)
    return recording


def _end(recording: Recording) -> None:
    global _active, _stop_counting
    with _lock:
        _active = tuple(other for other in _active if other is not recording)
        if not _active and _stop_counting is not None:
            _stop_counting()
            _stop_counting = None
        recording._close()


def _count_steps() -> Callable[[], None]:
    """Count the steps of all optimizers, until what is returned is called."""
    # Here: `suture report` need not wait for torch.
    from torch.optim.optimizer import register_optimizer_step_post_hook

    return register_optimizer_step_post_hook(_count_step).remove


def _count_step(*_: object) -> None:
    global _steps
    with _lock:
        _steps += 1
