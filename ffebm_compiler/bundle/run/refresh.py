"""A bundle with other weights: what it records must be what they give, and what was made of the old ones goes.

The recorded input stays. Everything that the bundle computes from it is recorded anew, by the runtime itself;
conductances and netlists, which hold the old weights, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor, nn

from ...model.converted_module import runner_of
from ...onnx import TRAINING, VJP
from ..compile.pages import CONDUCTANCES, NETLISTS
from ..compile.record import recorded
from ..compile.samples import record_run, recorded_results
from ..format.contents import Contents
from .model import loaded_model
from .recorded import recorded_call, run_graph


def refreshed(contents: Contents) -> Contents:
    """The contents, in agreement with the tensors that they hold."""
    files = {n: c for n, c in contents.files.items() if n not in (CONDUCTANCES, NETLISTS) and not n.endswith(".cir")}
    if not contents.samples:
        return replace(contents, files=files)
    model, _ = loaded_model(contents)
    runner = runner_of(model)
    args, kwargs = recorded_call(contents.samples, contents.modes[False])
    evaluation = recorded(runner, False, tuple(args), kwargs)
    samples = {**contents.samples, **record_run(evaluation, runner), **dict(_trained(contents, model.network))}
    return replace(contents, files=files, samples={n: samples[n] for n in contents.samples})


def _trained(contents: Contents, network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What the graphs of training give for the recorded inputs, random numbers and errors; computed weights."""
    for part, interface in contents.interfaces:
        if interface.kind in (TRAINING, VJP) or not interface.values:
            yield from recorded_results(part, interface, run_graph(contents.samples, network, part, interface))
