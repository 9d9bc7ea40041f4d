"""The report on an emulated chip: sections of sentences, tables and pictures, as text and as one HTML file that needs
no network.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from examples.records import table
from ffebm_compiler.chip.cost.units import si

Found = Mapping[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows by column, with what they are; ``folded`` hides a long one behind its caption."""

    caption: str
    rows: Sequence[Row]
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A file of the run's folder, shown inside the report."""

    caption: str
    file: str


@dataclass(frozen=True)
class Text:
    """Text that is laid out already."""

    caption: str
    text: str


@dataclass(frozen=True)
class Link:
    """A file beside the report."""

    file: str


Part = str | Table | Picture | Text | Link


@dataclass(frozen=True)
class Section:
    """A heading, and what stands under it."""

    title: str
    parts: tuple[Part, ...]


# --- what it says -----------------------------------------------------------------------------------------


def sections(found: Found, partition: str) -> list[Section]:
    """The whole report."""
    chips = found["chips"]
    return [
        *summary(found),
        Section(
            "The model",
            (
                Picture("Analog blocks and the digital parts between them.", "graph.svg"),
                Link("graph.html"),
                Text("Partition", partition),
            ),
        ),
        Section(
            "Training on the chip",
            (
                Picture("Loss and accuracy of fine-tuning on each chip.", "training.png"),
                _RULE,
                Table("Accuracy after each epoch, in %", [*_curve_rows(found)]),
            ),
        ),
        Section(
            "Gradients",
            (
                _GRADIENTS,
                Picture("Cosine for every parameter.", "gradients.png"),
                *(Table(f"Cosine on {n}", [*_gradient_rows(c)], folded=True) for n, c in chips.items()),
            ),
        ),
        *(section for n, c in chips.items() for section in _chip(n, c)),
        Section(
            "What was run",
            (
                Table("Data", [found["data"]]),
                Table("Options", _pairs(found["config"]), folded=True),
                Table("Versions", _pairs(found["versions"]), folded=True),
                Link("metrics.json"),
                Link("metrics.csv"),
                Link("gradients.csv"),
                Link("ablation.csv"),
            ),
        ),
    ]


_STATES = (
    "As programmed: the ranges of converters and neurons are taken from training images. Norms calibrated: "
    "the running statistics of the digital norms too, from "
    "what the chip delivers on training images; nothing is trained. Fine-tuned: trained on the chip from there."
)
_RULE = (
    "Digital parts learn by backpropagation, blocks by equilibrium propagation in two nudged phases on the "
    "chip. Updates reach the devices "
    'as the specification says under "write".'
)
_GRADIENTS = (
    "The cosine of the gradient that the chip delivers with automatic differentiation through the exact "
    "equilibrium, in float64, of the weights that the devices hold: "
    "of single batches (mean), and of the sum over several batches, in which noise averages out. The third "
    "number compares the sum with the exact gradient of the weights that were asked for."
)


def summary(found: Found) -> list[Section]:
    """What one wants to know first."""
    ideal = found["accuracy"]["ideal analog"]
    verdicts = tuple(line for name, chip in found["chips"].items() for line in verdict(name, chip, ideal))
    return [Section("Results", (Table("Validation accuracy, in %", [*_accuracy_rows(found)]), _STATES, *verdicts))]


