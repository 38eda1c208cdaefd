"""Drive methods with evaluations: where mathematics and the world meet.

A `Site` is one place at which derivatives are asked for: a frame, S samples (the rows of a vmap),
a method. Its samples advance in lock step, so all their points make one round.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from torch import Tensor

from suture import _claims, _complaints
from suture._inputs import Inputs
from suture._methods import (
    AbstractMethod,
    Contract,
    Linearization,
    NoFiniteValue,
    Points,
    Primal,
    column_scale,
    output_size,
)
from suture._mitigation import Mitigation
from suture._requests import Evaluator
from suture._results import host
from suture._rounds import drive, request
from suture._setting import Kind, Setting
from suture._surroundings import Surroundings
from suture._tuning import Tuning
from suture._types import Array
from suture.errors import MethodError

T = TypeVar("T")

# How many numbers the points and values of one round may hold: 32 MiB of float64.
_ROOM = 2**22


class Site:
    """One place at which derivatives are asked for."""

    def __init__(
        self,
        setting: Setting,
        tensors: Sequence[Tensor],
        lead: int,
        wanted: Sequence[bool],
        *,
        values: Array | None,
        frozen: Site | None = None,
    ) -> None:
        """Bring the arguments of S samples to the host.

        Args:
            setting: what is differentiated, and how.
            tensors: the tensor arguments, each with `lead` leading axes.
            lead: how many axes of vmap they have.
            wanted: by which of them to differentiate.
            values: f(x), (S, R, O), or None where it has not been evaluated.
            frozen: the site whose scales, noise and draws are to be used: this one is displaced
                from it, S a multiple of its samples, and its linearizations will be subtracted.
        """
        setting.frame.check_modes()
        self.setting, self.frame, self.method = setting, setting.frame, setting.method
        self.tensors, self.lead, self.wanted = tensors, lead, tuple(wanted)
        self.inputs = Inputs(self.frame, tensors, lead, self.wanted)
        self.evaluator = Evaluator(
            self.inputs, "gradient" if frozen is None else "second derivative"
        )
        self.samples = self.inputs.samples
        self.values = values
        self.integers: dict[int, Array] = self.frame.integers
        self.frozen = frozen
        self.tuning: Tuning | None = None
        self.replay: tuple[Array | None, ...] | None = None
        self.surroundings = Surroundings(self.inputs)
        if frozen is None:
            self.stated = self._stated()
            self.noise = max(self.stated, setting.noise(self.wanted))
            self.scale_rows, self.scale_shared = self.surroundings.scales(self.method.is_absolute())
        else:
            self.stated = self.noise = frozen.noise
            self.scale_rows, self.scale_shared = frozen.scale_rows, frozen.scale_shared

    @property
    def columns(self) -> int:
        """The number n of columns that are differentiated."""
        return self.inputs.layout.row_width + self.inputs.layout.shared_width

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to differentiate."""
        outputs = self.inputs.layout.rows * self.frame.form.width
        return self.samples * self.columns * outputs == 0

    def evaluate(self) -> None:
        """Evaluate f(x) of every sample."""
        self.values, self.integers = self.evaluator.forward()

    def restricted(self, method: AbstractMethod, wanted: Sequence[bool]) -> Site:
        """Return the same place with another method and other leaves to differentiate by."""
        frozen = None if self.frozen is None else self.frozen.restricted(method, wanted)
        call = dataclasses.replace(self.setting, method=method)
        return Site(call, self.tensors, self.lead, wanted, values=self.values, frozen=frozen)

    def linearize(self, keep: Sequence[Contract]) -> list[Linearization]:
        """Return the linearization of every sample, keeping of its slopes what `keep` returns."""
        self._refuse_complex()
        self._recall("gradient")
        primals = self._primals()
        before, start = self.evaluator.pipeline.attempts.tally.copy(), time.perf_counter()
        estimates = [
            self.method.linearize(primal, keep[s], self._draw(s))
            for s, primal in enumerate(primals)
        ]
        found, dead = self._drive(primals, estimates)
        for linearization, rows in zip(found, dead, strict=True):
            linearization.dead = rows if rows.any() else None
        if self.frozen is None:
            self._learn("gradient", primals)
            self.setting.memory.note(
                found,
                self.evaluator.pipeline.attempts.tally.minus(before),
                time.perf_counter() - start,
                self.inputs.projected,
            )
            if any(f.remarks.is_flat for f in found if f.dead is None):
                warnings.warn(_complaints.flat(self.frame), stacklevel=2)
        return found

    def push(self, rows: Array, shared: Array) -> Array:
        """Return the output tangents (S, T, R, O) for tangents (S, T, R, d) and (S, T, p)."""
        self._refuse_complex()
        self._recall("tangents")
        primals = self._primals()
        estimates = [self.method.push(p, rows[s], shared[s]) for s, p in enumerate(primals)]
        pushed, dead = self._drive(primals, estimates)
        for tangents, lost in zip(pushed, dead, strict=True):
            tangents[:, lost] = 0.0
        if self.frozen is None:
            self._learn("tangents", primals)
        return np.stack(pushed)

    def _recall(self, kind: Kind) -> None:
        if self.frozen is None:
            self.tuning, self.replay = self.setting.recall(kind, self.wanted, self.samples)

    def _learn(self, kind: Kind, primals: Sequence[Primal]) -> None:
        tunings = [primal.tuning for primal in primals if primal.tuning is not None]
        arms = tuple(primal.replay for primal in primals)
        self.setting.learn(kind, self.wanted, self.tuning, tunings, arms)

    def _drive(
        self, primals: list[Primal], estimates: list[Generator[Points, Array, T]]
    ) -> tuple[list[T], list[Array]]:
        """Drive estimates; return what they returned, and the rows (R,) of each that are dead."""
        pipeline, forgiving = self.evaluator.pipeline, None
        mitigation = Mitigation(self.frame, self.method, primals)
        if self.frozen is None:
            estimates = [self._checked(primals[0], estimates[0]), *estimates[1:]]
            estimates = mitigation.applied(primals, estimates)
            forgiving = mitigation.forgiving

        def evaluate(asked: list[int], points: list[Points]) -> list[Array]:
            requests = [request(i, primals[i], p) for i, p in zip(asked, points, strict=True)]
            return self.evaluator.evaluate(requests, forgiving or "nothing")

        try:
            found = drive(estimates, evaluate)
        except NoFiniteValue as lost:
            place, cause = self._place(lost), pipeline.attempts.failure
            raise _complaints.both_sides(self.frame, place, lost.row, cause) from cause
        finally:
            pipeline.attempts.progress.close()
        if self.frozen is None:
            mitigation.conclude(pipeline, primals)
        return found, mitigation.dead

    def _place(self, lost: NoFiniteValue) -> str:
        if lost.column is None:
            return "a displacement along a tangent"
        layout = self.inputs.layout
        column = np.zeros(self.columns)
        column[lost.column] = lost.reach
        rows = np.zeros((layout.rows, layout.row_width))
        rows[lost.row] = column[: layout.row_width]
        return self.inputs.described(rows, column[layout.row_width :])

    def _stated(self) -> float:
        """Return the noise that needs no measurement."""
        return max(self.frame.call.noise, self.frame.form.precision, self.method.noise_floor())

    def _checked(
        self, primal: Primal, estimate: Generator[Points, Array, T]
    ) -> Generator[Points, Array, T]:
        """Let the first round of an estimate carry the checks that have not been made."""
        name = self.frame.box.name
        batched = [leaf.batch_dim is not None for leaf in self.frame.call.leaves]
        facts = self._unchecked("rows", batched) if self._has_company else frozenset()
        if facts:
            # Cut into chunks, one row may have been without its neighbors.
            box = self.frame.box
            whole = box.chunk_size is None and box.service.pool is None
            lasts = self.inputs.layout.rows > 1 or whole
            established = facts if lasts else frozenset()
            check = _claims.check_rows(primal, name)
            estimate = _claims.accompanied(estimate, check, self._establishing(established))
        analytic = self._unchecked("complex", [self.method.is_complex()] * len(self.wanted))
        if analytic:
            honest = _claims.check_complex(primal, name, self._draw(0))
            estimate = _claims.preceded(estimate, honest, self._establishing(analytic))
        return estimate

    def _establishing(self, facts: frozenset[Any]) -> Callable[[], None]:
        return functools.partial(self._establish, facts)

    def _establish(self, facts: frozenset[Any]) -> None:
        """Note that claims hold, in the memo too: a resumed run asks what the first one asked."""
        self.frame.counter.checked.update(facts)
        lookup = self.evaluator.pipeline.attempts.lookup
        if lookup is not None:
            lookup.establish(facts)

    def _primals(self) -> list[Primal]:
        around = self.surroundings
        needed = self.method.needs_value() or self.frozen is None or around.is_bounded
        if self.values is None and needed:
            self.evaluate()
        derivative: Literal[1, 2] = 1 if self.frozen is None else 2
        period = len(self.scale_rows)
        typical, size = self._typical()
        return [
            Primal(
                rows=self.inputs.rows[s],
                shared=self.inputs.shared[s],
                value=None if self.values is None else self.values[s],
                outputs=self.frame.form.width,
                scale_rows=self.scale_rows[s % period],
                scale_shared=self.scale_shared[s % period],
                noise=self.stated,
                derivative=derivative,
                round=around.round(s),
                capacity=max(1, _ROOM // self.samples),
                room=around.room(s),
                precision=self.frame.call.noise,
                typical=typical,
                size=size,
                tuning=self.tuning,
                replay=None if self.replay is None else self.replay[s],
                on_failure=self.frame.box.service.on_failure,
            )
            for s in range(self.samples)
        ]

    def _typical(self) -> tuple[Array | None, float | None]:
        """Return the typical size of inputs and output over all samples; one knows its own."""
        if self.samples == 1 or self.frozen is not None or self.values is None:
            return None, None
        scales = [
            column_scale(r, s) for r, s in zip(self.scale_rows, self.scale_shared, strict=True)
        ]
        return np.sqrt(np.mean(np.square(scales), axis=0)), output_size(self.values)

    def _draw(self, sample: int) -> Callable[[], np.random.Generator]:
        """Return what makes the generator of a sample: a function of its inputs and the seed.

        So backward run again, a checkpoint's recomputation and a resumed run draw the same.
        """
        if self.frozen is not None:
            return self.frozen._draw(sample % self.frozen.samples)

        def draw() -> np.random.Generator:
            digest = hashlib.blake2b(repr(self.setting.seed).encode(), digest_size=16)
            digest.update(self.inputs.rows[sample].tobytes())
            digest.update(self.inputs.shared[sample].tobytes())
            for constant in self.inputs.constants:
                if constant is not None:
                    digest.update(host(constant[sample]).tobytes())
            return np.random.default_rng(int.from_bytes(digest.digest(), "little"))

        return draw

    @property
    def _has_company(self) -> bool:
        """Whether rows share a call with displaced rows: one row alone shows nothing.

        With a memo it is always alone: f(x) is known there, and nothing would be checked.
        """
        box = self.frame.box
        if not (self.inputs.layout.batched and self.inputs.layout.row_width):
            return False
        concatenated = not box.vectorized and box.chunk_size != 1 and box.service.memo is None
        return self.inputs.layout.rows > 1 or concatenated

    def _unchecked(self, claim: str, concerned: Sequence[bool]) -> frozenset[Any]:
        """Return what a check would establish: (claim, form, leaf) for each displaced leaf.

        Empty if all of it has been established.
        """
        # One row alone and many rows may go through different code.
        many = self.inputs.layout.rows > 1
        form = (
            many,
            *((leaf.row_shape, leaf.dtype, leaf.batch_dim) for leaf in self.frame.call.leaves),
        )
        leaves = [i for i, want in enumerate(self.wanted) if want and concerned[i]]
        facts = frozenset((claim, form, i) for i in leaves)
        checked = self.frame.counter.checked
        if facts <= checked:
            return frozenset()
        lookup = self.evaluator.pipeline.attempts.lookup
        if lookup is None or not lookup.has_established(facts):
            return facts
        checked.update(facts)
        return frozenset()

    def _refuse_complex(self) -> None:
        leaves = [
            leaf for leaf, want in zip(self.frame.call.leaves, self.wanted, strict=True) if want
        ]
        if self.method.is_absolute() and any(leaf.dtype.is_complex for leaf in leaves):
            raise MethodError(
                f"`{self.frame.box.name}` was to be differentiated by a complex input with a "
                "shift.",
                "A shift is exact for angles, and an angle is a real number.",
                "Pass the angles as real tensors, or use `FiniteDifference(stencils.CENTRAL)`.",
            )
        if not self.method.is_complex():
            return
        outputs = self.frame.form.outputs
        if any(leaf.dtype.is_complex for leaf in leaves) or any(
            o.kind == "complex" for o in outputs
        ):
            raise MethodError(
                f"The complex step cannot differentiate `{self.frame.box.name}`: it already works "
                "with complex numbers.",
                "The derivative is read from the imaginary part of a result that is otherwise "
                "real.",
                "Use `FiniteDifference(stencils.CENTRAL)`, or return the real and the imaginary "
                "part as two real outputs.",
            )
