"""Circuits of blocks: their own equations, solved in numpy, give what the emulator settles to."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch
from emulation_oracle import Settling, array
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.chip.emulate import Sample, unrolling
from ffebm_compiler.chip.hardware import Circuit
from ffebm_compiler.errors import InputError, OptionError
from ffebm_compiler.ffebm import AnalogFFEBM
from ffebm_compiler.train import free_phase, run_digital


class Skip(nn.Module):
    """Convolutions with skips, one of them through weights, and a mean pooling."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)
        self.act, self.out = activation, nn.Linear(2 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.a(x))
        h = self.act(self.b(h) - h)
        h = self.act(self.c(h) + 0.5 * self.c(nn.functional.avg_pool2d(h, 3, 1, 1)))
        return self.out(nn.functional.avg_pool2d(h, 2).flatten(1))


def dense(activation: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 6),
        activation,
        nn.Linear(6, 4, bias=False),
        activation,
        nn.Linear(4, 5),
        activation,
        nn.Linear(5, 3),
    )


def in_series(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), activation, nn.Linear(6, 4), nn.Linear(4, 6), activation, nn.Linear(6, 3))


def smooth(activation: nn.Module) -> nn.Module:
    """An activation without a potential lives in the coupling of the next state."""
    return nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 4), activation, nn.Linear(4, 3))


def pooled(activation: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), activation, nn.MaxPool2d(2), nn.Conv2d(3, 4, 2, groups=1, stride=1), activation,
        nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def normed(activation: nn.Module) -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2, padding=1),
        nn.BatchNorm2d(4),
        activation,
        nn.Conv2d(4, 3, 3, stride=2),
        nn.BatchNorm2d(3),
        activation,
        nn.Flatten(),
        nn.Linear(3, 3),
    )
    with torch.no_grad():
        for norm in (net[1], net[4]):
            norm.weight.mul_(torch.tensor([-1.5, 0.7, -0.4, 1.1])[: len(norm.weight)])  # type: ignore[operator,arg-type]
            norm.running_mean.add_(0.1)  # type: ignore[operator,union-attr]
    return net.eval()


