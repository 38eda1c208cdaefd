"""Draw the pictures of the documentation, from real evaluations.

.venv/bin/python docs/pictures/draw.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

import suture
from suture import AdaptiveDifference, FiniteDifference, Stencil, directions, stencils

HERE = Path(__file__).parent

# Colors of Okabe and Ito (2008), "Color Universal Design".
BLUE, ORANGE, GREEN, RED, BLACK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#222222"
PALE_BLUE, PALE_RED, PALE_GREEN = "#DCEBF5", "#FBE5D6", "#DDF1EA"


# ------------------------------------------------------------------------------------------------
# floors.png: why a step has a best length
# ------------------------------------------------------------------------------------------------


def error(stencil: Stencil, step: float, fn: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Return the relative error of d fn / dx at x = 1, where fn is sin up to its rounding."""
    method = FiniteDifference(stencil, step=step)
    f = suture.differentiable(fn, method=method, scale=1.0)
    x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    f(x).backward()
    assert x.grad is not None
    return abs(float(x.grad) / np.cos(1.0) - 1)


def printed(x: torch.Tensor) -> torch.Tensor:
    """Return sin(x) as a program prints it, with six digits."""
    return torch.tensor(float(f"{float(torch.sin(x)):.6g}"))


def floors() -> Figure:
    """Draw the error of a slope against its step: what bends, and what is rounded away."""
    figure = Figure(figsize=(8.5, 4.2), layout="constrained")
    steps = np.logspace(-12, -0.5, 93)
    lines = (
        ("forward", stencils.FORWARD, BLUE),
        ("central", stencils.CENTRAL, ORANGE),
        ("central, order 4", stencils.central(4), GREEN),
    )
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, fn in ((left, torch.sin), (right, printed)):
        for name, stencil, color in lines:
            errors = np.array([max(error(stencil, step, fn), 1e-17) for step in steps])
            axes.plot(steps, errors, color=color, lw=1.2, label=name)
    errors = np.array([max(error(stencils.COMPLEX_STEP, s, torch.sin), 1e-16) for s in steps])
    left.plot(steps, errors, color=RED, lw=1.2, label="complex step")
    for axes, title, noise in (
        (left, "sin, 16 digits", 2.0**-52),
        (right, "sin, printed with 6 digits", 5e-7),
    ):
        axes.set(title=title, xscale="log", yscale="log", xlabel="step $h$", ylim=(3e-17, 30))
        for _, stencil, color in lines:
            best = noise ** (1 / (stencil.order + 1))
            axes.plot(
                best, error(stencil, best, torch.sin if axes is left else printed), "o", color=color
            )
        axes.grid(alpha=0.2)
    left.set_ylabel("relative error of the slope")
    right.legend(*left.get_legend_handles_labels(), frameon=False, loc="lower left")
    left.annotate("noise / $h$", (1e-11, 3e-4), color=BLACK, fontsize=10)
    right.annotate("noise / $h$", (2e-5, 3e-1), color=BLACK, fontsize=10)
    right.annotate(
        "the program prints\nthe same number:\nslope 0, error 1", (1.5e-12, 4e-4), fontsize=9
    )
    figure.suptitle("dots: $h$ = noise$^{1/(order + 1)}$", fontsize=10)
    return figure


# ------------------------------------------------------------------------------------------------
# costs.png: what a training of 100 steps calls
# ------------------------------------------------------------------------------------------------


def calls(method: suture.AbstractMethod, steps: int = 100) -> list[int]:
    """Return the evaluations after each step of a training of ten numbers."""
    f = suture.differentiable(lambda x: torch.sin(x) * x.sum(), method=method)
    x = torch.linspace(0.1, 1, 10, requires_grad=True)
    optimizer = torch.optim.Adam([x], lr=0.01)
    spent = []
    for _ in range(steps):
        optimizer.zero_grad()
        f(x).square().sum().backward()
        optimizer.step()
        spent.append(f.evaluations)
    return spent


