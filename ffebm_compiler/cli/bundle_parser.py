"""The arguments of the commands that write and use compiled bundles, and the help that teaches them."""

from __future__ import annotations

import argparse

from .command import Command

_BUNDLE = """\
BUNDLE is a folder or a .ffebm file that ffebm compile wrote. Nothing in it is executed; every file is checked before it is used.
"""
_TARGET = ("bundle", "BUNDLE", "the bundle, see above")

# --- compile ----------------------------------------------------------------------------------------------

_COMPILE = """\
writes a folder, or one file where the name ends in .ffebm (docs/bundle.md says what each file holds):
  manifest.json program.json            versions, options and checksums; the blocks and the parts between them
  parameters.safetensors gains.safetensors
  *.onnx                                digital parts: evaluation, training, vector-Jacobian product
  samples.safetensors                   an input and what the model makes of it, for ffebm verify
  report.html graph.json training_loop.py
  conductances.npz *.cir                with --hardware: what the chip's devices hold, and the blocks as netlists

Example inputs are random, of the shape of --input-shape; where there is none it is guessed from the first layer. --input gives real ones.

examples:
  ffebm compile net.py:Net -o build/
  ffebm compile net.py:Net -o net.ffebm --weights net.safetensors --input-shape 2,3,32,32
  ffebm compile net.py:Net -o build/ --hardware rram --chip-seed 3          conductances and netlists too
  ffebm compile net.py:Net -o build/ --skip-unexportable --force            write what ONNX can express; replace what is there
  ffebm compile net.py:Net -o build/ --onnx net.onnx                        the whole model as one ONNX file besides
"""


def _compile(command: argparse.ArgumentParser) -> None:
    command.add_argument("-o", "--output", default="build", metavar="BUNDLE", help="a folder, or a file NAME.ffebm")
    command.add_argument("--force", action="store_true", help="replace the bundle if it exists")
    command.add_argument(
        "--weights", metavar="FILE", help="trained weights: .safetensors, or a state dict of torch.save"
    )
    command.add_argument(
        "--input", action="append", default=[], metavar="FILE.npy",
        help="an example input in place of a random one, two samples or more; repeated for several",
    )  # fmt: skip
    command.add_argument(
        "--hardware", metavar="CHIP", help="a chip to map the blocks to: a preset, or a .toml or .json file"
    )
    command.add_argument("--chip-seed", type=int, default=0, metavar="N", help="of what is fixed for one chip")
    command.add_argument(
        "--skip-unexportable",
        action="store_true",
        help="leave out digital parts that ONNX can't express, rather than refuse",
    )
    command.add_argument("--onnx", metavar="FILE.onnx", help="write the whole model as one ONNX file too")


# --- inspect and verify -----------------------------------------------------------------------------------

_INSPECT = """\
reads and checks the whole bundle, and runs nothing.

examples:
  ffebm inspect net.ffebm
  ffebm inspect build/ --json | jq .parts
"""


def _inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print it as JSON")


_VERIFY = """\
checks every file against its checksum and its schema, then runs everything on the recorded input:
  every graph of every digital part     gives what PyTorch gave
  every block                           settles to the recorded states in the recorded number of sweeps
  the whole model                       gives the recorded result
Exit status 1 if one fails.

examples:
  ffebm verify net.ffebm
  ffebm verify build/ --json
"""


