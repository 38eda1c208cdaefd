"""What the black box returned: checked, and read into float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from math import prod
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from suture import _tree
from suture._types import Array, Stack
from suture.errors import BadResult, shown

Kind: TypeAlias = Literal["real", "complex", "integer", "other"]


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """A leaf of the result: what kind, and where it stands in a row of values.

    Attributes:
        kind: only "real" and "complex" outputs have derivatives; "other" is passed through.
        shape: without the stack of points, with the batch.
        dtype: what the black box returned, None for "other".
        start: first of its columns among the O outputs of a row.
        stop: end of its columns.
    """

    kind: Kind
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    start: int
    stop: int

    @property
    def has_derivative(self) -> bool:
        """Whether it is real or complex."""
        return self.kind in ("real", "complex")


@dataclasses.dataclass(slots=True)
class Outcome:
    """The form of the result, fixed by the forward call.

    Attributes:
        structure: its nesting.
        outputs: its leaves.
        width: the number O of real numbers in a row.
        others: the values of the leaves that are passed through, by position.
        lone: type, dtype and shape of a result that is one real tensor, array or number; what
            is alike need not be checked again.
    """

    structure: _tree.Structure
    outputs: tuple[Output, ...]
    width: int
    others: dict[int, Any]
    lone: tuple[Any, ...] | None = None

    def remember(self, result: Any, stack: Stack) -> None:
        """Note the first result, if it is one real leaf of a call with one point."""
        if stack == "none" and not self.nested and self.outputs[0].kind == "real":
            if type(result) in (Tensor, np.ndarray):
                self.lone = (type(result), result.dtype, result.shape)
            elif type(result) is float:
                self.lone = (float, None, None)

    def is_alike(self, result: Any) -> bool:
        """Whether a result has type, dtype and shape of the first: nothing need be checked."""
        if self.lone is None:
            return False
        kind, dtype, shape = self.lone
        if type(result) is not kind:
            return False
        return kind is float or (result.dtype == dtype and result.shape == shape)

    @property
    def tensors(self) -> list[Output]:
        """The outputs that become tensors."""
        return [output for output in self.outputs if output.kind != "other"]

    @property
    def nested(self) -> bool:
        """Whether the result is more than one leaf by itself."""
        return not self.structure.is_leaf()

    @property
    def precision(self) -> float:
        """The unit roundoff of the least precise output that has derivatives, 0 without any."""
        dtypes = [o.dtype for o in self.outputs if o.has_derivative and o.dtype is not None]
        return max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)


def read(name: str, result: Any) -> tuple[list[Any], _tree.Structure]:
    """Return the leaves of a result, numbers as `Read`, and its structure.

    Raises:
        BadResult: for strings alone, objects, and arrays of them.
    """
    if type(result) in (Tensor, np.ndarray, float):
        return [read_leaf(name, result)], _tree.LEAF
    leaves, structure = _tree.flatten(result)
    return [read_leaf(name, leaf) for leaf in leaves], structure


class Read(NamedTuple):
    """A numeric leaf: a NumPy array (not a copy), and the dtype that came out."""

    array: Array
    dtype: torch.dtype


def quick(result: Any) -> Array:
    """Return a tensor, an array or a number as an array."""
    return host(result) if type(result) is Tensor else np.asarray(result)


def read_leaf(name: str, leaf: Any) -> Any:
    """Return a number as `Read`, None and strings as they are.

    Raises:
        BadResult: for anything else.
    """
    if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
        return Read(host(leaf), leaf.dtype)
    if leaf is None or isinstance(leaf, str):
        return leaf
    masked = isinstance(leaf, np.ma.MaskedArray)
    if isinstance(leaf, bool | int | float | complex | np.ndarray | np.generic) and not masked:
        array = np.asarray(leaf)
        if array.dtype.kind in "biufc":
            array = array.astype(array.dtype.newbyteorder("="), copy=False)
            return Read(array, _torch_dtype(array))
    kind = type(leaf).__name__
    if isinstance(leaf, Tensor):
        kind = "sparse tensor"
    elif isinstance(leaf, np.ndarray) and not masked:
        kind = f"array of dtype {leaf.dtype}"
    raise BadResult(
        f"`{name}` returned {article(kind)}.",
        "A result is made of tensors, arrays and numbers, in tuples, lists, dicts or registered "
        "dataclasses.",
        f"Return `torch.as_tensor(…)` or `np.asarray(…, dtype=float)` from `{name}`.",
    )


def article(kind: str) -> str:
    """Return `a` or `an` with what it stands before."""
    return f"an {kind}" if kind[0].lower() in "aeiou" else f"a {kind}"


def _torch_dtype(array: Array) -> torch.dtype:
    if array.dtype.kind == "f":
        return {2: torch.float16, 4: torch.float32}.get(array.dtype.itemsize, torch.float64)
    if array.dtype.kind == "c":
        return torch.complex64 if array.dtype.itemsize == 8 else torch.complex128
    return torch.from_numpy(np.zeros(1, array.dtype)).dtype


def host(tensor: Tensor) -> Array:
    """Return a tensor's numbers as an array on the host, a view where that is possible."""
    plain = tensor.detach() if tensor.requires_grad else tensor
    try:
        return plain.numpy()
    except (RuntimeError, TypeError):  # not plain: on another device, conjugated, bfloat16, …
        pass
    if plain.device.type != "cpu" or plain.is_conj() or plain.is_neg():
        plain = plain.cpu().resolve_conj().resolve_neg()
    # NumPy has no bfloat16; float32 holds its numbers exactly.
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()


