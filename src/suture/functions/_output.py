"""The files that a run has left behind."""

from __future__ import annotations

import os
import stat
from collections.abc import Container
from pathlib import Path

from suture.functions.parse import Unreadable

_NAMED = 5
"""Files that a message names."""


def content_of(folder: Path, path: str, cap: int, given: Container[str]) -> bytes:
    """Return what is in a file of results.

    Raises:
        Unreadable: there is none, it is too long, or it is elsewhere.
    """
    place = (folder / path).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise Unreadable("it is a link that leads out of the run directory")
    try:
        number = os.open(place, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not keep us
    except OSError as error:
        raise Unreadable(f"{error.strerror}{_beside(folder, given)}") from None
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise Unreadable("it is not a file")
        with open(number, "rb", closefd=False) as file:
            content = file.read(cap + 1)
    finally:
        os.close(number)
    if len(content) > cap:
        raise Unreadable(f"it has more than {cap} bytes, see `max_bytes=`")
    return content


def _beside(folder: Path, given: Container[str]) -> str:
    """Return the names of files that a run has written, for who has mistaken one."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    made = sorted(name for p in paths if (name := p.relative_to(folder).as_posix()) not in given)
    few = ", ".join(f"`{name}`" for name in made[:_NAMED]) + (", …" if made[_NAMED:] else "")
    return f"; it wrote {few}" if made else ""
