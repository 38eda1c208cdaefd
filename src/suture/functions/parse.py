r"""How the results of a program are read: rules for `Command(..., parse=…)`.

Each rule names one output: a file below the run directory, or one of the streams `STDOUT` and
`STDERR`. What it does not find is an error, never a number.

Example:
    >>> from suture.functions import parse
    >>> rule = parse.regex(r"energy = (\S+)")
    >>> rule.read(b"step 7\nenergy = -1.5D+01\n")
    array(-15.)
"""

from __future__ import annotations

import csv as _csv
import dataclasses
import io
import json as _json
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np

from suture._types import Array
from suture.errors import MethodError, shown
from suture.functions._folders import inside

STDOUT = "<stdout>"
"""The standard output, in the place of a path."""

STDERR = "<stderr>"
"""The standard error output, in the place of a path."""


class Unreadable(Exception):
    """An output is not what the rule expects; the text says how."""


@dataclasses.dataclass(frozen=True)
class AbstractRule(ABC):
    """Reads numbers from one output of a program.

    Attributes:
        path: the file, below the run directory, or a stream.
    """

    path: str

    def __post_init__(self) -> None:
        """Refuse paths that lead out of the run directory."""
        if self.path not in (STDOUT, STDERR):
            object.__setattr__(self, "path", inside(self.path, "The output"))

    @abstractmethod
    def read(self, content: bytes) -> Array:
        """Return the numbers in the content of the output.

        Raises:
            Unreadable: they are not there.
        """


@final
@dataclasses.dataclass(frozen=True)
class Json(AbstractRule):
    """Reads a value of a JSON file: see `json`."""

    keys: tuple[str | int, ...]

    def read(self, content: bytes) -> Array:
        """Return the number, or the array of numbers in nested lists."""
        try:
            found: Any = _json.loads(content)
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"it is not JSON: {error}") from error
        for i, key in enumerate(self.keys):
            if isinstance(key, str) and isinstance(found, dict):
                found = found.get(key)
            elif isinstance(key, int) and isinstance(found, list) and -1 < key < len(found):
                found = found[key]
            else:
                found = None
            if found is None:
                raise Unreadable(f"it has no {_place(self.keys[: i + 1])}")
        return _numeric(found, f"{_place(self.keys)} is {shown(found)}")


@final
@dataclasses.dataclass(frozen=True)
class Csv(AbstractRule):
    """Reads a column of a CSV file: see `csv`."""

    column: str | int
    delimiter: str
    header: bool

    def read(self, content: bytes) -> Array:
        """Return the column, shape (rows,)."""
        lines = io.StringIO(_text(content), newline="")
        try:
            rows = [row for row in _csv.reader(lines, delimiter=self.delimiter) if row]
        except _csv.Error as error:
            raise Unreadable(f"it is not CSV: {error}") from error
        names = [name.strip() for name in rows[0]] if rows and self.header else []
        rows = rows[1:] if self.header else rows
        if isinstance(self.column, int):
            index = self.column
        elif names.count(self.column) == 1:
            index = names.index(self.column)
        else:
            raise Unreadable(
                f"its header has {names.count(self.column)} columns {self.column!r}: {names}"
            )
        if not rows:
            raise Unreadable("it has no rows")
        short = next((row for row in rows if not -len(row) <= index < len(row)), None)
        if short is not None:
            raise Unreadable(f"a row has {len(short)} columns: {shown(short)}")
        return np.array([_number(row[index]) for row in rows])


@final
@dataclasses.dataclass(frozen=True)
class Regex(AbstractRule):
    """Reads what a pattern finds: see `regex`."""

    pattern: re.Pattern[str]
    count: int | None

    def read(self, content: bytes) -> Array:
        """Return the numbers, shape () for one match, else (matches,), then (groups,)."""
        found = list(self.pattern.finditer(_text(content)))
        if len(found) != (self.count if self.count is not None else max(len(found), 1)):
            wanted = "at least 1" if self.count is None else self.count
            raise Unreadable(
                f"{shown(self.pattern.pattern)} matches {len(found)} times, expected {wanted}"
            )
        groups = range(1, self.pattern.groups + 1) if self.pattern.groups else (0,)
        table = np.array([[_number(match[group]) for group in groups] for match in found])
        table = table[:, 0] if len(groups) == 1 else table
        return table[0, ...] if self.count == 1 else table


@final
@dataclasses.dataclass(frozen=True)
class Table(AbstractRule):
    """Reads numbers in columns: see `table`."""

    columns: tuple[int, ...] | None
    skip: int
    comments: str

    def read(self, content: bytes) -> Array:
        """Return the numbers, shape (rows, columns), without dimensions of size 1."""
        text = re.sub(r"(?<=[\d.])[dD](?=[+-]?\d)", "e", _text(content))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # numpy warns of an empty file only
                return np.loadtxt(
                    io.StringIO(text),
                    np.float64,
                    comments=self.comments,
                    usecols=self.columns,
                    skiprows=self.skip,
                )
        except UserWarning as error:
            raise Unreadable("it has no numbers") from error
        except ValueError as error:
            said = " ".join(str(error).split()).rstrip(".")
            raise Unreadable(f"numpy.loadtxt says: {said}") from error


@final
@dataclasses.dataclass(frozen=True)
class Function(AbstractRule):
    """Has a function read it: see `function`."""

    fn: Callable[[bytes], Any]

    def read(self, content: bytes) -> Array:
        """Return what the function returns, as an array."""
        try:
            found = self.fn(content)
        except Exception as error:
            name = getattr(self.fn, "__name__", type(self.fn).__name__)
            raise Unreadable(f"{name} raised {type(error).__name__}: {error}") from error
        return _numeric(found, f"the function returned {shown(found)}")


