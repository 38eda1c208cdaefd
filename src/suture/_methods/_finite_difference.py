"""Finite differences along any directions with any stencil: one formula."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator

import numpy as np

from suture import _steps
from suture._methods._along import tangent_slopes
from suture._methods._answers import is_movable
from suture._methods._base import (
    AbstractMethod,
    Contract,
    Estimate,
    Linearization,
    Points,
    Primal,
    Pushforward,
    Remarks,
)
from suture._methods._by_stencil import by_column, by_direction
from suture._methods._calibrate import calibrate, noise_only, replay
from suture._methods._checks import check_directions
from suture._methods._displace import directions_per_block
from suture._methods._measure import Noise
from suture._methods._steady import Steady, scaled_as
from suture._stencil import Stencil, central, richardson, shift
from suture._tuning import Tuning
from suture._types import Array, Draw, OnFailure
from suture.directions import AbstractDirections, AbstractRandomDirections, Coordinate
from suture.errors import MethodError, TransformError, shown
from suture.stencils import CENTRAL, FORWARD

# With more inputs than this no curvature is measured: the second evaluation of each input, once,
# would cost more than it brings to all but a long training.
_LAZY = 1000


@dataclasses.dataclass(frozen=True)
class FiniteDifference(AbstractMethod):
    """Estimate slopes from f at displaced points.

        slope_k = Re Σ_s w_s f(x + h t_s scale∘d_k) / h

    Without a stencil and without a step it calibrates. The first gradient measures the noise of f
    along one random direction (at most 12 evaluations) and takes central differences (2n, and two
    more for each input whose arm has to be another one), which show the curvature by each input.
    Later gradients are forward differences with a step of its own for each input, n evaluations,
    and one more for each hundred inputs, by which the curvatures stay up to date. With random
    directions, and with more than 1000 inputs, the noise alone is measured.

    A stencil that is named keeps its nodes, and measures nothing: h = noise^(1/(order + 1)). With
    an absolute stencil (`stencils.shift`) step and scale are 1, whatever the input.

    Where f fails at a displaced point, the differences that are calibrated take the other side of
    x. A named stencil keeps its nodes, unless `differentiable` is told `on_failure="shrink"`: it
    halves the displacement, up to ten times; or `"one_sided"`: it leaves the node out, and takes
    the opposite one where none is left. Those of `COMPLEX_STEP`, a shift and a score estimate
    cannot be replaced.

    Args:
        stencil: nodes t and weights w, from `suture.stencils`; None for those of the calibration,
            or, where a step is given, for `FORWARD`.
        directions: the directions d, from `suture.directions`.
        step: the dimensionless displacement h; None chooses it from the noise.
        noise: noise of f relative to its largest output, where it is worse than the precision
            of its numbers: 5e-7 for a program that prints six digits. It is then not measured.
        rtol: inputs whose forward difference is predicted to have a larger relative error are
            differenced centrally after the first gradient; None for none.

    Raises:
        MethodError: if stencil, directions, step and `rtol` do not go together, or a number is not
            positive and finite.

    Example:
        >>> FiniteDifference(stencil=FORWARD).cost
        'n'

    Source: the noise, Moré and Wild (2011), SIAM Journal on Scientific Computing 33(3), 1292-1314;
    the steps, Moré and Wild (2012), ACM Transactions on Mathematical Software 38(3), article 19.
    """

    stencil: Stencil | None = None
    directions: AbstractDirections = Coordinate()
    _: dataclasses.KW_ONLY
    step: float | None = None
    noise: float | None = None
    rtol: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is not lawful: the only place that does."""
        _check_types(self.stencil, self.directions)
        _check_positive("step", self.step)
        _check_positive("noise", self.noise)
        _check_positive("rtol", self.rtol)
        if self.rtol is not None and not (
            self._is_tuned and isinstance(self.directions, Coordinate)
        ):
            raise MethodError(
                f"`FiniteDifference(rtol={self.rtol:g})` has a stencil, a step or directions too.",
                "The calibration chooses the inputs that are differenced centrally; a named "
                "stencil, a step and random directions do without.",
                f"Write `FiniteDifference(rtol={self.rtol:g})`, or leave `rtol` out.",
            )
        if not self.rule.consistent and not self.directions.centered:
            raise MethodError(
                f"A stencil whose weights sum to {sum(self.rule.weights):g} cannot be used with "
                f"{self.directions}.",
                "It leaves f(x) itself in every slope, and only the mean over random directions "
                "removes that.",
                "Use `FiniteDifference(stencils.ONE_POINT, directions.Gaussian(64))`, or another "
                "stencil.",
            )
        if self.rule.absolute:
            _check_absolute(self.step, self.directions)

    @property
    def rule(self) -> Stencil:
        """The stencil in use."""
        return FORWARD if self.stencil is None else self.stencil

    @property
    def cost(self) -> str:
        """Evaluations of one gradient, but for the one that calibrates: nodes times directions."""
        nodes = len(self.rule.moved_nodes)
        symbol = self.directions.symbol
        if symbol.isdigit():
            return str(nodes * int(symbol))
        return symbol if nodes == 1 else f"{nodes}{symbol}"

    def needs_value(self) -> bool:
        """Whether f(x) is a node of the stencil."""
        return self.rule.base_weight != 0

    def is_complex(self) -> bool:
        """Whether the stencil has complex nodes."""
        return self.rule.is_complex

    def is_absolute(self) -> bool:
        """Whether the nodes are displacements already."""
        return self.rule.absolute

    def noise_floor(self) -> float:
        """Return the noise that the user states."""
        return self.noise or 0.0

    def outer_step(self, noise: float) -> float:
        """Return the step between two linearizations."""
        rule = CENTRAL if self._is_tuned else self.rule
        return _steps.second_order(rule, noise, self.step).outer

    def answers_failures(self, on_failure: OnFailure) -> bool:
        """Whether it may use other points: a named stencil keeps its nodes unless told otherwise.

        The nodes of a complex step, of a shift and of a score estimate cannot be moved at all.
        """
        return self._is_tuned or (on_failure in ("shrink", "one_sided") and is_movable(self.rule))

    def transposes_by_difference(self) -> bool:
        """Whether no direction is random."""
        return isinstance(self.directions, Coordinate)

    @property
    def _is_tuned(self) -> bool:
        """Whether steps come from what is measured."""
        return self.stencil is None and self.step is None

    def _inner_step(self, primal: Primal, rule: Stencil) -> float:
        if primal.derivative == 2:
            return _steps.second_order(rule, primal.noise, self.step).inner
        return self.step or _steps.first_order(rule, primal.noise)

    def linearize(self, primal: Primal, keep: Contract, draw: Draw) -> Estimate:
        """Yield the displaced points block by block, and return the slopes."""
        if self._is_tuned and primal.derivative == 1:
            return (yield from self._linearize_tuned(primal, keep, draw))
        rule = CENTRAL if self._is_tuned else self.rule
        step = self._inner_step(primal, rule)
        units = step * primal.scale_rows, step * primal.scale_shared
        seeds = self.directions.sample(primal.columns, draw)
        if seeds.ndim == 1:
            return (yield from by_column(primal, rule, units, keep))
        return (yield from by_direction(primal, rule, units, keep, self.directions, seeds))

    def _linearize_tuned(self, primal: Primal, keep: Contract, draw: Draw) -> Estimate:
        if primal.replay is not None:
            return (yield from replay(primal, keep, primal.replay))
        tuning, reason = primal.tuning, ""
        random = not isinstance(self.directions, Coordinate)
        lazy = random or (primal.columns > _LAZY and self.rtol is None)
        if tuning is not None and (lazy or not tuning.is_lazy):
            steady = Steady(primal, tuning, keep, draw, self.rtol)
            reason = tuning.drift(primal.column_scale(), primal.output_size(), steady.steps)
            if not reason and not random:
                found = yield from steady.run()
                if not steady.lost:
                    return found
                reason = steady.lost
        remarks = Remarks()
        if tuning is None or reason or not lazy:
            # A jvp before may have measured the noise already.
            blank = tuning if tuning is not None and tuning.is_lazy and not reason else None
            linearization = yield from self._calibrate(primal, keep, draw, blank, lazy, reason)
            remarks.calibrated = primal.tuning.reason if primal.tuning is not None else ""
            if linearization is not None:
                linearization.remarks += remarks
                return linearization
        assert primal.tuning is not None  # measured just now, or before
        if not random:
            linearization = yield from Steady(primal, primal.tuning, keep, draw, None).run()
        else:
            units = self._tuned_units(primal, primal.tuning)
            seeds = self.directions.sample(primal.columns, draw)
            linearization = yield from by_direction(
                primal, FORWARD, units, keep, self.directions, seeds
            )
        linearization.remarks += remarks
        return linearization

    def _calibrate(
        self,
        primal: Primal,
        keep: Contract,
        draw: Draw,
        blank: Tuning | None,
        lazy: bool,
        reason: str,
    ) -> Generator[Points, Array, Linearization | None]:
        """Measure the noise, and unless it is lazy the curvature too: that is a gradient."""
        previous = primal.tuning
        if blank is None:
            noise = yield from noise_only(primal, draw, self.noise is not None)
            assert primal.tuning is not None
            blank = primal.tuning.after(previous, reason)
        else:
            primal.noise = max(primal.noise, blank.noise)
            noise = Noise(blank.size, known=True, measured=True)
        primal.tuning = blank
        return None if lazy else (yield from calibrate(primal, keep, noise, blank))

    def _tuned_units(self, primal: Primal, tuning: Tuning) -> tuple[Array, Array]:
        """Return the displacement of each input along a line, (R, d) and (p,)."""
        d, units = primal.rows.shape[1], scaled_as(primal, tuning)
        steps = tuning.steps(primal.output_size(), primal.precision)
        # Along a line f may bend although it is straight by each input, as a product is.
        steps = np.minimum(steps, tuning.blind_step)
        return steps[:d] * units[0], steps[d:] * units[1]

    def push(self, primal: Primal, rows: Array, shared: Array) -> Pushforward:
        """Difference along each tangent, or along every input where those are fewer.

        An absolute rule goes by inputs always: a sum of rotations along a tangent does not turn
        as one of them.
        """
        if not self.rule.consistent:
            raise TransformError(
                "A score estimate has no forward mode.",
                "It is right only as a mean over random directions, and a jvp is one direction.",
                "Use another stencil, or reverse mode: `backward()`, `torch.func.vjp`.",
            )
        tuned = self._is_tuned and primal.derivative == 1
        if tuned and primal.tuning is None:
            yield from noise_only(primal, _draw_always_the_same, self.noise is not None)
        rule = CENTRAL if self._is_tuned and not tuned else self.rule
        if tuned and primal.tuning is not None:
            units = self._tuned_units(primal, primal.tuning)
        else:
            step = self._inner_step(primal, rule)
            units = step * primal.scale_rows, step * primal.scale_shared
        alive = np.flatnonzero(np.any(rows != 0, axis=(1, 2)) | np.any(shared != 0, axis=1))
        if len(alive) > primal.columns or (rule.absolute and len(alive)):
            linearization = yield from by_column(primal, rule, units, lambda slopes: slopes)
            return linearization.pushforward(rows, shared)
        pushed: list[Array] = []
        size = directions_per_block(primal, len(rule.moved_nodes))
        for start in range(0, len(alive), size):
            block = alive[start : start + size]
            pushed.append(
                (yield from tangent_slopes(primal, rule, units, rows[block], shared[block]))
            )
        result = np.zeros((len(rows), len(primal.rows), primal.outputs))
        if pushed:
            result[alive] = np.concatenate(pushed)
        return result


