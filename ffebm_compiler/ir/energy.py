"""The energy of a block: printed, in LaTeX, and as a number.

    E(s, theta, x) = sum_l w_l [ G_l(s_l) - <s_l, f_l(s_<l, x; theta)> ]        (sum over the batch)

Outside the domain of a G the energy is infinite. Source: Scellier & Bengio 2017; Nest & Ernoult 2024, eq. 8.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .blocks import EnergyBlock, State
from .coupling import Coupling, Operand, Weight
from .potential import Potential


@dataclass(frozen=True)
class Energy:
    """The energy of ``block``; ``labels`` gives the user's name of each value."""

    block: EnergyBlock
    labels: Mapping[str, str]

    def value(
        self,
        states: Mapping[str, Tensor],
        inputs: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        layer_weights: Mapping[str, float],
    ) -> Tensor:
        """E as a scalar tensor, summed over the batch; differentiable in every argument.

        Args:
            states: one tensor a state, by the block's names.
            inputs: the values that the block reads from outside.
            weights: the model's tensors, by path.
            layer_weights: w_l, by state.
        """
        potential = sum(layer_weights[s.name] * s.potential.energy(states[s.name]).sum() for s in self.block.states)
        return potential + self.interaction(states, inputs, weights, layer_weights)

    def interaction(
        self,
        states: Mapping[str, Tensor],
        inputs: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        layer_weights: Mapping[str, float],
    ) -> Tensor:
        """The energy without its potentials: ``- sum_l w_l <s_l, f_l>``."""
        values = {**inputs, **states}
        terms = [
            layer_weights[s.name] * (states[s.name] * s.drive.evaluate(values, weights)).sum()
            for s in self.block.states
        ]
        return -torch.stack(terms).sum()

    def text(self, layer_weights: Mapping[str, float] | None = None) -> str:
        """Readable mathematics, one state a line, in the user's layer names."""
        reads = [*(s.name for s in self.block.states), *self.block.inputs]
        head = f"E({', '.join(self._value(n) for n in reads)}) ="
        lines = [self._line(s, layer_weights) for s in self.block.states]
        return "\n".join([head, *("    " + ("  " if i == 0 else "+ ") + x for i, x in enumerate(lines))])

    def _line(self, state: State, layer_weights: Mapping[str, float] | None) -> str:
        w = f"w[{self.labels[state.name]}]" if layer_weights is None else f"{layer_weights[state.name]:.4g}"
        prefix = "" if w == "1" else f"{w} · "
        s, f = self._value(state.name), self._expression(state.drive, self._value)
        return f"{prefix}[ {state.potential.text.format(s=s)} − ⟨{s}, {f}⟩ ]{_domain(state.potential)}"

    def _value(self, name: str) -> str:
        return f"s[{self.labels[name]}]" if self._is_state(name) else f"x[{self.labels.get(name, name)}]"

    def _is_state(self, name: str) -> bool:
        return any(s.name == name for s in self.block.states)

    def latex(self, layer_weights: Mapping[str, float] | None = None) -> str:
        """The energy in LaTeX (amsmath), as an ``aligned`` environment."""
        rows = [f"&{'+' if i else ''} {self._row(s, layer_weights)}" for i, s in enumerate(self.block.states)]
        body = " \\\\\n".join(rows)
        return f"\\begin{{aligned}}\nE ={{}} {body}\n\\end{{aligned}}"

    def _row(self, state: State, layer_weights: Mapping[str, float] | None) -> str:
        label = _tex(self.labels[state.name])
        w = f"w_{{{label}}}" if layer_weights is None else f"{layer_weights[state.name]:.4g}"
        s, f = self._tex_value(state.name), self._expression(state.drive, self._tex_value, in_tex=True)
        g = state.potential.tex.format(s=s)
        return rf"{w} \left[ {g} - \left\langle {s},\; {f} \right\rangle \right]"

    def _tex_value(self, name: str) -> str:
        letter = "s" if self._is_state(name) else "x"
        return f"{letter}_{{{_tex(self.labels.get(name, name))}}}"

    def _expression(self, coupling: Coupling, value: Callable[[str], str], in_tex: bool = False) -> str:
        """f, its values written by ``value``."""
        written = _tex if in_tex else str
        shown = {n: value(n) for n in (*coupling.sources, *coupling.inputs)}

        def operand(o: Operand) -> str:
            return "" if o is None else written(o.path) if isinstance(o, Weight) else shown[o]

        for term in coupling.terms:
            template = term.operation.tex if in_tex else term.operation.text
            shown[term.name] = template.format(*map(operand, term.operands), layer=written(term.origin.label))
        return shown[coupling.output]

    def __str__(self) -> str:
        return self.text()


def _domain(potential: Potential) -> str:
    if potential.simplex is not None:
        return "  on the simplex"
    bounded = potential.lower > -float("inf") or potential.upper < float("inf")
    return f"  on {_interval(potential.lower, potential.upper)}" if bounded else ""


def _interval(lower: float, upper: float) -> str:
    left = "(−∞" if lower == -float("inf") else f"[{lower:g}"
    right = "∞)" if upper == float("inf") else f"{upper:g}]"
    return f"{left}, {right}"


def _tex(name: str) -> str:
    """A user's name as LaTeX text: every character that LaTeX would read is escaped."""
    escaped = re.sub(r"([_#%&$])", r"\\\1", name.replace("\\", r"\textbackslash "))
    return rf"\mathtt{{{escaped}}}"
