"""Why a graph can't be exported: the user's operation and a reason, out of what torch and onnxruntime raise."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from onnx import ModelProto
from torch import fx

from ..errors import FFEBMError
from ..ir import Origin, Program
from .trace import all_nodes

LONGEST = 300
"""Characters of a reason."""

_MEANINGS: Mapping[str, str] = {
    r"data-dependent|unbacked symbol": "a size, or which way is taken, depends on the numbers in a tensor",
    r"\.numpy\(\) is not supported": "it computes in numpy, outside of PyTorch",
}
"""What torch means, where its words are about its insides."""


UNFORESEEN = (
    "how many rows it has depends on the numbers in a tensor (an index by values, as in a mixture of experts); "
    "a graph's sizes are known before a call"
)


class RefusedError(Exception):
    """A graph that ONNX can't express.

    Attributes:
        operation: the user's name of the operation that stands in the way.
        reason: why, in one sentence.
    """

    def __init__(self, operation: str, reason: str):
        super().__init__(f"{operation}: {reason}")
        self.operation, self.reason = operation, reason


def line_of(program: Program, value: str) -> str:
    """The user's name of the call that gives a value of a program, and where it stands."""
    origin = program.origins.get(value)
    where = None if origin is None else ", ".join(t for t in (origin.kind, origin.location) if t)
    return program.labels.get(value, value) + (f" ({where})" if where else "")


def untraceable(failure: BaseException, running: Origin | None, name: str) -> RefusedError:
    """Which operation was running.

    Args:
        name: of the whole graph, where no operation is known.
    """
    return RefusedError(name if running is None else _shown(running), _reason(failure))


def unconverted(failure: BaseException, module: fx.GraphModule, origins: Sequence[Origin], name: str) -> RefusedError:
    """Which operation torch's exporter could not express, from the error's chain."""
    chain = [str(f) for f in _causes(failure)]
    pattern = r"No ONNX function found for <OpOverload\(op='([\w:.]+)', overload='(\w+)'\)>"
    found = re.search(pattern, "\n".join(chain))
    if found is None:
        return RefusedError(name, _reason(RuntimeError(chain[-1])))
    operation = f"{found[1]}.{found[2]}"
    same = (
        str.__eq__,
        lambda target, wanted: target.split(".")[1:2] == wanted.split(".")[1:2],
    )  # it may be decomposed into its like
    nodes = [n for n in all_nodes(module) if n.op == "call_function"]
    labels = (n.meta.get("label", "") for test in same for n in nodes if test(str(n.target), operation))
    return RefusedError(labelled(next(labels, ""), origins, name), f"ONNX has no form of {operation}")


def unloadable(failure: BaseException, origins: Sequence[Origin], name: str) -> RefusedError:
    """Which operation onnxruntime can't run."""
    text = _reason(failure)
    found = re.search(r"node with name '([^']+)'", text)
    return RefusedError(
        _named(found[1] if found else "", origins, name), f"onnxruntime can't run it: {text.rpartition(' : ')[2]}"
    )


DRAWS = ("RandomUniform", "RandomUniformLike", "RandomNormal", "RandomNormalLike", "Bernoulli", "Multinomial")
"""ONNX operators that draw random numbers themselves."""

CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
"""ONNX operators that run other graphs."""


def refuse_draws(model: ModelProto, origins: Sequence[Origin], name: str) -> None:
    """Raises where a node draws random numbers itself: nobody outside can know them."""
    drawn = next((n for n in model.graph.node if n.op_type in DRAWS), None)
    if drawn is not None:
        reason = "it draws random numbers of a kind that can't be given from outside"
        raise RefusedError(_named(drawn.name, origins, name), reason)


def refuse_control_flow(model: ModelProto, origins: Sequence[Origin], name: str) -> None:
    """Raises where an operation has become a loop or a branch, which no reader takes in a digital part."""
    flow = next((n for n in model.graph.node if n.op_type in CONTROL_FLOW), None)
    if flow is not None:
        reason = f"torch's exporter makes control flow of it ({flow.op_type}), which a bundle's graphs have none of"
        raise RefusedError(_named(flow.name, origins, name), reason)


def _named(node: str, origins: Sequence[Origin], name: str) -> str:
    """The user's operation that a node of an ONNX graph comes from."""
    return labelled(node.rpartition("/")[0], origins, name)


def _causes(failure: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = failure
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _shown(origin: Origin) -> str:
    return f"{origin.label} ({origin.kind})"


def labelled(label: str, origins: Sequence[Origin], name: str) -> str:
    """The user's operation of that label; ``name`` where there is none."""
    label = label.removesuffix("/backward")
    return next((_shown(o) for o in origins if o.label == label), name)


def _reason(failure: BaseException) -> str:
    text = failure.problems[0].what if isinstance(failure, FFEBMError) else str(failure).strip()
    known = next((meaning for pattern, meaning in _MEANINGS.items() if re.search(pattern, text)), None)
    first = text.splitlines()[0] if text else type(failure).__name__
    return known or (first if len(first) <= LONGEST else f"{first[:LONGEST]}...")
