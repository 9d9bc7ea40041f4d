"""What a bundle's ``samples.safetensors`` holds, and under which names.

    evaluation/value/x                           every value of the evaluation program on the recorded input
    evaluation/state/block1/relu                 the states of a block at its free equilibrium
    evaluation/sweeps/block1                     how many sweeps that took
    training/value/x                             what digital parts read in training mode
    training/random/digital1/random/0            the uniform numbers that their random layers read
    training/error/digital1/error/conv           the errors that were pulled back
    training/output/digital1/conv                what they gave
    training/statistics/digital1/norm.running_mean
    training/gradient/digital1/gradient/x        the error of a value
    training/norm/digital1/gradient/conv.weight  sum and norm of the gradient of a parameter, in float64

Names of random numbers, errors and gradients are those of the graph's ports. What is recorded is what PyTorch computes,
except where a part draws random numbers, which can't be given to PyTorch: there it is what onnxruntime computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...model.runner import Runner
from ...onnx import FORWARD, TRAINING, WEIGHTS, Interface, Port
from ...onnx.session import OnnxGraph
from ...onnx.sizes import size_of, sizes_of
from ...train import attribute, run_digital
from ..format.contents import Contents, graph_file
from .record import SEED, PartRun, Run, in_mode_of, numbers_of, run_part

MODES = {False: "evaluation", True: "training"}
VALUE, STATE, SWEEPS = "value", "state", "sweeps"
RANDOM, ERROR, OUTPUT, STATISTICS, GRADIENT, NORM = "random", "error", "output", "statistics", "gradient", "norm"


def key(training: bool, what: str, *names: str) -> str:
    """The name of a record."""
    return "/".join((MODES[training], what, *names))


def results_of(part: str, interface: Interface) -> Iterator[tuple[Port, str]]:
    """Each result of a part's graph, with the name of its record."""
    if interface.kind == FORWARD:
        yield from ((p, key(False, VALUE, p.value)) for p in interface.outputs)
        return
    weights = {p.value for p in interface.parameters}
    yield from ((p, key(True, OUTPUT, part, p.value)) for p in interface.outputs)
    yield from ((p, key(True, STATISTICS, part, p.value)) for p in interface.statistics)
    for p in interface.gradients:
        yield p, key(True, NORM if p.value in weights else GRADIENT, part, p.name)


def inputs_of(part: str, interface: Interface) -> Iterator[tuple[Port, str]]:
    """Each input of a part's graph but its weights and buffers, with the name of its record."""
    training = interface.kind != FORWARD
    yield from ((p, key(training, VALUE, p.value)) for p in interface.values)
    yield from ((p, key(training, RANDOM, part, p.name)) for p in interface.random)
    yield from ((p, key(training, ERROR, part, p.name)) for p in interface.errors)


