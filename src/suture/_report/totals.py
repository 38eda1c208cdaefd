"""What a whole record comes to, and each of its steps."""

from __future__ import annotations

import dataclasses
from typing import get_args

import numpy as np

from suture._record import Ended, Task
from suture._report.read import Integers, Table
from suture._types import Array

# More columns than this are narrower than two pixels of a figure on a page.
COLUMNS = 400

# Calls that are named in the list of the slowest.
_SLOWEST = 10


@dataclasses.dataclass(frozen=True)
class Group:
    """The calls of one black box for one task; `hits` of a memo are no calls."""

    name: str
    task: str
    calls: int
    evaluations: int
    hits: int
    failures: int
    seconds: float
    slowest: float


@dataclasses.dataclass(frozen=True)
class Slow:
    """A call that took long; `begun` is in seconds of the recording."""

    begun: float
    seconds: float
    name: str
    task: str
    step: int
    where: str
    ended: str


@dataclasses.dataclass(frozen=True)
class Totals:
    """What a record comes to.

    Attributes:
        names: of the black boxes.
        calls: of the black boxes; what a memo had is none.
        evaluations: points that they evaluated.
        hits: values that a memo had.
        retries: calls that were another attempt.
        failures: calls that gave no value, by how they ended and the type of the error.
        steps: of optimizers.
        runs: how often a recording began after another had ended, and the first.
        wall: seconds from the first call to the end of the last one, without the time between runs.
        seconds: of all calls together.
        parallelism: calls at once: seconds by wall seconds of a gradient, the median of those of
            more than one call; NaN if there is none.
        groups: by black box and task.
        slowest: the calls that took longest.
        unreadable: lines of the file that were cut.
    """

    names: list[str]
    calls: int
    evaluations: int
    hits: int
    retries: int
    failures: dict[tuple[str, str], int]
    steps: int
    runs: int
    wall: float
    seconds: float
    parallelism: float
    groups: list[Group]
    slowest: list[Slow]
    unreadable: int

    @property
    def failed(self) -> int:
        """How many calls gave no value."""
        return sum(self.failures.values())

    @property
    def share(self) -> float:
        """The share of hits in all values that were asked for."""
        return self.hits / max(self.hits + self.evaluations, 1)


def total(table: Table) -> Totals:
    """Return what a record comes to."""
    called = ~table.hit
    return Totals(
        names=sorted(table.name.names),
        calls=int(called.sum()),
        evaluations=int(table.points[called].sum()),
        hits=int(table.points[table.hit].sum()),
        retries=int((table.attempt > 1).sum()),
        failures=_failures(table),
        steps=table.steps,
        runs=1 + len(table.resumed),
        wall=float((table.begun + table.seconds).max()),
        seconds=float(table.seconds[called].sum()),
        parallelism=_parallelism(table),
        groups=_groups(table),
        slowest=_slowest(table),
        unreadable=table.unreadable,
    )


def in_order(found: list[str], kind: object) -> list[str]:
    """Return words in the order of a literal type; those that it does not know are last."""
    known = get_args(kind)
    return [word for word in known if word in found] + sorted(set(found) - set(known))


def endings(table: Table) -> list[str]:
    """Return how calls ended, values first."""
    return in_order(table.ended.names, Ended)


def tasks(table: Table) -> list[str]:
    """Return what calls were for."""
    return in_order(table.task.names, Task)


def _failures(table: Table) -> dict[tuple[str, str], int]:
    bad = ~(table.ended.are("value") | table.hit)
    pairs = np.stack([table.ended.codes[bad], table.error.codes[bad]])
    kinds, counts = np.unique(pairs, axis=1, return_counts=True)
    found = {
        (table.ended.names[ended], table.error.names[error]): int(count)
        for (ended, error), count in zip(kinds.T, counts, strict=True)
    }
    order = endings(table)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0][0]), -item[1])))


