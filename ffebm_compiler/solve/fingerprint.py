"""A number that stands for the values of tensors: a change of any of them gives another one, whoever made it.

    h = sum_i b_i r_i   mod 2^64

over the bits b of the tensors, read as whole numbers in the order of their memory, with fixed odd multipliers r. Whole numbers add up
alike in any order, so that threads, alignment and device play no part. A large tensor is added up first in bins, ``i mod BINS``, without
a copy of it: one pass over its memory. What a tensor counts of its own changes (``Tensor._version``) says nothing: fused optimizers,
``.data``, sharded training and views of other storages write without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

BINS = 4093
"""A prime, so that rows and columns of a matrix, when they trade places, trade bins."""

_WHOLE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(tensors: Iterable[Tensor]) -> int:
    """The number of these tensors, in this order."""
    return fingerprints([tensors])[0]


def fingerprints(groups: Iterable[Iterable[Tensor]]) -> list[int]:
    """The number of each group of tensors: one transfer for all of them, where they are on another device."""
    with torch.inference_mode(False), torch.no_grad():
        found = [_number([_folded(_bits(t.detach())) for t in tensors if t.numel()]) for tensors in groups]
        numbers: list[int] = torch.stack([f.to(found[0].device) for f in found]).cpu().tolist() if found else []
    return numbers


def _number(parts: Sequence[Tensor]) -> Tensor:
    if not parts:
        return torch.zeros((), dtype=torch.int64)
    bits = (parts[0] if len(parts) == 1 else torch.cat(list(parts))).to(torch.int64)
    return (bits * _multipliers(len(bits), bits.device)).sum()


def _bits(tensor: Tensor) -> Tensor:
    """A tensor as whole numbers of its width, in the order of its memory where that has no gaps; of a sharded one the part that is here."""
    if is_sharded(tensor):
        tensor = tensor.to_local()  # type: ignore[attr-defined]
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if not tensor.is_contiguous():
        strides = tensor.stride()
        tensor = tensor.permute(sorted(range(tensor.dim()), key=lambda d: -strides[d]))
    return tensor.reshape(-1).view(_WHOLE[tensor.element_size()])


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a part of one that several processes hold (``torch.distributed.tensor.DTensor``, not imported where nobody shards)."""
    return hasattr(tensor, "to_local")


def _folded(bits: Tensor) -> Tensor:
    """The sums of every bin; few numbers are bins of their own. They overflow as they should."""
    if len(bits) < 4 * BINS:
        return bits
    whole = len(bits) // BINS * BINS
    bins = bits[:whole].view(-1, BINS).sum(0, dtype=bits.dtype)
    bins[: len(bits) - whole] += bits[whole:]
    return bins


_TABLE: dict[torch.device, Tensor] = {}


def _multipliers(count: int, device: torch.device) -> Tensor:
    """The first so many of a fixed row of odd numbers (splitmix64, Steele, Lea & Flood 2014)."""
    known = _TABLE.get(device)
    if known is None or len(known) < count:
        z = torch.arange(1, 2 * max(count, BINS) + 1, device=device) * -0x61C8864680B583EB
        z = (z ^ (z >> 30)) * -0x40A7B892E31B1A47
        z = (z ^ (z >> 27)) * -0x6B2FB644ECCEEE15
        known = (z ^ (z >> 31)) | 1
        if type(known) is Tensor:  # what stands for a tensor while something is traced belongs to that alone
            _TABLE[device] = known
    return known[:count]
