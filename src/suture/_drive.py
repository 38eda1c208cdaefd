"""Drive methods with evaluations: where mathematics and the world meet.

A `Site` is one place at which derivatives are asked for: a frame, S samples (the rows of a vmap),
a method. Its samples advance in lock step, so all their points make one round.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from torch import Tensor

from suture import _claims, _steps
from suture._evaluate import Evaluator, Request
from suture._frame import Frame
from suture._inputs import Inputs
from suture._methods import AbstractMethod, Contract, Linearization, Points, Primal
from suture._results import host
from suture._types import Array
from suture.errors import MethodError

T = TypeVar("T")

# How many numbers the points and values of one round may hold: 32 MiB of float64.
_ROOM = 2**22


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


class Site:
    """One place at which derivatives are asked for."""

    def __init__(
        self,
        frame: Frame,
        method: AbstractMethod,
        seed: int | None,
        tensors: Sequence[Tensor],
        lead: int,
        wanted: Sequence[bool],
        *,
        values: Array | None,
        frozen: Site | None = None,
    ) -> None:
        """Bring the arguments of S samples to the host.

        Args:
            frame: the call.
            method: how to differentiate.
            seed: the user's seed.
            tensors: the tensor arguments, each with `lead` leading axes.
            lead: how many axes of vmap they have.
            wanted: by which of them to differentiate.
            values: f(x), (S, R, O), or None where it has not been evaluated.
            frozen: the site whose scales and draws are to be used: this one is displaced from
                it, S a multiple of its samples, and its linearizations will be subtracted.
        """
        frame.check_modes()
        self.frame, self.method, self.seed = frame, method, seed
        self.tensors, self.lead, self.wanted = tensors, lead, tuple(wanted)
        self.inputs = Inputs(frame, tensors, lead, self.wanted)
        self.evaluator = Evaluator(self.inputs)
        self.samples = self.inputs.samples
        self.values = values
        self.integers: dict[int, Array] = frame.integers
        self.frozen = frozen
        self.noise = max(frame.call.noise, frame.form.precision, method.noise_floor())
        scales = self._scales() if frozen is None else (frozen.scale_rows, frozen.scale_shared)
        self.scale_rows: Array = scales[0]
        self.scale_shared: Array = scales[1]

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
        return Site(
            self.frame,
            method,
            self.seed,
            self.tensors,
            self.lead,
            wanted,
            values=self.values,
            frozen=frozen,
        )

    def linearize(self, keep: Sequence[Contract]) -> list[Linearization]:
        """Return the linearization of every sample, keeping of its slopes what `keep` returns."""
        self._refuse_complex()
        primals = self._primals()
        estimates = [
            self.method.linearize(primal, keep[s], self._draw(s))
            for s, primal in enumerate(primals)
        ]
        return self._drive(primals, estimates)

    def push(self, rows: Array, shared: Array) -> Array:
        """Return the output tangents (S, T, R, O) for tangents (S, T, R, d) and (S, T, p)."""
        self._refuse_complex()
        primals = self._primals()
        estimates = [self.method.push(p, rows[s], shared[s]) for s, p in enumerate(primals)]
        pushed: list[Array] = self._drive(primals, estimates)
        return np.stack(pushed)

    def _drive(
        self, primals: list[Primal], estimates: list[Generator[Points, Array, T]]
    ) -> list[T]:
        if self.frozen is None:
            estimates = [self._checked(primals[0], estimates[0]), *estimates[1:]]

        def evaluate(asked: list[int], points: list[Points]) -> list[Array]:
            requests = [_request(i, primals[i], p) for i, p in zip(asked, points, strict=True)]
            return self.evaluator.evaluate(requests)

        return drive(estimates, evaluate)

    def _checked(
        self, primal: Primal, estimate: Generator[Points, Array, T]
    ) -> Generator[Points, Array, T]:
        """Let the first round of an estimate carry the checks that have not been made."""
        name = self.frame.box.name
        batched = [leaf.batch_dim is not None for leaf in self.frame.call.leaves]
        facts = self._unchecked("rows", batched) if self._has_company else frozenset()
        if facts:
            # Cut into chunks, one row may have been without its neighbors.
            lasts = self.inputs.layout.rows > 1 or self.frame.box.chunk_size is None
            established = facts if lasts else frozenset()
            check = _claims.check_rows(primal, name)
            estimate = _claims.accompanied(estimate, check, self._establishing(established))
        analytic = self._unchecked("complex", [self.method.is_complex()] * len(self.wanted))
        if analytic:
            honest = _claims.check_complex(primal, name, self._draw(0))
            estimate = _claims.preceded(estimate, honest, self._establishing(analytic))
        return estimate

    def _establishing(self, facts: frozenset[Any]) -> Callable[[], None]:
        return functools.partial(self.frame.counter.checked.update, facts)

    def _primals(self) -> list[Primal]:
        if self.values is None and (self.method.needs_value() or self.frozen is None):
            self.evaluate()
        layout = self.inputs.layout
        derivative: Literal[1, 2] = 1 if self.frozen is None else 2
        period = len(self.scale_rows)
        return [
            Primal(
                rows=self.inputs.rows[s],
                shared=self.inputs.shared[s],
                value=None if self.values is None else self.values[s],
                outputs=self.frame.form.width,
                scale_rows=self.scale_rows[s % period],
                scale_shared=self.scale_shared[s % period],
                noise=self.noise,
                derivative=derivative,
                round=None if layout.exact else layout.round,
                capacity=max(1, _ROOM // self.samples),
            )
            for s in range(self.samples)
        ]

    def _scales(self) -> tuple[Array, Array]:
        """Return the scale of each column: the user's, or the typical size of its input.

        It is 1 where the method displaces by amounts of its own.
        """
        scales = []
        displaced = iter(self.inputs.arrays)
        for leaf, scale, want in zip(
            self.frame.call.leaves, self.frame.call.scales, self.wanted, strict=True
        ):
            if not want:
                continue
            array = next(displaced)
            if self.method.is_absolute():
                sizes = np.ones(array.shape)
            elif scale is not None:
                sizes = np.broadcast_to(scale, array.shape)
            elif leaf.batch_dim is not None:
                sizes = _steps.typical_size(array, (1 + leaf.batch_dim,))
            else:
                sizes = _steps.typical_size(array, tuple(range(1, array.ndim)))
            # A complex element is two columns, of the same scale.
            scales.append(sizes * (1 + 1j) if leaf.dtype.is_complex else sizes)
        return self.inputs.layout.gather(scales, (self.samples,))

    def _draw(self, sample: int) -> Callable[[], np.random.Generator]:
        """Return what makes the generator of a sample: a function of its inputs and the seed.

        So backward run again, a checkpoint's recomputation and a resumed run draw the same.
        """
        if self.frozen is not None:
            return self.frozen._draw(sample % self.frozen.samples)

        def draw() -> np.random.Generator:
            digest = hashlib.blake2b(repr(self.seed).encode(), digest_size=16)
            digest.update(self.inputs.rows[sample].tobytes())
            digest.update(self.inputs.shared[sample].tobytes())
            for constant in self.inputs.constants:
                if constant is not None:
                    digest.update(host(constant[sample]).tobytes())
            return np.random.default_rng(int.from_bytes(digest.digest(), "little"))

        return draw

    @property
    def _has_company(self) -> bool:
        """Whether rows share a call with displaced rows: one row alone shows nothing."""
        box = self.frame.box
        if not (self.inputs.layout.batched and self.inputs.layout.row_width):
            return False
        concatenated = not box.vectorized and box.chunk_size != 1
        return self.inputs.layout.rows > 1 or concatenated

    def _unchecked(self, claim: str, concerned: Sequence[bool]) -> frozenset[Any]:
        """Return what a check would establish: (claim, form, leaf) for each displaced leaf.

        Empty if all of it has been established.
        """
        # One row alone and many rows may go through different code.
        many = self.inputs.layout.rows > 1
        form = (many, *((leaf.row_shape, leaf.dtype) for leaf in self.frame.call.leaves))
        leaves = [i for i, want in enumerate(self.wanted) if want and concerned[i]]
        facts = frozenset((claim, form, i) for i in leaves)
        return frozenset() if facts <= self.frame.counter.checked else facts

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


def _request(sample: int, primal: Primal, points: Points) -> Request:
    """Fill in what a point leaves as it is: a private copy for each point."""
    rows, shared = points.rows, points.shared
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
