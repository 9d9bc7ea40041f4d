"""What every test shares: one thread, a seed, and the modules of this directory.

Test modules are imported by path (``--import-mode=importlib``), so ``models``, ``oracle`` and the like are put on the
path here, once: ``from models import ZOO`` then works in any test file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it gives


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def plain_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor without over-relaxation, sweep by sweep what an exported loop does."""
    from ffebm_compiler.solve import over_relaxation

    monkeypatch.setattr(over_relaxation, "WORTH", 1.0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of ``open_failures.txt`` are expected to fail; the reasons stand in the run's summary."""
    lines = (Path(__file__).parent / "open_failures.txt").read_text(encoding="utf-8").splitlines()
    known = dict(line.split(" | ") for line in lines if " | " in line)
    for item in items:
        if item.nodeid in known:
            item.add_marker(pytest.mark.xfail(reason=known[item.nodeid], strict=False))
