"""A coupling under names of its own, so that equal couplings of a network are one.

``relu3 = conv3(relu2)`` and ``relu7 = conv7(relu6)`` are both ``t0 = conv(s0; w0)``: code is derived under these inner names, and read
and answered under the outer ones. A coupling is renamed once, and remembers as long as it lives what it has been answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar
from weakref import ref

from torch import Tensor

from ..ir import Coupling, Operand, Term, Weight
from .explicit_code import Code, Key
from .explicit_folding import folded
from .explicit_maps import Read

Codes = TypeVar("Codes")

ANSWERS = 32
"""What a coupling remembers at most: two phases, gains and contrasts at a few shapes."""

_KNOWN: dict[int, tuple[ref[Coupling], Names]] = {}
"""By the identity of each coupling that lives: its options can't be hashed."""


@dataclass(frozen=True)
class Names:
    """The inner name of everything that a coupling reads and computes, its held norms folded.

    Attributes:
        coupling: the coupling under its inner names.
        inner: by outer name.
        weights: inner paths, by outer path.
        memory: what else is found once for this coupling.
    """

    coupling: Coupling
    inner: Mapping[str, str]
    weights: Mapping[str, str]
    memory: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _answers: dict[int, tuple[Any, Any]] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(coupling: Coupling) -> Names:
        """The names of a coupling, found once."""
        place = id(coupling)
        known = _KNOWN.get(place)
        if known is None or known[0]() is not coupling:
            known = _KNOWN[place] = ref(coupling, lambda _: _KNOWN.pop(place, None)), Names._made(coupling)
        return known[1]

    @staticmethod
    def _made(coupling: Coupling) -> Names:
        coupling = folded(coupling)
        inner = {n: f"s{i}" for i, n in enumerate(coupling.sources)}
        inner |= {n: f"x{i}" for i, n in enumerate(coupling.inputs)}
        inner |= {t.name: f"t{i}" for i, t in enumerate(coupling.terms)}
        weights = {p: f"w{i}" for i, p in enumerate(coupling.weights)}
        renamed = Coupling(
            tuple(_term(t, inner, weights) for t in coupling.terms),
            inner[coupling.output],
            tuple(inner[n] for n in coupling.sources),
            tuple(inner[n] for n in coupling.inputs),
            tuple(weights.values()),
        )
        return Names(renamed, inner, weights)

    def inward(self, key: Key) -> Key:
        """A key of a source, an input or a weight."""
        return _renamed(key, self.inner, self.weights)

    def read(self, read: Read) -> Read:
        return Read(
            {self.inward(k): v for k, v in read.tensors.items()}, {self.inner[n]: v for n, v in read.constants.items()}
        )

    def sources(self, sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {self.inner[n]: v for n, v in sources.items()}

    def outward(self, found: Codes) -> Codes:
        """Code, or a dataclass of codes, under the outer names."""
        known = self._answers.get(id(found))
        if known is None:
            while len(self._answers) >= ANSWERS:
                self._answers.pop(next(iter(self._answers)))
            known = self._answers[id(found)] = found, self._outward(found)  # it holds what it is found by
        answer: Codes = known[1]
        return answer

    def _outward(self, found: Codes) -> Codes:
        outer, paths = {v: k for k, v in self.inner.items()}, {v: k for k, v in self.weights.items()}

        def renamed(code: Code) -> Code:
            inputs, outputs = (tuple(_renamed(k, outer, paths) for k in ks) for ks in (code.inputs, code.outputs))
            return Code(inputs, outputs, code.module)

        if isinstance(found, Code):
            return renamed(found)  # type: ignore[return-value]
        assert is_dataclass(found)
        codes: dict[str, Any] = {f.name: renamed(getattr(found, f.name)) for f in fields(found)}
        return replace(found, **codes)  # type: ignore[type-var]


def _term(term: Term, inner: Mapping[str, str], weights: Mapping[str, str]) -> Term:
    def operand(o: Operand) -> Operand:
        return Weight(weights[o.path]) if isinstance(o, Weight) else None if o is None else inner[o]

    return replace(term, name=inner[term.name], operands=tuple(map(operand, term.operands)))


def _renamed(key: Key, names: Mapping[str, str], paths: Mapping[str, str]) -> Key:
    """A key with its name exchanged; what a code keeps for a later one has names of its own, which can't be a value's."""
    if isinstance(key, Weight):
        return Weight(paths[key.path])
    if isinstance(key, tuple):
        return (key[0], *(names[n] for n in key[1:]))
    return names.get(str(key), ("kept", key))
