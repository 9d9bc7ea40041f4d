"""Paths in the user's model, and names that values and weights share no more."""

from __future__ import annotations

import linecache
import traceback
from typing import Any

from torch import fx, nn

from ..errors import Problem
from ..nests import NestError
from .deciding_options import decided_by
from .users_code import is_users


def rename_apart(graph: fx.Graph, network: nn.Module) -> None:
    """Values and weights are told apart by name: an argument ``scale`` of a model with a parameter ``scale`` gets
    another."""
    taken = {name for name, _ in (*network.named_parameters(recurse=False), *network.named_buffers(recurse=False))}
    for node in graph.nodes:
        if node.name in taken:
            node._rename(f"{node.name}_value")


def value_at(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name)
    return root


def has_path(root: Any, path: str) -> bool:
    try:
        value_at(root, path)
    except AttributeError:
        return False
    return True


def untraceable(network: nn.Module, failure: Exception, tracer: str = "torch.fx") -> Problem:
    """Where the user's own code failed, from the innermost frame that is not torch's."""
    if isinstance(failure, NestError):
        remedy = "Use tensors, numbers, texts, and containers or objects that hold them as contents or attributes."
        return Problem(f"model {type(network).__name__}, {failure.where}", failure.what, remedy)
    frames = [(f, line) for f, line in traceback.walk_tb(failure.__traceback__) if is_users(f)]
    place = type(network).__name__
    if frames:
        file, line = frames[-1][0].f_code.co_filename, frames[-1][1]
        place = f"{file}:{line} ({linecache.getline(file, line).strip()})"
    message = str(failure).strip().splitlines()
    if "data-dependent" in str(failure):
        message = ["which way it takes depends on the numbers in a tensor"]
    remedy = (
        "Give example_inputs= to trace by torch.export, or keep the module out with digital=[...] (its name), which calls it as a whole."
        if tracer == "torch.fx"
        else "torch.export failed too. Keep the module that contains this line out with digital=[...] (its name), which calls it as a whole, or write it without control flow on values."
    )
    remedy = f"{decided_by(reversed(frames))} {remedy}".strip()
    return Problem(
        f"model {type(network).__name__}, at {place}",
        f"{tracer} can't trace it: {message[0] if message else type(failure).__name__}",
        remedy,
    )