def recorded_results(part: str, interface: Interface, results: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The results of a part's graph, by port, as records by name."""
    for port, name in results_of(part, interface):
        value = torch.as_tensor(results[port.name])
        yield name, summed(value) if name.split("/")[1] == NORM else value


def summed(gradient: Tensor) -> Tensor:
    """Sum and norm in float64, which stand for a gradient that is too large to keep."""
    exact = gradient.detach().double()
    return torch.stack([exact.sum(), exact.norm()])


# --- recording the programs ---------------------------------------------------------------------------------


def record_run(run: Run, model: Runner) -> dict[str, Tensor]:
    """The values of one mode's program; of training only what digital parts read."""
    program = model.compiled.modes[run.training].program
    read = {n for b in program.digital_blocks for n in b.inputs}
    kept = {n: v for n, v in run.values.items() if not run.training or n in read}
    found = {key(run.training, VALUE, n): t for n, t in numbers_of(kept).items()}
    if not run.training:
        for phase in run.phases:
            block, relaxation = phase.bound.block.name, phase.relaxation
            found.update({key(False, STATE, block, n): s for n, s in phase.states.items()})
            found[key(False, SWEEPS, block)] = torch.tensor(relaxation.sweeps)
    return {name: t.detach().contiguous() for name, t in found.items()}


# --- recording the digital parts ----------------------------------------------------------------------------


def record_parts(contents: Contents, model: Runner, runs: Mapping[bool, Run]) -> dict[str, Tensor]:
    """What the graphs of every digital part are given and give."""
    draw = torch.Generator().manual_seed(SEED)
    found: dict[str, Tensor] = {}
    for training, mode in contents.modes.items():
        with in_mode_of(model, training):
            for name, interfaces in mode.parts.items():
                part = _Part(name, interfaces, contents, model, runs[training].values)
                found.update(part.evaluated() if not training else part.trained(draw))
    return {name: t.detach().cpu().contiguous() for name, t in found.items()}


@dataclass(frozen=True)
class _Part:
    """A digital part, and the values around it."""

    name: str
    interfaces: Mapping[str, Interface]
    contents: Contents
    model: Runner
    values: Mapping[str, Any]

    def evaluated(self) -> dict[str, Tensor]:
        """The values of a program are recorded already; those of computed weights are not."""
        if self.name != WEIGHTS or FORWARD not in self.interfaces:
            return {}
        ports = self.interfaces[FORWARD].outputs
        return {key(False, VALUE, p.value): attribute(self.model.network, p.value) for p in ports}

    def trained(self, draw: torch.Generator) -> dict[str, Tensor]:
        """Random numbers, errors, and all that the training and the vjp graph make of them."""
        if TRAINING not in self.interfaces:
            return {}
        outputs = self._by_torch({}).outputs
        errors = {p.value: _noise(outputs[p.value], draw) for p in self._ports("errors")}
        random = self._random(draw)
        given = {
            **{key(True, RANDOM, self.name, n): t for n, t in random.items()},
            **{key(True, ERROR, self.name, p.name): errors[p.value] for p in self._ports("errors")},
        }
        return {**given, **(self._by_onnxruntime(random, errors) if random else self._recorded(errors))}

    def _ports(self, what: str) -> tuple[Port, ...]:
        """The ports of that use of whichever graph has them."""
        found = {p.name: p for i in self.interfaces.values() for p in getattr(i, what)}
        return tuple(found.values())

    def _random(self, draw: torch.Generator) -> dict[str, Tensor]:
        values = numbers_of(self.values)
        ports = self._ports("values")
        sizes = sizes_of(ports, {p.name: values[p.value] for p in ports})
        return {
            p.name: torch.rand([size_of(d, sizes) for d in p.shape], generator=draw, dtype=getattr(torch, p.dtype))
            for p in self._ports("random")
        }

    def _by_torch(self, errors: Mapping[str, Tensor]) -> PartRun:
        network = self.model.network
        trained = {p.value for p in self._ports("gradients")}
        parameters = tuple(p.value for p in self._ports("parameters") if p.value in trained)
        buffers = tuple(p.value for p in self._ports("statistics"))
        if self.name == WEIGHTS:
            paths = [p.value for p in self._ports("outputs")]
            return run_part(
                lambda _: {n: attribute(network, n) for n in paths}, network, {}, errors, buffers, parameters
            )
        block = next(b for b in self.model.program.digital_blocks if b.name == self.name)
        inputs = {n: self.values[n] for n in block.inputs}
        return run_part(lambda x: run_digital(block, network, x), network, inputs, errors, buffers, parameters)

    def _recorded(self, errors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What PyTorch computes, by the names of the records."""
        run = self._by_torch(errors)
        by_use = {OUTPUT: run.outputs, STATISTICS: run.statistics}
        weights = {p.value for p in self._ports("parameters")}
        found: dict[str, Tensor] = {}
        for port, name in (entry for i in self.interfaces.values() for entry in results_of(self.name, i)):
            what = name.split("/")[1]
            value = by_use[what][port.value] if what in by_use else run.gradients[port.value]
            found[name] = summed(value) if port.value in weights and what == NORM else value
        return found

    def _by_onnxruntime(self, random: Mapping[str, Tensor], errors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the graphs compute, by the names of the records."""
        values, found = numbers_of(self.values), dict[str, Tensor]()
        for kind, interface in self.interfaces.items():
            uses = {
                **{p.name: values[p.value] for p in interface.values},
                **{p.name: attribute(self.model.network, p.value) for p in interface.tensors},
                **random,
                **{p.name: errors[p.value] for p in interface.errors},
            }
            graph = OnnxGraph(self.name, self.contents.graphs[graph_file(self.name, kind)], interface)
            results = graph.run_once(uses)
            found.update(recorded_results(self.name, interface, results))
        return found


def _noise(output: Tensor, draw: torch.Generator) -> Tensor:
    """An error of about the size that a loss's mean over the batch has."""
    return torch.randn(output.shape, generator=draw, dtype=torch.float64).to(output) / max(output.numel(), 1)
