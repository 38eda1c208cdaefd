"""What a call fixes, so that backward evaluates the same function that forward did."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from suture import _tree
from suture._ambient import Ambient
from suture._bounds import Pair
from suture._layout import Layout, Leaf
from suture._results import Outcome
from suture._service import Service
from suture._tally import Counter
from suture._types import Array, Interface
from suture.errors import MethodError


@dataclasses.dataclass(frozen=True, slots=True)
class BlackBox:
    """A function and how it wants to be called.

    Attributes:
        fn: the function.
        name: what messages call it.
        interface: what it receives, tensors or arrays.
        dtype: the precision that it receives, None for the caller's.
        vectorized: it takes P points stacked on a new leading axis.
        chunk_size: at most this many points in one call.
        service: where it is called, and what happens when that fails.
    """

    fn: Callable[..., Any]
    name: str
    interface: Interface
    dtype: torch.dtype | None
    vectorized: bool
    chunk_size: int | None
    service: Service = dataclasses.field(default_factory=Service)

    def received(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype that the function receives for a tensor of `dtype`."""
        if self.dtype is None:
            return dtype
        if dtype.is_complex:
            return self.dtype.to_complex()
        return self.dtype if dtype.is_floating_point else dtype


@dataclasses.dataclass(slots=True)
class CallForm:
    """What calls with arguments of the same form have in common.

    Attributes:
        structure: the nesting of (args, kwargs).
        positions: where the tensors stand among the leaves.
        leaves: the tensors' form.
        scales: the user's scale for each tensor, None for automatic ones.
        bounds: the user's bounds for each tensor, None where there are none.
        rows: the size of the batch, None without `batch_dims`.
        device: where results go.
        kinds: the types of device on which autocast may be on.
        dtype: the promoted dtype of the floating tensors, None without any.
        noise: the noise of the precision that the function receives.
        plain: whether the arguments are positional and not nested: a fast path.
        bare: whether they are nothing but tensors: a faster one.
        layouts: those that were needed so far.
        signatures: likewise.
        last_outcome: the form of the result of the last call of this form.
    """

    structure: _tree.Structure
    positions: list[int]
    leaves: list[Leaf]
    scales: list[Array | None]
    bounds: list[Pair | None]
    rows: int | None
    device: torch.device
    kinds: frozenset[str]
    dtype: torch.dtype | None
    noise: float
    plain: bool
    bare: bool
    layouts: dict[tuple[bool, ...], Layout] = dataclasses.field(default_factory=dict)
    signatures: dict[tuple[bool, ...], str] = dataclasses.field(default_factory=dict)
    last_outcome: Outcome | None = None

    def layout(self, wanted: tuple[bool, ...]) -> Layout:
        """Return the layout of the leaves that are differentiated; it is made once."""
        known = self.layouts.get(wanted)
        if known is None:
            chosen = [leaf for leaf, want in zip(self.leaves, wanted, strict=True) if want]
            known = self.layouts[wanted] = Layout(chosen, self.rows)
        return known


