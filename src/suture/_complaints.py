"""The sentences about what the black box did: at which point, and what to type instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from suture import _tree
from suture._frame import Frame
from suture._results import Outcome, Output, Read
from suture._types import Array
from suture.errors import BadResult, EvaluationError

if TYPE_CHECKING:
    from suture._evaluate import Evaluator, Stack, _Batch

# Words with which torch and NumPy complain that two precisions meet.
_PRECISION_WORDS = ("dtype", "Float", "Double", "float32", "float64")


def raised(evaluator: Evaluator, batch: _Batch, stack: Stack, error: Exception) -> EvaluationError:
    """Complain that the function raised."""
    frame = evaluator.frame
    name = frame.box.name
    text = (str(error).splitlines() or [""])[0][:200]
    return EvaluationError(
        f"`{name}` raised {type(error).__name__}: {text}",
        f"A black box must return a result at every point; this one was {_where(evaluator, batch)}.",
        _remedy(frame, stack, len(batch.samples), error),
    )


def _remedy(frame: Frame, stack: Stack, count: int, error: Exception) -> str:
    name = frame.box.name
    doubled = frame.box.dtype is not None and frame.dtype not in (None, frame.box.dtype)
    if (
        doubled
        and isinstance(error, RuntimeError)
        and any(w in str(error) for w in _PRECISION_WORDS)
    ):
        return (
            f"If `{name}` holds weights in {_short(frame.dtype)}, pass `dtype=None` to "
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
    return f"Mend `{name}`, or restrict its inputs with `torch.clamp`. See `exc.point`."


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def not_finite(evaluator: Evaluator, batch: _Batch, values: Array) -> BadResult:
    """Complain about NaN or infinity."""
    frame = evaluator.frame
    bad = ~np.isfinite(values).all(axis=(1, 2))
    point = int(np.flatnonzero(bad)[0])
    row, column = np.argwhere(~np.isfinite(values[point]))[0]
    text = _output_name(frame.form, int(row), int(column), frame.rows is not None)
    kind = "nan" if np.isnan(values[point, row, column]) else "inf"
    complaint = BadResult(
        f"`{frame.box.name}` returned {kind}{text} at {int(bad.sum())} of {len(values)} points.",
        f"Every number must be finite; the first such point was "
        f"{_where(evaluator, batch.chunk(point, point + 1))}.",
        "Restrict the inputs with `torch.clamp`, or use a stencil that stays inside the domain, "
        "such as `stencils.BACKWARD`.",
    )
    complaint.point = _arguments(evaluator, batch.chunk(point, point + 1))
    return complaint


def _output_name(form: Outcome, row: int, column: int, batched: bool) -> str:
    for i, output in enumerate(form.outputs):
        if output.has_derivative and output.start <= column < output.stop:
            which = f" in output {i}" if len(form.outputs) > 1 else ""
            return which + (f", row {row}," if batched else "")
    return ""


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
    evaluator: Evaluator,
    batch: _Batch,
    form: Outcome,
    leaves: Sequence[Any],
    structure: _tree.Structure,
    is_complex: bool,
) -> None:
    """Compare a result with the form that the first call fixed.

    Raises:
        BadResult: if nesting, shape or kind of numbers changed.
    """
    name = evaluator.frame.box.name
    if structure != form.structure:
        raise _changed(evaluator, batch, "another nesting", "The nesting of the result", name)
    for output, leaf in zip(form.outputs, leaves, strict=True):
        if not isinstance(leaf, Read):
            if output.kind != "other":
                raise _changed(evaluator, batch, repr(leaf)[:40], "The kind of the result", name)
            continue
        if output.kind == "other":
            raise _changed(evaluator, batch, "a number", "The kind of the result", name)
        shape = leaf.array.shape[1:]
        if shape != output.shape:
            raise _changed(
                evaluator,
                batch,
                f"shape {shape}",
                "The shape of the result",
                name,
                f"shape {output.shape}",
            )
        _check_kind(evaluator, batch, output, leaf, is_complex)


def _check_kind(
    evaluator: Evaluator, batch: _Batch, output: Output, leaf: Read, is_complex: bool
) -> None:
    name = evaluator.frame.box.name
    came, first = leaf.dtype, output.dtype
    if not output.has_derivative or first is None:
        if came.is_floating_point or came.is_complex:
            raise _changed(
                evaluator, batch, _short(came), "The kind of number", name, _short(first)
            )
        return
    if is_complex:
        if not came.is_complex:
            raise BadResult(
                f"`{name}` dropped the imaginary part: it returned {_short(came)} for complex "
                "inputs.",
                "The complex step reads the derivative from the imaginary part of the result.",
                "Use `stencils.CENTRAL`, or keep complex numbers all the way through (no `abs`, "
                "no `float()`, no real arrays filled in place).",
            )
        return
    if came.is_complex != first.is_complex:
        raise _changed(evaluator, batch, _short(came), "The kind of number", name, _short(first))
    if came.is_floating_point and _digits(came) < _digits(first):
        raise _changed(evaluator, batch, _short(came), "The precision", name, _short(first))


def _digits(dtype: Any) -> int:
    return {"bfloat16": 8, "float16": 11, "float32": 24}.get(_short(dtype), 53)


def _changed(
    evaluator: Evaluator,
    batch: _Batch,
    now: str,
    what: str,
    name: str,
    before: str = "another one",
) -> BadResult:
    complaint = BadResult(
        f"`{name}` returned {now} at one point and {before} at another.",
        f"{what} must be the same everywhere; this point was {_where(evaluator, batch)}.",
        f"Make `{name}` pad or convert its result. The point is saved in `exc.point`.",
    )
    complaint.point = _arguments(evaluator, batch)
    return complaint


def _arguments(evaluator: Evaluator, batch: _Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    one = batch.chunk(0, 1)
    arrays = evaluator.layout.scatter(one.rows, one.shared)
    return evaluator.frame.arguments(evaluator._inputs("none", one, arrays, 0))


def _where(evaluator: Evaluator, batch: _Batch) -> str:
    """Say where a point is: `x[5] increased by 2.1e-06`."""
    count = len(batch.samples)
    if count > 1:
        return f"a call of {count} stacked points"
    sample = batch.samples[0]
    rows = batch.rows[0] - evaluator.rows[sample]
    shared = batch.shared[0] - evaluator.shared[sample]
    moved = evaluator.layout.scatter(np.ascontiguousarray(rows), np.ascontiguousarray(shared))
    wanted = [i for i, constant in enumerate(evaluator.constants) if constant is None]
    names = evaluator.frame.names()
    moves = [
        (names[i], index, array[tuple(index)])
        for i, array in zip(wanted, moved, strict=True)
        for index in np.argwhere(array != 0)[:2]
    ]
    if not moves:
        return "the one of the forward pass"
    if len(moves) > 1:
        return f"displaced in several inputs, {moves[0][0]} among them"
    name, index, move = moves[0]
    place = f"[{', '.join(str(int(i)) for i in index)}]" if len(index) else ""
    if np.iscomplexobj(move):
        return f"{name}{place} displaced by {complex(move):.2g}"
    return f"{name}{place} {'increased' if move > 0 else 'decreased'} by {abs(float(move)):.2g}"
