"""Where is the equilibrium: relaxation of the free phase, displacement of the nudged one, reverse gains."""

from .binding import BoundBlock, States
from .displacement import Linearisation, displace
from .loop_gain import Certificate, Gains, bounded_gains, certify, unit_gains
from .relaxation import Equilibrium, Relaxation, Tolerance, differentiable_sweep, relax

__all__ = [
    "BoundBlock",
    "Certificate",
    "Equilibrium",
    "Gains",
    "Linearisation",
    "Relaxation",
    "States",
    "Tolerance",
    "bounded_gains",
    "certify",
    "differentiable_sweep",
    "displace",
    "relax",
    "unit_gains",
]
