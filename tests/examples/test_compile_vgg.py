"""The main job, small: every file it promises, one message for a bad option, Ctrl-C and resume."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch

import ffebm_compiler as fc
from examples import checkpoints, compile_vgg, networks
from examples.compile_vgg import main

pytestmark = pytest.mark.slow

SCRIPT = Path(compile_vgg.__file__)
FILES = {
    "report.txt", "curves.png", "gradients.png", "graph.html", "graph.graphml", "metrics.json", "metrics.csv",
    "digital.pt", "bp-ep.pt", "bp.pt", "checkpoint.pt",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vgg")
    assert main(["--quick", "--out", str(out)]) == 0
    return out


def test_every_file_is_there(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == FILES
    for name in ("curves.png", "gradients.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    page = (folder / "graph.html").read_text()
    assert "conv1_1" in page
    assert "<svg" in page


def test_the_numbers_hold(folder: Path) -> None:
    found = json.loads((folder / "metrics.json").read_text())
    results = found["results"]
    assert results["accuracy of the original"] > 50
    assert abs(results["accuracy after conversion"] - results["accuracy of the original"]) <= 1.0
    assert results["its cosine"] >= 0.999
    assert abs(results["BP-EP minus BP"]) <= 2.0
    assert results["mean sweeps a block"] > 1
    assert found["config"]["seed"] == 0
    assert found["versions"]["torch"] == torch.__version__


def test_metrics_have_a_row_an_epoch(folder: Path) -> None:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["stage"] for r in rows] == ["digital"] * 6 + ["BP-EP", "BP"]
    assert float(rows[5]["mean loss"]) < float(rows[0]["mean loss"])


def test_the_report_and_graph_speak_of_the_users_layers(folder: Path) -> None:
    report = (folder / "report.txt").read_text()
    assert "conv1_1" in report
    assert "not known" not in report
    graph = nx.read_graphml(folder / "graph.graphml")
    assert {d["domain"] for _, d in graph.nodes(data=True)} >= {"digital", "analog"}


def test_the_saved_weights_are_the_networks(folder: Path) -> None:
    net = networks.vgg(10, torch.Generator(), [8, 16, 16], 32)
    for name in ("digital.pt", "bp-ep.pt", "bp.pt"):
        net.load_state_dict(torch.load(folder / name, weights_only=True))


def test_resuming_a_finished_run_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quick", "--out", str(folder), "--resume"]) == 0
    assert "finished run" in capsys.readouterr().out


def test_the_vgg_becomes_blocks_of_two_between_digital_norms() -> None:
    model = fc.convert(networks.vgg(10, torch.Generator().manual_seed(0), [8, 16, 16], 32), block_size=2)
    assert [b.size for b in model.blocks] == [2, 2, 2, 2]
    assert not any(b.held_norms for b in model.program.energy_blocks)
    assert [[o.label for o in b.origins] for b in model.program.digital_blocks] == [
        ["norm0"],
        ["pool1", "norm1"],
        ["pool2", "norm2"],
        ["pool3", "norm3"],
    ]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--block-size", "0"], "less than 1"),
        (["--block-size", "two"], "no whole number"),
        (["--seed", "-1"], "between 0"),
        (["--loop-gain", "0"], "not a positive number"),
        (["--loop-gain", "nan"], "not a positive number"),
        (["--widths", "8,x"], "no whole number"),
        (["--backend", "spice"], "invalid choice"),
        (["--epochs", "1.5"], "no whole number"),
    ],
)
def test_a_bad_option_gives_one_message(option: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(option)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert option[0] in error


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    for word in ("--data", "cifar-10-binary", "--resume", "graph.html", "python examples/compile_vgg.py", "default: 2"):
        assert word in shown


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(SCRIPT), "--quick", "--threads", "1", *arguments]


def test_missing_data_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--data", str(tmp_path / "none"), "--out", str(tmp_path)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: option --data")
    assert "Traceback" not in done.stderr


def test_ctrl_c_saves_and_resume_goes_on(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, x=np.random.default_rng(0).integers(0, 256, (500, 28, 28), dtype=np.uint8), y=np.arange(500) % 10)
    arguments = ["--data", str(data), "--out", str(tmp_path / "run")]
    running = subprocess.Popen(command(*arguments), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / checkpoints.NAME).exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=120)
    assert running.returncode == 130, error
    assert "--resume" in error
    assert "Traceback" not in error
    kept = checkpoints.begin(
        tmp_path / "run",
        compile_vgg.configuration(compile_vgg.parser().parse_args(["--quick", *arguments])).__dict__,
        resume=True,
    )
    assert not kept.complete
    done = subprocess.run(command(*arguments, "--resume"), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES
