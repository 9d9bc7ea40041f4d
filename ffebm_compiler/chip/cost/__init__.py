"""What a program costs on a chip: energy, time and area, by block and component, beside digital accelerators."""

from .constants import A100, ACCELERATORS, EYERISS, H100, Accelerator, Constant, CostModel, constants
from .count import count
from .estimate import estimate
from .result import Comparison, Cost, Row, Total
from .work import AnalogPart, DigitalPart, Layer, Signal, Work

__all__ = [
    "A100",
    "ACCELERATORS",
    "EYERISS",
    "H100",
    "Accelerator",
    "AnalogPart",
    "Comparison",
    "Constant",
    "Cost",
    "CostModel",
    "DigitalPart",
    "Layer",
    "Row",
    "Signal",
    "Total",
    "Work",
    "constants",
    "count",
    "estimate",
]
