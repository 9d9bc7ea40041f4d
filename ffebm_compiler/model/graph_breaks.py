"""A model under ``torch.compile``: its digital parts are compiled, and around its blocks the graph breaks.

A relaxation stops where its residual says so, which no graph can tell beforehand. So Python walks through the program;
it calls blocks, checks and records outside of the compiler, and leaves to the compiler each digital part as one
function. To import this file imports the compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import fx, nn

from ..errors import OptionError
from ..ir import DigitalBlock
from ..train.program_pass import run_program
from .runner import Runner, ignore

UNFORESEEN = "an energy-based block relaxes until its residual is small, which no graph can tell beforehand"
REASON = f"{UNFORESEEN}; call torch.compile without fullgraph=True, which compiles the digital parts"

outside_graphs = partial(torch.compiler.disable, reason=REASON)
"""Makes a function one that Python runs, with all that it calls."""

between_graphs = partial(torch.compiler.disable, recursive=False, reason=REASON)
"""Makes a function one that Python runs, while what it calls is compiled."""


@between_graphs
def forward_between_graphs(model: Runner, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The result of a model."""
    walk = partial(between_graphs(run_program), digital=run_as_graph)
    return between_graphs(model.run)(args, kwargs, ignore, call_outside, walk)


@outside_graphs
def call_outside(function: Callable[..., Any], *args: Any) -> Any:
    """Calls a function, which the compiler does not follow."""
    return function(*args)


@between_graphs
def run_as_graph(block: DigitalBlock, network: nn.Module, values: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of a digital part, by name, as :func:`ffebm_compiler.train.run_digital` finds them."""
    function = call_outside(_function_of, block.graph)
    return dict(zip(block.outputs, function(network, *(values[n] for n in block.inputs)), strict=True))


_FUNCTIONS: WeakKeyDictionary[fx.Graph, Callable[..., tuple[Any, ...]]] = WeakKeyDictionary()


def _function_of(graph: fx.Graph) -> Callable[..., tuple[Any, ...]]:
    """``function(network, *inputs) -> outputs`` of a graph, written once: a compiler keeps what it made by the code."""
    if graph not in _FUNCTIONS:
        code = graph.python_code("self")
        scope = dict(code.globals)
        exec(compile(code.src, "<digital part>", "exec"), scope)
        _FUNCTIONS[graph] = scope["forward"]
    return _FUNCTIONS[graph]


def refuse_export(network: nn.Module) -> None:
    """Raises an :class:`OptionError` under ``torch.export``, which asks for one graph.

    It is asked outside of the compiler: within it, torch 2.9 takes every compilation for an export.
    """
    if torch.compiler.is_exporting():
        raise OptionError.at(
            f"torch.export of {type(network).__name__}",
            f"is not possible: {UNFORESEEN}",
            "Write an ONNX file with model.export_onnx, whose loops stop by themselves, or a bundle with "
            "model.compile_to.",
        )
