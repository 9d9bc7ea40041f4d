"""Generated code: training steps and training scripts, as Python that a person reads."""

from .emit import training_code

__all__ = ["training_code"]
