"""Tracing by torch.export: needs example inputs, and takes what symbolic tracing can't."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ...errors import InputError, Problem, TraceError
from ...nests import Part, outline, take_apart
from ...quiet import quiet_torch
from ..calling import CallForm, ResultForm, form_of_call
from ..graph.names import has_path, rename_apart, value_at
from ..graph.regions import check_regions
from ..refusals import LosesMeaning, kept_whole, untraceable
from ..size_choices import SizeChoice
from ..stages import Signature, Traced
from ..tracing.copy_on_write import can_be_shared, copied_on_write, sharable
from ..tracing.opened_contexts import noted_contexts
from ..tracing.patching import replaced
from ..tracing.questions import Asked, answered
from ..tracing.recorded_functions import functions_met
from ..tracing.state import State
from ..tracing.whole_calls import arguments_unwritten, no_attribute_written, nothing_written
from .asked_sizes import choices_noted, sizes_of
from .forward_watch import Registered, TensorReads
from .opened_regions import open_regions
from .operators import layers_whole, write_operators

logger = logging.getLogger(__name__)


def export_trace(
    network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], whole: Sequence[str] = ()
) -> Traced:
    """By torch.export, with a dynamic batch where the model allows one.

    Args:
        network: a copy of the user's, which constants may be added to.
        args, kwargs: an example call.
        whole: paths of layers that are one call each.

    Raises:
        TraceError: torch.export fails, or would lose something.
    """
    form = form_of_call(network.forward, args, kwargs, numbers=False)
    tensors = form(args, kwargs)
    try:
        with nothing_written(network):
            exported = _exported(network, form, tensors, whole)
    except LosesMeaning as loss:
        # perhaps a first call alone writes: transformers note in their configuration which loss they take
        with _after_a_call(network, form, tensors, loss), nothing_written(network):
            exported = _exported(network, form, tensors, whole)
    if exported.met:
        logger.warning(
            "torch.export traced through %s: gradients are those of the forward, whatever backward is defined. Keep "
            "the layer that calls it whole by digital=[...]",
            ", ".join(sorted(exported.met)),
        )
    graph = _graph_of(exported.program, network)
    check_regions(graph, network)
    rename_apart(graph, network)
    names = tuple(n.name for n in graph.nodes if n.op == "placeholder")
    return Traced(network, graph, Signature(names, exported.form, exported.result), "torch.export")


@dataclass(frozen=True)
class _Exported:
    """The exported program of a forward that takes tensors and returns a tuple of them.

    Attributes:
        program: torch's.
        form: of the calls that it holds for.
        result: the form of its result.
        met: the functions of the user's that it was traced through.
    """

    program: Any
    form: CallForm
    result: ResultForm
    met: set[str]

    def takes(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the call that was given is one that it holds for."""
        try:
            self.form(*self.form.made(tensors))
        except InputError:
            return False
        return True


@contextmanager
def _after_a_call(network: nn.Module, form: CallForm, tensors: Sequence[Tensor], loss: LosesMeaning) -> Iterator[None]:
    """The network as its first call leaves it, its tensors as they were; where that is no help, everything as it was.

    Raises:
        LosesMeaning: the first call is another than the second.
    """
    state, registered = State(network), Registered(network)
    try:
        if not _are_alike(*(_called(network, form, tensors, loss) for _ in range(2))) or registered.has_changed():
            raise loss
        yield
    except Exception:
        state.restore()
        raise


def _called(network: nn.Module, form: CallForm, tensors: Sequence[Tensor], loss: LosesMeaning) -> Any:
    """The result of a call that leaves tensors and random numbers as they were."""
    args, kwargs = form.made(tensors)
    buffers = {f"{n} ": b for n, b in network.named_buffers() if can_be_shared(b)}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), copied_on_write({**sharable(network), **buffers}):
        try:
            return network(*args, **kwargs)
        except Exception as failure:  # a model that runs with gradients alone
            raise loss from failure


def _are_alike(one: Any, other: Any) -> bool:
    """Whether two results are the same, to the last bit."""
    (a, form_a), (b, form_b) = (take_apart(v, lambda v: isinstance(v, Tensor), name="result") for v in (one, other))
    same = outline(form_a) == outline(form_b) and [(v.shape, v.dtype) for v in a] == [(v.shape, v.dtype) for v in b]
    return same and all(torch.equal(torch.nan_to_num(v), torch.nan_to_num(w)) for v, w in zip(a, b, strict=True))


def _exported(network: nn.Module, form: CallForm, tensors: Sequence[Tensor], whole: Sequence[str]) -> _Exported:
    """The first attempt that succeeds and takes the call that was given, or that succeeds."""
    failure: Exception | None = None
    first: _Exported | None = None
    for values, dynamic in _attempts(tensors):
        try:
            exported = _attempt(network, form, values, dynamic, whole)
        except LosesMeaning:
            raise
        except Exception as error:
            failure = failure or error
            continue
        if exported.takes(tensors):
            return exported
        first = first or exported
    if first is not None:
        return first
    assert failure is not None
    raise TraceError(untraceable(network, failure, "torch.export")) from failure


