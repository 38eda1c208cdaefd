"""What figures share: matplotlib, where it is installed, two colors, and quiet axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from suture.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Two colors of Okabe and Ito (2008), "Color Universal Design": color-blind readers too tell them
# apart.
LIGHT, DARK = "#E69F00", "#0072B2"


def figure_class(what: str, why: str) -> type[Figure]:
    """Return the class of figures, which draws without a screen and without pyplot.

    Args:
        what: cannot draw, for example "The report".
        why: what the figures are needed for, a sentence.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{what} cannot draw: matplotlib is not installed.",
            why,
            '`pip install "suture[plot]"`',
        ) from error
    return Figure


def quiet(axes: Axes, grid: str) -> None:
    """Give axes a grid of a color below what is drawn, and no frame."""
    axes.grid(color=grid)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
