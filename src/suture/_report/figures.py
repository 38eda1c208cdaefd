"""Draw a record: what each step cost, what failed, who worked when, what the memo saved."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from suture._plot import figure_class, quiet
from suture._report.lanes import Timeline
from suture._report.palette import ENDINGS, GRID, INK, TASKS, as_variables, color
from suture._report.totals import Steps, Totals
from suture._types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 9.0

# A lane needs room for its label, in inches; the others are margins with the axis and the legend.
_LANE, _MARGINS = 0.24, 1.15


_SETTINGS: dict[str, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "font.size": 9,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",  # texts stay texts, in the font of the page
    "svg.hashsalt": "suture",  # the same record, the same page
    "text.color": INK,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """Draw figures that fit into the page, whatever the user's own settings are.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    _figure_class()
    from matplotlib import style

    with style.context(["default", _SETTINGS]), warnings.catch_warnings():
        # Texts are shown in the fonts of the page.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        yield


def _figure_class() -> type[Figure]:
    return figure_class(
        "The report of a record", "Its page consists of figures, which are the extra `plot`."
    )


def _new_figure(height: float) -> Figure:
    """Return an empty figure as wide as the page."""
    return _figure_class()(figsize=(_WIDTH, height), layout="constrained")


def draw_costs(steps: Steps) -> Figure:
    """Draw evaluations and seconds of each step."""
    figure = _new_figure(4.6)
    above, below = figure.subplots(2, 1, sharex=True)
    _stack(above, steps.edges, {t: (v, color(t, TASKS)) for t, v in steps.evaluations.items()})
    above.set_ylabel("evaluations")
    # Where only one call runs at a time, they coincide: the thin line is above the thick one.
    line: dict[str, Any] = {"edges": steps.edges, "baseline": None}
    below.stairs(steps.seconds, **line, color=TASKS["forward"], lw=3, label="all calls")
    below.stairs(steps.wall, **line, color=TASKS["check"], lw=1.3, label="on the clock")
    below.set_ylabel("seconds")
    below.set_ylim(bottom=0)
    _finish_steps([above, below], steps)
    return figure


def draw_failures(steps: Steps, totals: Totals) -> Figure:
    """Draw calls without a value, of each step and of all steps."""
    figure = _new_figure(2.9)
    left, right = figure.subplots(1, 2, width_ratios=[3, 1])
    _stack(left, steps.edges, {e: (v, color(e, ENDINGS)) for e, v in steps.failures.items()})
    left.set_ylabel("calls without a value")
    _finish_steps([left], steps)
    left.get_legend().remove()  # the bars beside it have the same colors, and names
    kinds = list(steps.failures)[::-1]
    counts = [sum(n for (e, _), n in totals.failures.items() if e == kind) for kind in kinds]
    bars = right.barh(kinds, counts, color=[color(kind, ENDINGS) for kind in kinds])
    right.bar_label(bars, labels=[f"{count:,}" for count in counts], padding=3)
    right.margins(x=0.25)
    right.set_xlabel("of all steps")
    _finish(right)
    return figure


def draw_hits(steps: Steps) -> Figure:
    """Draw the share of values that a memo had."""
    figure = _new_figure(2.7)
    axes = figure.subplots()
    share = np.nan_to_num(steps.hits)
    axes.stairs(share, steps.edges, fill=True, color=TASKS["forward"], alpha=0.6, label="a step")
    axes.stairs(
        steps.so_far, steps.edges, baseline=None, color=TASKS["check"], lw=1.5, label="so far"
    )
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("hits")
    _finish_steps([axes], steps)
    return figure


def draw_timeline(line: Timeline, resumed: list[float]) -> Figure:
    """Draw one lane for each place where calls ran, in the color of how they ended."""
    figure = _new_figure(_MARGINS + _LANE * max(len(line.lanes), 2))
    axes = figure.subplots()
    for ending, boxes in line.boxes.items():
        _draw_boxes(axes, boxes, ending)
    for time in resumed:
        axes.axvline(time, color=INK, lw=1, ls=(0, (2, 2)))
    axes.set_yticks(range(len(line.lanes)), line.lanes)
    axes.set_xlim(0, line.end)
    axes.set_ylim(len(line.lanes) - 0.4, -0.6)
    axes.set_xlabel("seconds of recording")
    _finish(axes)
    axes.grid(visible=False, axis="y")
    _legend_above(axes)
    return figure


def _draw_boxes(axes: Axes, boxes: Array, ending: str) -> None:
    """Draw (b, 4) boxes as one shape: the page becomes ten times shorter than with many."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    left, right, top, bottom = boxes.T
    x = np.stack([left, right, right, left, left], axis=1)
    y = np.stack([bottom, bottom, top, top, bottom], axis=1)
    codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * len(boxes)
    outline = Path(np.stack([x.ravel(), y.ravel()], axis=1), codes)
    shade = color(ending, ENDINGS)
    # A short failure has to be seen, so it has an edge; values have none, to leave gaps visible.
    width = 0.0 if ending == "value" else 0.7
    axes.add_patch(
        PathPatch(outline, facecolor=shade, edgecolor=shade, lw=width, label=_shown(ending))
    )


def _stack(axes: Axes, edges: Array, layers: dict[str, tuple[Array, str]]) -> None:
    bottom = np.zeros(len(edges) - 1)
    for label, (values, shade) in layers.items():
        top = bottom + values
        axes.stairs(top, edges, baseline=bottom, fill=True, color=shade, label=_shown(label))
        bottom = top


def _shown(word: str) -> str:
    """Return a label as matplotlib shows it: it hides those that begin with an underscore."""
    return word.lstrip("_") or "unknown"


def _finish_steps(several: list[Axes], steps: Steps) -> None:
    from matplotlib.ticker import MaxNLocator

    for axes in several:
        axes.set_xlim(steps.edges[0], steps.edges[-1])
        _finish(axes)
        _legend_above(axes)
    several[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    several[-1].set_xlabel("optimizer step")


def _finish(axes: Axes) -> None:
    quiet(axes, GRID)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(color=GRID)


def _legend_above(axes: Axes) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=8, frameon=False, borderpad=0.2,
        handlelength=1.2, columnspacing=1.4,
    )  # fmt: skip


def as_svg(figure: Figure) -> str:
    """Return a figure as a part of a page: in the colors of the page, and as wide as it is."""
    text = StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # other figures of the page have the same
    for side in ("width", "height"):
        svg = re.sub(rf'(<svg [^>]*?) {side}="[^"]*"', r"\1", svg, count=1)
    # A hundredth of a point is finer than any screen.
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    return as_variables(svg)
