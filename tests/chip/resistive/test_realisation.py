"""Blocks of converted models as resistors: the same equilibrium, and every conductance possible."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.chip.resistive.magnitudes import Pair, sums
from ffebm_compiler.chip.resistive.network import Drives
from ffebm_compiler.chip.resistive.realisation import Realisation, realise, totals
from ffebm_compiler.chip.resistive.solver import nodes, solve
from ffebm_compiler.chip.resistive.unrolling import matrices, unroll
from ffebm_compiler.errors import OptionError
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.solve import BoundBlock, Tolerance, relax, unit_gains

TIGHT = Tolerance(1e-15, 5000)
IMAGE, VECTOR = (2, 6, 6), (5,)


class Residual(nn.Module):
    """A skip without weights, one with, and a scaled sum, around convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.out = nn.Linear(3 * 9, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        h = torch.relu(self.b(h) + h)
        h = torch.relu(self.b(h) - 0.5 * self.c(h) + 0.1)
        return self.out(nn.functional.avg_pool2d(h, 2).flatten(1))


class Concatenated(nn.Module):
    """Two branches, joined and pooled with padding that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, 3, stride=2, padding=1), nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.c = nn.ConvTranspose2d(5, 2, 2, stride=2)
        self.out = nn.Linear(2, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([nn.functional.hardtanh(self.a(x)), torch.relu(self.b(x))], 1)
        h = torch.relu(self.c(nn.functional.avg_pool2d(h, 3, 1, 1)))
        return self.out(h.mean((2, 3)))


def perceptron() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 7),
        nn.ReLU(),
        nn.Linear(7, 6),
        nn.Hardtanh(-0.3, 0.5),
        nn.Linear(6, 6),
        nn.ReLU6(),
        nn.Linear(6, 3),
    )


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4), nn.Hardtanh(),
        nn.ZeroPad2d(1), nn.Conv2d(4, 2, 3, stride=2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 3),
    )  # fmt: skip


def digital_maximum() -> nn.Module:
    """A maximum of a block's own inputs is digital: its values are driven."""
    return nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(2, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (perceptron, VECTOR),
    "pooled": (pooled, IMAGE),
    "residual": (Residual, IMAGE),
    "concatenated": (Concatenated, IMAGE),
    "digital maximum": (digital_maximum, IMAGE),
}


@functools.cache
def blocks(name: str, block_size: int, seed: int = 0, scale: float = 1.0, unit: bool = True) -> list[BoundBlock]:
    """The blocks of a net on one sample, at unit feedback or at the gains of the conversion."""
    make, shape = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, x = make().double().eval(), torch.randn(1, *shape, dtype=torch.float64)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    nn.init.normal_(tensor, 0.0, 1.0)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(scale)
    model = fc.convert(net, block_size=block_size, norm="held").eval()
    weights = {k: v.detach() for k, v in (*model.named_parameters(), *model.named_buffers())}
    found = []
    for e in model.equilibrium(x)[1]:
        block = next(v.block for v in model.blocks if v.name == e.block)
        gains = unit_gains(block) if unit else runner_of(model).gains(block)
        found.append(BoundBlock(block, e.inputs, {p: weights[p] for p in block.weights}, gains.layer_weights))
    return found


def all_blocks(scale: float = 1.0, unit: bool = True) -> list[BoundBlock]:
    return [b for name in NETS for size in (1, 2, 6) for b in blocks(name, size, scale=scale, unit=unit)]


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [1, 2, 3, 6])
@pytest.mark.parametrize("name", NETS)
def test_the_circuit_settles_where_the_energy_does(name: str, block_size: int) -> None:
    for bound in blocks(name, block_size, scale=1.5):
        r = realise(bound)
        expected = relax(bound.with_layer_weights(r.layer_weights), TIGHT).states
        found = solve(unroll(bound, r), tolerance=TIGHT)
        for state, s in expected.items():
            torch.testing.assert_close(found.states[state], s.reshape(1, -1), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=15)
