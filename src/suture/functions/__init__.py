"""Functions that are not Python: each is a plain callable that `differentiable` takes.

They work without it, can be pickled, and work with every executor. `Command` runs a program of the
command line, whose results `parse` reads; `UMBridge` asks a model behind HTTP.
"""

from suture.functions import parse as parse
from suture.functions._command import Command as Command
from suture.functions._umbridge import UMBridge as UMBridge

__all__ = ["Command", "UMBridge", "parse"]
