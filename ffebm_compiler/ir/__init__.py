"""The frozen data that the compiler's passes hand to each other and to the backends."""

from .blocks import DigitalBlock, EnergyBlock, Program, Ref, State, Step, references
from .coupling import Coupling, Operand, Operation, Term, Weight
from .energy import Energy
from .kind import OTHER, Array, Kind, Options
from .origin import Origin
from .potential import IDENTITY, Potential

__all__ = [
    "IDENTITY",
    "OTHER",
    "Array",
    "Coupling",
    "DigitalBlock",
    "Energy",
    "EnergyBlock",
    "Kind",
    "Operand",
    "Operation",
    "Options",
    "Origin",
    "Potential",
    "Program",
    "Ref",
    "State",
    "Step",
    "Term",
    "Weight",
    "references",
]
