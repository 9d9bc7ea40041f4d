"""A block's parts of a chip and its nudges' strength, kept until something that they follow from changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...chip.emulate import Chip, Phases, realised
from ...solve import BoundBlock
from ...solve.norm_sample import one_sample
from ...train import BlockCall, out_of_sight


@dataclass(frozen=True)
class Basis:
    """What the parts of a block follow from.

    Attributes:
        things: the block, its chip's specification and devices, by identity.
        values: shapes and types of its inputs, ranges, layer weights.
    """

    things: tuple[object, ...]
    values: tuple[object, ...]

    @staticmethod
    def of(chip: Chip, call: BlockCall) -> Basis:
        devices = [chip.devices[p] for p in call.block.weights if p in chip.devices]
        # What resistors make of held norms (no devices) is computed at every call: nobody tells when these change
        never = chip.hardware.physics == "resistive" and len(devices) < len(call.block.weights)
        inputs = tuple(
            (n, tuple(v.shape), v.dtype, v.device) if isinstance(v, Tensor) else (n, v) for n, v in call.inputs.items()
        )
        ranges = tuple(chip.ranges[s.name] for s in call.block.states)
        mixed = torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")
        return Basis(
            (call.block, chip.hardware, *devices, *([object()] if never else [])),
            (inputs, ranges, mixed, tuple(call.layer_weights.items())),
        )

    def is_same(self, other: Basis) -> bool:
        same = len(self.things) == len(other.things)
        return (
            same and all(a is b for a, b in zip(self.things, other.things, strict=True)) and self.values == other.values
        )


@dataclass(frozen=True)
class Use:
    """What a block used of the chip when it was last called, and the layer weights that its circuit realises."""

    basis: Basis
    phases: Phases
    layer_weights: Mapping[str, float]

    @staticmethod
    def of(chip: Chip, call: BlockCall) -> Use:
        basis = Basis.of(chip, call)
        with torch.no_grad(), out_of_sight():
            sample = one_sample(call.bound)
            states = sample.feedforward()
            batch = _batch(call.bound, sample, states)
            neurons = _with_batch(call.bound, batch, states)
            if chip.hardware.physics == "hopfield":
                return Use(basis, Phases(chip, chip.parts(call.block, neurons), batch), call.layer_weights)
            nodes = realised(chip, call.bound, neurons)
        parts = chip.parts(call.block, neurons, nodes.conductances)
        return Use(basis, Phases(chip, parts, batch), nodes.realisation.layer_weights)


class Uses(dict[Any, Use]):
    """The last use by mode and block; a copy of the model, whose devices are its own, begins with none."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Uses:
        return Uses()

    def __reduce__(self) -> tuple[type[Uses], tuple[()]]:
        return Uses, ()

    def use(self, chip: Chip, call: BlockCall, training: bool) -> Use:
        """What a block uses now: what it used last, if nothing has changed since."""
        key = training, call.block.name
        if key not in self or not self[key].basis.is_same(Basis.of(chip, call)):
            self[key] = Use.of(chip, call)
        return self[key]


def _with_batch(bound: BoundBlock, batch: int | None, states: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """States whose dimension 0 is no neuron's: a single sample given without a batch gets one in front."""
    sizes = {v.shape[0] for v in bound.inputs.values() if isinstance(v, Tensor) and v.dim()}
    return states if batch is not None or len(sizes) > 1 else {n: s.unsqueeze(0) for n, s in states.items()}


def _batch(bound: BoundBlock, sample: BoundBlock, states: Mapping[str, Tensor]) -> int | None:
    """The number of samples, where dimension 0 of every input and state counts them."""
    sizes = {v.shape[0] if v.dim() else 0 for v in bound.inputs.values() if isinstance(v, Tensor)}
    if len(sizes) != 1:
        return None
    (size,) = sizes
    cut = sample is not bound or size == 1
    return size if cut and all(s.dim() > 1 and s.shape[0] == 1 for s in states.values()) else None