@given(
    st.sampled_from(sorted(NETS)), st.sampled_from([2, 3, 6]), st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 4.0])
)
def test_random_weights_settle_there_too(name: str, block_size: int, seed: int, scale: float) -> None:
    for bound in blocks(name, block_size, seed, scale):
        r = realise(bound)
        expected = relax(bound.with_layer_weights(r.layer_weights), TIGHT).states
        found = solve(unroll(bound, r), tolerance=TIGHT).states
        for state, s in expected.items():
            size = max(1.0, float(s.abs().max()))
            torch.testing.assert_close(found[state], s.reshape(1, -1), rtol=1e-10, atol=1e-10 * size)


@pytest.mark.slow
def test_every_conductance_is_possible_and_adds_up_to_one() -> None:
    for bound in all_blocks():
        r = realise(bound)
        circuit = unroll(bound, r)
        for node, bank in zip(nodes(circuit, Drives.for_circuit(circuit)), circuit.banks):
            assert float(bank.leak.min()) >= 0
            torch.testing.assert_close(node.total, torch.ones_like(node.total), rtol=0, atol=1e-12)
        assert all(float(t.min()) >= 0 for e in circuit.edges for t in (e.positive, e.negative))


@pytest.mark.slow
def test_no_layer_weight_is_larger_than_it_must_be() -> None:
    """Where unit feedback was asked for, some node of each fed-back state has no leak left."""
    for bound in all_blocks():
        r = realise(bound)
        for source in {s for s, _ in bound.block.edges}:
            if r.layer_weights[source] > max(r.layer_weights[m] for s, m in bound.block.edges if s == source):
                assert abs(float(r.leak[source].min())) < 1e-12


@pytest.mark.slow
def test_no_reverse_gain_exceeds_what_was_asked_for() -> None:
    for bound in (*all_blocks(), *all_blocks(unit=False)):
        r = realise(bound)
        for source, m in bound.block.edges:
            realised, asked = (w[m] / w[source] for w in (r.layer_weights, bound.layer_weights))
            assert realised <= asked * (1 + 1e-12)


@pytest.mark.slow
def test_what_resistors_realise_has_loop_gains_of_at_most_a_quarter() -> None:
    """The claim of the module, by the singular values of the unrolled couplings."""
    largest = 0.0
    for bound in all_blocks(scale=3.0):
        r, found = realise(bound), matrices(bound)
        for source, m in bound.block.edges:
            norm = float(torch.linalg.matrix_norm(found.positive[source, m] - found.negative[source, m], 2))
            largest = max(largest, r.layer_weights[m] / r.layer_weights[source] * norm**2)
    assert 0.01 < largest <= 0.25


@pytest.mark.parametrize("name", ["perceptron", "pooled", "concatenated"])
def test_sums_are_those_of_the_magnitudes_of_the_unrolled_layers(name: str) -> None:
    """Against the Jacobian of the user's own layers with their weights replaced by magnitudes, between neighbouring
    states.
    """
    (bound,) = blocks(name, 6)
    found = sums(bound)
    absolute = BoundBlock(
        bound.block,
        bound.inputs,
        {k: v.abs() if "running" not in k else v for k, v in bound.weights.items()},
        bound.layer_weights,
    )
    if name == "pooled":  # a held norm with a shift of its own kind of magnitude: without one here
        zero = {k: v * 0 if k.endswith("running_mean") else v for k, v in bound.weights.items()}
        found = sums(BoundBlock(bound.block, bound.inputs, zero, bound.layer_weights))
        absolute = BoundBlock(
            bound.block,
            bound.inputs,
            {k: v if "running" in k else v.abs() for k, v in zero.items()},
            bound.layer_weights,
        )
    states = bound.feedforward()
    for state in bound.block.states:
        ones = {n: torch.ones_like(states[n]) for n in state.drive.sources}
        values = {n: torch.ones_like(v) if isinstance(v, Tensor) else v for n, v in bound.inputs.items()}
        rows = state.drive.evaluate({**values, **ones}, absolute.weights)
        torch.testing.assert_close(found.rows[state.name], rows, rtol=1e-12, atol=1e-12)
        for source in ones:

            def along(s: Tensor, source: str = source) -> Tensor:
                return state.drive.evaluate({**values, **ones, source: s}, absolute.weights)

            J = torch.autograd.functional.jacobian(along, ones[source]).reshape(rows.numel(), -1)
            torch.testing.assert_close(found.columns[source, state.name].flatten(), J.sum(0), rtol=1e-12, atol=1e-12)


