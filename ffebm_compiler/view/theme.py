"""The colours of a drawing. Analog is warm and round; digital is grey, square and dashed, told apart without colour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Paint:
    """How a shape is painted."""

    fill: str
    line: str
    ink: str
    weight: float = 1.2
    dashed: bool = False


@dataclass(frozen=True)
class Theme:
    """The colours of everything in a drawing, by style."""

    page: str
    ink: str
    boxes: Mapping[str, Paint]
    frames: Mapping[str, Paint]
    wires: Mapping[str, str]


ROUNDING: Mapping[str, float] = {"state": 22.0, "weighted": 8.0, "coupling": 8.0, "digital": 0.0, "end": 3.0}

LIGHT = Theme(
    page="#ffffff",
    ink="#1f2430",
    boxes={
        "state": Paint("#f2a65a", "#b3621b", "#3a1d04", 2.0),
        "weighted": Paint("#fde3c3", "#b3621b", "#3a1d04", 2.0),
        "coupling": Paint("#fff6ea", "#cf8a45", "#3a1d04"),
        "digital": Paint("#e3e9f2", "#5d6f8c", "#1d2a3f", dashed=True),
        "end": Paint("#ffffff", "#1f2430", "#1f2430", 2.0),
    },
    frames={
        "analog": Paint("#fff3e2", "#e0a463", "#8a4a10"),
        "digital": Paint("#f5f7fa", "#9aa8bd", "#4a5a75", dashed=True),
    },
    wires={"forward": "#5a6472", "feedback": "#c2410c"},
)

DARK = Theme(
    page="#14171d",
    ink="#e6e9ef",
    boxes={
        "state": Paint("#b8661f", "#f2a65a", "#fff3e2", 2.0),
        "weighted": Paint("#5c3a17", "#f2a65a", "#ffe9cf", 2.0),
        "coupling": Paint("#33241a", "#b9783a", "#ffe9cf"),
        "digital": Paint("#27303e", "#8fa3c4", "#dfe7f5", dashed=True),
        "end": Paint("#14171d", "#e6e9ef", "#e6e9ef", 2.0),
    },
    frames={
        "analog": Paint("#221b15", "#8a5a2a", "#f2b777"),
        "digital": Paint("#1a1f28", "#55647d", "#a9b8d1", dashed=True),
    },
    wires={"forward": "#98a3b3", "feedback": "#ff8a4c"},
)
