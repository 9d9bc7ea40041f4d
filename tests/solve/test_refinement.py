"""Corrections in bfloat16: they reach the equilibrium and the displacement that plain sweeps in float64 reach, and only where they may."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ffebm_compiler as fc
from ffebm_compiler.solve import BoundBlock, Contraction, Tolerance, alternation, explicit_narrow, refinement, relax
from ffebm_compiler.solve.explicit import EXPLICIT
from ffebm_compiler.solve.explicit_narrow import narrow_pays


def vgg() -> nn.Module:
    layers = [
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 5)),
    ]  # fmt: skip
    layers[4].num_batches_tracked.fill_(1000)  # as of a trained network: the norm is held
    return nn.Sequential(*layers)


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return torch.tanh(self.c(torch.relu(self.b(h)) + h))


def odd() -> nn.Module:
    """Products of every kind: grouped, strided, transposed, in one dimension, between matrices."""
    layers = [
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=4), nn.ReLU(), nn.ConvTranspose2d(8, 4, 2, stride=2)),
        *(nn.Tanh(), nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Flatten(2), nn.Conv1d(4, 6, 3, padding=1), nn.ReLU()),
        *(nn.Linear(16, 7), nn.ReLU(), nn.Flatten(), nn.Linear(42, 5)),
    ]  # fmt: skip
    return nn.Sequential(*layers)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vgg": (vgg, (6, 3, 8, 8)),
    "odd": (odd, (6, 3, 8, 8)),
    "skip": (Skip, (6, 12)),
}


class Types(TorchDispatchMode):
    """The types that products run in."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, set[torch.dtype]] = defaultdict(set)

    @property
    def seen(self) -> set[torch.dtype]:
        return set().union(*self.of.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if (name := func.overloadpacket.__name__) in ("convolution", "convolution_backward", "mm", "addmm", "bmm"):
            self.of[name] |= {a.dtype for a in args if isinstance(a, Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that multiplies bfloat16 faster, where the smallest product gains from it."""
    monkeypatch.setattr(refinement, "narrow_pays", lambda device: True)
    monkeypatch.setattr(explicit_narrow, "DENSE", 0)
    monkeypatch.setattr(explicit_narrow, "LARGE", 0)


def model_of(case: str, size: int, **options: object) -> tuple[fc.FFEBM, Tensor]:
    make, shape = CASES[case]
    torch.manual_seed(0)
    model = fc.convert(make(), block_size=size, narrow=True, **options).train()
    return model, torch.randn(shape, generator=torch.Generator().manual_seed(1))


def gradients(model: fc.FFEBM, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(x).square().sum().backward()
    return [p.grad.double() for p in model.parameters()]


@pytest.mark.parametrize(("case", "size"), [(c, s) for c in CASES for s in (2, 3)])
def test_states_and_gradients_are_those_of_float64(case: str, size: int, narrow: None) -> None:
    model, x = model_of(case, size)
    gradients(model, x)  # gains, and code
    reference = copy.deepcopy(model).double()
    with Types() as types:
        found = gradients(model, x)
    assert torch.bfloat16 in types.seen
    assert all(r.converged for r in model.relaxation)
    with reference.using(estimator=fc.Implicit(), tolerance=1e-12):
        exact = gradients(reference, x.double())
    whole = max(float(g.norm()) for g in exact)
    cosines = [
        float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))
        for a, b in zip(found, exact, strict=True)
        if float(b.norm()) > 1e-6 * whole
    ]
    assert min(cosines) > 1 - 1e-7
    _, settled = model.eval().equilibrium(x)
    with reference.eval().using(tolerance=1e-12):
        _, tight = reference.equilibrium(x.double())
    for a, b in zip(settled, tight, strict=True):
        for n, s in b.states.items():
            assert float((a.states[n] - s).abs().max()) <= 4e-6 * float(s.abs().max())


@pytest.mark.parametrize(
    "options", [dict(loop_gain=None, tolerance=1e-3), dict(loop_gain=0.9, tolerance=1e-4)], ids=["unit", "uncertified"]
)
def test_a_block_without_a_certificate_is_not_corrected_narrowly(options: dict[str, float], narrow: None) -> None:
    model, x = model_of("skip", 3, **options)
    with Types() as types:
        gradients(model, x)
    assert types.seen == {torch.float32}


def test_a_tight_tolerance_is_met_all_the_same(narrow: None) -> None:
    """Only corrections whose rounding it allows are then narrow."""
    model, x = model_of("vgg", 2)
    gradients(model, x)
    reference = copy.deepcopy(model).double()
    with model.eval().using(tolerance=2e-7), reference.eval().using(tolerance=1e-12):
        pairs = zip(model.equilibrium(x)[1], reference.equilibrium(x.double())[1], strict=True)
        errors = [float((a.states[n] - s).abs().max() / s.abs().max()) for a, b in pairs for n, s in b.states.items()]
    assert max(errors) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_types_have_no_corrections(dtype: torch.dtype, narrow: None) -> None:
    model, x = model_of("vgg", 2)
    model = model.to(dtype)
    model.ensure_gains(x.to(dtype))  # norms need more digits than bfloat16 has, and are measured in float32
    with Types() as types:
        gradients(model, x.to(dtype))
    assert types.seen == {dtype}


def test_nor_has_mixed_precision(narrow: None) -> None:
    model, x = model_of("vgg", 2)
    (block, *_) = model.program.energy_blocks
    bound = BoundBlock(block, {"x": x}, {}, {}, contraction=Contraction((), {}, {}, 0.01))
    assert refinement.may_be_narrow(bound, Tolerance(narrow=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert not refinement.may_be_narrow(bound, Tolerance(narrow=True))


def test_unless_it_is_asked_for_every_product_is_wide(narrow: None) -> None:
    model, x = model_of("vgg", 2)
    with model.using(narrow=False), Types() as types:
        gradients(model, x)
    assert types.seen == {torch.float32}


@pytest.mark.parametrize(
    ("unit", "pays"),
    [
        ({"amx_bf16": True}, True),
        ({"amx_bf16": False, "avx512_bf16": True}, True),
        ({"amx_bf16": False}, False),
        ({}, False),
    ],
)
def test_it_pays_where_the_processor_multiplies_bfloat16_faster(
    unit: dict[str, bool], pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: unit, raising=False)
    assert narrow_pays(torch.device("cpu")) == pays
    assert not narrow_pays(torch.device("meta"))


def test_a_version_of_torch_that_tells_nothing_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not narrow_pays(torch.device("cpu"))


@pytest.mark.parametrize("tolerance", [1e-4, 1e-5])
def test_a_state_that_is_its_activation_is_corrected_too(tolerance: float, narrow: None) -> None:
    """The last linear layer of almost every network has the identity's potential."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    model = fc.convert(net, block_size=3, loop_gain=0.24, narrow=True, tolerance=tolerance)
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(2))
    _, (found,) = model.equilibrium(x)
    reference = copy.deepcopy(model).double()
    with reference.using(tolerance=1e-12):
        _, (exact,) = reference.equilibrium(x.double())
    assert found.relaxation.converged
    assert all(float((found.states[n] - s).abs().max() / s.abs().max()) <= tolerance for n, s in exact.states.items())


def pools() -> nn.Module:
    """Two maxima in one block: the second is over states that come from a product."""
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 16), nn.ReLU())


