"""Random awkward models are right in every call, or refused by name; none is silently wrong, none ends in an error of torch's own."""

from __future__ import annotations

import pytest

from benchmarks.awkward import Awkward, drawn, judged
from benchmarks.awkward.parts import PARTS


@pytest.mark.parametrize("first", range(0, 80, 20))
def test_awkward_models_are_right_or_refused(first: int) -> None:
    found = [judged(drawn(seed)) for seed in range(first, first + 20)]
    assert [(v.model, v.outcome, v.what) for v in found if v.is_fault] == []
    assert any(v.outcome == "right" for v in found)


@pytest.mark.parametrize("kind", PARTS, ids=lambda k: k.__name__)
def test_each_kind_is_right_or_refused(kind: type) -> None:
    for given in (False, True):
        verdict = judged(Awkward(7, (kind.__name__,), 1, True, given, True))
        assert not verdict.is_fault, verdict