def _parallelism(table: Table) -> float:
    rows = np.flatnonzero(table.task.are("gradient") & ~table.hit)
    if not rows.size:
        return float("nan")
    keys = (table.run.codes, table.name.codes, table.call, table.step)
    _, group = np.unique(np.stack([key[rows] for key in keys]), axis=1, return_inverse=True)
    group = group.reshape(-1)
    begun, ended = table.begun[rows], table.begun[rows] + table.seconds[rows]
    wall = spans(group, begun, ended)
    several = (np.bincount(group) > 1) & (wall > 0)
    if not several.any():
        return float("nan")
    seconds = np.bincount(group, table.seconds[rows])
    return float(np.median(seconds[several] / wall[several]))


def spans(group: Integers, begun: Array, ended: Array, count: int = 0) -> Array:
    """Return the seconds from the first beginning to the last end in each group, 0 if empty."""
    count = max(count, int(group.max(initial=-1)) + 1)
    first, last = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(first, group, begun)
    np.maximum.at(last, group, ended)
    length: Array = np.where(np.isfinite(first), last - first, 0.0)
    return length


def _groups(table: Table) -> list[Group]:
    groups = []
    bad = ~(table.ended.are("value") | table.hit)
    for name in sorted(table.name.names):
        for task in tasks(table):
            these = table.name.are(name) & table.task.are(task)
            if not these.any():
                continue
            calls = these & ~table.hit
            seconds = table.seconds[calls]
            groups.append(
                Group(
                    name=name,
                    task=task,
                    calls=int(calls.sum()),
                    evaluations=int(table.points[calls].sum()),
                    hits=int(table.points[these & table.hit].sum()),
                    failures=int((bad & these).sum()),
                    seconds=float(seconds.sum()),
                    slowest=float(seconds.max(initial=0.0)),
                )
            )
    return groups


def _slowest(table: Table) -> list[Slow]:
    calls = np.flatnonzero(~table.hit)
    rows = calls[np.argsort(-table.seconds[calls], kind="stable")[:_SLOWEST]]
    return [
        Slow(
            begun=float(table.begun[row]),
            seconds=float(table.seconds[row]),
            name=table.name.of(row),
            task=table.task.of(row),
            step=int(table.step[row]),
            where=table.where.of(row),
            ended=table.ended.of(row),
        )
        for row in rows
    ]


@dataclasses.dataclass(frozen=True)
class Steps:
    """Means over the optimizer steps of each column of a figure.

    Attributes:
        edges: where columns begin and end; step s lies from s - 1/2 to s + 1/2.
        width: how many steps a column has; the last one may have fewer.
        evaluations: a step, by task.
        seconds: of calls, a step.
        wall: seconds from the first call of a step to the end of its last one.
        failures: calls without a value a step, by how they ended.
        hits: the share of values that a memo had; NaN where none were asked for.
        so_far: the same share of all values up to the end of the column.
    """

    edges: Array
    width: int
    evaluations: dict[str, Array]
    seconds: Array
    wall: Array
    failures: dict[str, Array]
    hits: Array
    so_far: Array


def by_step(table: Table) -> Steps:
    """Return what each step came to, or each column of steps where there are many."""
    width = -(-table.steps // COLUMNS)
    count = -(-table.steps // width)
    column = table.step // width
    edges = np.minimum(np.arange(count + 1) * width, table.steps)
    sizes = np.diff(edges)

    def summed(these: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], what: Array) -> Array:
        return np.bincount(column[these], what[these], minlength=count)

    points = table.points.astype(np.float64)
    called, ones = ~table.hit, np.ones(len(points))
    wall = spans(table.step, table.begun, table.begun + table.seconds, table.steps)
    hits, asked = summed(table.hit, points), summed(ones > 0, points)
    with np.errstate(invalid="ignore"):
        shares = hits / asked, np.cumsum(hits) / np.cumsum(asked)
    return Steps(
        edges=edges - 0.5,
        width=width,
        evaluations={t: summed(called & table.task.are(t), points) / sizes for t in tasks(table)},
        seconds=summed(called, table.seconds) / sizes,
        wall=np.bincount(np.arange(table.steps) // width, wall, minlength=count) / sizes,
        failures={
            e: summed(called & table.ended.are(e), ones) / sizes
            for e in endings(table)
            if e != "value"
        },
        hits=shares[0],
        so_far=shares[1],
    )
