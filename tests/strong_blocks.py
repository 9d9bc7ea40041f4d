"""Small blocks with strong feedback, and what they settle to and answer to a nudge, from nothing but their stationarity
equations.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn import functional as F

import ffebm_compiler as fc
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.solve import BoundBlock, States, differentiable_sweep, unit_gains
from ffebm_compiler.train import BlockCall


class Tie(nn.Module):
    """Feedback through a negative weight pushes the winner of a maximum below the next: winners go back and forth, and
    the energy's kink is at the tie."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 1, 1, bias=False), nn.Conv1d(1, 1, 1)
        with torch.no_grad():
            self.first.weight.fill_(1.0)
            self.second.weight.fill_(-1.0)
            self.second.bias.fill_(2.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.max_pool1d(F.relu(self.first(x)), 2)))


class Skips(nn.Module):
    """States that are joined in triangles: no two classes."""

    def __init__(self, activation: Callable[[], nn.Module], width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.activations = nn.ModuleList(activation() for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        before, now = x, self.activations[0](self.layers[0](x))
        for layer, activation in zip(self.layers[1:], self.activations[1:], strict=True):
            before, now = now, activation(layer(now) + (before if before is not x else 0))
        return now


class Pooled(nn.Module):
    """Convolutions around a maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (
            nn.Conv2d(2, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Linear(16, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(self.first(x).clamp(0, 1), 2)
        return self.last(self.second(x).clamp(0, 1).flatten(1))


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "clamp": lambda: nn.Hardtanh(0.0, 1.0),
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(1),
    "leaky": lambda: nn.LeakyReLU(0.1),
}


def chain(activations: list[str], width: int = 6) -> nn.Module:
    layers = [m for a in activations for m in (nn.Linear(width, width), ACTIVATIONS[a]())]
    return nn.Sequential(*layers, nn.Linear(width, 3))


def bound_block(net: nn.Module, x: Tensor, scale: float = 1.0, loop_gain: float | None = None) -> BoundBlock:
    """The one block of a net, in float64, its weights scaled; unit feedback, or gains that bound it without
    saying so.
    """
    net = net.double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(scale)
    model, found = fc.convert(net, block_size=20, loop_gain=loop_gain, max_sweeps=2), list[BlockCall]()
    runner = runner_of(model)
    make = runner.block_call

    def listen(*given: object) -> BlockCall:
        found.append(make(*given))  # type: ignore[arg-type]
        return found[-1]

    runner.block_call = listen  # type: ignore[method-assign, assignment]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        model(x.double())
    (call,) = found
    weights = {k: v.detach() for k, v in call.weights.items()}
    gains = unit_gains(call.block).layer_weights if loop_gain is None else call.layer_weights
    return BoundBlock(call.block, call.inputs, weights, gains)


@st.composite
def blocks(draw: st.DrawFn) -> BoundBlock:
    """Chains and blocks with skips, of one to three samples, weak and strong."""
    seed, scale = draw(st.integers(0, 10**6)), draw(st.sampled_from([0.5, 1.0, 1.3]))
    depth, batch = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if draw(st.booleans()):
            net: nn.Module = chain([draw(st.sampled_from(sorted(ACTIVATIONS))) for _ in range(depth)])
        else:
            scale /= 2
            net = Skips(ACTIVATIONS[draw(st.sampled_from(["clamp", "hardtanh", "tanh", "relu6"]))], 6, depth)
        return bound_block(net, torch.randn(batch, 6), scale)


def swept(bound: BoundBlock, tolerance: float, most: int) -> tuple[States, int]:
    """The equilibrium by plain sweeps through automatic differentiation, and how many bring the estimated error below
    the tolerance.
    """
    states, before, taken = bound.detached().feedforward(), None, 0
    for k in range(1, most + 1):
        new = {n: s.detach() for n, s in differentiable_sweep(bound, states).items()}
        change = max(float((new[n] - s).abs().max() / new[n].abs().max().clamp(min=1e-300)) for n, s in states.items())
        rho, before, states = (change / before if before else 0.0), change, new
        if not taken and k > 1 and (change == 0 or (rho < 1 and change * max(0.05, rho / (1 - rho)) <= tolerance)):
            taken = k
        if change < 1e-15:
            break
    return states, taken or most


def tangent_displacement(bound: BoundBlock, states: Mapping[str, Tensor], nudge: Mapping[str, Tensor]) -> States:
    """``(1 - Sigma B) d = Sigma c``, from dense Jacobians of the stationarity equations."""
    names = [s.name for s in bound.block.states]
    sizes = [states[n].numel() for n in names]

    def split(flat: Tensor) -> States:
        return {n: v.reshape(states[n].shape) for n, v in zip(names, flat.split(sizes), strict=True)}

    def energy_gradient(flat: Tensor) -> Tensor:
        """a_l as the derivative of ``sum_m w_m <s_m, f_m>``, each divided by w_l."""
        own = split(flat)
        phi = torch.stack(
            [bound.layer_weights[s.name] * (own[s.name] * bound.drive(s, own)).sum() for s in bound.block.states]
        ).sum()
        (found,) = torch.autograd.grad(phi, flat, create_graph=True)
        w = torch.cat(
            [torch.full((k,), bound.layer_weights[n], dtype=flat.dtype) for n, k in zip(names, sizes, strict=True)]
        )
        return found / w

    flat = torch.cat([states[n].reshape(-1) for n in names])
    coupling = jacobian(energy_gradient, flat.requires_grad_())
    with torch.enable_grad():
        a = energy_gradient(flat).detach()
    potentials = {s.name: s.potential for s in bound.block.states}
    slopes = jacobian(lambda v: torch.cat([potentials[n].activation(p).reshape(-1) for n, p in split(v).items()]), a)
    c = torch.cat([nudge.get(n, torch.zeros_like(states[n])).reshape(-1) for n in names])
    return split(torch.linalg.solve(torch.eye(len(c), dtype=c.dtype) - slopes @ coupling, slopes @ c))


def distance(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """The largest relative error of a state."""
    return max(
        float((found[n] - v).abs().max() / v.abs().max().clamp(min=1e-300)) for n, v in exact.items() if v.numel()
    )
