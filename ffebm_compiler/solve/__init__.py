"""Where is the equilibrium: relaxation of the free phase, displacement of the nudged one, reverse gains."""

from .binding import BoundBlock, States
from .contraction import Contraction
from .derivatives.automatic import AUTOMATIC, Automatic
from .derivatives.explicit import EXPLICIT, Explicit
from .derivatives.interface import Differentiation, Gradients, Interaction, Linearised, gradients_of
from .derivatives.linearisation import Linearisation
from .displacement import displace
from .gain_following import followed_gains
from .iteration import Relaxation
from .loop_gain import Certificate, Gains, bounded_gains, certify, contraction_of, unit_gains
from .relaxation import Equilibrium, differentiable_sweep, relax
from .tolerance import Tolerance

__all__ = [
    "AUTOMATIC",
    "EXPLICIT",
    "Automatic",
    "BoundBlock",
    "Certificate",
    "Contraction",
    "Differentiation",
    "Equilibrium",
    "Explicit",
    "Gains",
    "Gradients",
    "Interaction",
    "Linearisation",
    "Linearised",
    "Relaxation",
    "States",
    "Tolerance",
    "bounded_gains",
    "certify",
    "contraction_of",
    "differentiable_sweep",
    "displace",
    "followed_gains",
    "gradients_of",
    "relax",
    "unit_gains",
]
