"""Rounds: many estimates ask for points together, and each is sent its values."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import numpy as np

from suture._methods import Points, Primal
from suture._requests import Request
from suture._types import Array

T = TypeVar("T")


def drive(
    estimates: Sequence[Generator[Points, Array, T]],
    evaluate: Callable[[list[int], list[Points]], list[Array]],
) -> list[T]:
    """Advance all estimates together until each has returned.

    Args:
        estimates: generators that yield points and are sent their values.
        evaluate: takes the numbers of the estimates that ask, and their points; returns the
            values of each. Called once per round.

    Returns:
        What each generator returned, in order.
    """
    results: dict[int, T] = {}
    replies: dict[int, Array | None] = dict.fromkeys(range(len(estimates)))
    while replies:
        asked: dict[int, Points] = {}
        for i, reply in replies.items():
            try:
                # The first `send` of a generator must be None; its type does not say so.
                asked[i] = estimates[i].send(reply)  # type: ignore[arg-type]
            except StopIteration as stop:
                results[i] = stop.value
        values = evaluate(list(asked), list(asked.values())) if asked else []
        replies = dict(zip(asked, values, strict=True))
    return [results[i] for i in range(len(estimates))]


def request(sample: int, primal: Primal, points: Points) -> Request:
    """Fill in what a point leaves as it is: a private copy for each point.

    Raises:
        MethodError: if a point is outside of the bounds.
    """
    rows, shared = points.rows, points.shared
    if primal.room is not None and primal.round is not None:
        rows, shared = primal.round(rows, shared)
    same_shared = shared is None or shared.size == 0
    if rows is None:
        rows = _repeated(primal.rows, len(points))
    if shared is None:
        shared = _repeated(primal.shared, len(points))
    if rows.dtype != shared.dtype:  # one part has complex displacements, the other none
        rows, shared = rows.astype(np.complex128), shared.astype(np.complex128)
    return Request(sample, rows, shared, same_shared)


def _repeated(array: Array, count: int) -> Array:
    copies = np.empty((count, *array.shape))
    copies[...] = array
    return copies
