"""The static experiment: gradients of equilibrium propagation, layer by layer, against the exact ones."""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

import ffebm_compiler as fc
from examples import command, networks, plotting, records

DESCRIPTION = """
Fifteen weighted layers in six energy-based blocks of different sizes, with a feedforward block (batch norm, or
max pooling and batch norm) before each of them; one batch of random images of 32 x 32 x 3 and random labels
(Nest & Ernoult, arXiv 2409.03306, static comparison of gradients). For every parameter, the cosine and the relative
error between an estimator's gradient and automatic differentiation through the equilibrium in float64.

    python examples/static_gradients.py
    python examples/static_gradients.py --sizes 2           the same layers in blocks of two

Writes gradients.csv (every parameter and estimator), gradients.txt (the table below), gradients.png and metrics.json.
"Subtracted" estimators relax two nudged states and subtract them, as a circuit does; the others relax the
difference itself.
"""

ESTIMATORS: dict[str, Any] = {
    "EP centered": fc.CenteredEP(),
    "EP one-sided": fc.OneSidedEP(),
    "EP tangent": fc.TangentEP(),
    "EP centered, beta 0.01": fc.CenteredEP(beta=0.01),
    "EP centered, subtracted": fc.CenteredEP(subtract=True),
    "EP one-sided, subtracted": fc.OneSidedEP(subtract=True),
    "unrolled": fc.Unrolled(),
}
TYPES = {"float32": torch.float32, "float64": torch.float64}
REQUIRED = {"float32": 0.999, "float64": 0.99999}
"""The worst cosine that EP must reach; the estimators that subtract states are shown for comparison."""

JUDGED = ("EP centered", "EP one-sided", "EP tangent")
ZERO = 1e-4
"""The largest estimate, relative to the largest gradient, of a gradient that is exactly zero."""


def parser() -> argparse.ArgumentParser:
    p = command.command("static_gradients.py", DESCRIPTION, "runs/static")
    p.add_argument(
        "--sizes",
        type=command.listed(command.whole),
        default=list(networks.STATIC_SIZES),
        metavar="N,N,...",
        help="layers of each block; one number for all blocks alike",
    )
    p.add_argument(
        "--widths",
        type=command.listed(command.whole),
        default=[32, 32, 64, 64, 128, 128],
        metavar="N,N,...",
        help="channels between the poolings, six numbers",
    )
    p.add_argument("--batch", type=command.whole, default=16, help="images in the batch")
    p.add_argument(
        "--loop-gain",
        type=command.positive,
        default=command.DEFAULT_LOOP_GAIN,
        help="bound on each coupling's loop gain",
    )
    return p


def compare(model: Any, x: torch.Tensor, y: torch.Tensor, quiet: bool = False) -> dict[str, Any]:
    """A comparison for each type and estimator, named ``"EP centered, float32"``."""
    found = {}
    with tqdm(total=len(TYPES) * len(ESTIMATORS), desc="comparing", disable=quiet or None, leave=False) as bar:
        for kind, dtype in TYPES.items():
            typed = copy.deepcopy(model).to(dtype)
            for label, estimator in ESTIMATORS.items():
                with typed.using(estimator=estimator):
                    found[f"{label}, {kind}"] = fc.compare_gradients(typed, x.to(dtype), y, F.cross_entropy)
                bar.update()
    return found


def rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a parameter and estimator."""
    return [
        {
            "parameter": p.name,
            "estimator": label,
            "cosine": p.cosine,
            "relative error": p.error,
            "exact gradient is zero": p.exact_is_zero,
        }
        for label, comparison in found.items()
        for p in comparison.parameters
    ]


def layer_table(found: Mapping[str, Any], label: str) -> str:
    """Cosine and relative error of each parameter, float32 beside float64."""
    narrow, wide = (found[f"{label}, {kind}"] for kind in TYPES)
    lines = [
        {
            "parameter": a.name,
            **{f"cosine {kind}": _cosine(p) for kind, p in zip(TYPES, (a, b))},
            **{f"error {kind}": f"{p.error:.1e}" for kind, p in zip(TYPES, (a, b))},
        }
        for a, b in zip(narrow.parameters, wide.parameters, strict=True)
    ]
    return records.table(lines)


def _cosine(p: Any) -> str:
    return "0 (exact)" if p.exact_is_zero else f"{p.cosine:.10f}"


def summary(found: Mapping[str, Any]) -> list[dict[str, str]]:
    """The worst parameter of each estimator, and whether it is as good as it must be."""
    lines = []
    for label, comparison in found.items():
        estimator, kind = label.rsplit(", ", 1)
        worst = comparison.worst
        verdict = "" if estimator not in JUDGED else "ok" if passes(comparison, kind) else f"below {REQUIRED[kind]}"
        lines.append(
            {
                "estimator": estimator,
                "type": kind,
                "worst cosine": f"{worst.cosine:.9f}",
                "relative error": f"{worst.error:.1e}",
                "at": worst.name,
                "required": verdict,
            }
        )
    return lines


def passes(comparison: Any, kind: str) -> bool:
    return not comparison.failing(REQUIRED[kind], ZERO)


def draw(found: Mapping[str, Any], path: Path, title: str) -> Path:
    """1 - cosine of every estimator; a gradient that is exactly zero is left out."""
    shown = [p.name for p in next(iter(found.values())).parameters if not p.exact_is_zero]
    panels = {
        kind: {label: {n: abs(1 - found[f"{label}, {kind}"][n][0]) for n in shown} for label in ESTIMATORS}
        for kind in TYPES
    }
    return plotting.gradient_errors(panels, REQUIRED, path, title)


def describe(model: Any) -> str:
    sizes = [b.size for b in model.blocks]
    return (
        f"{sum(sizes)} weighted layers in {len(sizes)} energy-based blocks of sizes {sizes}, "
        f"{len(model.program.digital_blocks)} feedforward blocks"
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if len(options.widths) != len(networks.STATIC_SIZES):
        raise fc.OptionError(
            fc.Problem(
                "option --widths",
                f"has {len(options.widths)} numbers",
                f"Give {len(networks.STATIC_SIZES)}, one for each stretch between poolings.",
            )
        )
    widths, batch = ([8, 8, 8, 8, 8, 8], 4) if options.quick else (options.widths, options.batch)
    generator = torch.Generator().manual_seed(options.seed)
    net = networks.fifteen_layers(generator, widths)
    sizes = {"block_size": options.sizes[0]} if len(options.sizes) == 1 else {"block_sizes": options.sizes}
    model = fc.convert(net, **sizes, loop_gain=options.loop_gain).train()
    x, y = torch.randn(batch, 3, 32, 32, generator=generator), torch.randint(0, 10, (batch,), generator=generator)
    print(describe(model))
    found = compare(model, x, y)
    text = "\n".join([describe(model), "", layer_table(found, "EP centered"), "", records.table(summary(found)), ""])
    print(text[len(describe(model)) + 1 :])
    config = {k: v for k, v in vars(options).items() if k != "out"} | {"widths": widths, "batch": batch}
    records.write_text(options.out / "gradients.txt", text)
    records.write_csv(options.out / "gradients.csv", rows(found))
    records.write_json(
        options.out / "metrics.json", {"config": config, "versions": records.versions(), "summary": summary(found)}
    )
    draw(found, options.out / "gradients.png", describe(model))
    print(f"results in {options.out}: gradients.txt, gradients.csv, gradients.png, metrics.json")
    return (
        0
        if all(passes(c, label.rsplit(", ", 1)[1]) for label, c in found.items() if label.rsplit(", ", 1)[0] in JUDGED)
        else 1
    )


if __name__ == "__main__":
    command.run(main)
