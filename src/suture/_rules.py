"""Ask the user's own rule: arguments and results in the form that the black box itself uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from suture import _results, _tree
from suture._complaints import summary
from suture._drive import Site
from suture._layout import Leaf
from suture._methods import CustomVJP
from suture._results import Output, Read, article
from suture._tally import Tally
from suture._types import Array
from suture.errors import (
    BadResult,
    EvaluationError,
    PointFailed,
    SutureError,
    TransformError,
    shown,
)


def ask_vjp(site: Site, rule: CustomVJP, cotangents: Array) -> list[Array | None]:
    """Return Jᵀc for every differentiated leaf, (S, C, *shape), as the user's rule has it.

    Args:
        site: where.
        rule: whose `vjp` to call: S·C times.
        cotangents: (S, C, R, O).

    Returns:
        One entry a differentiated leaf; None where the rule returned `NotImplemented`.

    Raises:
        EvaluationError: if the rule raised.
        BadResult: if it returned another structure, shape, or numbers that are not finite.
    """
    gradients = [
        np.zeros((*cotangents.shape[:2], *leaf.shape), _kind(leaf.dtype)) for leaf in _leaves(site)
    ]
    missing: set[int] = set()
    form, _ = site.frame.arguments([0] * len(site.frame.call.positions))
    for s, c in np.ndindex(*cotangents.shape[:2]):

        def given(s: int = s, c: int = c) -> tuple[Any, ...]:
            return _arguments(site, s), _output(site, s), _outputs(site, cotangents[s, c], None)

        result = _call(site, "vjp", rule.vjp, given)
        finite = bool(np.isfinite(cotangents[s, c]).all())
        for k, leaf in enumerate(_read_gradient(site, form, result, finite)):
            if leaf is NotImplemented:
                missing.add(k)
            elif leaf is not None:
                gradients[k][s, c] = leaf
    return [None if k in missing else gradient for k, gradient in enumerate(gradients)]


def ask_jvp(site: Site, rule: CustomVJP, rows: Array, shared: Array) -> Array:
    """Return Jv, (S, T, R, O), as the user's rule has it.

    Args:
        site: where.
        rule: whose `jvp` to call: S·T times.
        rows: tangents (S, T, R, d).
        shared: tangents (S, T, p).

    Raises:
        TransformError: if the rule has no `jvp`.
        EvaluationError: if it raised.
        BadResult: if it returned another structure, shape, or numbers that are not finite.
    """
    if rule.jvp is None:
        raise TransformError(
            f"`{site.frame.box.name}` was differentiated in forward mode, but its rule has no "
            "`jvp`.",
            "A vjp alone cannot push a tangent forward.",
            "Pass `CustomVJP(vjp, jvp=…)`, or use reverse mode: `backward()`, `torch.func.vjp`.",
        )
    form = site.frame.form
    pushed = np.zeros((*rows.shape[:2], rows.shape[2], form.width))
    for s, t in np.ndindex(*rows.shape[:2]):

        def given(s: int = s, t: int = t) -> tuple[Any, ...]:
            tangents = _tangents(site, rows[s, t], shared[s, t], s)
            return _arguments(site, s), _output(site, s), tangents

        result = _call(site, "jvp", rule.jvp, given)
        _read_tangent(site, result, pushed[s, t])
    return pushed


def _leaves(site: Site) -> list[Any]:
    return [leaf for leaf, want in zip(site.frame.call.leaves, site.wanted, strict=True) if want]


def _kind(dtype: torch.dtype) -> type:
    return complex if dtype.is_complex else float


def _arguments(site: Site, sample: int) -> tuple[Any, ...]:
    """Return private copies of the positional arguments of one sample."""
    return site.inputs.arguments(sample)[0]


def _output(site: Site, sample: int) -> Any:
    assert site.values is not None  # `CustomVJP.needs_value` is true
    integers = {i: array[sample] for i, array in site.integers.items()}
    return _outputs(site, site.values[sample], integers)


def _outputs(site: Site, values: Array, integers: dict[int, Array] | None) -> Any:
    """Put values (R, O) into the form of the result; without `integers`, None in their place."""
    frame = site.frame
    leaves: list[Any] = []
    for i, output in enumerate(frame.form.outputs):
        if output.has_derivative:
            leaves.append(_as_received(site, _results.unstore(output, values), output.dtype))
        elif output.kind == "integer" and integers is not None:
            leaves.append(_as_received(site, integers[i], output.dtype))
        else:
            leaves.append(frame.form.others.get(i) if integers is not None else None)
    return _tree.unflatten(leaves, frame.form.structure)


def _as_received(site: Site, array: Array, dtype: torch.dtype | None) -> Any:
    """Return an array in the interface of the black box, stacked if it wants stacked points."""
    stacked = array[None] if site.frame.box.vectorized else array
    tensor = torch.from_numpy(np.array(stacked)).to(site.frame.call.device, dtype)
    return _results.host(tensor) if site.frame.box.interface == "numpy" else tensor


def _tangents(site: Site, rows: Array, shared: Array, sample: int) -> Any:
    """Return the tangents in the structure of the positional arguments."""
    frame = site.frame
    displaced = iter(site.inputs.layout.scatter(rows.copy(), shared.copy()))
    leaves: list[Any] = []
    for leaf, want in zip(frame.call.leaves, site.wanted, strict=True):
        array = next(displaced) if want else np.zeros(leaf.shape, _kind(leaf.dtype))
        floats = leaf.dtype.is_floating_point or leaf.dtype.is_complex
        leaves.append(_as_received(site, array, leaf.dtype) if floats else None)
    constants = [None] * len(frame.constants)
    args, _ = frame.arguments(leaves, constants)
    return args


def _call(
    site: Site, kind: str, rule: Callable[..., Any], given: Callable[[], tuple[Any, ...]]
) -> Any:
    """Ask a rule; what raises is tried again as an evaluation is, with fresh copies each time."""
    for _ in range(site.frame.box.service.retries):
        try:
            return _asked(site, kind, rule, given())
        except (PointFailed, BadResult):  # answers
            raise
        except EvaluationError:
            site.frame.counter.add(Tally(rule_retries=1))
    return _asked(site, kind, rule, given())


def _asked(site: Site, kind: str, rule: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        with site.frame.ambient.restored():
            return rule(*args)
    except SutureError:
        raise
    except Exception as error:
        raise EvaluationError(
            f"The `{kind}` of `{site.frame.box.name}` raised {summary(error)}",
            "A rule must return the derivative at every point that the forward pass reaches.",
            _remedy(kind, "for the arguments that it does not know"),
        ) from error


_others = {"vjp": ", None or NotImplemented", "jvp": " or None"}


def _remedy(kind: str, where: str) -> str:
    if kind == "jvp":
        return "Mend `jvp`, or use reverse mode: `backward()`, `torch.func.vjp`."
    return f"Mend `vjp`, or return `NotImplemented` {where}."


def _read_gradient(site: Site, args: tuple[Any, ...], result: Any, finite: bool) -> list[Any]:
    """Return an array, None or NotImplemented for each differentiated leaf.

    Where the cotangent is not `finite` (a gradient scaler provokes that), nothing need be.
    """
    name = site.frame.box.name
    if len(args) == 1 and not isinstance(result, tuple):
        result = (result,)
    _, structure = _tree.flatten(args)
    spread = _tree.spread(result, structure)
    given = [leaf for leaf in _tree.flatten(result)[0] if not _is_blank(leaf)]
    if spread is None or sum(not _is_blank(leaf) for leaf in spread) != len(given):
        raise BadResult(
            f"The `vjp` of `{name}` returned another structure than its arguments have.",
            f"It must return a tuple of {len(args)}, one entry for each positional argument.",
            "Return for example `(gradient_of_the_first, None, NotImplemented)`: None is zero, "
            "NotImplemented is differenced.",
        )
    by_position = dict(enumerate(spread))
    names = site.frame.names()
    found = []
    for i, (position, leaf) in enumerate(
        zip(site.frame.call.positions, site.frame.call.leaves, strict=True)
    ):
        if site.wanted[i]:
            entry = by_position.get(position, NotImplemented)
            found.append(
                entry if _is_blank(entry) else _checked(site, "vjp", names[i], entry, leaf, finite)
            )
    return found


def _is_blank(leaf: Any) -> bool:
    return leaf is None or leaf is NotImplemented


def _read_tangent(site: Site, result: Any, pushed: Array) -> None:
    form = site.frame.form
    leaves = _tree.spread(result, form.structure)
    if leaves is None:
        raise BadResult(
            f"The `jvp` of `{site.frame.box.name}` returned another structure than its output has.",
            "It must return one tangent for each output, or None for zero.",
            "Return the tangents in the nesting of the result: for example `(tangent, None)`.",
        )
    for i, (output, leaf) in enumerate(zip(form.outputs, leaves, strict=True)):
        if output.has_derivative and leaf is not None:
            array = _checked(site, "jvp", f"output {i}", leaf, output, True)
            if output.kind == "complex":
                array = np.ascontiguousarray(array, np.complex128)[..., None].view(np.float64)
            pushed[:, output.start : output.stop] = array.reshape(len(pushed), -1)


def _checked(
    site: Site, kind: str, what: str, leaf: Any, form: Leaf | Output, finite: bool
) -> Array:
    """Return the numbers of a rule's result.

    Torch itself would take a gradient of shape (1, 2) for an input of shape (2,).
    """
    name = site.frame.box.name
    expected = (1, *form.shape) if site.frame.box.vectorized else form.shape
    try:
        read = _results.read_leaf(name, leaf)
    except BadResult:
        raise BadResult(
            f"The `{kind}` of `{name}` returned {article(type(leaf).__name__)} for {what}.",
            f"A derivative is a tensor, an array, a number{_others[kind]}.",
            f"Return it in shape {expected}, for example with `torch.as_tensor(…)`.",
        ) from None
    if not isinstance(read, Read) or read.array.shape != expected:
        got = f"shape {read.array.shape}" if isinstance(read, Read) else shown(leaf)
        raise BadResult(
            f"The `{kind}` of `{name}` returned {got} for {what}, whose shape is {expected}.",
            "A derivative has the shape of what it belongs to; nothing is broadcast.",
            f"Return it in shape {expected}, for example with `.reshape({expected})`.",
        )
    if finite and not np.isfinite(read.array).all():
        raise BadResult(
            f"The `{kind}` of `{name}` returned nan or inf for {what}.",
            "Every derivative must be finite.",
            _remedy(kind, "there: then it is differenced"),
        )
    array = read.array.astype(np.complex128 if np.iscomplexobj(read.array) else np.float64)
    array = array[0] if site.frame.box.vectorized else array
    is_complex = form.dtype is not None and form.dtype.is_complex
    return array if is_complex else array.real
