"""`suture report`: write the page of a record, and print what it comes to."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from suture._report import reported
from suture._report.page import notes, tiles

# Kinds of failures that are named; the page has all of them.
_NAMED = 5


def run(record: Path, out: Path | None) -> None:
    """Write the page of a record, and print totals.

    Args:
        record: a file of rows.
        out: the page, None for one beside the record.

    Raises:
        MethodError: if there is no record, or the page cannot be written.
        MissingExtraError: if matplotlib is absent.
    """
    totals, page = reported(record, record.with_suffix(".html") if out is None else out)
    lines = [(label, f"{number}  {remark}", "dim") for label, number, remark in tiles(totals)]
    for (ended, error), count in list(totals.failures.items())[:_NAMED]:
        lines.append((f"{ended}, {error}" if error else ended, f"{count:,}", "red"))
    width = 2 + max(len(label) for label, _, _ in lines)
    console = Console(highlight=False)
    console.print(Text(f"{record}: {', '.join(totals.names)}", style="bold"), soft_wrap=True)
    for label, number, style in lines:
        console.print(Text.assemble("  ", (f"{label:{width}}", style), number.rstrip()))
    if len(totals.failures) > _NAMED:
        console.print(f"  and {len(totals.failures) - _NAMED} more kinds of failures")
    for note in notes(totals):
        console.print(Text(f"  {note}", style="yellow"), soft_wrap=True)
    console.print(Text(str(page)), soft_wrap=True)
