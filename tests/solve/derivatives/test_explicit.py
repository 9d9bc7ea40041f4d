"""Derivatives by those of the operations: the same as automatic differentiation, at every shape and type, and without
any of it.
"""

from __future__ import annotations

import copy
import gc
import pickle
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from explicit_blocks import BY_NAME, calls, distance, errors, wanted
from models import with_statistics
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ffebm_compiler as fc
from ffebm_compiler.ir import Energy, Operation
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.rules import RULES, Reading, Role, Rule
from ffebm_compiler.rules.rule import Call
from ffebm_compiler.solve import (
    AUTOMATIC,
    BoundBlock,
    Explicit,
    Tolerance,
    bounded_gains,
    displace,
    followed_gains,
    relax,
)
from ffebm_compiler.solve.derivatives import plan as explicit_plan
from ffebm_compiler.solve.derivatives.plan import plan_of
from ffebm_compiler.solve.iteration import Relaxation
from ffebm_compiler.train import BlockCall

EXACT = 1e-12
SMALL = [e.name for e in BY_NAME.values() if e.installed and not e.heavy and e.requires == "torch"]
MIXED = ["mlp_gelu", "vgg", "potentials", "unet", "grouped", "branching", "shuffled", "buffers"]
"""Smooth activations, pooling, every potential, resized and concatenated states, norms, branches."""


def held(call: BlockCall) -> tuple[BoundBlock, dict[str, Tensor]]:
    """The block at its free equilibrium, its winners held where they went back and forth."""
    found = relax(call.bound, call.tolerance)
    return call.bound.holding(found.winners), found.states


def forbid_differentiation(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **options: object) -> None:
        raise AssertionError("automatic differentiation was called")

    for owner, name in ((torch.autograd, "grad"), (torch.autograd, "backward"), (torch.Tensor, "backward")):
        monkeypatch.setattr(owner, name, refused)
    monkeypatch.setattr(torch.autograd.graph, "_engine_run_backward", refused)


# --- against automatic differentiation -----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_the_zoo_relaxes_to_the_same_states_in_as_many_sweeps(name: str) -> None:
    maps = Explicit()
    for call in calls(name):
        expected, found = (relax(call.bound, call.tolerance, differentiation=how) for how in (AUTOMATIC, maps))
        assert found.relaxation == replace(expected.relaxation, residual=found.relaxation.residual)
        assert found.relaxation.residual == pytest.approx(expected.relaxation.residual, rel=1e-2, abs=1e-15)
        assert all(distance(found.states[n], s) <= EXACT for n, s in expected.states.items())
        assert not any(s.requires_grad for s in found.states.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXED)
def test_a_linearised_block_is_the_same(name: str) -> None:
    maps, compared = Explicit(), set[str]()
    for call in calls(name, size=6):
        bound, states = held(call)
        expected, found = (how.linearise(bound, states, wanted(call)) for how in (AUTOMATIC, maps))
        generator = torch.Generator().manual_seed(0)
        d = {n: torch.randn(s.shape, generator=generator, dtype=s.dtype) for n, s in states.items()}
        for state in bound.block.states:
            pairs = [(found.differences[state.name](d[state.name]), expected.differences[state.name](d[state.name]))]
            pairs += _pairs(found.pull(state, d[state.name]), expected.pull(state, d[state.name]))
            for displaced in (d, {state.drive.sources[0]: d[state.drive.sources[0]]} if state.drive.sources else {}):
                (ahead, bent), (ahead_expected, bent_expected) = (e.push(state, displaced) for e in (found, expected))
                assert (ahead is None) == (ahead_expected is None)
                pairs += [] if ahead is None else [(ahead, ahead_expected)]
                pairs += _pairs(bent, bent_expected)
                compared |= {"curvature"} if bent else set()
            assert all(distance(a, b) <= EXACT for a, b in pairs)
    assert ("curvature" in compared) is (name == "mlp_gelu")


def _pairs(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    assert list(found) == list(expected)
    return [(found[n], e) for n, e in expected.items()]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "strength"), [*((n, 0.3) for n in MIXED), ("vgg", 1e-9), ("branching", 1e-9)])
