"""The static experiment, small: its network is what it says, and its gradients are as exact as they must be."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

import ffebm_compiler as fc
from examples import networks
from examples.static_gradients import main


def test_the_network_has_fifteen_layers_in_six_blocks_with_six_feedforward_ones() -> None:
    net = networks.fifteen_layers(torch.Generator().manual_seed(0), [4] * 6)
    model = fc.convert(net, block_sizes=networks.STATIC_SIZES)
    assert [b.size for b in model.blocks] == list(networks.STATIC_SIZES)
    assert sum(networks.STATIC_SIZES) == 15
    assert len(set(networks.STATIC_SIZES)) > 1
    assert [[o.label for o in b.origins] for b in model.program.digital_blocks] == [
        ["norm0"],
        *([f"pool{k}", f"norm{k}"] for k in range(1, 6)),
    ]
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.slow
def test_it_compares_every_parameter_and_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--out", str(tmp_path)]) == 0
    with (tmp_path / "gradients.csv").open() as file:
        rows = list(csv.DictReader(file))
    centered = [r for r in rows if r["estimator"] == "EP centered, float64"]
    assert len(centered) == 2 * 15 + 2 * 6
    assert min(float(r["cosine"]) for r in centered if r["exact gradient is zero"] == "False") >= 0.99999
    assert sum(r["exact gradient is zero"] == "True" for r in centered) < 4
    shown = capsys.readouterr().out
    assert "15 weighted layers in 6 energy-based blocks of sizes [3, 2, 4, 2, 1, 3], 6 feedforward blocks" in shown
    assert (tmp_path / "gradients.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "metrics.json").exists()


def test_the_wrong_number_of_widths_is_one_message() -> None:
    with pytest.raises(fc.OptionError, match="--widths"):
        main(["--widths", "8,8"])
