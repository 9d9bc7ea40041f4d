"""kill -9 at any moment: the bundle or the checkpoint that was there, or the new one, is whole; and training goes on as
if nothing had happened.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # the workers' own model and data, which the parent compares with

import kill_server

import ffebm_compiler as fc
from ffebm_compiler.bundle import read_bundle
from ffebm_compiler.bundle.run.verify import verify

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked")

KILLS = 25


class Server:
    """The process that forks workers."""

    def __init__(self) -> None:
        command = [sys.executable, "-W", "ignore", str(Path(kill_server.__file__))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.compilation_time = float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def _ask(self, *command: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("\t".join(command) + "\n")
        self.process.stdin.flush()
        return self._line()

    def load(self, bundle: Path) -> float:
        """Makes ready to train a bundle; returns the time of a step."""
        return float(self._ask("load", str(bundle)))

    def kill_after(self, seconds: float, *command: str) -> None:
        """Starts a worker and kills it so long after it has begun."""
        worker = int(self._ask(*command))
        time.sleep(seconds)
        os.kill(worker, signal.SIGKILL)
        assert self._line() == "ended"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    try:
        yield made
    finally:
        made.close()


def moments(count: int, longest: float, seed: int) -> list[float]:
    """Spread over the whole of a time, in any order."""
    draw = random.Random(seed)
    found = [longest * (i + draw.random()) / count for i in range(count)]
    draw.shuffle(found)
    return found


def version_of(path: Path) -> int:
    """Which of the two models a bundle is whole of."""
    tensors = read_bundle(path).tensors
    for version in (1, 2):
        state = kill_server.network(version).state_dict()
        if all(torch.equal(tensors[n], t) for n, t in state.items()):
            return version
    raise AssertionError(f"{path} holds the weights of neither model")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kills"), [("build", KILLS - KILLS // 2), ("build.ffebm", KILLS // 2)])
def test_a_killed_compilation_leaves_a_whole_bundle(server: Server, tmp_path: Path, name: str, kills: int) -> None:
    path = tmp_path / name
    model, example = fc.convert(kill_server.network(1), block_size=2), (kill_server.data(0)[0],)
    model.compile_to(path, example)
    seen = set()
    for moment in (0.0, *moments(kills, 4 * server.compilation_time, seed=kills)):  # at first before any replacement
        server.kill_after(moment, "compile", str(path))
        found = verify(path)
        assert found.ok, found.text()
        seen.add(version_of(path))
    assert seen == {1, 2}  # kills fell before and after replacements
    model.compile_to(path, example, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [name]  # nothing of the killed writers is left


@pytest.mark.slow
def test_a_killed_training_leaves_a_whole_checkpoint_and_goes_on_from_it(server: Server, tmp_path: Path) -> None:
    bundle, checkpoint = tmp_path / "net.ffebm", tmp_path / "training.safetensors"
    fc.convert(kill_server.trainable(), block_size=2).compile_to(bundle, (kill_server.data(0)[0],))
    longest = 8 * server.load(bundle)
    uninterrupted = kill_server.new_trainer(str(bundle))
    steps = [0]
    for moment in moments(KILLS, longest, seed=3):
        server.kill_after(moment, "train", str(bundle), str(checkpoint))
        if not checkpoint.exists():
            assert steps == [0]  # killed before the first one
            continue
        resumed = kill_server.new_trainer(str(bundle)).load_checkpoint(checkpoint)
        assert resumed.steps >= steps[-1]
        steps.append(resumed.steps)
        while uninterrupted.steps < resumed.steps:
            uninterrupted.step(*kill_server.data(uninterrupted.steps))
        wanted, found = uninterrupted.runtime.state_dict(), resumed.runtime.state_dict()
        assert all(torch.equal(found[n], t) for n, t in wanted.items())
    assert steps[-1] >= 10
