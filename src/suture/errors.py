"""What can go wrong, and what to type instead.

    SutureError
    ├── EvaluationError        fn raised                                     (.point)
    │   ├── BadResult          fn returned something that is no result, or breaks a claim
    │   ├── TimedOut           fn took too long
    │   ├── WorkerDied         the process that ran fn ended
    │   └── PointFailed        fn itself says so: raise it for a point that cannot be evaluated
    ├── MethodError            an illegal combination; also a ValueError
    ├── TransformError         a torch transform that would give a wrong number
    └── MissingExtraError      an optional dependency is absent; also an ImportError

Every message has three lines: what happened, with the user's names and values; what was
needed; something to type.
"""

from __future__ import annotations

from typing import Any

# Longer values are cut in messages: the rest of a line must stay readable.
_LONGEST = 80


def shown(value: object) -> str:
    """Return the `repr` of a user's value on one line, cut where it is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def refusal(keyword: str, value: object, why: str, fix: str) -> MethodError:
    """Return the error of an option of `differentiable` that is not lawful."""
    return MethodError(
        f"`differentiable({keyword}={shown(value)})` is not possible.", f"{why}.", f"Write `{fix}`."
    )


class SutureError(Exception):
    """Base of all errors that Suture raises.

    Args:
        what: what happened, with the user's own names and values.
        why: what was needed instead.
        fix: something to type.
    """

    def __init__(self, what: str, why: str, fix: str) -> None:
        """Keep the three lines as the arguments, so that the error survives pickling."""
        super().__init__(what, why, fix)

    def __str__(self) -> str:
        """Return the three lines."""
        return "\n".join(str(line) for line in self.args)


class EvaluationError(SutureError):
    """The black box raised; the original exception is the `__cause__`.

    Attributes:
        point: the arguments `(args, kwargs)` at which it happened, or None.
        attempt: the attempt that was the last one, from 1.
    """

    point: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    attempt: int = 1


class BadResult(EvaluationError):
    """The black box returned something that is not a result: NaN, a string, another shape."""


class TimedOut(EvaluationError):
    """The black box gave no result in time; its worker was killed.

    Attributes:
        note: what the worker noted last in this task, or None.
    """

    note: int | None = None


class WorkerDied(EvaluationError):
    """The process that ran the black box ended: killed, crashed, or by itself.

    Attributes:
        note: what the worker noted last in this task, or None.
    """

    note: int | None = None


class PointFailed(EvaluationError):
    """The black box says that a point is bad: a solver did not converge, a mesh was torn.

    Raise it inside of the black box. The default method then looks at the other side of x, as it
    does for NaN, and a stencil that is named does what `on_failure=` says: with "shrink" it halves
    the displacement, with "one_sided" it does without the point. Any other exception ends the
    gradient.

    Args:
        reason: what a person should read.

    Example:
        >>> def root(x):
        ...     if x < 0:
        ...         raise PointFailed("there is no root")
        ...     return x**0.5
    """

    def __init__(self, reason: str = "this point is bad", *lines: str) -> None:
        """Make three lines of the reason."""
        if lines:  # made anew by unpickling
            super().__init__(reason, *lines)
            return
        super().__init__(
            f"The black box says that a point failed: {reason.rstrip('.')}.",
            "The value at x itself is needed, and one on some side of every input; a stencil that "
            "is named needs all of its points, unless `on_failure=` says otherwise.",
            'Restrict the inputs with `torch.clamp`, give `bounds=` or `on_failure="one_sided"` to '
            "`differentiable`, or use the default method.",
        )


class MethodError(SutureError, ValueError):
    """The request is not lawful, whatever the black box returns."""


class TransformError(SutureError):
    """A torch transform was refused, because it would have given a wrong number."""


class MissingExtraError(SutureError, ImportError):
    """An optional dependency is not installed."""