def outcome(
    name: str, leaves: Sequence[Any], structure: _tree.Structure, rows: int | None
) -> Outcome:
    """Fix the form of the result from the first call.

    Args:
        name: the black box's name.
        leaves: what `read` returned, with numeric leaves of shape (P, *shape).
        structure: the nesting.
        rows: the size of the batch that every output must have as dimension 0, or None.

    Raises:
        BadResult: if there is no number in it, or the batch is not where it must be.
    """
    outputs, start = [], 0
    for leaf in leaves:
        output = _output(name, leaf, start, rows)
        start = output.stop
        outputs.append(output)
    if all(output.kind == "other" for output in outputs):
        raise BadResult(
            f"`{name}` returned {_what(leaves)}: no tensor and no number.",
            "There is nothing to differentiate and nothing to pass on.",
            f"Let `{name}` return a tensor, an array or a number.",
        )
    others = {i: leaf for i, leaf in enumerate(leaves) if not isinstance(leaf, Read)}
    return Outcome(structure, tuple(outputs), start, others)


def _what(leaves: Sequence[Any]) -> str:
    return "an empty structure" if not leaves else " and ".join(shown(leaf) for leaf in leaves[:3])


def _output(name: str, leaf: Any, start: int, rows: int | None) -> Output:
    if not isinstance(leaf, Read):
        return Output("other", (), None, start, start)
    shape = leaf.array.shape[1:]
    if rows is not None and (not shape or shape[0] != rows):
        raise BadResult(
            f"`{name}` returned shape {shape} for a batch of {rows} rows.",
            "With `batch_dims`, every output has the batch as its dimension 0.",
            f"Let `{name}` return one row of output for each row of input, or leave out "
            "`batch_dims`.",
        )
    size = prod(shape if rows is None else shape[1:])
    if leaf.dtype.is_complex:
        return Output("complex", shape, leaf.dtype, start, start + 2 * size)
    if leaf.dtype.is_floating_point:
        return Output("real", shape, leaf.dtype, start, start + size)
    return Output("integer", shape, leaf.dtype, start, start)


def stored(
    outputs: Sequence[Output], leaves: Sequence[Any], values: Array
) -> tuple[Array, dict[int, Array]]:
    """Copy the numbers of P results, each (P, …), into values (P, R, O).

    Returns:
        The values, and copies of the integer outputs (P, *shape) by their position.
    """
    points, rows = values.shape[:2]
    integers = {}
    for i, (output, array) in enumerate(zip(outputs, leaves, strict=True)):
        if output.kind == "integer":
            integers[i] = array.copy()
        elif output.kind != "other":
            if output.kind == "complex" and not np.iscomplexobj(values):
                array = np.ascontiguousarray(array, dtype=np.complex128)[..., None].view(np.float64)
            width = output.stop - output.start
            values[..., output.start : output.stop] = array.reshape(points, rows, width)
    return values, integers


def unstore(output: Output, values: Array) -> Array:
    """Return the numbers of one output, (…, *shape), from values (…, R, O)."""
    lead = values.shape[:-2]
    block = values[..., output.start : output.stop]
    if output.kind == "complex":
        block = block.copy().view(np.complex128)
    return block.reshape((*lead, *output.shape))
