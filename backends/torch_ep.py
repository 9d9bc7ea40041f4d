"""The torch executor: digital parts as ordinary PyTorch, energy-based blocks relaxed, gradients by EP.

An :class:`FFEBM` is an ``nn.Module`` that shares the registries of the user's network: its parameters, buffers and
submodules are the network's own, under their own names, so ``state_dict``, optimizers, ``.to()`` and hooks see
what they saw before.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import networkx as nx
import torch
from torch import Tensor, nn

from ..chip.hardware import Hardware
from ..codegen import training_code
from ..compiled import Compiled, ModeProgram
from ..errors import ChangedError, ConvergenceWarning, InputError, Problem, VerificationError
from ..estimate import Estimate, Estimator, FreePhase
from ..files import check_target, write_whole
from ..ir import EnergyBlock, Program, Ref, Weight
from ..model.call_inputs import input_problems
from ..model.convergence import convergence_message
from ..model.execution import Execution
from ..model.gain_store import GainStore, weights_of
from ..model.global_hooks import GlobalHooks, global_hooks
from ..model.global_hooks import problems as hook_problems
from ..model.original import Original
from ..model.script import script_of
from ..model.user_signature import KEPT, ShownForward
from ..model.values import map_leaves, ordinary
from ..model.verification import has_forward, kept_buffers, verify_first_input
from ..model.views import BlockView
from ..model.watch import Seen, require_unchanged, seen
from ..model.weight_range import check_weights, infinite_norm, require_whole
from ..passes import Verification, verify
from ..passes.tracing.copy_on_write import copied_on_write, sharable
from ..passes.tracing.opened_contexts import callers_autocast
from ..passes.watching.attribute_tokens import MISSING, raw_attribute
from ..solve import (
    EXPLICIT,
    BoundBlock,
    Differentiation,
    Gains,
    Relaxation,
    Tolerance,
    relax,
    unit_gains,
)
from ..solve.fingerprint import fingerprints
from ..solve.loop_gain import InfiniteNormError
from ..solve.norm_sample import sample_of
from ..torch_private import tree_leaves, tree_map_only
from ..train import BlockCall, attribute, out_of_sight, run_block, run_digital
from ..train.first_derivatives import refuse_forward_mode, refuse_transforms
from ..view import Report, build_report, draw_graph, partition_graph

if TYPE_CHECKING:
    from .analog_emu.emulated import AnalogFFEBM

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockEquilibrium:
    """What a block settled to in one forward pass: its inputs, states and relaxation."""

    block: str
    inputs: Mapping[str, Any]
    states: Mapping[str, Tensor]
    relaxation: Relaxation


class TorchEP:
    """The backend that runs everything in PyTorch."""

    name = "torch-ep"

    def __init__(self, execution: Execution | None = None):
        self.execution = execution or Execution()

    def lower(self, compiled: Compiled) -> FFEBM:
        return FFEBM(compiled, self.execution)


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


class FFEBM(nn.Module):
    """A feedforward-tied energy-based model: ``model(x)`` relaxes every block, ``loss.backward()`` chains BP and EP.

    Made by :func:`ffebm_compiler.convert`. Attributes of the user's network are found by their own names, except where
    this class has one of the same name; then use ``model.network``.
    """

    network: nn.Module
    execution: Execution
    differentiation: Differentiation
    finds_exactly = True
    """Whether a relaxation ends at the equilibrium, up to its residual: a chip finds it less exactly."""

    def __init__(self, compiled: Compiled, execution: Execution):
        super().__init__()
        hidden = self.__dict__
        hidden["compiled"] = compiled
        hidden["network"] = compiled.network
        for registry in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            hidden[registry] = compiled.network.__dict__[registry]
        hidden["execution"] = execution
        hidden["differentiation"] = EXPLICIT
        hidden["_gains"] = GainStore()
        hidden["_records"] = []
        hidden["_fingerprints"] = {}  # by block, of the run that has just begun; each is used once
        hidden["_nudged"] = {}
        hidden["_steps"] = {}
        hidden["_verified"] = {}  # by the block's key: blocks of that key that differ, each with its check
        hidden["_compared"] = (
            set()
        )  # modes, and autocasts, in which the program has been held against the network itself
        hidden["_comparing"] = threading.RLock()
        hidden["_original"] = None  # the user's model, where it shares its tensors with this one
        hidden["_seen"] = {}  # by mode, how the model was last found unchanged
        self.training = compiled.network.training
        self.register_state_dict_post_hook(_write_gains)
        self.register_load_state_dict_pre_hook(_read_gains)

    # --- the module ----------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """What the user's model has besides its layers: ``model.num_classes``, a method of its own.

        A method of the user's is one of the plain network: a ``self(x)`` in it is the feedforward model, on the same parameters.
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "network" not in self.__dict__ or name.startswith("_"):
                raise
        try:
            return getattr(self.network, name)
        except AttributeError:
            raise AttributeError(
                f"neither {type(self).__name__} nor the converted {type(self.network).__name__} has an attribute {name!r}"
            ) from None

    def __setattr__(self, name: str, value: Any) -> None:
        """What the user's model has is set there, so that the program's next run sees it."""
        if self._is_theirs(name):
            setattr(self.network, name, value)
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if self._is_theirs(name):
            delattr(self.network, name)
        else:
            super().__delattr__(name)

    def _is_theirs(self, name: str) -> bool:
        """Whether an attribute is one of the user's model, or was looked for there at conversion."""
        if "network" not in self.__dict__ or name in self.__dict__ or hasattr(type(self), name):
            return False
        return raw_attribute(self.network, name) is not MISSING or any(
            name in w.values for m in self.compiled.watched.values() for w in m if not w.path
        )

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.network)})

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self.network)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.network)  # type: ignore[call-overload, no-any-return]

    def __contains__(self, key: object) -> bool:
        return key in self.network  # type: ignore[operator]

    def __getitem__(self, key: Any) -> Any:
        """A layer of a model that has them in order or by key; of a slice, the user's own layers."""
        return self.network[key]  # type: ignore[index]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.network[key] = value  # type: ignore[operator]

    def __delitem__(self, key: Any) -> None:
        del self.network[key]  # type: ignore[operator]

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to these very modules, and the code that was written for them."""
        gains = GainStore(steps=self.gain_store.steps)
        gains.take(self.gain_store)
        compared = {m for m in self.__dict__["_compared"] if not isinstance(m[-1], GlobalHooks)}
        left = {"_compared": compared, "_gains": gains, "_steps": {}, "_seen": {}, "_original": None}
        return {name: value for name, value in {**self.__dict__, **left}.items() if name not in (KEPT, "_comparing")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_comparing": threading.RLock()})

    def train(self, mode: bool = True) -> FFEBM:
        """In the way of the user's model, which may keep some of its layers in one mode."""
        self.network.train(mode)
        self.training = mode
        return self

    @ShownForward
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result, every block at its equilibrium."""
        if torch.compiler.is_compiling():
            # imported here, because it imports the compiler
            from ..model.graph_breaks import call_outside, forward_between_graphs, refuse_export

            if torch.compiler.is_exporting():
                call_outside(refuse_export, self.network)
            return forward_between_graphs(self, args, kwargs)
        outputs, _ = self._run(args, kwargs, keep=False)
        return outputs

    def equilibrium(self, *args: Any, **kwargs: Any) -> tuple[Any, tuple[BlockEquilibrium, ...]]:
        """The model's result, and what each block settled to (inputs and states by the block's names), without
        history."""
        with torch.no_grad():
            return self._run(args, kwargs, keep=True)

    def _run(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        keep: bool,
        call: Callable[..., Any] = _call,
        digital: Callable[..., dict[str, Any]] = run_digital,
    ) -> tuple[Any, tuple[BlockEquilibrium, ...]]:
        """The model's result and, where they are kept, what its blocks settled to.

        Args:
            call: calls everything but digital parts.
            digital: runs a digital part.
        """
        phases: list[FreePhase] = []

        def record(phase: FreePhase) -> None:
            if keep:  # a layer that reads a state may write into it
                phases.append(replace(phase, states={n: s.clone() for n, s in phase.states.items()}))

        def relaxed(block: EnergyBlock) -> dict[str, Tensor]:
            return run_block(self.block_call(block, values, record))

        def result() -> tuple[Any, tuple[BlockEquilibrium, ...]]:
            kept = tuple(BlockEquilibrium(p.relaxation.block, _read(p), p.states, p.relaxation) for p in phases)
            return self.pack_output(values), kept

        if is_inference := torch.is_inference_mode_enabled():
            args, kwargs = call(ordinary, (args, kwargs))
        # a relaxation differentiates the interaction, which inference tensors forbid
        without_history = (torch.inference_mode(False), torch.no_grad()) if is_inference else ()
        with contextlib.ExitStack() as stack:
            for context in without_history:
                stack.enter_context(context)
            program, network, values = call(self._begin, args, kwargs)
            for step in program:
                relaxes = isinstance(step, EnergyBlock)
                values.update(call(relaxed, step) if relaxes else digital(step, network, values))
            return call(result)  # type: ignore[no-any-return]

    def _begin(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Program, nn.Module, dict[str, Any]]:
        """The program, the modules that it calls, and the values of its inputs."""
        program = self.program
        refuse_transforms(program.energy_blocks)
        refuse_forward_mode(program.energy_blocks, self._read_by(args, kwargs))
        return program, self.network, self.bind_inputs(args, kwargs)

    def _read_by(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Any]:
        """All that a call depends on."""
        yield from tree_leaves((args, kwargs))
        yield from self.parameters()
        yield from self.buffers()

    # --- the pieces of a run, which the generated training code spells out ----------------------------

    @property
    def mode(self) -> ModeProgram:
        """The program of the current mode."""
        return self.compiled.modes[self.training]

    @property
    def program(self) -> Program:
        return self.mode.program

    @property
    def compiled(self) -> Compiled:
        return self.__dict__["compiled"]  # type: ignore[no-any-return]

    def bind_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The program's input values, checked; begins a new run, with no relaxations recorded.

        Raises:
            InputError: with every problem of the call.
        """
        mode = self.mode
        try:
            given = mode.signature.bind(args, kwargs)
        except TypeError as failure:
            signature = inspect.signature(self.network.forward)
            raise InputError(
                Problem(
                    f"call of {type(self.network).__name__}",
                    str(failure),
                    f"Call it as the original model: forward{signature}.",
                )
            ) from failure
        values = dict(zip(mode.program.inputs, given, strict=True))
        self.begin_run(values)
        self._compare_once(args, kwargs)
        return values

    def _compare_once(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Holds the program of a mode against the network itself, at the first input of that mode under each
        autocast of the caller's, and beside each set of hooks on every module.

        Raises:
            ChangedError: such hooks make a difference, where there was none without.
        """
        compared: set[tuple[Any, ...]] = self.__dict__["_compared"]
        hooks, plain = global_hooks(), (self.training, *callers_autocast())
        mode = (*plain, *hooks)
        if not self.execution.verify or mode in compared or not has_forward(self.network):
            return
        with self.__dict__["_comparing"]:  # it runs on others in place of the weights: no thread may meet them
            if mode not in compared:
                try:
                    verify_first_input(self, (args, kwargs))
                except VerificationError as failure:
                    if not hooks:
                        raise
                    kind = ChangedError if plain in compared else VerificationError
                    raise kind([*hook_problems(), *failure.problems]) from None
                compared.add(mode)

    def require_unchanged(self) -> None:
        """Looks whether what the program was made from is still so.

        Raises:
            ChangedError: with every layer, attribute and hook that has changed since conversion.
        """
        if (original := self.__dict__["_original"]) is not None:
            original.require_unchanged(self.network)
        known: dict[bool, Seen] = self.__dict__["_seen"]
        mode = self.training
        if mode in known and known[mode].still():
            return
        watched = self.compiled.watched.get(mode, ())
        require_unchanged(self.network, watched)
        if mode in known:  # a layer that is called live may be one of another kind now
            self.__dict__["_compared"] = {m for m in self.__dict__["_compared"] if m[0] != mode}
        known[mode] = seen(self.network, watched)

    def watch_original(self, model: nn.Module) -> None:
        """Looks at every call whether the model that shares its tensors with this one is still as it was converted."""
        watched = {(w.path, w.kind): w for m in (True, False) for w in self.compiled.watched.get(m, ())}
        self.__dict__["_original"] = Original.of(model, self.network, watched.values())

    def begin_run(self, values: Mapping[str, Any]) -> None:
        """Checks the model and the program's inputs, and begins a new run with no relaxations recorded.

        Raises:
            ChangedError: the model has changed since conversion.
            InputError: with every problem of the inputs.
        """
        self.require_unchanged()
        self.forget_run()
        program = self.program
        relaxed = {n for b in program.energy_blocks for n in b.inputs}
        problems = [
            p
            for n, v in values.items()
            for p in input_problems(self.network, program.labels.get(n, n), v, n not in relaxed)
        ]
        if problems:
            raise InputError(problems)
        self.__dict__["_fingerprints"] = self._look_at_weights()

    def _look_at_weights(self) -> dict[str, int]:
        """The fingerprints of the couplings' weights, by block, in one transfer. Weights that are computed at each
        look are left to their blocks."""
        if self.execution.loop_gain is None:
            return {}
        coupled = {b.key: b.coupling_weights for b in self.program.energy_blocks if b.has_feedback}
        held = {key: [_held(self.network, p) for p in paths] for key, paths in coupled.items()}
        whole = {key: [t for t in tensors if t is not None] for key, tensors in held.items() if None not in tensors}
        return dict(zip(whole, fingerprints(whole.values()), strict=True))

    def pack_output(self, values: Mapping[str, Any]) -> Any:
        """The model's result from the computed values."""

        def leaf(value: Any) -> Any:
            if isinstance(value, Ref):
                return values[value.name]
            return attribute(self.network, value.path) if isinstance(value, Weight) else value

        return self.mode.signature.pack(map_leaves(self.program.output, leaf))

    def bound(self, block: EnergyBlock, values: Mapping[str, Any]) -> BoundBlock:
        """A block with the values and weights that it reads, at unit feedback."""
        inputs = {n: values[n] for n in block.inputs}
        weights = {p: self._weight(p) for p in block.weights}
        return BoundBlock(block, inputs, weights, unit_gains(block).layer_weights)

    def block_call(
        self,
        block: EnergyBlock,
        values: Mapping[str, Any],
        record: Callable[[FreePhase], None] = lambda p: None,
        trains: bool | None = None,
    ) -> BlockCall:
        """One use of a block: what it reads, its gains, and who hears how it settled.

        Args:
            record: hears of its free phase.
            trains: whether weights train in this pass; found out where it is not given.
        """
        bound = self.bound(block, values)
        require_whole(bound.weights)
        known = self.__dict__["_fingerprints"].pop(block.key, None)
        gains = self.measure(bound, self._trains(bound) if trains is None else trains, known)
        trained = next((w.dtype for w in bound.weights.values() if w.is_floating_point()), None)
        loop_gain, labels = self.execution.loop_gain, self.program.labels
        check_weights(block, gains, loop_gain, labels, trained if torch.is_grad_enabled() else None)

        def free(phase: FreePhase) -> None:
            self.__dict__["_records"].append(phase.relaxation)
            record(phase)
            if math.isfinite(phase.relaxation.residual):
                self.verify_block(block, phase.bound, phase.states, phase.relaxation)
            self._warn(phase.relaxation, block, "free phase")

        return BlockCall(
            block,
            bound.inputs,
            bound.weights,
            gains.layer_weights,
            self.execution.estimator,
            self.execution.tolerance,
            free,
            self.record_nudged,
            partial(relax, differentiation=self.differentiation),
            differentiation=self.differentiation,
            contraction=self.gain_store.contraction(block, gains),
        )

    def record_nudged(self, block: EnergyBlock, estimate: Estimate) -> None:
        """Keeps how a block relaxed in its nudged phases, and warns where it did not."""
        self.__dict__["_nudged"][block.name] = estimate.relaxations
        for relaxation in estimate.relaxations:
            self._warn(relaxation, block, "nudged phase")

    def _weight(self, path: str) -> Tensor:
        value = attribute(self.network, path)
        assert isinstance(value, Tensor), path
        return (
            value if isinstance(value, nn.Parameter) or value.requires_grad else value.clone()
        )  # a buffer may change before backward

    def _warn(self, relaxation: Relaxation, block: EnergyBlock, phase: str) -> None:
        if relaxation.converged:
            return
        weights = {p: attribute(self.network, p) for p in block.weights}
        message = convergence_message(relaxation, block, phase, self.program.labels, weights, self.execution.loop_gain)
        warnings.warn(message, ConvergenceWarning, stacklevel=2)

    # --- reverse gains --------------------------------------------------------------------------------

    @property
    def gain_store(self) -> GainStore:
        return self.__dict__["_gains"]  # type: ignore[no-any-return]

    def measure(self, bound: BoundBlock, trains: bool, fingerprint: int | None = None) -> Gains:
        """The gains of a block with these weights.

        Args:
            trains: whether they follow those of the last training step, or are a function of weights and shapes alone.
            fingerprint: of the weights, where it is known.

        Raises:
            OptionError: a norm that is no finite number.
        """
        try:
            with out_of_sight():
                loop_gain = self.execution.loop_gain
                return self.gain_store.measure(bound, loop_gain, trains, self.differentiation, fingerprint)
        except InfiniteNormError as failure:
            raise infinite_norm(bound, failure.edge, self.program.labels) from failure

    def _trains(self, bound: BoundBlock) -> bool:
        """Whether a pass through a block records a gradient of its weights: those are then about to move, whatever
        the mode."""
        return torch.is_grad_enabled() and any(w.requires_grad for w in bound.weights.values())

    def gains(self, block: EnergyBlock) -> Gains | None:
        """The gains of a block's present weights; None before its first use.

        Those that it was loaded with are called outdated where the weights are others, until it is used.
        """
        return self._gains_of([block])[block.key]

    def _gains_of(self, blocks: Iterable[EnergyBlock]) -> dict[str, Gains | None]:
        """The same of several blocks, by key."""
        loop_gain, found = self.execution.loop_gain, dict[str, Gains | None]()
        for block, bound in self._at_rest(blocks):
            try:
                with out_of_sight():
                    found[block.key] = self.gain_store.present(bound, loop_gain, self.differentiation)
            except InfiniteNormError as failure:
                raise infinite_norm(bound, failure.edge, self.program.labels) from failure
        return found

    def _all_gains(self) -> dict[str, Gains | None]:
        """The gains of every block, by its name."""
        blocks = self.program.energy_blocks
        found = self._gains_of(blocks)
        return {b.name: found[b.key] for b in blocks}

    def _at_rest(self, blocks: Iterable[EnergyBlock]) -> Iterator[tuple[EnergyBlock, BoundBlock]]:
        """Blocks with the present weights and no values. To look at a spectral norm in training mode moves its
        buffers, which are put back."""
        self.require_unchanged()
        with torch.no_grad(), kept_buffers(self.network):
            for block in blocks:
                yield block, self.bound(block, dict.fromkeys(block.inputs))

    def ensure_gains(self, *args: Any, **kwargs: Any) -> None:
        """Measures the gains of blocks that have none yet, on the given input, without touching anything else."""
        loop_gain = self.execution.loop_gain
        if all(self.gain_store.find(b, loop_gain) is not None for b in self.program.energy_blocks):
            return
        shared = sharable(self.network)
        probe = copy.deepcopy(self, {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in shared.values()})
        args, kwargs = tree_map_only(Tensor, Tensor.clone, (args, kwargs))  # a forward may write into its arguments
        with torch.random.fork_rng(), torch.no_grad(), copied_on_write(shared):  # which may write into weights, too
            probe(*args, **kwargs)
        self.gain_store.take(probe.gain_store)

    def share_gains(self, other: FFEBM) -> None:
        """Uses the gains of another copy of this model, which may be of another type, as they are, until weights
        change."""
        loop_gain = other.execution.loop_gain
        if loop_gain is None:
            return
        for key, found in other._gains_of(other._coupled_blocks()).items():
            if found is not None:
                self.gain_store.hold((key, loop_gain), found)

    @contextlib.contextmanager
    def holding_gains(self) -> Iterator[FFEBM]:
        """Blocks keep the reverse gains that they were last given, whatever becomes of the weights, for the length of a ``with``.

        A gradient is that of the loss at the gains of its forward pass; finite differences of the loss have to hold them as well.
        """
        before, self.gain_store.are_held = self.gain_store.are_held, True
        try:
            yield self
        finally:
            self.gain_store.are_held = before

    def saved_gains(self) -> dict[str, Gains]:
        """What a file keeps, by block and loop gain: the gains that a training step goes on from, those of other
        weights called outdated."""
        present = self.fingerprints()
        return {
            f"{name}|{loop_gain!r}": replace(found.gains, outdated=found.weights != present.get(name))
            for (name, loop_gain), found in self.gain_store.worth_saving(present).items()
        }

    def fingerprints(self) -> dict[str, int]:
        """What stands for the weights of the couplings of each block, by its key."""
        return {block.key: weights_of(bound) for block, bound in self._at_rest(self._coupled_blocks())}

    def _coupled_blocks(self) -> list[EnergyBlock]:
        """The blocks with feedback, of both modes."""
        found = {
            b.key: b for mode in self.compiled.modes.values() for b in mode.program.energy_blocks if b.has_feedback
        }
        return [*found.values()]

    # --- verification ----------------------------------------------------------------------------------

    @property
    def verified(self) -> dict[str, Verification]:
        """The checks of the current mode's blocks so far, by block name."""
        found = {b.name: self._check_of(b) for b in self.program.energy_blocks}
        return {name: check for name, check in found.items() if check is not None}

    def _check_of(self, block: EnergyBlock) -> Verification | None:
        """Of a block that is equal, function by function: names say nothing of what a rule of the user's computes."""
        checks = self.__dict__["_verified"].get(block.key, ())
        return next((check for other, check in checks if other == block), None)

    def verify_block(
        self,
        block: EnergyBlock,
        bound: BoundBlock,
        states: Mapping[str, Tensor],
        relaxation: Relaxation | None = None,
    ) -> None:
        """Verifies a block once: at its first use, whichever way and in whichever mode it is used, or before that without a relaxation.

        Raises:
            VerificationError: its energy and its solver disagree.
        """
        relaxation = relaxation if self.finds_exactly else None
        known, found = self._check_of(block), relaxation is not None and relaxation.converged
        if (known is not None and (known.converged or not found)) or not _are_finite(states):
            return
        with torch.no_grad(), out_of_sight():
            known = self.__dict__.setdefault("_potentials", [])
            check = verify(*sample_of(bound, states), self.program.labels, self.differentiation, relaxation, known)
        others = [(b, c) for b, c in self.__dict__["_verified"].get(block.key, ()) if b != block]
        self.__dict__["_verified"][block.key] = [*others, (block, check)]

    def forget_run(self) -> None:
        """Drops what the last run recorded."""
        self.__dict__.update(_records=[], _nudged={}, _fingerprints={})

    # --- what one asks it -------------------------------------------------------------------------------

    @property
    def relaxation(self) -> tuple[Relaxation, ...]:
        """How each block relaxed in the last forward pass."""
        return tuple(self.__dict__["_records"])

    @property
    def nudged_relaxation(self) -> dict[str, tuple[Relaxation, ...]]:
        """How each block relaxed in the nudged phases of the last backward pass, by block name."""
        return dict(self.__dict__["_nudged"])

    @property
    def blocks(self) -> tuple[BlockView, ...]:
        """The energy-based blocks, in order of execution."""
        return tuple(BlockView(self, b) for b in self.program.energy_blocks)

    @contextlib.contextmanager
    def using(
        self,
        *,
        estimator: Estimator | None = None,
        tolerance: float | None = None,
        max_sweeps: int | None = None,
        loop_gain: float | EllipsisType | None = ...,
        verify: bool | None = None,
    ) -> Iterator[FFEBM]:
        """Other options for the length of a ``with``; those not given stay. ``loop_gain=None`` is unit feedback.

        Raises:
            OptionError: an option that can't be used.
        """
        before = self.execution
        stop = before.tolerance
        self.__dict__["execution"] = Execution(
            before.estimator if estimator is None else estimator,
            Tolerance(
                stop.residual if tolerance is None else tolerance,
                stop.max_sweeps if max_sweeps is None else max_sweeps,
            ),
            before.loop_gain if isinstance(loop_gain, EllipsisType) else loop_gain,
            before.verify if verify is None else verify,
        )
        try:
            yield self
        finally:
            self.__dict__["execution"] = before

    @property
    def estimator_name(self) -> str:
        """Where the gradients of the blocks come from."""
        return type(self.execution.estimator).__name__

    @contextlib.contextmanager
    def as_ideal(self) -> Iterator[FFEBM]:
        """The executor itself, for the length of a ``with``: of a model on a chip, the ideal one with the same
        weights."""
        yield self

    # --- the generated training step -----------------------------------------------------------------------

    @property
    def training_code(self) -> str:
        """The source of ``training_step(model, x, y, loss_fn)`` in the current mode, for the current estimator."""
        weights = {n: None if g is None else g.layer_weights for n, g in self._all_gains().items()}
        return training_code(self.program, type(self.network).__name__, self.execution.estimator, weights)

    def training_step(self, x: Any, y: Any, loss_fn: Callable[[Any, Any], Tensor]) -> Tensor:
        """Runs the generated code once: returns the loss, and adds the gradient to ``.grad`` as ``backward()`` would.

        Args:
            x: the model's input; a tuple for several, a dict by name.
            y: the target, handed to ``loss_fn``.
            loss_fn: ``(output, y) -> scalar tensor``.

        Raises:
            SynchronisationError: in a process group of several, outside of :func:`ffebm_compiler.synchronised`.
        """
        key = (self.training, self.execution.estimator)
        steps: dict[Any, Callable[..., Tensor]] = self.__dict__["_steps"]
        if key not in steps:
            namespace: dict[str, Any] = {"__name__": "ffebm_training_step"}
            exec(compile(self.training_code, "<training_code>", "exec"), namespace)
            steps[key] = namespace["training_step"]
        return steps[key](self, x, y, loss_fn)

    def write_training_loop(self, path: str | os.PathLike[str], model: str | None = None) -> Path:
        """Writes a runnable script around the generated code: data, optimizer, progress bar, checkpoints, metrics.

        It runs by itself or under ``torchrun``: several processes take the steps of one, on a part of each batch each.

        Args:
            path: the script.
            model: ``module:factory`` of the original model, the default of the script's ``--model``; found from the
                model's class where that can be made without arguments.

        Raises:
            OptionError: the path can't be written, or the conversion used rules of the user's own.
        """
        self.require_unchanged()
        check_target(path, "script")
        return write_whole(path, script_of(self.compiled, self.execution, model), "script")

    # --- other backends --------------------------------------------------------------------------------------

    def lower(
        self,
        backend: str = "analog-emu",
        *,
        hardware: str | os.PathLike[str] | Hardware | None = None,
        chip_seed: int = 0,
        noise_seed: int = 0,
        chip: str | os.PathLike[str] | None = None,
    ) -> AnalogFFEBM:
        """This model on another backend, with a copy of the weights that it has now: what becomes of this model's later is not on the chip.

        Args:
            backend: ``"analog-emu"``, the emulator of analog hardware.
            hardware: what its chip is made of: a preset's name (``"ideal"``, the default, ``"rram"``, ``"pcm"``, ``"harsh"``), a
                TOML or JSON file, or a :class:`ffebm_compiler.Hardware`.
            chip_seed: of everything that is fixed for one chip: programming errors, mismatch, faults.
            noise_seed: of what changes from read to read.
            chip: instead, the file of a chip that :meth:`AnalogFFEBM.save_chip` wrote.

        Raises:
            OptionError: a backend or a specification that can't be used, with every problem.
            InputError: a chip's file that can't be read.
        """
        from .lowering import ChipChoice, lowered  # a backend builds on this class

        self.require_unchanged()
        return lowered(self, backend, ChipChoice(hardware, chip_seed, noise_seed, chip))

    def export_spice(
        self,
        directory: str | os.PathLike[str],
        *args: Any,
        hardware: str | os.PathLike[str] | Hardware = "ideal",
        chip_seed: int = 0,
        overwrite: bool = False,
        **kwargs: Any,
    ) -> list[Path]:
        """Writes one SPICE netlist for each block of the model on a chip, on the first sample of this input.

        Args:
            directory: a folder that does not exist yet, or is empty.
            args, kwargs: the model's input.
            hardware, chip_seed: as in :meth:`lower`.
            overwrite: whether a folder of earlier netlists may be replaced.
        """
        emulated = self.lower(hardware=hardware, chip_seed=chip_seed).calibrate(*args, **kwargs)
        return emulated.export_spice(directory, *args, overwrite=overwrite, **kwargs)

    # --- files that outlive the model's code -----------------------------------------------------------------

    def compile_to(
        self,
        path: str | os.PathLike[str],
        example_inputs: Any,
        *,
        hardware: str | os.PathLike[str] | Hardware | None = None,
        chip_seed: int = 0,
        unexportable: str = "refuse",
        overwrite: bool = False,
    ) -> Path:
        """Writes a bundle that runs and trains without the model's code: digital parts as ONNX, blocks as JSON, parameters as safetensors.

        Args:
            path: a folder, or a file that ends in ``.ffebm``.
            example_inputs: a tensor, a tuple of arguments or a dict of keywords, of two samples or more.
            hardware, chip_seed: as in :meth:`lower`; with them the bundle holds the chip's conductances and the blocks' netlists.
            unexportable: what becomes of a digital part that ONNX can't express: ``"refuse"`` to write anything, or ``"skip"`` it.
            overwrite: whether an earlier bundle may be replaced; until the new one is whole, the old one stays.

        Raises:
            OptionError: with every option and every part that stands in the way.
        """
        from ..bundle.compile.model_bundle import BundleOptions, write_bundle_of  # it builds on this class

        self.require_unchanged()
        return write_bundle_of(self, path, example_inputs, BundleOptions(hardware, chip_seed, unexportable, overwrite))

    def export_onnx(self, path: str | os.PathLike[str], example_inputs: Any, *, diagnostics: bool = False) -> Path:
        """Writes the whole model as one ONNX file, every relaxation a ``Loop`` that stops by tolerance: any onnxruntime infers with it.

        Args:
            path: the file.
            example_inputs: a tensor, a tuple of arguments or a dict of keywords, of two samples or more.
            diagnostics: whether the sweeps and the residual of every block are further outputs.

        Raises:
            OptionError: the file can't be written, or an operation has no ONNX form; it names the layer.
        """
        from .onnx_model import export_model  # it builds on this class

        self.require_unchanged()
        return export_model(self, path, example_inputs, diagnostics)

    # --- seeing it -----------------------------------------------------------------------------------------

    def report(self) -> Report:
        """What was compiled: blocks, couplings, gains and certificates, and why each digital operation is digital."""
        self.require_unchanged()
        return build_report(self.compiled, self.training, self.execution.loop_gain, self._all_gains(), self.verified)

    def to_networkx(self) -> nx.DiGraph:
        """The partition graph; nodes carry domain, block, operation and the user's layer name."""
        return partition_graph(self.program, self.network)

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Draws the partition graph to ``path``: ``.svg``, ``.png`` or ``.html`` (self-contained)."""
        return draw_graph(self.to_networkx(), path)

    def to_feedforward(self) -> nn.Module:
        """The user's own model, as it was written, with the present weights."""
        model = copy.deepcopy(self.network)
        for path in self.compiled.in_place:
            setattr(model.get_submodule(path), "inplace", True)  # noqa: B010  (nn.Module declares no such attribute)
        for name in self.compiled.constants:
            delattr(model, name)
        return model

    def extra_repr(self) -> str:
        return ", ".join(f"{b.name}: size {b.size}" for b in self.program.energy_blocks)


def _held(network: nn.Module, path: str) -> Tensor | None:
    """The parameter or buffer at a path; None where a weight is computed from others."""
    owner, _, name = path.rpartition(".")
    module = network.get_submodule(owner)
    found = module._parameters.get(name)
    return module._buffers.get(name) if found is None else found


def _read(phase: FreePhase) -> dict[str, Any]:
    """What a block read, without the winners that its relaxation held."""
    return {n: v for n, v in phase.bound.inputs.items() if n not in phase.winners}


def _are_finite(states: Mapping[str, Tensor]) -> bool:
    """Behind a block that diverged another is given infinite inputs, which say nothing about its energy."""
    return bool(torch.stack([torch.isfinite(s).all() for s in states.values()]).all())


def _write_gains(module: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    assert isinstance(module, FFEBM)
    module.gain_store.write(metadata, module.fingerprints())


def _read_gains(
    module: nn.Module, state_dict: Mapping[str, Any], prefix: str, metadata: Mapping[str, Any], *rest: Any
) -> None:
    assert isinstance(module, FFEBM)
    module.gain_store.read(metadata)


__all__ = ["FFEBM", "BlockEquilibrium", "TorchEP"]
