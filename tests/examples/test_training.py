"""The training loop: same batches for all, stops after a batch, goes on as if it had never stopped."""

from __future__ import annotations

import copy
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ffebm_compiler as fc
from examples.checkpoints import NAME, Checkpoint, CheckpointError, begin
from examples.data import Images, Split, split
from examples.training import Progress, Stage, Stop, TrainingError, accuracy, fit, stoppable

STAGE = Stage("test", epochs=3, batch=8, rate=1e-2, seed=0)


@pytest.fixture
def data() -> Split:
    """Two classes, dark and bright."""
    y = torch.arange(60) % 2
    noise = torch.randint(0, 100, (60, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    return split(
        Images("made", (noise + 120 * y[:, None, None, None]).to(torch.uint8), y, 2, ""),
        torch.Generator().manual_seed(0),
    )


def network() -> nn.Module:
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return net


def same(a: nn.Module, b: nn.Module, tolerance: float = 0.0) -> bool:
    return all(torch.allclose(v, b.state_dict()[k], rtol=0, atol=tolerance) for k, v in a.state_dict().items())


def test_it_learns_and_records(data: Split) -> None:
    net = network()
    before = accuracy(net, data)
    progress = fit(net, data, Stage("test", 20, 8, 1e-2, 0), quiet=True)
    assert progress.accuracy[-1] > max(before, 95)
    assert len(progress.losses) == 20 * 6
    assert progress.losses[-1] < progress.losses[0] / 3
    assert set(progress.sweeps) == {0.0}


def test_an_ff_ebm_trains_by_the_same_loop_and_its_sweeps_are_kept(data: Split) -> None:
    model = fc.convert(network(), block_size=2)
    progress = fit(model, data, Stage("test", 20, 8, 1e-2, 0), quiet=True)
    assert progress.accuracy[-1] > 95
    assert min(progress.sweeps) >= 1


class StopAfter(Stop):
    """As if Ctrl-C came after so many batches."""

    def __init__(self, batches: int):
        self.left = batches

    @property
    def asked(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("batches", [1, 4, 6, 13])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(data: Split, tmp_path: Path, batches: int) -> None:
    whole, stopped = network(), network()
    expected = fit(whole, data, STAGE, quiet=True)
    checkpoint = Checkpoint(tmp_path, {"seed": 0})

    def keep(progress: Progress) -> None:
        checkpoint.stages["test"] = progress
        checkpoint.save()

    halted = fit(stopped, data, STAGE, save=keep, stop=StopAfter(batches), quiet=True)
    assert len(halted.losses) == batches
    assert halted.epoch < STAGE.epochs
    anew = network()
    progress = fit(anew, data, STAGE, begin(tmp_path, {"seed": 0}, resume=True).stages["test"], quiet=True)
    assert progress.epoch == STAGE.epochs
    assert progress.losses == expected.losses
    assert progress.accuracy == expected.accuracy
    assert same(whole, anew)


@pytest.mark.slow
def test_a_resumed_ff_ebm_goes_on_with_its_gains(data: Split, tmp_path: Path) -> None:
    whole, stopped, anew = (fc.convert(network(), block_size=2, loop_gain=0.05) for _ in range(3))
    expected = fit(whole, data, STAGE, quiet=True)
    checkpoint = Checkpoint(tmp_path, {}, {"test": fit(stopped, data, STAGE, stop=StopAfter(7), quiet=True)})
    checkpoint.save()
    progress = fit(anew, data, STAGE, begin(tmp_path, {}, resume=True).stages["test"], quiet=True)
    assert progress.losses == pytest.approx(expected.losses, rel=1e-3)
    assert same(whole, anew, 1e-3)


def test_a_finished_stage_is_loaded_and_not_trained_again(data: Split) -> None:
    net, again = network(), network()
    progress = fit(net, data, STAGE, quiet=True)
    losses = list(progress.losses)
    assert fit(again, data, STAGE, progress, quiet=True).losses == losses
    assert same(net, again)


def test_the_batches_depend_on_the_seed_and_not_on_the_model(data: Split) -> None:
    seen: list[list[list[int]]] = []
    for width in (8, 3):
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 2))
        batches: list[list[int]] = []
        net.register_forward_pre_hook(
            lambda m, args: batches.append((args[0].sum(dim=(1, 2, 3)) * 10).long().tolist()) if m.training else None
        )
        fit(net, data, STAGE, quiet=True)
        seen.append(copy.deepcopy(batches))
    assert seen[0] == seen[1]
    assert seen[0][:6] != seen[0][6:12]


def test_the_first_ctrl_c_asks_and_the_second_one_ends() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stoppable() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_loss_that_is_no_number_ends_training(data: Split) -> None:
    net = network()
    with torch.no_grad():
        next(net.parameters()).fill_(float("inf"))
    with pytest.raises(TrainingError, match="stage test: the loss became nan in epoch 1"):
        fit(net, data, STAGE, quiet=True)


# --- checkpoints -------------------------------------------------------------------------------------------------


def test_resuming_needs_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Start without --resume"):
        begin(tmp_path, {}, resume=True)


def test_an_unfinished_run_is_not_overwritten(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, {})
    checkpoint.save()
    with pytest.raises(CheckpointError, match="unfinished run"):
        begin(tmp_path, {}, resume=False)
    checkpoint.complete = True
    checkpoint.save()
    assert not begin(tmp_path, {}, resume=False).stages


def test_other_options_are_each_named(tmp_path: Path) -> None:
    Checkpoint(tmp_path, {"block_size": 2, "seed": 0, "rate": 0.1}).save()
    with pytest.raises(CheckpointError) as caught:
        begin(tmp_path, {"block_size": 3, "seed": 1, "rate": 0.1}, resume=True)
    assert [p.where for p in caught.value.problems] == ["option --block-size", "option --seed"]


class Trap:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"no checkpoint"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
        begin(tmp_path, {}, resume=True)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"config": {}, "stages": Trap(tmp_path / "sprung"), "complete": False}, tmp_path / NAME)
    with pytest.raises(CheckpointError, match="can't be read"):
        begin(tmp_path, {}, resume=True)
    torch.save({"weights": torch.zeros(1)}, tmp_path / NAME)
    with pytest.raises(CheckpointError, match="no checkpoint of these examples"):
        begin(tmp_path, {}, resume=True)
    assert not (tmp_path / "sprung").exists()
