"""Runs a compiled model: digital parts in PyTorch, energy-based blocks on a substrate.

    x -> bind_inputs -> run_program: DigitalBlock -> run_digital
                                     EnergyBlock  -> block_call -> substrate.block_call -> run_block
      -> pack_output

What users hold (:class:`ffebm_compiler.FFEBM`), generated training steps, emulated chips and bundles all run this.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..compiled import Compiled
from ..errors import ConvergenceWarning, InputError, Problem
from ..estimate import Estimate, FreePhase
from ..ir import EnergyBlock, Program
from ..passes import Verification
from ..passes.modes import in_mode
from ..passes.tracing.copy_on_write import copied_on_write, sharable
from ..solve import BoundBlock, Gains, Relaxation, relax
from ..torch_private import tree_leaves, tree_map_only
from ..train import BlockCall, attribute, run_block
from ..train.first_derivatives import refuse_forward_mode, refuse_transforms
from ..train.program_pass import Values, run_program
from .block_gains import BlockGains
from .bound_model import BoundModel
from .call_inputs import input_problems
from .convergence import convergence_message
from .execution import Execution
from .nested_values import ordinary
from .substrate import Substrate
from .weight_range import check_weights, require_whole

Heard = Callable[[FreePhase], None]
"""Who hears of the free phase of each block."""


@dataclass(frozen=True)
class BlockEquilibrium:
    """What a block settled to in one forward pass: its inputs, states and relaxation."""

    block: str
    inputs: Mapping[str, Any]
    states: Mapping[str, Tensor]
    relaxation: Relaxation


class Checks:
    """What is checked of a model while it is used. Nothing: a bundle's model was checked when it was compiled."""

    def call(self, model: Runner, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Looks at a call before it is run."""

    def block(
        self,
        model: Runner,
        block: EnergyBlock,
        bound: BoundBlock,
        states: Mapping[str, Tensor],
        relaxation: Relaxation | None,
    ) -> None:
        """Looks at a block that has settled: ``bound`` may hold its winners, and ``relaxation`` is None where its end
        need not be the equilibrium."""

    def of_block(self, block: EnergyBlock) -> Verification | None:
        """What was found of a block."""
        return None


def ignore(phase: FreePhase) -> None:
    """Hears of a free phase, and forgets it."""


def call_here(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


class Runner(BoundModel):
    """A compiled model on a substrate.

    Attributes:
        substrate: what its blocks run on.
        checks: what is checked of it while it is used.
        block_gains: the reverse gains of its blocks.
        relaxation: how each block relaxed in the last forward pass.
        nudged_relaxation: how each block relaxed in the nudged phases of the last backward pass, by its name.
    """

    def __init__(self, compiled: Compiled, execution: Execution, substrate: Substrate, checks: Checks):
        super().__init__(compiled, execution)
        self.substrate = substrate
        self.checks = checks
        self.block_gains = BlockGains(self)
        self.relaxation: tuple[Relaxation, ...] = ()
        self.nudged_relaxation: Mapping[str, tuple[Relaxation, ...]] = {}

    # --- one pass ---------------------------------------------------------------------------------------

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        heard: Heard = ignore,
        call: Callable[..., Any] = call_here,
        walk: Callable[..., Values] = run_program,
    ) -> Any:
        """The model's result, every block at its equilibrium.

        Args:
            heard: hears of each block's free phase.
            call, walk: call everything but digital parts, and go through the program, where a compiler looks on.
        """

        def settled(block: EnergyBlock, values: Values) -> dict[str, Tensor]:
            return run_block(self.block_call(block, values, heard))

        is_inference = torch.is_inference_mode_enabled()
        if is_inference:
            args, kwargs = call(ordinary, (args, kwargs))
        # a relaxation differentiates the interaction, which inference tensors forbid
        without_history = (torch.inference_mode(False), torch.no_grad()) if is_inference else ()
        with contextlib.ExitStack() as stack:
            for context in without_history:
                stack.enter_context(context)
            program, network, values = call(self._begin, args, kwargs)
            return call(self.pack_output, walk(program, network, values, partial(call, settled)))

    def equilibrium(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, tuple[BlockEquilibrium, ...]]:
        """The model's result, and what each block settled to, without history."""
        settled: list[BlockEquilibrium] = []

        def keep(phase: FreePhase) -> None:
            read = {n: v for n, v in phase.bound.inputs.items() if n not in phase.winners}
            states = {n: s.clone() for n, s in phase.states.items()}  # a layer that reads a state may write into it
            settled.append(BlockEquilibrium(phase.relaxation.block, read, states, phase.relaxation))

        with torch.no_grad():
            result = self.run(args, kwargs, keep)
        return result, tuple(settled)

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Program, nn.Module, Values]:
        """The program, the modules that it calls, and the values of its inputs."""
        program = self.program
        refuse_transforms(program.energy_blocks)
        refuse_forward_mode(
            program.energy_blocks,
            (v for vs in (tree_leaves((args, kwargs)), self.network.parameters(), self.network.buffers()) for v in vs),
        )
        return program, self.network, self.bind_inputs(args, kwargs)

    def bind_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Values:
        """The program's input values, checked; begins a new run, with no relaxations recorded.

        Raises:
            ChangedError: the model has changed since conversion.
            InputError: with every problem of the call.
        """
        mode = self.mode
        try:
            given = mode.signature.bind(args, kwargs)
        except TypeError as failure:
            raise InputError.at(
                f"call of {type(self.network).__name__}",
                str(failure),
                f"Call it as the original model: forward{inspect.signature(self.network.forward)}.",
            ) from failure
        values = dict(zip(mode.program.inputs, given, strict=True))
        self.require_unchanged()
        self.forget_run()
        InputError.raise_if(self._input_problems(values))
        self.block_gains.begin_run()
        self.checks.call(self, args, kwargs)
        return values

    def _input_problems(self, values: Values) -> Iterator[Problem]:
        program = self.program
        relaxed = {n for b in program.energy_blocks for n in b.inputs}
        for name, value in values.items():
            label = program.labels.get(name, name)
            yield from input_problems(self.network, label, value, name not in relaxed)

    # --- one block --------------------------------------------------------------------------------------

    def block_call(
        self, block: EnergyBlock, values: Mapping[str, Any], heard: Heard = ignore, trains: bool | None = None
    ) -> BlockCall:
        """One use of a block on the substrate.

        Args:
            heard: hears of its free phase.
            trains: whether weights train in this pass; found out where it is not given.
        """
        bound = self.bound(block, values)
        require_whole(bound.weights)
        gains = self.block_gains.measure(bound, trains)
        self._check_layer_weights(bound, gains)

        def free(phase: FreePhase) -> None:
            self.relaxation += (phase.relaxation,)
            heard(phase)
            if math.isfinite(phase.relaxation.residual):
                ends_at_equilibrium = call.settle is solver
                self.checks.block(
                    self, block, phase.bound, phase.states, phase.relaxation if ends_at_equilibrium else None
                )
            self._warn(phase.relaxation, block, "free phase")

        solver = partial(relax, differentiation=self.differentiation)
        call = self.substrate.block_call(
            BlockCall(
                block,
                bound.inputs,
                bound.weights,
                gains.layer_weights,
                self.execution.estimator,
                self.execution.tolerance,
                free,
                self._record_nudged,
                solver,
                differentiation=self.differentiation,
                contraction=self.block_gains.store.contraction(block, gains),
            ),
            self,
        )
        return call

    def _check_layer_weights(self, bound: BoundBlock, gains: Gains) -> None:
        trained = next((w.dtype for w in bound.weights.values() if w.is_floating_point()), None)
        asked = trained if torch.is_grad_enabled() else None
        check_weights(bound.block, gains, self.execution.loop_gain, self.program.labels, asked)

    def _record_nudged(self, block: EnergyBlock, estimate: Estimate) -> None:
        """Keeps how a block relaxed in its nudged phases, and warns where it did not."""
        self.nudged_relaxation = {**self.nudged_relaxation, block.name: estimate.relaxations}
        for relaxation in estimate.relaxations:
            self._warn(relaxation, block, "nudged phase")

    def _warn(self, relaxation: Relaxation, block: EnergyBlock, phase: str) -> None:
        if relaxation.converged:
            return
        message = self.substrate.not_settled(block, relaxation, phase)
        if message is None:
            weights = {p: attribute(self.network, p) for p in block.weights}
            loop_gain, labels = self.execution.loop_gain, self.program.labels
            message = convergence_message(relaxation, block, phase, labels, weights, loop_gain)
        warnings.warn(message, ConvergenceWarning, stacklevel=2)

    def forget_run(self) -> None:
        """Drops what the last run recorded."""
        self.relaxation, self.nudged_relaxation = (), {}
        self.block_gains.forget_run()

    # --- gains ------------------------------------------------------------------------------------------

    def gains(self, block: EnergyBlock) -> Gains | None:
        """The gains of a block's present weights; None before its first use."""
        return self.block_gains.present([block])[block.key]

    def all_gains(self, program: Program | None = None) -> dict[str, Gains | None]:
        """Those of every block of a program, the present one by default, by its name."""
        blocks = (program or self.program).energy_blocks
        present = self.block_gains.present(blocks)
        return {b.name: present[b.key] for b in blocks}

    def layer_weights(self, program: Program) -> dict[str, Mapping[str, float] | None]:
        """w_l of the states of every block of a program, by its name; None where they are not measured yet."""
        return {n: None if gains is None else gains.layer_weights for n, gains in self.all_gains(program).items()}

    def ensure_gains(self, *args: Any, **kwargs: Any) -> None:
        """Measures the gains of blocks that have none yet, on the given input, without touching anything else."""
        if self.block_gains.are_known():
            return
        shared = sharable(self.network)
        twin = copy.deepcopy(self, {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in shared.values()})
        args, kwargs = tree_map_only(Tensor, Tensor.clone, (args, kwargs))  # a forward may write into its arguments
        with torch.random.fork_rng(), torch.no_grad(), copied_on_write(shared):  # which may write into weights, too
            twin.run(args, kwargs)
        self.block_gains.store.take(twin.block_gains.store)

    # --- for a while, and copies --------------------------------------------------------------------------

    @contextlib.contextmanager
    def in_mode(self, training: bool) -> Iterator[None]:
        """One mode for the length of a ``with``; afterwards every module is in its own again, and no run is recorded."""
        before = self.training
        with in_mode(self.network, training):
            self.training = training
            try:
                yield
            finally:
                self.training = before
                self.forget_run()

    @contextlib.contextmanager
    def on(self, substrate: Substrate) -> Iterator[None]:
        """Another substrate for the length of a ``with``."""
        before, self.substrate = self.substrate, substrate
        try:
            yield
        finally:
            self.substrate = before

    @contextlib.contextmanager
    def executing(self, execution: Execution) -> Iterator[None]:
        """Other options of execution for the length of a ``with``."""
        before, self.execution = self.execution, execution
        try:
            yield
        finally:
            self.execution = before

    def copied(self, substrate: Substrate, checks: Checks, device: str | None = None) -> Runner:
        """This model on another substrate, with a copy of its weights and of what is known of its gains."""
        network = copy.deepcopy(self.network)
        network = network if device is None else network.to(device)
        own = Runner(replace(self.compiled, network=network), self.execution, substrate, checks)
        own.block_gains.store.take(self.block_gains.store)
        own.training = self.training
        return own
