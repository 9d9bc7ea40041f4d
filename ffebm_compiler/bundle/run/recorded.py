"""A bundle's recorded input and results, and what the loaded bundle makes of that input now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...ir import Ref
from ...model.nested_values import map_leaves
from ...onnx import Interface
from ...onnx.difference import Difference, difference
from ..compile.compare import Samples, given_to
from ..compile.samples import STATE, SWEEPS, VALUE, key
from ..format.contents import Mode
from .onnx_part import part_of


def run_graph(samples: Samples, network: nn.Module, part: str, interface: Interface) -> dict[str, Any]:
    """What a part's graph makes of its recorded inputs and the present weights, by port."""
    module = part_of(network, part)
    weights = {p.name: module.tensor(p) for p in interface.tensors}
    return module.source.graph(interface.kind).run_once({**given_to(samples, part, interface), **weights})


def recorded_inputs(samples: Samples, names: tuple[str, ...]) -> dict[str, Any]:
    """Recorded values by name; whole numbers without dimensions are sizes."""
    found = {n: samples[key(False, VALUE, n)] for n in names if key(False, VALUE, n) in samples}
    return {n: _value(v) for n, v in found.items()}


def recorded_states(samples: Samples, block: str) -> dict[str, Tensor]:
    """The states of a block at its free equilibrium, by name."""
    prefix = key(False, STATE, block, "")
    return {n.removeprefix(prefix): t for n, t in samples.items() if n.startswith(prefix)}


def recorded_sweeps(samples: Samples, block: str) -> int | None:
    found = samples.get(key(False, SWEEPS, block))
    return None if found is None else int(found)


def recorded_call(samples: Samples, mode: Mode) -> tuple[list[Any], dict[str, Any]]:
    """The recorded call of the model, as its caller wrote it.

    Raises:
        KeyError: an input that is no tensor or number, so that it was not recorded.
    """
    call = mode.call if mode.call is not None else [[Ref(n) for n in mode.program.inputs], {}]

    def value(leaf: Any) -> Any:
        return _value(samples[key(False, VALUE, leaf.name)]) if isinstance(leaf, Ref) else leaf

    positional, named = map_leaves(call[0], value), map_leaves(call[1], value)
    return list(positional), dict(named)


def _value(record: Tensor) -> Any:
    return int(record) if record.dim() == 0 and record.dtype == torch.int64 else record


def compared_result(samples: Samples, wanted: Any, found: Any, where: str = "output") -> Iterator[Difference]:
    """Each value of the model's result with its record; another nest is infinitely far off."""
    if isinstance(wanted, Ref) and isinstance(found, (list, tuple)):  # a nest that a digital part gives
        for i, leaf in enumerate(found):
            yield difference(leaf, samples[key(False, VALUE, f"{wanted.name}[{i}]")], f"{where}.{i}")
    elif isinstance(wanted, Ref):
        yield difference(found, samples[key(False, VALUE, wanted.name)], where)
    elif isinstance(wanted, Mapping) and isinstance(found, Mapping) and wanted.keys() == found.keys():
        for name, inner in wanted.items():
            yield from compared_result(samples, inner, found[name], f"{where}.{name}")
    elif isinstance(wanted, (list, tuple)) and isinstance(found, (list, tuple)) and len(wanted) == len(found):
        for i, (a, b) in enumerate(zip(wanted, found, strict=True)):
            yield from compared_result(samples, a, b, f"{where}.{i}")
    elif isinstance(wanted, (Mapping, list, tuple)):
        yield Difference(float("inf"), where)
