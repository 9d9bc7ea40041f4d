"""How a block settles and learns on a chip."""

from .chip import BIAS, Chip, mapped_terms
from .converters import Range, driven, quantised
from .learning import OnChip
from .phases import Phases
from .reading import Reading, Sample
from .resistors import realised
from .settling import settling_times
from .storage import load_chip, save_chip
from .unrolling import Drawing

__all__ = [
    "BIAS",
    "Chip",
    "Drawing",
    "OnChip",
    "Phases",
    "Range",
    "Reading",
    "Sample",
    "driven",
    "load_chip",
    "mapped_terms",
    "quantised",
    "realised",
    "save_chip",
    "settling_times",
]