def test_by_hand() -> None:
    """Two layers of numbers that can be added up by hand, a skip that meets a weight in one pair."""
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
        net[0].bias.copy_(torch.tensor([-1.0, 0.5]))
        net[2].weight.copy_(torch.tensor([[-3.0, 2.0]]))
        net[2].bias.fill_(1.0)
    model = fc.convert(net, block_size=2)
    x = torch.zeros(1, 2, dtype=torch.float64)
    (e,) = model.equilibrium(x)[1]
    block = model.blocks[0].block
    bound = BoundBlock(block, e.inputs, dict(model.named_parameters()), unit_gains(block).layer_weights)
    r = realise(bound)
    hidden, out = (s.name for s in block.states)
    assert r.amplification == {hidden: 8.0, out: 12.0}  # twice the largest row: 1 + 2 + 1 and 3 + 2 + 1
    torch.testing.assert_close(r.own[hidden], torch.tensor([[4 / 8, 1 / 8]], dtype=torch.float64))
    torch.testing.assert_close(r.bias[hidden], torch.tensor([[1 / 8, 0.5 / 8]], dtype=torch.float64))
    # the load 12 (3, 2) / w must leave (1 - 1/2, 1 - 1/8): w >= 72 by the first node
    assert r.layer_weights == {out: 1.0, hidden: 72.0}
    torch.testing.assert_close(r.load[hidden], torch.tensor([[36 / 72, 24 / 72]], dtype=torch.float64))
    torch.testing.assert_close(r.leak[hidden], torch.tensor([[0.0, 1 - 1 / 8 - 1 / 3]], dtype=torch.float64))
    assert r.current_gain(hidden, out) == 12 / 72


# --- devices that miss their targets ----------------------------------------------------------------------


def imperfect(bound: BoundBlock, g_min: float, seed: int) -> tuple[BoundBlock, dict[str, Pair]]:
    """Weights ``P - N`` and sums ``P + N`` of pairs that both carry at least g_min, and are off by some percent."""
    g = torch.Generator().manual_seed(seed)
    weights, devices = dict(bound.weights), dict[str, Pair]()
    for term in bound.block.layers:
        pair = []
        for operand in term.operands[1:]:
            if operand is None:
                pair.append(None)
                continue
            W = bound.weights[operand.path]
            P, N = (
                (v.clamp(min=0) + g_min) * (1 + 0.1 * torch.rand(W.shape, generator=g, dtype=W.dtype)) for v in (W, -W)
            )
            weights[operand.path] = P - N
            pair.append(P + N)
        devices[term.name] = Pair(*pair)
    return BoundBlock(bound.block, bound.inputs, weights, bound.layer_weights), devices


@pytest.mark.parametrize("name", ["perceptron", "pooled", "concatenated"])
def test_totals_are_what_meets_at_each_node_of_the_circuit(name: str) -> None:
    for bound in blocks(name, 3):
        r = realise(bound)
        actual, devices = imperfect(bound, 0.05, 1)
        circuit = unroll(actual, r, devices)
        found = totals(r, bound, devices)
        for node in nodes(circuit, Drives.for_circuit(circuit)):
            torch.testing.assert_close(found[node.name].flatten(), node.total, rtol=1e-12, atol=1e-12)
            assert float(node.total.max()) > 1.01


def test_totals_of_a_perceptron_by_matrices() -> None:
    """Independently of any unrolling: leak + row sums / A + (w_m / w_l) A column sums, of P + N, with the
    feedback's own errors.
    """
    (bound,) = blocks("perceptron", 6)
    r = realise(bound)
    _, devices = imperfect(bound, 0.05, 1)
    names = [s.name for s in bound.block.states]
    terms = [s.drive.layers[0].name for s in bound.block.states]
    factors = {(names[0], names[1]): 1 + 0.1 * torch.arange(7, dtype=torch.float64)}
    found = totals(r, bound, devices, factors)
    for i, name in enumerate(names):
        pair = devices[terms[i]]
        expected = r.leak[name] + (pair.weight.sum(1) + pair.bias) / r.amplification[name]
        if i + 1 < len(names):
            m = names[i + 1]
            gain = r.amplification[m] * r.layer_weights[m] / r.layer_weights[name]
            expected = expected + gain * factors.get((name, m), 1.0) * devices[terms[i + 1]].weight.sum(0)
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["perceptron", "pooled"])
def test_a_neuron_of_its_own_total_is_the_circuit_with_these_devices(name: str) -> None:
    """``s = clip(a / D)``, with a from the weights ``P - N``: how an emulated chip settles, and where the
    circuit does.
    """
    for bound in blocks(name, 3):
        r = realise(bound)
        actual, devices = imperfect(bound, 0.05, 3)
        found = solve(unroll(actual, r, devices), tolerance=TIGHT).states
        D = totals(r, bound, devices)
        chip = actual.with_layer_weights(r.layer_weights)
        a = chip.stationarity({s.name: found[s.name].reshape(D[s.name].shape) for s in bound.block.states})
        for state in bound.block.states:
            s = (a[state.name] / D[state.name]).clamp(state.potential.lower, state.potential.upper)
            torch.testing.assert_close(s.reshape(1, -1), found[state.name], rtol=1e-10, atol=1e-11)


