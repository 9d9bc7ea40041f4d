"""Random circuits, and a solver of their equations that shares nothing with the netlists: numpy, scipy, float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ffebm_compiler.chip.hardware.circuit import Bank, Circuit, Edge
from ffebm_compiler.ir import Potential

INFINITY = float("inf")


@dataclass(frozen=True)
class Draw:
    """A random circuit: inputs -> banks in a chain, skips from each bank to all later ones where asked for."""

    potentials: Sequence[Potential]
    sizes: Sequence[int]
    seed: int
    physics: str = "hopfield"
    nudge: float = 0.0
    mismatch: float = 0.0
    limit: float = INFINITY
    skip: bool = False
    bidirectional: bool = True
    strength: float = 0.6
    inputs: int = 5

    def circuit(self) -> Circuit:
        g = torch.Generator().manual_seed(self.seed)
        names = ["x", *(f"s{k}" for k in range(len(self.sizes)))]
        counts = [self.inputs, *self.sizes]
        joined = [
            (a, b) for b in range(1, len(names)) for a in range(b) if b == a + 1 or (self.skip and a > 0 and b > a + 1)
        ]
        edges = [self._edge(names[a], names[b], counts[a], counts[b], f"features.{3 * b + a}", g) for a, b in joined]
        banks = [
            self._bank(name, k, potential, size, g)
            for k, (name, potential, size) in enumerate(zip(names[1:], self.potentials, self.sizes))
        ]
        x = torch.randn(self.inputs, generator=g, dtype=torch.float64)
        return Circuit("block1", self.physics, tuple(banks), tuple(edges), {"x": x}, {"x": "images"})

    def _edge(self, source: str, target: str, n: int, m: int, label: str, g: torch.Generator) -> Edge:
        w = self.strength * torch.randn(m, n, generator=g, dtype=torch.float64) / n**0.5
        floor = 0.02 * torch.rand(m, n, generator=g, dtype=torch.float64)
        positive, negative = w.clamp(min=0) + floor, (-w).clamp(min=0) + floor
        noise = torch.rand(2, m, n, generator=g, dtype=torch.float64)
        back = (
            (positive, negative)
            if self.bidirectional
            else (positive * (0.9 + 0.2 * noise[0]), negative * (0.9 + 0.2 * noise[1]))
        )
        r = (0.5 + 0.5 * torch.rand(n, generator=g, dtype=torch.float64)) if source != "x" else None
        hopfield = self.physics == "hopfield"
        return Edge(
            source,
            target,
            label,
            positive,
            negative,
            *back,
            reverse=r if hopfield else None,
            gain=1.0 if hopfield else 1.7,
            back=None if hopfield or r is None else 1.7 * r,
        )

    def _bank(self, name: str, k: int, potential: Potential, n: int, g: torch.Generator) -> Bank:
        def randn() -> Tensor:
            return torch.randn(n, generator=g, dtype=torch.float64)

        offset, gain = self.mismatch * randn(), 1 + self.mismatch * randn()
        resistive = self.physics == "resistive"
        leak = 0.3 + torch.rand(n, generator=g, dtype=torch.float64) if resistive else None
        return Bank(
            name,
            f"features.{3 * k + 1}",
            (n,),
            potential,
            1.0,
            torch.zeros(n, dtype=torch.float64) if resistive else offset,
            torch.ones(n, dtype=torch.float64) if resistive else gain,
            self.limit,
            0.5 * randn(),
            self.nudge * randn(),
            leak,
        )


# --- the independent solver -------------------------------------------------------------------------------


class Oracle:
    """The differential equations of circuit.py as they stand there, and their equilibria by long damped iteration.

    Both physics are ``C dv/dt = W s + b`` (less ``v`` in Hopfield's), so the edges are walked once for each unit
    vector.
    """

    def __init__(self, circuit: Circuit):
        self.circuit = circuit
        ends = np.cumsum([b.drive.numel() for b in circuit.banks])
        self.slices = {b.name: slice(e - b.drive.numel(), e) for b, e in zip(circuit.banks, ends)}
        self.size = int(ends[-1])
        currents = self._hopfield if circuit.physics == "hopfield" else self._resistive
        self.b = currents(np.zeros(self.size))
        self.W = np.stack([currents(unit) - self.b for unit in np.eye(self.size)], axis=1)

    def split(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        return {n: flat[..., where] for n, where in self.slices.items()}

    def outputs(self, u: np.ndarray) -> np.ndarray:
        """Hopfield: s of u."""
        s = np.empty_like(u)
        for b in self.circuit.banks:
            where = self.slices[b.name]
            a = b.gain.numpy() * (u[where] + b.offset.numpy())
            s[where] = b.potential.activation(torch.from_numpy(a)).numpy().clip(-b.limit, b.limit)
        return s

    def _hopfield(self, flat: np.ndarray) -> np.ndarray:
        """Currents into the neurons, their leak's excepted."""
        s = self.split(flat)
        values = {**{n: x.numpy() for n, x in self.circuit.inputs.items()}, **s}
        change = {b.name: b.drive.numpy() - b.nudge.numpy() for b in self.circuit.banks}
        for e in self.circuit.edges:
            change[e.target] = change[e.target] + (e.positive - e.negative).numpy() @ values[e.source]
            if e.reverse is not None:
                back = (e.back_positive - e.back_negative).numpy().T @ s[e.target]
                change[e.source] = change[e.source] + e.reverse.numpy() * back
        return np.concatenate([change[b.name] for b in self.circuit.banks])

    def _resistive(self, flat: np.ndarray) -> np.ndarray:
        """Currents into the nodes, resistor by resistor; the diodes' excepted."""
        s = self.split(flat)
        values = {**{n: x.numpy() for n, x in self.circuit.inputs.items()}, **s}
        change = {b.name: -b.leak.numpy() * s[b.name] + b.drive.numpy() - b.nudge.numpy() for b in self.circuit.banks}
        for e in self.circuit.edges:
            P, N, A = e.positive.numpy(), e.negative.numpy(), e.gain
            v, t = values[e.source][None, :], s[e.target][:, None]
            change[e.target] += (P * (A * v - t) + N * (-A * v - t)).sum(1)
            if e.back is not None:
                change[e.source] += e.back.numpy() * (P * (t - A * v) - N * (t + A * v)).sum(0)
        return np.concatenate([change[b.name] for b in self.circuit.banks])

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        lower, upper = np.empty(self.size), np.empty(self.size)
        for b in self.circuit.banks:
            lower[self.slices[b.name]] = max(b.potential.lower, -b.limit)
            upper[self.slices[b.name]] = min(b.potential.upper, b.limit)
        return lower, upper

    def equilibrium(self) -> dict[str, np.ndarray]:
        return self.split(self._relaxed() if self.circuit.physics == "hopfield" else self._held())

    def _relaxed(self) -> np.ndarray:
        u = np.zeros(self.size)
        for _ in range(5000):
            excess = self.W @ self.outputs(u) + self.b - u
            if np.abs(excess).max() < 1e-13:
                return self.outputs(u)
            u = u + 0.8 * excess
        raise AssertionError("the oracle does not converge")

    def _held(self) -> np.ndarray:
        """A node at a bound stays there while the current pushes it outward."""
        lower, upper = self.bounds()
        step = 1 / np.abs(self.W).sum(1).max()
        s = np.zeros(self.size).clip(lower, upper)
        for _ in range(20000):
            before, s = s, (s + step * (self.W @ s + self.b)).clip(lower, upper)
            if np.abs(s - before).max() < 1e-15:
                return s
        raise AssertionError("the oracle does not converge")

    def transient(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """Hopfield, (t, n) a bank: from u = 0; the times are in time constants."""

        def slope(t: float, u: np.ndarray) -> np.ndarray:
            return self.W @ self.outputs(u) + self.b - u

        path = solve_ivp(slope, (0, times[-1]), np.zeros(self.size), t_eval=times, rtol=1e-8, atol=1e-10)
        return self.split(np.stack([self.outputs(u) for u in path.y.T]))


def worst(found: Mapping[str, Tensor], expected: Mapping[str, np.ndarray]) -> float:
    """The largest difference, relative to the largest value of the circuit."""
    scale = max(np.abs(v).max() for v in expected.values())
    return max(float(np.abs(found[n].numpy() - v).max()) for n, v in expected.items()) / scale
