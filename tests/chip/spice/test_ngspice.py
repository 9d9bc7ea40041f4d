"""ngspice's complaints become errors, though it ends with status 0."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from ffebm_compiler.chip.spice import SimulatorError
from ffebm_compiler.chip.spice.ngspice import run_netlist

needs_ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")


@needs_ngspice
def test_a_divider() -> None:
    (plot,) = run_netlist("* divider\nV1 a 0 3\nR1 a b 1k\nR2 b 0 2k\n.op\n.end\n")
    assert float(plot.column("v(b)")[0]) == pytest.approx(2.0, rel=1e-9)


@needs_ngspice
@pytest.mark.parametrize(
    "body",
    [
        "I1 0 a 1u\nC1 a 0 1p\n.op",  # a floating node
        "V1 a 0 1\nV2 a 0 2\n.op",  # two voltages on one node
        "Xn a b nothing\n.op",  # a subcircuit that is missing
        "R1 a 0 {unknown}\nI1 0 a 1\n.op",
        "B1 a 0 v=foo(v(a))\n.op",
        "R1 a 0 1k\nI1 0 a 1",  # no analysis
        "this is not spice\n.op",
        "",
    ],
)
def test_complaints(body: str) -> None:
    with pytest.raises(SimulatorError, match="netlist bad"):
        run_netlist(f"* bad\n{body}\n.end\n", "bad")


@needs_ngspice
def test_the_time_limit() -> None:
    endless = "* endless\nV1 a 0 sin(0 1 1g)\nR1 a b 1k\nC1 b 0 1n\n.tran 1p 1 0 1p\n.end\n"
    with pytest.raises(SimulatorError, match=r"was stopped after 0\.5 s"):
        run_netlist(endless, seconds=0.5)


def test_a_missing_program_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SimulatorError, match="apt install ngspice"):
        run_netlist("* any\n.end\n")


@pytest.mark.parametrize(
    ("script", "what"),
    [("exit 3", "status 3"), ("echo hello", "gave no result: hello"), ("echo 'Error: it broke'", "it broke")],
)
def test_a_program_that_fails(script: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "ngspice"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(SimulatorError, match=what):
        run_netlist("* any\n.end\n")
