"""Put a record on one page that needs nothing but itself: no network, no scripts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape

from suture._report.palette import style
from suture._report.totals import Totals

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --card: #f4f6f8; --soft: #5b636c; %s }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181c; --card: #1f242a; --soft: #9aa3ad; %s } }
body { margin: 0; background: var(--page); color: var(--c01);
  font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1.25rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 0; }
p { margin: 0.3rem 0 0.8rem; color: var(--soft); max-width: 46rem; }
svg { display: block; width: 100%%; height: auto; }
svg text { font-family: system-ui, sans-serif !important; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); gap: 0.6rem;
  margin: 1.4rem 0 0; }
dl div { background: var(--card); border-radius: 0.5rem; padding: 0.6rem 0.8rem; }
dt { color: var(--soft); font-size: 0.82rem; }
dd { margin: 0; font-size: 1.3rem; font-weight: 600; font-variant-numeric: tabular-nums; }
dd small { font-size: 0.82rem; font-weight: 400; color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin-top: 0.6rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 0.82rem; }
th, td { padding: 0.25rem 1.1rem 0.25rem 0; border-bottom: 1px solid var(--c02);
  white-space: nowrap; }
.n { text-align: right; }
.note { background: var(--card); border-left: 0.25rem solid #E69F00; padding: 0.5rem 0.9rem;
  color: inherit; margin-top: 1.2rem; }
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A figure or a sentence, under a heading."""

    heading: str
    words: str
    svg: str = ""


def page(totals: Totals, first: float, last: float, path: str, sections: Iterable[Section]) -> str:
    """Return the page.

    Args:
        totals: of the record.
        first: when the first call began, in seconds since 1970.
        last: when the last call ended.
        path: of the record.
        sections: the figures.
    """
    title = f"Record of {', '.join(totals.names[:_NAMED])}"
    if len(totals.names) > _NAMED:
        title += f" and {len(totals.names) - _NAMED} more"
    period = " to ".join(
        f"{datetime.fromtimestamp(t, UTC):%Y-%m-%d %H:%M:%S}" for t in (first, last)
    )
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(path)}, {period} UTC</p>",
        *(f'<p class="note">{escape(note)}</p>' for note in notes(totals)),
        _tiles(totals),
        *(f"<h2>{escape(s.heading)}</h2>\n<p>{escape(s.words)}</p>\n{s.svg}" for s in sections),
        "<h2>By black box</h2>",
        _groups(totals),
    ]
    if totals.failures:
        body += ["<h2>Calls without a value</h2>", _failures(totals)]
    if totals.slowest:
        body += ["<h2>The slowest calls</h2>", _slowest(totals)]
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE % (style(dark=False), style(dark=True))}</style>\n</head>",
            "<body>\n<main>",
            *body,
            "</main>\n</body>\n</html>\n",
        ]
    )


# More names would not be a title.
_NAMED = 3


def notes(totals: Totals) -> list[str]:
    """Return what a reader has to know of the record itself."""
    found = []
    if totals.unreadable == 1:
        found.append("One line was cut, as a kill or a full disk leaves it, and is not shown.")
    elif totals.unreadable:
        found.append(
            f"{totals.unreadable:,} lines were cut, as kills or a full disk leave them, and are "
            "not shown."
        )
    if totals.runs > 1:
        found.append(
            f"The file holds {totals.runs} runs, one after another. Steps are counted on, and the "
            "time between runs is left out."
        )
    return found


def tiles(totals: Totals) -> list[tuple[str, str, str]]:
    """Return the numbers that matter most: label, number, remark."""
    calls = "" if totals.calls == totals.evaluations else f"in {totals.calls:,} calls"
    found = [
        ("evaluations", f"{totals.evaluations:,}", calls),
        ("optimizer steps", f"{totals.steps - totals.runs:,}", ""),
        ("memo hits", f"{totals.hits:,}", f"{totals.share:.0%}"),
        ("calls without a value", f"{totals.failed:,}", ""),
        ("retries", f"{totals.retries:,}", ""),
        ("on the clock", duration(totals.wall), ""),
        ("in all calls", duration(totals.seconds), ""),
    ]
    if totals.parallelism == totals.parallelism:  # not NaN
        found.append(("at once in a gradient", f"{totals.parallelism:.2g}", "median"))
    return found


def duration(seconds: float) -> str:
    """Return seconds in a unit that can be read."""
    if seconds >= 100 * 3600:
        return f"{seconds / 86_400:.1f} d"
    if seconds >= 3600:
        return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02} min"
    if seconds >= 100:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02} s"
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _tiles(totals: Totals) -> str:
    cells = [
        f"<div><dt>{label}</dt><dd>{number} <small>{remark}</small></dd></div>"
        for label, number, remark in tiles(totals)
    ]
    return "\n".join(["<dl>", *cells, "</dl>"])


def _groups(totals: Totals) -> str:
    head = ("black box", "task", "calls", "evaluations", "hits", "without a value")
    rows = (
        (
            *(g.name, g.task, g.calls, g.evaluations, g.hits, g.failures),
            *(duration(s) for s in (g.seconds, g.seconds / max(g.calls, 1), g.slowest)),
        )
        for g in totals.groups
    )
    return _table((*head, "in all", "a call", "slowest"), rows, texts=2)


def _failures(totals: Totals) -> str:
    rows = ((ended, error, count) for (ended, error), count in totals.failures.items())
    return _table(("ended", "error", "calls"), rows, texts=2)


def _slowest(totals: Totals) -> str:
    head = ("black box", "task", "where", "ended", "took", "begun", "step")
    rows = (
        (s.name, s.task, s.where, s.ended, duration(s.seconds), duration(s.begun), s.step)
        for s in totals.slowest
    )
    return _table(head, rows, texts=4)


def _table(head: Iterable[str], rows: Iterable[Iterable[object]], texts: int) -> str:
    """Return a table whose first columns are texts, and the others numbers."""

    def line(tag: str, cells: Iterable[object]) -> str:
        line = ""
        for i, cell in enumerate(cells):
            text = f"{cell:,}" if isinstance(cell, int) else str(cell)
            line += f"<{tag}>" if i < texts else f'<{tag} class="n">'
            line += f"{escape(text)}</{tag}>"
        return f"<tr>{line}</tr>"

    lines = [line("th", head), *(line("td", row) for row in rows)]
    return "\n".join(['<div class="wide"><table>', *lines, "</table></div>"])
