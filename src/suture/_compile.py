"""Keep `torch.compile` out of the black box."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def uncompiled(fn: Callable[P, T]) -> Callable[P, T]:
    """Make `fn` and all that it calls run uncompiled, as `torch.compiler.disable` does.

    Without it, compile(func.grad) and compile(func.jvp) return zeros (pytorch#192985, #193279),
    and Dynamo rewrites the user's NumPy code into torch operations. `torch.compiler.disable`
    itself imports torch._dynamo when it decorates, 1.6 s; nothing can be compiled before
    somebody has imported that, so it is asked for only then.
    """
    disabled: Callable[P, T] | None = None

    @functools.wraps(fn)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:
            return fn(*args, **kwargs)
        if disabled is None:
            disabled = torch.compiler.disable(fn)  # type: ignore[no-untyped-call]
        return disabled(*args, **kwargs)

    # Dynamo breaks the graph where it sees this, instead of tracing into `guarded`.
    guarded._torchdynamo_disable = True  # type: ignore[attr-defined]
    return guarded
