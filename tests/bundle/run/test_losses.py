"""Losses in closed form against automatic differentiation of torch's own, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ffebm_compiler.bundle.run.losses import LOSSES, loss_of
from ffebm_compiler.errors import InputError, OptionError

REFERENCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "huber": F.huber_loss,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
}


def test_every_loss_has_a_reference() -> None:
    assert set(REFERENCES) == set(LOSSES)


def agrees(name: str, outputs: Tensor, target: Tensor) -> None:
    leaf = outputs.clone().requires_grad_()
    exact = REFERENCES[name](leaf, target)
    (gradient,) = torch.autograd.grad(exact, leaf)
    loss, error = LOSSES[name](outputs, target)
    torch.testing.assert_close(loss, exact.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(error, gradient, rtol=1e-12, atol=1e-12)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    name=st.sampled_from(sorted(REFERENCES)), batch=st.integers(1, 4), inner=st.integers(1, 5), seed=st.integers(0, 99)
)
def test_of_values(name: str, batch: int, inner: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    outputs = 3 * torch.randn(batch, inner, 2, generator=g, dtype=torch.float64)
    target = torch.rand(batch, inner, 2, generator=g, dtype=torch.float64)
    if name == "cross_entropy":
        target = target / target.sum(1, keepdim=True)
    agrees(name, outputs, target)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(classes=st.integers(1, 6), places=st.lists(st.integers(1, 3), max_size=2), seed=st.integers(0, 99))
def test_of_classes(classes: int, places: list[int], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    outputs = 5 * torch.randn(4, classes, *places, generator=g, dtype=torch.float64)
    agrees("cross_entropy", outputs, torch.randint(0, classes, (4, *places), generator=g))


def test_extreme_logits_stay_finite() -> None:
    outputs = torch.tensor([[1000.0, -1000.0], [0.0, 1e-30]])
    loss, error = LOSSES["cross_entropy"](outputs, torch.tensor([1, 0]))
    assert float(loss) == pytest.approx(1000.3466, rel=1e-5)
    torch.testing.assert_close(error, torch.tensor([[0.5, -0.5], [-0.25, 0.25]]))


@pytest.mark.parametrize(
    ("name", "outputs", "target", "says"),
    [
        ("cross_entropy", torch.randn(3, 4), torch.tensor([0, 4, 1]), "class 4"),
        ("cross_entropy", torch.randn(3, 4), torch.tensor([0, -1, 1]), "class -1"),
        ("cross_entropy", torch.randn(3, 4), torch.tensor([0, 1]), r"\(2,\)"),
        ("cross_entropy", torch.randn(3), torch.tensor([0, 1, 2]), r"\(3,\)"),
        ("mse", torch.randn(3, 1), torch.randn(3), r"\(3,\)"),
        ("binary_cross_entropy", torch.randn(3), torch.randn(2), r"\(2,\)"),
        ("mse", torch.randn(3), 1.0, "float"),
    ],
)
def test_misfits_are_named(name: str, outputs: Tensor, target: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        LOSSES[name](outputs, target)


def test_a_named_loss_is_of_the_only_real_output() -> None:
    z, y = torch.randn(3, 4), torch.tensor([0, 3, 1])
    loss, error = LOSSES["cross_entropy"](z, y)
    found, errors = loss_of("cross_entropy")({"size": 3, "heads": [z.argmax(1), z]}, y)
    assert float(found) == float(loss)
    assert errors["size"] is None
    assert errors["heads"][0] is None
    assert torch.equal(errors["heads"][1], error)


@pytest.mark.parametrize("name", ["heads.1", "output.heads.1"])
def test_a_named_loss_is_of_the_output_that_is_named(name: str) -> None:
    z, y = torch.randn(3, 4), torch.rand(3, 4)
    found, errors = loss_of("mse", name)({"logits": z.exp(), "heads": (z.exp(), z)}, y)
    assert float(found) == float(LOSSES["mse"](z, y)[0])
    assert errors["logits"] is None
    assert errors["heads"][0] is None
    assert torch.equal(errors["heads"][1], LOSSES["mse"](z, y)[1])


@pytest.mark.parametrize(
    ("output", "outputs", "says"),
    [
        (
            None,
            (torch.randn(3), torch.randn(3)),
            r"returns several outputs: 0, 1\s+Say which: loss_output=\"0\" \(--loss-output",
        ),
        ("logit", {"logits": torch.randn(3), "size": 3}, 'Did you mean "logits"'),
        ("logits", torch.randn(3), "the model returns output"),
        (None, {"size": 3, "classes": torch.tensor([1])}, "returns no real numbers"),
    ],
)
def test_which_output_a_loss_is_of_is_asked(output: str | None, outputs: object, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        loss_of("mse", output)(outputs, torch.randn(3))


def test_a_loss_of_ones_own_chooses_itself() -> None:
    with pytest.raises(OptionError, match="loss_output"):
        loss_of(LOSSES["mse"], "logits")


def test_a_misspelled_loss_is_suggested() -> None:
    with pytest.raises(OptionError, match="cross_entropy"):
        loss_of("crossentropy")
