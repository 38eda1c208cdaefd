"""From the lines of a record to columns."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from suture._record import BEGINNING
from suture._types import Array
from suture.errors import MethodError, shown

Integers = npt.NDArray[np.int64]

_FLOATS = ("when", "seconds")
# What a row without the field is taken for: records of other versions can be read.
_INTEGERS = {"points": 1, "step": 0, "call": 0, "attempt": 1}
_WORDS = {
    "name": None,
    "task": "unknown",
    "where": "unknown",
    "ended": None,
    "error": "",
    "run": "",
}


@final
class Words:
    """A column of texts: a number for each row, and what the numbers mean."""

    def __init__(self, codes: Integers, names: list[str]) -> None:
        self.codes = codes
        self.names = names

    def are(self, name: str) -> npt.NDArray[np.bool_]:
        """Return which rows have this text."""
        found: npt.NDArray[np.bool_] = np.array([other == name for other in self.names])[self.codes]
        return found

    def of(self, row: int) -> str:
        """Return the text of a row."""
        return self.names[int(self.codes[row])]


@final
class Table:
    """A record as columns; each has one entry a row, in the order of the file.

    Attributes:
        path: of the file.
        begun: seconds from the beginning of the recording, the time between runs left out.
        when: seconds since 1970.
        seconds: of each call.
        step: the optimizer step, counted on over the runs.
        hit: whether a memo had the value.
        resumed: where later runs began, in seconds of `begun`.
        steps: how many steps there are.
        unreadable: how many lines were cut.
    """

    def __init__(self, path: Path, columns: dict[str, Any], unreadable: int) -> None:
        self.path = path
        self.unreadable = unreadable
        self.when: Array = columns["when"]
        self.seconds: Array = columns["seconds"]
        self.points: Integers = columns["points"]
        self.call: Integers = columns["call"]
        self.attempt: Integers = columns["attempt"]
        self.hit: npt.NDArray[np.bool_] = columns["hit"].astype(bool)
        self.name: Words = columns["name"]
        self.task: Words = columns["task"]
        self.where: Words = columns["where"]
        self.ended: Words = columns["ended"]
        self.error: Words = columns["error"]
        self.run: Words = columns["run"]
        self.begun, self.step, self.resumed = self._laid_out(columns["step"])
        self.steps = int(self.step.max()) + 1

    def _laid_out(self, step: Integers) -> tuple[Array, Integers, list[float]]:
        """Put one run behind the other; runs that overlap in time, as of ranks, are one."""
        runs = self.run.codes
        count = len(self.run.names)
        first, last = np.full(count, np.inf), np.full(count, -np.inf)
        np.minimum.at(first, runs, self.when)
        np.maximum.at(last, runs, self.when + self.seconds)
        most = np.zeros(count, dtype=np.int64)
        np.maximum.at(most, runs, step)
        shift, ahead = np.zeros(count), np.zeros(count, dtype=np.int64)
        resumed: list[float] = []
        end, taken, begin, next_step, ahead_of_these = -np.inf, 0.0, 0.0, 0, 0
        for run in np.argsort(first):
            if first[run] > end:
                if np.isfinite(end):
                    taken += end - begin
                    resumed.append(taken)
                begin, ahead_of_these = first[run], next_step
            end = max(end, last[run])
            shift[run], ahead[run] = taken - begin, ahead_of_these
            next_step = max(next_step, ahead_of_these + int(most[run]) + 1)
        return self.when + shift[runs], step + ahead[runs], resumed


def read(path: Path) -> Table:
    """Read a record. A line that was cut is counted, and fields that are not known are ignored.

    Raises:
        MethodError: if there is no record under the path.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            columns, unreadable = _columns(path, lines)
    except OSError as error:
        raise MethodError(
            f"The record {path} cannot be read: {error.strerror}.",
            "A record is a file that `with suture.record(path):` wrote.",
            f'Give its path, for example `report("runs/record.jsonl", "{path.stem}.html")`.',
        ) from error
    if not columns["when"]:
        raise _no_record(path, "it has no rows" if not unreadable else "no line is a row")
    table = {name: _finished(column) for name, column in columns.items()}
    if not all(np.isfinite(table[n]).all() for n in _FLOATS) or (table["seconds"] < 0).any():
        raise _no_record(path, "a time is negative, or no number")
    if min(table[name].min() for name in _INTEGERS) < 0:
        raise _no_record(path, "a count is negative")
    return Table(path, table, unreadable)


def _finished(column: Any) -> Any:
    if isinstance(column, array):
        return np.frombuffer(column, dtype=column.typecode).copy()
    codes, numbers = column
    return Words(np.frombuffer(codes, dtype="q").copy(), [_printable(word) for word in numbers])


def _columns(path: Path, lines: Iterable[str]) -> tuple[dict[str, Any], int]:
    floats = [(name, array("d")) for name in _FLOATS]
    integers = [(name, default, array("q")) for name, default in _INTEGERS.items()]
    words: list[tuple[str, str | None, array[int], dict[str, int]]] = [
        (name, default, array("q"), {}) for name, default in _WORDS.items()
    ]
    hit, unreadable = array("b"), 0
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row, is_cut = _rescued(line)
            unreadable += is_cut
            if row is None:
                continue
        try:
            for name, column in floats:
                column.append(row[name])
            for name, value, counts in integers:
                counts.append(row.get(name, value))
            for name, default, codes, numbers in words:
                word = row[name] if default is None else row.get(name) or default
                codes.append(numbers.setdefault(_text(word), len(numbers)))
            hit.append(bool(row.get("hit")))
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise _no_record(path, f"line {number} is {shown(row)}") from error
    columns: dict[str, Any] = {"hit": hit, **dict(floats)}
    columns.update((name, counts) for name, _, counts in integers)
    columns.update((name, (codes, numbers)) for name, _, codes, numbers in words)
    return columns, unreadable


def _text(word: object) -> str:
    if not isinstance(word, str):
        raise TypeError(word)
    return word


def _printable(word: str) -> str:
    """Return a text that fonts and pages can show: names may be anything."""
    return "".join(letter if letter.isprintable() else "�" for letter in word)


def _rescued(line: str) -> tuple[Any, bool]:
    """Return the row of another process that stands behind a row that was cut, if there is one."""
    start = line.rfind(BEGINNING, 1)
    if start > 0:
        try:
            return json.loads(line[start:]), True
        except ValueError:
            return None, True
    return None, bool(line.strip())


def _no_record(path: Path, reason: str) -> MethodError:
    return MethodError(
        f"{path} is no record: {reason}.",
        "A record has rows of JSON, one a call of a black box.",
        "Record a training, `with suture.record(path):`, and report that.",
    )
