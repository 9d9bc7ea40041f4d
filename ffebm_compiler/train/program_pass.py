"""One pass over a program: digital parts and energy-based blocks in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..ir import EnergyBlock, Program
from .digital import run_digital

Values = dict[str, Any]
"""What a pass has computed, by the program's names."""


def run_program(
    program: Program,
    network: nn.Module,
    values: Values,
    block: Callable[[EnergyBlock, Values], Mapping[str, Any]],
    digital: Callable[..., Mapping[str, Any]] = run_digital,
) -> Values:
    """Runs a program.

    Args:
        network: what digital parts read modules and weights of.
        values: the program's inputs; what every step computes is added.
        block: the outputs of an energy-based block, from what has been computed before it.
        digital: the outputs of a digital part, likewise.

    Returns:
        ``values``.
    """
    for step in program:
        values.update(block(step, values) if isinstance(step, EnergyBlock) else digital(step, network, values))
    return values
