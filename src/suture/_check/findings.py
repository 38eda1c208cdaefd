"""What single experiments find."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from suture._types import Array

_VERB = "suture.differentiable"


def counted(number: int, noun: str) -> str:
    """Return `1 color`, `2 colors`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


BreakKind: TypeAlias = Literal["kink", "jump", "vertical tangent"]

PrecisionKind: TypeAlias = Literal[
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "digits",
    "quantized",
    "piecewise constant",
    "constant",
    "random",
    "noisy",
    "integer",
    "unknown",
]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A point at which the black box failed.

    Attributes:
        place: `x[5] + 2.1e-06`.
        message: what it raised or returned.
        distance: the largest displacement of an input there, relative to its scale.
    """

    place: str
    message: str
    distance: float


@dataclasses.dataclass(frozen=True)
class Break:
    """A place where the black box has no derivative.

    Attributes:
        kind: what is there.
        input: the name of the input along which it was met.
        output: the name of the output that shows it most.
        distance: how far from x, signed, in units of the input; 0 at x itself.
        size: of the jump, in units of the output; of a kink, the change of the slope.
    """

    kind: BreakKind
    input: str
    output: str
    distance: float
    size: float


@dataclasses.dataclass(frozen=True)
class Rows:
    """Whether the rows of a batch are independent.

    Attributes:
        independent: None where that cannot be told.
        batch_dims: what may be claimed, as it is typed; None if nothing may.
        reason: what couples them.
        columns: inputs of a row and shared ones, which a gradient then displaces; 0 without
            `batch_dims`.
    """

    independent: bool | None
    batch_dims: str | None
    reason: str
    columns: int = 0


@dataclasses.dataclass(frozen=True)
class Curve:
    """The error of a difference of one input, by its step.

    Attributes:
        name: of the input.
        column: its position among the flat inputs.
        steps: (S,) in units of the input.
        errors: (S,) relative to the best estimate of the slope; NaN where f was not evaluated.
        slope: (K,) the best estimate.
        chosen: the best step, in units of the input.
        error: what is left there: the larger of the error that shows and the noise floor.
        order: 2 for two-sided differences, 1 where one side is missing.
        truncation: T of the error T·h^order, 0 where no truncation shows.
        floor: N of the noise floor N/h.
    """

    name: str
    column: int
    steps: Array
    errors: Array
    slope: Array
    chosen: float
    error: float
    order: int
    truncation: float
    floor: float


@dataclasses.dataclass(frozen=True)
class Trial:
    """What a method did at x, along the inputs that have a curve.

    Of the default method it is the second gradient: the first one calibrates.

    Attributes:
        errors: (C,) relative errors of its slopes; empty where it failed or was not tried.
        steps: (C,) how far it displaced them, in units of the inputs; empty where it has no step
            before it looks.
        failure: why it failed, empty if it did not.
    """

    errors: tuple[float, ...] = ()
    steps: tuple[float, ...] = ()
    failure: str = ""

    @property
    def error(self) -> float:
        """The largest error, NaN if unknown."""
        return max(self.errors, default=float("nan"))


@dataclasses.dataclass(frozen=True)
class WrongEntry:
    """An entry of Jᵀc that a rule has wrong.

    Attributes:
        input: the name of the input.
        given: what the rule says.
        expected: what differences say.
        ratio: given over expected, NaN where it is not the same for two cotangents.
    """

    input: str
    given: float
    expected: float
    ratio: float


@dataclasses.dataclass(frozen=True)
class Precision:
    """What the numbers of an output are, or of all outputs alike in one leaf of the result.

    Attributes:
        kind: "noisy" is noise that repeats and is no known format.
        noise: the (largest) standard deviation, in units of the output.
        digits: how many significant digits are printed, 0 where that is not what it is.
        quantum: the smallest difference between two values, 0 for formats.
        name: of the leaf, `result['loss']`.
        count: how many of its numbers this is said of.
    """

    kind: PrecisionKind
    noise: float = 0.0
    digits: int = 0
    quantum: float = 0.0
    name: str = ""
    count: int = 1

    @property
    def is_flat(self) -> bool:
        """Whether no difference is of use."""
        return self.kind in ("piecewise constant", "constant", "unknown")

    def __str__(self) -> str:
        """Return it in words: `6 printed digits`."""
        return {
            "float32": "float32 inside",
            "float16": "float16 inside",
            "bfloat16": "bfloat16 inside",
            "digits": f"{self.digits} printed digits (1 in the last is {self.quantum:.0e})",
            "quantized": f"quantized, in steps of {self.quantum:.3g}",
            "constant": "constant: no input changed it",
            "random": f"random, standard deviation {self.noise:.2g}",
            "noisy": f"noisy but repeatable, standard deviation {self.noise:.2g}",
            "integer": "integer: has no derivative",
            "unknown": "unknown: too many points failed",
        }.get(self.kind, self.kind)


@dataclasses.dataclass(frozen=True)
class Advice:
    """What to write.

    Attributes:
        parts: the arguments of `differentiable`.
        trial: how it did at x.
        cost: what a gradient costs.
        reasons: why it is not the shortest call.
    """

    parts: tuple[str, ...]
    trial: Trial
    cost: str
    reasons: tuple[str, ...] = ()

    @property
    def error(self) -> float:
        """The largest relative error of a slope that it has at x, NaN if unknown."""
        return self.trial.error

    @property
    def code(self) -> str:
        """Return the call on one line."""
        return f"{_VERB}({', '.join(self.parts)})"

    def lines(self, width: int) -> list[str]:
        """Return the call on lines of at most `width` columns, where that is possible."""
        if len(self.code) <= width:
            return [self.code]
        lines = [f"{_VERB}("]
        for part in self.parts:
            head, opened, inner = part.partition("(")
            if len(part) + 5 <= width or not opened:
                lines.append(f"    {part},")
            else:
                lines += [f"    {head}(", f"        {inner[:-1]}", "    ),"]
        return [*lines, ")"]
