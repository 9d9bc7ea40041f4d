"""``ffebm spice-check``: its table, its exit status, its errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ffebm_compiler.cli import main

needs_ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")

NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:net"


@needs_ngspice
@pytest.mark.parametrize(
    "chip", ["", 'physics = "resistive"\n', "offset = 0.01\ngain_mismatch = 0.02\nprogramming_error = 0.02\n"]
)
def test_a_model_passes(chip: str, net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chip.toml").write_text(chip)
    assert main(["spice-check", net, "--hardware", str(tmp_path / "chip.toml"), "--chip-seed", "3"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split("  ")[0] == "netlist"
    assert [row.split()[0] for row in rows[1:]] == ["block1.cir", "block2.cir"]
    assert all(row.endswith(" ok") for row in rows[1:])


@needs_ngspice
def test_a_folder_is_kept_and_checked_again(net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "netlists"
    assert main(["spice-check", net, "-o", str(folder)]) == 0
    assert main(["spice-check", str(folder)]) == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    values = manifest["netlists"][0]["banks"][-1]["expected"]
    values[0] += 0.01 * max(map(abs, values))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert main(["spice-check", str(folder)]) == 1
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert first.endswith("differs")
    assert second.endswith(" ok")
    assert main(["spice-check", str(folder), "--within", "0.1"]) == 0


@needs_ngspice
def test_bad_options_all_at_once(net: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spice-check", net, "--within", "-1", "--seconds", "nan"]) == 2
    error = capsys.readouterr().err
    assert "option --within: is -1.0" in error
    assert "option --seconds: is nan" in error


@needs_ngspice
def test_a_folder_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spice-check", str(tmp_path)]) == 2
    assert "holds no manifest.json" in capsys.readouterr().err


def test_without_ngspice(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["spice-check", net]) == 2
    assert "apt install ngspice" in capsys.readouterr().err


@needs_ngspice
def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spice-check", str(tmp_path / "netlist")]) == 2
    assert "netlist: does not exist" in capsys.readouterr().err


@needs_ngspice
def test_options_of_a_chip_beside_netlists_are_refused(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "netlists")
    assert main(["spice-check", net, "-o", folder]) == 0
    capsys.readouterr()
    assert main(["spice-check", folder, "--hardware", "rram", "--chip-seed", "3"]) == 2
    error = capsys.readouterr().err
    assert "option --hardware: is given" in error
    assert "option --chip-seed: is given" in error


@needs_ngspice
def test_a_damaged_netlist_is_an_error_with_what_ngspice_says(
    net: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "netlists"
    assert main(["spice-check", net, "-o", str(folder)]) == 0
    netlist = folder / "block1.cir"
    netlist.write_text(netlist.read_text().replace("tau=", "tau=x"))
    capsys.readouterr()
    assert main(["spice-check", str(folder)]) == 2
    assert "Undefined parameter [x" in capsys.readouterr().err
