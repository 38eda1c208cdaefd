"""Look at a record: `report`.

`read` turns lines into columns, `totals` sums them, `lanes` lays out the timeline; `figures` draws
in the colors of `palette`, `page` puts all on a page, which `write` writes, and `command` is
`suture report`.
"""

from __future__ import annotations

import os
from pathlib import Path

from suture._report.read import read
from suture._report.totals import Totals, total
from suture._report.write import write


def report(record: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Draw a record: one page of HTML, which needs no network and no scripts.

    It shows evaluations and seconds of each optimizer step, calls without a value by how they
    ended, a timeline of the places where calls ran, hits of a memo, and the slowest calls. The
    record may be one that is being written. Many steps are drawn as means, and many calls as
    shares of time; the page says so.

    Args:
        record: what `record` writes.
        out: the page; it is replaced if it exists, and its directory is made.

    Returns:
        The path of the page.

    Raises:
        MethodError: if there is no record, or the page cannot be written.
        MissingExtraError: if matplotlib is not installed.

    Example:
        >>> import json, tempfile
        >>> row = {"when": 1.7e9, "seconds": 0.1, "name": "f", "task": "forward", "ended": "value"}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lines = Path(folder, "run.jsonl")
        ...     size = lines.write_text(json.dumps(row))
        ...     page = report(lines, Path(folder, "run.html"))
        ...     page.read_text(encoding="utf-8").splitlines()[0]
        '<!DOCTYPE html>'
    """
    return reported(Path(record), Path(out))[1]


def reported(record: Path, out: Path) -> tuple[Totals, Path]:
    """Draw a record, and return what it comes to and the path of the page."""
    table = read(record)
    totals = total(table)
    write(table, totals, out)
    return totals, out


__all__ = ["report", "reported"]
