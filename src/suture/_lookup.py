"""Which points a memo knows: the keys of one frame's points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from suture._fingerprint import fingerprint
from suture._frame import Frame
from suture._memo import Memo


class Lookup:
    """A memo, as one frame sees it.

    A key holds all that a value may depend on: the code of the function or the user's version of
    it, every argument as the function receives it, and the precisions that torch was set to.
    """

    def __init__(self, memo: Memo, frame: Frame) -> None:
        """Take the fingerprint of the function as it is now.

        Raises:
            MethodError: if the function was found to be random, or has no fingerprint.
        """
        box = frame.box
        self._memo, self._frame = memo, frame
        self._print = fingerprint(box.fn, box.name, memo.version)
        memo.refuse_random(self._print, box.name)
        self._precision = f"{box.dtype} {frame.ambient.dtype} {frame.ambient.device}"

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
