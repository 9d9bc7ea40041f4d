"""The reverse gains of a model's blocks, at its present weights and loop gain."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..ir import EnergyBlock
from ..solve import BoundBlock, Gains
from ..solve.fingerprint import fingerprints
from ..solve.loop_gain import InfiniteNormError
from ..train import out_of_sight
from .bound_model import BoundModel
from .gain_store import GainStore, weights_of
from .left_as_it_was import kept_buffers
from .weight_range import infinite_norm

Found = TypeVar("Found")


class BlockGains:
    """Measures the gains of the blocks of a model, and keeps them.

    Attributes:
        store: what is known, by block and loop gain.
    """

    def __init__(self, model: BoundModel):
        self.store = GainStore()
        self._model = model
        self._fingerprints: dict[str, int] = {}  # by block, of the run that has just begun; each is used once

    # --- in a run -------------------------------------------------------------------------------------

    def begin_run(self) -> None:
        """Looks at the weights of all couplings, in one transfer; those that are computed are left to their blocks."""
        if self._model.execution.loop_gain is None:
            return
        coupled = {b.key: b.coupling_weights for b in self._model.program.energy_blocks if b.has_feedback}
        held = {key: [_registered(self._model.network, p) for p in paths] for key, paths in coupled.items()}
        whole = {key: [t for t in tensors if t is not None] for key, tensors in held.items() if None not in tensors}
        self._fingerprints = dict(zip(whole, fingerprints(whole.values()), strict=True))

    def forget_run(self) -> None:
        self._fingerprints = {}

    def measure(self, bound: BoundBlock, trains: bool | None = None) -> Gains:
        """The gains of a block with these weights.

        Args:
            trains: whether they follow those of the last training step, or are a function of weights and shapes alone;
                None is whether a gradient of the weights is recorded: they are then about to move, whatever the mode.

        Raises:
            OptionError: a norm that is no finite number.
        """
        known = self._fingerprints.pop(bound.block.key, None)
        if trains is None:
            trains = torch.is_grad_enabled() and any(w.requires_grad for w in bound.weights.values())
        model, loop_gain = self._model, self._loop_gain
        return self._named(bound, lambda: self.store.measure(bound, loop_gain, trains, model.differentiation, known))

    # --- between runs -----------------------------------------------------------------------------------

    def present(self, blocks: Iterable[EnergyBlock]) -> dict[str, Gains | None]:
        """The gains of blocks at their present weights, by key; None of one that has not been used.

        Those that a block was loaded with are called outdated where the weights are others, until it is used.
        """
        model, loop_gain = self._model, self._loop_gain
        return {
            block.key: self._named(bound, lambda: self.store.present(bound, loop_gain, model.differentiation))
            for block, bound in self._without_values(blocks)
        }

    def are_known(self) -> bool:
        """Whether every block of the present program has some."""
        blocks = self._model.program.energy_blocks
        return all(self.store.find(b, self._loop_gain) is not None for b in blocks)

    def use_those_of(self, other: BlockGains) -> None:
        """Uses the gains of another copy of the model, which may be of another type, until weights change."""
        loop_gain = other._loop_gain
        if loop_gain is None:
            return
        for key, found in other.present(other._coupled_blocks()).items():
            if found is not None:
                self.store.hold((key, loop_gain), found)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Blocks keep the gains that they were last given, whatever becomes of the weights, for the length of a ``with``."""
        before, self.store.are_held = self.store.are_held, True
        try:
            yield
        finally:
            self.store.are_held = before

    def saved(self) -> dict[str, Gains]:
        """What a file keeps, by block and loop gain: the gains that a training step goes on from, those of other
        weights called outdated."""
        present = self.weights()
        return {
            f"{name}|{loop_gain!r}": replace(found.gains, outdated=found.weights != present.get(name))
            for (name, loop_gain), found in self.store.worth_saving(present).items()
        }

    def write(self, metadata: dict[str, Any]) -> None:
        """Puts them into the metadata of a state dict."""
        self.store.write(metadata, self.weights())

    def read(self, metadata: Mapping[str, Any]) -> None:
        """Takes those that came with a state dict."""
        self.store.read(metadata)

    def weights(self) -> dict[str, int]:
        """What stands for the weights of the couplings of each block, by its key."""
        return {block.key: weights_of(bound) for block, bound in self._without_values(self._coupled_blocks())}

    @property
    def _loop_gain(self) -> float | None:
        return self._model.execution.loop_gain

    def _coupled_blocks(self) -> list[EnergyBlock]:
        """The blocks with feedback, of both modes."""
        programs = (mode.program for mode in self._model.compiled.modes.values())
        return [*{b.key: b for program in programs for b in program.energy_blocks if b.has_feedback}.values()]

    def _without_values(self, blocks: Iterable[EnergyBlock]) -> Iterator[tuple[EnergyBlock, BoundBlock]]:
        """Blocks with the present weights and no values. To look at a spectral norm in training mode moves its
        buffers, which are put back."""
        self._model.require_unchanged()
        with torch.no_grad(), kept_buffers(self._model.network):
            for block in blocks:
                yield block, self._model.bound(block, dict.fromkeys(block.inputs))

    def _named(self, bound: BoundBlock, find: Callable[[], Found]) -> Found:
        """What a measurement finds, out of sight of the user's hooks; a coupling without a finite norm is named."""
        try:
            with out_of_sight():
                return find()
        except InfiniteNormError as failure:
            raise infinite_norm(bound, failure.edge, self._model.program.labels) from failure


def _registered(network: nn.Module, path: str) -> Tensor | None:
    """The parameter or buffer at a path; None where a weight is computed from others."""
    owner, _, name = path.rpartition(".")
    module = network.get_submodule(owner)
    parameter = module._parameters.get(name)
    return module._buffers.get(name) if parameter is None else parameter
