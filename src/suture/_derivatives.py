"""The derivatives that the bridge asks for, from tensors to tensors.

Leading axes of vmap follow NumPy's rules: leaves, cotangents and tangents have the same number
of them, each of size 1 or of full size, and what has size 1 is evaluated once. Samples are the
combinations that the leaves themselves have.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from suture import _results
from suture._apart import columns_of, displaced_pair
from suture._axes import Axes, broadcast, lead_of, samples
from suture._drive import Site
from suture._frame import Frame
from suture._inputs import Inputs
from suture._methods import CustomVJP, contract
from suture._node import Node
from suture._requests import Evaluator
from suture._results import host
from suture._rules import ask_jvp, ask_vjp
from suture._torch import CPU
from suture._types import Array

# Slopes of at most this many numbers (8 MiB) are kept for a second derivative.
_KEPT = 2**20


def forward(frame: Frame, lead: int, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Evaluate the black box.

    Returns:
        Its tensors, in the caller's dtype and device, and last the values (*lead, R, O) in
        float64: node 0 of the stencil, which must not lose digits to the caller's dtype.
    """
    shape = leaves[0].shape[:lead] if leaves else ()
    evaluator = Evaluator(Inputs(frame, leaves, lead, (False,) * len(leaves)))
    values, integers = evaluator.forward()
    evaluator.pipeline.attempts.progress.close()
    frame.integers = integers
    frame.checksum = zlib.crc32(np.ascontiguousarray(values).data)
    tensors = []
    for i, output in enumerate(frame.form.outputs):
        if output.dtype is None:
            continue
        array = integers[i] if i in integers else _results.unstore(output, values)
        # A copy: the caller may write into its result, and `values` are node 0.
        tensor = torch.from_numpy(array.reshape((*shape, *output.shape)))
        dtype = frame.result_dtype(output.dtype)
        tensors.append(tensor.to(frame.call.device, dtype, copy=True))
    return (*tensors, torch.from_numpy(values.reshape((*shape, *values.shape[1:]))))


