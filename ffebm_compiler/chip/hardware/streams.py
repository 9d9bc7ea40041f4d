"""Random numbers by name: each purpose has its own generator, so that drawing for one changes nothing for another."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *names: object) -> torch.Generator:
    """A generator on the CPU for one purpose of one chip: ``stream(chip_seed, "program", path)``."""
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *names))).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
