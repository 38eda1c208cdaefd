"""Python in a string, with all that Python can do."""

from __future__ import annotations

import ast
import math
from typing import Any, final

import numpy as np

from suture.errors import MethodError, shown
from suture.functions._formula import AbstractFormula


@final
class UnsafePython(AbstractFormula):
    """A function that is written as any Python expression: the same as running a script.

    It can read and delete files, open connections and end the process. So it is for strings that
    you would run as a program; for those of anybody else there is `Expression`. Pickled, it is
    sent as its string, and evaluated where it arrives.

    Beside its arguments, the string can name Python's builtins, `math`, `np` and `torch`.

    Args:
        formula: one Python expression.
        *names: its variables, in the order in which arguments are passed.

    Raises:
        MethodError: the string is no Python expression, naming the column.

    Example:
        >>> f = UnsafePython("sum(float(part) for part in f'{x},{w}'.split(','))", "x", "w")
        >>> f(1.5, w=2)
        3.5
    """

    def __init__(self, formula: str, *names: str) -> None:
        import torch

        super().__init__(formula, *names)
        self._function = eval(self._compiled(), {"math": math, "np": np, "torch": torch})

    def _compiled(self) -> Any:
        """Return the code of a lambda: only so can inner loops see the arguments."""
        try:
            # Alone first: inside of a lambda, more than an expression could pass.
            body = ast.parse(self.formula.strip(), "<UnsafePython>", "eval").body
            whole = ast.parse(f"lambda {', '.join(self.names)}: 0", "<UnsafePython>", "eval")
            assert isinstance(whole.body, ast.Lambda)
            whole.body.body = body
            return compile(whole, "<UnsafePython>", "eval")
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            column = getattr(error, "offset", None)
            before = len(self.formula) - len(self.formula.lstrip())
            where = f" at column {column + before}" if column else ""
            raise MethodError(
                f"`UnsafePython({shown(self.formula)})` is no Python{where}: {_reason(error)}.",
                "It is one expression, not a statement.",
                "Write a function instead of a string: `def f(x): …`.",
            ) from error

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return what Python makes of it.

        Raises:
            Exception: whatever the expression raises.
        """
        return self._function(*args, **kwargs)


def _reason(error: BaseException) -> str:
    """Return why a string could not be parsed, on one line."""
    reason = getattr(error, "msg", None) or str(error) or type(error).__name__
    return " ".join(reason.split()).rstrip(".?")
