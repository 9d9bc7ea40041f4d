"""The compiler's passes, in order: trace, canonicalize, legality, partition, derive, verify.

Each is a function from one stage's type to the next, in a file of its name:

    nn.Module -> Traced -> Canonical -> Legal -> Partitioned -> Program -> Verification
"""

from .alike import depends_on_mode, fingerprint
from .canonicalize import Canonical, canonicalize
from .derive import derive
from .legality import KEPT_DIGITAL, NORMS, Choice, Legal, legality
from .nesting import room_for
from .own_copy import own_copy, share_root
from .partition import Partitioned, partition
from .stages import Signature, Traced
from .trace import trace
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
    "depends_on_mode",
    "derive",
    "fingerprint",
    "legality",
    "own_copy",
    "partition",
    "room_for",
    "share_root",
    "trace",
    "verify",
]
