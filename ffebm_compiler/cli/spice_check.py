"""``ffebm spice-check``: exported netlists, or a model's, against ngspice."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..chip.spice import Verdict, check_netlists, find_ngspice
from ..errors import OptionError, Problem
from ..tables import aligned
from .checks import guessed_inputs
from .conversion import converted, example_inputs
from .load import load_model


def spice_check(options: argparse.Namespace) -> int:
    """Prints a row for each netlist; exit status 1 if one is not what was expected."""
    OptionError.raise_if(_problems(options))
    find_ngspice()
    _require_folder(options.model)
    if Path(options.model).is_dir():
        return _judge(Path(options.model), options)
    with tempfile.TemporaryDirectory(prefix="ffebm_spice_") as scratch:
        folder = Path(options.output) if options.output else Path(scratch) / "netlists"
        _export(folder, options)
        return _judge(folder, options)


def _problems(options: argparse.Namespace) -> Iterator[Problem]:
    for name, value in (("within", options.within), ("seconds", options.seconds)):
        if not 0 < value < float("inf"):
            yield Problem(f"option --{name}", f"is {value}", "Give a positive number.")
    if Path(options.model).is_dir():
        given = [
            ("-o", options.output),
            ("--hardware", options.hardware != "ideal"),
            ("--chip-seed", options.chip_seed),
        ]
        for name in [n for n, value in given if value]:
            yield Problem(f"option {name}", "is given, but the netlists are written already", "Leave it out.")


def _require_folder(name: str) -> None:
    """What has neither a colon nor the ending of a file can only have meant a folder."""
    if ":" not in name and not name.endswith(".py") and not Path(name).is_dir():
        raise OptionError.at(
            f"folder {name}", "does not exist", "Name a folder of export_spice, or a model as MODULE:FACTORY."
        )


def _export(folder: Path, options: argparse.Namespace) -> None:
    """In float64: the emulator is to be no less exact than ngspice."""
    network = load_model(options.model).double().eval()
    given = example_inputs(options) or guessed_inputs(network, 1, options.seed)
    inputs = tuple(x.double() if x.is_floating_point() else x for x in given)
    model = converted(network, options, inputs).eval()
    chip = model.lower(hardware=options.hardware, chip_seed=options.chip_seed).eval().calibrate(*inputs)
    chip.export_spice(folder, *inputs, overwrite=options.force)


def _judge(folder: Path, options: argparse.Namespace) -> int:
    verdicts = check_netlists(folder, options.within, options.seconds)
    print(table(verdicts))
    return 0 if all(v.ok for v in verdicts) else 1


def table(verdicts: Sequence[Verdict]) -> str:
    """A row for each netlist."""
    head = ["netlist", "at rest (.op)", "settled (.tran)", "settling time", "verdict"]
    return aligned([head, *map(_row, verdicts)])


def _row(v: Verdict) -> list[str]:
    time = "" if v.settling_time is None or not v.settled else f"{v.settling_time:.3g} s"
    return [v.name, _error(v.operating_point), _error(v.transient), time, v.text]


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"
