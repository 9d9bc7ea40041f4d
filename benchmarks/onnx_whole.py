"""Does a whole model as one ONNX file compute what the torch executor does, in as many sweeps, and how fast?"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # where the zoo is
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

from models import ZOO, Entry

import ffebm_compiler as fc
from benchmarks import common
from benchmarks.speed.timing import race
from examples import command

DESCRIPTION = """
Writes each model of the tests' zoo as one ONNX file at each block size, and runs it in onnxruntime and in the torch
executor on three times as many samples as the file was made with. Exit code 1 if a result differs by more than 1e-5 of
its largest value, or a block takes another number of sweeps.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/onnx_whole.py
    python benchmarks/onnx_whole.py --models vgg,residual,resnet18 --block-sizes 2,3,6
"""
ALLOWED = 1e-5


def parser() -> argparse.ArgumentParser:
    p = common.parser("onnx_whole.py", DESCRIPTION)
    p.add_argument(
        "--models", type=command.listed(str), metavar="NAME,...", help="which; all that are installed if not given"
    )
    p.add_argument("--heavy", action="store_true", help="also those with a hundred million weights")
    p.add_argument(
        "--block-sizes",
        type=command.listed(command.whole),
        default=[2, 3],
        metavar="N,...",
        help="weighted layers of a block",
    )
    p.add_argument("--repeats", type=command.whole, default=7, help="times that each is timed")
    return p


def chosen(options: argparse.Namespace) -> list[Entry]:
    quick = [e for e in ZOO if e.name in ("mlp", "vgg", "residual")] if options.quick else ZOO
    named = [e for e in ZOO if e.name in options.models] if options.models else quick
    return [e for e in named if e.installed and (options.heavy or options.models or not e.heavy)]


@dataclass(frozen=True)
class Found:
    """One model at one block size.

    Attributes:
        blocks: the number of blocks, and of those with feedback.
        torch, onnxruntime: sweeps of the blocks with feedback.
        worst: the largest difference of a result, relative to its largest value.
        time: onnxruntime's, in the executor's.
    """

    blocks: tuple[int, int]
    torch: list[int]
    onnxruntime: list[int]
    worst: float
    time: float

    @property
    def agrees(self) -> bool:
        return self.worst <= ALLOWED and self.torch == self.onnxruntime


def measure(entry: Entry, size: int, repeats: int) -> Found:
    net, args = entry.build()
    model = fc.convert(net.eval(), block_size=size, example_inputs=args if entry.export else None)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = model.export_onnx(Path(folder) / "net.onnx", args, diagnostics=True)
        session = _session(path)
        more = torch.utils._pytree.tree_map_only(Tensor, lambda t: torch.cat([t, t.roll(1, -1), t.flip(0)]), args)
        feeds = {i.name: t.numpy() for i, t in zip(session.get_inputs(), _tensors(more), strict=True)}
        expected = [t.numpy() for t in _tensors(model(*more))]
        found = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
        results = [v for n, v in found.items() if n.startswith("output") and v.dtype.kind == "f"]
        worst = max(_difference(a, b) for a, b in zip(results, expected, strict=True))
        feedback = {b.block.name for b in model.blocks if b.block.has_feedback}
        records = [r for r in model.relaxation if r.block in feedback]
        taken = [int(found[f"{r.block}.sweeps"]) for r in records]
        works = {"onnxruntime": lambda: session.run(None, feeds), "executor": lambda: model(*more)}
        time = race(works, repeats).ratio("onnxruntime", "executor").median
    return Found((len(model.blocks), len(feedback)), [r.sweeps for r in records], taken, worst, time)


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _tensors(values: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(dict(values) if hasattr(values, "to_tuple") else values)
    return [v.detach() for v in leaves if isinstance(v, Tensor)]


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def row(entry: Entry, size: int, found: Found) -> dict[str, Any]:
    return {
        "model": entry.name, "block size": size, "blocks": found.blocks[0], "with feedback": found.blocks[1],
        "sweeps, torch": _shown(found.torch), "sweeps, onnxruntime": _shown(found.onnxruntime),
        "worst difference": f"{found.worst:.1e}", "times the executor's": round(found.time, 2), "agrees": found.agrees,
    }  # fmt: skip


def _shown(sweeps: Sequence[int]) -> str:
    return " ".join(map(str, sweeps))


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    jobs = [(e, s) for e in chosen(options) for s in options.block_sizes]
    found: list[Found] = []
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        for entry, size in tqdm(jobs, desc="models", leave=False, disable=None):
            found.append(measure(entry, size, 1 if options.quick else options.repeats))
            rows.append(row(entry, size, found[-1]))
    agree, blocks = sum(f.agrees for f in found), [b for f in found for b in zip(f.torch, f.onnxruntime, strict=True)]
    verdict = (
        f"{agree} of {len(found)} conversions agree within {ALLOWED:g} (worst {max(f.worst for f in found):.1e}); "
        f"{sum(a == b for a, b in blocks)} of {len(blocks)} blocks with feedback take the same sweeps; "
        f"onnxruntime takes {statistics.median(f.time for f in found):.2f} times the executor's time (median)"
    )
    common.finish(options, "onnx_whole", rows, [verdict])
    return 0 if agree == len(found) else 1


if __name__ == "__main__":
    command.run(main)
