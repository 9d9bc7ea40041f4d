"""Bundles that were tampered with: an error, always; never a crash, a hang or a wrong answer.
benchmarks/fuzz_bundles.py runs thousands.
"""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import pytest
from bundle_samples import variety_files

from benchmarks.mutations import FAMILIES, clear, mutant
from benchmarks.mutations.verdict import Verdict, judged

COUNT = 300
CHUNKS = 10


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_bundle_that_was_tampered_with_is_refused_or_read_for_what_it_is(chunk: int, tmp_path: Path) -> None:
    verdicts: Counter[Verdict] = Counter()
    for seed in range(chunk * COUNT // CHUNKS, (chunk + 1) * COUNT // CHUNKS):
        found = mutant(variety_files(), seed, tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verdict, said = judged(found, variety_files())
        assert verdict.right, f"bundle {seed} ({found.kind}): {verdict.value}\n{said}"
        assert found.signed or verdict is Verdict.REFUSED
        verdicts[verdict] += 1
        clear(tmp_path)
    assert verdicts[Verdict.REFUSED] > COUNT // CHUNKS // 2


def test_the_same_number_gives_the_same_bytes(tmp_path: Path) -> None:
    for seed in range(30):
        written = []
        for place in (tmp_path / f"one{seed}", tmp_path / f"two{seed}"):
            place.mkdir()
            found = mutant(variety_files(), seed, place).path
            written.append({p.name: p.read_bytes() for p in _files(found)})
        assert written[0] == written[1]


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_file() and not p.is_symlink()) if path.is_dir() else [path]


def test_every_kind_of_mutation_is_drawn(tmp_path: Path) -> None:
    kinds = {mutant(variety_files(), seed, tmp_path).kind for seed in range(COUNT)}
    assert len(kinds) > 0.8 * sum(len(f.mutations) for f in FAMILIES)


def test_a_verdict_sees_what_is_wrong(tmp_path: Path) -> None:
    """The judge itself: a sound bundle is no mutant, and an error that is none of bad input is a crash."""
    from benchmarks.mutations import Mutant
    from ffebm_compiler.bundle.format.archive import packed

    (tmp_path / "b.ffebm").write_bytes(packed(variety_files()))

    def fail(path: Path) -> None:
        raise KeyError(path)

    for signed, expected in ((False, Verdict.SILENT), (True, Verdict.SAME)):
        assert judged(Mutant(tmp_path / "b.ffebm", "none", signed), variety_files())[0] is expected
    assert judged(Mutant(tmp_path / "b.ffebm", "none", True), variety_files(), fail)[0] is Verdict.CRASHED
