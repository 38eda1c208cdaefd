"""Draw what the experiment found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from suture._plot import DARK, LIGHT, quiet
from suture.demo.experiment import TRUE_WEIGHT, Comparison, Epoch, f

# Where curves coincide, the light one is thick and the dark one thin above it.
AUTOMATIC: dict[str, Any] = {"label": "automatic differentiation", "color": LIGHT}
THROUGH_STRING: dict[str, Any] = {"label": "Suture, through the string", "color": DARK}


def save_pictures(comparison: Comparison, folder: Path) -> list[Path]:
    """Save all pictures as PNG files in the folder, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "losses.png": draw_losses(comparison),
        "losses_overlaid.png": draw_losses_overlaid(comparison),
        "prediction_difference.png": draw_prediction_difference(comparison),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=150)
    return [folder / name for name in pictures]


def draw_losses(comparison: Comparison) -> Figure:
    """Draw training and validation loss of each model, side by side."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    _draw_losses_of(left, comparison.automatic, "Automatic differentiation")
    _draw_losses_of(right, comparison.through_string, "Suture, through the string")
    left.set_ylabel("mean squared error")
    return figure


def _draw_losses_of(axes: Axes, epochs: list[Epoch], title: str) -> None:
    numbers = [epoch.number for epoch in epochs]
    axes.plot(numbers, [e.training_loss for e in epochs], "o-", color=DARK, ms=4, label="training")
    axes.plot(
        numbers, [e.validation_loss for e in epochs], "s--", color=LIGHT, ms=4, label="validation"
    )
    axes.set(title=title, xlabel="epoch", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(axes)


def draw_losses_overlaid(comparison: Comparison) -> Figure:
    """Draw the loss of every training step of both models in one plot."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    automatic = [loss for epoch in comparison.automatic for loss in epoch.losses]
    through_string = [loss for epoch in comparison.through_string for loss in epoch.losses]
    steps = range(1, len(automatic) + 1)
    axes.plot(steps, automatic, lw=5, **AUTOMATIC)
    axes.plot(steps, through_string, "--", lw=1.2, **THROUGH_STRING)
    axes.set(
        title=f"The loss curves of both models differ by at most {comparison.loss_difference:.1e}",
        xlabel="training step",
        ylabel="mean squared error of the batch",
        yscale="log",
    )
    _finish(axes)
    return figure


def draw_prediction_difference(comparison: Comparison) -> Figure:
    """Draw the last predictions for the validation data, and their difference below."""
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    x = comparison.data.validation.tensors[0].tolist()
    automatic = comparison.automatic[-1].predictions
    through_string = comparison.through_string[-1].predictions

    curve = torch.linspace(0, 1, 101)
    truth = f(curve, torch.tensor(TRUE_WEIGHT))
    above.plot(curve.tolist(), truth.tolist(), color="0.7", lw=1, zorder=0, label="truth")
    above.plot(x, automatic, "o", ms=10, **AUTOMATIC)
    above.plot(x, through_string, "x", ms=6, mew=1.5, **THROUGH_STRING)
    above.set(title="Predictions for the validation data", ylabel="prediction")
    _finish(above)

    differences = [s - a for s, a in zip(through_string, automatic, strict=True)]
    below.axhline(0, color="0.7", lw=1)
    below.vlines(x, 0, differences, color=DARK, lw=1)
    below.plot(x, differences, "o", ms=4, color=DARK)
    below.ticklabel_format(axis="y", scilimits=(0, 0), useMathText=True)
    below.set(title="Difference, Suture minus automatic differentiation", xlabel="x")
    below.set_ylabel("difference")
    _finish(below)
    return figure


def _finish(axes: Axes) -> None:
    """Give all axes the same quiet look."""
    quiet(axes, grid="0.9")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
