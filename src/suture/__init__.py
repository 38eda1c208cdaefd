"""Suture: functions that PyTorch cannot differentiate, trainable inside PyTorch models."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from suture import directions, errors, executors, functions, methods, stencils
    from suture._check import check
    from suture._differentiable import differentiable
    from suture._memo import Memo
    from suture._methods import AbstractMethod, AdaptiveDifference, CustomVJP, FiniteDifference
    from suture._module import Differentiable
    from suture._record import record
    from suture._report import report
    from suture._stencil import Stencil

__version__ = "0.1.0.dev0"

__all__ = [
    "AbstractMethod",
    "AdaptiveDifference",
    "CustomVJP",
    "Differentiable",
    "FiniteDifference",
    "Memo",
    "Stencil",
    "check",
    "differentiable",
    "directions",
    "errors",
    "executors",
    "functions",
    "methods",
    "record",
    "report",
    "stencils",
]

_HOMES = {
    "AbstractMethod": "_methods",
    "AdaptiveDifference": "_methods",
    "CustomVJP": "_methods",
    "Differentiable": "_module",
    "FiniteDifference": "_methods",
    "Memo": "_memo",
    "Stencil": "_stencil",
    "check": "_check",
    "differentiable": "_differentiable",
    "record": "_record",
    "report": "_report",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use: `suture --help` need not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module 'suture' has no attribute {name!r}")
    if name in _HOMES:
        value = getattr(import_module(f"suture.{_HOMES[name]}"), name)
    else:
        value = import_module(f"suture.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
