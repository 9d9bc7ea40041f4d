"""The generated training step gives the gradient of ``loss.backward()``, to float64 round-off."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc


class Skips(nn.Module):
    """Skip connections inside and across blocks, dropout, a norm, a shared layer, a computed weight, a learned
    scale.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.a = nn.Conv2d(6, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 6, 3, padding=1)
        self.drop = nn.Dropout(0.3)
        self.c = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 4, 3))
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.head = nn.Linear(4, 5)
        self.aux = nn.Linear(6, 3)

    def forward(self, x: Tensor, shift: Tensor | None = None) -> dict[str, Tensor]:
        h = F.relu(self.norm(self.stem(x)), inplace=True)
        skip = h
        h = torch.tanh(self.a(h))
        h = self.a(h) + self.b(h)
        h += skip
        h = F.max_pool2d(h.relu_(), 2)
        aux = self.aux(h.mean((2, 3)))
        h = F.silu(self.c(self.drop(h))) * self.scale
        return {"logits": self.head(F.adaptive_avg_pool2d(h, 1).view(h.size(0), -1)), "aux": aux}


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(12, 2)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.out(torch.cat([torch.sigmoid(self.left(a)), F.hardtanh(self.right(b))], 1))


def dictionary_loss(output: dict[str, Tensor], y: Tensor) -> Tensor:
    return F.cross_entropy(output["logits"], y) + output["aux"].square().mean()


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(12, 9),
        nn.Sigmoid(),
        nn.LayerNorm(9),
        nn.Linear(9, 9),
        nn.GELU(),
        nn.Linear(9, 4),
        nn.Softmax(1),
    )


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[torch.Generator], Any], Any, Callable[..., Tensor]]] = {
    "skips": (
        Skips,
        lambda g: torch.randn(4, 3, 10, 10, generator=g, dtype=torch.float64),
        torch.arange(4),
        dictionary_loss,
    ),
    "two inputs": (
        TwoInputs,
        lambda g: tuple(torch.randn(5, n, generator=g, dtype=torch.float64) for n in (4, 3)),
        torch.zeros(5, 2).double(),
        F.mse_loss,
    ),
    "chain": (chain, lambda g: torch.randn(5, 3, 4, generator=g, dtype=torch.float64), torch.arange(5) % 4, F.nll_loss),
}
ESTIMATORS = [
    fc.CenteredEP(),
    fc.CenteredEP(1e-3),
    fc.CenteredEP(1e-2, subtract=True),
    fc.OneSidedEP(),
    fc.OneSidedEP(1e-3, sign=-1),
    fc.TangentEP(),
    fc.Implicit(),
]


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.parametrize("block_size", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_generated_step_is_backward(case: str, training: bool, block_size: int, estimator: Any) -> None:
    make, inputs, y, loss_fn = CASES[case]
    torch.manual_seed(0)
    model = fc.convert(make().double().train(training), block_size, estimator=estimator)
    twin = copy.deepcopy(model)
    x = inputs(torch.Generator().manual_seed(1))
    args = x if isinstance(x, tuple) else (x,)
    torch.manual_seed(2)
    expected = loss_fn(model(*args), y)
    expected.backward()
    torch.manual_seed(2)
    loss = twin.training_step(x, y, loss_fn)
    assert torch.equal(loss, expected)
    assert not loss.requires_grad
    largest = max(float(p.grad.norm()) for p in model.parameters() if p.grad is not None)
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert p.grad is not None, name
        assert q.grad is not None, name
        assert float((p.grad - q.grad).norm()) <= 1e-13 * max(float(p.grad.norm()), 1e-6 * largest), name
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)
    assert [r.block for r in twin.relaxation] == [r.block for r in model.relaxation]


def test_it_accumulates_like_backward() -> None:
    torch.manual_seed(0)
    model = fc.convert(TwoInputs().double(), 2)
    x, y = CASES["two inputs"][1](torch.Generator().manual_seed(1)), CASES["two inputs"][2]
    model.training_step(x, y, F.mse_loss)
    once = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.training_step({"a": x[0], "b": x[1]}, y, F.mse_loss)
    assert all(
        torch.allclose(p.grad, 2 * g) for p, g in zip(model.parameters(), once, strict=True) if p.grad is not None
    )


def test_frozen_weights_get_nothing() -> None:
    net = TwoInputs().double()
    net.right.requires_grad_(False)
    model = fc.convert(net, 2)
    model.training_step(CASES["two inputs"][1](torch.Generator().manual_seed(1)), CASES["two inputs"][2], F.mse_loss)
    assert model.get_parameter("right.weight").grad is None
    assert model.get_parameter("left.weight").grad is not None


def test_the_code_reads_in_the_users_names() -> None:
    model = fc.convert(Skips(), 2)
    code = model.training_code
    compile(code, "training_code", "exec")
    lines = code.splitlines()
    assert any(line.strip().startswith("drop = network.drop(") for line in lines)
    inference = [i for i, line in enumerate(lines) if "= EnergyPart(" in line]
    contrasts = [i for i, line in enumerate(lines) if ".contrast_tangent(" in line]
    assert len(inference) == len(contrasts) == len(model.blocks)
    assert max(inference) < min(contrasts)
    order = [lines[i].strip().split(".")[0].split("(")[-1].split(", ")[-1] for i in contrasts]
    assert order == [b.name for b in reversed(model.blocks)]
    assert code.count("displacement = ") == len(model.blocks)
    two_phases = fc.convert(Skips(), 2, estimator=fc.CenteredEP()).training_code
    assert two_phases.count("positive = ") == two_phases.count("negative = ") == len(model.blocks)


def test_code_for_another_partition_says_so() -> None:
    namespace: dict[str, Any] = {}
    exec(fc.convert(chain(), 1).training_code, namespace)
    with pytest.raises(LookupError, match="generated for another partition"):
        namespace["training_step"](fc.convert(chain(), 3), torch.randn(2, 3, 4), torch.zeros(2).long(), F.nll_loss)
