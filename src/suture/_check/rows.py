"""What calls can share: whether rows are independent, and whether points can be stacked."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from suture import _results, _tree
from suture._check.findings import Rows
from suture._check.place import Place, frame_with, request
from suture._frame import can_be_stacked
from suture._inputs import Inputs
from suture._layout import Layout
from suture._requests import Evaluator, Request
from suture._types import Array
from suture.errors import SutureError

# Rows are displaced by this part of an input's size: far above noise, and inside most domains.
_MOVE = 0.05

# The same row in a larger batch may differ in its last digits, as matrix kernels cut batches
# differently: 64 units of rounding, as the library's own check allows.
_SAME = 64 * 2.0**-52

# Random noise of several thousand values stays below this many standard deviations.
_DEVIATIONS = 10.0

# Points of a trial call; an unusual number would be better than 2, which is also a usual shape.
_POINTS = 3

_FAILED = Rows(None, None, "points near x fail")


def look_at_rows(place: Place, claimed: Any, noise: float) -> Rows | None:
    """Say whether rows are independent, None where there is no batch to be seen.

    Args:
        place: where.
        claimed: the user's `batch_dims`.
        noise: the largest standard deviation of an output.
    """
    count = _batch(place)
    if claimed is not None:
        return _verdict(place, claimed, noise, "")
    if count is None:
        return None
    found = _dims(place, count, noise)
    if found is None:
        return _FAILED
    dims, told = found
    if 0 not in dims:
        return Rows(False, None, told) if told else None
    everything: list[Any] = [None] * len(place.frame.constants)
    for position, dim in zip(place.frame.call.positions, dims, strict=True):
        everything[position] = dim
    integers = [
        i
        for i, (leaf, want) in enumerate(zip(place.frame.call.leaves, place.wanted, strict=True))
        if not want and leaf.shape[:1] == (count,)
    ]
    for integer_dim in (0, None) if integers else (None,):
        for i in integers:
            everything[place.frame.call.positions[i]] = integer_dim
        args, kwargs = _tree.unflatten(everything, place.frame.call.structure)
        if any(dim is not None for dim in _tree.flatten(kwargs)[0]):
            return Rows(None, None, "rows come in keyword arguments, which have no `batch_dims`")
        verdict = _verdict(place, _prefix(args), noise, told)
        if verdict.independent:
            return verdict
    return verdict


def _allowed(place: Place, noise: float) -> float:
    """Return how much the same row may differ from call to call."""
    return max(_SAME * float(np.abs(place.y).max(initial=0.0)), _DEVIATIONS * noise)


def _batch(place: Place) -> int | None:
    """Return the size that dimension 0 of every output has, None if there is none above 1."""
    outputs = [output for output in place.frame.form.outputs if output.kind != "other"]
    sizes = {output.shape[:1] for output in outputs}
    if len(sizes) != 1 or () in sizes:
        return None
    ((count,),) = sizes
    return count if count > 1 else None


def _dims(place: Place, count: int, noise: float) -> tuple[list[int | None], str] | None:
    """Return dimension 0 for each leaf that is batched, and what coupled the others.

    Some rows of one leaf are displaced, then the others: outputs of rows that stayed must stay.
    None where f failed.
    """
    generator = place.generator()
    allowed = _allowed(place, noise)
    dims: list[int | None] = []
    told = ""
    segments = iter(zip(place.inputs.layout.segments, place.leaf_names, strict=True))
    for leaf, want in zip(place.frame.call.leaves, place.wanted, strict=True):
        if not want:
            dims.append(None)
            continue
        segment, name = next(segments)
        if leaf.shape[:1] != (count,) or segment.start == segment.stop:
            dims.append(None)
            continue
        move = np.zeros((2, place.n))
        half = np.arange(count) % 2 == 0
        width = (segment.stop - segment.start) // count
        for k, rows in enumerate((half, ~half)):
            sizes = generator.uniform(0.5, 1.0, segment.stop - segment.start)
            move[k, segment.start : segment.stop] = sizes * np.repeat(rows, width)
        points = place.inside(place.x + place.toward * _MOVE * place.unit * move)
        change = np.abs(place.whole(points) - place.y)
        if not np.isfinite(change).all():
            return None
        others, own = _row_changes(place, change, count, half)
        dims.append(0 if others <= allowed < own else None)
        if others > allowed:
            told = f"rows depend on other rows of `{name}`: one moved by {others:.2g}"
    return dims, told


def _row_changes(place: Place, change: Array, count: int, half: Array) -> tuple[float, float]:
    """Return the largest change of rows that stayed, and of rows that were displaced."""
    others, own = 0.0, 0.0
    for k, rows in enumerate((half, ~half)):
        for output in place.frame.form.outputs:
            if output.has_derivative:
                block = change[k, output.start : output.stop].reshape(count, -1)
                others = max(others, float(block[~rows].max(initial=0)))
                own = max(own, float(block[rows].max(initial=0)))
    return others, own


def _prefix(dims: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return one entry for each argument, where all its leaves agree."""
    entries = []
    for dim in dims:
        leaves = _tree.flatten(dim)[0]
        same = len(set(leaves)) == 1
        entries.append(leaves[0] if same else dim)
    return tuple(None if entry == () else entry for entry in entries)


