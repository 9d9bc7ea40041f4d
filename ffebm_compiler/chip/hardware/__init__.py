"""What a chip is: its specification, its devices, and one block as a circuit."""

from .circuit import Bank, Circuit, Edge
from .quantity import LogLaw, Quantity
from .specification import Hardware, defaults, quantities
from .streams import stream

__all__ = ["Bank", "Circuit", "Edge", "Hardware", "LogLaw", "Quantity", "defaults", "quantities", "stream"]
