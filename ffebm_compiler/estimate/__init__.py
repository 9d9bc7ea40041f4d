"""What is the gradient: equilibrium propagation in its forms, and the baselines it is compared with."""

from ..solve import Gradients
from .baselines import SPSA, Implicit, Unrolled
from .contrast import contrast
from .equilibrium_propagation import CenteredEP, OneSidedEP, TangentEP
from .estimator import Estimate, Estimator, FreePhase

__all__ = [
    "SPSA",
    "CenteredEP",
    "Estimate",
    "Estimator",
    "FreePhase",
    "Gradients",
    "Implicit",
    "OneSidedEP",
    "TangentEP",
    "Unrolled",
    "contrast",
]
