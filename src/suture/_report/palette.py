"""The colors of a page, for light and dark screens.

Matplotlib draws with stand-ins, which the page replaces by variables of its style. The colors are
those of Okabe and Ito (2008), "Color Universal Design", which color-blind readers too tell apart;
blue, yellow and black have a second form for dark screens.
"""

from __future__ import annotations

INK, GRID = "#010101", "#010102"

TASKS = {
    "forward": "#010110",
    "gradient": "#010111",
    "tangents": "#010112",
    "second derivative": "#010113",
    "check": "#010114",
}

ENDINGS = {
    "value": "#010120",
    "not finite": "#010121",
    "raised": "#010122",
    "point failed": "#010123",
    "bad result": "#010124",
    "timed out": "#010125",
    "died": "#010126",
    "canceled": "#010127",
}

_OTHER = "#010130"

# For each stand-in, the color on a light page and on a dark one.
_SHADES = {
    INK: ("#22262b", "#dfe3e8"),
    GRID: ("#d9dde2", "#3a4048"),
    TASKS["forward"]: ("#56B4E9", "#56B4E9"),
    TASKS["gradient"]: ("#0072B2", "#3d8fd1"),
    TASKS["tangents"]: ("#009E73", "#009E73"),
    TASKS["second derivative"]: ("#CC79A7", "#CC79A7"),
    TASKS["check"]: ("#D55E00", "#E69F00"),
    ENDINGS["value"]: ("#7db8dd", "#35709c"),
    ENDINGS["not finite"]: ("#d8c300", "#F0E442"),
    ENDINGS["raised"]: ("#D55E00", "#e8702a"),
    ENDINGS["point failed"]: ("#E69F00", "#E69F00"),
    ENDINGS["bad result"]: ("#CC79A7", "#CC79A7"),
    ENDINGS["timed out"]: ("#009E73", "#009E73"),
    ENDINGS["died"]: ("#000000", "#ffffff"),
    ENDINGS["canceled"]: ("#9aa1a9", "#7d848c"),
    _OTHER: ("#6f5f90", "#a594c8"),
}


def color(word: str, of: dict[str, str]) -> str:
    """Return the stand-in of a word; records of newer versions may have others."""
    return of.get(word, _OTHER)


def variable(stand_in: str) -> str:
    """Return the name of the variable that replaces a stand-in."""
    return f"--c{stand_in[-2:]}"


def as_variables(svg: str) -> str:
    """Replace the stand-ins of a drawing."""
    for stand_in in _SHADES:
        svg = svg.replace(stand_in, f"var({variable(stand_in)})")
    return svg


def style(dark: bool) -> str:
    """Return what gives the variables their values."""
    return " ".join(f"{variable(s)}: {shades[dark]};" for s, shades in _SHADES.items())
