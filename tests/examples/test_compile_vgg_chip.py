"""The job on an emulated chip, small: its files, its numbers, one message for bad hardware, Ctrl-C and resume."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ffebm_compiler as fc
from examples import analog, checkpoints, command, compile_vgg, networks, training
from examples.compile_vgg import main

pytestmark = pytest.mark.slow

SMALL = [
    "--backend", "analog-emu", "--widths", "4,4", "--hidden", "8", "--limit", "150", "--batch", "40",
    "--epochs", "2", "--finetune-epochs", "2", "--rate", "0.01", "--chips", "1",
]  # fmt: skip
PICTURES = {
    "training.png",
    "gradients.png",
    *(f"{p}-{c}.png" for p in ("conductances", "cost") for c in ("rram", "harsh")),
    "ablation-harsh.png",
}
FILES = {
    "report.html",
    "report.txt",
    "metrics.json",
    "metrics.csv",
    "gradients.csv",
    "ablation.csv",
    "graph.html",
    "graph.svg",
    "digital.pt",
    "on-rram.pt",
    "on-harsh.pt",
    "chip-rram-6.npz",
    "chip-harsh-6.npz",
    "checkpoint.pt",
    "netlists",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chip")
    assert main([*SMALL, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())  # type: ignore[no-any-return]


def test_every_file_is_there(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} - {"ablation-rram.png"} == FILES | PICTURES
    assert (folder / "netlists" / "rram" / "block3.cir").exists()


def test_the_page_needs_no_network_and_shows_every_picture(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert page.count("data:image/") >= len(PICTURES) + 1
    assert 'src="http' not in page
    for word in ("conv1_1.weight", "fine-tuned on it", "a guess", "netlists/harsh/block3.cir", "programming_error"):
        assert word in page


def test_the_numbers_are_consistent(found: dict[str, Any]) -> None:
    assert set(found["chips"]) == {"rram", "harsh"}
    for name, chip in found["chips"].items():
        assert set(chip["settling"]) == {"block1", "block2", "block3"}
        assert 0 < max(chip["settling"].values()) < 3e-6
        assert all(-1 <= row["one batch"] <= 1 for row in chip["gradients"])
        report = chip["as programmed"]["report"]
        assert report["tiles"] == sum(a["tiles"] for a in report["arrays"])
        assert chip["fine-tuned"] == found["curves"][f"on {name}"]["accuracy"][-1]
        assert chip["cost"]["totals"]["training"]["energy"] > chip["cost"]["totals"]["inference"]["energy"] > 0
    errors = [[a["error"] for a in c["as programmed"]["report"]["arrays"]] for c in found["chips"].values()]
    assert max(errors[0]) < min(errors[1])  # the harsh chip's weights are worse in every layer


def test_tables_have_a_row_an_epoch_a_parameter_a_non_ideality(folder: Path, found: dict[str, Any]) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with (folder / name).open() as file:
            return list(csv.DictReader(file))

    assert [r["stage"] for r in rows("metrics.csv")] == [
        s for s in ("digital", "on rram", "on harsh") for _ in range(2)
    ]
    assert {r["chip"] for r in rows("gradients.csv")} == {"rram", "harsh"}
    harsh = [r for r in rows("ablation.csv") if r["chip"] == "harsh"]
    assert len(harsh) == len(found["chips"]["harsh"]["ablation"]) == 7


def test_the_fine_tuned_chip_is_taken_up_again(folder: Path) -> None:
    net = networks.vgg(10, torch.Generator(), [4, 4], 8)
    net.load_state_dict(torch.load(folder / "on-harsh.pt", weights_only=True))
    chip = fc.convert(net.eval(), block_size=2).lower(chip=folder / "chip-harsh-6.npz")
    assert chip.hardware.name == "harsh"
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert chip(images).isfinite().all()


def test_bad_hardware_is_one_message_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(fc.OptionError, match="rrram"):
        main([*SMALL, "--hardware", "rrram", "--out", str(tmp_path / "x")])
    bad = tmp_path / "bad.toml"
    bad.write_text('g_max = "-1 uS"\nadc_bits = 0\n')
    with pytest.raises(fc.OptionError) as raised:
        main([*SMALL, "--hardware", str(bad), "--out", str(tmp_path / "x")])
    assert len(raised.value.problems) == 2
    assert not (tmp_path / "x").exists()


class StopAfter(training.Stop):
    """Ctrl-C at the n-th look."""

    def __init__(self, looks: int):
        self.left = looks

    @property
    def asked(self) -> bool:  # type: ignore[override]
        self.left -= 1
        return self.left < 0


class Counting(analog.ChipJob):
    """Notes how often it has looked for Ctrl-C when learning on the chip begins."""

    looks = 0

    def fine_tune(self, name: str, model: fc.FFEBM) -> None:
        assert isinstance(self.stop, StopAfter)
        self.looks = MANY - self.stop.left
        super().fine_tune(name, model)


MANY = 10**6


def test_a_run_stopped_while_a_chip_learns_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    chip = tmp_path / "chip.toml"
    chip.write_text(
        'name = "harsh"\nprogramming_error = 0.02\nread_noise = 0.01\nwrite = "pulses"\npulse_variation = '
        "0.3\nadc_bits = 6\n"
    )
    config = compile_vgg.configuration(compile_vgg.parser().parse_args([*SMALL, "--hardware", str(chip)]))

    def begin(name: str, resume: bool = False) -> checkpoints.Checkpoint:
        return checkpoints.begin(tmp_path / name, config.__dict__, resume)

    whole = Counting(config, begin("whole"), StopAfter(MANY))
    whole.run()
    with pytest.raises(command.Interrupted, match="--resume"):
        analog.ChipJob(config, begin("parts"), StopAfter(whole.looks + 4)).run()  # in the second epoch on the chip
    stopped = begin("parts", resume=True).stages["on harsh"]
    assert (stopped.epoch, stopped.batch) == (1, 2)
    parts = analog.ChipJob(config, begin("parts", resume=True), training.Stop())
    parts.run()
    assert parts.checkpoint.results == whole.checkpoint.results
    assert parts.checkpoint.stages["on harsh"].losses == whole.checkpoint.stages["on harsh"].losses
    assert [p.name for p in (tmp_path / "parts").glob("chip-*")] == ["chip-harsh-6.npz"]
