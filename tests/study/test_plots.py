"""Which panels and lines there are, and on which axes; read from the figure, not from pixels."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from ffebm_compiler.errors import OptionError
from ffebm_compiler.study import METRICS, Axis, Point, Record, check_plots, draw, plots, points, summary

NOISE = Axis("read_noise", (0.0, 0.05, 0.1))
BITS = Axis("adc_bits", (4, 6, None))
AGE = Axis("age", (20.0, 200.0, 2000.0, 2e4))
KIND = Axis("write", ("ideal", "pulses"))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that would be saved."""
    pytest.importorskip("matplotlib")
    kept: list[Any] = []

    def keep(figure: Any, path: Path) -> Path:
        kept.extend([figure] if path.suffix == ".png" else [])
        return path

    monkeypatch.setattr(plots, "write_figure", keep)
    return kept


def found(axes: list[Axis], alone: bool = False, chips: int = 3) -> Any:
    """Accuracy falls with the settings' places, and spreads by a tenth over the chips."""

    def value(point: Point) -> float:
        places = {a.name: a.values for a in axes}
        return 1 - 0.1 * sum(places[n].index(v) for n, v in point.settings) + 0.1 * (point.chip - 1)

    return summary(
        Record(p, {"accuracy": value(p), "output_error": 0.01 * 10**p.chip, "loss": 1.0})
        for p in points(axes, alone, chips)
    )


def panels(figure: Any) -> list[Any]:
    return [cell for cell in figure.axes if cell.lines]


def test_a_row_a_metric_and_a_column_a_value_of_the_second_sweep(figures: list[Any], tmp_path: Path) -> None:
    written = draw(tmp_path, [NOISE, BITS], False, found([NOISE, BITS]), "title", {"accuracy": 0.98, "loss": 1.0})
    assert [p.name for p in written] == ["study.png", "study.svg"]
    cells = panels(figures[0])
    assert len(cells) == 2 * 3  # accuracy and output error; the loss is not drawn
    assert [c.get_title() for c in cells[:3]] == ["adc_bits = 4", "adc_bits = 6", "adc_bits = none"]
    line, digital = cells[1].lines
    assert [*line.get_xdata()] == [0.0, 0.05, 0.1]
    assert [*line.get_ydata()] == pytest.approx([0.9, 0.8, 0.7])
    assert [*digital.get_ydata()] == [0.98, 0.98]
    band = cells[1].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.7 - 0.08, 0.9 + 0.08))  # 10th and 90th percentile of three
    assert cells[3].get_yscale() == "log"
    assert cells[0].get_ylabel() == METRICS["accuracy"].label


def test_both_files_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(tmp_path, [NOISE], False, found([NOISE]), "title", {})
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "study.svg").read_text()


def test_a_third_sweep_is_told_by_colour_and_a_fourth_by_picture(figures: list[Any], tmp_path: Path) -> None:
    axes = [NOISE, BITS, KIND, AGE]
    written = draw(tmp_path, axes, False, found(axes), "title", {})
    assert len(written) == 2 * 4
    assert [len(panels(f)) for f in figures] == [6] * 4
    cell = panels(figures[2])[0]
    assert [line.get_label() for line in cell.lines] == ["write = ideal", "write = pulses"]
    assert [*cell.lines[1].get_ydata()] == pytest.approx([1 - 0.1 - 0.2 - 0.1 * i for i in range(3)])
    assert "age = 2000" in figures[2].get_suptitle()


def test_one_at_a_time_has_a_column_a_sweep(figures: list[Any], tmp_path: Path) -> None:
    axes = [NOISE, BITS, AGE, KIND]
    draw(tmp_path, axes, True, found(axes, True), "title", {})
    cells = panels(figures[0])
    assert [c.get_xlabel() for c in cells[4:]] == ["read_noise", "adc_bits (bit)", "age (s)", "write"]
    assert [len(c.lines[0].get_xdata()) for c in cells[:4]] == [3, 3, 4, 2]
    assert [t.get_text() for t in cells[5].get_xticklabels()] == ["4", "6", "none"]
    assert cells[6].get_xscale() == "log"


def test_a_sweep_of_one_value_takes_no_panel(figures: list[Any], tmp_path: Path) -> None:
    axes = [Axis("offset", (0.01,)), NOISE]
    draw(tmp_path, axes, False, found(axes), "title", {})
    assert [c.get_xlabel() for c in panels(figures[0])] == ["", "read_noise"]


def test_a_second_sweep_of_many_values_is_told_by_colour(figures: list[Any], tmp_path: Path) -> None:
    axes = [NOISE, Axis("offset", tuple(i / 100 for i in range(12)))]
    draw(tmp_path, axes, False, found(axes), "title", {})
    assert [len(c.lines) for c in panels(figures[0])] == [12, 12]


def test_what_is_missing_or_infinite_is_left_out(figures: list[Any], tmp_path: Path) -> None:
    values = (0.5, math.inf, 0.7)
    records = [Record(Point((("read_noise", n),), 0), {"accuracy": v}) for n, v in zip(NOISE.values, values)]
    draw(tmp_path, [NOISE], False, summary(records), "title", {})
    assert [*panels(figures[0])[0].lines[0].get_xdata()] == [0.0, 0.1]
    assert draw(tmp_path, [NOISE], False, {}, "title", {}) == []


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ((1.0, 10.0, 100.0), "log"),
        ((0.0, 1e-3, 1e-2, 1e-1), "symlog"),
        (tuple(float(i) for i in range(1, 101)), "linear"),
        ((0.0, 0.1, 0.2), "linear"),
        ((1.0, 1000.0), "linear"),
    ],
)
def test_the_scale_follows_the_steps(figures: list[Any], tmp_path: Path, values: tuple[float, ...], scale: str) -> None:
    axis = Axis("age", values)
    draw(tmp_path, [axis], False, found([axis], chips=1), "title", {})
    assert panels(figures[0])[-1].get_xscale() == scale


def test_without_matplotlib_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OptionError, match="--no-plots"):
        check_plots()
