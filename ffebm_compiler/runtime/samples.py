"""A bundle's recorded input and results, and what the bundle makes of that input now.

Differences are relative to the largest value of the record, so that one bound does for states, outputs and errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..backends.bundle_samples import NORM, STATE, SWEEPS, VALUE, inputs_of, key, results_of, summed
from ..backends.values import map_leaves
from ..bundle import Mode
from ..export import FORWARD, Interface
from ..ir import Ref
from ..solve.relaxation import peak
from .onnx_part import part_of
from .runtime import Runtime

Samples = Mapping[str, Tensor]

CANCELLED = 0.1
"""A gradient below this part of the errors that it was made of has lost digits to cancellation."""

TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Difference:
    """How far a result is from its record.

    Attributes:
        largest: relative to the largest value of the record.
        where: whose it is.
        dtype: the precision that it was computed in.
    """

    largest: float
    where: str = ""
    dtype: torch.dtype = torch.float32


def difference(found: Any, recorded: Tensor, where: str, least: float = 0.0) -> Difference:
    """Of one result; another shape or type is infinitely far off.

    Args:
        least: the smallest value that the difference is relative to.
    """
    value = found if isinstance(found, Tensor) else torch.as_tensor(found)
    if value.shape != recorded.shape or value.is_floating_point() != recorded.is_floating_point():
        return Difference(float("inf"), where, recorded.dtype)
    if not recorded.numel():
        return Difference(0.0, where, recorded.dtype)
    same = (value == recorded) | (value.isnan() & recorded.isnan())
    exact = torch.where(same, 0.0, value.double() - recorded.double())
    scale = max(float(peak(torch.where(torch.isfinite(recorded), recorded, 0).double())), least, TINY)
    return Difference(float(exact.abs().max()) / scale, where, recorded.dtype)


def of_gradient(found: Tensor, recorded: Tensor, where: str, least: float = 0.0) -> Difference:
    """Of a gradient whose sum and norm alone are recorded: ``|sum - sum'| <= sqrt(n) |g - g'|``."""
    off = (summed(found) - recorded).abs()
    scale = max(float(recorded[1]), least, TINY)
    return Difference(float(max(off[0] / max(found.numel(), 1) ** 0.5, off[1])) / scale, where, found.dtype)


def worst(differences: Iterator[Difference]) -> Difference:
    """The largest; one that is no number counts as infinite."""
    return max(
        differences, key=lambda d: d.largest if d.largest == d.largest else float("inf"), default=Difference(0.0)
    )


def missing(samples: Samples, part: str, interface: Interface) -> list[str]:
    """Names that a part's graph needs and no record has."""
    names = [name for _, name in (*inputs_of(part, interface), *results_of(part, interface))]
    return [n for n in names if n not in samples]


def given_to(samples: Samples, part: str, interface: Interface) -> dict[str, Tensor]:
    """What a part's graph was given, by port, without weights and buffers."""
    return {port.name: samples[name] for port, name in inputs_of(part, interface)}


def compared(samples: Samples, part: str, interface: Interface, results: Mapping[str, Any]) -> Iterator[Difference]:
    """Each result of a part's graph with its record.

    Gradients may cancel to nothing, as those in the input of a norm over two samples do, so they are also held to a part of the errors.
    """
    errors = [samples[name] for port, name in inputs_of(part, interface) if port in interface.errors]
    least = CANCELLED * max((float(peak(e)) for e in errors), default=0.0)
    for port, name in results_of(part, interface):
        judge = of_gradient if name.split("/")[1] == NORM else difference
        yield judge(results[port.name], samples[name], port.name, least)


def run_graph(samples: Samples, runtime: Runtime, part: str, interface: Interface) -> dict[str, Any]:
    """What a part's graph makes of its recorded inputs and the present weights, by port."""
    module = part_of(runtime.model.network, part)
    weights = {p.name: module.tensor(p) for p in (*interface.parameters, *interface.buffers)}
    fixed, fed = (weights, {}) if interface.kind == FORWARD else ({}, weights)
    session = module.source.graph(interface.kind).session(fixed, frozenset(p.name for p in interface.results))
    return session({**given_to(samples, part, interface), **fed})


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
