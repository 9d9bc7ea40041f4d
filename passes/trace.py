"""Pass 1, trace: an ``nn.Module`` becomes a torch.fx graph that addresses the module's own layers by name.

``torch.fx.symbolic_trace`` first, which needs no example; ``torch.export`` where that fails and example inputs are
given. A graph is traced for one mode (training or evaluation), since both tracers bake ``self.training`` in.
"""

from __future__ import annotations

import inspect
import logging
import operator
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..errors import Problem, TraceError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Signature:
    """How the model is called: names of its arguments, and how a call and a result are taken apart.

    Attributes:
        inputs: names of the graph's placeholders.
        bind: ``(args, kwargs) -> values`` of the placeholders, in order.
        pack: the model's result from the graph's flat or nested output.
    """

    inputs: tuple[str, ...]
    bind: Callable[[tuple[Any, ...], Mapping[str, Any]], tuple[Any, ...]]
    pack: Callable[[Any], Any]


@dataclass(frozen=True)
class Traced:
    """Stage 1.

    Attributes:
        network: the copy of the user's model that the graph addresses.
        graph: the traced graph; ``call_module`` and ``get_attr`` targets are paths in ``network``.
        signature: how it is called.
        tracer: ``"torch.fx"`` or ``"torch.export"``.
        training: the mode that was traced.
    """

    network: nn.Module
    graph: fx.Graph
    signature: Signature
    tracer: str
    training: bool = False


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

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """With the line of the user's code alone: the whole stack, read and formatted, takes half the time of a trace."""
        node = super().create_node(*args, **kwargs)
        node.stack_trace = node.stack_trace or _users_line()
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

    def path_of_tensor(self, tensor: Tensor) -> str | None:
        """The path of a parameter or buffer of the model."""
        if not self.registered:
            named = (*self.root.named_buffers(), *self.root.named_parameters())
            self.registered = {id(value): (path, value) for path, value in named}
        return self.registered[id(tensor)][0] if id(tensor) in self.registered else None

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """As torch.fx does it, but without a search through the model for every tensor that it reads."""
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


def trace(
    network: nn.Module,
    training: bool,
    example_args: tuple[Any, ...] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
    opaque: Sequence[str] = (),
) -> Traced:
    """The graph of ``network`` in one mode.

    Args:
        network: a copy of the user's model, which the tracer may add constants to.
        training: the mode to trace; the network's own modes are put back.
        example_args, example_kwargs: an example call, for ``torch.export``.
        opaque: paths of modules that are called as a whole.

    Raises:
        TraceError: neither tracer can turn the model into a graph; says where it failed.
    """
    modes = {m: m.training for m in network.modules()}
    network.train(training)
    try:
        try:
            return replace(_symbolic(network, opaque), training=training)
        except Exception as failure:  # fx raises whatever the user's forward raises on proxies
            if example_args is None and example_kwargs is None:
                raise TraceError(_untraceable(network, failure)) from failure
            logger.info("torch.fx can't trace %s (%s); trying torch.export", type(network).__name__, failure)
            return replace(_exported(network, example_args or (), dict(example_kwargs or {})), training=training)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _symbolic(network: nn.Module, opaque: Sequence[str]) -> Traced:
    tracer = ModelTracer(opaque)
    plain, random = set(vars(network)), torch.get_rng_state()
    with _functions_as_whole():
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
    _rename_apart(graph, network)
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    names = tuple(str(p.target) for p in placeholders)
    signature = inspect.signature(network.forward)
    return Traced(
        network,
        graph,
        Signature(tuple(p.name for p in placeholders), _binder(signature, names, tracer.constants), lambda x: x),
        "torch.fx",
    )


@contextmanager
def _functions_as_whole() -> Iterator[None]:
    """Each ``torch.autograd.Function`` of the user's becomes one call: traced through, it would lose its backward."""
    functions = list(dict.fromkeys(_own_functions()))
    recorded = [_recorded(f) for f in functions]  # before any is replaced: others inherit from it
    with ExitStack() as stack:
        for function, forward in zip(functions, recorded, strict=True):
            stack.enter_context(_replaced(function, "forward", forward))
            if _has_own_context(function):
                stack.enter_context(_replaced(function, "setup_context", lambda ctx, inputs, output: None))
        yield


@contextmanager
def _functions_met() -> Iterator[set[str]]:
    """The names of the user's functions that are called."""
    met: set[str] = set()
    functions = list(dict.fromkeys(_own_functions()))
    noted = [_noted(f, met) for f in functions]
    with ExitStack() as stack:
        for function, forward in zip(functions, noted, strict=True):
            stack.enter_context(_replaced(function, "forward", forward))
        yield met


def _noted(function: type[Any], met: set[str]) -> Callable[..., Any]:
    plain = function.forward

    def forward(*args: Any) -> Any:
        met.add(function.__qualname__)
        return plain(*args)

    return forward


@contextmanager
def _replaced(function: type[Any], name: str, value: Callable[..., Any]) -> Iterator[None]:
    before = vars(function).get(name)
    setattr(function, name, staticmethod(value))
    try:
        yield
    finally:
        if before is None:
            delattr(function, name)
        else:
            setattr(function, name, before)


def _has_own_context(function: type[Any]) -> bool:
    return function.setup_context is not torch.autograd.Function.setup_context


def _own_functions(root: type[Any] = torch.autograd.Function) -> Iterator[type[Any]]:
    for function in root.__subclasses__():
        if not function.__module__.startswith("torch."):
            yield function
        yield from _own_functions(function)


