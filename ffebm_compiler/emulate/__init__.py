"""How a block settles and learns on a chip."""

from .chip import Chip, mapped_terms
from .converters import Range, driven, quantised
from .learning import OnChip
from .phases import Phases
from .reading import Reading, Sample

__all__ = ["Chip", "OnChip", "Phases", "Range", "Reading", "Sample", "driven", "mapped_terms", "quantised"]