@pytest.mark.parametrize("seed", range(3))
def test_winners_are_chosen_in_full_precision(seed: int, narrow: None) -> None:
    torch.manual_seed(seed)
    model = fc.convert(pools(), block_size=3, narrow=True)
    with Types() as types:
        found, error = states_of(model, torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(seed)))
    assert torch.bfloat16 in types.seen
    assert all(f.relaxation.converged for f in found)
    assert error <= 4e-6


def states_of(model: fc.FFEBM, x: Tensor) -> tuple[list[Any], float]:
    """The settled blocks, and the largest relative error of their states against those of float64."""
    reference = copy.deepcopy(model).double()
    _, found = model.eval().equilibrium(x)
    with reference.eval().using(tolerance=1e-12):
        _, tight = reference.equilibrium(x.double())
    pairs = [(a.states[n], s) for a, b in zip(found, tight, strict=True) for n, s in b.states.items()]
    return found, max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("case", CASES)
def test_feedforward_states_are_narrow_and_the_first_sweep_is_not(case: str, narrow: None) -> None:
    """With a tolerance that one sweep reaches there is nothing to correct, and what the start was rounded to is gone."""
    model, x = model_of(case, 2, tolerance=3e-4)
    with Types() as types:
        found, error = states_of(model, x)
    assert {torch.bfloat16, torch.float32} <= types.seen
    assert all(f.relaxation.converged and f.relaxation.sweeps == 1 for f in found)
    assert error <= max(f.relaxation.residual for f in found) <= 3e-4


