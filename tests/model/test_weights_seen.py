"""Weights that change are seen, whoever changes them: every way of writing them, against the same weights converted
anew.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

import ffebm_compiler as fc
from ffebm_compiler.model.converted_module import runner_of

SIZE, GAIN = 3, 0.1
X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 3)
    )


def converted(net: nn.Module | None = None) -> fc.FFEBM:
    return fc.convert(network() if net is None else net, SIZE, loop_gain=GAIN)


def used(model: fc.FFEBM) -> list[Any]:
    return [runner_of(model).block_gains.store.find(b, GAIN) for b in model.program.energy_blocks]


def agree(model: fc.FFEBM, x: Tensor = X) -> None:
    """A model gives what the same weights give converted anew: outputs, sweeps, gains, certificates, report."""
    anew = converted(model.to_feedforward()).train(model.training)
    with torch.no_grad():
        ours, theirs = model(x), anew(x)
    assert torch.equal(ours, theirs)
    assert [r.sweeps for r in model.relaxation] == [r.sweeps for r in anew.relaxation]
    assert [g.layer_weights for g in used(model)] == [g.layer_weights for g in used(anew)]
    assert [b.certificate for b in model.blocks] == [b.certificate for b in anew.blocks]


# --- ways of writing ----------------------------------------------------------------------------------------


def trained(optimizer: Callable[[Any], torch.optim.Optimizer], steps: int = 20) -> Callable[[fc.FFEBM], None]:
    def write(model: fc.FFEBM) -> None:
        chosen = optimizer(model.parameters())
        for _ in range(steps):
            chosen.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            chosen.step()

    return write


def through_data(model: fc.FFEBM) -> None:
    for p in model.parameters():
        p.data.mul_(2)


def other_data(model: fc.FFEBM) -> None:
    for p in model.parameters():
        p.data = 2 * p.data


def from_a_vector(model: fc.FFEBM) -> None:
    parameters = list(model.parameters())
    nn.utils.vector_to_parameters(2 * nn.utils.parameters_to_vector(parameters).detach(), parameters)


def copied(model: fc.FFEBM) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(3 * p)


def another_storage(model: fc.FFEBM) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.set_(2 * p.detach())


def as_numpy(model: fc.FFEBM) -> None:
    for p in model.parameters():
        p.detach().numpy()[...] *= 2


def permuted(model: fc.FFEBM) -> None:
    """The same numbers elsewhere: norms change, sums do not."""
    for p in model.parameters():
        p.data = p.data.flatten().sort().values.reshape(p.shape).contiguous()


def signs_flipped(model: fc.FFEBM) -> None:
    for p in model.parameters():
        p.data.flatten()[::2].neg_()


def one_number(model: fc.FFEBM) -> None:
    model.get_parameter("2.weight").data[0, 0] += 5


def another_parameter(model: fc.FFEBM) -> None:
    layer = model.get_submodule("2")
    layer.weight = nn.Parameter(2 * layer.weight.detach())


def doubled() -> dict[str, Tensor]:
    return {n: 2 * t for n, t in network().state_dict().items()}


def averaged(model: fc.FFEBM) -> None:
    average = AveragedModel(model.network)
    trained(lambda p: torch.optim.SGD(p, 0.5))(model)
    average.update_parameters(model.network)
    for p, q in zip(model.parameters(), average.module.parameters(), strict=True):
        p.data, q.data = q.data, p.data  # the swap of an evaluation with averaged weights


WAYS: dict[str, Callable[[fc.FFEBM], Any]] = {
    "SGD": trained(lambda p: torch.optim.SGD(p, 0.5)),
    "AdamW": trained(lambda p: torch.optim.AdamW(p, 1e-2)),
    "AdamW, foreach": trained(lambda p: torch.optim.AdamW(p, 1e-2, foreach=True)),
    "AdamW, fused": trained(lambda p: torch.optim.AdamW(p, 1e-2, fused=True)),
    "through .data": through_data,
    "other .data": other_data,
    "vector_to_parameters": from_a_vector,
    "copy_": copied,
    "set_": another_storage,
    "numpy": as_numpy,
    "a permutation": permuted,
    "signs": signs_flipped,
    "one number": one_number,
    "another parameter": another_parameter,
    "load_state_dict": lambda m: m.load_state_dict(doubled()),
    "load_state_dict, assigned": lambda m: m.load_state_dict(doubled(), assign=True),
    "safetensors": lambda m: m.load_state_dict(load(save(doubled()))),
    "an average": averaged,
}


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_weights_are_seen_whoever_writes_them(way: str, training: bool) -> None:
    model = converted().train(training)
    with torch.no_grad():
        before = model(X)
    gains = used(model)
    WAYS[way](model)
    agree(model)
    with torch.no_grad():
        assert not torch.equal(before, model(X))
    assert used(model) != gains
    agree(model.train(not training))


@pytest.mark.parametrize("call_first", [True, False])
def test_weights_that_are_swapped_for_one_call(call_first: bool) -> None:
    model, other = converted().eval(), {n: 2 * t for n, t in network().named_parameters()}
    if call_first:
        model(X)
    anew = network()
    anew.load_state_dict(doubled())
    with torch.no_grad():
        assert torch.equal(torch.func.functional_call(model, other, (X,)), converted(anew).eval()(X))
        assert torch.equal(model(X), converted().eval()(X)), "afterwards the model's own"


@pytest.mark.parametrize("parametrize", [weight_norm, spectral_norm])
def test_weights_that_are_computed(parametrize: Callable[[nn.Module], nn.Module]) -> None:
    net = network()
    parametrize(net[2])
    model = converted(net).eval()
    with torch.no_grad():
        model(X)
    for name, p in model.named_parameters():
        if "parametrizations" in name and p.dim() > 1:
            p.data.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
    agree(model)


def test_norms_that_are_held_are_weights_too() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for _ in range(30):
            net(X)
    model = fc.convert(net, SIZE, loop_gain=GAIN, norm="held").eval()
    with torch.no_grad():
        model(X)
        for name in ("running_var", "weight"):
            tensor = getattr(model.get_submodule("3"), name)
            tensor.data.mul_(4)
            anew = fc.convert(model.to_feedforward(), SIZE, loop_gain=GAIN, norm="held").eval()
            assert torch.equal(model(X), anew(X))
            assert [g.norms for g in used(model)] == [g.norms for g in used(anew)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_type(dtype: torch.dtype) -> None:
    model = converted().eval()
    with torch.no_grad():
        model(X)
        model.to(dtype)
        agree(model, X.to(dtype))


# --- one model, two uses --------------------------------------------------------------------------------------


def test_evaluating_in_the_middle_leaves_no_trace_in_a_training() -> None:
    runs = []
    for look in (False, True):
        model = converted().train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=True)
        for step in range(12):
            if look and step % 3 == 1:
                model.eval()
                with torch.no_grad():
                    model(X)
                    model(X[:3])
                model.report()
                model.state_dict()
                model.train()
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
        runs.append(model.state_dict())
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])


def test_a_resumed_training_takes_the_steps_of_an_uninterrupted_one() -> None:
    def steps(model: fc.FFEBM, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()

    whole = converted().train()
    optimizer = torch.optim.AdamW(whole.parameters(), 1e-2, fused=True)
    steps(whole, optimizer, 4)
    file = io.BytesIO()
    torch.save((whole.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    weights, moments = torch.load(file)
    resumed = converted().train()
    resumed.load_state_dict(weights)
    again = torch.optim.AdamW(resumed.parameters(), 1e-2, fused=True)
    again.load_state_dict(moments)
    steps(whole, optimizer, 4)
    steps(resumed, again, 4)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_micro_batches_of_one_step_have_the_gains_of_one() -> None:
    model = converted().train()
    F.cross_entropy(model(X), Y).backward()
    with torch.no_grad():
        for p in model.parameters():
            p.sub_(0.05 * p.grad)
    seen = []
    for part in X.split(4):
        model(part).sum().backward()
        seen.append([g.layer_weights for g in used(model)])
    assert all(s == seen[0] for s in seen)


def test_the_generated_step_takes_the_gains_of_a_forward_pass() -> None:
    ways = []
    for generated in (False, True):
        model = converted().train()
        optimizer = torch.optim.SGD(model.parameters(), 0.3)
        for _ in range(4):
            optimizer.zero_grad()
            if generated:
                model.training_step(X, Y, F.cross_entropy)
            else:
                F.cross_entropy(model(X), Y).backward()
            optimizer.step()
        ways.append([g.layer_weights for g in used(model)])
    assert ways[0] == ways[1]


def test_gains_are_no_matter_of_the_batch() -> None:
    """Two processes of a distributed training see different samples, and one process different ones before."""
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 1)
    )
    found = []
    for seed in range(3):
        model = fc.convert(copy.deepcopy(net), 3, loop_gain=GAIN)
        generator = torch.Generator().manual_seed(seed)
        model(10**seed * torch.randn(seed + 1, 1, 8, 8, generator=generator)).sum().backward()
        found.append([g.layer_weights for g in used(model)])
    assert found[0] == found[1] == found[2]


def test_images_of_another_size_have_gains_of_their_own() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU())
    small, large = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 12, 12)
    model = fc.convert(net, 2, loop_gain=GAIN).eval()
    with torch.no_grad():
        first = model(small)
        model(large)
        assert torch.equal(model(small), first)
        assert torch.equal(model(large), fc.convert(copy.deepcopy(net), 2, loop_gain=GAIN).eval()(large))


def test_gains_follow_weights_that_train() -> None:
    """One power step each: close to the norms that converge."""
    model = converted().train()
    given = []
    for _ in range(4):
        model(X).sum().backward()
        given.append(used(model))
        for p in model.parameters():
            p.data.mul_(1.3)
    assert all(a != b for a, b in zip(given[1:], given, strict=False))
    model(X).sum().backward()
    anew = converted(model.to_feedforward()).train()
    anew(X).sum().backward()
    for ours, theirs in zip(used(model), used(anew), strict=True):
        for edge, norm in theirs.norms.items():
            assert ours.norms[edge] == pytest.approx(norm, rel=0.1)


def test_frozen_weights_have_converged_norms_in_a_training() -> None:
    net = network()
    for p in net[:5].parameters():
        p.requires_grad_(False)
    model = converted(net).train()
    model(X).sum().backward()
    for p in model.network[2].parameters():
        p.data.mul_(2)
    model(X).sum().backward()
    agree(model)
