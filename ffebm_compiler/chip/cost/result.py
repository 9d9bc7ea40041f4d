"""An estimate as data: rows of (block, component, phase) with energy in J, latency in s, area in m^2, and their sums.

A latency is that of one sample from start to end, so the rows add up; parts that work at the same time as another have
none of their own. An area counts once, in the phase that first needs it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import OptionError, Problem, close_matches
from ...tables import aligned
from .constants import CostModel
from .units import si

COMPONENTS = ("array", "amplifiers", "DAC", "ADC", "digital", "writing")
PHASES = ("forward", "backward", "update")
STEPS: dict[str, tuple[str, ...]] = {"inference": ("forward",), "training": PHASES}
"""The phases of a step."""


@dataclass(frozen=True)
class Row:
    """What one component of one block costs in one phase, for one sample.

    Attributes:
        block: its name, or ``"chip"`` for what all blocks share.
        component: one of :data:`COMPONENTS`.
        phase: one of :data:`PHASES`.
        energy, latency, area: J, s, m^2.
    """

    block: str
    component: str
    phase: str
    energy: float = 0.0
    latency: float = 0.0
    area: float = 0.0


@dataclass(frozen=True)
class Total:
    """A sum of rows: J, s, m^2."""

    energy: float
    latency: float
    area: float


@dataclass(frozen=True)
class Comparison:
    """The same work on a digital accelerator.

    Attributes:
        accelerator, step: which, and ``"inference"`` or ``"training"``.
        energy, latency: of the accelerator, J and s; its latency is the time a sample takes of it while it is kept busy
            by many.
        chip_energy, chip_latency: of the analog chip.
    """

    accelerator: str
    step: str
    energy: float
    latency: float
    chip_energy: float
    chip_latency: float

    @property
    def energy_ratio(self) -> float:
        """Accelerator over chip: above 1 the chip takes less."""
        return self.energy / self.chip_energy if self.chip_energy else float("inf")

    @property
    def latency_ratio(self) -> float:
        """Accelerator over chip: above 1 the chip is faster."""
        return self.latency / self.chip_latency if self.chip_latency else float("inf")


@dataclass(frozen=True)
class Cost:
    """What one sample costs on a chip.

    Attributes:
        rows: by block, component and phase.
        comparisons: the same work on digital accelerators.
        macs, analog_macs: multiply-accumulates of a forward pass, and those of them that are done in arrays.
        hardware: the chip's name.
        batch: samples that share an update.
        model: the constants.
    """

    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    macs: int
    analog_macs: int
    hardware: str
    batch: int
    model: CostModel

    @property
    def inference(self) -> Total:
        return self.total("inference")

    @property
    def training(self) -> Total:
        return self.total("training")

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks, in order of execution."""
        return tuple(dict.fromkeys(r.block for r in self.rows))

    def total(self, step: str, *, block: str | None = None, component: str | None = None) -> Total:
        """The sum of a step's rows, of one block or component where it is named.

        Raises:
            OptionError: there is no such step, block or component.
        """
        asked = (("step", step, STEPS), ("block", block, self.blocks), ("component", component, COMPONENTS))
        unknown = [(n, v, tuple(known)) for n, v, known in asked if v is not None and v not in known]
        if unknown:
            raise OptionError(
                Problem(f"option {n}", f"is {v!r}", close_matches(str(v), known)) for n, v, known in unknown
            )
        return _sum(
            r
            for r in self.rows
            if r.phase in STEPS[step] and block in (None, r.block) and component in (None, r.component)
        )

    def table(self, step: str = "training") -> tuple[tuple[str, ...], ...]:
        """Text cells: a head, a line a block and component, and the sum."""
        lines = [("block", "component", "energy", "latency", "area")]
        for block in self.blocks:
            for component in COMPONENTS:
                total = self.total(step, block=block, component=component)
                if total != Total(0.0, 0.0, 0.0):
                    lines.append((block, component, *_cells(total)))
        return (*lines, ("all", "", *_cells(self.total(step))))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the numbers say, in sentences."""
        return tuple(_remarks(self))

    @property
    def text(self) -> str:
        """Both steps as tables, the comparisons and the remarks."""
        parts = [f"cost of one sample on {self.hardware!r}, an estimate from published constants and guesses"]
        for step in STEPS:
            note = "" if step == "inference" else f" (weights written once in {self.batch})"
            parts.append(f"\n{step}{note}\n{aligned(self.table(step))}")
        head = ("the same work on", "step", "energy", "latency", "energy ratio", "latency ratio")
        lines = [(c.accelerator, c.step, *_amounts(c)) for c in self.comparisons]
        parts.append("\n" + aligned((head, *lines)))
        parts.append("\n" + "\n".join(self.remarks))
        return "\n".join(parts)

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON: SI units."""
        return {
            "hardware": self.hardware,
            "batch": self.batch,
            "macs": self.macs,
            "analog_macs": self.analog_macs,
            "rows": [asdict(r) for r in self.rows],
            "totals": {step: asdict(self.total(step)) for step in STEPS},
            "comparisons": [
                {**asdict(c), "energy_ratio": c.energy_ratio, "latency_ratio": c.latency_ratio}
                for c in self.comparisons
            ],
            "constants": {f.name: getattr(self.model, f.name) for f in fields(self.model)},
        }

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """Draws the energy by block and component, and the comparisons, as PNG.

        Raises:
            OptionError: matplotlib is missing, or the file can't be written.
        """
        from .plot import plot

        return plot(self, path)


def _sum(rows: Iterable[Row]) -> Total:
    chosen = list(rows)
    return Total(sum(r.energy for r in chosen), sum(r.latency for r in chosen), sum(r.area for r in chosen))


def _remarks(cost: Cost) -> Iterable[str]:
    for step in STEPS:
        total = cost.total(step)
        if not total.energy:
            continue
        parts = {c: cost.total(step, component=c).energy for c in COMPONENTS}
        largest = max(parts, key=lambda c: parts[c])
        yield f"{step}: most of the energy goes into {_NAMES[largest]} ({parts[largest] / total.energy:.0%})."
        converters = parts["DAC"] + parts["ADC"]
        if converters > parts["array"] + parts["amplifiers"] > 0:
            why = "the blocks are small for their inputs and outputs"
            yield f"{step}: converting takes more energy than computing in the arrays does: {why}."
        for c in cost.comparisons:
            if c.step == step and c.energy_ratio < 1:
                yield f"{step}: the chip takes {1 / c.energy_ratio:.3g} times the energy of {c.accelerator}."


_NAMES = {
    "array": "the arrays",
    "amplifiers": "amplifiers",
    "DAC": "DACs",
    "ADC": "ADCs",
    "digital": "the digital part",
    "writing": "writing devices",
}


# --- text -----------------------------------------------------------------------------------------------------


def _cells(total: Total) -> tuple[str, str, str]:
    return si(total.energy, "J"), si(total.latency, "s"), f"{total.area * 1e6:.3g} mm2"


def _amounts(c: Comparison) -> tuple[str, str, str, str]:
    return si(c.energy, "J"), si(c.latency, "s"), f"{c.energy_ratio:.3g}", f"{c.latency_ratio:.3g}"
