"""The compiler's passes, in order: trace, canonicalize, legality, partition, derive, verify.

Each is a function from one stage's type to the next, in a file of its name:

    nn.Module -> Traced -> Canonical -> Legal -> Partitioned -> Program -> Verification
"""

from .alike import depends_on_mode, fingerprint
from .canonicalize import Canonical, canonicalize
from .choices import Choice, check_choices, first_names
from .derive import derive
from .doubts import norm_doubts, rule_doubts
from .legality import KEPT_DIGITAL, NORMS, Legal, legality
from .nesting import room_for
from .norm_statistics import NO_STATISTICS, Statistics, statistics_of
from .own_copy import own_copy, share_root
from .partition import Partitioned, partition
from .running_modules import holds
from .stages import Signature, Traced
from .state import Owned, State
from .trace import trace
from .verify import Verification, verify

__all__ = [
    "KEPT_DIGITAL",
    "NORMS",
    "NO_STATISTICS",
    "Canonical",
    "Choice",
    "Legal",
    "Owned",
    "Partitioned",
    "Signature",
    "State",
    "Statistics",
    "Traced",
    "Verification",
    "canonicalize",
    "check_choices",
    "depends_on_mode",
    "derive",
    "fingerprint",
    "first_names",
    "holds",
    "legality",
    "norm_doubts",
    "own_copy",
    "partition",
    "room_for",
    "rule_doubts",
    "share_root",
    "statistics_of",
    "trace",
    "verify",
]
