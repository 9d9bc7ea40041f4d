"""Symbolic tracing by torch.fx: needs no example input, and addresses the model's own layers by name."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, fx, nn

from ...nests import Fixed, Part, take_apart
from ..calling import CallForm, ResultForm, form_by_signature, form_of_call, takes_only_rest
from ..graph.contexts import place_in
from ..graph.effects import is_hooked
from ..graph.in_place import check_in_place
from ..graph.names import rename_apart
from ..graph.regions import check_regions
from ..graph.value_types import ValueType, ValueTypes
from ..refusals import LosesMeaning
from ..stages import Signature, Traced
from ..torch_private import BATCH_NORMS
from ..users_code import users_frame
from .draws import NoDraws
from .made_tensors import MadeTensors, WritesIntoConstant, sizes_of_values
from .opened_contexts import noted_contexts
from .patching import this_thread
from .proxies import RecordingProxy, is_asked_by_user
from .questions import Asked, answered
from .recorded_functions import functions_as_whole, numbers_recorded
from .whole_calls import arguments_unwritten

Example = tuple[Sequence[Any], Mapping[str, Any]]
"""A call: its arguments and its keywords."""


class ModelTracer(fx.Tracer):
    """Symbolic tracing that keeps buffers live, user-chosen modules opaque and file names at hand."""

    proxy_buffer_attributes = True

    def __init__(self, network: nn.Module, opaque: Sequence[str], form: CallForm):
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]  # none, not even math
        self.opaque, self.form = frozenset(opaque), form
        self.taken_for_tensors: set[str] = set()
        self.result: Part = Fixed(None)
        self.registered = {  # by identity
            id(value): (path, value) for path, value in (*network.named_buffers(), *network.named_parameters())
        }
        self.asked: Asked | None = None
        self.mine = this_thread()
        self.captured: list[tuple[Tensor, Tensor, str]] = []  # constants, what they were at first, and in which module

    # --- nodes ---

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return RecordingProxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """With the line of the user's code alone: the whole stack takes half the time of a trace."""
        node = super().create_node(*args, **kwargs)
        node.stack_trace = node.stack_trace or _users_line()
        if node.op.startswith("call") and self.asked is not None:
            self.asked.check(node)
            place_in(node, self.asked.surroundings.now)
        return node

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Called as a whole too: a norm of the user's, which depends on its mode and buffers, and what has hooks."""
        if module_qualified_name in self.opaque or is_hooked(m):
            return True
        if self.opens_autocast:  # which changes what is inside of a layer
            return False
        return isinstance(m, BATCH_NORMS) or super().is_leaf_module(m, module_qualified_name)

    @property
    def opens_autocast(self) -> bool:
        """Whether the forward stands in a region of autocast."""
        return self.asked is not None and bool(self.asked.surroundings.open)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """torch.fx replaces the calls of every module of the process, those of other threads too."""
        if not self.mine():
            return forward(*args, **kwargs)
        try:
            return super().call_module(m, forward, args, kwargs)
        except fx.proxy.TraceError:
            if self.opens_autocast and type(m).__module__.startswith("torch.nn"):
                self.refuse(f"calls {self.path_of_module(m)} within autocast, and it can't be traced through")
            raise

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """A placeholder for each input of the form, and the forward called as the form says, its result taken apart."""
        proxies = [self.create_proxy("placeholder", name, (), {}) for name in self.form.names]

        def forward() -> tuple[Any, ...]:
            args, kwargs = self.form.made(proxies)
            with arguments_unwritten([*args, *kwargs.values()], self.root):
                result = self.root.forward(*args, **kwargs)
                leaves, self.result = take_apart(result, lambda v: isinstance(v, (Tensor, fx.Proxy)), name="result")
            return tuple(leaves)

        return forward, []

    # --- tensors ---

    def path_of_tensor(self, tensor: Tensor) -> str | None:
        """The path of a parameter or buffer of the model."""
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
            self.captured.append((a, a.detach().clone(), self.scope.module_path))
        return self.create_node("get_attr", path, (), {})

    # --- questions ---

    def to_bool(self, obj: fx.Proxy) -> bool:
        return self._or_remembered(super().to_bool, obj)  # type: ignore[no-any-return]

    def iter(self, obj: fx.Proxy) -> Any:
        return self._or_remembered(super().iter, obj)

    def _or_remembered(self, ask: Callable[[fx.Proxy], Any], obj: fx.Proxy) -> Any:
        try:
            return ask(obj)
        except Exception as failure:
            raise self.remembered(failure) from None

    def remembered(self, failure: Exception) -> Exception:
        """An answer that could not be given to the user's code, which is told again if the forward catches it."""
        if self.asked is not None and self.asked.listens() and is_asked_by_user():
            self.asked.caught = self.asked.caught or failure
        return failure

    def refuse(self, what: str) -> None:
        """Refuses what the user's code does while it is traced."""
        if self.asked is not None and self.asked.listens():
            self.asked.lose(what)

    def type_if_known(self, value: fx.Proxy) -> ValueType:
        """The type of a traced value, as far as the graph tells by itself."""
        return self.types(value.node)

    def type_of(self, value: fx.Proxy) -> ValueType:
        """The type of a traced value; an argument without an example is taken for a tensor, and calls held to it."""
        if value.node.op != "placeholder":
            return self.types(value.node)
        name = str(value.node.target)
        if self._arguments[name] is None:
            self.taken_for_tensors.add(name)
        return self._arguments[name] or Tensor

    @functools.cached_property
    def _arguments(self) -> dict[str, ValueType]:
        return dict(zip(self.form.names, (i.kind for i in self.form.inputs), strict=True))

    @functools.cached_property
    def types(self) -> ValueTypes:
        """The types of the values of its graph: a trace asks for them at every step."""
        return ValueTypes(self.graph, self.root, self._arguments)

    def form_of_calls(self) -> CallForm:
        """The form that was traced, with tensors where the forward was told that there are some."""
        inputs = zip(self.form.names, self.form.inputs, strict=True)
        held = tuple(replace(i, kind=Tensor) if name in self.taken_for_tensors else i for name, i in inputs)
        return replace(self.form, inputs=held)


