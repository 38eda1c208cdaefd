"""Functions that are not Python: each is a plain callable that `differentiable` takes.

They work without it, can be pickled, and work with every executor. `Command` runs a program of the
command line, whose results `parse` reads; `UMBridge` asks a model behind HTTP; `Expression` is a
formula in a string, and `UnsafePython` any Python in one.
"""

from suture.functions import parse as parse
from suture.functions._command import Command as Command
from suture.functions._expression import Expression as Expression
from suture.functions._umbridge import UMBridge as UMBridge
from suture.functions._unsafe import UnsafePython as UnsafePython

__all__ = ["Command", "Expression", "UMBridge", "UnsafePython", "parse"]
