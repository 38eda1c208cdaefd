"""Take a call apart: which arguments are tensors, which have a batch, how large they are."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from suture import _bounds, _tree
from suture._ambient import Ambient
from suture._frame import (
    BlackBox,
    CallForm,
    Frame,
    named,
    promoted,
    training_modes,
)
from suture._holdings import refuse_opaque
from suture._layout import Leaf
from suture._results import host
from suture._tally import Counter
from suture._torch import CPU, default_device, is_differentiating
from suture._types import Array
from suture.errors import MethodError, shown

# What a black box without floating arguments works with.
_DOUBLE_NOISE = torch.finfo(torch.float64).eps
# How many forms of calls are remembered: batches of many sizes must not fill the memory.
_FORMS = 256
# Types that pytrees do not look into and that hold nothing.
_ATOMS = frozenset({Tensor, nn.Parameter, type(None), bool, int, float, complex, str, np.ndarray})


class Caller:
    """Makes the frame of a call, from the options that describe the arguments."""

    def __init__(self, batch_dims: Any, scale: Any, bounds: Any) -> None:
        """Take the user's prefixes of the tuple of arguments."""
        self.batch_dims = tuple(batch_dims) if isinstance(batch_dims, list) else batch_dims
        # Tensors are read now: inside a transform of torch.func they have no storage.
        sizes, structure = _tree.flatten(tuple(scale) if isinstance(scale, list) else scale)
        self.scale = _tree.unflatten([_check_scale(size) for size in sizes], structure)
        self._given = scale
        self.bounds, self._given_bounds = _bounds.parse(bounds), bounds
        self._forms: dict[Any, CallForm] = {}
        for dim in _tree.flatten(self.batch_dims)[0]:
            if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool)):
                raise MethodError(
                    f"`batch_dims={shown(batch_dims)}` is not possible.",
                    "A batch dimension is an integer, or None for arguments that all rows share.",
                    "Give one entry for each positional argument, for example "
                    "`batch_dims=(0, None)`.",
                )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is remembered: a copy makes its own."""
        return {**self.__dict__, "_forms": {}}

    def frame(
        self,
        box: BlackBox,
        counter: Counter,
        modules: Sequence[nn.Module],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Frame, list[Tensor]]:
        """Return what backward will need to know of this call, and its tensors."""
        plain = not kwargs and all(type(arg) in _ATOMS for arg in args)
        leaves, structure = (args, _flat(len(args))) if plain else _tree.flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        form = self._form(box, structure, leaves, len(args), plain)
        constants = (
            [None] * len(leaves)
            if form.bare
            else [self._constant(box, leaf, i, args, kwargs) for i, leaf in enumerate(leaves)]
        )
        frame = Frame(
            box=box,
            counter=counter,
            call=form,
            constants=constants,
            ambient=Ambient(torch.get_default_dtype(), default_device(), form.kinds),
            number=counter.begin(),
            modules=modules,
            modes=training_modes(modules) if modules else (),
        )
        return frame, tensors

    def _form(
        self,
        box: BlackBox,
        structure: _tree.Structure,
        leaves: Sequence[Any],
        count: int,
        plain: bool,
    ) -> CallForm:
        """Return what calls with arguments of this form have in common.

        Training calls with the same form again and again; those whose arguments are not nested
        are remembered. (A walk through pytrees also leaves garbage that only Python's collector
        of cycles removes, and its pauses are longer than many a step.)
        """
        if not plain:
            return self._new_form(box, structure, leaves, count, plain)
        key = (box.dtype, *map(_outline, leaves))
        known = self._forms.get(key)
        if known is None:
            if len(self._forms) == _FORMS:
                self._forms.clear()
            known = self._forms[key] = self._new_form(box, structure, leaves, count, plain)
        return known

    def _new_form(
        self,
        box: BlackBox,
        structure: _tree.Structure,
        leaves: Sequence[Any],
        count: int,
        plain: bool,
    ) -> CallForm:
        positions = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        tensors = [leaves[i] for i in positions]
        for tensor in tensors:
            _refuse_storage(box.name, tensor)
        dims, rows = self._batch(structure, leaves, positions, count)
        forms = [
            Leaf(tuple(tensor.shape), box.received(tensor.dtype), dim)
            for tensor, dim in zip(tensors, dims, strict=True)
        ]
        floats = [form.dtype for form in forms if _has_fraction(form.dtype)]
        if box.interface == "numpy" and torch.bfloat16 in floats:
            raise MethodError(
                f"`{box.name}` was given a bfloat16 tensor.",
                'NumPy has no bfloat16, and `interface="numpy"` with `dtype=None` passes it on.',
                "Write `dtype=torch.float32`, or leave `dtype` out for float64.",
            )
        device = next((t.device for t in tensors if t.device.type != "cpu"), CPU)
        return CallForm(
            structure=structure,
            positions=positions,
            leaves=forms,
            scales=self._scales(structure, forms, positions, count),
            bounds=self._bounds_of(structure, forms, positions, count),
            rows=rows,
            device=device,
            kinds=frozenset({"cpu", "cuda", device.type}),
            dtype=promoted(tensors),
            noise=max((torch.finfo(dtype).eps for dtype in floats), default=_DOUBLE_NOISE),
            plain=plain,
            bare=plain and len(tensors) == len(leaves),
        )

    def _constant(
        self, box: BlackBox, leaf: Any, i: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Return a leaf that is not a tensor as it will be passed; arrays are copied."""
        if isinstance(leaf, Tensor):
            return None
        if isinstance(leaf, np.ndarray) and leaf.dtype != object:
            return leaf.copy()
        if type(leaf) not in _ATOMS and _is_used_up(leaf):
            place = named(box.fn, _tree.paths((args, kwargs))[i])
            raise MethodError(
                f"`{box.name}` was given `{place}` of type {type(leaf).__name__}, which is empty "
                "once it was read.",
                "A gradient evaluates many points, with the same arguments at each of them.",
                "Pass what it holds, `list(…)`; or what makes it, as the path of a file.",
            )
        if not is_differentiating():
            return leaf
        if type(leaf) not in _ATOMS or isinstance(leaf, np.ndarray):
            place = named(box.fn, _tree.paths((args, kwargs))[i])
            refuse_opaque(leaf, box.name, f"`{place}`")
        return leaf

    def _batch(
        self,
        structure: _tree.Structure,
        leaves: Sequence[Any],
        positions: Sequence[int],
        count: int,
    ) -> tuple[list[int | None], int | None]:
        """Return the batch dimension of each tensor, and the number of rows."""
        if self.batch_dims is None:
            return [None] * len(positions), None
        spread = _tree.broadcast(self.batch_dims, structure, count, "batch_dims", "0")
        dims: list[int | None] = [None] * len(positions)
        sizes: dict[int, int] = {}
        for i, dim in enumerate(spread):
            if dim is not None:
                dims_here = _batch_dim(leaves[i], dim, self.batch_dims)
                dims[positions.index(i)] = dims_here
                sizes[i] = leaves[i].shape[dims_here]
        if not sizes:
            raise MethodError(
                f"`batch_dims={shown(self.batch_dims)}` names no batch.",
                "At least one argument must have a batch dimension.",
                "Leave out `batch_dims`, or give for example `batch_dims=(0, None)`.",
            )
        if len(set(sizes.values())) > 1:
            raise MethodError(
                f"`batch_dims={shown(self.batch_dims)}` finds batches of different sizes: "
                f"{sorted(set(sizes.values()))}.",
                "All arguments with a batch dimension must have the same number of rows.",
                "Give None for arguments that all rows share: for example `batch_dims=(0, None)`.",
            )
        return dims, next(iter(sizes.values()))

    def _scales(
        self,
        structure: _tree.Structure,
        forms: Sequence[Leaf],
        positions: Sequence[int],
        count: int,
    ) -> list[Array | None]:
        """Return the user's scale of each tensor, None where it is automatic."""
        if self.scale is None:
            return [None] * len(forms)
        spread = _tree.broadcast(self.scale, structure, count, "scale", "1e-9", self._given)
        return [_scale(spread[i], form) for i, form in zip(positions, forms, strict=True)]

    def _bounds_of(
        self,
        structure: _tree.Structure,
        forms: Sequence[Leaf],
        positions: Sequence[int],
        count: int,
    ) -> list[_bounds.Pair | None]:
        """Return the user's bounds of each tensor, None where there are none."""
        if self.bounds is None:
            return [None] * len(forms)
        return _bounds.of_leaves(
            self.bounds, structure, forms, positions, count, self._given_bounds
        )