def _attempt(
    network: nn.Module, form: CallForm, values: Sequence[Tensor], dynamic: Any, whole: Sequence[str]
) -> _Exported:
    with (
        quiet_torch(prints=True),
        functions_met() as met,
        _told(network),
        layers_whole(network, whole),
        _flattened(network, form) as results,
        choices_noted() as choices,
    ):
        program = torch.export.export(network, tuple(values), dynamic_shapes=dynamic, strict=False)
    return _Exported(program, _as_exported(form, program, choices), ResultForm(results[-1]), met)


def _attempts(tensors: Sequence[Tensor]) -> Iterator[tuple[Sequence[Tensor], Any]]:
    """What to try: a dynamic batch where the model allows one; a batch of one, which is taken for constant, doubled."""
    doubled = [torch.cat([t, t]) if t.dim() > 0 and t.shape[0] == 1 else t for t in tensors]
    dynamic = tuple({0: torch.export.Dim.AUTO} if t.dim() > 0 else None for t in tensors)
    as_given = [tensors] if any(t.dim() > 0 and t.shape[0] == 1 for t in tensors) else []
    yield from ((values, shapes) for shapes in (dynamic, None) for values in (doubled, *as_given))


def _is_leaf(value: Any) -> bool:
    return isinstance(value, (Tensor, torch.SymInt, torch.SymFloat, torch.SymBool))


@contextmanager
def _flattened(network: nn.Module, form: CallForm) -> Iterator[list[Part]]:
    """The network with a forward that takes the tensors of a call and returns those of the result, for a while.

    Yields:
        the forms of the results of its calls.
    """
    forward = network.forward
    results: list[Part] = []

    def flat(*tensors: Tensor) -> tuple[Any, ...]:
        args, kwargs = form.made(tensors)
        registered = Registered(network)
        with arguments_unwritten([*args, *kwargs.values()], network):
            with no_attribute_written(network):
                leaves, result = take_apart(forward(*args, **kwargs), _is_leaf, name="result")
            registered.write()
            results.append(result)
        return tuple(leaves)

    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(n, positional) for n in form.names])
    flat.__signature__ = signature  # type: ignore[attr-defined]
    with replaced(network, "forward", flat):
        yield results


def _as_exported(form: CallForm, program: Any, choices: Sequence[SizeChoice]) -> CallForm:
    """The form with the types and sizes that the exported program holds for.

    Raises:
        LosesMeaning: the forward asked about a size that no input has by itself.
    """
    given = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    values = [given[name] for name in program.graph_signature.user_inputs]
    inputs, asked = [], [*choices]
    for entry, value in zip(form.inputs, values, strict=True):
        if isinstance(value, Tensor):
            sizes, relations = sizes_of(entry.name, value)
            asked += relations
            entry = replace(entry, dtype=value.dtype, sizes=sizes)
        inputs.append(entry)
    known = {size for i in inputs for size in i.sizes or () if isinstance(size, str)}
    for choice in asked:
        if not choice.is_of(known):
            what = "the forward chooses its path by a size, in a way that can't be held to at a call"
            raise LosesMeaning(Problem(choice.place, what, kept_whole("")), "")
    return replace(form, inputs=tuple(inputs), choices=tuple(asked))


@contextmanager
def _told(network: nn.Module) -> Iterator[None]:
    """Answers what the forward asks as at a call, and refuses what an exported program would bake in."""
    with noted_contexts(grad_mode=False) as surroundings:
        asked = Asked(network, lambda value: None, surroundings)
        with answered(asked), TensorReads(asked):
            yield


# --- the graph --------------------------------------------------------------------------------------------


def _graph_of(program: Any, network: nn.Module) -> fx.Graph:
    """The graph of an exported program, on the tensors and layers of the network."""
    try:
        module = program.module(check_guards=False)
    except TypeError:  # before torch 2.10
        module = program.module()
    open_regions(module)
    graph: fx.Graph = module.graph
    graph.owning_module = None  # its constants and layers are the network's
    read = [n for n in graph.nodes if n.op == "get_attr"]
    kept = {
        name: _keep_constant(network, name, value_at(module, name)) for name in dict.fromkeys(n.target for n in read)
    }
    for node in read:
        node.target = kept[node.target]
    for node in list(graph.nodes):  # the guards of the example; the shapes are checked where they matter
        if node.op == "call_module" and not has_path(network, node.target):
            graph.erase_node(node)
    write_operators(graph)
    return graph


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
