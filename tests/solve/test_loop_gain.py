"""Reverse gains and the certificate, against dense matrices."""

from __future__ import annotations

import copy
from collections.abc import Callable

import models
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.ir import Energy
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.solve import BoundBlock, Tolerance, bounded_gains, certify, followed_gains, relax, unit_gains
from ffebm_compiler.solve.contraction import gauss_seidel
from ffebm_compiler.solve.loop_gain import SURE, spectral_norms


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (
            nn.Conv2d(2, 3, 3, padding=1),
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            nn.Conv2d(7, 3, 1),
        )
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        g = F.interpolate(torch.tanh(self.norm(self.b(h))), scale_factor=2)
        return torch.sigmoid(self.c(torch.cat([h, 2 * g], 1)))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (models.mlp, (3, 8)),
    "tanh": (lambda: models.mlp(nn.Tanh, (6, 9, 9, 9, 9, 9, 3)), (3, 6)),
    "branching": (models.Branching, (3, 6)),
    "convolutional": (Convolutional, (2, 2, 6, 6)),
}


def bound(case: str, scale: float = 3.0) -> BoundBlock:
    make, shape = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net, x = make().double().eval(), torch.randn(shape, dtype=torch.float64)
        models._generic(net)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(scale)
    model = fc.convert(net, block_size=8, norm="held")
    (found,) = model.equilibrium(x)[1]
    (view,) = model.blocks
    weights = {k: v.detach() for k, v in (*model.named_parameters(), *model.named_buffers())}
    return BoundBlock(view.block, found.inputs, weights, unit_gains(view.block).layer_weights)


def jacobian(b: BoundBlock, source: str, target: str) -> Tensor:
    """J_lm of one sample, dense."""
    states = {k: v[:1] for k, v in b.feedforward().items()}
    inputs = {k: v[:1] for k, v in b.inputs.items()}
    one = BoundBlock(b.block, inputs, b.weights, b.layer_weights)
    found = torch.autograd.functional.jacobian(
        lambda s: one.drive(b.block.state(target), {**states, source: s}), states[source]
    )
    return found.reshape(-1, states[source].numel())


