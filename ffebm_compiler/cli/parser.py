"""The arguments of the command line, and the help that teaches them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .. import __version__
from ..model.execution import DEFAULT_LOOP_GAIN
from .bundle_parser import BUNDLE_COMMANDS
from .command import MODEL, Command

_ABOUT = f"""\
Compiles a PyTorch model to a feedforward-tied energy-based model: groups of its layers become blocks that relax to the
minimum of an energy and train by equilibrium propagation; what has no energy stays digital and trains by backpropagation.

{MODEL}
Start with:   ffebm explain net.py:Net
"""

_EXAMPLES = {
    "explain": """\
examples:
  ffebm explain net.py:Net                                      blocks of 2 weighted layers
  ffebm explain net.py:Net --block-sizes 2,3                    one size a block, in order
  ffebm explain net.py:Net --digital 'head.*' --norm held       keep layers out; hold every batch norm
  ffebm explain net.py:Net --input-shape 1,3,32,32              measure loop gains and certificates too
  ffebm explain net.py:Net --json | jq .parameters
""",
    "convert": """\
writes into one folder:
  report.txt report.json                the blocks, the boundaries and their reasons
  energies.txt energies.tex             each block's energy, as text and as LaTeX
  graph.graphml graph.json graph.html   the partition, for networkx and for the browser
  train.py                              the training loop, spelled out and runnable

examples:
  ffebm convert net.py:Net -o compiled --block-size 3
  ffebm convert torchvision.models:resnet18 -o compiled --input-shape 1,3,64,64
  ffebm convert net.py:Net -o compiled --force                  replace what is there
""",
    "draw": """\
examples:
  ffebm draw net.py:Net                                         graph.html: pan, zoom, search, tooltips; works offline
  ffebm draw net.py:Net -o net.svg --block-size 3
  ffebm draw net.py:Net -o net.png                              needs matplotlib: pip install 'ffebm_compiler[viz]'
""",
    "check": """\
checks, on a random batch:
  1. at block size 1 the converted model is the model
  2. at the given block size every block relaxes to equilibrium
  3. equilibrium propagation gives the gradient of automatic differentiation through the equilibrium, in float64
Exit status 1 if one fails; the layers that fail are named.

examples:
  ffebm check net.py:Net --input-shape 1,3,32,32
  ffebm check net.py:Net --block-size 6 --loop-gain 0.2 --threshold 0.9999
  ffebm check bert.py:make --input-shape 1,16:1000              16 token ids below 1000
""",
    "study": """\
measures the model on emulated chips, for every combination of swept values and for --chips chips each: accuracy (with labelled
data), agreement and output error against the digital model, residual and sweeps, gradient cosine against the exact gradient,
energy and latency. What can be swept: every field of the hardware specification (docs/hardware.md), loop_gain and block_size.

  --sweep read_noise=0:0.1:11      11 values, evenly spaced
  --sweep age=20:1e6:6log          6 values, evenly spaced in their logarithm
  --sweep adc_bits=4,6,8,none      these values; none switches a limit off

writes into one folder:
  study.json                  what was asked: options, seeds, versions
  points.jsonl points.csv     a row for every point, the first written as each is done
  summary.csv                 median and spread over the chips
  study.png study.svg         small multiples: a row for each metric, a column for each value of the second sweep

Stop it with Ctrl-C: the same command goes on where it stopped, and a larger --chips adds chips. Exit status 1 if points failed.

examples:
  ffebm study net.py:Net --sweep read_noise=0:0.1:11 --hardware rram --chips 5
  ffebm study net.py:Net --weights net.pt --data test.npz --sweep adc_bits=4,6,8 --sweep read_noise=0:0.1:11 --jobs 4
  ffebm study net.py:Net --data data.py:make_test --sweep offset=0:10mV:6 --sweep levels=4,16,64,none --one-at-a-time
  ffebm study net.py:Net --sweep loop_gain=0.001:0.2:5log --sweep block_size=1,2,3 --hardware chip.toml -o gains
""",
    "spice-check": """\
