"""The commands that convert a model: their options, and the help that teaches them."""

from __future__ import annotations

from .command import Command
from .options import CHIP_SEED, FORCE_FOLDER, choice, repeated, switch, value

_EXPLAIN = """\
examples:
  ffebm explain net.py:Net                                      blocks of 2 weighted layers
  ffebm explain net.py:Net --block-sizes 2,3                    one size a block, in order
  ffebm explain net.py:Net --digital 'head.*' --norm held       keep layers out; hold every batch norm
  ffebm explain net.py:Net --input-shape 1,3,32,32              measure loop gains and certificates too
  ffebm explain net.py:Net --json | jq .parameters
"""

_CONVERT = """\
writes into one folder:
  report.txt report.json                the blocks, the boundaries and their reasons
  energies.txt energies.tex             each block's energy, as text and as LaTeX
  graph.graphml graph.json graph.html   the partition, for networkx and for the browser
  train.py                              the training loop, spelled out and runnable

examples:
  ffebm convert net.py:Net -o compiled --block-size 3
  ffebm convert torchvision.models:resnet18 -o compiled --input-shape 1,3,64,64
  ffebm convert net.py:Net -o compiled --force                  replace what is there
"""

_DRAW = """\
examples:
  ffebm draw net.py:Net                                         graph.html: pan, zoom, search, tooltips; works offline
  ffebm draw net.py:Net -o net.svg --block-size 3
  ffebm draw net.py:Net -o net.png                              needs matplotlib: pip install 'ffebm_compiler[viz]'
"""

_CHECK = """\
checks, on a random batch:
  1. at block size 1 the converted model is the model
  2. at the given block size every block relaxes to equilibrium
  3. equilibrium propagation gives the gradient of automatic differentiation through the equilibrium, in float64
Exit status 1 if one fails; the layers that fail are named.

examples:
  ffebm check net.py:Net --input-shape 1,3,32,32
  ffebm check net.py:Net --block-size 6 --loop-gain 0.2 --threshold 0.9999
  ffebm check bert.py:make --input-shape 1,16:1000              16 token ids below 1000
"""

_STUDY = """\
measures the model on emulated chips, for every combination of swept values and for --chips chips each: accuracy (with
labelled data), agreement and output error against the digital model, residual and sweeps, gradient cosine against the
exact gradient, energy and latency. What can be swept: every field of the hardware specification (docs/hardware.md),
loop_gain and block_size.

  --sweep read_noise=0:0.1:11      11 values, evenly spaced
  --sweep age=20:1e6:6log          6 values, evenly spaced in their logarithm
  --sweep adc_bits=4,6,8,none      these values; none switches a limit off

writes into one folder:
  study.json                  what was asked: options, seeds, versions
  points.jsonl points.csv     a row for every point, the first written as each is done
  summary.csv                 median and spread over the chips
  study.png study.svg         small multiples: a row for each metric, a column for each value of the second sweep

Stop it with Ctrl-C: the same command goes on where it stopped, and a larger --chips adds chips. Exit status 1 if points
failed.

examples:
  ffebm study net.py:Net --sweep read_noise=0:0.1:11 --hardware rram --chips 5
  ffebm study net.py:Net --weights net.pt --data test.npz --sweep adc_bits=4,6,8 --sweep read_noise=0:0.1:11 --jobs 4
  ffebm study net.py:Net --data data.py:make_test --sweep offset=0:10mV:6 --sweep levels=4,16,64,none --one-at-a-time
  ffebm study net.py:Net --sweep loop_gain=0.001:0.2:5log --sweep block_size=1,2,3 --hardware chip.toml -o gains
"""

