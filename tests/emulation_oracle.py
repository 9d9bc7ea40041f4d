"""What a circuit settles to, and how, by the equations in the docstring of ``hardware/circuit.py`` alone, in numpy.

Nothing of the emulator, the solvers or the potentials' own functions is used: activations are spelled out by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy.integrate import solve_ivp
from torch import Tensor

from ffebm_compiler.chip.hardware import Circuit, Edge
from ffebm_compiler.ir import Potential

Array = np.ndarray
Voltages = dict[str, Array]


def sigma(potential: Potential) -> Callable[[Array], Array]:
    smooth = {"tanh": np.tanh, "sigmoid": lambda u: 1 / (1 + np.exp(-u)), "identity": lambda u: u}
    if potential.name in smooth:
        return smooth[potential.name]
    o = potential.options
    return lambda u: np.clip(o["scale"] * u + o["shift"], o["lower"], o["upper"])


def array(t: Tensor) -> Array:
    return t.detach().double().numpy()


class _Edge:
    """The matrices that voltages are multiplied by, forwards and backwards."""

    def __init__(self, e: Edge, physics: str):
        self.source, self.target = e.source, e.target
        self.forward = e.gain * (array(e.positive) - array(e.negative))
        self.backward = (array(e.back_positive) - array(e.back_negative)).T
        factor = e.reverse if physics == "hopfield" else e.back
        self.factor = 1.0 if factor is None else array(factor)


class Settling:
    """A circuit as arrays."""

    def __init__(self, circuit: Circuit):
        self.circuit = circuit
        self.banks = {b.name: b for b in circuit.banks}
        self.inputs = {n: array(v) for n, v in circuit.inputs.items()}
        self.sigma = {n: sigma(b.potential) for n, b in self.banks.items()}
        self.edges = [_Edge(e, circuit.physics) for e in circuit.edges]
        self.constant = {n: array(b.drive) - array(b.nudge) for n, b in self.banks.items()}
        self.neurons = {n: (array(b.gain), array(b.offset), b.limit) for n, b in self.banks.items()}
        self.conductance = {n: self._conductance(n) for n in self.banks} if circuit.physics == "resistive" else {}

    def _conductance(self, name: str) -> Array:
        """Everything that multiplies ``-s_i``."""
        leak = self.banks[name].leak
        assert leak is not None
        total = array(leak)
        for e in self.circuit.edges:
            both = array(e.positive) + array(e.negative)
            if e.target == name:
                total = total + both.sum(1)
            if e.source == name:
                assert e.back is not None
                total = total + array(e.back) * e.gain * both.sum(0)
        return total

    def currents(self, s: Voltages) -> Voltages:
        """All currents into each node but its own leak (resistive: at a node voltage of 0)."""
        into, known = dict(self.constant), {**self.inputs, **s}
        for e in self.edges:
            into[e.target] = into[e.target] + e.forward @ known[e.source]
            if e.source in into:
                into[e.source] = into[e.source] + e.factor * (e.backward @ s[e.target])
        return into

    def output(self, name: str, u: Array) -> Array:
        gain, offset, limit = self.neurons[name]
        return np.clip(self.sigma[name](gain * (u + offset)), -limit, limit)

    def equilibrium(self, rounds: int = 4000) -> Voltages:
        """By plain iteration, one bank after the other, until nothing moves."""
        s = {n: np.zeros(len(b.drive)) for n, b in self.banks.items()}
        for _ in range(rounds):
            moved = 0.0
            for n in self.banks:
                a = self.currents(s)[n]
                new = self.output(n, a / self.conductance[n] if self.conductance else a)
                moved, s[n] = max(moved, float(np.abs(new - s[n]).max(initial=0))), new
            if moved < 1e-15:
                break
        return s

    def course(self, duration: float, start: Mapping[str, Array] | None = None) -> Voltages:
        """Outputs after ``duration`` time constants from ground, or from node voltages."""
        names, sizes = list(self.banks), [len(b.drive) for b in self.banks.values()]
        u = np.concatenate([np.zeros(k) if start is None else start[n] for n, k in zip(names, sizes, strict=True)])

        def split(flat: Array) -> Voltages:
            return dict(zip(names, np.split(flat, np.cumsum(sizes)[:-1]), strict=True))

        def outputs(flat: Array) -> Voltages:
            return {n: self.output(n, v) for n, v in split(flat).items()}

        def slope(_: float, flat: Array) -> Array:
            a, v = self.currents(outputs(flat)), split(flat)
            return np.concatenate([a[n] - self.conductance.get(n, 1.0) * v[n] for n in names])

        if not self.conductance:
            found = solve_ivp(slope, (0, duration), u, rtol=1e-9, atol=1e-12, method="LSODA").y[:, -1]
            return outputs(found)
        steps = int(np.ceil(duration / 1e-3))  # diodes hold the nodes: projected midpoint steps
        for _ in range(steps):
            h = duration / steps
            u = u + h * slope(0, np.concatenate([*outputs(u + h / 2 * slope(0, u)).values()]))
            u = np.concatenate([*outputs(u).values()])
        return split(u)
