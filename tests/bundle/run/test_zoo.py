"""The zoo from its bundles: each infers as the executor does, and a training step leaves the same gradients.

Gradients are compared relative to the largest of the model: one that is zero but for rounding (of a bias before a batch
norm) has no scale of its own. Models of other packages, which take minutes to export, are left to
``benchmarks/runtime_zoo.py``.
"""

from __future__ import annotations

import pytest
from models import ZOO, Entry
from runtimes import agreement

pytestmark = pytest.mark.slow

AGREES = 1e-5


@pytest.mark.parametrize("entry", [e for e in ZOO if e.requires == "torch"], ids=lambda e: e.name)
def test_inference_and_one_training_step(entry: Entry) -> None:
    found = agreement(entry)
    assert found.refused == 0
    assert found.outputs <= AGREES
    assert found.sweeps
    assert found.gradients <= AGREES
    assert found.statistics <= AGREES
