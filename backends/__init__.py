"""Backends: what a compiled model is lowered to."""

from .analog_emu import AnalogEmu, AnalogFFEBM
from .execution import Execution
from .protocol import Backend
from .torch_ep import FFEBM, TorchEP

__all__ = ["FFEBM", "AnalogEmu", "AnalogFFEBM", "Backend", "Execution", "TorchEP"]
