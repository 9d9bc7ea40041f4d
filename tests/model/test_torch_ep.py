"""The converted model as an nn.Module: names, modes, copies, gains, options, energies."""

from __future__ import annotations

import copy
import io
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.model.converted_module import runner_of


class Residual(nn.Module):
    """Names that the converted model has too (``blocks``, ``report``), a skip, a norm, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)])
        self.report = nn.Linear(4, 3)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.act(self.norm(self.stem(x)))
        for conv in self.blocks:
            h = h + torch.tanh(conv(h))
        pooled = h.mean((2, 3))
        return self.report(pooled), pooled


@pytest.fixture
def net() -> Residual:
    torch.manual_seed(0)
    return Residual()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def loss_of(output: tuple[Tensor, Tensor]) -> Tensor:
    return output[0].square().sum() + output[1].sum()


def test_the_model_is_not_modified(net: Residual, x: Tensor) -> None:
    before = copy.deepcopy(net.state_dict())
    model = fc.convert(net, block_size=2)
    loss_of(model(x)).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    after = net.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert net.act.inplace
    assert all(p.grad is None for p in net.parameters())


def test_names_are_the_models_both_ways(net: Residual, x: Tensor) -> None:
    model = fc.convert(net, block_size=2)
    assert list(model.state_dict()) == list(net.state_dict())
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in net.named_parameters()]
    assert [n for n, _ in model.named_modules()] == [n for n, _ in net.named_modules()]
    other = Residual()
    model.load_state_dict(other.state_dict())
    net.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))


def test_attributes_of_the_model_are_reached(net: Residual) -> None:
    model = fc.convert(net, block_size=2)
    assert isinstance(model.stem, nn.Conv2d)
    assert isinstance(model.network.blocks, nn.ModuleList)
    assert all(b.name.startswith("block") for b in model.blocks)


def test_to_moves_everything(net: Residual, x: Tensor) -> None:
    model = fc.convert(net, block_size=2).to(torch.float64)
    assert model(x.double())[0].dtype == torch.float64
    assert model.network.stem.weight is model.get_parameter("stem.weight")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_types(net: Residual, x: Tensor, dtype: torch.dtype) -> None:
    model = fc.convert(net, block_size=3).to(dtype)
    loss_of(model(x.to(dtype))).backward()
    assert all(r.converged for r in model.relaxation)
    assert all(
        p.grad is not None and p.grad.dtype == dtype and torch.isfinite(p.grad).all() for p in model.parameters()
    )


def test_modes_reach_the_network(net: Residual) -> None:
    model = fc.convert(net, block_size=2)
    model.eval()
    assert not model.network.training
    assert not model.network.norm.training
    model.train()
    assert model.network.training
    assert model.network.norm.training


def test_a_deep_copy_is_independent(net: Residual, x: Tensor) -> None:
    model = fc.convert(net, block_size=2)
    model.eval()
    out = model(x)[0]
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x)[0], out)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert torch.equal(model(x)[0], out)
    assert not torch.equal(twin(x)[0], out)


def test_a_saved_state_gives_the_same_output(net: Residual, x: Tensor) -> None:
    """The gains travel in the metadata of the state dict, so that even warm-started ones come back."""
    model = fc.convert(net, block_size=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model(x)).backward()
        optimizer.step()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = fc.convert(Residual(), block_size=2)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh.eval()(x)[0], model.eval()(x)[0])


def test_loading_the_original_models_state_measures_the_gains_anew(net: Residual, x: Tensor) -> None:
    model = fc.convert(net, block_size=2).eval()
    model(x)
    stronger = {k: 3 * v if "weight" in k else v for k, v in net.state_dict().items()}
    model.load_state_dict(stronger)
    model(x)
    expected = fc.convert(net, block_size=2)
    expected.load_state_dict(stronger)
    expected.eval()(x)
    assert [b.layer_weights for b in model.blocks] == [b.layer_weights for b in expected.blocks]


def test_to_feedforward_is_the_users_own_model(net: Residual, x: Tensor) -> None:
    model = fc.convert(net, block_size=2)
    loss_of(model(x)).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    back = model.to_feedforward()
    assert type(back) is Residual
    assert back.act.inplace
    assert list(back.state_dict()) == list(net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), model.state_dict().values(), strict=True))
    assert back.stem.weight is not model.get_parameter("stem.weight")


@pytest.mark.parametrize("training", [True, False])
def test_gains_follow_weights_that_train_and_are_measured_anew_elsewhere(
    net: Residual, x: Tensor, training: bool
) -> None:
    """Whatever the mode: what counts is whether a gradient is recorded."""
    model = fc.convert(net, block_size=2).train(training)

    def used(run: Callable[[], Any]) -> list[dict[str, float]]:
        run()
        return [dict(runner_of(model).block_gains.store.find(b.block, 0.01).layer_weights) for b in model.blocks]  # type: ignore[union-attr]

    def evaluate() -> None:
        with torch.no_grad():
            model(x)

    train = lambda: loss_of(model(x)).backward()  # noqa: E731
    first = used(train)
    assert used(evaluate) == first
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.001 * torch.randn_like(p))
    followed, measured = used(train), used(evaluate)
    assert first != followed != measured
    assert used(train) == followed, "the weights have not moved"
    assert used(evaluate) == measured


def test_gains_of_a_forward_are_those_of_its_backward(net: Residual, x: Tensor) -> None:
    """Two forward passes with a weight change between them, then the first one's backward."""
    model = fc.convert(net, block_size=2)
    model.eval()
    seen: list[dict[str, float]] = []

    class Spy:
        def __call__(self, free, errors, wanted):  # type: ignore[no-untyped-def]
            seen.append(dict(free.bound.layer_weights))
            return fc.CenteredEP()(free, errors, wanted)

    with model.using(estimator=Spy()):
        out = model(x)
    before = {b.name: b.block for b in model.blocks}
    weights = [dict(runner_of(model).gains(b).layer_weights) for b in before.values()]  # type: ignore[union-attr]
    runner_of(model).block_gains.store.forget()
    loss_of(out).backward()
    assert all(s in weights for s in seen)
    assert seen


