"""The tables in docs/costs.md are the code's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_tables_of_the_page_are_the_constants() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate_costs.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, "run python docs/generate_costs.py" + done.stderr
