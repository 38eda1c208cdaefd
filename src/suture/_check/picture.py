"""Draw a report: the error of each input's difference by its step, and the pattern."""

from __future__ import annotations

from functools import partial
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from suture._check.findings import Curve, Trial, counted
from suture._check.report import Report
from suture._plot import DARK, LIGHT, figure_class, quiet
from suture.errors import MethodError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Inputs are drawn, the worst first, and the pattern: more would be too small to read.
_PANELS = 6
_COLUMNS = 3

# Nothing is drawn below the rounding of float64, and a slope without digits is at the top.
_LOWEST, _HIGHEST = 1e-17, 10.0


def check_path(path: Path) -> None:
    """Refuse a file that a figure cannot be saved in, before anything is evaluated.

    Raises:
        MethodError: if its ending names no format of matplotlib.
        MissingExtraError: if matplotlib is not installed.
    """
    formats = _figure_class()().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise MethodError(
            f"`--plot {path}` cannot be saved.",
            f"A figure is saved in one of these formats: {', '.join(sorted(formats))}.",
            f"Write for example `--plot {path.with_suffix('.png')}`.",
        )


def _figure_class() -> type[Figure]:
    return figure_class(
        "The report", "Pictures are the extra `plot`; `print(report)` works without it."
    )


def draw(report: Report) -> Figure:
    """Draw a report.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    has_pattern = report.pattern is not None and report.pattern.size > 1
    trial = Trial() if report.advice is None else report.advice.trial
    drawn = list(zip_longest(report.curves, trial.steps, trial.errors))
    drawn = sorted(drawn, key=lambda entry: -entry[0].error)[: _PANELS - has_pattern]
    panels = max(1, len(drawn) + has_pattern)
    columns = min(panels, _COLUMNS)
    rows = -(-panels // columns)
    size = (max(5.0, 3.4 * columns), 0.9 + 2.9 * rows)
    figure = _figure_class()(figsize=size, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, (curve, step, off) in zip(axes, drawn, strict=False):
        _draw_curve(axis, curve)
        # Beyond the sweep there is nothing to compare with: the complex step is at 1e-30.
        if step is not None and off is not None and curve.steps[0] <= step <= curve.steps[-1]:
            _draw_step(axis, step, off)
    if has_pattern:
        _draw_pattern(axes[len(drawn)], report)
    for axis in axes[len(drawn) + has_pattern :]:
        axis.set_axis_off()
    if not drawn and not has_pattern:
        axes[0].text(0.5, 0.5, "no input has a slope here", ha="center", va="center")
    _draw_legend(figure, axes)
    figure.suptitle(f"{report.name}: error of a difference by its step")
    # IPython asks an object for this. A figure without pyplot has none until pyplot was used.
    figure._repr_png_ = partial(_as_png, figure)  # type: ignore[attr-defined]
    return figure


def _draw_legend(figure: Figure, axes: list[Axes]) -> None:
    """Explain what is in any of the panels, once."""
    entries: dict[str, Artist] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    if entries:
        handles, labels = list(entries.values()), list(entries)
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)


def _as_png(figure: Figure) -> bytes:
    """Return what a notebook shows."""
    picture = BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _draw_curve(axes: Axes, curve: Curve) -> None:
    steps, errors = curve.steps, np.clip(curve.errors, _LOWEST, None)
    axes.loglog(steps, errors, "o", ms=4, color=DARK, label="measured error")
    kind = "h²" if curve.order == 2 else "h"
    line = np.array([steps[0], steps[-1]])
    axes.loglog(line, curve.floor / line, "--", lw=1, color=LIGHT, label="noise floor, ∝ 1/h")
    if curve.truncation:
        axes.loglog(
            line,
            curve.truncation * line**curve.order,
            ":",
            lw=1.2,
            color=DARK,
            label=f"truncation, ∝ {kind}",
        )
    axes.axvline(curve.chosen, color="0.6", lw=1, zorder=0, label="best step")
    known = errors[np.isfinite(errors)]
    lowest = max(_LOWEST, min(known.min(), curve.error) / 10)
    axes.set_ylim(lowest, _HIGHEST)
    axes.set_title(
        f"{curve.name}: step {curve.chosen:.0e}, error {curve.error:.0e}", fontsize="medium"
    )
    axes.set_xlabel("step, in units of the input", fontsize="small")
    axes.set_ylabel("relative error of the slope", fontsize="small")
    axes.tick_params(labelsize="small")
    quiet(axes, grid="0.92")


def _draw_step(axes: Axes, step: float, error: float) -> None:
    """Mark the step of the recommended call, and the error of its slope.

    One-sided differences are above the curve, which is of two-sided ones.
    """
    axes.loglog(
        [step],
        [max(error, _LOWEST)],
        "D",
        ms=7,
        mfc="none",
        mec=LIGHT,
        mew=1.8,
        label="step of the recommended call",
    )


def _draw_pattern(axes: Axes, report: Report) -> None:
    from matplotlib.ticker import MaxNLocator

    assert report.pattern is not None
    axes.imshow(report.pattern, cmap="Blues", vmin=0, vmax=1.3, aspect="auto", interpolation="none")
    colors = counted(report.colors or 0, "color")
    axes.set_title(f"dependence, {colors}", fontsize="medium")
    axes.set_xlabel("input", fontsize="small")
    axes.set_ylabel("output", fontsize="small")
    axes.tick_params(labelsize="small")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