def test_displacements_and_contrasts_are_the_same(name: str, strength: float) -> None:
    """At the large nudge activations cross their kinks, and the mean of the displacements matters."""
    maps = Explicit()
    for call in calls(name):
        bound, states = held(call)
        delta = errors(call, states)
        results = []
        for how in (AUTOMATIC, maps):
            linear = how.linearise(bound, states, wanted(call))
            d, record = displace(linear, delta, strength, call.tolerance)
            difference = {n: v / strength for n, v in d.items()}
            results.append((d, record.sweeps, linear.contrast(difference, {n: v / 2 for n, v in d.items()})))
        (d, sweeps, gradients), (found, found_sweeps, found_gradients) = results
        assert found_sweeps == sweeps
        assert all(distance(a, b) <= EXACT for a, b in _pairs(found, d))
        largest = max(float(g.abs().amax()) for g in gradients.values())
        assert all(
            float((a - b).abs().amax()) <= EXACT * float(b.abs().amax()) + 1e-15 * largest
            for a, b in _pairs(found_gradients, gradients)
        )


@pytest.mark.parametrize("name", ["mlp_silu", "vgg", "grouped", "branching"])
def test_gains_are_the_same_and_follow_the_weights(name: str) -> None:
    maps = Explicit()
    for call in calls(name):
        expected, found = (bounded_gains(call.bound, 0.1, differentiation=how) for how in (AUTOMATIC, maps))
        assert found.norms == pytest.approx(expected.norms, rel=EXACT)
        moved = replace(call.bound, weights={k: 2 * v for k, v in call.bound.weights.items()})
        expected, found = (followed_gains(moved, 0.1, found, differentiation=how) for how in (AUTOMATIC, maps))
        assert found.layer_weights == pytest.approx(expected.layer_weights, rel=EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["mlp_gelu", "vgg"])
def test_coarse_types_agree_to_their_rounding(name: str, dtype: torch.dtype) -> None:
    maps, rounding = Explicit(), torch.finfo(dtype).eps
    for call in calls(name, dtype=dtype):
        expected, found = (relax(call.bound, call.tolerance, differentiation=how) for how in (AUTOMATIC, maps))
        assert all(s.dtype == dtype for s in found.states.values())
        assert all(distance(found.states[n], s) <= 16 * rounding for n, s in expected.states.items())
        delta = errors(call, expected.states)
        gradients = []
        for how in (AUTOMATIC, maps):
            linear = how.linearise(call.bound.holding(expected.winners), expected.states, wanted(call))
            d, _ = displace(linear, delta, 0.1, call.tolerance)
            gradients.append(linear.contrast({n: v / 0.1 for n, v in d.items()}, {}))
        assert all(a.dtype == dtype and distance(a, b) <= 64 * rounding for a, b in _pairs(gradients[1], gradients[0]))


def test_mixed_precision_has_code_of_its_own() -> None:
    maps = Explicit()
    call = calls("mlp", dtype=torch.float32)[0]
    plain = relax(call.bound, call.tolerance, differentiation=maps).states
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, found = (relax(call.bound, call.tolerance, differentiation=how) for how in (AUTOMATIC, maps))
    again = relax(call.bound, call.tolerance, differentiation=maps).states
    for n, s in expected.states.items():
        assert found.states[n].dtype == s.dtype
        assert distance(found.states[n].float(), s.float()) <= 2**-7
        assert torch.equal(plain[n], again[n])
        assert not torch.equal(plain[n], found.states[n].float())


