"""How a derivative is obtained: mathematics only."""

from __future__ import annotations

from suture._methods._adaptive import AdaptiveDifference
from suture._methods._base import (
    AbstractMethod,
    Contract,
    Linearization,
    Points,
    Primal,
    Room,
    contract,
)
from suture._methods._custom_vjp import CustomVJP
from suture._methods._displace import unit_length
from suture._methods._finite_difference import FiniteDifference

__all__ = [
    "AbstractMethod",
    "AdaptiveDifference",
    "Contract",
    "CustomVJP",
    "FiniteDifference",
    "Linearization",
    "Points",
    "Primal",
    "Room",
    "contract",
    "unit_length",
]
