"""What is measured at every point: one table, from which files, plots and docs take names and units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One number per point.

    Attributes:
        label: on an axis.
        unit: ``""`` for a pure number.
        about: one sentence.
        logarithmic: how it is drawn.
        whole: whether it counts something.
        plotted: whether it is drawn.
    """

    label: str
    about: str
    unit: str = ""
    logarithmic: bool = False
    whole: bool = False
    plotted: bool = True


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("accuracy", "part of the labelled samples whose class is right"),
    "loss": Metric(
        "loss", "cross-entropy of labelled samples, mean squared error of real targets", logarithmic=True, plotted=False
    ),
    "agreement": Metric("agreement", "part of the samples that get the class that the digital model gives them"),
    "output_error": Metric(
        "output error",
        "norm of the difference from the digital model's output, relative to that output",
        logarithmic=True,
    ),
    "residual": Metric(
        "residual", "largest residual of a block: its relative distance to equilibrium", logarithmic=True
    ),
    "sweeps": Metric("sweeps", "most sweeps that a block took", whole=True),
    "converged": Metric(
        "converged", "part of the relaxations, block by block and batch by batch, that converged", plotted=False
    ),
    "cosine_worst": Metric("gradient cosine, worst", "of the parameter whose gradient agrees least with the exact one"),
    "cosine_median": Metric("gradient cosine, median", "over the parameters"),
    "energy": Metric("energy", "of inferring one sample", "J", logarithmic=True),
    "latency": Metric("latency", "of inferring one sample", "s", logarithmic=True),
    "training_energy": Metric(
        "energy of training", "of one sample's part of a training step", "J", logarithmic=True, plotted=False
    ),
    "training_latency": Metric(
        "latency of training", "of one sample's part of a training step", "s", logarithmic=True, plotted=False
    ),
    "seconds": Metric("time taken", "to measure the point on this machine", "s", plotted=False),
}

Measured = Mapping[str, float | None]
"""Values by metric; None where there is nothing to measure."""