runs ngspice on one netlist for each block and compares the voltages with the emulator's equilibrium: a folder that export_spice
wrote, or a model, whose netlists it writes first. A netlist can run commands of its own: check only folders that you trust.
Differences are relative to the largest value of a layer. Exit status 1 if one exceeds --within.

examples:
  ffebm spice-check net.py:Net --input-shape 1,3,8,8
  ffebm spice-check net.py:Net --hardware rram --chip-seed 3 -o netlists
  ffebm spice-check netlists                                    the same folder again, perhaps with another ngspice
""",
}

_SUMMARIES = {
    "explain": "say what conversion would do: blocks, boundaries and why",
    "convert": "write report, energies, graph and training loop into a folder",
    "draw": "draw the partition: .svg, .png or .html",
    "check": "check outputs, equilibria and gradients; exit status 1 if one is wrong",
    "study": "sweep what a chip is made of: accuracy, convergence, gradient and cost on many emulated chips",
    "spice-check": "hold the emulator's equilibria to ngspice; exit status 1 if one differs",
}


_MODEL_OR_FOLDER = ("MODULE:FACTORY|FOLDER", "the model, see above, or a folder of netlists")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the layout of examples and shows the defaults that there are."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, [], 0) else super()._get_help_string(action)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ffebm", description=_ABOUT, formatter_class=_Formatter)
    parser.add_argument("--version", action="version", version=f"ffebm_compiler {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, asked in _commands().items():
        command = commands.add_parser(
            name,
            help=asked.summary,
            description=f"{asked.summary[0].upper()}{asked.summary[1:]}.\n\n{asked.about}",
            epilog=asked.examples,
            formatter_class=_Formatter,
        )
        target, metavar, what = asked.target
        command.add_argument(target, metavar=metavar, help=what)
        asked.add(command)
        if asked.converts:
            _add_conversion(command.add_argument_group("conversion", "as in ffebm_compiler.convert"))
        _add_running(command.add_argument_group("running"))
    return parser


def _commands() -> dict[str, Command]:
    """Every command, in the order of the help."""
    own = {name: Command(text, _EXAMPLES[name], _OWN_OPTIONS[name]) for name, text in _SUMMARIES.items()}
    own["spice-check"] = replace(own["spice-check"], target=("model", *_MODEL_OR_FOLDER))
    return {**own, **BUNDLE_COMMANDS}


def _add_conversion(group: Any) -> None:
    size = group.add_mutually_exclusive_group()
    size.add_argument(
        "--block-size",
        type=int,
        metavar="N",
        help="weighted layers a block; 1 is the feedforward network itself (default: 2)",
    )
    size.add_argument("--block-sizes", type=_numbers, metavar="N,N,...", help="one size a block, in order of execution")
    group.add_argument(
        "--digital",
        action="append",
        default=[],
        metavar="LAYER",
        help="keep a layer out of blocks; * matches, '' is the whole model; may be repeated",
    )
    group.add_argument(
        "--analog",
        action="append",
        default=[],
        metavar="LAYER",
        help="insist that a layer be in a block; may be repeated",
    )
    group.add_argument(
        "--norm",
        default="auto",
        metavar="{auto,split,held}",
        help="batch norms: as the paper's networks, each a boundary, or all held",
    )
    group.add_argument(
        "--loop-gain", type=_number_or_none, default=DEFAULT_LOOP_GAIN, metavar="G",
        help="bound on the loop gain of every coupling; none for the unit feedback of the paper",
    )  # fmt: skip
    group.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="relative residual at which a block has converged (default: by the precision)",
    )
    group.add_argument("--max-sweeps", type=int, default=200, metavar="N", help="the most sweeps a block may take")
    group.add_argument(
        "--input-shape", type=shape, action="append", default=[], metavar="N,N,...",
        help="shape of an example input, with the batch, filled at random; SHAPE:K for whole numbers below K; repeated for several inputs",
    )  # fmt: skip


def _add_running(group: Any) -> None:
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of a model's initial weights, of random inputs, of the order of data, of dropout",
    )
    group.add_argument("-v", "--verbose", action="count", default=0, help="log what is done; -vv for details")
    group.add_argument("--traceback", action="store_true", help="show where an error came from")


def _explain(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the report as JSON")


def _convert(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", default="ffebm_model", metavar="FOLDER", help="where to write")
    command.add_argument("--force", action="store_true", help="replace the folder if it exists")


def _draw(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-o", "--output", default="graph.html", metavar="FILE", help="the picture; its suffix chooses the format"
    )


def _check(command: argparse.ArgumentParser) -> None:
    command.add_argument("--batch", type=int, default=4, metavar="N", help="samples in the batch")
    command.add_argument(
        "--threshold",
        type=float,
        default=0.999,
        metavar="COSINE",
        help="least cosine of each parameter's gradient with the exact one",
    )


def _study(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--sweep", action="append", default=[], metavar="NAME=VALUES",
        help="values of one field, see below; repeated for several, of which every combination is measured",
    )  # fmt: skip
    command.add_argument(
        "--one-at-a-time", action="store_true", help="vary each sweep alone, the others as --hardware has them"
    )
    command.add_argument(
        "--hardware", default="rram", metavar="CHIP", help="the base chip: a preset, or a .toml or .json file"
    )
    command.add_argument("--chips", type=int, default=3, metavar="N", help="chips at each setting, seeds 0 to N-1")
    command.add_argument("--weights", metavar="FILE.pt", help="trained weights: a state dict of torch.save")
    command.add_argument(
        "--data", metavar="FILE.npz|MODULE:FACTORY",
        help="arrays x and y, or a function that returns (x, y); without it, random inputs of --input-shape",
    )  # fmt: skip
    command.add_argument(
        "--calibrate", type=int, default=64, metavar="N", help="calibrate chips on the first N samples"
    )
    command.add_argument("--samples", type=int, default=256, metavar="N", help="judge them on at most N of the rest")
    command.add_argument(
        "--gradient-samples", type=int, default=32, metavar="N",
        help="compare the gradient of these N with the exact one; --gradient-samples=0 leaves that out",
    )  # fmt: skip
    command.add_argument("--batch", type=int, default=64, metavar="N", help="samples at a time")
    command.add_argument(
        "--precision", default="float64", choices=("float64", "float32"),
        help="of the emulation: float32 is faster, but its rounding disturbs gradients as if it were noise of the chip",
    )  # fmt: skip
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="processes; the cores are shared among them")
    command.add_argument("-o", "--output", default="study", metavar="FOLDER", help="where results go")
    command.add_argument("--no-plots", action="store_true", help="draw nothing (plots need matplotlib)")


def _spice_check(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--within", type=float, default=1e-4, metavar="E", help="largest relative difference of a voltage that passes"
    )
    command.add_argument("--seconds", type=float, default=600.0, metavar="S", help="stop ngspice after that long")
    command.add_argument(
        "--hardware", default="ideal", metavar="CHIP", help="the chip: a preset, or a .toml or .json file"
    )
    command.add_argument("--chip-seed", type=int, default=0, metavar="N", help="of what is fixed for one chip")
    command.add_argument("-o", "--output", metavar="FOLDER", help="keep the netlists here")
    command.add_argument("--force", action="store_true", help="replace the folder if it exists")


_OWN_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "explain": _explain,
    "convert": _convert,
    "draw": _draw,
    "check": _check,
    "study": _study,
    "spice-check": _spice_check,
}


# --- argument types: argparse turns what they raise into a usage error ------------------------------------


def _numbers(text: str) -> list[int]:
    try:
        return [int(n) for n in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 2,3") from None


def _number_or_none(text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none") from None


def shape(text: str) -> tuple[tuple[int, ...], int | None]:
    """``1,3,32,32``, or ``1,16:1000`` for whole numbers below 1000."""
    sizes, colon, below = text.partition(":")
    try:
        found, limit = tuple(int(n) for n in sizes.split(",")), int(below) if colon else None
    except ValueError:
        found, limit = (), None
    if not found or min(found) < 1 or (limit is not None and limit < 1):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a shape such as 1,3,32,32, or 1,16:1000 for whole numbers below 1000"
        )
    return found, limit
