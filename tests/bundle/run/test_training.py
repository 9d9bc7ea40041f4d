"""Training from a bundle: the executor's curve, without automatic differentiation, resumed as if never interrupted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runtimes import SameDropout, compiled, loaded, no_differentiation
from torch import Tensor, nn

import ffebm_compiler as fc
from benchmarks import runtime_training as benchmark
from ffebm_compiler.bundle.run import Runtime, load
from ffebm_compiler.bundle.run.load import runtime_of
from ffebm_compiler.errors import InputError, OptionError

pytestmark = pytest.mark.slow

STEPS = 20


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("network", ["convolutional", "perceptron"])
def test_the_curve_is_the_executors(network: str, optimizer: str) -> None:
    found = benchmark.compare(network, optimizer, 0, STEPS)
    assert found["largest difference"] <= benchmark.ALLOWED
    assert float(found["last loss"]) < float(found["first loss"]), "it learns"


class Everything(nn.Module):
    """A batch norm, dropout, a computed weight, a frozen one and a tied one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 12))
        self.hidden, self.again = nn.Linear(12, 12), nn.Linear(12, 12)
        self.again.weight = self.hidden.weight
        self.head = nn.Linear(12, 3)
        self.head.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.first(x)))
        h = nn.functional.max_pool2d(torch.relu(self.second(h)), 2).flatten(1)
        h = nn.functional.dropout(torch.tanh(self.normed(h)), 0.25, self.training)
        return self.head(torch.relu(self.again(torch.relu(self.hidden(h)))))


def everything() -> fc.FFEBM:
    return fc.convert(Everything(), block_size=2)


def batches(count: int, size: int = 6) -> list[tuple[Tensor, Tensor]]:
    g = torch.Generator().manual_seed(7)
    return [(torch.randn(size, 1, 4, 4, generator=g), torch.randint(0, 3, (size,), generator=g)) for _ in range(count)]


@pytest.fixture(scope="module")
def contents() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return compiled(everything(), (batches(1)[0][0],))


def test_dropout_norms_computed_frozen_and_tied_weights_train_as_in_the_executor(contents: Any) -> None:
    torch.manual_seed(0)
    model = everything().train()
    runtime = runtime_of(contents)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05, momentum=0.9)
    trainer = runtime.trainer(optimizer="sgd", learning_rate=0.05, momentum=0.9, seed=11)
    with model.using(verify=False), SameDropout(11):
        for x, y in batches(8):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            assert float(trainer.step(x, y)) == pytest.approx(float(loss.detach()), abs=1e-5)
    theirs = model.state_dict()
    ours = runtime.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert torch.equal(ours["head.bias"], contents.tensors["head.bias"]), "frozen"
    assert torch.equal(ours["again.weight"], ours["hidden.weight"]), "tied"


def test_weights_go_back_into_the_model_of_the_user(contents: Any) -> None:
    runtime = runtime_of(contents)
    trainer = runtime.trainer(learning_rate=0.1)
    x, y = batches(1)[0]
    for _ in range(3):
        trainer.step(x, y)
    net = Everything()
    net.load_state_dict(runtime.state_dict())
    model = fc.convert(net, block_size=2).eval()
    with torch.no_grad():
        torch.testing.assert_close(runtime(x), model(x), rtol=1e-5, atol=1e-6)
    assert net.again.weight is net.hidden.weight

    other = runtime_of(contents).load_state_dict(net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other(x), model(x), rtol=1e-3, atol=1e-5)  # its reverse gains are measured anew


@pytest.mark.parametrize("estimator", [fc.CenteredEP(), fc.OneSidedEP(), fc.TangentEP(), fc.CenteredEP(subtract=True)])
def test_nothing_is_differentiated_automatically(contents: Any, monkeypatch: Any, estimator: fc.Estimator) -> None:
    runtime = runtime_of(contents, estimator=estimator)
    trainer = runtime.trainer()
    data = batches(3)
    runtime(data[0][0])
    first = trainer.step(*data[0])  # derives the code at these shapes
    with no_differentiation(monkeypatch):
        losses = [trainer.step(x, y) for x, y in data]
        runtime(data[0][0])
    assert all(not v.requires_grad for v in (first, *losses))
    with pytest.raises(AssertionError, match="at run time"), no_differentiation(monkeypatch):
        nn.functional.cross_entropy(runtime.model.network.head.weight.sum(0)[None], torch.tensor([0])).backward()


def test_another_batch_size(contents: Any) -> None:
    runtime = runtime_of(contents)
    trainer = runtime.trainer()
    (x, y), (few, some) = batches(1)[0], batches(1, 2)[0]
    assert runtime(few).shape == (2, 3)
    assert all(torch.isfinite(trainer.step(a, b)) for a, b in ((x, y), (few, some), (x, y)))