def _verdict(place: Place, batch_dims: Any, noise: float, told: str) -> Rows:
    """Try the claim: three batches in one call must give what three calls give."""
    box = dataclasses.replace(place.box, chunk_size=None)
    try:
        frame = frame_with(place, box, batch_dims)
        inputs = Inputs(frame, place.tensors, 0, place.wanted)
        points, flat = _trial_points(place, inputs)
        expected = place.whole(flat)
        if not np.isfinite(expected).all():
            return _FAILED
        (values,) = Evaluator(inputs).evaluate([Request(0, *points, True)])
    except (SutureError, SystemExit) as error:
        return Rows(False, None, str(error).splitlines()[0])
    own = [np.concatenate([_results.unstore(o, v).reshape(-1) for o in _of(frame)]) for v in values]
    before = [
        np.concatenate([_results.unstore(o, v[None]).reshape(-1) for o in _of(place.frame)])
        for v in expected
    ]
    allowed = _allowed(place, noise)
    with np.errstate(invalid="ignore"):
        same = np.abs(np.array(own) - np.array(before)).max(initial=0.0) <= allowed
    if not same:
        return Rows(False, None, told or "a row differs in the company of other rows")
    # What other rows depend on is shared then.
    return Rows(True, repr(batch_dims), "", inputs.layout.row_width + inputs.layout.shared_width)


def _of(frame: Any) -> list[_results.Output]:
    return [output for output in frame.form.outputs if output.has_derivative]


def _trial_points(place: Place, inputs: Inputs) -> tuple[tuple[Array, Array], Array]:
    """Return three batches as rows and shared columns, and the same as flat points.

    x, every second row displaced, and all rows displaced; shared inputs stay as they are.
    """
    rows = inputs.rows[0]
    signs = place.generator().uniform(0.5, 1.0, rows.shape)
    every_second = (np.arange(len(rows)) % 2 == 0)[:, None]
    flat_unit = _converted(place.inputs.layout, inputs.layout, place.unit[None])[0][0]
    moves = place.toward * _MOVE * flat_unit * signs
    batches = np.stack([rows, rows + moves * every_second, rows + moves])
    shared = np.repeat(inputs.shared, _POINTS, 0)
    arrays = inputs.layout.scatter(batches, shared)
    flat = place.inside(place.inputs.layout.gather(arrays, (_POINTS,))[0][:, 0])
    return _converted(place.inputs.layout, inputs.layout, flat), flat


def _converted(old: Layout, new: Layout, flat: Array) -> tuple[Array, Array]:
    arrays = old.scatter(flat[:, None], np.empty((len(flat), 0)))
    return new.gather(arrays, (len(flat),))


def can_stack(place: Place, noise: float) -> bool:
    """Whether three points stacked on a new leading axis give what three calls give."""
    if not can_be_stacked(place.box.fn):
        return False
    generator = place.generator()
    moves = place.toward * _MOVE * place.unit * generator.uniform(0.5, 1.0, (_POINTS, place.n))
    moves[0] = 0
    points = place.inside(place.x + moves)
    try:
        frame = frame_with(place, dataclasses.replace(place.box, vectorized=True), None)
        inputs = Inputs(frame, place.tensors, 0, place.wanted)
        (values,) = Evaluator(inputs).evaluate([request(points)])
    except (SutureError, SystemExit):
        return False
    if values.shape != (_POINTS, 1, place.m):
        return False
    difference = np.abs(values[:, 0] - place.each(points))
    return bool(difference.max(initial=0.0) <= _allowed(place, noise))