def _verify(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print the checks as JSON")


# --- run --------------------------------------------------------------------------------------------------

_RUN = """\
prints the shape of each result and how each block settled.

examples:
  ffebm run net.ffebm --input x.npy -o y.npy
  ffebm run build/ --input image=x.npy --input mask=m.npy -o results.npz    inputs by name; several results
  ffebm run build/ --input x.npy --blocks analog-emu --hardware rram --chip-seed 3
  ffebm run build/ --input x.npy --blocks analog-emu --hardware bundle      the chip that is in the bundle
"""

_INPUT_HELP = "an array of numpy.save, samples first, real numbers in any precision; NAME= says which input it is; repeated for several"


def _run(command: argparse.ArgumentParser) -> None:
    command.add_argument("--input", action="append", default=[], metavar="[NAME=]FILE.npy", help=_INPUT_HELP)
    command.add_argument("-o", "--output", metavar="FILE", help="where results go: .npy for one, .npz for several")
    command.add_argument("--blocks", default="torch-ep", metavar="{torch-ep,analog-emu}", help="what the blocks run on")
    command.add_argument(
        "--hardware", metavar="CHIP", help="with analog-emu: a preset, a .toml or .json file, or bundle"
    )
    command.add_argument("--chip-seed", type=int, default=0, metavar="N", help="of what is fixed for one chip")
    command.add_argument("--noise-seed", type=int, default=0, metavar="N", help="of what changes from read to read")
    command.add_argument("--threads", type=int, metavar="N", help="threads of the digital parts (default: all cores)")


# --- train ------------------------------------------------------------------------------------------------

_TRAIN = """\
trains by backpropagation through the digital parts and equilibrium propagation through the blocks, without the model's code.
Losses and learning rates go to METRICS as JSON lines. Ctrl-C stops after a step, with the checkpoint whole; the same command
with --resume goes on, and takes the steps that an uninterrupted training takes.

examples:
  ffebm train net.ffebm --input x.npy --target y.npy --epochs 3 -o trained.ffebm
  ffebm train net.ffebm --input x.npy --target y.npy --epochs 3 -o trained.ffebm --resume
  ffebm train net.ffebm --input x.npy --target y.npy --loss mse --optimizer adam --learning-rate 1e-3 --weights-out net.safetensors
"""


def _train(command: argparse.ArgumentParser) -> None:
    command.add_argument("--input", action="append", default=[], metavar="[NAME=]FILE.npy", help=_INPUT_HELP)
    command.add_argument("--target", metavar="FILE.npy", help="what the model should give: classes, or real numbers")
    command.add_argument("--epochs", type=int, default=1, metavar="N", help="passes over the data")
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="samples a step")
    command.add_argument(
        "--loss", default="cross_entropy", metavar="NAME", help="cross_entropy, mse, l1, huber or binary_cross_entropy"
    )
    command.add_argument(
        "--loss-output", metavar="NAME", help="which of several outputs the loss is of, as ffebm run names them"
    )
    command.add_argument("--optimizer", default="sgd", metavar="NAME", help="sgd, adam or adamw")
    command.add_argument("--learning-rate", type=float, default=0.01, metavar="R", help="of the optimizer")
    command.add_argument("--momentum", type=float, metavar="M", help="of sgd (default: 0.9)")
    command.add_argument("--weight-decay", type=float, default=0.0, metavar="W", help="of the optimizer")
    command.add_argument(
        "--checkpoint", default="checkpoint.safetensors", metavar="FILE",
        help="weights, optimizer and all that a resumed training needs",
    )  # fmt: skip
    command.add_argument("--every", type=int, default=100, metavar="N", help="steps from one checkpoint to the next")
    command.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    command.add_argument("--force", action="store_true", help="replace an earlier checkpoint, result or weights")
    command.add_argument(
        "--metrics", metavar="FILE.jsonl", help="a line for each step (default: beside the checkpoint)"
    )
    command.add_argument("-o", "--output", metavar="BUNDLE", help="write a bundle with the trained weights")
    command.add_argument(
        "--weights-out", metavar="FILE.safetensors", help="write the trained weights, by the model's names"
    )
    command.add_argument("--threads", type=int, metavar="N", help="threads of the digital parts (default: all cores)")


BUNDLE_COMMANDS = {
    "compile": Command("write a bundle that runs and trains without the model's code", _COMPILE, _compile),
    "inspect": Command("show what a bundle holds", _INSPECT, _inspect, False, _TARGET, _BUNDLE),
    "verify": Command("check a bundle, also numerically; exit status 1 if a check fails", _VERIFY, _verify, False, _TARGET, _BUNDLE),
    "run": Command("run a bundle on inputs from files", _RUN, _run, False, _TARGET, _BUNDLE),
    "train": Command("train a bundle on data from files", _TRAIN, _train, False, _TARGET, _BUNDLE),
}  # fmt: skip
