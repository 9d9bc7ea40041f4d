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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that isn't marked slow is fast: ``pytest -m fast`` runs these. A slow one takes about a second or more.

    What an older PyTorch has no means for is skipped there: ``since`` says which version has them.
    """
    for item in items:
        for needed in item.iter_markers("since"):
            version, why = needed.args
            if torch.__version__ < version:
                item.add_marker(pytest.mark.skip(reason=f"before torch {version} {why}"))
        if item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.fast)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture
def plain_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The executor without over-relaxation, sweep by sweep what an exported loop does."""
    from ffebm_compiler.solve import over_relaxation

    monkeypatch.setattr(over_relaxation, "WORTH", 1.0)
