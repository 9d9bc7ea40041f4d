"""Which call goes into which block."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from graphs import Plan, plans
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ffebm_compiler as fc
from ffebm_compiler.passes import canonicalize, legality, trace
from ffebm_compiler.passes.partition import _Partitioner
from ffebm_compiler.rules import RULES


class SumReadTwice(nn.Module):
    """A sum without weights, read inside its block and by a later one: each gets a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.a, self.b, self.norm = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.lift(x))
        h = h + self.norm(h)
        return h + self.b(torch.tanh(self.a(h)))


def test_a_copied_call_is_read_by_those_it_was_copied_for() -> None:
    torch.manual_seed(0)
    net, x = SumReadTwice(), torch.randn(5, 4)
    for size in (1, 2):
        model = fc.convert(net, block_size=size)
        assert torch.isfinite(model(x)).all()
    assert torch.equal(fc.convert(net, block_size=1)(x), net(x))


def _size_by_definition(self: Any, groups: set[int]) -> int:
    """Sizes are dealt to the groups with weighted calls, in the order in which they were opened."""
    opened = sorted({self.find(g) for g in range(len(self.merged)) if self.weighted[self.find(g)] > 0})
    index = min((opened.index(g) for g in groups if g in opened), default=len(opened))
    return int(self.sizes[min(index, len(self.sizes) - 1)])


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(plans(), st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_sizes_are_dealt_in_order(plan: Plan, sizes: list[int]) -> None:
    def groups() -> list[list[str]]:
        legal = legality(canonicalize(trace(plan.build(0), False), RULES))
        work = _Partitioner(legal, None, sizes)
        work.place()
        return [[n.name for n in nodes] for _, nodes in work.result().groups]

    found = groups()
    with patch.object(_Partitioner, "limit", _size_by_definition):
        assert groups() == found