def verdict(name: str, chip: Found, ideal: float) -> Iterator[str]:
    """How far the chip is from ideal before and after calibration, what costs it, and what training has recovered."""
    for state in ("as programmed", "norms calibrated"):
        values = [found[state] for found in chip["accuracy"].values()]
        line = f"{name}, {state}: {_points(ideal - values[0])}"
        if len(values) > 1:
            line += (
                f"; over {len(values)} chips {_points(ideal - sum(values) / len(values))} on average, "
                f"{_points(ideal - min(values))} at worst"
            )
        yield line + "."
    if chip["ablation"]:
        gain = max(chip["ablation"], key=lambda row: float(row["without it"]))
        alone = min(chip["ablation"], key=lambda row: float(row["alone"]))
        yield (
            f"{name}, what costs it: as programmed, and without {gain['non-ideality']}, the chip has "
            f"{gain['without it']:.1f} %; "
            f"with {alone['non-ideality']} alone, {alone['alone']:.1f} %."
        )
    first = next(iter(chip["accuracy"].values()))
    for state, part in chip["recovered"].items():
        if part is not None:
            yield (
                f"{name}, fine-tuned on it: {chip['fine-tuned']:.1f} %, {_part(part)} of what it had lost "
                f"{state} ({first[state]:.1f} %)."
            )


def _part(part: float) -> str:
    return "all" if part >= 1 else "nothing" if part <= 0 else f"{part:.0%}"


def _points(lost: float) -> str:
    return f"{abs(lost):.2f} points {'below' if lost >= 0 else 'above'} ideal"


def _accuracy_rows(found: Found) -> Iterator[Row]:
    yield {"model": "original, digital", "as programmed": f"{found['accuracy']['original']:.2f}"}
    yield {"model": "converted, ideal analog", "as programmed": f"{found['accuracy']['ideal analog']:.2f}"}
    for name, chip in found["chips"].items():
        for i, (seed, values) in enumerate(chip["accuracy"].items()):
            yield {
                "model": f"{name}, chip {seed}",
                **{k: f"{v:.2f}" for k, v in values.items()},
                "fine-tuned on it": f"{chip['fine-tuned']:.2f}" if i == 0 else "",
            }


def _curve_rows(found: Found) -> Iterator[Row]:
    for name, chip in found["chips"].items():
        curve = found["curves"][f"on {name}"]["accuracy"]
        yield {
            "chip": name,
            **{k: f"{v:.2f}" for k, v in next(iter(chip["accuracy"].values())).items()},
            **{f"epoch {i}": f"{a:.2f}" for i, a in enumerate(curve, 1)},
        }


def _gradient_rows(chip: Found) -> Iterator[Row]:
    for row in chip["gradients"]:
        yield {k: v if isinstance(v, str) else f"{v:+.3f}" for k, v in row.items()}


# --- one chip ---------------------------------------------------------------------------------------------


def _chip(name: str, chip: Found) -> Iterator[Section]:
    from examples.analog import slug

    state, file = chip["as programmed"]["report"], slug(name)
    size = {r["field"]: r["value"] for r in chip["hardware"]}
    yield Section(
        f"Chip {name}: arrays",
        (
            f"{state['tiles']} tiles of {size['tile_rows']} x {size['tile_columns']}, {state['utilisation']:.1%} "
            f"of their devices used. "
            "The error is the norm of what the devices add to the weight, relative to the weight.",
            Table("Weights on tiles", [*_array_rows(chip)]),
            Picture("Conductances of all devices.", f"conductances-{file}.png"),
        ),
    )
    yield Section(
        f"Chip {name}: settling and converters",
        (
            _settling(chip),
            Table("Settling", [*_settling_rows(chip)]),
            Table("Relaxation of the last batch", [*_relaxation_rows(chip)], folded=True),
            Table("Values outside of a converter's range, in % of all", [*_saturation_rows(chip)], folded=True),
        ),
    )
    if chip["ablation"]:
        rows = [{k: v if isinstance(v, str) else f"{v:.2f}" for k, v in row.items()} for row in chip["ablation"]]
        yield Section(
            f"Chip {name}: what costs the accuracy",
            (
                Table("Validation accuracy, in %", rows),
                Picture("Every non-ideality taken away, and alone.", f"ablation-{file}.png"),
            ),
        )
    yield Section(f"Chip {name}: cost", tuple(_cost(chip, file)))
    yield Section(f"Chip {name}: netlists", tuple(_netlists(chip)))
    yield Section(f"Chip {name}: specification", (Table("Every field", chip["hardware"], folded=True),))


