"""ffebm_compiler."""
from .api import convert
from .estimate import SPSA, CenteredEP, Implicit, OneSidedEP, TangentEP, Unrolled