@pytest.mark.parametrize("unit", [2.0**-8, 2.0**-5, 0.5])
def test_rounding_that_cannot_be_borne_is_swept_away(
    unit: float, narrow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if bfloat16 had fewer digits: more sweeps are plain, and what is reported stays true."""
    monkeypatch.setattr(alternation, "UNIT", unit)
    model, x = model_of("odd", 3)
    found, error = states_of(model, x)
    assert all(f.relaxation.converged and f.relaxation.residual <= 4e-6 for f in found)
    assert error <= 4e-6


def test_a_block_may_be_narrow_in_part(narrow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution that reads its weights at every position, and a dense layer that reads them once."""
    monkeypatch.setattr(explicit_narrow, "DENSE", 10)
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten()]
    model = fc.convert(nn.Sequential(*layers, nn.Linear(512, 16), nn.ReLU()), block_size=3, narrow=True)
    with Types() as types:
        found, error = states_of(model, torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert all(f.relaxation.converged for f in found)
    assert error <= 4e-6
    assert torch.bfloat16 in types.of["convolution"]
    assert torch.bfloat16 not in types.of["addmm"] | types.of["mm"]


class BothOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(32, 64), nn.Linear(64, 48)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.a(x))
        return h, torch.relu(self.b(h))


@pytest.mark.parametrize("loop_gain", [1e-4, 1e-3, 1e-2])
def test_a_state_that_no_nudge_has_reached_yet_is_not_settled(loop_gain: float, narrow: None) -> None:
    """Only the first state is nudged: the first sweep, from zero, begins with the other one."""
    torch.manual_seed(0)
    model = fc.convert(BothOut(), block_size=2, loop_gain=loop_gain, tolerance=1e-3, narrow=True)
    x, pull = torch.randn(8, 32), torch.randn(8, 64)

    def found(model: fc.FFEBM, x: Tensor) -> list[Tensor]:
        model.zero_grad()
        (model(x)[0] * pull.to(x)).sum().backward()
        return [p.grad.double().flatten() for p in model.parameters()]

    found(model, x)
    reference = copy.deepcopy(model).double()
    with reference.using(estimator=fc.Implicit(), tolerance=1e-12, narrow=False):
        exact = found(reference, x.double())
    cosines = [float(torch.cosine_similarity(a, b, dim=0)) for a, b in zip(found(model, x), exact, strict=True)]
    assert min(cosines) > 0.9999


@pytest.mark.parametrize("bias", [1.001953, 1.9])
@pytest.mark.parametrize("norm", [1e-3, 3e-3])
def test_roundings_that_add_up_are_found(norm: float, bias: float, narrow: None) -> None:
    """Equal biases round equally, and a state of one number sums them all."""
    net = nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 4096), nn.ReLU())
    with torch.no_grad():
        net[0].weight.zero_(), net[0].bias.fill_(1.0)
        net[2].weight.fill_(norm / 64), net[2].bias.fill_(bias)
    (found,), error = states_of(fc.convert(net, block_size=2, narrow=True), torch.zeros(1, 4))
    assert found.relaxation.converged
    assert error <= 4e-6


def test_states_given_to_start_from_stay_as_they_are(narrow: None) -> None:
    model, x = model_of("vgg", 2)
    _, (settled, *_) = model.eval().equilibrium(x)
    (block,) = [b for b in model.program.energy_blocks if b.name == settled.relaxation.block]
    bound = model.block_call(block, {n: x for n in block.inputs}).bound
    assert bound.contraction is not None
    start = {n: s.clone() for n, s in settled.states.items()}
    kept = {n: s.clone() for n, s in start.items()}
    found = relax(bound, Tolerance(narrow=True), start, EXPLICIT)
    assert found.relaxation.converged
    assert all(torch.equal(start[n], s) for n, s in kept.items())


