"""A block on a chip, on one sample, as an explicit circuit: every device of every coupling.

A convolution becomes its unrolled matrix, whose entries are the devices of its kernel. Where a drive holds one weighted
layer at most on each path, the entries are the conductances of its positive and negative devices; otherwise they are
those that make the product. The circuit is the chip at rest: as programmed, faulty, drifted and mismatched as it is,
without noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...errors import OptionError, Problem
from ...ir import EnergyBlock, State
from ...solve import BoundBlock
from ..hardware import Bank, Circuit
from ..hardware import Edge as Couplings
from ..resistive.magnitudes import coupling_problems
from ..resistive.unrolling import unroll
from .chip import Chip, device_paths, mapped_terms
from .resistors import designed, pairs

MOST_ENTRIES = 4_000_000
"""A larger matrix is refused: unrolled, it takes 8 bytes an entry, several times."""


@dataclass(frozen=True)
class Drawing:
    """What a circuit is drawn from.

    Attributes:
        chip: its devices.
        bound: the block on one sample as designed; its ``layer_weights`` are those that the chip realises.
        states: the block's states on this sample, for their shapes, and for the pooling winners.
        labels: the user's names.
        nudge: ``beta delta / w`` drawn from the neurons of a state.
    """

    chip: Chip
    bound: BoundBlock
    states: Mapping[str, Tensor]
    labels: Mapping[str, str]
    nudge: Mapping[str, Tensor]

    def circuit(self) -> Circuit:
        OptionError.raise_if([*_nonlinear(self.bound.block), *_too_large(self.bound.block, self.states, self.labels)])
        circuit = self._resistive() if self.chip.hardware.physics == "resistive" else self._hopfield()
        hardware = self.chip.hardware
        return replace(
            circuit,
            siemens=self._siemens(),
            volts=hardware.full_scale / max(self.chip.ranges[s.name].high for s in self.bound.block.states),
            time_constant=hardware.time_constant,
            input_labels={n: self.labels.get(n, n) for n in circuit.inputs},
        )

    def _siemens(self) -> float:
        """The conductance of a weight of 1 in the first layer's first tile, to which the neurons' leaks are scaled."""
        for term in mapped_terms(self.bound.block):
            return float(self.chip.devices[device_paths(term)[0]].crossbar.scale.flatten()[0])
        return self.chip.hardware.g_max

    # --- resistive ------------------------------------------------------------------------------------

    def _resistive(self) -> Circuit:
        realisation = designed(self.chip, self.bound)
        actual = replace(self.bound, weights=self._weights("weight"), fixed={})
        circuit = unroll(actual, realisation, pairs(self.chip, self.bound), self.nudge, self.labels)
        amplifiers = self.chip.amplifiers(self.bound.block, self.states)
        factors = {edge: a.gain.flatten().double() for edge, a in amplifiers.items()}
        edges = tuple(
            replace(e, back=e.back * factors[e.source, e.target]) if e.back is not None and factors else e
            for e in circuit.edges
        )
        banks = tuple(replace(b, limit=self._limit(b.name)) for b in circuit.banks)
        return replace(circuit, edges=edges, banks=banks)

    # --- Hopfield -------------------------------------------------------------------------------------

    def _hopfield(self) -> Circuit:
        block, inputs = self.bound.block, self._driving()
        banks = tuple(self._bank(s, inputs) for s in block.states)
        edges = tuple(e for s in block.states for e in self._edges(s, inputs))
        return Circuit(block.name, "hopfield", banks, edges, {n: v.flatten().double() for n, v in inputs.items()})

    def _bank(self, state: State, inputs: Mapping[str, Tensor]) -> Bank:
        n = state.name
        like = self.states[n]
        neurons = self.chip.neurons(n, like)
        zeros = like.new_zeros(like[0].numel(), dtype=torch.float64)
        drive = state.drive.evaluate(self._at_rest(inputs), self._weights("weight"))
        return Bank(
            name=n,
            label=self.labels.get(n, state.origin.label),
            shape=tuple(like.shape[1:]),
            potential=state.potential,
            layer_weight=float(self.bound.layer_weights[n]),
            offset=zeros if neurons.offset is None else neurons.offset.flatten().double(),
            gain=zeros + 1 if neurons.gain is None else neurons.gain.flatten().double(),
            limit=neurons.limit,
            drive=drive.detach().flatten().double(),
            nudge=zeros if n not in self.nudge else self.nudge[n].flatten().double(),
        )

    def _edges(self, state: State, inputs: Mapping[str, Tensor]) -> Iterator[Couplings]:
        separate = not any(t in state.drive.terms for t, _ in coupling_problems(self.bound.block))
        for source in (*state.drive.sources, *(n for n in state.drive.inputs if n in inputs)):
            positive, negative = self._halves(state, source, inputs, "", separate)
            back = (positive, negative)
            if not self.chip.hardware.bidirectional:
                back = self._halves(state, source, inputs, "back ", separate)
            if bool(((positive == 0) & (negative == 0)).all()):
                continue
            label = ", ".join(t.origin.label for t in state.drive.layers) or state.origin.label
            reverse = self._reverse(source, state.name) if source in state.drive.sources else None
            yield Couplings(source, state.name, label, positive, negative, *back, reverse=reverse)

    def _halves(
        self, state: State, source: str, inputs: Mapping[str, Tensor], use: str, separate: bool
    ) -> tuple[Tensor, Tensor]:
        if not separate:
            whole = self._jacobian(state, source, inputs, f"{use}weight")
            return whole.clamp(min=0), (-whole).clamp(min=0)
        wires = self._jacobian(state, source, inputs, "none")
        plus, minus = (
            self._jacobian(state, source, inputs, f"{use}{half}") - wires for half in ("positive", "negative")
        )
        # a negative wire (a held norm, a sign) turns a positive device into a negative weight
        positive, negative = plus.clamp(min=0) + (-minus).clamp(min=0), minus.clamp(min=0) + (-plus).clamp(min=0)
        return positive + wires.clamp(min=0), negative + (-wires).clamp(min=0)

    def _jacobian(self, state: State, source: str, inputs: Mapping[str, Tensor], use: str) -> Tensor:
        """(n_target, n_source) of a drive that is linear around the present states."""
        weights = self._weights(use)
        values = self._at_rest(inputs)

        def along(leaf: Tensor) -> Tensor:
            return state.drive.evaluate({**values, source: leaf}, weights)

        jacobian = torch.autograd.functional.jacobian(along, values[source])
        matrix: Tensor = jacobian.reshape(-1, values[source].numel())
        return matrix.double()

    def _reverse(self, source: str, target: str) -> Tensor:
        like = self.states[source][0]
        gain = torch.full((like.numel(),), self.bound.reverse_gain(source, target), dtype=torch.float64)
        amplifier = self.chip.amplifiers(self.bound.block, self.states).get((source, target))
        return gain if amplifier is None else gain * amplifier.gain.flatten().double()

    # --- what a drive reads ---------------------------------------------------------------------------

    def _weights(self, use: str) -> dict[str, Tensor]:
        """The model's tensors, those on devices as what these amount to, one half of it, or nothing."""
        mapped = {path for term in mapped_terms(self.bound.block) for path in device_paths(term)}
        return {p: self._device(p, use).to(v) if p in mapped else v for p, v in self.bound.weights.items()}

    def _device(self, path: str, use: str) -> Tensor:
        chip = self.chip
        if use == "none":
            return torch.zeros_like(chip.weight(path))
        if use == "weight":
            return chip.weight(path)
        if use == "back weight":
            return chip.back_weight(path)
        halves = chip.halves(path, back=use.startswith("back "))
        return halves[0] if use.endswith("positive") else halves[1]

    def _driving(self) -> dict[str, Tensor]:
        """The inputs that arrays are driven by: every drive is affine in all of them and the states together."""
        driving: dict[str, Tensor] = {}
        for n, v in self.bound.inputs.items():
            numeric = isinstance(v, Tensor) and v.is_floating_point()
            if numeric and self._is_affine(n, v) and not self._multiplies(n, v, driving):
                driving[n] = v
        return driving

    def _multiplies(self, name: str, value: Tensor, others: Mapping[str, Tensor]) -> bool:
        """Whether an input, as a computed weight does, is multiplied by a state or by another input."""
        on = {**self.bound.inputs, **{k: torch.ones_like(v) for k, v in self.states.items()}}
        off = self._at_rest(others)
        zero = torch.zeros_like(value)

        def effect(state: State, rest: Mapping[str, Any]) -> Tensor:
            with_it, without = (state.drive.evaluate({**rest, name: x}, self.bound.weights) for x in (value, zero))
            return with_it - without

        readers = [s for s in self.bound.block.states if name in s.drive.inputs]
        pairs = [(effect(s, on), effect(s, off)) for s in readers]
        return not all(torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max() + 1e-30)) for a, b in pairs)

    def _is_affine(self, name: str, value: Tensor) -> bool:
        """Whether every drive is affine in an input: probed at half of its value and at its negative."""
        readers = [s for s in self.bound.block.states if name in s.drive.inputs]
        rest = self._at_rest({})

        def f(state: State, x: Tensor) -> Tensor:
            return state.drive.evaluate({**rest, name: x}, self.bound.weights)

        for s in readers:
            zero, half, one, minus = (f(s, value * k) for k in (0.0, 0.5, 1.0, -1.0))
            slack = 1e-5 * float(one.abs().max() + 1e-30)
            if not torch.allclose(half - zero, (one - zero) / 2, rtol=1e-4, atol=slack):
                return False
            if not torch.allclose(zero - minus, one - zero, rtol=1e-4, atol=slack):
                return False
        return bool(readers)

    def _at_rest(self, zeroed: Mapping[str, Tensor]) -> dict[str, Any]:
        """What drives read: the inputs as they are, but these and the states at zero."""
        zeros = {k: torch.zeros_like(v) for k, v in {**self.states, **zeroed}.items()}
        return {**self.bound.inputs, **zeros}

    def _limit(self, name: str) -> float:
        headroom = self.chip.hardware.headroom
        return float("inf") if headroom is None else headroom * self.chip.ranges[name].high


