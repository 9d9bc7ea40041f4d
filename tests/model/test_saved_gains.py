"""Reverse gains travel with the weights, and what rests on them (the certificate, their next refresh) does too."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

import ffebm_compiler as fc
from ffebm_compiler.model.converted_module import runner_of

GAIN = 0.05


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))


def loaded(model: fc.FFEBM) -> fc.FFEBM:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = fc.convert(network(), block_size=3, loop_gain=GAIN)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


@pytest.fixture
def used() -> fc.FFEBM:
    model = fc.convert(network(), block_size=3, loop_gain=GAIN)
    model.train()(torch.randn(4, 6))
    return model


def test_a_loaded_model_keeps_gains_and_certificate(used: fc.FFEBM) -> None:
    (block,) = used.program.energy_blocks
    found, kept = runner_of(used).gains(block), runner_of(loaded(used)).gains(block)
    assert found is not None
    assert kept is not None
    assert kept.layer_weights == found.layer_weights
    assert kept.norms == found.norms
    assert "not known" not in str(loaded(used).report())


def test_the_first_training_step_of_a_loaded_model_measures_the_norms_afresh(used: fc.FFEBM) -> None:
    model = loaded(used).train()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    model(torch.randn(4, 6)).sum().backward()
    (block,) = model.program.energy_blocks
    gains = runner_of(model).gains(block)
    assert gains is not None
    exact = {
        edge: float(torch.linalg.matrix_norm(model.get_parameter(path).detach(), 2))
        for edge, path in zip(block.edges, ["2.weight", "4.weight"], strict=True)
    }
    for edge, norm in exact.items():
        assert gains.norms[edge] == pytest.approx(norm, rel=2e-3)
