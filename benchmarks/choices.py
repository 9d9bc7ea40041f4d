"""What the executor's choices save: each against the alternative that it was chosen over.

    steps         a training step in backprop steps, and an inference in feedforward ones, with one choice at a time
    undone operations    the time of an operation inside a sweep in that of the one that does the same or is done beside
    it

All contenders of a table are timed in turn in one run; docs/performance.md says what follows.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.choices [--quick]
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.functional import cosine_similarity

import ffebm_compiler as fc
from benchmarks import common
from benchmarks.speed.inference import inference
from benchmarks.speed.result import Options
from benchmarks.speed.step import BATCH
from benchmarks.speed.subjects import Batch, Subject, backprop, splitting, training_step
from benchmarks.speed.timing import Work, race
from examples import command
from ffebm_compiler.model.converted_module import runner_of
from ffebm_compiler.solve import AUTOMATIC

CHOICES: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "two nudged phases": {"estimator": fc.CenteredEP()},
    "tolerance 1e-4": {"tolerance": 1e-4},
}
DIFFERENTIATED = "automatic differentiation"
"""The choice that is no option: derivatives taken anew in every sweep."""


def models(subject: Subject, options: Options) -> dict[str, fc.FFEBM]:
    net = subject.network(options)
    found = {name: subject.convert(net, **given) for name, given in CHOICES.items()}
    found[DIFFERENTIATED] = subject.convert(net)
    runner_of(found[DIFFERENTIATED]).differentiation = AUTOMATIC
    return found


def steps(subject: Subject, options: Options) -> list[dict[str, Any]]:
    """One row a choice."""
    net, batch, found = subject.network(options), subject.batch(options, BATCH), models(subject, options)
    trained: dict[str, Work] = {n: training_step(m, batch) for n, m in found.items()}
    step = race({"backprop": backprop(net, batch), **trained}, options.times())
    sweeps = {n: max(r.sweeps for r in m.relaxation) for n, m in found.items()}
    inferred: dict[str, Work] = {n: inference(m.eval(), batch) for n, m in found.items()}
    infer = race({"feedforward": inference(copy.deepcopy(net).eval(), batch), **inferred}, options.times())
    exact = gradient(copy.deepcopy(models(subject, options)["as it is"]).double(), batch.double(), fc.Implicit())
    return [
        {
            "network": subject.name,
            "choice": n,
            "training step": _shown(step.ratio(n, "backprop").median),
            "inference": _shown(infer.ratio(n, "feedforward").median),
            "free sweeps": sweeps[n],
            "1 - cosine": f"{1 - float(cosine_similarity(gradient(m, batch), exact, dim=0)):.0e}",
        }
        for n, m in models(subject, options).items()
    ]


def gradient(model: fc.FFEBM, batch: Batch, estimator: Any = None) -> Tensor:
    """All gradients of one step as one vector, in float64; exact ones relax to the last digits."""
    with model.using(estimator=estimator, tolerance=None if estimator is None else 1e-12):
        batch.loss(model(batch.x)).backward()
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


def operations(size: tuple[int, int, int, int], rounds: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """One row an alternative."""
    a, b = (torch.randn(size, generator=generator) for _ in range(2))
    slope, mask = (a > 0).float(), a > 0
    last = a.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(size[1], size[1], 3, 3, generator=generator)
    pairs: Mapping[str, tuple[Callable[[], Any], str, Callable[[], Any]]] = {
        "product with a mask": (lambda: b * mask, "product with a slope", lambda: b * slope),
        "torch.where": (lambda: torch.where(mask, b, 0.0), "product with a slope", lambda: b * slope),
        "masked_fill": (lambda: b.masked_fill(mask, 0.0), "product with a slope", lambda: b * slope),
        "largest magnitude by vector_norm": (
            lambda: torch.linalg.vector_norm(a, float("inf")),
            "by aminmax",
            lambda: torch.stack(torch.aminmax(a)).abs().amax(),
        ),
        "max pooling, channels first": (lambda: F.max_pool2d(a, 2), "channels last", lambda: F.max_pool2d(last, 2)),
        "convolution, channels first": (
            lambda: F.conv2d(a, weight, padding=1),
            "channels last",
            lambda: F.conv2d(last, weight, padding=1),
        ),
        "from channels first to last": (
            lambda: a.contiguous(memory_format=torch.channels_last),
            "convolution",
            lambda: F.conv2d(a, weight, padding=1),
        ),
    }
    rows = []
    for name, (work, reference, other) in pairs.items():
        found = race({name: work, reference: other}, rounds)
        rows.append(
            {
                "operation": name,
                "in times of": reference,
                "ratio": _shown(found.ratio(name, reference).median),
                "ms": f"{found.milliseconds(name):.2f}",
            }
        )
    return rows


def _shown(ratio: float) -> str:
    return f"{ratio:.2f}"


def main(argv: list[str] | None = None) -> int:
    given = parser().parse_args(argv)
    common.start(given)
    options = Options(given.quick, threads=torch.get_num_threads(), repeats=given.repeats, seed=given.seed)
    subjects = [splitting(d, 2, False, given.quick) for d in ((6,) if given.quick else (6, 12))]
    size = (2, 8, 8, 8) if given.quick else (16, 128, 32, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fc.ConvergenceWarning)
        found = [row for s in subjects for row in steps(s, options)]
    beside = operations(size, 3 if given.quick else 15, torch.Generator().manual_seed(given.seed))
    common.finish(given, "choices", found, [f"batches of {BATCH}, {options.threads} threads"])
    common.finish(given, "operations", beside, [f"tensors of {' x '.join(map(str, size))}, float32"])
    return 0


def parser() -> argparse.ArgumentParser:
    p = common.parser("choices.py", __doc__ or "")
    p.add_argument("--repeats", type=command.whole, default=7, help="times that each is timed")
    return p


if __name__ == "__main__":
    sys.exit(main())
