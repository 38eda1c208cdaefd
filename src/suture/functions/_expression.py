"""A formula in a string that cannot do anything but compute."""

from __future__ import annotations

from types import FunctionType
from typing import Any, final

import numpy as np

from suture.functions import _grammar, _kinds
from suture.functions._formula import AbstractFormula


@final
class Expression(AbstractFormula):
    """A function that is written as a formula: safe, whoever wrote the string.

    The formula is made of numbers, the names that are listed, `pi`, the operators `+ - * / // %
    **`, comparisons with `and`, `or` and `not` inside of conditions (`a if x > 0 else b`, which
    `where(x > 0, a, b)` says too), constant indices (`w[0]`, `w[-1]`, `w[1][2]`), and calls of
    `sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh exp expm1 log log1p log2
    log10 sqrt hypot abs floor ceil round min max`. Everything else is refused: attributes, text,
    keywords, comprehensions, other calls. Whole numbers count as floating ones, so that
    `9**9**9**9` is an OverflowError at once. This is no defense against a formula that is merely
    slow on large arrays.

    With numbers it computes as Python does, and raises what Python raises; with arrays and tensors
    it computes each element as NumPy and torch do. There, both sides of a condition are computed,
    and one is chosen for each element. Of two or more arguments, `min` and `max` are elementwise.
    A list counts as an array. One number of float64 tensors is computed by Python where torch does
    not differentiate it: the same number but for the last bit.

    Args:
        formula: at most 10 000 characters, nested at most 200 deep.
        *names: its variables, in the order in which arguments are passed.

    Raises:
        MethodError: the formula holds something else, naming the column; from a call, an argument
            is no number, array or tensor.

    Example:
        >>> f = Expression("2*x*w[0] + x**2*w[1]", "x", "w")
        >>> float(f(3.0, [0.5, 2.0]))
        21.0
        >>> float(f(w=[0.5, 2.0], x=3.0))
        21.0
    """

    # `w[0]` would be the first of the points, and silently so: see `differentiable(vectorized=…)`.
    __suture_stacks__ = False

    def __init__(self, formula: str, *names: str) -> None:
        super().__init__(formula, *names)
        self._code, self._used, self._has_condition = _grammar.compiled(formula, self.names)
        self._of_numbers = FunctionType(self._code, _kinds.NUMBERS)
        self._of_arrays = FunctionType(self._code, _kinds.ARRAYS)
        self._depths = _kinds.depths_of(len(names), self._used)
        self._of_elements = FunctionType(self._code, _kinds.ELEMENTS)

    def __suture_content__(self) -> tuple[Any, ...]:
        """Return all that the results depend on, for a memo."""
        return self.formula, self.names

    @classmethod
    def _reserved(cls) -> frozenset[str]:
        return _grammar.RESERVED

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Return the value at some arguments: a number, an array or a tensor, as they are.

        Raises:
            MethodError: an argument is no number, array or tensor, naming it.
            ArithmeticError: as in Python, where all arguments are numbers.
            ValueError: likewise, for example for `sqrt(-1)`.
            TypeError: an argument is missing, or unknown.
        """
        if kwargs or len(args) != len(self.names):
            args = self._bound(args, kwargs)
        if _kinds.is_ready(args, (float,)):
            return self._of_numbers(*args)
        if _kinds.is_ready(args, (np.ndarray, np.float64, float)):
            value = self._of_arrays(*args)
            return _kinds.spread(value, args, self._used) if self._has_condition else value
        if self._depths and (found := _kinds.elements(args, self._depths)) is not None:
            try:
                return _kinds.tensor_of(self._of_elements(*found))
            except (ArithmeticError, ValueError):
                pass  # torch has nan or inf
        table, values = _kinds.prepared(self.names, args)
        value = FunctionType(self._code, table)(*values)
        return _kinds.spread(value, values, self._used) if self._has_condition else value
