"""A block as a SPICE netlist, and ngspice as its judge."""

from .check import Verdict, check_netlists, difference
from .folder import write_netlists
from .ngspice import SimulatorError, find_ngspice
from .solve import settling_time, solve_op, solve_tran, unrest
from .testbench import Bench, netlist

__all__ = [
    "Bench",
    "SimulatorError",
    "Verdict",
    "check_netlists",
    "difference",
    "find_ngspice",
    "netlist",
    "settling_time",
    "solve_op",
    "solve_tran",
    "unrest",
    "write_netlists",
]
