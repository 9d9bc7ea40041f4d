"""Norms that are called as functions and held in blocks: the model itself is held likewise, and compared while
training.
"""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.model import verification
from ffebm_compiler.model.runner import Runner


class Functional(nn.Module):
    """A norm of the user's own buffers, called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.register_buffer("mean", torch.full((6,), 0.5))
        self.register_buffer("variance", torch.full((6,), 2.0))

    def norm(self, h: Tensor) -> Tensor:
        return F.batch_norm(h, self.mean, self.variance, training=self.training)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.norm(self.b(torch.tanh(self.a(x))))))  # type: ignore[no-any-return]


class OfTorch(Functional):
    def norm(self, h: Tensor) -> Tensor:
        return torch.batch_norm(h, None, None, self.mean, self.variance, self.training, 0.1, 1e-5, True)


class Twice(Functional):
    """The same statistics in a block and outside."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.softsign(self.norm(x).sort().values))


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> set[bool]:
    """The modes in which programs are run beside their models."""
    modes: set[bool] = set()
    run = verification._observed_program

    def noted(model: fc.FFEBM, *args: object) -> object:
        modes.add(model.training)
        return run(model, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "_observed_program", noted)
    return modes


@pytest.mark.parametrize("kind", [Functional, OfTorch])
@pytest.mark.parametrize("given", [False, True])
def test_it_is_compared_in_both_modes(kind: type[Functional], given: bool, compared: set[bool]) -> None:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    model = fc.convert(kind(), 3, norm="held", example_inputs=x if given else None)
    assert [o.label for b in model.program.energy_blocks for o in b.held_norms] == ["batch_norm"]
    assert compared == {False, True}
    mean = model.mean.clone()
    model.train()(x)
    assert torch.equal(model.mean, mean)


def test_what_it_hides_no_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does otherwise while it trains."""
    pack = Runner.pack_output
    monkeypatch.setattr(Runner, "pack_output", lambda self, v: pack(self, v) * (3.0 if self.training else 1.0))
    with pytest.raises(fc.VerificationError, match="output"):
        fc.convert(Functional(), 3, norm="held")


def test_statistics_that_are_held_in_one_call_of_two_are_named() -> None:
    model = fc.convert(Twice(), 3, norm="held").train()
    with pytest.warns(fc.ConversionWarning, match="the norm of mean is held in a block and not outside of it"):
        model(torch.randn(8, 6, generator=torch.Generator().manual_seed(0)))


def test_nothing_is_said_of_a_norm_that_can_be_compared() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fc.convert(Functional(), 3, norm="held")
