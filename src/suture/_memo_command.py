"""`suture memo`: what a memo holds, and how it gets smaller."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from suture._memo import Memo
from suture._memo_file import refuse_others
from suture.errors import MethodError, shown

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}

T = TypeVar("T")


def info(path: Path) -> str:
    """Return what a memo holds, a line each.

    Raises:
        MethodError: if there is no memo under the path, or it cannot be read.
    """
    refuse_others(path)
    with Memo(path) as memo:
        found = _reading(path, memo.info)
    lines = {
        "values": f"{found.values:_}",
        "size": f"{_size(found.size)} (the largest value: {_size(found.largest)})",
        "written": "never",
        "journal": found.journal,
    }
    if found.oldest is not None and found.newest is not None:
        lines["written"] = f"{found.oldest:%Y-%m-%d %H:%M} to {found.newest:%Y-%m-%d %H:%M}"
    return "\n".join([str(path), *(f"  {name:8} {value}" for name, value in lines.items())])


def prune(path: Path, older_than: str | None, larger_than: str | None) -> str:
    """Delete values and say how many.

    Args:
        path: of a memo.
        older_than: such as `30d`; units are s, m, h, d and w.
        larger_than: such as `10MB`; units are B, kB, MB and GB.

    Raises:
        MethodError: if the words make no sense, or there is no memo under the path.
    """
    age = _amount(older_than, _SECONDS, "--older-than", "30d")
    size = _amount(larger_than, _BYTES, "--larger-than", "10MB")
    if age is None and size is None:
        raise MethodError(
            "`suture memo prune` was not told what to delete.",
            "At least one of `--older-than` and `--larger-than` is needed.",
            f"`suture memo prune {path} --older-than 30d`",
        )
    refuse_others(path)
    with Memo(path) as memo:
        before = memo.info().size

        def delete() -> int:
            return memo.prune(older_than=age, larger_than=None if size is None else int(size))

        gone = _reading(path, delete)
        left = memo.info()
    freed = _size(max(before - left.size, 0))
    return f"{gone:_} values deleted, {left.values:_} kept; {freed} given back."


def _reading(path: Path, call: Callable[[], T]) -> T:
    try:
        return call()
    except sqlite3.Error as error:
        raise MethodError(
            f"The memo {path} cannot be used now: {error}.",
            "Others may hold it for long, or the disk may be full.",
            f"Try again: `suture memo info {path}`.",
        ) from error


def _amount(words: str | None, units: dict[str, int], option: str, example: str) -> float | None:
    if words is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", words.strip())
    if match is None or match[2] not in units:
        raise MethodError(
            f"`{option}` {shown(words)} is no amount.",
            f"It is a number with one of the units {', '.join(units)}.",
            f"For example `{option} {example}`.",
        )
    return float(match[1]) * units[match[2]]


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
