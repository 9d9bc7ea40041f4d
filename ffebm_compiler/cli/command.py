"""A command of the command line, as data: what it does, what it is given, and the help that teaches it."""

from __future__ import annotations

from dataclasses import dataclass

from .options import Option

MODEL = """\
MODULE:FACTORY names the model:
  mypackage.models:make_net    a function, called without arguments
  mypackage.models:Net         a class that can be made without arguments
  net.py:net                   a file, and a torch.nn.Module in it
"""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: what it does, in a line.
        examples: the rest of its help.
        options: those of its own.
        converts: whether it converts a model, and takes the options of a conversion.
        target: what its argument is called: the name in the code, in the usage line, and the help on it.
        about: how the argument is written.
    """

    summary: str
    examples: str
    options: tuple[Option, ...]
    converts: bool = True
    target: tuple[str, str, str] = ("model", "MODULE:FACTORY", "the model, see above")
    about: str = MODEL
