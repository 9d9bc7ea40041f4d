"""Studies: accuracy, convergence, gradient and cost over swept specifications, on many emulated chips."""

from .evaluate import Bench, Effort, Subject
from .metrics import METRICS, Metric
from .plots import check_plots, draw
from .point import Point, Record, count, grid, impossible, one_at_a_time, points
from .records import Folder, versions
from .runner import Study, run
from .samples import Samples, load_npz, samples_from
from .sweep import MOST, Axis, parse_sweep, parse_sweeps, shown, sweepable
from .tables import Spread, summary

__all__ = [
    "METRICS",
    "MOST",
    "Axis",
    "Bench",
    "Effort",
    "Folder",
    "Metric",
    "Point",
    "Record",
    "Samples",
    "Spread",
    "Study",
    "Subject",
    "check_plots",
    "count",
    "draw",
    "grid",
    "impossible",
    "load_npz",
    "one_at_a_time",
    "parse_sweep",
    "parse_sweeps",
    "points",
    "run",
    "samples_from",
    "shown",
    "summary",
    "sweepable",
    "versions",
]
