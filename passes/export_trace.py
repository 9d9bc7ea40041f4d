"""Tracing by torch.export: needs example inputs, and takes what symbolic tracing can't."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import TraceError
from .calling import FlatArguments, Nested
from .contexts import plain_contexts
from .export_regions import open_regions
from .exported_layers import call_layers, layers_whole
from .history import check_regions
from .own_functions import functions_met
from .stages import Signature, Traced
from .traced_names import has_path, rename_apart, untraceable, value_at

logger = logging.getLogger(__name__)


def export_trace(
    network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], whole: Sequence[str] = ()
) -> Traced:
    """By torch.export, with a dynamic batch where the model allows one; the layers of the paths ``whole`` are called as such."""
    exported: Any = None
    failure: Exception | None = None
    args, kwargs = _two_samples(args), _two_samples(kwargs)
    for dynamic in (True, False):
        shapes = _batch_dimension(args, kwargs) if dynamic else None
        try:
            with functions_met() as met, plain_contexts(), layers_whole(network, whole):
                exported = torch.export.export(network, args, kwargs or None, dynamic_shapes=shapes, strict=False)
            break
        except Exception as error:
            failure = failure or error
    if exported is None:
        assert failure is not None
        raise TraceError(untraceable(network, failure, "torch.export")) from failure
    if met:
        logger.warning(
            "torch.export traced through %s: gradients are those of the forward, whatever backward is defined. Keep the layer that calls it whole by digital=[...]",
            ", ".join(sorted(met)),
        )
    module = _module_of(exported)
    open_regions(module)
    graph = module.graph
    read = [n for n in graph.nodes if n.op == "get_attr"]
    kept = {
        name: _keep_constant(network, name, value_at(module, name)) for name in dict.fromkeys(n.target for n in read)
    }
    for node in read:
        node.target = kept[node.target]
    for node in list(graph.nodes):  # the guards of the example; the shapes are checked where they matter
        if node.op == "call_module" and not has_path(network, node.target):
            graph.erase_node(node)
    call_layers(graph)
    check_regions(graph, network)
    rename_apart(graph, network)
    codegen: Any = graph._codegen
    placeholders = tuple(n.name for n in graph.nodes if n.op == "placeholder")
    info = codegen.pytree_info
    return Traced(
        network,
        graph,
        Signature(placeholders, FlatArguments(info.in_spec, len(placeholders)), Nested(info.out_spec)),
        "torch.export",
    )


def _keep_constant(network: nn.Module, name: str, value: Any) -> str:
    """The path in ``network`` of a tensor that the exported graph reads; a constant of the export is added to it."""
    if has_path(network, name) and not _is_another(value_at(network, name), value):
        return name
    own = name.replace(".", "_")
    while hasattr(network, own):  # the other mode's constant of the same name
        own += "_"
    if isinstance(value, Tensor):
        network.register_buffer(own, value.detach().clone(), persistent=False)
    else:
        setattr(network, own, value)
    return own


def _is_another(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and not (a is b or torch.equal(a, b))


def _module_of(exported: Any) -> fx.GraphModule:
    try:
        module = exported.module(check_guards=False)
    except TypeError:  # before torch 2.10
        module = exported.module()
    assert isinstance(module, fx.GraphModule)
    return module


def _two_samples(values: Any) -> Any:
    """A batch of one would be taken for a constant."""
    return torch.utils._pytree.tree_map(
        lambda v: torch.cat([v, v]) if isinstance(v, Tensor) and v.dim() > 0 and v.shape[0] == 1 else v, values
    )


def _batch_dimension(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    automatic = torch.export.Dim.AUTO

    def shapes(value: Any) -> Any:
        return torch.utils._pytree.tree_map(
            lambda v: {0: automatic} if isinstance(v, Tensor) and v.dim() > 0 else None, value
        )

    named = {k: shapes(v) for k, v in kwargs.items()}
    return tuple(shapes(a) for a in args) if not named else (*(shapes(a) for a in args), *named.values())
