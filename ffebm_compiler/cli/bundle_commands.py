"""The commands that write and use compiled bundles: their options, and the help that teaches them."""

from __future__ import annotations

from .command import Command
from .options import CHIP_SEED, RUN_INPUT, THREADS, Option, repeated, switch, value

_BUNDLE = """\
BUNDLE is a folder or a .ffebm file that ffebm compile wrote. Nothing in it is executed; every file is checked before it
is used.
"""

_COMPILE = """\
writes a folder, or one file where the name ends in .ffebm (docs/bundle.md says what each file holds):
  manifest.json program.json            versions, options and checksums; the blocks and the parts between them
  parameters.safetensors gains.safetensors
  *.onnx                                digital parts: evaluation, training, vector-Jacobian product
  samples.safetensors                   an input and what the model makes of it, for ffebm verify
  report.html graph.json training_loop.py
  conductances.npz *.cir                with --hardware: what the chip's devices hold, and the blocks as netlists

Example inputs are random, of the shape of --input-shape; where there is none it is guessed from the first layer.
--input gives real ones.

examples:
  ffebm compile net.py:Net -o build/
  ffebm compile net.py:Net -o net.ffebm --weights net.safetensors --input-shape 2,3,32,32
  ffebm compile net.py:Net -o build/ --hardware rram --chip-seed 3          conductances and netlists too
  ffebm compile net.py:Net -o build/ --skip-unexportable --force            what ONNX can express; replace what is there
  ffebm compile net.py:Net -o build/ --onnx net.onnx                        the whole model as one ONNX file besides
"""

_INSPECT = """\
reads and checks the whole bundle, and runs nothing.

examples:
  ffebm inspect net.ffebm
  ffebm inspect build/ --json | jq .parts
"""

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

_RUN = """\
prints the shape of each result and how each block settled.

examples:
  ffebm run net.ffebm --input x.npy -o y.npy
  ffebm run build/ --input image=x.npy --input mask=m.npy -o results.npz    inputs by name; several results
  ffebm run build/ --input x.npy --blocks analog-emu --hardware rram --chip-seed 3
  ffebm run build/ --input x.npy --blocks analog-emu --hardware bundle      the chip that is in the bundle
"""

_TRAIN = """\
trains by backpropagation through the digital parts and equilibrium propagation through the blocks, without the model's
code. Losses and learning rates go to METRICS as JSON lines. Ctrl-C stops after a step, with the checkpoint whole; the
same command with --resume goes on, and takes the steps that an uninterrupted training takes.

examples:
  ffebm train net.ffebm --input x.npy --target y.npy --epochs 3 -o trained.ffebm
  ffebm train net.ffebm --input x.npy --target y.npy --epochs 3 -o trained.ffebm --resume
  ffebm train net.ffebm --input x.npy --target y.npy --loss mse --optimizer adam --learning-rate 1e-3
  ffebm train net.ffebm --input x.npy --target y.npy --weights-out net.safetensors
"""

_COMPILE_OPTIONS = (
    value("-o --output", "BUNDLE", "a folder, or a file NAME.ffebm", "build"),
    switch("--force", "replace the bundle if it exists"),
    value("--weights", "FILE", "trained weights: .safetensors, or a state dict of torch.save"),
    repeated(
        "--input", "FILE.npy", "an example input in place of a random one, two samples or more; repeated for several"
    ),
    value("--hardware", "CHIP", "a chip to map the blocks to: a preset, or a .toml or .json file"),
    CHIP_SEED,
    switch("--skip-unexportable", "leave out digital parts that ONNX can't express, rather than refuse"),
    value("--onnx", "FILE.onnx", "write the whole model as one ONNX file too"),
)

_RUN_OPTIONS = (
    RUN_INPUT,
    value("-o --output", "FILE", "where results go: .npy for one, .npz for several"),
    value("--blocks", "{torch-ep,analog-emu}", "what the blocks run on", "torch-ep"),
    value("--hardware", "CHIP", "with analog-emu: a preset, a .toml or .json file, or bundle"),
    CHIP_SEED,
    value("--noise-seed", "N", "of what changes from read to read", 0),
    THREADS,
)

_TRAIN_OPTIONS = (
    RUN_INPUT,
    value("--target", "FILE.npy", "what the model should give: classes, or real numbers"),
    value("--epochs", "N", "passes over the data", 1),
    value("--batch-size", "N", "samples a step", 64),
    value("--loss", "NAME", "cross_entropy, mse, l1, huber or binary_cross_entropy", "cross_entropy"),
    value("--loss-output", "NAME", "which of several outputs the loss is of, as ffebm run names them"),
    value("--optimizer", "NAME", "sgd, adam or adamw", "sgd"),
    value("--learning-rate", "R", "of the optimizer", 0.01),
    value("--momentum", "M", "of sgd (default: 0.9)", type=float),
    value("--weight-decay", "W", "of the optimizer", 0.0),
    value("--checkpoint", "FILE", "weights, optimizer and all that a resumed training needs", "checkpoint.safetensors"),
    value("--every", "N", "steps from one checkpoint to the next", 100),
    switch("--resume", "go on from the checkpoint"),
    switch("--force", "replace an earlier checkpoint, result or weights"),
    value("--metrics", "FILE.jsonl", "a line for each step (default: beside the checkpoint)"),
    value("-o --output", "BUNDLE", "write a bundle with the trained weights"),
    value("--weights-out", "FILE.safetensors", "write the trained weights, by the model's names"),
    THREADS,
)


def _on_bundle(summary: str, examples: str, *options: Option) -> Command:
    return Command(summary, examples, options, False, ("bundle", "BUNDLE", "the bundle, see above"), _BUNDLE)


_WRITES = "write a bundle that runs and trains without the model's code"
_VERIFIES = "check a bundle, also numerically; exit status 1 if a check fails"

BUNDLE_COMMANDS = {
    "compile": Command(_WRITES, _COMPILE, _COMPILE_OPTIONS),
    "inspect": _on_bundle("show what a bundle holds", _INSPECT, switch("--json", "print it as JSON")),
    "verify": _on_bundle(_VERIFIES, _VERIFY, switch("--json", "print the checks as JSON")),
    "run": _on_bundle("run a bundle on inputs from files", _RUN, *_RUN_OPTIONS),
    "train": _on_bundle("train a bundle on data from files", _TRAIN, *_TRAIN_OPTIONS),
}
