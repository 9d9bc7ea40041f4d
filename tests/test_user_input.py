"""What users hand over that looks odd and is right: masks of -inf, generators of names, losses with weights of their
own.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ffebm_compiler as fc


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.softmax(self.b(torch.relu(self.a(x))) + mask.abs().neg(), -1)


def test_a_mask_of_minus_infinity_is_a_mask() -> None:
    net, x = Masked(), torch.randn(2, 6)
    mask = torch.tensor([[0.0, 0.0, -torch.inf, 0.0, 0.0, -torch.inf]] * 2)
    torch.testing.assert_close(fc.convert(net, 1)(x, mask), net(x, mask))
    for wrong in (-mask, mask.nan_to_num(neginf=torch.nan)):
        with pytest.raises(fc.InputError, match="input mask: has 4 values"):
            fc.convert(net, 1)(x, wrong)
    with pytest.raises(fc.InputError, match="input x: has 4 values"):
        fc.convert(net, 1)(mask, mask)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def test_names_may_come_from_a_generator_or_a_set() -> None:
    for names in ({"0"}, (n for n in ["0"]), {"0": None}.keys()):
        assert [b.layers for b in fc.convert(mlp(), 2, digital=names).blocks] == [("2", "4")]
    with pytest.raises(fc.PartitionError, match="insists"):
        fc.convert(nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 4)), 2, analog={"1"})


def test_a_loss_with_weights_of_its_own_is_compared() -> None:
    model = fc.convert(mlp(), 2)
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    found = fc.compare_gradients(model, torch.randn(4, 6), torch.tensor([0, 1, 2, 0]), loss_fn)
    assert found.worst.cosine > 0.9999
    assert loss_fn.weight.dtype == torch.float32


def test_a_model_that_cannot_be_copied_is_an_error_that_says_where() -> None:
    net = mlp()
    net[2].cached = net[0].weight * 2
    with pytest.raises(fc.OptionError, match=r"attribute 2\.cached.*copied"):
        fc.convert(net)


def test_a_mask_leaves_gradients_finite() -> None:
    """Also the -inf that a block reads: zero times infinity must not enter a gradient."""
    net, x = Masked(), torch.randn(2, 6)
    mask = torch.tensor([[0.0, 0.0, -torch.inf, 0.0, 0.0, -torch.inf]] * 2)
    for size in (1, 2):
        model = fc.convert(net, size)
        model(x, mask).square().sum().backward()
        if size == 1:
            net(x, mask).square().sum().backward()
            for name, p in net.named_parameters():
                torch.testing.assert_close(model.get_parameter(name).grad, p.grad, rtol=1e-5, atol=1e-7)
        assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())
