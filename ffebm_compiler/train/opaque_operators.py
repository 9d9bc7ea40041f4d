"""A block as operators that torch.compile does not look into.

    begin     x -> run                                    checks the model's inputs, forgets the last run
    settle    run, x, theta -> states, winners, record    the free phase
    nudge     errors, x, theta, states, winners, record -> gradients

A relaxation stops where its residual says so, which no graph can tell beforehand; so the graph holds these operators, and they
run what an eager block runs. All that backward needs of a free phase goes through the graph as tensors, as it must where a
compiler decides what is kept and what is run again. What is no tensor (the model, its options) is found by a number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..estimate import FreePhase
from ..ir import EnergyBlock
from ..solve import BoundBlock, Contraction, Relaxation, unit_gains
from .enrolment import Model, block_at, find, noted, options_of
from .first_derivatives import refuse_second, refuse_transforms
from .layout import read, winner_names
from .operator import BlockCall, estimated, free_phase

# --- running eagerly inside an operator --------------------------------------------------------------------

_PLAIN = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
"""What a thread dispatches to when nothing is being traced or differentiated."""


@contextlib.contextmanager
def _eagerly(device: str, precision: torch.dtype | None) -> Iterator[None]:
    """As at the top of a program: an operator is called from within autograd or a tracer, which switch off what a relaxation uses."""
    mixed = torch.autocast(device, dtype=precision, enabled=precision is not None)
    with torch.inference_mode(False), torch._C._ForceDispatchKeyGuard(*_PLAIN), torch.no_grad(), mixed:
        yield


def _ordinary(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Relaxations differentiate the interaction, which inference tensors forbid."""
    return [t.clone() if t.is_inference() else t.detach() for t in tensors]


class _Owned:
    """Results as an operator must return them: contiguous, in memory of their own."""

    def __init__(self, given: Sequence[Tensor]):
        self._memory = {t.untyped_storage().data_ptr() for t in given}

    def __call__(self, t: Tensor) -> Tensor:
        t = t.detach().contiguous()
        if t.untyped_storage().data_ptr() in self._memory:
            t = t.clone(memory_format=torch.contiguous_format)
        self._memory.add(t.untyped_storage().data_ptr())
        return t


# --- the operators -------------------------------------------------------------------------------------------

FORMAT = 3
"""Of what the operators take and give; raise it with every change. It is part of each block's layout, so that graphs which another
version of this library left in a cache on disk, where memory for results of other sizes is set aside, are not found."""

_LIBRARY = torch.library.Library("ffebm", "DEF")
_TAGS = tuple(t for name in ("cudagraph_unsafe",) if (t := getattr(torch.Tag, name, None)) is not None)
_LIBRARY.define("begin(Tensor[] given, str[] names, int model) -> Tensor", tags=_TAGS)
_LIBRARY.define(
    "settle(Tensor run, Tensor[] tensors, SymInt[] sizes, str layout, int[] place, bool trains, ScalarType? precision) -> Tensor[]",
    tags=_TAGS,
)
_LIBRARY.define(
    "nudge(Tensor[] errors, Tensor[] tensors, SymInt[] sizes, Tensor[] settled, str layout, int[] place, bool[] wanted, ScalarType? precision)"
    " -> Tensor[]",
    tags=_TAGS,
)


def _begin(given: list[Tensor], names: list[str], model: int) -> Tensor:
    with _eagerly("cpu", None):
        find(model).begin_run(dict(zip(names, given, strict=True)))
        return torch.zeros((), dtype=torch.int64)


def _begin_shape(given: list[Tensor], names: list[str], model: int) -> Tensor:
    return torch.zeros((), dtype=torch.int64)


def _settle(
    run: Tensor,
    tensors: list[Tensor],
    sizes: list[int],
    layout: str,
    place: list[int],
    trains: bool,
    precision: torch.dtype | None,
) -> list[Tensor]:
    model, block = block_at(place)
    with _eagerly(tensors[0].device.type, precision):
        values, weights = read(block, layout, _ordinary(tensors), sizes)
        call = model.block_call(block, values, weights=weights, trains=trains)
        phase = free_phase(call)
        own = _Owned(tensors)
        winners, names = phase.winners, winner_names(block)
        if any(n not in winners for n in names):
            winners = {**_followed(call.bound, phase.states), **winners}
        return [*map(own, phase.states.values()), *(own(winners[n]) for n in names), _record(call, phase)]


def _settle_shape(
    run: Tensor,
    tensors: list[Tensor],
    sizes: list[Any],
    layout: str,
    place: list[int],
    trains: bool,
    precision: torch.dtype | None,
) -> list[Tensor]:
    _, block = block_at(place)
    with torch.autocast(tensors[0].device.type, dtype=precision, enabled=precision is not None):
        bound = BoundBlock(block, *read(block, layout, tensors, sizes), unit_gains(block).layer_weights)
        states = bound.feedforward()
        found = [*states.values(), *_followed(bound, states).values()]
    return [
        *(t.new_empty(t.shape) for t in found),
        torch.empty(FIELDS + len(block.states) + len(block.edges), dtype=torch.float64),
    ]


