"""Backends: what a compiled model is lowered to."""

from ..model.execution import Execution
from .analog_emu.emulated import AnalogEmu, AnalogFFEBM
from .protocol import Backend
from .torch_ep import FFEBM, TorchEP

__all__ = ["FFEBM", "AnalogEmu", "AnalogFFEBM", "Backend", "Execution", "TorchEP"]
