"""Every guard that the benchmark switches off is there, and so are the tests that have to miss it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.guards import GUARDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", GUARDS)
def test_a_guard_is_where_it_is_said_to_be(name: str) -> None:
    guard = GUARDS[name]
    owner, attribute = guard.found()
    assert hasattr(owner, attribute)
    assert all((ROOT / test.split("::")[0]).exists() for test in guard.tests)