# --- against the energy itself ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp_gelu", "conv1d", "branching", "autoencoder"])
def test_pull_and_push_are_finite_differences_of_the_drives(name: str) -> None:
    maps, step = Explicit(), 1e-6
    for call in calls(name):
        bound, states = held(call)
        linear = maps.linearise(bound, states)
        generator = torch.Generator().manual_seed(1)
        d = {n: torch.randn(s.shape, generator=generator, dtype=s.dtype) for n, s in states.items()}
        for state in (s for s in bound.block.states if s.drive.sources):
            ends = [bound.drive(state, {n: s + sign * step * d[n] for n, s in states.items()}) for sign in (1, -1)]
            slope = ((ends[0] - ends[1]) / (2 * step)).detach()
            ahead, _ = linear.push(state, d)
            assert ahead is not None
            assert distance(ahead, slope) <= 1e-7
            back = linear.pull(state, d[state.name])
            along = sum(float((back[n] * d[n]).sum()) for n in state.drive.sources)
            assert along == pytest.approx(float((d[state.name] * slope).sum()), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", ["mlp", "conv1d", "branching"])
def test_the_contrast_is_the_difference_of_two_energies_slopes(name: str) -> None:
    """[dE/du(s* + d1) - dE/du(s* + d2)] / 2, each slope by finite differences of the energy along a random
    direction.
    """
    maps, step = Explicit(), 1e-4  # E is linear in each of its weights and inputs
    generator = torch.Generator().manual_seed(2)
    for call in (c for c in calls(name) if c.block.has_feedback):
        bound, states = held(call)
        first, second = (
            {n: s + 0.3 * torch.randn(s.shape, generator=generator, dtype=s.dtype) for n, s in states.items()}
            for _ in range(2)
        )
        linear = maps.linearise(bound, states, wanted(call))
        difference = {n: (first[n] - second[n]) / 2 for n in states}
        mean = {n: (first[n] + second[n]) / 2 - states[n] for n in states}
        found = linear.contrast(difference, mean)
        for n in wanted(call):
            value = bound.inputs[n] if n in bound.inputs else bound.weights[n]
            along = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            slopes = [
                (_energy(bound, n, value + step * along, s) - _energy(bound, n, value - step * along, s)) / (2 * step)
                for s in (first, second)
            ]
            assert float((found[n] * along).sum()) == pytest.approx((slopes[0] - slopes[1]) / 2, rel=1e-6, abs=1e-7)


def _energy(bound: BoundBlock, name: str, value: Tensor, states: dict[str, Tensor]) -> float:
    inputs = {**bound.inputs, name: value} if name in bound.inputs else bound.inputs
    weights = {**bound.weights, name: value} if name in bound.weights else bound.weights
    with torch.no_grad():
        return float(Energy(bound.block, {}).interaction(states, inputs, weights, bound.layer_weights))


# --- what runs ------------------------------------------------------------------------------------------


class Run(TorchDispatchMode):
    """Counts the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def ran(function: Callable[[], object]) -> Counter[str]:
    with Run() as run:
        function()
    return run.counts


def chained() -> BoundBlock:
    """One coupling of two convolutions, a held norm and an average, between two states."""
    body = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AvgPool2d(2), nn.Conv2d(4, 2, 1))
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Tanh(), *body, nn.Tanh()).double().eval()
    model = fc.convert(with_statistics(net), 3, norm="held")
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    _, (found,) = model.equilibrium(x)
    weights = {n: v.detach() for n, v in (*net.named_parameters(), *net.named_buffers())}
    block = model.blocks[0].block
    return BoundBlock(block, found.inputs, weights, {s.name: 1.0 for s in block.states})


def test_each_phase_runs_what_it_must_and_no_more() -> None:
    bound, maps = chained(), Explicit()
    states = bound.feedforward()
    first, last = bound.block.states
    interaction = maps.interaction(bound)
    for state in (first, last):
        interaction.drive(state, states)  # the plan at these shapes
    interaction = maps.interaction(bound)
    assert ran(lambda: interaction.drive(first, states))["convolution"] == 1
    assert not ran(lambda: interaction.drive(first, states))["convolution"], (
        "what reads no state runs once a relaxation"
    )
    drive = interaction.drive(last, states)
    assert ran(lambda: interaction.drive(last, states))["convolution"] == 2
    back = ran(lambda: interaction.pull(last, drive, states[last.name]))
    assert back["convolution_backward"] == 2
    assert not back["convolution"], "a transpose does not run the map itself"
    linear = maps.linearise(bound, states)
    linear.pull(last, states[last.name])
    push = ran(lambda: linear.push(last, states))
    assert push["convolution"] == 2
    assert not any("backward" in o for o in push), "J d is the map itself, without its constants"


def test_a_grouped_convolution_takes_as_many_operations_as_a_plain_one() -> None:
    """At the first use too: nothing is worked out group by group."""
    counts = []
    for groups in (1, 8, 64):
        layers = [m for _ in range(2) for m in (nn.Conv2d(64, 64, 3, padding=1, groups=groups), nn.ReLU6())]
        model = fc.convert(nn.Sequential(*layers), block_size=2)
        runner_of(model).block_gains.store.steps = 2  # as many for all: how many a norm needs depends on the weights
        x = torch.randn(2, 64, 5, 5)
        counts.append(ran(lambda m=model, x=x: m(x).sum().backward()).total())
    assert max(counts) == counts[0]


@pytest.mark.parametrize("name", ["vgg", "mlp_gelu", "branching", "views"])
def test_the_librarys_own_operations_are_not_differentiated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Free phase, nudged phases, contrast, energy gradients and gains; winners that follow, and winners that
    are held.
    """
    found = calls(name)
    forbid_differentiation(monkeypatch)
    with pytest.raises(AssertionError, match="was called"):
        relax(next(c.bound for c in found if c.block.has_feedback), Tolerance())
    maps = Explicit()
    for call in found:
        free = relax(call.bound, call.tolerance, differentiation=maps)
        assert free.relaxation.converged
        always = call.bound.holding(call.bound.winners(free.states))
        for bound in (call.bound, always):
            assert relax(bound, call.tolerance, differentiation=maps).relaxation.converged
            maps.interaction_gradients(bound, free.states, wanted(call))
            for strength, mean in ((1e-9, False), (0.1, True)):
                linear = maps.linearise(bound, free.states, wanted(call))
                d, record = displace(linear, errors(call, free.states), strength, call.tolerance)
                assert record.converged
                gradients = linear.contrast({n: v / strength for n, v in d.items()}, d if mean else {})
                assert any(float(g.abs().amax()) > 0 for g in gradients.values())
        if call.block.has_feedback:
            gains = bounded_gains(call.bound, 0.01, differentiation=maps)
            followed_gains(call.bound, 0.01, gains, differentiation=maps)


@pytest.mark.parametrize("name", ["views", "vgg"])
def test_batches_of_two_sizes_take_turns(name: str) -> None:
    maps = Explicit()
    for call in calls(name):
        batch = next(v.shape[0] for v in call.inputs.values() if isinstance(v, Tensor))
        cut = {n: v[:1] if isinstance(v, Tensor) else 1 if v == batch else v for n, v in call.inputs.items()}
        smaller = replace(call.bound, inputs=cut)
        for bound in (call.bound, smaller, call.bound):
            expected, found = (relax(bound, call.tolerance, differentiation=how) for how in (AUTOMATIC, maps))
            assert found.relaxation.sweeps == expected.relaxation.sweeps
            assert all(distance(found.states[n], s) <= EXACT for n, s in expected.states.items())


def test_memory_may_lie_in_another_order() -> None:
    """Contiguous tensors come first, then channels-last and transposed ones."""
    maps = Explicit()
    for call in calls("views"):
        relax(call.bound, call.tolerance, differentiation=maps)
        turned = {
            n: v.contiguous(memory_format=torch.channels_last)
            if isinstance(v, Tensor) and v.dim() == 4
            else v.t().contiguous().t()
            if isinstance(v, Tensor) and v.dim() == 2
            else v
            for n, v in call.inputs.items()
        }
        moved = replace(call.bound, inputs=turned)
        expected, found = (relax(moved, call.tolerance, differentiation=how) for how in (AUTOMATIC, maps))
        assert all(distance(found.states[n], s) <= EXACT for n, s in expected.states.items())


def test_sizes_among_the_inputs_are_looked_at() -> None:
    """The same shapes with another size are not taken for the first."""
    found = next(c for c in calls("views") if any(type(v) is int for v in c.inputs.values()))
    maps = Explicit()
    relax(found.bound, found.tolerance, differentiation=maps)
    name = next(n for n, v in found.inputs.items() if type(v) is int)
    wrong = replace(found.bound, inputs={**found.inputs, name: found.inputs[name] + 1})
    with pytest.raises(fc.InputError):
        relax(wrong, found.tolerance, differentiation=maps)


@pytest.mark.slow
def test_the_plans_of_a_coupling_are_bounded_and_go_with_it() -> None:
    (call, *_) = calls("mlp")
    coupling = replace(call.block.states[-1].drive)
    place = id(coupling)
    weights = {p: call.weights[p] for p in coupling.weights}
    (name,) = (*coupling.sources, *coupling.inputs)
    width = next(iter(weights.values())).shape[1]
    for batch in range(1, explicit_plan.KNOWN_SHAPES + 5):
        plan_of(coupling, {name: torch.zeros(batch, width, dtype=torch.float64)}, weights)
    assert len(explicit_plan._PLANS[place][1]) == explicit_plan.KNOWN_SHAPES
    del coupling
    gc.collect()
    assert place not in explicit_plan._PLANS


def test_it_can_be_copied_and_pickled() -> None:
    maps = Explicit()
    (call, *_) = calls("mlp")
    relax(call.bound, call.tolerance, differentiation=maps)
    assert copy.deepcopy(maps) == pickle.loads(pickle.dumps(maps)) == maps


@pytest.mark.parametrize("inference", [False, True])
def test_an_operation_without_a_derivative_in_the_table_is_differentiated(inference: bool) -> None:
    """In inference mode as well, where nothing else is."""
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), Wave(), nn.Linear(5, 3), nn.Tanh()).double()
    model = fc.convert(net, block_size=2, rules=[WAVE_RULE], loop_gain=0.05).eval()
    x = torch.randn(6, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
    assert model.relaxation[0].sweeps > 1
    with torch.inference_mode(inference):
        assert torch.equal(model(x), expected)
    with model.using(estimator=fc.Implicit(), tolerance=1e-13):
        exact = torch.autograd.grad(model(x).square().sum(), [*model.parameters()])
    with model.using(tolerance=1e-13):
        found = torch.autograd.grad(model(x).square().sum(), [*model.parameters()])
    assert all(distance(a, b) <= 1e-9 for a, b in zip(found, exact, strict=True))


@torch.fx.wrap
def wave(a: Tensor, scale: Tensor) -> Tensor:
    return torch.sin(a * scale) + 0.5 * a


class Wave(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.5, 1.0, 1.5, 2.0, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        return wave(x, self.scale)


def read_wave(call: Call) -> Reading:
    operands = (call.as_operand(call.value()), call.as_operand(call.value("scale")))
    return Reading(operands, Operation("wave", wave, linear=False))


WAVE_RULE = Rule("wave", Role.SMOOTH, read_wave, "", functions=(wave,), signature=("input", "scale"))


def test_a_block_without_feedback_takes_one_pass() -> None:
    (call, *_) = calls("mlp", size=1)
    found = relax(call.bound, call.tolerance, differentiation=Explicit())
    assert found.relaxation == Relaxation(call.block.name, 1, 0.0, True)


# --- every operation ---------------------------------------------------------------------------------------

COUPLINGS = [
    pytest.param(*example, id=f"{rule.name}-{i}")
    for rule in RULES
    if rule.role is not Role.POTENTIAL
    for i, example in enumerate(rule.examples)
]


def between_states(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> BoundBlock:
    """A block in which one state reads another through the layer."""
    net = nn.Sequential(nn.Linear(shape[-1], shape[-1]), nn.Tanh(), make(), nn.Sigmoid()).double().eval()
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer.add_(torch.rand_like(buffer))
    model = fc.convert(net, 4, norm="held")
    _, (found,) = model.equilibrium(torch.randn(shape, dtype=torch.float64))
    weights = {n: v.detach() for n, v in (*net.named_parameters(), *net.named_buffers())}
    block = model.blocks[0].block
    return BoundBlock(block, found.inputs, weights, {s.name: 1.0 + i for i, s in enumerate(block.states)})


@pytest.mark.slow
@pytest.mark.parametrize(("make", "shape"), COUPLINGS)
def test_every_operation_has_its_derivatives_as_code(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    bound, maps = between_states(make, shape), Explicit()
    first, last = bound.block.states
    states = bound.feedforward()
    names = [
        *(n for n, v in bound.inputs.items() if v.is_floating_point()),
        *(n for n in bound.block.weights if "running" not in n),
    ]
    expected, found = (how.linearise(bound, states, names) for how in (AUTOMATIC, maps))
    d = {n: torch.randn_like(s) for n, s in states.items()}
    (ahead, bent), (ahead_expected, bent_expected) = (e.push(last, d) for e in (found, expected))
    assert last.drive.sources == (first.name,)
    assert ahead is not None
    pairs = [(ahead, ahead_expected), *_pairs(bent, bent_expected)]
    pairs += _pairs(found.pull(last, d[last.name]), expected.pull(last, d[last.name]))
    pairs += _pairs(*(e.contrast(d, states) for e in (found, expected)))
    assert all(distance(a, b) <= EXACT for a, b in pairs)
    settled = [relax(bound, Tolerance(1e-3, 5), differentiation=how).states for how in (maps, AUTOMATIC)]
    assert all(distance(a, b) <= EXACT for a, b in _pairs(*settled))


def test_several_threads_may_run_models_first() -> None:
    torch.manual_seed(0)
    nets = [
        nn.Sequential(nn.Linear(8, n), nn.Tanh(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 3)) for n in (5, 6, 7, 9)
    ]
    models = [fc.convert(net, block_size=2).eval() for net in nets]
    x = torch.randn(4, 8)
    with ThreadPoolExecutor(8) as pool, torch.no_grad():
        found = list(pool.map(lambda m: m(x), models * 4))
    assert all(torch.equal(a, m(x)) for a, m in zip(found, models * 4, strict=True))


class Optional(nn.Module):
    """Adds a number where no second input is given."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor, y: Tensor | float = 0.5) -> Tensor:
        return torch.relu(self.a(self.b(torch.relu(self.a(x))) + y))


def test_a_number_in_the_place_of_an_input() -> None:
    torch.manual_seed(0)
    model, x = fc.convert(Optional().double(), 3), torch.randn(4, 3, dtype=torch.float64)
    found = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    with model.using(estimator=fc.Implicit()):
        exact = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    for a, b in zip(found, exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8)
