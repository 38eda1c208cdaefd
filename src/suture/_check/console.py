"""Show a report on the terminal, in color where there is any."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from suture._check.report import LABEL, WIDTH, Report


def show(report: Report, console: Console | None = None) -> None:
    """Print a report."""
    console = console or Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe: tables would fill its lines with spaces
        console.print(Text(str(report)), soft_wrap=True)
        return
    name, rest = report.title().split(":", 1)
    console.print(Text.assemble((name, "bold"), ":", rest))
    console.print()
    console.print(_table([(label, text, "") for label, text in report.findings()]))
    if report.curves:
        head, *rows = report.sweep_lines()
        console.print()
        console.print(Text(f"  {head}", style="dim"))
        for row in rows:
            console.print(Text(f"  {row}"))
    remarks = [("wrong", text, "bold red") for text in report.problems]
    remarks += [("note", text, "yellow") for text in report.notes]
    if remarks:
        console.print()
        console.print(_table(remarks))
    console.print()
    console.print(Text(f"  {report.verdict()}", style="bold green" if report.ok else "bold red"))
    if report.advice is not None:
        console.print()
        syntax = Syntax("", "python", theme="ansi_dark", background_color="default")
        for line in report.advice.lines(WIDTH - 4):
            code = syntax.highlight(line)
            code.rstrip()
            # A line that is broken cannot be copied.
            console.print(Text("    ") + code, soft_wrap=True)
        console.print()
        for line in report.advice_lines():
            console.print(Padding(Text(line), (0, 0, 0, 2)))
    console.print()


def _table(lines: list[tuple[str, str, str]]) -> Padding:
    """Return labels, in a style, and sentences that wrap beside them."""
    table = Table.grid(padding=(0, 0))
    table.add_column(width=LABEL, no_wrap=True)
    table.add_column(overflow="fold")
    for label, text, style in lines:
        table.add_row(Text(label, style=style or "dim"), Text(text))
    return Padding(table, (0, 0, 0, 2), expand=False)
