"""How far a sweep leaves states from the equilibrium at most, against sweeps from states off by a known amount."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ffebm_compiler as fc
from ffebm_compiler.solve import Contraction, Tolerance, displace, relax
from ffebm_compiler.solve.derivatives.explicit import EXPLICIT
from ffebm_compiler.solve.iteration import Last, bound_of, largest_part, peaks

SIZES = st.lists(st.integers(1, 12), min_size=2, max_size=5)


def swept(contraction: Contraction, off: Mapping[str, float]) -> dict[str, float]:
    """How far each state is off at most after a forward sweep, when those that it begins with are off by so much."""
    found: dict[str, float] = {}
    for n in contraction.states:
        reached = {m: b for (l, m), b in contraction.bounds.items() if l == n}
        found[n] = sum(b * (found[m] if m in found else off[m]) for m, b in reached.items())
    return found


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    sizes=SIZES,
    seed=st.integers(0, 99),
    gain=st.sampled_from([0.01, 0.1, 0.2]),
    off=st.floats(1e-3, 1.0),
    bias=st.floats(0, 30),
)
def test_a_sweep_leaves_no_more_than_its_bound(
    sizes: list[int], seed: int, gain: float, off: float, bias: float
) -> None:
    """Whatever the states of a chain are off by to begin with, however they are coupled: in the Euclidean norm, which
    the certificate is in.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = zip([3, *sizes], sizes, strict=False)
    net = nn.Sequential(*[layer for a, b in pairs for layer in (nn.Linear(a, b), nn.ReLU())]).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
        for layer in net[::2]:
            layer.bias.mul_(bias)
    model = fc.convert(net, block_size=len(sizes), loop_gain=gain, tolerance=1e-14).eval()
    x = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    _, (settled,) = model.equilibrium(x)
    (block,) = model.program.energy_blocks
    bound = model.block_call(block, {block.inputs[0]: x}).bound
    assert bound.contraction is not None
    moves = {n: off * torch.randn(s.shape, generator=generator, dtype=s.dtype) for n, s in settled.states.items()}
    start = {n: torch.relu(s + moves[n]) for n, s in settled.states.items()}
    distances = {n: float((start[n] - s).norm()) for n, s in settled.states.items()}
    after = relax(bound, Tolerance(residual=torch.inf, max_sweeps=1), start, EXPLICIT).states
    moved = {n: float((after[n] - s).norm()) for n, s in start.items()}
    for allowed in (swept(bound.contraction, distances), bound.contraction.left(moved, forward=True)):
        for n, s in settled.states.items():
            assert float((after[n] - s).norm()) <= allowed[n] * (1 + 1e-9) + 1e-11 * (1 + float(s.norm()))


@pytest.mark.parametrize("forward", [True, False])
def test_what_a_sweep_has_passed_is_read_as_it_is_then(forward: bool) -> None:
    """A chain of two, of which one state has moved: the sweep begins with that state, or ends with it."""
    torch.manual_seed(0)
    model = fc.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU()), block_size=2).eval()
    x = torch.randn(2, 3)
    model(x)
    (block,) = model.program.energy_blocks
    bound = model.block_call(block, {block.inputs[0]: x}).bound
    first, last = (s.name for s in (block.states if forward else reversed(block.states)))
    assert bound.contraction is not None
    assert bound.contraction.left({first: 1.0}, forward) == {first: 0.0, last: 0.0}
    found, rate = bound.contraction.left({last: 1.0}, forward), bound.contraction.rate
    assert found[last] == pytest.approx(rate / (1 - rate))
    assert found[first] > 0


def test_states_given_to_start_from_are_not_taken_for_settled() -> None:
    """Behind a weak coupling the second state hardly moves, whatever it begins with, and is fed back: one sweep's
    residual says too little.
    """
    torch.manual_seed(0)
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    with torch.no_grad():
        second.weight.mul_(1e-3 / torch.linalg.matrix_norm(second.weight, 2))
        second.bias.uniform_(10, 20)
    model = fc.convert(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()), block_size=2).double().eval()
    x = torch.randn(4, 16, dtype=torch.float64)
    with model.using(tolerance=1e-14):
        _, (settled,) = model.equilibrium(x)
    (block,) = model.program.energy_blocks
    bound = model.block_call(block, {block.inputs[0]: x}).bound
    hidden, output = (s.name for s in block.states)
    start = {hidden: settled.states[hidden], output: settled.states[output] * 1.0003}
    found = relax(bound, Tolerance(residual=4e-6), start, EXPLICIT)
    errors = [float((found.states[n] - s).abs().max() / s.abs().max()) for n, s in settled.states.items()]
    assert found.relaxation.converged
    assert max(errors) <= 4e-6


