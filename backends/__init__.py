"""Backends: what a compiled model is lowered to."""

from .protocol import Backend
from .torch_ep import FFEBM, Execution, TorchEP

__all__ = ["FFEBM", "Backend", "Execution", "TorchEP"]
