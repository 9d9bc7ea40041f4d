"""ffebm_compiler: feedforward PyTorch models compiled to feedforward-tied energy-based models.

>>> import torch, ffebm_compiler as fc
>>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
>>> model = fc.convert(net, block_size=2)
>>> model(torch.randn(3, 8)).shape
torch.Size([3, 4])
"""

from .api import convert, explain
from .chip.hardware import Hardware, LogLaw
from .compare import GradientComparison, compare_gradients
from .errors import (
    ConvergenceWarning,
    ConversionWarning,
    DerivativeError,
    FFEBMError,
    GradientWarning,
    InputError,
    OptionError,
    PartitionError,
    Problem,
    TraceError,
    VerificationError,
)
from .estimate import SPSA, CenteredEP, Implicit, OneSidedEP, TangentEP, Unrolled
from .ffebm import FFEBM, AnalogFFEBM
from .former_names import find_former_names
from .train.processes import synchronised, unsynchronised

find_former_names()

__version__ = "0.1.0"

__all__ = [
    "FFEBM",
    "SPSA",
    "AnalogFFEBM",
    "CenteredEP",
    "ConvergenceWarning",
    "ConversionWarning",
    "DerivativeError",
    "FFEBMError",
    "GradientComparison",
    "GradientWarning",
    "Hardware",
    "Implicit",
    "InputError",
    "LogLaw",
    "OneSidedEP",
    "OptionError",
    "PartitionError",
    "Problem",
    "TangentEP",
    "TraceError",
    "Unrolled",
    "VerificationError",
    "__version__",
    "compare_gradients",
    "convert",
    "explain",
    "synchronised",
    "unsynchronised",
]
