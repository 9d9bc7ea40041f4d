"""Random models: chains, residuals, concatenations, branches that merge, pooling, shared layers, several outputs.

A model is drawn as a list of instructions over earlier values and runs them in order, so that torch.fx traces it as it
would a model written by hand, and a failing example prints as the list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

Shape = tuple[int, ...]

POTENTIALS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda a: F.leaky_relu(a, 0.2),
    "hardtanh": F.hardtanh,
    "clamp": lambda a: a.clamp(-0.4, 0.9),
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": lambda a: a.tanh(),
    "softplus": F.softplus,
    "elu": lambda a: F.elu(a, 0.7),
    "celu": F.celu,
    "selu": F.selu,
    "softmax": lambda a: F.softmax(a, 1),
}
SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "silu": F.silu, "mish": F.mish, "sin": torch.sin}
WEIGHTLESS: dict[str, Callable[[Tensor], Tensor]] = {
    "halve": lambda a: 0.5 * a, "shift": lambda a: a + 0.1, "negate": lambda a: -a, "digital": lambda a: torch.atan(a),
}  # fmt: skip
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda a: F.max_pool2d(a, 2),
    "average": lambda a: F.avg_pool2d(a, 2),
    "shrink": lambda a: F.adaptive_avg_pool2d(a, 1),
}


@dataclass(frozen=True)
class Instruction:
    """``values.append(op(values[i] for i in reads))``; ``layer`` names the module of a weighted one."""

    op: str
    reads: tuple[int, ...]
    layer: str = ""


@dataclass(frozen=True)
class Plan:
    """A drawn model."""

    inputs: tuple[Shape, ...]
    layers: tuple[tuple[str, str, Shape, Shape], ...]  # name, kind, shape in, shape out
    instructions: tuple[Instruction, ...]
    outputs: tuple[int, ...]

    def build(self, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = Drawn(self).double()
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    for tensor in (module.weight, module.bias, module.running_mean):
                        nn.init.normal_(tensor, 0.5, 0.5)
                    nn.init.uniform_(module.running_var, 0.5, 2.0)
        return model

    def sample(self, seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(3, *s, generator=generator, dtype=torch.float64) for s in self.inputs)


class Drawn(nn.Module):
    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.layers = nn.ModuleDict({name: _layer(kind, a, b) for name, kind, a, b in plan.layers})

    def forward(self, x: Tensor, y: Tensor | int = 0) -> Any:
        values: list[Any] = [x, y][: len(self.plan.inputs)]
        for i in self.plan.instructions:
            values.append(self._run(i, [values[r] for r in i.reads]))
        return tuple(values[o] for o in self.plan.outputs)

    def _run(self, i: Instruction, read: list[Tensor]) -> Tensor:
        if i.layer:
            return self.layers[i.layer](*read)
        if i.op == "add":
            return read[0] + read[1]
        if i.op == "subtract":
            return torch.sub(read[0], read[1], alpha=0.5)
        if i.op == "cat":
            return torch.cat(read, 1)
        if i.op == "flatten":
            return read[0].view(read[0].size(0), -1)
        if i.op == "mean":
            return read[0].mean((2, 3))
        return {**POTENTIALS, **SMOOTH, **WEIGHTLESS, **POOLS}[i.op](*read)


def _layer(kind: str, a: Shape, b: Shape) -> nn.Module:
    if kind == "norm":
        return nn.BatchNorm1d(a[0]) if len(a) == 1 else nn.BatchNorm2d(a[0])
    return nn.Linear(a[0], b[0]) if len(a) == 1 else nn.Conv2d(a[0], b[0], 3, padding=1)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """A model of up to 14 operations on vectors and small images."""
    shapes: list[Shape] = [
        draw(st.sampled_from([(3,), (4,), (2, 4, 4), (1, 4, 2)])) for _ in range(draw(st.integers(1, 2)))
    ]
    inputs = tuple(shapes)
    layers: list[tuple[str, str, Shape, Shape]] = []
    instructions: list[Instruction] = []

    def put(op: str, reads: tuple[int, ...], shape: Shape, layer: str = "") -> None:
        instructions.append(Instruction(op, reads, layer))
        shapes.append(shape)

    def weighted(i: int) -> None:
        known = [(name, b) for name, kind, a, b in layers if kind == "weight" and a == shapes[i]]
        if known and draw(st.integers(0, 3)) == 0:
            name, out = draw(st.sampled_from(known))
        else:
            width = draw(st.sampled_from([2, 3, shapes[i][0]]))
            name, out = f"w{len(layers)}", (width, *shapes[i][1:])
            layers.append((name, "weight", shapes[i], out))
        put("layer", (i,), out, name)

    def merge(i: int) -> None:
        same = [j for j, s in enumerate(shapes) if s == shapes[i] and j != i]
        alike = [
            j
            for j, s in enumerate(shapes)
            if len(s) == len(shapes[i]) and s[1:] == shapes[i][1:] and s[0] + shapes[i][0] <= 8
        ]
        if same and draw(st.integers(0, 2)):
            put(draw(st.sampled_from(["add", "add", "subtract"])), (i, draw(st.sampled_from(same))), shapes[i])
        elif alike:
            j = draw(st.sampled_from(alike))
            put("cat", (i, j), (shapes[i][0] + shapes[j][0], *shapes[i][1:]))

    def reshape(i: int) -> None:
        c, *sides = shapes[i]
        if not sides:
            return
        choice = draw(st.sampled_from(["flatten", "mean", *(["max", "average"] if min(sides) >= 2 else []), "shrink"]))
        size = {"flatten": (c * sides[0] * sides[1],), "mean": (c,), "shrink": (c, 1, 1)}.get(
            choice, (c, sides[0] // 2, sides[1] // 2)
        )
        put(choice, (i,), size)

    for _ in range(draw(st.integers(2, 14))):
        i = draw(st.one_of(st.just(len(shapes) - 1), st.integers(max(0, len(shapes) - 4), len(shapes) - 1)))
        kind = draw(
            st.sampled_from(
                [
                    "weight",
                    "weight",
                    "weight",
                    "potential",
                    "potential",
                    "potential",
                    "smooth",
                    "plain",
                    "merge",
                    "merge",
                    "reshape",
                    "norm",
                ]
            )
        )
        if kind == "weight":
            weighted(i)
        elif kind == "merge":
            merge(i)
        elif kind == "reshape":
            reshape(i)
        elif kind == "norm":
            name = f"n{len(layers)}"
            layers.append((name, "norm", shapes[i], shapes[i]))
            put("layer", (i,), shapes[i], name)
        else:
            table = {"potential": POTENTIALS, "smooth": SMOOTH, "plain": WEIGHTLESS}[kind]
            put(draw(st.sampled_from(sorted(table))), (i,), shapes[i])
    weighted(len(shapes) - 1)
    outputs = [len(shapes) - 1, *draw(st.lists(st.integers(len(inputs), len(shapes) - 1), max_size=1))]
    return Plan(inputs, tuple(layers), tuple(instructions), tuple(dict.fromkeys(outputs)))
