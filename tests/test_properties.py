"""Random models through the whole compiler: what must hold for every graph."""

from __future__ import annotations

import copy
import os
import warnings
from dataclasses import replace

import pytest
import torch
from energies import verified_in_float64
from graphs import Plan, plans
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Dense
from torch import Tensor, fx, nn

import ffebm_compiler as fc
from ffebm_compiler.ir import DigitalBlock, EnergyBlock
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.passes import canonicalize, legality, partition, trace
from ffebm_compiler.rules import RULES
from ffebm_compiler.solve import BoundBlock
from ffebm_compiler.train import attribute

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("FFEBM_TEST_EXAMPLES", "500"))
"""More than the default searches at random; the default set is always the same."""
SEARCH = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 500,
    database=None,
    suppress_health_check=list(HealthCheck),
)
NORMS = st.sampled_from(["auto", "held", "split"])


def step(model: nn.Module, args: tuple[Tensor, ...]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs, and the gradient of a random linear loss in parameters and inputs."""
    model.zero_grad()
    inputs = [a.clone().requires_grad_() for a in args]
    outputs = model(*inputs)
    generator = torch.Generator().manual_seed(9)
    loss = torch.stack([(o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).sum() for o in outputs]).sum()
    loss.backward()
    named = [*model.named_parameters(), *((f"input {i}", x) for i, x in enumerate(inputs))]
    return [o.detach() for o in outputs], {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named}


def differ(found: dict[str, Tensor], exact: dict[str, Tensor], relative: float, absolute: float) -> list[str]:
    """Names of the gradients that differ; ``absolute`` is relative to the whole gradient."""
    whole = float(torch.stack([g.norm() for g in exact.values()]).norm())
    return [
        n for n, g in exact.items() if not float((found[n] - g).norm()) <= relative * float(g.norm()) + absolute * whole
    ]


@SEARCH
@given(plans(), st.integers(0, 99), st.booleans(), st.data())
def test_block_size_one_is_the_model(plan: Plan, seed: int, training: bool, data: st.DataObject) -> None:
    net, args = plan.build(seed).train(training), plan.sample(seed)
    model = fc.convert(
        net, block_size=1, digital=_digital(net, data), norm=data.draw(st.sampled_from(["auto", "split"]))
    )
    assert not any(b.block.has_feedback for b in model.blocks)
    outputs, gradients = step(model, args)
    expected, exact = step(net, args)
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(outputs, expected, strict=True))
    assert not differ(gradients, exact, 1e-6, 1e-9)
    assert all(torch.allclose(a, b) for a, b in zip(model.buffers(), net.buffers(), strict=True))
    assert list(model.state_dict()) == list(net.state_dict())


@SEARCH
@given(plans(), st.integers(0, 99), st.integers(2, 4), NORMS, st.sampled_from([0.01, 0.05]), st.booleans(), st.data())
def test_the_gradient_is_that_of_the_equilibrium(
    plan: Plan, seed: int, size: int, norm: str, loop_gain: float, training: bool, data: st.DataObject
) -> None:
    net, args = plan.build(seed), plan.sample(seed)
    model = fc.convert(
        net, block_size=size, digital=_digital(net, data), norm=norm, loop_gain=loop_gain, max_sweeps=1000
    ).train(training)
    with warnings.catch_warnings():
        warnings.simplefilter("error", fc.ConvergenceWarning)
        _, gradients = step(copy.deepcopy(model), args)
        with model.using(estimator=fc.Implicit()):
            _, exact = step(copy.deepcopy(model), args)
    assert all(torch.isfinite(g).all() for g in gradients.values())
    assert not differ(gradients, exact, 1e-5, 1e-8)
    for name, g in exact.items():
        if float(g.norm()) > 1e-6:
            assert float(torch.nn.functional.cosine_similarity(gradients[name].flatten(), g.flatten(), 0)) >= 0.99999


@settings(SEARCH, max_examples=EXAMPLES // 6)
@given(plans(), st.integers(0, 99), st.integers(2, 4))
def test_the_implicit_gradient_is_that_of_the_printed_energy(plan: Plan, seed: int, size: int) -> None:
    net, args = plan.build(seed).eval(), tuple(a[:2] for a in plan.sample(seed))
    model = fc.convert(net, block_size=size, norm="held", max_sweeps=1000)
    _, gradients = step(model, args)
    if sum(s.numel() for b in model.equilibrium(*args)[1] for s in b.states.values()) > 150:
        return
    with model.using(estimator=Dense()):
        _, exact = step(model, args)
    assert not differ(gradients, exact, 1e-5, 1e-8)


@settings(SEARCH, max_examples=EXAMPLES // 3)
@given(plans(), st.integers(0, 99), st.integers(1, 4), NORMS, st.data())
def test_every_energy_is_the_one_that_is_relaxed(
    plan: Plan, seed: int, size: int, norm: str, data: st.DataObject
) -> None:
    net, args = plan.build(seed).eval(), plan.sample(seed)
    model = fc.convert(net, block_size=size, norm=norm, digital=_digital(net, data))
    for found, view in zip(model.equilibrium(*args)[1], model.blocks, strict=True):
        weights = {p: attribute(model.network, p) for p in view.block.weights}
        gains = runner_of(model).gains(view.block)
        assert gains is not None
        record = verified_in_float64(
            BoundBlock(view.block, found.inputs, weights, gains.layer_weights), model.program.labels
        )
        assert record.ok
        assert record.converged
        assert str(view.energy).startswith("E(")
        assert view.energy.latex().startswith(r"\begin{aligned}")


@SEARCH
@given(plans(), st.integers(1, 4), NORMS, st.booleans(), st.data())
def test_partitions_are_sound(plan: Plan, size: int, norm: str, training: bool, data: st.DataObject) -> None:
    net = plan.build(0)
    digital = _digital(net, data)
    canonical = canonicalize(trace(net, training), RULES)
    partitioned = partition(legality(canonical, digital, (), norm), size)
    calls = [n for n in canonical.graph.nodes if n.op.startswith("call")]
    placed = [n for _, nodes in partitioned.groups for n in nodes]
    assert sorted(placed, key=str) == sorted(calls, key=str), "each call is in one block"
    computed = {n for n in canonical.graph.nodes if not n.op.startswith("call")}
    for analog, nodes in partitioned.groups:
        inside: set[fx.Node] = set()
        for node in nodes:
            assert set(node.all_input_nodes) <= computed | inside, "reads only what was computed before"
            inside.add(node)
        computed |= inside
        weighted = sum(partitioned.readings[n].weighted for n in nodes if analog)
        assert (1 <= weighted <= size) if analog else all(partitioned.reasons[n] for n in nodes)
        assert all((n in partitioned.roles) == analog for n in nodes)


@settings(SEARCH, max_examples=EXAMPLES // 3)
@given(plans(), st.integers(1, 4), NORMS)
def test_programs_are_consistent(plan: Plan, size: int, norm: str) -> None:
    model = fc.convert(plan.build(0), block_size=size, norm=norm)
    for mode in runner_of(model).compiled.modes.values():
        known = set(mode.program.inputs)
        for step in mode.program:
            assert set(step.inputs) <= known
            known |= set(step.outputs)
            if isinstance(step, EnergyBlock):
                assert step.size <= size
                assert all(
                    source in {s.name for s in step.states[:i]}
                    for i, s in enumerate(step.states)
                    for source in s.drive.sources
                )
            else:
                assert isinstance(step, DigitalBlock)
                assert all(step.reasons.values())
    training, evaluating = runner_of(model).compiled.modes[True].program, runner_of(model).compiled.modes[False].program
    assert [b.states for b in map(_names, training.energy_blocks)] == [
        b.states for b in map(_names, evaluating.energy_blocks)
    ], "both modes have the same blocks"


def _names(block: EnergyBlock) -> EnergyBlock:
    return replace(block, states=tuple(s.name for s in block.states))  # type: ignore[arg-type]


def _digital(net: nn.Module, data: st.DataObject) -> list[str]:
    names = [f"layers.{n}" for n in net.layers]
    return data.draw(st.lists(st.sampled_from(names), max_size=2, unique=True)) if names else []


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_drawn_models_have_what_they_should(size: int) -> None:
    """The strategy does draw blocks with skips, several outputs, pooling, and sizes up to the limit."""
    wanted = {"full", "outputs", "feedback", "skip", "smooth"} if size > 1 else {"full", "outputs"}
    seen: set[str] = set()

    @settings(SEARCH, max_examples=500, derandomize=True)
    @given(plans())
    def look(plan: Plan) -> None:
        if seen >= wanted:
            return
        for view in fc.convert(plan.build(0), block_size=size).blocks:
            block = view.block
            seen.update(
                ["full"] * (block.size == size),
                ["outputs"] * (len(block.outputs) > 1),
                ["feedback"] * block.has_feedback,
            )
            seen.update(["skip"] * any(len(s.drive.sources) > 1 for s in block.states), ["routed"] * block.is_routed)
            seen.update(["smooth"] * any(not s.drive.is_linear for s in block.states))

    look()
    assert seen >= wanted