def test_using_restores_the_options(net: Residual) -> None:
    model = fc.convert(net, block_size=2)
    before = model.execution

    def fail() -> None:
        with model.using(estimator=fc.Implicit(), tolerance=1e-3, max_sweeps=7, loop_gain=None):
            assert model.execution.loop_gain is None
            assert model.execution.tolerance.max_sweeps == 7
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert model.execution is before


def test_relaxation_is_reported_by_block(net: Residual, x: Tensor) -> None:
    model = fc.convert(net, block_size=2)
    loss_of(model(x)).backward()
    assert [r.block for r in model.relaxation] == [b.name for b in model.blocks]
    assert all(r.converged and r.residual < 1e-5 and r.sweeps >= 1 for r in model.relaxation)
    assert set(model.nudged_relaxation) == {b.name for b in model.blocks}
    assert all(len(r) == 1 and all(p.converged for p in r) for r in model.nudged_relaxation.values())


def test_the_energy_is_least_at_the_equilibrium(net: Residual, x: Tensor) -> None:
    model = fc.convert(net.double().eval(), block_size=3, tolerance=1e-13, loop_gain=0.2)
    _, equilibria = model.equilibrium(x.double())
    generator = torch.Generator().manual_seed(3)
    for view, found in zip(model.blocks, equilibria, strict=True):
        least = view.energy.value(found.states, found.inputs)
        for _ in range(5):
            moved = {}
            for state in view.block.states:
                s = found.states[state.name] + 1e-3 * torch.randn(
                    found.states[state.name].shape, generator=generator, dtype=torch.float64
                )
                moved[state.name] = s.clamp(state.potential.lower, state.potential.upper)
            assert view.energy.value(moved, found.inputs) >= least


def test_the_energy_reads_as_mathematics(net: Residual) -> None:
    model = fc.convert(net, block_size=2)
    view = next(b for b in model.blocks if b.size == 2)
    text = str(view.energy)
    assert text.startswith("E(s[")
    for layer in view.layers:
        assert f"{layer}(" in text
    latex = view.energy.latex()
    assert latex.count("{") == latex.count("}")
    assert r"\begin{aligned}" in latex


def test_block_views(net: Residual) -> None:
    model = fc.convert(net, block_size=2)
    assert sum(b.size for b in model.blocks) == 5
    assert [layer for b in model.blocks for layer in b.layers] == ["stem", "blocks.0", "blocks.1", "blocks.2", "report"]
    assert all(b.states for b in model.blocks)


def test_certificates_of_the_default_gain(net: Residual, x: Tensor) -> None:
    model = fc.convert(net, block_size=3)
    assert any(b.certificate is None for b in model.blocks)
    model(x)
    assert all(b.certificate is not None and b.certificate.convex for b in model.blocks)
    assert all(b.certificate.loop_gain <= 0.0101 for b in model.blocks if b.certificate)
    with model.using(loop_gain=None), warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        model(x)
        assert any(not b.certificate.convex for b in model.blocks if b.certificate and b.block.has_feedback)


def test_any_loss_and_optimizer(net: Residual, x: Tensor) -> None:
    model = fc.convert(net, block_size=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    y = torch.arange(5) % 3
    first = F.cross_entropy(model(x)[0], y).item()
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(x)[0], y).backward()
        optimizer.step()
    assert F.cross_entropy(model(x)[0], y).item() < 0.5 * first


def test_gradients_accumulate_and_scale(net: Residual, x: Tensor) -> None:
    model = fc.convert(net.double().eval(), block_size=3)
    model.eval()
    loss_of(model(x.double())).backward()
    once = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    (2 * loss_of(model(x.double()))).backward()
    loss_of(model(x.double())).backward()
    assert all(
        torch.allclose(p.grad, 3 * g, rtol=1e-6)
        for p, g in zip(model.parameters(), once, strict=True)
        if p.grad is not None
    )