def _array_rows(chip: Found) -> Iterator[Row]:
    start, end = (chip[k]["report"]["arrays"] for k in ("as programmed", "after fine-tuning"))
    for a, later in zip(start, end, strict=True):
        yield {
            "weight": a["weight"],
            "matrix": f"{a['rows']} x {a['columns']}",
            "tiles": a["tiles"],
            "used": f"{100 * a['utilisation']:.1f} %",
            "error": f"{100 * a['error']:.2f} %",
            "error after fine-tuning": f"{100 * later['error']:.2f} %",
            "devices at a bound": f"{100 * a['at_bounds']:.1f} %",
        }


def _settling(chip: Found) -> str:
    lasting = chip["settling_time"]
    if lasting is None:
        return "Phases are read at their equilibrium."
    if chip["phases end"] == "at the equilibrium":
        return (
            f"A phase lasts {si(lasting, 's')}, at least 1.5 times as long as any block takes to settle to 1 %: "
            f"to 0.1 %, so accuracies and training are computed at the equilibrium."
        )
    return f"A phase lasts {si(lasting, 's')} and is computed as a transient."


def _settling_rows(chip: Found) -> Iterator[Row]:
    for block, seconds in chip["settling"].items():
        yield {"block": block, "settles to 1 % in": si(seconds, "s")}


def _relaxation_rows(chip: Found) -> Iterator[Row]:
    for r in chip["relaxation"]:
        yield {
            "block": r["block"],
            "phase": r["phase"],
            "sweeps": r["sweeps"],
            "residual": f"{r['residual']:.1e}",
            "converged": "yes" if r["converged"] else "no",
        }


def _saturation_rows(chip: Found) -> Iterator[Row]:
    start, end = (chip[k]["report"]["saturation"] for k in ("as programmed", "after fine-tuning"))
    for name, part in start.items():
        yield {
            "converter": name,
            "as programmed": f"{100 * part:.3f}",
            "after fine-tuning": f"{100 * end.get(name, 0.0):.3f}",
        }


def _cost(chip: Found, file: str) -> Iterator[Part]:
    cost = chip["cost"]
    yield Picture("Energy of one sample.", f"cost-{file}.png")
    yield Table(
        "Beside digital accelerators",
        [
            {
                "the same work on": c["accelerator"],
                "step": c["step"],
                "energy": si(c["energy"], "J"),
                "chip": si(c["chip_energy"], "J"),
                "energy ratio": f"{c['energy_ratio']:.3g}",
                "latency": si(c["latency"], "s"),
                "of the chip": si(c["chip_latency"], "s"),
                "latency ratio": f"{c['latency_ratio']:.3g}",
            }
            for c in cost["comparisons"]
        ],
    )
    for step, (head, *lines) in cost["tables"].items():
        yield Table(
            f"{step.capitalize()}, one sample", [dict(zip(head, line, strict=True)) for line in lines], folded=True
        )
    yield from cost["remarks"]
    yield "An estimate; docs/costs.md has every formula, and the source of every constant, or that it is a guess."


def _netlists(chip: Found) -> Iterator[Part]:
    netlists = chip["netlists"]
    yield from (Link(file) for file in netlists["written"])
    if netlists["written"]:
        yield f"Simulate and compare: ffebm spice-check {Path(netlists['written'][0]).parent.as_posix()}"
    if netlists["remark"]:
        yield netlists["remark"][0].upper() + netlists["remark"][1:] + "."


def _pairs(values: Mapping[str, Any]) -> list[Row]:
    return [{"name": k, "value": ", ".join(map(str, v)) if isinstance(v, list) else str(v)} for k, v in values.items()]


# --- text -------------------------------------------------------------------------------------------------


def as_text(found: Sequence[Section]) -> str:
    return "\n\n".join("\n".join([s.title, "=" * len(s.title), *_lines(s)]) for s in found) + "\n"


