"""The user's names for what a loop carries: ``block1/state/features.3``, ``block1/error``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import GraphProto, ModelProto, NodeProto

from ..ir import EnergyBlock
from .model import Model
from .stop import Progress


def name_loops(proto: ModelProto, model: Model) -> ModelProto:
    """The file with those names inside of its loops, which stand in the order of the program's blocks."""
    named = ModelProto()
    named.CopyFrom(proto)
    bodies = [n.attribute[0].g for n in named.graph.node if _is_relaxation(n)]
    for body, names in zip(bodies, _carried(model), strict=True):
        _rename(body, dict(zip([v.name for v in body.input], names, strict=True)))
    return named


def _is_relaxation(node: NodeProto) -> bool:
    """A loop of ours, not one that a user's operation has become (an embedding bag)."""
    origin = {p.key: p.value for p in node.metadata_props}.get("pkg.torch.onnx.class_hierarchy", "")
    return node.op_type == "Loop" and "'while_loop'" in origin


def _carried(model: Model) -> Iterator[list[str]]:
    """What each loop's body is given: a block's, and the second one's of a block whose winners follow the states."""
    labels = model.program.labels
    for block in model.program.energy_blocks:
        if block.has_feedback:
            yield _names(block, block.name, labels)
            if block.is_routed and model.contractions.get(block.name) is None:
                yield _names(block, f"{block.name}/held", labels)


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
