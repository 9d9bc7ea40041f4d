"""A block as a SPICE netlist, and ngspice as its judge."""
