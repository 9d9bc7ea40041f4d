"""The compiler's passes, in order: trace, canonicalize, legality, partition, derive, verify.

Each is a function from one stage's type to the next, in a file of its name:

    nn.Module -> Traced -> Canonical -> Legal -> Partitioned -> Program -> Verification
"""

from .canonicalize import Canonical, canonicalize
from .derive import derive
from .legality import KEPT_DIGITAL, NORMS, Choice, Legal, legality
from .partition import Partitioned, partition
from .trace import Signature, Traced, trace
from .verify import Verification, verify

__all__ = [
    "KEPT_DIGITAL",
    "NORMS",
    "Canonical",
    "Choice",
    "Legal",
    "Partitioned",
    "Signature",
    "Traced",
    "Verification",
    "canonicalize",
    "derive",
    "legality",
    "partition",
    "trace",
    "verify",
]
