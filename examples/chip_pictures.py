"""The pictures of the report on an emulated chip, drawn from its plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.plotting import figure, save, smooth

WRITTEN, TARGET = "#d95f02", "#444444"
COLOURS = ("#b3621b", "#1f77b4", "#1b9e77", "#7570b3")
"""Of chips, in their order."""

Found = Mapping[str, Any]


def draw(found: Found, folder: Path) -> None:
    """Writes every picture to a folder."""
    from examples.analog import slug

    training(found, folder / "training.png")
    gradients(found, folder / "gradients.png")
    for name, chip in found["chips"].items():
        conductances(name, chip, folder / f"conductances-{slug(name)}.png")
        if chip["ablation"]:
            ablation(name, chip, found["accuracy"]["ideal analog"], folder / f"ablation-{slug(name)}.png")


def training(found: Found, path: Path) -> Path:
    """Loss by batch and accuracy by epoch of the fine-tunings on the chips, and accuracy before them."""
    picture, (left, right) = figure(2)
    for colour, (name, chip) in zip(COLOURS, found["chips"].items(), strict=False):
        curve = found["curves"][f"on {name}"]
        per_epoch = max(1, len(curve["losses"]) // max(1, len(curve["accuracy"])))
        epochs = [(i + 1) / per_epoch for i in range(len(curve["losses"]))]
        left.plot(epochs, curve["losses"], color=colour, alpha=0.25, linewidth=0.7)
        left.plot(epochs, smooth(curve["losses"]), color=colour, label=name)
        programmed, calibrated = next(iter(chip["accuracy"].values())).values()
        right.plot([-1, 0], [programmed, calibrated], "o:", color=colour, markersize=4)
        right.plot(
            range(len(curve["accuracy"]) + 1),
            [calibrated, *curve["accuracy"]],
            "o-",
            color=colour,
            markersize=4,
            label=f"on {name}",
        )
    right.axhline(
        found["accuracy"]["ideal analog"], color="#444444", linewidth=0.9, linestyle="--", label="ideal analog"
    )
    last = max(len(found["curves"][f"on {n}"]["accuracy"]) for n in found["chips"])
    right.set_xticks(
        range(-1, last + 1), ["as pro-\ngrammed", "norms cali-\nbrated", *map(str, range(1, last + 1))], fontsize=8
    )
    left.set(xlabel="epoch on the chip", ylabel="training loss", yscale="log")
    right.set(xlabel="epoch on the chip", ylabel="validation accuracy (%)")
    right.legend(frameon=False, fontsize=8, loc="lower right")
    picture.suptitle("Fine-tuned on the emulated chip by equilibrium propagation", fontsize=10)
    return save(picture, path)


def gradients(found: Found, path: Path) -> Path:
    """Cosine of the chip's gradient with the exact one, parameters from the input to the output."""
    from matplotlib.figure import Figure

    chips = found["chips"]
    names = [row["parameter"] for chip in chips.values() for row in chip["gradients"]]
    names = list(dict.fromkeys(names))
    picture = Figure(figsize=(max(6.0, 0.24 * len(names) + 2.5), 2.4 * len(chips) + 1.2), layout="constrained", dpi=130)
    axes = picture.subplots(len(chips), 1, sharex=True, squeeze=False)[:, 0]
    for axis, colour, (name, chip) in zip(axes, COLOURS, chips.items(), strict=False):
        rows = chip["gradients"]
        x = [names.index(row["parameter"]) for row in rows]
        axis.bar(
            x, [r["all batches"] for r in rows], color=colour, alpha=0.75, width=0.7, label="of all batches together"
        )
        axis.plot(x, [r["one batch"] for r in rows], "o", color="#222222", markersize=3.5, label="of one batch, mean")
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(ylabel=f"cosine, {name}", ylim=(-1.02, 1.02))
        _plain(axis)
    axes[0].legend(frameon=False, fontsize=8, ncols=2, loc="lower right")
    axes[-1].set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    picture.suptitle("Gradient of the chip against the exact gradient of the weights that it holds", fontsize=10)
    return save(picture, path)


_BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}


def ablation(name: str, chip: Found, ideal: float, path: Path) -> Path:
    """What is gained by taking a non-ideality away, and what is left where it is the only one."""
    rows = chip["ablation"]
    first = next(iter(chip["accuracy"].values()))["as programmed"]
    picture, (axis,) = figure(1, width=7.2, height=0.42 * len(rows) + 1.6)
    places = range(len(rows))
    axis.barh(
        [p - 0.19 for p in places],
        [r["without it"] for r in rows],
        height=0.36,
        color="#b3621b",
        label="all but this one",
    )
    axis.barh(
        [p + 0.19 for p in places], [r["alone"] for r in rows], height=0.36, color="#f2c79a", label="this one alone"
    )
    for place, row in zip(places, rows, strict=True):
        for shift, way in ((-0.19, "without it"), (0.19, "alone")):
            axis.text(row[way] + 0.7, place + shift, f"{row[way]:.1f}", va="center", fontsize=7, bbox=_BEHIND)
    axis.axvline(ideal, color="#444444", linestyle="--", linewidth=0.9, label="ideal")
    axis.axvline(first, color="#c2410c", linestyle=":", linewidth=1.2, label="the chip as it is")
    axis.set_yticks(places, [r["non-ideality"] for r in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set(xlabel="validation accuracy (%)", xlim=(0, 112))
    axis.legend(frameon=False, fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=4)
    picture.suptitle(f"What costs the accuracy on {name!r}", fontsize=10)
    return save(picture, path)


def conductances(name: str, chip: Found, path: Path) -> Path:
    """Devices by conductance, a panel a weight: asked for, as programmed, after fine-tuning."""
    from matplotlib.figure import Figure

    before, after = (chip[k]["conductances"] for k in ("as programmed", "after fine-tuning"))
    columns = min(4, len(before))
    lines = -(-len(before) // columns)
    picture = Figure(figsize=(2.6 * columns, 1.75 * lines + 0.9), layout="constrained", dpi=130)
    axes = picture.subplots(lines, columns, sharex=True, squeeze=False).flatten()
    for axis, start, end in zip(axes, before, after, strict=False):
        _histogram(axis, start, end)
    for axis in axes[len(before) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    picture.suptitle(f"Conductances on {name!r} (uS); number of devices, logarithmic", fontsize=10)
    return save(picture, path)


def _histogram(axis: Any, start: Found, end: Found) -> None:
    count = len(start["written"])
    edges = [1e6 * start["top"] * i / count for i in range(count + 1)]
    axis.stairs(_floor(start["target"]), edges, color=TARGET, alpha=0.25, fill=True, label="asked for")
    axis.stairs(_floor(start["written"]), edges, color="#1f77b4", linewidth=1.1, label="as programmed")
    axis.stairs(_floor(end["written"]), edges, color=WRITTEN, linewidth=1.1, label="after fine-tuning")
    axis.set_title(start["weight"], fontsize=8)
    axis.set_yscale("log")
    axis.set_ylim(bottom=0.7)
    axis.tick_params(labelsize=7)
    _plain(axis)


def _floor(counts: Sequence[float]) -> list[float]:
    """A bin without devices lies below the axis, not at minus infinity."""
    return [max(c, 0.1) for c in counts]


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
