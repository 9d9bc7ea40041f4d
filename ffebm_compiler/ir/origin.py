"""Where a piece of the compiled program comes from in the user's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import InputError, Problem


@dataclass(frozen=True)
class Origin:
    """The user's name for an operation.

    Attributes:
        label: a name that is unique in the program: ``features.3``; ``features.3@2`` for the second use
            of a shared module; ``layer1.0.relu_1`` for a function called inside module ``layer1.0``.
        layer: the module that the operation is, or is called in (``""`` is the model itself).
        kind: the class or function: ``Conv2d``, ``relu``.
        location: ``file.py:12``, where the tracer knows it.
    """

    label: str
    layer: str
    kind: str
    location: str | None = None

    def __str__(self) -> str:
        at = f", {self.location}" if self.location else ""
        return f"{self.label} ({self.kind}{at})"


def failed_layer(origin: Origin, failure: Exception, operands: Sequence[Any]) -> InputError:
    """The error for a layer that refused what it was given, with the shapes and types that it got."""
    got = ", ".join(
        f"{tuple(o.shape)} {str(o.dtype).removeprefix('torch.')} on {o.device}"
        for o in operands
        if isinstance(o, Tensor)
    )
    message = str(failure).strip().splitlines()
    what = f"{message[0] if message else type(failure).__name__} (it was given {got or 'no tensor'})"
    if origin.kind == "_assert_tensor_metadata":  # which torch.export puts before a cast
        return InputError(Problem(f"layer {origin.layer}, at {origin.location}", what, _AS_EXPORTED))
    remedy = "Check the shape, type and device of the model's input against what this layer expects."
    return InputError(Problem(f"layer {origin}", what, remedy))


_AS_EXPORTED = (
    "A cast here was exported for a tensor of another type. "
    "Give tensors of the type of example_inputs=, without torch.autocast around the call, "
    "or convert again with example_inputs= of this type."
)
