"""What a gradient does about points that failed: which may, and whose gradient is zero then."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from typing import TypeVar

import numpy as np

from suture import _complaints
from suture._attempts import Forgiving
from suture._evaluate import Pipeline
from suture._frame import Frame
from suture._methods import AbstractMethod, Points, Primal
from suture._types import Array

T = TypeVar("T")


class Mitigation:
    """The user's `on_failure` for one gradient of S samples.

    `shrink` and `one_sided` are the method's answers: it yields other points. To skip is decided
    here: a row with a failed point looks constant to the method, and its gradient is zero.

    Attributes:
        forgiving: which points may fail.
        dead: (R,) of each sample, the rows that are skipped.
    """

    def __init__(self, frame: Frame, method: AbstractMethod, primals: Sequence[Primal]) -> None:
        """Take what is differentiated, and how."""
        self._frame, self._policy = frame, frame.box.service.on_failure
        self.dead = [np.zeros(len(primal.rows), dtype=bool) for primal in primals]
        self.forgiving: Forgiving = "nothing"
        if self._policy == "skip":
            self.forgiving = "all"
        elif method.answers_failures(self._policy):
            self.forgiving = "domain" if self._policy == "raise" else "all"

    def applied(
        self, primals: Sequence[Primal], estimates: Sequence[Generator[Points, Array, T]]
    ) -> list[Generator[Points, Array, T]]:
        """Return the estimates as they are driven."""
        if self._policy != "skip":
            return list(estimates)
        return [
            _skipping(estimate, primal, dead)
            for estimate, primal, dead in zip(estimates, primals, self.dead, strict=True)
        ]

    def conclude(self, pipeline: Pipeline, primals: Sequence[Primal]) -> None:
        """Count and tell what was skipped; nothing is learned from a sample without a live row.

        Raises:
            EvaluationError: if more points failed than the user allows.
        """
        tally, service = pipeline.attempts.tally, self._frame.box.service
        if self._policy == "raise":
            return
        if tally.failures > service.max_failed_fraction * tally.points:
            raise _complaints.too_many(self._frame, tally.failures, tally.points) from (
                pipeline.attempts.failure
            )
        skipped = int(sum(dead.sum() for dead in self.dead))
        if not skipped:
            return
        tally.skipped += skipped
        pipeline.attempts.count()
        for primal, dead in zip(primals, self.dead, strict=True):
            if dead.all():
                primal.tuning = primal.replay = None
        of = sum(map(len, self.dead))
        warnings.warn(
            _complaints.skipped(self._frame, skipped, of, pipeline.attempts.failure), stacklevel=2
        )


def _skipping(
    estimate: Generator[Points, Array, T], primal: Primal, dead: Array
) -> Generator[Points, Array, T]:
    """Give f(x) for the values (P, R, O) of rows that had a failed point, and note these rows."""
    try:
        points = next(estimate)
        while True:
            values = yield points
            dead |= ~np.isfinite(values).all(axis=(0, 2))
            if dead.any():
                assert primal.value is not None  # evaluated before anything is displaced
                values = np.where(dead[:, None], primal.value, values)
            points = estimate.send(values)
    except StopIteration as stop:
        result: T = stop.value
        return result
