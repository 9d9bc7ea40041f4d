"""Nonlinear resistive networks of resistors, diodes and amplifiers: where they settle, what they learn."""

from .gradients import ConductanceGradients, conductance_gradients, nudges, weight_gradients
from .magnitudes import Pair
from .network import Drives, dissipated_power, energy
from .realisation import Realisation, realise, totals
from .solver import solve
from .unrolling import unroll

__all__ = [
    "ConductanceGradients",
    "Drives",
    "Pair",
    "Realisation",
    "conductance_gradients",
    "dissipated_power",
    "energy",
    "nudges",
    "realise",
    "solve",
    "totals",
    "unroll",
    "weight_gradients",
]