# --- checkpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-3},
        {"optimizer": "adam", "learning_rate": 1e-2},
        {"optimizer": "adamw", "learning_rate": 1e-2, "weight_decay": 0.1},
    ],
    ids=lambda o: str(o["optimizer"]),
)
def test_a_resumed_training_takes_the_steps_of_an_uninterrupted_one(
    contents: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    data = batches(6)
    whole = runtime_of(contents).trainer(seed=4, **options)
    losses = [whole.step(x, y) for x, y in data]

    first = runtime_of(contents).trainer(seed=4, **options)
    for x, y in data[:3]:
        first.step(x, y)
    path = first.save_checkpoint(tmp_path / "run.safetensors")
    resumed = runtime_of(contents).trainer(seed=99, **options).load_checkpoint(path)
    assert resumed.steps == 3
    again = [resumed.step(x, y) for x, y in data[3:]]
    assert torch.equal(torch.stack(again), torch.stack(losses[3:]))
    for (name, a), b in zip(whole.runtime.state_dict().items(), resumed.runtime.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_trained_bundle_is_saved_and_verifies(contents: Any, tmp_path: Path) -> None:
    from ffebm_compiler.bundle.run.verify import verify

    runtime = runtime_of(contents)
    trainer = runtime.trainer(learning_rate=0.1)
    for x, y in batches(3):
        trainer.step(x, y)
    path = runtime.save(tmp_path / "trained.ffebm")
    assert verify(path).ok
    again = load(path)
    x, _ = batches(1)[0]
    assert torch.equal(again(x), runtime(x))
    assert all(
        torch.equal(a, b) for a, b in zip(again.state_dict().values(), runtime.state_dict().values(), strict=True)
    )
    assert load(runtime.save(tmp_path / "folder")).contents.graphs == contents.graphs


# --- losses of one's own, several outputs ---------------------------------------------------------------


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> dict[str, Any]:
        h = torch.tanh(self.trunk(x))
        return {"a": self.a(h), "rest": [self.b(h), 7]}


def both(outputs: Any, target: Any) -> tuple[Tensor, Any]:
    a, b = outputs["a"], outputs["rest"][0]
    return a.square().sum() / 2 + b.sum(), {"a": a, "rest": [torch.ones_like(b), None]}


@pytest.fixture(scope="module")
def two_heads() -> Runtime:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return loaded(fc.convert(TwoHeads(), block_size=1), (torch.randn(4, 5),))


def test_a_loss_of_ones_own(two_heads: Runtime) -> None:
    x = torch.randn(4, 5)
    net = TwoHeads()
    net.load_state_dict(two_heads.state_dict())
    outputs = net(x)
    loss = outputs["a"].square().sum() / 2 + outputs["rest"][0].sum()
    loss.backward()
    two_heads.zero_grad()
    assert float(two_heads.train_step(x, None, both)) == pytest.approx(float(loss.detach()))
    for name, p in net.named_parameters():
        torch.testing.assert_close(two_heads.gradients()[name], p.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("errors", "says"),
    [
        (lambda o: {"a": o["a"]}, r"nothing for \['rest'\]"),
        (lambda o: {"a": o["a"][:1], "rest": None}, r"of the shape \(1, 3\)"),
        (lambda o: {"a": 1.0, "rest": None}, "a float"),
    ],
)
def test_errors_of_another_nest_are_refused(two_heads: Runtime, errors: Callable[[Any], Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        two_heads.train_step(torch.randn(4, 5), None, lambda o, y: (torch.zeros(()), errors(o)))


def test_an_output_without_error_trains_nothing(two_heads: Runtime) -> None:
    two_heads.zero_grad()
    two_heads.train_step(
        torch.randn(4, 5), None, lambda o, y: (o["a"].sum(), {"a": torch.ones_like(o["a"]), "rest": None})
    )
    assert "b.weight" not in two_heads.gradients() or not two_heads.gradients()["b.weight"].any()
    assert two_heads.gradients()["a.weight"].any()


# --- what can't be asked --------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [fc.Implicit(), fc.Unrolled(), fc.SPSA()])
def test_estimators_that_differentiate_are_refused_when_training(contents: Any, estimator: fc.Estimator) -> None:
    runtime = runtime_of(contents, estimator=estimator)
    x, y = batches(1)[0]
    assert runtime(x).shape == (6, 3)
    for train in (runtime.trainer, lambda: runtime.train_step(x, y)):
        with pytest.raises(OptionError, match=r"CenteredEP"):
            train()


def test_options_are_refused_together(contents: Any) -> None:
    runtime = runtime_of(contents)
    with pytest.raises(OptionError) as caught:
        runtime.trainer(optimizer="adma", learning_rate=-1.0, momentum=2.0, weight_decay=float("nan"))
    assert {p.where for p in caught.value.problems} == {
        "option optimizer", "option learning_rate", "option momentum", "option weight_decay"
    }  # fmt: skip
    with pytest.raises(OptionError, match="momentum"):
        runtime.trainer(optimizer="adam", momentum=0.9)
