"""A study's results as tables: a row a point, and a row a setting with the spread over its chips."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..tables import as_csv
from .metrics import METRICS
from .point import Record, Settings
from .sweep import Value

SPREAD = (10.0, 90.0)
"""Percentiles over the chips."""


@dataclass(frozen=True)
class Spread:
    """One metric at one setting, over the chips."""

    median: float
    low: float
    high: float
    chips: int


def points_table(records: Iterable[Record], names: Sequence[str]) -> str:
    """CSV with a row a point.

    Args:
        names: what is swept.
    """
    return as_csv([[*names, "chip", *METRICS, "error"], *(_row(r, names) for r in records)])


def summary_table(records: Iterable[Record], names: Sequence[str]) -> str:
    """CSV with a row a setting: median and percentiles of each metric.

    Args:
        names: what is swept.
    """
    columns = [f"{m}_{part}" for m in METRICS for part in ("median", "low", "high")]
    return as_csv([[*names, "chips", *columns], *(_summed(s, m, names) for s, m in summary(records).items())])


def summary(records: Iterable[Record]) -> dict[Settings, dict[str, Spread]]:
    """Median and spread over the chips, by settings and metric."""
    grouped: dict[Settings, list[Record]] = {}
    for record in records:
        if record.error is None:
            grouped.setdefault(record.point.settings, []).append(record)
    return {settings: dict(_spreads(group)) for settings, group in grouped.items()}


def _spreads(group: Sequence[Record]) -> Iterator[tuple[str, Spread]]:
    for metric in METRICS:
        values = [v for r in group if (v := r.metrics.get(metric)) is not None and not math.isnan(v)]
        if values:
            with np.errstate(invalid="ignore"):  # between an infinite residual and a finite one
                low, high = np.percentile(values, SPREAD)
            yield metric, Spread(float(np.median(values)), float(low), float(high), len(values))


def _row(record: Record, names: Sequence[str]) -> list[Any]:
    settings = dict(record.point.settings)
    values = [_shown(record.metrics.get(m)) for m in METRICS]
    return [*(_setting(settings, n) for n in names), record.point.chip, *values, record.error or ""]


def _summed(settings: Settings, spreads: Mapping[str, Spread], names: Sequence[str]) -> list[Any]:
    cells = [_shown(part) for m in METRICS for part in _parts(spreads.get(m))]
    chips = max((s.chips for s in spreads.values()), default=0)
    return [*(_setting(dict(settings), n) for n in names), chips, *cells]


def _parts(spread: Spread | None) -> tuple[float | None, ...]:
    return (None, None, None) if spread is None else (spread.median, spread.low, spread.high)


def _setting(settings: Mapping[str, Value], name: str) -> Any:
    """``base`` where a field is not varied, which is not the same as its value ``none``."""
    value = settings.get(name, "base")
    return "none" if value is None else value


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.9g}"
