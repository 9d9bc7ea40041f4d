"""A loss that is no number has a gradient that is no number: zeros would hide it from the user and from a gradient
scaler.
"""

from __future__ import annotations

import math

import models
import pytest
import torch
from torch import nn

import ffebm_compiler as fc

ESTIMATORS = (
    fc.CenteredEP(),
    fc.CenteredEP(subtract=True),
    fc.OneSidedEP(),
    fc.TangentEP(),
    fc.Implicit(),
    fc.Unrolled(),
    fc.SPSA(),
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ffebm_compiler.ConvergenceWarning")
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("size", [1, 2])
def test_an_error_that_is_no_number_is_handed_on(estimator: fc.Estimator, value: float, size: int) -> None:
    model = fc.convert(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), size, estimator=estimator)
    (model(torch.randn(4, 6)) * value).sum().backward()
    assert not all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    assert not bool(torch.isfinite(model.get_parameter("0.weight").grad).all())


@pytest.mark.filterwarnings("ignore::ffebm_compiler.ConvergenceWarning")
def test_the_generated_step_hands_it_on_too() -> None:
    model = fc.convert(models.mlp(nn.ReLU), 2)
    model.training_step(torch.randn(3, 8), None, lambda output, y: output.sum() * math.nan)
    assert all(bool(torch.isnan(p.grad).any()) for p in model.parameters())


def test_the_warning_names_the_loss() -> None:
    model = fc.convert(models.mlp(nn.Tanh), 3)
    with pytest.warns(fc.ConvergenceWarning, match="If the loss and its gradient are finite"):
        (model(torch.randn(3, 8)) * math.nan).sum().backward()
