"""The sentences about what the black box did: at which point, and what to type instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from suture import _tree
from suture._frame import Frame
from suture._layout import Layout
from suture._results import Outcome, Output, Read
from suture._types import Array, Stack
from suture.errors import BadResult, EvaluationError, shown

Where: TypeAlias = Callable[[], str]
"""Says at which point it happened; asked only when something did."""

# Words with which torch complains that two precisions meet.
_PRECISION_WORDS = ("dtype", "Float", "Double")
_DIGITS = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24}
_ALL_DIGITS = 53

_FORWARD = "that of the forward pass"


def describe(layout: Layout, names: Sequence[str], rows: Array, shared: Array) -> str:
    """Say where a point is: `x[5] increased by 2.1e-06`.

    Args:
        layout: of the displaced leaves.
        names: their names.
        rows: (R, d) displacements.
        shared: (p,) displacements.
    """
    moved = layout.scatter(np.ascontiguousarray(rows), np.ascontiguousarray(shared))
    moves = [
        (name, index, array[tuple(index)])
        for name, array in zip(names, moved, strict=True)
        for index in np.argwhere(array != 0)[:2]
    ]
    if not moves:
        return _FORWARD
    name, index, move = moves[0]
    if len(moves) > 1:
        return f"displaced in several inputs, {name} among them"
    place = f"[{', '.join(str(int(i)) for i in index)}]" if len(index) else ""
    if np.iscomplexobj(move):
        return f"{name}{place} displaced by {complex(move):.2g}"
    return f"{name}{place} {'increased' if move > 0 else 'decreased'} by {abs(float(move)):.2g}"


def raised(
    frame: Frame, stack: Stack, count: int, is_complex: bool, where: Where, error: Exception
) -> EvaluationError:
    """Complain that the function raised, in a call with `count` points."""
    place = where()
    return EvaluationError(
        f"`{frame.box.name}` raised {summary(error)}",
        f"A black box must return a result at every point; this one was {place}.",
        _remedy(frame, stack, count, error, is_complex, place == _FORWARD),
    )


def summary(error: Exception) -> str:
    """Return the type of an exception and the first line of its text."""
    text = (str(error).splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _remedy(
    frame: Frame, stack: Stack, count: int, error: Exception, is_complex: bool, is_forward: bool
) -> str:
    name = frame.box.name
    if isinstance(error, TypeError) and (signature := _unmet_signature(frame)):
        return f"Give it the arguments that it takes: `{name}{signature}`."
    if is_complex:
        return (
            "Use `FiniteDifference(stencils.CENTRAL)`: the complex step needs a function that "
            "takes complex numbers."
        )
    doubled = frame.box.dtype is not None and frame.call.dtype not in (None, frame.box.dtype)
    about_precision = any(word in str(error) for word in _PRECISION_WORDS)
    if doubled and isinstance(error, RuntimeError) and about_precision:
        return (
            f"If `{name}` holds weights in {_short(frame.call.dtype)}, pass `dtype=None` to "
            "`differentiable`: then it receives the caller's precision."
        )
    if stack == "rows" and count > 1:
        return (
            f"With `batch_dims`, `{name}` must accept any number of rows; if it does not, pass "
            "`chunk_size=1`."
        )
    if stack == "points":
        return (
            f"With `vectorized=True`, `{name}` is given points stacked on a new leading axis; if "
            "it does not expect that, leave `vectorized` out."
        )
    if is_forward:
        return f"Mend `{name}`, or restrict its inputs with `torch.clamp`. See `exc.point`."
    return (
        'Give `bounds=` to `differentiable`, or `on_failure="one_sided"`: then the gradient does '
        "without such points. See `exc.point`."
    )


def _unmet_signature(frame: Frame) -> str:
    """Return the signature of a function that cannot be called with these arguments, else ""."""
    args, kwargs = _tree.unflatten(frame.constants, frame.call.structure)
    try:
        signature = inspect.signature(frame.box.fn)
    except (TypeError, ValueError):  # compiled code may have none
        return ""
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return str(signature)
    return ""


def not_finite(
    frame: Frame, values: Array, point: int, is_forward: bool, where: Where
) -> BadResult:
    """Complain about NaN or infinity at the first such point of values (P, R, O)."""
    bad = ~np.isfinite(values)
    row, column = np.argwhere(bad[point])[0]
    kind = "nan" if np.isnan(values[point, row, column]) else "inf"
    place = _place(frame, int(row), int(column))
    remedy = (
        f"let `{frame.box.name}` return a finite number there"
        if is_forward
        else "use a stencil that stays inside the domain, such as `stencils.BACKWARD`"
    )
    return BadResult(
        f"`{frame.box.name}` returned {kind}{place} at {int(bad.any(axis=(1, 2)).sum())} of "
        f"{len(values)} points.",
        f"Every number must be finite; the first such point was {where()}.",
        f"Restrict the inputs with `torch.clamp`, or {remedy}.",
    )


def both_sides(frame: Frame, place: str, row: int, cause: Exception | None) -> BadResult:
    """Complain that neither side of an input has a finite value."""
    name = frame.box.name
    what = "nan or inf" if cause is None else f"no value ({summary(cause)})"
    where = f" in row {row}" if frame.call.rows is not None else ""
    return BadResult(
        f"`{name}` returned {what} on both sides of x{where}: with {place}, and in the other "
        "direction.",
        "A derivative needs f(x) and a value on one side of every input.",
        "Restrict the inputs with `torch.clamp`, or give `bounds=` and `scale=` to "
        "`differentiable`.",
    )


def too_many(frame: Frame, failed: int, points: int) -> EvaluationError:
    """Complain that too many points of a gradient failed."""
    service = frame.box.service
    return EvaluationError(
        f"{failed} of {points} points of a gradient of `{frame.box.name}` failed, more than "
        f"{service.max_failed_fraction:.0%}.",
        f'With `on_failure="{service.on_failure}"` the others would have to stand for them.',
        "Mend the cause (above), or allow more: `max_failed_fraction=0.5`.",
    )


def skipped(frame: Frame, samples: int, of: int, cause: Exception | None) -> str:
    """Say that samples have no gradient."""
    why = "values were not finite" if cause is None else summary(cause)
    return (
        f"`{frame.box.name}` failed at points of {samples} of {of} samples, whose gradient is zero "
        f"now ({why}). `f.last.skipped` counts them."
    )


def flat(frame: Frame) -> str:
    """Say that a function is constant around x."""
    return (
        f"`{frame.box.name}` is constant around x: every difference is exactly zero, and so is its "
        "gradient. For rounding, argmax, decision trees and integer solvers use a smoothed "
        "gradient: `FiniteDifference(stencils.CENTRAL, directions.Gaussian(32), step=0.1)`, or one "
        "of the estimators for solvers (perturbed, black-box interpolation, straight-through; see "
        "docs/discrete.md)."
    )


def _place(frame: Frame, row: int, column: int) -> str:
    outputs = frame.form.outputs
    which = next(i for i, o in enumerate(outputs) if o.has_derivative and column < o.stop)
    places = [f"output {which}"] * (len(outputs) > 1) + [f"row {row}"] * (
        frame.call.rows is not None
    )
    return f" in {', '.join(places)}" if places else ""


def not_stacked(frame: Frame, shape: tuple[int, ...], count: int, rows: int | None) -> BadResult:
    """Complain that the leading axis of a result is not the stack of points."""
    name = frame.box.name
    if rows is None:
        return BadResult(
            f"`{name}` returned shape {shape} for {count} stacked point"
            f"{'' if count == 1 else 's'}.",
            "With `vectorized=True`, every output has the points as its dimension 0.",
            f"Keep the leading axis in `{name}`, or leave out `vectorized=True`.",
        )
    return BadResult(
        f"`{name}` returned shape {shape} for a batch of {count * rows} rows.",
        "With `batch_dims`, every output has the batch as its dimension 0, whatever its size.",
        f"Let `{name}` return one row of output for each row of input, or leave out `batch_dims`.",
    )


def check_form(
    frame: Frame,
    leaves: Sequence[Any],
    structure: _tree.Structure,
    is_complex: bool,
    is_still: bool,
    where: Where,
) -> None:
    """Compare a result with the form that the first call fixed.

    Raises:
        BadResult: if nesting, shape or kind of numbers changed.
    """
    form: Outcome = frame.form
    if structure != form.structure:
        before, now = _tree.outline(form.structure), _tree.outline(structure)
        raise _changed(frame, before, now, "The nesting", where)
    others: list[Any] = []
    for output, leaf in zip(form.outputs, leaves, strict=True):
        if not isinstance(leaf, Read) or output.kind == "other":
            if isinstance(leaf, Read) or output.kind != "other":
                raise _changed(frame, _kind_of(output), _seen(leaf), "The kind of result", where)
            others.append(leaf)
            continue
        shape = leaf.array.shape[1:]
        if shape != output.shape:
            before, now = f"shape {output.shape}", f"shape {shape}"
            raise _changed(frame, before, now, "The shape", where)
        _check_kind(frame, output, leaf, is_complex, where)
    first = list(form.others.values())
    if is_still and others != first:
        what = "What stands beside the numbers, in all rows of a `vmap`,"
        raise _changed(frame, shown(first), shown(others), what, where)


def _kind_of(output: Output) -> str:
    return "a string or None" if output.kind == "other" else "a number"


def _seen(leaf: Any) -> str:
    return "a number" if isinstance(leaf, Read) else shown(leaf)


def _check_kind(frame: Frame, output: Output, leaf: Read, is_complex: bool, where: Where) -> None:
    came, first = leaf.dtype, output.dtype
    if is_complex and output.has_derivative:
        if not came.is_complex:
            raise _dropped_imaginary_part(frame, came)
        return
    if came.is_complex != (output.kind == "complex") and (came.is_complex or output.has_derivative):
        raise _changed(frame, _short(first), _short(came), "The kind of number", where)
    if came.is_floating_point and output.kind == "integer":
        raise _changed(frame, _short(first), _short(came), "The kind of number", where)
    floats = came.is_floating_point or came.is_complex
    if floats and _digits(came) < _digits(first):
        raise _changed(frame, _short(first), _short(came), "The precision", where)


def _dropped_imaginary_part(frame: Frame, came: torch.dtype) -> BadResult:
    return BadResult(
        f"`{frame.box.name}` dropped the imaginary part: it returned {_short(came)} for complex "
        "inputs.",
        "The complex step reads the derivative from the imaginary part of the result.",
        "Use `stencils.CENTRAL`, or keep complex numbers all the way through (no `abs`, no "
        "`float()`, no real arrays filled in place).",
    )


def _short(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")


def _digits(dtype: torch.dtype | None) -> int:
    return _ALL_DIGITS if dtype is None else _DIGITS.get(dtype.to_real(), _ALL_DIGITS)


def _changed(frame: Frame, before: str, now: str, what: str, where: Where) -> BadResult:
    name = frame.box.name
    return BadResult(
        f"`{name}` returned {before} at one point and {now} at another.",
        f"{what} must be the same everywhere; the other point was {where()}.",
        f"Make `{name}` pad or convert its result. The point is saved in `exc.point`.",
    )
