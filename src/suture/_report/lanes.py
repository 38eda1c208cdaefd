"""What the timeline of a record draws: calls, or shares of time where there are too many."""

from __future__ import annotations

import dataclasses

import numpy as np

from suture._report.read import Integers, Table
from suture._report.totals import COLUMNS, endings
from suture._types import Array

# Lanes thinner than about ten pixels could not be told apart.
_LANES = 32

# More calls than that are thinner than a pixel, and shown as shares of time.
_CALLS = 2000

# A record may be of one moment, and has some width nevertheless: a nanosecond.
_SHORTEST = 1e-9

# Columns times lanes: a page of more boxes is longer than half a megabyte.
_CELLS = 6400

# Longer labels would take the room of the lanes.
_LONGEST = 28

# Lanes lie 1 apart.
_HEIGHT = 0.72

# Failures may take a millionth of their column. All kinds together are drawn at least this high.
_VISIBLE = 0.25


@dataclasses.dataclass(frozen=True)
class Timeline:
    """One lane for each place, at the heights 0, 1, ... from the top.

    Attributes:
        lanes: labels of the places.
        places: how many places there are; the lanes are those that worked longest.
        column: seconds of a column, 0 where calls are drawn one by one.
        end: seconds of recording.
        boxes: (b, 4) left and right in seconds, top and bottom in lanes, by how calls ended.
    """

    lanes: list[str]
    places: int
    column: float
    end: float
    boxes: dict[str, Array]


def timeline(table: Table) -> Timeline:
    """Return what to draw."""
    called = np.flatnonzero(~table.hit)
    calls = np.bincount(table.where.codes[called], minlength=len(table.where.names))
    places = int((calls > 0).sum())
    busy = np.bincount(table.where.codes[called], table.seconds[called], minlength=len(calls))
    kept = np.sort(np.lexsort((-busy, calls == 0))[: min(_LANES, places)])  # as they began
    lane = np.full(len(calls), -1)
    lane[kept] = np.arange(len(kept))
    lanes = lane[table.where.codes]
    end = max(float((table.begun + table.seconds).max()), _SHORTEST)
    labels = _labels([table.where.names[place] for place in kept])
    if called.size <= _CALLS:
        return Timeline(labels, places, 0.0, end, _calls(table, lanes))
    columns = min(COLUMNS, _CELLS // len(kept))
    boxes = _columns(table, lanes, np.linspace(0, end, columns + 1))
    return Timeline(labels, places, end / columns, end, boxes)


def _calls(table: Table, lanes: Integers) -> dict[str, Array]:
    """Return one box for each call."""
    boxes = {}
    for ending in endings(table):
        rows = np.flatnonzero(table.ended.are(ending) & ~table.hit & (lanes >= 0))
        begun, ended = table.begun[rows], table.begun[rows] + table.seconds[rows]
        top, bottom = lanes[rows] - _HEIGHT / 2, lanes[rows] + _HEIGHT / 2
        boxes[ending] = np.stack([begun, ended, top, bottom], axis=1)
    return {ending: found for ending, found in boxes.items() if len(found)}


def _columns(table: Table, lanes: Integers, edges: Array) -> dict[str, Array]:
    """Return boxes as high as the share of a column that calls took; failures are on top."""
    heights = {ending: _shares(table, lanes, edges, ending) for ending in endings(table)}
    failures = [height for ending, height in heights.items() if ending != "value"]
    kinds = np.maximum(np.sum([height > 0 for height in failures], axis=0), 1)
    for height in failures:
        np.maximum(height, _VISIBLE / kinds, out=height, where=height > 0)
    room = 1 - np.sum(failures, axis=0)
    if "value" in heights:
        np.minimum(heights["value"], np.maximum(room, 0), out=heights["value"])
    boxes, low = {}, np.zeros((lanes.max() + 1, len(edges) - 1))
    for ending, height in heights.items():
        lane, column = np.nonzero(height)
        floor = lane + _HEIGHT / 2
        top, bottom = (
            floor - _HEIGHT * np.minimum(at, 1)[lane, column] for at in (low + height, low)
        )
        boxes[ending] = np.stack([edges[column], edges[column + 1], top, bottom], axis=1)
        low += height
    return {ending: found for ending, found in boxes.items() if len(found)}


def _shares(table: Table, lanes: Integers, edges: Array, ending: str) -> Array:
    """Return the share of each column that calls took, in each lane: (lanes, columns).

    Up to t, calls took Σ max(t - begun, 0) - Σ max(t - ended, 0).
    """
    these = np.flatnonzero(table.ended.are(ending) & ~table.hit & (lanes >= 0))
    these = these[np.argsort(lanes[these], kind="stable")]
    bounds = np.searchsorted(lanes[these], np.arange(lanes.max() + 2))
    ends = np.append(edges[1:-1], np.inf)
    shares = np.zeros((lanes.max() + 1, len(edges) - 1))
    for lane, share in enumerate(shares):
        rows = these[bounds[lane] : bounds[lane + 1]]
        begun = table.begun[rows]
        # So that a call that took no time ran at some time, too.
        ended = np.sort(np.maximum(begun + table.seconds[rows], np.nextafter(begun, np.inf)))
        begun = np.sort(begun)
        took = np.diff(_ramp(edges, begun) - _ramp(edges, ended)) / np.diff(edges)
        # Counted, because a difference of sums may be 1e-17 where it should be 0.
        running = np.searchsorted(begun, ends) > np.searchsorted(ended, edges[:-1], "right")
        share[running] = np.clip(took[running], np.finfo(np.float64).tiny, 1)
    return shares


def _ramp(at: Array, starts: Array) -> Array:
    """Return Σ max(t - start, 0) for each t; the starts are sorted."""
    sums = np.concatenate([[0.0], np.cumsum(starts)])
    before = np.searchsorted(starts, at)
    ramp: Array = before * at - sums[before]
    return ramp


def _labels(names: list[str]) -> list[str]:
    """Return places without what all of them share: `host:7:MainThread` may be `7`."""
    parts = [name.split(":", 2) for name in names]
    if len(names) > 1 and {len(part) for part in parts} == {3}:
        kept = [i for i in range(3) if len({part[i] for part in parts}) > 1]
        names = [":".join(part[i] for i in kept) for part in parts]
    return [n if len(n) <= _LONGEST else f"…{n[1 - _LONGEST :]}" for n in names]
