"""Runs of a model whose values a bundle remembers: each mode's program on one input, and its digital parts one by one.

Runs leave no trace: buffers are put back, and the global random numbers are as they were.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...estimate import FreePhase
from ...model.left_as_it_was import untouched
from ...model.runner import Runner
from ...model.stateful import stateful_layers
from ...passes import State
from ...torch_private import tree_map_only
from ...train import attribute, run_block
from ...train.program_pass import run_program
from ...train.steps import leaves_of, tensors_of

SEED = 0
"""Of the random numbers of a run in training mode (dropout), and of recorded errors."""


@dataclass(frozen=True)
class Run:
    """One pass of the program of one mode.

    Attributes:
        training: the mode.
        values: every value of the program, by name.
        phases: how each block settled, in order.
        stateful: by the path of a layer that keeps a state between calls, what it keeps.
    """

    training: bool
    values: Mapping[str, Any]
    phases: tuple[FreePhase, ...]
    stateful: Mapping[str, str] = field(default_factory=dict)


def recorded(model: Runner, training: bool, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Run:
    """One pass of a model in one mode; gains that are missing are measured in it."""
    with in_mode_of(model, training), untouched(model.network), own_random_numbers(), torch.no_grad():
        values = model.bind_inputs(args, kwargs)
        phases: list[FreePhase] = []
        state = State(model.network)
        run_program(
            model.program, model.network, values, lambda b, vs: run_block(model.block_call(b, vs, phases.append))
        )
        stateful = stateful_layers(model, state)
        model.forget_run()
    return Run(training, values, tuple(phases), stateful)


def in_mode_of(model: Runner, training: bool) -> contextlib.AbstractContextManager[None]:
    """One mode for a while; a model that is in it already keeps its modules' own modes, as of a frozen norm."""
    return contextlib.nullcontext() if model.training == training else model.in_mode(training)


@contextlib.contextmanager
def own_random_numbers() -> Iterator[None]:
    """The same random numbers at every call, and the caller's afterwards as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch.Generator().manual_seed(SEED).get_state())
        yield


def numbers_of(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors and sizes, those of nests too, as tensors; the rest (texts, None) can't be recorded."""
    return {n: torch.as_tensor(v) for n, v in leaves_of(values) if isinstance(v, (Tensor, bool, int, float))}


# --- a digital part by itself -------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartRun:
    """A digital part by PyTorch, on given values.

    Attributes:
        outputs: by name.
        statistics: buffers after the pass, by path.
        gradients: of inputs (by name) and parameters (by path), for the errors that were given.
    """

    outputs: Mapping[str, Tensor]
    statistics: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]


def run_part(
    function: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    network: nn.Module,
    inputs: Mapping[str, Any],
    errors: Mapping[str, Tensor],
    buffers: tuple[str, ...],
    parameters: tuple[str, ...],
) -> PartRun:
    """Runs a digital part once, and pulls errors back through it.

    Args:
        function: the part: its outputs from its inputs.
        errors: the loss's gradient in outputs; those without one count as zero.
        buffers: the buffers to return.
        parameters: weights whose gradients are wanted, besides the inputs'.
    """
    leaves = tree_map_only(Tensor, _leaf, dict(inputs))
    with untouched(network), own_random_numbers(), torch.enable_grad(), parametrize.cached():
        weights = {p: attribute(network, p) for p in parameters}
        outputs = numbers_of(function(leaves))
        statistics = {b: attribute(network, b).clone() for b in buffers}
        wanted = {**{n: v for n, v in tensors_of(leaves).items() if v.requires_grad}, **weights}
        gradients = _pulled(outputs, errors, wanted)
    return PartRun({n: v.detach() for n, v in outputs.items()}, statistics, gradients)


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_(value.is_floating_point())


def _pulled(
    outputs: Mapping[str, Tensor], errors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The vector-Jacobian product; what no output depends on gets zeros."""
    reached = [n for n in errors if outputs[n].requires_grad]
    asked = [v for v in wanted.values() if v.requires_grad]
    found: dict[int, Tensor | None] = {}
    if reached and asked:
        pulled = torch.autograd.grad(
            [outputs[n] for n in reached], asked, [errors[n] for n in reached], allow_unused=True
        )
        found = {id(v): g for v, g in zip(asked, pulled, strict=True)}
    return {n: torch.zeros_like(v) if (g := found.get(id(v))) is None else g for n, v in wanted.items()}
