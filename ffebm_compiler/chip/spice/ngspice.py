"""Runs ngspice (http://ngspice.sourceforge.net) in batch mode, and does not take its exit status for an answer.

ngspice ends with status 0 after a floating node, an analysis that did not converge or a transient that gave up: its
messages are read.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from ...errors import FFEBMError
from .rawfile import Plot, read_raw

logger = logging.getLogger(__name__)

SECONDS = 600.0
_INSTALL = (
    "Install it: apt install ngspice (Debian, Ubuntu), brew install ngspice (macOS), or see ngspice.sourceforge.net."
)
_FATAL = re.compile(
    r"singular matrix|no dc path|no convergence|non-?convergence|timestep too small|iteration limit|"
    r"transient op failed|simulation\(s\) aborted|analysis not run|"
    r"\berror\b|\bfatal\b|could not find|can't (find|open)|unknown (subckt|parameter|device)|too few|too many|"
    r"undefined|doanalyses",
    re.IGNORECASE,
)
_HARMLESS = re.compile(
    r"dynamic gmin|true gmin|source stepping|gmin stepping|No \.measure possible|Remove rawfile|interactive mode",
    re.IGNORECASE,
)


class SimulatorError(FFEBMError, RuntimeError):
    """ngspice is missing, took too long, or could not simulate a netlist."""


def find_ngspice() -> str:
    """The path of the program.

    Raises:
        SimulatorError: it is not installed.
    """
    program = shutil.which("ngspice")
    if program is None:
        raise SimulatorError.at("ngspice", "is not installed, or not on the PATH", _INSTALL)
    return program


def run_netlist(text: str, name: str = "netlist", seconds: float = SECONDS) -> tuple[Plot, ...]:
    """Simulates a netlist given as text; see :func:`run_file`."""
    with tempfile.TemporaryDirectory(prefix="ffebm_spice_") as folder:
        path = Path(folder) / "netlist.cir"
        path.write_text(text, encoding="utf-8")
        return run_file(path, name, seconds)


def run_file(path: Path, name: str | None = None, seconds: float = SECONDS) -> tuple[Plot, ...]:
    """Simulates a netlist and returns its plots, one an analysis.

    Args:
        name: what errors call it.
        seconds: ngspice is stopped after that long.

    Raises:
        SimulatorError: ngspice is missing, too slow, or says that something is wrong.
    """
    program, name = find_ngspice(), name or path.name
    with tempfile.TemporaryDirectory(prefix="ffebm_raw_") as folder:
        raw = Path(folder) / "out.raw"
        messages = _run([program, "-n", "-b", "-r", str(raw), str(path.resolve())], folder, name, seconds)
        if complaints := _complaints(messages):
            what = f"ngspice says: {complaints}"
            raise SimulatorError.at(f"netlist {name}", what, "Run ngspice -b on it to see all.")
        if not raw.is_file():
            raise SimulatorError.at(
                f"netlist {name}", f"gave no result: {_last_lines(messages)}", "Run ngspice -b on it to see why."
            )
        return read_raw(raw.read_bytes(), f"ngspice's result for {name}")


def _run(command: list[str], folder: str, name: str, seconds: float) -> str:
    """Its messages, from both of its streams."""
    environment = {k: v for k, v in os.environ.items() if k != "SPICE_ASCIIRAWFILE"}
    logger.debug("running %s", " ".join(command))
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as failure:
        raise SimulatorError.at(
            f"netlist {name}",
            f"was stopped after {seconds:g} s",
            "Give it longer, shorten the transient, or export a smaller block.",
        ) from failure
    messages = done.stdout.decode("utf-8", errors="replace")
    if done.returncode != 0:
        raise SimulatorError.at(
            f"netlist {name}",
            f"made ngspice end with status {done.returncode}: {_complaints(messages) or _last_lines(messages)}",
            "Run ngspice -b on it to see why.",
        )
    return messages


def _complaints(messages: str) -> str:
    """The first three lines in which it says what is wrong."""
    bad = [line.strip() for line in messages.splitlines() if _FATAL.search(line) and not _HARMLESS.search(line)]
    return "; ".join(bad[:3])[:400]


def _last_lines(messages: str) -> str:
    return "; ".join(line.strip() for line in messages.strip().splitlines()[-3:])[:400] or "it said nothing"