def _is_used_up(leaf: Any) -> bool:
    """Whether a call of the function leaves less of it for the next one: iterators, open files."""
    if isinstance(leaf, io.IOBase):
        return leaf.readable()
    return isinstance(leaf, Iterator)


@functools.cache
def _flat(count: int) -> _tree.Structure:
    """Return the structure of a call with `count` positional arguments that are leaves."""
    return _tree.flatten(((0,) * count, {}))[1]


def _refuse_storage(name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        kind = (
            "meta tensor, which has no numbers" if tensor.device.type == "meta" else "sparse tensor"
        )
        raise MethodError(
            f"`{name}` was given a {kind}.",
            "A black box is evaluated at numbers, all of which are stored.",
            "Pass `tensor.to_dense()`, or a tensor on a real device.",
        )


def _outline(leaf: Any) -> Any:
    """Return what the form of a call depends on."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.dtype, leaf.device, leaf.layout
    return type(leaf)


def _has_fraction(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype.is_complex


def _batch_dim(leaf: Any, dim: Any, batch_dims: Any) -> int:
    """Return a batch dimension, counted from the front."""
    if not isinstance(leaf, Tensor):
        raise MethodError(
            f"`batch_dims={shown(batch_dims)}` names a batch dimension of {shown(leaf)}.",
            "Only tensors have a batch dimension.",
            "Give None for arguments that are not tensors, for example `batch_dims=(0, None)`.",
        )
    if not isinstance(dim, int) or isinstance(dim, bool) or not -leaf.ndim <= dim < leaf.ndim:
        raise MethodError(
            f"`batch_dims={shown(batch_dims)}` names dimension {shown(dim)} of a tensor of shape "
            f"{tuple(leaf.shape)}.",
            "A batch dimension is one of the tensor's dimensions, or None.",
            "Give None for arguments that all rows share, for example `batch_dims=(0, None)`.",
        )
    return dim % leaf.ndim


def _check_scale(value: Any) -> Array | None:
    """Return a scale as an array, None where it is automatic."""
    if value is None:
        return None
    try:
        numbers = np.asarray(host(value) if isinstance(value, Tensor) else value)
        scale = np.array(numbers, np.float64) if numbers.dtype.kind in "iuf" else np.array(np.nan)
    except (TypeError, ValueError):
        scale = np.array(np.nan)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise MethodError(
            f"`scale={shown(value)}` is not possible.",
            "A scale is a positive, finite number in the units of its argument, or a tensor of "
            "them.",
            "Give one entry for each positional argument, for example `scale=(1e-9, None)`.",
        )
    return scale


def _scale(value: Any, leaf: Leaf) -> Array | None:
    """Return a scale as an array that broadcasts to the leaf."""
    if value is None:
        return None
    scale: Array = value
    try:
        np.broadcast_to(scale, leaf.shape)
    except ValueError:
        raise MethodError(
            f"A scale of shape {scale.shape} does not fit an argument of shape {leaf.shape}.",
            "A scale is a number, or a tensor that broadcasts to its argument.",
            "Give one entry for each positional argument, for example `scale=(1e-9, None)`.",
        ) from None
    return scale
