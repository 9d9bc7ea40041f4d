"""The whole pipeline: a model in, an ff-EBM out."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .backends import FFEBM, Execution, TorchEP
from .compiled import Compiled, ModeProgram
from .errors import TraceError
from .estimate import CenteredEP, Estimator
from .ir import Program
from .options import check_options, split_examples
from .passes import Choice, canonicalize, derive, legality, partition, trace
from .rules import RULES, Rule
from .solve import Tolerance

DEFAULT_LOOP_GAIN = 0.01


def convert(
    model: nn.Module,
    block_size: int | None = None,
    *,
    block_sizes: Sequence[int] | None = None,
    digital: Choice = (),
    analog: Choice = (),
    norm: str = "auto",
    loop_gain: float | None = DEFAULT_LOOP_GAIN,
    estimator: Estimator | None = None,
    tolerance: float | None = None,
    max_sweeps: int = 200,
    example_inputs: Any = None,
    rules: Iterable[Rule] = (),
) -> FFEBM:
    compiled = compile_model(
        model, block_size, block_sizes=block_sizes, digital=digital, analog=analog, norm=norm, loop_gain=loop_gain,
        estimator=estimator, tolerance=tolerance, max_sweeps=max_sweeps, example_inputs=example_inputs, rules=rules,
    )
    execution = Execution(estimator or CenteredEP(), Tolerance(tolerance, max_sweeps), loop_gain)
    return TorchEP(execution).lower(compiled)


def compile_model(model: nn.Module, block_size: int | None = None, **options: Any) -> Compiled:
    options = check_options(model, block_size, options)
    network = copy.deepcopy(model)
    in_place = tuple(name for name, m in network.named_modules() if getattr(m, "inplace", False) is True)
    buffers = set(dict(network.named_buffers()))
    modes = _both_modes(network, options)
    constants = tuple(n for n, _ in network.named_buffers() if n not in buffers)
    return Compiled(network, modes, options, in_place, constants)


def _both_modes(network: nn.Module, options: Mapping[str, Any]) -> dict[bool, ModeProgram]:
    modes = {training: _one_mode(network, training, options) for training in (True, False)}
    return modes


def _one_mode(network: nn.Module, training: bool, options: Mapping[str, Any]) -> ModeProgram:
    args, kwargs = split_examples(options["example_inputs"])
    digital = options["digital"]
    modules = dict(network.named_modules())
    opaque = () if callable(digital) else [n for n in digital if n in modules]
    traced = trace(network, training, args, kwargs, opaque)
    canonical = canonicalize(traced, RULES.extended(options["rules"]))
    legal = legality(canonical, digital, options["analog"], options["norm"])
    program = derive(partition(legal, options["block_size"], options["block_sizes"]))
    return ModeProgram(program, traced.signature, traced.tracer)