@pytest.mark.parametrize(
    ("layers", "tolerance"),
    [
        (((0, 1), (0.3, 1), (0.3, 1)), 1e-3),
        (((0, 1), (1e-2, 1), (1e-2, 100)), 1e-3),
        (((0, 1), (1e-3, 1), (1e-3, 1e4)), 4e-6),
    ],
)
def test_what_a_later_state_feeds_back_is_waited_for(layers: tuple[tuple[float, float], ...], tolerance: float) -> None:
    """In a chain of three the second one's first move reaches the first one in the second sweep, and the residual of
    the first one says too little.
    """
    net = nn.Sequential(*[m for _ in layers for m in (nn.Linear(4, 4), nn.ReLU())]).double()
    with torch.no_grad():
        for layer, (weight, bias) in zip(net[::2], layers, strict=True):
            layer.weight.copy_(weight * torch.eye(4))
            layer.bias.fill_(bias)
    model = fc.convert(net, block_size=3).eval()
    x = torch.zeros(1, 4, dtype=torch.float64)
    with model.using(tolerance=1e-14):
        _, (exact,) = model.equilibrium(x)
    with model.using(tolerance=tolerance):
        _, (found,) = model.equilibrium(x)
    errors = [float((found.states[n] - s).abs().max() / s.abs().max()) for n, s in exact.states.items()]
    assert found.relaxation.converged
    assert max(errors) <= found.relaxation.residual <= tolerance


def test_a_displacement_given_to_start_from_is_not_taken_for_settled() -> None:
    """A backward sweep begins with the last state, which reads the first one as it is given; nudged much less, it is
    off by more than the first one's change tells.
    """
    torch.manual_seed(0)
    model = fc.convert(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()), block_size=2)
    model, x = model.double().eval(), torch.randn(4, 16, dtype=torch.float64)
    _, (settled,) = model.equilibrium(x)
    (block,) = model.program.energy_blocks
    linear = EXPLICIT.linearise(model.block_call(block, {block.inputs[0]: x}).bound, settled.states)
    first, last = (s.name for s in block.states)
    errors = {first: torch.randn(4, 16, dtype=torch.float64), last: 1e-6 * torch.randn(4, 16, dtype=torch.float64)}
    exact, _ = displace(linear, errors, 1e-3, Tolerance(1e-13), tangent=True)
    start = {first: exact[first] * 1.001, last: exact[last]}
    found, record = displace(linear, errors, 1e-3, Tolerance(1e-6), tangent=True, start=start)
    assert record.converged
    off = max(float((found[n] - d).abs().max() / d.abs().max()) for n, d in exact.items())
    assert off <= Tolerance(1e-6).nudged(torch.float64)


@pytest.mark.parametrize("alone", [True, False], ids=["one entry", "all entries"])
def test_the_bound_is_the_larger_one_of_largest_magnitudes_and_of_lengths(alone: bool) -> None:
    """A change of one entry is small beside the length of a state of a hundred, and large beside its largest entry; a
    change of all entries of a state of few large ones is the other way round.
    """
    contraction = Contraction(("first", "last"), {}, {("first", "last"): 0.1, ("last", "first"): 0.1}, 0.01)
    state, change = torch.ones(100), torch.zeros(100)
    if alone:
        change[0] = 0.1
    else:
        state[1:], change[:] = 0.0, 0.01
    last = Last(
        {n: (state, change) for n in contraction.states}, peaks({n: (state, change) for n in ("first", "last")})
    )
    by = {
        name: largest_part(contraction, sizes, True)
        for name, sizes in (("peaks", last.peaks), ("lengths", last.lengths))
    }
    assert by["peaks"] == pytest.approx((1e-2 if alone else 1e-3) / 0.99, rel=1e-5)
    assert by["lengths"] == pytest.approx((1e-3 if alone else 1e-2) / 0.99, rel=1e-5)
    bound = bound_of(contraction, True, lambda: last)
    assert bound(1) == max(by.values())
    assert bound(2) == 0.0
