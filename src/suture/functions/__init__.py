"""Functions that are not Python: each is a plain callable that `differentiable` takes.

They work without it, can be pickled, and work with every executor.
"""

from suture.functions._umbridge import UMBridge as UMBridge

__all__ = ["UMBridge"]
