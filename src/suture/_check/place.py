"""The black box at x, with flat inputs and flat outputs: where every experiment evaluates.

An experiment never sees an exception of the black box: a point that failed is a row of NaN, and
the failure is kept with its place.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import itertools
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from suture import _tree
from suture._check.findings import Failure, Trial
from suture._drive import Site
from suture._frame import BlackBox, Frame, can_be_stacked
from suture._holdings import survey
from suture._inputs import Inputs
from suture._memory import Memory
from suture._methods import AbstractMethod, FiniteDifference
from suture._module import Differentiable
from suture._requests import Evaluator, Request
from suture._service import Service
from suture._setting import Setting
from suture._tally import Counter
from suture._types import Array, Interface
from suture.errors import SutureError

# How many outputs are looked at one by one: with 64 inputs at 32 steps, 16 MiB of values.
OUTPUTS = 1024


class Place:
    """A black box at x: n flat inputs (a complex number is two), m flat outputs.

    Attributes:
        frame: the call, without a batch.
        site: where methods and rules are asked.
        x: (n,) the inputs, in their own units.
        y: (m,) f(x).
        scale: (n,) what the library takes for the typical sizes of the inputs.
        unit: (n,) |x_j|, or the scale where x_j is zero: what the steps of a sweep are
            multiples of.
        room: (n,) how far an input may go both up and down.
        chosen: which outputs the experiments keep, all of them up to `OUTPUTS`.
        failures: what failed, with the place.
        tried: how methods did, see `compare.trial_of`.
        seconds: of each evaluation.
        toward: 1, or -1 where points above x fail: the sign of one-sided displacements.
        change: the largest change of any output in the last evaluations of `at`.
    """

    def __init__(self, box: BlackBox, f: Differentiable, args: tuple[Any, ...], kwargs: Any):
        """Evaluate f(x).

        Raises:
            SutureError: if that is not possible.
        """
        self.seconds: list[float] = []
        self.counter = Counter()
        self.failures: list[Failure] = []
        self.tried: dict[AbstractMethod, Trial] = {}
        self.change = 0.0
        self.toward = 1.0
        # In this process and one after another: what it finds is of the function alone.
        self.box = dataclasses.replace(
            box, fn=_timed(box.fn, self.seconds), service=Service(progress=False)
        )
        # Without a batch, every number is a column of its own.
        self.caller = copy.copy(f._caller)
        self.caller.batch_dims, self.caller._forms = None, {}
        self.args, self.kwargs = args, kwargs
        self.modules = survey(box.fn, box.name)
        self.frame, self.tensors = self.caller.frame(
            self.box, self.counter, self.modules, args, kwargs
        )
        self.wanted = tuple(
            leaf.dtype.is_floating_point or leaf.dtype.is_complex for leaf in self.frame.call.leaves
        )
        self.inputs = Inputs(self.frame, self.tensors, 0, self.wanted)
        self.evaluator = Evaluator(self.inputs, "check")
        with quiet():
            values, self.frame.integers = self.evaluator.forward()
        self.seed = f._seed
        self.site = self.site_of(FiniteDifference(), values)
        self.x: Array = self.inputs.rows[0, 0]
        self.y: Array = values[0, 0]
        self.scale: Array = self.site.scale_rows[0, 0]
        self.unit = self._unit()
        self.chosen = spread(self.m, OUTPUTS)
        room = self.site.surroundings.room(0)
        self.room = np.full(self.n, np.inf)
        if room is not None:
            self.room = np.minimum(room.rows_down, room.rows_up)[0]

    def site_of(
        self, method: AbstractMethod, values: Array | None = None, memory: Memory | None = None
    ) -> Site:
        """Return the place where a method is asked; its evaluations count here.

        Args:
            method: which.
            values: f(x), if it is not known to the place yet.
            memory: what the method has learned before, None for nothing.
        """
        values = self.site.values if values is None else values
        setting = Setting(self.frame, method, self.seed, memory or Memory(), {})
        return Site(setting, self.tensors, 0, self.wanted, values=values)

    @property
    def n(self) -> int:
        """The number of flat inputs."""
        return len(self.x)

    @property
    def m(self) -> int:
        """The number of flat outputs that have derivatives."""
        return len(self.y)

    @property
    def evaluations(self) -> int:
        """How many points have been evaluated so far."""
        return self.counter.evaluations

    def _unit(self) -> Array:
        """Return |x_j|, and the scale for zeros, for parts of complex numbers, and if given."""
        size = np.abs(self.x)
        fixed = size == 0
        scales = itertools.compress(self.frame.call.scales, self.wanted)
        for segment, scale in zip(self.inputs.layout.segments, scales, strict=True):
            if scale is not None or segment.leaf.dtype.is_complex:
                fixed[segment.start : segment.stop] = True
        unit: Array = np.where(fixed, self.scale, size)
        return unit

    def inside(self, points: Array) -> Array:
        """Return points (…, n) rounded as the black box receives them, and within the bounds."""
        bring = self.site.surroundings.round(0, strict=False)
        if bring is None:
            return points
        rows, _ = bring(points[..., None, :].copy(), None)
        assert rows is not None  # as there were points
        return rows[..., 0, :]

    def whole(self, points: Array) -> Array:
        """Return all outputs (P, m) at points (P, n) that are `inside`; NaN where f failed."""
        if self.box.vectorized and len(points):
            with quiet(), contextlib.suppress(SutureError, SystemExit):
                return self.evaluator.evaluate([request(points)])[0][:, 0]
        return self.each(points)

    def each(self, points: Array) -> Array:
        """Return the same from a call for each point."""
        values = np.full((len(points), self.m), np.nan)
        with quiet():
            for p, point in enumerate(points):
                self._one(point, values[p])
        return values

    def at(self, points: Array) -> Array:
        """Return the chosen outputs (P, len(chosen)) at points (P, n); sets `change`."""
        self.change = 0.0
        size = len(points) if self.m <= OUTPUTS else 1
        values = np.full((len(points), len(self.chosen)), np.nan)
        for start in range(0, len(points), size or 1):
            all_outputs = self.whole(points[start : start + size])
            values[start : start + size] = all_outputs[:, self.chosen]
            change = np.nan_to_num(np.abs(all_outputs - self.y)).max(initial=0.0)
            self.change = max(self.change, float(change))
        return values

    def _one(self, point: Array, value: Array) -> None:
        try:
            value[:] = self.evaluator.evaluate([request(point[None])])[0][0, 0]
        except (SutureError, SystemExit) as error:
            text = (str(error) or type(error).__name__).splitlines()[0]
            distance = float(np.abs((point - self.x) / self.scale).max(initial=0.0))
            self.failures.append(Failure(self.described(point), text, distance))

    def described(self, point: Array) -> str:
        """Say where a point is: `x[5] + 2.1e-06`."""
        moved = np.flatnonzero(point != self.x)
        if not len(moved):
            return "x itself"
        if len(moved) > 1:
            return "several inputs displaced"
        move = point[moved[0]] - self.x[moved[0]]
        return f"{self.name(int(moved[0]))} {'+' if move > 0 else '-'} {abs(move):.2g}"

    @functools.cached_property
    def leaf_names(self) -> list[str]:
        """What each displaced leaf is called."""
        return list(itertools.compress(self.frame.names(), self.wanted))

    def name(self, column: int) -> str:
        """Return what an input is called: `w[3]`, `z[0].imag`."""
        for segment, name in zip(self.inputs.layout.segments, self.leaf_names, strict=True):
            if segment.start <= column < segment.stop:
                return name + _index(
                    column - segment.start, segment.leaf.shape, segment.leaf.dtype.is_complex
                )
        raise IndexError(column)

    def output_name(self, o: int) -> str:
        """Return what an output is called: `result[2]`, `result['loss']`."""
        for output, path in zip(self.frame.form.outputs, self.output_paths, strict=True):
            if output.start <= o < output.stop:
                return path + _index(o - output.start, output.shape, output.kind == "complex")
        raise IndexError(o)

    @functools.cached_property
    def output_paths(self) -> list[str]:
        """What each leaf of the result is called."""
        structure = self.frame.form.structure
        tree = _tree.unflatten([0] * len(self.frame.form.outputs), structure)
        return [f"result{path}" for path in _tree.paths(tree)]

    def generator(self) -> np.random.Generator:
        """Return the generator of this place: a function of x, as everywhere in the library."""
        return self.site._draw(0)()


def request(points: Array) -> Request:
    """Ask for points (P, n)."""
    return Request(0, points[:, None, :].copy(), np.empty((len(points), 0)), True)


def _index(flat: int, shape: Sequence[int], is_complex: bool) -> str:
    part = ""
    if is_complex:
        flat, imaginary = divmod(flat, 2)
        part = ".imag" if imaginary else ".real"
    if not shape:
        return part
    return f"[{', '.join(str(int(i)) for i in np.unravel_index(flat, shape))}]{part}"


def spread(count: int, most: int) -> Array:
    """Return `most` of `count` positions, evenly spread, the first and the last among them."""
    if count <= most:
        return np.arange(count)
    return np.unique(np.round(np.linspace(0, count - 1, most)).astype(int))


def _timed(fn: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    @functools.wraps(fn, updated=())
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return fn(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - start)

    timed.__suture_stacks__ = can_be_stacked(fn)  # type: ignore[attr-defined]
    return timed


def quiet() -> warnings.catch_warnings[None]:
    """Keep the warnings of points that are far away off the screen."""
    return warnings.catch_warnings(action="ignore")


def places(f: Differentiable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Place, str]:
    """Return the place of a call, and what had to be changed to make it.

    A function that fails on float64 tensors is tried in the caller's precision and with arrays:
    the two usual reasons.

    Raises:
        SutureError: the first complaint, if nothing helps.
    """
    first: SutureError | None = None
    boxes: list[tuple[BlackBox, str]] = [(f._box, "")]
    if f._box.dtype is not None:
        boxes.append((dataclasses.replace(f._box, dtype=None), "dtype=None"))
    if f._box.interface == "torch":
        numpy: Interface = "numpy"
        boxes.append((dataclasses.replace(f._box, interface=numpy), 'interface="numpy"'))
    for box, change in boxes:
        try:
            return Place(box, f, args, kwargs), change
        except SutureError as error:
            first = first or error
    assert first is not None
    raise first


def frame_with(place: Place, box: BlackBox, batch_dims: Any) -> Frame:
    """Return the frame of the same call in another form: with a batch, or for stacked points."""
    caller = copy.copy(place.caller)
    caller.batch_dims, caller._forms = batch_dims, {}
    frame, _ = caller.frame(box, place.counter, place.modules, place.args, place.kwargs)
    return frame