def _users_line() -> str | None:
    """The innermost line of the user's code, as a traceback prints it."""
    frame = users_frame()
    return frame and f'File "{frame.f_code.co_filename}", line {frame.f_lineno}, in {frame.f_code.co_name}'


# --- attempts ---------------------------------------------------------------------------------------------


def symbolic_trace(network: nn.Module, opaque: Sequence[str], example: Example | None = None) -> Traced:
    """The graph of a network, by torch.fx.

    Args:
        network: a copy of the user's, which constants may be added to.
        opaque: paths of modules that are called as a whole.
        example: a call whose arguments are part of the program.

    Raises:
        Exception: whatever the forward raises when it is called with proxies.
    """
    failure: Exception | None = None
    for form in _forms(network, example):
        try:
            return _trace(network, opaque, form)
        except Exception as error:
            failure = error
    assert failure is not None
    raise failure


MOST = 4
"""Arguments that ``*args`` is tried with where nobody has shown a call."""


def _forms(network: nn.Module, example: Example | None) -> Iterator[CallForm]:
    """The forms of a call to try: a number may choose a path as well, such as the length of a loop."""
    forward, inputs = network.forward, -1
    counts = range(1, MOST + 1) if example is None and takes_only_rest(forward) else (0,)
    for rest, numbers in itertools.product(counts, (True, False)):
        form = (
            form_by_signature(forward, numbers, rest) if example is None else form_of_call(forward, *example, numbers)
        )
        if len(form.inputs) != inputs:
            yield form
        inputs = len(form.inputs)


def _trace(network: nn.Module, opaque: Sequence[str], form: CallForm) -> Traced:
    plain = set(vars(network))
    try:
        return _traced(network, ModelTracer(network, opaque, form), makes_tensors=False)
    except WritesIntoConstant as failure:
        first = failure
    for name in set(vars(network)) - plain:
        del vars(network)[name]
    try:
        return _traced(network, ModelTracer(network, opaque, form), makes_tensors=True)
    except LosesMeaning:
        raise
    except Exception as failure:  # such as control flow on a tensor that was a constant before
        raise first from failure


def _traced(network: nn.Module, tracer: ModelTracer, makes_tensors: bool) -> Traced:
    """One trace.

    Args:
        makes_tensors: whether the graph makes the tensors that the forward makes, instead of holding them as constants.
    """
    plain = set(vars(network))
    made = MadeTensors(tracer, makes_tensors)
    draws = NoDraws(network)
    with functions_as_whole(), noted_contexts() as surroundings, draws, sizes_of_values(), made:
        tracer.asked = Asked(network, tracer.type_of, surroundings)
        with answered(tracer.asked), numbers_recorded(network):
            graph = tracer.trace(network)
    made.check_constants()
    draws.check()
    for name in set(vars(network)) - plain:  # constants that the tracer hung on the root move with the model
        value = vars(network).pop(name)
        if isinstance(value, Tensor):
            network.register_buffer(name, value, persistent=False)
        else:
            setattr(network, name, value)
    check_regions(graph, network)
    check_in_place(graph, network)
    rename_apart(graph, network)
    names = tuple(n.name for n in graph.nodes if n.op == "placeholder")
    return Traced(network, graph, Signature(names, tracer.form_of_calls(), ResultForm(tracer.result)), "torch.fx")
