"""Random resistive circuits, and what they settle to by nodal analysis: nothing here shares code with the solver.

Every resistor is stamped by itself into Kirchhoff's equations ``G s = I``; diodes are found by trying every choice of
conducting ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch

from ffebm_compiler.chip.hardware.circuit import Bank, Circuit, Edge
from ffebm_compiler.chip.resistive.network import diodes
from ffebm_compiler.ir import Potential

Array = np.ndarray
CLIPS = ((-math.inf, math.inf), (0.0, math.inf), (-math.inf, 0.0), (-0.1, 0.15))


def random_circuit(seed: int, sizes: tuple[int, ...] = (2, 2, 2), clips: tuple = CLIPS) -> Circuit:
    """Banks of these sizes with signed pairs, skips, biases, amplifiers of any gain, and layer weights of any size."""
    draw = np.random.default_rng(seed)
    names = [f"b{l}" for l in range(len(sizes))]
    w = {n: float(draw.uniform(0.3, 3.0)) for n in names}
    count = dict(zip(names, sizes)) | {"x": 3}
    edges = [
        _edge(draw, source, names[l], count, w)
        for l in range(len(sizes))
        for source in ("x", *names[:l])
        if source == (names[l - 1] if l else "x") or draw.random() < 0.5
    ]
    banks = tuple(_bank(draw, n, count[n], w[n], diodes(*clips[draw.integers(len(clips))])) for n in names)
    return Circuit("random", "resistive", banks, tuple(edges), {"x": _tensor(draw.normal(size=3))})


def _tensor(a: Array) -> torch.Tensor:
    return torch.tensor(a, dtype=torch.float64)


def _edge(draw: np.random.Generator, source: str, target: str, count: dict[str, int], w: dict[str, float]) -> Edge:
    shape = (count[target], count[source])
    P, N = (_tensor(draw.uniform(0, 1, shape) * (draw.random(shape) < 0.7)) for _ in range(2))
    A = float(draw.uniform(0.5, 3.0))
    back = None if source == "x" else torch.full((count[source],), A * w[target] / w[source], dtype=torch.float64)
    return Edge(source, target, f"{source}{target}", P, N, P, N, None, A, back)


def _bank(draw: np.random.Generator, name: str, n: int, w: float, potential: Potential) -> Bank:
    drive, nudge, leak = (_tensor(a) for a in (draw.normal(size=n), draw.normal(size=n), draw.uniform(0.02, 0.5, n)))
    zero = torch.zeros_like(drive)
    return Bank(name, name, (n,), potential, w, zero, zero + 1, math.inf, drive, nudge, leak)


def order(circuit: Circuit) -> list[tuple[str, int]]:
    """The nodes: (bank, number)."""
    return [(b.name, i) for b in circuit.banks for i in range(len(b.drive))]


def kirchhoff(circuit: Circuit) -> tuple[Array, Array]:
    """(G, I) of ``I - G s``, the current into each node, one resistor after the other."""
    at = {node: i for i, node in enumerate(order(circuit))}
    G, current = np.zeros((len(at), len(at))), np.zeros(len(at))
    for b in circuit.banks:
        for i in range(len(b.drive)):
            G[at[b.name, i], at[b.name, i]] += float(b.leak[i])
            current[at[b.name, i]] += float(b.drive[i] - b.nudge[i])
    for e, i, k, g, sign in _resistors(circuit):
        t, amplified = at[e.target, i], sign * e.gain
        G[t, t] += g  # the current g (+-A v - s) into the node ...
        if e.source in circuit.inputs:
            current[t] += g * amplified * float(circuit.inputs[e.source][k])
            continue
        s, back = at[e.source, k], sign * float(e.back[k])
        G[t, s] -= g * amplified
        G[s, s] += back * g * amplified  # ... is what the amplifier draws from its source, times back
        G[s, t] -= back * g
    return G, current


def _resistors(circuit: Circuit) -> Iterator[tuple[Edge, int, int, float, int]]:
    for e in circuit.edges:
        for i, k in itertools.product(*map(range, e.positive.shape)):
            yield e, i, k, float(e.positive[i, k]), 1
            yield e, i, k, float(e.negative[i, k]), -1


def limits(circuit: Circuit) -> list[tuple[float, float]]:
    return [(b.potential.lower, b.potential.upper) for b in circuit.banks for _ in b.drive]


def equilibria(circuit: Circuit) -> list[Array]:
    """Every solution of Kirchhoff's law with ideal diodes, by trying each choice of the conducting ones."""
    G, current = kirchhoff(circuit)
    bounds = limits(circuit)
    options = [[None, *(v for v in pair if math.isfinite(v))] for pair in bounds]
    return [s for held in itertools.product(*options) if (s := _consistent(G, current, held, bounds)) is not None]


def _consistent(G: Array, current: Array, held: tuple, bounds: list[tuple[float, float]]) -> Array | None:
    free = [i for i, v in enumerate(held) if v is None]
    s = np.array([0.0 if v is None else v for v in held])
    if free:
        s[free] = np.linalg.solve(G[np.ix_(free, free)], (current - G @ s)[free])
    into = current - G @ s
    for i, (low, high) in enumerate(bounds):
        if held[i] is None and not low < s[i] < high:
            return None
        if held[i] is not None and not (into[i] <= 0 if held[i] == low else into[i] >= 0):
            return None
    return s


def flat(circuit: Circuit, states: dict[str, torch.Tensor], sample: int = 0) -> Array:
    return np.concatenate([states[b.name][sample].numpy() for b in circuit.banks])
