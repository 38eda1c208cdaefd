"""How a derivative is obtained: mathematics only."""

from __future__ import annotations

from suture._methods._adaptive import AdaptiveDifference
from suture._methods._along import reach_of
from suture._methods._base import (
    AbstractMethod,
    Contract,
    Linearization,
    NoFiniteValue,
    Points,
    Primal,
    Remarks,
    Room,
    column_scale,
    contract,
    output_size,
)
from suture._methods._custom_vjp import CustomVJP
from suture._methods._displace import rounded, unit_length
from suture._methods._finite_difference import FiniteDifference

__all__ = [
    "AbstractMethod",
    "AdaptiveDifference",
    "Contract",
    "CustomVJP",
    "FiniteDifference",
    "Linearization",
    "NoFiniteValue",
    "Points",
    "Primal",
    "Remarks",
    "Room",
    "column_scale",
    "contract",
    "output_size",
    "reach_of",
    "rounded",
    "unit_length",
]
