"""What a chip is and how it has fared: tiles, errors of its weights, saturation, settling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from textwrap import indent
from typing import Any

from torch import Tensor

from ...chip.emulate import Chip
from ...chip.hardware import Hardware, defaults, quantities
from ...chip.hardware.documents import to_dict
from ...chip.hardware.mapping import Tiling
from ...solve import Relaxation
from ...tables import aligned


@dataclass(frozen=True)
class ArrayReport:
    """The devices of one weight.

    Attributes:
        weight: its path.
        rows, columns, groups: of its matrix.
        tiles: how many, and the part of their devices that is used.
        error: |W_chip - W| / |W|: what the devices make of the weight, at the chip's age.
        at_bounds: the part of the devices that are at g_min or g_max.
    """

    weight: str
    rows: int
    columns: int
    groups: int
    tiles: int
    utilisation: float
    error: float
    at_bounds: float


@dataclass(frozen=True)
class ChipReport:
    """A chip in numbers; ``str`` is the text of it.

    Attributes:
        hardware: what it is made of.
        seed: which chip it is.
        arrays: the devices of every weight that it holds.
        saturation: the part of the values that lay outside of each converter's range.
        relaxation: how each block settled in the last call.
    """

    hardware: Hardware
    seed: int
    arrays: tuple[ArrayReport, ...]
    saturation: Mapping[str, float]
    relaxation: tuple[Relaxation, ...]

    @property
    def tiles(self) -> int:
        return sum(a.tiles for a in self.arrays)

    @property
    def utilisation(self) -> float:
        """Used devices, relative to those of all tiles."""
        used = sum(a.rows * a.columns * a.groups for a in self.arrays)
        return used / max(1, self.tiles * self.hardware.tile_rows * self.hardware.tile_columns)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only."""
        return {
            "hardware": to_dict(self.hardware),
            "seed": self.seed,
            "tiles": self.tiles,
            "utilisation": self.utilisation,
            "arrays": [asdict(a) for a in self.arrays],
            "saturation": dict(self.saturation),
            "relaxation": [asdict(r) for r in self.relaxation],
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        h = self.hardware
        yield f"chip {self.seed} of {h.name!r}, {h.physics} physics"
        yield from (f"  {line}" for line in differences(h))
        yield ""
        yield f"{self.tiles} tiles of {h.tile_rows} x {h.tile_columns}, {self.utilisation:.1%} of their devices used"
        head = ("weight", "matrix", "tiles", "used", "error", "at bounds")
        yield indent(aligned([head, *(_row(a) for a in self.arrays)]), "  ")
        if self.saturation:
            yield ""
            yield "outside of a converter's range"
            yield indent(aligned([(n, f"{part:.2%}") for n, part in self.saturation.items()]), "  ")
        if self.relaxation:
            yield ""
            rows = [
                (r.block, f"{r.sweeps} sweeps", f"residual {r.residual:.1e}", "" if r.converged else "not settled")
                for r in self.relaxation
            ]
            yield indent(aligned(rows), "  ")


def chip_report(
    chip: Chip, weights: Mapping[str, Tensor], tiles: Mapping[str, Tiling], relaxation: tuple[Relaxation, ...]
) -> ChipReport:
    """The report of a chip that holds ``weights``, by path."""
    arrays = tuple(_array(chip, path, tiling, weights[path]) for path, tiling in tiles.items())
    saturation = {name: counted.part for name, counted in chip.saturation.items()}
    return ChipReport(chip.hardware, chip.seed, arrays, saturation, relaxation)


def _array(chip: Chip, path: str, tiling: Tiling, weight: Tensor) -> ArrayReport:
    error = (chip.weight(path).to(weight) - weight).norm() / weight.norm().clamp(min=1e-30)
    devices = chip.devices[path].crossbar.devices.conductance
    h = chip.hardware
    bounds = ((devices <= h.g_min) | (devices >= h.g_max)).float().mean()
    return ArrayReport(
        path, tiling.rows, tiling.columns, tiling.groups, tiling.tiles, tiling.utilisation, float(error), float(bounds)
    )


def differences(hardware: Hardware) -> list[str]:
    """Every field in which a specification differs from an ideal one, with its unit."""
    ideal, known = defaults(), quantities()
    found = [(n, getattr(hardware, n), known[n].unit) for n in known if n != "name"]
    return [f"{n} = {_plain(v)}{'' if u in ('', '1') else f' {u}'}" for n, v, u in found if v != ideal[n]]


def _plain(value: object) -> str:
    """Numbers as one reads them, without the last digits of a product."""
    if isinstance(value, tuple):
        return "(" + ", ".join(_plain(v) for v in value) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(a: ArrayReport) -> tuple[str, ...]:
    groups = f"{a.groups} x " if a.groups > 1 else ""
    matrix = f"{groups}{a.rows} x {a.columns}"
    return a.weight, matrix, str(a.tiles), f"{a.utilisation:.1%}", f"{a.error:.2%}", f"{a.at_bounds:.1%}"
