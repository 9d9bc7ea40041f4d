"""Runs and trains a bundle: digital parts in onnxruntime, blocks in the torch executor or on an emulated chip."""

from .load import load
from .runtime import Runtime
from .trainer import Trainer

__all__ = ["Runtime", "Trainer", "load"]
