"""The parser of the command line, from the commands and their options as data."""

from __future__ import annotations

import argparse

from .. import __version__
from ..model.execution import DEFAULT_LOOP_GAIN
from .bundle_commands import BUNDLE_COMMANDS
from .command import MODEL
from .model_commands import MODEL_COMMANDS
from .options import Option, number_or_none, numbers, repeated, shape, switch, value

_ABOUT = f"""\
Compiles a PyTorch model to a feedforward-tied energy-based model: groups of its layers become blocks that relax to the
minimum of an energy and train by equilibrium propagation; what has no energy stays digital and trains by
backpropagation.

{MODEL}
Start with:   ffebm explain net.py:Net
"""

_BLOCK_SIZES = (
    value("--block-size", "N", "weighted layers a block; 1 is the feedforward network itself (default: 2)", type=int),
    value("--block-sizes", "N,N,...", "one size a block, in order of execution", type=numbers),
)
"""Of which one may be given."""

_CONVERSION = (
    repeated("--digital", "LAYER", "keep a layer out of blocks; * matches, '' is the whole model; may be repeated"),
    repeated("--analog", "LAYER", "insist that a layer be in a block; may be repeated"),
    value("--norm", "{auto,split,held}", "batch norms: as the paper's networks, each a boundary, or all held", "auto"),
    value(
        "--loop-gain",
        "G",
        "bound on the loop gain of every coupling; none for the unit feedback of the paper",
        DEFAULT_LOOP_GAIN,
        number_or_none,
    ),
    value(
        "--tolerance", "T", "relative residual at which a block has converged (default: by the precision)", type=float
    ),
    value("--max-sweeps", "N", "the most sweeps a block may take", 200),
    repeated(
        "--input-shape",
        "N,N,...",
        "shape of an example input, with the batch, filled at random; SHAPE:K for whole numbers below K; "
        "repeated for several inputs",
        shape,
    ),
)

_RUNNING = (
    value("--seed", None, "of a model's initial weights, of random inputs, of the order of data, of dropout", 0),
    Option(("-v", "--verbose"), {"action": "count", "default": 0, "help": "log what is done; -vv for details"}),
    switch("--traceback", "show where an error came from"),
)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of examples and shows the defaults that there are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, [], 0) else super()._get_help_string(action)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands, in the order of the help."""
    parser = argparse.ArgumentParser(prog="ffebm", description=_ABOUT, formatter_class=_Formatter)
    parser.add_argument("--version", action="version", version=f"ffebm_compiler {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, asked in {**MODEL_COMMANDS, **BUNDLE_COMMANDS}.items():
        command = commands.add_parser(
            name,
            help=asked.summary,
            description=f"{asked.summary[0].upper()}{asked.summary[1:]}.\n\n{asked.about}",
            epilog=asked.examples,
            formatter_class=_Formatter,
        )
        target, metavar, what = asked.target
        command.add_argument(target, metavar=metavar, help=what)
        _add(command, asked.options)
        if asked.converts:
            conversion = command.add_argument_group("conversion", "as in ffebm_compiler.convert")
            _add(conversion.add_mutually_exclusive_group(), _BLOCK_SIZES)
            _add(conversion, _CONVERSION)
        _add(command.add_argument_group("running"), _RUNNING)
    return parser


def _add(group: argparse._ActionsContainer, options: tuple[Option, ...]) -> None:
    for option in options:
        group.add_argument(*option.flags, **option.settings)