def costs() -> Figure:
    """Draw the evaluations of a training, by method."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    methods = (
        ("AdaptiveDifference()", AdaptiveDifference(), RED),
        ("central(4)", FiniteDifference(stencils.central(4)), GREEN),
        ("CENTRAL", FiniteDifference(stencils.CENTRAL), ORANGE),
        ("the default", FiniteDifference(), BLUE),
        (
            "default, Orthogonal(3)",
            FiniteDifference(directions=directions.Orthogonal(3)),
            "#CC79A7",
        ),
        ("CustomVJP", suture.CustomVJP(lambda args, output, cotangent: cotangent), "0.4"),
    )
    for name, method, color in methods:
        spent = calls(method)
        axes.plot(range(1, 101), spent, color=color, lw=1.8)
        axes.annotate(
            f"{name}: {spent[-1]}",
            (104, spent[-1]),
            color=color,
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
    axes.set(
        xlabel="training step, of ten numbers",
        ylabel="evaluations so far, forward passes included",
        xscale="log",
        yscale="log",
        xlim=(1, 100),
    )
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.set_xticks((), minor=True)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


# ------------------------------------------------------------------------------------------------
# graph.png and methods.png: boxes and arrows
# ------------------------------------------------------------------------------------------------


def box(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    color: str,
    *,
    width: float = 1.5,
    height: float = 0.55,
    size: float = 10,
) -> None:
    """Draw a box with its center at (x, y)."""
    shape = FancyBboxPatch(
        (x - width / 2, y - height / 2),
        width,
        height,
        boxstyle="round,pad=0.02,rounding_size=0.08",
        facecolor=color,
        edgecolor="0.45",
        lw=1,
    )
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", fontsize=size, color=BLACK)


def arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str = "0.35",
    style: str = "-",
) -> None:
    """Draw an arrow."""
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "->", "color": color, "lw": 1.5, "ls": style}
    )


def canvas(width: float, height: float, inches: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return a figure with one empty area."""
    figure = Figure(figsize=inches, layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def graph() -> Figure:
    """Draw the graph of autograd: cut by a function, and stitched."""
    figure, axes = canvas(10, 4.9, (9.5, 4.7))
    for top, title, stitched in (
        (4.0, "without Suture: the graph is cut", False),
        (2.3, "with Suture: it is stitched", True),
    ):
        axes.text(0.1, top + 0.6, title, fontsize=11, weight="bold", color=BLACK)
        for x, text, color in (
            (0.9, "weights", PALE_BLUE),
            (2.9, "layers", PALE_BLUE),
            (5.2, "your function\n(simulator)", PALE_RED if not stitched else PALE_GREEN),
            (7.5, "loss", PALE_BLUE),
        ):
            box(axes, x, top, text, color)
        for a, b in ((1.65, 2.15), (3.65, 4.45), (5.95, 6.75)):
            arrow(axes, (a, top + 0.1), (b, top + 0.1))
        back = ((2.15, 1.65), (4.45, 3.65), (6.75, 5.95)) if stitched else ()
        for a, b in back:
            arrow(axes, (a, top - 0.12), (b, top - 0.12), BLUE)
        if not stitched:
            axes.text(
                6.35,
                top - 0.22,
                "×",
                color=RED,
                fontsize=20,
                ha="center",
                va="center",
                weight="bold",
            )
            axes.text(
                8.4,
                top,
                "backward() ends here:\n“does not require grad”",
                fontsize=9,
                va="center",
                color=RED,
            )
        else:
            axes.text(
                8.4,
                top,
                "→ forward: 1 evaluation\n← backward: see below",
                fontsize=9,
                va="center",
                color=BLACK,
            )
    box(
        axes,
        5.2,
        0.62,
        "$f(x + h_1 e_1),\\ \\ldots,\\ f(x + h_n e_n)$   →   slopes   →   slopes$^T$ · cotangent",
        PALE_GREEN,
        width=8.2,
        height=0.6,
        size=10,
    )
    axes.text(
        5.2,
        0.12,
        "evaluated when backward() comes by: here, on workers, on a cluster; or found in a memo",
        fontsize=9,
        ha="center",
        color=BLACK,
    )
    arrow(axes, (4.9, 2.0), (4.9, 0.98), BLUE)
    arrow(axes, (5.5, 0.98), (5.5, 2.0), BLUE)
    return figure


# ------------------------------------------------------------------------------------------------
# check.png: what `check` draws
# ------------------------------------------------------------------------------------------------

TIMES = np.linspace(0, 2, 20)


def motion(w: torch.Tensor) -> torch.Tensor:
    """Return the motion of the spring of "Getting started", printed with six digits."""
    numbers = np.exp(-float(w[1]) * TIMES) * np.cos(float(w[0]) * TIMES)
    return torch.tensor([float(f"{number:.6g}") for number in numbers])


def check() -> Figure:
    """Return what a report draws."""
    with contextlib.redirect_stdout(io.StringIO()):
        report = suture.check(motion, torch.tensor([2.0, 1.0]))
    figure: Figure = report.plot()
    return figure


QUESTIONS = (
    ("does the function know its own derivative?", "CustomVJP(vjp)", "0, exact"),
    ("is it flat between jumps?", "CENTRAL, Gaussian(k), step=r", "2k, of the mean around x"),
    ("is an input the angle of a quantum gate?", "stencils.shift()", "2n, exact"),
    ("does it accept complex numbers, and is it smooth?", "stencils.COMPLEX_STEP", "n, 16 digits"),
    ("more inputs than you can pay for?", "directions.Orthogonal(k)", "k, unbiased"),
    (
        "must the gradient itself be right, at any price?",
        "AdaptiveDifference()",
        "4n to 17n, the best there is",
    ),
)


def methods() -> Figure:
    """Draw the way to a method."""
    figure, axes = canvas(10, 7.5, (9, 6.4))
    box(axes, 2.6, 7.1, "suture.check(f, x)", PALE_BLUE, width=3.2, height=0.5)
    for i, (question, answer, price) in enumerate(QUESTIONS):
        y = 6.15 - 0.92 * i
        box(axes, 2.6, y, question, "white", width=4.9, height=0.5, size=9.5)
        arrow(axes, (2.6, y + 0.67), (2.6, y + 0.27))
        arrow(axes, (5.07, y), (5.75, y))
        axes.text(5.4, y + 0.1, "yes", fontsize=8, ha="center")
        box(axes, 7.85, y, "", PALE_GREEN, width=4.1, height=0.56)
        axes.text(7.85, y + 0.1, answer, fontsize=9.5, ha="center", va="center", family="monospace")
        axes.text(7.85, y - 0.15, price, fontsize=8.5, ha="center", va="center", color="0.3")
    last = 6.15 - 0.92 * len(QUESTIONS)
    arrow(axes, (2.6, last + 0.67), (2.6, last + 0.3))
    axes.text(2.72, last + 0.45, "no, six times", fontsize=8)
    box(axes, 2.6, last - 0.02, "", PALE_GREEN, width=4.9, height=0.6)
    axes.text(
        2.6,
        last + 0.1,
        "the default: write nothing",
        fontsize=10.5,
        ha="center",
        va="center",
        weight="bold",
    )
    axes.text(
        2.6,
        last - 0.16,
        "n, about half of the digits that the function has",
        fontsize=8.5,
        ha="center",
        va="center",
        color="0.3",
    )
    return figure


PICTURES = {"floors": floors, "costs": costs, "graph": graph, "methods": methods, "check": check}


def main(out: Path = HERE) -> list[Path]:
    """Draw and save all of them."""
    paths = []
    for name, drawn in PICTURES.items():
        paths.append(out / f"{name}.png")
        drawn().savefig(paths[-1], dpi=110)
    return paths


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the pictures")
    for path in main(parser.parse_args().out):
        print(f"Saved {path}")
