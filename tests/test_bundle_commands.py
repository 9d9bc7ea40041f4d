"""``ffebm compile``, ``inspect``, ``verify``, ``run`` and ``train``, as a new user meets them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ffebm_compiler as fc
from ffebm_compiler import runtime
from ffebm_compiler.bundle import read_bundle
from ffebm_compiler.bundle.run.verify import verify
from ffebm_compiler.cli import main
from ffebm_compiler.cli.batches import Batches
from ffebm_compiler.errors import InputError

MODELS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = torch.relu(self.norm(self.first(x)))
        return self.third(torch.relu(self.second(h)))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 5)

    def forward(self, left, right):
        h = torch.tanh(self.a(left)) + torch.tanh(self.b(right))
        return {"sum": h, "mean": h.mean(1)}

class Odd(nn.Module):
    def forward(self, x):
        return x * torch.linalg.svdvals(x.unsqueeze(-1))

precise = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
odd = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), Odd(), nn.Linear(5, 2))
"""

Run = Callable[..., tuple[int, str, str]]


def _folder(path: Path) -> Path:
    (path / "zoo_file.py").write_text(MODELS)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((20, 4)).astype(np.float32)
    np.save(path / "x.npy", x)
    np.save(path / "y.npy", (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0))
    return path


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data, and its bundle ``net.ffebm``."""
    path = _folder(tmp_path_factory.mktemp("compiled"))
    before = list(sys.path)
    try:
        assert main(["compile", f"{path}/zoo_file.py:Net", "-o", f"{path}/net.ffebm", "--input-shape", "5,4"]) == 0
    finally:
        sys.path[:] = before
        sys.modules.pop("zoo_file", None)
    return path


@pytest.fixture
def folder(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder of the same files."""
    for file in ("zoo_file.py", "x.npy", "y.npy", "net.ffebm"):
        shutil.copy(compiled / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("zoo_file", None)


@pytest.fixture
def ffebm(folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def refused(ffebm: Run, *arguments: str) -> str:
    """The one message of a command that could not be carried out."""
    status, out, err = ffebm(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("ffebm: error: ")
    assert "Traceback" not in err
    return err


TRAIN = ("train", "net.ffebm", "--input", "x.npy", "--target", "y.npy", "--batch-size", "6")


# --- compile ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_compiled_bundle_is_written_and_judged(ffebm: Run, folder: Path) -> None:
    status, out, err = ffebm("compile", "zoo_file:Net", "-o", "build/", "--input-shape", "1,4", "--block-size", "1")
    assert (status, err) == (0, "")
    assert "checks passed" in out
    found = read_bundle(folder / "build")
    assert found.name == "Net"
    assert all(b.size == 1 for b in found.modes[False].program.energy_blocks)
    assert found.samples["evaluation/value/x"].shape == (4, 4)  # one sample's size looks like a constant
    assert "exists" in refused(ffebm, "compile", "zoo_file:Net", "-o", "build", "--input-shape", "2,4")


@pytest.mark.slow
def test_trained_weights_go_in(ffebm: Run, folder: Path) -> None:
    from zoo_file import Net  # type: ignore[import-not-found]

    torch.manual_seed(7)
    state = Net().state_dict()
    save_file(state, "net.safetensors")
    torch.save(state, "net.pt")
    for i, weights in enumerate(("net.safetensors", "net.pt")):
        assert ffebm("compile", "zoo_file:Net", "-o", f"{i}.ffebm", "--weights", weights, "--input", "x.npy")[0] == 0
    tensors = read_bundle("0.ffebm").tensors
    assert all(torch.equal(tensors[n], t) for n, t in state.items())
    assert Path("0.ffebm").read_bytes() == Path("1.ffebm").read_bytes()
    Path("bad.safetensors").write_bytes(b"nothing")
    message = refused(ffebm, "compile", "zoo_file:Net", "-o", "bad.ffebm", "--weights", "bad.safetensors")
    assert "can't be read as safetensors" in message
    save_file({"other": torch.zeros(1)}, "other.safetensors")
    message = refused(ffebm, "compile", "zoo_file:Net", "-o", "bad.ffebm", "--weights", "other.safetensors")
    assert "has no first.weight" in message
    assert not Path("bad.ffebm").exists()


@pytest.mark.slow
def test_real_numbers_are_taken_in_the_models_precision(ffebm: Run) -> None:
    assert ffebm("compile", "zoo_file.py:precise", "-o", "precise.ffebm", "--input-shape", "3,4")[0] == 0
    assert "output: float64 (20, 2)" in ffebm("run", "precise.ffebm", "--input", "x.npy")[1]
    np.save("double.npy", np.load("x.npy").astype(np.float64))
    assert ffebm("compile", "zoo_file.py:Net", "-o", "other.ffebm", "--input", "double.npy")[0] == 0
    assert ffebm("run", "other.ffebm", "--input", "double.npy", "-o", "double-out.npy")[0] == 0
    assert ffebm("run", "other.ffebm", "--input", "x.npy", "-o", "out.npy")[0] == 0
    assert np.array_equal(np.load("double-out.npy"), np.load("out.npy"))
    assert ffebm("train", "other.ffebm", "--input", "double.npy", "--target", "y.npy")[0] == 0


@pytest.mark.slow
def test_a_part_without_onnx_is_refused_or_left_out(ffebm: Run, folder: Path) -> None:
    arguments = ("compile", "zoo_file:odd", "-o", "odd.ffebm", "--input-shape", "3,4", "--digital", "2")
    assert "2 (Odd)" in refused(ffebm, *arguments)
    assert not Path("odd.ffebm").exists()
    status, out, _ = ffebm(*arguments, "--skip-unexportable")
    assert status == 0
    assert "left out: 2 (Odd)" in out
    assert "left out: 2 (Odd)" in ffebm("verify", "odd.ffebm")[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("-o", "none/build"), "there is no folder none"),
        (("-o", "zoo_file.py"), "zoo_file.py"),
        (("-o", "build", "--hardware", "rrram"), 'Did you mean "rram"'),
        (("-o", "build", "--chip-seed", "3"), "is given without hardware"),
        (("-o", "build", "--input", "x.npy", "--input-shape", "2,4"), "are both given"),
        (("-o", "build", "--input", "none.npy"), "input none.npy: does not exist"),
        (("-o", "build", "--onnx", "none/net.onnx"), "the folder none does not exist"),
        (("-o", "build", "--weights", "none.safetensors"), "does not exist"),
    ],
)
def test_what_stands_in_the_way_of_a_bundle_is_told(ffebm: Run, arguments: tuple[str, ...], what: str) -> None:
    before = {p.name for p in Path().iterdir()} | {"__pycache__"}
    assert what in refused(ffebm, "compile", "zoo_file:Net", *arguments)
    assert {p.name for p in Path().iterdir()} <= before


def test_an_impossible_place_is_refused_before_the_work(ffebm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffebm_compiler.cli.conversion.convert", lambda *_, **__: pytest.fail("was converted first"))
    assert "exists" in refused(ffebm, "compile", "zoo_file:Net", "-o", "net.ffebm", "--input-shape", "2,4")


@pytest.mark.parametrize("command", ["compile", "inspect", "verify", "run", "train"])
def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"examples:\n  ffebm {command} net" in capsys.readouterr().out


# --- inspect and verify -----------------------------------------------------------------------------------


def test_inspect_shows_what_is_in_it(ffebm: Run) -> None:
    status, out, err = ffebm("inspect", "net.ffebm")
    assert (status, err) == (0, "")
    assert "digital1" in out
    assert "block1" in out
    assert json.loads(ffebm("inspect", "net.ffebm", "--json")[1])
    assert "does not exist" in refused(ffebm, "inspect", "none.ffebm")


def test_verify_passes_and_says_what_it_did(ffebm: Run) -> None:
    status, out, err = ffebm("verify", "net.ffebm")
    assert (status, err) == (0, "")
    names = [line.split("  ")[0] for line in out.splitlines()[1:-2]]
    assert names[0] == "files and checksums"
    assert {"digital1, forward", "digital1, training", "digital1, vjp", "block1", "block2", "whole model"} <= set(names)
    found = json.loads(ffebm("verify", "net.ffebm", "--json")[1])
    assert found["ok"]
    assert len(found["checks"]) == len(names)


def test_verify_fails_on_a_damaged_file(ffebm: Run, folder: Path) -> None:
    content = bytearray((folder / "net.ffebm").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "net.ffebm").write_bytes(content)
    status, out, _ = ffebm("verify", "net.ffebm")
    assert status == 1
    assert "FAILED" in out


def changed(contents: object, **samples: torch.Tensor) -> object:
    """Contents with other records."""
    import dataclasses

    return dataclasses.replace(contents, samples={**contents.samples, **samples})  # type: ignore


@pytest.mark.slow
@pytest.mark.parametrize("what", ["value/", "state/", "sweeps/", "output/", "statistics/", "gradient/", "norm/"])
def test_verify_finds_every_kind_of_wrong_record(folder: Path, what: str) -> None:
    """A bundle with whole checksums that does not compute what it says."""
    from ffebm_compiler.bundle import write_bundle

    contents = read_bundle("net.ffebm")
    result = contents.modes[False].result.name
    names = [n for n in contents.samples if f"/{what}" in n and contents.samples[n].any()]
    name = f"evaluation/value/{result}" if what == "value/" else names[0]
    record = contents.samples[name]
    wrong = record + 1 if not record.is_floating_point() else record * 1.01
    path = write_bundle(changed(contents, **{name: wrong}), "wrong.ffebm")  # type: ignore[arg-type]
    found = verify(path)
    assert not found.ok
    assert verify("net.ffebm").ok


# --- run --------------------------------------------------------------------------------------------------


def test_run_gives_what_the_model_gives(ffebm: Run, folder: Path) -> None:
    status, out, err = ffebm("run", "net.ffebm", "--input", "x.npy", "-o", "out.npy")
    assert (status, err) == (0, "")
    assert "output: float32 (20, 3)" in out
    assert "block1: converged in" in out
    from zoo_file import Net  # type: ignore[import-not-found]

    net = Net()
    net.load_state_dict(runtime.load("net.ffebm").state_dict())
    with torch.no_grad():
        wanted = fc.convert(net, block_size=2).eval()(torch.from_numpy(np.load("x.npy")))
    np.testing.assert_allclose(np.load("out.npy"), wanted.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_several_inputs_and_results_have_names(ffebm: Run, folder: Path) -> None:
    shapes = ("--input-shape", "2,4", "--input-shape", "2,4")
    assert ffebm("compile", "zoo_file:Two", "-o", "two.ffebm", *shapes)[0] == 0
    np.save("r.npy", np.load("x.npy")[::-1])
    assert ffebm("run", "two.ffebm", "--input", "right=r.npy", "--input", "left=x.npy", "-o", "named.npz")[0] == 0
    assert ffebm("run", "two.ffebm", "--input", "x.npy", "--input", "r.npy", "-o", "placed.npz")[0] == 0
    named, placed = np.load("named.npz"), np.load("placed.npz")
    assert set(named.files) == {"output.sum", "output.mean"}
    assert all(np.array_equal(named[n], placed[n]) for n in named.files)
    assert not np.array_equal(named["output.sum"], named["output.sum"][::-1])
    message = refused(ffebm, "run", "two.ffebm", "--input", "x.npy", "--input", "r.npy", "-o", "one.npy")
    assert "can hold one array, the model gives output.sum, output.mean" in message
    assert "right" in refused(ffebm, "run", "two.ffebm", "--input", "x.npy")


def test_blocks_run_on_an_emulated_chip(ffebm: Run) -> None:
    arguments = ("run", "net.ffebm", "--input", "x.npy", "--blocks", "analog-emu")
    assert ffebm(*arguments, "--hardware", "ideal", "-o", "chip.npy")[0] == 0
    assert ffebm("run", "net.ffebm", "--input", "x.npy", "-o", "out.npy")[0] == 0
    np.testing.assert_allclose(np.load("chip.npy"), np.load("out.npy"), rtol=1e-3, atol=1e-5)
    assert ffebm(*arguments, "--hardware", "rram", "-o", "rram.npy")[0] == 0
    assert not np.allclose(np.load("rram.npy"), np.load("out.npy"), rtol=1e-3, atol=1e-5)
    assert "compiled without hardware" in refused(ffebm, *arguments, "--hardware", "bundle")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((), "option --input: is missing"),
        (("--input", "none.npy"), "input none.npy: does not exist"),
        (("--input", "."), "is a folder"),
        (("--input", "zoo_file.py"), "can't be read as an array"),
        (("--input", "objects.npy"), "can't be read as an array"),
        (("--input", "several.npz"), "holds several arrays"),
        (("--input", "text.npy"), "holds <U1"),
        (("--input", "wide.npy"), "(20, 5)"),
        (("--input", "y=x.npy"), "y"),
        (("--input", "x=x.npy", "--input", "x=x.npy"), "is given twice"),
        (("--input", "x.npy", "-o", "out.txt"), "End it in .npy"),
        (("--input", "x.npy", "-o", "none/out.npy"), "the folder none does not exist"),
        (("--input", "x.npy", "--hardware", "rram"), "Add --blocks analog-emu"),
        (("--input", "x.npy", "--blocks", "analog"), 'Did you mean "analog-emu"'),
        (("--input", "x.npy", "--threads", "0"), "option --threads: is 0"),
    ],
)
def test_what_can_not_be_run_is_told(ffebm: Run, arguments: tuple[str, ...], what: str) -> None:
    x = np.load("x.npy")
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez("several.npz", a=x, b=x)
    np.save("text.npy", np.array(["a"]))
    np.save("wide.npy", np.zeros((20, 5), dtype=np.float32))
    assert what in refused(ffebm, "run", "net.ffebm", *arguments)


# --- train ------------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_hands_the_weights_back(ffebm: Run, folder: Path) -> None:
    status, out, err = ffebm(
        *TRAIN,
        "--batch-size",
        "10",
        "--epochs",
        "12",
        "--learning-rate",
        "0.05",
        "-o",
        "trained.ffebm",
        "--weights-out",
        "trained.safetensors",
    )
    assert (status, err) == (0, "")
    assert out.split() == ["checkpoint.safetensors", "trained.ffebm", "trained.safetensors"]
    lines = [json.loads(line) for line in Path("checkpoint.jsonl").read_text().splitlines()]
    assert lines[0]["began"]["seed"] == 0
    assert lines[0]["began"]["optimizer"]["momentum"] == 0.9
    losses = [e["loss"] for e in lines[1:]]
    assert len(losses) == 12 * 2
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    assert ffebm("verify", "trained.ffebm")[0] == 0
    from zoo_file import Net  # type: ignore[import-not-found]

    net = Net()
    net.load_state_dict(load_file("trained.safetensors"))
    x = torch.from_numpy(np.load("x.npy"))
    model, loaded = fc.convert(net, block_size=2).eval(), runtime.load("trained.ffebm")
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_resumed_training_takes_the_steps_of_an_uninterrupted_one(ffebm: Run) -> None:
    adam = ("--optimizer", "adam", "--seed", "3")
    whole = (*adam, "--epochs", "3", "--checkpoint", "whole.safetensors", "--weights-out", "whole_weights.safetensors")
    parts = (*adam, "--checkpoint", "parts.safetensors", "--weights-out", "part_weights.safetensors")
    assert ffebm(*TRAIN, *whole)[0] == 0
    assert ffebm(*TRAIN, *parts, "--epochs", "1")[0] == 0
    assert "exists" in refused(ffebm, *TRAIN, *parts, "--epochs", "3")
    assert ffebm(*TRAIN, *parts, "--epochs", "3", "--resume", "--force")[0] == 0
    one, two = load_file("whole_weights.safetensors"), load_file("part_weights.safetensors")
    assert all(torch.equal(one[n], two[n]) for n in one)
    steps = [
        [e for e in map(json.loads, Path(f"{n}.jsonl").read_text().splitlines()) if "step" in e]
        for n in ("whole", "parts")
    ]
    assert steps[0] == steps[1]
    message = refused(ffebm, *TRAIN[:-1], "5", *parts, "--epochs", "4", "--resume", "--force")
    assert "option --batch-size: is 5, and the training began with 6" in message
    assert "was trained with learning_rate 0.01, and this training has learning_rate 1.0" in refused(
        ffebm, *TRAIN, *parts, "--resume", "--force", "--learning-rate", "1"
    )


@pytest.mark.slow
def test_ctrl_c_stops_after_a_step_and_says_how_to_go_on(folder: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "ffebm_compiler.cli", *TRAIN, "--epochs", "100000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
        deadline = time.monotonic() + 120
        metrics = Path("checkpoint.jsonl")
        while not (metrics.exists() and metrics.read_text().count('"step"') > 3) and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        err = running.communicate(timeout=60)[1]
    assert running.returncode == 130
    taken = [json.loads(line) for line in metrics.read_text().splitlines()][-1]["step"]
    assert f"interrupted: {taken} of 400000 steps are in checkpoint.safetensors" in err
    assert "--resume" in err
    trainer = runtime.load("net.ffebm").trainer(learning_rate=0.01, momentum=0.9)
    assert trainer.load_checkpoint("checkpoint.safetensors").steps == taken


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--epochs", "0"), "option --epochs: is 0"),
        (("--loss", "mes"), 'Did you mean "mse"'),
        (("--optimizer", "adm"), 'Did you mean "adam"'),
        (("--learning-rate", "-1"), "option learning_rate: is -1"),
        (("--resume",), "does not exist, and --resume is given"),
        (("-o", "net.ffebm"), "exists"),
        (("-o", "none/net.ffebm"), "none"),
        (("--weights-out", "x.npy"), "exists"),
        (("--checkpoint", "none/c.safetensors"), "the folder none does not exist"),
        (("--loss", "mse"), "target of mse: is of the shape (6,)"),
        (("--input", "x.npy"), "has 2 arguments"),
        (("--input", "y=x.npy"), "names some inputs and not others"),
        (("--target", "short.npy"), "are not equally many: input 1 has 20, target has 3"),
        (("--target", "four.npy"), "has the class 4"),
    ],
)
def test_what_can_not_be_trained_is_told(ffebm: Run, arguments: tuple[str, ...], what: str) -> None:
    np.save("short.npy", np.zeros(3, dtype=np.int64))
    np.save("four.npy", np.full(20, 4))
    assert what in refused(ffebm, *TRAIN, *arguments)
    assert not Path("checkpoint.safetensors").exists()