def _draw_always_the_same() -> np.random.Generator:
    """Return the generator of the line along which a jvp measures the noise."""
    return np.random.default_rng(0)


def _check_types(stencil: object, directions: object) -> None:
    if stencil is not None and not isinstance(stencil, Stencil):
        raise MethodError(
            f"`FiniteDifference(stencil={shown(stencil)})` is not understood.",
            "A stencil is a table of numbers, not a name.",
            _stencil_for(stencil),
        )
    check_directions("FiniteDifference", directions)


def _stencil_for(given: object) -> str:
    """Return what to type instead of something that is no stencil."""
    if isinstance(given, AbstractDirections):
        return f"Write `FiniteDifference(directions={given})`."
    for family, example in ((central, "central(4)"), (richardson, "richardson(2)")):
        if given is family:
            return f"Write for example `FiniteDifference(stencils.{example})`."
    if given is shift:
        return "Write `FiniteDifference(stencils.shift())`."
    return "Use one of `suture.stencils`, for example `FiniteDifference(stencils.CENTRAL)`."


def _check_absolute(step: float | None, directions: AbstractDirections) -> None:
    if step is not None:
        raise MethodError(
            f"`FiniteDifference(step={shown(step)})` is not possible with a shift.",
            "Its nodes are angles at which it is exact, and a step would scale them.",
            "Leave out `step`, or choose the angle: `stencils.shift(angle=0.5)`.",
        )
    if isinstance(directions, AbstractRandomDirections):
        raise MethodError(
            f"A shift cannot be used with {directions}.",
            "It is exact for one rotation at a time, and a random direction turns all of them by "
            "different amounts.",
            "Leave out `directions`, or use another stencil.",
        )


def _check_positive(name: str, number: float | None) -> None:
    if number is None:
        return
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
        raise MethodError(
            f"`FiniteDifference({name}={shown(number)})` is not possible.",
            f"The {name} is a positive, finite number without units.",
            f"Leave `{name}` out, or give for example `{name}=1e-6`.",
        )
