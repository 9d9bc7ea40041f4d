"""``python -m benchmarks``: what BP-EP costs, in times of backpropagation."""

import os

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # read when torch is loaded: waiting threads sleep instead of spinning

from benchmarks.speed.command import main
from examples import command

if __name__ == "__main__":
    command.run(main)
