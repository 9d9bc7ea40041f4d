"""Is a bundle right: its files, and what they compute on the input that was recorded when it was written.

files and checksums -> each graph of each digital part -> each block -> the whole model
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...errors import ConvergenceWarning, FFEBMError, shown
from ...ffebm import FFEBM
from ...ir import EnergyBlock
from ...onnx import FORWARD, Interface, Unexportable
from ...onnx.difference import TOLERANCE, Difference, difference, worst
from ...tables import aligned
from ...train.operator import free_phase
from ..compile.compare import compared, missing
from ..format.contents import Contents
from ..read.reading import read_bundle
from .load import runtime_of
from .recorded import compared_result, recorded_call, recorded_inputs, recorded_states, recorded_sweeps, run_graph
from .runtime import Runtime


@dataclass(frozen=True)
class Check:
    """One thing that was checked.

    Attributes:
        name: what: ``"digital1, vjp"``.
        ok: whether it is right.
        difference: the largest one from the record, relative to its largest value; None where nothing is compared.
        verdict: in words.
        left_out: whether there is nothing to check, as the bundle's writer was told.
    """

    name: str
    ok: bool
    difference: float | None
    verdict: str
    left_out: bool = False


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found."""

    path: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(c.ok for c in self.checks)

    def text(self) -> str:
        """A row for each check, and the verdict on all of them."""
        head = ("check", "difference", "verdict")
        rows = ((c.name, "" if c.difference is None else f"{c.difference:.1e}", c.verdict) for c in self.checks)
        return shown(f"{aligned([head, *rows])}\n\n{self.path}: {self.verdict}")

    @property
    def verdict(self) -> str:
        """On all checks, in words."""
        made = [c for c in self.checks if not c.left_out]
        failed = sum(not c.ok for c in made)
        return f"{failed} of {len(made)} checks FAILED" if failed else f"all {len(made)} checks passed"

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "ok": self.ok, "checks": [asdict(c) for c in self.checks]}


def verify(path: str | os.PathLike[str], tolerance: float = TOLERANCE) -> Verification:
    """Checks a bundle, from its checksums to the whole model's result.

    Args:
        path: a folder, or a ``.ffebm`` file.
        tolerance: the largest relative difference that passes; a coarse type may differ by a few of its roundings.
    """
    try:
        contents = read_bundle(path)
    except FFEBMError as failure:
        return Verification(os.fspath(path), (_failed("files and checksums", failure),))
    count = len(contents.graphs) + len(contents.files)
    read = Check("files and checksums", True, None, f"whole: {len(contents.tensors)} tensors, {count} graphs and pages")
    return Verification(os.fspath(path), (read, *_computed(contents, tolerance)))


def _computed(contents: Contents, tolerance: float) -> Iterator[Check]:
    try:
        runtime = runtime_of(contents)
    except FFEBMError as failure:
        yield _failed("loading", failure)
        return
    if not contents.samples:
        yield Check("recorded results", False, None, "the bundle holds none: compile it again")
        return
    judge = _Judge(contents, runtime, tolerance)
    yield from judge.parts()
    yield from judge.blocks()
    yield from judge.whole()


@dataclass(frozen=True)
class _Judge:
    """Compares what a loaded bundle computes with its

    Attributes:
        contents: the bundle.
        runtime: the same, loaded.
        tolerance: of float32.
    """

    contents: Contents
    runtime: Runtime
    tolerance: float

    @property
    def model(self) -> FFEBM:
        return self.runtime.model

    def parts(self) -> Iterator[Check]:
        """Every graph by itself."""
        for name, interface in self.contents.interfaces:
            yield self._guarded(f"{name}, {interface.kind}", lambda: self._graph(name, interface))
        yield from map(_left_out, self.contents.refused)

    def _graph(self, name: str, interface: Interface) -> tuple[Difference, str]:
        samples = self.contents.samples
        if absent := missing(samples, name, interface):
            return Difference(float("inf"), absent[0]), ""
        found = run_graph(samples, self.model.network, name, interface)
        return worst(compared(samples, name, interface, found)), ""

    def blocks(self) -> Iterator[Check]:
        """Every block by itself, on the recorded values."""
        for block in self.model.program.energy_blocks:
            yield self._guarded(block.name, lambda: self._block(block))

    def _block(self, block: EnergyBlock) -> tuple[Difference, str]:
        samples = self.contents.samples
        with torch.no_grad():  # as they were recorded: with the gains of evaluation
            phase = free_phase(self.model.block_call(block, recorded_inputs(samples, block.inputs)))
        recorded, sweeps = recorded_states(samples, block.name), recorded_sweeps(samples, block.name)
        states = (difference(s, recorded[n], n) for n, s in phase.states.items() if n in recorded)
        found = worst(states) if recorded.keys() == phase.states.keys() else Difference(float("inf"), block.name)
        took = phase.relaxation.sweeps
        return found, f"{took} sweeps" if took == sweeps else f"{took} sweeps, recorded were {sweeps}"

    def whole(self) -> Iterator[Check]:
        """The model from its inputs to its result."""
        absent = [r.part for r in self.contents.refused if r.kind == FORWARD]
        if absent:
            yield Check("whole model", True, None, f"left out: {', '.join(absent)} can't run", True)
        else:
            yield self._guarded("whole model", self._whole)

    def _whole(self) -> tuple[Difference, str]:
        samples, mode = self.contents.samples, self.contents.modes[False]
        args, kwargs = recorded_call(samples, mode)
        result = self.runtime(*args, **kwargs)
        return worst(compared_result(samples, mode.result, result)), ""

    def _guarded(self, name: str, judge: Callable[[], tuple[Difference, str]]) -> Check:
        """A check that may fail in any way and still is one."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the sweeps say it
                found, told = judge()
        except FFEBMError as failure:
            return _failed(name, failure)
        except KeyError as failure:
            return Check(name, False, None, f"FAILED: the samples have no {failure.args[0]}")
        bound = found.bound(self.tolerance)
        ok = found.largest <= bound and "recorded were" not in told
        words = told if ok or found.largest <= bound else f"{found.where} differs by more than {bound:.1e}"
        return Check(name, ok, found.largest, f"{'ok' if ok else 'FAILED'}{': ' + words if words else ''}")


def _failed(name: str, failure: FFEBMError) -> Check:
    return Check(name, False, None, "FAILED: " + "; ".join(f"{p.where}: {p.what}" for p in failure.problems))


def _left_out(refused: Unexportable) -> Check:
    """A graph that the bundle was written without, as its writer was told."""
    return Check(
        f"{refused.part}, {refused.kind}", True, None, f"left out: {refused.operation}: {refused.reason}", True
    )


__all__: Sequence[str] = ["Check", "Verification", "verify"]
