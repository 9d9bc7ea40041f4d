"""Blocks by name in torch's profiler, their free and nudged phases apart."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from ..ir import EnergyBlock

FREE, NUDGED = "free phase", "nudged phase"


def shown(block: EnergyBlock, phase: str) -> AbstractContextManager[object]:
    """``block1: free phase`` for the length of a ``with`` where a profiler runs; without one, nothing at no cost."""
    # private; without it a record_function is made in every phase, at a microsecond each
    running = torch.autograd.profiler._is_profiler_enabled
    return torch.profiler.record_function(f"{block.name}: {phase}") if running else nullcontext()
