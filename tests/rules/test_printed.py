"""A potential's printed mathematics, read back and evaluated, is the energy that runs."""

from __future__ import annotations

import math
import re

import pytest
import torch
from ffebm_compiler.rules.exponential import SELU_ALPHA, SELU_SCALE, elu, softplus

from ffebm_compiler.ir import Potential
from ffebm_compiler.rules import RULES
from ffebm_compiler.rules.piecewise import clamp, leaky_relu
from ffebm_compiler.rules.registry import example_potential

OTHERS = (
    elu(0.5, rate=2.0, name="celu"), elu(0.7, 1.3, 0.4), elu(SELU_ALPHA, SELU_SCALE, name="selu"),
    leaky_relu(3.0), clamp(-1.0, 2.0, scale=0.3, shift=0.2), softplus(0.6),
)  # fmt: skip
READ = [(r.name, p) for r in RULES if (p := example_potential(r)) is not None]
SPELLINGS = (
    (r"Σ\[(.*)\] over s<0", r"((\1) if s<0 else 0)"),
    (r"‖([^‖]+)‖²", r"(\1)**2"),
    ("Σ", ""),
    (r"\[", "("),
    (r"\]", ")"),
    ("½", "0.5*"),
    ("−", "-"),
    ("·", "*"),
    (r"log s", "log(s)"),
    (r"([)s]) ?log", r"\1*log"),
    (r"(\d)s", r"\1*s"),
    ("Li₂", "dilogarithm"),
)


def dilogarithm(z: float) -> float:
    return sum(z**k / k**2 for k in range(1, 4000))


def evaluate(text: str, s: float) -> float:
    for pattern, python in SPELLINGS:
        text = re.sub(pattern, python, text)
    return eval(text, {"s": s, "log": math.log, "exp": math.exp, "dilogarithm": dilogarithm})


@pytest.mark.parametrize(("name", "p"), [*READ, *((p.name, p) for p in OTHERS)])
def test_what_is_printed_is_what_runs(name: str, p: Potential) -> None:
    inside = [s for s in (-1.5, -0.9, -0.3, 0.05, 0.2, 0.7, 0.99, 1.8) if p.lower < s < p.upper]
    assert len(inside) >= 4
    for s in inside:
        value = float(p.energy(torch.tensor(s, dtype=torch.float64)))
        assert evaluate(p.text.format(s="s"), s) == pytest.approx(value, rel=2e-5, abs=1e-6), s