def _lines(section: Section) -> Iterator[str]:
    for part in section.parts:
        if isinstance(part, Table):
            yield f"\n{part.caption}\n{table(part.rows) if part.rows else '(none)'}\n"
        elif isinstance(part, Text):
            yield f"\n{part.caption}\n{part.text}\n"
        else:
            yield part if isinstance(part, str) else f"[{part.file}]"


# --- HTML -------------------------------------------------------------------------------------------------

_STYLE = """
:root { --page: #ffffff; --ink: #1f2430; --panel: #f3f5f8; --line: #c5ccd8; --accent: #b3621b; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171d; --ink: #e6e9ef; --panel: #232935; --line: #465064; --accent: #f2a65a; }
}
body {
  margin: 0 auto; max-width: 72em; padding: 1.5em 1.5em 4em;
  background: var(--page); color: var(--ink); font: 15px/1.5 Helvetica, Arial, sans-serif;
}
h1 { font-size: 1.6em; }
h2 { font-size: 1.2em; margin-top: 2.2em; border-bottom: 2px solid var(--accent); padding-bottom: .2em; }
nav {
  background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .7em 1.2em; columns: 3;
}
nav a { display: block; }
a { color: var(--accent); }
table { border-collapse: collapse; margin: .4em 0 1.2em; font-size: .92em; }
caption, summary { text-align: left; font-weight: bold; padding: .4em 0; }
th, td { padding: .2em .8em; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
figure { margin: 1em 0; overflow: auto; }
figure img { max-width: 100%; background: #fff; border-radius: 6px; }
figure.graph { max-height: 46em; }
figcaption { font-size: .9em; opacity: .8; }
pre {
  background: var(--panel); padding: .8em; overflow: auto; font-size: .82em; line-height: 1.35; border-radius: 6px;
}
"""

_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def as_html(found: Sequence[Section], folder: Path) -> str:
    """One page with its pictures inside; ``folder`` holds them."""
    title = "A trained network on emulated analog hardware"
    links = "".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(found))
    body = "".join(
        f'<h2 id="s{i}">{escape(s.title)}</h2>{"".join(_html(p, folder) for p in s.parts)}' for i, s in enumerate(found)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}</title><style>{_STYLE}</style></head>'
        f"<body><h1>{title}</h1><nav>{links}</nav>{body}</body></html>\n"
    )


def _html(part: Part, folder: Path) -> str:
    if isinstance(part, str):
        return f"<p>{escape(part)}</p>"
    if isinstance(part, Table):
        return _html_table(part)
    if isinstance(part, Text):
        return f"<details><summary>{escape(part.caption)}</summary><pre>{escape(part.text)}</pre></details>"
    if isinstance(part, Link):
        return f'<p><a href="{escape(part.file, quote=True)}">{escape(part.file)}</a></p>'
    file = folder / part.file
    data = base64.b64encode(file.read_bytes()).decode()
    kind = ' class="graph"' if file.suffix == ".svg" else ""
    source = f"data:{_TYPES[file.suffix]};base64,{data}"
    return (
        f'<figure{kind}><img src="{source}" '
        f'alt="{escape(part.caption, quote=True)}"><figcaption>{escape(part.caption)}</figcaption></figure>'
    )


def _html_table(part: Table) -> str:
    columns = list(dict.fromkeys(k for row in part.rows for k in row))
    right = {c for c in columns if all(_is_number(str(row.get(c, ""))) for row in part.rows)}
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    lines = "".join(
        "<tr>"
        + "".join(f"<td{' class=number' if c in right else ''}>{escape(str(row.get(c, '')))}</td>" for c in columns)
        + "</tr>"
        for row in part.rows
    )
    whole = f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    if part.folded:
        return f"<details><summary>{escape(part.caption)}</summary><table>{whole}</details>"
    return f"<table><caption>{escape(part.caption)}</caption>{whole}"


def _is_number(text: str) -> bool:
    return text == "" or text[0].isdigit() or (text[0] in "+-" and len(text) > 1)
