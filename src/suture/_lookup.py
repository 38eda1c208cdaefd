"""Which points a memo knows: the keys of one frame's points."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import MethodType
from typing import Any

import cloudpickle

from suture._fingerprint import fingerprint
from suture._frame import Frame
from suture._memo import Memo
from suture.errors import MethodError, shown

# What `check` writes down about functions that returned two values for the same arguments.
RANDOM = "random"


class Lookup:
    """A memo, as one frame sees it.

    A key holds all that a value may depend on: the code of the function or the user's version of
    it, every argument as the function receives it, the precisions that torch was set to, whether
    points are stacked (a function may reduce over dimension 1 in both ways), and whether the
    modules that it holds are in train mode.
    """

    def __init__(self, memo: Memo, frame: Frame) -> None:
        """Take the fingerprint of the function as it is now.

        Raises:
            MethodError: if the function was found to be random, or has no fingerprint.
        """
        box = frame.box
        self._memo, self._frame = memo, frame
        self._print = fingerprint(box.fn, box.name, memo.version)
        if memo.version is not None:
            _refuse_namesakes(memo, box.fn, box.name)
        if not memo.allow_random and memo.is_noted(self._print, RANDOM):
            raise _is_random(box.name)
        self._precision = (
            f"{box.dtype} {frame.ambient.dtype} {frame.ambient.device} "
            f"{'stacked' if box.vectorized else 'single'} {frame.modes}"
        )

    def key(self, tensors: Sequence[Any]) -> bytes:
        """Return the key of the point whose tensor arguments are these."""
        frame = self._frame
        leaves: Sequence[Any] = tensors
        if not frame.call.bare:
            leaves = list(frame.constants)
            for position, tensor in zip(frame.call.positions, tensors, strict=True):
                leaves[position] = tensor
        return self._memo.key(self._print, frame.call.structure, leaves, self._precision)

    def find(self, key: bytes) -> Any:
        """Return the result of a point, None if it is not known."""
        return self._memo.get(key)

    def keep(self, key: bytes, result: Any) -> Any:
        """Write the result of a point, and return the one that all go on with."""
        return self._memo.put(key, result)

    def has_established(self, facts: Iterable[Any]) -> bool:
        """Return whether all of these claims about the function were checked, by whomever."""
        return all(self._memo.is_noted(self._print, self._worded(fact)) for fact in facts)

    def establish(self, facts: Iterable[Any]) -> None:
        """Write down that these claims hold: a run that is resumed need not check them again."""
        for fact in facts:
            self._memo.note(self._print, self._worded(fact))

    def _worded(self, fact: Any) -> str:
        return f"{fact} {self._precision}"


def _refuse_namesakes(memo: Memo, fn: Callable[..., Any], name: str) -> None:
    """Raise if another living function has the same name: a version cannot tell them apart.

    Two instances with one method, two `partial`s of one function, two lambdas. Copies are equal.
    """
    own = _owner(fn)
    other = memo.owners.get(name, lambda: None)()
    if other is own:
        return
    if other is not None and not _is_copy(own, other):
        raise MethodError(
            f"Two functions named `{name}` use the version {shown(memo.version)} of one memo.",
            "With a version, a memo knows a function by its name: it would give one of them the "
            "values of the other.",
            f'Give one another name, `differentiable({name}, name="{name} 2")`; or, if it '
            "replaces the other, open the file by another `Memo`.",
        )
    with suppress(TypeError):  # what cannot be held weakly cannot be watched
        memo.owners[name] = weakref.ref(own)


def _owner(fn: Any) -> Any:
    """Return what makes a function another one: the object of a method, which is made anew."""
    return fn.__self__ if isinstance(fn, MethodType) else fn


def _is_copy(one: Any, other: Any) -> bool:
    try:
        return bool(cloudpickle.dumps(one) == cloudpickle.dumps(other))
    except Exception:  # whatever a pickle may raise
        return False


def _is_random(name: str) -> MethodError:
    return MethodError(
        f"`{name}` returned different values for the same arguments when `check` looked.",
        "A memo would return the first draw for ever, and never another one.",
        f"Pass the seed to `{name}` as an argument; or, if the first draw is what you want, "
        "`Memo(path, allow_random=True)`.",
    )
