"""Backends: what a compiled model is lowered to."""

from .execution import Execution
from .protocol import Backend
from .torch_ep import FFEBM, TorchEP

__all__ = ["FFEBM", "Backend", "Execution", "TorchEP"]
