"""Draw the figures, explain them, and write the page."""

from __future__ import annotations

from pathlib import Path

from suture._report import figures
from suture._report.lanes import Timeline, timeline
from suture._report.page import Section, duration, page
from suture._report.read import Table
from suture._report.totals import Steps, Totals, by_step
from suture.errors import MethodError


def write(table: Table, totals: Totals, out: Path) -> None:
    """Write the page of a record.

    Raises:
        MethodError: if it cannot be written there.
        MissingExtraError: if matplotlib is not installed.
    """
    if out.exists() and out.samefile(table.path):
        raise MethodError(
            f"The page {out} would replace the record itself.",
            "Page and record are two files.",
            f'Give another path, for example `report("{table.path}", "{out.stem}-page.html")`.',
        )
    text = page(
        totals,
        float(table.when.min()),
        float((table.when + table.seconds).max()),
        str(table.path),
        _sections(table, totals),
    )
    try:
        if not out.parent.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MethodError(
            f"The page {out} cannot be written: {error.strerror}.",
            "A page is a file; it is made if it does not exist, and its directory too.",
            f'Give another path, for example `report("{table.path}", "page.html")`.',
        ) from error


def _sections(table: Table, totals: Totals) -> list[Section]:
    steps = by_step(table)
    with figures.settings():
        return [
            _costs(steps),
            _failures(steps, totals),
            _timeline(table, timeline(table)),
            _hits(steps, totals),
        ]


def _mean(steps: Steps) -> str:
    return "" if steps.width == 1 else f" Each column is the mean of {steps.width:,} steps."


def _costs(steps: Steps) -> Section:
    words = (
        "Evaluations by what they were for; seconds of all calls together, and from the first call "
        "of a step to the end of its last one. What ran before the first step of an optimizer had "
        "ended is step 0." + _mean(steps)
    )
    return Section("What a step costs", words, figures.as_svg(figures.draw_costs(steps)))


def _failures(steps: Steps, totals: Totals) -> Section:
    if not totals.failed:
        return Section("What failed", "Every call gave a value.")
    words = f"Calls that gave no value, by how they ended.{_mean(steps)}"
    return Section("What failed", words, figures.as_svg(figures.draw_failures(steps, totals)))


def _timeline(table: Table, line: Timeline) -> Section:
    if not line.lanes:
        return Section("Who worked when", "Nothing was called.")
    words = "One lane for each process and thread in which calls ran."
    if len(line.lanes) < line.places:
        words += f" These {len(line.lanes)} of {line.places:,} worked longest."
    if line.column:
        width = duration(line.column)
        words += (
            f" There are too many calls to draw each: a column is {width}, and its height the "
            "share of that time in which calls ran. Failures are on top, and drawn higher than "
            "they were long where they could not be seen."
        )
    if table.resumed:
        words += " At a dashed line, another run began."
    svg = figures.as_svg(figures.draw_timeline(line, table.resumed))
    return Section("Who worked when", words, svg)


def _hits(steps: Steps, totals: Totals) -> Section:
    if not totals.hits:
        return Section("What the memo had", "No value came from a memo.")
    words = f"The share of values that a memo had, so that nothing was called.{_mean(steps)}"
    return Section("What the memo had", words, figures.as_svg(figures.draw_hits(steps)))
