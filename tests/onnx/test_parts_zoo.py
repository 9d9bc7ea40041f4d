"""Every digital part of the zoo exports, is valid, and computes in onnxruntime what it does in torch, at another batch
size.
"""

from __future__ import annotations

import pytest
import torch
from models import ZOO, Entry
from part_graphs import another_batch, exported, values_of

import ffebm_compiler as fc
from benchmarks.graph_checks import check_graph
from benchmarks.parity import compare

pytestmark = pytest.mark.slow

PARITY = 1e-5
MANY = ("mobilenet_v3_small",)
"""Of so many parts alike that they are tested in evaluation only; benchmarks/onnx_parts.py takes all of them."""


def entries() -> list[object]:
    """Each entry in both modes; those that take long only in evaluation."""
    chosen = [(e, t) for e in ZOO for t in ((False,) if e.heavy or e.name in MANY else (True, False))]
    return [
        pytest.param(
            e, t, id=f"{e.name}-{'training' if t else 'evaluation'}",
            marks=pytest.mark.skipif(not e.installed, reason=f"{e.requires} is not installed"),
        )
        for e, t in chosen
    ]  # fmt: skip


@pytest.mark.parametrize(("entry", "training"), entries())
def test_every_part_agrees(entry: Entry, training: bool) -> None:
    net, args = entry.build()
    model = fc.convert(net, 2, example_inputs=args if entry.export else None)
    model, parts = exported(model, args, training)
    expected = [b.name for b in model.program.digital_blocks]
    assert [p.name for p in parts if p.name != "weights"] == expected
    assert ("weights" in [p.name for p in parts]) == (entry.name in ("weight_norm", "spectral_norm"))
    draw = torch.Generator().manual_seed(3)
    values = values_of(model, another_batch(args, draw))
    for part in parts:
        assert not part.refused
        for graph in part:
            check_graph(graph)
            found = compare(graph, part.name, model.program, model.network, values, draw)
            assert set(found.errors), "something is compared"
            assert found.worst <= PARITY, found
