"""Deep resistive networks with random conductances, as they are trained in the literature: for tests and benchmarks.

Conductances can't be negative, so inputs are doubled, ``(x, -x)``, and half of the nodes of each hidden layer are held
at ``s >= 0`` (excitatory), half at ``s <= 0`` (inhibitory); the outputs are linear. Conductances are uniform in
``+-n^(-1/2)``, n the resistors of a node, and those below 0 are left out (but a node's strongest of each half). Between
layers stand bidirectional amplifiers of voltage gain A and current gain 1/A.

Sources: Scellier 2024, ICML, arXiv 2402.11674, and the code published with it (doubling, halves, initial conductances,
no amplifiers but that of the inputs: A = 1); Kendall et al. 2020, arXiv 2006.01981 (amplifiers).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ffebm_compiler.chip.hardware.circuit import Bank, Circuit, Edge
from ffebm_compiler.chip.resistive.network import diodes

HALVES = (("+", diodes(0.0, math.inf)), ("-", diodes(-math.inf, 0.0)))


def deep_network(
    sizes: Sequence[int],
    generator: torch.Generator,
    gain: float = 1.0,
    input_gain: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> Circuit:
    """A random network; its input ``x`` takes ``double(values)``.

    Args:
        sizes: of the input (before doubling), of the hidden layers (even), of the output.
        generator: of the conductances, on the CPU.
        gain: voltage gain A of the amplifiers between layers.
        input_gain: that of the amplifiers of the inputs.
        dtype: of the conductances.
    """
    depth = len(sizes) - 1
    layers = [[("x", 2 * sizes[0])], *([*_layer(l, sizes[l], l == depth)] for l in range(1, depth + 1))]
    gains = [input_gain, *[gain] * (depth - 1)]
    edges = [
        _edge(source, target, A, generator, dtype)
        for (below, above), A in zip(pairwise(layers), gains, strict=True)
        for target in above
        for source in below
    ]
    weight = {l: float(gain) ** (2 * (depth - l)) for l in range(1, depth + 1)}
    banks = [_bank(name, n, weight[l], dtype, last=l == depth) for l in range(1, depth + 1) for name, n in layers[l]]
    x = double(torch.randn(1, sizes[0], generator=generator, dtype=torch.float64)).to(dtype)[0]
    return Circuit("network", "resistive", tuple(banks), tuple(edges), {"x": x})


def double(values: Tensor) -> Tensor:
    """``(x, -x)`` along the last dimension."""
    return torch.cat([values, -values], -1)


def _layer(l: int, n: int, last: bool) -> Iterator[tuple[str, int]]:
    if last:
        yield "out", n
    else:
        for sign, _ in HALVES:
            yield f"h{l}{sign}", n // 2


def _bank(name: str, n: int, weight: float, dtype: torch.dtype, last: bool) -> Bank:
    zero = torch.zeros(n, dtype=dtype)
    potential = diodes(-math.inf, math.inf) if last else dict(HALVES)[name[-1]]
    return Bank(name, name, (n,), potential, weight, zero, zero + 1, math.inf, zero, zero, zero)


def _edge(
    source: tuple[str, int], target: tuple[str, int], gain: float, generator: torch.Generator, dtype: torch.dtype
) -> Edge:
    (below, k), (above, n) = source, target
    resistors = k if below in ("x", "out") else 2 * k
    drawn = 2 * torch.rand(n, k, generator=generator, dtype=dtype) - 1
    strongest = drawn.abs().argmax(1, keepdim=True)  # is always there, so that no node of a small network floats
    g = drawn.clamp(min=0).scatter(1, strongest, drawn.abs().gather(1, strongest)) / math.sqrt(resistors)
    none = g.new_zeros(()).expand(n, k)
    back = None if below == "x" else g.new_full((k,), 1 / gain)
    return Edge(below, above, f"{below}→{above}", g, none, g, none, None, gain, back)
