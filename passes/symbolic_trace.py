"""Symbolic tracing by torch.fx: needs no example input, and addresses the model's own layers by name."""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn

from .calling import NamedArguments, itself, parameters_of
from .contexts import Surroundings, noted_contexts, place_in
from .history import check_regions
from .own_functions import functions_as_whole
from .patching import this_thread
from .stages import Signature, Traced
from .traced_names import rename_apart


class _Proxy(fx.Proxy):
    """A proxy that records ``x += y`` as what it is: it changes x under its other names too."""


def _recorder(function: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _function in (
    operator.iadd,
    operator.isub,
    operator.imul,
    operator.itruediv,
    operator.ipow,
    operator.imatmul,
    operator.ifloordiv,
    operator.imod,
):
    setattr(_Proxy, f"__{_function.__name__}__", _recorder(_function))


class ModelTracer(fx.Tracer):
    """Symbolic tracing that keeps buffers live, user-chosen modules opaque and file names at hand."""

    proxy_buffer_attributes = True

    def __init__(self, opaque: Sequence[str] = ()):
        super().__init__()
        self.opaque = frozenset(opaque)
        self.constants: dict[str, Any] = {}
        self.registered: dict[int, tuple[str, Tensor]] = {}
        self.surroundings = Surroundings()
        self.mine = this_thread()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """With the line of the user's code alone: the whole stack, read and formatted, takes half the time of a trace."""
        node = super().create_node(*args, **kwargs)
        node.stack_trace = node.stack_trace or _users_line()
        place_in(node, self.surroundings.now)
        return node

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Called as a whole too: a norm of the user's own, which depends on its mode and its buffers, and what has hooks."""
        own_norm = isinstance(m, nn.modules.batchnorm._NormBase)
        return (
            module_qualified_name in self.opaque
            or own_norm
            or is_hooked(m)
            or super().is_leaf_module(m, module_qualified_name)
        )

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """torch.fx replaces the calls of every module of the process: those of other threads are none of this model's."""
        return super().call_module(m, forward, args, kwargs) if self.mine() else forward(*args, **kwargs)

    def path_of_tensor(self, tensor: Tensor) -> str | None:
        """The path of a parameter or buffer of the model."""
        if not self.registered:
            named = (*self.root.named_buffers(), *self.root.named_parameters())
            self.registered = {id(value): (path, value) for path, value in named}
        return self.registered[id(tensor)][0] if id(tensor) in self.registered else None

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """As torch.fx does it, but without a search through the model for every tensor that it reads."""
        if not self.mine():
            return attr_val
        path = self.path_of_tensor(attr_val) if isinstance(attr_val, Tensor) else None
        if path is None:
            return super().getattr(attr, attr_val, parameter_proxy_cache)
        if path not in parameter_proxy_cache:
            parameter_proxy_cache[path] = self.create_proxy("get_attr", path, (), {})
        return parameter_proxy_cache[path]

    def create_arg(self, a: Any) -> Any:
        """Likewise for a tensor that is an argument; one that the forward makes is hung on the model."""
        if not isinstance(a, Tensor) or isinstance(a, nn.Parameter):
            return super().create_arg(a)
        path = self.path_of_tensor(a) or self.tensor_attrs.get(a)
        if path is None:
            path = self.tensor_attrs[a] = self.get_fresh_qualname("_tensor_constant")
            setattr(self.root, path, a)
        return self.create_node("get_attr", path, (), {})

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Arguments that default to None or a flag keep that value: they choose a path, not a tensor."""
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        for i, parameter in enumerate(inspect.signature(self.root.forward).parameters.values(), start=1):
            if i >= len(args) or not isinstance(args[i], fx.Proxy):
                continue
            if parameter.default is None or isinstance(parameter.default, (bool, str)):
                self.graph.erase_node(args[i].node)
                args[i] = parameter.default
                self.constants[parameter.name] = parameter.default
        return function, args


def _users_line() -> str | None:
    """The innermost line of the forward that is traced which is not torch's, as a traceback prints it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not fx.Tracer.trace.__code__:
        file = frame.f_code.co_filename
        if "/torch/" not in file and file != __file__:
            return f'File "{file}", line {frame.f_lineno}, in {frame.f_code.co_name}'
        frame = frame.f_back
    return None


def is_hooked(module: nn.Module) -> bool:
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


def symbolic_trace(network: nn.Module, opaque: Sequence[str]) -> Traced:
    tracer = ModelTracer(opaque)
    plain, random = set(vars(network)), torch.get_rng_state()
    with functions_as_whole(), noted_contexts() as tracer.surroundings:
        graph = tracer.trace(network)
    if not torch.equal(random, torch.get_rng_state()):
        torch.set_rng_state(random)
        raise RuntimeError(
            "the forward draws random numbers of a fixed shape, which would be the same at every call; draw them like a value, as in torch.randn_like(x)"
        )
    for name in set(vars(network)) - plain:  # constants that the tracer hung on the root move with the model
        value = vars(network).pop(name)
        if isinstance(value, Tensor):
            network.register_buffer(name, value, persistent=False)
        else:
            setattr(network, name, value)
    check_regions(graph, network)
    rename_apart(graph, network)
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    named = NamedArguments(parameters_of(network.forward), tuple(str(p.target) for p in placeholders), tracer.constants)
    return Traced(network, graph, Signature(tuple(p.name for p in placeholders), named, itself), "torch.fx")
