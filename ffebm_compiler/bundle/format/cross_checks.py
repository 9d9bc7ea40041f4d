"""What the parts of a bundle say of each other: each value is written before it is read, each tensor and graph there.

Each check yields what is wrong, in words that follow the name of the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from ...ir import DigitalBlock, EnergyBlock, Weight
from ...onnx import WEIGHTS, Interface, Port
from ...solve import Gains
from .contents import Contents, Mode, graph_file
from .program_checks import leaves, program_problems, refs, repeated
from .tensors import Described, described


def reference_problems(contents: Contents) -> Iterator[str]:
    """Everything that is wrong with a bundle's contents as a whole, save the inside of its graphs."""
    tensors = {path: described(t) for path, t in contents.tensors.items()}
    yield from tensor_problems(contents, tensors)
    for what, mode in contents.named_modes.items():
        known = {*tensors, *contents.aliases, *mode.computed_weights}
        for problem in (*program_problems(mode.program), *_mode_problems(contents, mode, tensors, known)):
            yield f"{what} program: {problem}"
    yield from gain_problems(contents)
    yield from graph_problems(contents)


# --- tensors ------------------------------------------------------------------------------------------------


def tensor_problems(contents: Contents, tensors: Mapping[str, Described]) -> Iterator[str]:
    yield from path_problems([*tensors, *contents.aliases])
    for what, paths in (("parameters", contents.parameters), ("frozen", contents.frozen), ("hidden", contents.hidden)):
        yield from repeated(what, paths)
        yield from (f"{what}: there is no tensor {p}" for p in paths if p not in tensors)
    parameters = set(contents.parameters)
    yield from (f"frozen: {p} is no parameter" for p in contents.frozen if p not in parameters)
    for path in contents.parameters:
        if path in tensors and "float" not in tensors[path].dtype:
            yield f"parameters: {path} is of type {tensors[path].dtype}"
    for alias, path in contents.aliases.items():
        if alias in tensors or path not in tensors:
            yield f"aliases: {alias} is tied to {path}, which is not so by the tensors"


def path_problems(paths: Iterable[str]) -> Iterator[str]:
    """Paths that no tree of modules has: their inner names are modules, their last ones are not."""
    given = set(paths)
    too_deep = [p for p in given if p.count(".") > DEEPEST_PATH]
    if too_deep:
        yield f"the path {too_deep[0][:100]} goes through more than {DEEPEST_PATH} modules"
        return
    if len(_modules(given)) > MOST_MODULES:
        yield f"the paths of the tensors go through more than {MOST_MODULES} modules"
        return
    inner = {p[:i] for p in given for i, c in enumerate(p) if c == "." and p[:i] in given}
    yield from (f"the path {p} is that of a module and of a tensor" for p in sorted(inner))
    names = {name for p in given for name in p.split(".")}
    taken = {n for n in names if not n or n.startswith("__") or hasattr(_MODULE, n) or not n.isprintable()}
    yield from (f"a path has the name {n!r}, which no layer or tensor can have" for n in sorted(taken))


_MODULE = nn.Module()
DEEPEST_PATH, MOST_MODULES = 64, 100_000
"""Modules within modules; modules in all."""


def _modules(paths: Iterable[str]) -> set[str]:
    """The modules that paths go through; of too many, a few more than are allowed."""
    found: set[str] = set()
    for path in paths:
        owner = path.rpartition(".")[0]
        while owner and owner not in found and len(found) <= MOST_MODULES:
            found.add(owner)
            owner = owner.rpartition(".")[0]
    return found


# --- a mode, its parts and its tensors --------------------------------------------------------------------------


def _mode_problems(
    contents: Contents, mode: Mode, tensors: Mapping[str, Described], known: Collection[str]
) -> Iterator[str]:
    for block in mode.program.energy_blocks:
        yield from (f"{block.name} reads the weight {p}, which there is not" for p in block.weights if p not in known)
    for leaf in leaves(mode.result):
        if isinstance(leaf, Weight) and leaf.path not in known:
            yield f"its result has the weight {leaf.path}, which there is not"
    inputs = set(mode.program.inputs)
    called = {r.name for r in refs([mode.call])} - inputs
    yield from (f"a call gives {n}, which is no input" for n in sorted(called) if whole(n) not in inputs)
    yield from (f"{n} has a default, but is no input" for n in mode.defaults if n not in mode.program.inputs)
    yield from (f"{n} has sizes, but is no input" for n in mode.sizes if n not in mode.program.inputs)
    yield from _call_shape_problems(mode.call)
    yield from part_problems(mode, contents, tensors)


