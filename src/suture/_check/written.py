"""Methods, stencils and directions as they are typed."""

from __future__ import annotations

import dataclasses

from suture import stencils
from suture._methods import AbstractMethod, CustomVJP
from suture._stencil import Stencil
from suture.directions import AbstractDirections

_STENCILS = {
    "FORWARD": stencils.FORWARD,
    "BACKWARD": stencils.BACKWARD,
    "CENTRAL": stencils.CENTRAL,
    "COMPLEX_STEP": stencils.COMPLEX_STEP,
    "ONE_POINT": stencils.ONE_POINT,
    "central(4)": stencils.central(4),
    "central(6)": stencils.central(6),
    "richardson(2)": stencils.richardson(2),
    "richardson(3)": stencils.richardson(3),
    "shift()": stencils.shift(),
}


def written(value: object) -> str:
    """Return what makes a value, with `suture` imported: arguments that are defaults left out.

    Example:
        >>> from suture import FiniteDifference
        >>> written(FiniteDifference(stencils.CENTRAL, step=1e-3))
        'suture.FiniteDifference(suture.stencils.CENTRAL, step=0.001)'
    """
    if isinstance(value, CustomVJP):
        return "suture.CustomVJP(vjp)" if value.jvp is None else "suture.CustomVJP(vjp, jvp)"
    if isinstance(value, Stencil):
        known = [text for text, stencil in _STENCILS.items() if stencil == value]
        return f"suture.stencils.{known[0]}" if known else f"suture.{value!r}"
    home = _home(value)
    return repr(value) if home is None else f"{home}.{type(value).__name__}({_arguments(value)})"


def _home(value: object) -> str | None:
    """Return where a class is exported, None for one that is not the library's."""
    if not type(value).__module__.startswith("suture."):
        return None
    if isinstance(value, AbstractDirections):
        return "suture.directions"
    return "suture" if isinstance(value, AbstractMethod) else None


def _arguments(value: object) -> str:
    """Return them by position as long as none is left out and they are not mere options."""
    parts: list[str] = []
    in_order = True
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        inner = getattr(value, field.name)
        if inner == field.default:
            in_order = False
            continue
        is_required = field.default is dataclasses.MISSING
        in_order &= is_required or dataclasses.is_dataclass(inner)
        parts.append(written(inner) if in_order else f"{field.name}={written(inner)}")
    return ", ".join(parts)
