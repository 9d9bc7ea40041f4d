"""The two modes of a model, training and evaluation: putting it in one, and whether both are one program.

Most models compute the same calls in both. Two graphs are one program if they make the same calls of the same values
in the same order. A batch norm that is called as a function says itself which statistics it takes, and is read
differently in each mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import fx, nn

from ..nests import outline
from ..rules import Role
from .calling import CallForm, ResultForm, outline_of
from .canonicalize import Canonical
from .graph.contexts import context_of
from .stages import Traced


@contextmanager
def in_mode(network: nn.Module, training: bool) -> Iterator[None]:
    """A model in one mode for a while, by its own ``train()``; afterwards every module is in its own mode again."""
    modes = {m: m.training for m in network.modules()}
    network.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def fingerprint(traced: Traced) -> tuple[object, ...]:
    """What a traced graph computes, and how it is called, before passes rewrite it: equal for one program."""
    signature = traced.signature
    called = outline_of(signature.bind) if isinstance(signature.bind, CallForm) else ()
    returned = outline(signature.pack.part) if isinstance(signature.pack, ResultForm) else ()
    return (traced.tracer, signature.inputs, called, returned, *(_call(n) for n in traced.graph.nodes))


def _call(node: fx.Node) -> tuple[object, ...]:
    """Arguments as they print: a node by its name, and 1 and 1.0 and True apart."""
    return node.name, node.op, node.target, repr(node.args), repr(node.kwargs), context_of(node)


def depends_on_mode(canonical: Canonical) -> bool:
    """Whether a call may be read differently in the other mode, though the graph is the same."""
    return any(rule.role is Role.NORM and node.op != "call_module" for node, rule in canonical.rules.items())
