"""Freed memory stays with a process that asks for it, and with no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.speed import allocator
from benchmarks.speed.result import ROOT

SCRIPT = """
import sys
from pathlib import Path
import torch
from benchmarks.speed import allocator
chosen = allocator.choose(sys.argv[1])
pages = lambda: int(Path("/proc/self/statm").read_text().split()[1])
before = pages()
torch.ones(50_000_000)  # 200 MB, freed at once
print(chosen, (pages() - before) * 4096 > 100e6)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc to read memory from")
@pytest.mark.parametrize("wanted", [allocator.KEEPING, allocator.PLAIN])
def test_freed_memory(wanted: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, wanted], cwd=ROOT, capture_output=True, text=True, check=True)
    chosen, keeps = done.stdout.split()
    assert (chosen == allocator.KEEPING) == (keeps == "True")
    assert chosen == wanted or wanted == allocator.KEEPING


def test_elsewhere_than_on_linux_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    assert allocator.choose(allocator.KEEPING) == allocator.PLAIN
