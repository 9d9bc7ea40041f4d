"""A block as a SPICE netlist, and ngspice as its judge."""

from .ngspice import SimulatorError, find_ngspice
from .solve import settling_time, solve_op, solve_tran
from .testbench import Bench, netlist

__all__ = ["Bench", "SimulatorError", "find_ngspice", "netlist", "settling_time", "solve_op", "solve_tran"]