@pytest.mark.slow
def test_ideal_devices_have_a_total_of_one() -> None:
    for bound in all_blocks():
        for total in totals(realise(bound), bound, {}).values():
            torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_types_are_summed_in_single_precision(dtype: torch.dtype) -> None:
    (bound,) = blocks("perceptron", 6)
    narrow = BoundBlock(
        bound.block,
        {k: v.to(dtype) for k, v in bound.inputs.items()},
        {k: v.to(dtype) for k, v in bound.weights.items()},
        bound.layer_weights,
    )
    wide = BoundBlock(
        bound.block,
        {k: v.double() for k, v in narrow.inputs.items()},
        {k: v.double() for k, v in narrow.weights.items()},
        bound.layer_weights,
    )
    found, expected = realise(narrow), realise(wide)
    for name in found.leak:
        assert found.leak[name].dtype == torch.float32
        torch.testing.assert_close(found.leak[name].double(), expected.leak[name], rtol=1e-5, atol=1e-5)


def test_a_batch_changes_nothing() -> None:
    (bound,) = blocks("residual", 6)
    batch = BoundBlock(
        bound.block,
        {k: v.expand(4, *v.shape[1:]) if isinstance(v, Tensor) else v for k, v in bound.inputs.items()},
        bound.weights,
        bound.layer_weights,
    )
    one, four = realise(bound), realise(batch)
    assert one.layer_weights == four.layer_weights
    assert all(torch.equal(one.leak[n], four.leak[n]) for n in one.leak)


def test_weights_of_zero_need_no_resistors() -> None:
    (bound,) = blocks("perceptron", 6, scale=0.0)
    r: Realisation = realise(bound)
    assert set(r.amplification.values()) == {1.0}
    assert all(float((leak - 1).abs().max()) == 0 for leak in r.leak.values())


# --- what resistors can't make ----------------------------------------------------------------------------


def test_every_layer_that_has_no_resistors_is_named_at_once() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Sigmoid(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.LeakyReLU(),
        nn.Conv2d(2, 2, 1), nn.GELU(), nn.Conv2d(2, 2, 1), nn.Hardsigmoid(), nn.Conv2d(2, 1, 1), nn.ReLU(),
    ).double().eval()  # fmt: skip
    model = fc.convert(net, block_size=9)
    (e,) = model.equilibrium(torch.randn(1, 1, 6, 6, dtype=torch.float64))[1]
    block = model.blocks[0].block
    bound = BoundBlock(block, e.inputs, dict(model.named_parameters()), unit_gains(block).layer_weights)
    with pytest.raises(OptionError) as caught:
        realise(bound)
    named = {p.where.split()[1] for p in caught.value.problems}
    assert named == {"1", "2", "4", "5", "7", "9"}
    assert all("hopfield" in p.remedy and "digital=" in p.remedy for p in caught.value.problems)


def test_what_the_remedy_says_works() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model = fc.convert(net, block_size=3, digital=["3"])
    for e in model.equilibrium(torch.randn(1, 4, dtype=torch.float64))[1]:
        block = next(v.block for v in model.blocks if v.name == e.block)
        weights = {p: dict(model.named_parameters())[p] for p in block.weights}
        assert realise(BoundBlock(block, e.inputs, weights, unit_gains(block).layer_weights)).leak