@dataclasses.dataclass(slots=True)
class Frame:
    """One call of the black box, as the forward pass saw it.

    Attributes:
        box: the function.
        counter: where its evaluations are counted.
        call: the form of its arguments.
        constants: the leaves of (args, kwargs), with None in the place of tensors.
        ambient: what torch was set to at the forward.
        number: which call it is, counted from 1.
        modules: the modules that the function is or holds.
        modes: their training flags.
        outcome: the form of the result, known after the first evaluation.
        integers: the integer outputs of the forward pass, by position.
        checksum: of the values of the forward pass.
        rule_is_partial: whether the user's rule left some argument to differences.
    """

    box: BlackBox
    counter: Counter
    call: CallForm
    constants: list[Any]
    ambient: Ambient
    number: int
    modules: Sequence[nn.Module]
    modes: tuple[bool, ...]
    outcome: Outcome | None = None
    integers: dict[int, Array] = dataclasses.field(default_factory=dict)
    checksum: int = 0
    rule_is_partial: bool = False

    @property
    def form(self) -> Outcome:
        """The form of the result; the forward pass has fixed it."""
        if self.outcome is None:
            raise RuntimeError(f"`{self.box.name}` was differentiated before it was evaluated")
        return self.outcome

    def arguments(
        self, tensors: Sequence[Any], constants: Sequence[Any] | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return (args, kwargs) with `tensors` in their places among the constants."""
        if self.call.bare and constants is None:
            return tuple(tensors), {}
        leaves = [
            leaf.copy() if isinstance(leaf, np.ndarray) else leaf
            for leaf in (self.constants if constants is None else constants)
        ]
        for position, tensor in zip(self.call.positions, tensors, strict=True):
            leaves[position] = tensor
        if self.call.plain:
            return tuple(leaves), {}
        args, kwargs = _tree.unflatten(leaves, self.call.structure)
        return args, kwargs

    def result_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Return the dtype of the caller's result for what the function returned."""
        precision = self.call.dtype
        if precision is None or not (dtype.is_floating_point or dtype.is_complex):
            return dtype
        return precision.to_complex() if dtype.is_complex else precision

    def check_modes(self) -> None:
        """Raise if a module was switched between train and eval since the forward."""
        if self.modules and self.modes != training_modes(self.modules):
            raise MethodError(
                f"`{self.box.name}` was switched between train() and eval() after the forward.",
                "Differences between the two modes are not derivatives.",
                "Call `backward()` before switching the mode, or keep the black box in `eval()`.",
            )

    def signature(self, wanted: tuple[bool, ...]) -> str:
        """Return what a calibration depends on: dtypes and shapes without the batch.

        For a person too: `x float64[batch, 3], w* float64[2]`, differentiated by w.
        """
        known = self.call.signatures.get(wanted)
        if known is None:
            parts = []
            for name, leaf, want in zip(self.names(), self.call.leaves, wanted, strict=True):
                sizes = [str(size) for size in leaf.row_shape]
                if leaf.batch_dim is not None:
                    sizes.insert(leaf.batch_dim, "batch")
                dtype = str(leaf.dtype).removeprefix("torch.")
                parts.append(f"{name}{'*' * want} {dtype}[{', '.join(sizes)}]")
            known = self.call.signatures[wanted] = ", ".join(parts)
        return known

    def names(self) -> list[str]:
        """Return what each tensor argument is called: `x`, `state['mass']`."""
        placeholders = self.arguments([0] * len(self.call.positions))
        paths = _tree.paths(placeholders)
        return [named(self.box.fn, paths[position]) for position in self.call.positions]


def can_be_stacked(fn: Callable[..., Any]) -> bool:
    """Whether `fn` might take points that are stacked on a new leading axis; formulas do not."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return bool(getattr(fn, "__suture_stacks__", True))


def named(fn: Callable[..., Any], path: str) -> str:
    """Turn a path of (args, kwargs), as `[0][1]['mass']`, into `w['mass']`."""
    kind, _, rest = path[1:].partition("]")
    inner, _, tail = rest[1:].partition("]")
    if kind == "1":
        return inner.strip("'") + tail
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # builtins have no signature
        return f"argument {inner}{tail}"
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    index = int(inner)
    return (named[index] if index < len(named) else f"argument {index}") + tail


def training_modes(modules: Sequence[nn.Module]) -> tuple[bool, ...]:
    """Return the training flags of modules and of all that is in them."""
    return tuple(inner.training for module in modules for inner in module.modules())


def promoted(tensors: Sequence[Tensor]) -> torch.dtype | None:
    """Return the real dtype that floating and complex tensors promote to, None without any."""
    dtype: torch.dtype | None = None
    for tensor in tensors:
        if tensor.is_floating_point() or tensor.is_complex():
            real = tensor.dtype.to_real()
            dtype = real if dtype is None else torch.promote_types(dtype, real)
    return dtype
