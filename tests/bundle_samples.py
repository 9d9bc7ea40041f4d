"""Small bundles for the tests of writing, reading and fuzzing them."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

import ffebm_compiler as fc
from benchmarks.mutations.model import Variety
from ffebm_compiler.bundle import Contents, read_bundle
from ffebm_compiler.bundle.write.writing import bundle_files


@functools.cache
def variety() -> Contents:
    """The contents of that model's bundle."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = fc.convert(Variety(), block_size=3, loop_gain=0.1).eval()
        with tempfile.TemporaryDirectory() as folder:
            return read_bundle(model.compile_to(Path(folder, "b"), (torch.randn(2, 1, 4, 4),)))


@functools.cache
def variety_files() -> Mapping[str, bytes]:
    return bundle_files(variety())
