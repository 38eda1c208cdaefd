"""Right derivatives without tuning: Suture against what PyPI has, on noisy and rounded functions.

    .venv/bin/python benchmarks/accuracy.py [--out FOLDER] [--quick]

prints the tables and saves a picture. 81 cases: 27 problems at three points each (problems.py).
"""

import argparse
import collections
import dataclasses
import math
import time
import warnings
from pathlib import Path
from typing import Any

import contestants
import jacobi
import numdifftools
import numpy as np
import scipy
import torch
from contestants import CONDITIONS, FIRST, LATER, OURS, PEERS, STEADY, Condition, Result
from matplotlib.figure import Figure
from measure import machine
from problems import STARTS

PICTURES = Path(__file__).parent / "pictures"
HEADER = ("method", "evaluations per input", "median", "90th percentile", "above 10 %", "wanted")

# What was wanted: the median, and the share of errors above 10 %, for each of CONDITIONS.
WANTED = {
    FIRST: ((1e-10, None), (None, None), (None, None), (None, None)),
    STEADY: ((2e-8, 0.0), (5e-4, 0.04), (2e-3, 0.04), (5e-2, 0.27)),
    LATER: ((3e-8, None), (6e-4, None), (3e-3, None), (1e-1, None)),
}
# The first gradient costs about as much as SciPy's 3-point, and should be better than it where a
# function is not exact to the last digit of float64.
RIVAL = "SciPy approx_derivative, 3-point"


@dataclasses.dataclass(frozen=True)
class Row:
    """The results of a method under a condition, all cases and seeds together."""

    name: str
    condition: Condition
    results: list[Result]

    def quantile(self, share: float) -> float:
        """Return a quantile of the errors; infinite where it lies among failed cases."""
        errors = [min(result.error, 1e300) for result in self.results]  # no inf - inf inside
        value = float(np.quantile(errors, share))
        return value if value < 1e299 else math.inf

    @property
    def wrong(self) -> float:
        """The share of cases with an error above 10 %."""
        return float(np.mean([result.error > 0.1 for result in self.results]))

    @property
    def cost(self) -> float:
        """Evaluations per input, the mean over the cases; f(x) itself is not counted."""
        return float(np.mean([result.evaluations_per_input for result in self.results]))

    @property
    def notes(self) -> list[str]:
        """What the numbers do not show."""
        where = f"{self.name}, {self.condition.name}, {len(self.results)} runs"
        failures = collections.Counter(r.failure for r in self.results if r.failure)
        notes = [f"{where}: {count} failed ({why})" for why, count in failures.items()]
        if self.name == LATER:
            count, of = sum(r.recalibrations for r in self.results), 6 * len(self.results)
            notes.append(f"{where}: calibrated again at {count} of {of} steps")
        return notes


def rows(names: list[str], seeds: range) -> list[Row]:
    """Run everything: each method under each condition."""
    return [
        Row(
            name,
            condition,
            [
                result
                for residual in STARTS
                for result in contestants.judge(name, condition, residual, seeds)
            ],
        )
        for condition in CONDITIONS
        for name in names
    ]


def wanted(row: Row, rival: Row | None) -> str:
    """Say what was wanted of a row, and whether it came out."""
    if row.name not in WANTED:
        return ""
    median, wrong = WANTED[row.name][CONDITIONS.index(row.condition)]
    if median is None:
        if rival is None:
            return "better than SciPy's 3-point"
        better = all(row.quantile(q) < rival.quantile(q) for q in (0.5, 0.9))
        return f"better than SciPy's 3-point: {_met(better and row.wrong <= rival.wrong)}"
    figures = [f"≤ {median:.0e}"]
    met = row.quantile(0.5) <= median
    if wrong is not None:
        figures.append(f"≤ {wrong:.0%}" if wrong else "no failure")
        met = met and row.wrong <= wrong
    return f"{', '.join(figures)}: {_met(met)}"


def _met(met: bool) -> str:
    return "met" if met else "**missed**"


def print_tables(table: list[Row]) -> None:
    """Print one Markdown table per condition, and what the numbers do not show."""
    for condition in CONDITIONS:
        those = [row for row in table if row.condition is condition]
        rival = next((row for row in those if row.name == RIVAL), None)
        print(f"\n**{condition.name}** ({len(those[0].results)} runs)\n")
        for cells in (HEADER, ("---",) * len(HEADER), *(_cells(row, rival) for row in those)):
            print(f"| {' | '.join(cells)} |")
    print()
    for row in table:
        for note in row.notes:
            print(f"- {note}")


def _cells(row: Row, rival: Row | None) -> tuple[str, ...]:
    return (
        row.name,
        f"{row.cost:.1f}",
        f"{row.quantile(0.5):.1e}",
        f"{row.quantile(0.9):.1e}",
        f"{row.wrong:.0%}",
        wanted(row, rival),
    )


# Colors of Okabe and Ito (2008), "Color Universal Design"; shapes tell apart what coincides.
_PEERS = dict(zip(PEERS, ("v", "^", "s", "D", "P"), strict=True))
_OURS = dict(zip(OURS, ("*", "o", "h", "X", ">", "d"), strict=False))


def draw(table: list[Row]) -> Figure:
    """Draw the median error against the evaluations per input, one panel per condition."""
    figure = Figure(figsize=(9, 8), layout="constrained")
    right = 1.4 * max(row.cost for row in table)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200) if tick < right]
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
    for axes, condition in zip(panels, CONDITIONS, strict=True):
        axes.axhline(0.1, color="0.8", lw=1, zorder=0)
        for row in table:
            if row.condition is condition:
                axes.plot(row.cost, row.quantile(0.5), ls="", label=row.name, **_style(row.name))
        axes.set(title=condition.name, xscale="log", yscale="log", xlim=(0.7, right))
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_xticks((), minor=True)
        axes.grid(alpha=0.2)
    figure.supxlabel("evaluations per input")
    figure.supylabel("median relative error of the gradient (line: 10 %)")
    handles, labels = axes.get_legend_handles_labels()
    for place, some in (("left", slice(len(PEERS))), ("right", slice(len(PEERS), None))):
        figure.legend(handles[some], labels[some], loc=f"outside upper {place}", frameon=False)
    return figure


def _style(name: str) -> dict[str, Any]:
    if name in _PEERS:
        return {"marker": _PEERS[name], "color": "#D55E00", "mfc": "none", "ms": 8, "zorder": 3}
    return {"marker": _OURS[name], "color": "#0072B2", "ms": 9, "alpha": 0.8}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Accuracy of gradients against evaluations.")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the picture")
    parser.add_argument("--quick", action="store_true", help="Suture alone, one seed, no picture")
    return parser.parse_args()


def main() -> None:
    """Run, print, draw."""
    asked, start = arguments(), time.perf_counter()
    torch.set_num_threads(1)
    # Wide steps overflow, and some methods say so; the error in the table says it too.
    warnings.simplefilter("ignore")
    names, seeds = (list(OURS), range(1)) if asked.quick else ([*PEERS, *OURS], range(5))
    table = rows(names, seeds)
    print_tables(table)
    print(
        f"\n{machine()}, scipy {scipy.__version__}, numdifftools {numdifftools.__version__}, "
        f"jacobi {jacobi.__version__}; {time.perf_counter() - start:.0f} s"
    )
    if not asked.quick:
        asked.out.mkdir(parents=True, exist_ok=True)
        draw(table).savefig(asked.out / "accuracy.png", dpi=110)
        print(f"Saved {asked.out / 'accuracy.png'}")


if __name__ == "__main__":
    main()
