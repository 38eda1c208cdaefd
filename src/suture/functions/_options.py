"""The options of `Command`, checked."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suture.errors import MethodError, shown
from suture.functions._folders import inside
from suture.functions.parse import AbstractRule


def words(argv: object) -> list[str]:
    """Return the program and its arguments as strings.

    Raises:
        MethodError: they are no list of strings and paths.
    """
    if isinstance(argv, list | tuple) and argv and all(isinstance(w, str | Path) for w in argv):
        given = [str(word.absolute()) if isinstance(word, Path) else word for word in argv]
        if not any("\0" in word for word in given) and given[0]:
            if "/" in given[0]:  # the program runs in another directory
                given[0] = os.path.abspath(given[0])
            return given
    raise MethodError(
        f"`Command({shown(argv)})` is not possible.",
        "A program and its arguments are a list of strings and paths: no shell takes a line apart.",
        'Write, for example, `Command(["ngspice", "-b", "circuit.cir"], …)`.',
    )


def contents(files: Any) -> dict[str, str | bytes]:
    """Return what is written before a run, by path: templates, or bytes.

    Raises:
        MethodError: a path leads out of the run directory, or these are no files.
        OSError: a file cannot be read.
    """
    if isinstance(files, Path):
        found = sorted(path for path in files.rglob("*") if path.is_file())
        if not found:
            raise MethodError(
                f"`Command(files={shown(files)})` is not possible: no files are there.",
                "A path is that of a directory, with all the files that a run needs.",
                'Give it the name it has there: `files={"input.txt": Path("input.txt")}`.',
            )
        return {path.relative_to(files).as_posix(): _read(path) for path in found}
    if files is None:
        return {}
    if isinstance(files, Mapping) and all(
        isinstance(v, str | bytes | Path) for v in files.values()
    ):
        return {
            inside(name, "The file"): _read(content) if isinstance(content, Path) else content
            for name, content in files.items()
        }
    raise MethodError(
        f"`Command(files={shown(files)})` is not possible.",
        "Files are a dict of names and contents: text, bytes, or a path to read them from.",
        'Write, for example, `files={"input.txt": Path("template.txt")}`.',
    )


def _read(path: Path) -> str | bytes:
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def rules(parse: Any) -> dict[str | None, AbstractRule]:
    """Return the rules by their keys; None is the key of one by itself.

    Raises:
        MethodError: something is no rule.
    """
    rules = dict(parse) if isinstance(parse, Mapping) else {None: parse}
    if rules and all(isinstance(rule, AbstractRule) for rule in rules.values()):
        return rules
    raise MethodError(
        f"`Command(parse={shown(parse)})` is not possible.",
        "Results are read by a rule of `suture.functions.parse`, or by a dict of rules.",
        r'Write, for example, `parse=parse.regex(r"energy = (\S+)")`.',
    )


def positive(name: str, value: float | None, is_whole: bool = False) -> float | None:
    """Return a number that is positive, or None unless it is a whole one.

    Raises:
        MethodError: it is something else.
    """
    if (value is None and not is_whole) or (
        isinstance(value, int if is_whole else int | float)
        and not isinstance(value, bool)
        and 0 < value < float("inf")
    ):
        return value
    raise MethodError(
        f"`Command({name}={shown(value)})` is not possible.",
        "It is a positive number: of seconds for `timeout`, of bytes for `max_bytes`.",
        f"Write, for example, `{name}=60`, or leave it out.",
    )


def pattern(success: str) -> re.Pattern[str]:
    """Return the compiled pattern of success.

    Raises:
        MethodError: it is none.
    """
    try:
        return re.compile(success, re.MULTILINE)
    except (re.error, TypeError) as error:
        raise MethodError(
            f"`Command(success={shown(success)})` is not possible: {error}.",
            "It is a regular expression, as `re.compile` takes it.",
            'Write, for example, `success="converged"`.',
        ) from error
