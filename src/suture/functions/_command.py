"""Programs of the command line, as functions of numbers."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import numpy as np

from suture._types import Array
from suture.errors import (
    BadResult,
    EvaluationError,
    MethodError,
    TimedOut,
    shown,
)
from suture.functions._arguments import numbers, rows_of
from suture.functions._folders import fill, fresh, keep, remove
from suture.functions._guard import guard
from suture.functions._identity import of_files, of_rules, of_words
from suture.functions._options import (
    cap,
    codes,
    contents,
    environment,
    names,
    pattern,
    rules,
    seconds,
    subfolders,
    words,
)
from suture.functions._output import content_of
from suture.functions._run import Ran, run
from suture.functions._template import Template, names_of, pair
from suture.functions.parse import STDERR, STDOUT, AbstractRule, Unreadable

# Row 14 of what can go wrong: a program that never stops writing must not fill the memory. No
# result that is differentiated has this many bytes.
_CAP = 64 << 20

Rules = AbstractRule | Mapping[str, AbstractRule]


@final
class Command:
    """A program of the command line, as a function of numbers.

    Each call makes a fresh directory, writes the files into it with the numbers filled in, runs
    the program there, reads the results, and removes the directory. No shell reads the words of
    the program. All processes of its group are killed when it ends, when it is late, when
    anything raises, and when this process dies.

    A placeholder is `{name}`, `{name[3]}`, `{name[0, 2]}` or `{name:.6e}`: the name stands
    directly after the brace and no `$` before it; all other braces are text. Numbers are written
    with 17 digits, which bring back every float64, unless a format says otherwise. The names are
    the arguments of the function: numbers for `{name}`, arrays for `{name[3]}`. Arguments with
    one dimension more are a batch, whose rows are run one after another.

    Args:
        argv: the program and its arguments, as a list. A `Path` is made absolute, as the program
            runs elsewhere.
        files: what is written before: a dict of names and texts (`str`), contents (`bytes`, never
            a template) or files (`Path`, read now); or the `Path` of a directory with all that is
            in it. Files that are not UTF-8 are copied as they are. Those of a `Path` keep their
            permissions.
        parse: how to read the result: a rule of `functions.parse`, or a dict of them.
        timeout: seconds that a run may take; None = any.
        inputs: the names of the arguments, in their order; None = as they appear, first in
            `argv`. With it, names that are unknown or unused are refused.
        success: a regular expression that must be found in what the program prints.
        ok_codes: exit codes that are no failure.
        delimiters: what stands before and behind a placeholder.
        max_bytes: most that a stream or a file of results may have.
        env: environment variables beside those of this process.
        folder: where the runs' directories are made; None = with the temporary files. Those of
            runs that failed stay: the last 20.

    Raises:
        MethodError: an option is not lawful, or a placeholder is unknown or unused.

    Calling it raises:
        MethodError: an argument does not fit, or is a tensor whose gradient would be lost.
        EvaluationError: the program failed; `exc.output` has the last 40 lines that it printed,
            and `exc.folder` is the directory that was kept.
        TimedOut: it took too long.
        BadResult: a result is missing, is no number, or is too long.

    Example:
        >>> from suture.functions import Command, parse
        >>> area = Command(["awk", "BEGIN { print 3.14 * {r} ^ 2 }"], parse=parse.regex(r"^.+$"))
        >>> area(r=2.0)
        array(12.56)
    """

    # For `check`: stacked points are run one after another, so nothing is gained by stacking.
    __suture_one_by_one__ = True

    def __init__(
        self,
        argv: Sequence[str | Path],
        files: Mapping[str, str | bytes | Path] | Path | None = None,
        *,
        parse: Rules,
        timeout: float | None = None,
        inputs: Sequence[str] | None = None,
        success: str | None = None,
        ok_codes: Sequence[int] = (0,),
        delimiters: tuple[str, str] = ("{", "}"),
        max_bytes: int = _CAP,
        env: Mapping[str, str] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        """Read the templates, and check that all fits."""
        around = self._delimiters = pair(delimiters)
        given = words(argv)
        self._program = given[0]
        self._argv = [
            Template(word, around, f"`argv[{i}]`") for i, word in enumerate(given[1:], start=1)
        ]
        written, self._subfolders = contents(files), subfolders(files)
        self._files = {
            name: content
            if isinstance(content, bytes)
            else Template(content, around, f"the file `{name}`")
            for name, (content, _) in written.items()
        }
        self._modes = {name: mode for name, (_, mode) in written.items() if mode is not None}
        self._parse = rules(parse)
        templates = [*self._argv, *(t for t in self._files.values() if isinstance(t, Template))]
        slots = [slot for template in templates for slot in template.slots]
        self._places = names_of(slots, names(inputs))
        for template in templates:
            template.check(self._places)
        self._timeout, self._max_bytes = seconds(timeout), cap(max_bytes)
        self._success = None if success is None else pattern(success)
        self._ok_codes = codes(ok_codes)
        self._env = environment(env)
        self._folder = None if folder is None else Path(folder).absolute()
        self.__name__ = Path(self._program).name
        self.__signature__ = inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                for name in self._places
            ]
        )

    def __repr__(self) -> str:
        """Return the program and the arguments, never the environment."""
        return f"Command({self.__name__}{self.__signature__})"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the program at numbers: tensors, arrays or plain ones.

        Returns:
            What the rules read, in float64: tensors if an argument is one, else arrays.
        """
        given = self.__signature__.bind(*args, **kwargs).arguments
        values, rows = rows_of(
            {name: numbers(name, value, self._places[name]) for name, value in given.items()},
            self._places,
        )
        found = [self._once(row) for row in values]
        torch = sys.modules.get("torch")
        is_torch = torch is not None and any(isinstance(v, torch.Tensor) for v in given.values())
        results = {key: self._joined(key, [one[key] for one in found], rows) for key in self._parse}
        if torch is not None and is_torch:
            results = {key: torch.from_numpy(value) for key, value in results.items()}
        return results.get(None, results)

    def _joined(self, key: str | None, found: list[Array], rows: int | None) -> Any:
        """Return the results of the rows of a batch as one array."""
        if rows is None:
            return found[0]
        shapes = sorted({one.shape for one in found})
        if len(shapes) > 1:
            raise BadResult(
                f"`{self.__name__}` gave results of shape {shapes[0]} and {shapes[1]} in the rows "
                "of one batch.",
                "All rows must have results of one shape.",
                "Have the rule read a part that is always there, or pad it with "
                "`parse.function(fn)`.",
            )
        return np.stack(found)

    def _once(self, values: Mapping[str, Array]) -> dict[str | None, Array]:
        """Run the program once, and return what it gave."""
        argv = [self._found(), *(word.filled(values) for word in self._argv)]
        texts = {
            name: content if isinstance(content, bytes) else content.filled(values).encode()
            for name, content in self._files.items()
        }
        folder = fresh(self._folder)
        with guard.watching(folder):
            try:
                fill(folder, self._subfolders, texts, self._modes)
                ran = run(argv, folder, self._timeout, self._max_bytes, self._env)
                return self._results(folder, ran)
            finally:
                remove(folder)

    def _found(self) -> str:
        found = shutil.which(self._program, path=self._env.get("PATH"))
        if found is None:
            raise MethodError(
                f"The program `{self._program}` was not found.",
                "It must be a file that can be run, in one of the directories of PATH.",
                f'It is one of the `files`: run it by `Command(["sh", "{self.__name__}"], …)`.'
                if self.__name__ in self._files
                else "Install it, or give its place: "
                f'`Command([Path("/opt/bin/{self.__name__}"), …])`.',
            )
        return os.path.abspath(found)  # it runs in another directory

    def __suture_content__(self) -> tuple[Any, ...]:
        """Return all that the results depend on and that can be seen, for a memo."""
        return (
            of_words(self._found(), self._argv),
            of_files(self._files, self._modes),
            tuple(self._subfolders),
            of_rules(self._parse),
            tuple(self._places),
            self._delimiters,
            None if self._success is None else self._success.pattern,
            tuple(sorted(self._ok_codes)),
            tuple(sorted(self._env.items())),
        )

    def _results(self, folder: Path, ran: Ran) -> dict[str | None, Array]:
        """Return what the rules read.

        Raises:
            EvaluationError: the run failed.
        """
        if ran.how == "late":
            raise self._failed(
                TimedOut,
                f"was killed: it took longer than {self._timeout:g} s",
                "A run has to end in time",
                folder,
                ran,
            )
        if ran.how == "too much":
            raise self._failed(
                BadResult,
                f"was killed: it printed more than {self._max_bytes} bytes",
                "A stream is read up to `max_bytes=`",
                folder,
                ran,
            )
        if ran.how == "alone":
            raise self._failed(
                EvaluationError,
                "was killed: the process that had asked for it is gone",
                "Nobody waits for its result",
                folder,
                ran,
            )
        if ran.code not in self._ok_codes:
            raise self._failed(
                EvaluationError,
                f"ended with exit code {ran.code}" if ran.code >= 0 else _signal(ran.code),
                f"A run that succeeds ends with one of the codes {sorted(self._ok_codes)}",
                folder,
                ran,
            )
        if self._success is not None and not any(
            self._success.search(stream.decode(errors="replace")) for stream in ran.streams
        ):
            raise self._failed(
                EvaluationError,
                f"did not print {shown(self._success.pattern)}",
                "`success=` must be found in what it prints",
                folder,
                ran,
            )
        return {key: self._read(key, rule, folder, ran) for key, rule in self._parse.items()}

    def _read(self, key: str | None, rule: AbstractRule, folder: Path, ran: Ran) -> Array:
        output = f"`{rule.path}`" if key is None else f"`{key}` in `{rule.path}`"
        try:
            if rule.path in (STDOUT, STDERR):
                return rule.read(ran.streams[rule.path == STDERR])
            return rule.read(content_of(folder, rule.path, self._max_bytes, self._files))
        except Unreadable as unreadable:
            raise self._failed(
                BadResult,
                f"ended with exit code {ran.code}, but left no result {output}: {unreadable}",
                "Every result must be there after every run",
                folder,
                ran,
            ) from unreadable.__cause__

    def _failed(
        self, kind: Callable[..., EvaluationError], what: str, why: str, folder: Path, ran: Ran
    ) -> EvaluationError:
        """Keep the directory, and return an error that says where, and what was printed last."""
        kept = keep(folder, ran.streams)
        error = kind(
            f"`{self.__name__}` {what}.",
            f"{why}; the last lines that it printed are in `exc.output`.",
            f"Look at its files: `cd {kept}`.",
        )
        error.output, error.folder = ran.tail, kept  # type: ignore[attr-defined]
        error.add_note(f"The last lines of its output:\n{ran.tail or '(it printed nothing)'}")
        return error


def _signal(code: int) -> str:
    import signal

    with suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"