def _nonlinear(block: EnergyBlock) -> list[Problem]:
    """What acts on a state within a coupling without being linear: no matrix of devices is that."""
    return [
        Problem(
            f"layer {t.origin}",
            f"is not linear in the states that it reads, so {block.name} has no circuit",
            "Keep it digital: convert(..., digital=[...]).",
        )
        for s in block.states
        for t in s.drive.terms
        if not t.operation.linear and t.name in _reached(s)
    ]


def _reached(state: State) -> set[str]:
    """The values of a drive that depend on a state."""
    reached = set(state.drive.sources)
    for t in state.drive.terms:
        if reached & {o for o in t.operands if isinstance(o, str)}:
            reached.add(t.name)
    return reached


def _too_large(block: EnergyBlock, states: Mapping[str, Tensor], labels: Mapping[str, str]) -> list[Problem]:
    """What would not fit into memory, every coupling."""
    return [
        Problem(
            f"{block.name}, coupling {labels.get(l, l)} → {labels.get(m, m)}",
            f"has {states[l][0].numel():,} x {states[m][0].numel():,} entries unrolled, more than {MOST_ENTRIES:,}",
            "Take a smaller input or block: the unrolled circuit is for dense layers and small convolutions.",
        )
        for l, m in block.edges
        if states[l][0].numel() * states[m][0].numel() > MOST_ENTRIES
    ]