class FunctionCall:
    """A call of a ``torch.autograd.Function`` of the user's, under its name."""

    def __init__(self, function: type[Any]):
        self.function = function
        self.__name__, self.__module__ = function.__name__, function.__module__
        self.__qualname__ = f"{function.__qualname__}.apply"

    def __call__(self, *args: Any) -> Any:
        return self.function.apply(*args)


def _recorded(function: type[Any]) -> Callable[..., Any]:
    """What stands in for its forward while a model is traced."""
    plain, takes_context = function.forward, not _has_own_context(function)

    def forward(*args: Any) -> Any:
        given = args[1:] if takes_context else args
        proxies = [a for a in given if isinstance(a, fx.Proxy)]
        if not proxies:
            return plain(*args)
        return proxies[0].tracer.create_proxy("call_function", FunctionCall(function), given, {})

    return forward


def _binder(
    signature: inspect.Signature, names: tuple[str, ...], fixed: Mapping[str, Any]
) -> Callable[..., tuple[Any, ...]]:
    stars = {
        n: "*" if p.kind is p.VAR_POSITIONAL else "**"
        for n, p in signature.parameters.items()
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    }

    def bind(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in fixed.items():
            given = bound.arguments[name]
            if given is not value and not (isinstance(value, (bool, str)) and given == value):
                raise TypeError(
                    f"argument {name!r} was {value!r} when the model was traced, and chooses the path through it; convert again with example_inputs= to trace another"
                )
        values = {**bound.arguments, **{f"{star}{n}": bound.arguments[n] for n, star in stars.items()}}
        return tuple(values[n] for n in names)

    return bind


def _exported(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Traced:
    """By torch.export, with a dynamic batch where the model allows one."""
    exported: Any = None
    failure: Exception | None = None
    args, kwargs = _two_samples(args), _two_samples(kwargs)
    for dynamic in (True, False):
        shapes = _batch_dimension(args, kwargs) if dynamic else None
        try:
            with _functions_met() as met:
                exported = torch.export.export(network, args, kwargs or None, dynamic_shapes=shapes, strict=False)
            break
        except Exception as error:
            failure = failure or error
    if exported is None:
        assert failure is not None
        raise TraceError(_untraceable(network, failure, "torch.export")) from failure
    if met:
        logger.warning(
            "torch.export traced through %s: gradients are those of the forward, whatever backward is defined. Keep the layer that calls it whole by digital=[...]",
            ", ".join(sorted(met)),
        )
    module = _module_of(exported)
    graph = module.graph
    read = [n for n in graph.nodes if n.op == "get_attr"]
    kept = {name: _keep_constant(network, name, _path(module, name)) for name in dict.fromkeys(n.target for n in read)}
    for node in read:
        node.target = kept[node.target]
    for node in list(graph.nodes):  # the guards of the example; the shapes are checked where they matter
        if node.op == "call_module" and not _has_path(network, node.target):
            graph.erase_node(node)
    _rename_apart(graph, network)
    codegen: Any = graph._codegen
    placeholders = tuple(n.name for n in graph.nodes if n.op == "placeholder")

    def bind(given: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Any, ...]:
        spec = codegen.pytree_info.in_spec
        flat, got = torch.utils._pytree.tree_flatten((tuple(given), dict(named)))
        if got != spec:
            order = list(spec.child(1).context or ()) if hasattr(spec, "child") else list(named)
            flat, got = torch.utils._pytree.tree_flatten((tuple(given), {k: named[k] for k in order if k in named}))
        if len(flat) != len(placeholders):
            raise TypeError(
                f"the model was exported with {len(placeholders)} inputs and is called with {len(flat)}; call it as in example_inputs="
            )
        return tuple(flat)

    out_spec = codegen.pytree_info.out_spec
    return Traced(
        network,
        graph,
        Signature(placeholders, bind, lambda flat: torch.utils._pytree.tree_unflatten(list(flat), out_spec)),
        "torch.export",
    )


def _keep_constant(network: nn.Module, name: str, value: Any) -> str:
    """The path in ``network`` of a tensor that the exported graph reads; a constant of the export is added to it."""
    if _has_path(network, name) and not _is_another(_path(network, name), value):
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


def _rename_apart(graph: fx.Graph, network: nn.Module) -> None:
    """Values and weights are told apart by name: an argument ``scale`` of a model with a parameter ``scale`` gets another."""
    taken = {name for name, _ in (*network.named_parameters(recurse=False), *network.named_buffers(recurse=False))}
    for node in graph.nodes:
        if node.name in taken:
            node._rename(f"{node.name}_value")


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


def _path(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name)
    return root


def _has_path(root: Any, path: str) -> bool:
    try:
        _path(root, path)
    except AttributeError:
        return False
    return True


def _untraceable(network: nn.Module, failure: Exception, tracer: str = "torch.fx") -> Problem:
    """Where the user's own code failed, from the innermost frame that is not torch's."""
    frames = [
        f
        for f in traceback.extract_tb(failure.__traceback__)
        if "/torch/" not in f.filename and "ffebm_compiler" not in f.filename and "/passes/" not in f.filename
    ]
    place = f"{frames[-1].filename}:{frames[-1].lineno} ({frames[-1].line})" if frames else type(network).__name__
    message = str(failure).strip().splitlines()
    remedy = (
        "Give example_inputs= to trace by torch.export, or keep the module out with digital=[...] (its name), which calls it as a whole."
        if tracer == "torch.fx"
        else "torch.export failed too. Keep the module that contains this line out with digital=[...] (its name), which calls it as a whole, or write it without control flow on values."
    )
    return Problem(
        f"model {type(network).__name__}, at {place}",
        f"{tracer} can't trace it: {message[0] if message else type(failure).__name__}",
        remedy,
    )
