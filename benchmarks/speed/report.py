"""A result as printed text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.speed.allocator import KEEPING
from benchmarks.speed.result import Goal
from examples import records


def text(document: Mapping[str, Any]) -> str:
    """The table, the goals and the notes."""
    rows = [{k: cell(k, v) for k, v in row.items() if not isinstance(v, (list, dict))} for row in document["rows"]]
    goals = [str(Goal(g["what"], g["measured"], g["bound"], g["at_least"])) for g in document["goals"]]
    return "\n".join([records.table(rows), "", *goals, *document["notes"], conditions(document)])


def cell(column: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return cosine(value) if "cosine" in column else f"{value:.3g}"


def cosine(value: float) -> str:
    """As many digits as tell it from 1, up to six."""
    return f"{value:.6f}" if value > 0.9999 else f"{value:.4f}"


def times(row: Mapping[str, Any]) -> str:
    """A ratio with its quartiles."""
    return f"{row['ratio']:.3g} ({row['lower']:.3g} to {row['upper']:.3g})"


def conditions(document: Mapping[str, Any]) -> str:
    """Where and when: one line."""
    m, v = document["machine"], document["versions"]
    where = m["device"] if m["device"] != "CPU" else f"{m['processor']}, {m['cores']} cores"
    given = document["configuration"]
    kept = ", freed memory kept" if given.get("allocator") == KEEPING else ""
    return (
        f"{where}, {m['threads']} threads{kept}, torch {v['torch']}, {document['date'][:10]}, at most "
        f"{given['repeats']} rounds, seed {given['seed']}"
    )