def test_the_gradient_of_the_input(net: Residual, x: Tensor) -> None:
    model = fc.convert(net.double().eval(), block_size=2)
    model.eval()
    grads = []
    for estimator in (fc.CenteredEP(), fc.Implicit()):
        with model.using(estimator=estimator):
            leaf = x.double().requires_grad_()
            loss_of(model(leaf)).backward()
            grads.append(leaf.grad)
    assert torch.allclose(grads[0], grads[1], rtol=1e-7)


def test_draw_and_report_name_the_users_layers(net: Residual, x: Tensor, tmp_path: Path) -> None:
    model = fc.convert(net, block_size=2)
    model(x)
    assert "blocks.1" in str(model.report())
    assert "blocks.1" in model.to_networkx()
    assert model.draw(tmp_path / "graph.html").read_text().count("blocks.1") > 0


def test_inference_mode(net: Residual, x: Tensor) -> None:
    model = fc.convert(net, block_size=3).eval()
    with torch.inference_mode():
        inside = model(x)[0]
    assert torch.equal(inside, model(x)[0])


def test_autocast_trains_in_mixed_precision(net: Residual, x: Tensor) -> None:
    model = fc.convert(net, block_size=3)
    loss_of(model(x)).backward()
    exact = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(x)
    assert output[0].dtype == torch.bfloat16
    loss_of((output[0].float(), output[1].float())).backward()
    for (name, p), g in zip(model.named_parameters(), exact, strict=True):
        assert p.grad is not None
        assert p.grad.dtype == torch.float32
        if name != "stem.bias":  # its exact gradient is zero: the norm after it takes the mean away
            assert F.cosine_similarity(p.grad.flatten(), g.flatten(), dim=0) > 0.99, name


def test_modules_that_the_user_holds_in_evaluation_mode_stay_there() -> None:
    frozen = Residual()
    frozen.norm.eval()
    model = fc.convert(frozen, block_size=2)
    assert model.training
    assert not model.network.norm.training


class Overwrites(nn.Module):
    """Writes into what it reads, and is called as a whole since it counts."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.calls = nn.Linear(16, 4), 0

    def forward(self, h: Tensor) -> Tensor:
        self.calls += 1
        h[:, 0] = 0.0
        y: Tensor = self.last(h.mul_(2))
        return y


def test_the_result_of_a_linear_layer_may_be_written_into() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), Overwrites()), torch.randn(5, 8)
    model = fc.convert(net, 2, loop_gain=1e-6)
    for each in (net, model):
        each(x).mul_(3).sum().backward()
    for name, p in net.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, p.grad, rtol=1e-3, atol=1e-4)


def test_an_equilibrium_is_that_of_the_block_whatever_reads_it() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), Overwrites()), torch.randn(5, 8)
    _, (block, *_) = fc.convert(net, 2, loop_gain=1e-6).equilibrium(x)
    expected = net[2](torch.relu(net[0](x)))
    torch.testing.assert_close([*block.states.values()][-1], expected.detach(), rtol=1e-3, atol=1e-4)


def test_weights_may_be_replaced_by_those_of_fewer_channels() -> None:
    """As structured pruning does."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(5, 8)
    model = fc.convert(net, 2, loop_gain=1e-6)
    model(x)
    for each in (net, model):
        each[0].weight, each[0].bias = (nn.Parameter(p[:7].detach()) for p in (each[0].weight, each[0].bias))
        each[2].weight = nn.Parameter(each[2].weight[:, :7].detach())
    model.report()
    torch.testing.assert_close(model(x), net(x), rtol=1e-3, atol=1e-4)


class Waits(nn.Module):
    """Lets another thread go on in the middle of the first call."""

    def __init__(self, entered: threading.Event, go: threading.Event) -> None:
        super().__init__()
        self.wait = lambda: entered.is_set() or (entered.set(), go.wait(0.5))

    def forward(self, x: Tensor) -> Tensor:
        self.wait()
        return x


def test_a_thread_that_calls_while_another_checks_loses_no_gradient() -> None:
    torch.manual_seed(0)
    entered, go = threading.Event(), threading.Event()
    net = nn.Sequential(Waits(entered, go), nn.BatchNorm1d(8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    model, x = fc.convert(net, 2, copy=False, digital=["0", "1"], verify=False).train(), torch.randn(5, 8)
    bias = model[4].bias

    def step() -> None:
        model(x).sum().backward()
        go.set()

    with model.using(verify=True):
        threads = [threading.Thread(target=step) for _ in range(2)]
        threads[0].start()
        assert entered.wait(30)
        threads[1].start()
        for thread in threads:
            thread.join()
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad, torch.full((4,), 10.0), rtol=0.05, atol=0)
    assert int(model[1].num_batches_tracked) == 2
