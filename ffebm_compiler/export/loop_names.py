"""The user's names for what a loop carries: ``block1/state/features.3``, ``block1/error``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import GraphProto, ModelProto, NodeProto

from ..ir import EnergyBlock, Program
from .stop import Progress


def name_loops(model: ModelProto, program: Program) -> ModelProto:
    """The model with those names inside of its loops, which stand in the order of the program's blocks."""
    named = ModelProto()
    named.CopyFrom(model)
    bodies = [n.attribute[0].g for n in named.graph.node if _is_relaxation(n)]
    for body, names in zip(bodies, _carried(program), strict=True):
        _rename(body, dict(zip([v.name for v in body.input], names, strict=True)))
    return named


def _is_relaxation(node: NodeProto) -> bool:
    """A loop of ours, not one that a user's operation has become (an embedding bag)."""
    origin = {p.key: p.value for p in node.metadata_props}.get("pkg.torch.onnx.class_hierarchy", "")
    return node.op_type == "Loop" and "'while_loop'" in origin


def _carried(program: Program) -> Iterator[list[str]]:
    """What each loop's body is given: a block's, and that with its winners held."""
    for block in program.energy_blocks:
        if block.has_feedback:
            yield _names(block, block.name, program.labels)
            if block.is_routed:
                yield _names(block, f"{block.name}/held", program.labels)


def _names(block: EnergyBlock, loop: str, labels: Mapping[str, str]) -> list[str]:
    states = [f"state/{labels.get(s.name, s.name)}" for s in block.states]
    return [f"{loop}/{n}" for n in ("iteration", "condition", *states, *Progress._fields)]


def _rename(body: GraphProto, names: Mapping[str, str]) -> None:
    for value in (*body.input, *body.output):
        value.name = names.get(value.name, value.name)
    for node in body.node:
        renamed = [names.get(n, n) for n in node.input]
        del node.input[:]
        node.input.extend(renamed)
