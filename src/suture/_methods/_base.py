"""What a method of differentiation is: a generator that is fed values, and what it returns.

A method never calls the black box. It yields `Points`, is sent their values, and returns a
`Linearization`. So it can be tested by feeding it numbers, and whoever drives it decides where
and how the points are evaluated.

Shapes: a black box has R rows (the batch, R = 1 without one). Of the inputs that are
differentiated, d stand in each row and p are shared by all rows; n = d + p columns. Each row has
O outputs. Everything is real: a complex number counts as two.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Generator
from typing import Literal, TypeAlias

import numpy as np

from suture._tuning import Tuning
from suture._types import Array, Draw, OnFailure, Round
from suture.directions import AbstractDirections


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """How far each input may move before it meets a bound, in units of x; infinite without one.

    Attributes:
        rows_down: (R, d), at least 0.
        rows_up: (R, d).
        shared_down: (p,).
        shared_up: (p,).
    """

    rows_down: Array
    rows_up: Array
    shared_down: Array
    shared_up: Array

    @property
    def free_rows(self) -> Array:
        """Which inputs may move at all, (R, d): those whose bounds do not meet."""
        free: Array = (self.rows_down > 0) | (self.rows_up > 0)
        return free

    @property
    def free_shared(self) -> Array:
        """The same of shared inputs, (p,)."""
        free: Array = (self.shared_down > 0) | (self.shared_up > 0)
        return free


@dataclasses.dataclass(slots=True)
class Primal:
    """What a method may know of f at x.

    Attributes:
        rows: (R, d) inputs that differ from row to row.
        shared: (p,) inputs that all rows share.
        value: (R, O) f(x), or None where it has not been evaluated.
        outputs: the number O.
        scale_rows: (R, d) typical sizes, in units of x.
        scale_shared: (p,) typical sizes.
        noise: noise of f, relative to its largest output; a method that measures it writes it
            here.
        derivative: 1, or 2 where two linearizations will be subtracted.
        round: rounds inputs to the precision that f receives, and into the bounds; None where
            neither is needed.
        capacity: about how many numbers the points and values of one yield may hold.
        room: how far the inputs may move, None without bounds.
        precision: relative rounding of the numbers that f receives.
        typical: (n,) typical size of each column over all rows and samples; None: of this one.
        size: ‖f(x)‖ of a row, the root mean square over all of them; None: of this one.
        tuning: what was measured before, None if nothing was; a method that measures writes what
            is known from then on here.
        replay: (n,) the arms of the central differences that this node took before, None if it
            took none; a method that chooses arms writes them here.
        on_failure: what to do about points that failed, whose values are NaN: in a row, or in
            all of them.
    """

    rows: Array
    shared: Array
    value: Array | None
    outputs: int
    scale_rows: Array
    scale_shared: Array
    noise: float
    derivative: Literal[1, 2]
    round: Round | None
    capacity: int
    room: Room | None = None
    precision: float = 2.0**-52
    typical: Array | None = None
    size: float | None = None
    tuning: Tuning | None = None
    replay: Array | None = None
    on_failure: OnFailure = "raise"

    @property
    def columns(self) -> int:
        """The number n of columns."""
        return int(self.rows.shape[1]) + len(self.shared)

    def column_scale(self) -> Array:
        """Return the typical size of each column, (n,)."""
        if self.typical is not None:
            return self.typical
        return column_scale(self.scale_rows, self.scale_shared)

    def output_size(self) -> float:
        """Return ‖f(x)‖ of a row."""
        if self.size is None:
            self.size = 0.0 if self.value is None else output_size(self.value)
        return self.size


def column_scale(scale_rows: Array, scale_shared: Array) -> Array:
    """Return the typical size of each column, (n,), from those of its rows."""
    # The typical size in a row is at least that of the column, and no less in the smallest row.
    smallest = scale_rows[0] if len(scale_rows) == 1 else scale_rows.min(axis=0)
    return np.concatenate([smallest, scale_shared]) if scale_shared.size else smallest


def output_size(values: Array) -> float:
    """Return the root mean square over the rows of ‖f(x)‖, for values (…, R, O)."""
    flat = values.reshape(-1)
    rows = max(1, values.size // max(1, values.shape[-1]))
    return math.sqrt(float(flat @ flat) / rows)


@dataclasses.dataclass(slots=True)
class Points:
    """Where to evaluate. None stands for "as in the primal".

    Attributes:
        rows: (P, R, d), float64 or complex128.
        shared: (P, p).
    """

    rows: Array | None
    shared: Array | None

    def __len__(self) -> int:
        """The number P of points."""
        moved = self.rows if self.rows is not None else self.shared
        return 0 if moved is None else len(moved)


Contract: TypeAlias = Callable[[Array], Array]
"""Takes finished slopes (K, R, O) and returns what is kept of them, (K, …)."""

Estimate: TypeAlias = Generator[Points, Array, "Linearization"]
"""Yields points, is sent values (P, R, O), returns the linearization."""

Pushforward: TypeAlias = Generator[Points, Array, Array]
"""Yields points, is sent values (P, R, O), returns output tangents (T, R, O)."""


class NoFiniteValue(Exception):
    """f has no finite value at any point beside x of an input; whoever knows its name says so.

    Attributes:
        column: the number of the input, 0 ≤ column < n, None along a direction.
        row: in which row, R = 1 without a batch.
        reach: how far from x the nearest point was that was tried, in units of x.
    """

    def __init__(self, column: int | None, row: int, reach: float) -> None:
        """Keep where it was."""
        super().__init__(column, row, reach)
        self.column, self.row, self.reach = column, row, reach


@dataclasses.dataclass(slots=True)
class Remarks:
    """What a method did besides the ordinary, counted in inputs (in directions, if random).

    Attributes:
        retried: whose arms had to be longer or shorter.
        central: that were differenced centrally because one side would have been worse than
            asked for.
        one_sided: differenced without some of their points, because these failed: mostly those
            on one side.
        shrunk: whose step was halved on a side, because f failed farther out.
        bounded: whose step was turned or shortened by a bound.
        calibrated: why f was calibrated, empty if it was not.
        is_flat: whether f did not change at all, however far the inputs went.
    """

    retried: int = 0
    central: int = 0
    one_sided: int = 0
    shrunk: int = 0
    bounded: int = 0
    calibrated: str = ""
    is_flat: bool = False

    def __add__(self, other: Remarks) -> Remarks:
        """Return both together."""
        return Remarks(
            self.retried + other.retried,
            self.central + other.central,
            self.one_sided + other.one_sided,
            self.shrunk + other.shrunk,
            self.bounded + other.bounded,
            self.calibrated or other.calibrated,
            self.is_flat or other.is_flat,
        )


@dataclasses.dataclass(slots=True)
class Linearization:
    """What a method knows of f near x: slopes along directions.

    NOTE [slopes never see the cotangent]: a slope depends on x alone. Cotangents only choose how
    much of it is kept: all of it (K, R, O), or its products with C cotangents, (K, C, R). So all
    rows of a Jacobian cost what one gradient costs, and a gradient with many outputs never holds
    the Jacobian.

    Attributes:
        directions: whose seeds they are; they know the way back.
        seeds: (K, n) or (K,), see `AbstractDirections`.
        kept: slopes, or their products with cotangents.
        unit_rows: (R, d) what a seed of 1 displaces, in units of x; None if slopes are per
            unit of x already.
        unit_shared: (p,) likewise.
        error: (K,) estimated error of each slope, the root of the sum of squares over rows and
            outputs, in units of the output: per scale or unit of the input; NaN where it is not
            known, None where the method has no estimate.
        norms: (K,) the size of each slope, likewise.
        relative_sampling: the relative error that random directions add, 0 for coordinates.
        remarks: what the method did besides the ordinary.
        dead: (R,) the rows whose gradient is zero because a point failed, None without any.
    """

    directions: AbstractDirections
    seeds: Array
    kept: Array
    unit_rows: Array | None
    unit_shared: Array | None
    error: Array | None = None
    norms: Array | None = None
    relative_sampling: float = 0.0
    remarks: Remarks = dataclasses.field(default_factory=Remarks)
    dead: Array | None = None

    def gradients(self, d: int) -> tuple[Array, Array]:
        """Return the gradients (C, R, d) and (C, p) of products with C cotangents."""
        columns = self.directions.pullback(self.seeds, self.kept)
        if self.dead is not None:
            columns[:, :, self.dead] = 0.0
        if d == len(columns) and self.unit_rows is None:
            rows = columns.transpose(1, 2, 0)
            return rows, np.zeros((len(rows), 0))
        rows, shared = columns[:d].transpose(1, 2, 0), columns[d:].transpose(1, 2, 0)
        if self.unit_rows is not None and self.unit_shared is not None:
            # Each row saw the shared inputs move by the same amount, so that only the sum over
            # the rows is missing; its own inputs moved by its own unit.
            rows, shared = rows / self.unit_rows, shared / self.unit_shared
        return rows, shared.sum(axis=1)

    def contracted(self, cotangents: Array) -> Linearization:
        """Return the products of the slopes with cotangents (C, R, O)."""
        return dataclasses.replace(self, kept=contract(self.kept, cotangents))

    def pushforward(self, rows: Array, shared: Array) -> Array:
        """Return the output tangents (T, R, O) for tangents (T, R, d) and (T, p).

        It is the transpose of `gradients`, to the last digit of the estimate.
        """
        if self.unit_rows is not None and self.unit_shared is not None:
            rows, shared = rows / self.unit_rows, shared / self.unit_shared
        spread = np.broadcast_to(shared[:, None, :], (*rows.shape[:2], shared.shape[1]))
        tangents = np.moveaxis(np.concatenate([rows, spread], axis=-1), -1, 0)
        along = self.directions.pushforward(self.seeds, tangents)  # (K, T, R)
        pushed: Array = np.einsum("ktr,kro->tro", along, self.kept)
        if self.dead is not None:
            pushed[:, self.dead] = 0.0
        return pushed


def contract(slopes: Array, cotangents: Array) -> Array:
    """Return the products (K, C, R) of slopes (K, R, O) with cotangents (C, R, O)."""
    # A gradient scaler provokes infinite cotangents, and looks for them in the gradients.
    with np.errstate(invalid="ignore", over="ignore"):
        if slopes.shape[1] == 1:
            flat: Array = np.dot(slopes[:, 0], cotangents[:, 0].T)
            return flat[:, :, None]
        product: Array = slopes.transpose(1, 0, 2) @ cotangents.transpose(1, 2, 0)  # (R, K, C)
    return product.transpose(1, 2, 0)


class AbstractMethod(abc.ABC):
    """How a derivative is obtained.

    A method of your own has four members: `linearize`, `push`, `outer_step` and `cost`. The others
    say what it does besides; what they say here is right for every method with real points.
    """

    @abc.abstractmethod
    def linearize(self, primal: Primal, keep: Contract, draw: Draw) -> Estimate:
        """Estimate the slopes of f at a primal, and keep of them what `keep` returns."""

    @abc.abstractmethod
    def push(self, primal: Primal, rows: Array, shared: Array) -> Pushforward:
        """Estimate the output tangents for T tangents (T, R, d) and (T, p)."""

    @abc.abstractmethod
    def outer_step(self, noise: float) -> float:
        """Return the step between two linearizations whose difference is a second derivative."""

    def needs_value(self) -> bool:
        """Whether f(x) itself is a node: then `Primal.value` is there."""
        return True

    def is_complex(self) -> bool:
        """Whether f is evaluated at complex inputs."""
        return False

    def is_absolute(self) -> bool:
        """Whether displacements are in the inputs' own units: then every scale is 1."""
        return False

    def noise_floor(self) -> float:
        """Return the noise that the user states, 0 where nothing is stated."""
        return 0.0

    def answers_failures(self, on_failure: OnFailure) -> bool:
        """Whether it yields another point where one failed: a failed row of values is NaN then.

        A method that does not is never sent NaN.
        """
        return False

    def transposes_by_difference(self) -> bool:
        """Whether a difference along a tangent is the transpose of the pullback.

        If not, a linearization is made again where the transpose is needed.
        """
        return False

    @property
    @abc.abstractmethod
    def cost(self) -> str:
        """Evaluations of one gradient, for a person: `2n`."""
