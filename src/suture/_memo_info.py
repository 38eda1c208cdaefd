"""What a memo tells of itself."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Counts:
    """What happened to a memo in this process.

    Attributes:
        hits: values that were found.
        misses: values that were not.
        writes: values that were written; one that another process had written is none.
        failed_writes: values that could not be written; they are evaluated again.
        bad_rows: values that were damaged; each is a miss as well.
    """

    hits: int = 0
    misses: int = 0
    writes: int = 0
    failed_writes: int = 0
    bad_rows: int = 0


@dataclasses.dataclass(frozen=True)
class Info:
    """What a memo holds.

    Attributes:
        path: its file.
        values: how many values.
        size: bytes on disk.
        largest: bytes of the largest value, 0 without any.
        oldest: when the first value was written, None without any.
        newest: when the last one was.
        journal: SQLite's journal: "wal", or "delete" on a network file system.
        counts: what happened in this process.
    """

    path: Path
    values: int
    size: int
    largest: int
    oldest: datetime | None
    newest: datetime | None
    journal: str
    counts: Counts


def date(seconds: Any) -> datetime | None:
    """Return a time of the file, None if there is none or it is damaged."""
    try:
        return datetime.fromtimestamp(seconds).astimezone()
    except (TypeError, ValueError, OverflowError, OSError):
        return None