_SPICE_CHECK = """\
runs ngspice on one netlist for each block and compares the voltages with the emulator's equilibrium: a folder that
export_spice wrote, or a model, whose netlists it writes first. A netlist can run commands of its own: check only
folders that you trust. Differences are relative to the largest value of a layer. Exit status 1 if one exceeds --within.

examples:
  ffebm spice-check net.py:Net --input-shape 1,3,8,8
  ffebm spice-check net.py:Net --hardware rram --chip-seed 3 -o netlists
  ffebm spice-check netlists                                    the same folder again, perhaps with another ngspice
"""

_FOLDER_OR_MODEL = ("model", "MODULE:FACTORY|FOLDER", "the model, see above, or a folder of netlists")

_EXPLAIN_OPTIONS = (switch("--json", "print the report as JSON"),)

_CONVERT_OPTIONS = (value("-o --output", "FOLDER", "where to write", "ffebm_model"), FORCE_FOLDER)

_DRAW_OPTIONS = (value("-o --output", "FILE", "the picture; its suffix chooses the format", "graph.html"),)

_CHECK_OPTIONS = (
    value("--batch", "N", "samples in the batch", 4),
    value("--threshold", "COSINE", "least cosine of each parameter's gradient with the exact one", 0.999),
)

_STUDY_OPTIONS = (
    repeated(
        "--sweep",
        "NAME=VALUES",
        "values of one field, see below; repeated for several, of which every combination is measured",
    ),
    switch("--one-at-a-time", "vary each sweep alone, the others as --hardware has them"),
    value("--hardware", "CHIP", "the base chip: a preset, or a .toml or .json file", "rram"),
    value("--chips", "N", "chips at each setting, seeds 0 to N-1", 3),
    value("--weights", "FILE.pt", "trained weights: a state dict of torch.save"),
    value(
        "--data",
        "FILE.npz|MODULE:FACTORY",
        "arrays x and y, or a function that returns (x, y); without it, random inputs of --input-shape",
    ),
    value("--calibrate", "N", "calibrate chips on the first N samples", 64),
    value("--samples", "N", "judge them on at most N of the rest", 256),
    value(
        "--gradient-samples",
        "N",
        "compare the gradient of these N with the exact one; --gradient-samples=0 leaves that out",
        32,
    ),
    value("--batch", "N", "samples at a time", 64),
    choice(
        "--precision",
        ("float64", "float32"),
        "of the emulation: float32 is faster, but its rounding disturbs gradients as if it were noise of the chip",
    ),
    value("--jobs", "N", "processes; the cores are shared among them", 1),
    value("-o --output", "FOLDER", "where results go", "study"),
    switch("--no-plots", "draw nothing (plots need matplotlib)"),
)

_SPICE_CHECK_OPTIONS = (
    value("--within", "E", "largest relative difference of a voltage that passes", 1e-4),
    value("--seconds", "S", "stop ngspice after that long", 600.0),
    value("--hardware", "CHIP", "the chip: a preset, or a .toml or .json file", "ideal"),
    CHIP_SEED,
    value("-o --output", "FOLDER", "keep the netlists here"),
    FORCE_FOLDER,
)

MODEL_COMMANDS = {
    "explain": Command("say what conversion would do: blocks, boundaries and why", _EXPLAIN, _EXPLAIN_OPTIONS),
    "convert": Command("write report, energies, graph and training loop into a folder", _CONVERT, _CONVERT_OPTIONS),
    "draw": Command("draw the partition: .svg, .png or .html", _DRAW, _DRAW_OPTIONS),
    "check": Command("check outputs, equilibria and gradients; exit status 1 if one is wrong", _CHECK, _CHECK_OPTIONS),
    "study": Command(
        "sweep what a chip is made of: accuracy, convergence, gradient and cost on many emulated chips",
        _STUDY,
        _STUDY_OPTIONS,
    ),
    "spice-check": Command(
        "hold the emulator's equilibria to ngspice; exit status 1 if one differs",
        _SPICE_CHECK,
        _SPICE_CHECK_OPTIONS,
        target=_FOLDER_OR_MODEL,
    ),
}
