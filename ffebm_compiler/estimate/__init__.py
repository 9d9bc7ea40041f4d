"""What is the gradient: equilibrium propagation in its forms, and the baselines it is compared with."""

from ..solve import Gradients
from .baselines import SPSA, Implicit, Unrolled
from .contrast import contrast
from .equilibrium_propagation import CenteredEP, OneSidedEP, TangentEP
from .estimator import Estimate, Estimator, FreePhase

ESTIMATORS = (CenteredEP, OneSidedEP, TangentEP, Implicit, Unrolled, SPSA)
"""Those of the library: what an error names, and what a bundle may ask for by its class's name."""

__all__ = [
    "ESTIMATORS",
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
