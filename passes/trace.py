"""Pass 1, trace: an ``nn.Module`` becomes a torch.fx graph that addresses the module's own layers by name.

``torch.fx.symbolic_trace`` first, which needs no example; ``torch.export`` where that fails and example inputs are
given. A graph is traced for one mode (training or evaluation), since both tracers bake ``self.training`` in.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..errors import TraceError
from .export.export_trace import export_trace
from .modes import in_mode
from .refusals import LosesMeaning, untraceable
from .stages import WHOLE, Traced
from .tracing.draws import without_draws
from .tracing.symbolic_trace import symbolic_trace
from .tracing.whole_calls import as_a_whole, trace_what_is_kept

logger = logging.getLogger(__name__)


def trace(
    network: nn.Module,
    training: bool,
    example_args: tuple[Any, ...] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    opaque: Sequence[str] = (),
    ruled: Sequence[str] = (),
) -> Traced:
    """The graph of ``network`` in one mode.

    Args:
        network: a copy of the user's model, which the tracer may add constants to.
        training: the mode to trace; the network's own modes are put back.
        example_args, example_kwargs: an example call, for ``torch.export``.
        opaque: paths of modules that are called as a whole, ``""`` being the network itself.
        ruled: paths of modules that a rule of the user's reads as one call: called as a whole by either tracer.

    Raises:
        TraceError: neither tracer can turn the model into a graph; says where it failed.
    """
    if WHOLE in (*opaque, *ruled):
        return replace(as_a_whole(network), training=training)
    whole = (*opaque, *ruled)
    example = None if example_args is None and example_kwargs is None else (example_args or (), example_kwargs or {})

    def symbolic(network: nn.Module, opaque: Sequence[str]) -> Traced:
        return without_draws(lambda: symbolic_trace(network, opaque, example), network)

    with in_mode(network, training):
        try:
            return replace(trace_what_is_kept(symbolic, network, whole), training=training)
        except Exception as failure:  # fx raises whatever the user's forward raises on proxies
            symbolically = failure if isinstance(failure, TraceError) else TraceError(untraceable(network, failure))
            if example is None:
                raise symbolically from failure
            logger.info("torch.fx can't trace %s (%s); trying torch.export", type(network).__name__, failure)
        args, kwargs = tuple(example[0]), dict(example[1])
        try:
            exported = without_draws(lambda: export_trace(network, args, kwargs, ruled), network)
        except TraceError as failure:
            raise _both(symbolically, failure) from failure
        return replace(exported, training=training)


def _both(symbolic: TraceError, exported: TraceError) -> TraceError:
    """Why neither tracer can do it; where the first one knows the module whose forward is to blame, so does this."""
    known = [*symbolic.problems]
    new = [p for p in exported.problems if not any(k.where.startswith(p.where) and k.what == p.what for k in known)]
    problems = [*known, *new]
    return LosesMeaning(problems, symbolic.path) if isinstance(symbolic, LosesMeaning) else TraceError(problems)
