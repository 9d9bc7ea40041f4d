"""One chip: its devices follow from its seed alone, and it has a history of writing."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.ffebm import AnalogFFEBM

VARIED = fc.Hardware(
    programming_error=0.02,
    stuck_low=0.02,
    offset=5e-3,
    gain_mismatch=0.02,
    reverse_gain_error=0.05,
    bidirectional=False,
    drift=0.03,
    drift_spread=0.01,
    age=100.0,
)
NOISY = dataclasses.replace(VARIED, read_noise=0.02, read_noise_correlation=0.4, temperature=300.0)
X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)
        )


def lowered(hardware: fc.Hardware | str = VARIED, size: int = 2, **options: Any) -> AnalogFFEBM:
    return fc.convert(network(), block_size=size).lower(hardware=hardware, **options).calibrate(X)


def conductances(model: AnalogFFEBM) -> dict[str, Tensor]:
    return {p: d.crossbar.devices.conductance.clone() for p, d in model.chip.devices.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[n], b[n]) for n in a)


# --- what a seed fixes -----------------------------------------------------------------------------------


def test_one_seed_is_one_chip_and_another_is_another() -> None:
    first, again, other = (lowered(chip_seed=s)(X) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-4)


def test_noise_has_a_seed_of_its_own() -> None:
    a, b, c = (lowered(NOISY, noise_seed=s) for s in (0, 0, 1))
    first = a(X)
    assert torch.equal(first, b(X))
    assert torch.equal(a(X), b(X))
    assert not torch.equal(first, a(X))
    assert not torch.equal(first, c(X))
    assert same(conductances(a), conductances(c))


@pytest.mark.slow
@settings(deadline=None, max_examples=8, derandomize=True)
@given(st.permutations(range(2)), st.integers(0, 100))
def test_devices_do_not_depend_on_the_order_of_use(order: list[int], seed: int) -> None:
    """Nor on the global seed, nor on what else was drawn."""
    reference, model = lowered(chip_seed=seed), lowered(chip_seed=seed)
    reference(X)
    torch.rand(3)
    with torch.no_grad():
        blocks, values = model.program.energy_blocks, {}
        _, found = model.equilibrium(X)
        model.chip.devices.clear()
        model.chip.forget()
        values = {n: v for b in found for n, v in b.inputs.items()}
        for i in order:
            model.block_call(blocks[i], values)
    assert same(conductances(model), conductances(reference))


def test_every_layer_and_both_directions_have_devices_of_their_own() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].load_state_dict(net[0].state_dict())
    model = fc.convert(net, block_size=2).lower(hardware=VARIED)
    model(torch.randn(2, 4))
    devices = model.chip.devices
    assert not torch.equal(devices["0.weight"].crossbar.positive, devices["2.weight"].crossbar.positive)
    assert not torch.equal(devices["0.weight"].back.positive, devices["0.weight"].crossbar.positive)
    assert devices["0.bias"].back is devices["0.bias"].crossbar


def test_each_direction_is_as_noisy_as_its_own_devices() -> None:
    """``r^2 (g+^2 + g-^2) / scale^2``: a device that is stuck in one array is not stuck in the other."""
    hardware = fc.Hardware(read_noise=0.05, stuck_high=0.2, bidirectional=False)
    model = lowered(hardware)
    model(X)
    term = next(t for b in model.program.energy_blocks for t in b.layers)
    path = term.operands[1].path  # type: ignore[union-attr]
    devices, arrays = model.chip.devices[path], model.chip.array(term)
    for crossbar, found in ((devices.crossbar, arrays.variance), (devices.back, arrays.back_variance)):
        pairs, scale = crossbar.devices.conductance[:, 0].numpy(), float(crossbar.scale)
        expected = 0.05**2 * (pairs**2).sum(0).T / scale**2
        assert found is not None
        torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype))
    bidirectional = lowered(dataclasses.replace(hardware, bidirectional=True))
    bidirectional(X)
    assert bidirectional.chip.array(term).back_variance is None


def test_mismatch_is_of_a_neuron_not_of_a_sample() -> None:
    """The same sample anywhere in any batch, or without a batch, gives the same on one chip."""
    model = lowered()
    y = model(X)
    torch.testing.assert_close(model(X.flip(0)), y.flip(0))
    torch.testing.assert_close(model(X[:1]), y[:1])
    torch.testing.assert_close(model(X[0]), y[0])
    nothing = dataclasses.replace(VARIED, offset=0.0, gain_mismatch=0.0)
    assert not torch.allclose(model(X[0]), lowered(nothing)(X[0]), atol=1e-4)


def test_offsets_have_the_stated_deviation_in_volts() -> None:
    hardware = fc.Hardware(offset=5e-3, gain_mismatch=0.02, full_scale=0.5)
    model = fc.convert(nn.Sequential(nn.Linear(2, 4000), nn.ReLU(), nn.Linear(4000, 2)), block_size=2).lower(
        hardware=hardware
    )
    model.calibrate(torch.randn(3, 2))
    state = model.program.energy_blocks[0].states[0].name
    neurons = model.chip.neurons(state, torch.zeros(1, 4000))
    assert neurons.offset is not None
    assert neurons.gain is not None
    volts = neurons.offset * hardware.full_scale / model.chip.ranges[state].high
    assert float(volts.std()) == pytest.approx(5e-3, rel=5 / (2 * 4000) ** 0.5)
    assert float((neurons.gain - 1).std()) == pytest.approx(0.02, rel=5 / (2 * 4000) ** 0.5)


def test_reverse_gain_errors_act_on_feedback_alone_and_differ_by_consumer() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.a(x))
            return torch.relu(self.c(h) + torch.relu(self.b(h)))

    net, x = Fork(), torch.randn(2, 3)
    hardware = fc.Hardware(reverse_gain_error=0.3)
    single = fc.convert(copy.deepcopy(net), block_size=1)
    torch.testing.assert_close(single.lower(hardware=hardware)(x), net(x))  # no feedback, no error
    chip = fc.convert(net, block_size=3).lower(hardware=hardware).calibrate(x)
    (block, *_) = [b for b in chip.program.energy_blocks if b.edges]
    gains = [a.gain for a in chip.chip.amplifiers(block, {s.name: torch.zeros(1, 4) for s in block.states}).values()]
    assert len(gains) == len(block.edges) >= 2
    assert not torch.equal(gains[0], gains[1])


def test_a_chip_ages() -> None:
    """The same devices at another age amount to other weights, whatever was computed before."""
    young, old = (lowered(dataclasses.replace(VARIED, age=age)) for age in (20.0, 1e6))
    before = young(X)
    assert not torch.allclose(before, old(X), atol=1e-4)
    young.chip.hardware = dataclasses.replace(VARIED, age=1e6)
    assert torch.equal(young(X), old(X))
    young.chip.hardware = dataclasses.replace(VARIED, age=20.0)
    assert torch.equal(young(X), before)


# --- writing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", ["ideal", "quantised", "pulses"])
def test_only_what_moved_is_written_and_only_once(write: str) -> None:
    """Programming errors would tell: a device that is written again gets another."""
    model = lowered(dataclasses.replace(VARIED, write=write, pulse_step=1e-3))
    model(X)
    before = conductances(model)
    for _ in range(2):
        model(X)
    assert same(conductances(model), before)
    assert model.chip.writes == 0
    weight = model.get_parameter("2.weight")
    with torch.no_grad():
        weight[1, 2] += 0.05
    model(X)
    after = conductances(model)
    moved = {n: (after[n] != before[n]).nonzero() for n in after}
    assert all(not len(m) for n, m in moved.items() if n != "2.weight")
    assert {(int(r), int(c)) for _, _, r, c in moved["2.weight"]} == {(2, 1)}  # (input, output)
    model(X)
    assert same(conductances(model), after)
    assert model.chip.writes == 1


def test_ideal_writes_follow_any_training() -> None:
    model = lowered("ideal")
    reference = fc.convert(network(), block_size=2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        step = [torch.randn(p.shape, generator=generator) for p in reference.parameters()]
        with torch.no_grad():
            for m in (model, reference):
                for p, s in zip(m.parameters(), step, strict=True):
                    p.add_(s)
        torch.testing.assert_close(model(X), reference(X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("write", ["quantised", "pulses"])
def test_updates_below_a_step_add_up(write: str) -> None:
    """A hundred updates, each far smaller than a level or a pulse: none reaches the devices alone, together they do.

    A level is where it was asked for. A pulse moves half as far where one device of the pair is at its bound already.
    """
    hardware = fc.Hardware(
        write=write, levels=33 if write == "quantised" else None, pulse_step=1 / 64, pulse_nonlinearity=0.0
    )
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    with torch.no_grad():
        net[0].weight.uniform_(-0.5, 0.5)
        net[0].weight[0, 0] = 1.0  # sets the scale: a level or a pulse pair is 1/32
    model, x = fc.convert(net, block_size=2).lower(hardware=hardware), torch.randn(2, 3, dtype=torch.float64)
    model(x)
    weight = model.get_parameter("0.weight")
    start, goal = model.chip.weight("0.weight").clone(), weight.detach().clone()
    goal[1:] += 0.2
    assert float((start - weight.detach()).abs().max()) <= 1 / 64 + 1e-9
    for k in range(100):
        with torch.no_grad():
            weight[1:] += 0.002
        model(x)
        believed = model.chip.devices["0.weight"].written
        assert float((believed - weight.detach()).abs().max()) <= 1 / 64 + 1e-9, k  # never further than half a step
        if write == "quantised":
            torch.testing.assert_close(model.chip.weight("0.weight"), believed, rtol=0, atol=1e-9)
    torch.testing.assert_close(weight.detach(), goal)
    assert float((model.chip.weight("0.weight") - start)[1:].min()) > 0.09


@pytest.mark.slow
def test_an_optimizer_on_the_chip_lowers_the_loss() -> None:
    for write in ("ideal", "pulses"):
        hardware = dataclasses.replace(
            VARIED,
            write=write,
            pulse_step=5e-4,
            read_noise=2e-3,
            read_noise_correlation=0.9,
            nudge=0.1,
            learning_bits=8,
        )
        model = lowered(hardware)
        goal = torch.tanh(X @ torch.ones(5, 3) / 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.8)
        losses = []
        for _ in range(40):
            optimizer.zero_grad()
            loss = (model(X) - goal).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert min(losses[-5:]) < 0.5 * losses[0], write


# --- as a module -----------------------------------------------------------------------------------------


def test_loaded_weights_are_written() -> None:
    model, other = lowered("ideal"), network()
    model(X)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(0.5)
    model.load_state_dict(other.state_dict())
    torch.testing.assert_close(model(X), fc.convert(other, block_size=2)(X), rtol=1e-4, atol=1e-5)


def test_state_dict_is_the_original_s() -> None:
    model = lowered()
    assert list(model.state_dict()) == list(network().state_dict())
    again = lowered(chip_seed=7)
    again.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_type_keeps_the_devices(dtype: torch.dtype) -> None:
    model = lowered()
    y, before = model(X), conductances(model)
    moved = model.to(dtype)(X.to(dtype))
    assert moved.dtype == dtype
    assert same(conductances(model), before)
    assert model.chip.writes == 0
    torch.testing.assert_close(moved.float(), y, rtol=0, atol=1e-5 if dtype == torch.float64 else 3e-2)


def test_autocast() -> None:
    model = lowered(NOISY)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(X)
    y.float().sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters()
    )


def test_a_copy_goes_its_own_way() -> None:
    model = lowered(NOISY)
    model(X)
    other = copy.deepcopy(model)
    assert torch.equal(model(X), other(X))  # the noise goes on alike in both
    before = conductances(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)
    other(X)
    assert same(conductances(model), before)
    assert not same(conductances(other), before)


def test_modes() -> None:
    """Dropout and batch statistics are digital and behave as ever; ranges and devices serve both modes."""
    net = nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    model = fc.convert(net, block_size=2).lower().calibrate(X)
    assert model.training
    before = model.get_buffer("1.running_mean").clone()
    outputs = [model(X) for _ in range(2)]
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(model.get_buffer("1.running_mean"), before)
    model.eval()
    assert torch.equal(model(X), model(X))
    torch.testing.assert_close(model(X), fc.convert(net.eval(), block_size=2)(X), rtol=0.2, atol=0.2)
    before = model.get_buffer("1.running_mean").clone()
    model.calibrate(X)
    assert torch.equal(model.get_buffer("1.running_mean"), before)
    assert not model.training


def test_the_model_that_was_lowered_is_left_alone() -> None:
    model = fc.convert(network(), block_size=2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    chip = model.lower(hardware=VARIED).calibrate(X)
    with torch.no_grad():
        for p in chip.parameters():
            p.zero_()
    chip(X)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_a_weight_that_no_array_holds_is_named() -> None:
    model = fc.convert(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), 2)
    chip = model.lower(hardware="ideal", chip_seed=0)
    with pytest.raises(fc.OptionError, match=r"weight '0\.weight': is on no array.*\s+Run the chip on an input first"):
        chip.chip.weight("0.weight")
    chip(torch.randn(3, 4))
    assert chip.chip.weight("0.weight").shape == (5, 4)
    for look in (chip.chip.weight, chip.chip.back_weight, chip.chip.variance, chip.chip.halves, chip.chip.target_sum):
        with pytest.raises(fc.OptionError, match=r"weight '0\.wieght'.*\s+Did you mean \"0\.weight\""):
            look("0.wieght")
