"""Text with places for numbers: `R1 in out {ohms}`, `{w[3]}`, `{load:.6e}`."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from suture._types import Array
from suture.errors import EvaluationError, MethodError, shown

# 17 significant digits tell any two float64 apart, and bring each of them back: Goldberg, What
# every computer scientist should know about floating-point arithmetic, 1991, theorem 15.
_EXACT = ".17g"

# A format must end with the letter of a number: YAML and Tcl are full of `{x: 1}` and `{x:1}`.
# No fill characters and no `,`: what is written consists of digits, signs, `.`, `e` and blanks.
# A float64 has at most 1074 digits behind the point: a width of a million is no format, but a bomb.
_FORMAT = re.compile(r"[<>=^]?[+\- ]?#?0?\d{0,4}(?:\.\d{1,4})?[eEfFgGd]")

_PLACE = r"(?P<name>[A-Za-z_]\w*)(?:\[(?P<index>\s*\d+\s*(?:,\s*\d+\s*)*)\])?(?::(?P<format>%s))?"


class Slot(NamedTuple):
    """A place for one number.

    Attributes:
        name: the argument.
        at: the element of the argument, () if it is a number.
        format: how it is written, "" for all digits.
    """

    name: str
    at: tuple[int, ...]
    format: str

    def written(self, value: Array) -> str:
        """Return the number as text.

        Raises:
            EvaluationError: it is not finite, or has a fraction where the format has none.
        """
        number = value[self.at].item()
        if not np.isfinite(number):
            raise EvaluationError(
                f"`{self.label}` is {number}, which cannot be written into a template.",
                "Programs read finite numbers only.",
                "Restrict the inputs with `torch.clamp`, or look where the number comes from.",
            )
        if self.format.endswith("d"):
            if number != int(number):
                raise EvaluationError(
                    f"`{self.label}` is {number}, and its format `{self.format}` is for integers.",
                    "A number is never rounded quietly: a derivative would be zero.",
                    f"Write `{{{self.label}}}` in the template, or pass an integer tensor.",
                )
            return format(int(number), self.format)
        if isinstance(number, int) and not self.format:
            return str(number)
        return format(number, self.format or _EXACT)

    @property
    def label(self) -> str:
        """The element, as one would write it in Python."""
        return self.name + (f"[{', '.join(map(str, self.at))}]" if self.at else "")


class Template:
    """Text with places for numbers.

    Attributes:
        slots: its places, in their order.
        text: as it was given.
    """

    def __init__(self, text: str, delimiters: tuple[str, str], where: str) -> None:
        """Find the places; `where` is what messages call the text."""
        opening, closing = map(re.escape, delimiters)
        place = re.compile(rf"(?<!\$){opening}{_PLACE % _FORMAT.pattern}{closing}", re.ASCII)
        self._parts: list[str | Slot] = []
        self.text, self._where = text, where
        self._almost = re.compile(
            rf"(?<!\$){opening}(?P<name>[A-Za-z_]\w*)[\[:][^\n\0]*?{closing}", re.ASCII
        )
        end = 0
        for found in place.finditer(text):
            self._parts += [text[end : found.start()], _slot(found)]
            end = found.end()
        self._parts.append(text[end:])
        self.slots = [part for part in self._parts if isinstance(part, Slot)]

    def check(self, names: Iterable[str]) -> None:
        """Refuse what looks like the place of a name that is known, and is none.

        Raises:
            MethodError: naming it.
        """
        known = set(names)
        rest = "\0".join(part for part in self._parts if isinstance(part, str))
        for found in self._almost.finditer(rest):
            if found["name"] in known:
                raise MethodError(
                    f"`{found[0]}` in {self._where} is not a placeholder.",
                    "An index is a number, as in `{w[3]}`, and a format ends with one of the "
                    "letters e, f, g and d, as in `{w:.6e}`.",
                    "Write it like that; if it is text, rename the argument or change "
                    "`delimiters=`.",
                )

    def filled(self, values: Mapping[str, Array]) -> str:
        """Return the text with numbers in all places."""
        return "".join(
            part if isinstance(part, str) else part.written(values[part.name])
            for part in self._parts
        )


def _slot(found: re.Match[str]) -> Slot:
    index = tuple(int(i) for i in found["index"].split(",")) if found["index"] else ()
    return Slot(found["name"], index, found["format"] or "")


def pair(delimiters: object) -> tuple[str, str]:
    """Return what stands around a placeholder.

    Raises:
        MethodError: these are not two strings.
    """
    if (
        isinstance(delimiters, tuple | list)
        and len(delimiters) == 2
        and all(isinstance(mark, str) and mark for mark in delimiters)
    ):
        return delimiters[0], delimiters[1]
    raise MethodError(
        f"`Command(delimiters={shown(delimiters)})` is not possible.",
        "Delimiters are two strings: what stands before and behind a placeholder.",
        'Write, for example, `delimiters=("<<", ">>")`.',
    )


def names_of(slots: Iterable[Slot], inputs: Iterable[str] | None) -> dict[str, list[Slot]]:
    """Return the places of each argument, in the order of the arguments.

    Args:
        slots: all places.
        inputs: the user's order; None = that of the places.

    Raises:
        MethodError: a name is unknown, unused, a word of Python's, or used in two ways.
    """
    places: dict[str, list[Slot]] = {} if inputs is None else {name: [] for name in inputs}
    for slot in slots:
        if inputs is not None and slot.name not in places:
            raise MethodError(
                f"The placeholder `{slot.label}` is unknown: `inputs` has no `{slot.name}`.",
                "All placeholders of `argv` and `files` are arguments.",
                f'Add `"{slot.name}"` to `inputs=`; if it is text, change `delimiters=`.',
            )
        places.setdefault(slot.name, []).append(slot)
    for name, used in places.items():
        _check_name(name, used)
    return places


def _check_name(name: str, used: list[Slot]) -> None:
    if not used:
        raise MethodError(
            f"The input `{name}` is unused: it is a placeholder nowhere in `argv` and `files`.",
            "It would be an argument without influence, and silently learn nothing.",
            f"Write `{{{name}}}` into a template, or take it out of `inputs=`.",
        )
    if keyword.iskeyword(name):
        raise MethodError(
            f"The placeholder `{name}` cannot be an argument: it is a word of Python's.",
            "Placeholders are the keyword arguments of the function.",
            f"Rename it, for example `{{{name}_}}`; if it is text, change `delimiters=`.",
        )
    if len({len(slot.at) for slot in used}) > 1:
        one, other = used[0], next(s for s in used if len(s.at) != len(used[0].at))
        raise MethodError(
            f"`{name}` is used in two ways: as `{one.label}` and as `{other.label}`.",
            "An argument is a number or an array, not both.",
            f"Write `{{{name}[0]}}`, `{{{name}[1]}}`, … for an array, everywhere.",
        )
