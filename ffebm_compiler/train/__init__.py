"""Training: the autograd bridge of a block, digital parts, and the steps that generated code is made of."""

from .digital import attribute, run_digital
from .operator import BlockCall, free_phase, out_of_sight, run_block

__all__ = ["BlockCall", "attribute", "free_phase", "out_of_sight", "run_block", "run_digital"]