def json(path: str, *keys: str | int) -> Json:
    """Read a number, or nested lists of numbers, of a JSON file.

    Args:
        path: the file, or `STDOUT`.
        *keys: the way to it: names of objects, positions in lists.

    Example:
        >>> from suture.functions import parse
        >>> parse.json("out.json", "loads", 1, "max").read(b'{"loads": [{}, {"max": 3}]}')
        array(3.)
    """
    return Json(path, keys)


def csv(path: str, column: str | int, *, delimiter: str = ",", header: bool = True) -> Csv:
    r"""Read a column of a CSV file, shape (rows,).

    Args:
        path: the file, or `STDOUT`.
        column: its name in the first row, or its position, from 0.
        delimiter: what separates columns.
        header: whether the first row has names.

    Example:
        >>> from suture.functions import parse
        >>> parse.csv("out.csv", "u").read(b"t,u\n0,1.5\n1,2.5\n")
        array([1.5, 2.5])
    """
    if isinstance(column, str) and not header:
        raise MethodError(
            f"`parse.csv(…, {column!r}, header=False)` is not possible.",
            "A column is found by name in the first row, which is then a header.",
            "Give its position, `parse.csv(path, 0, header=False)`.",
        )
    if not (isinstance(delimiter, str) and len(delimiter) == 1 and delimiter not in '\r\n\0"'):
        raise MethodError(
            f"`parse.csv(delimiter={shown(delimiter)})` is not possible.",
            "What separates columns is one character.",
            'Write, for example, `delimiter=";"`; where blanks do, use `parse.table(path, 0)`.',
        )
    return Csv(path, column, delimiter, header)


def regex(pattern: str, path: str = STDOUT, *, count: int | None = 1) -> Regex:
    r"""Read the numbers that a regular expression finds; `^` and `$` match at each line.

    Args:
        pattern: its groups are the numbers; without groups, the match is one.
        path: the file, or a stream.
        count: how often it must match, exactly; None = any number of times, but once.

    Returns:
        A rule: its result has shape () or (groups,) if `count` is 1, else a leading (matches,).

    Example:
        >>> from suture.functions import parse
        >>> parse.regex(r"f\d = (\S+)", count=2).read(b"f1 = 3\nf2 = 4e-3\n")
        array([3.   , 0.004])
    """
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise MethodError(
            f"`parse.regex(count={shown(count)})` is not possible.",
            "It is the number of matches that there must be, 1 or more, or None for any.",
            "Write `count=1`, or leave it out.",
        )
    try:
        if isinstance(pattern, bytes):
            raise TypeError("it is bytes")
        compiled = re.compile(pattern, re.MULTILINE)
    except (re.error, TypeError, ValueError) as error:
        raise MethodError(
            f"`parse.regex({shown(pattern)})` is not possible: {error}.",
            "It takes a regular expression, as `re.compile` does.",
            r'Write, for example, `parse.regex(r"energy = (\S+)")`.',
        ) from error
    return Regex(path, compiled, count)


def table(
    path: str, columns: int | Sequence[int] | None = None, *, skip: int = 0, comments: str = "#"
) -> Table:
    r"""Read numbers in columns, as `numpy.loadtxt` does; Fortran's `1.5D+03` is a number too.

    Args:
        path: the file, or `STDOUT`.
        columns: which of them, from 0; None = all.
        skip: lines to leave out at the start.
        comments: what makes the rest of a line a comment.

    Example:
        >>> from suture.functions import parse
        >>> parse.table("u.txt", columns=1).read(b"# t u\n0 1.5\n1 2.5D+00\n")
        array([1.5, 2.5])
    """
    several = [columns] if isinstance(columns, int) else columns
    return Table(path, None if several is None else tuple(several), skip, comments)


def function(fn: Callable[[bytes], Any], path: str = STDOUT) -> Function:
    """Have a function of your own read an output.

    Args:
        fn: given the bytes of the output, it returns a number or an array.
        path: the file, or a stream.

    Example:
        >>> from suture.functions import parse
        >>> parse.function(lambda content: content.count(b"x")).read(b"xxx")
        array(3.)
    """
    return Function(path, fn)


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")  # Windows marks the beginning of a text
    except UnicodeDecodeError:
        return content.decode("latin-1")  # numbers are the same in all of these


def _number(text: str | None) -> float:
    """Return a number as programs print it, in C, Fortran and Python."""
    word = (text or "").strip()
    try:
        return float(re.sub(r"(?<=[\d.])[dD](?=[+-]?\d)", "e", word.replace("_", " ")))
    except ValueError:
        raise Unreadable(f"{shown(word)} is not a number") from None


def _numeric(found: Any, what: str) -> Array:
    """Return numbers as an array of float64."""
    if hasattr(found, "detach"):
        found = found.detach().cpu()
    try:
        array = np.asarray(found)
    except (TypeError, ValueError):  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or not array.size or _has_truth(found):
        raise Unreadable(f"{what}, which is no number and no array of numbers")
    return array.astype(np.float64)


def _has_truth(found: Any) -> bool:
    """Whether a list has a true or false in it, which NumPy would count as 1 or 0."""
    if isinstance(found, list | tuple):
        return any(map(_has_truth, found))
    return isinstance(found, bool | np.bool_)


def _place(keys: Sequence[str | int]) -> str:
    return "".join(f"[{key!r}]" for key in keys) or "value"
