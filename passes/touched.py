"""Tensors of the model that it overwrites as it runs: the calls that read or write one keep their order, and stay out of blocks.

A block reads its weights when it runs, which may be after a later call of the model has changed them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from torch import fx, nn

from .aliases import bases_of
from .naming import module_of
from .traced_names import has_path, value_at
from .writes import statistics_of, written_by


def touched_tensors(graph: fx.Graph, network: nn.Module, whole: Collection[str]) -> dict[fx.Node, frozenset[str]]:
    """For each call that reads or writes tensors which the model overwrites: their paths, each tensor under its first one.

    Args:
        whole: paths of modules that may keep a state: their calls keep their order too, and may write every buffer that they hold.
    """
    tensors = _Tensors(network)
    bases = bases_of(graph, network)
    read = {n: set(_read(n, bases, tensors)) for n in graph.nodes if n.op.startswith("call")}
    overwritten = {path for n in read for path in _written(n, bases, tensors)} | _shared(read, bases, tensors)
    for node in [n for n in read if n.op == "call_module" and n.target in whole]:
        state = {f"state of {node.target}", *tensors.buffers_under(module_of(node, network))}
        read[node] |= state
        overwritten |= state
    return {n: shared for n, paths in read.items() if (shared := frozenset(paths & overwritten))}


def stand_beside_readers(graph: fx.Graph, network: nn.Module, whole: Collection[str]) -> frozenset[fx.Node]:
    """Lets what overwrites or reads a tensor of the model get to it in the same digital part, by calls that stand beside it.

    A part's inputs are values, of which a training step makes leaves and a bundle ports: a tensor of the model must not be one. So what a
    write returns is read from the tensor itself, and each reader of a view has views of its own, which are returned.
    """
    touched = touched_tensors(graph, network, whole)
    bases = bases_of(graph, network)
    for node in touched:
        written = written_by(node, network)
        if len(written) == 1 and bases[written[0]].op == "get_attr":
            node.replace_all_uses_with(written[0])
    bases = bases_of(graph, network)
    made: set[fx.Node] = set()
    for node in touched:
        if bases[node] is node or written_by(node, network):
            for operand in [o for o in node.all_input_nodes if _is_view_of_attribute(o, bases)]:
                node.replace_input_with(operand, _again(operand, node, bases, made))
    return frozenset(made)


def _again(view: fx.Node, reader: fx.Node, bases: Mapping[fx.Node, fx.Node], made: set[fx.Node]) -> fx.Node:
    """The same view of a tensor of the model, made right before its reader."""
    copies = {o: _again(o, reader, bases, made) for o in view.all_input_nodes if _is_view_of_attribute(o, bases)}
    with view.graph.inserting_before(reader):
        copy = view.graph.node_copy(view, lambda n: copies.get(n, n))
    made.add(copy)
    return copy


def _is_view_of_attribute(node: fx.Node, bases: Mapping[fx.Node, fx.Node]) -> bool:
    return node.op != "get_attr" and bases[node].op == "get_attr"


class _Tensors:
    """The first path of each tensor of a model, so that tied ones are one."""

    def __init__(self, network: nn.Module):
        self.network = network
        self.first: dict[int, str] = {}
        for path, tensor in (
            *network.named_parameters(remove_duplicate=False),
            *network.named_buffers(remove_duplicate=False),
        ):
            self.first.setdefault(id(tensor), path)

    def at(self, path: str) -> str:
        value = value_at(self.network, path) if has_path(self.network, path) else None
        return self.first.get(id(value), path)

    def buffers_under(self, module: nn.Module | None) -> Iterator[str]:
        for buffer in () if module is None else module.buffers():
            yield self.first[id(buffer)]

    def under(self, module: nn.Module) -> Iterator[str]:
        for tensor in (*module.parameters(), *module.buffers()):
            yield self.first[id(tensor)]


def _read(node: fx.Node, bases: Mapping[fx.Node, fx.Node], tensors: _Tensors) -> Iterator[str]:
    """What a call reads or writes, itself, through views, or in the module that it calls."""
    yield from (tensors.at(str(base.target)) for i in node.all_input_nodes if (base := bases[i]).op == "get_attr")
    if (module := module_of(node, tensors.network)) is not None:
        yield from tensors.under(module)


def _written(node: fx.Node, bases: Mapping[fx.Node, fx.Node], tensors: _Tensors) -> Iterator[str]:
    return (
        tensors.at(str(base.target)) for w in written_by(node, tensors.network) if (base := bases[w]).op == "get_attr"
    )


def _shared(read: Mapping[fx.Node, set[str]], bases: Mapping[fx.Node, fx.Node], tensors: _Tensors) -> set[str]:
    """What layers write for themselves, running statistics and limited embeddings, and something else reads."""
    own: dict[str, set[object]] = {}
    readers: dict[str, set[object]] = {}
    for node, paths in read.items():
        reader: object = node.target if node.op == "call_module" else node
        for path in _written_aside(node, bases, tensors):
            own.setdefault(path, set()).add(reader)
        for path in paths:
            readers.setdefault(path, set()).add(reader)
    return {path for path, layers in own.items() if readers.get(path, set()) - layers}


def _written_aside(node: fx.Node, bases: Mapping[fx.Node, fx.Node], tensors: _Tensors) -> Iterator[str]:
    module = module_of(node, tensors.network)
    if isinstance(module, nn.modules.batchnorm._NormBase):
        yield from (tensors.first[id(b)] for b in module.buffers())
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None:
        yield tensors.first[id(module.weight)]
    for statistic in statistics_of(node):
        if bases[statistic].op == "get_attr":
            yield tensors.at(str(bases[statistic].target))