def _call_shape_problems(call: Any) -> Iterator[str]:
    if call is None:
        return
    if not (isinstance(call, (list, tuple)) and len(call) == 2 and isinstance(call[1], dict)):
        yield "its call is not a list of arguments and a dictionary of named ones"
    elif not (isinstance(call[0], (list, tuple)) and all(isinstance(k, str) for k in call[1])):
        yield "its call has no list of arguments, or names that are no text"


def part_problems(mode: Mode, contents: Contents, tensors: Mapping[str, Described]) -> Iterator[str]:
    """Digital parts without graphs, and graphs that do not fit their parts or the tensors."""
    digital = {b.name: b for b in mode.program.digital_blocks}
    refused = {r.part for r in contents.refused}
    yield from (f"there is no digital part {n}" for n in mode.parts if n not in digital and n != WEIGHTS)
    missing = (n for n in digital if not mode.parts.get(n) and n not in refused)
    yield from (f"the digital part {n} has no graph" for n in missing)
    for name, interface in mode.interfaces:
        where = f"{name}, {interface.kind} graph"
        yield from (f"{where}: {p}" for p in interface_problems(interface, tensors))
        if name in digital:
            yield from (f"{where}: {p}" for p in _fit_problems(interface, digital[name]))


def interface_problems(interface: Interface, tensors: Mapping[str, Described]) -> Iterator[str]:
    """Ports with one name, or of tensors that there are not."""
    yield from repeated("ports", [p.name for p in (*interface.inputs, *interface.initializers)])
    yield from repeated("ports", [p.name for p in interface.results])
    for port in (*interface.tensors, *interface.statistics):
        yield from _port_problems(port, tensors)


def _port_problems(port: Port, tensors: Mapping[str, Described]) -> Iterator[str]:
    found = tensors.get(port.value)
    if found is None:
        yield f"the port {port.name} is of the tensor {port.value}, which there is not"
    elif (found.dtype, found.shape) != (port.dtype, port.shape):
        yield f"the port {port.name} is {port.dtype} {list(port.shape)}, its tensor {found.dtype} {list(found.shape)}"


def _fit_problems(interface: Interface, block: DigitalBlock) -> Iterator[str]:
    inputs, outputs = set(block.inputs), set(block.outputs)
    read, given = [p.value for p in interface.values], [p.value for p in interface.outputs]
    yield from (f"it reads {n}, which its part does not" for n in read if whole(n) not in inputs)
    yield from (f"it gives {n}, which its part does not" for n in given if whole(n) not in outputs)


def whole(name: str) -> str:
    """The value itself, or that of which this is a leaf: ``state`` of ``state[0]``; no nest has 10,000 leaves."""
    return re.sub(r"\[\d{1,4}\]$", "", name)


def gain_problems(contents: Contents) -> Iterator[str]:
    """Gains of no block, or that are no gains."""
    blocks = {",".join(s.name for s in b.states): b for m in contents.modes.values() for b in m.program.energy_blocks}
    for key, gains in contents.gains.items():
        name, _, loop_gain = key.rpartition("|")
        if name not in blocks or not _is_positive(loop_gain):
            yield f"gains: {key[:200]!r} is no block and loop gain"
        else:
            yield from (f"gains of {blocks[name].name}: {p}" for p in _gains_problems(gains, blocks[name]))


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf and repr(float(text)) == text
    except ValueError:
        return False


def _gains_problems(gains: Gains, block: EnergyBlock) -> Iterator[str]:
    edges = set(block.edges)
    if gains.layer_weights.keys() != {s.name for s in block.states}:
        yield "its layer weights are not those of its states"
    if not all(math.isfinite(w) and w > 0 for w in gains.layer_weights.values()):
        yield "a layer weight is not a positive number"
    if not all(math.isfinite(n) and n >= 0 for n in gains.norms.values()):
        yield "a norm is not a number from 0"
    for what, found in (("norm", gains.norms), ("direction", gains.directions)):
        yield from (f"it has a {what} of {l} and {m}, which are not coupled" for l, m in found if (l, m) not in edges)


def graph_problems(contents: Contents) -> Iterator[str]:
    """Graphs that no part has, and parts whose graph is another one in the other mode."""
    owners: dict[str, Interface] = {}
    for name, interface in contents.interfaces:
        file = graph_file(name, interface.kind)
        if owners.setdefault(file, interface) != interface:
            yield f"{file} is the graph of two parts"
    yield from (f"there is no {file}" for file in owners if file not in contents.graphs)
    yield from (f"{file} is the graph of no part" for file in contents.graphs if file not in owners)
