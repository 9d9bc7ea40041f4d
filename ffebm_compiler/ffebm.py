"""What users hold: a converted model, and a converted model on a chip. Doors only; what is behind them is elsewhere.

model            torch.nn.Module: tensors, attributes, hooks, files     model/converted_module.py
model(x)         one pass over the program                              model/runner.py
blocks           what they run on                                       model/substrate.py, backends/
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any, Literal, TypeVar, overload

import networkx as nx
import torch
from torch import Tensor, nn

from .backends.analog_emu.chip_runs import calibrate
from .backends.analog_emu.circuits import write_spice
from .backends.analog_emu.substrate import ChipSubstrate, chip_of
from .backends.protocol import Backend
from .backends.registry import substrate_of
from .chip.hardware import Hardware
from .chip.spice.testbench import Bench
from .chip_doors import ChipDoors
from .errors import OptionError
from .estimate import Estimator
from .files import check_target, write_whole
from .ir import EnergyBlock, Program
from .model.block_view import BlockView
from .model.converted_module import STEPS, ConvertedModule
from .model.execution import Execution
from .model.first_use import FirstUse
from .model.gain_store import GainStore
from .model.runner import BlockEquilibrium, Runner
from .model.script import script_of
from .passes import Verification
from .solve import BoundBlock, Gains, Relaxation, Tolerance
from .train import BlockCall
from .train.processes import require_synchronised
from .view import Report, build_report, draw_graph, partition_graph

Self = TypeVar("Self", bound="FFEBM")
Place = str | os.PathLike[str]


class FFEBM(ConvertedModule):
    """A feedforward-tied energy-based model: ``model(x)`` relaxes every block, ``loss.backward()`` chains BP and EP.

    Made by :func:`ffebm_compiler.convert`. Attributes of the user's network are found by their own names, except where
    this class has one of the same name; then use ``model.network``.
    """

    # --- how it runs --------------------------------------------------------------------------------------

    def equilibrium(self, *args: Any, **kwargs: Any) -> tuple[Any, tuple[BlockEquilibrium, ...]]:
        """The model's result, and what each block settled to (inputs and states by name), without history."""
        return self._runner.equilibrium(args, kwargs)

    @property
    def execution(self) -> Execution:
        """Estimator, tolerance and loop gain of its runs; :meth:`using` gives others."""
        return self._runner.execution

    @contextlib.contextmanager
    def using(
        self: Self,
        *,
        estimator: Estimator | None = None,
        tolerance: float | None = None,
        max_sweeps: int | None = None,
        loop_gain: float | EllipsisType | None = ...,
        verify: bool | None = None,
    ) -> Iterator[Self]:
        """Other options for the length of a ``with``; those not given stay. ``loop_gain=None`` is unit feedback.

        Raises:
            OptionError: an option that can't be used.
        """
        before = self.execution
        stop = before.tolerance
        other = Execution(
            before.estimator if estimator is None else estimator,
            Tolerance(
                stop.residual if tolerance is None else tolerance,
                stop.max_sweeps if max_sweeps is None else max_sweeps,
            ),
            before.loop_gain if isinstance(loop_gain, EllipsisType) else loop_gain,
            before.verify if verify is None else verify,
        )
        with self._runner.executing(other):
            yield self

    @contextlib.contextmanager
    def as_ideal(self: Self) -> Iterator[Self]:
        """The torch executor with the same weights, for the length of a ``with``."""
        with self._runner.on(self._runner.substrate.ideal()):
            yield self

    def ensure_gains(self, *args: Any, **kwargs: Any) -> None:
        """Measures the gains of blocks that have none yet, on the given input, without touching anything else."""
        self._runner.ensure_gains(*args, **kwargs)

    @contextlib.contextmanager
    def holding_gains(self: Self) -> Iterator[Self]:
        """Blocks keep the reverse gains that they were last given, for the length of a ``with``.

        A gradient is that of the loss at the gains of its forward pass; finite differences of the loss have to hold
        them as well, whatever becomes of the weights.
        """
        with self._runner.block_gains.held():
            yield self

    def gains(self, block: EnergyBlock) -> Gains | None:
        """The gains of a block's present weights; None before its first use."""
        return self._runner.gains(block)

    @property
    def gain_store(self) -> GainStore:
        """All gains that were measured or loaded."""
        return self._runner.block_gains.store

    def bound(self, block: EnergyBlock, values: Mapping[str, Any]) -> BoundBlock:
        """A block with the values and weights that it reads, at unit feedback."""
        return self._runner.bound(block, values)

    # --- how it ran, and what it is ---------------------------------------------------------------------------

    @property
    def relaxation(self) -> tuple[Relaxation, ...]:
        """How each block relaxed in the last forward pass."""
        return self._runner.relaxation

    @property
    def nudged_relaxation(self) -> dict[str, tuple[Relaxation, ...]]:
        """How each block relaxed in the nudged phases of the last backward pass, by block name."""
        return dict(self._runner.nudged_relaxation)

    @property
    def estimator_name(self) -> str:
        """Where the gradients of the blocks come from."""
        return self._runner.substrate.gradient_source(self._runner)

    @property
    def blocks(self) -> tuple[BlockView, ...]:
        """The energy-based blocks, in order of execution."""
        return tuple(BlockView(self._runner, b) for b in self.program.energy_blocks)

    @property
    def verified(self) -> dict[str, Verification]:
        """The checks of the current mode's blocks so far, by block name."""
        made = {b.name: self._runner.checks.of_block(b) for b in self.program.energy_blocks}
        return {name: check for name, check in made.items() if check is not None}

    def report(self) -> Report:
        """What was compiled: blocks, couplings, gains and certificates, and why each digital operation is digital."""
        runner = self._runner
        runner.require_unchanged()
        gains, loop_gain = runner.all_gains(), self.execution.loop_gain
        return build_report(runner.compiled, self.training, loop_gain, gains, self.verified)

    def to_networkx(self) -> nx.DiGraph:
        """The partition graph; nodes carry domain, block, operation and the user's layer name."""
        return partition_graph(self.program, self.network)

    def draw(self, path: Place) -> Path:
        """Draws the partition graph to ``path``: ``.svg``, ``.png`` or ``.html`` (self-contained)."""
        return draw_graph(self.to_networkx(), path)

    def to_feedforward(self) -> nn.Module:
        """The user's own model, as it was written, with the present weights.

        Raises:
            OptionError: the model comes from a bundle, which has no code.
        """
        self._require("to_feedforward")
        model, compiled = copy.deepcopy(self.network), self._runner.compiled
        for path in compiled.in_place:
            setattr(model.get_submodule(path), "inplace", True)  # noqa: B010  (nn.Module declares no such attribute)
        for name in compiled.constants:
            delattr(model, name)
        return model

    # --- the training step, as code -----------------------------------------------------------------------------

    @property
    def training_code(self) -> str:
        """The source of ``training_step(model, x, y, loss_fn)`` in the current mode, for the current estimator."""
        return self._runner.substrate.training_code(self._runner, self._runner.layer_weights)

    def training_step(self, x: Any, y: Any, loss_fn: Callable[[Any, Any], Tensor]) -> Tensor:
        """Runs that code once: returns the loss, and adds the gradient to ``.grad`` as ``backward()`` would.

        Args:
            x: the model's input; a tuple for several, a dict by name.
            y: the target, handed to ``loss_fn``.
            loss_fn: ``(output, y) -> scalar tensor``.

        Raises:
            SynchronisationError: in a process group of several, outside of :func:`ffebm_compiler.synchronised`.
        """
        require_synchronised()
        key = (self.training, self.execution.estimator, type(self._runner.substrate))
        steps: dict[Any, Callable[..., Tensor]] = self.__dict__.setdefault(STEPS, {})
        if key not in steps:
            namespace: dict[str, Any] = {"__name__": "ffebm_training_step"}
            exec(compile(self.training_code, "<training_code>", "exec"), namespace)
            steps[key] = namespace["training_step"]
        return steps[key](self, x, y, loss_fn)

    def write_training_loop(self, path: Place, model: str | None = None) -> Path:
        """Writes a runnable script around the generated code: data, optimizer, progress bar, checkpoints, metrics.

        It runs by itself or under ``torchrun``: several processes take the steps of one, on a part of each batch each.

        Args:
            path: the script.
            model: ``module:factory`` of the original, the default of ``--model``; its class if that takes no arguments.

        Raises:
            OptionError: the path can't be written, or a script can't spell the conversion: it used rules of the
                user's own, or the blocks are on a chip.
        """
        self._require("write_training_loop")
        self._runner.require_unchanged()
        check_target(path, "script")
        return write_whole(path, script_of(self._runner.compiled, self.execution, model), "script")

    # --- what that code calls -------------------------------------------------------------------------------------

    @property
    def program(self) -> Program:
        """The program of the current mode."""
        return self._runner.program

    def bind_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The program's input values, checked; begins a new run, with no relaxations recorded.

        Raises:
            InputError: with every problem of the call.
        """
        return self._runner.bind_inputs(args, kwargs)

    def block_call(self, block: EnergyBlock, values: Mapping[str, Any], *, trains: bool | None = None) -> BlockCall:
        """One use of a block: what it reads, its gains, and how it settles.

        Args:
            trains: whether weights train in this pass; found out where it is not given.
        """
        return self._runner.block_call(block, values, trains=trains)

    def pack_output(self, values: Mapping[str, Any]) -> Any:
        """The model's result from the computed values."""
        return self._runner.pack_output(values)

    # --- on something else, and into files ------------------------------------------------------------------------

    @overload
    def lower(
        self,
        backend: Literal["analog-emu"] = "analog-emu",
        *,
        hardware: Place | Hardware | None = None,
        chip_seed: int = 0,
        noise_seed: int = 0,
        chip: Place | None = None,
    ) -> AnalogFFEBM: ...

    @overload
    def lower(self, backend: str | Backend, **options: Any) -> FFEBM: ...

    def lower(self, backend: str | Backend = "analog-emu", **options: Any) -> FFEBM:
        """This model on another backend, with a copy of the weights that it has now; later ones are not there.

        Args:
            backend: ``"analog-emu"``, the emulator of analog hardware; ``"torch-ep"``, PyTorch itself; the name of one
                that another package registers, or one itself (docs/backends.md).
            options: of the backend; of the emulator those of :func:`ffebm_compiler.backends.analog_emu`:
                ``hardware``, ``chip_seed``, ``noise_seed``, ``chip``.

        Raises:
            OptionError: a backend or an option that can't be used, with every problem.
            InputError: a chip's file that can't be read.
        """
        self._runner.require_unchanged()
        return facade(lowered(self._runner, backend, options))

    def export_spice(
        self,
        directory: Place,
        *args: Any,
        hardware: Place | Hardware | None = None,
        chip_seed: int = 0,
        bench: Bench | None = None,
        blocks: Sequence[str] | None = None,
        overwrite: bool = False,
        **kwargs: Any,
    ) -> list[Path]:
        """Writes one SPICE netlist for each block, on the first sample of an input, with what the emulator expects.

        Args:
            directory: a folder that does not exist yet, or is empty.
            args, kwargs: the model's input; on a chip, by default the first sample that it was calibrated on.
            hardware, chip_seed: of a model that is not on a chip, as in :meth:`lower`.
            bench: what the netlists simulate.
            blocks: names of the blocks to write; all by default.
            overwrite: whether a folder of earlier netlists may be replaced.

        Raises:
            OptionError: the folder can't be written, a coupling is too large, or there is no block of such a name.
            InputError: a layer has no circuit.
        """
        runner = self._runner
        if not isinstance(runner.substrate, ChipSubstrate):
            runner = lowered(runner, "analog-emu", {"hardware": hardware, "chip_seed": chip_seed})
            calibrate(runner, chip_of(runner), args, kwargs)
        elif hardware is not None or chip_seed != 0:
            what = "is of a model that is not on a chip, and this one is"
            raise OptionError.at("option hardware, chip_seed", what, "Leave it out, or lower the converted model.")
        return write_spice(runner, chip_of(runner), directory, args, kwargs, bench, blocks, overwrite)

    def compile_to(
        self,
        path: Place,
        example_inputs: Any,
        *,
        hardware: Place | Hardware | None = None,
        chip_seed: int = 0,
        unexportable: str = "refuse",
        overwrite: bool = False,
    ) -> Path:
        """Writes a bundle that runs and trains without the model's code.

        Digital parts become ONNX, blocks JSON, parameters safetensors.

        Args:
            path: a folder, or a file that ends in ``.ffebm``.
            example_inputs: a tensor, a tuple of arguments or a dict of keywords, of two samples or more.
            hardware, chip_seed: as in :meth:`lower`; with them the bundle holds the chip's conductances and the
                blocks' netlists.
            unexportable: what becomes of a digital part that ONNX can't express: ``"refuse"`` to write anything, or
                ``"skip"`` it.
            overwrite: whether an earlier bundle may be replaced; until the new one is whole, the old one stays.

        Raises:
            OptionError: with every option and every part that stands in the way.
        """
        from .bundle.compile.model_bundle import BundleOptions, write_bundle_of  # it takes a second to import onnx

        self._runner.require_unchanged()
        options = BundleOptions(hardware, chip_seed, unexportable, overwrite)
        return write_bundle_of(self._runner, path, example_inputs, options)

    def export_onnx(self, path: Place, example_inputs: Any, *, diagnostics: bool = False) -> Path:
        """Writes the whole model as one ONNX file, with which any onnxruntime infers.

        Every relaxation is a ``Loop`` that stops by tolerance.

        Args:
            path: the file.
            example_inputs: a tensor, a tuple of arguments or a dict of keywords, of two samples or more.
            diagnostics: whether the sweeps and the residual of every block are further outputs.

        Raises:
            OptionError: the file can't be written, or an operation has no ONNX form; it names the layer.
        """
        from .backends.onnx_model import export_model  # as above

        self._runner.require_unchanged()
        return export_model(self._runner, path, example_inputs, diagnostics)

    def _require(self, door: str) -> None:
        """Refuses a door that what the blocks run on can't serve."""
        if door in self._runner.substrate.refused:
            raise OptionError(self._runner.substrate.refused[door])


class AnalogFFEBM(ChipDoors, FFEBM):
    """A converted model on an emulated chip; made by :meth:`FFEBM.lower`."""


def lowered(runner: Runner, backend: str | Backend, options: Mapping[str, Any]) -> Runner:
    """A copy of a model on the substrate that a backend makes for it."""
    with torch.inference_mode(False):  # weights copied in inference mode could not be trained afterwards
        return runner.copied(substrate_of(backend, runner, options), FirstUse())


def facade(runner: Runner) -> FFEBM:
    """What users hold of a model: on a chip, with the doors that a chip has."""
    return AnalogFFEBM(runner) if isinstance(runner.substrate, ChipSubstrate) else FFEBM(runner)


__all__ = ["FFEBM", "AnalogFFEBM"]
