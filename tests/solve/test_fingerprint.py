"""Fingerprints of tensors: what they must see, and what they must not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffebm_compiler.solve.fingerprint import BINS, fingerprint, fingerprints

TYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64]


def values(size: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (10 * torch.randn(size, generator=generator)).to(dtype) if dtype != torch.bool else torch.zeros(size) > 1


@pytest.mark.parametrize("dtype", TYPES)
@given(size=st.integers(1, 3 * BINS), place=st.integers(0, 3 * BINS), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_one_number_counts(dtype: torch.dtype, size: int, place: int, seed: int) -> None:
    tensor = values(size, dtype, seed)
    changed = tensor.clone()
    changed[place % size] = 1 if dtype == torch.bool else changed[place % size] + 1
    assert (fingerprint([tensor]) == fingerprint([changed])) == torch.equal(tensor, changed)


@given(rows=st.integers(4, 80), columns=st.integers(3, 80), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=60)
def test_places_and_signs_count(rows: int, columns: int, seed: int) -> None:
    torch.manual_seed(seed)
    w = torch.randn(rows, columns)
    i, j = torch.randperm(rows)[:2].tolist()
    swapped, moved, scaled, flipped = w.clone(), w.clone(), 2 * w, w.clone()
    swapped[i], swapped[j] = w[j], w[i]
    moved[:, 0], moved[:, 1] = w[:, 1], w[:, 0]
    flipped[i], flipped[j] = -w[i], -w[j]
    everything = [w, swapped, moved, scaled, flipped, -w, w.flip(0), w.roll(1)]
    assert len({fingerprint([t]) for t in everything}) == len(everything)


def test_large_tensors_see_rows_that_trade_places() -> None:
    w = torch.randn(64, 3 * BINS)
    other = w.clone()
    other[[0, 1]] = w[[1, 0]]
    assert fingerprint([w[:, : 2 * BINS + 1].contiguous()]) != fingerprint([other[:, : 2 * BINS + 1].contiguous()])


def test_values_count_and_nothing_else() -> None:
    w = torch.randn(5, 7, requires_grad=True)
    assert fingerprint([w]) == fingerprint([w.detach().clone()]) == fingerprint([nn_like(w)])
    assert fingerprint([w, w[:0]]) == fingerprint([w])
    padded = torch.randn(100)
    padded[3 : 3 + w.numel()] = w.detach().flatten()
    assert fingerprint([padded[3 : 3 + w.numel()].view(5, 7)]) == fingerprint([w]), "wherever they stand in memory"
    assert fingerprint([]) == 0
    assert fingerprints([[w], [w, w], []]) == [fingerprint([w]), fingerprint([w, w]), 0]


def nn_like(w: torch.Tensor) -> torch.Tensor:
    return torch.nn.Parameter(w.detach().clone())


def test_layouts_without_gaps_are_read_where_they_stand() -> None:
    w = torch.randn(4, 3, 5, 5)
    last = w.to(memory_format=torch.channels_last)
    changed = last.clone(memory_format=torch.preserve_format)
    changed[1, 2, 3, 4] += 1
    assert fingerprint([last]) != fingerprint([changed])
    assert fingerprint([w[:, ::2]]) != fingerprint([w[:, ::2] + 1]), "with gaps as well"


def test_inference_tensors_leave_nothing_behind() -> None:
    with torch.inference_mode():
        first = fingerprint([torch.ones(3)])
    assert fingerprint([torch.ones(3)]) == first
