"""Converts thousands of awkward models: each is right in every call, or refused by name.

python -m benchmarks.awkward --count 2000
python -m benchmarks.awkward --count 2000 --results awkward.jsonl     goes on where it was broken off
python -m benchmarks.awkward --only 731                               one model, and what was said of it
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .models import drawn
from .run import verdicts, within
from .verdict import FAULTS, REFUSED, RIGHT, Verdict


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.awkward", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="how many models (2000)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first seed (0)")
    parser.add_argument("--only", type=int, metavar="SEED", help="one model alone, with all that is said of it")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="at a time (2)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="that one model may take (60)")
    parser.add_argument("--results", type=Path, metavar="FILE", help="where verdicts are kept, and found again")
    options = parser.parse_args(argv)
    if options.only is not None:
        found = within(options.seconds, drawn(options.only))
        print(found.model, found.outcome, found.what, sep="\n")
        return int(found.is_fault)
    seeds = range(options.first, options.first + options.count)
    return _report(verdicts(seeds, options.processes, options.seconds, options.results))


def _report(every: Sequence[Verdict]) -> int:
    outcomes = Counter(v.outcome for v in every)
    for verdict in (v for v in every if v.is_fault):
        print(f"{verdict.outcome} {verdict.model.seed} {verdict.model.kinds}: {verdict.what[:200]}".replace("\n", " "))
    _by_kind(every)
    print(f"{len(every)} awkward models: " + ", ".join(f"{outcomes[o]} {o}" for o in (RIGHT, REFUSED, *FAULTS)))
    return int(any(v.is_fault for v in every))


def _by_kind(every: Sequence[Verdict]) -> None:
    """Of the models that are one part alone: how often each kind converts."""
    alone: dict[str, Counter[str]] = {}
    for verdict in every:
        if len(verdict.model.kinds) == 1:
            alone.setdefault(verdict.model.kinds[0], Counter())[verdict.outcome] += 1
    for kind, found in sorted(alone.items()):
        print(f"  {kind:24s} " + ", ".join(f"{n} {outcome}" for outcome, n in found.items()))


if __name__ == "__main__":
    sys.exit(main())
