"""Writing SPICE: names, numbers, comments, long lines and subcircuits.

SPICE folds case, ends a name at a blank or a bracket, and gives ``.`` a meaning inside subcircuits, so the user's
``features.3`` becomes ``features_3``; where two labels would become one name, the later gets a number. A label reaches
a netlist only through :func:`legal_names` and :func:`comment`, neither of which lets it start a line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

_WIDTH = 118
_LONGEST_NAME = 48


def number(value: float) -> str:
    """The shortest text that reads back as the same float64."""
    assert math.isfinite(value)
    return repr(float(value))


def legal_names(labels: Iterable[str]) -> dict[str, str]:
    """A name for each label: letters, digits and underscores in lower case, each different."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for label in dict.fromkeys(labels):
        stem = re.sub(r"[^a-z0-9]+", "_", label.lower())[:_LONGEST_NAME].strip("_") or "x"
        name = next(n for n in _numbered(stem) if n not in taken)
        taken.add(name)
        names[label] = name
    return names


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    k = 2
    while True:
        yield f"{stem}_v{k}"
        k += 1


def comment(text: str) -> str:
    """One comment line for each line of the text, with nothing in it that could end the comment."""
    lines = text.split("\n")
    return "\n".join("* " + "".join(c if c.isprintable() else "?" for c in line) for line in lines).replace(
        "* \n", "*\n"
    )


def long_line(words: Sequence[str]) -> str:
    """The words on one logical line, continued by ``+`` where it gets too long."""
    lines, current = [], words[0]
    for word in words[1:]:
        if len(current) + len(word) + 1 > _WIDTH:
            lines.append(current)
            current = "+ " + word
        else:
            current += " " + word
    return "\n".join([*lines, current])


def parameters(values: Mapping[str, float]) -> list[str]:
    """``gain=1.02`` and so on, as words of an instance."""
    return [f"{name}={number(value)}" for name, value in values.items()]


@dataclass(frozen=True)
class Subcircuit:
    """``.subckt name ports parameters`` around ``body``.

    Attributes:
        about: what it is, its ports and the units of its parameters, as the comment above it.
        parameters: default of each.
    """

    name: str
    about: str
    ports: Sequence[str]
    body: Sequence[str]
    parameters: Sequence[str] = ()

    def __str__(self) -> str:
        head = long_line([".subckt", self.name, *self.ports, *self.parameters])
        return "\n".join([comment(self.about), head, *self.body, f".ends {self.name}"])


def instance(name: str, nodes: Sequence[str], subcircuit: str, values: Mapping[str, float] | None = None) -> str:
    return long_line([f"X{name}", *nodes, subcircuit, *parameters(values or {})])
