"""What is called: adapters that make a plain Python callable of something else.

`Command` runs a program of the command line; `parse` says how its results are read.
"""

from suture.functions import parse as parse
from suture.functions._command import Command as Command

__all__ = ["Command", "parse"]
