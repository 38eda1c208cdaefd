"""The report: every finding as a value, and all of it in words."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

import numpy as np

from suture._check.findings import (
    Advice,
    Break,
    Curve,
    Failure,
    Precision,
    Rows,
    WrongEntry,
    counted,
)
from suture._types import Array

WIDTH = 80
"""Columns of the plain text."""

LABEL = 15
"""Columns of its labels."""

# Findings of one kind that are named; the others are counted.
_NAMED = 4
# Inputs whose curve is shown in the text: the worst.
_CURVES = 6
_BLOCKS = "▁▂▃▄▅▆▇█"
# Errors from 1e-12, the lowest block, to 1, the highest.
_DECADES = 12.0


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """What `check` found; `str(report)` says it in words.

    Attributes:
        name: the black box.
        n: the flat inputs that have derivatives; a complex number is two.
        m: the flat outputs that have derivatives.
        swept: how many inputs were displaced one by one.
        evaluations: how many points were evaluated.
        seconds: the median of an evaluation.
        deterministic: whether f(x) is the same number every time.
        remembers: whether f(x) was another number after the experiments than before.
        together: how f grows along a line if it changes only where several inputs are displaced,
            as the exponent of the displacement; NaN otherwise.
        noise: standard deviation of the noise, relative to the largest output.
        precision: of each leaf of the result.
        breaks: jumps and kinks at x and near it.
        failures: points at which it failed.
        rows: whether rows are independent, None where there is no batch.
        vectorized: whether points can be stacked on a new leading axis.
        unused: inputs that no output depends on.
        pattern: (m, n) which output depends on which input, None unless all were looked at.
        colors: groups of inputs that can be displaced together, None without a pattern.
        agreement: largest relative difference of slopes of order two and four along random
            directions, NaN if unknown.
        additivity: largest relative difference of these from sums over single inputs.
        curves: the error of a difference by its step, of each input that has a slope.
        method_error: largest relative error of the method that f was given, NaN if not compared.
        wrong: entries of the user's rule that are wrong.
        advice: what to write, None where nothing helps.
        problems: what is wrong.
        notes: what is worth knowing.
    """

    name: str
    n: int = 0
    m: int = 0
    swept: int = 0
    evaluations: int = 0
    seconds: float = float("nan")
    deterministic: bool = True
    remembers: bool = False
    together: float = float("nan")
    noise: float = 0.0
    precision: tuple[Precision, ...] = ()
    breaks: tuple[Break, ...] = ()
    failures: tuple[Failure, ...] = ()
    rows: Rows | None = None
    vectorized: bool = False
    unused: tuple[str, ...] = ()
    pattern: Array | None = None
    colors: int | None = None
    agreement: float = float("nan")
    additivity: float = float("nan")
    curves: tuple[Curve, ...] = ()
    method_error: float = float("nan")
    wrong: tuple[WrongEntry, ...] = ()
    advice: Advice | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong: the function can be used as recommended."""
        return not self.problems

    def plot(self) -> Any:
        """Draw the error of each input's difference by its step, and the pattern.

        Returns:
            A `matplotlib.figure.Figure`. A notebook shows it; elsewhere `.savefig("check.png")`.

        Raises:
            MissingExtraError: if matplotlib is not installed.
        """
        from suture._check.picture import draw

        return draw(self)

    def __repr__(self) -> str:
        """Return one line."""
        verdict = "fine" if self.ok else f"{len(self.problems)} problem(s)"
        return f"<check of {self.name}: {verdict}, {self.evaluations} evaluations>"

    def __str__(self) -> str:
        """Return all of it, in lines of at most 80 columns but for what is to be copied."""
        parts = [self.title(), ""] if self.evaluations else [self.title()]
        for label, text in self.findings():
            parts += _wrapped(f"  {label:{LABEL}}", text)
        parts += ["", *(f"  {line}" for line in self.sweep_lines())] if self.curves else []
        for mark, lines in (("wrong", self.problems), ("note", self.notes)):
            parts += [""] if lines else []
            for line in lines:
                parts += _wrapped(f"  {mark:{LABEL}}", line)
        parts += ["", f"  {self.verdict()}", ""]
        if self.advice is not None:
            parts += [*(f"    {line}" for line in self.advice.lines(WIDTH - 4)), ""]
            for line in self.advice_lines():
                parts += _wrapped("  ", line)
        return "\n".join(line.rstrip() for line in parts).rstrip()

    def title(self) -> str:
        """Return what was checked."""
        if not self.evaluations:
            return f"{self.name}: could not be evaluated"
        return (
            f"{self.name}: {counted(self.n, 'input')}, {counted(self.m, 'output')}, "
            f"{counted(self.evaluations, 'evaluation')} of {_time(self.seconds)}"
        )

    def verdict(self) -> str:
        """Return one line."""
        if self.advice is None:
            return "Nothing to recommend" + ("" if self.ok else " before that is mended")
        return "Write" if self.ok else "When that is mended, write"

    def advice_lines(self) -> list[str]:
        """Return how good the recommended call is, and why it is this one."""
        if self.advice is None:
            return []
        lines = [f"a gradient costs {self.advice.cost}"]
        if np.isfinite(self.advice.error):
            error = f"{self.advice.error:.0e}" if self.advice.error else "rounding"
            lines[0] += f"; at x its slopes are right to {error}"
        return [*lines, *self.advice.reasons]

    def findings(self) -> list[tuple[str, str]]:
        """Return labels and sentences."""
        if not self.evaluations:
            return []
        lines = [("repeatable", self._repeatable())] if self.evaluations > 1 else []
        lines += [
            ("precision" if i == 0 else "", self._precise(entry))
            for i, entry in enumerate(self.precision)
        ]
        if self.n and self.m:
            lines.append(("jumps, kinks", self._broken()))
        if self.failures:
            lines.append(("failures", self._failed()))
        if self.rows is not None:
            lines.append(("rows", self._rows()))
        if self.vectorized:
            lines.append(("stacked points", "understood: `vectorized=True` may be claimed"))
        if self.n and self.m:
            lines.append(("dependence", self._dependence()))
        if np.isfinite(self.agreement):
            lines.append(("agreement", self._agreement()))
        return lines

    def sweep_lines(self) -> list[str]:
        """Return a table of the inputs whose slopes are worst: best step, error, and the V."""
        worst = sorted(self.curves, key=lambda curve: -curve.error)[:_CURVES]
        width = max(10, *(len(curve.name) for curve in worst))
        head = f"{'input':{width}}  best step  error    error by step, short to long"
        rows = [
            f"{curve.name:{width}}  {curve.chosen:<9.1e}  {curve.error:<7.0e}  {_blocks(curve)}"
            for curve in worst
        ]
        more = len(self.curves) - len(worst)
        return [head, *rows, *([f"and {more} more inputs, with smaller errors"] if more else [])]

    def _repeatable(self) -> str:
        if self.remembers:
            return "no: f(x) is another number after other points were evaluated"
        noise = f"noise {self.noise:.1e} of the largest output"
        if not self.deterministic:
            return f"no: f(x) differs from call to call, {noise}"
        return f"yes, {noise}"

    def _precise(self, entry: Precision) -> str:
        total = sum(other.count for other in self.precision if other.name == entry.name)
        some = "" if total == entry.count else f" ({entry.count} of {total})"
        return f"{entry.name}{some}: {entry}"

    def _broken(self) -> str:
        if not self.breaks:
            return "none seen"
        texts = [_told(entry) for entry in self.breaks[:_NAMED]]
        more = len(self.breaks) - len(texts)
        return "; ".join(texts) + (f"; and {more} more" if more else "")

    def _failed(self) -> str:
        first = self.failures[0]
        count = counted(len(self.failures), "point")
        return f"{count}, the nearest at {first.place}: {first.message}"

    def _rows(self) -> str:
        assert self.rows is not None
        if self.rows.batch_dims is not None:
            return f"independent: `batch_dims={self.rows.batch_dims}` may be claimed"
        word = "not independent" if self.rows.independent is False else "cannot be told"
        return f"{word}: {self.rows.reason}"

    def _dependence(self) -> str:
        parts = []
        if self.swept < self.n:
            parts.append(f"{self.swept} of {self.n} inputs were looked at")
        beyond = "" if self.deterministic else ", beyond the noise"
        if len(self.unused) == self.n and any(entry.kind != "constant" for entry in self.precision):
            parts.append(f"no input by itself changed an output near x{beyond}")
        elif self.unused:
            names = ", ".join(self.unused[:_NAMED])
            more = len(self.unused) - _NAMED
            rest = f" and {more} more" if more > 0 else ""
            parts.append(f"no output depends on {names}{rest}{beyond}")
        else:
            parts.append("every input is used" if self.swept == self.n else "each of them is used")
        if self.pattern is not None and self.colors is not None:
            filled, size = int(self.pattern.sum()), self.pattern.size
            parts.append(
                f"{filled} of {size} entries of the Jacobian, {counted(self.colors, 'color')}"
            )
        return "; ".join(parts)

    def _agreement(self) -> str:
        text = f"slopes of order 2 and 4 along random directions differ by {self.agreement:.0e}"
        if np.isfinite(self.additivity):
            text += f"; from the sum over single inputs by {self.additivity:.0e}"
        return text


def _told(entry: Break) -> str:
    place = (
        f"at {entry.input}"
        if entry.distance == 0
        else (f"at {entry.input} {'+' if entry.distance > 0 else '-'} {abs(entry.distance):.2g}")
    )
    if entry.kind == "vertical tangent":
        return f"vertical tangent {place}"
    what = "of the slope by" if entry.kind == "kink" else "by"
    return f"{entry.kind} {place} ({what} {entry.size:.2g}, in {entry.output})"


def _blocks(curve: Curve) -> str:
    """Return one block for each step: high where the error is large; the chosen one in brackets."""
    chosen = int(np.argmin(np.abs(curve.steps - curve.chosen)))
    text = ""
    for s, error in enumerate(np.maximum(curve.errors, curve.floor / curve.steps)):
        if not np.isfinite(error):
            block = "·"
        else:
            height = 1 + np.log10(max(error, 1e-300)) / _DECADES
            block = _BLOCKS[int(np.clip(height, 0, 1) * (len(_BLOCKS) - 1) + 0.5)]
        text += f"[{block}]" if s == chosen else block
    return text


def _wrapped(first: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _time(seconds: float) -> str:
    """Return a duration in a readable unit."""
    if not np.isfinite(seconds):
        return "unknown duration"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"
