"""Tensors that the model overwrites as it runs: calls that read or write one keep their order and stay digital.

A block reads its weights when it runs, which may be after a later call of the model has changed them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import fx, nn

from ..torch_private import BATCH_NORMS
from .aliases import bases_of
from .effects import statistics_of, written_by
from .names import has_path, module_of, value_at


def overwritten_tensors(
    graph: fx.Graph, network: nn.Module, stateful: Collection[str]
) -> dict[fx.Node, frozenset[str]]:
    """For each call that reads or writes tensors which the model overwrites: their paths, each tensor's first one.

    Args:
        stateful: paths of modules that may keep a state: their calls keep their order too, and may write every buffer
            that they hold.
    """
    tensors = _Tensors(graph, network)
    read = {n: set(tensors.read_by(n)) for n in graph.nodes if n.op.startswith("call")}
    overwritten = {path for n in read for path in tensors.paths(written_by(n, network))} | _shared(read, tensors)
    for node in [n for n in read if n.op == "call_module" and n.target in stateful]:
        module = network.get_submodule(str(node.target))
        state = {f"state of {node.target}", *(tensors.first[id(b)] for b in module.buffers())}
        read[node] |= state
        overwritten |= state
    return {n: shared for n, paths in read.items() if (shared := frozenset(paths & overwritten))}


def stand_beside_readers(graph: fx.Graph, network: nn.Module, stateful: Collection[str]) -> frozenset[fx.Node]:
    """Lets what overwrites or reads a tensor of the model get to it by calls in its own digital part.

    A part's inputs are values, of which a training step makes leaves and a bundle ports: a tensor of the model must
    not be one. So what a write returns is read from the tensor itself, and each reader of a view has views of its
    own, which are returned.
    """
    ordered = overwritten_tensors(graph, network, stateful)
    bases = bases_of(graph, network)
    for node in ordered:
        written = written_by(node, network)
        if len(written) == 1 and bases[written[0]].op == "get_attr":
            node.replace_all_uses_with(written[0])
    bases = bases_of(graph, network)
    made: set[fx.Node] = set()

    def copies_of_views(reader: fx.Node, before: fx.Node) -> dict[fx.Node, fx.Node]:
        """By each view of a tensor of the model that a call reads, the same view made right before ``before``."""
        views = (o for o in reader.all_input_nodes if o.op != "get_attr" and bases[o].op == "get_attr")
        return {view: copied(view, before) for view in views}

    def copied(view: fx.Node, before: fx.Node) -> fx.Node:
        inner = copies_of_views(view, before)
        with graph.inserting_before(before):
            copy = graph.node_copy(view, lambda n: inner.get(n, n))
        made.add(copy)
        return copy

    for node in ordered:
        if bases[node] is node or written_by(node, network):
            for view, copy in copies_of_views(node, node).items():
                node.replace_input_with(view, copy)
    return frozenset(made)


class _Tensors:
    """The first path of each tensor of a model, so that tied ones are one, and who reads them."""

    def __init__(self, graph: fx.Graph, network: nn.Module):
        self.network, self.bases = network, bases_of(graph, network)
        self.first: dict[int, str] = {}
        for named in (network.named_parameters, network.named_buffers):
            for path, tensor in named(remove_duplicate=False):
                self.first.setdefault(id(tensor), path)

    def paths(self, values: Collection[fx.Node]) -> Iterator[str]:
        """The paths of the tensors that values are, or are views of."""
        for base in (self.bases[v] for v in values):
            if base.op == "get_attr":
                path = str(base.target)
                tensor = value_at(self.network, path) if has_path(self.network, path) else None
                yield self.first.get(id(tensor), path)

    def read_by(self, node: fx.Node) -> Iterator[str]:
        """What a call reads or writes, itself, through views, or in the module that it calls."""
        yield from self.paths(node.all_input_nodes)
        if (module := module_of(node, self.network)) is not None:
            yield from (self.first[id(t)] for t in (*module.parameters(), *module.buffers()))

    def written_aside(self, node: fx.Node) -> Iterator[str]:
        """What a layer writes for itself: running statistics and limited embeddings."""
        module = module_of(node, self.network)
        if isinstance(module, BATCH_NORMS):
            yield from (self.first[id(b)] for b in module.buffers())
        elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None:
            yield self.first[id(module.weight)]
        yield from self.paths(statistics_of(node))


def _shared(read: dict[fx.Node, set[str]], tensors: _Tensors) -> set[str]:
    """What layers write for themselves and something else reads."""
    own: dict[str, set[object]] = {}
    readers: dict[str, set[object]] = {}
    for node, paths in read.items():
        reader: object = node.target if node.op == "call_module" else node
        for path in tensors.written_aside(node):
            own.setdefault(path, set()).add(reader)
        for path in paths:
            readers.setdefault(path, set()).add(reader)
    return {path for path, layers in own.items() if readers.get(path, set()) - layers}
