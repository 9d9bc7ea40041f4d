"""The digital parts, and the whole ff-EBM, as ONNX."""

from .interface import FORWARD, KINDS, TRAINING, VJP, WEIGHTS, ExportedPart, Interface, PartGraph, Port, Unexportable

__all__ = [
    "FORWARD",
    "KINDS",
    "TRAINING",
    "VJP",
    "WEIGHTS",
    "ExportedPart",
    "Interface",
    "PartGraph",
    "Port",
    "Unexportable",
]
