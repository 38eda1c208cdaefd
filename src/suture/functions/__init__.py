"""What can be called: formulas in strings, as plain callables that `differentiable` takes.

Each works without `differentiable` too, can be pickled, and runs under every executor.
"""

from suture.functions._expression import Expression
from suture.functions._unsafe import UnsafePython

__all__ = ["Expression", "UnsafePython"]