def _nudge(
    errors: list[Tensor],
    tensors: list[Tensor],
    sizes: list[int],
    settled: list[Tensor],
    layout: str,
    place: list[int],
    wanted: list[bool],
    precision: torch.dtype | None,
) -> list[Tensor]:
    model, block = block_at(place)
    with _eagerly(tensors[0].device.type, precision):
        values, weights = read(block, layout, _ordinary(tensors), sizes)
        *found, record = _ordinary(settled)
        states, winners = _free(block, found)
        call, relaxation, held = _recalled(model, block, record)
        named = {k: v for k, v in {**values, **weights}.items() if isinstance(v, Tensor)}
        names = [n for n, needed in zip(named, wanted, strict=True) if needed]
        arrived = dict(zip(block.outputs, _ordinary(errors), strict=True))
        call = replace(call, inputs=values, weights=weights)
        estimate = estimated(call, {}, states, relaxation, winners if held else {}, arrived, names)
        model.record_nudged(block, estimate)
        own = _Owned([*tensors, *settled, *errors])
        zero = {n: torch.zeros_like(named[n]) for n in names if estimate.gradients.get(n) is None}
        return [own(zero[n] if n in zero else estimate.gradients[n].to(named[n].dtype)) for n in names]


def _nudge_shape(
    errors: list[Tensor],
    tensors: list[Tensor],
    sizes: list[Any],
    settled: list[Tensor],
    layout: str,
    place: list[int],
    wanted: list[bool],
    precision: torch.dtype | None,
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t, needed in zip(tensors, wanted, strict=True) if needed]


for _name, _kernel, _shape in (
    ("begin", _begin, _begin_shape),
    ("settle", _settle, _settle_shape),
    ("nudge", _nudge, _nudge_shape),
):
    _LIBRARY.impl(_name, _kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"ffebm::{_name}", _shape, lib=_LIBRARY)


# --- their derivatives ---------------------------------------------------------------------------------------


def _keep_phase(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    _, tensors, ctx.sizes, ctx.layout, ctx.place, _, ctx.precision = inputs
    ctx.count = len(tensors)
    ctx.mark_non_differentiable(output[-1])
    ctx.save_for_backward(*tensors, *output)


def _nudged(ctx: Any, errors: Sequence[Tensor]) -> tuple[Any, ...]:
    """The gradients of what :func:`_settle` was given. Where a graph of them is kept, ``nudge`` stands in it."""
    _, block = block_at(ctx.place)
    refuse_transforms([block], errors)
    tensors, settled = list(ctx.saved_tensors[: ctx.count]), list(ctx.saved_tensors[ctx.count :])
    wanted = ctx.needs_input_grad[1]
    arrived = [errors[i] for i in output_places(block)]
    found = iter(
        torch.ops.ffebm.nudge(arrived, tensors, ctx.sizes, settled, ctx.layout, ctx.place, wanted, ctx.precision)
    )
    gradients = [next(found) if needed else None for needed in wanted]
    sizes: list[Tensor] | None = None if ctx.sizes else []  # to torch a list without entries is one of tensors
    return None, gradients, sizes, None, None, None, None


def _remember_block(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    ctx.block = block_at(inputs[5])[1]


def _refuse_second(ctx: Any, errors: Sequence[Tensor]) -> NoReturn:
    refuse_second(ctx.block)


for _name, _backward, _setup in (("settle", _nudged, _keep_phase), ("nudge", _refuse_second, _remember_block)):
    torch.library.register_autograd(f"ffebm::{_name}", _backward, setup_context=_setup, lib=_LIBRARY)


# --- a free phase as tensors, and back -------------------------------------------------------------------------

FIELDS = 6
"""In a record before the layer weights and loop gains: options, sweeps, residual, whether converged, whether winners were held, whether sweeps are certified."""


def _followed(bound: BoundBlock, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The winners of maxima at these states, in the place of those that may be held."""
    return bound.winners(states) if bound.block.is_routed else {}


def _record(call: BlockCall, phase: FreePhase) -> Tensor:
    """How a block settled, as numbers."""
    r = phase.relaxation
    fields = [
        noted(call),
        r.sweeps,
        r.residual,
        r.converged,
        r.held,
        call.contraction is not None,
    ]
    weights = [call.layer_weights[s.name] for s in call.block.states]
    loops = [0.0 if call.contraction is None else call.contraction.loops[e] for e in call.block.edges]
    return torch.tensor([*fields, *weights, *loops], dtype=torch.float64)


def _recalled(model: Model, block: EnergyBlock, record: Tensor) -> tuple[BlockCall, Relaxation, bool]:
    """The call that a record was made of, without its tensors."""
    options, sweeps, residual, converged, held, is_certified, *rest = record.tolist()
    estimator, tolerance = options_of(int(options), block)
    layer_weights = dict(zip((s.name for s in block.states), rest[: len(block.states)], strict=True))
    loops = dict(zip(block.edges, rest[len(block.states) :], strict=True))
    relaxation = Relaxation(block.name, int(sweeps), residual, bool(converged), bool(held))
    certified = Contraction.of(block, layer_weights, loops) if is_certified else None
    how = model.differentiation
    call = BlockCall(block, {}, {}, layer_weights, estimator, tolerance, differentiation=how, contraction=certified)
    return call, relaxation, bool(held)


def output_places(block: EnergyBlock) -> tuple[int, ...]:
    """Where the outputs of a block stand among its states."""
    names = [s.name for s in block.states]
    return tuple(names.index(n) for n in block.outputs)


def _free(block: EnergyBlock, found: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The states and winners of a settled block by name."""
    names = [s.name for s in block.states]
    states = dict(zip(names, found, strict=False))
    return states, dict(zip(winner_names(block), found[len(names) :], strict=True))
