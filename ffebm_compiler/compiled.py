"""What the passes hand to a backend: the user's network and a program for each of its modes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from .ir import Program
from .passes.stages import Signature
from .passes.watching.recorder import Watched


@dataclass(frozen=True)
class ModeProgram:
    """The program of one mode (training or evaluation) and how it is called."""

    program: Program
    signature: Signature
    tracer: str


@dataclass(frozen=True)
class Compiled:
    """A compiled model.

    Attributes:
        network: the copy of the user's model whose parameters the program reads.
        modes: the program for ``training`` True and False; one object where both are the same.
        options: the options of the conversion, as given, for reports and records.
        in_place: paths of modules that were made out-of-place.
        constants: names of tensors that the tracer added to the network.
        has_own_rules: whether the user gave rules.
        watched: what each mode's program was made from and is not read again when it runs.
    """

    network: nn.Module
    modes: Mapping[bool, ModeProgram]
    options: Mapping[str, object]
    in_place: tuple[str, ...]
    constants: tuple[str, ...]
    has_own_rules: bool = False
    watched: Mapping[bool, tuple[Watched, ...]] = field(default_factory=dict)