@pytest.mark.parametrize("case", CASES)
def test_norms_are_the_largest_singular_values(case: str) -> None:
    b = bound(case)
    norms, _ = spectral_norms(b)
    assert set(norms) == set(b.block.edges)
    for (l, m), norm in norms.items():
        exact = float(torch.linalg.matrix_norm(jacobian(b, l, m), 2))
        assert 0.98 * exact <= norm <= exact * (1 + 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("loop_gain", [0.01, 0.25, 2.0])
def test_every_loop_gain_is_bounded_and_no_feedback_is_amplified(case: str, loop_gain: float) -> None:
    b = bound(case)
    w = bounded_gains(b, loop_gain).layer_weights
    for l, m in b.block.edges:
        assert w[m] / w[l] * float(torch.linalg.matrix_norm(jacobian(b, l, m), 2)) ** 2 <= loop_gain * 1.05
        assert w[m] / w[l] <= 1
    assert all(w[o] == 1 for o in b.block.outputs if not any(l == o for l, _ in b.block.edges))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("loop_gain", [0.01, 0.1, 0.24])
def test_a_certified_energy_has_a_positive_definite_hessian(case: str, loop_gain: float) -> None:
    """At the equilibrium, over all coordinates, the smallest eigenvalue of D^-1/2 H D^-1/2 is at least 1 - coupling."""
    b = bound(case)
    gains = bounded_gains(b, loop_gain)
    certificate = certify(b.block, gains)
    assert certificate.loop_gain <= loop_gain * 1.0001
    if case in ("mlp", "tanh"):
        assert certificate.convex, "a chain with loop gains below a quarter"
    if certificate.coupling >= 1:
        assert not certificate.convex
        return
    assert certificate.convex is not b.block.is_routed
    b = BoundBlock(b.block, {k: v[:1] for k, v in b.inputs.items()}, b.weights, gains.layer_weights)
    states = relax(b, Tolerance(None, 2000)).states
    names, sizes = list(states), [v.numel() for v in states.values()]
    energy = Energy(b.block, {})

    def value(flat: Tensor) -> Tensor:
        parts = {n: p.view(states[n].shape) for n, p in zip(names, flat.split(sizes), strict=True)}
        return energy.value(parts, b.inputs, b.weights, b.layer_weights)

    hessian = torch.autograd.functional.hessian(value, torch.cat([states[n].flatten() for n in names]))
    scale = torch.cat(
        [
            torch.full((k,), b.layer_weights[n] / b.block.state(n).potential.slope).double()
            for n, k in zip(names, sizes, strict=True)
        ]
    ).rsqrt()
    smallest = float(torch.linalg.eigvalsh(scale[:, None] * hessian * scale)[0])
    assert smallest >= 1 - certificate.coupling * 1.03
    assert smallest > 0


def test_the_certificate_is_the_largest_eigenvalue() -> None:
    b = bound("tanh")
    gains = bounded_gains(b, 0.2)
    n = len(b.block.states)
    k = np.zeros((n, n))
    names = [s.name for s in b.block.states]
    for l, m in b.block.edges:
        i, j = names.index(l), names.index(m)
        k[i, j] = k[j, i] = np.sqrt(gains.layer_weights[m] / gains.layer_weights[l]) * gains.norms[l, m]
    assert certify(b.block, gains).coupling == pytest.approx(np.linalg.eigvalsh(k)[-1])


def test_gains_follow_moving_weights_from_where_they_were() -> None:
    """One power iteration a step keeps up with training steps of 1 %."""
    b = bound("tanh")
    gains = bounded_gains(b, 0.01)
    generator = torch.Generator().manual_seed(0)
    weights = dict(b.weights)
    for _ in range(30):
        weights = {
            k: v * (1 + 0.01 * torch.randn(v.shape, generator=generator, dtype=v.dtype)) for k, v in weights.items()
        }
        moved = BoundBlock(b.block, b.inputs, weights, b.layer_weights)
        gains = followed_gains(moved, 0.01, gains)
    fresh = bounded_gains(moved, 0.01)
    assert all(gains.norms[e] == pytest.approx(norm, rel=0.02) for e, norm in fresh.norms.items())


@pytest.mark.slow
def test_gains_that_follow_constant_weights_stay_those_of_the_long_iteration() -> None:
    b = bound("mlp")
    gains = long = bounded_gains(b, 0.01)
    for _ in range(3):
        gains = followed_gains(b, 0.01, gains)
    assert all(gains.norms[e] == pytest.approx(norm, rel=1e-3) for e, norm in long.norms.items())
    assert all(norm == pytest.approx(np.linalg.norm(jacobian(b, *e), 2), rel=1e-3) for e, norm in gains.norms.items())


def test_gains_of_weights_that_jump_are_measured_anew() -> None:
    """Norms that grow by a fifth are no training step, though their directions have turned by little: one step of power
    iteration would bound them from above, measured anew they are exact.
    """
    b = bound("tanh")
    gains = bounded_gains(b, 0.01)
    generator = torch.Generator().manual_seed(0)
    weights = {
        k: 1.2 * v + 0.1 * v.std() * torch.randn(v.shape, generator=generator, dtype=v.dtype) if v.dim() > 1 else v
        for k, v in b.weights.items()
    }
    moved = BoundBlock(b.block, b.inputs, weights, b.layer_weights)
    found, fresh = followed_gains(moved, 0.01, gains), bounded_gains(moved, 0.01)
    assert all(fresh.norms[e] > 1.05 * norm for e, norm in gains.norms.items())
    assert all(found.norms[e] == pytest.approx(norm, rel=1e-3) for e, norm in fresh.norms.items())


def test_images_of_another_size_are_measured_anew() -> None:
    model = fc.convert(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU()), block_size=2)
    for size in (8, 12, 12, 9):
        x = torch.randn(2, 1, size, size)
        model(x).sum().backward()
        with torch.no_grad():
            model.network[2].weight.mul_(1.01)
        (b,) = model.program.energy_blocks
        found = runner_of(model).gains(b)
        assert found is not None
        fresh = bounded_gains(runner_of(model).bound(b, {b.inputs[0]: x}), 0.01)
        assert all(found.norms[e] * 1.01 == pytest.approx(norm, rel=0.05) for e, norm in fresh.norms.items())


