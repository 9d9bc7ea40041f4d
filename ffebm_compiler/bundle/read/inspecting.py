"""What a bundle holds, for people and for other programs; all the checks of reading it are done first."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...errors import shown
from ...ir import DigitalBlock, EnergyBlock
from ...onnx import WEIGHTS
from ...rules import FORMS, Forms
from ..format.contents import Contents, Mode, graph_file
from ..format.manifest import MANIFEST
from ..format.tensors import described
from .checking import checked_files
from .reading import contents_of

CHECKS = (
    "every file is one that the manifest lists, of its size and its SHA-256",
    "the documents are of version 1 of the format, and their schemas hold",
    "every value is written before it is read; every weight, state and gain is there",
    "the graphs are standard ONNX without control flow, of the ports that the program says",
)


@dataclass(frozen=True)
class PartSummary:
    """A digital part.

    Attributes:
        mode: ``"evaluation"``, ``"training"``, or ``"both"``.
        files: of its graphs, by kind.
        layers: the user's operations in it.
        inputs, outputs: the user's names of the values.
        reasons: why it is digital.
    """

    name: str
    mode: str
    files: Mapping[str, str]
    layers: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reasons: Mapping[str, str]


@dataclass(frozen=True)
class BlockSummary:
    """An energy-based block.

    Attributes:
        states: the user's name of each state, and its activation.
        layers: its weighted layers.
        layer_weights: w_l by the user's names, where gains are stored.
    """

    name: str
    mode: str
    states: Mapping[str, str]
    layers: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layer_weights: Mapping[str, float]


@dataclass(frozen=True)
class BundleSummary:
    """What :func:`inspect` found."""

    path: str
    model: str
    training: bool
    version: int
    libraries: Mapping[str, str]
    options: Mapping[str, Any]
    execution: Mapping[str, Any]
    files: Mapping[str, int]
    parts: tuple[PartSummary, ...]
    blocks: tuple[BlockSummary, ...]
    parameters: int
    elements: int
    buffers: int
    aliases: Mapping[str, str]
    refused: tuple[str, ...]
    checks: tuple[str, ...] = CHECKS

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def text(self) -> str:
        """One screen."""
        return shown("\n".join(_lines(self)))


def inspect(path: str | os.PathLike[str], known: Forms = FORMS) -> BundleSummary:
    """What a bundle holds.

    Raises:
        InputError: it can't be read.
    """
    checked = checked_files(path)
    contents = contents_of(checked, path, known)
    sizes = {n: entry["size"] for n, entry in checked.manifest["files"].items()}
    tensors = {p: described(t) for p, t in contents.tensors.items()}
    return BundleSummary(
        path=os.fspath(path),
        model=contents.name,
        training=contents.training,
        version=checked.manifest["version"],
        libraries=checked.manifest["libraries"],
        options=contents.options,
        execution=contents.execution,
        files={MANIFEST: checked.manifest_size, **sizes},
        parts=tuple(_parts(contents)),
        blocks=tuple(_blocks(contents)),
        parameters=len(contents.parameters),
        elements=sum(math.prod(tensors[p].shape) for p in contents.parameters),
        buffers=len(tensors) - len(contents.parameters),
        aliases=contents.aliases,
        refused=tuple(f"{r.part}, {r.kind}: {r.operation}: {r.reason}" for r in contents.refused),
    )


# --- the steps of the programs --------------------------------------------------------------------------------


def _modes(contents: Contents) -> Iterator[tuple[str, Mode]]:
    modes = contents.named_modes
    yield from (("both", m) for m in modes.values()) if len(modes) == 1 else modes.items()


def _parts(contents: Contents) -> Iterator[PartSummary]:
    """Those that both modes have alike, once."""
    found: dict[tuple[Any, ...], PartSummary] = {}
    for what, mode in _modes(contents):
        weights = [_weights_part(what, mode)] if WEIGHTS in mode.parts else []
        for part in (*weights, *(_part(what, mode, b) for b in mode.program.digital_blocks)):
            key = (part.name, part.layers, part.inputs, part.outputs)
            if (earlier := found.get(key)) is not None:
                part = replace(earlier, mode="both", files={**earlier.files, **part.files})
            found[key] = part
    yield from found.values()


def _part(what: str, mode: Mode, block: DigitalBlock) -> PartSummary:
    layers = tuple(f"{o.label} ({o.kind})" for o in block.origins)
    inputs, outputs = _labelled(mode, block.inputs), _labelled(mode, block.outputs)
    return PartSummary(block.name, what, _files(mode, block.name), layers, inputs, outputs, block.reasons)


def _weights_part(what: str, mode: Mode) -> PartSummary:
    paths = mode.computed_weights
    return PartSummary(WEIGHTS, what, _files(mode, WEIGHTS), paths, (), paths, {})


def _files(mode: Mode, part: str) -> dict[str, str]:
    return {kind: graph_file(part, kind) for kind in mode.parts.get(part, {})}


def _labelled(mode: Mode, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(mode.program.labels.get(n, n) for n in names)


def _blocks(contents: Contents) -> Iterator[BlockSummary]:
    found: dict[tuple[Any, ...], BlockSummary] = {}
    for what, mode in _modes(contents):
        for block in mode.program.energy_blocks:
            key = (block.name, tuple(s.name for s in block.states), block.inputs, block.outputs)
            found[key] = _block("both" if key in found else what, mode, block, contents)
    yield from found.values()


def _block(what: str, mode: Mode, block: EnergyBlock, contents: Contents) -> BlockSummary:
    labels = mode.program.labels
    loop_gain = contents.execution["loop_gain"]
    gains = contents.gains.get(f"{','.join(s.name for s in block.states)}|{loop_gain!r}")
    return BlockSummary(
        name=block.name,
        mode=what,
        states={labels[s.name]: s.potential.name for s in block.states},
        layers=tuple(f"{t.origin.label} ({t.operation.name})" for t in block.layers),
        inputs=_labelled(mode, block.inputs),
        outputs=_labelled(mode, block.outputs),
        layer_weights={} if gains is None else {labels[n]: w for n, w in gains.layer_weights.items()},
    )


# --- as text ------------------------------------------------------------------------------------------------


def _lines(s: BundleSummary) -> Iterator[str]:
    yield f"{s.model}: {s.path}"
    yield f"  {_bytes(sum(s.files.values()))} in {len(s.files)} files, version {s.version} of the format"
    yield f"  made with {', '.join(f'{n} {v}' for n, v in s.libraries.items())}"
    tied = f", {len(s.aliases)} tied" if s.aliases else ""
    yield f"  {s.parameters} parameters with {s.elements:,} elements{tied}; {s.buffers} other tensors"
    yield f"  {_execution(s.execution)}"
    for group, values in s.options.items():
        given = ", ".join(f"{k}={v}" for k, v in values.items()) if isinstance(values, Mapping) else str(values)
        yield f"  {group}: {given}"
    yield "energy-based blocks" if s.blocks else "no energy-based block"
    for block in s.blocks:
        yield f"  {block.name}{_in_mode(block.mode)}: {', '.join(block.inputs)} -> {', '.join(block.outputs)}"
        yield from (f"    {_state(n, p, block.layer_weights)}" for n, p in block.states.items())
        yield f"    layers {', '.join(block.layers) or 'none'}"
    yield "digital parts" if s.parts else "no digital part"
    for part in s.parts:
        yield f"  {part.name}{_in_mode(part.mode)}: {', '.join(part.layers)}"
        yield f"    {', '.join(f'{k} {f} ({_bytes(s.files[f])})' for k, f in part.files.items()) or 'no graph'}"
    yield from ("without a graph", *(f"  {r}" for r in s.refused)) if s.refused else ()
    yield "checked"
    yield from (f"  {c}" for c in s.checks)


def _in_mode(mode: str) -> str:
    return "" if mode == "both" else f" in {mode}"


def _state(name: str, potential: str, weights: Mapping[str, float]) -> str:
    return f"state {name}: {potential}" + (f", layer weight {weights[name]:.4g}" if name in weights else "")


def _execution(execution: Mapping[str, Any]) -> str:
    gain, tolerance = execution["loop_gain"], execution["tolerance"]
    parts = (
        "unit feedback" if gain is None else f"loop gain at most {gain:g}",
        "tolerance by the precision" if tolerance is None else f"tolerance {tolerance:g}",
        f"at most {execution['max_sweeps']} sweeps",
        f"gradients by {execution['estimator']['name']}",
    )
    return ", ".join(parts)


def _bytes(count: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:.1f} GiB"
