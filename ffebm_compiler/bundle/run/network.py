"""What stands in for the user's network: its tensors under its own paths, and its digital parts as ONNX.

No code of the model is needed, or run. Weights that are computed (weight_norm, spectral_norm) stand under their paths
as plain tensors, which the part ``WEIGHTS`` computes from their originals before each use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError, Problem
from ...ir import DigitalBlock, Step
from ...onnx import KINDS, VJP, WEIGHTS, Interface
from ...onnx.session import OnnxGraph
from ..format.contents import PART_MODULE, Contents, graph_file
from .onnx_part import OnnxPart, PartSource, part_of
from .random_numbers import RandomNumbers


class StandIn(nn.Module):
    """A module without code: what it holds is all that it is."""

    computed: frozenset[str] = frozenset()
    """Paths of the weights that are computed; of the root alone."""

    random: RandomNumbers
    """Where the random layers draw from; of the root alone."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """The class of the root has the name of the user's, and stands in no module: it is made again."""
        if type(self) is StandIn:
            return super().__reduce_ex__(protocol)
        return _named, (type(self).__name__,), dict(vars(self))


def _named(name: str) -> StandIn:
    """A root of the name of the user's class."""
    root: StandIn = type(name, (StandIn,), {})()
    return root


def network_of(contents: Contents, random: RandomNumbers, threads: int | None) -> StandIn:
    """The network of a bundle, in evaluation mode.

    Args:
        contents: the bundle; its tensors are copied.
        random: where the random layers draw from.
        threads: of onnxruntime; None is torch's number.

    Raises:
        InputError: paths that no module can hold.
    """
    root = _named(contents.name)
    problems = [*_hold_tensors(root, contents)]
    computed = frozenset(path for mode in contents.modes.values() for path in mode.computed_weights)
    problems += [*_name_problems(root, contents)]
    problems += [p for path in sorted(computed) if (p := _hold(root, path, torch.zeros(()), "plain")) is not None]
    InputError.raise_if(problems)
    root.computed, root.random = computed, random
    for name in _part_names(contents):
        root.add_module(PART_MODULE.format(name=name), OnnxPart(_source(name, contents, threads), root, random))
    root.train(False)
    refresh_weights(root)
    return root


def refresh_weights(network: nn.Module, training: bool = False) -> None:
    """Computes weights anew from the present values of their originals; in training a spectral norm moves."""
    if not getattr(network, "computed", ()):
        return
    part = part_of(network, WEIGHTS)
    found = part.run_training([]).outputs if training else part.evaluate([])
    for path, value in found.items():
        set_computed(network, path, value)


def set_computed(network: nn.Module, path: str, value: Tensor) -> None:
    owner, _, name = path.rpartition(".")
    setattr(network.get_submodule(owner), name, value)


# --- tensors ---------------------------------------------------------------------------------------------


def _hold_tensors(root: nn.Module, contents: Contents) -> Iterator[Problem]:
    """Parameters in their order, then buffers, then the other names of both."""
    parameters = {
        p: nn.Parameter(contents.tensors[p].detach().clone(), requires_grad=p not in contents.frozen)
        for p in contents.parameters
    }
    buffers = {p: t.detach().clone() for p, t in contents.tensors.items() if p not in parameters}
    held: dict[str, Tensor] = {**parameters, **buffers}
    held |= {alias: held[path] for alias, path in contents.aliases.items()}
    for path, tensor in held.items():
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "hidden" if path in contents.hidden else "buffer"
        problem = _hold(root, path, tensor, kind)
        if problem is not None:
            yield problem


def _hold(root: nn.Module, path: str, tensor: Tensor, kind: str) -> Problem | None:
    """Puts a tensor at its path, with modules on the way where there are none."""
    *owners, name = path.split(".")
    try:
        owner = root
        for step in owners:
            if step not in owner._modules:
                owner.add_module(step, StandIn())
            owner = owner._modules[step]  # type: ignore[assignment]
        if kind == "parameter":
            owner.register_parameter(name, tensor)  # type: ignore[arg-type]
        elif kind == "plain":
            if hasattr(owner, name):
                raise KeyError(f"attribute '{name}' already exists")
            setattr(owner, name, tensor)
        else:
            owner.register_buffer(name, tensor, persistent=kind == "buffer")
    except (KeyError, TypeError, AttributeError) as failure:
        message = str(failure.args[0]) if failure.args else type(failure).__name__
        return Problem(f"tensor {path}", f"no module can hold it: {message}", "Compile the bundle again.")
    return None


def _name_problems(root: nn.Module, contents: Contents) -> Iterator[Problem]:
    """Layers whose place a digital part takes."""
    for name in _part_names(contents):
        layer = PART_MODULE.format(name=name)
        if layer in root._modules:
            yield Problem(
                f"layer {layer}", f"has the name of the digital part {name}", "Rename the layer, and compile."
            )


# --- parts -----------------------------------------------------------------------------------------------


def _part_names(contents: Contents) -> list[str]:
    modes = contents.modes.values()
    return list(dict.fromkeys(n for m in modes for n in (*m.parts, *(b.name for b in m.program.digital_blocks))))


def _source(name: str, contents: Contents, threads: int | None) -> PartSource:
    blocks = {training: mode.program.by_name.get(name) for training, mode in contents.modes.items()}
    layers = _layers(name, blocks.values())
    graphs: dict[str, OnnxGraph] = {}
    for training, mode in contents.modes.items():
        for kind, interface in mode.parts.get(name, {}).items():
            content = contents.graphs.get(graph_file(name, kind))
            if kind in KINDS[training] and content is not None:
                graphs[kind] = OnnxGraph(f"{name} ({layers})", content, interface, threads)
    return PartSource(
        name=name,
        layers=layers,
        inputs={t: () if b is None else b.inputs for t, b in blocks.items()},
        outputs={t: () if b is None else b.outputs for t, b in blocks.items()},
        labels=contents.modes[True].program.labels,
        graphs=graphs,
        missing={
            r.kind: f"{r.operation} has no ONNX form in its {r.kind} graph: {r.reason}"
            for r in contents.refused
            if r.part == name
        },
        wants=_wants(name, contents),
    )


def _layers(name: str, blocks: Iterable[Step | None], most: int = 6) -> str:
    if name == WEIGHTS:
        return "the weights that are computed from others"
    labels = list(dict.fromkeys(o.label for b in blocks if isinstance(b, DigitalBlock) for o in b.origins))
    return ", ".join(labels[:most]) + (f", ... ({len(labels)} operations)" if len(labels) > most else "")


def _wants(name: str, contents: Contents) -> frozenset[str]:
    """What a gradient is needed in: values that were computed before, weights that train."""
    mode = contents.modes[True]
    steps = [*mode.program]
    block = mode.program.by_name.get(name)
    before = steps if block is None else steps[: steps.index(block)]
    computed = {n for step in before for n in step.outputs}
    frozen = {*contents.frozen, *(alias for alias, path in contents.aliases.items() if path in contents.frozen)}
    reads = set() if block is None else set(block.inputs)
    vjp = mode.parts.get(name, {}).get(VJP, Interface(VJP))
    names = [(p.value, p.value.partition("[")[0]) for p in vjp.gradients]
    return frozenset(n for n, whole in names if (whole in computed if whole in reads else n not in frozen))


__all__ = ["StandIn", "network_of", "refresh_weights", "set_computed"]
