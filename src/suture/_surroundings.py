"""What surrounds the inputs of a place: scales, bounds, and the precision of what is passed."""

from __future__ import annotations

import functools

import numpy as np

from suture._inputs import Inputs
from suture._methods import Room
from suture._sizes import leaf_size
from suture._types import Array, Round
from suture.errors import MethodError

# What x + (bound - x) may miss the bound by, relative to x: some hundred units of 2^-52.
_ROUNDED = 2.0**-40


class Surroundings:
    """Scales, bounds and rounding of the columns that are differentiated, for S samples."""

    def __init__(self, inputs: Inputs) -> None:
        """Take the inputs."""
        self.inputs, self.layout, self.call = inputs, inputs.layout, inputs.frame.call
        self.chosen = [i for i, constant in enumerate(inputs.constants) if constant is None]
        self.is_bounded = any(self.call.bounds[i] is not None for i in self.chosen)
        self._limits: tuple[tuple[Array, Array], tuple[Array, Array]] | None = None

    def scales(self, absolute: bool) -> tuple[Array, Array]:
        """Return the scale of each column, (S, R, d) and (S, p).

        The user's, or the typical size of its input; 1 for a method with displacements of its own.
        """
        scales = []
        for i, array in zip(self.chosen, self.inputs.arrays, strict=True):
            leaf, scale = self.call.leaves[i], self.call.scales[i]
            if absolute:
                sizes = np.ones(array.shape)
            elif scale is None:
                sizes = leaf_size(array, leaf.batch_dim)
            else:
                sizes = np.broadcast_to(scale, array.shape)
            # A complex element is two columns, of the same scale.
            scales.append(sizes * (1 + 1j) if leaf.dtype.is_complex else sizes)
        return self.layout.gather(scales, (self.inputs.samples,))

    def room(self, sample: int) -> Room | None:
        """Return how far the inputs of a sample may move, None without bounds."""
        if not self.is_bounded:
            return None
        (low_rows, low_shared), (high_rows, high_shared) = self._bounds()
        rows, shared = self.inputs.rows[sample], self.inputs.shared[sample]
        # NaN, which cannot move, is not held back either.
        return Room(
            *(
                np.nan_to_num(np.maximum(difference, 0.0), nan=np.inf, posinf=np.inf)
                for difference in (
                    rows - low_rows,
                    high_rows - rows,
                    shared - low_shared,
                    high_shared - shared,
                )
            )
        )

    def round(self, sample: int, *, strict: bool = True) -> Round | None:
        """Return what brings points to the precision of the function and into the bounds.

        Args:
            sample: whose points.
            strict: whether points that are outside by more than rounding are refused.
        """
        exact = None if self.layout.exact else self.layout.round
        if not self.is_bounded:
            return exact
        name = self.inputs.frame.box.name
        here = self.inputs.rows[sample], self.inputs.shared[sample]
        return functools.partial(_clamped, exact, self._bounds(), here, name if strict else None)

    def _bounds(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Return the lower and the upper bounds of rows (R, d) and shared columns (p,)."""
        if self._limits is None:
            ends = []
            for end, without in ((0, -np.inf), (1, np.inf)):
                arrays = []
                for i in self.chosen:
                    leaf, pair = self.call.leaves[i], self.call.bounds[i]
                    limit = np.array(without) if pair is None else pair[end]
                    whole = np.array(np.broadcast_to(limit, leaf.shape))
                    if leaf.dtype.is_complex:
                        whole = np.full(leaf.shape, complex(without, without))
                    arrays.append(whole)
                ends.append(self.layout.gather(arrays, ()))
            self._limits = ends[0], ends[1]
        return self._limits


def _clamped(
    exact: Round | None,
    limits: tuple[tuple[Array, Array], tuple[Array, Array]],
    here: tuple[Array, Array],
    name: str | None,
    rows: Array | None,
    shared: Array | None,
) -> tuple[Array | None, Array | None]:
    if exact is not None:
        rows, shared = exact(rows, shared)
    (low_rows, low_shared), (high_rows, high_shared) = limits
    return (
        _clip(rows, low_rows, high_rows, here[0], name),
        _clip(shared, low_shared, high_shared, here[1], name),
    )


def _clip(
    points: Array | None, low: Array, high: Array, here: Array, name: str | None
) -> Array | None:
    """Bring points to their bounds; for a method of f `name`, only those that miss by rounding.

    An input whose bounds meet stays where it is, wherever a line through all inputs leads.
    """
    # The complex step moves the imaginary part only.
    if points is None or np.iscomplexobj(points):
        return points
    clipped: Array = np.clip(points, low, high)
    if name is None:
        return clipped
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        outside = np.abs(clipped - points) > _ROUNDED * np.maximum(np.abs(here), np.abs(clipped))
    outside &= low < high
    if outside.any():
        raise MethodError(
            f"A method asked for `{name}` at {points[outside][0]:.9g}, where a bound is "
            f"{clipped[outside][0]:.6g}.",
            "No method may leave the bounds: `Primal.room` says how far each input may move.",
            "Displace by no more than that; or leave out `bounds=`, if the function can be "
            "evaluated there.",
        )
    return clipped
