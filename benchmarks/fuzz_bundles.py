"""Reads thousands of bundles that were tampered with, each in a process that may crash or hang without taking the run
with it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from anywhere

import ffebm_compiler as fc
from benchmarks import common
from benchmarks.mutations import clear, mutant
from benchmarks.mutations.model import Variety
from benchmarks.mutations.verdict import Verdict, judged
from examples import command
from ffebm_compiler.bundle import read_bundle
from ffebm_compiler.bundle.read.checking import checked_files
from ffebm_compiler.bundle.write.writing import bundle_files

EXAMPLES = """\
  python benchmarks/fuzz_bundles.py --count 10000
  python benchmarks/fuzz_bundles.py --count 2000 --compute --first 10000
  python benchmarks/fuzz_bundles.py --only 1748          the verdict on one, with what was said
"""
MEMORY = 4 << 30
"""Bytes that a process may take beyond what it begins with: what a forged size asks for would be seen as a crash."""
SHOWN = 20


@dataclass(frozen=True)
class Found:
    """What became of one bundle."""

    seed: int
    kind: str
    verdict: Verdict
    said: str


# --- a process that judges ----------------------------------------------------------------------------------------


def _computed(path: Path) -> None:
    """Everything that a bundle computes on its recorded input."""
    from ffebm_compiler.bundle.run.verify import verify

    verify(path)


CONSUMERS: Mapping[bool, Callable[[Path], Any]] = {False: read_bundle, True: _computed}


def _work(connection: Connection, files: Mapping[str, bytes], compute: bool) -> None:
    """Judges the bundles of the seeds that arrive, until None does."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    _limit_memory()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        while (seed := connection.recv()) is not None:
            connection.send(_judge(seed, files, place, compute))
            clear(place)


def _judge(seed: int, files: Mapping[str, bytes], place: Path, compute: bool) -> Found:
    found = mutant(files, seed, place)
    verdict, said = judged(found, files, CONSUMERS[compute])
    return Found(seed, found.kind, verdict, said)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@dataclass
class Worker:
    """A process with the seed that it is at, and since when."""

    start: Callable[[Connection], BaseProcess]
    seed: int | None = None
    since: float = 0.0
    connection: Connection = field(init=False)
    process: BaseProcess = field(init=False)

    def __post_init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.process = self.start(theirs)
        theirs.close()

    def give(self, seed: int | None) -> None:
        self.seed, self.since = seed, time.monotonic()
        self.connection.send(seed)

    def answer(self) -> Found:
        """What it sent; if it has died instead, that it did."""
        assert self.seed is not None
        try:
            found: Found = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            found = Found(self.seed, "?", Verdict.CRASHED, f"the process ended with {self.process.exitcode}")
            self.renew()
        self.seed = None
        return found

    def hung(self) -> Found:
        assert self.seed is not None
        found = Found(self.seed, "?", Verdict.HUNG, f"no answer in {time.monotonic() - self.since:.0f} s")
        self.process.kill()
        self.process.join()
        self.renew()
        self.seed = None
        return found


def fuzzed(
    files: Mapping[str, bytes], seeds: Sequence[int], processes: int, limit: float, compute: bool
) -> Iterator[Found]:
    """What became of each bundle, as it is known.

    Args:
        limit: seconds for one.
        compute: whether what is accepted is run, too.
    """
    context = multiprocessing.get_context("spawn")

    def start(connection: Connection) -> BaseProcess:
        process = context.Process(target=_work, args=(connection, files, compute), daemon=True)
        process.start()
        return process

    workers = [Worker(start) for _ in range(min(processes, len(seeds)))]
    left = iter(seeds)
    for worker in workers:
        worker.give(next(left))
    while busy := [w for w in workers if w.seed is not None]:
        ready = wait([w.connection for w in busy], timeout=1.0)
        for worker in busy:
            if worker.connection in ready:
                yield worker.answer()
            elif time.monotonic() - worker.since > limit:
                yield worker.hung()
            else:
                continue
            seed = next(left, None)
            if seed is not None:
                worker.give(seed)
    for worker in workers:
        worker.give(None)
        worker.process.join()


# --- the command --------------------------------------------------------------------------------------------------


def sound(path: Path | None, seed: int) -> dict[str, bytes]:
    """The files of the bundle to tamper with: one that is given, or that of a small model with a bit of everything."""
    if path is not None:
        return bundle_files(read_bundle(path))
    torch.manual_seed(seed)
    model = fc.convert(Variety(), block_size=3, loop_gain=0.1).eval()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = model.compile_to(Path(folder, "b"), (torch.randn(2, 1, 4, 4),))
        checked_files(written)
        return bundle_files(read_bundle(written))


def summary(count: Counter[Verdict]) -> str:
    """One line: what must be zero is said to be."""
    wrong = sum(n for v, n in count.items() if v in (Verdict.SILENT, Verdict.OTHER_CONTENTS))
    return (
        f"{sum(count.values())} bundles: {count[Verdict.REFUSED]} refused, {count[Verdict.SAME]} read the same "
        f"(signed again without "
        f"effect), {count[Verdict.ANOTHER]} signed again as other bundles and read as those, "
        f"{count[Verdict.CRASHED]} crashes, "
        f"{count[Verdict.HUNG]} hangs, {wrong} accepted with other contents"
    )


def parser() -> argparse.ArgumentParser:
    p = common.parser("fuzz_bundles.py", f"{__doc__}\n\nexamples:\n{EXAMPLES}")
    p.add_argument("--count", type=command.whole, default=10_000, help="bundles")
    p.add_argument("--first", type=command.seed, default=0, help="the number of the first of them")
    p.add_argument("--only", type=command.seed, metavar="NUMBER", help="that one alone, in this process")
    p.add_argument("--bundle", type=Path, help="tamper with this bundle instead of that of a small model")
    p.add_argument("--processes", type=command.whole, default=2, help="at the same time")
    p.add_argument("--limit", type=command.positive, default=60.0, help="seconds for one bundle")
    p.add_argument(
        "--compute", action="store_true", help="also load what is accepted, and run it on its recorded input"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    common.start(options)
    files = sound(options.bundle, options.seed)
    if options.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(_judge(options.only, files, Path(folder), options.compute))
        return 0
    count = 30 if options.quick else options.count
    seeds = range(options.first, options.first + count)
    judging = fuzzed(files, seeds, options.processes, options.limit, options.compute)
    found = sorted(tqdm(judging, total=count, unit="bundle", leave=False, disable=None), key=lambda f: f.seed)
    verdicts = Counter(f.verdict for f in found)
    wrong = [f for f in found if not f.verdict.right]
    for f in wrong[:SHOWN]:
        print(f"bundle {f.seed} ({f.kind}): {f.verdict.value}\n{f.said}")
    kinds = sorted({f.kind.partition(":")[0] for f in found})
    rows = [
        {"mutation": kind, **{v.value: sum(f.kind.startswith(kind) and f.verdict is v for f in found) for v in Verdict}}
        for kind in kinds
    ]
    common.finish(options, "fuzz_bundles", rows, [summary(verdicts)], wrong=[f.seed for f in wrong])
    return 1 if wrong else 0


if __name__ == "__main__":
    command.run(main)
