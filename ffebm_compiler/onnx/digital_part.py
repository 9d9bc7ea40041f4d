"""A digital part as a function ``y = F(x; theta, b)`` of values and of tensors of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..ir import DigitalBlock, Origin, Program
from ..train import attribute, run_digital
from .interface import WEIGHTS

Around = Callable[[Origin, Callable[[], Any]], Any]
"""Makes a call of the user's, and may note which it is."""


@dataclass(frozen=True)
class Part:
    """What is exported as one graph of each kind.

    Attributes:
        name: ``"digital1"``, or ``"weights"``.
        inputs, outputs: names of values of the program; for ``"weights"`` the outputs are paths.
        reads: paths of the tensors that it may read, each tensor under its first name.
        origins: the user's operations in it.
        run: ``(network, values, around) -> outputs``.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reads: tuple[str, ...]
    origins: tuple[Origin, ...]
    run: Callable[[nn.Module, Mapping[str, Any], Around], dict[str, Any]]


def parts_of(program: Program, network: nn.Module) -> Iterator[Part]:
    """Every digital part, and before them the one that computes weights, if blocks read any that are computed."""
    computed = computed_weights(program, network)
    if computed:
        yield _weights_part(computed, network)
    for block in program.digital_blocks:
        yield _digital_part(block, network)


def computed_weights(program: Program, network: nn.Module) -> tuple[str, ...]:
    """Paths of the weights of blocks, and of the result, that are no tensors of the model but computed from them."""
    own = set(_tensors(network))
    read = [p for block in program.energy_blocks for p in block.weights]
    return tuple(dict.fromkeys(p for p in read if p not in own))


def _weights_part(paths: tuple[str, ...], network: nn.Module) -> Part:
    def run(network: nn.Module, values: Mapping[str, Any], around: Around) -> dict[str, Any]:
        return {o.label: around(o, partial(attribute, network, o.label)) for o in origins}

    origins = tuple(Origin(p, p.rpartition(".")[0], "weight") for p in paths)
    reads = [r for p in paths for r in _under(network, _owner(p))]
    return Part(WEIGHTS, (), paths, _first_names(network, reads), origins, run)


def _digital_part(block: DigitalBlock, network: nn.Module) -> Part:
    def run(network: nn.Module, values: Mapping[str, Any], around: Around) -> dict[str, Any]:
        return run_digital(block, network, values, around)

    return Part(
        block.name, block.inputs, block.outputs, _first_names(network, list(_read(block, network))), block.origins, run
    )


def _read(block: DigitalBlock, network: nn.Module) -> Iterator[str]:
    own = _tensors(network)
    for node in block.graph.nodes:
        path = str(node.target)
        if node.op == "call_module":
            yield from _under(network, path)
        elif node.op == "get_attr":
            yield from ([path] if path in own else _under(network, _owner(path)))


def _owner(path: str) -> str:
    return path.rpartition(".")[0]


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Every tensor of the model under each of its names."""
    return {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }


def _under(network: nn.Module, path: str) -> list[str]:
    """The tensors of a layer and of those inside it."""
    return [f"{path}.{n}" if path else n for n in _tensors(network.get_submodule(path))]


def _first_names(network: nn.Module, paths: list[str]) -> tuple[str, ...]:
    """The paths, tied tensors under the name that the model lists first, in the model's order."""
    tensors = _tensors(network)
    first: dict[int, str] = {}
    for path, tensor in tensors.items():
        first.setdefault(id(tensor), path)
    wanted = {first[id(tensors[p])] for p in paths}
    return tuple(p for p in first.values() if p in wanted)