def pullback(
    node: Node, leaves: Sequence[Tensor], raw: Tensor, cotangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return Jᵀc for every wanted leaf, each (*lead, *shape)."""
    axes = Axes(leaves[0].shape[: node.lead], lead_of(cotangents, node.lead))
    site = node.site(leaves, node.wanted, _values(node, raw), node.lead)
    products = _gradients(site, axes.split(_pack(node, cotangents), 2), node)
    return tuple(
        _leave(axes.join(product), leaf)
        for product, leaf in zip(products, _chosen(leaves, node.wanted), strict=True)
    )


def transpose(
    node: Node, leaves: Sequence[Tensor], raw: Tensor, tangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return Ĵv: the transpose of `pullback`, by the slopes that it used."""
    axes = Axes(leaves[0].shape[: node.lead], lead_of(tangents, node.lead))
    site = node.site(leaves, node.moves, _values(node, raw), node.lead)
    rows, shared = columns_of(site, axes, tangents)
    if site.is_empty:
        pushed = np.zeros((*rows.shape[:3], node.frame.form.width))
    elif node.moves == node.wanted and len(node.kept) == site.samples:
        pushed = np.stack([k.pushforward(rows[s], shared[s]) for s, k in enumerate(node.kept)])
    elif isinstance(node.method, CustomVJP) and node.method.jvp is not None:
        pushed = ask_jvp(site, node.method, rows, shared)
    elif node.method.transposes_by_difference():
        pushed = site.push(rows, shared)
    else:
        again = site.linearize([_everything] * site.samples)
        pushed = np.stack([k.pushforward(rows[s], shared[s]) for s, k in enumerate(again)])
    return _unpack(node, axes, pushed)


def pushforward(
    node: Node, leaves: Sequence[Tensor], raw: Tensor, tangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return Jv for every output with a derivative, each (*lead, *shape)."""
    axes = Axes(leaves[0].shape[: node.lead], lead_of(tangents, node.lead))
    site = node.site(leaves, node.moves, _values(node, raw), node.lead)
    rows, shared = columns_of(site, axes, tangents)
    return _unpack(node, axes, _push(site, rows, shared))


def pullback_along(
    node: Node,
    leaves: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    tangents: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Return the derivative of Jᵀc along the tangents, for every wanted leaf.

    A central difference of two pullbacks with the same scales and the same directions.
    """
    first = broadcast(leaves[0].shape[: node.lead], lead_of(tangents, node.lead))
    axes = Axes(first, lead_of(cotangents, node.lead))
    displaced = displaced_pair(node, leaves, first, tangents)
    if displaced is None:
        shape = axes.full
        return tuple(
            leaf.new_zeros(shape + leaf.shape[node.lead :]) for leaf in _chosen(leaves, node.wanted)
        )
    pair, factors = displaced
    split = axes.split(_pack(node, cotangents), 2)  # (S, C, R, O)
    scaled = split * factors[:, None, :, None]
    both = _gradients(pair(node.wanted), np.concatenate([scaled, -scaled]), None)
    halves = [np.split(product, 2) for product in both]
    return tuple(
        _leave(axes.join(plus + minus), leaf)
        for (plus, minus), leaf in zip(halves, _chosen(leaves, node.wanted), strict=True)
    )


def pushforward_along(
    node: Node,
    leaves: Sequence[Tensor],
    tangents: Sequence[Tensor],
    seconds: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Return the derivative of Jv along second tangents, for every output with a derivative.

    A central difference of two pushforwards with the same scales.
    """
    along = dataclasses.replace(node, inputs=node.seconds)
    first = broadcast(leaves[0].shape[: node.lead], lead_of(seconds, node.lead))
    axes = Axes(first, lead_of(tangents, node.lead))
    displaced = displaced_pair(along, leaves, first, seconds)
    if displaced is None:
        batch = 1 if node.frame.call.rows is None else node.frame.call.rows
        shape = (prod(axes.own), prod(axes.free), batch, node.frame.form.width)
        return _unpack(node, axes, np.zeros(shape))
    pair, factors = displaced
    site = pair(node.moves)
    rows, shared = columns_of(site, axes, tangents)
    pushed = _push(site, np.concatenate([rows, rows]), np.concatenate([shared, shared]))
    plus, minus = np.split(pushed, 2)
    return _unpack(node, axes, (plus - minus) * factors[:, None, :, None])


def _everything(slopes: Array) -> Array:
    return slopes


def _gradients(site: Site, cotangents: Array, node: Node | None) -> list[Array]:
    """Return Jᵀc for every differentiated leaf, (S, C, *shape), for cotangents (S, C, R, O)."""
    shapes = [
        leaf.shape for leaf, want in zip(site.frame.call.leaves, site.wanted, strict=True) if want
    ]
    if site.is_empty:
        return [np.zeros((*cotangents.shape[:2], *shape)) for shape in shapes]
    if isinstance(site.method, CustomVJP):
        return _by_rule(site, site.method, cotangents)
    if node is not None and node.keep and not node.kept and _slopes_fit(site):
        node.kept[:] = site.linearize([_everything] * site.samples)
    if node is not None and len(node.kept) == site.samples:
        found = [k.contracted(cotangents[s]) for s, k in enumerate(node.kept)]
    else:
        found = site.linearize([_Contraction(c) for c in cotangents])
    layout = site.inputs.layout
    columns = [linearization.gradients(layout.row_width) for linearization in found]
    if len(columns) == 1:
        rows, shared = columns[0]
        return layout.scatter(rows[None], shared[None])
    rows, shared = (np.stack(parts) for parts in zip(*columns, strict=True))
    return layout.scatter(rows, shared)


@dataclasses.dataclass(frozen=True, slots=True)
class _Contraction:
    """Keeps of slopes their products with cotangents (C, R, O)."""

    cotangents: Array

    def __call__(self, slopes: Array) -> Array:
        return contract(slopes, self.cotangents)


def _slopes_fit(site: Site) -> bool:
    outputs = site.inputs.layout.rows * site.frame.form.width
    return site.samples * site.columns * outputs <= _KEPT


def _by_rule(site: Site, rule: CustomVJP, cotangents: Array) -> list[Array]:
    """Ask the rule, and difference what it does not know."""
    if site.values is None:
        site.evaluate()
    known = iter(ask_vjp(site, rule, cotangents))
    answers = [next(known) if want else None for want in site.wanted]
    unknown = tuple(
        want and answer is None for want, answer in zip(site.wanted, answers, strict=True)
    )
    if any(unknown):
        site.frame.rule_is_partial = True
        rest = iter(_gradients(site.restricted(rule.remainder, unknown), cotangents, None))
        answers = [next(rest) if miss else a for miss, a in zip(unknown, answers, strict=True)]
    return [answer for answer in answers if answer is not None]


def _push(site: Site, rows: Array, shared: Array) -> Array:
    """Return Jv, (S, T, R, O)."""
    if site.is_empty:
        return np.zeros((*rows.shape[:3], site.frame.form.width))
    if isinstance(site.method, CustomVJP):
        if site.values is None:
            site.evaluate()
        return ask_jvp(site, site.method, rows, shared)
    return site.push(rows, shared)


def _values(node: Node, raw: Tensor) -> Array | None:
    """Return node 0, f(x) (S, R, O), or None where it is not what the forward pass saved.

    Hooks for saved tensors may lose digits (offloading in float32): then the leaves are not quite
    those of the forward pass either, and f(x) has to be evaluated where they are now.
    """
    values = samples(raw, 2)
    unchanged = zlib.crc32(np.ascontiguousarray(values).data) == node.frame.checksum
    return values if unchanged else None


def _chosen(leaves: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor]:
    return [leaf for leaf, want in zip(leaves, wanted, strict=True) if want]


def _pack(node: Node, cotangents: Sequence[Tensor]) -> Array:
    """Return cotangents (*lead, R, O); outputs without one have zeros."""
    form = node.frame.form
    rows = 1 if node.frame.call.rows is None else node.frame.call.rows
    lead = lead_of(cotangents, node.lead)
    if len(form.outputs) == 1 and form.outputs[0].kind == "real":
        (cotangent,) = cotangents
        return np.asarray(host(cotangent), np.float64).reshape((*lead, rows, form.width))
    packed = np.zeros((*lead, rows, form.width))
    for which, cotangent in zip(node.outputs, cotangents, strict=True):
        output = form.tensors[which]
        array = host(cotangent)
        if output.kind == "complex":
            array = np.ascontiguousarray(array, np.complex128)[..., None].view(np.float64)
        width = output.stop - output.start
        packed[..., output.start : output.stop] = array.reshape((*packed.shape[:-1], width))
    return packed


def _unpack(node: Node, axes: Axes, pushed: Array) -> tuple[Tensor, ...]:
    """Return the tangents of the outputs with a derivative, from (S, T, R, O)."""
    frame = node.frame
    tensors = []
    for output in frame.form.tensors:
        if output.has_derivative and output.dtype is not None:
            array = axes.join(_results.unstore(output, pushed))
            tensor = torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape))
            tensors.append(tensor.to(frame.call.device, frame.result_dtype(output.dtype)))
    return tuple(tensors)


def _leave(array: Array, leaf: Tensor) -> Tensor:
    """Return a gradient on the leaf's device and in its dtype."""
    if not array.flags.c_contiguous:
        array = array.copy()
    tensor = torch.from_numpy(array)
    # `to` costs 3 µs even where there is nothing to do.
    done = tensor.dtype == leaf.dtype and leaf.device == CPU
    return tensor if done else tensor.to(leaf.device, leaf.dtype)