def test_several_processes_are_refused(ffebm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "was started in 2 processes" in refused(ffebm, *TRAIN)
    assert not Path("checkpoint.safetensors").exists()


@pytest.mark.slow
def test_one_of_several_outputs_is_trained(ffebm: Run) -> None:
    assert (
        ffebm("compile", "zoo_file.py:Two", "-o", "two.ffebm", "--input-shape", "5,4", "--input-shape", "5,4")[0] == 0
    )
    np.save("mean.npy", np.ones(20, dtype=np.float32))
    train = ("train", "two.ffebm", "--input", "x.npy", "--input", "x.npy", "--target", "mean.npy", "--loss", "mse")
    assert "several outputs: sum, mean" in refused(ffebm, *train)
    assert 'Did you mean "mean"' in refused(ffebm, *train, "--loss-output", "men", "--force")
    wanted = (*train, "--loss-output", "mean", "--epochs", "30", "--learning-rate", "0.1")
    assert ffebm(*wanted, "--force")[0] == 0
    lines = [json.loads(line) for line in Path("checkpoint.jsonl").read_text().splitlines()]
    assert lines[0]["began"]["loss_output"] == "mean"
    assert lines[-1]["loss"] < 0.2 * lines[1]["loss"]
    assert "option --loss-output: is sum, and" in refused(ffebm, *wanted, "--loss-output", "sum", "--resume")


def test_a_training_that_diverges_ends_with_what_to_do(ffebm: Run) -> None:
    status, _, err = ffebm(*TRAIN, "--learning-rate", "1e30", "--epochs", "3")
    assert status == 2
    assert "the loss is no longer a finite number\n    Lower --learning-rate (it is 1e+30)" in err
    assert not Path("checkpoint.safetensors").exists()


def test_batches_hold_each_sample_once_an_epoch_in_an_order_of_its_own() -> None:
    x, y = torch.arange(10.0), torch.arange(10)
    batches = Batches((x,), {}, y, 4, seed=1)
    assert batches.steps == 3
    epochs = [torch.cat([batches.batch(epoch, i)[1] for i in range(3)]) for epoch in (0, 1, 0)]
    assert all(torch.equal(e.sort().values, y) for e in epochs)
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], Batches((x,), {}, y, 10, seed=2).batch(0, 0)[1])
    assert all(torch.equal(batches.batch(0, i)[0][0].long(), batches.batch(0, i)[1]) for i in range(3))
    with pytest.raises(InputError, match="is a single number"):
        Batches((x,), {}, torch.tensor(1), 4, seed=1)
    with pytest.raises(InputError, match="are none"):
        Batches((x[:0],), {}, y[:0], 4, seed=1)


@pytest.mark.slow
def test_the_modules_of_bundles_are_loaded_only_when_needed() -> None:
    program = (
        "import sys, ffebm_compiler.cli; print([m for m in ('onnx', 'onnxruntime', 'jsonschema') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
