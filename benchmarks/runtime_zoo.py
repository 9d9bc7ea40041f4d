"""Does every model of the zoo run and train from its bundle as it does in the torch executor?"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # where the zoo is
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

from models import ZOO, Entry
from runtimes import Agreement, agreement

import ffebm_compiler as fc
from benchmarks import common
from examples import command

DESCRIPTION = """
Compiles each model of the tests' zoo, loads it, infers, and takes one training step with the same dropout on both
sides. Outputs and gradients (relative to the model's largest) must agree within 1e-5, or where rounding is amplified
(batch norms over two values) within three times what separates the executor's own gradients in float32 from exact ones.

    python benchmarks/runtime_zoo.py
    python benchmarks/runtime_zoo.py --models resnet18,bert
"""
ALLOWED, ROUNDINGS = 1e-5, 3


def parser() -> argparse.ArgumentParser:
    p = common.parser("runtime_zoo.py", DESCRIPTION)
    p.add_argument(
        "--models", type=command.listed(str), metavar="NAME,...", help="which; all that are installed if not given"
    )
    p.add_argument("--heavy", action="store_true", help="also those with a hundred million weights")
    return p


def chosen(options: argparse.Namespace) -> list[Entry]:
    quick = [e for e in ZOO if e.requires == "torch"][:8] if options.quick else ZOO
    named = [e for e in ZOO if e.name in options.models] if options.models else quick
    return [e for e in named if e.installed and (options.heavy or options.models or not e.heavy)]


def agrees(found: Agreement) -> bool:
    allowed = max(ALLOWED, ROUNDINGS * found.rounding)
    within = found.outputs <= ALLOWED and found.gradients <= allowed and found.statistics <= allowed
    return within and found.sweeps and not found.refused


def row(entry: Entry, found: Agreement) -> dict[str, Any]:
    return {
        "model": entry.name,
        "outputs": f"{found.outputs:.1e}",
        "gradients": f"{found.gradients:.1e}",
        "executor's rounding": f"{found.rounding:.1e}",
        "statistics": f"{found.statistics:.1e}",
        "same sweeps": found.sweeps,
        "refused": found.refused,
        "agrees": agrees(found),
    }


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        for entry in tqdm(chosen(options), desc="models", leave=False, disable=None):
            rows.append(row(entry, agreement(entry)))
    agree = sum(r["agrees"] for r in rows)
    within = sum(float(r["gradients"]) <= ALLOWED for r in rows)
    note = (
        f"{agree} of {len(rows)} models agree; the gradients of {within} within {ALLOWED:g}, of the others "
        f"within {ROUNDINGS} times the executor's own rounding"
    )
    common.finish(options, "runtime_zoo", rows, [note])
    return 0 if agree == len(rows) else 1


if __name__ == "__main__":
    command.run(main)
