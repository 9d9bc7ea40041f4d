"""A folder of netlists and the manifest that says what they hold, written whole or not at all.

block1.cir, block1_nudged.cir, ...   one netlist for each circuit
manifest.json                        for each: its file, its blocks' nodes, and the states that the emulator found
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError, OptionError, Problem
from ...files import check_folder, write_folder_whole
from ..hardware.circuit import Circuit
from .layout import lay_out
from .netlist import legal_names
from .testbench import Bench, netlist

MANIFEST = "manifest.json"
FORMAT = "ffebm netlists 1"
_LARGEST_MANIFEST = 1 << 30

Expected = Mapping[str, Tensor]
"""States by bank, in units of ``volts``."""


@dataclass(frozen=True)
class BankNodes:
    """A bank in a manifest: its name in the circuit, the user's name, its nodes in order, the expected states."""

    name: str
    label: str
    nodes: tuple[str, ...]
    expected: Tensor | None


@dataclass(frozen=True)
class Entry:
    """A netlist in a manifest."""

    file: str
    block: str
    physics: str
    volts: float
    time_constant: float
    banks: tuple[BankNodes, ...]


def write_netlists(
    circuits: Mapping[str, Circuit],
    directory: str | os.PathLike[str],
    expected: Mapping[str, Expected] | None = None,
    bench: Bench | None = None,
    replace: bool = False,
) -> list[Path]:
    """Writes one netlist for each circuit, and a manifest.

    Args:
        circuits: by the name that the file takes: ``{"block1": ..., "block1 nudged": ...}``.
        directory: a folder that does not exist yet, or that is empty.
        expected: the states that each is to be compared with, by the same names.
        bench: what the netlists simulate.
        replace: whether a folder of earlier netlists may be replaced.

    Returns:
        The paths of the netlists, in order.

    Raises:
        OptionError: the folder can't be written.
        InputError: circuits can't be written, with every reason; no file is left behind.
    """
    folder = check_folder(directory, "netlists", MANIFEST, replace)
    expected = expected or {}
    _check_expected(circuits, expected)
    files = {name: f"{stem}.cir" for name, stem in legal_names(circuits).items()}
    texts = _netlists(circuits, files, expected, bench or Bench())
    entries = [_entry(circuit, files[name], expected.get(name, {})) for name, circuit in circuits.items()]
    manifest = json.dumps({"format": FORMAT, "netlists": entries}, indent=1, ensure_ascii=False, allow_nan=False)
    texts[MANIFEST] = manifest + "\n"
    write_folder_whole(folder, lambda partial: _write(partial, texts), "netlists", MANIFEST, replace)
    return [folder / files[name] for name in circuits]


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _netlists(
    circuits: Mapping[str, Circuit], files: Mapping[str, str], expected: Mapping[str, Expected], bench: Bench
) -> dict[str, str]:
    """By file; the refusals of all circuits together."""
    texts, problems = {}, []
    for name, circuit in circuits.items():
        try:
            texts[files[name]] = netlist(circuit, bench, expected.get(name))
        except InputError as failure:
            problems += [p for p in failure.problems if p not in problems]
    InputError.raise_if(problems)
    return texts


def _check_expected(circuits: Mapping[str, Circuit], expected: Mapping[str, Expected]) -> None:
    sizes = {name: {b.name: b.drive.numel() for b in c.banks} for name, c in circuits.items()}
    problems = [
        Problem(f"expected states of {name}", *what)
        for name, states in expected.items()
        if (what := _wrong_states(sizes.get(name), states)) is not None
    ]
    OptionError.raise_if(problems)


def _wrong_states(sizes: Mapping[str, int] | None, states: Expected) -> tuple[str, str] | None:
    if sizes is None:
        return "are of no circuit", "Use the names of the circuits."
    if bad := [n for n in states if n not in sizes or states[n].numel() != sizes[n]]:
        return f"do not fit bank {bad[0]}", f"Give one number a neuron: {dict(sizes)}."
    if not all(bool(torch.isfinite(s).all()) for s in states.values()):
        return "are not finite", "Relax the block until it converges first."
    return None


def _entry(circuit: Circuit, file: str, expected: Expected) -> dict[str, Any]:
    layout = lay_out(circuit)
    banks = [
        {
            "name": b.name,
            "label": b.label,
            "nodes": list(layout.outputs[b.name]),
            "expected": expected[b.name].double().flatten().tolist() if b.name in expected else None,
        }
        for b in circuit.banks
    ]
    numbers = {"volts": circuit.volts, "time_constant": circuit.time_constant}
    return {"file": file, "block": circuit.block, "physics": circuit.physics, **numbers, "banks": banks}


# --- reading, of files that anyone may have written -------------------------------------------------------


def read_manifest(folder: Path) -> tuple[Entry, ...]:
    """
    Raises:
        InputError: there is none, or it is damaged.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise ValueError("is larger than any manifest")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"is not of the format {FORMAT!r}")
        return tuple(_read_entry(folder, e) for e in _list(content.get("netlists"), "netlists"))
    except FileNotFoundError as failure:
        remedy = "Write the netlists with export_spice(folder) first."
        raise InputError.at(f"folder {folder}", f"holds no {MANIFEST}", remedy) from failure
    except (OSError, ValueError, RecursionError) as failure:
        raise InputError.at(f"manifest {path}", f"is damaged: {failure}", "Export the netlists again.") from failure


def _read_entry(folder: Path, content: object) -> Entry:
    if not isinstance(content, dict):
        raise ValueError("a netlist's entry is not an object")
    file = _text(content, "file")
    if Path(file).name != file or not (folder / file).is_file():
        raise ValueError(f"its netlist {file!r} is not a file of this folder")
    volts, tau = _number(content.get("volts"), "volts"), _number(content.get("time_constant"), "time_constant")
    if min(volts, tau) <= 0:
        raise ValueError("volts and time_constant must be positive")
    banks = tuple(_read_bank(b) for b in _list(content.get("banks"), "banks"))
    return Entry(file, _text(content, "block"), _text(content, "physics"), volts, tau, banks)


def _read_bank(content: object) -> BankNodes:
    if not isinstance(content, dict):
        raise ValueError("a bank is not an object")
    nodes = tuple(_list(content.get("nodes"), "nodes"))
    if not all(isinstance(n, str) for n in nodes):
        raise ValueError("a node's name is not text")
    values = content.get("expected")
    expected = None if values is None else [_number(v, "expected") for v in _list(values, "expected")]
    if expected is not None and len(expected) != len(nodes):
        raise ValueError(f"{len(expected)} states are expected of {len(nodes)} nodes")
    states = None if expected is None else torch.tensor(expected, dtype=torch.float64)
    return BankNodes(_text(content, "name"), _text(content, "label"), nodes, states)


def _text(content: Mapping[str, object], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str):
        raise ValueError(f"its {key} is not text")
    return value


def _list(value: object, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"its {key} are not a list")
    return value


def _number(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"its {key} has {value!r}, which is no number")
    return float(value)
