"""Backends: what the energy-based blocks of a converted model run on."""

from ..model.execution import Execution
from .analog_emu.backend import analog_emu
from .analog_emu.substrate import ChipSubstrate
from .protocol import Backend, Substrate
from .registry import backend, backend_names
from .torch_ep import TorchEP, torch_ep

__all__ = [
    "Backend",
    "ChipSubstrate",
    "Execution",
    "Substrate",
    "TorchEP",
    "analog_emu",
    "backend",
    "backend_names",
    "torch_ep",
]
