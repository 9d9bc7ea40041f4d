"""The expression of each activation, evaluated as SPICE does, is the activation."""

from __future__ import annotations

import math

import pytest
import torch

from ffebm_compiler.chip.spice.activations import expression
from ffebm_compiler.ir import IDENTITY, Potential
from ffebm_compiler.rules import RULES
from ffebm_compiler.rules.registry import example_potentials

READ = [("identity", IDENTITY), *((rule.name, p) for rule in RULES for p in example_potentials(rule))]
SPICE = {"ln": math.log, "exp": math.exp, "tanh": math.tanh, "sqrt": math.sqrt, "abs": abs, "min": min, "max": max}


@pytest.mark.parametrize("p", [pytest.param(p, id=f"{name}-{i}") for i, (name, p) in enumerate(READ)])
def test_an_expression_is_its_activation(p: Potential) -> None:
    written = expression(p, "(a)")
    if written is None:
        assert p.simplex is not None
        return
    points = torch.linspace(-7, 7, 57, dtype=torch.float64)
    found = [eval(written, {**SPICE, "a": a}) for a in points.tolist()]
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), p.activation(points), rtol=1e-7, atol=1e-7)