def test_unit_gains_have_no_certificate() -> None:
    b = bound("mlp")
    certificate = certify(b.block, unit_gains(b.block))
    assert not certificate.convex
    assert "not known" in certificate.reason


def test_gains_belong_to_the_weights_that_a_copy_has() -> None:
    torch.manual_seed(0)
    model = fc.convert(models.mlp(), block_size=4)
    x = torch.randn(5, 8)
    (view,) = model.blocks
    model(x).sum().backward()
    first = runner_of(model).gains(view.block)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.3)
    for pass_through in (lambda: None, lambda: model.eval()(x), lambda: model.train()(x)):
        pass_through()
        assert runner_of(model).gains(view.block).layer_weights != first.layer_weights
        assert runner_of(copied).gains(view.block).layer_weights == first.layer_weights


def test_a_pooled_block_with_two_equilibria_is_not_called_convex() -> None:
    """Two states that all but tie: whichever wins is pushed up by the feedback, and stays the winner."""
    net = nn.Sequential(nn.Conv1d(1, 1, 1), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(1, 1, 1), nn.ReLU()).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.fill_(1.0 if name.endswith("weight") else 0.0)
    model = fc.convert(net, 2, loop_gain=0.2)
    x = torch.tensor([[[1.0, 0.99]]], dtype=torch.float64)
    _, (settled,) = model.equilibrium(x)
    block = model.blocks[0]
    b = BoundBlock(
        block.block, settled.inputs, dict(net.named_parameters()), runner_of(model).gains(block.block).layer_weights
    )
    first, last = (s.name for s in block.block.states)
    ends = [
        relax(b, Tolerance(None, 1000), {first: torch.tensor([[start]]).double(), last: torch.ones(1, 1, 1).double()})
        for start in ([2.0, 0.0], [0.0, 2.0])
    ]
    assert all(e.relaxation.converged for e in ends)
    assert [int(e.states[first].argmax()) for e in ends] == [0, 1]
    assert block.certificate is not None
    assert block.certificate.coupling < 1
    assert not block.certificate.convex


def test_certificates_are_of_the_present_weights() -> None:
    """Asked for without another pass: the sizes of the last one are known."""
    model = fc.convert(models.mlp(nn.ReLU), 3, loop_gain=0.1).eval()
    model(torch.randn(3, 8))
    block = model.blocks[0].block
    before = runner_of(model).gains(block).norms
    with torch.no_grad():
        for p in model.parameters():
            p.data.mul_(2)
    for (edge, norm), exact in zip(runner_of(model).gains(block).norms.items(), before.values(), strict=True):
        assert norm == pytest.approx(2 * exact, rel=1e-5), edge
    fresh = fc.convert(model.to_feedforward(), 3, loop_gain=0.1)
    fresh(torch.randn(3, 8))
    assert model.blocks[0].certificate == fresh.blocks[0].certificate
    shown = [[(b.loop_gain, b.certificate) for b in m.report().blocks] for m in (model, fresh)]
    assert shown[0] == shown[1]


def test_a_norm_that_is_not_finite_is_an_error_that_names_the_weight() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model = fc.convert(net, block_size=2)
    model(torch.randn(2, 3))
    for bad in ("nan", "inf"):
        with torch.no_grad():
            model.get_submodule("2").weight.data[0, 0] = float(bad)
        for run in (lambda: model(torch.randn(2, 3)), lambda: model.eval()(torch.randn(2, 3)), model.report):
            with pytest.raises(
                fc.OptionError, match=r"coupling of 1 and 2: .* no finite number: 2\.weight is not finite"
            ):
                run()


