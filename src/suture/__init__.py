"""Suture: functions that PyTorch cannot differentiate, trainable inside PyTorch models."""

from suture import directions, errors, stencils
from suture._differentiable import Differentiable, differentiable
from suture._methods import AbstractMethod, CustomVJP, FiniteDifference
from suture._stencil import Stencil

__version__ = "0.1.0.dev0"

__all__ = [
    "AbstractMethod",
    "CustomVJP",
    "Differentiable",
    "FiniteDifference",
    "Stencil",
    "differentiable",
    "directions",
    "errors",
    "stencils",
]