class WithInputs(nn.Module):
    """A second input beside the states; the first enters through a maximum, which is no array's."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.c, self.act = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(6, 3), activation

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = self.act(self.a(nn.functional.max_pool1d(x[:, None], 2)[:, 0]))
        return self.c(torch.cat([self.act(self.b(h)), 2 * z], 1))


class ComputedWeight(nn.Module):
    """A masked weight, which no device holds."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.a, self.c, self.act = nn.Linear(5, 6), nn.Linear(4, 3), activation
        self.weight, self.mask = nn.Parameter(torch.randn(4, 6) / 2), nn.Parameter(torch.rand(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.act(nn.functional.linear(self.act(self.a(x)), self.weight * self.mask)))


IMAGE, VECTOR = ((2, 4, 4),), ((5,),)
NETWORKS: dict[str, tuple[Callable[[nn.Module], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "dense": (dense, VECTOR),
    "series": (in_series, VECTOR),
    "skip": (Skip, IMAGE),
    "pooled": (pooled, IMAGE),
    "normed": (normed, IMAGE),
    "computed": (ComputedWeight, VECTOR),
    "inputs": (WithInputs, ((6,), (2,))),
}
RESISTORS = ("dense", "normed", "skip")
"""What has no maximum, and no two weights between states."""
ERRORS = fc.Hardware(
    g_min=2e-6, programming_error=0.02, levels=64, stuck_low=0.02, tile_rows=4, tile_columns=3, reverse_gain_error=0.1,
    line_resistance=1.0, nudge=0.01, headroom=2.0,
)  # fmt: skip
MISMATCHED = dataclasses.replace(ERRORS, offset=0.02, gain_mismatch=0.1)
SECOND = dataclasses.replace(MISMATCHED, bidirectional=False)
RESISTIVE = dataclasses.replace(ERRORS, physics="resistive")
CHIPS = {"ideal": fc.Hardware(), "mismatched": MISMATCHED, "second array": SECOND}
ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "clamp": functools.partial(nn.Hardtanh, -0.2, 0.6),
}


def lowered(
    name: str, activation: str, hardware: fc.Hardware, size: int, seed: int
) -> tuple[AnalogFFEBM, list[Tensor]]:
    make, shapes = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return analog(make(ACTIVATIONS[activation]()), shapes, hardware, size, seed)


def analog(
    net: nn.Module, shapes: tuple[tuple[int, ...], ...], hardware: fc.Hardware, size: int, seed: int
) -> tuple[AnalogFFEBM, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = [torch.randn(1, *s, generator=generator, dtype=torch.float64) for s in shapes]
    model = fc.convert(net.double(), block_size=size, norm="held", tolerance=1e-14, max_sweeps=3000)
    return model.lower(hardware=hardware, chip_seed=seed), x


def check_free(model: AnalogFFEBM, x: list[Tensor]) -> tuple[Circuit, ...]:
    circuits = model.circuits(*x)
    _, found = model.equilibrium(*x)
    for circuit, block in zip(circuits, found, strict=True):
        expected = Settling(circuit).equilibrium()
        for name, s in block.states.items():
            assert float(abs(array(s).ravel() - expected[name]).max()) < 1e-9, (circuit.block, name)
    return circuits


@pytest.mark.slow
@pytest.mark.parametrize("chip", sorted(CHIPS))
@pytest.mark.parametrize("name", sorted(NETWORKS))
@settings(deadline=None, max_examples=2, derandomize=True)
@given(st.sampled_from(sorted(ACTIVATIONS)), st.integers(1, 4), st.integers(0, 1000))
def test_hopfield_circuit_settles_where_the_emulator_does(
    name: str, chip: str, activation: str, size: int, seed: int
) -> None:
    check_free(*lowered(name, activation, CHIPS[chip], size, seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", RESISTORS)
@settings(deadline=None, max_examples=2, derandomize=True)
@given(st.sampled_from(["relu", "clamp"]), st.integers(1, 4), st.integers(0, 1000), st.booleans())
def test_resistive_circuit_settles_where_the_emulator_does(
    name: str, activation: str, size: int, seed: int, ideal: bool
) -> None:
    hardware = fc.Hardware(physics="resistive") if ideal else RESISTIVE
    for circuit in check_free(*lowered(name, activation, hardware, size, seed)):
        assert all(float(t.min()) >= 0 for e in circuit.edges for t in (e.positive, e.negative) if t.numel())
        assert all(float(b.leak.min()) >= -1e-12 for b in circuit.banks if b.leak is not None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "physics"), [*((n, "hopfield") for n in sorted(NETWORKS)), *((n, "resistive") for n in RESISTORS)]
)
@settings(deadline=None, max_examples=2, derandomize=True)
@given(st.sampled_from(["relu", "clamp"]), st.integers(2, 4), st.integers(0, 1000), st.sampled_from([-1e-3, 1e-3]))
def test_nudged_circuit_settles_where_the_emulator_does(
    name: str, physics: str, activation: str, size: int, seed: int, beta: float
) -> None:
    model, x = lowered(name, activation, SECOND if physics == "hopfield" else RESISTIVE, size, seed)
    with torch.no_grad():
        values = model.bind_inputs(tuple(x), {})
        blocks = model.program.energy_blocks
        first = next(i for i, s in enumerate(model.program) if s in blocks)
        for step in list(model.program)[:first]:
            values.update(run_digital(step, model.network, values))  # type: ignore[arg-type]
        call = model.block_call(blocks[0], values)
        free = free_phase(call)
        generator = torch.Generator().manual_seed(seed)
        errors = {
            n: torch.randn(free.states[n].shape, generator=generator, dtype=torch.float64) for n in blocks[0].outputs
        }
        phases = call.estimator.phases  # type: ignore[attr-defined]
        states, record = phases.nudged(free, errors, beta, Sample(generator).phase())
    assert record.converged
    w = call.layer_weights
    circuit = model.circuits(*x, nudge={n: beta / w[n] * e for n, e in errors.items()})[0]
    expected = Settling(circuit).equilibrium()
    for n, s in states.items():
        assert float(abs(array(s).ravel() - expected[n]).max()) < 1e-9
        if n in errors and bool((s != free.states[n]).any()):
            assert float((s - free.states[n]).abs().max()) > 1e-5  # the nudge did something


def test_inputs_are_edges_where_they_enter_linearly_and_drive_elsewhere() -> None:
    model, x = lowered("inputs", "relu", fc.Hardware(), 4, 0)
    (circuit,) = model.circuits(*x)
    assert set(circuit.inputs) <= {e.source for e in circuit.edges}
    assert any(torch.equal(v, x[1].flatten()) for v in circuit.inputs.values())
    model, x = analog(smooth(nn.ReLU()), VECTOR, fc.Hardware(), 1, 0)
    second = model.circuits(*x)[1]
    assert not second.edges
    h = model.network.get_submodule("0")(*x)
    expected = model.network.get_submodule("2")(nn.functional.gelu(h))
    torch.testing.assert_close(second.banks[0].drive, expected.detach().flatten())


def test_a_circuit_of_a_batch_is_that_of_its_first_sample() -> None:
    model, (x,) = lowered("skip", "relu", MISMATCHED, 2, 3)
    more = torch.cat([x, torch.randn_like(x)])
    model.calibrate(more)
    for one, other in zip(model.circuits(x), model.circuits(more), strict=True):
        for a, b in zip(one.banks, other.banks, strict=True):
            torch.testing.assert_close(a.drive, b.drive)
        for e, f in zip(one.edges, other.edges, strict=True):
            torch.testing.assert_close(e.positive, f.positive)


def test_too_large_a_coupling_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unrolling, "MOST_ENTRIES", 20)
    model, x = lowered("dense", "relu", fc.Hardware(), 4, 0)
    with pytest.raises(OptionError) as raised:
        model.circuits(*x)
    assert [p.what.split(" entries")[0] for p in raised.value.problems] == ["has 6 x 4"]
    assert "coupling 1 → 1@2" in str(raised.value)


def test_an_input_without_a_batch_has_no_circuit_and_says_so() -> None:
    model, (x,) = lowered("dense", "relu", fc.Hardware(), 4, 0)
    with pytest.raises(InputError, match="Give a batch"):
        model.circuits(x[0])


def test_a_smooth_activation_within_a_coupling_has_no_circuit_and_is_named() -> None:
    model, x = analog(smooth(nn.ReLU()), VECTOR, fc.Hardware(), 3, 0)
    with pytest.raises(OptionError, match=r"layer 1 \(GELU\)"):
        model.circuits(*x)
