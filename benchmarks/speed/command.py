"""The command line of ``python -m benchmarks``: runs suites, keeps what is there, writes the tables of the
documentation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import ffebm_compiler as fc
from benchmarks.speed import allocator, plots, report, result, suites, tables
from benchmarks.speed.result import Options
from examples import command

DESCRIPTION = """
What a training step by BP-EP, an inference, and the compiler cost. Every figure is a ratio of two things timed in turn
in one run: median and quartiles, with the machine, versions, threads and seed, and every training step with the cosine
of its gradient to the exact one in float64.

    python -m benchmarks                          all suites, into runs/benchmarks (25 to 30 minutes on two cores)
    python -m benchmarks --quick                  small networks, to see that everything works (2 minutes)
    python -m benchmarks --only step,memory       some suites
    python -m benchmarks --list                   what there is
    python -m benchmarks --out benchmarks/results and then
    python -m benchmarks table                    the tables of README.md and docs/measurements.md
                                                  from benchmarks/results

Each suite writes NAME.json and NAME.png when it has finished; stopped runs go on where they were: a suite that is there
with the same configuration, of the same sources, is not run again unless --again. A full run ends with exit code 1 if
it misses a goal. The machine should do nothing else meanwhile.
"""

RESULTS = result.ROOT / "benchmarks" / "results"


def parser() -> argparse.ArgumentParser:
    p = command.command("python -m benchmarks", DESCRIPTION, "runs/benchmarks")
    p.add_argument(
        "command", nargs="?", choices=("run", "table"), default="run", help="run suites, or write the tables"
    )
    p.add_argument("--only", type=command.listed(suite), metavar="NAME,...", help="these suites")
    p.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where networks run")
    p.add_argument(
        "--repeats", type=command.whole, default=7, help="times that each of two things is timed; 2 with --quick"
    )
    p.add_argument(
        "--allocator",
        choices=(allocator.KEEPING, allocator.PLAIN),
        default=allocator.KEEPING,
        help="keeping: what is freed stays with the process, as with jemalloc (glibc only); plain: as Python starts",
    )
    p.add_argument("--again", action="store_true", help="run suites whose results are there")
    p.add_argument("--list", action="store_true", help="name the suites and end")
    p.add_argument(
        "--check",
        action="store_true",
        help="with table: write nothing, fail if the tables are not those of the results",
    )
    return p


def suite(text: str) -> str:
    """The name of a suite that is there."""
    if text not in suites.present():
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(suites.present())}")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.list:
        print("\n".join(f"{name:<10}  {suites.purpose(name)}" for name in suites.present()))
        return 0
    if options.command == "table":
        return table(RESULTS, options.check)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise fc.OptionError(
            fc.Problem("option --device", "is cuda, and PyTorch finds no CUDA device", "Leave it out for the CPU.")
        )
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return run(options)


def table(folder: Path, check: bool) -> int:
    """Writes the tables, or says whether they are what the results say."""
    stale = [page for page in tables.PAGES if not tables.is_current(page, folder)]
    if check:
        print("\n".join(f"{page.name} is not what the results say: run python -m benchmarks table" for page in stale))
        return 1 if stale else 0
    for page in stale:
        print(f"written: {tables.write(page, folder)}")
    return 0


def run(given: argparse.Namespace) -> int:
    """The suites that were asked for, one after the other."""
    options = Options(
        given.quick,
        given.device,
        torch.get_num_threads(),
        given.repeats,
        given.seed,
        allocator.choose(given.allocator),
        progress=True,
    )
    chosen, documents = given.only or list(suites.present()), list[dict[str, Any]]()
    for i, name in enumerate(chosen, 1):
        kept = None if given.again else result.kept(given.out, name, options)
        print(f"\n[{i}/{len(chosen)}] {name}: {suites.purpose(name)}", flush=True)
        try:
            documents.append(kept or measured(name, options, given.out))
        except KeyboardInterrupt:
            raise command.Interrupted(
                f"Suites that have finished are in {given.out}; the same command goes on there."
            ) from None
        print(
            report.text(documents[-1]) + (f"\n(as measured on {kept['date']}; --again measures anew)" if kept else ""),
            flush=True,
        )
    goals = [g["met"] for d in documents for g in d["goals"]]
    print((f"\n{sum(goals)} of {len(goals)} goals met; " if goals else "\n") + f"results in {given.out}")
    return 0 if all(goals) else 1


def measured(name: str, options: Options, folder: Path) -> dict[str, Any]:
    """Runs one suite and writes its files."""
    begun = time.perf_counter()
    found = suites.load(name)(options)
    if options.quick:
        found = replace(found, goals=())  # small networks say nothing about them
    result.write(folder, name, options, found, time.perf_counter() - begun)
    document = result.read(folder, name)
    assert document is not None
    plots.draw(document, folder / f"{name}.png")
    return document
