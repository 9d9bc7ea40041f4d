"""A network is left as it was, whatever a run writes into it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from ..passes import State
from ..passes.tracing.copy_on_write import copied_on_write, sharable


@contextlib.contextmanager
def kept_buffers(network: nn.Module) -> Iterator[None]:
    """Puts back what a run writes into buffers and attributes: a model may count its calls, whatever its mode."""
    state = State(network)
    before = [(b, b.clone()) for b in network.buffers()]
    try:
        yield
    finally:
        state.restore()
        with torch.no_grad():
            for buffer, value in before:
                if not torch.equal(buffer, value):  # a batch norm moves its statistics without a new version of them
                    buffer.copy_(value)


@contextlib.contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Puts back its weights too, which a forward may clamp."""
    with kept_buffers(network), copied_on_write(sharable(network)):
        yield