def test_a_norm_of_finite_weights_may_overflow() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model = fc.convert(net, block_size=2)
    with torch.no_grad():
        model.get_submodule("2").weight.fill_(1e30)
    with pytest.raises(fc.OptionError, match=r"the products of 2\.weight, 2\.bias overflow"):
        model(torch.randn(2, 64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_of_half_precision_weights_are_those_of_float32(dtype: torch.dtype) -> None:
    """The square of a norm of 280 is beyond float16."""
    net = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    with torch.no_grad():
        net[2].weight.copy_(torch.eye(16) * 280 + torch.randn(16, 16))
    model = fc.convert(net, block_size=2).to(dtype)
    (block,) = model.program.energy_blocks
    (norm,) = bounded_gains(
        runner_of(model).bound(block, {block.inputs[0]: torch.zeros(2, 3, dtype=dtype)}), 0.01
    ).norms.values()
    exact = torch.linalg.matrix_norm(model.get_parameter("2.weight").detach().double(), 2)
    assert norm == pytest.approx(float(exact), rel=1e-3)


def matrix_of(edges: dict[tuple[int, int], float], size: int) -> np.ndarray:
    matrix = np.zeros((size, size))
    for (i, j), k in edges.items():
        matrix[i, j] = matrix[j, i] = k
    return matrix


@pytest.mark.parametrize(
    ("edges", "size", "expected"),
    [
        ({(0, 1): 0.1}, 2, 0.01),
        ({(0, 1): 0.1, (1, 2): 0.1}, 3, 0.02),  # a chain: the square of the largest eigenvalue
        ({(0, 1): 0.1, (1, 2): 0.1, (2, 3): 0.1, (0, 3): 0.1}, 4, 0.0625),  # a cycle in this order leaves more
        ({(0, 1): 0.1, (0, 2): 0.1, (1, 2): 0.1}, 3, 0.050717),
    ],
)
def test_the_contraction_of_a_sweep(edges: dict[tuple[int, int], float], size: int, expected: float) -> None:
    assert gauss_seidel(matrix_of(edges, size)) == pytest.approx(expected, rel=1e-4)


@given(st.integers(2, 7), st.integers(0, 10_000))
@settings(deadline=None, max_examples=60)
def test_sweeps_leave_that_part_of_an_error_in_either_order(size: int, seed: int) -> None:
    """The worst error is one without signs; a sweep forward, and one backward, of all states in turn."""
    generator = np.random.default_rng(seed)
    matrix = np.triu(generator.uniform(0, 0.8 / size, (size, size)) * (generator.random((size, size)) < 0.7), 1)
    matrix = matrix + matrix.T
    rho = gauss_seidel(matrix)
    for order in (list(range(size)), list(reversed(range(size)))):
        error, norms = np.ones(size), []
        for _ in range(40):
            for i in order:
                error[i] = matrix[i] @ error
            norms.append(error.max())
        assert norms[-1] <= norms[19] * rho**20 * 1.5
    assert rho >= matrix.max() ** 2 * (1 - 1e-9)  # no coupling is stronger than all of them together


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e-3, 1e-2, 3e-2])
def test_norms_that_follow_an_optimizer_fall_short_by_less_than_certificates_allow(rate: float) -> None:
    torch.manual_seed(0)
    model = fc.convert(nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5)), 3)
    optimizer, (block,) = torch.optim.Adam(model.parameters(), rate), model.program.energy_blocks
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(32, 20)), torch.randint(0, 5, (32,))).backward()
        followed = runner_of(model).block_gains.store.find(block, 0.01).norms
        exact = {
            edge: float(torch.linalg.matrix_norm(model.get_parameter(f"{i}.weight").detach(), 2))
            for edge, i in zip(followed, (2, 4), strict=True)
        }
        assert all(SURE * exact[e] <= norm <= 1.1 * exact[e] for e, norm in followed.items())
        optimizer.step()


def test_a_norm_that_grows_beyond_all_bounds_is_an_error_of_ours() -> None:
    model, x = (
        fc.convert(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double(), 2),
        torch.randn(3, 4).double(),
    )
    model(x)
    with torch.no_grad():
        model.get_parameter("2.weight").mul_(1e120)
    with pytest.raises(fc.OptionError, match=r"no finite number|beyond the range"):
        model(x)
