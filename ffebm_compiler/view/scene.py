"""A drawing before it has a format: boxes, frames around blocks, and wires, with sizes but no colours.

Lengths are pixels at a zoom of one; y grows downwards. Layouts place the boxes, renderers turn a scene into a file.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx

Point = tuple[float, float]

TITLE_SIZE, DETAIL_SIZE = 13.0, 11.0
LONGEST = 40
"""Characters of a label that a box shows; the tooltip has them all."""


@dataclass(frozen=True)
class Label:
    """What a box says, and how large that makes it.

    Attributes:
        style: ``"state"``, ``"coupling"``, ``"weighted"``, ``"digital"``, ``"end"`` (an input or the output).
        title, detail: its two lines.
        tooltip: everything known about the operation, one fact a line.
    """

    style: str
    title: str
    detail: str
    tooltip: str

    @property
    def size(self) -> Point:
        width = max(text_width(self.title, TITLE_SIZE), text_width(self.detail, DETAIL_SIZE))
        return max(90.0, width + 28), 44.0


@dataclass(frozen=True)
class Box:
    """An operation: its label, and its centre."""

    label: Label
    x: float
    y: float


@dataclass(frozen=True)
class Frame:
    """A block: the rectangle around its operations."""

    title: str
    analog: bool
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Wire:
    """A value's way from one box to another: a start, then cubic curves of three points each."""

    points: tuple[Point, ...]
    feedback: bool


@dataclass(frozen=True)
class Scene:
    """A placed drawing."""

    title: str
    width: float
    height: float
    boxes: tuple[Box, ...]
    frames: tuple[Frame, ...]
    wires: tuple[Wire, ...]


LEGEND = (
    ("state", "state", "relaxes to equilibrium"),
    ("weighted", "weighted layer", "its weights train by EP"),
    ("coupling", "coupling", "no weight matrix"),
    ("digital", "digital", "trains by backprop"),
)
"""The styles that a drawing explains: style, title and detail of the example box."""


def text_width(text: str, size: float) -> float:
    """About how wide a text is, in the widest of the usual sans-serif fonts."""
    return size * sum(_character_width(c) for c in text)


def _character_width(c: str) -> float:
    if unicodedata.east_asian_width(c) in "WF":
        return 1.05
    return 0.36 if c in "iljftr.,:;|'!()[] " else 0.92 if c in "mwMW@%—" else 0.64


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text with its middle left out where it is too long: the ends of layer names say the most."""
    if len(text) <= longest:
        return text
    return f"{text[: longest // 3]}…{text[-(longest - longest // 3 - 1) :]}"


def labels(graph: nx.DiGraph) -> dict[str, Label]:
    """The label of every node of a partition graph."""
    return {str(name): _label(str(name), data) for name, data in graph.nodes(data=True)}


def _label(name: str, data: Mapping[str, Any]) -> Label:
    return Label(_style(data), shortened(name), shortened(_detail(name, data)), _tooltip(name, data))


def _style(data: Mapping[str, Any]) -> str:
    if data.get("role") in ("input", "output"):
        return "end"
    if data.get("domain") != "analog":
        return "digital"
    if data.get("role") == "state":
        return "state"
    return "weighted" if data.get("weighted") else "coupling"


def _detail(name: str, data: Mapping[str, Any]) -> str:
    role, operation = data.get("role"), str(data.get("operation", ""))
    if role in ("input", "output"):
        return f"model {role}"
    shape = f" {_first_shape(data)}" if data.get("weighted") else ""
    if role != "state" and name.split("@")[0].rpartition(".")[2] == operation:
        return "function"  # its name has said it
    held = " (held)" if data.get("norm") == "held" else ""
    return f"{operation}{shape}{held}" + (" state" if role == "state" else "")


def _first_shape(data: Mapping[str, Any]) -> str:
    return str(data.get("weights", "")).split("; ")[0].rpartition(" ")[2]


_FACTS = ("layer", "kind", "domain", "block", "role", "operation", "potential", "weights", "norm", "reason", "location")


def _tooltip(name: str, data: Mapping[str, Any]) -> str:
    facts = [f"{fact}: {data[fact]}" for fact in _FACTS if data.get(fact)]
    if data.get("parameters"):
        facts.append(f"parameters: {data['parameters']:,}")
    return "\n".join([name, *facts])


def frame_title(block: str, members: list[Mapping[str, Any]]) -> str:
    """``block2 · energy, size 2``."""
    if not any(m.get("domain") == "analog" for m in members):
        return f"{block} · digital"
    return f"{block} · energy, size {sum(bool(m.get('weighted')) for m in members)}"


def blocks_of(graph: nx.DiGraph) -> dict[str, list[str]]:
    """The operations of each block or digital part, in order; inputs and outputs have none."""
    members: dict[str, list[str]] = {}
    for name, data in graph.nodes(data=True):
        if data.get("role") not in ("input", "output"):
            members.setdefault(str(data.get("block", "")), []).append(str(name))
    return members
