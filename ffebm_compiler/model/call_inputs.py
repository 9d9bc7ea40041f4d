"""What is wrong with the tensors of a call, in the names of the user's forward."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import Problem


def input_problems(network: nn.Module, name: str, value: object, may_mask: bool = False) -> Iterator[Problem]:
    """Every problem of one argument: empty, on another device, of another type, not finite.

    Args:
        may_mask: whether the argument may hold -inf, as the mask of an attention does: where no block reads it.
    """
    if not isinstance(value, Tensor):
        return
    where = f"input {name}"
    if value.numel() == 0:
        yield Problem(where, f"is empty, shape {tuple(value.shape)}", "Give a batch of at least one sample.")
        return
    parameters = [p for p in network.parameters() if p.is_floating_point()]
    if parameters and value.device != parameters[0].device:
        device = str(parameters[0].device)
        yield Problem(
            where, f"is on {value.device}, the model on {device}", f"Move one of them: {name}.to({device!r})."
        )
        return
    if value.is_meta:
        yield Problem(
            where, "is on meta, without values to relax on", "Move input and model to a device that computes."
        )
        return
    if not value.is_floating_point():
        return
    types = {p.dtype for p in parameters}
    if len(types) == 1 and value.dtype not in types and not torch.is_autocast_enabled(value.device.type):
        (dtype,) = types
        yield Problem(where, f"is {value.dtype}, the model {dtype}", f"Convert one of them: {name}.to({dtype}).")
    bad = ~torch.isfinite(value) & ~torch.isneginf(value) if may_mask else ~torch.isfinite(value)
    if bool(bad.any()):
        count = int(bad.sum())
        yield Problem(where, f"has {count} values that are NaN or infinite", "Clean the data before the model sees it.")
