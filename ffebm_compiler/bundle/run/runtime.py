"""A loaded bundle: it infers, trains and hands its weights back, without the model's code."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...chip.emulate import save_chip
from ...errors import InputError, OptionError, Problem
from ...ffebm import FFEBM, AnalogFFEBM
from ...ir import Program
from ...model.block_view import BlockView
from ...model.converted_module import runner_of
from ...model.runner import BlockEquilibrium
from ...solve import Relaxation
from ...torch_private import tree_map
from ...train.processes import require_synchronised
from ..compile.pages import CONDUCTANCES
from ..format.contents import Contents
from ..write.writing import write_bundle
from .losses import Loss, loss_of
from .model import Step, code_of, require_no_differentiation, training_step_of
from .network import refresh_weights
from .optimizers import OptimizerOptions
from .random_numbers import RandomNumbers
from .refresh import refreshed
from .trainer import Trainer


class Runtime:
    """A compiled model that runs from its bundle; made by :func:`ffebm_compiler.runtime.load`.

    Attributes:
        contents: the bundle as it was read.
        model: the ff-EBM; its network holds the tensors under the user's names and runs digital parts in onnxruntime.
    """

    def __init__(self, contents: Contents, model: FFEBM, random: RandomNumbers):
        self.contents = contents
        self.model = model
        self._random = random
        self._step: tuple[str, Step] | None = None

    # --- inference --------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result, every block at its equilibrium: tensors in containers as the model packs them.

        Args:
            args, kwargs: tensors or arrays, as the original model takes them.

        Raises:
            InputError: with every problem of the call.
        """
        with torch.no_grad():
            refresh_weights(self.model.network, self.training)
            return self.model(*as_tensors(args), **as_tensors(kwargs))

    def equilibrium(self, *args: Any, **kwargs: Any) -> tuple[Any, tuple[BlockEquilibrium, ...]]:
        """The model's result, and what each block settled to."""
        refresh_weights(self.model.network, self.training)
        return self.model.equilibrium(*as_tensors(args), **as_tensors(kwargs))

    @property
    def relaxation(self) -> tuple[Relaxation, ...]:
        """How each block relaxed in the last forward pass."""
        return self.model.relaxation

    @property
    def nudged_relaxation(self) -> dict[str, tuple[Relaxation, ...]]:
        """How each block relaxed in the nudged phases of the last training step, by block name."""
        return self.model.nudged_relaxation

    @property
    def program(self) -> Program:
        """The program of the current mode."""
        return self.model.program

    @property
    def blocks(self) -> tuple[BlockView, ...]:
        """The energy-based blocks, in order of execution."""
        return self.model.blocks

    @property
    def training(self) -> bool:
        """The mode of dropout and batch norms: at first evaluation; training steps take training mode by themselves."""
        return self.model.training

    def train(self, mode: bool = True) -> Runtime:
        self.model.train(mode)
        return self

    def eval(self) -> Runtime:
        return self.train(False)

    def calibrate(self, *args: Any, **kwargs: Any) -> Runtime:
        """Sets the ranges of an emulated chip's converters by this input.

        Raises:
            OptionError: the blocks are not on a chip.
        """
        refresh_weights(self.model.network)
        self._on_chip("calibrate").calibrate(*as_tensors(args), **as_tensors(kwargs))
        return self

    def _on_chip(self, what: str) -> AnalogFFEBM:
        if not isinstance(self.model, AnalogFFEBM):
            raise OptionError.at(
                what, "is of emulated chips", 'Load the bundle with blocks="analog-emu" and hardware=.'
            )
        return self.model

    # --- weights ----------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors under the names of the user's model: ``net.load_state_dict(runtime.state_dict())``."""
        found = self.model.network.state_dict()
        return {k: v.detach().clone() for k, v in found.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> Runtime:
        """Takes the tensors of a state dict of the user's model.

        Raises:
            InputError: with every name that is missing or unknown, and every tensor of another shape or type.
        """
        given = as_tensors(dict(state))
        own = self.model.network.state_dict()
        problems = [*_state_problems(own, given)]
        InputError.raise_if(problems)
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(given[name])
        runner_of(self.model).block_gains.store.forget()
        return self

    def gradients(self) -> dict[str, Tensor]:
        """The gradients that training steps have left, by parameter; none where no error has arrived."""
        named = self.model.network.named_parameters()
        return {n: p.grad for n, p in named if p.grad is not None}

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        self.model.network.zero_grad()

    # --- training ---------------------------------------------------------------------------------------

    @property
    def training_code(self) -> str:
        """The source of the training step that :meth:`train_step` runs."""
        on_chip = isinstance(self.model, AnalogFFEBM)
        return code_of(self.model, None if on_chip else self.model.execution.estimator)

    def train_step(self, x: Any, y: Any, loss: str | Loss = "cross_entropy", loss_output: str | None = None) -> Tensor:
        """One step in training mode: returns the loss, adds to :meth:`gradients`, moves no weight.

        Nothing is differentiated automatically, except on an emulated chip: there the emulator takes the currents and
        the contrast of one array of devices from differentiating that array; errors never pass through it.

        Args:
            x: the model's input; a tuple for several, a dict by name.
            y: the target, handed to the loss.
            loss: a loss by name, or ``(outputs, target) -> (loss, errors)``.
            loss_output: as in :meth:`trainer`.

        Raises:
            SynchronisationError: in a process group of several, outside of ``fc.synchronised(self.model)``.
        """
        return self.run_step(x, y, loss_of(loss, loss_output))

    def run_step(self, x: Any, y: Any, loss: Loss, step: Step | None = None) -> Tensor:
        """The same with a loss as a function, and a training step of one's own."""
        require_synchronised()
        step = self._generated() if step is None else step
        before = self.model.training
        self.model.train(True)
        try:
            with torch.no_grad():
                return step(self.model, as_tensors(x), as_tensors(y), loss)
        finally:
            self.model.train(before)

    def _generated(self) -> Step:
        """The generated step; its code is written once for an estimator."""
        if not isinstance(self.model, AnalogFFEBM):
            require_no_differentiation(self.model.execution.estimator)
        key = repr(self.model.execution.estimator)
        if self._step is None or self._step[0] != key:
            self._step = key, training_step_of(self.training_code)
        return self._step[1]

    def trainer(
        self,
        loss: str | Loss = "cross_entropy",
        optimizer: str = "sgd",
        *,
        learning_rate: float = 1e-2,
        momentum: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        seed: int = 0,
        step: Step | None = None,
        loss_output: str | None = None,
    ) -> Trainer:
        """What trains this model.

        Args:
            loss: ``"cross_entropy"``, ``"mse"``, ``"l1"``, ``"huber"``, ``"binary_cross_entropy"``, or a function
                ``(outputs, target) -> (loss, errors)`` with the errors in the nest of the outputs.
            optimizer: ``"sgd"``, ``"adam"`` or ``"adamw"``.
            learning_rate, momentum, betas, weight_decay: its constants.
            seed: of the random layers.
            step: a training step to run instead of the generated one, as ``training_loop.py`` has it.
            loss_output: which of several outputs a named loss is of: ``"logits"``, ``"heads.1"``; None: the real one.

        Raises:
            OptionError: with every option that can't be used.
        """
        if not isinstance(self.model, AnalogFFEBM):
            require_no_differentiation(self.model.execution.estimator)
        options = OptimizerOptions(optimizer, learning_rate, momentum, betas, weight_decay)
        self._random.generator.manual_seed(seed)
        return Trainer(self, loss_of(loss, loss_output), options, self._random, step)

    # --- files ------------------------------------------------------------------------------------------

    def present(self) -> Contents:
        """The bundle's contents with the present weights and reverse gains."""
        held = {**dict(self.model.network.named_parameters()), **dict(self.model.network.named_buffers())}
        tensors = {p: held[p].detach().clone() for p in self.contents.tensors}
        return replace(self.contents, tensors=tensors, gains=runner_of(self.model).block_gains.saved())

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Writes a bundle with the present weights: the same graphs and programs, other parameters and records.

        Of an emulated chip the conductances are written too, for ``hardware="bundle"``.

        Args:
            path: a folder, or a file that ends in ``.ffebm``.
            overwrite: whether an earlier bundle may be replaced.

        Raises:
            OptionError: it can't be written there.
        """
        contents = self.present()
        if not all(torch.equal(t, self.contents.tensors[n]) for n, t in contents.tensors.items()):  # or it is no number
            contents = refreshed(contents)
        if isinstance(self.model, AnalogFFEBM):
            with tempfile.TemporaryDirectory() as folder:
                conductances = save_chip(self.model.chip, Path(folder, CONDUCTANCES)).read_bytes()
            contents = replace(contents, files={**contents.files, CONDUCTANCES: conductances})
        written: Path = write_bundle(contents, path, overwrite)
        return written


def as_tensors(values: Any) -> Any:
    """The same nest with tensors in place of arrays."""
    return tree_map(_as_tensor, values)


def _as_tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(np.ascontiguousarray(value))
        except TypeError as failure:
            raise InputError.at(
                "an array", f"holds {value.dtype}", "Give an array of numbers, such as float32."
            ) from failure
    return value.detach() if isinstance(value, Tensor) else value


def _state_problems(own: Mapping[str, Tensor], given: Mapping[str, Any]) -> list[Problem]:
    where = "state dict"
    remedy = "Give the state dict of the model that was compiled."
    problems = [Problem(where, f"lacks {n}", remedy) for n in own if n not in given]
    problems += [Problem(where, f"has {n}, which the model lacks", remedy) for n in given if n not in own]
    for name, tensor in own.items():
        value = given.get(name)
        if value is not None and (not isinstance(value, Tensor) or value.shape != tensor.shape):
            shown = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            problems.append(
                Problem(f"tensor {name}", f"is {shown}, the model's {tuple(tensor.shape)}", "Give one of its shape.")
            )
    return problems
