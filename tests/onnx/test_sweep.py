"""A traced sweep against the executor's differentiable one, in float64: from any states, at another batch size, winners
held or not.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import ZOO
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.ir import EnergyBlock
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.onnx.relaxation_loop import Sweeps, trace_sweeps
from ffebm_compiler.onnx.shapes import shapes_of
from ffebm_compiler.onnx.sweep import Sweep, readable
from ffebm_compiler.onnx.trace import Marks
from ffebm_compiler.solve import BoundBlock
from ffebm_compiler.solve.relaxation import differentiable_sweep
from ffebm_compiler.train import attribute, run_digital


def pooled() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(1, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool3d((2, 3, 2)), nn.Conv3d(2, 2, 1), nn.Softplus(),
        nn.AdaptiveMaxPool3d((1, 2, 1)), nn.Conv3d(2, 3, 1), nn.Tanh(),
    )  # fmt: skip


def subject(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    if name == "pooled":
        return pooled(), (torch.randn(2, 1, 4, 5, 3),)
    return next(e for e in ZOO if e.name == name).build()


def on(model: fc.FFEBM, args: tuple[Any, ...]) -> dict[str, Any]:
    """Every value of the program on an input, blocks without their feedback."""
    values = dict(model.bind_inputs(args, {}))
    for step in model.program:
        computed = runner_of(model).bound(step, values).feedforward() if isinstance(step, EnergyBlock) else None
        values.update(run_digital(step, model.network, values) if computed is None else computed)
    return values


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg", "residual", "potentials", "views", "mlp_gelu", "tied", "pooled"])
def test_it_is_the_executors_sweep(name: str) -> None:
    net, args = subject(name)
    model = fc.convert(net.double().eval(), block_size=3)
    args = torch.utils._pytree.tree_map_only(Tensor, Tensor.double, args)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        values = on(model, args)
        shapes = shapes_of(model.program, model.network, values)
        more = on(model, tuple(torch.cat([a, a.roll(1, -1), a]) for a in args))
    space, found = next(shapes.spaces())
    for block in (b for b in model.program.energy_blocks if b.has_feedback):
        gains = {s.name: float(torch.rand((), generator=generator) + 0.5) for s in block.states}
        weights = {p: space.tensor(attribute(model.network, p)) for p in block.weights}
        fake = BoundBlock(block, {n: space.make(found[n]) for n in block.inputs}, weights, gains)
        sweeps = trace_sweeps(fake, space, Marks())
        assert space.is_general
        assert isinstance(sweeps, Sweeps)
        bound = runner_of(model).bound(block, more).detached().with_layer_weights(gains)
        start = bound.feedforward()
        states = {n: s + 0.3 * torch.randn(s.shape, generator=generator, dtype=s.dtype) for n, s in start.items()}
        check(sweeps.free, bound, states)
        if block.is_routed:
            held = bound.holding(bound.winners({n: s.roll(1, 0) for n, s in states.items()}))
            assert sweeps.held is not None
            check(sweeps.held, held, states)


def check(sweep: Sweep, bound: BoundBlock, states: dict[str, Tensor]) -> None:
    read = readable(bound)
    given = [torch.as_tensor(v) if isinstance(v, float) else v for v in (read[r] for r in sweep.reads)]
    with torch.no_grad():
        found = sweep.module(*states.values(), *given, *sweep.constants)
    expected = differentiable_sweep(bound, states)
    for new, (name, old) in zip(found, expected.items(), strict=True):
        assert torch.allclose(new, old.detach(), rtol=1e-12, atol=1e-12), name
        assert not torch.equal(new, states[name])
