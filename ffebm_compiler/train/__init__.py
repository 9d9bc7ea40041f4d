"""Training: the autograd bridge of a block, and the emitter of the readable training loop."""

from .digital import attribute, run_digital
from .emit import training_code
from .operator import BlockCall, free_phase, out_of_sight, run_block

__all__ = ["BlockCall", "attribute", "free_phase", "out_of_sight", "run_block", "run_digital", "training_code"]
