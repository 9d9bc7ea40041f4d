"""A potential's printed mathematics, read back and evaluated, is the energy that runs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pytest
import torch

from ffebm_compiler.ir import Potential
from ffebm_compiler.rules import RULES
from ffebm_compiler.rules.registry import example_potentials

READ = [pytest.param(p, id=f"{rule.name}-{i}") for rule in RULES for i, p in enumerate(example_potentials(rule))]
TOKEN = re.compile(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?|Li₂|[A-Za-z_]+|\S")
"""A number, a name or a sign."""
SIGNS = {"½": "0.5", "−": "-", "·": "*", "[": "(", "]": ")", "²": "**2", "Li₂": "dilogarithm"}


def dilogarithm(z: float) -> float:
    return sum(z**k / k**2 for k in range(1, 4000))


FUNCTIONS = {n: getattr(math, n) for n in ("log", "exp", "sqrt", "tanh", "atanh", "tan", "sin", "cos", "atan")}
NAMES = {**FUNCTIONS, "max": max, "min": min, "abs": abs, "dilogarithm": dilogarithm}


def evaluate(text: str, s: float) -> float:
    """Printed mathematics at one state: a sum over one element is the element, a norm its magnitude."""
    condition = re.search(r"Σ(\[.*\]) over s<0", text)
    if condition is not None and s >= 0:
        text = text.replace(condition.group(0), "0")
    text = text.replace(" over s<0", "").replace("Σ", "")
    return float(eval("".join(python(TOKEN.findall(text))), {"s": s, **NAMES}))


def python(tokens: list[str]) -> Iterator[str]:
    """As Python reads it: with the signs of products that mathematics leaves out, and bars as magnitudes."""
    before, bar, applied = "(", False, False  # within bars; after a function that is applied to the next name: log s
    for token in (SIGNS.get(t, t) for t in tokens):
        if token in ("|", "‖"):
            token = ")" if bar else "abs("
            bar = not bar
        value = before[-1] == ")" or before == "**2" or before[-1].isdigit() or before == "s"
        opens = token[0].isalnum() or token == "("
        if value and opens:
            yield "*"
        yield f"({token})" if applied and token != "(" else token
        before, applied = token, token in FUNCTIONS


@pytest.mark.parametrize("p", READ)
def test_what_is_printed_is_what_runs(p: Potential) -> None:
    inside = [s for s in (-1.5, -0.9, -0.3, 0.05, 0.2, 0.7, 0.99, 1.8) if p.lower < s < p.upper]
    assert len(inside) >= 4
    for s in inside:
        value = float(p.energy(torch.tensor(s, dtype=torch.float64)))
        assert evaluate(p.text.format(s="s"), s) == pytest.approx(value, rel=2e-5, abs=1e-6), s
