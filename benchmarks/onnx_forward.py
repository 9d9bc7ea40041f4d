"""Does onnxruntime run the digital parts of a VGG-11 as fast as PyTorch does?"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

import ffebm_compiler as fc
from benchmarks import common
from benchmarks.speed.timing import race
from examples import command, networks
from ffebm_compiler import runtime
from ffebm_compiler.bundle.run.onnx_part import part_of
from ffebm_compiler.ir import DigitalBlock
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.train import run_digital

DESCRIPTION = """
Compiles VGG-11 with batch norm to a bundle and times the digital parts of an inference in onnxruntime, from tensors to
tensors, against the same parts in PyTorch (eager, no gradients), in turn, in one run: once with the whole network
digital, once converted at the block size. Exit code 1 if onnxruntime is slower over the whole network.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/onnx_forward.py
"""
ALLOWED, AGREES = 1.0, 1e-5


def parser() -> argparse.ArgumentParser:
    p = common.parser("onnx_forward.py", DESCRIPTION)
    p.add_argument("--batch", type=command.whole, default=8, help="images a batch")
    p.add_argument("--side", type=command.whole, default=224, help="pixels of an image's side")
    p.add_argument("--block-size", type=command.whole, default=2, help="weighted layers of a block")
    p.add_argument("--repeats", type=command.whole, default=9, help="times that each is timed")
    return p


def digital_values(model: fc.FFEBM, x: Tensor) -> dict[str, Any]:
    """Every value of an inference, by the program's names."""
    values = model.bind_inputs((x,), {})
    for step in model.program:
        if isinstance(step, DigitalBlock):
            values.update(run_digital(step, model.network, values))
        else:
            found = runner_of(model).bound(step, values).feedforward()
            values.update({n: found[n] for n in step.outputs})
    return values


def measure(net: nn.Module, name: str, x: Tensor, repeats: int, **conversion: Any) -> dict[str, Any]:
    """One row: the digital parts of one conversion."""
    model = fc.convert(net, **conversion).eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = model.compile_to(Path(folder) / "bundle", x[:2])
        loaded = runtime.load(path)
        parts = [b for b in model.program if isinstance(b, DigitalBlock)]
        values = digital_values(model, x)

        def ours() -> list[dict[str, Any]]:
            return [part_of(loaded.model.network, b.name).evaluate([values[n] for n in b.inputs]) for b in parts]

        def theirs() -> list[dict[str, Any]]:
            return [run_digital(b, model.network, values) for b in parts]

        worst = max(_difference(a[n], v) for a, b in zip(ours(), theirs(), strict=True) for n, v in b.items())
        found = race({"onnxruntime": ours, "PyTorch": theirs}, repeats)
        milliseconds, times = found.milliseconds("onnxruntime"), found.ratio("onnxruntime", "PyTorch").median
    layers = sum(len(b.origins) for b in parts)
    return {
        "network": name, "digital parts": len(parts), "operations": layers, "onnxruntime ms": f"{milliseconds:.1f}",
        "times PyTorch's": round(times, 3), "worst difference": f"{worst:.1e}",
    }  # fmt: skip


def _difference(a: Any, b: Any) -> float:
    return float((a - b).abs().max() / b.abs().max()) if isinstance(b, Tensor) else float(a != b)


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    generator = torch.Generator().manual_seed(options.seed)
    side, hidden, batch, repeats = (
        (32, 64, 2, 3) if options.quick else (options.side, 4096, options.batch, options.repeats)
    )
    net = common.as_trained(networks.vgg11_bn(generator, hidden=hidden)).eval()
    x = torch.randn(batch, 3, side, side, generator=generator)
    whole = measure(net, "vgg11_bn, all digital", x, repeats, block_size=1, digital=lambda name, module: True)
    split = measure(net, f"vgg11_bn, blocks of {options.block_size}", x, repeats, block_size=options.block_size)
    worst = whole["times PyTorch's"]
    verdict = (
        f"onnxruntime's digital forward takes {worst:.2f} times PyTorch's on vgg11_bn ({ALLOWED} allowed); "
        f"batch {batch}, {side} x {side}, {torch.get_num_threads()} threads, median of {repeats}"
    )
    common.finish(options, "onnx_forward", [whole, split], [verdict])
    agree = all(float(r["worst difference"]) <= AGREES for r in (whole, split))
    return 0 if worst <= ALLOWED and agree else 1


if __name__ == "__main__":
    command.run(main)
