"""The options of `Command`, checked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Set
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


def contents(files: Any) -> dict[str, tuple[str | bytes, int | None]]:
    """Return what is written before a run, by path: templates or bytes, and permissions.

    The permissions are those of the file that was read, and its owner may read and write: it is
    the run's own copy. None = those of any new file.

    Raises:
        MethodError: a path leads out of the run directory, or these are no files.
        OSError: a file cannot be read.
    """
    if isinstance(files, Path):
        found = [path / name for path, names in _tree(files) for name in names]
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
            inside(name, "The file"): _read(content)
            if isinstance(content, Path)
            else (content, None)
            for name, content in files.items()
        }
    raise MethodError(
        f"`Command(files={shown(files)})` is not possible.",
        "Files are a dict of names and contents: text, bytes, or a path to read them from.",
        'Write, for example, `files={"input.txt": Path("template.txt")}`.',
    )


def subfolders(files: Any) -> list[str]:
    """Return the directories that are made before a run, those without files as well."""
    if not isinstance(files, Path):
        return []
    return [path.relative_to(files).as_posix() for path, _ in _tree(files)]


def _tree(files: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each directory with the names of its files, in a fixed order; links are followed.

    Raises:
        MethodError: a link leads back to a directory that it is in.
        OSError: a directory cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    # A path that is no directory has no files: the caller says so.
    for root, below, names in os.walk(
        files, followlinks=True, onerror=fail if files.is_dir() else None
    ):
        path = Path(root)
        depth = len(path.relative_to(files).parts)
        if any(path.samefile(above) for above in path.parents[:depth]):
            raise MethodError(
                f"`Command(files={shown(files)})` is not possible: `{path}` is a link that leads "
                "back.",
                "All that is in the directory is copied before each run, and must have an end.",
                "Remove the link, or name the files one by one, "
                'as `files={"input.txt": Path("input.txt")}`.',
            )
        below.sort()
        yield path, sorted(names)


def _read(path: Path) -> tuple[str | bytes, int]:
    content, mode = path.read_bytes(), path.stat().st_mode & 0o777 | 0o600
    try:
        return content.decode(), mode
    except UnicodeDecodeError:
        return content, mode


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


def seconds(timeout: float | None) -> float | None:
    """Return how long a run may take, None = any time.

    Raises:
        MethodError: it is no positive number.
    """
    if timeout is None or (
        isinstance(timeout, int | float)
        and not isinstance(timeout, bool)
        and 0 < timeout < float("inf")
    ):
        return timeout
    raise MethodError(
        f"`Command(timeout={shown(timeout)})` is not possible.",
        "It is a positive number of seconds.",
        "Write, for example, `timeout=60`, or leave it out.",
    )


def cap(max_bytes: object) -> int:
    """Return how many bytes an output may have.

    Raises:
        MethodError: it is no positive whole number.
    """
    if isinstance(max_bytes, int) and not isinstance(max_bytes, bool) and max_bytes > 0:
        return max_bytes
    raise MethodError(
        f"`Command(max_bytes={shown(max_bytes)})` is not possible.",
        "It is a positive whole number of bytes; without a limit, a program that never stops "
        "printing would fill the memory.",
        "Write, for example, `max_bytes=2**30`, or leave it out.",
    )


def names(inputs: Any) -> list[str] | None:
    """Return the names of the arguments in the user's order, None = as they appear.

    Raises:
        MethodError: they are no list of different names; a word would be taken letter by letter.
    """
    if inputs is None:
        return None
    if (
        isinstance(inputs, list | tuple)
        and all(isinstance(name, str) for name in inputs)
        and len(set(inputs)) == len(inputs)
    ):
        return list(inputs)
    raise MethodError(
        f"`Command(inputs={shown(inputs)})` is not possible.",
        "The names of the arguments are a list of strings, each once.",
        'Write, for example, `inputs=["x"]`, or leave it out.',
    )


def codes(ok_codes: Any) -> frozenset[int]:
    """Return the exit codes of runs that succeed.

    Raises:
        MethodError: they are no integers, or none at all.
    """
    if (
        isinstance(ok_codes, list | tuple | range | Set)
        and ok_codes
        and all(isinstance(code, int) and not isinstance(code, bool) for code in ok_codes)
    ):
        return frozenset(ok_codes)
    raise MethodError(
        f"`Command(ok_codes={shown(ok_codes)})` is not possible.",
        "The exit codes of runs that succeed are a list of integers, at least one.",
        "Write, for example, `ok_codes=(0, 3)`, or leave it out.",
    )


def environment(env: Any) -> dict[str, str]:
    """Return the environment variables; a message never shows them.

    Raises:
        MethodError: they are no names and texts.
    """
    if env is None:
        return {}
    if isinstance(env, Mapping) and all(
        isinstance(name, str)
        and isinstance(text, str)
        and name
        and not {"=", "\0"} & set(name)
        and "\0" not in text
        for name, text in env.items()
    ):
        return dict(env)
    raise MethodError(
        "`Command(env=…)` is not possible.",
        "Environment variables are a dict of names and texts; a number is written as a text.",
        'Write, for example, `env={"OMP_NUM_THREADS": "1"}`.',
    )


def pattern(success: str) -> re.Pattern[str]:
    """Return the compiled pattern of success.

    Raises:
        MethodError: it is none.
    """
    try:
        if isinstance(success, bytes):
            raise TypeError("it is bytes")
        return re.compile(success, re.MULTILINE)
    except (re.error, TypeError, ValueError) as error:
        raise MethodError(
            f"`Command(success={shown(success)})` is not possible: {error}.",
            "It is a regular expression, as `re.compile` takes it.",
            'Write, for example, `success="converged"`.',
        ) from error
