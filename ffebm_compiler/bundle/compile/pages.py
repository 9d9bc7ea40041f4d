"""For people and for circuits: the report, the graph, the chip's conductances, the blocks' netlists."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import networkx as nx

from ...backends.analog_emu.backend import analog_emu
from ...backends.analog_emu.chip_runs import calibrate
from ...backends.analog_emu.circuits import write_spice
from ...backends.analog_emu.substrate import chip_of
from ...chip.emulate import save_chip
from ...chip.hardware import Hardware
from ...chip.spice.folder import MANIFEST
from ...errors import FFEBMError, InputError, OptionError
from ...model.first_use import FirstUse
from ...model.runner import Runner
from ...onnx import Unexportable
from ...view import Report
from ...view.arrange import arrange
from ...view.svg import svg

CONDUCTANCES = "conductances.npz"
NETLISTS = "netlists.json"
"""What a folder of netlists calls its manifest: a bundle has one of its own."""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
body {{ color: #222; background: #fff; }}
figure {{ margin: 1.5rem 0; overflow-x: auto; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


@dataclass(frozen=True)
class Circuits:
    """A model on a chip, as files.

    Attributes:
        files: conductances and netlists.
        left_out: blocks without a netlist, and why.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


def graph_json(graph: nx.DiGraph) -> bytes:
    """The partition graph as node-link JSON, which ``networkx.node_link_graph(..., edges="edges")`` reads."""
    return (json.dumps(nx.node_link_data(graph, edges="edges"), indent=1, ensure_ascii=False) + "\n").encode()


def report_page(
    report: Report, graph: nx.DiGraph, refused: Iterable[Unexportable], left_out: Mapping[str, str]
) -> bytes:
    """The report as one page; without dates, so that the same model gives the same page."""
    missing = [(f"{r.part} ({r.kind})", f"{r.operation}: {r.reason}") for r in refused]
    body = [
        report._repr_html_(),
        *_listed("Graphs that ONNX can't express", missing),
        *_listed("Blocks without a netlist", left_out.items()),
        f"<figure>{svg(arrange(graph))}</figure>",
    ]
    return _PAGE.format(title=escape(report.model), body="\n".join(body)).encode()


def _listed(title: str, entries: Iterable[tuple[str, str]]) -> list[str]:
    lines = "".join(f"<li><b>{escape(where)}</b>: {escape(why)}</li>" for where, why in entries)
    return [f"<h2>{escape(title)}</h2><ul>{lines}</ul>"] if lines else []


# --- the chip ---------------------------------------------------------------------------------------------


def circuits(
    model: Runner, hardware: Hardware, chip_seed: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Circuits:
    """The chip that this model is put on, and a netlist of each block that is small enough to unroll."""
    emulated = model.copied(analog_emu(model, hardware=hardware, chip_seed=chip_seed), FirstUse())
    emulated.train(False)
    on = chip_of(emulated)
    calibrate(emulated, on, args, kwargs)
    names = [b.name for b in emulated.program.energy_blocks]
    with tempfile.TemporaryDirectory(prefix="ffebm_chip_") as scratch:
        drawer = _Drawer(emulated, args, kwargs, Path(scratch))
        netlists, left_out = drawer.netlists(names)
        chip = save_chip(on.chip, Path(scratch) / CONDUCTANCES).read_bytes()  # drawing has written the devices
    return Circuits({CONDUCTANCES: chip, **netlists}, left_out)


@dataclass(frozen=True)
class _Drawer:
    """Draws the blocks of a model on a chip, on one input, in a folder for what is on its way."""

    emulated: Runner
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    scratch: Path

    def netlists(self, names: Sequence[str]) -> tuple[dict[str, bytes], dict[str, str]]:
        """Files, and the blocks without one with the reason: all at once, or one by one where that fails."""
        if not names:
            return {}, {}
        try:
            return self._drawn(names), {}
        except (InputError, OptionError) as failure:
            if len(names) == 1:
                return {}, {names[0]: _why(failure)}
        found = [self.netlists([name]) for name in names]
        files = [f for f, _ in found if f]
        merged = {n: c for f in files for n, c in f.items() if n != NETLISTS}
        if files:
            merged[NETLISTS] = _merged([json.loads(f[NETLISTS]) for f in files])
        return merged, {n: why for _, left_out in found for n, why in left_out.items()}

    def _drawn(self, names: Sequence[str]) -> dict[str, bytes]:
        folder = self.scratch / "-".join(names)[:100]
        written = write_spice(self.emulated, chip_of(self.emulated), folder, self.args, self.kwargs, blocks=names)
        return {**{p.name: p.read_bytes() for p in written}, NETLISTS: (folder / MANIFEST).read_bytes()}


def _merged(manifests: Sequence[Mapping[str, Any]]) -> bytes:
    content = {**manifests[0], "netlists": [entry for m in manifests for entry in m["netlists"]]}
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _why(failure: FFEBMError) -> str:
    return "; ".join(f"{p.where}: {p.what}" for p in failure.problems)
