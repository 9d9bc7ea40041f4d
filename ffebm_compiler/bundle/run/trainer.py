"""Trains a loaded bundle: the generated step, an optimizer, and checkpoints from which training goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...ffebm import FFEBM
from ...model.converted_module import runner_of
from ...train.processes import require_apart
from ..format.contents import Contents
from .checkpoint import Snapshot, read_checkpoint, write_checkpoint
from .losses import Loss
from .model import Step, take_gains
from .optimizers import OptimizerOptions
from .random_numbers import RandomNumbers


class Trained(Protocol):
    """What a trainer needs of a runtime."""

    model: FFEBM

    def run_step(self, x: Any, y: Any, loss: Loss, step: Step | None = None) -> Tensor: ...
    def present(self) -> Contents: ...


class Trainer:
    """Made by :meth:`Runtime.trainer`.

    Attributes:
        steps: the steps taken so far.
        options: of the optimizer.
    """

    def __init__(
        self, runtime: Trained, loss: Loss, options: OptimizerOptions, random: RandomNumbers, step: Step | None = None
    ):
        self.runtime = runtime
        self.loss = loss
        self.options = options
        self.steps = 0
        self._random = random
        self._own_step = step
        self._optimizer = options.make([*self._trained().values()])

    def _trained(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.runtime.model.network.named_parameters() if p.requires_grad}

    @property
    def has_finite_weights(self) -> bool:
        """Whether all that is trained is still a finite number, and its square, which a norm is made of, too."""
        return all(bool(torch.isfinite(p.detach().square().sum())) for p in self._trained().values())

    def step(self, x: Any, y: Any) -> Tensor:
        """One step on one batch: returns its loss, before the step.

        Args:
            x: the model's input; a tuple for several, a dict by name.
            y: the target, handed to the loss.

        Raises:
            SynchronisationError: in a process group of several: weights move before gradients could be averaged.
        """
        require_apart("Trainer.step")
        self._optimizer.zero_grad()
        loss = self.runtime.run_step(x, y, self.loss, self._own_step)
        self._optimizer.step()
        self.steps += 1
        return loss

    # --- checkpoints --------------------------------------------------------------------------------------

    def save_checkpoint(self, path: str | os.PathLike[str]) -> Path:
        """Writes everything that the next step depends on, in one file (safetensors), whole or not at all.

        Of an emulated chip it keeps the weights that are asked for; :meth:`Runtime.save` keeps devices and noise.

        Raises:
            OptionError: the file can't be written.
        """
        return write_checkpoint(path, self._snapshot())

    def load_checkpoint(self, path: str | os.PathLike[str]) -> Trainer:
        """Goes on from a checkpoint: the next step is the one that an uninterrupted training takes.

        Raises:
            InputError: it is damaged, or of another model or optimizer; nothing has changed then.
        """
        self._restore(read_checkpoint(path, self._snapshot()))
        return self

    def _snapshot(self) -> Snapshot:
        contents = self.runtime.present()
        return Snapshot(
            model=contents.name,
            steps=self.steps,
            optimizer=self.options,
            tensors=contents.tensors,
            moments=self._moments(),
            gains=runner_of(self.runtime.model).block_gains.saved(),
            random=self._random.generator.get_state(),
        )

    def _moments(self) -> dict[str, dict[str, Tensor]]:
        """What the optimizer remembers, by parameter."""
        state: Mapping[Any, Mapping[str, Any]] = self._optimizer.state
        return {
            n: {k: v for k, v in state[p].items() if isinstance(v, Tensor)}
            for n, p in self._trained().items()
            if p in state
        }

    def _restore(self, found: Snapshot) -> None:
        network = self.runtime.model.network
        held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        with torch.no_grad():
            for path, tensor in found.tensors.items():
                held[path].copy_(tensor)
        self._optimizer = self.options.make([*self._trained().values()])
        for name, parameter in self._trained().items():
            if name in found.moments:
                self._optimizer.state[parameter] = {k: v.clone() for k, v in found.moments[name].items()}
        self.steps = found.steps
        self._random.generator.set_state(found.random)
        take_gains(self.runtime.model, found.gains)
