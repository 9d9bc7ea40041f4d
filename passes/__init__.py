"""The compiler's passes, in order: trace, canonicalize, legality, partition, derive, verify.

Each is a function from one stage's type to the next, in a file of its name:

    nn.Module -> Traced -> Canonical -> Legal -> Partitioned -> Program -> Verification

What they are made of stands in folders that see each other in this order: ``graph`` (what a traced graph says),
``tracing`` (torch.fx), ``export`` (torch.export), and ``watching`` (what later calls are held to).
"""

from .canonicalize import Canonical, canonicalize
from .choices import Choice, check_choices, first_names, unused_rules
from .derive import derive
from .legality import KEPT_DIGITAL, NORMS, Legal, legality
from .modes import depends_on_mode, fingerprint
from .network_copy import copy_network, room_for, share_root
from .norm_statistics import NO_STATISTICS, Statistics, barely_known_norms, statistics_of
from .partition import Partitioned, partition
from .stages import Signature, Traced
from .trace import trace
from .tracing.state import Owned, State
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
    "barely_known_norms",
    "canonicalize",
    "check_choices",
    "copy_network",
    "depends_on_mode",
    "derive",
    "fingerprint",
    "first_names",
    "legality",
    "partition",
    "room_for",
    "share_root",
    "statistics_of",
    "trace",
    "unused_rules",
    "verify",
]
