"""What was measured of a function: a frozen value, as bytes too."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from suture._tuning import Tuning
from suture._types import Array
from suture.errors import MethodError, shown

_ARRAYS = ("scale", "curvature", "slope", "arm", "origin")


class Calibration:
    """What was measured of a function: a frozen value, one `Tuning` for each form of call.

    It is made by the first gradient of the default method, printed readably, kept in the state
    dict, and may be taken from one `Differentiable` and given to another: `g.calibration =
    f.calibration`. An empty one is false; assigning None begins anew.

    Attributes:
        tunings: by the form of call that they belong to (names, dtypes and shapes without the
            batch, a star beside what was differentiated).

    Example:
        >>> print(Calibration())
        not calibrated
    """

    __slots__ = ("tunings",)

    def __init__(self, tunings: Mapping[str, Tuning] | None = None) -> None:
        """Take the tunings by the form of call that they belong to."""
        object.__setattr__(self, "tunings", MappingProxyType(dict(tunings or {})))

    tunings: Mapping[str, Tuning]

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: it is frozen."""
        raise AttributeError(f"a calibration is frozen; `{name}` cannot be set")

    def __bool__(self) -> bool:
        """Whether anything was measured."""
        return bool(self.tunings)

    def replaced(self, signature: str, tuning: Tuning) -> Calibration:
        """Return it with one tuning replaced."""
        return Calibration({**self.tunings, signature: tuning})

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive copying and pickling."""
        return Calibration.decoded, (self.encoded(),)

    def __eq__(self, other: object) -> bool:
        """Whether everything that was measured is the same, to the last bit."""
        return isinstance(other, Calibration) and self.encoded() == other.encoded()

    def __hash__(self) -> int:
        """Agree with equality."""
        return hash(self.encoded())

    def __repr__(self) -> str:
        """Return a line for each form of call."""
        lines = [f"{signature}: {tuning}" for signature, tuning in self.tunings.items()]
        return "\n".join(lines) or "not calibrated"

    def encoded(self) -> bytes:
        """Return it as bytes, empty for an empty one: arrays in NumPy's npz format, no pickle."""
        if not self.tunings:
            return b""
        arrays: dict[str, Array] = {}
        texts = []
        for i, (signature, tuning) in enumerate(self.tunings.items()):
            numbers = {
                field.name: getattr(tuning, field.name)
                for field in dataclasses.fields(tuning)
                if field.name not in _ARRAYS
            }
            texts.append([signature, numbers])
            arrays |= {f"{name}{i}": getattr(tuning, name) for name in _ARRAYS}
        text = np.frombuffer(json.dumps(texts).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, text=text, **arrays)
        return buffer.getvalue()

    @staticmethod
    def decoded(data: bytes) -> Calibration:
        """Return what `encoded` made bytes of.

        Raises:
            MethodError: if the bytes are something else.
        """
        if not data:
            return Calibration()
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                texts = json.loads(arrays["text"].tobytes().decode())
                return Calibration(
                    {
                        signature: Tuning(**numbers, **{n: arrays[f"{n}{i}"] for n in _ARRAYS})
                        for i, (signature, numbers) in enumerate(texts)
                    }
                )
        except Exception as error:
            raise MethodError(
                f"A calibration of {len(data)} bytes cannot be read: {shown(error)}.",
                "It is what `state_dict()` of a `Differentiable` holds, written by this version.",
                "Load without it: `f.calibration = None`; the next gradient calibrates again.",
            ) from error
