"""Nested arguments and results: the only file that knows where torch keeps its pytrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch.utils import _pytree as pytree

from suture.errors import MethodError, shown

# torch.utils._pytree is private, and yet the pytrees of torch.func: what users register for
# torch.func works here too. optree is public, but treats None as a node and not as a leaf.
Structure: TypeAlias = pytree.TreeSpec


LEAF: Structure = pytree.tree_structure(0)
"""The structure of one leaf by itself."""


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """Return the leaves of `tree` and its structure."""
    return pytree.tree_flatten(tree)


def unflatten(leaves: Sequence[Any], structure: Structure) -> Any:
    """Put `leaves` back into `structure`."""
    return pytree.tree_unflatten(list(leaves), structure)


def paths(tree: Any) -> list[str]:
    """Return where each leaf of `tree` is, as one would type it: `[0]['mass'].x`."""
    return [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(tree)[0]]


def opened(structure: Structure) -> tuple[Any, Any, list[Structure]]:
    """Return the type of a node (None for a leaf), its context, and the nodes below."""
    kind: Any = structure.type
    below = getattr(structure, "children", None)  # a method; before torch 2.10 only a field
    return kind, structure.context, below() if below else structure.children_specs


def broadcast(
    prefix: Any,
    structure: Structure,
    count: int,
    keyword: str,
    example: str = "0",
    given: Any = None,
) -> list[Any]:
    """Spread a prefix of the positional arguments over all leaves, as `in_dims` is.

    Args:
        prefix: a tree that may end earlier than the arguments; where it ends, its leaf counts
            for all leaves below.
        structure: the nesting of (args, kwargs); keyword-only arguments get None.
        count: the number of positional arguments.
        keyword: the user's word for the prefix, for the message.
        example: an entry of such a prefix, for the message.
        given: the prefix as the user wrote it, for the message.

    Raises:
        MethodError: if `prefix` does not fit.
    """
    leaves = spread((prefix, None), structure)
    if leaves is None:
        typed = shown(prefix if given is None else given)
        entries = ", ".join([example] * min(count, 1) + ["None"] * (count - 1))
        raise MethodError(
            f"`{keyword}={typed}` does not fit a call with {count} positional argument"
            f"{'' if count == 1 else 's'}.",
            f"`{keyword}` is a prefix of the tuple of positional arguments, as `in_dims` is in "
            "`torch.vmap`.",
            f"Give one entry for each positional argument, for example "
            f"`{keyword}=({entries}{',' if count == 1 else ''})`.",
        )
    return leaves


def spread(prefix: Any, structure: Structure) -> list[Any] | None:
    """Return the leaf of `prefix` for each leaf of `structure`, None if it is no prefix."""
    leaves: list[Any] | None = pytree._broadcast_to_and_flatten(prefix, structure)
    return leaves


def outline(structure: Structure) -> str:
    """Return a structure as it would be typed, with `*` for the leaves: `(*, [*])`."""
    leaves = [_Star() for _ in range(structure.num_leaves)]
    return shown(unflatten(leaves, structure))


class _Star:
    def __repr__(self) -> str:
        return "*"