@pytest.mark.parametrize("norm", [0.01, 0.003, 0.001])
@pytest.mark.parametrize("bias", [1.0, 10.0, 100.0])
def test_what_the_start_was_rounded_by_may_be_large_for_a_smaller_state(norm: float, bias: float, narrow: None) -> None:
    """Behind a weak coupling the second state is its bias, and the rounding of that is fed back."""
    torch.manual_seed(0)
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    with torch.no_grad():
        second.weight.mul_(norm / torch.linalg.matrix_norm(second.weight, 2))
        second.bias.uniform_(0, bias)
    model = fc.convert(nn.Sequential(first, nn.ReLU(), second, nn.ReLU()), block_size=2, narrow=True)
    (found,), error = states_of(model, torch.randn(16, 64, generator=torch.Generator().manual_seed(1)))
    assert found.relaxation.converged
    assert error <= 4e-6


class Cancelling(nn.Module):
    """What o feeds back to h does not move g, whose weights are orthogonal to it; and g is small against what adds up to it."""

    def __init__(self, size: int, bias: float) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 4)
        generator = torch.Generator().manual_seed(0)
        back, rows = torch.randn(4, 64, generator=generator), torch.randn(64, 64, generator=generator)
        basis = torch.linalg.qr(back.T)[0]
        rows -= (rows @ basis) @ basis.T
        rows /= torch.linalg.matrix_norm(rows, 2)
        with torch.no_grad():
            self.a.weight.zero_(), self.a.bias.fill_(1.0)
            self.c.weight.copy_(back / back.norm()), self.c.bias.fill_(bias)
            self.b.weight.copy_(rows), self.b.bias.copy_(1 / size - rows.sum(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.relu(self.a(x))
        return torch.relu(self.b(h)), self.c(h)


@pytest.mark.parametrize(("size", "bias"), [(10, 100.0), (30, 100.0), (100, 100.0), (30, 10.0)])
@pytest.mark.parametrize("tolerance", [2e-5, 1e-4])
def test_rounding_is_bounded_by_what_is_multiplied(size: int, bias: float, tolerance: float, narrow: None) -> None:
    """Not by the result, where it cancels."""
    model = fc.convert(Cancelling(size, bias), block_size=3, narrow=True, tolerance=tolerance)
    found, error = states_of(model, torch.zeros(2, 64))
    assert all(f.relaxation.converged for f in found)
    assert error <= tolerance


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("weak", [1.0, 1e-2, 1e-4])
def test_a_loss_that_pulls_at_one_state_much_harder_than_at_another(scale: float, weak: float, narrow: None) -> None:
    torch.manual_seed(0)
    net = BothOut()
    with torch.no_grad():
        net.b.weight.mul_(scale)
    model = fc.convert(net, block_size=2, narrow=True)
    x, r, s = (torch.randn(16, n, generator=torch.Generator().manual_seed(n)) for n in (32, 64, 48))

    def gradients_of(m: fc.FFEBM) -> list[Tensor]:
        p = next(m.parameters())
        h, g = m(x.to(p.dtype))
        (h * r.to(p.dtype)).sum().add((g * s.to(p.dtype)).sum(), alpha=weak).backward()
        return [p.grad.double() for p in m.parameters()]

    reference = copy.deepcopy(model).double()
    with reference.using(estimator=fc.Implicit(), tolerance=1e-12):
        exact = gradients_of(reference)
    for a, b in zip(gradients_of(model), exact, strict=True):
        assert float((a - b).norm() / b.norm()) <= 3.8e-4


def test_a_displacement_that_is_cut_off_has_a_residual(narrow: None) -> None:
    """From zero it is off by its own size, not by infinity."""
    model, x = model_of("vgg", 2, max_sweeps=1)
    with pytest.warns(fc.ConvergenceWarning):
        gradients(model, x)
    records = [r for found in model.nudged_relaxation.values() for r in found if not r.converged]
    assert records
    assert all(0 < r.residual < 10 for r in records)
