"""The user's names in an ONNX graph: on inputs and outputs, and on every node that of the layer it comes from.

A node is called after its layer and its operation, ``features.0/Conv``, or ``features.0/backward/ConvTranspose``;
what it gives is called the same. What torch's exporter notes about itself, with paths of the machine, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from .interface import Port
from .trace import label_of


class Names:
    """Makes names unique: ``relu``, ``relu_1``, ``relu_2``."""

    def __init__(self, taken: Iterable[str] = ()):
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    def unique(self, name: str) -> str:
        if name not in self._taken:
            self._taken.add(name)
            return name
        number = self._next.get(name, 1)
        while f"{name}_{number}" in self._taken:
            number += 1
        self._next[name] = number + 1
        return self.unique(f"{name}_{number}")


def give_names(model: ModelProto, part: str, inputs: Sequence[Port], outputs: Sequence[Port], doc: str) -> ModelProto:
    """The model with those ports, in the order of its inputs and outputs, under their names."""
    named = ModelProto()
    named.CopyFrom(model)
    graph = named.graph
    results = [v.name for v in graph.output]
    _own_outputs(graph, results)
    renamed = dict(zip((v.name for v in graph.input), (p.name for p in inputs), strict=True))
    renamed.update(zip((v.name for v in graph.output), (p.name for p in outputs), strict=True))
    labels = _labels(graph)
    _Renaming(part, labels, Names(renamed.values()), renamed).graph(graph)
    graph.name, graph.doc_string = part, doc
    for kept, ports in ((graph.input, inputs), (graph.output, outputs)):
        del kept[:]
        kept.extend(value_info(p) for p in ports)
    named.producer_name, named.doc_string = "ffebm_compiler", ""
    _strip(named)
    return named


def value_info(port: Port) -> ValueInfoProto:
    """A port as ONNX declares it."""
    return helper.make_tensor_value_info(port.name, _element_type(port.dtype), port.shape)


def _element_type(dtype: str) -> int:
    return int(TensorProto.DataType.Value({"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())))


def _own_outputs(graph: GraphProto, results: Sequence[str]) -> None:
    """Gives every output a value of its own: one that is an input, a constant or an output already is passed on."""
    seen = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    for i, name in enumerate(results):
        if name in seen:
            graph.output[i].name = f"{name}:{i}"
            graph.node.append(helper.make_node("Identity", [name], [graph.output[i].name]))
        seen.add(name)


class _Renaming:
    def __init__(self, part: str, labels: Mapping[str, str], names: Names, renamed: Mapping[str, str]):
        self.part, self.labels, self.names, self.renamed = part, labels, names, dict(renamed)

    def graph(self, graph: GraphProto) -> None:
        for tensor in graph.initializer:
            tensor.name = self.renamed.setdefault(tensor.name, self.names.unique("constant/0"))
        for node in graph.node:
            self.node(node)
        for value in (*graph.input, *graph.output):
            value.name = self.renamed.get(value.name, value.name)
        del graph.value_info[:]

    def node(self, node: NodeProto) -> None:
        node.name = self.names.unique(f"{self.labels.get(node.output[0], '') or self.part}/{node.op_type}")
        for i, name in enumerate(node.input):
            node.input[i] = self.renamed.get(name, name)
        for attribute in node.attribute:
            for nested in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
                self.graph(nested)
        for i, name in enumerate(node.output):
            if name:
                default = f"{node.name}:{i}" if len(node.output) > 1 else node.name
                node.output[i] = self.renamed.setdefault(name, default)
        node.doc_string = ""


def _labels(graph: GraphProto) -> dict[str, str]:
    """The label of what gives each value. A node without one serves those that read what it gives (a size, a cast); one
    that nobody reads passes on what another gives."""
    found = {output: _label(n) for g in graphs_of(graph) for n in g.node for output in n.output}
    for node in reversed(graph.node):
        for name in node.input:
            if not found.get(name, "given"):
                found[name] = found[node.output[0]]
    for node in graph.node:
        if not found[node.output[0]]:
            given = next((found[n] for n in node.input if found.get(n)), "")
            found.update((output, given) for output in node.output)
    return found


def _label(node: NodeProto) -> str:
    return next((label_of(p.value) for p in node.metadata_props if p.key == "pkg.torch.onnx.stack_trace"), "")


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, and those within its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for nested in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from graphs_of(nested)


def _strip(model: ModelProto) -> None:
    """Without notes: they hold paths and hashes of one run."""
    del model.metadata_props[:]
    for graph in graphs_of(model.graph):
        del graph.metadata_props[:]
        for thing in (*graph.node, *graph.initializer, *graph.input, *graph.output):
            del thing.metadata_props[:]
    for function in model.functions:
        del function.metadata_props[:]
        for node in function.node:
            del node.metadata_props[:]


__all__ = ["Names", "give_names", "graphs_of", "value_info"]
